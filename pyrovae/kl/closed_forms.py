r"""Closed forms of KL(q || p): torch's registry first, then ``CLOSED_FORMS`` here.

Torch's registry stays as it is, because it is global to the process: adding to it at import would
change what ``TraceMeanField_ELBO`` computes in programs that have nothing to do with this package.
An objective that needs one of the formulas here calls :func:`closed_form`, which returns None where
there is none.
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


def normals_to_low_rank(q: Normal, p: LowRankMultivariateNormal) -> Tensor:
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
    return kl_divergence(MultivariateNormal(q.loc, scale_tril=torch.diag_embed(q.scale)), p)


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
    (MultivariateNormal, Normal): joint_to_normals,
    (LowRankMultivariateNormal, Normal): joint_to_normals,
    (MultivariateNormal, Laplace): joint_to_laplaces,
    (LowRankMultivariateNormal, Laplace): joint_to_laplaces,
    (StudentT, Normal): students_to_normals,
    (Normal, LowRankMultivariateNormal): normals_to_low_rank,
    (OneHots, OneHots): one_hots_to_one_hots,
}
