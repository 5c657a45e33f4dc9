r"""Examples: images in rows, tables column by column; samples, reconstructions and completions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pyrovae.plots.style import DISTORTION, MODEL, REAL, Array, Shape, styled, typeset

__all__ = ["completions", "grid", "images", "prior_swap", "reconstructions", "samples"]

_HIDDEN = "#88CCEE"
_SHOWN = 12  # the most columns that stay readable


@styled()
def samples(real: Array, sampled: Array) -> Figure:
    """Draw real data beside what the model makes of draws from its prior.

    Images become two grids, a table of two columns its points, any other table a histogram of each
    of its first twelve columns.

    Args:
        real: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``.
        sampled: images: the means of p(x | z) at draws of z from p(z). Tables: draws from p(x | z)
            at such z. ``(m, C, H, W)`` or ``(m, columns)``.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> with torch.no_grad():
        ...     drawn = vae.decode(vae.prior().sample((64,)))
        >>> [axes.get_title() for axes in plots.samples(x.numpy(), drawn.numpy()).axes]
        ['real', 'from the prior: mean of $p(x|z)$, $z \\\\sim p(z)$']
    """
    if real.ndim != 4 and real.shape[1] != 2:
        drawn = [("sampled", sampled, MODEL)]
        figure = column_histograms(real, drawn, binned=sampled, alpha=0.45, beside=True)
        figure.suptitle("Columns of the data, real and drawn from the model")
        figure.supxlabel("x (units of the data)")
        figure.supylabel("density (per unit of the data)")
        return figure
    if real.ndim == 4:
        titles = ("real", r"from the prior: mean of $p(x|z)$, $z \sim p(z)$")
        size = (9, 4.35 * real.shape[2] / real.shape[3] + 0.6)
        figure = image_panels(size, titles, (real, sampled))
    else:
        figure = _points(real, sampled)
    figure.suptitle("Real data, and what the model makes of draws from its prior")
    return figure


def _points(real: Array, sampled: Array) -> Figure:
    figure = Figure(figsize=(9, 4.95), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.set_title("real")
    right.set_title(r"from the model: $x \sim p(x|z)$, $z \sim p(z)$")
    for axes, values, color in ((left, real, REAL), (right, sampled, MODEL)):
        axes.plot(*values.T, ".", color=color, alpha=0.5, markersize=5, markeredgewidth=0)
        axes.set(xlabel="$x_1$ (units of the data)", ylabel="$x_2$ (units of the data)")
        axes.label_outer()
    return figure


@styled()
def prior_swap(real: Array, before: Array, after: Array, prior: str, other: str) -> Figure:
    """Draw real data beside samples under two priors.

    Images become three grids, a table a histogram of each of its first twelve columns.

    Args:
        real: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``.
        before: images: means of p(x | z) at draws from the first prior. Tables: draws of x.
        after: likewise, from the second prior.
        prior: name of the first.
        other: name of the second.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> images = x.numpy()
        >>> len(plots.prior_swap(images, images, images, "normal", "flow").axes)
        3
    """
    if real.ndim == 4:
        titles = ("real", f"before: $p(z)$ {prior}", f"after: $p(z)$ {other}")
        size = (12, 3.9 * real.shape[2] / real.shape[3] + 0.8)
        figure = image_panels(size, [_short(title) for title in titles], (real, before, after))
        figure.suptitle("Means of $p(x|z)$, $z \\sim p(z)$: the same decoder under two priors")
        return figure
    drawn = [
        (_short(f"before: p(z) {prior}"), before, DISTORTION),
        (_short(f"after: p(z) {other}"), after, MODEL),
    ]
    figure = column_histograms(real, drawn, binned=np.concatenate([before, after]))
    figure.suptitle("Columns of the data, and draws of the same decoder under two priors")
    figure.supylabel("density (per unit of the data)")
    return figure


def _short(text: str) -> str:
    """Shorten text to fit above a panel."""
    return text if len(text) <= 48 else f"{text[:47]}…"


@styled()
def images(x: Array, title: str) -> Figure:
    """Draw images side by side.

    Args:
        x: images ``(n, C, H, W)`` with C 1 or 3.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if x has another shape.

    Example:
        >>> from pyrovae import plots
        >>> plots.images(x.numpy(), "Handwritten digits").get_suptitle()
        'Handwritten digits'
    """
    check_images(x, ".csv, .npy or .npz")
    columns = math.ceil(math.sqrt(len(x)))
    ratio = math.ceil(len(x) / columns) * x.shape[2] / (columns * x.shape[3])
    figure = Figure(figsize=(6, 6 * ratio + 0.4), layout="constrained")
    figure.suptitle(title)
    show_mosaic(figure.subplots(), rgb(x, x), columns)
    return figure


def check_images(x: Array, formats: str) -> None:
    """Refuse data that are not images.

    Args:
        x: data ``(n, ...)``.
        formats: file formats for tables, for the message.

    Raises:
        ValueError: if x is not ``(n, 1 or 3, height, width)``.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"images have the shape (n, 1 or 3, height, width), got {x.shape}; write a table to a "
            f"{formats} file"
        )


