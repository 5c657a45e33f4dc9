r"""Any distribution: its base, support, factors, moments and name, and copies of it."""

import copy
import math
from contextlib import suppress
from typing import Any, TypeVar

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch import distributions as td

__all__ = [
    "base",
    "components",
    "expand",
    "factorizes",
    "fills_space",
    "in_float64",
    "is_discrete",
    "is_point",
    "is_real",
    "log_density",
    "moments",
    "name",
    "space",
]

D = TypeVar("D", bound=dist.TorchDistribution)


def base(d: Any) -> Any:
    """The distribution inside ``Independent``, which only reinterprets batch dimensions.

    Example:
        >>> from pyrovae.distributions import base
        >>> base(vae.prior()).batch_shape, vae.prior().batch_shape
        (torch.Size([2]), torch.Size([]))
    """
    while isinstance(d, td.Independent):
        d = d.base_dist
    return d


def expand(p: Any, batch_shape: torch.Size) -> Any:
    """The distribution p expanded to a batch shape.

    Example:
        >>> from pyrovae.distributions import expand
        >>> expand(vae.prior(), torch.Size([64])).sample().shape
        torch.Size([64, 2])
    """
    return p if p.batch_shape == batch_shape else p.expand(batch_shape)


def expanded(d: D, kind: type[D], instance: Any, batch_shape: torch.Size, **attributes: Any) -> D:
    """A copy of a distribution with another batch shape.

    Args:
        d: the distribution.
        kind: the class that defines ``expand``; a subclass with another constructor must define
            its own.
        instance: the object to fill, where a subclass has made it.
        batch_shape: the new batch shape.
        attributes: those that the class adds to torch's own, already expanded.
    """
    new: D = d._get_checked_instance(kind, instance)
    vars(new).update(attributes)
    shape = torch.Size(batch_shape)
    dist.TorchDistribution.__init__(new, shape, d.event_shape, validate_args=False)
    new._validate_args = d._validate_args
    return new


def factorizes(*distributions: Any) -> bool:
    """Whether all are products of distributions over single variables.

    Example:
        >>> from pyrovae.distributions import factorizes
        >>> factorizes(vae.posterior(x), vae.prior())
        True
    """
    return all(
        isinstance(d, td.Independent) and len(d.event_shape) == 1 and not base(d).event_shape
        for d in distributions
    )


def fills_space(d: Any) -> bool:
    """Whether d has a density on the space around its draws; a sphere or discrete values do not.

    Example:
        >>> from pyrovae.distributions import fills_space
        >>> fills_space(vae.prior()), fills_space(torch.distributions.Bernoulli(0.5))
        (True, False)
    """
    return not (is_discrete(d) or isinstance(_support(d), type(constraints.sphere)))


def is_real(q: Any) -> bool:
    """Whether the support of q is declared to be all real numbers or vectors.

    Example:
        >>> from pyrovae.distributions import is_real
        >>> is_real(vae.prior()), is_real(vae.likelihood(torch.zeros(2)))
        (True, False)
    """
    return _support(q) is td.constraints.real


