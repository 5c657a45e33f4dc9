r"""q(z | x) against the true posterior: gaps, posteriors in two dimensions, ranks and coverage."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import binom

from pyrovae.diagnostics import Calibration, Coverage, Gap, PosteriorDensities, RankedFunction
from pyrovae.estimates import Estimate
from pyrovae.plots import style
from pyrovae.plots.style import Array, styled, typeset, values_and_errors

__all__ = ["calibration", "gap", "posteriors"]

_APPROXIMATION, _AMORTIZATION, _TRUTH = style.DISTORTION, style.BOUND, style.PRIOR
_MOST = 40  # images that stay readable
_LEVELS = (0.95, 0.8, 0.5)  # of the mass inside
_SHOWN = 12  # histograms that stay readable
_MASS = 0.95  # the least fraction of uniform histograms that lie inside the band
_NAMES = {"log p(z)": r"$\log p(z)$", "log p(x|z)": r"$\log p(x|z)$"}


@styled()
def gap(result: Gap) -> Figure:
    """Draw bars of the approximation and amortization gap of each image, and of their means.

    Args:
        result: as :func:`pyrovae.diagnostics.gap` returns it; the first 40 images are drawn.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import diagnostics, plots
        >>> found = diagnostics.gap(vae, data, images=3, samples=100, steps=20, nuts=None)
        >>> plots.gap(found).axes[0].get_ylabel()
        'gap (nats per image)'
    """
    count = min(len(result.x), _MOST)
    figure = Figure(figsize=(max(6.5, 2.5 + 0.42 * count), 4.6), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(count) * 1.0
    caps = {"ecolor": "0.2", "elinewidth": 1, "capsize": 2}
    for name, formula, color, shift in (
        ("approximation", r"$\log p(x)$ - ELBO(best q)", _APPROXIMATION, -0.2),
        ("amortization", "ELBO(best q) - ELBO(encoder's q)", _AMORTIZATION, 0.2),
    ):
        term = result.terms[name]
        mean, values, errors = term.mean, term.value[:count].numpy(), term.error[:count].numpy()
        bars: dict[str, Any] = {"width": 0.38, "color": color, "error_kw": caps}
        label = typeset(f"{name} gap: {formula}; mean {mean.value:.2f}")
        axes.bar(at + shift, values, yerr=2 * errors, label=label, **bars)
        spread = None if mean.standard_error is None else 2 * mean.standard_error
        outline = bars | {"edgecolor": "0.2", "linewidth": 1}
        axes.bar(count + 0.6 + shift, mean.value, yerr=spread, **outline)
    axes.axvline(count - 0.2, color="0.7", linewidth=1)
    labels = [""] * count if result.labels is None else [f"\n({each})" for each in result.labels]
    names = [f"{i}{label}" for i, label in enumerate(labels[:count])]
    axes.set_xticks([*at, count + 0.6], [*names, f"mean\nof {len(result.x):,}"])
    axes.set_xlabel("test image" + (" (class)" if result.labels else ""))
    axes.set(ylabel="gap (nats per image)", xlim=(-0.7, count + 1.3))
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    figure.suptitle("What the ELBO falls short of $\\log p(x)$, in two parts (bars: ± 2 errors)")
    return figure


@styled()
def posteriors(panels: Sequence[PosteriorDensities], result: Gap) -> Figure:
    """Draw the true posterior of each image, the encoder's q and the best q, in two dimensions.

    The filled contours enclose 50, 80 and 95 % of the mass of p(z | x), the lines 80 % of the mass
    of the encoder's q and of the best q. Dots are draws by NUTS. Scales differ between panels.

    Args:
        panels: as :func:`pyrovae.diagnostics.posterior_densities` returns them.
        result: as :func:`pyrovae.diagnostics.gap` returns it.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import diagnostics, plots
        >>> nuts = diagnostics.NutsSettings(10, warmup=10, chains=2)
        >>> found = diagnostics.gap(vae, data, images=1, samples=100, steps=20, nuts=nuts)
        >>> panels = diagnostics.posterior_densities(vae, found, nodes=31)
        >>> len(plots.posteriors(panels, found).axes)
        1
    """
    across = min(4, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(max(6.5, 2.7 * across), 2.75 * down + 1.1), layout="constrained")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        _posterior(axes, panel)
        label = f"image {i}" + ("" if result.labels is None else f" ({result.labels[i]})")
        axes.set_title(f"{label}: KL {result.kl.value[i]:.2f} nats", loc="left", size="small")
        if i >= len(panels) - across:
            axes.set_xlabel("$z_1$")
        if i % across == 0:
            axes.set_ylabel("$z_2$")
    handles = [
        Line2D([], [], color=_TRUTH, label="p(z|x): 50, 80 and 95 % inside"),
        Line2D([], [], color="0.1", marker=".", markersize=4, ls="", label="NUTS draws of p(z|x)"),
        Line2D([], [], color=_AMORTIZATION, lw=1.8, label="encoder's q(z|x): 80 % inside"),
        Line2D([], [], color=_APPROXIMATION, lw=1.8, label="best q: 80 % inside"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, 2 * across))
    figure.suptitle("True posteriors, and the q that stand for them")
    return figure


def _posterior(axes: Axes, panel: PosteriorDensities) -> None:
    z1, z2, density = panel.z1, panel.z2, panel.posterior
    levels = [_level(density, mass) for mass in _LEVELS]
    if len(set(levels)) == len(levels) and levels[-1] < density.max():
        axes.contourf(z1, z2, density, [*levels, density.max()], colors=["0.93", "0.86", "0.76"])
        axes.contour(z1, z2, density, levels, colors=_TRUTH, linewidths=0.7)
    draws = panel.draws[:: max(1, len(panel.draws) // 200)]
    axes.plot(*draws.T, ".", color="0.1", markersize=2.5, alpha=0.5, markeredgewidth=0)
    for q, color in ((panel.encoder, _AMORTIZATION), (panel.best, _APPROXIMATION)):
        axes.contour(z1, z2, q, [_level(q, 0.8)], colors=color, linewidths=1.8)
    axes.set(xlim=(z1[0], z1[-1]), ylim=(z2[0], z2[-1]), aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(labelsize="x-small")
    axes.locator_params(nbins=4)


def _level(density: Array, mass: float) -> float:
    """The density above which this fraction of the mass on the grid lies."""
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered)
    return float(ordered[np.searchsorted(held, mass * held[-1])])


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
    functions, curve = result.functions, result.coverage or []
    worst = sorted(functions, key=lambda row: -row.chi_squared)[:_SHOWN]
    shown = [row for row in functions if any(row is other for other in worst)]
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    size = 2.3 * across + (4.4 if curve else 0.4), max(4.4, 1.75 * down + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    verdict = result.verdict.partition(":")[0].replace("q(z|x)", "$q(z|x)$")
    figure.suptitle(f"{result.simulations:,} data drawn from the model: {verdict}")
    left: Any = figure
    if curve:
        left, right = cast(Any, figure.subfigures(1, 2, width_ratios=(2.3 * across, 4)))
        _coverage(right.subplots(), curve)
    panels = left.subplots(down, across, sharex=True, squeeze=False).ravel()
    bins = len(shown[0].histogram)
    outside = (1 - _MASS) / bins / 2
    band = binom.ppf([outside, 1 - outside], result.simulations, 1 / bins)
    for axes, row in zip(panels, shown, strict=False):
        axes.axhspan(*band, color="0.85", lw=0)
        _ranks(axes, row)
    for axes in panels[len(shown) :]:
        axes.remove()
    more = "" if len(shown) == len(functions) else f", worst {len(shown)} of {len(functions)}"
    left.supxlabel(
        f"rank of $z^*$ among {result.draws} draws from $q(z|x)${more}\n"
        f"(gray: where a flat histogram lies with probability {_MASS:g})",
        fontsize="medium",
    )
    left.supylabel("simulations in each bin", fontsize="medium")
    return figure


def _ranks(axes: Axes, row: RankedFunction) -> None:
    edges = np.linspace(0, 1, len(row.histogram) + 1)
    color = style.BOUND if row.verdict == "flat" else style.DISTORTION
    axes.stairs(row.histogram, edges, fill=True, color=color, alpha=0.75)
    name = _NAMES.get(row.name, f"$z_{{{row.name.removeprefix('z')}}}$")
    axes.set_title(f"{name}: {row.verdict}".replace(" and ", ",\n"), loc="left", fontsize="small")
    axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    labels = axes.set_xticklabels(["lowest", "", "highest"])
    if labels:  # the lowest row has them
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")
    axes.grid(visible=False)


def _coverage(axes: Axes, rows: Sequence[Coverage]) -> None:
    estimate, error = values_and_errors([Estimate(0.0, None), *(row.observed for row in rows)])
    nominal = np.array([0.0, *(row.nominal for row in rows)])
    low, high = estimate - 2 * error, estimate + 2 * error
    axes.plot([0, 1], [0, 1], color=style.REAL, lw=1, label="calibrated")
    axes.fill_between(nominal, low, high, color=style.BOUND, alpha=0.25, lw=0)
    axes.plot(nominal, estimate, color=style.BOUND, label="mean of all dimensions of z")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("mass of a central interval of $q(z|x)$")
    axes.set_ylabel("how often it holds $z^*$ (band: 2 standard errors)")
    axes.set_title("coverage", loc="left", fontsize="small")
    axes.legend(loc="upper left")
