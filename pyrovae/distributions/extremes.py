r"""Numbers of any size, bounded where floating point ends; usual numbers keep their bits.

A network far outside of its training range gives numbers whose exponential overflows, and a
density of such parameters is no number. The functions here bound them. A bound is passed as if it
were not there by the gradient (the derivative of the bounded number is taken to be one), so that a
parameter beyond a bound still learns and the evidence lower bound stays differentiable. The
distributions have densities and draws also where those of torch overflow.
"""

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor

from pyrovae.distributions.densities import LARGEST_FACTORIAL, cholesky_factor

__all__ = [
    "FARTHEST",
    "LARGEST_INPUT",
    "LARGEST_LOG",
    "LogNormal",
    "Poisson",
    "bounded",
    "bounded_exp",
    "location_and_low_rank",
    "location_and_scale",
    "location_and_tril",
]

FARTHEST = 1e6
"""Largest absolute location of z."""

LARGEST_INPUT = 1e15
"""Largest absolute number that an encoder reads, so that the sums in it are finite."""

LARGEST_LOG = 40.0
"""Largest absolute logarithm of a scale or rate: its square and their inverses fit in float32."""


LARGEST_SLOPE = 1e17
"""Largest absolute regression coefficient of one element of z on another: its square fits."""


def bounded(x: Tensor, limit: float | Tensor) -> Tensor:
    """The same numbers, none of them above a limit in absolute value; the gradient passes through.

    Args:
        x: finite numbers of any shape; NaN stays NaN.
        limit: the bound, one for all or one for each.

    Example:
        >>> from pyrovae.distributions import bounded
        >>> bounded(torch.tensor([0.5, -3e30]), 1e6)
        tensor([ 5.0000e-01, -1.0000e+06])
    """
    inside = x.detach().clamp(-limit, limit)  # type: ignore[arg-type]
    return inside + (x - x.detach())


def bounded_exp(log: Tensor) -> Tensor:
    r"""The exponential of an unconstrained number, between :math:`e^{-40}` and :math:`e^{40}`.

    Args:
        log: finite numbers of any shape.

    Example:
        >>> from pyrovae.distributions import bounded_exp
        >>> bounded_exp(torch.tensor([0.0, 1e4])), torch.tensor(40.0).exp()
        (tensor([1.0000e+00, 2.3539e+17]), tensor(2.3539e+17))
    """
    return bounded(log, LARGEST_LOG).exp()