def _support(d: Any) -> Any:
    """The support that d declares, of a single variable if it is a product; else None."""
    support: Any = None
    with suppress(NotImplementedError):
        support = d.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def is_discrete(d: Any) -> bool:
    """Whether the support of d is declared to be discrete.

    Example:
        >>> from pyrovae.distributions import is_discrete
        >>> is_discrete(vae.prior()), is_discrete(vae.likelihood(torch.zeros(2)))
        (False, True)
    """
    try:
        return bool(d.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def is_point(d: Any) -> bool:
    """Whether d, if not discrete, has zero variance in any dimension.

    Example:
        >>> from pyro.distributions import Delta
        >>> from pyrovae.distributions import is_point
        >>> is_point(Delta(torch.zeros(2), event_dim=1)), is_point(vae.prior())
        (True, False)
    """
    try:
        return bool((d.variance == 0).any())
    except (NotImplementedError, AttributeError):
        return False


def components(*distributions: Any) -> int:
    """The largest number of mixture components, which is the number of densities for each z.

    Example:
        >>> from pyrovae.distributions import components
        >>> from pyrovae.priors import GaussianMixture
        >>> components(vae.prior(), GaussianMixture(2, components=5)())
        5
    """
    mixtures = [d for d in distributions if isinstance(d, td.MixtureSameFamily)]
    return max([1, *(d.mixture_distribution.param_shape[-1] for d in mixtures)])


def log_density(p: Any, z: Tensor) -> Tensor:
    """The log density of p, minus infinity outside its support.

    Example:
        >>> from pyro.distributions import Exponential
        >>> from pyrovae.distributions import log_density
        >>> log_density(Exponential(1.0), torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-inf, 0., -2.])
    """
    try:
        inside = p.support.check(z)
    except NotImplementedError:
        return p.log_prob(z)
    if inside.all():
        return p.log_prob(z)
    events = inside.reshape(*inside.shape, *[1] * len(p.event_shape))
    z = torch.where(events, z, p.sample().to(z))  # anything inside
    return torch.where(inside, p.log_prob(z), -math.inf)


def moments(distribution: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of each dimension, by formula or else from 1,000 draws.

    Args:
        distribution: any distribution; a flow, for example, has no formula.

    Returns:
        Mean and variance, each ``(*batch_shape, *event_shape)``; from draws without a gradient.

    Example:
        >>> from pyrovae.distributions import moments
        >>> moments(vae.prior())
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    try:
        return distribution.mean, distribution.variance
    except NotImplementedError:
        draws = distribution.sample((1_000,))
        return draws.mean(0), draws.var(0)


def name(d: Any) -> str:
    """A readable name; for a mixture it includes the component family.

    Example:
        >>> from pyrovae.distributions import name
        >>> name(vae.prior())
        'Independent Normal'
    """
    inner = base(d)
    words = type(inner).__name__
    if isinstance(inner, td.MixtureSameFamily):
        words += f" of {name(inner.component_distribution)}"
    return f"Independent {words}" if inner is not d else words


def space(d: Any) -> str:
    """Name the space that a distribution is over, with its shape.

    Example:
        >>> from pyrovae.distributions import space
        >>> space(vae.prior())
        'real vectors of shape (2,)'
    """
    support = d.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    kind = type(support).__name__.strip("_")
    words = _SPACES.get(kind, f"vectors of {kind}")
    if hasattr(support, "classes"):
        words += f" of {support.classes} classes each"
    return f"{words} of shape {tuple(d.event_shape)}"


_SPACES = {
    "Real": "real vectors",
    "Simplex": "points of the simplex",
    "Sphere": "points of the unit sphere",
    "OneHot": "one-hot vectors",
    "OneHotVectors": "one-hot vectors side by side",
}


def in_float64(*distributions: Any) -> list[Any]:
    """The same distributions with parameters in float64, if all of them can be converted.

    Example:
        >>> from pyrovae.distributions import in_float64
        >>> [d.sample().dtype for d in in_float64(vae.prior(), vae.posterior(x))]
        [torch.float64, torch.float64]
    """
    if all(_convertible(d) for d in distributions):
        return [_double(d) for d in distributions]
    return list(distributions)


def _convertible(d: Any) -> bool:
    d = base(d)
    if isinstance(d, td.MixtureSameFamily):
        return _convertible(d.component_distribution)
    normal = td.Normal | td.MultivariateNormal | td.LowRankMultivariateNormal
    return isinstance(d, normal | td.Laplace | td.StudentT | td.Categorical)


def _double(d: Any) -> Any:
    """The same distribution with its parameters in float64."""
    if isinstance(d, td.MultivariateNormal):
        return dist.MultivariateNormal(d.loc.double(), scale_tril=d.scale_tril.double())
    if isinstance(d, td.LowRankMultivariateNormal):
        parameters = (d.loc.double(), d.cov_factor.double(), d.cov_diag.double())
        return dist.LowRankMultivariateNormal(*parameters)
    double = copy.copy(d)
    for attribute, value in vars(d).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            double.__dict__[attribute] = value.double()
        elif isinstance(value, td.Distribution):
            double.__dict__[attribute] = _double(value)
    return double
