r"""Distributions of torch and Pyro, without lost digits or infinite draws; factors and moments."""

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor, nn

__all__ = ["ContinuousBernoulli", "Logistic", "cholesky_factor", "moments"]

_MOMENT_DRAWS = 1_000


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""The continuous Bernoulli, computed from its logits :math:`\ell` throughout.

    .. math:: p(x) = C \, e^{\ell x} / (1 + e^{\ell}), \qquad C = \frac{\ell}{\tanh(\ell / 2)}

    torch goes through the probability, which rounds to 0 or 1: in float32 its constant stops
    growing at :math:`|\ell| \approx 16`, and the density of dark pixels no longer integrates to
    one. The same formulas in :math:`\ell` have no such limit.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845
    """

    def _cont_bern_log_norm(self) -> Tensor:
        logits, small = self._away_from_zero(0.1)
        series = math.log(2) + self.logits.square() / 12 - 7 * self.logits.pow(4) / 1440
        return torch.where(small, series, (logits / torch.tanh(logits / 2)).log())

    @property
    def mean(self) -> Tensor:
        logits, small = self._away_from_zero(0.1)
        series = 0.5 + self.logits / 12 - self.logits.pow(3) / 720
        return torch.where(small, series, -1 / torch.expm1(-logits) - 1 / logits)

    @property
    def variance(self) -> Tensor:
        logits, small = self._away_from_zero(0.1)
        series = 1 / 12 - self.logits.square() / 240 + self.logits.pow(4) / 6048
        ratio = torch.sigmoid(logits) * torch.sigmoid(-logits) / torch.tanh(logits / 2).square()
        return torch.where(small, series, logits.square().reciprocal() - ratio)

    def entropy(self) -> Tensor:
        log_normaliser = nn.functional.softplus(self.logits) - self._cont_bern_log_norm()
        return log_normaliser - self.logits * self.mean

    def cdf(self, value: Tensor) -> Tensor:
        logits, small = self._away_from_zero(1e-3)
        x, size = value.clamp(0, 1), logits.abs()
        x = torch.where(logits > 0, 1 - x, x)  # F(x) under l is 1 - F(1 - x) under -l
        u = torch.expm1(-size * x) / torch.expm1(-size)
        u = torch.where(logits > 0, 1 - u, u)
        inside = value.clamp(0, 1)
        return torch.where(small, inside - self.logits * inside * (1 - inside) / 2, u)

    def icdf(self, value: Tensor) -> Tensor:
        logits, small = self._away_from_zero(1e-3)
        size = logits.abs()
        u = torch.where(logits > 0, 1 - value, value)
        x = -torch.log1p(u * torch.expm1(-size)) / size
        x = torch.where(logits > 0, 1 - x, x)
        return torch.where(small, value + self.logits * value * (1 - value) / 2, x)

    def _away_from_zero(self, limit: float) -> tuple[Tensor, Tensor]:
        """The logits, with those nearer to zero than ``limit`` replaced, and which these are."""
        small = self.logits.abs() < limit
        return torch.where(small, torch.ones_like(self.logits), self.logits), small


class Logistic(dist.Logistic):
    r"""The logistic distribution, with draws that are always finite.

    .. math:: p(x) = \frac{e^{-(x - \mu) / s}}{s \, (1 + e^{-(x - \mu) / s})^2}

    Pyro inverts the distribution function at a uniform number from [0, 1), which is 0 once in
    about ten million draws in float32.
    """

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        u = self.loc.new_empty(self._extended_shape(sample_shape)).uniform_()
        eps = torch.finfo(u.dtype).eps
        return self.icdf(u.clamp(eps / 2, 1 - eps / 2))


def cholesky_factor(log_diagonal: Tensor, below: Tensor) -> Tensor:
    """A lower triangular matrix with a positive diagonal, from unconstrained numbers.

    Args:
        log_diagonal: logarithms of the diagonal ``(*batch, n)``.
        below: the entries below it, row by row ``(*batch, n * (n - 1) / 2)``.

    Returns:
        ``(*batch, n, n)``.
    """
    n = log_diagonal.shape[-1]
    row, column = torch.tril_indices(n, n, -1, device=below.device)
    matrix = torch.diag_embed(log_diagonal.exp())
    lower = torch.zeros_like(matrix)
    lower[..., row, column] = below
    return matrix + lower


def moments(distribution: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of each dimension: by formula, else from 1,000 draws.

    Args:
        distribution: any; a flow has no formula.

    Returns:
        The two, each ``(*batch_shape, *event_shape)``; draws carry no gradient.
    """
    try:
        return distribution.mean, distribution.variance
    except NotImplementedError:
        draws = distribution.sample((_MOMENT_DRAWS,))
        return draws.mean(0), draws.var(0)
