r"""Results and estimates: numbers with their standard errors, and the examples they are over."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

from torch import Tensor

__all__ = ["Estimate", "Examples", "Result", "batches", "number_of_examples"]


class Result:
    """Base of the frozen dataclasses that functions return: readable, and plain data on request.

    A subclass is a ``@dataclass(frozen=True, repr=False)``.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, repr=False)
        ... class Bound(Result):
        ...     elbo: Estimate
        ...     images: int
        >>> Bound(Estimate(-90.49, 0.91), 359)
        Bound(elbo=-90.49 ± 0.91, images=359)
        >>> Bound(Estimate(-90.49, 0.91), 359).to_dict()
        {'elbo': {'estimate': -90.49, 'standard_error': 0.91}, 'images': 359}
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {}
    """Attributes whose key in :meth:`to_dict` has another name."""

    def to_dict(self) -> dict[str, object]:
        """Plain dictionaries, lists and numbers, as ``--json`` prints them."""
        return {self.JSON_NAMES.get(name, name): _plain(value) for name, value in _attributes(self)}

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={_short(value)}" for name, value in _attributes(self))
        return f"{type(self).__name__}({parts})"


def _attributes(result: Result) -> Iterator[tuple[str, object]]:
    for field in fields(result):  # type: ignore[arg-type]  # subclasses are dataclasses
        yield field.name, getattr(result, field.name)


def _plain(value: object) -> object:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping | list | tuple) and len(value) > 3:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return repr(value)


class Examples(Protocol):
    """Data that comes in batches of any size, in a fixed order, as :class:`pyrovae.data.Split`."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Tensor]: ...


@dataclass(frozen=True, repr=False)
class Estimate(Result):
    """A mean over examples, in nats per example.

    Attributes:
        value: the mean.
        standard_error: its standard error over examples; None for a single one.

    Example:
        >>> import torch
        >>> Estimate.of(torch.tensor([1.0, 2.0, 3.0]))
        2.00 ± 0.58
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"value": "estimate"}

    value: float
    standard_error: float | None

    @staticmethod
    def of(values: Tensor) -> "Estimate":
        """The mean of ``values`` ``(examples,)`` and its standard error."""
        values = values.double()
        error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
        return Estimate(values.mean().item(), error)

    def __repr__(self) -> str:
        if self.standard_error is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ± {self.standard_error:.2f}"


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
