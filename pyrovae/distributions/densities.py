r"""Densities that torch and Pyro lack, or where theirs lose digits; normalizing flows.

For flows, ``pyro.contrib.zuko.ZukoToPyro`` has ``log_prob`` but no ``sample``, which everything
outside a Pyro program needs.
"""

import math
from types import ModuleType
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from pyrovae.distributions.properties import expanded

__all__ = [
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FlowDistribution",
    "Logistic",
    "StudentT",
    "cholesky_factor",
    "zuko_flows",
]

LARGEST_FACTORIAL = 1e6  # that is computed; above, it comes from Stirling's formula


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""The continuous Bernoulli, computed from its logits :math:`\ell` throughout.

    .. math:: p(x) = C \, e^{\ell x} / (1 + e^{\ell}), \qquad C = \frac{\ell}{\tanh(\ell / 2)}

    torch computes it from the probability, which rounds to 0 or 1: in float32 the constant stops
    growing at :math:`|\ell| \approx 16`, and the density of dark pixels no longer integrates to
    one. The same formulas in :math:`\ell` have no such limit.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845

    Example:
        >>> from pyrovae.distributions import ContinuousBernoulli
        >>> p = ContinuousBernoulli(logits=torch.tensor(-100.0))  # dark: density 100 at x = 0
        >>> p.log_prob(torch.tensor(0.0)).exp().round()
        tensor(100.)
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
        log_normalizer = nn.functional.softplus(self.logits) - self._cont_bern_log_norm()
        return log_normalizer - self.logits * self.mean

    def cdf(self, value: Tensor) -> Tensor:
        logits, small = self._away_from_zero(1e-3)
        inside, size = value.clamp(0, 1), logits.abs()
        x = torch.where(logits > 0, 1 - inside, inside)  # F(x) under l is 1 - F(1 - x) under -l
        u = torch.expm1(-size * x) / torch.expm1(-size)
        u = torch.where(logits > 0, 1 - u, u)
        return torch.where(small, inside - self.logits * inside * (1 - inside) / 2, u)

    def icdf(self, value: Tensor) -> Tensor:
        logits, small = self._away_from_zero(1e-3)
        size = logits.abs()
        u = torch.where(logits > 0, 1 - value, value)
        x = -torch.log1p(u * torch.expm1(-size)) / size
        x = torch.where(logits > 0, 1 - x, x)
        return torch.where(small, value + self.logits * value * (1 - value) / 2, x)

    def _away_from_zero(self, limit: float) -> tuple[Tensor, Tensor]:
        """The logits with those within ``limit`` of zero replaced by 1, and a mask of these."""
        small = self.logits.abs() < limit
        return torch.where(small, torch.ones_like(self.logits), self.logits), small


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic variable rounded to the nearest of the levels 0, ..., L - 1.

    With :math:`a_k = (k + \tfrac12 - \mu) / s` the mass of an inner level is

    .. math::
        P(k) = \sigma(a_k) - \sigma(a_{k-1})
             = \sigma(a_k) \, \sigma(-a_{k-1}) \, (1 - e^{-1/s})

    The lowest level takes all the mass below, :math:`\sigma(a_0)`, and the highest all the mass
    above, :math:`\sigma(-a_{L-2})`, so the masses sum to one. The product keeps its digits in the
    tails, where the difference loses all of them.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
        arXiv:1606.04934; Salimans et al. (2017), PixelCNN++, arXiv:1701.05517

    Args:
        loc: :math:`\mu`, in levels.
        scale: :math:`s`, in levels.
        levels: number L of levels.

    Raises:
        ValueError: if there are fewer than two levels.

    Example:
        >>> from pyrovae.distributions import DiscretizedLogistic
        >>> p = DiscretizedLogistic(loc=7.0, scale=2.0, levels=16)
        >>> round(p.log_prob(torch.arange(16.0)).exp().sum().item(), 4)
        1.0
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        levels: int,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(
        self, batch_shape: Size, _instance: "DiscretizedLogistic | None" = None
    ) -> "DiscretizedLogistic":
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        parts = {"loc": loc, "scale": scale, "levels": self.levels}
        return expanded(self, DiscretizedLogistic, _instance, batch_shape, **parts)

    @property
    def mean(self) -> Tensor:
        above = torch.zeros_like(self.loc)  # the sum of P(x >= k) over k >= 1
        for k in range(1, self.levels):
            above = above + torch.sigmoid((self.loc - k + 0.5) / self.scale)
        return above

    @torch.no_grad()
    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        tiny = torch.finfo(self.loc.dtype).tiny
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp_min(tiny)
        x = self.loc + self.scale * (u.log() - torch.log1p(-u))
        return x.round().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        below = nn.functional.logsigmoid((value + 0.5 - self.loc) / self.scale)
        above = nn.functional.logsigmoid((self.loc - value + 0.5) / self.scale)
        inside = below + above + (-torch.expm1(-1 / self.scale)).log()
        edges = torch.where(value == 0, below, inside)
        return torch.where(value == self.levels - 1, above, edges)


