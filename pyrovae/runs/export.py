r"""What a run gives out as files: arrays, tables and pictures, by the ending of the name."""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae._process.files import atomic_file

__all__ = ["as_json", "destination", "write_arrays"]


def destination(out: str | None, default: Path, allowed: Collection[str]) -> Path:
    """Where a file goes, checked before the work of filling it begins.

    Args:
        out: as asked for; None takes the default.
        default: a file whose own folder may be missing; writing makes it.
        allowed: the endings that can be written.

    Returns:
        A path that can be written to.

    Raises:
        ValueError: if the name has another ending.
        FileNotFoundError: if there is no such folder.
        PermissionError: if nothing can be written there.
    """
    path = default if out is None else Path(out)
    if path.suffix not in allowed:
        raise ValueError(
            f"cannot write {path}: its ending must be {' or '.join(allowed)}, "
            f"such as {path.with_suffix('').name or 'out'}{next(iter(allowed))}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    folder = path.parent
    if out is None and not folder.exists():
        folder = folder.parent  # the file's own folder is made with the file
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to write {path.name} into")
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"cannot write into the folder {folder}; name a file elsewhere with --out"
        )
    return path


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], figure: Callable[[], Any] | None = None
) -> None:
    """Write arrays, or the picture of them, in the format that the file's ending asks for.

    Args:
        path: ``.npz`` takes all arrays, ``.npy`` and ``.csv`` the first, ``.png`` the picture;
            in ``.csv`` one-dimensional arrays are the columns of a table with their names.
        arrays: by name.
        figure: makes the picture.
    """
    first = next(iter(arrays.values()))
    if path.suffix == ".png" and figure is not None:
        from pyrovae import plots

        plots.save(figure(), path)
        return
    try:
        with atomic_file(path) as file:
            if path.suffix == ".npz":
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            elif path.suffix == ".npy":
                np.save(file, first, allow_pickle=False)
            elif first.ndim == 1:
                table, header = np.column_stack(list(arrays.values())), ",".join(arrays)
                np.savetxt(file, table, delimiter=",", fmt="%.9g", header=header, comments="")
            else:
                np.savetxt(file, first, delimiter=",", fmt="%.9g")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are not finite are null.

    Args:
        value: dicts, lists, text and numbers.
        indent: of lines; None for a single line.
    """

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=indent, allow_nan=False)
