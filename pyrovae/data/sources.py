"""Sources: arrays as they are in a file or a library, checked but not yet split or transformed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyrovae.data.schema import Schema

__all__ = ["Rows", "Source", "chunks", "float_range", "gaps_of_mask"]

CHUNK_VALUES = 1 << 22
"""Number of values read at a time in a pass over a whole array."""


@dataclass(frozen=True)
class Rows:
    """Rows of one file.

    Args:
        x: data, (N, C, H, W) for images or (N, D) for tables, in the dtype of the file; NaN marks
            a missing value.
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
        gaps: whether any value is missing.
        black_and_white: whether only 0 and 255 occur, both, in an array of bytes.
        unused: columns of the file that the schema it was read with does not have.

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
    gaps: bool = False
    black_and_white: bool = False
    unused: tuple[str, ...] = ()

    def missing(self) -> float:
        """The share of the values that is missing, between 0 and 1."""
        if not self.gaps:
            return 0.0
        every = [part.x for part in self.parts.values()]
        gaps = sum(int(np.isnan(some).sum()) for x in every for _, some in chunks(x))
        return gaps / sum(x.size for x in every)


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


def gaps_of_mask(x: np.ndarray) -> np.ndarray:
    """Replace the masked entries of a NumPy masked array by NaN.

    Args:
        x: numbers, any shape; an array without a mask is returned as it is.

    Returns:
        An array without a mask: floats if any entry was masked, otherwise in the dtype of `x`.

    Example:
        >>> import numpy
        >>> from pyrovae.data import gaps_of_mask
        >>> gaps_of_mask(numpy.ma.masked_less([[1.0, -999.0]], -900)).tolist()
        [[1.0, nan]]
    """
    if not isinstance(x, np.ma.MaskedArray):
        return x
    if not np.ma.getmaskarray(x).any():
        return x.data
    values = np.array(x.data, x.dtype if x.dtype.kind == "f" else np.float64)
    values[np.ma.getmaskarray(x)] = np.nan
    return values


def float_range(where: str, x: np.ndarray) -> tuple[float, float, bool, bool]:
    """Find the range of an array, and check that float32 can hold all of its values.

    Args:
        where: name of the array in an error message.
        x: numbers, (N, ...); NaN marks a missing value.

    Returns:
        The smallest value, the largest, whether only 0 and 1 occur, and whether any is missing.

    Raises:
        ValueError: at the first infinity or number outside the range of float32, or if no value is
            present.

    Example:
        >>> from pyrovae.data import float_range
        >>> float_range("x", torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]).numpy())
        (0.0, 1.0, True, True)
    """
    low, high, bits, gaps = np.inf, -np.inf, True, False
    for start, chunk in chunks(x):
        present = chunk
        if x.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):  # too large, or a signaling NaN
                bad = ~np.isfinite(chunk.astype(np.float32, copy=False))
            if bad.any():
                missing = np.isnan(chunk)
                bad &= ~missing
                gaps, present = True, chunk[~missing]
            if bad.any():
                position = np.argwhere(bad)[0]
                value = chunk[tuple(position)]
                position[0] += start
                raise ValueError(
                    f"{where}[{', '.join(map(str, position))}] is {value} (counting from 0); "
                    "values must be finite float32 numbers, or NaN where missing: drop such rows"
                )
        if present.size:
            low, high = min(low, present.min().item()), max(high, present.max().item())
            bits = bits and bool(((present == 0) | (present == 1)).all())
    if low > high:
        raise ValueError(f"{where} holds no value, since all are missing (NaN); give some values")
    return low, high, bits, gaps


def describe(
    name: str,
    parts: Mapping[str, Rows],
    schema: Schema | None = None,
    classes: tuple[str, ...] | None = None,
) -> Source:
    """Check that the parts of a source agree, and find the maximum and kind of their numbers.

    Codes of categories are no amounts, so a table with such columns has no maximum.
    """
    first = next(iter(parts.values())).x
    for part, rows in parts.items():
        if rows.x.dtype != first.dtype or rows.x.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{name}: {part} holds {rows.x.dtype} of shape {rows.x.shape[1:]} per row, and "
                f"the first part {first.dtype} of {first.shape[1:]}; save all parts alike"
            )
    source = Source(name, parts, maximum=None, schema=schema, classes=classes)
    if first.dtype == bool:
        return replace(source, maximum=1)
    if first.dtype == np.uint8:
        return replace(source, **_bytes(parts))
    ranges = [float_range(f"{name}: {part}", rows.x) for part, rows in parts.items()]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    source = replace(source, gaps=any(r[3] for r in ranges))
    columns = () if schema is None else schema.columns
    if any(column.kind == "category" for column in columns):
        return source
    if first.dtype.kind in "iu" or (columns and all(column.integer for column in columns)):
        return replace(source, maximum=max(1, int(high)) if low >= 0 else None)
    maximum = 1 if all(r[2] for r in ranges) else None
    return replace(source, maximum=maximum, unit_interval=low >= 0 and high <= 1)


def _bytes(parts: Mapping[str, Rows]) -> dict[str, Any]:
    """The maximum of bytes, and whether only both of their ends occur."""
    every = [chunk for rows in parts.values() for _, chunk in chunks(rows.x)]
    if not any(chunk.max() > 1 for chunk in every):
        return {"maximum": 1}
    ends = all(((chunk == 0) | (chunk == 255)).all() for chunk in every)
    return {"maximum": 255, "black_and_white": ends and any(not chunk.all() for chunk in every)}


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
    elif x.ndim == 4 and _channels_last(where, x.shape[1:]):
        x = np.moveaxis(x, 3, 1)  # (N, C, H, W)
    return Rows(x, None if labels is None else _check_labels(where, labels, len(x)))


def _channels_last(where: str, shape: tuple[int, ...]) -> bool:
    """Decide whether images are (H, W, C) rather than (C, H, W), by the first rule that can.

    An axis of 1 or 3 is the channels; two equal neighbors are the sides; the smallest axis is the
    channels.
    """
    first, middle, last = shape
    for here, there in (
        (first in (1, 3), last in (1, 3)),
        (middle == last, first == middle),
        (first < min(middle, last), last < min(first, middle)),
    ):
        if here != there:
            return there
        if here and there:
            break
    raise ValueError(
        f"{where} holds images of shape {shape}, whose channels could be the first axis or the "
        "last; save gray images as (N, H, W), or flatten the rows to a table (N, D)"
    )


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
