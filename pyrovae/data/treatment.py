r"""Treatments: how the numbers of a dataset are made binary or scaled.

A pixel is a count :math:`x` out of a maximum :math:`m` (16 for digits, 255 for most images). It is
made binary in one of these ways:

- `dynamic`: a new bit at every visit, with :math:`P(\mathrm{bit} = 1) = x / m` exactly. The
  validation and test sets are static, so that bounds can be compared across epochs.
- `static`: one bit with the same probability, drawn once from the seeds in `STATIC_SEEDS`.
- `threshold`: 1 where :math:`x > m / 2`.
- `none`: unchanged, then scaled by `none`, `unit` (:math:`x / m`) or `standardize`
  (:math:`(x - \mathrm{loc}) / \mathrm{scale}` per column, computed from the training rows), or
  `columns`, each column of a table as its own likelihood takes it: standardized, divided by its
  standard deviation, or unchanged.

Real numbers in [0, 1] are treated as :math:`x / m`; other real numbers cannot be made binary.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pyrovae._process.choices import check_choice
from pyrovae.data.batching import Split, gather, portions
from pyrovae.data.coding import too_many
from pyrovae.data.sources import Rows, Source, chunks
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

SCALINGS = ("none", "unit", "standardize", "columns")
"""Ways to scale numbers that are not made binary, see above."""

STANDARDIZING = ("standardize", "columns")  # those with statistics of the training rows

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
    """Refuse missing values and numbers without a maximum if the treatment needs them."""
    if source.gaps and binarization == "dynamic":
        raise ValueError(
            f"binarization 'dynamic' needs all values, and some of {source.name} are missing; use "
            "binarization 'static', 'threshold' or 'none', or drop rows with missing values"
        )
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


def check_columns(source: Source) -> None:
    """Refuse columns that no model can be trained on: without values, or of names of the rows."""
    rows = source.parts.get("all") or source.parts["train"]
    x = rows.x
    if x.ndim != 2:
        return
    names = [f"{i} (counting from 0)" for i in range(x.shape[1])]
    names = names if source.schema is None else list(source.schema.names)
    counts = np.full(x.shape[1], len(x))
    if source.gaps:
        counts = sum((~np.isnan(chunk)).sum(0) for _, chunk in chunks(x))
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        if empty:
            raise ValueError(
                f"{source.name}: column {', '.join(empty)} holds no value in the training rows; "
                "drop it"
            )
    columns = () if source.schema is None else source.schema.columns
    for i, column in enumerate(columns):
        if column.kind == "category" and too_many(len(column.categories), int(counts[i])):
            raise ValueError(
                f"{source.name}: column {column.name} holds {len(column.categories)} different "
                f"words in {counts[i]} rows, too many for categories; name it as the id "
                "(id_column, --id), or drop it"
            )


def check_maximum(source: Source, maximum: int | None, binarization: str, scaling: str) -> None:
    """Refuse numbers on a scale different from the model's training data.

    For bytes and named datasets the maximum is a property of the format, so it must be the same;
    bytes that all are 0 or 1 may be dark images out of 255. For other integers it is the largest
    value that occurs in the data: a smaller one is accepted, and a larger one too if nothing is
    made binary, since some likelihoods have no largest count and the others refuse it themselves.
    It is irrelevant for standardized columns. Counts with missing values come as floats.
    """
    found = source.maximum
    if found is None and maximum is not None and source.gaps:
        found = _largest_count(source)
    dtype = next(iter(source.parts.values())).x.dtype
    fixed = dtype.kind == "b" or dtype == np.uint8
    if not fixed and (maximum is None or scaling in STANDARDIZING):
        return
    if found is not None and maximum is not None:
        if found == maximum or (not fixed and (found < maximum or binarization == "none")):
            return
        if dtype == np.uint8 and found in (1, 255) and _fit(source, maximum, binarization, scaling):
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


def _largest_count(source: Source) -> int | None:
    """The largest observed value, if all observed values are whole numbers from 0."""
    largest = 0.0
    for rows in source.parts.values():
        for _, chunk in chunks(rows.x):
            present = chunk[~np.isnan(chunk)]
            if (present < 0).any() or (present != np.rint(present)).any():
                return None
            largest = max(largest, present.max(initial=0))
    return int(largest)


def _fit(source: Source, maximum: int, binarization: str, scaling: str) -> bool:
    """Whether bytes can be counts out of another maximum, by their values or without a treatment.

    Bits are no such counts.
    """
    if maximum > 1 and binarization == scaling == "none":
        return True
    every = (chunk for rows in source.parts.values() for _, chunk in chunks(rows.x))
    return maximum > 1 and all(chunk.max() <= maximum for chunk in every)


def treat(
    part: str,
    rows: Rows,
    index: np.ndarray,
    binarization: str,
    scaling: str,
    maximum: int | None,
    statistics: Mapping[str, np.ndarray],
    gaps: bool = False,
) -> Split:
    """Make a split from the rows at ``index``, with the transform of the treatment."""
    x = rows.x
    event_shape = x.shape[1:]
    labels = None if rows.labels is None else rows.labels[index]
    ids = None if rows.ids is None else rows.ids[index]
    if gaps and binarization != "none":
        holed = _bits_with_gaps(gather(x, index), binarization, maximum, STATIC_SEEDS[part])
        return Split(holed, labels, event_shape, ids=ids, gaps=True)
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
    elif scaling in STANDARDIZING:
        transform = Standardize(statistics["loc"], statistics["scale"])
    return Split(x, labels, event_shape, rows=index, transform=transform, gaps=gaps, ids=ids)


def _bits_with_gaps(x: np.ndarray, binarization: str, maximum: int | None, seed: int) -> np.ndarray:
    """Bits as floats, drawn once or by a threshold, and NaN where a value is missing."""
    whole = np.nan_to_num(x)
    rng = np.random.Generator(np.random.SFC64(seed))
    whole = whole if maximum is None else whole.astype(np.int64)
    static = binarization == "static"
    bits = draw_bits(whole, maximum, rng) if static else Threshold(maximum)(whole, None)
    return np.where(np.isnan(x), np.float32(np.nan), bits.astype(np.float32))


def _packed_bits(x: np.ndarray, index: np.ndarray, maximum: int | None, seed: int) -> np.ndarray:
    """Draw one bit per pixel, a portion at a time, and pack the bits: (rows, bytes)."""
    rng = np.random.Generator(np.random.SFC64(seed))
    bits = (draw_bits(gather(x, some), maximum, rng) for some in portions(index, x[0].size))
    return np.concatenate([np.packbits(b.reshape(len(b), -1), axis=1) for b in bits])


def moments_of(rows: Rows, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and standard deviation of every column, of its observed values at ``index``.

    Columns are shifted by their first value, so that a constant column has a standard deviation of
    exactly 0.
    """
    x = rows.x
    shift = _first_values(x, index)
    some = list(portions(index, shift.size))
    zero = np.zeros_like(shift)
    count = sum((np.sum(~np.isnan(gather(x, i)), 0) for i in some), zero)
    count = np.maximum(count, 1)  # a column without any value
    mean = sum((np.nansum(gather(x, i) - shift, 0) for i in some), zero) / count
    squares = (np.nansum(np.square(gather(x, i) - shift - mean), 0) for i in some)
    return shift + mean, np.sqrt(sum(squares, zero) / count)


