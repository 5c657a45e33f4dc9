r"""Another prior for the same decoder: samples under both."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure

from pyrovae._process.isolation import evaluating, isolated
from pyrovae.data import Split
from pyrovae.plots.columns import column_histograms, column_panels
from pyrovae.plots.image_grids import rgb, show_mosaic
from pyrovae.plots.style import DISTORTION, MODEL, Array, styled
from pyrovae.vae import VAE

__all__ = ["prior_swap", "refit_samples"]

SHOWN = 64  # samples in the picture before, and as many after


@torch.no_grad()
def refit_samples(
    before: VAE, after: VAE, test: Split, prior: str, other: str, *, seed: int = 0
) -> Figure:
    """Draw real data, and samples of the same decoder under each of two priors.

    Args:
        before: with the first prior.
        after: with the second, and the same decoder.
        test: real data.
        prior, other: names of the two priors.
        seed: of all draws.

    Example:
        >>> from pyrovae import plots
        >>> figure = plots.refit_samples(vae, vae, data, "normal", "also normal")
        >>> [axes.get_title() for axes in figure.axes]
        ['real', 'before: $p(z)$ normal', 'after: $p(z)$ also normal']
    """
    images = len(test.event_shape) == 3 and test.event_shape[0] in (1, 3)
    count = min(SHOWN if images else 2_000, len(test))
    real = np.asarray(test.batch(np.random.default_rng(seed).permutation(len(test))[:count]))
    drawn = []
    for vae in (before, after):
        with isolated(torch.device("cpu")), evaluating(vae):
            torch.manual_seed(seed)
            x = vae.decode(vae.prior().sample((count,))) if images else vae.sample(count)
        drawn.append(np.asarray(x.double().cpu()))
    if not images:
        real, *drawn = (x.reshape(count, -1) for x in (real, *drawn))
    return prior_swap(real, drawn[0], drawn[1], prior, other)


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
        ratio = real.shape[2] / real.shape[3]
        figure = Figure(figsize=(12, 3.9 * ratio + 0.8), layout="constrained")
        columns = math.ceil(math.sqrt(len(real)))
        titles = ("real", f"before: $p(z)$ {prior}", f"after: $p(z)$ {other}")
        for axes, values, title in zip(
            figure.subplots(1, 3), (real, before, after), titles, strict=True
        ):
            show_mosaic(axes, rgb(values, real), columns)
            axes.set_title(_short(title))
        figure.suptitle("Means of $p(x|z)$, $z \\sim p(z)$: the same decoder under two priors")
        return figure
    figure, panels = column_panels(real.shape[1])
    drawn = [
        (_short(f"before: p(z) {prior}"), before, DISTORTION),
        (_short(f"after: p(z) {other}"), after, MODEL),
    ]
    column_histograms(panels, real, drawn, binned=np.concatenate([before, after]))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle("Columns of the data, and draws of the same decoder under two priors")
    figure.supylabel("density (per unit of the data)")
    return figure


def _short(text: str) -> str:
    """Shorten text to fit above a panel."""
    return text if len(text) <= 48 else f"{text[:47]}…"
