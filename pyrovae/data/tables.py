"""Tables: columns of numbers, booleans and words, turned into one array and its schema.

The readers of files and `from_frame` give the columns as pandas series; here each is recognized,
checked and coded. A missing value becomes NaN, a category the position of its word.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyrovae._process.choices import nearest
from pyrovae._process.optional_imports import import_for
from pyrovae.data.coding import (
    BOOLEAN_WORDS,
    WHOLE_IN_FLOAT,
    Coded,
    Field,
    Table,
    code,
    code_like,
    ids_of,
)
from pyrovae.data.schema import Column, Schema
from pyrovae.data.sources import Rows, Source, describe

if TYPE_CHECKING:
    import pandas

__all__ = ["from_frame"]

SPREAD = 20
"""Ratio of the largest to the smallest value from which a column above zero is positive."""


def from_frame(
    frame: "pandas.DataFrame",
    *,
    name: str = "table",
    id_column: str | None = None,
    schema: Schema | None = None,
) -> Source:
    """Read a pandas DataFrame, by the rules for files of tables.

    An index other than the default one is kept as ids. Missing values become NaN, and words the
    positions of their categories.

    Args:
        frame: columns of numbers, booleans, words or categories, (N, D).
        name: of the source.
        id_column: name of a column that identifies rows and is no data.
        schema: of the table that a model was trained on, whose columns are taken by their names;
            None to recognize the columns.

    Returns:
        One part, `all`, with its schema.

    Raises:
        TypeError: if it is no DataFrame.
        ValueError: for duplicate names, a column of dates, lists or other objects, infinite
            numbers, an empty frame, or a frame that does not fit the schema.

    Example:
        >>> import pandas
        >>> from pyrovae.data import from_frame
        >>> frame = pandas.DataFrame({"age": [31, 4], "color": ["red", "green"]}, index=["a", "b"])
        >>> source = from_frame(frame)
        >>> source.parts["all"].x.tolist(), source.parts["all"].ids.tolist()
        ([[31, 1], [4, 0]], ['a', 'b'])
        >>> [column.kind for column in source.schema.columns]
        ['count', 'category']
    """
    return read_table(table_of_frame(name, frame), id_column, schema)


def table_of_frame(name: str, frame: "pandas.DataFrame") -> Table:
    """Take the columns and the index of a DataFrame."""
    pandas = import_for("pandas", "pandas", f"reading {name}")
    if not isinstance(frame, pandas.DataFrame):
        raise TypeError(
            f"frame must be a pandas DataFrame, got {type(frame).__name__}; "
            "make one with pandas.DataFrame(...)"
        )
    index = frame.index
    if isinstance(index, pandas.MultiIndex) or isinstance(frame.columns, pandas.MultiIndex):
        raise ValueError(
            f"{name} has an index or a header of several levels; one level is allowed: use "
            "frame.reset_index(), or join the names of the columns"
        )
    default = isinstance(index, pandas.RangeIndex) and index.equals(pandas.RangeIndex(len(frame)))
    names = [str(column) for column in frame.columns]
    return Table(
        name,
        [Field(i, each, frame.iloc[:, i]) for i, each in enumerate(names)],
        ids=None if default else ids_of(index),
        id_name=None if default else str(index.name if index.name is not None else ""),
        named=True,
        where=lambda row, position: f"row {row} (counting from 0) of column {names[position]}",
    )


def read_table(table: Table, id_column: str | None = None, schema: Schema | None = None) -> Source:
    """Recognize, check and code the columns of a table, see `from_frame`."""
    table = without_id(table, id_column, schema)
    if not table.fields or not len(table.fields[0].series):
        raise ValueError(f"{table.name} is empty; it needs rows and columns of data")
    check_names(table)
    if schema is None:
        fields = table.fields
        coded = [code(table, field) for field in fields]
        coded = _whole_if_all_are(coded) if table.text else coded
        columns = tuple(
            Column(field.name, kind_of(each), each.integer, each.words)
            for field, each in zip(fields, coded, strict=True)
        )
    else:
        fields, columns = matched(table, schema), schema.columns
        coded = [
            code_like(table, field, column) for field, column in zip(fields, columns, strict=True)
        ]
    for field, each in zip(fields, coded, strict=True):
        check_float32(table, field, each.values)
    named = table.named or any(column.categories for column in columns)
    source = describe(
        table.name,
        {"all": Rows(np.column_stack([each.values for each in coded]), ids=table.ids)},
        schema=Schema(columns, table.id_name) if named else None,
    )
    taken = {field.name for field in fields}
    names = (field.name for field in table.fields)
    return replace(source, unused=tuple(name for name in names if name not in taken))


def check_names(table: Table) -> None:
    """Refuse a table of which several columns have the same name."""
    names = [field.name for field in table.fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{table.name} has several columns of the name {', '.join(twice)}; rename or drop all "
            "but one"
        )


def kind_of(coded: Coded) -> str:
    """The kind of a column, one of `KINDS`, by its type and its values."""
    if coded.words:
        return "boolean" if coded.words == BOOLEAN_WORDS else "category"
    present = coded.values[~np.isnan(coded.values)]
    if not present.size:
        return "real"
    low, high = present.min(), present.max()
    if coded.integer:
        return "real" if low < 0 else "boolean" if high <= 1 else "count"
    if low > 0:
        return "proportion" if high < 1 else "positive" if high > SPREAD * low else "real"
    return "real"


def without_id(table: Table, id_column: str | None, schema: Schema | None) -> Table:
    """Take the id column out of the data."""
    names = [field.name for field in table.fields]
    if id_column is None:
        known = None if schema is None or table.ids is not None else schema.id_name
        id_column = known if known in names else None
    if id_column is None or (id_column == table.id_name and id_column not in names):
        return table
    if id_column not in names:
        columns = ", ".join(names) if table.named else "without names, since it has no header"
        raise ValueError(
            f"{table.name} has no column {id_column!r} of ids{nearest(id_column, names)}; its "
            f"columns are {columns}"
        )
    ids = ids_of(table.fields[names.index(id_column)].series)
    fields = [field for field in table.fields if field.name != id_column]
    return replace(table, fields=fields, ids=ids, id_name=id_column)


def _whole_if_all_are(coded: list[Coded]) -> list[Coded]:
    """Take the columns of a text file as integers if all of its cells are whole numbers."""
    for each in coded:
        present = each.values[~np.isnan(each.values)]
        if (
            each.words
            or not (present == np.rint(present)).all()
            or (present.size and np.abs(present).max() >= WHOLE_IN_FLOAT)
        ):
            return coded
    return [
        Coded(x.values if np.isnan(x.values).any() else x.values.astype(np.int64), integer=True)
        for x in coded
    ]


def matched(table: Table, schema: Schema) -> Sequence[Field]:
    """Find the columns of the schema by name; in order where the file has no names."""
    fields = {field.name: field for field in table.fields}
    if not table.named and len(fields) == len(schema.columns):
        return table.fields
    lacking = [name for name in schema.names if name not in fields]
    if lacking:
        found = ", ".join(fields) if table.named else f"{len(fields)} without names"
        raise ValueError(
            f"{table.name} lacks the columns {', '.join(lacking)} of the training data; it has "
            f"{found}: rename its columns, or add these (empty cells are missing values)"
        )
    return [fields[name] for name in schema.names]


def check_float32(table: Table, field: Field, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        bad = np.isinf(values.astype(np.float32))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{table.name}: {table.where(row, field.position)} holds {values[row]}; numbers must "
            "be finite and below 3.4e38: drop such rows, or leave the cell empty if it is missing"
        )
