r"""Datasets: as they are in memory or on disk, float tensors one batch at a time.

A pixel is a count :math:`x` out of a maximum :math:`m` (16 for digits, 255 for most images). It is
made binary in one of these ways:

- `dynamic`: a fresh bit at every visit, :math:`P(\mathrm{bit} = 1) = x / m` exactly. The
  validation and test sets are static all the same, so that bounds can be compared across epochs.
- `static`: one bit by the same rule, drawn once from the seeds in `STATIC_SEEDS`.
- `threshold`: 1 where :math:`x > m / 2`.
- `none`: left as it is, then scaled: `none`, `unit` (:math:`x / m`) or `standardize`
  (:math:`(x - \mathrm{loc}) / \mathrm{scale}` per column, from the training rows).

Real numbers in [0, 1] are treated as :math:`x / m`; other real numbers cannot be made binary.
"""

__all__ = [
    "BINARIZATIONS",
    "SCALINGS",
    "SPLIT_SEED",
    "STATIC_SEEDS",
    "Dataset",
    "Resident",
    "Split",
    "load",
    "load_all",
    "prepare",
]

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from pyrovae.data.named import read
from pyrovae.data.readers import Rows, Source, float_range
from pyrovae.data.transforms import (
    Dynamic,
    Packed,
    Standardize,
    Threshold,
    Transform,
    Unit,
    draw_bits,
    draw_bits_on_device,
    unchanged,
)

BINARIZATIONS = ("none", "dynamic", "static", "threshold")
"""How pixels can be made binary: see above."""

SCALINGS = ("none", "unit", "standardize")
"""How numbers that are not made binary can be scaled: see above."""

SPLIT_SEED = 0
"""Seed of the permutation that splits arrays without splits of their own."""

STATIC_SEEDS: Mapping[str, int] = {"train": 1, "validation": 2, "test": 3, "all": 4}
"""Seeds of the bits that are drawn once, by split; `all` is for `load_all`."""

MINIMUM_ROWS = 10

CHUNK_VALUES = 1 << 20
"""Values gathered at a time where all rows of a split are gone through once."""


