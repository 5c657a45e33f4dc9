r"""Distributions on the unit sphere in :math:`\mathbb{R}^n`; densities are per unit of area."""

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

from pyrovae.distributions._expansion import expanded

__all__ = ["PowerSpherical", "UniformSphere"]


class UniformSphere(dist.TorchDistribution):
    r"""The uniform distribution on the unit sphere.

    .. math:: p(z) = \frac{\Gamma(n / 2)}{2 \pi^{n / 2}}, \qquad |z| = 1

    Args:
        zero: zeros ``(*batch, n)``, which set the shape, device and dtype.

    Example:
        >>> from pyrovae.distributions import UniformSphere
        >>> z = UniformSphere(torch.zeros(3)).sample((5,))
        >>> torch.allclose(z.norm(dim=-1), torch.ones(5))
        True
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True

    def __init__(self, zero: Tensor, validate_args: bool | None = None) -> None:
        self.zero = zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "UniformSphere":
        zero = self.zero.expand(*batch_shape, *self.event_shape)
        return expanded(self, UniformSphere, _instance, batch_shape, zero=zero)

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
    r"""The power spherical distribution, with a mean direction and a concentration.

    .. math::
        q(z) = \left(2^{\alpha + \beta} \pi^{\beta}
        \frac{\Gamma(\alpha)}{\Gamma(\alpha + \beta)}\right)^{-1} (1 + \mu^\top z)^\kappa,
        \qquad \alpha = \beta + \kappa, \quad \beta = \frac{n - 1}{2}

    The variable :math:`(1 + \mu^\top z) / 2` follows Beta(:math:`\alpha, \beta`), and given that, z
    is uniform around :math:`\mu`: draws are reparameterized, without rejection.

    References:
        De Cao and Aziz (2020), The Power Spherical distribution, arXiv:2006.04437

    Args:
        loc: :math:`\mu`, unit vectors ``(*batch, n)``, n at least 2.
        concentration: :math:`\kappa`, positive ``(*batch,)``.

    Example:
        >>> from pyrovae.distributions import PowerSpherical
        >>> q = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(1e6))
        >>> q.sample().round(decimals=1).abs()  # nearly all mass at the north pole
        tensor([0., 0., 1.])
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
        loc = self.loc.expand(*batch_shape, *self.event_shape)
        concentration = self.concentration.expand(batch_shape)
        return expanded(
            self, PowerSpherical, _instance, batch_shape, loc=loc, concentration=concentration
        )

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        share = dist.Beta(self.alpha, torch.full_like(self.alpha, self.beta)).rsample(sample_shape)
        eps = torch.finfo(share.dtype).eps
        share = share.clamp(eps, 1 - eps)[..., None]
        around = normalize(torch.randn_like(self.loc.expand(shape)[..., 1:]), dim=-1)
        y = torch.cat([2 * share - 1, 2 * (share * (1 - share)).sqrt() * around], -1)
        north = torch.zeros_like(self.loc)
        north[..., 0] = 1
        u = normalize(north - self.loc, dim=-1)  # a reflection along u maps north to loc
        return normalize(y - 2 * (u * y).sum(-1, keepdim=True) * u, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        eps = torch.finfo(value.dtype).eps
        cosine = (self.loc * value).sum(-1).clamp(min=eps - 1)
        return self.concentration * torch.log1p(cosine) - self._log_normalizer()

    def _log_normalizer(self) -> Tensor:
        total = self.alpha + self.beta
        gammas = torch.lgamma(self.alpha) - torch.lgamma(total)
        return total * math.log(2) + self.beta * math.log(math.pi) + gammas

    def entropy(self) -> Tensor:
        mean_log = math.log(2) + torch.digamma(self.alpha) - torch.digamma(self.alpha + self.beta)
        return self._log_normalizer() - self.concentration * mean_log

    @property
    def mean(self) -> Tensor:
        return self.loc * (self.concentration / (self.alpha + self.beta))[..., None]

    @property
    def variance(self) -> Tensor:
        total = self.alpha + self.beta
        along = 4 * self.alpha * (self.alpha + 1) / (total * (total + 1)) - 4 * self.alpha / total
        square = (along + 1)[..., None]  # mean square of the cosine
        across = (1 - square) / (self.event_shape[0] - 1)
        return square * self.loc**2 + across * (1 - self.loc**2) - self.mean**2


@register_kl(PowerSpherical, UniformSphere)  # type: ignore[untyped-decorator]
def _power_spherical_to_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    return p.entropy() - q.entropy()
