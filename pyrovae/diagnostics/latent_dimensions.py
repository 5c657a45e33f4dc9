r"""Single dimensions of z: how much of the data each holds, its KL divergence, its prior density.

Marginals are exact where q and p factorize over the dimensions, otherwise estimated from draws.
"""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gaussian_kde
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae._process.isolation import alone, evaluating, isolated
from pyrovae.distributions import factorizes, fills_space, moments
from pyrovae.estimates import AnyExamples, as_examples, batches, number_of_examples
from pyrovae.vae import VAE

__all__ = [
    "ACTIVE",
    "active_units",
    "activity",
    "kl_per_dimension",
    "marginal_density",
    "marginal_moments",
    "marginal_quantiles",
]

Array = NDArray[Any]

ACTIVE = 0.01
"""The activity above which Burda, Grosse and Salakhutdinov (2016) count a dimension as active."""

BATCH = 100  # examples at a time


@torch.no_grad()
def activity(vae: VAE, data: AnyExamples, *, limit: int | None = None, seed: int = 0) -> Tensor:
    r"""Measure how much the code varies between examples in each latent dimension.

    .. math:: A_d = \operatorname{Var}_{x} \left( \mathbb{E}_{q(z \mid x)} [z_d] \right)

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        data: one part of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them.
        limit: use only the first ``limit`` examples.
        seed: seed of the draws, for posteriors whose mean has no formula.

    Returns:
        ``(latent_dim,)``, in units of z squared.

    Raises:
        ValueError: if there are fewer than two examples, too few for a variance.

    Example:
        >>> from pyrovae.diagnostics import activity
        >>> activity(vae, data).shape
        torch.Size([2])
    """
    data = as_examples(data)
    number_of_examples(data, limit, at_least=2)
    means = []
    with isolated(), evaluating(vae):
        torch.manual_seed(seed)
        for x in batches(data, BATCH, limit):
            means.append(moments(vae.posterior(vae.place(x)))[0].cpu())
    return torch.cat(means).double().var(0)


def active_units(vae: VAE, data: AnyExamples, *, limit: int | None = None) -> int:
    """Count the latent dimensions whose :func:`activity` is above ``ACTIVE``.

    Args:
        vae, data, limit: as for :func:`activity`.

    Example:
        >>> from pyrovae.diagnostics import active_units
        >>> active_units(vae, data) <= 2
        True
    """
    return int((activity(vae, data, limit=limit) > ACTIVE).sum())


def kl_per_dimension(q: Any, p: Any, draws: Tensor) -> tuple[Array, bool]:
    """Compute KL(q(z_j | x) || p(z_j)) for each dimension j, averaged over examples.

    Without a closed form, q's marginals are approximated by normals with their moments and the
    prior's by kernel density estimates, and the integral is Gauss-Hermite quadrature.

    Args:
        q: posteriors with batch shape ``(n,)``.
        p: the prior.
        draws: from the prior ``(m, latent_dim)``, for the approximation.

    Returns:
        The divergences ``(latent_dim,)`` in nats per example, and whether they are exact.

    Example:
        >>> from pyrovae.diagnostics import kl_per_dimension
        >>> with torch.no_grad():
        ...     kl, exact = kl_per_dimension(vae.posterior(x), vae.prior(), torch.zeros(1, 2))
        >>> kl.shape, exact
        ((2,), True)
    """
    if factorizes(q, p):
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


def marginal_moments(q: Any, dims: Array) -> tuple[Array, Array]:
    """Compute the mean and covariance of some dimensions of each posterior.

    Correlated posteriors get the covariance of 500 draws.

    Args:
        q: posteriors with batch shape ``(n,)``.
        dims: which dimensions.

    Returns:
        Means ``(n, len(dims))`` and covariances ``(n, len(dims), len(dims))``.

    Example:
        >>> from pyrovae.diagnostics import marginal_moments
        >>> with torch.no_grad():
        ...     loc, covariance = marginal_moments(vae.posterior(x), [0, 1])
        >>> loc.shape, covariance.shape
        ((64, 2), (64, 2, 2))
    """
    loc, variance = map(_numpy, moments(q))
    if factorizes(q) or len(dims) == 1:
        return loc[:, dims], variance[:, dims, None] * np.eye(len(dims))
    z = _numpy(q.sample((500,))[..., dims])  # (500, n, len(dims))
    centered = z - z.mean(0)
    return loc[:, dims], np.einsum("sni,snj->nij", centered, centered) / (len(z) - 1)


def marginal_density(p: Any, draws: Tensor, dims: Array, points: Array) -> Array:
    """Density of some dimensions of a prior: exact, or a kernel estimate from draws.

    Args:
        p: the prior.
        draws: from it ``(m, latent_dim)``.
        dims: which dimensions.
        points: values of these dimensions ``(k, len(dims))``.

    Returns:
        Densities ``(k,)``.

    Example:
        >>> from pyrovae.diagnostics import marginal_density
        >>> p = vae.prior()
        >>> marginal_density(p, p.sample((10,)), [0], [[0.0]]).round(3)
        array([0.399])
    """
    z = draws[:1].repeat(len(points), 1)
    z[:, dims] = torch.as_tensor(points).to(draws)
    if draws.shape[1] == len(dims) and fills_space(p):
        return _numpy(p.log_prob(z).exp())
    if factorizes(p):
        return _numpy(p.base_dist.log_prob(z)[:, dims].sum(-1).exp())
    return np.asarray(gaussian_kde(_numpy(draws[:, dims]).T)(np.transpose(points)))


@alone()
def marginal_quantiles(p: Any, probabilities: Array) -> Tensor:
    """Quantiles of each dimension of a prior: exact, or those of 20,000 draws.

    Args:
        p: the prior.
        probabilities: between 0 and 1 ``(k,)``.

    Returns:
        ``(k, latent_dim)``.

    Example:
        >>> from pyrovae.diagnostics import marginal_quantiles
        >>> marginal_quantiles(vae.prior(), [0.5])
        tensor([[0., 0.]])
    """
    draws: Tensor = p.sample((20_000,))
    at = torch.as_tensor(probabilities).to(draws)
    if factorizes(p):
        with suppress(NotImplementedError):
            exact: Tensor = p.base_dist.icdf(at[:, None].expand(-1, draws.shape[1]))
            return exact
    return draws.quantile(at, dim=0)


def _numpy(x: Tensor) -> Array:
    return np.asarray(x.detach().double().cpu())
