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


def location_and_tril(loc: Tensor, log_diagonal: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    r"""A location of z and a Cholesky factor of its covariance, from unconstrained numbers.

    The density of a draw :math:`z = \mu + L \epsilon` needs :math:`\epsilon = L^{-1} (z - \mu)`,
    in which the rounding errors of z grow from one element to the next. With u the unit of
    rounding, the errors of :math:`\epsilon` are at most about

    .. math::
        t_i = \Big( u |\mu_i| + u \sum_j |L_{ij}| + \sum_{j < i} |L_{ij}| t_j \Big) / L_{ii}

    Where one is above one, z is taken to have independent elements. In any usual covariance they
    are smaller by orders of magnitude.

    Args:
        loc: :math:`\mu`, ``(*batch, n)``.
        log_diagonal, below: as for :func:`cholesky_factor`.

    Returns:
        :math:`\mu` and L, ``(*batch, n, n)``.

    Example:
        >>> from pyrovae.distributions import location_and_tril
        >>> location_and_tril(torch.zeros(2), torch.zeros(2), torch.tensor([0.5]))[1]
        tensor([[1.0000, 0.0000],
                [0.5000, 1.0000]])
    """
    loc = bounded(loc, FARTHEST)
    tril = cholesky_factor(bounded(log_diagonal, LARGEST_LOG), below)
    diagonal = _resolvable(tril.diagonal(dim1=-2, dim2=-1), _rounding(loc))
    below = tril.tril(-1)
    with torch.no_grad():
        inverse = 1 / diagonal.unsqueeze(-1)
        own = inverse.squeeze(-1) * _rounding(loc.abs() + tril.abs().sum(-1))
        growth = torch.eye(loc.shape[-1]).to(loc) - inverse * below.abs()
        error = torch.linalg.solve_triangular(growth, own.unsqueeze(-1), upper=False)
        resolved = (error <= 1).all(-2, keepdim=True)
    below = torch.where(resolved, below, below - below.detach())
    return loc, below + torch.diag_embed(diagonal)


def location_and_low_rank(
    loc: Tensor, log_scale: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A location of z and a diagonal covariance plus one of low rank, from unconstrained numbers.

    Args:
        loc: locations ``(*batch, n)``.
        log_scale: logarithms of the scales on the diagonal ``(*batch, n)``.
        factor: ``(*batch, n, rank)``. It is made smaller where the sum of its squares, each in
            units of the variance on the diagonal, has no digit for the diagonal left: above about
            2 million in float32.

    Returns:
        The location, the factor and the variances on the diagonal.

    Example:
        >>> from pyrovae.distributions import location_and_low_rank
        >>> location_and_low_rank(torch.zeros(1), torch.zeros(1), torch.tensor([[1e9]]))
        (tensor([0.]), tensor([[1448.1547]]), tensor([1.]))
    """
    loc = bounded(loc, FARTHEST)
    variance = _resolvable((2 * bounded(log_scale, LARGEST_LOG)).exp(), _rounding(loc).square())
    most = 0.5 / math.sqrt(torch.finfo(loc.dtype).eps)
    size = (factor.detach() / variance.detach().sqrt().unsqueeze(-1)).norm(
        dim=(-2, -1), keepdim=True
    )
    return loc, torch.where(size > most, factor * (most / size), factor), variance


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
