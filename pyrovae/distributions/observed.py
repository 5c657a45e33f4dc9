r"""Missing values: which values of x are observed, and log p of these alone.

A missing value of x is NaN. Given z the elements of x are independent, so leaving the factor of a
missing value out of the product integrates that value out:

.. math::
    \log p(x_\text{obs} \mid z) = \sum_{d \in \text{obs}} \log p(x_d \mid z)

Looking for NaN in every batch costs time, and a recorded graph of operations cannot depend on what
it finds. Inside :func:`missing_values` it is known.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pyrovae.distributions.properties import base, name

__all__ = [
    "filled",
    "has_missing",
    "missing_values",
    "observed_log_prob",
    "observed_part",
    "observed_values",
]

_known: ContextVar[bool | None] = ContextVar("missing_values", default=None)


@contextlib.contextmanager
def missing_values(present: bool | None) -> Iterator[None]:
    """A block in which it is known whether x may have missing values.

    Args:
        present: whether NaN stands for a missing value and may occur; None looks at each batch, as
            outside of such a block.

    Example:
        >>> from pyrovae.distributions import missing_values, observed_values
        >>> with missing_values(False):
        ...     observed_values(torch.tensor([float("nan")])) is None
        True
    """
    token = _known.set(_known.get() if present is None else present)
    try:
        yield
    finally:
        _known.reset(token)


def observed_values(x: Tensor) -> Tensor | None:
    """Which values are observed, as booleans of the shape of x; None if all are.

    Example:
        >>> from pyrovae.distributions import observed_values
        >>> observed_values(torch.tensor([1.0, float("nan")]))
        tensor([ True, False])
        >>> observed_values(torch.zeros(2)) is None
        True
    """
    known = _known.get()
    if known is False or not x.is_floating_point():
        return None
    observed = ~x.isnan()
    return None if known is None and bool(observed.all()) else observed


def has_missing(*tensors: Tensor) -> bool:
    """Whether values may be missing: as it is known, or else as the tensors show.

    Example:
        >>> from pyrovae.distributions import has_missing
        >>> has_missing(torch.zeros(2)), has_missing(torch.tensor([1.0, float("nan")]))
        (False, True)
    """
    known = _known.get()
    return any(bool(x.isnan().any()) for x in tensors) if known is None else known


def filled(x: Tensor) -> Tensor:
    """The same values, with zeros for those that are missing.

    Example:
        >>> from pyrovae.distributions import filled
        >>> filled(torch.tensor([1.0, float("nan")]))
        tensor([1., 0.])
    """
    observed = observed_values(x)
    return x if observed is None else torch.where(observed, x, torch.zeros_like(x))


def observed_part(p: Any, x: Tensor) -> tuple[Any, Tensor]:
    """A distribution and a value of it that can be observed, by Pyro's ``mask`` where x has gaps.

    Args:
        p: a distribution over x.
        x: values ``(*batch, *event_shape)``; NaN is missing.

    Returns:
        p and x themselves if nothing is missing. Otherwise p with the missing elements masked, and
        x with values inside the support in their place, which count for nothing.

    Raises:
        ValueError: if values are missing and p is not a product over the elements of x.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyrovae.distributions import observed_part
        >>> p = Normal(torch.zeros(2), 1.0).to_event(1)
        >>> masked, value = observed_part(p, torch.tensor([0.0, float("nan")]))
        >>> masked.log_prob(value)
        tensor(-0.9189)
    """
    observed = observed_values(x)
    if observed is None:
        return p, x
    element = base(p)
    if element.event_shape:
        raise ValueError(
            f"values of x are missing, and the likelihood {name(p)} is not a product over the "
            "elements of x, from which their factors could be left out; use a likelihood with "
            "independent elements, such as those in pyrovae.likelihoods, or fill the gaps"
        )
    value = torch.where(observed, x, torch.zeros_like(x))
    for inside in (1.0, 0.5):
        fits = observed | element.support.check(value)
        value = torch.where(fits, value, torch.full_like(x, inside))
    masked = element.mask(observed)
    dimensions = len(p.event_shape)
    return (masked.to_event(dimensions) if dimensions else masked), value


def observed_log_prob(p: Any, x: Tensor) -> Tensor:
    """The log density of the observed values of x.

    Args:
        p: a distribution over x.
        x: values ``(*batch, *event_shape)``; NaN is missing.

    Returns:
        ``(*batch)``; zero where nothing is observed.

    Raises:
        ValueError: as :func:`observed_part`.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyrovae.distributions import observed_log_prob
        >>> observed_log_prob(Normal(0.0, 1.0), torch.tensor([0.0, float("nan")]))
        tensor([-0.9189,  0.0000])
    """
    part, value = observed_part(p, x)
    log_prob: Tensor = part.log_prob(value)
    return log_prob
