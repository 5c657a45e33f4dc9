r"""Results that print readably, means with their standard errors, and batches of examples."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any, ClassVar, Protocol, TypeAlias, cast, dataclass_transform

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.data import DataLike, as_split

__all__ = [
    "AnyExamples",
    "Estimate",
    "Examples",
    "Result",
    "as_examples",
    "as_tensor",
    "batches",
    "html_table",
    "log_slope_of",
    "number_of_examples",
]

LONG = 1e9  # numbers from here on are printed with an exponent


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Result:
    """Base of what functions return: readable, and plain data on request.

    A subclass is a frozen dataclass without a decorator. An attribute declared as
    ``field(repr=False)`` appears neither in the text nor in the plain data.

    Example:
        >>> class Bound(Result):
        ...     elbo: Estimate
        ...     images: int
        >>> Bound(Estimate(-90.49, 0.91), 359)
        Bound(elbo=-90.49 ± 0.91, images=359)
        >>> Bound(Estimate(-90.49, 0.91), 359).to_dict()
        {'elbo': {'estimate': -90.49, 'standard_error': 0.91}, 'images': 359}
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}
    """Keys of :meth:`to_dict` that differ from the name of their attribute."""

    def __init_subclass__(cls, *, eq: bool = True) -> None:
        dataclass(frozen=True, repr=False, eq=eq)(cls)

    def to_dict(self) -> dict[str, object]:
        """Convert to dictionaries, lists and numbers, as ``--json`` prints them."""
        return {self.JSON_NAMES.get(name, name): _plain(value) for name, value in _attributes(self)}

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={_short(value)}" for name, value in _attributes(self))
        return f"{type(self).__name__}({parts})"

    def _repr_html_(self) -> str:
        """A table for notebooks, a row for each attribute."""
        return html_table(
            type(self).__name__, [(name, _short(value)) for name, value in _attributes(self)]
        )


def html_table(caption: str, rows: Iterable[Sequence[str]]) -> str:
    """A table for notebooks, of text that it escapes; the first cell of a row names it.

    Args:
        caption: above it.
        rows: of cells.

    Example:
        >>> html_table("bound", [("elbo", "-90.5 < 0")]).count("&lt;")
        1
    """
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(first)}</th>'
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><caption>{escape(caption)}</caption>{lines}</table>"


def _attributes(result: Result) -> Iterator[tuple[str, object]]:
    for attribute in fields(result):  # type: ignore[arg-type]  # subclasses are dataclasses
        if attribute.repr:
            yield attribute.name, getattr(result, attribute.name)


def _plain(value: object) -> object:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


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
    """Examples that come in batches of any size, in a fixed order: a :class:`pyrovae.data.Split`.

    Example:
        >>> len(data), next(data.batches(20)).shape
        (64, torch.Size([20, 1, 8, 8]))
    """

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Tensor]: ...


AnyExamples: TypeAlias = Examples | DataLike
"""Examples as functions take them: such batches, or what :func:`pyrovae.data.as_split` takes."""


def as_examples(data: AnyExamples) -> Examples:
    """Make examples that come in batches of what a function was given.

    Args:
        data: a split or the like, returned as it is, or what :func:`pyrovae.data.as_split` takes.

    Returns:
        The examples.

    Raises:
        TypeError, ValueError: as :func:`pyrovae.data.as_split`.

    Example:
        >>> import pandas
        >>> from pyrovae.estimates import as_examples
        >>> next(as_examples(pandas.DataFrame({"a": [1.5, 2.0]})).batches(2)).tolist()
        [[1.5], [2.0]]
    """
    # asked of the class: a column of a DataFrame may have any name
    if hasattr(type(data), "batches"):
        return cast(Examples, data)
    return as_split(cast(DataLike, data))


