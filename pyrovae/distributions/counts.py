r"""Distributions of counts, whose constants keep their digits."""

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor, nn
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyrovae.distributions.densities import LARGEST_FACTORIAL
from pyrovae.distributions.properties import expanded

__all__ = ["BetaBinomial", "Binomial", "NegativeBinomial", "log_choose"]

SMALLEST_DISPERSION = 1e-8  # of a beta-binomial; below, its gamma functions lose their digits


class Binomial(dist.Binomial):
    r"""The binomial distribution, with its constant computed in double precision.

    .. math:: p(x) = \binom{n}{x} \pi^x (1 - \pi)^{n - x}

    In float32 the three gamma functions of :math:`n = 255` are off by 0.03 for an image of 784
    pixels.

    Args:
        total_count: number n of trials, the same for all.
        logits: of :math:`\pi`.
        constants: :func:`log_choose` of all counts in the dtype of the logits, to look them up in;
            None computes them.

    Example:
        >>> from pyrovae.distributions import Binomial
        >>> round(Binomial(255, logits=torch.tensor(0.0)).log_prob(torch.tensor(127.0)).item(), 4)
        -2.9994
    """

    def __init__(
        self,
        total_count: int,
        logits: Tensor,
        constants: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.trials, self.constants = int(total_count), constants
        super().__init__(self.trials, logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "Binomial":
        new: Binomial = super().expand(batch_shape, self._get_checked_instance(Binomial, _instance))
        new.trials, new.constants = self.trials, self.constants
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, logits = self.total_count, self.logits
        positive = (logits.clamp_min(0) + logits - logits.clamp_max(0)) / 2
        normalizer = n * (positive + logits.abs().neg().exp().log1p())
        if self.constants is not None and self.constants.dtype == logits.dtype:
            constant = self.constants[value.long().clamp(0, self.trials)]
        else:
            constant = log_choose(self.trials, value).to(logits)
        return value * logits - normalizer + constant


class BetaBinomial(dist.TorchDistribution):
    r"""Counts out of a known total that vary more than binomial counts.

    The probability of a success is itself a beta variable, one for all trials of a count.

    .. math::
        p(x) = \binom{n}{x} \frac{B(x + a, \, n - x + b)}{B(a, b)}, \qquad
        a = \pi / \delta, \quad b = (1 - \pi) / \delta

    The mean is :math:`n \pi` and the variance
    :math:`n \pi (1 - \pi) (1 + (n - 1) \frac{\delta}{1 + \delta})`. It tends to the binomial
    distribution as :math:`\delta \to 0`, and to all or nothing as :math:`\delta \to \infty`. The
    gamma functions are computed in double precision, and dispersions below 10^-8 as this number.

    References:
        Skellam (1948), A Probability Distribution Derived from the Binomial Distribution by
        Regarding the Probability of Success as Variable between the Sets of Trials, JRSS B 10

    Args:
        total_count: number n of trials, the same for all.
        logits: of :math:`\pi`.
        dispersion: :math:`\delta`.

    Example:
        >>> from pyrovae.distributions import BetaBinomial
        >>> p = BetaBinomial(16, logits=torch.tensor(0.3), dispersion=0.5)
        >>> round(p.log_prob(torch.arange(17.0)).exp().sum().item(), 4)
        1.0
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real,
        "dispersion": constraints.positive,
    }

    def __init__(
        self,
        total_count: int,
        logits: Tensor | float,
        dispersion: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.dispersion = broadcast_all(logits, dispersion)
        self.total_count = int(total_count)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    def expand(self, batch_shape: Size, _instance: "BetaBinomial | None" = None) -> "BetaBinomial":
        parts = {
            "logits": self.logits.expand(batch_shape),
            "dispersion": self.dispersion.expand(batch_shape),
            "total_count": self.total_count,
        }
        return expanded(self, BetaBinomial, _instance, batch_shape, **parts)

    @property
    def mean(self) -> Tensor:
        return self.total_count * torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        each = torch.sigmoid(self.logits) * torch.sigmoid(-self.logits)
        correlation = self.dispersion / (1 + self.dispersion)  # of two trials
        return self.total_count * each * (1 + (self.total_count - 1) * correlation)

    @torch.no_grad()
    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        log_gamma = []
        for sign in (1, -1):
            _, count = self._log_and_count(sign)
            u = torch.rand(shape, dtype=count.dtype, device=count.device)
            u = u.clamp_min(torch.finfo(u.dtype).tiny)
            # the logarithm of a gamma variable, which itself may be too small for a number
            larger = torch._standard_gamma((count + 1).expand(shape))
            log_gamma.append(larger.log() + u.log() / count)
        success = torch.sigmoid(log_gamma[0] - log_gamma[1])
        trials = torch.full_like(success, self.total_count)
        return torch.binomial(trials, success).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, n = value.double(), self.total_count
        whole = 1 / self._spread()
        rising = torch.lgamma(whole + n) - torch.lgamma(whole)
        found = self._log_rising(1, x) + self._log_rising(-1, n - x) - rising
        return (found + log_choose(n, x)).to(self.logits.dtype)

    def _spread(self) -> Tensor:
        return self.dispersion.double().clamp_min(SMALLEST_DISPERSION)

    def _log_and_count(self, sign: int) -> tuple[Tensor, Tensor]:
        """log a and a, or with sign -1 those of b, in double precision."""
        log = nn.functional.logsigmoid(sign * self.logits.double()) - self._spread().log()
        return log, log.exp()

    def _log_rising(self, sign: int, k: Tensor) -> Tensor:
        """The logarithm of a (a + 1) ... (a + k - 1), or with sign -1 of the same for b."""
        log, a = self._log_and_count(sign)
        some = log + torch.lgamma(a + k.clamp_min(1)) - torch.lgamma(a + 1)
        return torch.where(k > 0, some, torch.zeros_like(some))


def log_choose(n: int, k: Tensor) -> Tensor:
    r"""The logarithms of binomial coefficients :math:`\binom{n}{k}`, in double precision.

    Args:
        n: number of trials.
        k: counts of any shape.

    Example:
        >>> from pyrovae.distributions import log_choose
        >>> log_choose(4, torch.arange(5)).exp().round()
        tensor([1., 4., 6., 4., 1.], dtype=torch.float64)
    """
    k = k.double()
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


class NegativeBinomial(dist.NegativeBinomial):
    r"""The negative binomial distribution, with its constant computed in double precision.

    .. math:: p(x) = \frac{\Gamma(x + r)}{x! \, \Gamma(r)} (1 - \pi)^r \pi^x

    Near the Poisson distribution, where r is large, the two gamma functions are large and nearly
    equal: in float32 the logarithm of their quotient is off by more than 1 at :math:`r = 10^7`. For
    counts above a million the quotient is taken from Stirling's formula.

    Example:
        >>> from pyrovae.distributions import NegativeBinomial
        >>> p = NegativeBinomial(torch.tensor(1e7), logits=torch.tensor(1e-7).log())
        >>> round(p.log_prob(torch.tensor(0.0)).item(), 3)  # nearly a Poisson with mean 1
        -1.0
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        r, x = self.total_count.double(), value.double()
        few = x.clamp_max(LARGEST_FACTORIAL)
        rising = torch.lgamma(few + r) - torch.lgamma(r) - torch.lgamma(few + 1)
        many = x.clamp_min(LARGEST_FACTORIAL)
        ratio = (many + 0.5) * torch.log1p((r - 1) / (many + 1)) + (r - 1) * ((many + r).log() - 1)
        constant = torch.where(x > LARGEST_FACTORIAL, ratio - torch.lgamma(r), rising)
        failures = self.total_count * nn.functional.logsigmoid(-self.logits)
        return failures + value * nn.functional.logsigmoid(self.logits) + constant.to(failures)
