"""Readers of file formats: files and folders read into arrays and checked.

Arrays keep the dtype of their file (`uint8` pictures stay `uint8`), and a `.npy` file stays
memory-mapped. Tables are read by pandas, and a large parquet file by its row groups. To add a
format, write a function that returns arrays or a table, and add a line to `READERS` at the end.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyrovae.data.coding import Table
from pyrovae.data.image_folders import read_folder
from pyrovae.data.parquet import is_large, read_parquet, read_row_groups
from pyrovae.data.schema import Schema
from pyrovae.data.sources import Rows, Source, describe, rows_of
from pyrovae.data.tables import read_table
from pyrovae.data.text_tables import read_text

__all__ = ["READERS", "read_path", "suffix_of"]

TEXT = (".csv", ".tsv", ".txt")


def suffix_of(path: Path) -> str | None:
    """The suffix in `READERS` that a path ends with; None for others.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.data import suffix_of
        >>> suffix_of(Path("prices.2024.CSV.gz"))
        '.csv.gz'
    """
    name = path.name.lower()
    return max((each for each in READERS if name.endswith(each)), key=len, default=None)


def read_path(
    path: Path,
    image_size: int | str | tuple[int, int] | None = None,
    *,
    id_column: str | None = None,
    schema: Schema | None = None,
) -> Source:
    """Read a file, or a folder of images.

    Args:
        path: a file with a suffix in `READERS`, or a folder.
        image_size: height and width to which the images of a folder are resized, one number for
            both; None keeps their size.
        id_column: name of the column of a table that identifies rows and is no data.
        schema: of the table that a model was trained on, whose columns are taken by their names;
            None to recognize the columns.

    Returns:
        The arrays, checked: numeric, not empty, finite or missing (NaN), in a known layout.

    Raises:
        ValueError: if the contents cannot be read as numbers, or the suffix is unknown.
        TypeError: if `image_size` is given for a file, or `id_column` for anything but a table.

    Example:
        >>> from pathlib import Path
        >>> import numpy
        >>> from pyrovae.data import read_path
        >>> numpy.save("x.npy", numpy.eye(20))
        >>> read_path(Path("x.npy")).maximum
        1
    """
    suffix = suffix_of(path)
    if path.is_dir():
        _refuse_id_column(path, id_column)
        return replace(read_folder(path, image_size), name=path.name)
    if image_size is not None:
        raise TypeError(f"image_size is for a folder of images, and {path} is a file; leave it out")
    if suffix is None:
        raise ValueError(
            f"{path} has the suffix {path.suffix or '(none)'!r}; known are {', '.join(READERS)} "
            "and folders of images: save it as one of these"
        )
    if suffix == ".parquet" and is_large(path):
        return replace(read_row_groups(path, id_column, schema), name=path.name)
    found = READERS[suffix](path)
    if isinstance(found, Table):
        return replace(read_table(found, id_column, schema), name=path.name)
    _refuse_id_column(path, id_column)
    return replace(describe(str(path), found), name=path.name)


def _refuse_id_column(path: Path, id_column: str | None) -> None:
    if id_column is not None:
        raise TypeError(f"id_column is for a table with a header, and {path} is none; leave it out")


def _read_npy(path: Path) -> Mapping[str, Rows]:
    try:
        with np.errstate(over="ignore"):  # a size that overflows is refused
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
    arrays: dict[str, np.ndarray] = {}
    others: dict[str, str] = {}
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                try:
                    found = file[key]
                except ValueError as error:
                    others[key] = str(error)
                    continue
                if isinstance(found, np.ndarray):
                    arrays[key] = found
                else:
                    others[key] = "not an array"
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as arrays ({error}); save numbers with numpy.savez"
        ) from error
    if others:
        raise ValueError(f"{path}: {_unreadable(arrays, others)}")
    layout = _npz_layout(path, list(arrays))
    return {
        part: rows_of(f"{path}: {x}", arrays[x], arrays.get(y)) for part, (x, y) in layout.items()
    }


def _unreadable(arrays: Mapping[str, np.ndarray], others: Mapping[str, str]) -> str:
    """Name the members that are no arrays of numbers, and the line that keeps the rest."""
    reasons = ", ".join(f"{key} ({reason})" for key, reason in others.items())
    data = [key for key, x in arrays.items() if x.ndim > 1 and x.dtype.kind in "buif"]
    if not data:
        return f"{reasons} cannot be read as numbers, and nothing else can; save x of shape (N, D)"
    rows = arrays[data[0]].shape[:1]
    labels = [key for key, x in arrays.items() if x.shape == rows and x.dtype.kind in "biu"]
    named = [f"x=file[{data[0]!r}]", *(f"y=file[{key!r}]" for key in labels[:1])]
    return (
        f"{reasons} cannot be read as numbers; keep {' and '.join([data[0], *labels[:1]])} with "
        f"file = numpy.load(...) and numpy.savez('new.npz', {', '.join(named)})"
    )


READERS: Mapping[str, Callable[[Path], Mapping[str, Rows] | Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": read_parquet,
    **{text + packed: read_text for text in TEXT for packed in ("", ".gz", ".zip")},
}
"""Readers by file suffix: of arrays by part, or of a table."""
