r"""Examples: images in rows; samples, reconstructions and completions of images and tables."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pyrovae.data import Schema
from pyrovae.plots.style import MODEL, Array, Shape, styled
from pyrovae.plots.tables import column_histograms, column_points, point_pairs

__all__ = [
    "completions",
    "images",
    "reconstructions",
    "samples",
]

_HIDDEN = "#88CCEE"
_PIXELS = 2_000  # of the longer side of a mosaic, about; larger images are thinned out
_IMAGES = 50  # the most rows of completions, and the most pairs, in a figure
_DRAWS = 20  # the most completions of an image in a figure
_RATIO = 3.0  # the largest ratio of sides that a figure makes room for
TALLEST = 30.0  # inches


@styled()
def samples(real: Array, sampled: Array, schema: Schema | None = None) -> Figure:
    """Draw real data beside what the model makes of draws from its prior.

    Images become two grids, a table of two columns its points, any other table a histogram of each
    of its first twelve columns.

    Args:
        real: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``.
        sampled: images: the means of p(x | z) at draws of z from p(z). Tables: draws from p(x | z)
            at such z. ``(m, C, H, W)`` or ``(m, columns)``.
        schema: of a table in the units of the data, whose names are written; None without names.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> with torch.no_grad():
        ...     drawn = vae.decode(vae.prior().sample((64,)))
        >>> [axes.get_title() for axes in plots.samples(x.numpy(), drawn.numpy()).axes]
        ['real', 'from the prior: mean of $p(x|z)$, $z \\\\sim p(z)$']
    """
    title = "Real data, and what the model makes of draws from its prior"
    if real.ndim == 4:
        titles = ("real", r"from the prior: mean of $p(x|z)$, $z \sim p(z)$")
        figure = image_panels((9, 4.35, 0.6), titles, (real, sampled))
        figure.suptitle(title)
        return figure
    if real.shape[1] == 2:
        return point_pairs(real, sampled, title, schema)
    title = "Columns of the data, real and drawn from the model"
    drawn = [("sampled", sampled, MODEL)]
    return column_histograms(
        real, drawn, title, binned=sampled, schema=schema, alpha=0.45, beside=True
    )


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
    columns = _columns(x)
    ratio = math.ceil(len(x) / columns) * x.shape[2] / (columns * x.shape[3])
    figure = Figure(figsize=(6, 6 * bounded_ratio(ratio) + 0.4), layout="constrained")
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

    Hidden pixels are blue. At most 50 images and 20 completions are drawn.

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
    count, draws = x.shape[0], drawn.shape[1]
    x, observed, mean = x[:_IMAGES], observed[:_IMAGES], mean[:_IMAGES]
    drawn = drawn[:_IMAGES, :_DRAWS]
    if (len(x), drawn.shape[1]) != (count, draws):
        title += f"\n{len(x)} of {count:,} images, {drawn.shape[1]} of {draws:,} draws"
    known, there = np.nan_to_num(x), np.isfinite(x)
    whole, part = (_hiding(rgb(known, known), seen) for seen in (there, observed & there))
    others = [rgb(images, known) for images in (*drawn.swapaxes(0, 1), mean)]
    rows = np.stack([whole, part, *others], 1)  # (n, columns, H, W, 3)
    columns, side = rows.shape[1], 0.85
    tall = side * bounded_ratio(x.shape[2] / x.shape[3])
    size = (1.7 + side * columns, min(TALLEST, 0.9 + tall * len(x)))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    axes = figure.add_subplot()
    across, down = show_mosaic(axes, rows.reshape(-1, *rows.shape[2:]), columns)
    names = [f"draw {number}" for number in range(1, drawn.shape[1] + 1)]
    axes.set_xticks(across, ["x", "observed", *names, "mean"])
    axes.xaxis.tick_top()
    axes.set_yticks(down, list(captions)[: len(x)])
    return figure


def _hiding(images: Array, seen: Array) -> Array:
    """Images (n, H, W, 3) with a color where a pixel is not seen in any channel."""
    return np.where(np.expand_dims(seen.all(1), -1), images, to_rgb(_HIDDEN))


@styled()
def reconstructions(
    x: Array, means: Array, labels: Array | None = None, schema: Schema | None = None
) -> Figure:
    """Draw data beside their reconstructions through a draw of z.

    Args:
        x: data, images ``(n, C, H, W)`` with C 1 or 3, of which at most 50 are drawn; or a table
            ``(n, columns)``, of which the first twelve columns are.
        means: the means of p(x | z) at z drawn from q(z | x), in the shape of x.
        labels: the class of each image ``(n,)``, written above it.
        schema: of a table in the units of the data, whose names are written; None without names.

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
    return column_points(x, means, schema)


def _image_pairs(x: Array, means: Array, labels: Array | None) -> Figure:
    title = r"Images x, and below each the mean of $p(x|z)$ at a draw $z \sim q(z|x)$"
    if len(x) > _IMAGES:
        title += f"\n{_IMAGES} of {len(x):,} images"
        x, means = x[:_IMAGES], means[:_IMAGES]
    columns = min(10, len(x))
    starts = range(0, len(x), columns)
    tall = 1.7 * bounded_ratio(x.shape[2] / x.shape[3] * 10 / columns)
    height = min(TALLEST, len(starts) * (tall + 0.35) + 0.35)
    figure = Figure(figsize=(9, height), layout=ConstrainedLayoutEngine(h_pad=0.1))
    figure.suptitle(title)
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
    rows = -(-len(images) // columns)
    side = max(rows * images.shape[1], columns * images.shape[2])
    thinned = -(-side // _PIXELS)
    images = images[:, ::thinned, ::thinned]
    enlarged = max(1, min(64 // max(images.shape[1:3]), _PIXELS // side))
    images = images.repeat(enlarged, 1).repeat(enlarged, 2)
    height, width = images.shape[1:3]
    gap = max(2, height // 20)
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
    size: tuple[float, float, float],
    titles: Sequence[str],
    kinds: Sequence[Array],
    most: int | None = None,
) -> Figure:
    """Make a figure of images of several kinds side by side, each in a square of rows.

    Args:
        size: in inches: the width of the figure, that of a panel, and the height of what is beside
            the panels.
        titles: of the panels.
        kinds: images of each kind ``(n, C, H, W)``; the first is the data, which set the scale.
        most: largest number of images of a kind that are drawn.
    """
    shown = [rgb(images[:most], kinds[0]) for images in kinds]
    height, width = kinds[0].shape[2:]
    ratio = height / width
    if not 1 / _RATIO <= ratio <= _RATIO:  # no square
        columns = _columns(kinds[0][:most])
        ratio = -(-len(shown[0]) // columns) * ratio / columns
    whole, panel, beside = size
    figure = Figure(figsize=(whole, panel * bounded_ratio(ratio) + beside), layout="constrained")
    panels = figure.subplots(1, len(kinds))
    for axes, title, images in zip(panels, titles, shown, strict=True):
        show_mosaic(axes, images, _columns(images.transpose(0, 3, 1, 2)))
        axes.set_title(title)
    return figure


def _columns(images: Array) -> int:
    """How many images ``(n, C, H, W)`` go into a row: as many as rows, unless they are slim."""
    count, ratio = len(images), images.shape[2] / images.shape[3]
    if 1 / _RATIO <= ratio <= _RATIO:
        ratio = 1.0
    return min(count, max(1, math.ceil(math.sqrt(count * ratio))))


def bounded_ratio(ratio: float) -> float:
    """The ratio of height to width that a figure makes room for."""
    return min(_RATIO, max(1 / _RATIO, ratio))
