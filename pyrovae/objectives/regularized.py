r"""Objectives that depend on the aggregate posterior q(z), estimated from the batch."""

import math
from typing import Any, cast

from torch import Tensor
from torch.distributions import Independent

from pyrovae.objectives._base import Differentiable
from pyrovae.objectives._traces import only_site, reparameterized, sites

__all__ = ["BetaTC", "Info"]


class BetaTC(Differentiable):
    r"""The evidence lower bound with a weight on the total correlation of the aggregate posterior.

    .. math::
        \mathrm{ELBO} - (\beta - 1) \, \mathbb{E}_{q(z)}
        \left[ \log q(z) - \sum_{d} \log q(z_d) \right], \qquad
        q(z) = \frac{1}{M} \sum_{m=1}^{M} q(z \mid x_m)

    The mean is over the M examples of the batch. Minibatch weighted sampling, the estimator in the
    paper, differs from this one by a number that depends only on the sizes of batch and dataset, so
    the gradient is the same.

    References:
        Chen et al. (2018), Isolating Sources of Disentanglement in VAEs, arXiv:1802.04942

    Args:
        beta: :math:`\beta`; 1 is the ELBO.
        particles: number of draws of z.

    Raises:
        ValueError: if an option is outside its range; and in use, if the posterior is not
            independent in each dimension of z.

    Example:
        >>> from pyrovae.objectives import BetaTC
        >>> fitted = pyrovae.fit(vae, data, objective=BetaTC(beta=4.0), epochs=1)
        >>> len(fitted.metrics)
        1
    """

    whole_batch = True

    def __init__(self, *, beta: float = 6.0, particles: int = 1) -> None:
        super().__init__(particles=particles)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be finite and not negative, got {beta}; 1 is the ELBO")
        self.beta: Tensor | float = beta

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        bound = _elbo(model_trace, guide_trace)
        posterior = only_site(guide_trace, "beta_tc")
        bound = bound - (self.beta - 1) * posterior["scale"] * _total_correlation(posterior).sum()
        return -bound.item(), -bound


class Info(Differentiable):
    r"""The evidence lower bound with weights on the KL divergence and on the distance of q(z).

    .. math::
        \mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        - (1 - \alpha) \, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
        - (\alpha + \lambda - 1) \, \mathrm{MMD}^2(q(z), p(z))

    The distance of the aggregate posterior from the prior is the squared maximum mean discrepancy
    under the kernel :math:`\exp(-\|z - z'\|^2 / 2 D)`, estimated without bias from the draws of a
    batch and an equal number of draws from the prior. It counts once for each example, and is
    omitted for a batch of one, where no such estimate exists. It does not train a prior whose draws
    are not differentiable.

    References:
        Zhao, Song and Ermon (2019), InfoVAE, arXiv:1706.02262

    Args:
        alpha: :math:`\alpha`, the fraction of the KL divergence that is omitted.
        weight: :math:`\lambda`; 1 together with :math:`\alpha = 0` is the ELBO.
        particles: number of draws of z.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyrovae.objectives import Info
        >>> fitted = pyrovae.fit(vae, data, objective=Info(weight=5.0), epochs=1)
        >>> len(fitted.metrics)
        1
    """

    whole_batch = True

    def __init__(self, *, alpha: float = 0.5, weight: float = 10.0, particles: int = 1) -> None:
        super().__init__(particles=particles)
        if not alpha <= 1 or not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite and at most 1, got {alpha}; 0 keeps the KL")
        if not 0 <= alpha + weight - 1 < math.inf:
            raise ValueError(
                f"weight must be finite and at least 1 - alpha = {1 - alpha:g}, got {weight}"
            )
        self.alpha: Tensor | float = alpha
        self.weight: Tensor | float = weight

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        posterior = only_site(guide_trace, "info")
        prior = model_trace.nodes[posterior["name"]]
        z = posterior["value"]
        other = prior["fn"].rsample() if prior["fn"].has_rsample else prior["fn"].sample()
        distance = _squared_discrepancy(z, other).sum()
        bound = _elbo(model_trace, guide_trace, 1 - self.alpha)
        bound = bound - (self.alpha + self.weight - 1) * posterior["scale"] * z.shape[-2] * distance
        return -bound.item(), -bound


def _elbo(model_trace: Any, guide_trace: Any, weight: Tensor | float = 1.0) -> Tensor:
    bound = cast(Any, 0.0)
    for site in sites(model_trace):
        bound = bound + (1.0 if site["is_observed"] else weight) * site["log_prob_sum"]
    for site in sites(guide_trace):
        bound = bound - weight * reparameterized(site)["log_prob_sum"]
    return bound


def _total_correlation(posterior: Any) -> Tensor:
    """log q(z) - sum over d of log q(z_d) at the draws, ``(*particles, batch)``."""
    q, z = posterior["fn"], posterior["value"]
    if not isinstance(q, Independent) or len(q.event_shape) != 1:
        raise ValueError(
            "beta_tc needs a posterior that is independent in each dimension of z, got "
            f"{type(q).__name__}; use the diagonal posterior, or beta"
        )
    # each draw under every posterior of the batch
    each = q.base_dist.log_prob(z.movedim(-2, 0).unsqueeze(-2))  # (draw, *particles, batch, dim)
    joint, alone = each.sum(-1).logsumexp(-1), each.logsumexp(-2).sum(-1)
    total = joint - alone + (z.shape[-1] - 1) * math.log(z.shape[-2])
    return total.movedim(0, -1)


def _squared_discrepancy(z: Tensor, other: Tensor) -> Tensor:
    """An unbiased estimate of the squared discrepancy of two samples ``(*particles, M, D)``."""
    size, dim = z.shape[-2:]
    if size < 2:
        return z.new_zeros(z.shape[:-2])

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / (2 * dim)).exp()

    def within(a: Tensor) -> Tensor:
        return (kernel(a, a).sum((-2, -1)) - size) / (size * (size - 1))

    return within(z) + within(other) - 2 * kernel(z, other).mean((-2, -1))
