r"""Importance weights: the error and the bias of the bound they give, and how far to trust both.

.. math:: \hat L_K = \log \frac{1}{K} \sum_{k=1}^{K} w_k

Weights tell only of what they have seen. If q has lighter tails than the posterior, then some rare
draw with a huge weight decides the mean, and most sets of K draws lack it. The largest weights show
this: their tail is fitted, and its shape compared with what K draws can bear.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence.outliers import error_of_mean

__all__ = [
    "WeightSummary",
    "Weights",
    "jackknife_error",
    "pareto_shape",
    "reliable_below",
    "weight_statistics",
]

PRIOR_WEIGHT = 10  # tail weights that the prior on the shape, centered at a half, is worth
TAIL = 5  # fewest weights in a tail that is fitted
LARGEST_SHAPE = 0.7  # that any number of draws can bear
LARGEST_CORRECTION = 1e3  # in nats; beyond, the weights are too uneven for a jackknife


def reliable_below(draws: int) -> float:
    r"""The Pareto shape up to which a number of draws gives a reliable estimate and error.

    .. math:: \min\left(1 - \frac{1}{\log_{10} K}, 0.7\right)

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto Smoothed Importance Sampling,
        arXiv:1507.02646

    Args:
        draws: number K of independent draws.

    Raises:
        ValueError: if there are fewer than two draws.

    Example:
        >>> [round(reliable_below(draws), 2) for draws in (50, 100, 1_000, 5_000)]
        [0.41, 0.5, 0.67, 0.7]
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}: one weight has no tail")
    return min(1 - 1 / math.log10(draws), LARGEST_SHAPE)


