"""Files and folders read into arrays: found, parsed and checked, nothing transformed yet.

Arrays keep the dtype of their file (`uint8` pictures stay `uint8`), and a `.npy` file stays
memory-mapped. Adding a format is one function and one entry in `READERS` at the end.
"""

from pyrovae._process.optional import import_for

__all__ = ["READERS", "Rows", "Source", "chunks", "float_range", "read_path"]

import csv
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHUNK_VALUES = 1 << 22
"""Values read at a time where a whole array is gone through once."""


@dataclass(frozen=True)
class Rows:
    """Rows of one file.

    Args:
        x: data, (N, C, H, W) for images or (N, D) for tables, in the dtype of the file.
        labels: integers, (N,), or None where the file has none.
    """

    x: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """What a name or a path holds, before it is split and transformed.

    Args:
        name: the dataset's name, or the file name of a path.
        parts: rows by part: `all`, or `train` and `test`, or `train`, `validation` and `test`.
        maximum: largest count of integer pixels, or None for real numbers.
        unit_interval: whether these are real numbers that all lie in [0, 1].
        holdout: how many last rows of the training file are the validation set by the dataset's
            own rule, or None where the rule for arrays of one's own applies.
    """

    name: str
    parts: Mapping[str, Rows]
    maximum: int | None
    unit_interval: bool = False
    holdout: int | None = None


def read_path(path: Path, image_size: int | None = None) -> Source:
    """Read a file, or a folder of images.

    Args:
        path: a file with a suffix in `READERS`, or a folder.
        image_size: side to which the images of a folder are resized; None keeps their size.

    Returns:
        The arrays, checked: numeric, not empty, finite, in a known layout.

    Raises:
        ValueError: if the contents cannot be read as numbers, or the suffix is not known.
        TypeError: if `image_size` is given for a file.
    """
    if path.is_dir():
        return _describe(path, {"all": _read_folder(path, image_size)})
    if image_size is not None:
        raise TypeError(f"image_size is for a folder of images, and {path} is a file; leave it out")
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"{path} has the suffix {path.suffix or '(none)'!r}; known are {', '.join(READERS)} "
            "and folders of images: save it as one of these"
        )
    return _describe(path, READERS[path.suffix.lower()](path))


