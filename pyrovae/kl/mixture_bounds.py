r"""Bounds on KL(q || p) between mixtures of normals, and the finiteness of its estimators."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import (
    Distribution,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyrovae.distributions import base

__all__ = ["divergence_bounds", "infinite_variance"]


@torch.no_grad()
def divergence_bounds(q: Distribution, p: Distribution) -> tuple[Tensor, Tensor] | None:
    r"""Compute bounds on KL(q || p), where one or both are mixtures of normals.

    With :math:`q = \sum_a \omega_a f_a`, :math:`p = \sum_b \pi_b g_b`, entropies :math:`H_a` of
    :math:`f_a`, and :math:`K_{ab} = \mathrm{KL}(f_a \| g_b)`, :math:`K_{aa'} = \mathrm{KL}(f_a \|
    f_{a'})`:

    1. For weights :math:`\phi_b` that sum to one, Jensen's inequality gives
       :math:`\log p = \log \sum_b \phi_b \frac{\pi_b g_b}{\phi_b} \ge \sum_b \phi_b \log
       \frac{\pi_b g_b}{\phi_b}`. Its mean under :math:`f_a` is largest for :math:`\phi_b \propto
       \pi_b e^{-K_{ab}}`, so that :math:`\mathbb{E}_a \log p \ge -H_a + \log \sum_b \pi_b
       e^{-K_{ab}}`; the same holds with q in place of p.
    2. Jensen's inequality in the other direction: :math:`\mathbb{E}_a \log p \le \log
       \mathbb{E}_a p = \log \sum_b \pi_b \int f_a g_b`, with :math:`\int f_a g_b =
       \mathcal{N}(\mu_a \mid \mu_b, \Sigma_a + \Sigma_b)`; the same holds with q in place of p.

    Since :math:`\mathrm{KL}(q \| p) = \sum_a \omega_a (\mathbb{E}_a \log q - \mathbb{E}_a \log p)`,
    applying 1 to one term and 2 to the other bounds the divergence on both sides. The divergence is
    convex in q, which gives a second upper bound, :math:`\sum_a \omega_a \mathrm{KL}(f_a \| p)`,
    with 1 applied to p; the smaller of the two is returned. The lower bound is at least zero. For a
    single normal q, 1 is exact for its entropy.

    References:
        Hershey and Olsen (2007): the two ingredients are their variational approximation and their
        product of Gaussians; the inequalities are derived above.

    Args:
        q: a normal, or a mixture of normals of one kind, with any batch shape.
        p: a normal, or a mixture of normals of one kind, with the same event shape and a batch that
            broadcasts to that of q.

    Returns:
        Lower and upper bounds ``(*batch,)``; None unless both are normals or mixtures of normals
        and at least one is a mixture.

    Example:
        >>> from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
        >>> from pyrovae.kl import divergence_bounds
        >>> loc = torch.tensor([[-2.0], [2.0]])
        >>> p = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(loc, 1.0), 1))
        >>> lower, upper = divergence_bounds(Independent(Normal(torch.zeros(1), 1.0), 1), p)
        >>> bool(0 <= lower < upper)
        True
    """
    f, g = _normals(q), _normals(p)
    mixtures = [isinstance(d, MixtureSameFamily) for d in (q, p)]
    if f is None or g is None or not any(mixtures):
        return None
    entropy = f.entropy()  # (*batch, A)
    log_p_low = (g.log_weights[..., None, :] - f.divergence(g)).logsumexp(-1)  # without the entropy
    log_p_high = (g.log_weights[..., None, :] + f.log_product(g)).logsumexp(-1)
    log_q_low = (f.log_weights[..., None, :] - f.divergence(f)).logsumexp(-1) - entropy
    log_q_high = (f.log_weights[..., None, :] + f.log_product(f)).logsumexp(-1)
    weights = f.log_weights.exp()
    lower = (weights * (log_q_low - log_p_high)).sum(-1).clamp(min=0)
    convex = (weights * -log_p_low).sum(-1)
    upper = (weights * (log_q_high + entropy - log_p_low)).sum(-1)
    return lower, torch.minimum(upper, convex).clamp(min=0)


def infinite_variance(q: Any, p: Any) -> Tensor | None:
    r"""Find whether the variance of :math:`r = p(z) / q(z)` with z from q is infinite.

    For normals it is infinite unless :math:`2 \Sigma_q \succ \Sigma_p`: at large z, :math:`\int p^2
    / q` has the exponent :math:`z^T (\Sigma_q^{-1} / 2 - \Sigma_p^{-1}) z`. For a mixture p the
    condition must hold for every component.

    Args:
        q: a normal with any batch shape.
        p: a normal or a mixture of normals.

    Returns:
        Booleans ``(examples,)`` over the flattened batch; None for other distributions.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> from pyrovae.kl import infinite_variance
        >>> q = Independent(Normal(torch.zeros(2, 1), torch.tensor([[0.5], [0.9]])), 1)
        >>> infinite_variance(q, Independent(Normal(torch.zeros(1), 1.0), 1))
        tensor([ True, False])
    """
    f, g = _normals(q), _normals(p)
    if f is None or g is None or isinstance(q, MixtureSameFamily):
        return None
    if f.diagonal and g.diagonal:
        finite = (2 * f.covariance > g.covariance).all(-1)  # (*batch, C)
    else:
        finite = torch.linalg.eigvalsh(2 * f.dense() - g.dense())[..., 0] > 0
    return (~finite.all(-1)).expand(q.batch_shape).reshape(-1)


@dataclass(frozen=True)
class _Normals:
    """Weighted normals: ``(*batch, C)``, ``(*batch, C, d)``, and variances or covariances."""

    log_weights: Tensor
    loc: Tensor
    covariance: Tensor

    @property
    def diagonal(self) -> bool:
        return self.covariance.ndim == self.loc.ndim

    def dense(self) -> Tensor:
        return torch.diag_embed(self.covariance) if self.diagonal else self.covariance

    def entropy(self) -> Tensor:
        return _normal(self.loc, self.covariance, self.diagonal).entropy()

    def paired(self, other: "_Normals") -> tuple[Tensor, Tensor, Tensor, Tensor, bool]:
        """Locations and covariances of all pairs, with a dimension for each of the two."""
        diagonal = self.diagonal and other.diagonal
        mine, its = (d.covariance if diagonal else d.dense() for d in (self, other))
        event = 1 if diagonal else 2
        return (
            self.loc.unsqueeze(-2),
            mine.unsqueeze(-1 - event),
            other.loc.unsqueeze(-3),
            its.unsqueeze(-2 - event),
            diagonal,
        )

    def divergence(self, other: "_Normals") -> Tensor:
        """KL of each component here from each of the others ``(*batch, C, others)``."""
        a, s_a, b, s_b, diagonal = self.paired(other)
        return kl_divergence(_normal(a, s_a, diagonal), _normal(b, s_b, diagonal))

    def log_product(self, other: "_Normals") -> Tensor:
        """Logarithm of the integral of each product of densities ``(*batch, C, others)``."""
        a, s_a, b, s_b, diagonal = self.paired(other)
        return _normal(b, s_a + s_b, diagonal).log_prob(a)


def _normal(loc: Tensor, covariance: Tensor, diagonal: bool) -> Any:
    if diagonal:
        return dist.Normal(loc, covariance.sqrt()).to_event(1)
    return dist.MultivariateNormal(loc, covariance)


def _normals(d: Any) -> _Normals | None:
    if isinstance(d, MixtureSameFamily):
        inner = _normals(d.component_distribution)
        if inner is None:
            return None
        log_weights = d.mixture_distribution.logits.log_softmax(-1)
        loc, one = inner.loc.squeeze(-2), inner.loc.ndim - 2
        return _Normals(log_weights, loc, inner.covariance.squeeze(one))
    inner = base(d)
    if len(d.event_shape) > 1:
        return None
    if isinstance(inner, Normal):
        loc, covariance = inner.loc, inner.scale.square()
        if not d.event_shape:
            loc, covariance = loc[..., None], covariance[..., None]
    elif isinstance(inner, MultivariateNormal | LowRankMultivariateNormal):
        loc, covariance = inner.loc, inner.covariance_matrix
    else:
        return None
    one = loc.ndim - 1
    return _Normals(torch.zeros_like(loc[..., :1]), loc.unsqueeze(one), covariance.unsqueeze(one))
