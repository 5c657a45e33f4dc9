r"""The figures of a diagnosis: the terms of the bound, q(z) over p(z), and samples."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from pyrovae._process.isolation import evaluating, isolated
from pyrovae.data import Dataset
from pyrovae.diagnostics import Diagnosis, DimensionTerms, Surgery, marginal_density
from pyrovae.distributions import fills_space, is_discrete
from pyrovae.plots import style
from pyrovae.plots.examples import image_panels, image_shape
from pyrovae.plots.latent_space import contours, discrete
from pyrovae.plots.style import Array, as_array, styled, typeset
from pyrovae.plots.tables import column_histograms
from pyrovae.vae import VAE

__all__ = ["diagnosis_figures"]

_IMAGES = 64  # of each kind
_HISTOGRAMS = 6
_DIMENSIONS = 50  # the most whose bars stay readable
_TERMS = (
    ("kl", "mean KL(q(z|x) || p(z))", style.REAL, 0),
    ("mutual_information", "mutual information", style.BOUND, 0),
    ("marginal_kl", "KL(q(z) || p(z))", style.DISTORTION, 1),
    ("total_correlation", "  total correlation", "#F2A7AE", 1),
    ("dimension_wise_kl", "  dimension-wise KL", "#F2A7AE", 2),
)


def diagnosis_figures(
    vae: VAE, diagnosis: Diagnosis, dataset: Dataset | None = None
) -> dict[str, Figure]:
    """Draw every figure that applies to a diagnosis.

    Args:
        vae: the VAE that was diagnosed.
        diagnosis: its diagnosis.
        dataset: that it was diagnosed with; the columns of a table are drawn in its units, under
            their names.

    Returns:
        Figures by name: ``surgery``, the terms of the bound, if they could be computed;
        ``aggregate``, draws from the aggregate posterior over the prior, for all data and for each
        class; ``decoded``, real data beside data decoded from draws of the prior and of the
        aggregate posterior.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.diagnostics import diagnose
        >>> digits = pyrovae.data.load("digits", binarization="threshold")
        >>> found = diagnose(vae, digits, limit=50, draws=2)
        >>> list(plots.diagnosis_figures(vae, found))
        ['surgery', 'aggregate', 'decoded']
    """
    pictures = {}
    if diagnosis.surgery is not None and math.isfinite(diagnosis.surgery.kl.value):
        pictures["surgery"] = _surgery(diagnosis.surgery)
    with torch.no_grad(), isolated(), evaluating(vae):
        torch.manual_seed(diagnosis.seed)
        pictures["aggregate"] = _aggregate(vae, diagnosis)
    pictures["decoded"] = _decoded(diagnosis, dataset)
    return pictures


@styled()
def _surgery(result: Surgery) -> Figure:
    """Draw the KL term as mutual information of code and example plus the KL of q(z) and p(z)."""
    rows = [row for row in _TERMS if row[0] in result.terms]
    dimensions = [row for row in result.dimensions if row.kl is not None]
    figure = Figure(figsize=(11 if dimensions else 7, 4.2), layout="constrained")
    whole, *alone = figure.subplots(1, 2 if dimensions else 1, squeeze=False)[0]
    information = result.mutual_information.value
    correlation = 0.0 if result.total_correlation is None else result.total_correlation.value
    starts = (0.0, information, information + correlation)
    high = max(result.kl.value, result.log_examples)
    for place, (name, _, color, level) in enumerate(rows):
        value, error = result.terms[name].value, result.terms[name].standard_error or 0.0
        start, end = starts[level], starts[level] + max(value, 0)
        whole.barh(place, value, left=start, color=color, height=0.7)
        digits = 2 if error >= 0.005 or error < 5e-5 else 4
        text = typeset(f"{value:.{digits}f} ± {error:.{digits}f}")
        inside = end > 0.72 * high  # no room at the right: on the bar, or to the left of it
        on_bar = inside and not level
        at = (end if on_bar else start) - 0.01 * high if inside else end + 0.01 * high
        color = "white" if on_bar else "black"
        side = "right" if inside else "left"
        number = whole.text(at, place, text, va="center", ha=side, color=color)
        if not on_bar:
            number.set_path_effects([withStroke(linewidth=4, foreground="white")])
    ceiling = result.log_examples
    whole.axvline(ceiling, color=style.PRIOR, ls="--", lw=1, zorder=0.5)
    text, side = f" ceiling: log N = {ceiling:.2f} ", "left" if ceiling < 0.45 * high else "right"
    whole.text(ceiling, len(rows) - 0.2, text, color=style.PRIOR, va="center", ha=side)
    whole.set_yticks(range(len(rows)), [label for _, label, _, _ in rows])
    whole.set(xlabel="nats per example", ylim=(len(rows) + 0.2, -0.6), xlim=(None, 1.1 * high))
    whole.grid(visible=False, axis="y")
    whole.set_title("all dimensions together", loc="left")
    for axes in alone:
        _by_dimension(axes, dimensions)
    figure.suptitle(
        f"What the KL term is made of: {result.examples:,} examples, {result.draws} draws each"
    )
    return figure


def _by_dimension(axes: Axes, rows: Sequence[DimensionTerms]) -> None:
    rows = sorted(rows, key=_minus_kl)[:_DIMENSIONS]
    places = np.arange(len(rows))
    information, off = (
        np.array([getattr(row, name).value for row in rows])
        for name in ("mutual_information", "marginal_kl")
    )
    label = r"KL$(q(z_j) \,\|\, p(z_j))$"
    axes.bar(places, information, color=style.BOUND, label="information in $z_j$ alone")
    axes.bar(places, off, bottom=information, color=style.DISTORTION, label=label)
    shown = places[:: -(-len(places) // 15)]
    axes.set_xticks(shown, [str(rows[place].dimension) for place in shown])
    axes.set(xlabel="dimension j, by its KL", ylabel="nats per example")
    axes.set_ylim(0, 1.25 * max((information + off).max(), 1e-3))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right")
    axes.set_title("each dimension by itself", loc="left")


def _minus_kl(row: DimensionTerms) -> float:
    return 0.0 if row.kl is None else -row.kl.value


@styled()
def _aggregate(vae: VAE, diagnosis: Diagnosis) -> Figure:
    """Draw the aggregate posterior over the prior, for all data and for each class."""
    p, z, labels = vae.prior(), diagnosis.figure_data.z, diagnosis.figure_data.labels
    if is_discrete(p):
        return discrete(z, as_array(p.mean), labels, classes=getattr(p, "classes", None))
    draws = p.sample((5_000,))
    prior, order = as_array(draws), _order(diagnosis)
    dims = np.arange(z.shape[1]) if z.shape[1] <= 2 else order[:2]
    classes = _members(z, labels)
    if len(dims) == 1:
        figure = Figure(figsize=(8, 4), layout="constrained")
        _histograms(figure, z, prior, dims, classes)
    else:
        figure = Figure(figsize=(12.5 if classes else 7.5, 6.7), layout="constrained")
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(4.4, 2.3)))
        density = partial(marginal_density, p, draws, dims) if fills_space(p) else None
        _plane(above, z, prior, dims, classes, density)
        _histograms(below, z, prior, dims if z.shape[1] == 2 else order[:_HISTOGRAMS], {})
    figure.suptitle(
        "The aggregate posterior q(z) against the prior p(z): all data"
        + (", and each class" if classes else "")
    )
    return figure


def _order(diagnosis: Diagnosis) -> Array:
    """Dimensions in decreasing order of their KL, or of their activity if there is no KL."""
    rows = [] if diagnosis.surgery is None else diagnosis.surgery.dimensions
    if rows and len(rows) == diagnosis.latent_dim and rows[0].kl is not None:
        return np.argsort([_minus_kl(row) for row in rows])
    return np.argsort([-value for value in diagnosis.activity])


def _members(z: Array, labels: Array | None) -> dict[Any, Array]:
    """The draws of each class, or of the most frequent ones."""
    if labels is None:
        return {}
    classes, counts = np.unique(labels, return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[: len(style.CLASSES)]])
    return {label: z[labels == label] for label in shown}


def _plane(
    figure: Any,
    z: Array,
    prior: Array,
    dims: Array,
    classes: Mapping[Any, Array],
    density: Callable[[Array], Array] | None,
) -> None:
    """Draw two dimensions of z over the prior, of all examples and of each class."""
    points, shown = z[:, dims], prior[:, dims]
    limits = _limits(points, shown)
    mosaic = "aa01234;aa56789" if classes else "a"
    panels = figure.subplot_mosaic(mosaic, sharex=True, sharey=True)
    for axes in panels.values():
        if density is None:
            axes.plot(*shown[:1_500].T, ".", color="0.85", ms=3, zorder=0)
            axes.grid(visible=False)
        else:
            contours(axes, limits, shown, density)
    whole = panels.pop("a")
    whole.plot(*points.T, ".", color=style.MODEL, ms=4, alpha=0.6, mew=0)
    whole.set_title(f"all {len(z):,} examples", loc="left")
    whole.set(xlim=limits[0], ylim=limits[1])
    whole.set(xlabel=f"$z_{{{dims[0] + 1}}}$", ylabel=f"$z_{{{dims[1] + 1}}}$")
    places = list(panels.values())
    for axes, (label, members), color in zip(places, classes.items(), style.CLASSES, strict=False):
        axes.plot(*points.T, ".", color="0.72", ms=1.5, mew=0)
        axes.plot(*members[:, dims].T, ".", color=color, ms=5, alpha=0.8, mew=0)
        axes.set_title(f"class {label}", loc="left", fontsize="small")
        axes.tick_params(labelleft=False, labelsize="x-small")
    for axes in places[len(classes) :]:
        axes.set_axis_off()
    q, p = "one draw z ~ q(z|x) each", "prior: 50, 80 and 95 % inside"
    handles = [
        Line2D([], [], color=style.MODEL, marker="o", ms=4, ls="", label=q),
        Line2D([], [], color=style.PRIOR, label=p)
        if density is not None
        else Line2D([], [], color="0.8", label="draws of the prior"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small")


def _histograms(
    figure: Any, z: Array, prior: Array, dims: Array, classes: Mapping[Any, Array]
) -> None:
    panels = figure.subplots(1, len(dims), squeeze=False)[0]
    for axes, d in zip(panels, dims, strict=True):
        low, high = np.quantile(np.concatenate([z[:, d], prior[:, d]]), (0.002, 0.998))
        bins = np.linspace(low, high, 31)
        axes.hist(z[:, d], bins=bins, density=True, color=style.MODEL, alpha=0.5, label="q(z)")
        step: dict[str, Any] = {"bins": bins, "histtype": "step"}
        axes.hist(prior[:, d], density=True, color=style.PRIOR, label="p(z)", **step)
        for (label, members), color in zip(classes.items(), style.CLASSES, strict=False):
            share = np.full(len(members), 1 / (len(z) * (bins[1] - bins[0])))
            name = f"class {label}"
            axes.hist(members[:, d], weights=share, color=color, lw=1.5, label=name, **step)
        axes.set(xlabel=f"$z_{{{d + 1}}}$", yticks=[])
        axes.grid(visible=False)
    panels[0].set_ylabel("density")
    panels[0].legend(fontsize="small", loc="upper left", handlelength=1)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, 1.35 * high)


def _limits(points: Array, prior: Array) -> Array:
    low = np.minimum(np.quantile(points, 0.002, axis=0), np.quantile(prior, 0.01, axis=0))
    high = np.maximum(np.quantile(points, 0.998, axis=0), np.quantile(prior, 0.99, axis=0))
    half = 0.55 * (high - low)
    return np.asarray(((low + high) / 2)[:, None] + half[:, None] * [-1, 1])


@styled()
def _decoded(diagnosis: Diagnosis, dataset: Dataset | None) -> Figure:
    """Draw real data, and data decoded from draws of the prior and the aggregate posterior."""
    decoded = diagnosis.figure_data.decoded
    shape = image_shape(decoded["real"].shape[1:])
    if shape is None:
        return _columns(decoded, dataset)
    titles = {
        "real": "test data",
        "prior": r"mean of $p(x|z)$, $z \sim p(z)$",
        "aggregate": r"mean of $p(x|z)$, $z \sim q(z|x')$",
    }
    for row in diagnosis.samples:
        if row.against == "test" and row.of in titles and row.test is not None:
            value, error = row.test.accuracy.value, row.test.accuracy.standard_error or 0.0
            titles[row.of] += (
                f"\na classifier tells draws of $p(x|z)$ from test data:\n"
                f"{100 * value:.0f} ± {100 * error:.0f} % right, of {row.test.tested}"
            )
    kinds = [decoded[kind].reshape(-1, *shape) for kind in titles]
    figure = image_panels((12, 3.95, 1.1), list(titles.values()), kinds, most=_IMAGES)
    figure.suptitle(
        "Test data, samples of the model, and samples from encodings of training data x'"
    )
    return figure


def _columns(decoded: Mapping[str, Array], dataset: Dataset | None) -> Figure:
    real, prior, aggregate = (
        decoded[kind] if dataset is None else dataset.test.original(decoded[kind])
        for kind in ("real", "prior", "aggregate")
    )
    real, prior, aggregate = (x.reshape(len(x), -1) for x in (real, prior, aggregate))
    drawn = [
        ("mean of p(x|z), z of the prior", prior, style.MODEL),
        ("mean of p(x|z), z of the aggregate", aggregate, style.RATE),
    ]
    title = "Columns of test data, and of what is decoded"
    schema = None if dataset is None else dataset.schema
    return column_histograms(real, drawn, title, binned=prior, schema=schema, linewidth=1.0)