def as_tensor(data: AnyExamples) -> Tensor:
    """Make one tensor of what a function was given; a tensor is returned as it is.

    Args:
        data: as for :func:`as_examples`.

    Returns:
        All examples, ``(examples, *event_shape)``.

    Raises:
        TypeError, ValueError: as :func:`pyrovae.data.as_split`.

    Example:
        >>> from pyrovae.estimates import as_tensor
        >>> as_tensor(data).shape
        torch.Size([64, 1, 8, 8])
    """
    if isinstance(data, Tensor):
        return data
    found = as_examples(data)
    return next(iter(found.batches(len(found))))


class Estimate(Result):
    """A mean over examples, in nats per example.

    Attributes:
        value: the mean.
        standard_error: its standard error over examples; None for a single one, and where the mean
            is not finite.

    Example:
        >>> import torch
        >>> Estimate.of(torch.tensor([1.0, 2.0, 3.0]))
        2.00 ± 0.58
        >>> f"{Estimate(2.0, 0.58):+.3f}"
        '+2.000 +- 0.580'
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"value": "estimate"}

    value: float
    standard_error: float | None

    @staticmethod
    def of(values: Tensor | NDArray[Any] | list[float]) -> "Estimate":
        """The mean of ``values`` ``(examples,)`` and its standard error."""
        values = values.double() if isinstance(values, Tensor) else np.asarray(values, float)
        if len(values) < 2 or not math.isfinite(values.mean().item()):
            return Estimate(values.mean().item(), None)
        deviation = values.std() if isinstance(values, Tensor) else values.std(ddof=1)
        return Estimate(values.mean().item(), (deviation / math.sqrt(len(values))).item())

    def __repr__(self) -> str:
        spec = _spec(".2f", self.value)
        if self.standard_error is None:
            return f"{self.value:{spec}}"
        return f"{self.value:{spec}} ± {self.standard_error:{spec}}"

    def _repr_html_(self) -> str:
        """The same line in notebooks."""
        return escape(repr(self))

    def __format__(self, spec: str) -> str:
        """The value as ``spec`` says, then the error to as many digits: ``2.00 +- 0.58``."""
        if not spec:
            return str(self)
        spec = _spec(spec, self.value)
        digits = spec.partition(".")[2]
        error = "" if self.standard_error is None else f" +- {self.standard_error:.{digits}}"
        return f"{self.value:{spec}}{error}"


def _spec(spec: str, value: float) -> str:
    """A format, with an exponent in place of decimals for numbers too long to read."""
    return spec.replace("f", "e") if LONG <= abs(value) < math.inf else spec


def log_slope_of(data: object, limit: int | None = None) -> Tensor | None:
    """What to add to log densities of scaled examples to have them in the units of the data.

    Args:
        data: the examples; a :class:`pyrovae.data.Split` knows how it was scaled.
        limit: of the first ``limit`` examples only.

    Returns:
        For each example ``(examples,)``, in nats; None if the examples were not scaled.

    Example:
        >>> log_slope_of(data) is None
        True
    """
    of_data = getattr(data, "log_slope", None)
    return None if of_data is None else of_data(limit)


def number_of_examples(data: Examples, limit: int | None = None, *, at_least: int = 1) -> int:
    """Count the examples that are used.

    Args:
        data: the examples.
        limit: use only the first ``limit`` examples.
        at_least: the smallest acceptable number.

    Raises:
        ValueError: if ``limit`` is not positive, or there are fewer than ``at_least`` examples.

    Example:
        >>> number_of_examples(data), number_of_examples(data, limit=10)
        (64, 10)
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be positive, got {limit}")
    count = len(data) if limit is None else min(len(data), limit)
    if count < at_least:
        raise ValueError(f"there are {count or 'no'} examples; give at least {at_least}")
    return count


def batches(data: Examples, size: int, limit: int | None = None) -> Iterator[Tensor]:
    """Go through the first ``limit`` examples in order, ``size`` at a time.

    Args:
        data: the examples.
        size: examples in a batch; the last batch holds the remainder.
        limit: use only the first ``limit`` examples.

    Returns:
        An iterator over tensors ``(size, *event_shape)``.

    Example:
        >>> [len(x) for x in batches(data, 20, limit=50)]
        [20, 20, 10]
    """
    left = number_of_examples(data, limit)
    for batch in data.batches(size):
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return
