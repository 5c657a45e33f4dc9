"""Sources: arrays as they are in a file or a library, checked but not yet split or transformed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyrovae.data.schema import Schema

__all__ = ["Rows", "Source", "chunks", "float_range"]

CHUNK_VALUES = 1 << 22
"""Number of values read at a time in a pass over a whole array."""


@dataclass(frozen=True)
class Rows:
    """Rows of one file.

    Args:
        x: data, (N, C, H, W) for images or (N, D) for tables, in the dtype of the file.
        labels: integers, (N,), or None if the file has none.
        ids: what identifies each row, (N,), integers or text; None if the file has no such column.

    Example:
        >>> from pyrovae.data import read
        >>> rows = read("digits").parts["all"]
        >>> rows.x.shape, rows.labels.shape
        ((1797, 1, 8, 8), (1797,))
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """The contents of a named dataset or a path, before they are split and transformed.

    Args:
        name: name of the dataset, or file name of a path.
        parts: rows by part: `all`, or `train` and `test`, or `train`, `validation` and `test`.
        maximum: largest count of integer pixels, or None for real numbers.
        unit_interval: whether the values are real numbers that all lie in [0, 1].
        holdout: number of last rows of the training file that form the validation set, by the
            dataset's own rule; None if the rule for the user's arrays applies.
        schema: names and kinds of the columns of a table; None for images and unnamed arrays.
        classes: words for the labels 0, 1, 2, ...; None if labels are numbers in the file.

    Example:
        >>> from pyrovae.data import read
        >>> read("digits").maximum
        16
    """

    name: str
    parts: Mapping[str, Rows]
    maximum: int | None
    unit_interval: bool = False
    holdout: int | None = None
    schema: Schema | None = None
    classes: tuple[str, ...] | None = None


def chunks(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over an array a few megabytes at a time.

    Args:
        x: array, (N, ...).

    Yields:
        The index of the first row of the chunk, and a view of its rows.

    Example:
        >>> from pyrovae.data import chunks
        >>> [(start, len(rows)) for start, rows in chunks(torch.zeros(5, 1 << 21).numpy())]
        [(0, 2), (2, 2), (4, 1)]
    """
    step = max(1, CHUNK_VALUES // max(1, x[0].size))
    for start in range(0, len(x), step):
        yield start, x[start : start + step]


def float_range(where: str, x: np.ndarray) -> tuple[float, float, bool]:
    """Find the range of an array, and check that float32 can hold all of its values.

    Args:
        where: name of the array in an error message.
        x: numbers, (N, ...).

    Returns:
        The smallest value, the largest, and whether only 0 and 1 occur.

    Raises:
        ValueError: at the first NaN, infinity or number outside the range of float32.

    Example:
        >>> from pyrovae.data import float_range
        >>> float_range("x", torch.tensor([[0.0, 1.0]]).numpy())
        (0.0, 1.0, True)
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


def describe(path: Path, parts: Mapping[str, Rows]) -> Source:
    """Check that the parts of a path agree, and find the maximum and kind of their numbers."""
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
        gray = any(chunk.max() > 1 for rows in parts.values() for _, chunk in chunks(rows.x))
        return Source(path.name, parts, maximum=255 if gray else 1)
    ranges = [float_range(f"{path}: {part}", rows.x) for part, rows in parts.items()]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if first.dtype.kind in "iu":
        maximum = max(1, int(high)) if low >= 0 else None
        return Source(path.name, parts, maximum)
    maximum = 1 if all(bits for _, _, bits in ranges) else None
    return Source(path.name, parts, maximum, unit_interval=low >= 0 and high <= 1)


def rows_of(where: str, x: np.ndarray, labels: np.ndarray | None = None) -> Rows:
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
                "save gray images as (N, H, W), or flatten the rows to a table (N, D)"
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
