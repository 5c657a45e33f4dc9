r"""A proposal for importance sampling that is fitted to each datum, by weighted draws.

.. math::
    r(z) = \pi_p \, p(z) + \pi_q \, q(z \mid x) + \pi_t \, t_\nu(z \mid m, V)
    + \pi_c \sum_c \alpha_c \, t_\nu(z \mid m_c, V_c)

A mixture of the prior, of the posterior, and, where z is a real vector, of a Student t with the
mean and covariance of earlier draws, and of several for a posterior of several modes. These are
fitted by EM to draws that know nothing of q, which may have seen one mode alone. All are made in
some rounds, each with the weighted draws of the one before, whose weights are flattened as long as
few of them count. The prior's share bounds the weights: none is above :math:`p(x \mid z) / \pi_p`.

References:
    Cappé, Douc, Guillin, Marin and Robert (2008), Adaptive Importance Sampling in General Mixture
    Classes, arXiv:0710.4242; Hesterberg (1995), Weighted Average Importance Sampling and Defensive
    Mixture Distributions
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro import distributions as dist
from torch import Tensor

from pyrovae.distributions import is_point, is_real
from pyrovae.vae import VAE

__all__ = [
    "FEWEST",
    "Fitted",
    "Target",
    "Whole",
    "adapted",
    "from_mixture",
    "resampled",
    "weighted_moments",
]

FEWEST = 20
"""Draws of z, of which each part of a mixture has some."""

ROUNDS = 10  # in which the mixture is made
ROUND_DRAWS = 500  # in each of them
PRIOR_SHARE, POSTERIOR_SHARE = 0.1, 0.2  # of the mixture; the first bounds the weights
COMPONENTS, STEPS = 12, 10  # of these several, and of EM
DEGREES = 5.0  # of freedom of the Student t
IMPOSSIBLE = -1e30  # the least log weight; minus infinity has no powers
LEAST = 100.0  # effective sample size to which the weights of a round are flattened
SEARCH_DRAWS, SEARCH_LEAST = 1_000, 400.0  # the same in the rounds without q
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


@dataclass(frozen=True)
class Fitted:
    """What a mixture is made of.

    Attributes:
        z: draws ``(draws, examples, latent_dim)``.
        log_w: the logarithms of their weights ``(draws, examples)``.
        several: several Student t, ``(examples,)``; None where z is no real vector.
    """

    z: Tensor
    log_w: Tensor
    several: Any


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


def adapted(target: Target) -> Fitted:
    """Draws of z with weights that are flat enough to make a mixture of.

    Args:
        target: what is proposed for.

    Returns:
        The draws, and what was found without q.
    """
    several = _found(target)
    z = target.p.sample(torch.Size([ROUND_DRAWS, target.examples]))
    log_w = _flattened(target.log_likelihood(z).double(), LEAST)
    for _ in range(ROUNDS):
        z, log_w = from_mixture(target, Fitted(z, log_w, several), ROUND_DRAWS)
        log_w = _flattened(log_w, LEAST)
    return Fitted(z, log_w, several)


def _found(target: Target) -> Any:
    """Several Student t where the mass is, found without q, which may know of one place alone."""
    if not is_real(target.p):
        return None
    z = target.p.sample(torch.Size([SEARCH_DRAWS, target.examples]))
    log_w = target.log_likelihood(z).double()
    own = round(PRIOR_SHARE * SEARCH_DRAWS)
    for _ in range(ROUNDS):
        several = _several(z, _flattened(log_w, SEARCH_LEAST))
        z, log_w = _weighed(target, [(target.p, own), (several, SEARCH_DRAWS - own)])
    return _several(z, _flattened(log_w, SEARCH_LEAST))


def from_mixture(target: Target, fitted: Fitted, samples: int) -> tuple[Tensor, Tensor]:
    """Draws from a mixture made of weighted draws, and their own weights.

    A fixed number of draws comes from each part. The average of the weights has as its mean the
    evidence, and a variance of at most that of as many independent draws from the mixture.

    Args:
        target: what is proposed for.
        fitted: as :func:`adapted` gives it.
        samples: number of draws, about; at least ``FEWEST``.

    Returns:
        Draws and the logarithms of their weights, ``(draws, examples, latent_dim)`` and
        ``(draws, examples)``; the draws of one part after those of another.
    """
    z, log_w = fitted.z, fitted.log_w
    parts: list[tuple[Any, int]] = [(target.p, max(1, round(PRIOR_SHARE * samples)))]
    q = target.posterior(z, log_w)
    if not is_point(q):
        parts.append((q, max(1, round(POSTERIOR_SHARE * samples / _draws_of(q, target)))))
    if is_real(target.p):
        left = samples - sum(_draws_of(part, target) * count for part, count in parts)
        around = dist.MultivariateStudentT(DEGREES, *weighted_moments(z, log_w))
        parts.append((around, max(1, left // 2)))
        parts.append((fitted.several, max(1, left - left // 2)))
    return _weighed(target, parts)


def _weighed(target: Target, parts: list[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
    """A number of draws from each part, weighed as draws from the mixture of all."""
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


def _several(z: Tensor, log_w: Tensor) -> Any:
    """A mixture of Student t, by some steps of EM for normals on weighted draws.

    A component that rests on few draws has a covariance nearer to its diagonal, and wider: up to
    that of all draws.
    """
    w = log_w.softmax(0).unsqueeze(-1).to(z)  # (draws, examples, 1)
    middle, factor = weighted_moments(z, log_w)
    whole = factor.square().sum(-1).unsqueeze(1)  # (examples, 1, latent_dim)
    loc = _apart(z, log_w, whole.squeeze(1).sqrt()).transpose(0, 1)  # (examples, components, ...)
    tril = factor.unsqueeze(1).expand(*loc.shape, -1) / COMPONENTS
    share = torch.full_like(loc[..., 0], 1 / COMPONENTS)
    dimensions, nothing = z.shape[-1], 1e-6
    for _ in range(STEPS):
        log_r = dist.MultivariateNormal(loc, scale_tril=tril).log_prob(z.unsqueeze(2))
        r = w * (log_r + share.log()).softmax(-1)  # (draws, examples, components)
        mass = r.sum(0)
        weight = r / (mass + nothing)
        left = nothing / (mass + nothing)  # all of it, where a component has lost its draws
        loc = torch.einsum("kbc,kbi->bci", weight, z) + left.unsqueeze(-1) * middle.unsqueeze(1)
        apart = z.unsqueeze(2) - loc  # (draws, examples, components, latent_dim)
        covariance = torch.einsum("kbci,kbcj->bcij", weight.unsqueeze(-1) * apart, apart)
        count = (mass.square() / (r.square().sum(0) + nothing**2)).clamp_min(1)[..., None]
        shrunk = dimensions / (dimensions + count)
        diagonal = shrunk * covariance.diagonal(dim1=-2, dim2=-1) + whole / count.square()
        mixed = (1 - shrunk).unsqueeze(-1) * covariance + torch.diag_embed(diagonal)
        tril = torch.linalg.cholesky(mixed)
        share = (mass + nothing) / (mass + nothing).sum(-1, keepdim=True)
    several = dist.MultivariateStudentT(DEGREES, loc, tril)
    return dist.MixtureSameFamily(dist.Categorical(probs=share), several)


def _apart(z: Tensor, log_w: Tensor, unit: Tensor) -> Tensor:
    """Some of the draws ``(components, examples, latent_dim)``, by weight and far from each other.

    References:
        Arthur and Vassilvitskii (2007), k-means++: The Advantages of Careful Seeding
    """
    chosen = resampled(z, log_w, 1)
    distance = torch.full_like(log_w, math.inf)
    for _ in range(COMPONENTS - 1):
        last = ((z - chosen[-1]) / unit).square().sum(-1).to(log_w)
        distance = torch.minimum(distance, last)
        chosen = torch.cat([chosen, resampled(z, log_w + (distance + 1e-12).log(), 1)])
    return chosen


def weighted_moments(z: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
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


def _flattened(log_w: Tensor, least: float) -> Tensor:
    """Weights to the largest power up to 1 at which their effective sample size is ``least``."""
    log_w = log_w.clamp_min(IMPOSSIBLE)
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])

    def enough(power: Tensor) -> Tensor:
        return 1 / (power * log_w).softmax(0).square().sum(0) >= least

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
