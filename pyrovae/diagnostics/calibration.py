r"""Simulation-based calibration: test q(z | x) on data drawn from the model itself.

Draw :math:`z^* \sim p(z)` and :math:`x \sim p(x \mid z^*)`. Then :math:`z^*` is a draw from the
exact posterior :math:`p(z \mid x)`. If q is that posterior, :math:`z^*` cannot be distinguished
from draws from :math:`q(z \mid x)`, and its rank among L of them, ordered by any function of z and
x, is uniform on 0, ..., L. If a histogram of ranks over many such x is not flat, its shape shows
how q is wrong.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae._process.memory import check_draws, rows_per_chunk
from pyrovae.distributions import is_discrete, is_point
from pyrovae.estimates import Estimate, Result
from pyrovae.vae import VAE

__all__ = [
    "BINS",
    "LEVEL",
    "PERMUTATIONS",
    "Calibration",
    "Coverage",
    "RankedFunction",
    "Uniformity",
    "calibrate",
    "uniformity",
]

Array = NDArray[Any]

BINS = 20
"""Bins of a histogram of ranks."""

PERMUTATIONS = 999
"""Number of times that another draw is chosen at random in place of z*."""

LEVEL = 0.05
"""The p-value below which the verdict reports miscalibration."""

NOMINAL = (0.5, 0.8, 0.9)  # masses of central intervals; whole numbers of ranks for every L
SEEN = 3.0  # standard errors beyond which a shape is named
NAMED = 4  # functions named in the overall verdict
TAIL = 2  # bins at each end that a U fills and a cap leaves empty
ROWS = 2_000  # simulations times draws in a chunk, which has a seed of its own

ESTIMATOR = "rank of z* ~ p(z) among draws from q(z | x), x ~ p(x | z*)"
TEST = (
    f"chi-squared of {BINS} bins, the largest over all functions, against {PERMUTATIONS} random "
    "choices of which draw is called z*: exact for functions that depend on each other"
)


class Coverage(Result):
    """How often a central interval of q(z | x) contains z*.

    Attributes:
        nominal: mass of the interval under q.
        observed: share of the simulations whose z* it contains, with its standard error over
            simulations; equal to ``nominal`` for the exact posterior.

    Example:
        >>> from pyrovae.diagnostics import Coverage
        >>> Coverage(0.8, Estimate(0.65, 0.02))
        Coverage(nominal=0.8, observed=0.65 ± 0.02)
    """

    nominal: float
    observed: Estimate

    def to_dict(self) -> dict[str, object]:
        """Plain data on one level."""
        return {"nominal": self.nominal} | self.observed.to_dict()


class RankedFunction(Result):
    """The ranks of z* among draws from q(z | x), in the order of one function of z and x.

    Attributes:
        name: the function.
        mean_rank: mean rank between 0 and 1, 0.5 if uniform, with the standard error of uniform
            ranks.
        spread: mean squared distance of the rank from 0.5, in units of the uniform value, with the
            standard error of uniform ranks; 1 if uniform.
        histogram: counts of ranks in ``BINS`` bins.
        chi_squared: chi-squared statistic of the histogram.
        p_value: p-value of this function alone.
        adjusted_p_value: p-value adjusted for the number of functions.
        coverage: coverage of central intervals; None for functions without intervals.
        verdict: shape of the histogram in words.
        error_ratio: root mean squared error of q's mean, divided by the standard deviation that q
            claims, 1 for the exact posterior; None for functions other than dimensions of z.

    Example:
        >>> from pyrovae.diagnostics import calibrate
        >>> row = calibrate(vae, simulations=100, draws=19).functions[0]
        >>> row.name, sum(row.histogram), len(row.coverage)
        ('z1', 100, 3)
    """

    name: str
    mean_rank: Estimate
    spread: Estimate
    histogram: list[int]
    chi_squared: float
    p_value: float
    adjusted_p_value: float
    coverage: list[Coverage] | None
    verdict: str
    error_ratio: Estimate | None = None


class Uniformity(Result):
    """A test of whether ranks are uniform.

    Attributes:
        p_value: p-value of all functions together.
        test: the test in words.
        permutations: number of permutations behind the p-values.
        functions: the ranks by each function.
        coverage: mean coverage over all functions with intervals, for each nominal mass; None if
            there are none.
        verdict: the result in words.

    Example:
        >>> import numpy as np
        >>> from pyrovae.diagnostics import uniformity
        >>> uniformity(np.zeros((100, 20, 1)), ["nothing"]).functions[0].name
        'nothing'
    """

    p_value: float
    test: str
    permutations: int
    functions: list[RankedFunction]
    coverage: list[Coverage] | None
    verdict: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.verdict})"


def uniformity(
    values: Array, names: Sequence[str], *, seed: int = 0, intervals: Collection[str] = ()
) -> Uniformity:
    r"""Test whether the first of several values is exchangeable with the others.

    A rank among equal values is drawn at random. The statistic of a function is

    .. math:: X^2 = \sum_{b=1}^{B} \frac{(n_b - N / B)^2}{N / B}

    for counts :math:`n_b` of N ranks in B bins. Functions of the same z depend on each other, and
    so do their statistics. If the first value is exchangeable with the others, any other value may
    take its place. The statistics are therefore recomputed many times with a randomly chosen value
    for each x, and the p-values are the shares of these repetitions in which the largest statistic
    is at least as large. They are exact for any number of functions and any dependence.

    References:
        Westfall and Young (1993), Resampling-Based Multiple Testing, for p-values that account for
        looking at the largest of many statistics

    Args:
        values: ``(N, L + 1, functions)``, the true value first; L + 1 is a multiple of ``BINS``.
        names: names of the functions.
        seed: seed of ties and permutations.
        intervals: names of the functions for which to report the coverage of central intervals.

    Returns:
        The p-values, and the ranks by each function.

    Example:
        >>> import numpy as np
        >>> from pyrovae.diagnostics import uniformity
        >>> values = np.random.default_rng(0).normal(size=(100, 20, 1))
        >>> values[:, 0] += 5
        >>> uniformity(values, ["z"]).functions[0].verdict
        'too low'
    """
    count, among, _ = values.shape
    rng = np.random.default_rng(np.random.SeedSequence([seed, count, among]))
    ranks, true = _ranks(values, rng)
    every = np.arange(count)
    bins = ranks * BINS // among
    histograms = _histograms(bins[every, true])
    statistics = _chi_squared(histograms)
    largest = np.empty((PERMUTATIONS, 1))
    for number in range(PERMUTATIONS):
        chosen = rng.integers(among, size=count)
        largest[number] = _chi_squared(_histograms(bins[every, chosen])).max()
    adjusted = (1 + (largest >= statistics - 1e-9).sum(0)) / (1 + PERMUTATIONS)
    u = (ranks[every, true] + 0.5) / among  # (N, functions)
    functions = []
    for place, name in enumerate(names):
        mean_rank, spread = _moments(u[:, place], among)
        p_value = float(adjusted[place])
        row = RankedFunction(
            name=name,
            mean_rank=mean_rank,
            spread=spread,
            histogram=histograms[place].tolist(),
            chi_squared=float(statistics[place]),
            p_value=float(chi2.sf(statistics[place], BINS - 1)),
            adjusted_p_value=p_value,
            coverage=_coverage(u[:, place, None], NOMINAL) if name in intervals else None,
            verdict=_shape(histograms[place], mean_rank, spread) if p_value < LEVEL else "flat",
        )
        functions.append(row)
    curve = [2 * k / among for k in range(1, among // 2 + 1, max(1, among // 100))]
    pooled = u[:, [name in intervals for name in names]]
    overall = float(adjusted.min())
    return Uniformity(
        p_value=overall,
        test=TEST,
        permutations=PERMUTATIONS,
        functions=functions,
        coverage=_coverage(pooled, curve) if pooled.size else None,
        verdict=_overall_verdict(overall, functions, count),
    )


def _ranks(values: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Ranks of all values, ties broken at random, and the place of the true one for each x."""
    every = np.arange(len(values))
    true = rng.integers(values.shape[1], size=len(values))
    placed = values.copy()
    placed[every, 0], placed[every, true] = values[every, true], values[every, 0]
    order = placed.argsort(1, kind="stable")  # equal values keep their order, which is random
    return order.argsort(1), true


