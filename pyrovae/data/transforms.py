"""What becomes of gathered rows: bits drawn exactly, thresholds, scales.

Each class is called with rows, (batch, ...), and a source of randomness that only `Dynamic` uses,
and returns numbers of the shape ``(batch, *event_shape)``.
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
"""Gathered rows, (batch, ...), to numbers of the same rows."""


def draw_bits(
    x: np.ndarray, maximum: int | None, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    r"""Draw one bit per pixel.

    .. math:: P(\mathrm{bit} = 1) = x / m

    exactly, by comparing :math:`x` with an integer that is uniform on 0, ..., m - 1.

    Args:
        x: counts in 0, ..., `maximum`, or real numbers in [0, 1], any shape.
        maximum: m, or None for real numbers, whose bits are exact to 2^-24.
        rng: source of randomness; numpy's SFC64 is the fastest.

    Returns:
        Booleans of the shape of `x`.
    """
    if maximum is None:
        return np.asarray(rng.random(x.shape, dtype=np.float32) < x)
    return np.asarray(_uniform(maximum, x.shape, rng) < x)


def draw_bits_on_device(x: Tensor, maximum: int | None) -> Tensor:
    r"""Draw one bit per pixel by the random state of the device of `x`, unknown to the host.

    .. math:: P(\mathrm{bit} = 1) = x / m

    by comparing :math:`x` with 63 random bits modulo m. Nothing is drawn again, since the host
    would have to know how much: residues differ in probability by :math:`2^{-63}`, so that the
    error is below :math:`m 2^{-63}`, which is 3e-17 for m = 255. 0 and m themselves are certain.

    Args:
        x: counts in 0, ..., `maximum`, or real numbers in [0, 1], any shape.
        maximum: m, or None for real numbers, whose bits are exact to 2^-24.

    Returns:
        Booleans of the shape of `x`, on its device.
    """
    if maximum is None:
        return torch.rand(x.shape, device=x.device) < x
    return torch.empty(x.shape, dtype=torch.int64, device=x.device).random_() % maximum < x


def _uniform(maximum: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw integers that are exactly uniform on 0, ..., maximum - 1.

    Up to 256 each random byte serves once: bytes at or above the largest multiple of `maximum` are
    drawn again, and the rest are uniform modulo `maximum`. Five times as fast as `integers`.
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
    """Return gathered rows as they are."""
    return x


@dataclass(frozen=True)
class Dynamic:
    """Fresh bits at every visit."""

    maximum: int | None

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Draw the bits of gathered rows."""
        if rng is None:
            raise ValueError(
                "rng is None, and dynamic binarization draws new bits for every batch; "
                "give a numpy Generator: numpy.random.Generator(numpy.random.SFC64(seed))"
            )
        return draw_bits(x, self.maximum, rng)


@dataclass(frozen=True)
class Packed:
    """Bits that were drawn once and are kept eight to the byte."""

    event_shape: tuple[int, ...]

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Unpack gathered rows, ``(batch, bytes)``, to ``(batch, *event_shape)``."""
        bits = np.unpackbits(x, axis=1, count=int(np.prod(self.event_shape)))
        return bits.reshape(len(x), *self.event_shape)


@dataclass(frozen=True)
class Threshold:
    """1 above half of the maximum, 0 at half and below."""

    maximum: int | None

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Compare gathered rows with half of the maximum."""
        return np.asarray(x > 0.5) if self.maximum is None else np.asarray(x > self.maximum // 2)


@dataclass(frozen=True)
class Standardize:
    """Columns with mean 0 and standard deviation 1 over the training rows."""

    loc: np.ndarray
    scale: np.ndarray

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Standardize gathered rows in float64."""
        return np.asarray((x - self.loc) / self.scale)


@dataclass(frozen=True)
class Unit:
    """Counts divided by their maximum."""

    maximum: int

    def __call__(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Divide gathered rows by the maximum."""
        return np.asarray(x / np.float32(self.maximum))
