r"""A proposal for importance sampling that is fitted to each datum, by weighted draws.

.. math::
    r(z) = \pi_p \, p(z) + \pi_q \, q(z \mid x) + (1 - \pi_p - \pi_q) \, t_\nu(z \mid m, V)

A mixture of the prior, of the posterior, and, where z is a real vector, of a Student t with the
mean and covariance of earlier draws. It is made in some rounds, each with the weighted draws of the
one before. The prior's share bounds the weights: none is above :math:`p(x \mid z) / \pi_p`.

References:
    Cappé, Guillin, Marin and Robert (2004), Population Monte Carlo; Hesterberg (1995), Weighted
    Average Importance Sampling and Defensive Mixture Distributions
"""

import math
from typing import Any, Protocol

import torch
from pyro import distributions as dist
from torch import Tensor

from pyrovae.structure import is_point, is_real
from pyrovae.vae import VAE

__all__ = ["FEWEST", "Target", "Whole", "adapted", "from_mixture", "moments", "resampled"]

FEWEST = 20
"""Draws of z, of which each part of a mixture has some."""

ROUNDS = 10  # in which the mixture is made
ROUND_DRAWS = 500  # in each of them
PRIOR_SHARE, POSTERIOR_SHARE = 0.1, 0.2  # of the mixture; the first bounds the weights
DEGREES = 5.0  # of freedom of the Student t
IMPOSSIBLE = -1e30  # the least log weight; minus infinity has no powers
LEAST = 100.0  # effective sample size to which the weights of a round are flattened
ROWS = 2_000  # of which p(x | z) is held at a time


class Target(Protocol):
    """What is proposed for: p(z) times a likelihood of z, for each of some data.

    Attributes:
        p: the prior.
        examples: how many data there are.
    """

    p: Any
    examples: int

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Of z ``(draws, examples, latent_dim)``, ``(draws, examples)``."""

    def posterior(self, z: Tensor, log_w: Tensor) -> Any:
        """q(z | x), of batch shape ``(..., examples)``, given weighted draws."""


class Whole:
    """Data of which nothing is missing.

    Args:
        vae: the model and its posterior.
        x: data ``(examples, *event_shape)``.
    """

    def __init__(self, vae: VAE, x: Tensor) -> None:
        vae.check_data(x)
        self.vae, self.x, self.examples, self.p = vae, x, len(x), vae.prior()
        self.q = vae.posterior(x)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x | z)."""
        parts = z.split(max(1, ROWS // self.examples))
        return torch.cat([self.vae.likelihood(part).log_prob(self.x) for part in parts])

    def posterior(self, z: Tensor, log_w: Tensor) -> Any:
        """q(z | x), the same whatever was drawn."""
        return self.q


def adapted(target: Target) -> tuple[Tensor, Tensor]:
    """Draws of z, and weights for them that are flat enough to make a mixture of.

    Args:
        target: what is proposed for.

    Returns:
        z ``(draws, examples, latent_dim)``, and the logarithms of their weights
        ``(draws, examples)``.
    """
    z = target.p.sample(torch.Size([ROUND_DRAWS, target.examples]))
    log_w = _flattened(target.log_likelihood(z).double())
    for _ in range(ROUNDS):
        z, log_w = from_mixture(target, z, log_w, ROUND_DRAWS)
        log_w = _flattened(log_w)
    return z, log_w


def from_mixture(target: Target, z: Tensor, log_w: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Draws from a mixture made of weighted draws, and their own weights.

    A fixed number of draws comes from each part. The average of the weights has as its mean the
    evidence, and a variance of at most that of as many independent draws from the mixture.

    Args:
        target: what is proposed for.
        z, log_w: weighted draws, as :func:`adapted` gives them.
        samples: number of draws, about; at least ``FEWEST``.

    Returns:
        Draws and the logarithms of their weights, as they were given; the draws of one part after
        those of another.
    """
    parts: list[tuple[Any, int]] = [(target.p, max(1, round(PRIOR_SHARE * samples)))]
    q = target.posterior(z, log_w)
    if not is_point(q):
        parts.append((q, max(1, round(POSTERIOR_SHARE * samples / _draws_of(q, target)))))
    if is_real(target.p):
        left = samples - sum(_draws_of(part, target) * count for part, count in parts)
        around = dist.MultivariateStudentT(DEGREES, *moments(z, log_w))
        parts.append((around, max(1, left)))
    drawn, log_r = [], []
    for part, count in parts:
        shape = [count] if part.batch_shape else [count, target.examples]
        drawn.append(part.sample(torch.Size(shape)).flatten(0, -3))
    new = torch.cat(drawn)  # (draws, examples, latent_dim)
    for part, count in parts:
        density = part.log_prob(new.unsqueeze(1)).double()  # (draws, ways or 1, examples)
        log_r.append(density.logsumexp(1) + math.log(count / len(new)))
    log_joint = target.p.log_prob(new).double() + target.log_likelihood(new).double()
    log_w = log_joint - torch.stack(log_r).logsumexp(0)
    nothing = torch.full_like(log_w, -math.inf)
    return new, torch.where(log_w.isnan(), nothing, log_w)  # far out, where numbers overflow


def _draws_of(part: Any, target: Target) -> int:
    """How many draws for each example one draw of a part is."""
    return max(1, part.batch_shape.numel() // target.examples)


def moments(z: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of weighted draws, and a Cholesky factor of their covariance.

    The fewer draws there are for a dimension, the nearer the covariance is to its diagonal.

    Args:
        z, log_w: weighted draws, as :func:`adapted` gives them.

    Returns:
        ``(examples, latent_dim)`` and ``(examples, latent_dim, latent_dim)``.
    """
    w = log_w.softmax(0).unsqueeze(-1).to(z)
    loc = (w * z).sum(0)
    apart = z - loc
    covariance = torch.einsum("kbi,kbj->bij", w * apart, apart)
    dimensions = z.shape[-1]
    shrunk = dimensions / (dimensions + 1 / w.square().sum(0))  # (examples, 1)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    tiny = 1e-6 * diagonal.mean(-1, keepdim=True) + torch.finfo(z.dtype).tiny
    mixed = (1 - shrunk).unsqueeze(-1) * covariance + torch.diag_embed(shrunk * diagonal + tiny)
    return loc, torch.linalg.cholesky(mixed)


def _flattened(log_w: Tensor) -> Tensor:
    """Weights to the largest power up to 1 at which their effective sample size is ``LEAST``."""
    log_w = log_w.clamp_min(IMPOSSIBLE)
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])

    def enough(power: Tensor) -> Tensor:
        return 1 / (power * log_w).softmax(0).square().sum(0) >= LEAST

    power = torch.ones_like(high)
    for _ in range(20):
        good = enough(power)
        low, high = torch.where(good, power, low), torch.where(good, high, power)
        power = torch.where(low == 1, low, (low + high) / 2)
    return low * log_w


def resampled(z: Tensor, log_w: Tensor, count: int) -> Tensor:
    """Some draws by their weights, with replacement.

    Args:
        z, log_w: weighted draws, as :func:`adapted` gives them.
        count: how many of each example.

    Returns:
        ``(count, examples, latent_dim)``.
    """
    index = log_w.T.softmax(-1).multinomial(count, replacement=True).T
    return z.take_along_dim(index.unsqueeze(-1), 0)
