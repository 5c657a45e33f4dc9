r"""Draws from p(z | x) by Pyro's No-U-Turn sampler.

Several chains run one after the other in this process, each with its own seed, and are compared
with each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from torch.distributions import Distribution

from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae.distributions import is_discrete, is_point, is_real, moments
from pyrovae.vae import VAE

__all__ = ["Draws", "check_real", "draw_chains", "log_joint", "posterior_draws"]

SPREAD = 2.0  # distance of the starts of chains from the mean of q, relative to draws of q
FEWEST = 4  # draws per chain, so that each half has a variance


@dataclass(frozen=True)
class Draws:
    """Draws of several chains, with diagnostics of their agreement.

    Attributes:
        z: the draws ``(chains, draws, *batch, dimensions)``.
        r_hat: split Gelman-Rubin statistic of each dimension ``(*batch, dimensions)``: near 1 if
            all chains have the same distribution.
        effective: effective sample size of each dimension ``(*batch, dimensions)``.
        divergences: number of divergent transitions in all chains.

    Example:
        >>> found = posterior_draws(vae, x[:1], draws=6, warmup=4, chains=2)
        >>> found.z.shape, found.r_hat.shape
        (torch.Size([2, 6, 1, 2]), torch.Size([1, 2]))
    """

    z: Tensor
    r_hat: Tensor
    effective: Tensor
    divergences: int


def draw_chains(
    log_density: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    draws: int,
    warmup: int,
    chains: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Draws:
    r"""Draw from an unnormalized density over real vectors.

    A batch is drawn as one vector from the product of its densities, with one step size, so that a
    step costs one call for all of them. The diagonal metric and the step size are adapted during
    the warm-up and fixed afterwards. The sampler computes in double precision, and the density in
    the dtype of ``start``.

    References:
        Hoffman and Gelman (2014), The No-U-Turn Sampler, arXiv:1111.4246

    Args:
        log_density: from z ``(*batch, dimensions)`` to log densities ``(*batch,)``, differentiable.
        start: the first state of each chain ``(chains, *batch, dimensions)``; chains that agree
            are evidence of convergence only if they start far apart.
        draws: number of draws that each chain keeps, at least 4.
        warmup: number of draws before these, which are discarded.
        chains: number of chains.
        seed: seed of all draws; those of a chain depend only on it and on the chain's number.
        progress: callback, called with 1 after each draw, including the warm-up.

    Returns:
        The draws. Param store, random state and validation are restored afterwards.

    Raises:
        ValueError: if a number is too small, there is not one start for each chain, or the density
            is zero or not a number at a start.

    Example:
        >>> def log_density(z):
        ...     return -z.square().sum(-1) / 2
        >>> start = torch.randn(2, 3)
        >>> draw_chains(log_density, start, draws=20, warmup=10, chains=2, seed=0).z.shape
        torch.Size([2, 20, 3])
    """
    for name, value, least in (("draws", draws, FEWEST), ("warmup", warmup, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if chains < 1 or start.ndim < 2 or len(start) != chains:
        raise ValueError(
            f"start must hold one z for each of the {chains} chains, got the shape "
            f"{tuple(start.shape)}; make it (chains, *batch, dimensions)"
        )
    with torch.no_grad(), pyro.validation_enabled(False):
        finite = torch.stack([log_density(z) for z in start]).isfinite()
    if not finite.all():
        raise ValueError(
            f"the log density is not finite at {int((~finite).sum())} of the {finite.numel()} "
            "starts; start where the density is positive"
        )

    def potential(site: dict[str, Tensor]) -> Tensor:
        return -log_density(site["z"].to(start)).double().sum()

    def count(*state: object) -> None:
        if progress is not None:
            progress(1)

    kept, divergences = [], 0
    with isolated(start.device):
        for chain, z in enumerate(start):
            seed_device(start.device, derived(seed, chain))
            sampler = MCMC(
                NUTS(potential_fn=potential),
                num_samples=draws,
                warmup_steps=warmup,
                initial_params={"z": z.detach().double()},
                hook_fn=count,
                disable_progbar=True,
            )
            sampler.run()
            kept.append(sampler.get_samples()["z"].to(start))
            divergences += len(sampler.diagnostics()["divergences"]["chain 0"])
    z = torch.stack(kept)  # (chains, draws, *batch, dimensions)
    wide = z.double()
    r_hat = split_gelman_rubin(wide, chain_dim=0, sample_dim=1)
    effective = effective_sample_size(wide, chain_dim=0, sample_dim=1)
    return Draws(z, r_hat, effective, divergences)


def posterior_draws(
    vae: VAE,
    x: Tensor,
    *,
    draws: int = 250,
    warmup: int = 250,
    chains: int = 4,
    seed: int = 0,
    start: Distribution | None = None,
    progress: Callable[[int], None] | None = None,
) -> Draws:
    r"""Draw from the true posterior p(z | x) of each example.

    .. math:: p(z \mid x) \propto p(z) \, p(x \mid z)

    The sampler works on :math:`(z - m) / s` with the mean m and the standard deviation s of
    ``start`` in each dimension. Chains start at draws from it, moved to twice their distance from
    m. A mode far away from all starts is not found.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        x: data ``(batch, *event_shape)``.
        draws, warmup, chains, seed, progress: as for :func:`draw_chains`.
        start: a distribution for each example, of batch shape ``(batch,)``; None for q(z | x).

    Returns:
        Draws ``(chains, draws, batch, latent_dim)``.

    Raises:
        ValueError: as :func:`draw_chains` and :func:`check_real`.

    Example:
        >>> posterior_draws(vae, x[:2], draws=6, warmup=4, chains=2).z.shape
        torch.Size([2, 6, 2, 2])
    """
    with evaluating(vae):
        check_real(vae, x)
        with torch.no_grad(), isolated(x.device):
            seed_device(x.device, seed)
            q = vae.posterior(x) if start is None else start
            mean, variance = moments(q)
            scale = variance.sqrt()
            # the variance of a Student t or a Cauchy may be infinite or undefined
            scale = torch.where(scale.isfinite() & (scale > 0), scale, torch.ones_like(scale))
            first = SPREAD * (q.sample(torch.Size([chains])) - mean) / scale
        joint = log_joint(vae, x)
        found = draw_chains(
            lambda u: joint(mean + scale * u),
            first,
            draws=draws,
            warmup=warmup,
            chains=chains,
            seed=seed,
            progress=progress,
        )
    return Draws(mean + scale * found.z, found.r_hat, found.effective, found.divergences)


def log_joint(vae: VAE, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Make log p(x, z) a function of z, with the prior evaluated once.

    Args:
        vae: the model.
        x: data ``(batch, *event_shape)``.

    Returns:
        A function from z ``(*sample_shape, batch, latent_dim)`` to ``(*sample_shape, batch)``.

    Example:
        >>> log_joint(vae, x)(torch.zeros(5, 64, 2)).shape
        torch.Size([5, 64])
    """
    with torch.no_grad():
        return partial(vae.log_joint, x, prior=vae.prior())


@torch.no_grad()
def check_real(vae: VAE, x: Tensor) -> None:
    """Refuse a model whose z is not a real vector with a density.

    Args:
        vae: the model and its posterior, in eval mode.
        x: data ``(batch, *event_shape)``.

    Raises:
        ValueError: if the prior or the posterior is discrete, a point, or not over all real
            vectors, such as a distribution on a sphere.

    Example:
        >>> check_real(vae, x)
    """
    names = type(vae.prior).__name__, type(vae.posterior).__name__
    with isolated(x.device):
        p, q = vae.prior(), vae.posterior(x[:1])
    for role, name, d in (("prior", names[0], p), ("posterior", names[1], q)):
        if is_discrete(d):
            reason = "is discrete, so the sampler has no gradients to follow"
        elif not is_real(d):
            reason = "is not over all real vectors, in which the sampler moves"
        elif is_point(d):
            reason = "is a point, which has no density"
        else:
            continue
        raise ValueError(
            f"the {role} {name} {reason}; train with a prior and a posterior over real vectors, "
            "such as normal with diagonal, full or flow"
        )
