r"""Results for each example: log p(x) or bounds on it, and statistics of importance weights.

.. math:: \hat L_K = \log \frac{1}{K} \sum_{k=1}^{K} w_k, \qquad
    w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

The mean weight has mean p(x), so :math:`\hat L_K` lies below log p(x) in expectation. The weights
themselves show by how much, as far as the draws have reached their tail.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import Delta
from torch import Tensor

from pyrovae._process.isolation import evaluating
from pyrovae.distributions import base
from pyrovae.estimates import Estimate, Examples, Result
from pyrovae.evidence.outliers import error_of_mean
from pyrovae.vae import VAE

__all__ = [
    "FITTED",
    "NO_BOUND",
    "NO_ELBO",
    "RELIABLE",
    "Bounds",
    "Evidence",
    "EvidenceEstimate",
    "Range",
    "Sandwich",
    "WeightSummary",
    "WeightedBounds",
    "Weights",
    "bits_per_dimension",
    "in_units",
    "kind",
    "pareto_shape",
    "weight_statistics",
]

NO_BOUND = "log p(x, z) at one point z: no bound on log p(x), since a point has no density"
"""Name of the estimate for a posterior that is a point."""
NO_ELBO = "; the ELBO is none, since q is a point"
"""Ending of the name of a bound whose draws are not from this point."""
FITTED = {
    "refined": "from q refined for each example",
    "mixture": "from a mixture fitted to each example",
}
"""Words for proposals that are fitted to each example."""
RELIABLE = 0.7
"""The Pareto shape above which Vehtari et al. (2024) find estimates and their errors unreliable."""

DENSITIES = ("elbo", "reconstruction", "log_evidence", "at_a_tenth", "bias_corrected")
"""Results for each example that are log densities of x, so that they depend on its units."""

PRIOR_WEIGHT = 10  # tail weights that the prior on the shape, centered at a half, is worth
TAIL = 5  # fewest weights in a tail that is fitted
LARGEST_CORRECTION = 1e3  # in nats; beyond, the weights are too uneven for a jackknife


class Range(Result):
    """Median and extremes of one number for each example.

    Example:
        >>> Range.of(torch.tensor([3.0, 1.0, 2.0]))
        Range(median=2, minimum=1, maximum=3)
    """

    median: float
    minimum: float
    maximum: float

    @staticmethod
    def of(values: Tensor) -> "Range":
        """The range of ``values`` ``(examples,)``."""
        median = values.double().median().item()
        return Range(median, values.min().item(), values.max().item())


class EvidenceEstimate(Estimate):
    """Mean of log p(x) over examples, in nats.

    Attributes:
        value: the mean.
        standard_error: its standard error, None for a single example. It includes both the
            variation between examples and the error of each of them.
        sampling_error: the part that is due to sampling (or quadrature) alone; None if it is not
            known.
        samples: draws, chains or values of z for each example; None where none are made.
        kind: whether the numbers are exact, estimates, or which kind of bound.

    Example:
        >>> pyrovae.evaluate(vae, data, samples=10).log_evidence.kind
        'importance-weighted lower bound'
    """

    sampling_error: float | None
    samples: int | None
    kind: str

    def __repr__(self) -> str:
        return f"{super().__repr__()} ({self.kind})"


class Evidence(Result):
    """log p(x) of each example by one method, in nats.

    Attributes:
        log_evidence: ``(examples,)``.
        standard_error: ``(examples,)``, the error of the method for a given example, from sampling
            or quadrature; zero for a formula.
        kind: whether the numbers are exact, estimates, or which kind of bound.
        samples: draws, chains or values of z for each example; None where none are made.
        details: further results for each example by name, each ``(examples, ...)``.

    Example:
        >>> pyrovae.evidence.integrated(vae, x[:2]).mean().kind
        'exact to the error of integration'
    """

    log_evidence: Tensor
    standard_error: Tensor
    kind: str
    samples: int | None
    details: dict[str, Tensor]

    def mean(self) -> EvidenceEstimate:
        """Average over examples."""
        mean = Estimate.of(self.log_evidence)
        error = error_of_mean(self.standard_error)
        return EvidenceEstimate(mean.value, mean.standard_error, error, self.samples, self.kind)

    def ranges(self) -> dict[str, Range]:
        """Median and extremes of the details that are one number for each example."""
        return {name: Range.of(each) for name, each in self.details.items() if each.dim() == 1}

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        values = {"log_evidence": self.log_evidence, "standard_error": self.standard_error}
        return values | self.details


class Sandwich(Result):
    """Two bounds on log p(x) for examples that were drawn from the model.

    Attributes:
        lower: annealed importance sampling from the prior or q to the posterior.
        upper: the same path backwards, from the z that x was drawn from.
        x: the examples ``(examples, *event_shape)``.

    Example:
        >>> both = pyrovae.evidence.sandwich(vae, 4, samples=4, temperatures=20)
        >>> both.lower.log_evidence.shape, both.x.shape
        (torch.Size([4]), torch.Size([4, 1, 8, 8]))
    """

    lower: Evidence
    upper: Evidence
    x: Tensor

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        lower = {f"lower_{name}": array for name, array in self.lower.arrays().items()}
        upper = {f"upper_{name}": array for name, array in self.upper.arrays().items()}
        return lower | upper | {"x": self.x}


class WeightSummary(Result):
    r"""Importance weights of all examples, summarized.

    Attributes:
        at_a_tenth: mean of the bound from a tenth of the draws; None below ten draws.
        bias_corrected: mean of the jackknife estimate, which is no bound.
        sampling_error: the part of the standard error of the mean of :math:`\hat L_K` that is due
            to the draws; None if the mean is not finite.
        median_ess: median of the effective sample size over examples.
        minimum_ess: its minimum.
        unreliable: share of the examples whose Pareto shape is above ``RELIABLE``.
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
    unreliable: float
    largest_pareto_k: float | None

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with both effective sample sizes under ``ess``."""
        found = super().to_dict()
        ess = {name: found.pop(f"{name}_ess") for name in ("median", "minimum")}
        tail = {name: found.pop(name) for name in ("unreliable", "largest_pareto_k")}
        return found | {"ess": ess} | tail


class Weights(Result):
    r"""Statistics of the K weights of each example, each ``(examples,)``.

    Attributes:
        standard_error: standard error of :math:`\hat L_K` by the delta method: the relative
            standard error of the mean weight. Meaningless where ``pareto_k`` is above ``RELIABLE``,
            and NaN where all weights are zero.
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

    def summary(self) -> WeightSummary:
        """Summarize the weights of all examples."""
        fitted = self.pareto_k[~self.pareto_k.isnan()]
        return WeightSummary(
            at_a_tenth=None if self.at_a_tenth.isnan().any() else Estimate.of(self.at_a_tenth),
            bias_corrected=Estimate.of(self.bias_corrected),
            sampling_error=error_of_mean(self.standard_error),
            median_ess=self.ess.median().item(),
            minimum_ess=self.ess.min().item(),
            unreliable=(self.pareto_k > RELIABLE).double().mean().item(),
            largest_pareto_k=fitted.max().item() if len(fitted) else None,
        )