def _histograms(bins: Array) -> Array:
    """Counts ``(functions, BINS)`` of bins ``(N, functions)``."""
    functions = bins.shape[1]
    flat = (bins + BINS * np.arange(functions)).ravel()
    return np.bincount(flat, minlength=BINS * functions).reshape(functions, BINS)


def _chi_squared(histograms: Array) -> Array:
    expected = histograms.sum(-1, keepdims=True) / BINS
    return np.asarray(((histograms - expected) ** 2 / expected).sum(-1))


def _moments(u: Array, among: int) -> tuple[Estimate, Estimate]:
    """Mean and spread of ranks, with the standard errors of uniform ranks."""
    squares = ((np.arange(among) + 0.5) / among - 0.5) ** 2
    error = math.sqrt(squares.mean() / len(u))
    spread = float(((u - 0.5) ** 2).mean() / squares.mean())
    spread_error = float(squares.std() / math.sqrt(len(u)) / squares.mean())
    return Estimate(float(u.mean()), error), Estimate(spread, spread_error)


def _coverage(u: Array, nominal: Sequence[float]) -> list[Coverage]:
    """Coverage of central intervals, a mean over functions ``(N, functions)``."""
    away = np.abs(u - 0.5)
    return [Coverage(share, Estimate.of((away < share / 2).mean(1))) for share in nominal]