@styled()
def completions(
    x: Array,
    observed: Array,
    drawn: Array,
    mean: Array,
    captions: Sequence[str],
    title: str = r"Draws of the missing pixels from $p(x_\mathrm{miss}|x_\mathrm{obs})$",
) -> Figure:
    """Draw each image, its observed part, several completions, and their mean.

    Hidden pixels are blue.

    Args:
        x: images ``(n, C, H, W)`` with C 1 or 3; NaN pixels count as hidden.
        observed: true where a pixel is observed, ``(n, C, H, W)``.
        drawn: completions ``(n, completions, C, H, W)``.
        mean: their mean ``(n, C, H, W)``.
        captions: of the images, at their left.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if x has another shape.

    Example:
        >>> import numpy as np
        >>> from pyrovae import plots
        >>> images, seen = x[:2].numpy(), np.ones((2, 1, 8, 8), bool)
        >>> seen[..., 4:] = False
        >>> figure = plots.completions(images, seen, images[:, None], images, ["first", "second"])
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['x', 'observed', 'draw 1', 'mean']
    """
    check_images(x, ".npz")
    known, there = np.nan_to_num(x), np.isfinite(x)
    whole, part = (_hiding(rgb(known, known), seen) for seen in (there, observed & there))
    others = [rgb(images, known) for images in (*drawn.swapaxes(0, 1), mean)]
    rows = np.stack([whole, part, *others], 1)  # (n, columns, H, W, 3)
    columns, side = rows.shape[1], 0.85
    tall = side * x.shape[2] / x.shape[3]
    figure = Figure(figsize=(1.7 + side * columns, 0.9 + tall * len(x)), layout="constrained")
    figure.suptitle(title)
    axes = figure.add_subplot()
    across, down = show_mosaic(axes, rows.reshape(-1, *rows.shape[2:]), columns)
    names = [f"draw {number}" for number in range(1, drawn.shape[1] + 1)]
    axes.set_xticks(across, ["x", "observed", *names, "mean"])
    axes.xaxis.tick_top()
    axes.set_yticks(down, list(captions))
    return figure


def _hiding(images: Array, seen: Array) -> Array:
    """Images (n, H, W, 3) with a color where a pixel is not seen in any channel."""
    return np.where(np.expand_dims(seen.all(1), -1), images, to_rgb(_HIDDEN))


