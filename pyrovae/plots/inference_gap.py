r"""The gap between log p(x) and the ELBO, and posteriors in two dimensions."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrovae.diagnostics import Gap, PosteriorDensities
from pyrovae.plots.style import Array, styled, typeset

__all__ = ["gap", "posteriors"]

_APPROXIMATION, _AMORTIZATION = "#EE6677", "#4477AA"
_TRUTH = "0.35"
_MOST = 40  # images that stay readable
_LEVELS = (0.95, 0.8, 0.5)  # of the mass inside


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
    series = (
        (
            "approximation",
            result.approximation,
            "$\\log p(x)$ \N{MINUS SIGN} ELBO(best q)",
            _APPROXIMATION,
            -0.2,
        ),
        (
            "amortization",
            result.amortization,
            "ELBO(best q) \N{MINUS SIGN} ELBO(encoder's q)",
            _AMORTIZATION,
            0.2,
        ),
    )
    error = {"ecolor": "0.2", "elinewidth": 1, "capsize": 2}
    for name, term, label, color, shift in series:
        values, errors = term.value[:count].numpy(), 2 * term.error[:count].numpy()
        mean = term.mean
        number = typeset(f"{mean.value:.2f}")
        label = f"{name} gap: {label}; mean {number}"
        axes.bar(at + shift, values, 0.38, yerr=errors, color=color, label=label, error_kw=error)
        over_images = mean.standard_error
        spread = None if over_images is None else [2 * over_images]
        axes.bar(
            count + 0.6 + shift, mean.value, 0.38, yerr=spread, color=color,
            error_kw=error, edgecolor="0.2", linewidth=1,
        )  # fmt: skip
    axes.axvline(count - 0.2, color="0.7", linewidth=1)
    labels = [""] * count if result.labels is None else [f"\n({each})" for each in result.labels]
    names = [f"{i}{label}" for i, label in enumerate(labels[:count])]
    axes.set_xticks([*at, count + 0.6], [*names, f"mean\nof {len(result.x):,}"])
    axes.set(
        xlabel="test image" + (" (class)" if result.labels else ""), ylabel="gap (nats per image)"
    )
    axes.set_xlim(-0.7, count + 1.3)
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
        name = f"image {i}" + ("" if result.labels is None else f" ({result.labels[i]})")
        if i >= len(panels) - across:
            axes.set_xlabel("$z_1$")
        if i % across == 0:
            axes.set_ylabel("$z_2$")
        axes.set_title(f"{name}: KL {result.kl.value[i]:.2f} nats", loc="left", size="small")
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
