"""Tables in text, parquet and memory are read alike, and what could be misread is refused."""

import datetime
import decimal
import gzip
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyrovae.data import Column, Schema, Source, from_frame, load, prepare, read, read_path

RNG = np.random.default_rng(5)
NUMBERS = pd.DataFrame(RNG.normal(size=(300, 4)), columns=list("abcd"))
NAN = np.nan


def read_text(tmp_path: Path, text: str, name: str = "x.csv", **options: Any) -> Source:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read_path(path, **options)


def values(source: Source) -> np.ndarray:
    return source.parts["all"].x


def ids(source: Source) -> list[Any] | None:
    found = source.parts["all"].ids
    return None if found is None else found.tolist()


def names(source: Source) -> tuple[str, ...] | None:
    return None if source.schema is None else source.schema.names


def same(x: np.ndarray, expected: Any) -> bool:
    return np.array_equal(x, np.asarray(expected), equal_nan=True)


# Text: layout


@pytest.mark.parametrize("header", ["", "\ufeffheight,weight\n", '\n"a","b, c"\n'])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_numbers_are_read_under_an_optional_header(tmp_path: Path, header: str, end: str) -> None:
    source = read_text(tmp_path, header + "".join(f"{i}.5, {-i}{end}" for i in range(12)))
    assert same(values(source), [[i + 0.5, -i] for i in range(12)])
    assert values(source).dtype == np.float64
    expected = {"": None, "\ufeff": ("height", "weight"), "\n": ("a", "b, c")}[header[:1]]
    assert names(source) == expected


@pytest.mark.parametrize("fmt", ["%d", "%.18e", "%.1f"])
def test_a_table_of_whole_numbers_is_integer(tmp_path: Path, fmt: str) -> None:
    path = tmp_path / "x.csv"
    np.savetxt(path, np.arange(24).reshape(12, 2), fmt=fmt, delimiter=",")
    source = read_path(path)
    assert values(source).dtype == np.int64
    assert same(values(source), np.arange(24).reshape(12, 2))
    assert source.maximum == 23


def test_numbers_are_exact(tmp_path: Path) -> None:
    x = RNG.normal(size=(500, 3)) * 10.0 ** RNG.integers(-30, 30, (500, 3))
    pd.DataFrame(x).to_csv(tmp_path / "x.csv", index=False, header=["a", "b", "c"])
    assert same(values(read_path(tmp_path / "x.csv")), x)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".CSV.zip"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_packed_files_are_recognized(
    tmp_path: Path, suffix: str, separator: str
) -> None:
    text = NUMBERS.to_csv(index=False, sep=separator).encode()
    path = tmp_path / f"x{suffix}"
    if suffix.endswith("gz"):
        path.write_bytes(gzip.compress(text))
    elif suffix.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner.csv", text)
            archive.writestr("__MACOSX/._inner.csv", b"\xff")
    else:
        path.write_bytes(text)
    source = read_path(path)
    assert same(values(source), NUMBERS)
    assert names(source) == tuple("abcd")
    assert source.name == path.name


def test_spaces_separate_numbers_in_txt(tmp_path: Path) -> None:
    x = RNG.normal(size=(12, 3))
    np.savetxt(tmp_path / "x.txt", x)
    assert same(values(read_path(tmp_path / "x.txt")), x)
    assert same(
        values(read_text(tmp_path, " 1.5   2 \n 3   4.5 \n", "y.txt")), [[1.5, 2], [3, 4.5]]
    )


def test_a_damaged_or_crowded_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "1,2")
        archive.writestr("b.csv", "1,2")
    with pytest.raises(ValueError, match=r"x\.csv\.zip holds a\.csv, b\.csv; .* one table"):
        read_path(path)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"x\.csv\.zip is not a text file"):
        read_path(path)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"1,2\n3,4\n" * 99)[:-12])
    with pytest.raises(ValueError, match=r"x\.csv\.gz is not a text file"):
        read_path(tmp_path / "x.csv.gz")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x81", b"a,b\n1,\xe9\n"])
