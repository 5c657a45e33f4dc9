r"""What a distribution is made of: its base, its support, its parameters, its name."""

import copy
import math
from contextlib import suppress
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

__all__ = [
    "base",
    "components",
    "expand",
    "factorises",
    "fills_space",
    "in_float64",
    "is_discrete",
    "is_point",
    "is_real",
    "log_density",
    "name",
]

_IN_DOUBLE = (
    Categorical,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
)


def base(d: Any) -> Any:
    """Without the wrappers that make batch dimensions part of the event."""
    while isinstance(d, Independent):
        d = d.base_dist
    return d


def expand(p: Any, batch_shape: torch.Size) -> Any:
    """p with a batch of this shape."""
    return p if p.batch_shape == batch_shape else p.expand(batch_shape)


def factorises(*distributions: Any) -> bool:
    """Whether all are products of distributions over single variables."""
    return all(
        isinstance(d, Independent) and len(d.event_shape) == 1 and not base(d).event_shape
        for d in distributions
    )


def fills_space(d: Any) -> bool:
    """Whether d has a density on the space around its draws: not on a sphere, nor if discrete."""
    support: Any = None
    with suppress(NotImplementedError):
        support = d.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return not (is_discrete(d) or isinstance(support, type(constraints.sphere)))


def is_real(q: Any) -> bool:
    """Whether q is known to be over all real numbers, or vectors of them."""
    try:
        constraint = q.support
    except NotImplementedError:
        return False
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint is torch.distributions.constraints.real


def is_discrete(d: Any) -> bool:
    """Whether d is known to be discrete."""
    try:
        return bool(d.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def is_point(d: Any) -> bool:
    """Whether d has variance zero in any direction of its own, for a d that is not discrete."""
    try:
        return bool((d.variance == 0).any())
    except (NotImplementedError, AttributeError):
        return False


def components(*distributions: Any) -> int:
    """How many densities are held at a time for each z."""
    mixtures = [d for d in distributions if isinstance(d, MixtureSameFamily)]
    return max([1, *(d.mixture_distribution.param_shape[-1] for d in mixtures)])


def log_density(p: Any, z: Tensor) -> Tensor:
    """The log density of p, minus infinity outside its support."""
    try:
        inside = p.support.check(z)
    except NotImplementedError:
        return p.log_prob(z)
    if inside.all():
        return p.log_prob(z)
    events = inside.reshape(*inside.shape, *[1] * len(p.event_shape))
    z = torch.where(events, z, p.sample().to(z))  # anything inside
    return torch.where(inside, p.log_prob(z), -math.inf)


def name(d: Any) -> str:
    """In words, with what it is a mixture of."""
    inner = base(d)
    words = type(inner).__name__
    if isinstance(inner, MixtureSameFamily):
        words += f" of {name(inner.component_distribution)}"
    return f"Independent {words}" if inner is not d else words


def in_float64(*distributions: Any) -> list[Any]:
    """The same distributions with their parameters in float64, where that is known to all."""
    if all(_convertible(d) for d in distributions):
        return [_double(d) for d in distributions]
    return list(distributions)


def _convertible(d: Any) -> bool:
    if isinstance(d, Independent):
        return _convertible(d.base_dist)
    if isinstance(d, MixtureSameFamily):
        return _convertible(d.component_distribution)
    return isinstance(d, _IN_DOUBLE)


def _double(d: Any) -> Any:
    """The same distribution with its parameters in float64."""
    if isinstance(d, MultivariateNormal):
        return dist.MultivariateNormal(d.loc.double(), scale_tril=d.scale_tril.double())
    if isinstance(d, LowRankMultivariateNormal):
        parameters = (d.loc.double(), d.cov_factor.double(), d.cov_diag.double())
        return dist.LowRankMultivariateNormal(*parameters)
    double = copy.copy(d)
    for attribute, value in vars(d).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            double.__dict__[attribute] = value.double()
        elif isinstance(value, Distribution):
            double.__dict__[attribute] = _double(value)
    return double
