r"""Distributions to draw z from, fitted to the posterior of each example by weighted draws.

.. math::
    r(z) = \pi_p \, p(z) + \pi_q \, q(z \mid x) + \pi_t \, t_\nu(z \mid m, V)
    + \pi_c \sum_c \alpha_c \, t_\nu(z \mid m_c, V_c)

``"refined"`` starts from draws of q. It consists of the prior, the posterior and, if z is a real
vector, a Student t with the mean and covariance of the weighted draws, fitted in several rounds.

``"mixture"`` does not rely on q, which may cover one of several modes only. It starts from draws of
the prior, and has several Student t components besides, fitted by EM.

In both, each round is fitted to the weighted draws of the previous one, until no weight dominates;
while few of them dominate, the weights are flattened. The prior's share bounds the weights: none
exceeds :math:`p(x \mid z) / \pi_p`.

References:
    Cappé, Douc, Guillin, Marin and Robert (2008), Adaptive Importance Sampling in General Mixture
    Classes, arXiv:0710.4242; Hesterberg (1995), Weighted Average Importance Sampling and Defensive
    Mixture Distributions
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrovae._process import choices, isolation, memory
from pyrovae.distributions import is_point, is_real
from pyrovae.evidence._student_mixture import StudentMixture, mahalanobis
from pyrovae.evidence.weighted_draws import resampled, weighted_moments
from pyrovae.evidence.weights import jackknife_error
from pyrovae.vae import VAE

__all__ = [
    "FEWEST",
    "PROPOSALS",
    "Fitted",
    "Target",
    "Whole",
    "adapted",
    "affordable",
    "check_proposal",
    "from_mixture",
    "proposed",
]

PROPOSALS = ("posterior", "refined", "mixture")
"""Distributions from which z can be drawn, to be weighted."""

FEWEST = 20
"""Fewest draws of z with which every part of a mixture receives some."""

AFFORDABLE = 10**12  # examples times draws times parameters, of a proposal chosen by itself
ROWS = 10_000  # examples times draws from a mixture in a chunk, which has a seed of its own
ROUNDS, REFINING = 10, 5  # in which a mixture is fitted; from draws of q
ROUND_DRAWS = 500  # draws in each round
PRIOR_SHARE, POSTERIOR_SHARE = 0.1, 0.2  # of the mixture; the first bounds the weights
COMPONENTS, STEPS = 12, 10  # Student t components, and EM iterations that fit them
IMPOSSIBLE = -1e30  # lowest log weight: minus infinity cannot be raised to a power
LEAST = 100.0  # effective sample size to which the weights of a round are flattened
EVEN = 0.5  # effective share of the draws of a round, for all examples, that ends the rounds
SEARCH_DRAWS, SEARCH_LEAST = 1_000, 400.0  # the same in the rounds without q


Weighed = tuple[Tensor, Tensor, tuple[int, ...]]
"""Draws, the logarithms of their weights, and the number of draws from each part of a mixture."""


def affordable(vaes: Sequence[VAE], examples: int, samples: int) -> str:
    """Choose the proposal that can be trusted more, where it takes some seconds only.

    Draws of q alone are often too few where they matter, so that the bound is loose and the
    diagnostics of the weights warn of it.

    Args:
        vaes: models that are evaluated alike.
        examples: number of examples.
        samples: draws of z for each example.

    Returns:
        ``"refined"`` if ``samples`` are enough for it, and all draws times the parameters of the
        largest model at most 10^12; else ``"posterior"``.

    Example:
        >>> affordable([vae], 1_000, 100), affordable([vae], 10_000_000, 100)
        ('refined', 'posterior')
    """
    draws = samples + (REFINING + 1) * ROUND_DRAWS
    largest = max(sum(p.numel() for p in vae.parameters()) for vae in vaes)
    few = examples * draws * largest <= AFFORDABLE
    return "refined" if few and samples >= FEWEST else "posterior"


def check_proposal(proposal: str, samples: int) -> None:
    """Refuse a proposal that is unknown, or one that so few draws cannot be fitted with.

    Args:
        proposal: one of ``PROPOSALS``.
        samples: draws of z for each example.

    Raises:
        ValueError: in either case.

    Example:
        >>> check_proposal("refined", 100)
    """
    choices.check_choice("proposal", proposal, PROPOSALS)
    if proposal != "posterior" and samples < FEWEST:
        raise ValueError(
            f"samples with the proposal {proposal} must be at least {FEWEST}, got {samples}"
        )


def proposed(vae: VAE, x: Tensor, samples: int, proposal: str) -> tuple[Tensor, Tensor]:
    """Weight draws from a distribution that is fitted to each example.

    Args:
        vae: the model and its posterior.
        x: data ``(batch, *event_shape)``.
        samples: draws of z for each example.
        proposal: ``"refined"`` or ``"mixture"``.

    Returns:
        Logarithms of the weights ``(draws, batch)``, in random order, and the standard errors of
        the bounds that they give ``(batch,)``.

    Raises:
        ValueError: as :func:`check_proposal`.

    Example:
        >>> with torch.no_grad():
        ...     log_w, error = proposed(vae, x, 50, "refined")
        >>> log_w.shape, error.shape
        (torch.Size([50, 64]), torch.Size([64]))
    """
    check_proposal(proposal, samples)
    memory.check_draws("samples", samples, numbers=vae.latent_dim)
    every, errors = [], []
    for part in memory.in_chunks(x, samples, ROWS):
        target = Whole(vae, part)
        fitted = adapted(target, search=proposal == "mixture")
        _, log_w, counts = from_mixture(target, fitted, samples)
        errors.append(jackknife_error(log_w, counts))
        every.append(log_w[torch.randperm(len(log_w), device=x.device)])
    return torch.cat(every, 1), torch.cat(errors)


class Target(Protocol):
    """The density to propose for: p(z) times a likelihood of z, for each example.

    Attributes:
        p: the prior.
        examples: number of examples.

    Example:
        >>> target: Target = Whole(vae, x)
        >>> target.examples
        64
    """

    p: Any
    examples: int

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Log-likelihoods ``(draws, examples)`` of z ``(draws, examples, latent_dim)``."""

    def posterior(self, z: Tensor, log_w: Tensor) -> Any:
        """q(z | x), of batch shape ``(..., examples)``, given weighted draws."""


