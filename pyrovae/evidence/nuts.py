r"""Draws from p(z | x) by the No-U-Turn sampler of Pyro.

Several chains are run one after the other in this process, each with a seed of its own, and
compared with one another.
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

SPREAD = 2.0  # of the starts of chains about the mean of q, in draws of q
FEWEST = 4  # draws of a chain, of which each half has a variance


@dataclass(frozen=True)
class Draws:
    """Draws of several chains, and how far these agree.

    Attributes:
        z: the draws ``(chains, draws, *batch, dimensions)``.
        r_hat: split Gelman-Rubin statistic of each dimension ``(*batch, dimensions)``: near 1 if
            the chains are of one distribution.
        effective: so many independent draws would give as good a mean ``(*batch, dimensions)``.
        divergences: transitions of all chains whose numerical path went astray.
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
    advance: Callable[[int], None] | None = None,
) -> Draws:
    r"""Draw from a density over real vectors that is known up to a factor.

    A batch is drawn as one vector from the product of its densities, with one step size: a step
    then costs one call for all of them. The metric, which is diagonal, and the step size are
    adapted in the warm-up and fixed afterwards. The sampler calculates in double precision, and the
    density in the type of ``start``.

    References:
        Hoffman and Gelman (2014), The No-U-Turn Sampler, arXiv:1111.4246

    Args:
        log_density: from z ``(*batch, dimensions)`` to log densities ``(*batch,)``, differentiable.
        start: where each chain begins ``(chains, *batch, dimensions)``; apart from each other, so
            that their agreement means something.
        draws: that each chain keeps, at least 4.
        warmup: draws before them, which are thrown away.
        chains: number of chains.
        seed: of all draws; a chain's depend on it and on the chain's number alone.
        advance: told of each draw, with those of the warm-up.

    Returns:
        The draws. Param store, random state and validation are left as they were.

    Raises:
        ValueError: if a number is too small, there is not one start for each chain, or the density
            is zero or no number at a start.
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

    def count(*progress: object) -> None:
        if advance is not None:
            advance(1)

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
    advance: Callable[[int], None] | None = None,
) -> Draws:
    r"""Draw from the true posterior of each datum.

    .. math:: p(z \mid x) \propto p(z) \, p(x \mid z)

    The sampler works on :math:`(z - m) / s` with the mean m and the standard deviation s of
    ``start`` in each dimension. Chains start at draws from it, moved to twice their distance from
    m. A mode that is far from all of them is not found.

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        x: data ``(batch, *event_shape)``.
        draws, warmup, chains, seed, advance: as for :func:`draw_chains`.
        start: a distribution for each datum, of batch shape ``(batch,)``; q(z | x) if None.

    Returns:
        Draws ``(chains, draws, batch, latent_dim)``.

    Raises:
        ValueError: as :func:`draw_chains` and :func:`check_real`.
    """
    with evaluating(vae):
        check_real(vae, x)
        with torch.no_grad(), isolated(x.device):
            seed_device(x.device, seed)
            q = vae.posterior(x) if start is None else start
            mean, variance = moments(q)
            scale = variance.sqrt()
            # a Student t or a Cauchy has no finite variance in each case
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
            advance=advance,
        )
    return Draws(mean + scale * found.z, found.r_hat, found.effective, found.divergences)


def log_joint(vae: VAE, x: Tensor) -> Callable[[Tensor], Tensor]:
    """log p(x, z) as a function of z.

    Args:
        vae: the model.
        x: data ``(batch, *event_shape)``.

    Returns:
        A function from z ``(*sample_shape, batch, latent_dim)`` to ``(*sample_shape, batch)``.
    """
    with torch.no_grad():
        return partial(vae.log_joint, x, prior=vae.prior())


@torch.no_grad()
def check_real(vae: VAE, x: Tensor) -> None:
    """Refuse a latent that is not a real vector with a density.

    Args:
        vae: the model and its posterior, in eval mode.
        x: data ``(batch, *event_shape)``.

    Raises:
        ValueError: if the prior or the posterior is discrete, on a sphere or the like, or a point.
    """
    names = type(vae.prior).__name__, type(vae.posterior).__name__
    with isolated(x.device):
        p, q = vae.prior(), vae.posterior(x[:1])
    for role, name, d in (("prior", names[0], p), ("posterior", names[1], q)):
        if is_discrete(d):
            reason = "is discrete, and gradients do not lead from one value to another"
        elif not is_real(d):
            reason = "is not over all real vectors, which the sampler moves in"
        elif is_point(d):
            reason = "is a point, which has no density"
        else:
            continue
        raise ValueError(
            f"the {role} {name} {reason}; train with a prior and a posterior over real vectors, "
            "such as normal with diagonal, full or flow"
        )
