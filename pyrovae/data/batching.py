r"""Splits: rows of an array, turned into float tensors one batch at a time."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any, Protocol, Self

import numpy as np
import torch

from pyrovae.data.sources import float_range, gaps_of_mask
from pyrovae.data.transforms import (
    Dynamic,
    Standardize,
    Transform,
    Unit,
    draw_bits_on_device,
    unchanged,
)

__all__ = ["Resident", "Split"]

CHUNK_VALUES = 1 << 20
"""Number of values gathered at a time in a pass over all rows of a split."""


class Split:
    """One part of a dataset: rows of an array, converted to float tensors a batch at a time.

    Args:
        x: data, (N, ...); never copied, so it may be memory-mapped.
        labels: integers, one for each of `rows`, or None.
        event_shape: shape of one example: (C, H, W) for images, (D,) for tables.
        rows: the rows of `x` that belong to this split; None for all.
        transform: function from gathered rows to the values of the tensor.
        gaps: whether values of `x` may be NaN, which stands for missing.
        ids: what identifies each of `rows`, integers or text, or None.

    Attributes:
        event_shape: shape of one example.
        gaps: as given.
        labels: integers of this split, (len(split),), or None.
        ids: what identifies each row of this split, (len(split),), or None.

    Example:
        >>> from pyrovae.data import load
        >>> split = load("digits").train
        >>> len(split), split.event_shape
        (1258, (1, 8, 8))
        >>> [len(batch) for batch in split.batches(500)]
        [500, 500, 258]
    """

    def __init__(
        self,
        x: "np.ndarray | Rowwise",
        labels: np.ndarray | None,
        event_shape: tuple[int, ...],
        *,
        rows: np.ndarray | None = None,
        transform: Transform = unchanged,
        gaps: bool = False,
        ids: np.ndarray | None = None,
    ) -> None:
        self.event_shape = event_shape
        self.gaps = gaps
        self.labels = labels
        self.ids = ids
        self._x = x
        self._rows = np.arange(len(x)) if rows is None else rows
        self._transform = transform

    @classmethod
    def from_array(cls, x: torch.Tensor | np.ndarray, labels: np.ndarray | None = None) -> Self:
        """Make a split of a tensor or an array, without any treatment.

        Args:
            x: numbers, ``(N, *event_shape)``.
            labels: integers, (N,), or None.

        Returns:
            A split of all rows, not copied.

        Raises:
            TypeError: if `x` is neither a tensor nor an array.
            ValueError: if `x` is empty, not numeric, not finite, or has no event dimension, or if
                `labels` has a different length.

        Example:
            >>> from pyrovae.data import Split
            >>> Split.from_array(torch.zeros(10, 3)).event_shape
            (3,)
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
        filled = gaps_of_mask(x)
        gaps = float_range("x", filled)[3]
        return cls(filled, labels, filled.shape[1:], gaps=gaps)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def batch(self, index: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Gather rows, and binarize or scale them.

        Args:
            index: integers into this split, (batch,).
            rng: source of randomness, needed for dynamic binarization only.

        Returns:
            float32, ``(batch, *event_shape)``.

        Raises:
            IndexError: if an index is out of range.
            ValueError: if binarization is dynamic and `rng` is None.
        """
        x = self._transform(gather(self._x, self._rows[index]), rng)
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    def take(self, index: np.ndarray) -> "Split":
        """Choose rows, without a copy.

        Args:
            index: integers into this split, (rows,).

        Raises:
            IndexError: if an index is out of range.

        Example:
            >>> import numpy as np
            >>> len(data.take(np.array([3, 5])))
            2
        """
        labels, ids = (a if a is None else a[index] for a in (self.labels, self.ids))
        return Split(
            self._x,
            labels,
            self.event_shape,
            rows=self._rows[index],
            transform=self._transform,
            gaps=self.gaps,
            ids=ids,
        )

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Iterate over the split in order, for evaluation.

        Args:
            size: rows per batch; the last batch holds the remainder.

        Returns:
            An iterator over float32 tensors, ``(size, *event_shape)``.

        Raises:
            ValueError: if `size` is not positive, or if binarization is dynamic, since the pixels
                of such a split have no fixed values.
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

    def original(self, values: torch.Tensor | np.ndarray) -> np.ndarray:
        """Undo the scaling of values, and so return them in the units of the data.

        Args:
            values: scaled as by this split, ``(..., *event_shape)``.

        Returns:
            float64 where they were scaled, otherwise the values as they are.

        Example:
            >>> from pyrovae.data import load
            >>> split = load("digits", scaling="unit").test
            >>> split.original(split.batch(torch.arange(2).numpy())).max().item()
            16.0
        """
        plain = values.numpy() if isinstance(values, torch.Tensor) else values
        transform = self._transform
        return transform.undo(plain) if isinstance(transform, Standardize | Unit) else plain

    def in_units(self, index: np.ndarray) -> np.ndarray:
        """Gather rows in the units of the data, as exact as they are stored.

        Args:
            index: integers into this split, (batch,).

        Returns:
            ``(batch, *event_shape)`` in the dtype of the file; float32 bits of a binarized split.

        Raises:
            ValueError: if binarization is dynamic, which gives pixels no fixed values.

        Example:
            >>> import numpy
            >>> from pyrovae.data import Rows, Source, prepare
            >>> rows = Rows(numpy.linspace(0.1, 5, 50)[:, None])
            >>> split = prepare(Source("mine", {"all": rows}, None), scaling="standardize").train
            >>> split.in_units(numpy.array([0])).tolist()
            [[0.1]]
        """
        if self._transform is unchanged or isinstance(self._transform, Standardize | Unit):
            return gather(self._x, self._rows[index])
        return self.batch(index).numpy()

    def missing(self) -> int:
        """Count the missing values."""
        if not self.gaps:
            return 0
        some = portions(np.arange(len(self)), math.prod(self.event_shape))
        return sum(int(np.isnan(gather(self._x, self._rows[index])).sum()) for index in some)

    @property
    def log_slopes(self) -> np.ndarray | None:
        """What each element adds to :meth:`log_slope`, ``event_shape``; None without scaling."""
        if not isinstance(self._transform, Standardize | Unit):
            return None
        return np.array(np.broadcast_to(self._transform.log_slope(), self.event_shape))

    def log_slope(self, limit: int | None = None) -> torch.Tensor | None:
        r"""The logarithm by which scaling raised the density of each example.

        With scaled values :math:`y_d = f_d(x_d)`, the density of an example in the units of the
        data is :math:`\log p(x) = \log p(y) + \sum_d \log |f_d'(x_d)|`, a sum over observed values.

        Args:
            limit: of the first ``limit`` examples only.

        Returns:
            float64, (examples,), in nats; None without scaling.

        Example:
            >>> import math
            >>> from pyrovae.data import load
            >>> slope = load("digits", scaling="unit").test.log_slope(limit=1)
            >>> math.isclose(slope.item(), -64 * math.log(16))
            True
        """
        if self.log_slopes is None:
            return None
        each = self.log_slopes.reshape(-1)
        count = len(self) if limit is None else min(limit, len(self))
        if not self.gaps:
            return torch.full((count,), float(each.sum()), dtype=torch.float64)
        some = portions(np.arange(count), len(each))
        rows = (gather(self._x, self._rows[index]).reshape(len(index), -1) for index in some)
        return torch.from_numpy(np.concatenate([~np.isnan(x) @ each for x in rows]))

    def on_device(self, device: torch.device) -> "Resident":
        """Copy all rows to a device, where batches are then made without the host.

        Args:
            device: the device; it needs `resident_bytes` of memory.

        Returns:
            The same rows, in the same order.
        """
        dynamic = self._transform if isinstance(self._transform, Dynamic) else None
        kind = self._resident_type()
        dtype = torch.from_numpy(np.empty(0, kind)).dtype
        x = torch.empty((len(self), *self.event_shape), dtype=dtype, device=device)
        for index in portions(np.arange(len(self)), math.prod(self.event_shape)):
            rows = gather(self._x, self._rows[index]) if dynamic else self.batch(index).numpy()
            x[index[0] : index[-1] + 1] = torch.from_numpy(rows.astype(kind, copy=False)).to(device)
        return Resident(x, dynamic)

    def resident_bytes(self) -> int:
        """The memory that `on_device` needs, in bytes."""
        return len(self) * math.prod(self.event_shape) * self._resident_type().itemsize

    def _resident_type(self) -> np.dtype[Any]:
        """float32; for dynamic binarization, the type in the file if all devices can compare it."""
        kind = self._x.dtype.newbyteorder("=")
        if not isinstance(self._transform, Dynamic):
            return np.dtype(np.float32)
        return np.dtype(np.int64) if kind.kind == "u" and kind.itemsize > 1 else kind

    def digest(self) -> bytes:
        """Hash the rows as they are stored, before any treatment, in their order."""
        digest = hashlib.sha256(f"{self._x.dtype.str}{self._x.shape[1:]}".encode())
        for index in portions(np.arange(len(self)), math.prod(self._x.shape[1:])):
            digest.update(gather(self._x, self._rows[index]).tobytes())
        return digest.digest()


class Resident:
    """A split in the memory of a device, where batches are gathered and binarized.

    The host only chooses the rows; it neither moves data nor waits.

    Args:
        x: rows, (N, ...), on the device: final values, or counts from which bits are drawn.
        dynamic: the transform that draws new bits at every visit; None for final values.

    Example:
        >>> resident = data.on_device(torch.device("cpu"))
        >>> len(resident), resident.batch(torch.tensor([3, 5])).shape
        (64, torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, x: torch.Tensor, dynamic: Dynamic | None) -> None:
        self._x, self._dynamic = x, dynamic

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._x)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """Gather rows, and draw their bits with the random state of the device.

        Args:
            index: integers into the split, (batch,), on the device.

        Returns:
            float32, ``(batch, *event_shape)``, on the device. Final values equal those of
            `Split.batch`; bits have the same probabilities but are different draws.
        """
        x = self._x.index_select(0, index)
        if self._dynamic is not None:
            x = draw_bits_on_device(x, self._dynamic.maximum)
        return x.float()


class Rowwise(Protocol):
    """Rows that are made when they are asked for, such as those of a sparse matrix."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Make the rows, ``(len(rows), *shape[1:])``."""
        ...


def gather(x: np.ndarray | Rowwise, rows: np.ndarray) -> np.ndarray:
    """Copy rows of an array, by `take` where it does not copy the whole array first.

    A signaling NaN becomes a quiet one, of which NumPy does not warn.
    """
    if not isinstance(x, np.ndarray):
        return x.gather(rows)
    takes = x.flags.c_contiguous and x.dtype.isnative
    found = np.take(x, rows, axis=0) if takes else np.asarray(x[rows])
    if found.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            np.multiply(found, 1, out=found)
    return found


def portions(index: np.ndarray, row_values: int) -> Iterator[np.ndarray]:
    """Split an index into portions of at most ``CHUNK_VALUES`` gathered values."""
    step = max(1, CHUNK_VALUES // row_values)
    return (index[i : i + step] for i in range(0, len(index), step))