def test_a_file_in_another_encoding_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.csv is not a text file .*UTF-8"):
        read_path(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,4\n5,x\n", r"line 4, column 2 \(b\) holds 'x' in a column of numbers"),
        ("1,x\n3,4\n", r"line 1, column 2 holds 'x'"),
        ("a,b\n1,2\n\n3\n", r"line 4 has 1 cells, not 2"),
        ("a,b\n1,2\n\n3,4,5\n", r"line 4 has 3 cells, not 2"),
        ("a,b\n1,2,3\n4,5,6\n", r"line 2 has 3 cells, not 2"),
        ('a,b\n1,"2\n3",4\n', r"line 3 has 3 cells, not 2"),
        ("a,b\n1,2\n,\n3,\n4\n", r"line 5 has 1 cells, not 2"),
        ("a,b\n1,2\n3,inf\n", r"line 3, column 2 \(b\) holds inf; .* finite"),
        ("a,b\n1,2\n-1e39,4\n", r"line 3, column 1 \(a\) holds -1e\+39"),
        ("a,b\n1,2\n1e400,4\n", r"line 3, column 1 \(a\) holds inf"),
        ("a,b\n1,2\n1 000,4\n", r"line 3, column 1 \(a\) holds '1 000', a number .* unknown way"),
        ("a,b\n1,2\n1'000,4\n", r"line 3, column 1 \(a\) holds \"1'000\""),
        ("a,b,a\n1,2,3\n", r"several columns of the name a;"),
        ("a,,c\n1,2,3\n", r"column 2 has no name in the header"),
        (",b\n1.5,2\n2.5,3\n", r"column 1 has no name in the header"),
        ("when,b\n2020-01-15,2\n2020-01-15,3\n", r"column when holds dates, such as '2020-01-15'"),
        ("when,b\n5.1.2020,2\n7.1.2020 13:00,3\n", r"column when holds dates"),
        ("a,b\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_errors_say_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as found:
        read_text(tmp_path, text)
    assert "\n" not in str(found.value)


def test_lines_are_counted_over_quoted_breaks_and_blank_lines(tmp_path: Path) -> None:
    text = '"a\nb",c\n\n1,"x"\n2,"y\nz"\n\n3,x\n1e99,x\n'
    with pytest.raises(ValueError, match=r"line 9, column 1 \(a b\) holds 1e\+99"):
        read_text(tmp_path, text)


# Text: header


@pytest.mark.parametrize("x", [RNG.normal(size=(300, 4)), RNG.integers(0, 2, (300, 4))])
@pytest.mark.parametrize("index", [True, False])
def test_a_header_that_counts_is_a_header(tmp_path: Path, x: np.ndarray, index: bool) -> None:
    pd.DataFrame(x).to_csv(tmp_path / "n.csv", index=index)
    source = read_path(tmp_path / "n.csv")
    assert same(values(source), x)
    assert names(source) == ("0", "1", "2", "3")
    assert source.maximum == (1 if x.dtype.kind == "i" else None)
    assert ids(source) == (list(range(300)) if index else None)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("0,1\n0.5,1.5\n", ("0", "1")),
        ("1,2,3\n5,4,9\n", ("1", "2", "3")),
        ("country,2019,2020,2021\nA,1.5,2,3\nB,2,3,4\n", ("country", "2019", "2020", "2021")),
        ("2019,2020\n0.5,1.5\n", ("2019", "2020")),
        (",0\n0,5\n1,6\n", ("0",)),
        (",0,1\n5,6,7\n,8,9\n", None),
        ("0,1\n2,3\n4,5\n", None),
        ("0,1\n1,0\n", None),
        ("0,1,2,3\n4,5,6,7\n", None),
        ("5,6,7\n1,2,9\n", None),
        ("0,1,2,3\n", None),
        ("0,1,2,0.5\n3,2,9,1.5\n", None),
        ("NA,\n1,2\n", None),
        ("true,false\nfalse,true\n", None),
        ("inf_norm,nan_count\n1,2\n", ("inf_norm", "nan_count")),
    ],
)
def test_which_first_lines_are_headers(
    tmp_path: Path, text: str, header: tuple[str, ...] | None
) -> None:
    source = read_text(tmp_path, text)
    found = names(source)
    lines = text.count("\n")
    assert len(values(source)) == lines - (header is not None)
    if found != ("x1", "x2"):  # of booleans
        assert found == header