def _shape(histogram: Array, mean_rank: Estimate, spread: Estimate) -> str:
    """Describe a histogram that is less flat than chance makes it.

    A U, with both ends full, means that q is too narrow; a cap, with both ends empty, that it is
    too wide; a slope, that it lies too low or too high.
    """
    tails = np.array([histogram[:TAIL].sum(), histogram[-TAIL:].sum()]) / histogram.sum()
    full = tails > TAIL / BINS
    words = {}
    for found, null, below, above in (
        (spread, 1.0, "too wide", "too narrow"),
        (mean_rank, 0.5, "too high", "too low"),
    ):
        z_score = (found.value - null) / (found.standard_error or math.nan)
        one_sided = found is spread and not (full == (z_score > 0)).all()
        if abs(z_score) >= SEEN and not one_sided:
            words[above if z_score > 0 else below] = -abs(z_score)
    return " and ".join(sorted(words, key=words.__getitem__)) or "not flat, of another shape"


def _overall_verdict(p_value: float, functions: Sequence[RankedFunction], count: int) -> str:
    if p_value >= LEVEL:
        return f"no miscalibration seen in {count:,} simulations (p = {p_value:.3f})"
    wrong = [row for row in functions if row.verdict != "flat"]
    wrong.sort(key=lambda row: -row.chi_squared)
    words = [f"{row.name} {row.verdict}" for row in wrong[:NAMED]]
    if len(wrong) > NAMED:
        words.append(f"and {len(wrong) - NAMED} more")
    return f"q(z|x) is not the posterior of this model (p = {p_value:.3f}): {'; '.join(words)}"


