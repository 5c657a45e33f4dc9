r"""Distributions that torch has, where it loses digits that a likelihood needs."""

import math

import torch
from pyro import distributions as dist
from torch import Tensor, nn

__all__ = ["ContinuousBernoulli"]


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
