r"""Estimators of a KL divergence against the number of draws, and of its gradient by layer."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyrovae.diagnostics import GradientComparison
from pyrovae.kl import Ledger
from pyrovae.plots.style import BOUND, DISTORTION, RATE, REAL, styled, typeset, values_and_errors

__all__ = ["divergence", "gradients"]

_ESTIMATORS = {
    "elbo": ("Monte Carlo KL", BOUND, "o"),
    "analytic": ("analytic KL", RATE, "s"),
    "stl": ("sticking the landing", DISTORTION, "D"),
}


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
        between = f"bounds: {bounds.lower:.4g} to {bounds.upper:.4g}"
        axes.axhspan(bounds.lower, bounds.upper, color="0.93", zorder=0, label=between)
        shown += bounds.lower, bounds.upper
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
        estimate, error = values_and_errors([row.estimate for row in rows])
        low, high = estimate - 2 * error, estimate + 2 * error
        if np.isfinite(estimate[-1]):
            at = typeset(f"{estimate[-1]:.6g} at {draws[-1]:,}")
            if rows[-1].mean_ratio is not None:
                at += f" (mean of r {rows[-1].mean_ratio:.2g}, should be 1)"
            axes.fill_between(draws, low, high, color=color, alpha=0.18, lw=0)
            axes.plot(draws, estimate, color=color, marker=marker, ms=5, label=f"{label}: {at}")
        settled = np.isfinite(estimate) & (draws >= draws[-1] / 1_000)
        shown += estimate[settled].tolist()
        if sampled is result.monte_carlo:
            shown += [*estimate[np.isfinite(estimate)], *low[settled], *high[settled]]
    axes.set_xscale("log")
    axes.set_xlabel("draws for each q (bands: two standard errors)")
    axes.set_ylabel(f"KL(q || p) (nats per {unit})")
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


@styled()
def gradients(result: GradientComparison) -> Figure:
    """Draw the variance and the signal-to-noise ratio of each gradient estimator, layer by layer.

    The ratio has no mark where the mean over draws is lost in the noise, and a variance of zero has
    no place on a logarithmic axis.

    Args:
        result: as :func:`pyrovae.diagnostics.compare_gradients` returns it.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.diagnostics import compare_gradients
        >>> figure = plots.gradients(compare_gradients(vae, data, draws=20))
        >>> figure.axes[1].get_xlabel()
        'signal to noise of one draw'
    """
    rows = [(row.name, row.noise) for row in result.estimators if row.noise is not None]
    layers = [layer.name for layer in rows[0][1].layers]
    places = np.arange(len(layers) + 1)
    figure = Figure(figsize=(10, 2.6 + 0.4 * len(places)), layout="constrained")
    noise, signal = figure.subplots(1, 2, sharey=True)
    for (name, found), offset in zip(rows, (-0.18, 0.0, 0.18), strict=False):
        label, color, marker = _ESTIMATORS[name]
        variance = np.array([*(layer.variance for layer in found.layers), found.variance.value])
        norms = [layer.squared_norm for layer in found.layers]
        squared = np.array([*norms, found.mean.squared_norm])
        seen = (squared > 0) & (variance > 0)
        ratio = np.sqrt(np.divide(squared, variance, out=np.zeros(len(squared)), where=seen))
        dots: dict[str, Any] = {"color": color, "marker": marker, "ls": "", "ms": 6}
        noise.plot(np.where(variance > 0, variance, np.nan), places + offset, label=label, **dots)
        signal.plot(np.where(seen, ratio, np.nan), places + offset, **dots)
    for axes in (noise, signal):
        axes.axhline(len(layers) - 0.5, color=REAL, lw=0.8)
        axes.grid(visible=False, axis="y")
    if any(found.variance.value > 0 for _, found in rows):
        noise.set_xscale("log")
        signal.set_xlim(left=0)
    else:
        for axes in (noise, signal):
            axes.text(0.5, 0.5, "no noise", ha="center", va="center", transform=axes.transAxes)
            axes.set_xticks([])
    noise.set_yticks(places, [*layers, "all"])
    noise.invert_yaxis()
    noise.set(xlabel="variance of one draw (squared nats per example)", ylabel="parameters")
    signal.set_xlabel("signal to noise of one draw")
    figure.legend(loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Gradient of the ELBO with respect to the encoder: {result.draws:,} draws for a batch "
        f"of {result.examples:,}\nq: {result.q}, p: {result.p}"
    )
    return figure
