r"""Several models side by side: their bounds on log p(x), and their rates and distortions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from pyrovae.estimates import Estimate
from pyrovae.plots.image_grids import rgb, show_mosaic
from pyrovae.plots.style import BOUND, DISTORTION, MODEL, RATE, Array, styled, typeset

__all__ = ["comparison", "rate_distortion"]


@styled()
def comparison(
    labels: Sequence[str],
    bounds: Sequence[Estimate],
    differences: Sequence[Estimate | None],
    images: Sequence[Array] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw each model's bound on log p(x) and, for image data, samples from each model.

    The number beside a bound is its paired difference from the first one. Its error is smaller than
    the bars suggest, since all models are evaluated on the same examples.

    Args:
        labels: names of the models.
        bounds: on log p(x), in nats per example.
        differences: paired differences from the first bound; None where there is none.
        images: of each model, means of p(x | z) at z drawn from its prior, ``(n, C, H, W)`` with C
            1 or 3; None for other data.
        title: of the figure.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.estimates import Estimate
        >>> bounds = [Estimate(-21.3, 0.2), Estimate(-20.9, 0.2)]
        >>> figure = plots.comparison(["normal", "flow"], bounds, [None, Estimate(0.4, 0.05)])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['+0.40 ± 0.05']
    """
    count = len(labels)
    width, height = (8, 1.8 + 0.4 * count) if images is None else (12, 1.5 + 0.5 * count)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    if images is None:
        panel = figure.add_subplot()
    else:
        samples, panel = figure.subplots(1, 2, width_ratios=(1.6, 1))
        every = np.concatenate(images)
        _, down = show_mosaic(samples, rgb(every, every), len(images[0]))
        samples.set_yticks(down, labels)
        samples.set_title("means of $p(x|z)$ at draws of z from the prior", loc="left")
        across, tall = (
            abs(np.diff(limits)[0]) for limits in (samples.get_xlim(), samples.get_ylim())
        )
        panel.set_box_aspect(1.6 * tall / across)
    places = np.arange(count)
    values, errors = _values(bounds), _errors(bounds)
    panel.errorbar(values, places, xerr=errors, fmt="o", color=BOUND, capsize=3)
    for place, difference in enumerate(differences):
        if difference is not None:
            text = f"{difference.value:+.2f}"
            if difference.standard_error is not None:
                text += f" ± {difference.standard_error:.2f}"
            at = (values[place], place - 0.12)
            panel.annotate(typeset(text), at, ha="center", va="bottom", fontsize="small")
    panel.set(ylim=(count - 0.5, -0.5), xlabel="nats per example (bars: standard errors)")
    panel.set_yticks(places, labels if images is None else [""] * count)
    panel.set_title("bound on log p(x), test set", loc="left")
    return figure


@styled()
def rate_distortion(
    betas: Sequence[float],
    rates: Sequence[Estimate],
    distortions: Sequence[Estimate],
    *,
    title: str = "Rate and distortion",
) -> Figure:
    r"""Draw rate against distortion for several weights of the KL term, over lines of equal ELBO.

    .. math::
        -\mathrm{ELBO} = D + R, \qquad
        D = -\mathbb{E}_{q} \log p(x \mid z), \qquad R = \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    References:
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a Broken ELBO,
        arXiv:1711.00464

    Args:
        betas: weights of the KL term during training.
        rates: R of each model, in nats per example.
        distortions: D of each model, in nats per example.
        title: of the figure.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.estimates import Estimate
        >>> rates = [Estimate(12.0, 0.1), Estimate(7.0, 0.1)]
        >>> distortions = [Estimate(10.0, 0.2), Estimate(14.0, 0.2)]
        >>> figure = plots.rate_distortion([0.5, 2.0], rates, distortions)
        >>> [text.get_text() for text in figure.axes[0].texts][:2]
        ['β = 0.5', 'β = 2']
    """
    rate, distortion = _values(rates), _values(distortions)
    figure = Figure(figsize=(7.5, 5.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(distortion, rate, color=MODEL, lw=1, alpha=0.5)
    axes.errorbar(
        distortion,
        rate,
        xerr=_errors(distortions),
        yerr=_errors(rates),
        fmt="o",
        color=MODEL,
        capsize=3,
    )
    for beta, d, r in zip(betas, distortion, rate, strict=True):
        axes.annotate(f"β = {beta:g}", (d, r), xytext=(7, 6), textcoords="offset points")
    sums = rate + distortion
    best = np.argmin(sums)
    axes.plot(
        distortion[best], rate[best], "o", ms=12, mfc="none", color=DISTORTION, label="best ELBO"
    )
    across = np.array([distortion.min(), distortion.max()])
    across = across + 0.18 * (np.ptp(across) or 1.0) * np.array([-1, 1])
    up = np.array([min(0.0, rate.min()), rate.max() + 0.2 * (rate.max() or 1.0)])
    for total in np.unique(np.round(np.linspace(sums.min(), sums.max(), 4), 1)):
        axes.plot(across, total - across, color=RATE, lw=0.7, ls="--", zorder=0)
        at = max(across[0], total - up[1])
        label = axes.annotate(
            typeset(f"ELBO {-total:.1f}"),
            (at, total - at),
            color=RATE,
            fontsize="small",
            va="top",
            xytext=(6, -4),
            textcoords="offset points",
        )
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
    axes.set(xlim=across, ylim=up)
    axes.set(
        xlabel="distortion, minus the mean of log p(x|z) (nats per example)",
        ylabel="rate, KL(q(z|x) || p(z)) (nats per example)",
    )
    axes.legend(loc="lower left")
    figure.suptitle(title)
    return figure


def _values(estimates: Sequence[Estimate]) -> Array:
    return np.array([estimate.value for estimate in estimates])


def _errors(estimates: Sequence[Estimate]) -> list[float]:
    return [estimate.standard_error or 0.0 for estimate in estimates]