def location_and_scale(loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """A location of z and its scale, both bounded, from unconstrained numbers.

    The scale is at least the rounding error of the location: draws around it would otherwise be
    rounded to multiples of a number larger than the scale, and their density off by any amount.

    Args:
        loc: locations of any shape.
        log_scale: logarithms of their scales, of that shape.

    Example:
        >>> from pyrovae.distributions import location_and_scale
        >>> location_and_scale(torch.tensor(3e20), torch.tensor(-1e4))
        (tensor(1000000.), tensor(0.1192))
    """
    loc = bounded(loc, FARTHEST)
    return loc, _resolvable(bounded_exp(log_scale), _rounding(loc))


def location_and_tril(loc: Tensor, log_scale: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    r"""A location of z and a Cholesky factor of its covariance, from unconstrained numbers.

    .. math:: L = (I + B) \operatorname{diag}(\sigma)

    where B is lower triangular with zeros on its diagonal. A row of B has the regression
    coefficients of an element of z on the noise of those before it, and :math:`\sigma_i` is the
    standard deviation of :math:`z_i` given those before it.

    The density of a draw :math:`z = \mu + L \epsilon` needs :math:`\epsilon = L^{-1} (z - \mu)`,
    in which the rounding errors of z grow from one element to the next. With u the unit of
    rounding, the errors of :math:`\epsilon` are at most about

    .. math::
        t_i = \Big( u |\mu_i| + u \sum_j |L_{ij}| + \sum_{j < i} |L_{ij}| t_j \Big) / L_{ii}

    Where one is above one, z is taken to have independent elements. In any usual covariance they
    are smaller by orders of magnitude.

    Args:
        loc: :math:`\mu`, ``(*batch, n)``.
        log_scale: :math:`\log \sigma`, ``(*batch, n)``.
        below: B, row by row ``(*batch, n * (n - 1) / 2)``.

    Returns:
        :math:`\mu` and L, ``(*batch, n, n)``.

    Example:
        >>> from pyrovae.distributions import location_and_tril
        >>> location_and_tril(torch.zeros(2), torch.zeros(2), torch.tensor([0.5]))[1]
        tensor([[1.0000, 0.0000],
                [0.5000, 1.0000]])
    """
    loc, scale = location_and_scale(loc, log_scale)
    unit = cholesky_factor(torch.zeros_like(log_scale), below)
    columns = scale.unsqueeze(-2)
    tril = bounded(unit, math.exp(LARGEST_LOG) / columns.detach()) * columns
    with torch.no_grad():
        inverse = 1 / scale.unsqueeze(-1)
        own = inverse.squeeze(-1) * _rounding(loc.abs() + tril.abs().sum(-1))
        growth = torch.eye(loc.shape[-1]).to(loc) - inverse * tril.tril(-1).abs()
        error = torch.linalg.solve_triangular(growth, own.unsqueeze(-1), upper=False)
        resolved = (error <= 1).all(-2, keepdim=True)
    diagonal = torch.diag_embed(scale)
    return loc, torch.where(resolved, tril, diagonal + (tril - tril.detach()))


def location_and_low_rank(
    loc: Tensor, log_scale: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""A location of z and a diagonal covariance plus one of low rank, from unconstrained numbers.

    .. math::
        \Sigma = S \, (I + W W^\top) \, S, \qquad
        S = \operatorname{diag} \frac{\sigma_i}{\sqrt{1 + \sum_k W_{ik}^2}}

    so that :math:`\sigma` are the standard deviations of z, and W decides its correlations alone.

    Args:
        loc: locations ``(*batch, n)``.
        log_scale: :math:`\log \sigma`, ``(*batch, n)``.
        factor: W, ``(*batch, n, rank)``. It is made smaller where the sum of its squares has no
            digit for the diagonal left: above about 2 million in float32.

    Returns:
        The location, the factor S W and the variances on the diagonal of S S.

    Example:
        >>> from pyrovae.distributions import location_and_low_rank
        >>> location_and_low_rank(torch.zeros(1), torch.zeros(1), torch.tensor([[0.75]]))
        (tensor([0.]), tensor([[0.6000]]), tensor([0.6400]))
    """
    loc, scale = location_and_scale(loc, log_scale)
    most = 0.5 / math.sqrt(torch.finfo(loc.dtype).eps)
    factor = bounded(factor, LARGEST_SLOPE)
    size = factor.detach().norm(dim=(-2, -1), keepdim=True)
    factor = torch.where(size > most, factor * (most / size), factor)
    scale = scale / (1 + factor.square().sum(-1)).sqrt()
    variance = _resolvable(scale.square(), _rounding(loc).square())
    return loc, scale.unsqueeze(-1) * factor, variance


def _rounding(loc: Tensor) -> Tensor:
    return torch.finfo(loc.dtype).eps * loc.detach().abs()


def _resolvable(scale: Tensor, least: Tensor) -> Tensor:
    return torch.where(scale < least, least + (scale - scale.detach()), scale)


class LogNormal(dist.LogNormal):
    r"""The log-normal distribution, whose draws and mean are positive and finite.

    .. math:: p(x) = \frac{1}{x} \mathcal{N}(\log x \mid \mu, \sigma^2)

    Draws that round to zero or overflow become the nearest number that does not.

    Example:
        >>> from pyrovae.distributions import LogNormal
        >>> LogNormal(torch.tensor([-1e3, 1e3]), 1.0).sample()
        tensor([1.1755e-38, 3.4028e+38])
    """

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self._inside(super().rsample(sample_shape))

    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self._inside(super().sample(sample_shape))

    def expand(self, batch_shape: Size, _instance: Any = None) -> "LogNormal":
        return super().expand(batch_shape, self._get_checked_instance(LogNormal, _instance))

    @property
    def mean(self) -> Tensor:
        return self._inside(super().mean)

    def _inside(self, x: Tensor) -> Tensor:
        limits = torch.finfo(x.dtype)
        return x.clamp(limits.tiny, limits.max)


class Poisson(dist.Poisson):
    r"""The Poisson distribution, also of counts whose factorial overflows.

    .. math:: p(x) = \lambda^x e^{-\lambda} / x!

    Above a million the factorial is taken from Stirling's formula, together with the power.

    Example:
        >>> from pyrovae.distributions import Poisson
        >>> Poisson(torch.tensor(5.0)).log_prob(torch.tensor([4.0, 3e38]))
        tensor([-1.7403,    -inf])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        rate, large = self.rate, value > LARGEST_FACTORIAL
        few = torch.where(large, 1.0, value)
        exact = few.xlogy(rate) - rate - torch.lgamma(few + 1)
        many = torch.where(large, value, LARGEST_FACTORIAL)
        power = many * (1 + rate.log() - many.log()) - rate - 0.5 * (2 * math.pi * many).log()
        return torch.where(large, power, exact)
