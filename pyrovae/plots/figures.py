r"""Figures: the bound, samples, reconstructions, the latent space.

Each is a function of plain arrays that returns a matplotlib ``Figure``. Nothing global is touched:
no pyplot, no backend, no lasting rcParams.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyrovae._process.files import atomic_file
from pyrovae.diagnostics import GradientComparison
from pyrovae.kl import Ledger

__all__ = [
    "bound",
    "comparison",
    "discrete",
    "divergence",
    "gradients",
    "grid",
    "images",
    "latent",
    "reconstructions",
    "samples",
    "save",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "grid.color": "0.9",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
_BOUND, _VALIDATION, _DISTORTION, _RATE = "#4477AA", "#AA3377", "#EE6677", "#228833"
_REAL, _MODEL, _PRIOR = "0.45", "#4477AA", "0.35"
# after Paul Tol's "muted" scheme, which stays apart under colour blindness; grey for a tenth class
_CLASSES = (
    "#332288",
    "#DDAA33",
    "#117733",
    "#CC6677",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#777777",
)
_MINUS = "\N{MINUS SIGN}"
_COLUMNS, _ROWS = 12, 40  # the most that stay readable


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.style.context(["default", _STYLE]):
        yield


@_style()
def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG: all of it or, on failure, nothing.

    The same figure gives the same bytes: no date or version is written.

    Args:
        figure: what to write.
        path: a file name that ends in ``.png``; an older file there is replaced.

    Raises:
        ValueError: if ``path`` ends otherwise.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"a figure is saved as .png, got {path.name}; use Figure.savefig for more")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


@_style()
def bound(metrics: Sequence[Mapping[str, Any]], *, unit: str = "example") -> Figure:
    r"""The ELBO over epochs and, below it, the two parts that it is made of.

    .. math::
        \text{ELBO} = -\underbrace{(-E_{q(z \mid x)} \log p(x \mid z))}_{\text{distortion}}
        - \underbrace{KL(q(z \mid x) \,\|\, p(z))}_{\text{rate}}

    The first epochs may lie outside an axis: with them on it, all that follow would look flat.

    Args:
        metrics: one mapping per epoch with ``epoch``, ``elbo``, ``reconstruction``, ``kl`` and
            ``validation_elbo`` (None where it was not measured), in nats.
        unit: what a nat is counted per, such as ``"image"``.

    Returns:
        the figure.

    Raises:
        ValueError: if there are no metrics.
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
    lines = [("training", elbo, _BOUND), ("validation", validation, _VALIDATION)]
    _plot_lines(panels["ELBO"], epochs, lines)
    _plot_lines(panels["distortion"], epochs, [("training", -reconstruction, _DISTORTION)])
    _plot_lines(panels["rate"], epochs, [("training", rate, _RATE)])
    figure.suptitle("The bound on log p(x) over training, and its two parts")
    panels["ELBO"].set_title(f"ELBO = {_MINUS}distortion {_MINUS} rate", loc="left")
    panels["distortion"].set_title(r"distortion: $-E_{q(z|x)} \log p(x|z)$", loc="left")
    panels["rate"].set_title(r"rate: $KL(q(z|x) \,\|\, p(z))$", loc="left")
    for name, axes in panels.items():
        axes.set(xlabel="epoch", ylabel=f"{name} (nats per {unit})")
    return figure


