r"""A mean with its standard error, and the examples that it is taken over."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Estimate", "Examples", "batches", "number_of_examples"]


class Examples(Protocol):
    """Data that comes in batches of any size, in a fixed order, as :class:`pyrovae.data.Split`."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Tensor]: ...


@dataclass(frozen=True)
class Estimate:
    """A mean over examples, in nats per example.

    Attributes:
        estimate: the mean.
        standard_error: its standard error over examples; None for a single one.
    """

    estimate: float
    standard_error: float | None

    @staticmethod
    def of(values: Tensor) -> "Estimate":
        """The mean of ``values`` ``(examples,)`` and its standard error."""
        values = values.double()
        error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
        return Estimate(values.mean().item(), error)


def number_of_examples(data: Examples, limit: int | None = None, *, at_least: int = 1) -> int:
    """How many examples are used.

    Args:
        data: any number of examples.
        limit: use only the first ``limit`` examples.
        at_least: the smallest number that makes sense.

    Raises:
        ValueError: if ``limit`` is not positive, or there are fewer than ``at_least``.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be positive, got {limit}")
    count = len(data) if limit is None else min(len(data), limit)
    if count < at_least:
        raise ValueError(f"there are {count or 'no'} examples; give at least {at_least}")
    return count


def batches(data: Examples, size: int, limit: int | None = None) -> Iterator[Tensor]:
    """The first ``limit`` examples in their order, ``size`` at a time.

    Args:
        data: the examples.
        size: examples in a batch; the last batch holds the remainder.
        limit: use only the first ``limit`` examples.

    Returns:
        An iterator over ``(size, *event_shape)``.
    """
    left = number_of_examples(data, limit)
    for batch in data.batches(size):
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return