class WeightSummary(Result):
    r"""Importance weights of all examples, summarized.

    Attributes:
        at_a_tenth: mean of the bound from a tenth of the draws; None below ten draws.
        bias_corrected: mean of the jackknife estimate, which is no bound.
        sampling_error: the part of the standard error of the mean of :math:`\hat L_K` that is due
            to the draws; None if the mean is not finite.
        median_ess: median of the effective sample size over examples.
        minimum_ess: its minimum.
        reliable_below: largest Pareto shape that the draws can bear, see :func:`reliable_below`.
        unreliable: share of the examples whose Pareto shape is above that.
        unreliable_error: its standard error over examples. It is binomial, for two examples more of
            either kind (Agresti and Coull 1998), so that it is not zero where the share is 0 or 1.
            None in files that were written before it was kept.
        largest_pareto_k: largest Pareto shape; None if no tail could be fitted.

    Example:
        >>> weights = pyrovae.evaluate(vae, data, samples=100).weights
        >>> weights.bias_corrected.value > weights.at_a_tenth.value
        True
    """

    at_a_tenth: Estimate | None
    bias_corrected: Estimate
    sampling_error: float | None
    median_ess: float
    minimum_ess: float
    reliable_below: float
    unreliable: float
    unreliable_error: float | None
    largest_pareto_k: float | None

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with both effective sample sizes under ``ess``."""
        found = super().to_dict()
        ess = {name: found.pop(f"{name}_ess") for name in ("median", "minimum")}
        names = ("reliable_below", "unreliable", "unreliable_error", "largest_pareto_k")
        tail = {name: found.pop(name) for name in names}
        return found | {"ess": ess} | tail


class Weights(Result):
    r"""Statistics of the K weights of each example, each ``(examples,)``.

    Attributes:
        standard_error: standard error of :math:`\hat L_K` by the jackknife, see
            :func:`jackknife_error`. Where ``pareto_k`` is above :func:`reliable_below` it is a
            lower limit in most cases. NaN where all weights are zero, or where there is one draw.
        ess: effective sample size, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`; zero where all weights
            are.
        pareto_k: :math:`\hat k`, the shape of the generalized Pareto distribution that the largest
            weights follow; moments of order :math:`1 / k` and above are infinite. NaN where there
            is no tail to fit: below 25 draws, or where the largest weights are equal.
        bias_corrected: jackknife of :math:`\hat L_K`, with a bias of order :math:`K^{-2}` instead
            of :math:`K^{-1}`. It is no bound. Where the weights are so uneven that the correction
            exceeds 1,000 nats, it is :math:`\hat L_K` itself.
        at_a_tenth: mean of ten bounds, each from a tenth of the draws: the bound for K / 10 draws.
            NaN below ten draws.

    Example:
        >>> weight_statistics(torch.zeros(100, 3, dtype=torch.float64)).ess.round()
        tensor([100., 100., 100.], dtype=torch.float64)
    """

    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    bias_corrected: Tensor
    at_a_tenth: Tensor

    def summary(self, draws: int) -> WeightSummary:
        """Summarize the weights of all examples.

        Args:
            draws: number K of weights of each example, at least 2.
        """
        fitted = self.pareto_k[~self.pareto_k.isnan()]
        most = reliable_below(draws)
        unreliable = (self.pareto_k > most).double()
        count = len(unreliable) + 4
        share = (unreliable.sum().item() + 2) / count
        return WeightSummary(
            at_a_tenth=None if self.at_a_tenth.isnan().any() else Estimate.of(self.at_a_tenth),
            bias_corrected=Estimate.of(self.bias_corrected),
            sampling_error=error_of_mean(self.standard_error),
            median_ess=self.ess.median().item(),
            minimum_ess=self.ess.min().item(),
            reliable_below=most,
            unreliable=unreliable.mean().item(),
            unreliable_error=math.sqrt(share * (1 - share) / count),
            largest_pareto_k=fitted.max().item() if len(fitted) else None,
        )


def weight_statistics(log_weights: Tensor) -> Weights:
    r"""Compute effective sample size, tail, standard error and bias of importance weighting.

    The first-order jackknife is

    .. math:: K \hat L_K - \frac{K - 1}{K} \sum_{k=1}^{K} \hat L_{K-1}^{(-k)}

    where :math:`\hat L_{K-1}^{(-k)}` is the estimate without draw k.

    References:
        Nowozin (2018), Debiasing Evidence Approximations: On Importance-weighted Autoencoders and
        Jackknife Variational Inference, ICLR; Vehtari, Simpson, Gelman, Yao and Gabry (2024),
        Pareto Smoothed Importance Sampling, arXiv:1507.02646

    Args:
        log_weights: :math:`\log w` of independent draws ``(K, examples)``, in double precision.

    Returns:
        Statistics for each example.

    Example:
        >>> weight_statistics(torch.randn(100, 3).double()).pareto_k.shape
        torch.Size([3])
    """
    count = len(log_weights)
    log_sum = log_weights.logsumexp(0)
    share = (log_weights - log_sum).exp()  # (K, examples), sums to one
    impossible = log_sum == -math.inf
    nothing = torch.full_like(log_sum, math.nan)
    error = corrected = tenth = nothing
    if count > 1:
        others = _log_of_the_others(log_weights, log_sum)
        error = _spread(others).sqrt()
        corrected = log_sum - count * math.log(count) + (count - 1) * math.log(count - 1)
        corrected = corrected - (count - 1) * others.mean(0)
        bound = log_sum - math.log(count)
        corrected = torch.where(corrected - bound > LARGEST_CORRECTION, bound, corrected)
        corrected = torch.where(impossible, log_sum, corrected)
    if count >= 10:
        parts = log_weights[: count // 10 * 10].unflatten(0, (10, -1))  # (10, K / 10, examples)
        tenth = (parts.logsumexp(1) - math.log(count // 10)).mean(0)
    size = torch.where(impossible, 0.0, 1 / share.square().sum(0))
    return Weights(error, size, pareto_shape(log_weights), corrected, tenth)


def jackknife_error(log_weights: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    r"""Estimate the standard error of the bound from how it moves without each of the draws.

    .. math::
        s^2 = \frac{K - 1}{K} \sum_{k=1}^{K} \left(\hat L_{K-1}^{(-k)} - \bar L\right)^2

    Here :math:`\hat L_{K-1}^{(-k)}` is the bound without draw k, and :math:`\bar L` the mean of
    these. The sum is at least the variance of :math:`\hat L_{K-1}` in expectation, whatever the
    weights. The delta method, the relative standard error of the mean weight, is too small where
    few weights count: it never exceeds 1 nat.

    References:
        Efron and Stein (1981), The Jackknife Estimate of Variance, Annals of Statistics 9

    Args:
        log_weights: logarithms of the weights of K draws ``(K, examples)``, in double precision.
        counts: if fixed numbers of draws come from several parts of a mixture, these numbers, each
            at least 2, in the order of the draws. The sum is then over each part by itself, since
            no chance decides between parts. None for independent draws from one distribution.

    Returns:
        Errors ``(examples,)``; NaN where all weights are zero.

    Example:
        >>> log_w = torch.tensor([[0.0], [0.0], [3.0], [3.0]]).double()
        >>> [round(jackknife_error(log_w, counts).item(), 2) for counts in (None, (2, 2))]
        [0.54, 0.0]
    """
    log_sum = log_weights.logsumexp(0)
    parts = log_weights.split([len(log_weights)] if counts is None else list(counts))
    sums = torch.stack([part.logsumexp(0) for part in parts])  # (parts, examples)
    variance = torch.zeros_like(log_sum)
    for place, (part, own) in enumerate(zip(parts, sums, strict=True)):
        rest = torch.cat([sums[:place], sums[place + 1 :]]).logsumexp(0) - log_sum
        without = _log_of_the_others(part, own) + (own - log_sum)  # (draws of the part, examples)
        without = torch.where(own == -math.inf, -math.inf, without)
        grown = math.log(len(part) / (len(part) - 1))
        variance = variance + _spread(torch.logaddexp(rest, without + grown))
    return torch.where(log_sum == -math.inf, math.nan, variance.sqrt())


def _spread(bounds: Tensor) -> Tensor:
    """Jackknife variance from bounds without each draw ``(K, examples)``, up to a constant."""
    bounds = bounds.clamp_min(-LARGEST_CORRECTION)
    return (bounds - bounds.mean(0)).square().sum(0) * ((len(bounds) - 1) / len(bounds))


def _log_of_the_others(log_weights: Tensor, log_sum: Tensor) -> Tensor:
    """Logarithm of the share of all weights but one, for each ``(K, examples)``."""
    largest = log_weights.argmax(0, keepdim=True)
    rest = log_weights.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True) - log_sum
    others = torch.log1p(-(log_weights - log_sum).exp())
    return others.scatter(0, largest, rest)  # 1 - largest share cancels


def pareto_shape(log_weights: Tensor) -> Tensor:
    r"""Estimate the shape :math:`\hat k` of the upper tail of weights, as PSIS does.

    A generalized Pareto distribution is fitted to the excess of the largest
    :math:`\min(K / 5, 3 \sqrt K)` weights over the next one. The fit averages over a grid of one
    parameter, weighted by the profile likelihood. The shape is then shrunk towards a half, as if by
    ten more weights.

    References:
        Zhang and Stephens (2009), A New and Efficient Estimation Method for the Generalized Pareto
        Distribution, Technometrics 51; Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto
        Smoothed Importance Sampling, arXiv:1507.02646

    Args:
        log_weights: ``(K, examples)``.

    Returns:
        Shapes ``(examples,)``; NaN where there is no tail to fit.

    Example:
        >>> cauchy = torch.distributions.HalfCauchy(1.0).sample((1_000, 5))
        >>> bool((pareto_shape(cauchy.log()) > 0.5).all())
        True
    """
    count = len(log_weights)
    size = min(count // 5, math.ceil(3 * math.sqrt(count)))
    if size < TAIL:
        return torch.full_like(log_weights[0], math.nan)
    top = log_weights.topk(size + 1, 0).values  # largest first
    excess = ((top[:-1] - top[0]).exp() - (top[-1] - top[0]).exp()).flip(0)
    shape = _fitted_shape(excess)
    shape = (size * shape + PRIOR_WEIGHT * 0.5) / (size + PRIOR_WEIGHT)
    return torch.where(excess[_quartile(size)] > 0, shape, math.nan)


def _quartile(size: int) -> int:
    """Index of the first quartile among ``size`` values in increasing order."""
    return max(0, math.floor(size / 4 + 0.5) - 1)


def _fitted_shape(x: Tensor) -> Tensor:
    """Zhang and Stephens' estimate from sorted values ``(n, m)``; positive for heavy tails."""
    n = len(x)
    grid = 30 + math.floor(math.sqrt(n))
    steps = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None] - 0.5
    theta = 1 / x[-1] + (1 - (grid / steps).sqrt()) / (3 * x[_quartile(n)])  # (grid, m)
    shapes = torch.stack([torch.log1p(-each * x).mean(0) for each in theta])
    profile = n * ((-theta / shapes).log() - shapes - 1)
    mean = (theta * profile.softmax(0)).sum(0)
    return torch.log1p(-mean * x).mean(0)
