r"""Formulas for KL(q || p), and for mixtures of normals bounds on it.

A closed form comes from torch's registry first, then from ``CLOSED_FORMS`` here. Torch's registry
stays as it is, because it is global to the process: adding to it at import would change what
``TraceMeanField_ELBO`` computes in programs that have nothing to do with this package. An objective
that needs one of the formulas here calls :func:`closed_form`, which returns None where there is
none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, Laplace, Normal, StudentT, kl_divergence

from pyrovae.distributions import OneHots, base, expand, name

__all__ = [
    "CLOSED_FORMS",
    "closed_form",
    "divergence_bounds",
    "infinite_variance",
    "joint_to_laplaces",
    "joint_to_normals",
    "normals_to_low_rank",
    "one_hots_to_one_hots",
    "students_to_normals",
]

ClosedForm = Callable[[Any, Any], Tensor]


def closed_form(q: Distribution, p: Distribution) -> tuple[Tensor, str] | None:
    """Compute KL(q || p) by a formula, where one is known.

    Args:
        q: a distribution with any batch shape.
        p: a distribution with the same event shape and a batch that broadcasts to that of q.

    Returns:
        The divergences ``(*batch,)`` and the name of the formula; None where no formula is known.

    Example:
        >>> from torch.distributions import Normal, StudentT
        >>> from pyrovae.kl import closed_form
        >>> closed_form(Normal(1.0, 1.0), Normal(0.0, 1.0))
        (tensor(0.5000), 'Normal || Normal, torch.distributions.kl_divergence')
        >>> closed_form(StudentT(3.0), StudentT(4.0)) is None
        True
    """
    p, names = expand(p, q.batch_shape), f"{name(q)} || {name(p)}"
    try:
        return kl_divergence(q, p), f"{names}, torch.distributions.kl_divergence"
    except NotImplementedError:
        inner_q, inner_p = base(q), base(p)
    for (of_q, of_p), formula in CLOSED_FORMS.items():
        if isinstance(inner_q, of_q) and isinstance(inner_p, of_p):
            value = formula(inner_q, inner_p)
            extra = tuple(range(len(q.batch_shape), value.ndim))
            return value.sum(extra) if extra else value, f"{names}, pyrovae.kl.{formula.__name__}"
    return None


def joint_to_normals(q: Any, p: Normal) -> Tensor:
    r"""KL of a joint normal from independent normals, by its entropy and first two moments.

    .. math::
        -H(q) + \sum_d \tfrac{1}{2} \log(2 \pi s_d^2)
        + \frac{\operatorname{var}_q(z_d) + (\mathbb{E}_q z_d - m_d)^2}{2 s_d^2}

    Args:
        q: a normal with full or low-rank covariance, batch shape ``(*batch,)``.
        p: batch shape ``(*batch, dimensions)``.

    Returns:
        ``(*batch,)``.

    Example:
        >>> from torch.distributions import MultivariateNormal, Normal
        >>> from pyrovae.kl import joint_to_normals
        >>> q = MultivariateNormal(torch.ones(2), torch.eye(2))
        >>> joint_to_normals(q, Normal(torch.zeros(2), 1.0))
        tensor(1.)
    """
    return _cross_entropy(q, p).sum(-1) - q.entropy()


def joint_to_laplaces(q: Any, p: Laplace) -> Tensor:
    r"""KL of a joint normal from independent Laplace variables, by its entropy and marginals.

    .. math::
        -H(q) + \sum_d \log(2 b_d) + \frac{1}{b_d} \left( \sqrt{\tfrac{2}{\pi}} \, \sigma_d
        e^{-\delta_d^2 / 2} + \sigma_d \delta_d \operatorname{erf} \frac{\delta_d}{\sqrt 2} \right),
        \qquad \delta_d = \frac{\mu_d - m_d}{\sigma_d}

    The term in parentheses is the mean of the folded normal :math:`|z_d - m_d|`.

    Args:
        q: a normal with full or low-rank covariance, batch shape ``(*batch,)``.
        p: batch shape ``(*batch, dimensions)``.

    Returns:
        ``(*batch,)``.

    Example:
        >>> from torch.distributions import Laplace, MultivariateNormal
        >>> from pyrovae.kl import joint_to_laplaces
        >>> q = MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> round(joint_to_laplaces(q, Laplace(torch.zeros(2), 1.0)).item(), 3)
        0.144
    """
    delta = (q.mean - p.loc) / q.stddev
    tail = math.sqrt(2 / math.pi) * (-delta.square() / 2).exp()
    distance = q.stddev * (tail + delta * torch.erf(delta / math.sqrt(2)))
    return ((2 * p.scale).log() + distance / p.scale).sum(-1) - q.entropy()


def students_to_normals(q: StudentT, p: Normal) -> Tensor:
    """KL of Student's t from a normal, by its entropy and first two moments.

    Args:
        q: batch shape ``(*batch,)``.
        p: batch shape ``(*batch,)``.

    Returns:
        ``(*batch,)``; infinite for two degrees of freedom or fewer.

    Example:
        >>> from torch.distributions import Normal, StudentT
        >>> from pyrovae.kl import students_to_normals
        >>> students_to_normals(StudentT(torch.tensor([1.5, 2.0])), Normal(torch.zeros(2), 1.0))
        tensor([inf, inf])
    """
    value = _cross_entropy(q, p) - q.entropy()
    return torch.where(q.df > 2, value, torch.full_like(value, math.inf))


def normals_to_low_rank(q: Normal, p: td.LowRankMultivariateNormal) -> Tensor:
    """KL of independent normals from a low-rank normal, with q as a joint diagonal normal.

    Args:
        q: batch shape ``(*batch, dimensions)``.
        p: batch shape ``(*batch,)``.

    Returns:
        ``(*batch,)``.

    Example:
        >>> from torch.distributions import LowRankMultivariateNormal, Normal
        >>> from pyrovae.kl import normals_to_low_rank
        >>> p = LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))
        >>> round(normals_to_low_rank(Normal(torch.zeros(2), 1.0), p).item(), 3)
        0.216
    """
    return kl_divergence(td.MultivariateNormal(q.loc, scale_tril=torch.diag_embed(q.scale)), p)


def one_hots_to_one_hots(q: OneHots, p: OneHots) -> Tensor:
    r"""KL between products of one-hot variables, by the sum over classes.

    .. math:: \sum_{l} \sum_{k} \pi_{lk} (\log \pi_{lk} - \log \rho_{lk})

    Args:
        q: batch shape ``(*batch,)``.
        p: batch shape ``(*batch,)``.

    Returns:
        ``(*batch,)``; infinite if q and p have different numbers of classes.

    Example:
        >>> from pyrovae.distributions import OneHots
        >>> from pyrovae.kl import one_hots_to_one_hots
        >>> q = OneHots(torch.zeros(2, 3))  # two variables of three classes
        >>> one_hots_to_one_hots(q, q), one_hots_to_one_hots(q, OneHots(torch.zeros(3, 2)))
        (tensor(0.), tensor(inf))
    """
    if q.classes != p.classes:
        return q.entropy().new_full(q.batch_shape, math.inf)
    log_q, log_p = q.logits.log_softmax(-1), p.logits.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum((-2, -1))


def _cross_entropy(q: Any, p: Normal) -> Tensor:
    """-E_q log p in each dimension, which depends only on the first two moments of q."""
    error = q.variance + (q.mean - p.loc).square()
    return (2 * math.pi * p.variance).log() / 2 + error / (2 * p.variance)


CLOSED_FORMS: dict[tuple[type, type], ClosedForm] = {
    (td.MultivariateNormal, Normal): joint_to_normals,
    (td.LowRankMultivariateNormal, Normal): joint_to_normals,
    (td.MultivariateNormal, Laplace): joint_to_laplaces,
    (td.LowRankMultivariateNormal, Laplace): joint_to_laplaces,
    (StudentT, Normal): students_to_normals,
    (Normal, td.LowRankMultivariateNormal): normals_to_low_rank,
    (OneHots, OneHots): one_hots_to_one_hots,
}


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
    mixtures = [isinstance(d, td.MixtureSameFamily) for d in (q, p)]
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
    if f is None or g is None or isinstance(q, td.MixtureSameFamily):
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
        a, b = self.loc.unsqueeze(-2), other.loc.unsqueeze(-3)
        return a, mine.unsqueeze(-1 - event), b, its.unsqueeze(-2 - event), diagonal

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
    if isinstance(d, td.MixtureSameFamily):
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
    elif isinstance(inner, td.MultivariateNormal | td.LowRankMultivariateNormal):
        loc, covariance = inner.loc, inner.covariance_matrix
    else:
        return None
    one = loc.ndim - 1
    return _Normals(torch.zeros_like(loc[..., :1]), loc.unsqueeze(one), covariance.unsqueeze(one))
