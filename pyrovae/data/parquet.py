"""Parquet files: read whole, or by row groups if they are large.

A large file is gone through twice. The first pass recognizes the columns, as if the table were in
memory; the second codes their values and writes them to a temporary file, which is memory-mapped as
an `.npy` file is.
"""

import contextlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae._process.optional_imports import import_for
from pyrovae.data.coding import BOOLEAN_WORDS, Coded, Field, Table, code, code_like, words_of
from pyrovae.data.schema import Column, Schema
from pyrovae.data.sources import CHUNK_VALUES, Rows, Source, describe
from pyrovae.data.tables import (
    check_float32,
    check_names,
    kind_of,
    matched,
    table_of_frame,
    without_id,
)

__all__: list[str] = []

IN_MEMORY = 1 << 30
"""Bytes of the numbers of a file, eight each, up to which it is read whole."""

MOST_WORDS = 1_000_000
"""Number of different words from which a column is refused before all of them are in memory."""

SURVEYED = 1_000_000
"""Number of words by which the words of a column are represented when it is recognized."""

PARQUET_INDEX = "__index_level_0__"
"""How pandas names an index without a name in parquet."""


def is_large(path: Path) -> bool:
    """Whether a file is to be read by row groups."""
    with _readable(path) as file:
        return bool(8 * file.metadata.num_rows * file.metadata.num_columns > IN_MEMORY)


def read_parquet(path: Path) -> Table:
    """Read all columns into memory."""
    with _readable(path) as file:
        return _table(path, file.read())


def read_row_groups(path: Path, id_column: str | None, schema: Schema | None) -> Source:
    """Read a file as `read_table` reads a table, a part of its rows at a time.

    Args:
        path: of the file.
        id_column: name of the column that identifies rows and is no data.
        schema: whose columns are taken by their names; None to recognize the columns.

    Returns:
        One part, `all`, whose array is memory-mapped from a temporary file.

    Raises:
        ValueError: as `read_table`.
        OSError: if the temporary file does not fit on its disk.
    """
    seen: dict[str, _Seen] = {}
    ids: list[np.ndarray] = []
    for rows, table in _parts(path, id_column, schema):
        for place, each in enumerate(_fields(table, schema)):
            column = None if schema is None else schema.columns[place]
            seen.setdefault(each.name, _Seen()).add(table, each, column)
        ids += [] if table.ids is None else [table.ids]
        last, count = table, rows.stop
    if not seen:
        raise ValueError(f"{path} is empty; it needs rows and columns of data")
    fields = _fields(last, schema)
    found = [seen[each.name].coded(last, each) for each in fields]
    columns = tuple(
        Column(each.name, kind_of(coded), coded.integer, coded.words)
        for each, coded in zip(fields, found, strict=True)
    )
    known = Schema(columns if schema is None else schema.columns, last.id_name)
    x = _mapped(count, len(columns), np.result_type(*(coded.values for coded in found)))
    for rows, table in _parts(path, id_column, known):
        pairs = zip(matched(table, known), known.columns, strict=True)
        x[rows] = np.column_stack([code_like(table, *pair).values for pair in pairs])
    x.flags.writeable = False
    source = describe(str(path), {"all": Rows(x, ids=_joined(ids))}, schema=known)
    unused = tuple(each.name for each in last.fields if each.name not in seen)
    return replace(source, unused=unused)


@dataclass
class _Seen:
    """What the parts of a column have shown so far.

    Attributes:
        values: the smallest and largest, and NaN if one is missing, in the type of all parts.
        integer: whether all numbers are whole by their type.
        boolean: whether they are booleans.
        words: how often each word occurs.
        dtype: of a column of words, as pandas has it.
    """

    values: np.ndarray | None = None
    integer: bool = True
    boolean: bool = True
    words: Counter[str] = field(default_factory=Counter)
    dtype: Any = None

    def add(self, table: Table, each: Field, column: Column | None) -> None:
        """Take in the next part, which is like `column` if that is known."""
        coded = self._words(table, each) if column is None else code_like(table, each, column)
        if coded is None:
            return
        check_float32(table, each, coded.values)
        values = coded.values if self.values is None else np.append(self.values, coded.values)
        missing = np.isnan(values)
        present, some = values[~missing], values[missing][:1]
        ends = [present.min(keepdims=True), present.max(keepdims=True)] if present.size else []
        self.values = np.concatenate([*ends, some])
        if not np.isnan(coded.values).all():
            self.integer &= coded.integer
            self.boolean &= coded.words == BOOLEAN_WORDS

    def _words(self, table: Table, each: Field) -> Coded | None:
        """Code a part that is no text; count the words of text, and return None."""
        pandas = import_for("pandas", "pandas", f"reading {table.name}")
        series = each.series
        if isinstance(series.dtype, pandas.CategoricalDtype):
            if self.dtype is not None and series.cat.ordered:
                words = [*self.dtype.categories, *series.cat.categories]
                self.dtype = pandas.CategoricalDtype(list(dict.fromkeys(words)), ordered=True)
            else:
                self.dtype = series.dtype if series.cat.ordered else "category"
        elif series.dtype.kind == "O" and pandas.api.types.infer_dtype(series) == "string":
            self.dtype = object
        else:
            return code(table, each)
        words = words_of(series)
        self.words.update(word for word in words if word is not None)
        if None in words:
            self.values = np.array([np.nan])
        if len(self.words) > MOST_WORDS:
            raise ValueError(
                f"{table.name}: column {each.name} holds more than {MOST_WORDS:,} different words, "
                "which are no categories; drop it, or name it as the id (id_column, --id)"
            )
        return None

    def coded(self, table: Table, each: Field) -> Coded:
        """The column as all parts together make it, with few of its values."""
        pandas = import_for("pandas", "pandas", f"reading {table.name}")
        if not self.words:
            assert self.values is not None
            present = bool((~np.isnan(self.values)).any())
            words = BOOLEAN_WORDS if self.boolean and present else ()
            return Coded(self.values, self.integer and present, words)
        share = min(1.0, SURVEYED / self.words.total())
        some = [word for word, n in self.words.items() for _ in range(math.ceil(n * share))]
        gaps = [None] if self.values is not None else []
        series = pandas.Series([*some, *gaps], dtype=self.dtype)
        anywhere = replace(table, where=lambda row, position: f"column {each.name}")
        return code(anywhere, replace(each, series=series))