class Bounds(Result):
    """Estimates for each example from one set of draws, each ``(examples,)``, in nats.

    Attributes:
        elbo: mean over draws of log p(x, z) - log q(z | x).
        reconstruction: mean over draws of log p(x | z).
        kl: mean over draws of log q(z | x) - log p(z).
        log_evidence: importance-weighted bound from all draws together.

    Example:
        >>> found = pyrovae.evidence.bounds(vae, x, 10)
        >>> torch.allclose(found.elbo, found.reconstruction - found.kl)
        True
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_evidence: Tensor


class WeightedBounds(Weights, Bounds):
    """Bounds for each example, with diagnostics of the importance weights.

    Example:
        >>> pyrovae.evidence.bounds(vae, x, 10).ess.shape
        torch.Size([64])
    """

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        return dict(vars(self))


def in_units(found: Mapping[str, Tensor], log_slope: Tensor | None) -> dict[str, Tensor]:
    """Turn results for scaled examples into those for the data in their own units.

    Args:
        found: results for each example ``(examples,)`` by name.
        log_slope: what a log density gains, ``(examples,)``, see
            :meth:`pyrovae.data.Split.log_slope`; None if nothing was scaled.

    Returns:
        The results; those that are no log densities of x, such as a KL term, are as they were.

    Example:
        >>> in_units({"elbo": torch.zeros(2), "kl": torch.ones(2)}, torch.ones(2))
        {'elbo': tensor([1., 1.]), 'kl': tensor([1., 1.])}
    """
    if log_slope is None:
        return dict(found)
    return {n: v + log_slope if n in DENSITIES else v for n, v in found.items()}


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
    squares = share.square().sum(0)
    impossible = log_sum == -math.inf
    nothing = torch.full_like(log_sum, math.nan)
    error = corrected = tenth = nothing
    if count > 1:
        # standard deviation of K times the shares, dividing by K - 1
        error = ((squares * count - 1).clamp_min(0) / (count - 1)).sqrt()
        corrected = log_sum - count * math.log(count) + (count - 1) * math.log(count - 1)
        corrected = corrected - (count - 1) * _log_of_the_others(log_weights, log_sum).mean(0)
        bound = log_sum - math.log(count)
        corrected = torch.where(corrected - bound > LARGEST_CORRECTION, bound, corrected)
        corrected = torch.where(impossible, log_sum, corrected)
    if count >= 10:
        parts = log_weights[: count // 10 * 10].unflatten(0, (10, -1))  # (10, K / 10, examples)
        tenth = (parts.logsumexp(1) - math.log(count // 10)).mean(0)
    size = torch.where(impossible, 0.0, 1 / squares)
    return Weights(error, size, pareto_shape(log_weights), corrected, tenth)


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


def kind(vae: VAE, data: Examples, samples: int, proposal: str = "posterior") -> str:
    """Name the estimate of log p(x) that weighted draws give.

    Args:
        vae: the model and its posterior.
        data: the examples; only the first is used.
        samples: draws for each example.
        proposal: what z is drawn from.

    Example:
        >>> kind(vae, data, samples=1_000)
        'importance-weighted lower bound'
    """
    with torch.no_grad(), evaluating(vae):
        point = isinstance(base(vae.posterior(vae.place(next(iter(data.batches(1)))))), Delta)
    if point and proposal != "mixture":
        return NO_BOUND
    if proposal in FITTED:
        return f"importance-weighted lower bound, {FITTED[proposal]}" + (NO_ELBO if point else "")
    return "importance-weighted lower bound" if samples > 1 else "evidence lower bound"


def bits_per_dimension(nats: float, event_shape: Sequence[int]) -> float:
    r"""Convert a log-probability of one example to bits per dimension.

    .. math:: -\frac{\log p(x)}{D \ln 2}

    This is a code length if the likelihood is a probability of the data as they are: ``bernoulli``
    for bits, and for counts ``binomial``, ``discretized_logistic``, ``categorical``, ``poisson``
    and ``negative_binomial``, which can be compared with each other. A density depends on the unit
    of x: for :math:`x / m` the bits are lower by :math:`\log_2 m` than for x, and neither can be
    compared with a probability. A lower bound on log p(x) gives an upper bound on the bits.

    Args:
        nats: log p(x), or a bound on it, in nats per example.
        event_shape: shape of one observation, with D dimensions in all.

    Returns:
        Bits per dimension. Standard errors are converted by the same factor.

    Raises:
        ValueError: if an observation has no dimensions.

    Example:
        >>> round(bits_per_dimension(-36.0, (1, 8, 8)), 2)
        0.81
    """
    dimensions = math.prod(event_shape)
    if not event_shape or dimensions < 1:
        raise ValueError(
            f"event_shape must have at least one dimension, all positive, got {tuple(event_shape)}"
        )
    return -nats / (dimensions * math.log(2))