def chunks(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Go through an array a few megabytes at a time.

    Args:
        x: array, (N, ...).

    Yields:
        The number of the first row, and a view of the rows from there.
    """
    step = max(1, CHUNK_VALUES // max(1, x[0].size))
    for start in range(0, len(x), step):
        yield start, x[start : start + step]


def float_range(where: str, x: np.ndarray) -> tuple[float, float, bool]:
    """Find the range of an array, and make sure that float32 holds every value of it.

    Args:
        where: what to call the array in an error.
        x: numbers, (N, ...).

    Returns:
        The smallest value, the largest, and whether only 0 and 1 occur.

    Raises:
        ValueError: at the first NaN, infinity or number beyond float32.
    """
    low, high, bits = np.inf, -np.inf, True
    for start, chunk in chunks(x):
        if x.dtype.kind == "f":
            with np.errstate(over="ignore"):
                bad = ~np.isfinite(chunk.astype(np.float32, copy=False))
            if bad.any():
                position = np.argwhere(bad)[0]
                value = chunk[tuple(position)]
                position[0] += start
                raise ValueError(
                    f"{where}[{', '.join(map(str, position))}] is {value} (counting from 0); "
                    "values must be finite float32 numbers: drop such rows or fill them in"
                )
        low, high = min(low, chunk.min().item()), max(high, chunk.max().item())
        bits = bits and bool(((chunk == 0) | (chunk == 1)).all())
    return low, high, bits


def _describe(path: Path, parts: Mapping[str, Rows]) -> Source:
    """Check the parts of a path against each other and find what their numbers are."""
    first = next(iter(parts.values())).x
    for part, rows in parts.items():
        if rows.x.dtype != first.dtype or rows.x.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{path}: {part} holds {rows.x.dtype} of shape {rows.x.shape[1:]} per row, and "
                f"the first part {first.dtype} of {first.shape[1:]}; save all parts alike"
            )
    maximum: int | None
    if first.dtype == bool:
        return Source(path.name, parts, maximum=1)
    if first.dtype == np.uint8:
        grey = any(chunk.max() > 1 for rows in parts.values() for _, chunk in chunks(rows.x))
        return Source(path.name, parts, maximum=255 if grey else 1)
    ranges = [float_range(f"{path}: {part}", rows.x) for part, rows in parts.items()]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if first.dtype.kind in "iu":
        maximum = max(1, int(high)) if low >= 0 else None
        return Source(path.name, parts, maximum)
    maximum = 1 if all(bits for _, _, bits in ranges) else None
    return Source(path.name, parts, maximum, unit_interval=low >= 0 and high <= 1)


def _rows(where: str, x: np.ndarray, labels: np.ndarray | None = None) -> Rows:
    """Check one array and bring it, as a view, to (N, D) or (N, C, H, W)."""
    if x.dtype.kind not in "buif":
        raise ValueError(
            f"{where} holds {x.dtype}; data must be bool, integers or floats: convert it"
        )
    if x.size == 0:
        raise ValueError(f"{where} is empty (shape {x.shape}); it needs rows and columns")
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{where} has shape {x.shape}; allowed are (N, D), (N, H, W), (N, C, H, W) and "
            "(N, H, W, C): reshape it"
        )
    if x.ndim == 3:
        x = x[:, None]  # (N, 1, H, W)
    elif x.ndim == 4:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if first == last:
            raise ValueError(
                f"{where} has shape {x.shape}: axis 1 or the last axis must be the channels, one "
                f"of 1 and 3, and {'both' if first else 'neither'} could be; "
                "save grey images as (N, H, W), or flatten the rows to a table (N, D)"
            )
        if last:
            x = np.moveaxis(x, 3, 1)  # (N, C, H, W)
    return Rows(x, None if labels is None else _check_labels(where, labels, len(x)))


def _check_labels(where: str, labels: np.ndarray, rows: int) -> np.ndarray:
    if labels.shape == (rows, 1):
        labels = labels[:, 0]
    whole = labels.dtype.kind in "biu" or (
        labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())
    )
    if labels.shape != (rows,) or not whole:
        raise ValueError(
            f"{where}: labels are {labels.dtype} of shape {labels.shape}; "
            f"they must be one integer per row, ({rows},): number the classes from 0"
        )
    return labels.astype(np.int64)


def _read_npy(path: Path) -> Mapping[str, Rows]:
    try:
        x = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as an array ({error}); "
            "save numbers with numpy.save(path, x, allow_pickle=False)"
        ) from error
    return {"all": _rows(str(path), x)}


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
"""Keys that an .npz file may have: data and labels by part; labels and validation are optional."""


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
        part: _rows(f"{path}: {x}", arrays[x], arrays.get(y)) for part, (x, y) in layout.items()
    }


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _first_bad_cell(path: Path, header: Sequence[str] | None) -> str:
    """Say where a table that did not parse goes wrong."""
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
    return "its numbers are written in an unknown way"


def _read_csv(path: Path) -> Mapping[str, Rows]:
    """Read a table: a first line without any number is a header, whole numbers become integers."""
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
    return {"all": _rows(str(path), x)}


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
            "booleans: drop these or turn them into numbers"
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
    return {"all": _rows(str(path), x)}


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")

IMAGE_MODES: Mapping[str, str] = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "P": "RGB",
    "PA": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "YCbCr": "RGB",
    "CMYK": "RGB",
}
"""Modes of image files, and the mode each is read in: grey (L) or colour (RGB).

Alpha is dropped; a palette is colour, so every .gif is.
"""


def _read_folder(folder: Path, image_size: int | None) -> Rows:
    """Read a folder of images, in the order of their sorted paths."""
    image = import_for("PIL.Image", "pillow", f"reading the images in {folder}")
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"image_size must be a positive integer, got {image_size!r}, e.g. 32")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not paths:
        raise ValueError(
            f"no images in {folder}; it must hold {', '.join(IMAGE_SUFFIXES)} files, directly or "
            "in one sub-folder per class"
        )
    first_mode = first_size = ""
    x = np.empty(0, np.uint8)
    for i, path in enumerate(paths):
        try:
            with image.open(path) as file:
                original = file.mode
                mode = IMAGE_MODES.get(original, "")
                pixels = file.convert("RGBA") if "transparency" in file.info else file
                pixels = pixels.convert(mode) if mode else pixels
                if image_size is not None and mode:
                    pixels = pixels.resize((image_size, image_size), image.Resampling.BILINEAR)
                array = np.asarray(pixels)
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read ({error}); repair or remove it") from error
        if not mode:
            raise ValueError(
                f"{path} has the mode {original}, allowed are {', '.join(IMAGE_MODES)} "
                "(8 bits a channel): convert it, or save the images as one .npy array"
            )
        size = f"{array.shape[1]}x{array.shape[0]}"
        if i == 0:
            first_mode, first_size = mode, size
            shape = (array.shape[2:] or (1,)) + array.shape[:2]
            x = np.empty((len(paths), *shape), np.uint8)  # (N, C, H, W)
        if mode != first_mode:
            grey, colour = (paths[0], path) if mode == "RGB" else (path, paths[0])
            raise ValueError(
                f"{grey} is grey and {colour} is in colour; save all of them in one mode"
            )
        if size != first_size:
            raise ValueError(
                f"{paths[0]} is {first_size} and {path} is {size}; "
                "give image_size=N (--image-size N) to resize all of them to N x N"
            )
        x[i] = array if mode == "L" else np.moveaxis(array, 2, 0)
    return Rows(x, _folder_labels(folder, paths))


def _folder_labels(folder: Path, paths: Sequence[Path]) -> np.ndarray | None:
    """Number the sub-folders in sorted order: one class each."""
    parts = [path.relative_to(folder).parts for path in paths]
    if all(len(p) == 1 for p in parts):
        return None
    for path, p in zip(paths, parts, strict=True):
        if len(p) == 1:
            raise ValueError(
                f"{path} lies beside sub-folders with images; put every image in a sub-folder "
                "(its class), or all of them directly in the folder"
            )
    classes = sorted({p[0] for p in parts})
    return np.array([classes.index(p[0]) for p in parts], np.int64)


READERS: Mapping[str, Callable[[Path], Mapping[str, Rows]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""A reader for each suffix of a file."""