def _fields(table: Table, schema: Schema | None) -> Sequence[Field]:
    return table.fields if schema is None else matched(table, schema)


def _parts(
    path: Path, id_column: str | None, schema: Schema | None
) -> Iterator[tuple[slice, Table]]:
    """The rows of a file in parts, each with where it lies."""
    start = 0
    with _readable(path) as file:
        size = max(1, CHUNK_VALUES // max(1, file.metadata.num_columns))
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            for first in range(0, rows.num_rows, size):
                some = rows.slice(first, size)
                part = without_id(_table(path, some, start), id_column, schema)
                check_names(part)
                yield slice(start, start + some.num_rows), part
                start += some.num_rows


def _mapped(count: int, columns: int, dtype: np.dtype[Any]) -> np.ndarray:
    """An array in a temporary file, which is gone when the array is."""
    size = count * columns * dtype.itemsize
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.asarray(np.memmap(file, dtype, "w+", shape=(count, columns)))
    except OSError as error:
        raise OSError(
            f"the table needs {size / 2**30:.1f} GiB in {tempfile.gettempdir()}, which cannot be "
            f"written ({error.strerror}); set the variable TMPDIR to a folder with more room"
        ) from error


def _joined(ids: Sequence[np.ndarray]) -> np.ndarray | None:
    """The ids of all parts: numbers if all are, otherwise text."""
    return np.concatenate([part.astype(np.result_type(*ids)) for part in ids]) if ids else None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Any]:
    """A file opened by pyarrow, whose errors name it."""
    pyarrow = import_for("pyarrow", "pyarrow", f"reading {path}")
    parquet = import_for("pyarrow.parquet", "pyarrow", f"reading {path}")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as parquet ({reason}); write it again") from error


@contextlib.contextmanager
def _notes(path: Path) -> Iterator[None]:
    """A block that reads what pandas wrote about its index and types, which may be damaged."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} cannot be read as parquet, its notes of pandas are damaged ({reason}); write "
            "it again"
        ) from error


def _table(path: Path, rows: Any, start: int = 0) -> Table:
    """A table of pyarrow, or a part of one whose first row has the number `start`."""
    pandas = import_for("pandas", "pandas", f"reading {path}")
    pyarrow = import_for("pyarrow", "pyarrow", f"reading {path}")
    sizes = (8, 16, 32, 64)
    nullable = {getattr(pyarrow, f"int{n}")(): getattr(pandas, f"Int{n}Dtype")() for n in sizes}
    nullable |= {getattr(pyarrow, f"uint{n}")(): getattr(pandas, f"UInt{n}Dtype")() for n in sizes}
    nullable[pyarrow.bool_()] = pandas.BooleanDtype()
    with _notes(path):
        frame = rows.to_pandas(types_mapper=nullable.get)
        if PARQUET_INDEX in frame:  # the notes of pandas on its index were lost
            frame = frame.set_index(PARQUET_INDEX).rename_axis(index=None)
        notes = rows.schema.pandas_metadata or {}
        categories = {
            note["name"]
            for note in notes.get("columns", ())
            if note["pandas_type"] == "categorical"
        }
        frame = frame.astype({name: "category" for name in frame.columns if name in categories})
        for index in notes.get("index_columns", ()):
            if isinstance(index, dict) and index["kind"] == "range":  # of the whole table
                numbers = pandas.RangeIndex(index["start"], index["stop"], index["step"])
                if not numbers.equals(pandas.RangeIndex(len(numbers))):
                    frame.index = numbers[start : start + len(frame)].rename(index["name"])
    table = table_of_frame(str(path), frame)
    return replace(table, where=lambda row, position: table.where(start + row, position))