def test_words_without_a_header_get_names(tmp_path: Path) -> None:
    source = read_text(tmp_path, "5.1,3.5,setosa\n4.9,,virginica\n5.0,3.1,setosa\n")
    assert names(source) == ("x1", "x2", "x3")
    assert same(values(source), [[5.1, 3.5, 0], [4.9, NAN, 1], [5.0, 3.1, 0]])


# Ids


@pytest.mark.parametrize("write", ["csv", "parquet", "frame"])
@pytest.mark.parametrize(
    ("frame", "id_name", "expected"),
    [
        (NUMBERS[NUMBERS.a > 0], "", np.flatnonzero(NUMBERS.a > 0).tolist()),
        (NUMBERS[:2].set_axis(["p", "q"]), "", ["p", "q"]),
        (NUMBERS[:2].set_axis(pd.Index(["p", "q"], name="who")), "who", ["p", "q"]),
    ],
)
def test_an_index_is_an_id(
    tmp_path: Path, write: str, frame: pd.DataFrame, id_name: str, expected: list[Any]
) -> None:
    if write == "frame":
        source = from_frame(frame)
    elif write == "parquet":
        frame.to_parquet(tmp_path / "f.parquet")
        source = read_path(tmp_path / "f.parquet")
    else:
        frame.to_csv(tmp_path / "f.csv")
        source = read_path(tmp_path / "f.csv", id_column=id_name or None)
    assert values(source).shape == (len(frame), 4)
    assert same(values(source), frame)
    assert ids(source) == expected
    assert source.schema is not None
    assert source.schema.id_name == id_name


def test_a_default_index_is_nothing(tmp_path: Path) -> None:
    NUMBERS.to_parquet(tmp_path / "f.parquet")
    for source in (read_path(tmp_path / "f.parquet"), from_frame(NUMBERS)):
        assert ids(source) is None
        assert source.schema is not None
        assert source.schema.id_name is None
    assert ids(from_frame(NUMBERS[:4].set_axis(pd.RangeIndex(2, 6)))) == [2, 3, 4, 5]


