r"""Bridge sampling: the normalizing constant of a density, from draws."""

import math
from collections.abc import Callable

import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae._process.isolation import derived, isolated, seed_device
from pyrovae._process.memory import in_chunks
from pyrovae.evidence.nuts import Draws

__all__ = ["bridge"]

STEPS = 1_000  # most steps of the fixed-point iteration


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
