r"""Distributions over vectors that do not fill space: on the unit sphere, and of one-hot variables.

Densities on the sphere in :math:`\mathbb{R}^n` are per unit of area. One-hot vectors lie side by
side in a vector; so do the points of simplices that relax them.
"""

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions.constraints import sphere
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize, one_hot

from pyrovae.distributions.properties import expanded

__all__ = ["OneHots", "PowerSpherical", "RelaxedOneHots", "UniformSphere", "number_of_variables"]

MOST_VALUES = 1 << 16  # largest number of values that are enumerated


class _SideBySide(constraints.Constraint):
    """Vectors made of L parts with K entries each; a subclass checks the parts."""

    event_dim = 1

    def __init__(self, classes: int) -> None:
        self.classes = classes
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.check_parts(value.unflatten(-1, (-1, self.classes))).all(-1)

    def check_parts(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class OneHotVectors(_SideBySide):
    """Vectors made of one-hot vectors with K entries each."""

    is_discrete = True

    def check_parts(self, z: Tensor) -> Tensor:
        return ((z == 0) | (z == 1)).all(-1) & (z.sum(-1) == 1)


class Simplices(_SideBySide):
    """Vectors made of points of the simplex with K coordinates each, up to rounding."""

    def check_parts(self, z: Tensor) -> Tensor:
        return (z >= 0).all(-1) & ((z.sum(-1) - 1).abs() < 1e-4)


class _Variables(dist.TorchDistribution):
    """L independent variables with K coordinates each, side by side in a vector."""

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        size = Size([logits.shape[-2:].numel()])
        super().__init__(logits.shape[:-2], size, validate_args=validate_args)

    @property
    def classes(self) -> int:
        """K."""
        return int(self.logits.shape[-1])

    def _expanded_logits(self, batch_shape: Size) -> Tensor:
        return self.logits.expand(*batch_shape, *self.logits.shape[-2:])

    def _parts(self, value: Tensor) -> Tensor:
        """A value as L variables ``(..., L, K)``, after validation."""
        if self._validate_args:
            self._validate_sample(value)
        return value.unflatten(-1, (-1, self.classes))


class OneHots(_Variables):
    r"""L independent one-hot variables with K classes, side by side in a vector.

    .. math:: p(z) = \prod_{l=1}^{L} \prod_{k=1}^{K} \pi_{lk}^{z_{lk}}

    Args:
        logits: :math:`\log \pi` up to a constant for each variable ``(*batch, L, K)``.

    Example:
        >>> from pyrovae.distributions import OneHots
        >>> p = OneHots(torch.zeros(2, 3))  # two variables with three classes
        >>> p.enumerate_support().shape, p.mean.sum()
        (torch.Size([9, 6]), tensor(2.))
    """

    has_enumerate_support = True

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return OneHotVectors(self.classes)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "OneHots":
        logits = self._expanded_logits(batch_shape)
        return expanded(self, OneHots, _instance, batch_shape, logits=logits)

    @torch.no_grad()
    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        index = dist.Categorical(logits=self.logits).sample(sample_shape)  # (*draws, *batch, L)
        return one_hot(index, self.classes).to(self.logits).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        z = self._parts(value)
        return (z * self.logits.log_softmax(-1)).sum((-2, -1))

    def entropy(self) -> Tensor:
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        return self.logits.softmax(-1).flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values ``(K ** L, *batch, L * K)``; the last variable changes fastest."""
        variables, classes = self.logits.shape[-2:]
        if classes**variables > MOST_VALUES:
            raise NotImplementedError(
                f"{variables} variables of {classes} classes have {classes**variables:,} values; "
                f"at most {MOST_VALUES:,} are enumerated"
            )
        index = torch.cartesian_prod(*[torch.arange(classes)] * variables)
        index = index.reshape(-1, variables).to(self.logits.device)  # flat if L is 1
        values = one_hot(index, classes).to(self.logits).flatten(-2)
        values = values.reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values


class RelaxedOneHots(_Variables):
    r"""Concrete variables, side by side: a differentiable relaxation of one-hot variables.

    .. math::
        z_l = \operatorname{softmax} \frac{\log \pi_l + g_l}{T}, \qquad
        p(z) = \prod_{l=1}^{L} \Gamma(K) \, T^{K-1} \,
        \frac{\prod_k w_{lk} / z_{lk}}{(\sum_k w_{lk})^K}, \qquad w_{lk} = \pi_{lk} z_{lk}^{-T}

    with independent Gumbel variables g. As the temperature goes to zero, :math:`z_l` becomes
    one-hot with probabilities :math:`\pi_l`, and its other coordinates become smaller than any
    floating-point number. A coordinate below ``floor`` is set to it, and its density replaced by
    the mass of everything below, by integrating it out:

    .. math::
        \Gamma(K - m) \, T^{K - m - 1} \,
        \frac{\prod_{k \text{ above}} w_k / z_k}{(\sum_k w_k)^{K - m}}

    for m such coordinates of K. Densities are therefore exact up to rounding for all representable
    values, and a divergence is one between two distributions. The gradient of a draw ignores the
    floor, about :math:`10^{-30}` in float32: it is too small where most draws of a coordinate are
    at the floor, which holds for classes with probability below :math:`10^{-3}` at temperature 0.1
    and below :math:`10^{-7}` at 0.25.

    References:
        Maddison, Mnih and Teh (2017), The Concrete Distribution, arXiv:1611.00712;
        Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        arXiv:1611.01144

    Args:
        logits: :math:`\log \pi` up to a constant for each variable ``(*batch, L, K)``.
        temperature: :math:`T`, positive.
        floor: smallest coordinate; None chooses one well above the smallest number of the dtype.

    Example:
        >>> from pyrovae.distributions import RelaxedOneHots
        >>> z = RelaxedOneHots(torch.zeros(2, 3), temperature=0.5).rsample()
        >>> torch.allclose(z.unflatten(-1, (2, 3)).sum(-1), torch.ones(2))
        True
    """

    has_rsample = True

    def __init__(
        self,
        logits: Tensor,
        temperature: Tensor | float,
        floor: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if isinstance(temperature, Tensor):
            self.temperature = temperature.to(logits)
        else:
            self.temperature = logits.new_full((), temperature)
        # above the smallest number, because gradients contain its inverse times other factors
        self.floor = torch.finfo(logits.dtype).tiny ** 0.8 if floor is None else floor
        super().__init__(logits, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return Simplices(self.classes)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "RelaxedOneHots":
        parts = {"temperature": self.temperature, "floor": self.floor}
        logits = self._expanded_logits(batch_shape)
        return expanded(self, RelaxedOneHots, _instance, batch_shape, logits=logits, **parts)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = Size([*sample_shape, *self.logits.shape])
        tiny = torch.finfo(self.logits.dtype).tiny
        gumbel = -torch.empty_like(self.logits.expand(shape)).exponential_().clamp(min=tiny).log()
        z = ((self.logits + gumbel) / self.temperature).softmax(-1)
        return z.clamp(min=self.floor).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        z = self._parts(value)
        below = z <= self.floor
        log_z = torch.where(below, self.floor, z).log()
        log_w = self.logits - self.temperature * log_z
        above = self.classes - below.sum(-1)  # (*draws, *batch, L)
        log_density = torch.where(below, 0.0, log_w - log_z).sum(-1) - above * log_w.logsumexp(-1)
        constant = torch.lgamma(above.to(z)) + (above - 1) * self.temperature.log()
        return (log_density + constant).sum(-1)


def number_of_variables(latent_dim: int, classes: int) -> int:
    """The number of one-hot variables in a vector.

    Args:
        latent_dim: number L * K of dimensions of the vector.
        classes: number K of classes of each variable.

    Returns:
        L.

    Raises:
        ValueError: if there are fewer than two classes, or ``latent_dim`` is no multiple of them.

    Example:
        >>> from pyrovae.distributions import number_of_variables
        >>> number_of_variables(latent_dim=12, classes=3)
        4
    """
    if latent_dim < 2:
        raise ValueError(
            f"latent_dim must be at least 2 for one-hot vectors, which is one variable of two "
            f"classes then, got {latent_dim}"
        )
    if classes < 2 or latent_dim % classes:
        allowed = [str(k) for k in range(2, latent_dim + 1) if latent_dim % k == 0]
        raise ValueError(
            f"classes must be a divisor of latent_dim = {latent_dim}, from 2, got {classes}; take "
            f"one of {', '.join(allowed)}, or as many dimensions as variables times classes"
        )
    return latent_dim // classes


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
    support = sphere
    has_rsample = True

    def __init__(self, zero: Tensor, validate_args: bool | None = None) -> None:
        self.zero = zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "UniformSphere":
        zero = self.zero.expand(*batch_shape, *self.event_shape)
        return expanded(self, UniformSphere, _instance, batch_shape, zero=zero)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        z = self.zero.new_empty(self._extended_shape(sample_shape)).normal_()
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

    arg_constraints = {"loc": sphere, "concentration": constraints.positive}  # noqa: RUF012
    support = sphere
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
        parts = {"loc": loc, "concentration": self.concentration.expand(batch_shape)}
        return expanded(self, PowerSpherical, _instance, batch_shape, **parts)

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
