"""A parquet file read by row groups is the file read whole, and does not lie in memory."""

import decimal
import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pyrovae.data import Column, Schema, load, load_all, parquet, prepare, read_path
from tests.conftest import SEEDS

ROWS = 90


def mixed(seed: int) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    colors = np.array(["red", "blue", "green"], dtype=object)
    frame = pd.DataFrame(
        {
            "real": r.normal(size=ROWS),
            "small": r.normal(size=ROWS).astype(np.float32),
            "share": r.uniform(0.01, 0.99, ROWS),
            "amount": np.exp(3 * r.normal(size=ROWS)),
            "count": r.poisson(3, ROWS),
            "below": r.integers(-5, 5, ROWS).astype(np.int8),
            "flag": r.integers(0, 2, ROWS).astype(bool),
            "bit": r.integers(0, 2, ROWS),
            "color": colors[r.integers(0, 3, ROWS)],
            "kind": pd.Categorical(colors[r.integers(0, 2, ROWS)]),
            "size": pd.Categorical(
                np.array(["S", "L"])[r.integers(0, 2, ROWS)], ["S", "M", "L"], ordered=True
            ),
            "price": [decimal.Decimal(int(n)) / 4 for n in r.integers(0, 99, ROWS)],
            "whole": pd.array(r.integers(0, 9, ROWS), dtype="Int64"),
            "maybe": pd.array(r.integers(0, 2, ROWS).astype(bool), dtype="boolean"),
            "said": np.array(["yes", "no"], dtype=object)[r.integers(0, 2, ROWS)],
            "never": np.full(ROWS, np.nan),
        }
    )
    frame.loc[40:60, ["real", "color", "whole", "maybe", "kind"]] = None
    frame.loc[0:2, "said"] = None
    return frame


@pytest.fixture
def by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "IN_MEMORY", 100)
    monkeypatch.setattr(parquet, "CHUNK_VALUES", 200)


def write(path: Path, frame: pd.DataFrame, **options: object) -> Path:
    frame.to_parquet(path, row_group_size=20, **options)
    return path


def alike(path: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    whole = read_path(path, **options)
    with monkeypatch.context() as patched:
        patched.setattr(parquet, "IN_MEMORY", 100)
        patched.setattr(parquet, "CHUNK_VALUES", 200)
        found = read_path(path, **options)
    a, b = found.parts["all"], whole.parts["all"]
    assert a.x.dtype == b.x.dtype
    np.testing.assert_array_equal(a.x, b.x)
    assert (a.ids is None) == (b.ids is None)
    if b.ids is not None:
        assert a.ids.tolist() == b.ids.tolist()
    for name in ("name", "maximum", "unit_interval", "schema", "gaps", "unused"):
        assert getattr(found, name) == getattr(whole, name), name


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_column_is_read_as_in_memory(seed, tmp_path, monkeypatch) -> None:
    frame = mixed(seed)
    alike(write(tmp_path / "x.parquet", frame), monkeypatch)
    for name in frame:
        if frame[name].notna().any():
            alike(write(tmp_path / f"{name}.parquet", frame[[name]].dropna()), monkeypatch)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64", "float32", "bool"])
def test_a_table_of_one_type_keeps_it(dtype, tmp_path, monkeypatch) -> None:
    x = np.random.default_rng(0).integers(0, 2, (ROWS, 3)).astype(dtype)
    alike(write(tmp_path / "x.parquet", pd.DataFrame(x, columns=list("abc"))), monkeypatch)


def test_gaps_in_a_later_group_make_all_of_it_floats(tmp_path, monkeypatch) -> None:
    x = pd.DataFrame({"a": pd.array(range(ROWS), dtype="Int16"), "b": range(ROWS)})
    x.loc[ROWS - 1, "a"] = None
    path = write(tmp_path / "x.parquet", x)
    alike(path, monkeypatch)
    assert read_path(path).parts["all"].x.dtype == np.float64


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(5, 5 + ROWS),
        pd.RangeIndex(0, 3 * ROWS, 3, name="every"),
        [f"row {i}" for i in range(ROWS)],
        pd.Index(range(ROWS, 0, -1), name="id"),
        pd.RangeIndex(ROWS),
    ],
)
def test_an_index_is_an_id(index, tmp_path, monkeypatch) -> None:
    frame = mixed(0)[["real", "count"]].set_index(pd.Index(index))
    path = write(tmp_path / "x.parquet", frame)
    alike(path, monkeypatch)
    table = pq.read_table(path).replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "y.parquet", row_group_size=20)
    alike(tmp_path / "y.parquet", monkeypatch)


