r"""Simulation-based calibration: whether q(z | x) is right about data that the model itself draws.

Draw :math:`z^* \sim p(z)` and :math:`x \sim p(x \mid z^*)`. Then :math:`z^*` is a draw from the
exact posterior :math:`p(z \mid x)`. If q is that posterior, :math:`z^*` cannot be told from draws
of :math:`q(z \mid x)`, and its rank among L of them, in the order of any function of z and x, is
uniform on 0, ..., L. A histogram of ranks over many such x that is not flat shows in which way q is
wrong.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.distributions import is_discrete, is_point
from pyrovae.vae import VAE

__all__ = ["BINS", "LEVEL", "PERMUTATIONS", "calibrate", "uniformity"]

Array = NDArray[Any]

BINS = 20
"""Bins of a histogram of ranks."""

PERMUTATIONS = 999
"""Random choices of the draw that is called the true one."""

LEVEL = 0.05
"""The p-value below which a verdict says that something is wrong."""

NOMINAL = (0.5, 0.8, 0.9)  # of central intervals; whole numbers of ranks for every L allowed
SEEN = 3.0  # standard errors from which a shape is named
ROWS = 2_000  # simulations times draws held at a time
NAMED = 4  # functions of z in the verdict of all
TAIL = 2  # bins at each end that a U fills and a cap leaves empty

ESTIMATOR = "rank of z* ~ p(z) among draws from q(z | x), x ~ p(x | z*)"
TEST = (
    f"chi-squared of {BINS} bins, the largest over all functions, against {PERMUTATIONS} random "
    "choices of which draw is called z*: exact for functions that depend on each other"
)


@torch.no_grad()
def calibrate(
    vae: VAE,
    *,
    simulations: int = 1_000,
    draws: int = 99,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    r"""Test q(z | x) against the exact posterior, on data drawn from the model.

    Ranks are taken of each dimension of z; of :math:`\log p(z)`, which sees dimensions that are
    wrong together; and of :math:`\log p(x \mid z)`, without which a q that ignores x and equals the
    prior would pass.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian Inference
        Algorithms with Simulation-Based Calibration, arXiv:1804.06788;
        Modrák et al. (2023), Simulation-Based Calibration Checking for Bayesian Computation: The
        Choice of Test Quantities Shapes Sensitivity, arXiv:2211.02383

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        simulations: number of pairs of z* and x.
        draws: number L of draws from q(z | x) for each; L + 1 is a multiple of ``BINS``.
        seed: of all draws.
        advance: told the number of simulations after each batch.

    Returns:
        What :func:`uniformity` gives, and ``estimator``, ``simulations``, ``draws`` and ``seed``.
        Each dimension has an ``error_ratio`` as well: the root mean square error of the mean of q
        over the standard deviation that q states, 1 for the exact posterior, with its standard
        error.

    Raises:
        ValueError: if an option is outside its range, or the posterior is a point.
        ArithmeticError: if a density is not a number.
    """
    if simulations < 5 * BINS:
        raise ValueError(
            f"simulations must be at least {5 * BINS}, five for each bin, got {simulations}; "
            "1000 is usual"
        )
    if draws < 1 or (draws + 1) % BINS:
        above = BINS * max(1, math.ceil((draws + 1) / BINS)) - 1
        raise ValueError(
            f"draws + 1 must be a multiple of {BINS}, so that each bin holds as many ranks; got "
            f"{draws}, take {above}"
        )
    size = max(1, ROWS // (draws + 1))
    parts = []
    device = next(vae.parameters(), torch.empty(0)).device
    with isolated(device), evaluating(vae):
        for place, start in enumerate(range(0, simulations, size)):
            torch.manual_seed(derived(seed, place))
            parts.append(_simulated(vae, min(size, simulations - start), draws))
            if advance is not None:
                advance(len(parts[-1]))
        continuous = not is_discrete(vae.prior())
    values = np.concatenate(parts)  # (simulations, draws + 1, functions)
    names = [f"z{d + 1}" for d in range(vae.latent_dim)] + ["log p(z)", "log p(x|z)"]
    varies = np.ptp(values.reshape(-1, len(names)), 0) > 0
    kept = [name for name, differs in zip(names, varies, strict=True) if differs]
    dimensions = [name for name in kept if name in names[:-2] and continuous]
    result = uniformity(values[..., varies], kept, seed=seed, intervals=dimensions)
    ratios = dict(zip(names[:-2], _error_ratios(values[..., :-2]), strict=True))
    for function in result["functions"]:
        function["error_ratio"] = ratios.get(function["name"])
    about = {"estimator": ESTIMATOR, "simulations": simulations, "draws": draws, "seed": seed}
    return about | result


def uniformity(
    values: Array, names: Sequence[str], *, seed: int = 0, intervals: Collection[str] = ()
) -> dict[str, Any]:
    r"""Whether the first of several values could be any other one of them.

    A rank among equal values is drawn at random. The statistic of a function is

    .. math:: X^2 = \sum_{b=1}^{B} \frac{(n_b - N / B)^2}{N / B}

    for counts :math:`n_b` of N ranks in B bins. Functions of the same z depend on each other, and
    so do their statistics. If the first value is exchangeable with the others, so is any other one
    in its place: the statistics are computed again with a random one of them for each x, many
    times, and the p-values are shares of these in which the largest statistic is at least as large.
    They are exact for any number of functions and any dependence.

    References:
        Westfall and Young (1993), Resampling-Based Multiple Testing, for p-values that count that
        the largest of many statistics is looked at

    Args:
        values: ``(N, L + 1, functions)``, the true one first; L + 1 is a multiple of ``BINS``.
        names: of the functions.
        seed: of ties and random choices.
        intervals: names of functions of which to report the coverage of central intervals.

    Returns:
        ``p_value`` of all functions together, ``test``, ``permutations``, ``verdict`` in words;
        ``functions``, with ``name``, ``histogram`` of the ranks, ``chi_squared``, ``p_value`` by
        itself and ``adjusted_p_value`` for the number of functions, ``mean_rank``, between 0 and 1,
        0.5 if uniform, and ``spread``, the mean square distance from 0.5, 1 if uniform, both with
        the standard errors that they have if uniform, ``coverage`` and ``verdict``; ``coverage``,
        the mean over ``intervals``, for each ``nominal`` one, with its standard error over
        simulations; None where there is none.
    """
    count, among, _ = values.shape
    rng = np.random.default_rng(np.random.SeedSequence([seed, count, among]))
    every = np.arange(count)
    true = rng.integers(among, size=count)
    placed = values.copy()
    placed[every, 0], placed[every, true] = values[every, true], values[every, 0]
    order = placed.argsort(1, kind="stable")  # of equal values, the place decides, which is random
    ranks = order.argsort(1)
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
    functions = [
        _function(name, u[:, place], among)
        | {
            "histogram": histograms[place].tolist(),
            "chi_squared": float(statistics[place]),
            "p_value": float(chi2.sf(statistics[place], BINS - 1)),
            "adjusted_p_value": float(adjusted[place]),
            "coverage": _coverage(u[:, place, None], NOMINAL) if name in intervals else None,
        }
        for place, name in enumerate(names)
    ]
    for function in functions:
        function["verdict"] = _verdict(function)
    curve = [2 * k / among for k in range(1, among // 2 + 1, max(1, among // 100))]
    pooled = [place for place, name in enumerate(names) if name in intervals]
    result = {
        "p_value": float(adjusted.min()),
        "test": TEST,
        "permutations": PERMUTATIONS,
        "functions": functions,
        "coverage": _coverage(u[:, pooled], curve) if pooled else None,
    }
    return result | {"verdict": _verdict_of_all(result, count)}


def _simulated(vae: VAE, count: int, draws: int) -> Array:
    """Functions of z* and of draws from q(z | x): ``(count, draws + 1, functions)``."""
    p = vae.prior()
    truth = p.sample((count,))
    x = vae.likelihood(truth).sample()
    q = vae.posterior(x)
    if is_point(q) and not is_discrete(q):
        raise ValueError(
            f"the posterior {type(vae.posterior).__name__} is a point: it states no uncertainty to "
            "be right or wrong about; take a posterior with a density"
        )
    z = torch.cat([truth.unsqueeze(0), q.sample(torch.Size([draws]))])  # (draws + 1, count, dim)
    scalars = torch.stack([p.log_prob(z), vae.likelihood(z).log_prob(x)], -1)
    values: Tensor = torch.cat([z.double(), scalars.double()], -1).transpose(0, 1)
    if values.isnan().any():
        raise ArithmeticError("a density of the model at its own draws is not a number")
    return np.asarray(values.cpu())


def _histograms(bins: Array) -> Array:
    """Counts ``(functions, BINS)`` of bins ``(N, functions)``."""
    functions = bins.shape[1]
    flat = (bins + BINS * np.arange(functions)).ravel()
    return np.bincount(flat, minlength=BINS * functions).reshape(functions, BINS)


def _chi_squared(histograms: Array) -> Array:
    expected = histograms.sum(-1, keepdims=True) / BINS
    return np.asarray(((histograms - expected) ** 2 / expected).sum(-1))


def _function(name: str, u: Array, among: int) -> dict[str, Any]:
    """The first two moments of uniform ranks, in units of what they should be."""
    grid = (np.arange(among) + 0.5) / among
    squares = (grid - 0.5) ** 2
    errors = math.sqrt(squares.mean() / len(u)), squares.std() / math.sqrt(len(u))
    spread = {
        "estimate": float(((u - 0.5) ** 2).mean() / squares.mean()),
        "standard_error": float(errors[1] / squares.mean()),
    }
    mean = {"estimate": float(u.mean()), "standard_error": errors[0]}
    return {"name": name, "mean_rank": mean, "spread": spread}


def _coverage(u: Array, nominal: Sequence[float]) -> list[dict[str, float]]:
    """How often the truth lies in the central interval of the draws that should hold this share."""
    rows = []
    for share in nominal:
        held = (np.abs(u - 0.5) < share / 2).mean(1)  # over functions, for each simulation
        error = float(held.std(ddof=1) / math.sqrt(len(held)))
        rows.append({"nominal": share, "estimate": float(held.mean()), "standard_error": error})
    return rows


def _error_ratios(values: Array) -> list[dict[str, float] | None]:
    r"""The error of q's mean against its stated standard deviation, for each dimension.

    With mean m and variance :math:`s^2` of L draws, :math:`E (z^* - m)^2 = (1 + 1 / L) \, E s^2` if
    z* is one more of them. The standard error is that of a ratio of two paired means.
    """
    truth, drawn = values[:, 0], values[:, 1:]
    error = (truth - drawn.mean(1)) ** 2  # (N, dim)
    stated = drawn.var(1, ddof=1) * (1 + 1 / drawn.shape[1])
    found: list[dict[str, float] | None] = []
    for a, b in zip(error.T, stated.T, strict=True):
        if not b.mean() > 0 or not a.mean() > 0:
            found.append(None)
            continue
        ratio = a.mean() / b.mean()
        noise = (a - ratio * b).std(ddof=1) / (math.sqrt(len(a)) * b.mean())
        root = math.sqrt(ratio)
        found.append({"estimate": root, "standard_error": float(noise / (2 * root))})
    return found


def _verdict(function: Mapping[str, Any]) -> str:
    """What the shape of a histogram says, if it is not as flat as chance makes it.

    A U, both ends full, is a q that is too narrow; a cap, both ends empty, one that is too wide; a
    slope, one that lies too low or too high.
    """
    if function["adjusted_p_value"] >= LEVEL:
        return "flat"
    histogram = np.array(function["histogram"])
    tails = np.array([histogram[:TAIL].sum(), histogram[-TAIL:].sum()]) / histogram.sum()
    full = tails > TAIL / BINS
    words = {}
    for moment, null, below, above in (
        ("spread", 1.0, "too wide", "too narrow"),
        ("mean_rank", 0.5, "too high", "too low"),
    ):
        found = function[moment]
        z_score = (found["estimate"] - null) / found["standard_error"]
        one_sided = moment == "spread" and not (full == (z_score > 0)).all()
        if abs(z_score) >= SEEN and not one_sided:
            words[above if z_score > 0 else below] = -abs(z_score)
    return " and ".join(sorted(words, key=words.__getitem__)) or "not flat, of another shape"


def _verdict_of_all(result: Mapping[str, Any], count: int) -> str:
    p_value = f"p = {result['p_value']:.3f}"
    if result["p_value"] >= LEVEL:
        return f"no miscalibration seen in {count:,} simulations ({p_value})"
    wrong = [row for row in result["functions"] if row["verdict"] != "flat"]
    wrong.sort(key=lambda row: -row["chi_squared"])
    words = [f"{row['name']} {row['verdict']}" for row in wrong[:NAMED]]
    more = len(wrong) - NAMED
    return f"q(z|x) is not the posterior of this model ({p_value}): {'; '.join(words)}" + (
        f"; and {more} more" if more > 0 else ""
    )
