r"""The ELBO: over training, of several models, and the estimators of its KL term and gradient."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from pyrovae.diagnostics import GradientComparison
from pyrovae.estimates import Estimate
from pyrovae.kl import Ledger
from pyrovae.plots import style
from pyrovae.plots.examples import rgb, show_mosaic
from pyrovae.plots.style import Array, styled, typeset, values_and_errors
from pyrovae.training import History

__all__ = ["bound", "comparison", "divergence", "gradients", "histories", "rate_distortion"]

_ESTIMATORS = {
    "elbo": ("Monte Carlo KL", style.BOUND, "o"),
    "analytic": ("analytic KL", style.RATE, "s"),
    "stl": ("sticking the landing", style.DISTORTION, "D"),
}


@styled()
def bound(metrics: Sequence[Mapping[str, Any]], *, unit: str = "example") -> Figure:
    r"""Plot the ELBO over epochs and, below it, its two parts.

    .. math::
        \text{ELBO} = \underbrace{E_{q(z \mid x)} \log p(x \mid z)}_{\text{reconstruction}}
        - \underbrace{KL(q(z \mid x) \,\|\, p(z))}_{\text{KL term}}

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
        ['reconstruction: $E_{q(z|x)} \\log p(x|z)$', 'KL term: $KL(q(z|x) \\,\\|\\, p(z))$']
    """
    if not metrics:
        raise ValueError("metrics must hold at least one epoch, got none; train for one epoch")
    epochs, elbo, reconstruction, kl, validation = (
        np.array([row.get(key) for row in metrics], float)  # None is NaN
        for key in ("epoch", "elbo", "reconstruction", "kl", "validation_elbo")
    )
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    figure.suptitle("The bound on log p(x) over training, and its two parts")
    panels = figure.subplot_mosaic(
        [["ELBO", "ELBO"], ["reconstruction", "KL term"]], height_ratios=(1.25, 1)
    )
    lines = [("training", elbo, style.BOUND), ("validation", validation, style.VALIDATION)]
    _plot_lines(panels["ELBO"], epochs, lines)
    parts = {"reconstruction": (reconstruction, style.DISTORTION), "KL term": (kl, style.RATE)}
    for name, (values, color) in parts.items():
        _plot_lines(panels[name], epochs, [("training", values, color)])
    panels["ELBO"].set_title(typeset("ELBO = reconstruction - KL term"), loc="left")
    panels["reconstruction"].set_title(r"reconstruction: $E_{q(z|x)} \log p(x|z)$", loc="left")
    panels["KL term"].set_title(r"KL term: $KL(q(z|x) \,\|\, p(z))$", loc="left")
    for name, axes in panels.items():
        axes.set(xlabel="epoch", ylabel=f"{name} (nats per {unit})")
    return figure


@styled()
def histories(labels: Sequence[str], runs: Sequence[History]) -> Figure:
    """Plot the epochs of several runs: validation ELBO, reconstruction and KL term.

    Args:
        labels: names of the runs.
        runs: their epochs.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> trained = [pyrovae.fit(vae, x, epochs=2, seed=seed).history for seed in (0, 1)]
        >>> figure = plots.histories(["seed 0", "seed 1"], trained)
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['epoch', 'epoch', 'epoch']
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    colors = [style.CLASSES[i % len(style.CLASSES)] for i in range(len(runs))]
    kept = ["elbo" if np.isnan(run.validation_elbo).all() else "validation_elbo" for run in runs]
    shown = {
        "ELBO (validation; training where there is none)": kept,
        "reconstruction (training)": ["reconstruction"] * len(runs),
        "KL term (training)": ["kl"] * len(runs),
    }
    for axes, (title, columns) in zip(panels, shown.items(), strict=True):
        found = [run[column] for run, column in zip(runs, columns, strict=True)]
        for label, color, run, values in zip(labels, colors, runs, found, strict=True):
            seen = np.isfinite(values)
            axes.plot(run.epoch[seen], values[seen], color=color, label=label)
        finite = np.concatenate(found)
        low, high = np.quantile(finite[np.isfinite(finite)], (0.08, 1))
        room = 0.05 * (high - low or 1)
        axes.set_ylim(low - room, high + room)  # the first epochs would flatten all later ones
        axes.set_title(title, loc="left", size="medium")
        axes.set(xlabel="epoch", ylabel="nats per example")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(runs), 4))
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