def test_a_parquet_index_is_known_without_the_notes_of_pandas(tmp_path: Path) -> None:
    NUMBERS[NUMBERS.a > 0].to_parquet(tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet").replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "f.parquet")
    source = read_path(tmp_path / "f.parquet")
    assert names(source) == tuple("abcd")
    assert ids(source) == np.flatnonzero(NUMBERS.a > 0).tolist()


def test_an_index_that_was_read_and_saved_again_is_an_id(tmp_path: Path) -> None:
    source = read_text(tmp_path, "Unnamed: 0,a\n0,1.5\n1,2.5\n")
    assert (ids(source), names(source)) == ([0, 1], ("a",))


def test_separators_at_the_ends_of_lines_are_no_column(tmp_path: Path) -> None:
    source = read_text(tmp_path, "a,b,\n1,2,\n3,4,\n")
    assert names(source) == ("a", "b")


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_column_can_be_named_as_the_id(tmp_path: Path, name: str) -> None:
    frame = NUMBERS[:12].assign(who=[f"p{i}" for i in range(12)])
    if name.endswith("csv"):
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_parquet(tmp_path / name)
    source = read(tmp_path / name, id_column="who")
    assert same(values(source), NUMBERS[:12])
    assert ids(source) == frame.who.tolist()
    dataset = load(tmp_path / name, id_column="who")
    assert dataset.schema is not None
    assert dataset.schema.id_name == "who"
    assert dataset.test.ids is not None
    assert dataset.test.ids.tolist() == [f"p{i}" for i in dataset.test._rows]
    with pytest.raises(ValueError, match=r"no column 'whom' of ids \(did you mean 'who'\?\); its"):
        read(tmp_path / name, id_column="whom")
    with pytest.raises(ValueError, match=r"column who holds 12 different words in 12 rows.*--id"):
        load(tmp_path / name)


def test_ids_are_for_tables(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(12))
    for data in (tmp_path / "x.npy", tmp_path, "digits"):
        with pytest.raises((TypeError, ValueError), match=r"id_column is for a table|no images"):
            read(data, id_column="who")
    with pytest.raises(ValueError, match=r"no column 'who' .* without names, since it has no head"):
        read_text(tmp_path, "1,2\n3,4\n", id_column="who")


# Missing values, words and booleans


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NaN", "null", "NULL", '""', "N/A", " ", "None"])
def test_empty_cells_are_missing(tmp_path: Path, cell: str) -> None:
    source = read_text(tmp_path, f"a,b\n1.5,{cell}\n{cell},red\n2.5,blue\n3.5,red\n")
    assert same(values(source), [[1.5, NAN], [NAN, 1], [2.5, 0], [3.5, 1]])
    assert source.gaps


def test_whole_numbers_stay_whole_beside_gaps(tmp_path: Path) -> None:
    source = read_text(tmp_path, "a,b\n1,\n,3\n7,4\n")
    assert source.schema is not None
    assert [(c.kind, c.integer) for c in source.schema.columns] == [("count", True)] * 2
    assert source.maximum == 7
    assert values(source).dtype == np.float64


@pytest.mark.parametrize("way", ["csv", "parquet", "frame"])
def test_whole_numbers_that_gaps_made_floats_are_whole(tmp_path: Path, way: str) -> None:
    columns = {"a": [1, None, 7], "b": [1.0, 2.0, 7.0], "c": [1, None, 2.5], "d": [-1, 2, None]}
    frame = pd.DataFrame(columns, index=["x", "y", "z"], dtype=float)
    if way == "csv":
        frame.to_csv(tmp_path / "t.csv")
    elif way == "parquet":
        frame.to_parquet(tmp_path / "t.parquet")
    source = from_frame(frame) if way == "frame" else read(str(tmp_path / f"t.{way}"))
    assert source.schema is not None
    assert [(c.kind, c.integer) for c in source.schema.columns] == [
        ("count", True),
        ("real", False),
        ("real", False),
        ("real", True),
    ]
    assert same(values(source)[:, 0], [1, NAN, 7])


def test_a_wholly_empty_column_is_named(tmp_path: Path) -> None:
    source = read_text(tmp_path, "a,b\n" + "1.5,\n" * 12)
    with pytest.raises(ValueError, match="column b holds no value in the training rows"):
        prepare(source)
    with pytest.raises(ValueError, match="all are missing"):
        read_text(tmp_path, "a,b\n,\nNA,\n")


def test_categories_are_sorted_words(tmp_path: Path) -> None:
    source = read_text(tmp_path, 'kind,x\n"b ",1.5\na,2.5\n b,3.5\n')
    assert source.schema == Schema((Column("kind", "category", True, ("a", "b")), Column("x")))
    assert same(values(source)[:, 0], [1, 0, 1])
    assert source.maximum is None


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["2", "3", "4", "more"], "category"),
        (["4+", "3", "2", "1"], "category"),
        (["yes", "no"], "category"),
        (["true", "false"], "boolean"),
        (["TRUE", "FALSE"], "boolean"),
        (["True"], "boolean"),
        (["0", "1"], "boolean"),
        (["0", "2"], "count"),
        (["-1", "2"], "real"),
    ],
)
def test_words_tell_the_kind(tmp_path: Path, words: list[str], kind: str) -> None:
    source = read_text(tmp_path, "w,x\n" + "".join(f"{w},1.5\n" for w in words * 10))
    assert source.schema is not None
    column = source.schema.columns[0]
    assert (column.kind, column.integer) == (kind, True)
    if kind == "category":
        assert column.categories == tuple(sorted(words))
    elif words[0].isalpha():
        assert column.categories == ("False", "True")
        assert same(values(source)[:, 0], [w.lower() == "true" for w in words * 10])


def test_too_many_words_are_no_category(tmp_path: Path) -> None:
    text = "".join(f"word{i % 60},1.5\n" for i in range(599))
    with pytest.raises(ValueError, match="column w holds 60 different words in 599 rows, too many"):
        prepare(read_text(tmp_path, "w,x\n" + text))
    prepare(read_text(tmp_path, "w,x\n" + text + "word0,2.5\n"))


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        ([0.1, 0.9, 0.5], "proportion"),
        ([0.1, 1.0, 0.5], "real"),
        ([0.0, 0.9, 0.5], "real"),
        ([1.0, 19.0, 3.0], "real"),
        ([1.0, 21.0, 3.0], "positive"),
        ([-1.0, 21.0, 3.0], "real"),
        ([NAN, 0.5, 0.1], "proportion"),
        ([1.0, 2.0, 3.0], "real"),
    ],
)
def test_floats_tell_their_kind(x: list[float], kind: str) -> None:
    schema = from_frame(pd.DataFrame({"x": x})).schema
    assert schema == Schema((Column("x", kind),))


