r"""The set of pictures that each trained VAE gets, drawn from its p(z), p(x | z) and q(z | x).

The random state and the training mode are restored afterwards.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae._process.isolation import evaluating, seed_device
from pyrovae.diagnostics import (
    kl_per_dimension,
    marginal_density,
    marginal_moments,
    marginal_quantiles,
)
from pyrovae.distributions import fills_space, is_discrete, moments
from pyrovae.plots.bound_curve import bound
from pyrovae.plots.image_grids import grid, reconstructions, samples
from pyrovae.plots.latent_space import discrete, latent
from pyrovae.plots.style import Array, Shape, save
from pyrovae.vae import VAE

__all__ = ["draw_vae"]

_LATENTS = 400  # the most that stay readable


@torch.no_grad()
def draw_vae(
    vae: VAE,
    x_test: Tensor,
    labels: Array | None,
    metrics: Sequence[Mapping[str, Any]],
    directory: Path,
    *,
    seed: int = 0,
) -> list[Path]:
    """Draw and save every picture that applies to a trained VAE.

    ``bound.png`` if there are metrics, ``samples.png``, ``reconstructions.png``, ``latent.png``
    (the two dimensions of largest KL where there are more; for a discrete latent, the mean of
    q(z | x) over each class), and ``grid.png`` for images with a two-dimensional latent that is
    neither discrete nor on a circle.

    Args:
        vae: the trained model; run in eval mode, and left in the mode it was in.
        x_test: data in the form the likelihood takes ``(n, *event_shape)``.
        labels: their classes, integers ``(n,)``, or None.
        metrics: see :func:`bound`.
        directory: where the pictures go; created if missing.
        seed: of every random draw and choice of data.

    Returns:
        The files, in the order above.

    Raises:
        ValueError: if there is not one label per example.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae import plots
        >>> files = plots.draw_vae(vae, x, None, [], Path("figures"))
        >>> [file.name for file in files]
        ['samples.png', 'reconstructions.png', 'latent.png', 'grid.png']
    """
    classes = np.zeros(len(x_test)) if labels is None else np.asarray(labels)
    if len(classes) != len(x_test):
        raise ValueError(
            f"labels must be one per example: got {len(classes)} for {len(x_test)} examples; "
            "give the labels of the same split, or None"
        )
    shape = _display_shape(tuple(x_test.shape[1:]))
    pictures: dict[str, Figure] = {}
    if metrics:
        pictures["bound"] = bound(metrics, unit="image" if len(shape) == 3 else "example")
    with _evaluation(vae, x_test, seed=seed) as device:
        order = np.random.default_rng(seed).permutation(len(x_test))
        pictures["samples"] = _samples_of(vae, x_test[order], shape)
        chosen = order[:_LATENTS] if len(shape) == 1 else _evenly(order, classes, 20)
        x, shown = x_test[chosen].to(device), None if labels is None else classes[chosen]
        means = _display(vae.reconstruct(x), shape)
        pictures["reconstructions"] = reconstructions(_display(x, shape), means, shown)
        chosen = order[:_LATENTS]
        x, shown = x_test[chosen].to(device), None if labels is None else classes[chosen]
        if is_discrete(vae.prior()):
            pictures["latent"] = _discrete_latent_of(vae, x, shown)
        else:
            pictures["latent"] = _latent_of(vae, x, shown)
        if vae.latent_dim == 2 and len(shape) == 3 and fills_space(vae.prior()):
            pictures["grid"] = _grid_of(vae, shape)
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        save(figure, Path(directory) / f"{name}.png")
    return [Path(directory) / f"{name}.png" for name in pictures]


@contextmanager
def _evaluation(vae: VAE, x: Tensor, *, seed: int) -> Iterator[torch.device]:
    device = next(vae.parameters(), x).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(vae):
        seed_device(device, seed)
        yield device


def _samples_of(vae: VAE, x: Tensor, shape: Shape) -> Figure:
    if len(shape) == 1:
        x = x[:2000]
        return samples(_display(x, shape), _display(vae.sample(len(x)), shape))
    x = x[:64]
    means = vae.decode(vae.prior().sample((len(x),)))
    return samples(_display(x, shape), _display(means, shape))


def _latent_of(vae: VAE, x: Tensor, labels: Array | None) -> Figure:
    q, p = vae.posterior(x), vae.prior()
    draws = p.sample((5000,))
    kl, exact = kl_per_dimension(q, p, draws)
    dims = np.arange(vae.latent_dim) if vae.latent_dim <= 2 else np.argsort(-kl)[:2]
    names = [f"$z_{{{d + 1}}}$ (KL {'' if exact else '≈ '}{kl[d]:.1f} nats)" for d in dims]
    loc, covariance = marginal_moments(q, dims)
    density = partial(marginal_density, p, draws, dims)
    return latent(loc, covariance, _numpy(draws[:, dims]), density, labels, names=names)


def _discrete_latent_of(vae: VAE, x: Tensor, labels: Array | None) -> Figure:
    q, p = vae.posterior(x), vae.prior()
    means, prior = (_numpy(moments(d)[0]) for d in (q, p))
    return discrete(means, prior, labels, classes=getattr(q, "classes", None))


def _grid_of(vae: VAE, shape: Shape) -> Figure:
    quantiles = (np.arange(15) + 0.5) / 15
    z = marginal_quantiles(vae.prior(), quantiles)
    z2, z1 = torch.meshgrid(z[:, 1], z[:, 0], indexing="ij")
    images = _display(vae.decode(torch.stack([z1, z2], -1).flatten(0, 1)), shape)
    return grid(images.reshape(15, 15, *shape), _numpy(z), quantiles)


def _evenly(order: Array, labels: Array, count: int) -> Array:
    """The first of each class, then the second of each, and so on, in order of class."""
    shuffled = labels[order]
    turn = np.empty(len(order), int)
    for label in np.unique(shuffled):
        members = shuffled == label
        turn[members] = np.arange(members.sum())
    first = np.argsort(turn, kind="stable")[:count]
    return order[first[np.lexsort((shuffled[first], turn[first]))]]


def _display_shape(event_shape: Shape) -> Shape:
    if len(event_shape) == 3 and event_shape[0] in (1, 3):
        return event_shape
    return (1, *event_shape) if len(event_shape) == 2 else (math.prod(event_shape),)


def _display(x: Tensor, shape: Shape) -> Array:
    return _numpy(x.reshape(-1, *shape))


def _numpy(x: Tensor) -> Array:
    return np.asarray(x.detach().double().cpu())