@styled()
def comparison(
    labels: Sequence[str],
    bounds: Sequence[Estimate],
    notes: Sequence[str],
    images: Sequence[Array] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw each model's bound on log p(x) and, for image data, samples from each model.

    The bars are wider than what tells two models apart, if these are evaluated on the same
    examples: write the paired difference from the first one into the notes.

    Args:
        labels: names of the models.
        bounds: on log p(x), in nats per example.
        notes: text above each bound.
        images: of each model, means of p(x | z) at z drawn from its prior, ``(n, C, H, W)`` with C
            1 or 3; None for other data.
        title: of the figure.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.estimates import Estimate
        >>> bounds = [Estimate(-21.3, 0.2), Estimate(-20.9, 0.2)]
        >>> figure = plots.comparison(["normal", "flow"], bounds, ["", "+0.40 (+0.30 to +0.50)"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['+0.40 (+0.30 to +0.50)']
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
        across, tall = np.ptp(samples.get_xlim()), np.ptp(samples.get_ylim())
        panel.set_box_aspect(1.6 * tall / across)
    values, errors = values_and_errors(bounds)
    places = np.arange(count)
    panel.errorbar(values, places, xerr=errors, fmt="o", color=style.BOUND, capsize=3)
    for place, note in enumerate(notes):
        if note:
            at = (values[place], place - 0.12)
            panel.annotate(typeset(note), at, ha="center", va="bottom", fontsize="small")
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
    (x, x_errors), (y, y_errors) = map(values_and_errors, (distortions, rates))
    figure = Figure(figsize=(7.5, 5.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.add_subplot()
    axes.plot(x, y, color=style.MODEL, lw=1, alpha=0.5)
    axes.errorbar(x, y, xerr=x_errors, yerr=y_errors, fmt="o", color=style.MODEL, capsize=3)
    for beta, d, r in zip(betas, x, y, strict=True):
        axes.annotate(f"β = {beta:g}", (d, r), xytext=(7, 6), textcoords="offset points")
    sums = x + y
    best = np.argmin(sums)
    axes.plot(x[best], y[best], "o", ms=12, mfc="none", color=style.DISTORTION, label="best ELBO")
    across = np.array([x.min(), x.max()])
    across = across + 0.18 * (np.ptp(across) or 1.0) * np.array([-1, 1])
    up = np.array([min(0.0, y.min()), y.max() + 0.2 * (y.max() or 1.0)])
    for total in np.unique(np.round(np.linspace(sums.min(), sums.max(), 4), 1)):
        axes.plot(across, total - across, color=style.RATE, lw=0.7, ls="--", zorder=0)
        left = max(across[0], total - up[1])
        text, at = typeset(f"ELBO {-total:.1f}"), (left, total - left)
        beside: dict[str, Any] = {"xytext": (6, -4), "textcoords": "offset points", "va": "top"}
        label = axes.annotate(text, at, color=style.RATE, fontsize="small", **beside)
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
    axes.set(xlim=across, ylim=up)
    axes.set_xlabel("distortion, minus the mean of log p(x|z) (nats per example)")
    axes.set_ylabel("rate, KL(q(z|x) || p(z)) (nats per example)")
    axes.legend(loc="lower left")
    return figure


@styled()
def divergence(result: Ledger, *, unit: str = "example") -> Figure:
    """Draw two estimates of KL(q || p) against the number of draws, with the exact value or bounds.

    Bands extend two standard errors to either side. The axis is chosen to show the exact value and
    the first estimator; the second can leave it at few draws, and is left out where it does not
    apply.

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
        axes.axhline(exact.value, color=style.REAL, lw=1.2, label=f"{how}: {exact.value:.6g}")
        shown.append(exact.value)
    for sampled, label, color, marker in (
        (result.monte_carlo, r"$\log q - \log p$", style.BOUND, "o"),
        (result.low_variance, r"$r - 1 - \log r$, $r = p/q$", style.DISTORTION, "s"),
    ):
        if sampled is result.low_variance and result.unusable:
            continue
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
        axes.axhline(len(layers) - 0.5, color=style.REAL, lw=0.8)
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