class Categorical(dist.Categorical):
    r"""Classes 0, ..., L - 1 as numbers: with a mean, and samples in the dtype of the parameters.

    .. math:: \mathbb{E}[x] = \sum_k k \, p_k

    Example:
        >>> from pyrovae.distributions import Categorical
        >>> Categorical(logits=torch.zeros(3)).mean
        tensor(1.)
    """

    @property
    def mean(self) -> Tensor:
        return self.probs @ self._values

    @property
    def variance(self) -> Tensor:
        return self.probs @ self._values.square() - self.mean.square()

    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return super().sample(sample_shape).to(self._param)

    @property
    def _values(self) -> Tensor:
        return torch.arange(self._num_events).to(self._param)


class _OpenUnitInterval(constraints.Constraint):
    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


class Beta(dist.Beta):
    r"""The beta distribution on the open unit interval, with its constant in double precision.

    .. math::
        p(x) = \frac{\Gamma(\alpha + \beta)}{\Gamma(\alpha) \Gamma(\beta)}
        x^{\alpha - 1} (1 - x)^{\beta - 1}

    At 0 and 1 the density is zero or infinite, so neither is in the support; torch includes both.
    Samples that round to 0 or 1 become the nearest number inside.

    Example:
        >>> from pyrovae.distributions import Beta
        >>> Beta(2.0, 3.0).support.check(torch.tensor([0.0, 0.5, 1.0]))
        tensor([False,  True, False])
    """

    support = _OpenUnitInterval()

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        x: Tensor = super().rsample(sample_shape)
        limits = torch.finfo(x.dtype)
        return x.clamp(limits.tiny, 1 - limits.eps / 2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b, x = (t.double() for t in (self.concentration1, self.concentration0, value))
        constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return (constant + (a - 1) * x.log() + (b - 1) * torch.log1p(-x)).to(self.concentration1)


class StudentT(dist.StudentT):
    r"""Student's t distribution, with a constant that is accurate for many degrees of freedom.

    .. math::
        p(x) = \frac{\Gamma(\frac{\nu + 1}{2})}{\Gamma(\frac{\nu}{2}) \sqrt{\pi \nu} \, s}
        \left(1 + \frac{(x - \mu)^2}{\nu s^2}\right)^{-(\nu + 1) / 2}

    torch subtracts the logarithms of two gamma functions, which are large and nearly equal: in
    float32 the constant is off by 0.004 at :math:`\nu = 10^4`. Here their asymptotic series takes
    over.

    Example:
        >>> from pyrovae.distributions import StudentT
        >>> nearly_normal = StudentT(torch.tensor(1e6)).log_prob(torch.tensor(0.0))
        >>> round(nearly_normal.item(), 4)
        -0.9189
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        y = (value - self.loc) / self.scale
        power = 0.5 * (self.df + 1) * torch.log1p(y.square() / self.df)
        return self._log_constant() - 0.5 * math.log(math.pi) - self.scale.log() - power

    def _log_constant(self) -> Tensor:
        large = self.df > 16
        few = torch.where(large, torch.ones_like(self.df), self.df)
        exact = torch.lgamma((few + 1) / 2) - torch.lgamma(few / 2) - few.log() / 2
        inverse = 2 / torch.where(large, self.df, torch.full_like(self.df, 16))
        square = inverse.square()
        terms = 1 / 8 - square * (1 / 192 - square * (1 / 640 - square * 17 / 14336))
        return torch.where(large, -0.5 * math.log(2) - inverse * terms, exact)


class Logistic(dist.Logistic):
    r"""The logistic distribution, whose draws are always finite.

    .. math:: p(x) = \frac{e^{-(x - \mu) / s}}{s \, (1 + e^{-(x - \mu) / s})^2}

    Pyro evaluates the inverse distribution function at a uniform number from [0, 1), which in
    float32 is 0 about once in ten million draws.

    Example:
        >>> from pyrovae.distributions import Logistic
        >>> Logistic(torch.zeros(3), torch.ones(3)).sample().isfinite()
        tensor([True, True, True])
    """

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        u = self.loc.new_empty(self._extended_shape(sample_shape)).uniform_()
        eps = torch.finfo(u.dtype).eps
        return self.icdf(u.clamp(eps / 2, 1 - eps / 2))


def cholesky_factor(log_diagonal: Tensor, below: Tensor) -> Tensor:
    """A lower triangular matrix with a positive diagonal, from unconstrained numbers.

    Args:
        log_diagonal: logarithms of the diagonal ``(*batch, n)``.
        below: entries below the diagonal, row by row ``(*batch, n * (n - 1) / 2)``.

    Returns:
        ``(*batch, n, n)``.

    Example:
        >>> from pyrovae.distributions import cholesky_factor
        >>> cholesky_factor(torch.zeros(2), torch.tensor([0.5]))
        tensor([[1.0000, 0.0000],
                [0.5000, 1.0000]])
    """
    # not torch's vec_to_tril_matrix: it fills by a mask, for which a GPU waits for the host
    n = log_diagonal.shape[-1]
    row, column = torch.tril_indices(n, n, -1, device=below.device)
    matrix = torch.diag_embed(log_diagonal.exp())
    lower = torch.zeros_like(matrix)
    lower[..., row, column] = below
    return matrix + lower


def zuko_flows() -> ModuleType:
    """The module ``zuko.flows``, imported without side effects.

    Importing zuko turns off torch's validation of distributions for the whole process; this
    function restores the previous setting.

    Example:
        >>> from pyrovae.distributions import zuko_flows
        >>> zuko_flows().MAF(2, transforms=1).__class__.__name__
        'MAF'
    """
    before = Distribution._validate_args
    try:
        from zuko import flows
    finally:
        Distribution.set_default_validate_args(before)
    return flows


class FlowDistribution(dist.TorchDistribution):
    r"""The distribution of z = f(e), where e follows a base distribution.

    .. math:: \log p(z) = \log p_0(e) - \log \left| \det \frac{\partial f}{\partial e} \right|

    One pass through f computes a draw and its log density. The log density of the last draw is kept
    and returned when ``log_prob`` is called with that same tensor, as Pyro does for a draw from the
    guide. For any other value f is inverted.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770

    Args:
        base: p_0 with event_dim 1; the flow has the same batch shape.
        transform: f, a zuko transform of vectors. If it depends on a context, the leading
            dimensions of the context are the batch shape of the base.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyrovae.distributions import FlowDistribution, zuko_flows
        >>> base = Normal(torch.zeros(2), torch.ones(2)).to_event(1)
        >>> FlowDistribution(base, zuko_flows().MAF(2).transform().inv).sample((5,)).shape
        torch.Size([5, 2])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: dist.TorchDistribution, transform: Any, validate_args: bool | None = None
    ) -> None:
        self.base, self.transform = base, transform
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "FlowDistribution":
        parts = {"base": self.base.expand(batch_shape), "transform": self.transform, "_last": None}
        return expanded(self, FlowDistribution, _instance, batch_shape, **parts)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        e = self.base.rsample(sample_shape)
        z, log_det = self.transform.call_and_ladj(e)
        self._last = z, self.base.log_prob(e) - log_det
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._last is not None and value is self._last[0]:
            log_prob = self._last[1]
            if log_prob.requires_grad or not torch.is_grad_enabled():
                return log_prob
        e, log_det = self.transform.inv.call_and_ladj(value)
        return self.base.log_prob(e) + log_det
