"""Text tables: csv files and their kin, read by pandas.

The separator, the header and the way of writing numbers are recognized from the first lines. What
pandas takes without a word, such as a line that is too short, is found afterwards.
"""

import csv
import gzip
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pyrovae._process.optional_imports import import_for
from pyrovae.data.coding import LIKE_A_NUMBER, Field, Table, ids_of
from pyrovae.data.numerals import read_numerals

__all__: list[str] = []

SEPARATORS = ("\t", ";", ",")
"""Separators of cells, the likelier one first where several would do."""

SAMPLE_LINES = 200
"""Number of first lines from which the layout is recognized."""

MISSING = {"", "#n/a", "<na>", "na", "n/a", "nan", "-nan", "none", "null"}
"""How a missing value is written, in small letters."""

INDEX_NAMES = ("", "Unnamed: 0")
"""Headers of a first column that pandas and R write for an index without a name."""


@dataclass(frozen=True)
class Layout:
    """How a text file is written: its separator, and the names in its header, if it has one."""

    separator: str
    header: tuple[str, ...] | None
    width: int

    def records(self, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """The cells of each line that is not blank, with its number, counted from 1."""
        lines = (line.strip() + "\n" for line in file) if self.separator == " " else file
        reader = csv.reader(lines, delimiter=self.separator, skipinitialspace=True)
        for cells in reader:
            if cells not in ([], [""]):
                yield reader.line_num, cells


def read_text(path: Path) -> Table:
    """Read a text file of a table.

    Raises:
        ValueError: if it is no text, empty, or its lines differ in their number of cells; if the
            names of columns are missing; or for a number that can be read in two ways.
    """
    pandas = import_for("pandas", "pandas", f"reading {path}")
    damage = (csv.Error, UnicodeError, EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile)
    try:
        layout = _layout(path)
        frame = _frame(path, layout, dtype_backend="numpy_nullable")
    except damage as error:
        raise ValueError(f"{path} is not a text file ({error}); save it as UTF-8 csv") from error
    except pandas.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty; it needs rows of numbers or words") from error
    except pandas.errors.ParserError as error:
        _check_widths(path, layout)
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    if frame.shape[1] != layout.width or frame.iloc[:, -1].isna().any():
        _check_widths(path, layout)

    def where(row: int, position: int) -> str:
        name = f" ({layout.header[position]})" if layout.header else ""
        return f"line {_line(path, layout, row)}, column {position + 1}{name}"

    def as_text(position: int) -> Any:
        return _frame(path, layout, dtype=str, usecols=[position]).iloc[:, 0]

    series = [frame.iloc[:, i] for i in range(frame.shape[1])]
    series = read_numerals(str(path), series, layout.separator, where, as_text)
    names = layout.header or tuple(f"x{i + 1}" for i in range(layout.width))
    fields = [
        Field(i, name, each) for i, (name, each) in enumerate(zip(names, series, strict=True))
    ]
    return _table(path, layout, fields, where)


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """Open a text file, decompressed if its suffix says so."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            files = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
            if len(files) != 1:
                raise ValueError(
                    f"{path} holds {', '.join(files) or 'nothing'}; a .zip must hold one table: "
                    "unpack it and name the file"
                )
            with archive.open(files[0]) as inner:
                yield io.TextIOWrapper(inner, encoding="utf-8-sig", newline="")
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file


def _frame(path: Path, layout: Layout, **options: Any) -> Any:
    """Read the lines under the header as a pandas DataFrame with columns 0, 1, 2, ..."""
    pandas = import_for("pandas", "pandas", f"reading {path}")
    major, minor = map(int, pandas.__version__.split(".")[:2])
    if (major, minor) < (3, 1):  # from then on it is exact without
        options["float_precision"] = "round_trip"
    with _open(path) as file:
        if layout.header is not None:
            next(layout.records(file))
        return pandas.read_csv(
            file,
            sep=r"\s+" if layout.separator == " " else layout.separator,
            header=None,
            skipinitialspace=True,
            low_memory=False,
            **options,
        )


def _layout(path: Path) -> Layout:
    """Recognize the separator and the header from the first lines."""
    with _open(path) as file:
        lines = list(itertools.islice(file, SAMPLE_LINES))
    best, best_share = Layout(",", None, 1), 0.0
    spaced = ".txt" in map(str.lower, path.suffixes)
    for separator in (*SEPARATORS, *((" ",) if spaced else ())):
        records = [cells for _, cells in Layout(separator, None, 0).records(lines)]
        widths = [len(cells) for cells in records]
        usual = max(widths, key=widths.count, default=1)
        share = widths.count(usual) / max(1, len(widths))
        values = separator != " " or all(_is_value(c) for cells in records[1:] for c in cells)
        if usual > 1 and share > best_share and values:
            best, best_share = Layout(separator, None, usual), share
    records = [cells for _, cells in best.records(lines)]
    if not records:
        return best
    return Layout(best.separator, _header(records), len(records[0]))


def _is_value(cell: str) -> bool:
    """Whether a cell is a number, a boolean or missing, and so no name of a column."""
    word = cell.strip().lower()
    other = {"true", "false", "inf", "+inf", "-inf", "infinity", "-infinity"}
    return bool(LIKE_A_NUMBER.fullmatch(word)) or word in other


def _header(records: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """The first line if it names the columns.

    It does if no cell is a number or a boolean, or if its numbers count 0, 1, 2, ... or years and
    those of the next line do not count.
    """
    first = tuple(" ".join(cell.split()) for cell in records[0])
    if all(cell.lower() in MISSING for cell in first):
        return None
    if not any(map(_is_value, first)):
        return first
    places = [i for i, cell in enumerate(first) if cell.isdecimal()]
    if not _counts(first, places) or any(
        _is_value(cell) for i, cell in enumerate(first) if i not in places
    ):
        return None
    start, rest = int(first[places[0]]), records[1:]
    if start == 0 and first[0] == "" and places == list(range(1, len(first))):
        return first if rest and all(cells[0].strip() for cells in rest) else None  # an index
    if not rest or _counts(rest[0], places) or not (start <= 1 or 1800 <= start <= 2100):
        return None
    below = [cells[i].strip() for cells in rest for i in places if i < len(cells)]
    fractions = any(_is_value(cell) and not cell.lstrip("+-").isdecimal() for cell in below)
    return first if len(places) >= (2 if fractions else 3) else None


def _counts(cells: Sequence[str], places: Sequence[int]) -> bool:
    """Whether cells are consecutive whole numbers."""
    found = [cells[i].strip() for i in places if i < len(cells)]
    if not found or not all(map(str.isdecimal, found)):
        return False
    start = int(found[0])
    return list(map(int, found)) == list(range(start, start + len(places)))


def _check_widths(path: Path, layout: Layout) -> None:
    """Refuse the first line with another number of cells than the first."""
    with _open(path) as file:
        for line, cells in layout.records(file):
            if len(cells) != layout.width:
                raise ValueError(
                    f"{path}: line {line} has {len(cells)} cells, not {layout.width}; give every "
                    "line the same number of cells, empty ones for missing values"
                )


def _line(path: Path, layout: Layout, row: int) -> int:
    """The number of the line of a row, counted from 1."""
    with _open(path) as file:
        start = row + (layout.header is not None)
        return next(itertools.islice(layout.records(file), start, None), (start + 1,))[0]


def _table(path: Path, layout: Layout, fields: list[Field], where: Any) -> Table:
    """Take a first column without a name as ids, and refuse other columns without one."""
    ids = id_name = None
    if layout.header is not None:
        if layout.header[-1] == "" and len(fields) > 1 and fields[-1].series.isna().all():
            fields = fields[:-1]  # separators at the ends of the lines
        if fields[0].name in INDEX_NAMES and _is_index(fields[0].series):
            ids, id_name, fields = ids_of(fields[0].series), fields[0].name, fields[1:]
        for field in fields:
            if field.name == "":
                raise ValueError(
                    f"{path}: column {field.position + 1} has no name in the header, which only an "
                    "index in the first column may lack; name it or drop it"
                )
    return Table(str(path), fields, ids, id_name, layout.header is not None, where, text=True)


def _is_index(series: Any) -> bool:
    """Whether a column holds whole numbers or words, with none missing."""
    kind = series.dtype.kind if hasattr(series.dtype, "kind") else "O"
    return kind in "iuOS" and not series.isna().any()
