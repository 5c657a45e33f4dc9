r"""What importance weights say of the estimate that they make: its error, its bias, their tail.

.. math:: \hat L_K = \log \frac{1}{K} \sum_{k=1}^{K} w_k, \qquad
    w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

The mean weight has mean p(x), so :math:`\hat L_K` lies below log p(x) in expectation. By how much,
the weights themselves say, as far as their tail has been seen.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RELIABLE", "Weights", "pareto_shape", "weight_statistics"]

RELIABLE = 0.7
"""The Pareto shape above which Vehtari et al. (2024) find estimates and their errors unreliable."""

PRIOR_WEIGHT = 10  # of tail weights that a prior on the shape, around a half, counts for
TAIL = 5  # at least so many weights in a tail that is fitted


@dataclass(frozen=True)
class Weights:
    r"""Statistics of the K weights of each example, each ``(examples,)``.

    Attributes:
        standard_error: of :math:`\hat L_K`, by the delta method: that of the mean weight, relative
            to it. It means nothing where ``pareto_k`` is above ``RELIABLE``.
        ess: effective sample size, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`.
        pareto_k: :math:`\hat k`, the shape of the generalised Pareto distribution that the largest
            weights follow; moments of order :math:`1 / k` and above are infinite. NaN where there
            is no tail to fit: below 25 draws, or where the largest weights are equal.
        bias_corrected: the jackknife of :math:`\hat L_K`, with a bias of order :math:`K^{-2}`
            where that of :math:`\hat L_K` is of order :math:`K^{-1}`. It is no bound.
        at_a_tenth: the mean of ten bounds, each from a tenth of the draws: what they would give
            with K / 10. NaN below ten draws.
    """

    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    bias_corrected: Tensor
    at_a_tenth: Tensor


def weight_statistics(log_weights: Tensor) -> Weights:
    r"""Effective sample size, tail, standard error and bias of importance-weighted estimates.

    The first-order jackknife is

    .. math:: K \hat L_K - \frac{K - 1}{K} \sum_{k=1}^{K} \hat L_{K-1}^{(-k)}

    with the estimates that leave one draw out.

    References:
        Nowozin (2018), Debiasing Evidence Approximations: On Importance-weighted Autoencoders and
        Jackknife Variational Inference, ICLR; Vehtari, Simpson, Gelman, Yao and Gabry (2024),
        Pareto Smoothed Importance Sampling, arXiv:1507.02646

    Args:
        log_weights: :math:`\log w` of independent draws ``(K, examples)``, in double precision.

    Returns:
        The statistics of each example.
    """
    count = len(log_weights)
    log_sum = log_weights.logsumexp(0)
    share = (log_weights - log_sum).exp()  # (K, examples), sums to one
    squares = share.square().sum(0)
    nothing = torch.full_like(log_sum, math.nan)
    error = corrected = tenth = nothing
    if count > 1:
        # the variance of K times the shares, with K - 1 below the sum of squares
        error = ((squares * count - 1).clamp_min(0) / (count - 1)).sqrt()
        corrected = log_sum - count * math.log(count) + (count - 1) * math.log(count - 1)
        corrected = corrected - (count - 1) * _log_of_the_others(log_weights, log_sum).mean(0)
    if count >= 10:
        parts = log_weights[: count // 10 * 10].unflatten(0, (10, -1))  # (10, K / 10, examples)
        tenth = (parts.logsumexp(1) - math.log(count // 10)).mean(0)
    return Weights(error, 1 / squares, pareto_shape(log_weights), corrected, tenth)


def _log_of_the_others(log_weights: Tensor, log_sum: Tensor) -> Tensor:
    """The logarithm of the share of all weights but one, for each ``(K, examples)``."""
    largest = log_weights.argmax(0, keepdim=True)
    rest = log_weights.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True) - log_sum
    others = torch.log1p(-(log_weights - log_sum).exp())
    return others.scatter(0, largest, rest)  # one less the largest share has lost its digits


def pareto_shape(log_weights: Tensor) -> Tensor:
    r"""The shape :math:`\hat k` of the upper tail of weights, as in PSIS.

    The largest :math:`\min(K / 5, 3 \sqrt K)` weights, less the next one, are fitted by a
    generalised Pareto distribution: a mean over a grid of one of its parameters, weighed by the
    profile likelihood. The shape is then drawn to a half as if by ten weights more.

    References:
        Zhang and Stephens (2009), A New and Efficient Estimation Method for the Generalized Pareto
        Distribution, Technometrics 51; Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto
        Smoothed Importance Sampling, arXiv:1507.02646

    Args:
        log_weights: ``(K, examples)``.

    Returns:
        ``(examples,)``; NaN where there is no tail to fit.
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
    """The place of the first quartile among so many values in rising order."""
    return max(0, math.floor(size / 4 + 0.5) - 1)


def _fitted_shape(x: Tensor) -> Tensor:
    """Zhang and Stephens' estimate, positive for heavy tails, of values that rise ``(n, m)``."""
    n = len(x)
    grid = 30 + math.floor(math.sqrt(n))
    steps = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None] - 0.5
    theta = 1 / x[-1] + (1 - (grid / steps).sqrt()) / (3 * x[_quartile(n)])  # (grid, m)
    shapes = torch.stack([torch.log1p(-each * x).mean(0) for each in theta])
    profile = n * ((-theta / shapes).log() - shapes - 1)
    mean = (theta * profile.softmax(0)).sum(0)
    return torch.log1p(-mean * x).mean(0)
