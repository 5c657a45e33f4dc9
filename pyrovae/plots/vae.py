r"""The pictures of one VAE, made from its own p(z), p(x | z) and q(z | x).

Random state and training mode are left as they were.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyro.distributions import constraints
from scipy.stats import gaussian_kde
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyrovae._process.isolation import evaluating, seed_device
from pyrovae.distributions import is_discrete, moments
from pyrovae.plots.figures import bound, discrete, grid, latent, reconstructions, samples, save
from pyrovae.vae import VAE

__all__ = ["draw_vae", "fills_space", "prior_density"]

Array = NDArray[Any]
Shape = tuple[int, ...]

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
    """Make and save every picture that applies to a trained VAE.

    ``bound.png`` where there are metrics, ``samples.png``, ``reconstructions.png``,
    ``latent.png`` (of the two dimensions of largest KL where there are more; of a discrete latent,
    the mean of q(z | x) over each class), and ``grid.png`` for images with a two-dimensional latent
    that is neither discrete nor on a circle. The VAE is run in eval mode and left as it was.

    Args:
        vae: the trained model.
        x_test: data as its likelihood wants them ``(n, *event_shape)``.
        labels: their classes, integers ``(n,)``, or None.
        metrics: see :func:`bound`.
        directory: where the pictures go; made if it is not there.
        seed: of every random draw and choice of data.

    Returns:
        the files, in the order above.

    Raises:
        ValueError: if there is not one label per datum.
    """
    classes = np.zeros(len(x_test)) if labels is None else np.asarray(labels)
    if len(classes) != len(x_test):
        raise ValueError(
            f"labels must be one per datum: got {len(classes)} for {len(x_test)} data; "
            "give those of the same split, or None"
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
    kl, exact = _kl_per_dimension(q, p, draws)
    dims = np.arange(vae.latent_dim) if vae.latent_dim <= 2 else np.argsort(-kl)[:2]
    names = [f"$z_{{{d + 1}}}$ (KL {'' if exact else '≈ '}{kl[d]:.1f} nats)" for d in dims]
    loc, variance = map(_numpy, moments(q))
    if _factorises(q) or len(dims) == 1:
        covariance = variance[:, dims, None] * np.eye(len(dims))
    else:
        z = _numpy(q.sample((500,))[..., dims])  # (500, n, 2)
        covariance = np.einsum("sni,snj->nij", z - z.mean(0), z - z.mean(0)) / (len(z) - 1)
    shown = _numpy(draws[:, dims])
    density = prior_density(p, draws, dims)
    return latent(loc[:, dims], covariance, shown, density, labels, names=names)


def prior_density(p: Any, draws: Tensor, dims: Array) -> Callable[[Array], Array]:
    """The density of some dimensions of a prior: its own, else a kernel estimate from draws.

    Args:
        p: the prior.
        draws: from it ``(m, latent_dim)``.
        dims: which dimensions.

    Returns:
        From points ``(k, len(dims))`` to densities ``(k,)``.
    """

    def density(points: Array) -> Array:
        z = draws[:1].repeat(len(points), 1)
        z[:, dims] = torch.as_tensor(points).to(draws)
        if draws.shape[1] == len(dims) and fills_space(p):
            return _numpy(p.log_prob(z).exp())
        if _factorises(p):
            return _numpy(p.base_dist.log_prob(z)[:, dims].sum(-1).exp())
        return np.asarray(gaussian_kde(_numpy(draws[:, dims]).T)(points.T))

    return density


def _discrete_latent_of(vae: VAE, x: Tensor, labels: Array | None) -> Figure:
    q, p = vae.posterior(x), vae.prior()
    means, prior = (_numpy(moments(d)[0]) for d in (q, p))
    return discrete(means, prior, labels, classes=getattr(q, "classes", None))


def _grid_of(vae: VAE, shape: Shape) -> Figure:
    quantiles = (np.arange(15) + 0.5) / 15
    z = _prior_quantiles(vae.prior(), quantiles)
    z2, z1 = torch.meshgrid(z[:, 1], z[:, 0], indexing="ij")
    images = _display(vae.decode(torch.stack([z1, z2], -1).flatten(0, 1)), shape)
    return grid(images.reshape(15, 15, *shape), _numpy(z), quantiles)


def _kl_per_dimension(q: Any, p: Any, draws: Tensor) -> tuple[Array, bool]:
    """KL of each dimension, mean over data (latent_dim,), and whether it is in closed form.

    Without a closed form q's marginals are taken as normals of their moments, the prior's as
    kernel density estimates of its draws, and the integral is Gauss-Hermite quadrature.
    """
    if _factorises(q) and _factorises(p):
        with suppress(NotImplementedError):
            return _numpy(kl_divergence(q.base_dist, p.base_dist).mean(0)), True
    loc, variance = map(_numpy, moments(q))
    scale = np.sqrt(variance).clip(1e-6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    z = loc + nodes[:, None, None] * scale  # (nodes, n, latent_dim)
    kl = -np.log(scale * np.sqrt(2 * np.pi * np.e)).mean(0)
    for d, sample in enumerate(_numpy(draws).T):
        ends = np.concatenate([z[..., d].ravel(), sample])
        line = np.linspace(ends.min(), ends.max(), 200)
        log_density = np.interp(z[..., d], line, gaussian_kde(sample).logpdf(line))
        kl[d] -= weights @ log_density.mean(1) / weights.sum()
    return kl, False


def fills_space(distribution: Any) -> bool:
    """Whether it has a density on the space around its draws: not on a sphere, nor if discrete."""
    support: Any = None
    with suppress(NotImplementedError):
        support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return not (is_discrete(distribution) or isinstance(support, type(constraints.sphere)))


def _factorises(distribution: Any) -> bool:
    return isinstance(distribution, Independent) and not distribution.base_dist.event_shape


def _prior_quantiles(prior: Any, quantiles: Array) -> Tensor:
    draws: Tensor = prior.sample((20_000,))
    at = torch.as_tensor(quantiles).to(draws)
    if _factorises(prior):
        with suppress(NotImplementedError):
            exact: Tensor = prior.base_dist.icdf(at[:, None].expand(-1, draws.shape[1]))
            return exact
    return draws.quantile(at, dim=0)


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
