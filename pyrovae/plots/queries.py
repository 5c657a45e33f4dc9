r"""Completions of images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pyrovae.plots.image_grids import check_images, rgb, show_mosaic
from pyrovae.plots.style import Array, styled

__all__ = ["completions"]

_HIDDEN = "#88CCEE"


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
    known = np.nan_to_num(x)
    there = np.isfinite(x)
    whole, part = (_hiding(rgb(known, known), seen) for seen in (there, observed & there))
    others = [rgb(images, known) for images in (*drawn.swapaxes(0, 1), mean)]
    rows = np.stack([whole, part, *others], 1)  # (n, columns, H, W, 3)
    columns = rows.shape[1]
    side = 0.85
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
    hidden = np.logical_not(seen.all(1))  # (n, H, W)
    return np.where(np.expand_dims(hidden, -1), to_rgb(_HIDDEN), images)