@styled()
def reconstructions(x: Array, means: Array, labels: Array | None = None) -> Figure:
    """Draw data beside their reconstructions through a draw of z.

    Args:
        x: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``, whose first
            twelve columns are drawn.
        means: the means of p(x | z) at z drawn from q(z | x), in the shape of x.
        labels: the class of each image ``(n,)``, written above it.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> with torch.no_grad():
        ...     means = vae.reconstruct(x[:20])
        >>> figure = plots.reconstructions(x[:20].numpy(), means.numpy())
        >>> len(figure.axes)  # rows of ten images
        2
    """
    if x.ndim == 4:
        return _image_pairs(x, means, labels)
    figure, panels = column_panels(x.shape[1])
    for panel, truth, mean in zip(panels, x.T, means.T, strict=False):
        panel.plot(truth, mean, ".", color=MODEL, alpha=0.5, markersize=5, markeredgewidth=0)
        ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
        panel.plot(ends, ends, color=REAL, linewidth=1)
        if truth.var() > 0:
            explained = 1 - ((truth - mean) ** 2).mean() / truth.var()
            panel.set_title(typeset(f"$R^2$ = {explained:.2f}"), loc="right")
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
        above, below = rgb(x[band], x), rgb(means[band], x)
        missing = np.ones((columns - len(above), *above.shape[1:]))
        rows = np.concatenate([above, missing, below])
        across, down = show_mosaic(axes, rows, columns)
        axes.set_yticks(down, ["x", "mean of\n$p(x|z)$"])
        if labels is not None:
            classes = [f"class {label}" for label in labels[band]]
            axes.set_xticks(across[: len(above)], classes)
            axes.xaxis.tick_top()
    return figure


@styled()
def grid(images: Array, z: Array, quantiles: Array) -> Figure:
    """Draw images decoded at every pair of quantiles of a two-dimensional prior.

    Args:
        images: the mean of p(x | z) at z = ``(z[i, 0], z[j, 1])`` as entry ``[j, i]``,
            ``(n, n, C, H, W)`` with C 1 or 3.
        z: the quantiles of each dimension's marginal ``(n, 2)``.
        quantiles: their probabilities ``(n,)``.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> quantiles = torch.tensor([0.1, 0.5, 0.9])
        >>> z = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
        >>> pairs = torch.cartesian_prod(z, z).flip(1)  # z1 changes fastest
        >>> with torch.no_grad():
        ...     means = vae.decode(pairs).reshape(3, 3, 1, 8, 8)
        >>> figure = plots.grid(means.numpy(), torch.stack([z, z], 1).numpy(), quantiles.numpy())
    """
    count, shape = len(quantiles), images.shape[2:]
    figure = Figure(figsize=(8, 7.2 * shape[1] / shape[2] + 1), layout="constrained")
    axes = figure.add_subplot()
    top_first = images[::-1].reshape(-1, *shape)
    across, down = show_mosaic(axes, rgb(top_first, images), count)
    chosen = np.unique(np.linspace(1, count - 2, 5).round().astype(int).clip(0, count - 1))
    texts = [
        [typeset(f"{z[i, d]:.2f}\n({100 * quantiles[i]:.0f} %)") for i in chosen] for d in (0, 1)
    ]
    axes.set_xticks(across[chosen], texts[0])
    axes.set_yticks(down[::-1][chosen], texts[1])
    axes.set(xlabel="$z_1$ (quantile of the prior)", ylabel="$z_2$ (quantile of the prior)")
    figure.suptitle("The mean of $p(x|z)$ for $z$ on a grid of the prior's quantiles")
    return figure


def image_shape(event_shape: Shape) -> Shape | None:
    """The shape ``(1 or 3, H, W)`` in which an observation is drawn as an image, or None."""
    if len(event_shape) == 3 and event_shape[0] in (1, 3):
        return event_shape
    return (1, *event_shape) if len(event_shape) == 2 else None


def rgb(images: Array, data: Array) -> Array:
    """Convert images to RGB between 0 and 1, on the scale of the data.

    Args:
        images: ``(n, C, H, W)`` with C 1 or 3.
        data: any array; its largest value, and its smallest if negative, set the scale.

    Returns:
        ``(n, H, W, 3)``.
    """
    low, high = min(0.0, float(data.min())), float(data.max())
    scaled = ((images - low) / (high - low if high > low else 1)).clip(0, 1)
    return np.broadcast_to(scaled, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)


