r"""Decoded from z: samples of several models, images on a grid and on walks through z."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pyrovae.data import Schema
from pyrovae.plots.examples import TALLEST, bounded_ratio, image_panels, rgb, show_mosaic
from pyrovae.plots.style import CLASSES, DISTORTION, MODEL, Array, styled, typeset
from pyrovae.plots.tables import column_histograms, shortened

__all__ = ["grid", "prior_swap", "side_by_side", "walks"]


@styled()
def prior_swap(
    real: Array, before: Array, after: Array, prior: str, other: str, schema: Schema | None = None
) -> Figure:
    """Draw real data beside samples under two priors.

    Images become three grids, a table a histogram of each of its first twelve columns.

    Args:
        real: data, images ``(n, C, H, W)`` with C 1 or 3, or a table ``(n, columns)``.
        before: images: means of p(x | z) at draws from the first prior. Tables: draws of x.
        after: likewise, from the second prior.
        prior: name of the first.
        other: name of the second.
        schema: of a table in the units of the data, whose names are written; None without names.

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
        short = [shortened(title, 48) for title in titles]
        figure = image_panels((12, 3.9, 0.8), short, (real, before, after))
        figure.suptitle("Means of $p(x|z)$, $z \\sim p(z)$: the same decoder under two priors")
        return figure
    drawn = [
        (shortened(f"before: p(z) {prior}", 48), before, DISTORTION),
        (shortened(f"after: p(z) {other}", 48), after, MODEL),
    ]
    title = "Columns of the data, and draws of the same decoder under two priors"
    both = np.concatenate([before, after])
    return column_histograms(real, drawn, title, binned=both, schema=schema)


@styled()
def side_by_side(kinds: Mapping[str, Array], schema: Schema | None = None) -> Figure:
    """Draw data beside samples of several models.

    Images become a grid for each, a table a histogram of each of its first twelve columns.

    Args:
        kinds: the data first, then the samples of each model by name: images ``(n, C, H, W)`` with
            C 1 or 3, or tables ``(n, columns)``.
        schema: of a table in the units of the data, whose names are written; None without names.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> images = x.numpy()
        >>> len(plots.side_by_side({"data": images, "a": images, "b": images}).axes)
        3
    """
    (_, real), *drawn = kinds.items()
    if real.ndim == 4:
        size = (max(6.0, 3.4 * len(kinds)), 3.4, 0.5)
        return image_panels(size, [shortened(name, 34) for name in kinds], list(kinds.values()))
    colors = itertools.cycle(CLASSES)
    return column_histograms(
        real,
        [(shortened(name, 48), x, color) for (name, x), color in zip(drawn, colors, strict=False)],
        "Columns of the data, and draws of each run",
        binned=np.concatenate([x for _, x in drawn]),
        schema=schema,
    )


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
    tall = 7.2 * bounded_ratio(shape[1] / shape[2])
    figure = Figure(figsize=(8, tall + 1), layout="constrained")
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


@styled()
def walks(images: Array, names: Sequence[str]) -> Figure:
    """Draw images decoded on walks through the latent space, one walk in each row.

    Args:
        images: means of p(x | z), ``(walks, steps, C, H, W)`` with C 1 or 3.
        names: of the walks.

    Returns:
        The figure.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.diagnostics import along_dimensions
        >>> z = along_dimensions(vae, torch.zeros(2), steps=5)
        >>> with torch.no_grad():
        ...     means = vae.decode(z.flatten(0, 1)).unflatten(0, (2, 5))
        >>> figure = plots.walks(means.numpy(), ["$z_1$", "$z_2$"])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['$z_1$', '$z_2$']
    """
    rows, steps = images.shape[:2]
    flat = images.reshape(-1, *images.shape[2:])
    tall = 8 * rows / steps * bounded_ratio(images.shape[3] / images.shape[4])
    figure = Figure(figsize=(8, min(tall + 0.8, TALLEST)), layout="constrained")
    axes = figure.add_subplot()
    _, down = show_mosaic(axes, rgb(flat, flat), steps)
    axes.set_yticks(down, [typeset(name) for name in names])
    axes.set_xticks([])
    figure.suptitle("Means of $p(x|z)$ on walks through the latent space")
    return figure