@dataclass(frozen=True)
class Fitted:
    """Weighted draws from which a mixture is built.

    Attributes:
        z: draws ``(draws, examples, latent_dim)``.
        log_w: logarithms of their weights ``(draws, examples)``.
        several: mixture of Student t distributions with batch shape ``(examples,)``; None if z is
            not a real vector, or other modes were not looked for.

    Example:
        >>> with torch.no_grad():
        ...     fitted = adapted(Whole(vae, x[:2]))
        >>> fitted.z.shape
        torch.Size([500, 2, 2])
    """

    z: Tensor
    log_w: Tensor
    several: Any


class Whole:
    """The target p(z) p(x | z) of fully observed examples.

    Args:
        vae: the model and its posterior.
        x: data ``(examples, *event_shape)``.

    Example:
        >>> Whole(vae, x).log_likelihood(torch.zeros(5, 64, 2)).shape
        torch.Size([5, 64])
    """

    def __init__(self, vae: VAE, x: Tensor) -> None:
        vae.check_data(x)
        self.vae, self.x, self.examples, self.p = vae, x, len(x), vae.prior()
        self.q = vae.posterior(x)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x | z)."""
        parts = memory.in_chunks(z, self.examples)
        return torch.cat([self.vae.log_likelihood(self.x, part) for part in parts])

    def posterior(self, z: Tensor, log_w: Tensor) -> Any:
        """q(z | x), independent of the draws."""
        return self.q


@isolation.alone()
def adapted(target: Target, *, search: bool = True) -> Fitted:
    """Make draws of z with weights that are flat enough to fit a mixture to.

    Args:
        target: the density to propose for.
        search: look for all modes, without q; else start from draws of q.

    Returns:
        The draws, and the components that were fitted without q.

    Example:
        >>> with torch.no_grad():
        ...     adapted(Whole(vae, x[:2])).log_w.shape
        torch.Size([500, 2])
    """
    several = _found(target) if search else None
    z = target.p.sample(torch.Size([ROUND_DRAWS, target.examples]))
    log_w = target.log_likelihood(z).double()
    if not search:
        q = target.posterior(z, log_w)
        z, log_w, _ = _weighed(target, [(q, max(1, ROUND_DRAWS // _draws_of(q, target)))])
    log_w = _flattened(log_w, LEAST)
    for _ in range(ROUNDS if search else REFINING):
        z, log_w, _ = from_mixture(target, Fitted(z, log_w, several), ROUND_DRAWS)
        if _even(log_w):
            break
        log_w = _flattened(log_w, LEAST)
    return Fitted(z, log_w, several)


def _found(target: Target) -> StudentMixture | None:
    """Student t distributions where the mass is, fitted without q, which may miss parts of it."""
    if not is_real(target.p):
        return None
    z = target.p.sample(torch.Size([SEARCH_DRAWS, target.examples]))
    log_w = target.log_likelihood(z).double()
    own = round(PRIOR_SHARE * SEARCH_DRAWS)
    for _ in range(ROUNDS):
        several = _several(z, _flattened(log_w, SEARCH_LEAST))
        z, log_w, _ = _weighed(target, [(target.p, own), (several, SEARCH_DRAWS - own)])
        if _even(log_w):
            break
    return _several(z, _flattened(log_w, SEARCH_LEAST))


@isolation.alone()
def from_mixture(target: Target, fitted: Fitted, samples: int) -> Weighed:
    """Draw from the mixture that weighted draws define, and weight the new draws.

    A fixed number of draws comes from each part. The average weight is an unbiased estimate of the
    evidence, with at most the variance of as many independent draws from the mixture.

    Args:
        target: the density to propose for.
        fitted: as :func:`adapted` returns it.
        samples: approximate number of draws; at least ``FEWEST``.

    Returns:
        Draws and the logarithms of their weights, ``(draws, examples, latent_dim)`` and
        ``(draws, examples)``, ordered by the part that they come from, and the number of draws from
        each part, for :func:`pyrovae.evidence.jackknife_error`.

    Example:
        >>> with torch.no_grad():
        ...     target = Whole(vae, x[:2])
        ...     z, log_w, counts = from_mixture(target, adapted(target), 100)
        >>> z.shape, log_w.shape, counts
        (torch.Size([100, 2, 2]), torch.Size([100, 2]), (10, 20, 35, 35))
    """
    z, log_w = fitted.z, fitted.log_w
    parts: list[tuple[Any, int]] = [(target.p, max(1, round(PRIOR_SHARE * samples)))]
    q, real = target.posterior(z, log_w), is_real(target.p)
    if not is_point(q):
        share = POSTERIOR_SHARE if real else 1 - PRIOR_SHARE
        parts.append((q, max(1, round(share * samples / _draws_of(q, target)))))
    if real:
        left = samples - sum(_draws_of(part, target) * count for part, count in parts)
        loc, tril = (moment.unsqueeze(1) for moment in weighted_moments(z, log_w))
        around = StudentMixture(loc, tril, torch.ones_like(loc[..., 0]))
        of_one = left if fitted.several is None else left // 2
        parts.append((around, max(1, of_one)))
        if fitted.several is not None:
            parts.append((fitted.several, max(1, left - of_one)))
    return _weighed(target, parts)


def _weighed(target: Target, parts: list[tuple[Any, int]]) -> Weighed:
    """A number of draws from each part, weighted as draws from the mixture of all parts."""
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
    log_w = torch.where(log_w.isnan(), nothing, log_w)  # far out, numbers overflow
    return new, log_w, tuple(map(len, drawn))


def _draws_of(part: Any, target: Target) -> int:
    """Number of draws for each example that one draw of a part yields."""
    return max(1, part.batch_shape.numel() // target.examples)


def _several(z: Tensor, log_w: Tensor) -> StudentMixture:
    """A mixture of Student t distributions, by EM for normals on weighted draws.

    The fewer draws a component rests on, the closer its covariance is to a diagonal, and the wider:
    up to the covariance of all draws.
    """
    w = log_w.softmax(0).to(z).T.unsqueeze(1)  # (examples, 1, draws)
    middle, factor = weighted_moments(z, log_w)
    whole = factor.square().sum(-1).unsqueeze(1)  # (examples, 1, latent_dim)
    loc = _apart(z, log_w, whole.squeeze(1).sqrt()).transpose(0, 1)  # (examples, components, ...)
    tril = factor.unsqueeze(1).expand(*loc.shape, -1) / COMPONENTS
    share = torch.full_like(loc[..., 0], 1 / COMPONENTS)
    dimensions, nothing = z.shape[-1], 1e-6
    z = z.transpose(0, 1)  # (examples, draws, latent_dim)
    apart = z.unsqueeze(1) - loc.unsqueeze(2)  # (examples, components, draws, latent_dim)
    for _ in range(STEPS):
        size = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_r = (share.log() - size).unsqueeze(-1) - mahalanobis(apart, tril) / 2
        r = w * log_r.softmax(1)  # (examples, components, draws)
        mass = r.sum(-1)
        weight = r / (mass + nothing).unsqueeze(-1)
        left = nothing / (mass + nothing)  # 1 if a component has lost its draws
        loc = weight @ z + left.unsqueeze(-1) * middle.unsqueeze(1)
        apart = z.unsqueeze(1) - loc.unsqueeze(2)
        covariance = (weight.unsqueeze(-1) * apart).mT @ apart
        count = (mass.square() / (r.square().sum(-1) + nothing**2)).clamp_min(1)[..., None]
        shrunk = dimensions / (dimensions + count)
        diagonal = shrunk * covariance.diagonal(dim1=-2, dim2=-1) + whole / count.square()
        mixed = (1 - shrunk).unsqueeze(-1) * covariance + torch.diag_embed(diagonal)
        tril = torch.linalg.cholesky(mixed)
        share = (mass + nothing) / (mass + nothing).sum(-1, keepdim=True)
    return StudentMixture(loc, tril, share)


def _apart(z: Tensor, log_w: Tensor, unit: Tensor) -> Tensor:
    """Choose draws ``(components, examples, latent_dim)`` by weight and far from each other.

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


def _even(log_w: Tensor) -> bool:
    """Whether the mixture resembles every target so much that another round gains little."""
    w = log_w.softmax(0)
    return bool((w.square().sum(0) * len(w) * EVEN <= 1).all())


def _flattened(log_w: Tensor, least: float) -> Tensor:
    """Raise weights to the largest power up to 1 with an effective sample size of ``least``."""
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