def _plot_lines(axes: Axes, epochs: Array, lines: Sequence[tuple[str, Array, str]]) -> None:
    settled = epochs >= epochs[min(3, len(epochs) // 4)]
    within: list[float] = []
    for name, values, colour in lines:
        at, values, kept = (a[np.isfinite(values)] for a in (epochs, values, settled))
        if not len(values):
            continue
        last = f"{values[-1]:.2f}".replace("-", _MINUS)
        label = f"{name}: {last} at epoch {at[-1]:.0f}"
        marker = "o" if len(at) <= 12 else ""
        axes.plot(at, values, color=colour, marker=marker, markersize=4, label=label)
        within += [*np.percentile(values[kept] if kept.any() else values, (2, 98)), values[-1]]
    if within:
        low, high = min(within), max(within)
        margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.legend(loc="best")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


@_style()
def samples(real: Array, sampled: Array) -> Figure:
    """What the model makes of its prior, beside real data.

    Images are shown as two grids, a table of two columns as its points, any other as a histogram
    of each of its first twelve columns.

    Args:
        real: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``.
        sampled: images: the means of p(x | z) at draws of z from p(z). Tables: draws from p(x | z)
            at such z. ``(m, C, H, W)`` or ``(m, columns)``.

    Returns:
        the figure.
    """
    if real.ndim == 4 or real.shape[1] == 2:
        return _side_by_side(real, sampled)
    figure, panels = _column_panels(real.shape[1])
    for panel, truth, drawn in zip(panels, real.T, sampled.T, strict=False):
        bins = _bins(truth, drawn)
        panel.hist(truth, bins=bins, density=True, color=_REAL, alpha=0.45, label="real")
        panel.hist(
            drawn, bins=bins, density=True, histtype="step", lw=1.6, color=_MODEL, label="sampled"
        )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    figure.suptitle("Columns of the data, real and drawn from the model")
    figure.supxlabel("x (units of the data)")
    figure.supylabel("density (per unit of the data)")
    return figure


def _side_by_side(real: Array, sampled: Array) -> Figure:
    images = real.ndim == 4
    ratio = real.shape[2] / real.shape[3] if images else 1
    figure = Figure(figsize=(9, 4.35 * ratio + 0.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=not images, sharey=not images)
    right = "from the prior: mean of $p(x|z)$" if images else "from the model: $x \\sim p(x|z)$"
    panels[0].set_title("real")
    panels[1].set_title(right + r", $z \sim p(z)$")
    figure.suptitle("Real data, and what the model makes of draws from its prior")
    for axes, values, colour in zip(panels, (real, sampled), (_REAL, _MODEL), strict=True):
        if images:
            _show_mosaic(axes, _rgb(values, real), max(1, math.ceil(math.sqrt(len(values)))))
        else:
            axes.plot(*values.T, ".", color=colour, alpha=0.5, markersize=5, markeredgewidth=0)
            axes.set(xlabel="$x_1$ (units of the data)", ylabel="$x_2$ (units of the data)")
            axes.label_outer()
    return figure


@_style()
def images(x: Array, title: str) -> Figure:
    """Images side by side.

    Args:
        x: images ``(n, C, H, W)`` with C 1 or 3.
        title: what they are.

    Returns:
        the figure.

    Raises:
        ValueError: if x has another shape.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"images have the shape (n, 1 or 3, height, width), got {x.shape}; write a table to a "
            ".csv, .npy or .npz file"
        )
    columns = math.ceil(math.sqrt(len(x)))
    ratio = math.ceil(len(x) / columns) * x.shape[2] / (columns * x.shape[3])
    figure = Figure(figsize=(6, 6 * ratio + 0.4), layout="constrained")
    figure.suptitle(title)
    _show_mosaic(figure.subplots(), _rgb(x, x), columns)
    return figure


@_style()
def reconstructions(x: Array, means: Array, labels: Array | None = None) -> Figure:
    """Data, and what is left of them after a draw of the latent.

    Args:
        x: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``, of which the
            first twelve columns are shown.
        means: the means of p(x | z) at z drawn from q(z | x), of the same shape.
        labels: the class of each image ``(n,)``, written above it.

    Returns:
        the figure.
    """
    if x.ndim == 4:
        return _image_pairs(x, means, labels)
    figure, panels = _column_panels(x.shape[1])
    for panel, truth, mean in zip(panels, x.T, means.T, strict=False):
        panel.plot(truth, mean, ".", color=_MODEL, alpha=0.5, markersize=5, markeredgewidth=0)
        ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
        panel.plot(ends, ends, color=_REAL, linewidth=1)
        if truth.var() > 0:
            explained = 1 - ((truth - mean) ** 2).mean() / truth.var()
            panel.set_title(f"$R^2$ = {explained:.2f}".replace("-", _MINUS), loc="right")
    figure.suptitle("Each column against its reconstruction; on the line it would be perfect")
    figure.supxlabel("x (units of the data)")
    figure.supylabel(r"mean of $p(x|z)$, $z \sim q(z|x)$ (units of the data)")
    return figure


def _image_pairs(x: Array, means: Array, labels: Array | None) -> Figure:
    columns = min(10, len(x))
    starts = range(0, len(x), columns)
    height = len(starts) * (1.7 * x.shape[2] / x.shape[3] * 10 / columns + 0.35) + 0.35
    figure = Figure(figsize=(9, height), layout=ConstrainedLayoutEngine(h_pad=0.1))
    figure.suptitle(r"Images x, and below each the mean of $p(x|z)$ at a draw $z \sim q(z|x)$")
    for axes, start in zip(figure.subplots(len(starts), squeeze=False)[:, 0], starts, strict=True):
        band = slice(start, start + columns)
        above, below = _rgb(x[band], x), _rgb(means[band], x)
        missing = np.ones((columns - len(above), *above.shape[1:]))
        rows = np.concatenate([above, missing, below])
        across, down = _show_mosaic(axes, rows, columns)
        axes.set_yticks(down, ["x", "mean of\n$p(x|z)$"])
        if labels is not None:
            classes = [f"class {label}" for label in labels[band]]
            axes.set_xticks(across[: len(above)], classes)
            axes.xaxis.tick_top()
    return figure


@_style()
def latent(
    loc: Array,
    covariance: Array,
    prior_draws: Array,
    prior_density: Callable[[Array], Array],
    labels: Array | None = None,
    *,
    names: Sequence[str] = ("$z_1$", "$z_2$"),
) -> Figure:
    """Posteriors q(z | x) over the prior's density, in one or two dimensions.

    Each posterior is its mean and the ellipse, or in one dimension the interval, of one standard
    deviation. The contours hold 50, 80 and 95 % of the prior's mass, by its draws.

    Args:
        loc: posterior means ``(n, d)``, with d 1 or 2.
        covariance: posterior covariances ``(n, d, d)``.
        prior_draws: draws from the prior ``(m, d)``.
        prior_density: p(z), from points ``(k, d)`` to densities ``(k,)``.
        labels: the class of each datum ``(n,)``.
        names: axis labels, one per dimension.

    Returns:
        the figure.
    """
    figure = Figure(figsize=(8, 6.8), layout="constrained")
    figure.suptitle(f"Where q(z|x) puts {len(loc)} data, and where the prior expects them")
    low = np.minimum(loc.min(0), np.quantile(prior_draws, 0.01, axis=0))
    high = np.maximum(loc.max(0), np.quantile(prior_draws, 0.99, axis=0))
    half = 0.56 * (high - low)
    same_scale = half.max() < 3 * half.min()
    if same_scale:
        half = np.full_like(half, half.max())
    limits = ((low + high) / 2)[:, None] + half[:, None] * [-1, 1]  # (d, 2)
    if loc.shape[1] == 1:
        density, axes = figure.subplots(2, sharex=True, height_ratios=(1, 2.5))
        z = np.linspace(limits[0, 0], limits[0, 1], 400)
        density.fill_between(z, prior_density(z[:, None]), color="0.87", ec=_PRIOR)
        density.set(ylabel="p(z) (per unit of z)", ylim=(0, None))
        _strips(axes, loc[:, 0], np.sqrt(covariance[:, 0, 0]), labels)
        shape, prior = "interval", "prior p(z)"
    else:
        axes = figure.add_subplot()
        _contours(axes, limits, prior_draws, prior_density)
        _ellipses(axes, loc, covariance, labels)
        axes.set(ylim=limits[1], ylabel=names[1], aspect="equal" if same_scale else "auto")
        if labels is not None:
            _class_key(figure, axes, labels)
            _number_classes(axes, loc, labels, limits)
        shape, prior = "ellipse", "prior p(z): 50, 80 and 95 % inside"
    axes.set(xlim=limits[0], xlabel=names[0])
    handles = [
        Line2D([], [], color=_MODEL, marker="o", markersize=4, ls="", label="mean of q(z|x)"),
        Line2D([], [], color=_MODEL, alpha=0.6, label=f"{shape}: one standard deviation"),
        Line2D([], [], color=_PRIOR, label=prior),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _contours(
    axes: Axes, limits: Array, draws: Array, prior_density: Callable[[Array], Array]
) -> None:
    z1, z2 = np.meshgrid(*np.linspace(limits[:, 0], limits[:, 1], 120, axis=1))
    density = prior_density(np.stack([z1.ravel(), z2.ravel()], -1)).reshape(z1.shape)
    levels = np.quantile(
        prior_density(draws[:2000]), (0.05, 0.2, 0.5)
    )  # each holds the rest of the mass
    levels = np.unique(levels[(levels > density.min()) & (levels < density.max())])
    if len(levels):
        greys = ["0.96", "0.92", "0.87"][-len(levels) :]
        axes.contourf(z1, z2, density, levels=[*levels, density.max()], colors=greys)
        axes.contour(z1, z2, density, levels=levels, colors=_PRIOR, linewidths=0.7)
    axes.grid(visible=False)


def _ellipses(axes: Axes, loc: Array, covariance: Array, labels: Array | None) -> None:
    angle = np.linspace(0, 2 * np.pi, 49)
    variances, directions = np.linalg.eigh(covariance)
    root = directions * np.sqrt(variances.clip(0))[:, None]  # covariance = root root^T
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    outlines = loc[:, None] + circle @ root.swapaxes(1, 2)  # (n, points, 2)
    colours = _colours(labels, len(loc))
    cloud = loc - loc.mean(0)
    spread = np.linalg.det(cloud.T @ cloud / len(loc) + covariance.mean(0))
    layers = np.sqrt(variances.clip(0).prod(1)).sum() / (4 * math.sqrt(spread) or 1)
    fade = 1 / max(1, layers / 3)  # many ellipses on one another would hide what is below
    faint, clear = (to_rgba_array(colours, alpha * fade) for alpha in (0.12, 0.45))
    ellipses = PolyCollection(list(outlines), facecolors=faint, edgecolors=clear, linewidths=0.6)
    axes.add_collection(ellipses, autolim=False)
    axes.scatter(loc[:, 0], loc[:, 1], c=colours, s=9, linewidths=0, zorder=2.5)


def _number_classes(axes: Axes, loc: Array, labels: Array, limits: Array) -> None:
    classes = np.unique(labels)
    if len(classes) > len(_CLASSES):
        return
    medians = np.stack([np.median(loc[labels == label], axis=0) for label in classes])
    at = (medians - limits[:, 0]) / np.ptp(limits, axis=1)  # in units of the axes
    at[:, 0] += 1e-6 * np.arange(len(at))
    for _ in range(100):  # push numbers apart that would overlap
        offset = at[:, None] - at
        distance = np.linalg.norm(offset, axis=-1) + np.eye(len(at))
        at += (offset / distance[..., None] * (0.05 - distance).clip(0)[..., None]).sum(1) / 4
    for label, (z1, z2) in zip(classes, limits[:, 0] + at * np.ptp(limits, axis=1), strict=True):
        number = axes.text(z1, z2, str(label), size=13, weight="bold", ha="center", va="center")
        number.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _strips(axes: Axes, loc: Array, scale: Array, labels: Array | None) -> None:
    classes, rows = np.unique(np.zeros(len(loc)) if labels is None else labels, return_inverse=True)
    height = rows.astype(float)
    for row in range(len(classes)):
        members = rows == row
        height[members] += np.linspace(-0.38, 0.38, members.sum() + 2)[1:-1]
    colours = _colours(labels, len(loc))
    faint = to_rgba_array(colours, 0.45)
    ends = np.stack([loc - scale, loc + scale], -1)
    intervals = np.stack([ends, np.stack([height, height], -1)], -1)  # (n, 2 ends, 2)
    axes.add_collection(LineCollection(list(intervals), colors=faint, linewidths=0.8))
    axes.scatter(loc, height, c=colours, s=9, linewidths=0, zorder=2.5)
    axes.grid(visible=False, axis="y")
    axes.set(yticks=[], ylabel="data, one below the other")
    if labels is not None:
        ticks = np.arange(0, len(classes), -(-len(classes) // 12))
        axes.set_yticks(ticks, [str(classes[tick]) for tick in ticks])
        axes.set_ylabel("class")


def _colours(labels: Array | None, count: int) -> Array:
    if labels is None:
        return to_rgba_array([_MODEL] * count)
    classes, ranks = np.unique(labels, return_inverse=True)
    if len(classes) <= len(_CLASSES):
        return to_rgba_array(_CLASSES)[ranks]
    return to_rgba_array(ScalarMappable(Normalize(*classes[[0, -1]]), "viridis").to_rgba(labels))


def _class_key(figure: Figure, axes: Axes, labels: Array) -> None:
    classes = np.unique(labels)
    if len(classes) > len(_CLASSES):
        scale = ScalarMappable(Normalize(*classes[[0, -1]]), "viridis")
        figure.colorbar(scale, ax=axes, label="class")
        return
    dots = [
        Line2D([], [], color=colour, marker="o", ls="", label=str(label))
        for label, colour in zip(classes, _CLASSES, strict=False)
    ]
    figure.legend(handles=dots, title="class", loc="outside right upper")


@_style()
def discrete(
    means: Array, prior: Array, labels: Array | None = None, *, classes: int | None = None
) -> Figure:
    """Means of posteriors q(z | x) over a discrete z, averaged over each class of data.

    For one-hot variables a mean is a probability, and a row how often each value is taken. The last
    row is the prior's. More than 40 classes of data are shown as one.

    Args:
        means: of the posteriors ``(n, latent_dim)``.
        prior: mean of the prior ``(latent_dim,)``.
        labels: the class of each datum ``(n,)``.
        classes: number of entries of each variable, for a line between variables; None for none.

    Returns:
        the figure.
    """
    groups = np.zeros(len(means)) if labels is None else labels
    found = np.unique(groups)
    if len(found) > _ROWS:
        groups, found = np.zeros(len(means)), np.zeros(1)
    names = [f"class {label}" for label in found] if len(found) > 1 else ["all data"]
    rows = np.stack([*(means[groups == label].mean(0) for label in found), prior])
    figure = Figure(figsize=(8, 1.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    shade = axes.imshow(
        rows, cmap="Blues", vmin=min(0.0, rows.min()), aspect="auto", interpolation="nearest"
    )
    axes.axhline(len(rows) - 1.5, color="white", lw=6)
    if classes is not None:
        for edge in range(classes, rows.shape[1], classes):
            axes.axvline(edge - 0.5, color=_PRIOR, lw=0.8)
        starts = np.arange(0, rows.shape[1], classes)
        shown = starts[:: -(-len(starts) // 16)]
        axes.set_xticks(shown + (classes - 1) / 2, [str(start // classes + 1) for start in shown])
        axes.set(xlabel=f"variable of z, each of {classes} classes")
    else:
        axes.set(xlabel="dimension of z, from 0")
    axes.set_yticks(range(len(rows)), [*names, "prior p(z)"])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    about = "mean of z" if classes is None else "probability"
    figure.colorbar(shade, ax=axes, label=about)
    figure.suptitle(
        f"Where q(z|x) puts {len(means)} data, in mean, and where the prior expects them"
    )
    return figure


@_style()
def grid(images: Array, z: Array, quantiles: Array) -> Figure:
    """Images decoded at every pair of quantiles of a two-dimensional prior.

    Args:
        images: the mean of p(x | z) at z = ``(z[i, 0], z[j, 1])`` as entry ``[j, i]``,
            ``(n, n, C, H, W)`` with C 1 or 3.
        z: the quantiles of each dimension's marginal ``(n, 2)``.
        quantiles: the probabilities that they belong to ``(n,)``.

    Returns:
        the figure.
    """
    count, shape = len(quantiles), images.shape[2:]
    figure = Figure(figsize=(8, 7.2 * shape[1] / shape[2] + 1), layout="constrained")
    axes = figure.add_subplot()
    top_first = images[::-1].reshape(-1, *shape)
    across, down = _show_mosaic(axes, _rgb(top_first, images), count)
    chosen = np.unique(np.linspace(1, count - 2, 5).round().astype(int).clip(0, count - 1))
    texts = [
        [f"{z[i, d]:.2f}\n({100 * quantiles[i]:.0f} %)".replace("-", _MINUS) for i in chosen]
        for d in (0, 1)
    ]
    axes.set_xticks(across[chosen], texts[0])
    axes.set_yticks(down[::-1][chosen], texts[1])
    axes.set(xlabel="$z_1$ (quantile of the prior)", ylabel="$z_2$ (quantile of the prior)")
    figure.suptitle("The mean of $p(x|z)$ for $z$ on a grid of the prior's quantiles")
    return figure


def _rgb(images: Array, data: Array) -> Array:
    """(n, C, H, W) on the scale of the data, to (n, H, W, 3) between 0 and 1."""
    low, high = min(0.0, float(data.min())), float(data.max())
    scaled = ((images - low) / (high - low if high > low else 1)).clip(0, 1)
    return np.broadcast_to(scaled, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)


def _show_mosaic(axes: Axes, images: Array, columns: int) -> tuple[Array, Array]:
    """Images (n, H, W, 3) in rows; the centres of its columns and of its rows."""
    enlarged = max(1, 64 // max(images.shape[1:3]))
    images = images.repeat(enlarged, 1).repeat(enlarged, 2)
    height, width = images.shape[1:3]
    gap = max(2, height // 20)
    rows = -(-len(images) // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    axes.imshow(canvas)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
    across, down = (
        (np.arange(columns) + 0.5) * (width + gap),
        (np.arange(rows) + 0.5) * (height + gap),
    )
    return across - (gap + 1) / 2, down - (gap + 1) / 2


def _column_panels(columns: int) -> tuple[Figure, list[Axes]]:
    shown = min(columns, _COLUMNS)
    across = min(4, shown)
    down = -(-shown // across)
    figure = Figure(figsize=(max(6, 2.4 * across), 2 * down + 1), layout="constrained")
    panels = [figure.add_subplot(down, across, index + 1) for index in range(shown)]
    for index, panel in enumerate(panels):
        panel.set_title(f"$x_{{{index + 1}}}$", loc="left")
    return figure, panels


def _bins(real: Array, sampled: Array) -> list[float]:
    values = np.unique(real)
    if len(values) <= 30 and (values == values.round()).all():
        return list(np.arange(values[0] - 0.5, values[-1] + 1))
    low, high = np.quantile(np.concatenate([real, sampled]), (0.002, 0.998))
    return list(np.linspace(low, high, int(np.clip(1.5 * np.sqrt(len(real)), 10, 40))))


@_style()
def divergence(result: Ledger, *, unit: str = "example") -> Figure:
    """Two estimates of KL(q || p) against the number of draws, and what is known of the truth.

    Bands are two standard errors wide on either side. The axis is made for the truth and for the
    first estimator; the second one, whose variance may be infinite, can leave it at few draws.

    Args:
        result: returned by :func:`pyrovae.kl.compare`.
        unit: what a nat is counted per, such as ``"image"``.

    Returns:
        the figure.
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
        axes.axhline(exact.value, color=_REAL, lw=1.2, label=f"{how}: {exact.value:.6g}")
        shown.append(exact.value)
    for sampled, label, colour, marker in (
        (result.monte_carlo, r"$\log q - \log p$", _BOUND, "o"),
        (result.low_variance, r"$r - 1 - \log r$, $r = p/q$", _DISTORTION, "s"),
    ):
        rows = sorted(sampled, key=lambda row: row.samples)
        draws = np.array([row.samples for row in rows])
        estimate = np.array([row.estimate.value for row in rows], float)
        error = np.array([row.estimate.standard_error or 0.0 for row in rows], float)
        low, high = estimate - 2 * error, estimate + 2 * error
        if np.isfinite(estimate[-1]):
            at = f"{estimate[-1]:.6g} at {draws[-1]:,}".replace("-", _MINUS)
            if rows[-1].mean_ratio is not None:
                at += f" (mean of r {rows[-1].mean_ratio:.2g}, should be 1)"
            axes.fill_between(draws, low, high, color=colour, alpha=0.18, lw=0)
            axes.plot(draws, estimate, color=colour, marker=marker, ms=5, label=f"{label}: {at}")
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


@_style()
def comparison(result: Mapping[str, Any], images: Sequence[Array] | None) -> Figure:
    """Models side by side: the bound on log p(x) of each and, where x is an image, samples.

    Beside a bound stands its paired difference from the first, whose error is smaller than the
    bars make it look, for all are of the same examples.

    Args:
        result: what :func:`pyrovae.runs.compare` gives.
        images: of each model, means of p(x | z) at z drawn from its prior, ``(n, C, H, W)`` with C
            1 or 3; None where x is no image.

    Returns:
        the figure.
    """
    rows, varied = result["rows"], ", ".join(result["varied"])
    labels = [", ".join(row[role] for role in result["varied"]) for row in rows]
    width, height = (8, 1.8 + 0.4 * len(rows)) if images is None else (12, 1.5 + 0.5 * len(rows))
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{result['data']}: same network, budget and seeds, another {varied}")
    if images is None:
        bounds = figure.add_subplot()
    else:
        samples, bounds = figure.subplots(1, 2, width_ratios=(1.6, 1))
        every = np.concatenate(images)
        _, down = _show_mosaic(samples, _rgb(every, every), len(images[0]))
        samples.set_yticks(down, labels)
        samples.set_title("means of $p(x|z)$ at draws of z from the prior", loc="left")
        across, tall = (
            abs(np.diff(limits)[0]) for limits in (samples.get_xlim(), samples.get_ylim())
        )
        bounds.set_box_aspect(1.6 * tall / across)
    places = np.arange(len(rows))
    estimates = [row["log_evidence"]["estimate"] for row in rows]
    errors = [row["log_evidence"]["standard_error"] or 0.0 for row in rows]
    bounds.errorbar(estimates, places, xerr=errors, fmt="o", color=_BOUND, capsize=3)
    for place, row in enumerate(rows):
        if row["difference"] is not None:
            difference = f"{row['difference']['estimate']:+.2f}"
            if row["difference"]["standard_error"] is not None:
                difference += f" ± {row['difference']['standard_error']:.2f}"
            at = (estimates[place], place - 0.12)
            text = difference.replace("-", _MINUS)
            bounds.annotate(text, at, ha="center", va="bottom", fontsize="small")
    bounds.set(ylim=(len(rows) - 0.5, -0.5), xlabel="nats per example (bars: standard errors)")
    bounds.set_yticks(places, labels if images is None else [""] * len(rows))
    bounds.set_title("bound on log p(x), test set", loc="left")
    return figure


@_style()
def gradients(result: GradientComparison) -> Figure:
    """The noise of each estimator of the encoder's gradient, and its signal, layer by layer.

    Where the mean over draws is lost in the noise there is no mark for the ratio of the two; a
    variance of zero has none either, on an axis that is logarithmic.

    Args:
        result: what :func:`pyrovae.diagnostics.compare_gradients` gives.

    Returns:
        the figure.
    """
    rows = [(row.name, row.noise) for row in result.estimators if row.noise is not None]
    layers = [layer.name for layer in rows[0][1].layers]
    places = np.arange(len(layers) + 1)
    figure = Figure(figsize=(10, 2.6 + 0.4 * len(places)), layout="constrained")
    noise, signal = figure.subplots(1, 2, sharey=True)
    for (name, found), offset in zip(rows, (-0.18, 0.0, 0.18), strict=False):
        label, colour, marker = _ESTIMATORS[name]
        variance = np.array([*(layer.variance for layer in found.layers), found.variance.value])
        squared = np.array(
            [*(layer.squared_norm for layer in found.layers), found.mean.squared_norm]
        )
        seen = (squared > 0) & (variance > 0)
        ratio = np.sqrt(np.divide(squared, variance, out=np.zeros(len(squared)), where=seen))
        dots: dict[str, Any] = {"color": colour, "marker": marker, "ls": "", "ms": 6}
        noise.plot(np.where(variance > 0, variance, np.nan), places + offset, label=label, **dots)
        signal.plot(np.where(seen, ratio, np.nan), places + offset, **dots)
    for axes in (noise, signal):
        axes.axhline(len(layers) - 0.5, color=_REAL, lw=0.8)
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


_ESTIMATORS = {
    "elbo": ("Monte Carlo KL", _BOUND, "o"),
    "analytic": ("analytic KL", _RATE, "s"),
    "stl": ("sticking the landing", _DISTORTION, "D"),
}
