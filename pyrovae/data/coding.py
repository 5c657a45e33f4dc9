"""Columns of tables: recognized by their type or their text, and coded as numbers.

A column is numbers, booleans or words. In text, and in columns of text, a word among numbers is
refused rather than guessed at.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrovae._process.optional_imports import import_for
from pyrovae.data.schema import Column

__all__: list[str] = []

BOOLEAN_WORDS = ("False", "True")

WHOLE_IN_FLOAT = 2**53
"""From here on float64 skips whole numbers."""

MOST_CATEGORIES = 50

ROWS_PER_CATEGORY = 10
"""Number of rows for each category that a column of more than `MOST_CATEGORIES` needs."""

WORDS_AMONG_NUMBERS = 0.1
"""Share of words from which a column that also holds numbers is a category."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LIKE_A_NUMBER = re.compile(r"[+-]?[\d.,'\s]*\d[\d.,'\s]*([eE][+-]?\d+)?")
DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T].*)?")


@dataclass(frozen=True)
class Field:
    """One column of a file: its position, its name and its values as a pandas series."""

    position: int
    name: str
    series: Any


@dataclass(frozen=True)
class Coded:
    """The numbers of a column, (N,), and what they stand for.

    Args:
        values: NaN where missing.
        integer: whether they are whole numbers by their type.
        words: what the codes 0, 1, 2, ... stand for; empty for numbers.
    """

    values: np.ndarray
    integer: bool
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Columns as a file holds them.

    Args:
        name: of the file, for messages and for the source.
        fields: columns that are data, or become ids if they are named so.
        ids: index of the rows, (N,), or None.
        id_name: its header; None without ids.
        named: whether the columns have names in the file.
        where: words for a cell, from its row and the position of its column.
        text: whether the file is text, in which numbers have no type.
    """

    name: str
    fields: Sequence[Field]
    ids: np.ndarray | None
    id_name: str | None
    named: bool
    where: Callable[[int, int], str]
    text: bool = False


def ids_of(values: Any) -> np.ndarray:
    """Ids of the rows, (N,): int64 if all are whole numbers, otherwise text."""
    pandas = import_for("pandas", "pandas", "reading a table")
    series = pandas.Series(values)
    missing = series.isna().to_numpy(bool)
    if pandas.api.types.is_integer_dtype(series.dtype) and not missing.any():
        return series.to_numpy(np.int64)
    words = ["" if gap else str(word) for word, gap in zip(series, missing, strict=True)]
    return np.array(words, dtype=np.str_)


def too_many(categories: int, rows: int) -> bool:
    """Whether words are more like names of rows than like categories."""
    return 1 < rows == categories or (
        categories > MOST_CATEGORIES and rows < ROWS_PER_CATEGORY * categories
    )


def code(table: Table, field: Field) -> Coded:
    """Recognize a column and code its values.

    Raises:
        ValueError: for dates, lists and other objects, and for a word among numbers.
    """
    pandas = import_for("pandas", "pandas", f"reading {table.name}")
    api, series = pandas.api.types, field.series
    if isinstance(series.dtype, pandas.SparseDtype):
        series = series.sparse.to_dense()
    if isinstance(series.dtype, pandas.CategoricalDtype):
        return _categorical(series)
    if api.is_bool_dtype(series.dtype) or api.is_integer_dtype(series.dtype):
        values, boolean = numbers(series), api.is_bool_dtype(series.dtype)
        if table.text and not boolean and np.abs(values).max() >= WHOLE_IN_FLOAT:
            return Coded(values.astype(np.float64), False)
        return Coded(values, True, BOOLEAN_WORDS if boolean else ())
    if api.is_float_dtype(series.dtype):
        values = numbers(series)
        return Coded(values, _whole_beside_gaps(values))
    kind = api.infer_dtype(series, skipna=True)
    if kind == "empty":
        return Coded(np.full(len(series), np.nan), False)
    if kind == "string":
        return _text(table, field, words_of(series))
    if kind == "boolean":
        return Coded(numbers(series.astype("boolean")), True, BOOLEAN_WORDS)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return Coded(numbers(series.astype(object)), _whole(series, kind))
    raise ValueError(
        f"{table.name}: column {field.name} holds {_called(series, kind)}; columns are numbers, "
        "booleans or words: drop it, name it as the id (id_column, --id), or convert it to "
        f"{'numbers, such as days since a start' if 'dat' in kind else 'one of these'}"
    )


def code_like(table: Table, field: Field, column: Column) -> Coded:
    """Code a column as a model was trained on it.

    Raises:
        ValueError: for a word that is none of its categories, or for words in place of numbers.
    """
    if not column.categories:
        coded = code(table, field)
        if coded.words and coded.words != BOOLEAN_WORDS:
            words = words_of(field.series)
            row = next(i for i, word in enumerate(words) if word and not NUMBER.fullmatch(word))
            raise ValueError(
                f"{table.name}: {table.where(row, field.position)} holds {words[row]!r}, and the "
                "model was trained on numbers there; give numbers, or an empty cell"
            )
        return Coded(coded.values, coded.integer)
    codes = {word: float(i) for i, word in enumerate(column.categories)}
    if column.categories == BOOLEAN_WORDS:
        codes |= {"false": 0.0, "FALSE": 0.0, "0": 0.0, "true": 1.0, "TRUE": 1.0, "1": 1.0}
    words = words_of(field.series)
    for row, word in enumerate(words):
        if word is not None and word not in codes:
            raise ValueError(
                f"{table.name}: {table.where(row, field.position)} holds {word!r}, which is none "
                f"of the categories in the training data: {', '.join(column.categories)}"
            )
    return _with_codes(words, codes, column.categories)


def words_of(series: Any) -> list[str | None]:
    """The values of a column as text without surrounding spaces, None where missing or empty."""
    missing = series.isna().to_numpy(bool)
    return [
        None if gap else _word(value) or None for value, gap in zip(series, missing, strict=True)
    ]


def _word(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def numbers(series: Any) -> np.ndarray:
    """The values of a column in their type, or as float64 with NaN if some are missing."""
    dtype = series.dtype
    if series.isna().any():
        plain = isinstance(dtype, np.dtype) and dtype.kind == "f"
        return np.asarray(
            series.to_numpy() if plain else series.to_numpy(dtype=np.float64, na_value=np.nan)
        )
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return np.array([float(value) for value in series])
    return np.asarray(series.to_numpy(dtype=getattr(dtype, "numpy_dtype", dtype)))


def _whole(series: Any, kind: str) -> bool:
    """Whether an object column of numbers is one of whole numbers by its type."""
    if kind != "decimal":
        return kind == "integer"
    return all(value.as_tuple().exponent >= 0 for value in series.dropna())


def _whole_beside_gaps(values: np.ndarray) -> bool:
    """Whether all numbers beside gaps are whole: numpy and pandas have no integer that is missing,
    and so turn whole numbers beside gaps into 3.0."""
    present = values[~np.isnan(values)]
    whole = np.abs(present) < WHOLE_IN_FLOAT
    return 0 < len(present) < len(values) and bool(np.all(whole & (present == np.floor(present))))


def _called(series: Any, kind: str) -> str:
    """A word for what a column holds that is neither numbers nor words."""
    if "date" in kind or kind in ("time", "period", "interval", "timedelta", "timedelta64"):
        return "dates or times"
    if kind in ("complex", "bytes"):
        return {"complex": "complex numbers"}.get(kind, kind)
    kinds = sorted({type(value).__name__ for value in series.dropna()})
    return " and ".join(kinds)


def _categorical(series: Any) -> Coded:
    """Code a categorical column by the categories it declares: in their order if it has one,
    otherwise sorted."""
    declared = filter(None, map(_word, series.cat.categories))
    ordered = tuple(declared) if series.cat.ordered else tuple(sorted(set(declared)))
    return _coded_words(words_of(series), ordered)


def _coded_words(words: Sequence[str | None], categories: tuple[str, ...]) -> Coded:
    if not categories:
        return Coded(np.full(len(words), np.nan), False)
    return _with_codes(words, {word: float(i) for i, word in enumerate(categories)}, categories)


def _with_codes(
    words: Sequence[str | None], codes: Mapping[str, float], categories: tuple[str, ...]
) -> Coded:
    array = np.array([np.nan if word is None else codes[word] for word in words])
    array = array if np.isnan(array).any() else array.astype(np.int64)
    return Coded(array, True, categories)


def _text(table: Table, field: Field, words: Sequence[str | None]) -> Coded:
    """Code a column of text, which may hold booleans, numbers or words."""
    present = [word for word in words if word is not None]
    distinct = set(present)
    if {word.lower() for word in distinct} <= {"false", "true"}:
        return _coded_words([word and word.capitalize() for word in words], BOOLEAN_WORDS)
    if all(DATE.fullmatch(word) for word in distinct):
        raise ValueError(
            f"{table.name}: column {field.name} holds dates, such as {min(distinct)!r}; drop it, "
            "name it as the id (id_column, --id), or write numbers, such as days since a start"
        )
    like = {word for word in distinct if LIKE_A_NUMBER.fullmatch(word)}
    if like != distinct:
        _check_mixed(table, field, words, like, len(distinct))
        return _coded_words(words, tuple(sorted(distinct)))
    plain = all(NUMBER.fullmatch(word) for word in distinct)
    if not plain or not table.text:
        row = next(
            i for i, word in enumerate(words) if word and (plain or not NUMBER.fullmatch(word))
        )
        remedy = (
            "convert the column by pandas.to_numeric, or to the type 'category'"
            if plain
            else "write numbers as 1234.5"
        )
        raise ValueError(
            f"{table.name}: {table.where(row, field.position)} holds {words[row]!r}, a number "
            f"written {'as text' if plain else 'in an unknown way'}; {remedy}"
        )
    values = np.array([np.nan if word is None else float(word) for word in words])
    return Coded(values, not any(set(word) & set(".eE") for word in distinct))


def _check_mixed(
    table: Table, field: Field, words: Sequence[str | None], like: set[str], distinct: int
) -> None:
    """Refuse a column of numbers in which a few cells are words."""
    odd = [i for i, word in enumerate(words) if word is not None and word not in like]
    count = sum(word is not None for word in words)
    few = len(odd) < WORDS_AMONG_NUMBERS * count or too_many(distinct, count)
    if 2 * len(odd) <= count and few:
        raise ValueError(
            f"{table.name}: {table.where(odd[0], field.position)} holds {words[odd[0]]!r} in a "
            "column of numbers; leave the cell empty if it is missing, or write a number"
        )
