r"""Closed forms of KL(q || p): torch's registry first, then ``CLOSED_FORMS`` here.

Nothing is added to torch's registry, which belongs to the process: an import would change what
``TraceMeanField_ELBO`` computes in programs that have nothing to do with this package. An objective
that wants a form of this table asks :func:`closed_form`, and knows from None that there is none.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from pyrovae.distributions import OneHots, base, expand, name

__all__ = [
    "CLOSED_FORMS",
    "closed_form",
    "joint_to_laplaces",
    "joint_to_normals",
    "normals_to_low_rank",
    "one_hots_to_one_hots",
    "students_to_normals",
]

ClosedForm = Callable[[Any, Any], Tensor]


def closed_form(q: Distribution, p: Distribution) -> tuple[Tensor, str] | None:
    """KL(q || p) by a formula, where one is known.

    Args:
        q: with any batch.
        p: with the same event shape, and a batch that broadcasts to q's.

    Returns:
        The divergences ``(*batch,)`` and the name of the formula; None if there is none.
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
            return value.sum(
                extra
            ) if extra else value, f"{names}, pyrovae.kl.closed_forms.{formula.__name__}"
    return None


def joint_to_normals(q: Any, p: Normal) -> Tensor:
    r"""A distribution over vectors against independent normals, by its entropy and two moments.

    .. math::
        -H(q) + \sum_d \tfrac{1}{2} \log(2 \pi s_d^2)
        + \frac{\operatorname{var}_q(z_d) + (\mathbb{E}_q z_d - m_d)^2}{2 s_d^2}

    Args:
        q: normal, of batch shape ``(*batch,)``.
        p: of batch shape ``(*batch, dimensions)``.

    Returns:
        ``(*batch,)``.
    """
    return _cross_entropy(q, p).sum(-1) - q.entropy()


def joint_to_laplaces(q: Any, p: Laplace) -> Tensor:
    r"""A joint normal against independent Laplace variables, by its entropy and its marginals.

    .. math::
        -H(q) + \sum_d \log(2 b_d) + \frac{1}{b_d} \left( \sqrt{\tfrac{2}{\pi}} \, \sigma_d
        e^{-\delta_d^2 / 2} + \sigma_d \delta_d \operatorname{erf} \frac{\delta_d}{\sqrt 2} \right),
        \qquad \delta_d = \frac{\mu_d - m_d}{\sigma_d}

    The bracket is the mean of :math:`|z_d - m_d|`, a folded normal, by integration.

    Args:
        q: normal, of batch shape ``(*batch,)``.
        p: of batch shape ``(*batch, dimensions)``.

    Returns:
        ``(*batch,)``.
    """
    delta = (q.mean - p.loc) / q.stddev
    tail = math.sqrt(2 / math.pi) * (-delta.square() / 2).exp()
    distance = q.stddev * (tail + delta * torch.erf(delta / math.sqrt(2)))
    return ((2 * p.scale).log() + distance / p.scale).sum(-1) - q.entropy()


def students_to_normals(q: StudentT, p: Normal) -> Tensor:
    """Student's t against a normal, by its entropy and two moments; infinite up to 2 degrees.

    Args:
        q: of batch shape ``(*batch,)``.
        p: of batch shape ``(*batch,)``.

    Returns:
        ``(*batch,)``.
    """
    value = _cross_entropy(q, p) - q.entropy()
    return torch.where(q.df > 2, value, torch.full_like(value, math.inf))


def normals_to_low_rank(q: Normal, p: LowRankMultivariateNormal) -> Tensor:
    """Independent normals against a low-rank normal, as a joint normal of diagonal covariance.

    Args:
        q: of batch shape ``(*batch, dimensions)``.
        p: of batch shape ``(*batch,)``.

    Returns:
        ``(*batch,)``.
    """
    return kl_divergence(MultivariateNormal(q.loc, scale_tril=torch.diag_embed(q.scale)), p)


def one_hots_to_one_hots(q: OneHots, p: OneHots) -> Tensor:
    r"""One-hot variables against others of as many classes, by the sum over all classes.

    .. math:: \sum_{l} \sum_{k} \pi_{lk} (\log \pi_{lk} - \log \rho_{lk})

    Args:
        q: of batch shape ``(*batch,)``.
        p: of batch shape ``(*batch,)``.

    Returns:
        ``(*batch,)``; infinite where the classes are grouped otherwise.
    """
    if q.classes != p.classes:
        return q.entropy().new_full(q.batch_shape, math.inf)
    log_q, log_p = q.logits.log_softmax(-1), p.logits.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum((-2, -1))


def _cross_entropy(q: Any, p: Normal) -> Tensor:
    """-E_q log p in each dimension, which needs no more than the two moments of q."""
    error = q.variance + (q.mean - p.loc).square()
    return (2 * math.pi * p.variance).log() / 2 + error / (2 * p.variance)


CLOSED_FORMS: dict[tuple[type, type], ClosedForm] = {
    (MultivariateNormal, Normal): joint_to_normals,
    (LowRankMultivariateNormal, Normal): joint_to_normals,
    (MultivariateNormal, Laplace): joint_to_laplaces,
    (LowRankMultivariateNormal, Laplace): joint_to_laplaces,
    (StudentT, Normal): students_to_normals,
    (Normal, LowRankMultivariateNormal): normals_to_low_rank,
    (OneHots, OneHots): one_hots_to_one_hots,
}
