"""Readers of file formats: files and folders read into arrays and checked.

Arrays keep the dtype of their file (`uint8` pictures stay `uint8`), and a `.npy` file stays
memory-mapped. To add a format, write a function and add a line to `READERS` at the end.
"""

import csv
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pyrovae._process.optional_imports import import_for
from pyrovae.data.image_folders import read_folder
from pyrovae.data.sources import Rows, Source, describe, rows_of

__all__ = ["READERS", "read_path"]


def read_path(path: Path, image_size: int | None = None) -> Source:
    """Read a file, or a folder of images.

    Args:
        path: a file with a suffix in `READERS`, or a folder.
        image_size: side length to which the images of a folder are resized; None keeps their size.

    Returns:
        The arrays, checked: numeric, not empty, finite, in a known layout.

    Raises:
        ValueError: if the contents cannot be read as numbers, or the suffix is unknown.
        TypeError: if `image_size` is given for a file.

    Example:
        >>> from pathlib import Path
        >>> import numpy
        >>> from pyrovae.data import read_path
        >>> numpy.save("x.npy", numpy.eye(20))
        >>> read_path(Path("x.npy")).maximum
        1
    """
    if path.is_dir():
        return describe(path, {"all": read_folder(path, image_size)})
    if image_size is not None:
        raise TypeError(f"image_size is for a folder of images, and {path} is a file; leave it out")
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"{path} has the suffix {path.suffix or '(none)'!r}; known are {', '.join(READERS)} "
            "and folders of images: save it as one of these"
        )
    return describe(path, READERS[path.suffix.lower()](path))


def _read_npy(path: Path) -> Mapping[str, Rows]:
    try:
        x = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as an array ({error}); "
            "save numbers with numpy.save(path, x, allow_pickle=False)"
        ) from error
    return {"all": rows_of(str(path), x)}


NPZ_LAYOUTS: tuple[Mapping[str, tuple[str, str]], ...] = (
    {"all": ("x", "y")},
    {
        "train": ("train", "train_labels"),
        "validation": ("validation", "validation_labels"),
        "test": ("test", "test_labels"),
    },
    {
        "train": ("x_train", "y_train"),
        "validation": ("x_validation", "y_validation"),
        "test": ("x_test", "y_test"),
    },
    {
        "train": ("train_images", "train_labels"),
        "validation": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
)
"""Allowed keys of an .npz file: data and labels by part; labels and validation are optional."""


def _npz_layout(path: Path, keys: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    if len(keys) == 1:
        return {"all": (keys[0], "")}
    for layout in NPZ_LAYOUTS:
        known = {key for pair in layout.values() for key in pair}
        needed = {x for part, (x, _) in layout.items() if part != "validation"}
        orphans = any(y in keys and x not in keys for x, y in layout.values())
        if needed <= set(keys) <= known and not orphans:
            return {part: pair for part, pair in layout.items() if pair[0] in keys}
    allowed = "; ".join(
        ", ".join(f"{x} [{y}]" for x, y in layout.values()) for layout in NPZ_LAYOUTS
    )
    raise ValueError(
        f"{path} holds the arrays {', '.join(sorted(keys)) or '(none)'}; "
        f"allowed are one array of any name, or, [labels] and validation being optional: {allowed}"
    )


def _read_npz(path: Path) -> Mapping[str, Rows]:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as arrays ({error}); save numbers with numpy.savez"
        ) from error
    layout = _npz_layout(path, list(arrays))
    return {
        part: rows_of(f"{path}: {x}", arrays[x], arrays.get(y)) for part, (x, y) in layout.items()
    }


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _first_bad_cell(path: Path, header: Sequence[str] | None) -> str:
    """Describe the first cell that cannot be parsed as a number."""
    width = 0 if header is None else len(header)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for cells in reader:
            if not cells or cells == header:
                continue
            width = width or len(cells)
            if len(cells) != width:
                return f"line {reader.line_num} has {len(cells)} cells, not {width}"
            for column, cell in enumerate(cells):
                if not _is_number(cell):
                    name = f" ({header[column]})" if header else ""
                    return f"line {reader.line_num}, column {column + 1}{name} holds {cell!r}"
    return "its numbers are in an unknown format"


def _read_csv(path: Path) -> Mapping[str, Rows]:
    """Read a table. A first line without numbers is a header; whole numbers become integers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = (cells for cells in reader if cells)
            first = next(lines, [])
            header = None if any(map(_is_number, first)) else first
            skiprows = 0 if header is None else reader.line_num
            empty = header is not None and next(lines, None) is None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a text file ({error}); save it as UTF-8 csv") from error
    if empty:
        raise ValueError(f"{path} is empty; it needs rows of numbers, separated by commas")
    try:
        x = np.loadtxt(
            path,
            delimiter=",",
            skiprows=skiprows,
            comments=None,
            quotechar='"',
            ndmin=2,
            encoding="utf-8-sig",
        )
        parsed = bool(np.isfinite(x).all())
    except ValueError:
        parsed = False
    if not parsed:
        raise ValueError(
            f"{path}: {_first_bad_cell(path, header)}; every cell must be a finite number, with a "
            "comma between cells: drop such rows and columns, or write numbers for them"
        )
    if (x == np.rint(x)).all() and np.abs(x).max() < 2**53:
        x = x.astype(np.int64)
    return {"all": rows_of(str(path), x)}


def _read_parquet(path: Path) -> Mapping[str, Rows]:
    pyarrow = import_for("pyarrow", "pyarrow", f"reading {path}")
    parquet = import_for("pyarrow.parquet", "pyarrow", f"reading {path}")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as parquet ({reason}); write it again") from error
    types = pyarrow.types
    numeric = (types.is_integer, types.is_floating, types.is_boolean)
    others = [f"{f.name} ({f.type})" for f in table.schema if not any(t(f.type) for t in numeric)]
    if others:
        raise ValueError(
            f"{path}: {', '.join(others)}: not numeric; columns must be integers, floats or "
            "booleans: drop these columns or convert them to numbers"
        )
    if table.num_rows == 0 or table.num_columns == 0:
        raise ValueError(f"{path} is empty; it needs rows and columns of numbers")
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise ValueError(
                f"{path}: row {row} (counting from 0) of column {name} is missing; "
                "drop such rows or fill them in"
            )
    x = np.column_stack([column.to_numpy() for column in table.columns])
    return {"all": rows_of(str(path), x)}


READERS: Mapping[str, Callable[[Path], Mapping[str, Rows]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Readers by file suffix."""
