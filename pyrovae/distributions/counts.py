r"""Distributions of counts, whose constants keep their digits."""

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor, nn

from pyrovae.distributions.densities import LARGEST_FACTORIAL

__all__ = ["Binomial", "NegativeBinomial", "log_choose"]


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
