"""Numerals: numbers of text files that are written with decimal commas or separated thousands."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from pyrovae._process.optional_imports import import_for
from pyrovae.data.coding import NUMBER, words_of

__all__: list[str] = []

WITH_COMMA = re.compile(
    r"[+-]?(\d*|[1-9]\d{0,2}(\.\d{3})+),\d+([eE][+-]?\d+)?|[+-]?[1-9]\d{0,2}(\.\d{3})+"
)
"""1234,5 and 1.234,5 and 1.234."""

WITH_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
"""1,234.5 and 1,234."""

Cell = tuple[int, int]
"""The row and the position of the column."""


def read_numerals(
    name: str,
    columns: Sequence[Any],
    separator: str,
    where: Callable[[int, int], str],
    as_text: Callable[[int], Any],
) -> list[Any]:
    """Read columns of numbers that pandas took as text.

    A comma is decimal, or separates thousands, in all of the file. 1,234 alone can be either: then
    it separates thousands where commas also separate cells, and is refused elsewhere.

    Args:
        name: of the file, for messages.
        columns: as pandas read them, series of length N.
        separator: of cells.
        where: words for a cell, from its row and the position of its column.
        as_text: reads the column at a position again, as text.

    Returns:
        The columns, with numbers in place of such text.

    Raises:
        ValueError: for numbers that can be read in two ways.
    """
    texts = {i: words for i, each in enumerate(columns) if (words := _numerals(each)) is not None}
    if not texts:
        return list(columns)
    comma = _first(texts, lambda word: not WITH_POINT.fullmatch(word))
    point = _first(texts, lambda word: not WITH_COMMA.fullmatch(word))
    if comma is None and point is None and separator != ",":
        row, position = cell = _first(texts, lambda word: True) or (0, 0)
        raise ValueError(
            f"{name}: {where(*cell)} holds {texts[position][row]!r}, whose comma is decimal or "
            "separates thousands; write numbers as 1234.5"
        )
    if comma is not None and point is not None:
        raise ValueError(
            f"{name}: {where(*comma)} holds {texts[comma[1]][comma[0]]!r}, and {where(*point)} "
            f"{texts[point[1]][point[0]]!r}; write all numbers as 1234.5"
        )
    if comma is not None:
        for i, each in enumerate(columns):
            if str(each.dtype) == "Float64":
                texts[i] = words_of(as_text(i))
        _check_points(name, texts, where)
    pandas = import_for("pandas", "pandas", f"reading {name}")
    read = list(columns)
    for i, words in texts.items():
        plain = [
            word
            if word is None
            else word.replace(",", "")
            if comma is None
            else word.replace(".", "").replace(",", ".")
            for word in words
        ]
        whole = all(word is None or not set(word) & set(".eE") for word in plain)
        kind: Callable[[str], float] = int if whole else float
        read[i] = pandas.Series(
            [None if word is None else kind(word) for word in plain],
            dtype="Int64" if whole else "Float64",
        )
    return read


def _numerals(series: Any) -> list[str | None] | None:
    """The cells of a column of numbers, some of them with separators; None for other columns."""
    if str(series.dtype) != "string":
        return None
    words = words_of(series)
    distinct = {word for word in words if word is not None}
    plain = {word for word in distinct if NUMBER.fullmatch(word)}
    if plain == distinct:
        return None
    marked = (WITH_COMMA.fullmatch(word) or WITH_POINT.fullmatch(word) for word in distinct - plain)
    return words if all(marked) else None


def _first(texts: dict[int, list[str | None]], wanted: Callable[[str], bool]) -> Cell | None:
    """The first cell with separators that is as wanted."""
    for position, words in texts.items():
        for row, word in enumerate(words):
            if word is not None and not NUMBER.fullmatch(word) and wanted(word):
                return row, position
    return None


def _check_points(
    name: str, texts: dict[int, list[str | None]], where: Callable[[int, int], str]
) -> None:
    """Refuse points that do not separate thousands, in a file with decimal commas."""
    for position, words in texts.items():
        for row, word in enumerate(words):
            if word is not None and "." in word and not WITH_COMMA.fullmatch(word):
                raise ValueError(
                    f"{name}: {where(row, position)} holds {word!r}, and other numbers have "
                    "decimal commas; write all numbers as 1234.5"
                )
