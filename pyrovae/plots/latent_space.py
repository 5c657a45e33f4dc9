r"""The latent space: posteriors over the density of the prior, continuous or discrete."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from pyrovae.plots.style import CLASSES, MODEL, PRIOR, Array, styled

__all__ = ["contour_lines", "discrete", "latent"]

_ROWS = 40  # the most classes that stay readable


@styled()
def latent(
    loc: Array,
    covariance: Array,
    prior_draws: Array,
    prior_density: Callable[[Array], Array],
    labels: Array | None = None,
    *,
    names: Sequence[str] = ("$z_1$", "$z_2$"),
) -> Figure:
    """Draw posteriors q(z | x) over the prior's density, in one or two dimensions.

    Each posterior is drawn as its mean and the ellipse (in one dimension the interval) of one
    standard deviation. The contours enclose 50, 80 and 95 % of the prior's mass, estimated from its
    draws.

    Args:
        loc: posterior means ``(n, d)``, with d 1 or 2.
        covariance: posterior covariances ``(n, d, d)``.
        prior_draws: draws from the prior ``(m, d)``.
        prior_density: p(z), from points ``(k, d)`` to densities ``(k,)``.
        labels: the class of each example ``(n,)``.
        names: axis labels, one per dimension.

    Returns:
        The figure.

    Example:
        >>> import numpy as np
        >>> from pyrovae import plots
        >>> with torch.no_grad():
        ...     q, p = vae.posterior(x), vae.prior()
        >>> draws, covariance = p.sample((1_000,)), torch.diag_embed(q.variance)
        >>> figure = plots.latent(
        ...     q.mean.numpy(), covariance.numpy(), draws.numpy(), lambda z: np.exp(-(z**2).sum(-1))
        ... )
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
        density.fill_between(z, prior_density(z[:, None]), color="0.87", ec=PRIOR)
        density.set(ylabel="p(z) (per unit of z)", ylim=(0, None))
        _strips(axes, loc[:, 0], np.sqrt(covariance[:, 0, 0]), labels)
        shape, prior = "interval", "prior p(z)"
    else:
        axes = figure.add_subplot()
        contours(axes, limits, prior_draws, prior_density)
        _ellipses(axes, loc, covariance, labels)
        axes.set(ylim=limits[1], ylabel=names[1], aspect="equal" if same_scale else "auto")
        if labels is not None:
            _mark_classes(figure, axes, loc, labels, limits)
        shape, prior = "ellipse", "prior p(z): 50, 80 and 95 % inside"
    axes.set(xlim=limits[0], xlabel=names[0])
    handles = [
        Line2D([], [], color=MODEL, marker="o", markersize=4, ls="", label="mean of q(z|x)"),
        Line2D([], [], color=MODEL, alpha=0.6, label=f"{shape}: one standard deviation"),
        Line2D([], [], color=PRIOR, label=prior),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def contours(
    axes: Axes, limits: Array, draws: Array, prior_density: Callable[[Array], Array]
) -> None:
    """Draw the contours that enclose 50, 80 and 95 % of a prior's mass.

    Args:
        axes: to draw on.
        limits: of the plane ``(2, 2)``, each dimension's lower and upper end.
        draws: from the prior ``(m, 2)``.
        prior_density: p(z), from points ``(k, 2)`` to densities ``(k,)``.
    """
    z1, z2, density, levels = _levels(limits, draws, prior_density)
    if len(levels):
        grays = ["0.96", "0.92", "0.87"][-len(levels) :]
        axes.contourf(z1, z2, density, levels=[*levels, density.max()], colors=grays)
        axes.contour(z1, z2, density, levels=levels, colors=PRIOR, linewidths=0.7)
    axes.grid(visible=False)


def contour_lines(
    limits: Array, draws: Array, density: Callable[[Array], Array]
) -> list[list[Array]]:
    """Find the contours that enclose 50, 80 and 95 % of a distribution's mass on a plane.

    Args:
        limits: of the plane ``(2, 2)``, each dimension's lower and upper end.
        draws: from the distribution ``(m, 2)``.
        density: from points ``(k, 2)`` to densities ``(k,)``.

    Returns:
        For each contour inside the plane, from the widest, its lines ``(points, 2)``.

    Example:
        >>> import numpy as np
        >>> from pyrovae import plots
        >>> draws = np.random.default_rng(0).normal(size=(2_000, 2))
        >>> limits = np.array([[-3.0, 3.0], [-3.0, 3.0]])
        >>> widest, _, _ = plots.contour_lines(limits, draws, lambda z: np.exp(-(z**2).sum(1) / 2))
        >>> radius = np.linalg.norm(widest[0], axis=1).mean()  # (2 log 20)^(1/2) for a normal
        >>> bool(abs(radius - 2.45) < 0.1)
        True
    """
    z1, z2, height, levels = _levels(limits, draws, density)
    drawn = contour_generator(z1, z2, height)
    return [[np.asarray(line) for line in drawn.lines(level)] for level in levels]


def _levels(
    limits: Array, draws: Array, density: Callable[[Array], Array]
) -> tuple[Array, Array, Array, Array]:
    """A grid on the plane, the density there, and the heights of its contours inside the plane."""
    z1, z2 = np.meshgrid(*np.linspace(limits[:, 0], limits[:, 1], 120, axis=1))
    height = density(np.stack([z1.ravel(), z2.ravel()], -1)).reshape(z1.shape)
    # 5 % of the draws have a density below the first level: its contour encloses the rest
    levels = np.quantile(density(draws[:2000]), (0.05, 0.2, 0.5))
    return z1, z2, height, np.unique(levels[(levels > height.min()) & (levels < height.max())])


def _ellipses(axes: Axes, loc: Array, covariance: Array, labels: Array | None) -> None:
    angle = np.linspace(0, 2 * np.pi, 49)
    variances, directions = np.linalg.eigh(covariance)
    root = directions * np.sqrt(variances.clip(0))[:, None]  # covariance = root root^T
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    outlines = loc[:, None] + circle @ root.swapaxes(1, 2)  # (n, points, 2)
    colors = _colors(labels, len(loc))
    cloud = loc - loc.mean(0)
    spread = np.linalg.det(cloud.T @ cloud / len(loc) + covariance.mean(0))
    layers = np.sqrt(variances.clip(0).prod(1)).sum() / (4 * math.sqrt(spread) or 1)
    fade = 1 / max(1, layers / 3)  # many overlapping ellipses would hide what lies below
    faint, clear = (to_rgba_array(colors, alpha * fade) for alpha in (0.12, 0.45))
    ellipses = PolyCollection(outlines, facecolors=faint, edgecolors=clear, linewidths=0.6)
    axes.add_collection(ellipses, autolim=False)
    axes.scatter(loc[:, 0], loc[:, 1], c=colors, s=9, linewidths=0, zorder=2.5)


def _mark_classes(figure: Figure, axes: Axes, loc: Array, labels: Array, limits: Array) -> None:
    """Name the color of each class and number its place; many classes get a color scale."""
    classes = np.unique(labels)
    if len(classes) > len(CLASSES):
        scale = ScalarMappable(Normalize(*classes[[0, -1]]), "viridis")
        figure.colorbar(scale, ax=axes, label="class")
        return
    dots = [
        Line2D([], [], color=color, marker="o", ls="", label=str(label))
        for label, color in zip(classes, CLASSES, strict=False)
    ]
    figure.legend(handles=dots, title="class", loc="outside right upper")
    medians = np.stack([np.median(loc[labels == label], axis=0) for label in classes])
    at = (medians - limits[:, 0]) / np.ptp(limits, axis=1)  # in units of the axes
    at[:, 0] += 1e-6 * np.arange(len(at))
    for _ in range(100):  # push overlapping numbers apart
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
    colors = _colors(labels, len(loc))
    ends = [np.stack([end, height], -1) for end in (loc - scale, loc + scale)]
    faint = to_rgba_array(colors, 0.45)
    axes.add_collection(LineCollection(list(np.stack(ends, 1)), colors=faint, linewidths=0.8))
    axes.scatter(loc, height, c=colors, s=9, linewidths=0, zorder=2.5)
    axes.grid(visible=False, axis="y")
    axes.set(yticks=[], ylabel="data, one below the other")
    if labels is not None:
        ticks = np.arange(0, len(classes), -(-len(classes) // 12))
        axes.set_yticks(ticks, [str(classes[tick]) for tick in ticks])
        axes.set_ylabel("class")


def _colors(labels: Array | None, count: int) -> Array:
    if labels is None:
        return to_rgba_array([MODEL] * count)
    classes, ranks = np.unique(labels, return_inverse=True)
    if len(classes) <= len(CLASSES):
        return to_rgba_array(CLASSES)[ranks]
    return to_rgba_array(ScalarMappable(Normalize(*classes[[0, -1]]), "viridis").to_rgba(labels))


@styled()
def discrete(
    means: Array, prior: Array, labels: Array | None = None, *, classes: int | None = None
) -> Figure:
    """Draw the means of posteriors q(z | x) over a discrete z, averaged over each class of data.

    For one-hot variables the means are probabilities, and a row shows how often each value is
    taken. The last row is the prior. More than 40 classes of data are pooled into one row.

    Args:
        means: of the posteriors ``(n, latent_dim)``.
        prior: mean of the prior ``(latent_dim,)``.
        labels: the class of each example ``(n,)``.
        classes: number of entries of each variable, to draw a line between variables; None draws
            no lines.

    Returns:
        The figure.

    Example:
        >>> import numpy as np
        >>> from pyrovae import plots
        >>> means, prior = np.full((5, 6), 1 / 3), np.full(6, 1 / 3)
        >>> plots.discrete(means, prior, classes=3).axes[0].get_xlabel()
        'variable of z, each of 3 classes'
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
            axes.axvline(edge - 0.5, color=PRIOR, lw=0.8)
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
    figure.colorbar(shade, ax=axes, label="mean of z" if classes is None else "probability")
    figure.suptitle(
        f"Where q(z|x) puts {len(means)} data, in mean, and where the prior expects them"
    )
    return figure
