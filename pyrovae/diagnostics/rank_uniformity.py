r"""A test of whether ranks are uniform, for many functions that may depend on each other."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from pyrovae.estimates import Estimate, Result

__all__ = [
    "BINS",
    "LEVEL",
    "PERMUTATIONS",
    "Coverage",
    "RankedFunction",
    "Uniformity",
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
    largest = np.empty(PERMUTATIONS)
    for number in range(PERMUTATIONS):
        chosen = rng.integers(among, size=count)
        largest[number] = _chi_squared(_histograms(bins[every, chosen])).max()
    at_least = (largest[:, None] >= statistics - 1e-9).sum(0)
    adjusted = (1 + at_least) / (1 + PERMUTATIONS)
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
    pooled = [place for place, name in enumerate(names) if name in intervals]
    overall = float(adjusted.min())
    return Uniformity(
        p_value=overall,
        test=TEST,
        permutations=PERMUTATIONS,
        functions=functions,
        coverage=_coverage(u[:, pooled], curve) if pooled else None,
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
    grid = (np.arange(among) + 0.5) / among
    squares = (grid - 0.5) ** 2
    errors = math.sqrt(squares.mean() / len(u)), squares.std() / math.sqrt(len(u))
    spread = float(((u - 0.5) ** 2).mean() / squares.mean())
    return (
        Estimate(float(u.mean()), errors[0]),
        Estimate(spread, float(errors[1] / squares.mean())),
    )


def _coverage(u: Array, nominal: Sequence[float]) -> list[Coverage]:
    rows = []
    for share in nominal:
        held = (np.abs(u - 0.5) < share / 2).mean(1)  # over functions, for each simulation
        rows.append(Coverage(share, Estimate.of(held)))
    return rows


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
    more = len(wrong) - NAMED
    return f"q(z|x) is not the posterior of this model (p = {p_value:.3f}): {'; '.join(words)}" + (
        f"; and {more} more" if more > 0 else ""
    )