# Numbers in other notations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a;b\n1,5;2\n-,5;3\n", [[1.5, 2], [-0.5, 3]]),
        ("a;b\n1.234,5;2\n0,25;1.000\n", [[1234.5, 2], [0.25, 1000]]),
        ("a;b\n1,5;1.000\n2,5;2.500\n", [[1.5, 1000], [2.5, 2500]]),
        ("a\tb\n1,5e3\t2\n2,5\t\n", [[1500, 2], [2.5, NAN]]),
        ('a,b\n"1,234",2.5\n"5",3.5\n', [[1234, 2.5], [5, 3.5]]),
        ('a,b\n"1,234,567.5",2.5\n"5.25",3.5\n', [[1234567.5, 2.5], [5.25, 3.5]]),
        ('a,b\n"1,5",2\n"2,5",3\n', [[1.5, 2], [2.5, 3]]),
        ("a;b\n1,234,567;2\n1,000;3\n", [[1234567, 2], [1000, 3]]),
        ("1,5;2,5\n3,5;4,5\n", [[1.5, 2.5], [3.5, 4.5]]),
    ],
)
def test_decimal_commas_and_thousands_are_recognized(
    tmp_path: Path, text: str, expected: list[list[float]]
) -> None:
    assert same(values(read_text(tmp_path, text)), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n1,234;2\n5,678;3\n", r"line 2, column 1 \(a\) holds '1,234', whose comma is dec"),
        ("a;b\n1,5;2.5\n2,5;3.5\n", r"line 2, column 2 \(b\) holds '2\.5', and other numbers have"),
        ("a;b\n1,5;1\n2,5;2\n3.5;3\n", r"line 4, column 1 \(a\) holds '3\.5', and other"),
        ("a;b\n1,5;1,234.5\n2,5;2,000.5\n", r"line 2, column 1 .* line 2, column 2 .*'1,234\.5'"),
        ("a;b\n1,5;1\n2,5;2\n12,34,5;3\n", r"line 2, column 1 \(a\) holds '1,5', a number"),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path, text)


# Parquet and frames


def parquet(tmp_path: Path, table: Any) -> Source:
    path = tmp_path / "x.parquet"
    if isinstance(table, pd.DataFrame):
        table.to_parquet(path)
    else:
        pq.write_table(table, path)
    return read_path(path)


def test_parquet_reads_numbers_in_their_type(tmp_path: Path) -> None:
    table = pa.table({"a": range(12), "b": np.linspace(-1, 1, 12)})
    x = values(parquet(tmp_path, table))
    assert same(x, np.column_stack([np.arange(12), np.linspace(-1, 1, 12)]))
    for dtype in ("uint8", "int32", "float32", "float64", "bool"):
        x = values(parquet(tmp_path, pa.table({"a": np.eye(12, dtype=dtype)[0]})))
        assert x.dtype == dtype


MIXED = pd.DataFrame(
    {
        "whole": pd.array([3, None, 2, 0], dtype="Int64"),
        "byte": pd.array([3, 1, 2, 0], dtype="UInt8"),
        "real": [1.5, NAN, -2.5, 0.5],
        "flag": pd.array([True, None, False, True], dtype="boolean"),
        "plain": [True, False, False, True],
        "money": [decimal.Decimal("1.50"), None, decimal.Decimal("-2"), decimal.Decimal(3)],
        "word": ["b", None, "a", "b"],
        "size": pd.Categorical(["s", "l", None, "s"], categories=["s", "m", "l"], ordered=True),
        "code": pd.Categorical([7, 5, 7, 5]),
    }
)
MIXED_VALUES = [
    [3, 3, 1.5, 1, 1, 1.5, 1, 0, 1],
    [NAN, 1, NAN, NAN, 0, NAN, NAN, 2, 0],
    [2, 2, -2.5, 0, 0, -2, 0, NAN, 1],
    [0, 0, 0.5, 1, 1, 3, 1, 0, 0],
]
MIXED_SCHEMA = Schema(
    (
        Column("whole", "count", True),
        Column("byte", "count", True),
        Column("real"),
        Column("flag", "boolean", True, ("False", "True")),
        Column("plain", "boolean", True, ("False", "True")),
        Column("money"),
        Column("word", "category", True, ("a", "b")),
        Column("size", "category", True, ("s", "m", "l")),
        Column("code", "category", True, ("5", "7")),
    )
)


