r"""Figures of answers to queries: completions of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyrovae.plots.figures import _rgb, _show_mosaic, _style

__all__ = ["completions"]

Array = NDArray[Any]

_HIDDEN = "#88CCEE"


@_style()
def completions(
    x: Array,
    observed: Array,
    drawn: Array,
    mean: Array,
    captions: Sequence[str],
    title: str = r"Draws of the missing pixels from $p(x_\mathrm{miss}|x_\mathrm{obs})$",
) -> Figure:
    """Images, what is observed of each, draws of the rest, and its mean; hidden pixels are blue.

    Args:
        x: images ``(n, C, H, W)`` with C 1 or 3; where one is NaN, it is hidden too.
        observed: true where a pixel is observed, ``(n, C, H, W)``.
        drawn: completions ``(n, completions, C, H, W)``.
        mean: their mean ``(n, C, H, W)``.
        captions: what is said of each image, at its left.
        title: of the whole.

    Returns:
        the figure.

    Raises:
        ValueError: if x has another shape.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"images have the shape (n, 1 or 3, height, width), got {x.shape}; write a table to a "
            ".npz file"
        )
    known = np.nan_to_num(x)
    there = np.isfinite(x)
    whole, part = (_hiding(_rgb(known, known), seen) for seen in (there, observed & there))
    others = [_rgb(images, known) for images in (*drawn.swapaxes(0, 1), mean)]
    rows = np.stack([whole, part, *others], 1)  # (n, columns, H, W, 3)
    columns = rows.shape[1]
    side = 0.85
    tall = side * x.shape[2] / x.shape[3]
    figure = Figure(figsize=(1.7 + side * columns, 0.9 + tall * len(x)), layout="constrained")
    figure.suptitle(title)
    axes = figure.add_subplot()
    across, down = _show_mosaic(axes, rows.reshape(-1, *rows.shape[2:]), columns)
    names = [f"draw {number}" for number in range(1, drawn.shape[1] + 1)]
    axes.set_xticks(across, ["x", "observed", *names, "mean"])
    axes.xaxis.tick_top()
    axes.set_yticks(down, list(captions))
    return figure


def _hiding(images: Array, seen: Array) -> Array:
    """Images (n, H, W, 3) with a colour where a pixel is not seen in any channel."""
    hidden = np.logical_not(seen.all(1))  # (n, H, W)
    return np.where(np.expand_dims(hidden, -1), to_rgb(_HIDDEN), images)
