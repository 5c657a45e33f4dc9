r"""Completions of images, and the detection of inputs unlike the training data."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pyrovae.plots.image_grids import check_images, rgb, show_mosaic
from pyrovae.plots.style import CLASSES, REAL, Array, styled, typeset

__all__ = ["completions", "detection"]

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


@styled()
def detection(
    scores: Mapping[str, Array],
    areas: Mapping[str, tuple[float, float]],
    *,
    real: str,
    score: str = "log p(x), lower bound (nats)",
) -> Figure:
    """Draw the scores of each kind of input, and the ROC curve of each against the real ones.

    Low scores are classified as not real. A curve below the diagonal belongs to inputs that score
    higher than real ones.

    Args:
        scores: of each kind of input ``(n,)``, including the real ones.
        areas: of each other kind, the area under its curve and the standard error.
        real: the kind that counts as real.
        score: name of the score, for the axis.

    Returns:
        The figure.

    Example:
        >>> import numpy as np
        >>> from pyrovae import plots
        >>> scores = {"digits": np.arange(-20.0, 0.0), "noise": np.arange(-90.0, -70.0)}
        >>> figure = plots.detection(scores, {"noise": (1.0, 0.0)}, real="digits")
        >>> figure.get_suptitle()
        'A VAE trained on digits, and other inputs'
    """
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    boxes, curves = figure.subplots(1, 2, width_ratios=(1.25, 1))
    others = [kind for kind in scores if kind != real]
    colors = dict(zip(others, CLASSES, strict=False)) | {real: REAL}
    kinds = [real, *others]
    drawn = boxes.boxplot(
        [scores[kind] for kind in kinds],
        orientation="horizontal",
        whis=(1, 99),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for box, kind in zip(drawn["boxes"], kinds, strict=True):
        box.set(facecolor=colors[kind], alpha=0.6)
    middle = float(np.median(scores[real]))
    boxes.axvline(middle, color=REAL, lw=1, ls="--", zorder=0)
    boxes.set_yticks(range(1, len(kinds) + 1), kinds)
    boxes.invert_yaxis()
    boxes.grid(visible=False, axis="y")
    ends = np.concatenate([np.quantile(scores[kind], (0.01, 0.99)) for kind in kinds])
    low, high = float(ends.min()), float(ends.max())
    boxes.set_xscale("symlog", linthresh=100)
    boxes.set_xlim(low - 0.2 * abs(low), high + 0.2 * abs(high))
    boxes.set(xlabel=f"{score}; logarithmic beyond 100")
    boxes.set_title("quartiles, and from 1 to 99 % of the inputs", loc="left")
    figure.suptitle(f"A VAE trained on {real}, and other inputs")
    levels = np.linspace(0, 1, 501)
    for kind in others:
        found = np.quantile(
            scores[real], levels
        )  # score that this share of the real ones falls below
        share = (scores[kind][:, None] < found).mean(0)
        area, error = areas[kind]
        label = typeset(f"{kind}: {area:.3f} ± {error:.3f}")
        curves.plot(levels, share, color=colors[kind], lw=1.8, label=label)
    curves.plot([0, 1], [0, 1], color=REAL, lw=1, ls="--")
    curves.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
        xlabel=f"share of {real} called other",
        ylabel="share of others found",
    )
    curves.set_title("low scores called other: area under the curve", loc="left")
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
