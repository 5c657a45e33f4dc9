r"""The ELBO over the epochs of a training run, with its two parts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrovae.plots.style import BOUND, DISTORTION, RATE, VALIDATION, Array, styled, typeset

__all__ = ["bound"]


@styled()
def bound(metrics: Sequence[Mapping[str, Any]], *, unit: str = "example") -> Figure:
    r"""Plot the ELBO over epochs and, below it, its two parts.

    .. math::
        \text{ELBO} = -\underbrace{(-E_{q(z \mid x)} \log p(x \mid z))}_{\text{distortion}}
        - \underbrace{KL(q(z \mid x) \,\|\, p(z))}_{\text{rate}}

    The axes may cut off the first epochs, which would otherwise flatten all later ones.

    Args:
        metrics: one mapping per epoch with ``epoch``, ``elbo``, ``reconstruction``, ``kl`` and
            ``validation_elbo`` (None where it was not measured), in nats.
        unit: what the nats are counted per, such as ``"image"``.

    Returns:
        The figure.

    Raises:
        ValueError: if there are no metrics.

    Example:
        >>> from pyrovae import plots
        >>> trained = pyrovae.fit(vae, x, epochs=2)
        >>> [axes.get_title(loc="left") for axes in plots.bound(trained.metrics).axes][1:]
        ['distortion: $-E_{q(z|x)} \\log p(x|z)$', 'rate: $KL(q(z|x) \\,\\|\\, p(z))$']
    """
    if not metrics:
        raise ValueError("metrics must hold at least one epoch, got none; train for one epoch")
    epochs = np.array([row["epoch"] for row in metrics], float)
    elbo, reconstruction, rate, validation = (
        np.array([np.nan if row.get(key) is None else row[key] for row in metrics], float)
        for key in ("elbo", "reconstruction", "kl", "validation_elbo")
    )
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    panels = figure.subplot_mosaic(
        [["ELBO", "ELBO"], ["distortion", "rate"]], height_ratios=(1.25, 1)
    )
    lines = [("training", elbo, BOUND), ("validation", validation, VALIDATION)]
    _plot_lines(panels["ELBO"], epochs, lines)
    _plot_lines(panels["distortion"], epochs, [("training", -reconstruction, DISTORTION)])
    _plot_lines(panels["rate"], epochs, [("training", rate, RATE)])
    figure.suptitle("The bound on log p(x) over training, and its two parts")
    panels["ELBO"].set_title(typeset("ELBO = -distortion - rate"), loc="left")
    panels["distortion"].set_title(r"distortion: $-E_{q(z|x)} \log p(x|z)$", loc="left")
    panels["rate"].set_title(r"rate: $KL(q(z|x) \,\|\, p(z))$", loc="left")
    for name, axes in panels.items():
        axes.set(xlabel="epoch", ylabel=f"{name} (nats per {unit})")
    return figure


def _plot_lines(axes: Axes, epochs: Array, lines: Sequence[tuple[str, Array, str]]) -> None:
    settled = epochs >= epochs[min(3, len(epochs) // 4)]
    within: list[float] = []
    for name, values, color in lines:
        at, values, kept = (a[np.isfinite(values)] for a in (epochs, values, settled))
        if not len(values):
            continue
        label = f"{name}: {typeset(f'{values[-1]:.2f}')} at epoch {at[-1]:.0f}"
        marker = "o" if len(at) <= 12 else ""
        axes.plot(at, values, color=color, marker=marker, markersize=4, label=label)
        within += [*np.percentile(values[kept] if kept.any() else values, (2, 98)), values[-1]]
    if within:
        low, high = min(within), max(within)
        margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.legend(loc="best")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
