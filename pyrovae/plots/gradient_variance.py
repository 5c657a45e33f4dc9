r"""The noise and signal of gradient estimators, layer by layer."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyrovae.diagnostics import GradientComparison
from pyrovae.plots.style import BOUND, DISTORTION, RATE, REAL, styled

__all__ = ["gradients"]

_ESTIMATORS = {
    "elbo": ("Monte Carlo KL", BOUND, "o"),
    "analytic": ("analytic KL", RATE, "s"),
    "stl": ("sticking the landing", DISTORTION, "D"),
}


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
        squared = np.array(
            [*(layer.squared_norm for layer in found.layers), found.mean.squared_norm]
        )
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