def test_an_id_column_and_a_schema(tmp_path, monkeypatch) -> None:
    frame = mixed(0)[["real", "color", "count"]].assign(id=[f"n{i}" for i in range(ROWS)])
    path = write(tmp_path / "x.parquet", frame)
    alike(path, monkeypatch, id_column="id")
    categories = ("blue", "green", "red", "white")
    columns = (Column("count", "count", True), Column("color", "category", True, categories))
    alike(path, monkeypatch, schema=Schema(columns, "id"))
    alike(path, monkeypatch, schema=Schema(columns))
    alike(path, monkeypatch, schema=Schema(columns[:1]))


def test_the_array_is_mapped_and_cannot_be_written(tmp_path, by_groups) -> None:
    x = read_path(write(tmp_path / "x.parquet", mixed(0)[["real"]])).parts["all"].x
    assert isinstance(x.base, np.memmap)
    assert not x.flags.writeable


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dataset_by_row_groups_is_the_dataset_in_memory(seed, tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "x.parquet", mixed(seed).drop(columns="never"))
    whole = load(path, scaling="columns")
    monkeypatch.setattr(parquet, "IN_MEMORY", 100)
    found = load(path, scaling="columns")
    for part in ("train", "validation", "test"):
        a, b = (next(getattr(each, part).batches(100)) for each in (found, whole))
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    assert found.digest() == whole.digest()
    new = load_all(path, scaling="columns", statistics=whole.statistics, schema=whole.schema)
    assert len(new) == ROWS
    assert prepare(read_path(path)).splits == whole.splits


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["cat", *["1.5"] * (ROWS - 1)], r"column a holds 'cat' in a column of numbers"),
        (["2020-01-01"] * ROWS, "column a holds dates"),
        (["12"] * ROWS, "column a holds '12', a number written as text"),
        (pd.date_range("2020-01-01", periods=ROWS), "column a holds dates or times"),
        ([[1, 2]] * ROWS, "column a holds .*ndarray"),
        ([*[0.0] * 77, 1e300, *[0.0] * (ROWS - 78)], r"row 77 .* of column a holds 1e\+300"),
        ([np.nan] * ROWS, "holds no value"),
    ],
)
def test_what_is_no_column_of_data_is_refused(column, message, tmp_path, by_groups) -> None:
    with pytest.raises(ValueError, match=message):
        read_path(write(tmp_path / "x.parquet", pd.DataFrame({"a": column})))


def test_unknown_words_are_refused_with_their_row(tmp_path, by_groups) -> None:
    frame = pd.DataFrame({"a": ["red"] * 77 + ["pink"] + ["red"] * 12})
    schema = Schema((Column("a", "category", True, ("blue", "red")),))
    with pytest.raises(ValueError, match=r"row 77 .* of column a holds 'pink', which is none"):
        read_path(write(tmp_path / "x.parquet", frame), schema=schema)


def test_words_that_name_rows_are_refused_before_memory_is_full(
    tmp_path, by_groups, monkeypatch
) -> None:
    monkeypatch.setattr(parquet, "MOST_WORDS", 50)
    frame = pd.DataFrame({"a": [f"n{i}" for i in range(ROWS)], "b": range(ROWS)})
    path = write(tmp_path / "x.parquet", frame)
    with pytest.raises(ValueError, match=r"column a holds more than 50 different words.*--id"):
        read_path(path)
    assert read_path(path, id_column="a").parts["all"].x.shape == (ROWS, 1)


def test_many_words_are_recognized_by_fewer(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "x.parquet", mixed(0)[["color", "said"]])
    monkeypatch.setattr(parquet, "SURVEYED", 10)
    alike(path, monkeypatch)


def test_columns_of_one_name_and_files_without_rows_are_refused(tmp_path, by_groups) -> None:
    path = tmp_path / "x.parquet"
    column = pa.array(np.arange(50.0))
    pq.write_table(pa.Table.from_arrays([column, column], names=["a", "a"]), path)
    with pytest.raises(ValueError, match="several columns of the name a"):
        read_path(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        read_path(path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system")
def test_a_full_disk_is_named(tmp_path, by_groups, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"0\.0 GiB in .*No space left on device.*TMPDIR"):
        read_path(write(tmp_path / "x.parquet", mixed(0)[["real"]]))


@pytest.mark.parametrize(
    "notes",
    [
        b"[1, 2]",
        b"{",
        b'{"columns": 3, "index_columns": []}',
        b'{"columns": [{}], "index_columns": []}',
        b'{"columns": [], "index_columns": [{"kind": "range"}]}',
        b'{"columns": [], "index_columns": [{"kind": "range", "start": 0, "stop": 5, "step": 0}]}',
        b'{"columns": [], "index_columns": ["nowhere"], "column_indexes": [{"name": []}]}',
    ],
)
def test_damaged_notes_of_pandas_are_named(tmp_path: Path, notes: bytes) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"a": np.arange(40.0), "b": np.ones(40)})
    pq.write_table(table.replace_schema_metadata({b"pandas": notes}), path)
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read.* notes of pandas") as caught:
        read_path(path)
    assert len(str(caught.value).splitlines()) == 1