class Split:
    """One part of a dataset: rows of an array, made float tensors a batch at a time.

    Args:
        x: data, (N, ...); never copied, so it may be memory-mapped.
        labels: integers, one for each of `rows`, or None.
        event_shape: shape of one observation: (C, H, W) for images, (D,) for tables.
        rows: which rows of `x` belong to this split; None for all.
        transform: from gathered rows to the values of the tensor.

    Attributes:
        event_shape: shape of one observation.
        labels: integers of this split, (len(split),), or None.
    """

    def __init__(
        self,
        x: np.ndarray,
        labels: np.ndarray | None,
        event_shape: tuple[int, ...],
        *,
        rows: np.ndarray | None = None,
        transform: Transform = unchanged,
    ) -> None:
        self.event_shape = event_shape
        self.labels = labels
        self._x = x
        self._rows = np.arange(len(x)) if rows is None else rows
        self._transform = transform

    @classmethod
    def from_array(cls, x: torch.Tensor | np.ndarray, labels: np.ndarray | None = None) -> Self:
        """Take a tensor or an array as it is.

        Args:
            x: numbers, ``(N, *event_shape)``.
            labels: integers, (N,), or None.

        Returns:
            A split of all rows, not copied.

        Raises:
            TypeError: if `x` is neither a tensor nor an array.
            ValueError: if `x` is empty, not numeric, not finite, or has no event dimension, or
                `labels` has another length.
        """
        if isinstance(x, torch.Tensor):
            x = x.detach().cpu()
            x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
        if not isinstance(x, np.ndarray):
            raise TypeError(
                f"x must be a tensor or an array, got {type(x).__name__}; use torch.as_tensor(x)"
            )
        if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "buif":
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}; it must be real numbers of shape "
                "(N, *event_shape), not empty: give scalars the shape (N, 1)"
            )
        if labels is not None and labels.shape != (len(x),):
            raise ValueError(
                f"labels have shape {labels.shape}; allowed is one integer per row, ({len(x)},)"
            )
        float_range("x", x)
        return cls(x, labels, x.shape[1:])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def batch(self, index: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Gather rows and make them binary or scale them.

        Args:
            index: integers into this split, (batch,).
            rng: source of randomness, for dynamic binarization only.

        Returns:
            float32, ``(batch, *event_shape)``.

        Raises:
            IndexError: if an index is beyond the split.
            ValueError: if binarization is dynamic and there is no `rng`.
        """
        x = self._transform(_gather(self._x, self._rows[index]), rng)
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Go through the split in order, for evaluation.

        Args:
            size: rows per batch; the last one holds what remains.

        Returns:
            An iterator over float32 tensors, ``(size, *event_shape)``.

        Raises:
            ValueError: if `size` is not positive, or binarization is dynamic: such a split has no
                one value in each pixel.
        """
        if size < 1:
            raise ValueError(f"size must be positive, got {size}, e.g. 256")
        if isinstance(self._transform, Dynamic):
            raise ValueError(
                "batches() of a split with dynamic binarization would differ at every pass; use "
                "the validation or test split, or batch(index, rng)"
            )
        starts = range(0, len(self), size)
        return (self.batch(np.arange(i, min(i + size, len(self)))) for i in starts)

    def on_device(self, device: torch.device) -> "Resident":
        """Copy all rows to a device, which then makes batches by itself.

        Args:
            device: with room for `resident_bytes`.

        Returns:
            The same rows, in the same order.
        """
        dynamic = self._transform if isinstance(self._transform, Dynamic) else None
        kind = self._resident_type()
        dtype = torch.from_numpy(np.empty(0, kind)).dtype
        x = torch.empty((len(self), *self.event_shape), dtype=dtype, device=device)
        for index in _portions(np.arange(len(self)), math.prod(self.event_shape)):
            rows = _gather(self._x, self._rows[index]) if dynamic else self.batch(index).numpy()
            x[index[0] : index[-1] + 1] = torch.from_numpy(rows.astype(kind, copy=False)).to(device)
        return Resident(x, dynamic)

    def resident_bytes(self) -> int:
        """The memory that `on_device` takes."""
        return len(self) * math.prod(self.event_shape) * self._resident_type().itemsize

    def _resident_type(self) -> np.dtype[Any]:
        """float32; where bits are drawn anew, that of the file if all devices can compare it."""
        kind = self._x.dtype.newbyteorder("=")
        if not isinstance(self._transform, Dynamic):
            return np.dtype(np.float32)
        return np.dtype(np.int64) if kind.kind == "u" and kind.itemsize > 1 else kind

    def digest(self) -> bytes:
        """A digest of the rows as they are stored, before any treatment, in their order."""
        digest = hashlib.sha256(f"{self._x.dtype.str}{self._x.shape[1:]}".encode())
        for index in _portions(np.arange(len(self)), math.prod(self._x.shape[1:])):
            digest.update(_gather(self._x, self._rows[index]).tobytes())
        return digest.digest()


class Resident:
    """A split in the memory of a device: batches are gathered and made binary there.

    The host only says which rows; it neither moves data nor waits.

    Args:
        x: rows, (N, ...), on the device: finished numbers, or counts from which bits are drawn.
        dynamic: how these are drawn anew at every visit; None for finished numbers.
    """

    def __init__(self, x: torch.Tensor, dynamic: Dynamic | None) -> None:
        self._x, self._dynamic = x, dynamic

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._x)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """Gather rows, and draw their bits from the random state of the device.

        Args:
            index: integers into the split, (batch,), on the device.

        Returns:
            float32, ``(batch, *event_shape)``, on the device. Finished numbers are those of
            `Split.batch`; bits have the same probabilities and are other ones.
        """
        x = self._x.index_select(0, index)
        if self._dynamic is not None:
            x = draw_bits_on_device(x, self._dynamic.maximum)
        return x.float()


