r"""The pictures of each trained VAE, drawn from its p(z), p(x | z) and q(z | x), and of a refit.

The random state and the training mode are restored afterwards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import diagnostics
from pyrovae._process.isolation import evaluating, isolated, seed_device
from pyrovae.data import Schema, Split
from pyrovae.distributions import fills_space, is_discrete, moments
from pyrovae.plots.curves import bound
from pyrovae.plots.decoded import grid, prior_swap
from pyrovae.plots.examples import image_shape, reconstructions, samples
from pyrovae.plots.latent_space import discrete, latent
from pyrovae.plots.style import Array, Shape, as_array, save
from pyrovae.vae import VAE

__all__ = ["draw_vae", "refit_samples", "vae_figures"]

_LATENTS = 400  # the most that stay readable


def draw_vae(
    vae: VAE,
    x_test: Tensor,
    labels: Array | None,
    metrics: Sequence[Mapping[str, Any]],
    directory: Path,
    *,
    seed: int = 0,
    schema: Schema | None = None,
    units: Callable[[Tensor], Array] | None = None,
) -> list[Path]:
    """Draw and save every picture that applies to a trained VAE, as ``NAME.png``.

    Args:
        vae, x_test, labels, metrics, seed, schema, units: as for :func:`vae_figures`.
        directory: where the pictures go; created if missing.

    Returns:
        The files, in the order of :func:`vae_figures`.

    Raises:
        ValueError: if there is not one label per example.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae import plots
        >>> files = plots.draw_vae(vae, x, None, [], Path("figures"))
        >>> [file.name for file in files]
        ['samples.png', 'reconstructions.png', 'latent.png', 'grid.png']
    """
    options: dict[str, Any] = {"seed": seed, "schema": schema, "units": units}
    pictures = vae_figures(vae, x_test, labels, metrics, **options)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        save(figure, directory / f"{name}.png")
    return [directory / f"{name}.png" for name in pictures]


@torch.no_grad()
def vae_figures(
    vae: VAE,
    x_test: Tensor,
    labels: Array | None,
    metrics: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    schema: Schema | None = None,
    units: Callable[[Tensor], Array] | None = None,
) -> dict[str, Figure]:
    """Draw every picture that applies to a trained VAE.

    Args:
        vae: the trained model; run in eval mode, and left in the mode it was in.
        x_test: data in the form the likelihood takes ``(n, *event_shape)``.
        labels: their classes, integers ``(n,)``, or None.
        metrics: see :func:`bound`.
        seed: of every random draw and choice of data.
        schema: of a table, whose names are written.
        units: returns values of a table in the units of the data; None leaves them as they are.

    Returns:
        Figures by name: ``bound`` if there are metrics, ``samples``, ``reconstructions``,
        ``latent`` (the two dimensions of largest KL where there are more; for a discrete latent,
        the mean of q(z | x) over each class), and ``grid`` for images with a two-dimensional latent
        that is neither discrete nor on a circle.

    Raises:
        ValueError: if there is not one label per example.

    Example:
        >>> from pyrovae import plots
        >>> list(plots.vae_figures(vae, x, None, []))
        ['samples', 'reconstructions', 'latent', 'grid']
    """
    classes = np.zeros(len(x_test)) if labels is None else np.asarray(labels)
    if len(classes) != len(x_test):
        raise ValueError(
            f"labels must be one per example: got {len(classes)} for {len(x_test)} examples; "
            "give the labels of the same split, or None"
        )
    event_shape = tuple(x_test.shape[1:])
    shape = image_shape(event_shape) or (math.prod(event_shape),)
    pictures: dict[str, Figure] = {}
    if metrics:
        pictures["bound"] = bound(metrics, unit="image" if len(shape) == 3 else "example")
    device = next(vae.parameters(), x_test).device

    def display(x: Tensor) -> Array:
        whole = x if units is None or len(shape) == 3 else torch.as_tensor(units(x.cpu()))
        return _display(whole, shape)

    with isolated(device), evaluating(vae):
        seed_device(device, seed)
        order = np.random.default_rng(seed).permutation(len(x_test))
        count = 64 if len(shape) == 3 else 2_000
        x = display(x_test[order[:count]])
        drawn = display(_drawn(vae, len(x), len(shape) == 3))
        pictures["samples"] = samples(x, drawn, schema)
        rows = order[:_LATENTS] if len(shape) == 1 else _evenly(order, classes, 20)
        few, many = (
            (x_test[chosen].to(device), None if labels is None else classes[chosen])
            for chosen in (rows, order[:_LATENTS])
        )
        means = display(vae.reconstruct(few[0]))
        pictures["reconstructions"] = reconstructions(display(few[0]), means, few[1], schema)
        pictures["latent"] = _latent_of(vae, *many)
        if vae.latent_dim == 2 and len(shape) == 3 and fills_space(vae.prior()):
            pictures["grid"] = _grid_of(vae, shape)
    return pictures


@torch.no_grad()
def refit_samples(
    before: VAE,
    after: VAE,
    test: Split,
    prior: str,
    other: str,
    *,
    seed: int = 0,
    schema: Schema | None = None,
) -> Figure:
    """Draw real data, and samples of the same decoder under each of two priors.

    Args:
        before: with the first prior.
        after: with the second, and the same decoder.
        test: real data.
        prior, other: names of the two priors.
        seed: of all draws.
        schema: of a table, whose names are written.

    Example:
        >>> from pyrovae import plots
        >>> figure = plots.refit_samples(vae, vae, data, "normal", "also normal")
        >>> [axes.get_title() for axes in figure.axes]
        ['real', 'before: $p(z)$ normal', 'after: $p(z)$ also normal']
    """
    images = len(test.event_shape) == 3 and test.event_shape[0] in (1, 3)
    count = min(64 if images else 2_000, len(test))
    real = test.batch(np.random.default_rng(seed).permutation(len(test))[:count])
    tables = [real]
    for vae in (before, after):
        with isolated(torch.device("cpu")), evaluating(vae):
            torch.manual_seed(seed)
            tables.append(_drawn(vae, count, images))
    shown = [np.asarray(x) if images else test.original(x).reshape(count, -1) for x in tables]
    return prior_swap(shown[0], shown[1], shown[2], prior, other, schema)


def _drawn(vae: VAE, count: int, images: bool) -> Tensor:
    """Images: means of p(x | z) at draws of z from the prior; otherwise draws of x."""
    return vae.decode(vae.prior().sample((count,))) if images else vae.sample(count)


def _latent_of(vae: VAE, x: Tensor, labels: Array | None) -> Figure:
    q, p = vae.posterior(x), vae.prior()
    if is_discrete(p):
        means, prior = (as_array(moments(d)[0]) for d in (q, p))
        return discrete(means, prior, labels, classes=getattr(q, "classes", None))
    draws = p.sample((5000,))
    kl, exact = diagnostics.kl_per_dimension(q, p, draws)
    dims = np.arange(vae.latent_dim) if vae.latent_dim <= 2 else np.argsort(-kl)[:2]
    names = [f"$z_{{{d + 1}}}$ (KL {'' if exact else '≈ '}{kl[d]:.1f} nats)" for d in dims]
    loc, covariance = diagnostics.marginal_moments(q, dims)
    density = partial(diagnostics.marginal_density, p, draws, dims)
    return latent(loc, covariance, as_array(draws[:, dims]), density, labels, names=names)


def _grid_of(vae: VAE, shape: Shape) -> Figure:
    quantiles = (np.arange(15) + 0.5) / 15
    z = diagnostics.marginal_quantiles(vae.prior(), quantiles)
    z2, z1 = torch.meshgrid(z[:, 1], z[:, 0], indexing="ij")
    images = _display(vae.decode(torch.stack([z1, z2], -1).flatten(0, 1)), shape)
    return grid(images.reshape(15, 15, *shape), as_array(z), quantiles)


def _evenly(order: Array, labels: Array, count: int) -> Array:
    """The first of each class, then the second of each, and so on, in order of class."""
    shuffled = labels[order]
    turn = np.empty(len(order), int)
    for label in np.unique(shuffled):
        members = shuffled == label
        turn[members] = np.arange(members.sum())
    first = np.argsort(turn, kind="stable")[:count]
    return order[first[np.lexsort((shuffled[first], turn[first]))]]


def _display(x: Tensor, shape: Shape) -> Array:
    return as_array(x.reshape(-1, *shape))
