r"""Estimates of a KL divergence against the number of draws."""

import math

import numpy as np
from matplotlib.figure import Figure

from pyrovae.kl import Ledger
from pyrovae.plots.style import BOUND, DISTORTION, REAL, styled, typeset

__all__ = ["divergence"]


@styled()
def divergence(result: Ledger, *, unit: str = "example") -> Figure:
    """Draw two estimates of KL(q || p) against the number of draws, with the exact value or bounds.

    Bands extend two standard errors to either side. The axis is chosen to show the exact value and
    the first estimator; the second, whose variance may be infinite, can leave it at few draws.

    Args:
        result: as :func:`pyrovae.kl.compare` returns it.
        unit: what the nats are counted per, such as ``"image"``.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import kl, plots
        >>> found = kl.compare(vae.posterior(x), vae.prior(), samples=(10, 100))
        >>> plots.divergence(found).axes[0].get_ylabel()
        'KL(q || p) (nats per example)'
    """
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.add_subplot()
    exact, bounds = result.reference, result.bounds
    shown: list[float] = []
    if bounds is not None:
        limits = (bounds.lower, bounds.upper)
        between = f"bounds: {limits[0]:.4g} to {limits[1]:.4g}"
        axes.axhspan(*limits, color="0.93", zorder=0, label=between)
        shown += limits
    if exact is not None and math.isfinite(exact.value):
        how = "closed form" if result.closed_form else "quadrature"
        axes.axhline(exact.value, color=REAL, lw=1.2, label=f"{how}: {exact.value:.6g}")
        shown.append(exact.value)
    for sampled, label, color, marker in (
        (result.monte_carlo, r"$\log q - \log p$", BOUND, "o"),
        (result.low_variance, r"$r - 1 - \log r$, $r = p/q$", DISTORTION, "s"),
    ):
        rows = sorted(sampled, key=lambda row: row.samples)
        draws = np.array([row.samples for row in rows])
        estimate = np.array([row.estimate.value for row in rows], float)
        error = np.array([row.estimate.standard_error or 0.0 for row in rows], float)
        low, high = estimate - 2 * error, estimate + 2 * error
        if np.isfinite(estimate[-1]):
            at = typeset(f"{estimate[-1]:.6g} at {draws[-1]:,}")
            if rows[-1].mean_ratio is not None:
                at += f" (mean of r {rows[-1].mean_ratio:.2g}, should be 1)"
            axes.fill_between(draws, low, high, color=color, alpha=0.18, lw=0)
            axes.plot(draws, estimate, color=color, marker=marker, ms=5, label=f"{label}: {at}")
        settled = np.isfinite(estimate) & (draws >= draws[-1] / 1_000)
        shown += [*estimate[settled]]
        if sampled is result.monte_carlo:
            shown += [*estimate[np.isfinite(estimate)], *low[settled], *high[settled]]
    axes.set_xscale("log")
    axes.set(
        xlabel="draws for each q (bands: two standard errors)",
        ylabel=f"KL(q || p) (nats per {unit})",
    )
    if shown:
        margin = 0.08 * (max(shown) - min(shown)) or 0.05 * abs(max(shown)) or 0.05
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
        figure.legend(loc="outside lower center")
    else:
        about = f"infinite: {result.infinite}"
        axes.text(0.5, 0.5, about, ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        axes.minorticks_off()
    figure.suptitle(
        f"KL(q || p), mean of {result.examples:,} examples\nq: {result.q}, p: {result.p}"
    )
    return figure