def test_a_frame_of_every_type_is_coded() -> None:
    source = from_frame(MIXED)
    assert same(values(source), MIXED_VALUES)
    assert source.schema == MIXED_SCHEMA
    assert source.schema.mixed
    assert source.gaps


def test_parquet_of_every_type_is_the_same(tmp_path: Path) -> None:
    source = parquet(tmp_path, MIXED)
    assert same(values(source), MIXED_VALUES)
    assert source.schema == MIXED_SCHEMA


def test_other_ways_to_hold_the_same_columns() -> None:
    frame = pd.DataFrame(
        {
            "objects": np.array([1, None, 3], dtype=object),
            "flags": np.array([True, None, False], dtype=object),
            "sparse": pd.arrays.SparseArray([0.0, 1.5, 0.0]),
            "arrow": pd.array([1, None, 2], dtype="int64[pyarrow]"),
            "text": pd.array(["b", "a", None], dtype="string[pyarrow]"),
            "empty": ["b", "", "a"],
            5: [1, 2, 3],
        }
    )
    source = from_frame(frame)
    expected = [[1, 1, 0, 1, 1, 1, 1], [NAN, NAN, 1.5, NAN, 0, NAN, 2], [3, 0, 0, 2, NAN, 0, 3]]
    assert same(values(source), expected)
    assert names(source) == ("objects", "flags", "sparse", "arrow", "text", "empty", "5")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([datetime.date(2020, 1, 1)] * 2, "column b holds dates or times; .* days since a start"),
        (pd.to_datetime(["2020-01-01"] * 2), "column b holds dates or times"),
        (pd.to_timedelta([1, 2]), "column b holds dates or times"),
        ([[1, 2], [3]], "column b holds (list|ndarray); columns are numbers, booleans or words"),
        ([{"c": 1}, {"c": 2}], "column b holds dict"),
        ([b"x", b"y"], "column b holds bytes"),
        (["2020-01-01", "2020-01-02"], "column b holds dates"),
        (
            ["1.5", "2"],
            r"row 0 .* of column b holds '1\.5', a number written as text; .*to_numeric",
        ),
        ([1.5, np.inf], r"row 1 \(counting from 0\) of column b holds inf"),
        ([1.5, -1e39], r"row 1 \(counting from 0\) of column b holds -1e\+39"),
    ],
)
@pytest.mark.parametrize("where", ["frame", "parquet"])
def test_what_is_no_column_of_a_table_is_refused_by_name(
    tmp_path: Path, column: Any, message: str, where: str
) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": column})
    with pytest.raises(ValueError, match=message):
        from_frame(frame) if where == "frame" else parquet(tmp_path, frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"a": [1, "x", 2.5]}, dtype=object), "column a holds float and int and str"),
        (pd.DataFrame({"a": [1j]}), "column a holds complex numbers"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns of the name a"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), "several columns of the name 1"),
        (pd.DataFrame({"a": []}), "is empty"),
        (pd.DataFrame(index=range(3)), "is empty"),
        (pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])), "several levels"),
    ],
)
def test_frames_that_are_no_tables_are_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_frame(frame, name="mine")


def test_a_series_is_no_table() -> None:
    with pytest.raises(TypeError, match=r"must be a pandas DataFrame, got Series; make one with"):
        from_frame(NUMBERS.a)