class Calibration(Uniformity):
    """A test of q(z | x) against the exact posterior, on data drawn from the model.

    Attributes:
        p_value, test, permutations, functions, coverage, verdict: as in :class:`Uniformity`.
        estimator: the origin of the ranks in words.
        simulations: number of pairs of z* and x.
        draws: number of draws from q(z | x) for each pair.
        seed: seed of all draws.

    Example:
        >>> from pyrovae.diagnostics import calibrate
        >>> found = calibrate(vae, simulations=100, draws=19)
        >>> found.simulations, found.draws, 0 < found.p_value <= 1
        (100, 19, True)
    """

    estimator: str
    simulations: int
    draws: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Plain data that starts with the settings."""
        plain = super().to_dict()
        return {name: plain[name] for name in ("estimator", "simulations", "draws", "seed")} | plain


@torch.no_grad()
def calibrate(
    vae: VAE,
    *,
    simulations: int = 1_000,
    draws: int = 99,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    r"""Test q(z | x) against the exact posterior, on data drawn from the model.

    Ranks are taken for each dimension of z; for :math:`\log p(z)`, which reveals dimensions that
    are wrong together; and for :math:`\log p(x \mid z)`, without which a q that ignores x and
    equals the prior would pass.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian Inference
        Algorithms with Simulation-Based Calibration, arXiv:1804.06788;
        Modrák et al. (2023), Simulation-Based Calibration Checking for Bayesian Computation: The
        Choice of Test Quantities Shapes Sensitivity, arXiv:2211.02383

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        simulations: number of pairs of z* and x.
        draws: number L of draws from q(z | x) for each pair; L + 1 must be a multiple of ``BINS``.
        seed: seed of all draws.
        progress: callback, called with the number of simulations finished.

    Returns:
        The test of uniformity, with an ``error_ratio`` for each dimension of z.

    Raises:
        ValueError: if an option is outside its range, or the posterior is a point.
        ArithmeticError: if a log density is NaN.

    Example:
        >>> from pyrovae.diagnostics import calibrate
        >>> found = calibrate(vae, simulations=100, draws=19)
        >>> [function.name for function in found.functions]
        ['z1', 'z2', 'log p(z)', 'log p(x|z)']
    """
    _check(simulations, draws)
    for option, count, others in (("draws", draws, 1), ("simulations", simulations, draws + 1)):
        check_draws(option, count, others, vae.latent_dim + 2)
    size = rows_per_chunk(draws + 1, ROWS)
    parts = []
    dimensions = [f"z{d + 1}" for d in range(vae.latent_dim)]
    device = next(vae.parameters(), torch.empty(0)).device
    with isolated(device), evaluating(vae):
        for place, start in enumerate(range(0, simulations, size)):
            torch.manual_seed(derived(seed, place))
            parts.append(_simulated(vae, min(size, simulations - start), draws))
            if progress is not None:
                progress(len(parts[-1]))
        intervals = [] if is_discrete(vae.prior()) else dimensions
    values = np.concatenate(parts)  # (simulations, draws + 1, functions)
    names = [*dimensions, "log p(z)", "log p(x|z)"]
    varies = np.ptp(values.reshape(-1, len(names)), 0) > 0
    kept = list(compress(names, varies))
    found = uniformity(values[..., varies], kept, seed=seed, intervals=intervals)
    ratios = dict(zip(dimensions, _error_ratios(values[..., :-2]), strict=True))
    functions = [replace(row, error_ratio=ratios.get(row.name)) for row in found.functions]
    return Calibration(
        **vars(found) | {"functions": functions},
        estimator=ESTIMATOR,
        simulations=simulations,
        draws=draws,
        seed=seed,
    )


def _check(simulations: int, draws: int) -> None:
    if simulations < 5 * BINS:
        raise ValueError(
            f"simulations must be at least {5 * BINS}, five for each bin, got {simulations}; "
            "1000 is usual"
        )
    if draws < 1 or (draws + 1) % BINS:
        above = BINS * max(1, math.ceil((draws + 1) / BINS)) - 1
        raise ValueError(
            f"draws + 1 must be a multiple of {BINS}, so that each bin holds as many ranks; got "
            f"{draws}, use {above}"
        )


def _simulated(vae: VAE, count: int, draws: int) -> Array:
    """Functions of z* and of draws from q(z | x): ``(count, draws + 1, functions)``."""
    p = vae.prior()
    truth = p.sample((count,))
    x = vae.likelihood(truth).sample()
    q = vae.posterior(x)
    if is_point(q) and not is_discrete(q):
        raise ValueError(
            f"the posterior {type(vae.posterior).__name__} is a point: it claims no uncertainty "
            "that could be right or wrong; use a posterior with a density"
        )
    z = torch.cat([truth.unsqueeze(0), q.sample(torch.Size([draws]))])  # (draws + 1, count, dim)
    scalars = torch.stack([p.log_prob(z), vae.log_likelihood(x, z)], -1)
    values: Tensor = torch.cat([z.double(), scalars.double()], -1).transpose(0, 1)
    if values.isnan().any():
        raise ArithmeticError("a log density of the model at its own draws is NaN")
    return np.asarray(values.cpu())


def _error_ratios(values: Array) -> list[Estimate | None]:
    r"""The error of q's mean over the standard deviation that q claims, for each dimension.

    With mean m and variance :math:`s^2` of L draws, :math:`E (z^* - m)^2 = (1 + 1 / L) \, E s^2` if
    z* is one more draw. The standard error treats the ratio as one of two paired means.
    """
    truth, drawn = values[:, 0], values[:, 1:]
    error = (truth - drawn.mean(1)) ** 2  # (N, dim)
    stated = drawn.var(1, ddof=1) * (1 + 1 / drawn.shape[1])
    return [_ratio(*columns) for columns in zip(error.T, stated.T, strict=True)]


def _ratio(a: Array, b: Array) -> Estimate | None:
    """The root of the ratio of two paired means; None if one of them is not positive."""
    if not b.mean() > 0 or not a.mean() > 0:
        return None
    ratio = a.mean() / b.mean()
    noise = (a - ratio * b).std(ddof=1) / (math.sqrt(len(a)) * b.mean())
    root = math.sqrt(ratio)
    return Estimate(root, float(noise / (2 * root)))
