"""Transforms of gathered rows: bits drawn exactly, thresholds and scales.

Each transform is called with rows, (batch, ...), and a source of randomness that only `Dynamic`
uses, and returns numbers of shape ``(batch, *event_shape)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Dynamic",
    "Packed",
    "Standardize",
    "Threshold",
    "Transform",
    "Unit",
    "draw_bits",
    "draw_bits_on_device",
    "unchanged",
]

Transform = Callable[[np.ndarray, np.random.Generator | None], np.ndarray]
"""A function from gathered rows, (batch, ...), to the numbers of a batch."""


def draw_bits(
    x: np.ndarray, maximum: int | None, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    r"""Draw one bit per pixel.

    .. math:: P(\mathrm{bit} = 1) = x / m

    exactly, by comparing :math:`x` with an integer drawn uniformly from 0, ..., m - 1.

    Args:
        x: counts in 0, ..., `maximum`, or real numbers in [0, 1], any shape.
        maximum: m, or None for real numbers, whose bits are exact to 2^-24.
        rng: source of randomness; numpy's SFC64 is the fastest.

    Returns:
        Booleans of the shape of `x`.

    Example:
        >>> import numpy
        >>> from pyrovae.data import draw_bits
        >>> draw_bits(numpy.array([0, 16]), 16, numpy.random.default_rng(0)).tolist()
        [False, True]
    """
    if maximum is None:
        return np.asarray(rng.random(x.shape, dtype=np.float32) < x)
    return np.asarray(_uniform(maximum, x.shape, rng) < x)


def draw_bits_on_device(x: Tensor, maximum: int | None) -> Tensor:
    r"""Draw one bit per pixel with the random state of the device, without synchronizing.

    .. math:: P(\mathrm{bit} = 1) = x / m

    by comparing :math:`x` with 63 random bits modulo m. There is no rejection, which would need
    synchronization with the host. The probabilities of residues differ by :math:`2^{-63}`, so the
    error is below :math:`m 2^{-63}`, which is 3e-17 for m = 255. For x = 0 and x = m the bit is
    certain.

    Args:
        x: counts in 0, ..., `maximum`, or real numbers in [0, 1], any shape.
        maximum: m, or None for real numbers, whose bits are exact to 2^-24.

    Returns:
        Booleans of the shape of `x`, on its device.

    Example:
        >>> from pyrovae.data import draw_bits_on_device
        >>> draw_bits_on_device(torch.tensor([0, 16]), 16)
        tensor([False,  True])
    """
    if maximum is None:
        return torch.rand(x.shape, device=x.device) < x
    return torch.empty(x.shape, dtype=torch.int64, device=x.device).random_() % maximum < x


def _uniform(maximum: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw integers that are exactly uniform on 0, ..., maximum - 1.

    Up to 256 each integer comes from one random byte: bytes at or above the largest multiple of
    `maximum` are drawn again, and the rest are uniform modulo `maximum`. This is five times as fast
    as `integers`.
    """
    if maximum > 256:
        return rng.integers(0, maximum, shape, dtype=np.min_scalar_type(maximum - 1))
    size = int(np.prod(shape))
    words = rng.integers(0, 1 << 64, -(-size // 8), dtype=np.uint64)
    r = words.view(np.uint8)[:size]
    multiple = 256 - 256 % maximum
    if multiple < 256:
        again = np.flatnonzero(r >= multiple)
        r[again] = rng.integers(0, maximum, len(again), dtype=np.uint8)
    if maximum < multiple:
        r %= maximum
    return r.reshape(shape)


def unchanged(x: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return gathered rows as they are.

    Example:
        >>> from pyrovae.data import unchanged
        >>> unchanged(torch.ones(2).numpy()).tolist()
        [1.0, 1.0]
    """
    return x


@dataclass(frozen=True)
class Dynamic:
    """New bits at every visit.

    Example:
        >>> import numpy
        >>> from pyrovae.data import Dynamic
        >>> Dynamic(maximum=16)(numpy.array([[0, 16]]), numpy.random.default_rng(0)).tolist()
        [[False, True]]
    """

    maximum: int | None

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Draw the bits of gathered rows."""
        if rng is None:
            raise ValueError(
                "rng is None, but dynamic binarization draws new bits for every batch; "
                "pass a numpy Generator: numpy.random.Generator(numpy.random.SFC64(seed))"
            )
        return draw_bits(x, self.maximum, rng)


@dataclass(frozen=True)
class Packed:
    """Bits that were drawn once and are stored eight to a byte.

    Example:
        >>> import numpy
        >>> from pyrovae.data import Packed
        >>> Packed((2, 2))(numpy.array([[0b10010000]], numpy.uint8), None).tolist()
        [[[1, 0], [0, 1]]]
    """

    event_shape: tuple[int, ...]

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Unpack gathered rows, ``(batch, bytes)``, to ``(batch, *event_shape)``."""
        bits = np.unpackbits(x, axis=1, count=int(np.prod(self.event_shape)))
        return bits.reshape(len(x), *self.event_shape)


@dataclass(frozen=True)
class Threshold:
    """1 above half of the maximum, 0 at half and below.

    Example:
        >>> import numpy
        >>> from pyrovae.data import Threshold
        >>> Threshold(maximum=16)(numpy.array([[8, 9]]), None).tolist()
        [[False, True]]
    """

    maximum: int | None

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Compare gathered rows with half of the maximum."""
        return np.asarray(x > 0.5) if self.maximum is None else np.asarray(x > self.maximum // 2)


@dataclass(frozen=True)
class Standardize:
    """Columns with mean 0 and standard deviation 1 over the training rows.

    Example:
        >>> import numpy
        >>> from pyrovae.data import Standardize
        >>> Standardize(numpy.array([1.0]), numpy.array([2.0]))(numpy.array([[5.0]]), None).item()
        2.0
    """

    loc: np.ndarray
    scale: np.ndarray

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Standardize gathered rows in float64."""
        return np.asarray((x - self.loc) / self.scale)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Return values ``(..., *event_shape)`` in the units of the data, in float64."""
        return np.asarray(values * self.scale + self.loc)

    def log_slope(self) -> np.ndarray:
        """The logarithm of how much one unit of each value becomes, ``(*event_shape)``."""
        return -np.log(self.scale)


@dataclass(frozen=True)
class Unit:
    """Counts divided by their maximum.

    Example:
        >>> import numpy
        >>> from pyrovae.data import Unit
        >>> Unit(maximum=16)(numpy.array([[4, 16]]), None).tolist()
        [[0.25, 1.0]]
    """

    maximum: int

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Divide gathered rows by the maximum."""
        return np.asarray(x / np.float32(self.maximum))

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Return values ``(..., *event_shape)`` as counts, in float64."""
        return np.asarray(values.astype(np.float64) * self.maximum)

    def log_slope(self) -> np.ndarray:
        """The logarithm of how much one unit of a value becomes."""
        return np.asarray(-np.log(self.maximum))