def flat_columns(loc: np.ndarray, deviation: np.ndarray) -> tuple[int, ...]:
    """Find the columns that deviate from their mean by less than float32 resolves."""
    flat = deviation <= np.finfo(np.float32).eps * np.abs(loc)
    return tuple(np.flatnonzero(flat).tolist())


def statistics_of(
    loc: np.ndarray, deviation: np.ndarray, columns: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Choose what every column is shifted and divided by, from its mean and standard deviation.

    A constant column is divided by 1. With ``columns``, a column is shifted by its mean and divided
    by its standard deviation (``standardize``), only divided (``divide``), or left as it is
    (``none``); without, all are standardized.
    """
    scale = np.where(deviation > 0, deviation, 1.0)
    if columns is not None:
        how = np.array(columns)
        loc = np.where(how == "standardize", loc, 0.0)
        scale = np.where(how == "none", 1.0, scale)
    return {"loc": loc, "scale": scale}


def _first_values(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The first observed value of every column, 0 where none is."""
    first = gather(x, index[:1])[0].astype(np.float64)
    for some in portions(index, first.size):
        missing = np.isnan(first)
        if not missing.any():
            break
        rows = gather(x, some)
        row = np.argmax(~np.isnan(rows), axis=0)
        first = np.where(missing, np.take_along_axis(rows, row[None], 0)[0], first)
    return np.nan_to_num(first)
