r"""Draws from p(z | x) by Pyro's No-U-Turn sampler, and bridge sampling from such draws.

Several chains run one after the other in this process, each with its own seed, and are compared
with each other. Bridge sampling finds the normalizing constant of a density from draws of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae._process.memory import in_chunks
from pyrovae.distributions import is_discrete, is_point, is_real, moments
from pyrovae.vae import VAE

__all__ = ["Draws", "bridge", "check_real", "draw_chains", "log_joint", "posterior_draws"]

SPREAD = 2.0  # distance of the starts of chains from the mean of q, relative to draws of q
FEWEST = 4  # draws per chain, so that each half has a variance
STEPS = 1_000  # most steps of the fixed-point iteration of bridge sampling


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
        numbers = {"draws": draws, "warmup": warmup, "chains": chains, "seed": seed}
        found = draw_chains(lambda u: joint(mean + scale * u), first, **numbers, progress=progress)
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
    with isolated(x.device):
        p, q = vae.prior(), vae.posterior(x[:1])
    for role, d in (("prior", p), ("posterior", q)):
        if is_discrete(d):
            reason = "is discrete, so the sampler has no gradients to follow"
        elif not is_real(d):
            reason = "is not over all real vectors, in which the sampler moves"
        elif is_point(d):
            reason = "is a point, which has no density"
        else:
            continue
        raise ValueError(
            f"the {role} {type(getattr(vae, role)).__name__} {reason}; train with a prior and a "
            "posterior over real vectors, such as normal with diagonal, full or flow"
        )


@torch.no_grad()
def bridge(
    joint: Callable[[Tensor], Tensor], draws: Draws, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Estimate the logarithm of the integral of a density from draws of it.

    .. math::
        \hat Z = \frac{\frac{1}{n_g} \sum_{j} \frac{f(\tilde z_j)}{s_f f(\tilde z_j) + s_g \hat Z
        g(\tilde z_j)}}{\frac{1}{n_f} \sum_{i} \frac{g(z_i)}{s_f f(z_i) + s_g \hat Z g(z_i)}},
        \qquad \tilde z_j \sim g, \quad z_i \sim f / Z

    g is a normal with the mean and covariance of one half of each chain, and the :math:`z_i` are
    the other halves. Then the halves swap roles, and the result is the mean of the two logarithms.
    :math:`s_f, s_g` are proportional to the effective number of the :math:`z_i` and the number of
    :math:`\tilde z_j`.

    The standard error of each logarithm is the first-order error of the two averages, and accounts
    for the autocorrelation of the chains and for their disagreement. The two logarithms are not
    independent, so the error of their mean is taken as the mean of their errors, which is too
    large by a factor of at most :math:`\sqrt 2`, or as half their difference if that is larger.

    References:
        Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity: a
        theoretical exploration; Gronau et al. (2017), A Tutorial on Bridge Sampling,
        arXiv:1703.05984

    Args:
        joint: log f, from z ``(n, batch, dimensions)`` to ``(n, batch)``.
        draws: draws from each of the densities.
        seed: seed of the draws from g.

    Returns:
        log Z of each density and its standard error, each ``(batch,)``.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(1, 2), 1.0)
        >>> def joint(z):
        ...     return normal.log_prob(z).sum(-1) + 3.0
        >>> start = torch.randn(2, 1, 2)
        >>> options = {"draws": 50, "warmup": 20, "chains": 2, "seed": 0}
        >>> draws = pyrovae.evidence.draw_chains(lambda z: joint(z), start, **options)
        >>> log_z, error = bridge(joint, draws)
        >>> bool((log_z - 3.0).abs() < 5 * error + 0.1)
        True
    """
    halves = draws.z.double().chunk(2, 1)  # each (chains, draws / 2, batch, dimensions)
    with isolated(draws.z.device):
        seed_device(draws.z.device, derived(seed))  # not the seed of the draws
        ways = [_bridged(joint, halves[i], halves[1 - i], draws.z.dtype) for i in (0, 1)]
    (first, first_error), (second, second_error) = ways
    error = torch.maximum((first_error + second_error) / 2, (first - second).abs() / 2)
    return (first + second) / 2, error


def _bridged(
    joint: Callable[[Tensor], Tensor], fitted: Tensor, z: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    fitted = fitted.flatten(0, 1)  # (n, batch, dimensions)
    mean = fitted.mean(0)
    centered = (fitted - mean).movedim(0, -1)
    covariance = centered @ centered.mT / (len(fitted) - 1)
    jitter = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1)
    g = MultivariateNormal(mean, covariance + torch.diag_embed(jitter))
    chains, count = z.shape[:2]
    other = g.sample(torch.Size([chains * count]))

    def log_ratio(points: Tensor) -> Tensor:
        parts = in_chunks(points, points.shape[1])
        return torch.cat([joint(part.to(dtype)).double() - g.log_prob(part) for part in parts])

    at_f, at_g = log_ratio(z.flatten(0, 1)), log_ratio(other)  # (n, batch)
    effective = _effective(at_f, chains)
    share = (effective / (effective + len(other))).clamp(1e-6, 1 - 1e-6)
    log_f, log_g = share.log(), (-share).log1p()
    log_z = at_f.median(0).values
    for _ in range(STEPS):
        upper = at_g - torch.logaddexp(log_f + at_g, log_g + log_z)
        lower = -torch.logaddexp(log_f + at_f, log_g + log_z)
        after = upper.logsumexp(0) - math.log(len(upper)) - lower.logsumexp(0)
        after = after + math.log(len(lower))
        moved, log_z = (after - log_z).abs().max(), after
        if moved < 1e-10:
            break
    upper = (at_g - torch.logaddexp(log_f + at_g, log_g + log_z)).exp()
    lower = (-torch.logaddexp(log_f + at_f, log_g + log_z) + log_z).exp()
    correlated = _effective(lower, chains)
    variance = upper.var(0) / upper.mean(0).square() / len(upper)
    variance = variance + lower.var(0) / lower.mean(0).square() / correlated
    return log_z, variance.sqrt()


def _effective(values: Tensor, chains: int) -> Tensor:
    """Effective sample size of draws ``(chains * draws, batch)``.

    For few draws the estimate can be negative or undefined, for example if no chain has moved; the
    number of chains then takes its place.
    """
    effective = effective_sample_size(values.unflatten(0, (chains, -1)), 0, 1)
    return torch.where(effective > 0, effective, chains).clamp(max=len(values))