def _gather(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Copy rows of an array: `take` where it needs no copy of the whole array first."""
    if x.flags.c_contiguous and x.dtype.isnative:
        return np.take(x, rows, axis=0)
    return np.asarray(x[rows])


@dataclass(frozen=True)
class Dataset:
    """Three splits of one source under one treatment.

    Args:
        name: the dataset's name, or the file name of a path.
        train: training rows.
        validation: rows for choices made while training.
        test: rows for reported numbers.
        binarization: one of `BINARIZATIONS`.
        scaling: one of `SCALINGS`.
        maximum: largest count of integer pixels, or None for real numbers.
        unit_interval: whether these are real numbers that all lie in [0, 1].
        splits: the rule that made the splits, in words.
        statistics: `loc` and `scale`, ``(*event_shape)``, under `standardize`; otherwise empty.
        seeds: seeds of the bits that were drawn once, by split; empty where there are none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    binarization: str
    scaling: str
    maximum: int | None
    unit_interval: bool
    splits: str
    statistics: Mapping[str, np.ndarray]
    seeds: Mapping[str, int]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one observation: (C, H, W) for images, (D,) for tables."""
        return self.train.event_shape

    def digest(self) -> str:
        """A digest of all rows and of how they are split, 64 hexadecimal digits."""
        parts = (self.train, self.validation, self.test)
        return hashlib.sha256(b"".join(part.digest() for part in parts)).hexdigest()


def load(
    data: str | os.PathLike[str] = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    binarization: str | None = None,
    scaling: str | None = None,
    image_size: int | None = None,
    download: bool = True,
) -> Dataset:
    """Load a dataset by name or by path, and split it.

    Official test sets are kept, and the last 5,000 rows of their training files are the validation
    set. Splits in a file are kept. An array without splits is permuted once with seed
    `SPLIT_SEED`: the last 20% are the test set, the 10% before it the validation set; where a file
    holds training and test rows only, the last 10% of its permuted training rows are the
    validation set.

    Args:
        data: a name in `DATASETS`; the path of an .npy, .npz, .csv or .parquet file; or a folder
            of images.
        data_dir: folder of named datasets in torchvision's layout; by default `PYROVAE_DATA`, else
            `~/.cache/pyrovae`.
        binarization: one of `BINARIZATIONS`; None is `none`.
        scaling: one of `SCALINGS`; None is `none`.
        image_size: side to which the images of a folder are resized; None keeps their size.
        download: whether a named dataset that is absent may be downloaded.

    Returns:
        The dataset.

    Raises:
        ValueError: for an unknown name or option, contents that cannot be used, fewer than 10
            rows, or a treatment that does not fit the numbers.
        FileNotFoundError: for a path that does not exist, or a named dataset that is absent and
            could not be downloaded.
        ImportError: if a package that this source needs cannot be imported.
        TypeError: if `image_size` is given for anything but a folder of images.
    """
    _check_options(binarization or "none", scaling or "none")
    source = read(data, data_dir=data_dir, image_size=image_size, download=download)
    return prepare(source, binarization=binarization, scaling=scaling)


def prepare(
    source: Source, *, binarization: str | None = None, scaling: str | None = None
) -> Dataset:
    """Split what `pyrovae.data.read` found, and say how its numbers are treated.

    `load` is `read` followed by this; in between, a recipe can be chosen for the source.

    Args:
        source: arrays by part.
        binarization: one of `BINARIZATIONS`; None is `none`.
        scaling: one of `SCALINGS`; None is `none`.

    Returns:
        The dataset, by the rules of `load`.

    Raises:
        ValueError: for an unknown option, fewer than 10 rows, or a treatment that does not fit
            the numbers.
    """
    binarization, scaling = binarization or "none", scaling or "none"
    _check_options(binarization, scaling)
    _check_treatment(source, source.maximum, binarization, scaling)
    assigned, rule = _assign(source)
    statistics = _statistics(*assigned["train"]) if scaling == "standardize" else {}
    splits: dict[str, Split] = {}
    seeds: dict[str, int] = {}
    for part, (rows, index) in assigned.items():
        kind = "static" if binarization == "dynamic" and part != "train" else binarization
        if kind == "static":
            seeds[part] = STATIC_SEEDS[part]
        splits[part] = _treat(part, rows, index, kind, scaling, source.maximum, statistics)
    return Dataset(
        name=source.name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        binarization=binarization,
        scaling=scaling,
        maximum=source.maximum,
        unit_interval=source.unit_interval,
        splits=rule,
        statistics=statistics,
        seeds=seeds,
    )


def load_all(
    data: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    binarization: str | None = None,
    scaling: str | None = None,
    statistics: Mapping[str, np.ndarray] | None = None,
    image_size: int | None = None,
    maximum: int | None = None,
    download: bool = True,
) -> Split:
    """Load all rows of a source, in file order, under the treatment of a trained model.

    Training rows come first, then validation and test rows, where the source holds such parts.
    Dynamic binarization becomes static here.

    Args:
        data: a name or a path, as in `load`.
        data_dir: folder of named datasets, as in `load`.
        binarization: of the trained model's dataset.
        scaling: of the trained model's dataset.
        statistics: of the trained model's dataset.
        image_size: of the trained model's dataset, for a folder of images.
        maximum: of the trained model's dataset.
        download: whether a named dataset that is absent may be downloaded.

    Returns:
        One split.

    Raises:
        ValueError: as in `load`, and if the numbers are not on the scale that the model was
            trained on.
        FileNotFoundError: as in `load`.
        ImportError: as in `load`.
        TypeError: as in `load`.
    """
    binarization, scaling = binarization or "none", scaling or "none"
    _check_options(binarization, scaling)
    source = read(data, data_dir=data_dir, image_size=image_size, download=download)
    _check_maximum(source, maximum, scaling)
    _check_treatment(source, maximum, binarization, scaling)
    parts = list(source.parts.values())
    x = parts[0].x if len(parts) == 1 else np.concatenate([rows.x for rows in parts])
    found = [rows.labels for rows in parts if rows.labels is not None]
    labels = np.concatenate(found) if len(found) == len(parts) else None
    statistics = statistics or {}
    if scaling == "standardize":
        shapes = {key: value.shape for key, value in statistics.items()}
        if shapes != {"loc": x.shape[1:], "scale": x.shape[1:]}:
            raise ValueError(
                f"statistics have the shapes {shapes}, and the rows of {source.name} have "
                f"{x.shape[1:]}; give dataset.statistics of the training data, and rows like them"
            )
    kind = "static" if binarization == "dynamic" else binarization
    index = np.arange(len(x))
    return _treat("all", Rows(x, labels), index, kind, scaling, maximum, statistics)


def _check_options(binarization: str, scaling: str) -> None:
    for option, value, allowed in (
        ("binarization", binarization, BINARIZATIONS),
        ("scaling", scaling, SCALINGS),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {option} {value!r}; choose one of {', '.join(allowed)}")
    if binarization != "none" and scaling != "none":
        raise ValueError(
            f"binarization {binarization!r} gives bits, which scaling {scaling!r} would undo; "
            "set one of the two to 'none'"
        )


def _check_treatment(source: Source, maximum: int | None, binarization: str, scaling: str) -> None:
    """Refuse to divide by a maximum, or to make binary, what has no maximum."""
    if maximum is not None or source.unit_interval or source.maximum == 1:
        return
    if binarization != "none":
        raise ValueError(
            f"binarization {binarization!r} needs counts or real numbers in [0, 1], and "
            f"{source.name} holds others; use binarization 'none' with the likelihood normal, or "
            "rescale the values to [0, 1]"
        )
    if scaling == "unit":
        raise ValueError(
            f"scaling 'unit' divides counts by their maximum, and {source.name} holds real or "
            "negative numbers; use scaling 'standardize' or 'none'"
        )


def _check_maximum(source: Source, maximum: int | None, scaling: str) -> None:
    """Refuse numbers on another scale than the model's.

    The maximum of bytes and of named datasets is a property of the format, and must be the same.
    That of other integers is the largest value that happened to occur: it may be less, and does
    not matter to columns that are standardized.
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


def _assign(source: Source) -> tuple[dict[str, tuple[Rows, np.ndarray]], str]:
    """Say which rows of which part make each split, and by what rule."""
    parts = source.parts
    first = parts.get("all") or parts["train"]
    count = len(first.x)
    if count < MINIMUM_ROWS:
        raise ValueError(
            f"{source.name} has {count} rows to train on and split; "
            f"at least {MINIMUM_ROWS} are needed: add rows"
        )
    if "validation" in parts:
        every = {part: (rows, np.arange(len(rows.x))) for part, rows in parts.items()}
        return every, "the splits that the file holds"
    if source.holdout is not None:
        if count <= source.holdout:
            raise ValueError(
                f"the training file of {source.name} has {count} rows, and its last "
                f"{source.holdout:,} are the validation set; get the complete file"
            )
        order = np.arange(count)
        rule = (
            f"test: the official test set; validation: the last {source.holdout:,} of the "
            "training file; train: the rest"
        )
        validation = source.holdout
    else:
        order = np.random.default_rng(SPLIT_SEED).permutation(count)
        validation = round(0.1 * count)
        rule = f"a permutation of the rows drawn with seed {SPLIT_SEED}: "
    if "test" in parts:
        if source.holdout is None:
            rule = (
                f"test: the file's own; validation: the last 10% of the training rows after {rule}"
                "train: the rest"
            )
        train, held = np.split(order, [count - validation])
        test = parts["test"], np.arange(len(parts["test"].x))
    else:
        tested = round(0.2 * count)
        rule += "the last 20% test, the 10% before them validation, the rest train"
        train, held, last = np.split(order, [count - validation - tested, count - tested])
        test = first, np.sort(last)
    assigned = {"train": (first, np.sort(train)), "validation": (first, np.sort(held))}
    return assigned | {"test": test}, rule


def _treat(
    part: str,
    rows: Rows,
    index: np.ndarray,
    binarization: str,
    scaling: str,
    maximum: int | None,
    statistics: Mapping[str, np.ndarray],
) -> Split:
    """Make one split under one treatment."""
    x = rows.x
    event_shape = x.shape[1:]
    labels = None if rows.labels is None else rows.labels[index]
    if binarization == "static":
        bits = _draw_packed(x, index, maximum, STATIC_SEEDS[part])
        return Split(bits, labels, event_shape, transform=Packed(event_shape))
    transform: Transform = unchanged
    if binarization == "dynamic":
        transform = Dynamic(maximum)
    elif binarization == "threshold":
        transform = Threshold(maximum)
    elif scaling == "unit":
        transform = Unit(maximum or 1)
    elif scaling == "standardize":
        transform = Standardize(statistics["loc"], statistics["scale"])
    return Split(x, labels, event_shape, rows=index, transform=transform)


def _portions(index: np.ndarray, row_values: int) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_VALUES // row_values)
    return (index[i : i + step] for i in range(0, len(index), step))


def _draw_packed(x: np.ndarray, index: np.ndarray, maximum: int | None, seed: int) -> np.ndarray:
    """Draw one bit per pixel, a portion at a time, and pack them: (rows, bytes)."""
    rng = np.random.Generator(np.random.SFC64(seed))
    bits = (draw_bits(_gather(x, some), maximum, rng) for some in _portions(index, x[0].size))
    return np.concatenate([np.packbits(b.reshape(len(b), -1), axis=1) for b in bits])


def _statistics(rows: Rows, index: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the mean and the standard deviation of every column over some rows.

    Columns are shifted by their first value, so that a constant column has a standard deviation of
    exactly 0; its scale is then 1.
    """
    x = rows.x
    shift = x[index[0]].astype(np.float64)
    some = list(_portions(index, shift.size))
    mean = sum(((_gather(x, i) - shift).sum(0) for i in some), np.zeros_like(shift)) / len(index)
    squares = (np.square(_gather(x, i) - shift - mean).sum(0) for i in some)
    scale = np.sqrt(sum(squares, np.zeros_like(shift)) / len(index))
    return {"loc": shift + mean, "scale": np.where(scale > 0, scale, 1.0)}