@pytest.mark.parametrize("seed", range(20))
def test_text_parquet_and_frames_agree(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    makers = [
        lambda: rng.normal(size=n) * 10.0 ** rng.integers(-5, 6),
        lambda: rng.lognormal(0, 2, n).astype(np.float32).astype(np.float64),
        lambda: rng.integers(-3, 9, n),
        lambda: rng.integers(0, 2, n),
        lambda: rng.random(n) < 0.5,
        lambda: rng.choice(["north", "south, east", 'a "b"', "ö;x"], n),
        lambda: pd.array(np.where(rng.random(n) < 0.3, None, 7), dtype="Int64"),
    ]
    frame = pd.DataFrame(
        {f"c{i}": makers[rng.integers(len(makers))]() for i in range(rng.integers(2, 8))}
    )
    for name in frame.columns[rng.random(frame.shape[1]) < 0.3]:
        if frame[name].dtype.kind in "fO":
            frame.loc[rng.random(n) < 0.2, name] = None
    frame.insert(0, "noise", rng.normal(size=n))  # so that whole floats stay floats in text
    if seed % 2:
        frame.index = pd.Index([f"row{i}" for i in range(n)])
    separator = rng.choice([",", ";", "\t"])
    frame.to_csv(tmp_path / "x.csv.gz", sep=separator, index=bool(seed % 2))
    frame.to_parquet(tmp_path / "x.parquet")
    expected = from_frame(frame)
    for source in (read_path(tmp_path / "x.csv.gz"), read_path(tmp_path / "x.parquet")):
        assert source.schema == expected.schema
        assert same(values(source), values(expected))
        assert values(source).dtype == values(expected).dtype
        assert ids(source) == ids(expected)
        assert (source.gaps, source.maximum) == (expected.gaps, expected.maximum)


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"hello, this is no parquet")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as parquet"):
        read_path(path)


# New data for a trained schema


TRAINED = Schema(
    (
        Column("a"),
        Column("n", "count", True),
        Column("w", "category", True, ("green", "red")),
        Column("f", "boolean", True, ("False", "True")),
    ),
    id_name="who",
)


def test_new_data_are_matched_by_name(tmp_path: Path) -> None:
    text = "f,extra,w,who,n,a\ntrue,9,red,p,3,1.5\nFALSE,9,,q,4,\n"
    source = read_text(tmp_path, text, schema=TRAINED)
    assert same(values(source), [[1.5, 3, 1, 1], [NAN, 4, NAN, 0]])
    assert ids(source) == ["p", "q"]
    assert source.unused == ("extra",)
    assert source.schema == TRAINED
    one = read_text(tmp_path, "w,f,n,a\nred,0,3,2\n", schema=TRAINED)
    assert same(values(one), [[2, 3, 1, 0]])
    assert one.schema == Schema(TRAINED.columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,n,w\n1,2,red\n", "lacks the columns f of the training data; it has a, n, w"),
        ("A,n,w,f\n1,2,red,true\n", "lacks the columns a of"),
        ("a,n,w,f\n1,2,blue,true\n", r"line 2, column 3 \(w\) holds 'blue', which is none .*green"),
        ("a,n,w,f\nx,2,red,true\n", r"line 2, column 1 \(a\) holds 'x', and the model was trained"),
        ("1,2,3\n", "lacks the columns a, n, w, f .* it has 3 without names"),
    ],
)
def test_new_data_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path, text, schema=TRAINED)


def test_new_data_without_names_are_taken_in_order(tmp_path: Path) -> None:
    source = read_text(tmp_path, "1.5,3,red,true\n", schema=TRAINED)
    assert same(values(source), [[1.5, 3, 1, 1]])


def test_columns_are_scaled_one_by_one() -> None:
    n = 200
    frame = pd.DataFrame(
        {
            "real": RNG.normal(5, 2, n),
            "positive": RNG.lognormal(0, 2, n),
            "proportion": RNG.uniform(0.01, 0.99, n),
            "count": RNG.poisson(3, n),
            "word": RNG.choice(["a", "b"], n),
        }
    )
    how = ("standardize", "divide", "none", "none", "none")
    dataset = prepare(from_frame(frame), scaling="columns", columns=how)
    loc, scale = dataset.statistics["loc"], dataset.statistics["scale"]
    train = frame.iloc[dataset.train._rows]
    assert dataset.schema is not None
    assert [column.kind for column in dataset.schema.columns] == [*frame.columns[:4], "category"]
    assert np.allclose(loc, [train.real.mean(), 0, 0, 0, 0])
    assert np.allclose(scale, [train.real.std(ddof=0), train.positive.std(ddof=0), 1, 1, 1])
    every = prepare(from_frame(frame), scaling="standardize").statistics
    assert np.allclose(every["loc"][:4], train.iloc[:, :4].mean())


def test_every_message_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,"2\n')
    with pytest.raises(ValueError, match=re.escape(str(path))) as found:
        read_path(path)
    assert "\n" not in str(found.value)
