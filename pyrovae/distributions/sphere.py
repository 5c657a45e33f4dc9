r"""Distributions on the unit sphere in :math:`\mathbb{R}^n`, by density per unit of its area."""

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

__all__ = ["PowerSpherical", "UniformSphere"]


class UniformSphere(dist.TorchDistribution):
    r"""Uniform on the unit sphere.

    .. math:: p(z) = \frac{\Gamma(n / 2)}{2 \pi^{n / 2}}, \qquad |z| = 1

    Args:
        zero: the centre ``(*batch, n)``, which gives the shape, device and dtype.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True

    def __init__(self, zero: Tensor, validate_args: bool | None = None) -> None:
        self.zero = zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "UniformSphere":
        new = self._get_checked_instance(UniformSphere, _instance)
        new.zero = self.zero.expand(*batch_shape, *self.event_shape)
        dist.TorchDistribution.__init__(
            new, Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        z = torch.randn(
            self._extended_shape(sample_shape), dtype=self.zero.dtype, device=self.zero.device
        )
        return normalize(z, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        return -self.entropy().expand(shape)

    def entropy(self) -> Tensor:
        n = self.event_shape[0]
        log_area = math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)
        return self.zero.new_full(self.batch_shape, log_area)

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.zero)

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.zero, 1 / self.event_shape[0])


class PowerSpherical(dist.TorchDistribution):
    r"""The power spherical distribution, with mean direction and concentration.

    .. math::
        q(z) = \left(2^{\alpha + \beta} \pi^{\beta}
        \frac{\Gamma(\alpha)}{\Gamma(\alpha + \beta)}\right)^{-1} (1 + \mu^\top z)^\kappa,
        \qquad \alpha = \beta + \kappa, \quad \beta = \frac{n - 1}{2}

    The share :math:`(1 + \mu^\top z) / 2` is Beta(:math:`\alpha, \beta`), and z is uniform around
    :math:`\mu` given it: draws are reparameterised with nothing rejected.

    References:
        De Cao and Aziz (2020), The Power Spherical distribution, arXiv:2006.04437

    Args:
        loc: :math:`\mu` of length one ``(*batch, n)``, n at least 2.
        concentration: :math:`\kappa`, positive ``(*batch,)``.
    """

    arg_constraints = {"loc": constraints.sphere, "concentration": constraints.positive}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True

    def __init__(
        self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc, self.concentration = loc, concentration
        super().__init__(concentration.shape, loc.shape[-1:], validate_args=validate_args)

    @property
    def beta(self) -> float:
        return (self.event_shape[0] - 1) / 2

    @property
    def alpha(self) -> Tensor:
        return self.concentration + self.beta

    def expand(self, batch_shape: Size, _instance: Any = None) -> "PowerSpherical":
        new = self._get_checked_instance(PowerSpherical, _instance)
        new.loc = self.loc.expand(*batch_shape, *self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
        dist.TorchDistribution.__init__(
            new, Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        share = dist.Beta(self.alpha, torch.full_like(self.alpha, self.beta)).rsample(sample_shape)
        eps = torch.finfo(share.dtype).eps
        share = share.clamp(eps, 1 - eps)[..., None]
        around = normalize(torch.randn_like(self.loc.expand(shape)[..., 1:]), dim=-1)
        y = torch.cat([2 * share - 1, 2 * (share * (1 - share)).sqrt() * around], -1)
        north = torch.zeros_like(self.loc)
        north[..., 0] = 1
        u = normalize(north - self.loc, dim=-1)  # the reflection that takes north to loc
        return normalize(y - 2 * (u * y).sum(-1, keepdim=True) * u, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        eps = torch.finfo(value.dtype).eps
        cosine = (self.loc * value).sum(-1).clamp(min=eps - 1)
        return self.concentration * torch.log1p(cosine) - self._log_normaliser()

    def _log_normaliser(self) -> Tensor:
        total = self.alpha + self.beta
        gammas = torch.lgamma(self.alpha) - torch.lgamma(total)
        return total * math.log(2) + self.beta * math.log(math.pi) + gammas

    def entropy(self) -> Tensor:
        mean_log = math.log(2) + torch.digamma(self.alpha) - torch.digamma(self.alpha + self.beta)
        return self._log_normaliser() - self.concentration * mean_log

    @property
    def mean(self) -> Tensor:
        return self.loc * (self.concentration / (self.alpha + self.beta))[..., None]

    @property
    def variance(self) -> Tensor:
        total = self.alpha + self.beta
        along = 4 * self.alpha * (self.alpha + 1) / (total * (total + 1)) - 4 * self.alpha / total
        square = (along + 1)[..., None]  # of the cosine, in mean
        across = (1 - square) / (self.event_shape[0] - 1)
        return square * self.loc**2 + across * (1 - self.loc**2) - self.mean**2


@register_kl(PowerSpherical, UniformSphere)  # type: ignore[untyped-decorator]
def _power_spherical_to_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    return p.entropy() - q.entropy()
