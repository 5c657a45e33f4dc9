r"""Treatments: how the numbers of a dataset are made binary or scaled.

A pixel is a count :math:`x` out of a maximum :math:`m` (16 for digits, 255 for most images). It is
made binary in one of these ways:

- `dynamic`: a new bit at every visit, with :math:`P(\mathrm{bit} = 1) = x / m` exactly. The
  validation and test sets are static, so that bounds can be compared across epochs.
- `static`: one bit with the same probability, drawn once from the seeds in `STATIC_SEEDS`.
- `threshold`: 1 where :math:`x > m / 2`.
- `none`: unchanged, then scaled by `none`, `unit` (:math:`x / m`) or `standardize`
  (:math:`(x - \mathrm{loc}) / \mathrm{scale}` per column, computed from the training rows).

Real numbers in [0, 1] are treated as :math:`x / m`; other real numbers cannot be made binary.
"""

from collections.abc import Mapping

import numpy as np

from pyrovae._process.choices import check_choice
from pyrovae.data.batching import Split, gather, portions
from pyrovae.data.sources import Rows, Source
from pyrovae.data.transforms import (
    Dynamic,
    Packed,
    Standardize,
    Threshold,
    Transform,
    Unit,
    draw_bits,
    unchanged,
)

__all__ = ["BINARIZATIONS", "SCALINGS", "STATIC_SEEDS"]

BINARIZATIONS = ("none", "dynamic", "static", "threshold")
"""Ways to make pixels binary, see above."""

SCALINGS = ("none", "unit", "standardize")
"""Ways to scale numbers that are not made binary, see above."""

STATIC_SEEDS: Mapping[str, int] = {"train": 1, "validation": 2, "test": 3, "all": 4}
"""Seeds of static binarization, by split; `all` is for `load_all`."""


def check_options(binarization: str, scaling: str) -> None:
    for option, value, allowed in (
        ("binarization", binarization, BINARIZATIONS),
        ("scaling", scaling, SCALINGS),
    ):
        check_choice(option, value, allowed)
    if binarization != "none" and scaling != "none":
        raise ValueError(
            f"binarization {binarization!r} returns bits, which scaling {scaling!r} would undo; "
            "set one of the two to 'none'"
        )


def check_treatment(source: Source, maximum: int | None, binarization: str, scaling: str) -> None:
    """Refuse numbers without a maximum if the treatment needs one."""
    if maximum is not None or source.unit_interval or source.maximum == 1:
        return
    if binarization != "none":
        raise ValueError(
            f"binarization {binarization!r} needs counts or real numbers in [0, 1], and "
            f"{source.name} holds other numbers; use binarization 'none' with the likelihood "
            "normal, or rescale the values to [0, 1]"
        )
    if scaling == "unit":
        raise ValueError(
            f"scaling 'unit' divides counts by their maximum, and {source.name} holds real or "
            "negative numbers; use scaling 'standardize' or 'none'"
        )


def check_maximum(source: Source, maximum: int | None, scaling: str) -> None:
    """Refuse numbers on a scale different from the model's training data.

    For bytes and named datasets the maximum is a property of the format, so it must be the same.
    For other integers it is the largest value that occurs in the data: it may be smaller, and it
    is irrelevant for standardized columns.
    """
    found = source.maximum
    dtype = next(iter(source.parts.values())).x.dtype
    fixed = dtype.kind == "b" or dtype == np.uint8
    if not fixed and (maximum is None or scaling == "standardize"):
        return
    if found is not None and (found == maximum or (not fixed and found < (maximum or 0))):
        return
    here = "real or negative numbers" if found is None else f"counts out of {found}"
    trained = "real numbers" if maximum is None else f"counts out of {maximum}"
    remedy = (
        "save them as floats on the scale of the training data"
        if maximum is None
        else f"give integers from 0 to {maximum} ({'a bool' if maximum == 1 else 'an int64'} array)"
    )
    raise ValueError(
        f"{source.name} holds {here}, and the model was trained on {trained}; {remedy}"
    )


def treat(
    part: str,
    rows: Rows,
    index: np.ndarray,
    binarization: str,
    scaling: str,
    maximum: int | None,
    statistics: Mapping[str, np.ndarray],
) -> Split:
    """Make a split from the rows at ``index``, with the transform of the treatment."""
    x = rows.x
    event_shape = x.shape[1:]
    labels = None if rows.labels is None else rows.labels[index]
    ids = None if rows.ids is None else rows.ids[index]
    if binarization == "static":
        bits = _packed_bits(x, index, maximum, STATIC_SEEDS[part])
        return Split(bits, labels, event_shape, transform=Packed(event_shape), ids=ids)
    transform: Transform = unchanged
    if binarization == "dynamic":
        transform = Dynamic(maximum)
    elif binarization == "threshold":
        transform = Threshold(maximum)
    elif scaling == "unit":
        transform = Unit(maximum or 1)
    elif scaling == "standardize":
        transform = Standardize(statistics["loc"], statistics["scale"])
    return Split(x, labels, event_shape, rows=index, transform=transform, ids=ids)


def _packed_bits(x: np.ndarray, index: np.ndarray, maximum: int | None, seed: int) -> np.ndarray:
    """Draw one bit per pixel, a portion at a time, and pack the bits: (rows, bytes)."""
    rng = np.random.Generator(np.random.SFC64(seed))
    bits = (draw_bits(gather(x, some), maximum, rng) for some in portions(index, x[0].size))
    return np.concatenate([np.packbits(b.reshape(len(b), -1), axis=1) for b in bits])


def statistics_of(rows: Rows, index: np.ndarray) -> dict[str, np.ndarray]:
    """Compute mean and standard deviation of the observed values of every column, at ``index``.

    Columns are shifted by their first value, so that a constant column has a standard deviation of
    exactly 0; its scale is then set to 1.
    """
    x = rows.x
    shift = np.nan_to_num(x[index[0]].astype(np.float64))
    some = list(portions(index, shift.size))
    zero = np.zeros_like(shift)
    count = sum((np.sum(~np.isnan(gather(x, i)), 0) for i in some), zero)
    count = np.maximum(count, 1)  # a column without any value
    mean = sum((np.nansum(gather(x, i) - shift, 0) for i in some), zero) / count
    squares = (np.nansum(np.square(gather(x, i) - shift - mean), 0) for i in some)
    scale = np.sqrt(sum(squares, zero) / count)
    return {"loc": shift + mean, "scale": np.where(scale > 0, scale, 1.0)}