def show_mosaic(axes: Axes, images: Array, columns: int) -> tuple[Array, Array]:
    """Draw images in rows.

    Args:
        axes: to draw on.
        images: RGB ``(n, H, W, 3)``.
        columns: images per row.

    Returns:
        The centers of the columns ``(columns,)`` and of the rows ``(rows,)``, for ticks.
    """
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
    across = (np.arange(columns) + 0.5) * (width + gap)
    down = (np.arange(rows) + 0.5) * (height + gap)
    return across - (gap + 1) / 2, down - (gap + 1) / 2


def image_panels(
    size: tuple[float, float],
    titles: Sequence[str],
    kinds: Sequence[Array],
    most: int | None = None,
) -> Figure:
    """Make a figure of images of several kinds side by side, each in a square of rows.

    Args:
        size: of the figure, in inches.
        titles: of the panels.
        kinds: images of each kind ``(n, C, H, W)``; the first is the data, which set the scale.
        most: largest number of images of a kind that are drawn.
    """
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(kinds))
    for axes, title, images in zip(panels, titles, kinds, strict=True):
        shown = rgb(images[:most], kinds[0])
        show_mosaic(axes, shown, max(1, math.ceil(math.sqrt(len(shown)))))
        axes.set_title(title)
    return figure


def column_panels(columns: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with a titled panel for each of the first twelve columns.

    Args:
        columns: in the table.
    """
    shown = min(columns, _SHOWN)
    across = min(4, shown)
    down = -(-shown // across)
    figure = Figure(figsize=(max(6, 2.4 * across), 2 * down + 1), layout="constrained")
    panels = [figure.add_subplot(down, across, index + 1) for index in range(shown)]
    for index, panel in enumerate(panels, 1):
        panel.set_title(f"$x_{{{index}}}$", loc="left")
    return figure, panels


def column_histograms(
    real: Array,
    drawn: Sequence[tuple[str, Array, str]],
    *,
    binned: Array,
    alpha: float = 0.4,
    linewidth: float = 1.6,
    beside: bool = False,
) -> Figure:
    """Make a figure of each column: filled for real data, an outline for each other table.

    Args:
        real: data ``(n, columns)``.
        drawn: label, values ``(m, columns)`` and color of each other table.
        binned: the table whose range, with that of ``real``, sets the bins.
        alpha: opacity of the filled histogram.
        linewidth: of the outlines.
        beside: whether the legend is at the right, and not below.
    """
    figure, panels = column_panels(real.shape[1])
    for d, panel in enumerate(panels):
        bins = _bins(real[:, d], binned[:, d])
        filled: dict[str, Any] = {"color": REAL, "alpha": alpha, "label": "real"}
        outline: dict[str, Any] = {"histtype": "step", "lw": linewidth}
        outlines = [(values, {"color": c, "label": name, **outline}) for name, values, c in drawn]
        for values, style in ((real, filled), *outlines):
            present = values[:, d][~np.isnan(values[:, d])]
            # A density of all values, also of those outside of the bins, which may be all.
            weights = np.full(len(present), 1 / max(1, len(present)) / (bins[1] - bins[0]))
            panel.hist(present, bins=bins, weights=weights, **style)
    handles, labels = panels[0].get_legend_handles_labels()
    if beside:
        figure.legend(handles, labels, loc="outside right upper")
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _bins(real: Array, sampled: Array) -> list[float]:
    values = np.unique(real[~np.isnan(real)])
    if 0 < len(values) <= 30 and (values == values.round()).all():
        return list(np.arange(values[0] - 0.5, values[-1] + 1))
    low, high = np.nanquantile(np.concatenate([real, sampled]), (0.002, 0.998))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return list(np.linspace(low, high, int(np.clip(1.5 * np.sqrt(len(real)), 10, 40))))
