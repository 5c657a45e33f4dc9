r"""Files of results: arrays, tables, pictures and JSON; the ending of the name sets the format."""

import errno
import json
import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae import plots
from pyrovae._process.files import atomic_file, check_regular, expanded
from pyrovae.runs.tables import write_frame

__all__ = ["as_json", "destination", "write_arrays", "written"]

FIGURES = "figures"
"""In the folder of a run: its pictures."""


def destination(out: str | None, default: Path, allowed: Collection[str]) -> Path:
    """Check where a file will be written, before the work that fills it begins.

    Args:
        out: as requested, ``~`` being the home folder; None takes the default.
        default: a file whose folder may be missing; writing creates it.
        allowed: the endings that can be written.

    Returns:
        A path that can be written to.

    Raises:
        ValueError: if the name has another ending.
        FileNotFoundError: if its folder is missing.
        PermissionError: if its folder is not writable.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.runs import destination
        >>> print(destination("codes.npz", Path("figures/codes.npz"), (".npz",)))
        codes.npz
    """
    path = default if out is None else expanded(out)
    if path.suffix not in allowed:
        raise ValueError(
            f"cannot write {path}: its ending must be {' or '.join(allowed)}, "
            f"such as {path.with_suffix('').name or 'out'}{next(iter(allowed))}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if path.exists():
        check_regular(path)
    folder = path.parent
    if out is None and not folder.exists():
        folder = folder.parent  # the file's own folder is made with the file
    if out is None and folder.is_symlink():
        raise PermissionError(
            f"{folder} is a link, which is not followed; remove it, or name a file with --out"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to write {path.name} into")
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"cannot write into the folder {folder}; name a file elsewhere with --out"
        )
    return path


def written(path: Path, write: Callable[[Path], object]) -> bool:
    """Write a file into a run if possible, and warn if it is not: the run may be read-only.

    Args:
        path: of the file. If its folder is missing, it is made, and if it is a link, as it may be
            in a run from elsewhere, it is not followed.
        write: writes to a path.

    Returns:
        Whether it was written.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.runs import written
        >>> written(Path("note.txt"), lambda path: path.write_text("a note"))
        True
    """
    try:
        if path.parent.name == FIGURES and path.parent.is_symlink():
            raise PermissionError(errno.EPERM, "a link, which is not followed", str(path.parent))
        write(path)
    except OSError as error:
        place = "" if error.filename in (None, str(path)) else f"{error.filename}: "
        warnings.warn(f"{path} is not written: {place}{error.strerror or error}", stacklevel=2)
        return False
    return True


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], figure: Callable[[], Any] | None = None
) -> None:
    """Write arrays, or a picture of them, in the format of the file's ending.

    Args:
        path: ``.npz`` takes all arrays, ``.npy``, ``.csv`` and ``.parquet`` the first, ``.png`` the
            picture; in the two formats of tables one-dimensional arrays are columns with their
            names, and numbers read back equal.
        arrays: by name.
        figure: function that draws the picture.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrovae.runs import write_arrays
        >>> write_arrays(Path("z.csv"), {"z": np.array([[0.5, 1.0]])})
        >>> Path("z.csv").read_text()
        '0.5,1\\n'
    """
    first = next(iter(arrays.values()))
    if path.suffix == ".png" and figure is not None:
        plots.save(figure(), path)
        return
    if path.suffix == ".parquet" or (path.suffix == ".csv" and first.ndim == 1):
        import pandas

        table = arrays if first.ndim == 1 else {f"x{d + 1}": x for d, x in enumerate(first.T)}
        write_frame(pandas.DataFrame(dict(table)), path)
        return
    try:
        with atomic_file(path) as file:
            if path.suffix == ".npz":
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            elif path.suffix == ".npy":
                np.save(file, first, allow_pickle=False)
            else:
                lines = (",".join(str(x).removesuffix(".0") for x in row) for row in first)
                file.write("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def as_json(value: Any, indent: int | None = None) -> str:
    """Convert to standard JSON, in which numbers that are not finite become null.

    Args:
        value: dicts, lists, text and numbers.
        indent: spaces per level; None for a single line.

    Example:
        >>> from pyrovae.runs import as_json
        >>> as_json({"elbo": float("nan"), "images": 3})
        '{"elbo": null, "images": 3}'
    """

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=indent, allow_nan=False)
