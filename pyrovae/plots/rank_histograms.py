r"""Simulation-based calibration: histograms of ranks, and the coverage of intervals."""

import math
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from pyrovae.diagnostics import Calibration, RankedFunction
from pyrovae.plots.style import BOUND, DISTORTION, REAL, styled

__all__ = ["calibration"]

_SHOWN = 12  # histograms that stay readable
_MASS = 0.95  # the least fraction of uniform histograms that lie inside the band
_NAMES = {"log p(z)": r"$\log p(z)$", "log p(x|z)": r"$\log p(x|z)$"}


@styled()
def calibration(result: Calibration) -> Figure:
    """Draw histograms of ranks with the band for uniform ranks, and the coverage of intervals.

    Of more than twelve functions, those with the largest chi-squared are drawn.

    Args:
        result: as :func:`pyrovae.diagnostics.calibrate` returns it.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import diagnostics, plots
        >>> found = diagnostics.calibrate(vae, simulations=100, draws=19)
        >>> len(plots.calibration(found).axes) > 2
        True
    """
    functions, curve = result.functions, result.coverage
    worst = sorted(functions, key=lambda row: -row.chi_squared)[:_SHOWN]
    shown = [row for row in functions if any(row is other for other in worst)]
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(
        figsize=(2.3 * across + (4.4 if curve else 0.4), max(4.4, 1.75 * down + 1.4)),
        layout="constrained",
    )
    verdict = result.verdict.partition(":")[0].replace("q(z|x)", "$q(z|x)$")
    figure.suptitle(f"{result.simulations:,} data drawn from the model: {verdict}")
    left: Any = figure
    right: Any = None
    if curve:
        left, right = cast(Any, figure.subfigures(1, 2, width_ratios=(2.3 * across, 4)))
    panels = left.subplots(down, across, sharex=True, squeeze=False).ravel()
    low, high = _band(result.simulations, len(shown[0].histogram))
    for axes, row in zip(panels, shown, strict=False):
        _ranks(axes, row, low, high)
    for axes in panels[len(shown) :]:
        axes.remove()
    more = "" if len(shown) == len(functions) else f", worst {len(shown)} of {len(functions)}"
    left.supxlabel(
        f"rank of $z^*$ among {result.draws} draws from $q(z|x)${more}\n"
        f"(gray: where a flat histogram lies with probability {_MASS:g})",
        fontsize="medium",
    )
    left.supylabel("simulations in each bin", fontsize="medium")
    if right is not None:
        _coverage(right.subplots(), result)
    return figure


def _ranks(axes: Axes, row: RankedFunction, low: float, high: float) -> None:
    histogram = np.array(row.histogram)
    edges = np.linspace(0, 1, len(histogram) + 1)
    axes.axhspan(low, high, color="0.85", lw=0)
    flat = row.verdict == "flat"
    axes.stairs(histogram, edges, fill=True, color=BOUND if flat else DISTORTION, alpha=0.75)
    name = row.name
    name = _NAMES.get(name, f"$z_{{{name.removeprefix('z')}}}$")
    axes.set_title(f"{name}: {row.verdict}".replace(" and ", ",\n"), loc="left", fontsize="small")
    axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    labels = axes.set_xticklabels(["lowest", "", "highest"])
    if labels:  # the lowest row has them
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")
    axes.grid(visible=False)


def _band(count: int, bins: int) -> tuple[float, float]:
    """Counts between which all bins of a uniform histogram lie with probability ``_MASS``."""
    outside = (1 - _MASS) / bins / 2
    return binom.ppf(outside, count, 1 / bins), binom.ppf(1 - outside, count, 1 / bins)


def _coverage(axes: Axes, result: Calibration) -> None:
    rows = result.coverage or []
    nominal = np.array([0.0, *(row.nominal for row in rows)])
    estimate = np.array([0.0, *(row.observed.value for row in rows)])
    error = np.array([0.0, *(row.observed.standard_error or 0.0 for row in rows)])
    axes.plot([0, 1], [0, 1], color=REAL, lw=1, label="calibrated")
    axes.fill_between(
        nominal, estimate - 2 * error, estimate + 2 * error, color=BOUND, alpha=0.25, lw=0
    )
    axes.plot(nominal, estimate, color=BOUND, label="mean of all dimensions of z")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="mass of a central interval of $q(z|x)$",
        ylabel="how often it holds $z^*$ (band: 2 standard errors)",
    )
    axes.set_title("coverage", loc="left", fontsize="small")
    axes.legend(loc="upper left")
