r"""Objectives of several draws: importance-weighted and Renyi bounds."""

import math
from typing import Any, cast

from pyro.infer import RenyiELBO
from torch import Tensor

from pyrovae.objectives.traces import (
    along_the_draw,
    check_plates,
    draws,
    only_site,
    reparameterised,
    sites,
)

__all__ = ["IWAE", "DReG", "Renyi"]


class Renyi(RenyiELBO):
    r"""The variational Renyi bound, between the ELBO and the importance-weighted one and beyond.

    .. math::
        \frac{1}{1 - \alpha} \, \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
        \left( \frac{p(x, z_k)}{q(z_k \mid x)} \right)^{1 - \alpha}

    At :math:`\alpha = 0` it is the importance-weighted bound; towards 1 it goes to the ELBO. Orders
    below 0 are no lower bounds of :math:`\log p(x)`.

    References:
        Li and Turner (2016), Renyi Divergence Variational Inference, arXiv:1602.02311

    Args:
        alpha: :math:`\alpha`.
        particles: number K of draws of z.

    Raises:
        ValueError: if ``alpha`` is 1 or not finite, or ``particles`` is not positive; and in use,
            if a site of the programs lies outside the plate of the others.
    """

    def __init__(self, *, alpha: float = 0.5, particles: int = 10) -> None:
        if alpha == 1 or not math.isfinite(alpha):
            raise ValueError(
                f"alpha must be finite and not 1, got {alpha}; at 1 the bound is the ELBO: use elbo"
            )
        super().__init__(alpha=alpha, **draws(particles))

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        traces = super()._get_trace(model, guide, args, kwargs)
        for trace in traces:
            check_plates(trace)
        return traces

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        """K times the loss, and what has its gradient: for a replay, which has one trace for all.

        The same operations as in ``RenyiELBO.loss_and_grads``, which asks for no such method.
        """
        log_p = cast(Tensor, sum(site["log_prob"] for site in sites(model_trace)))
        log_q = sum(reparameterised(site)["log_prob"] for site in sites(guide_trace))
        each = log_p - log_q if self.num_particles > 1 else (log_p - log_q).unsqueeze(0)
        log_weights = (1 - self.alpha) * each.detach()  # (K, batch)
        log_mean = log_weights.logsumexp(0) - math.log(self.num_particles)
        weights = (log_weights - log_mean).exp()
        value = log_mean.sum().item() / (1 - self.alpha)
        return -self.num_particles * value, -(weights * each).sum()


class IWAE(Renyi):
    r"""The importance-weighted bound.

    .. math::
        \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
        \frac{p(x, z_k)}{q(z_k \mid x)}

    One draw makes it the ELBO; it rises with K, towards :math:`\log p(x)`.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        particles: number K of draws of z.

    Raises:
        ValueError: as :class:`Renyi`.
    """

    def __init__(self, *, particles: int = 10) -> None:
        super().__init__(alpha=0.0, particles=particles)


class DReG(IWAE):
    r"""The importance-weighted bound, with the doubly reparameterised gradient.

    .. math::
        \nabla_\phi = \mathbb{E}_{\epsilon_k} \sum_{k=1}^{K} \tilde w_k^2 \, \nabla_{z_k}
        \left( \log p(x, z_k) - \log q_\phi(z_k \mid x) \right) \nabla_\phi z_k

    Here :math:`\tilde w_k` are the weights, normalised over k. The gradient of the model's own
    parameters is that of :class:`IWAE`. It takes any posterior with one site.

    References:
        Tucker et al. (2019), Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives,
        arXiv:1810.04152

    Args:
        particles: number K of draws of z.

    Raises:
        ValueError: if ``particles`` is below 2; and in use as :class:`Renyi`.
    """

    def __init__(self, *, particles: int = 10) -> None:
        if particles < 2:
            raise ValueError(
                f"particles must be at least 2, got {particles}; with one draw this is stl"
            )
        super().__init__(particles=particles)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss, a number; its gradient is added to that of the parameters."""
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        value, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
        if surrogate.requires_grad:
            (surrogate / self.num_particles).backward()
        return float(value) / self.num_particles

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        posterior = only_site(guide_trace, "dreg")
        log_p = cast(Tensor, sum(site["log_prob"] for site in sites(model_trace)))  # (K, batch)
        log_w = log_p.detach() - posterior["log_prob"].detach()
        weights = log_w.softmax(0)
        surrogate = (weights * (log_p - along_the_draw(posterior))).sum()
        z = posterior["value"]
        if z.requires_grad:
            squares = weights.reshape(weights.shape + (1,) * posterior["fn"].event_dim)
            z.register_hook(lambda gradient: squares * gradient)
        value = (log_w.logsumexp(0) - math.log(self.num_particles)).sum().item()
        return -self.num_particles * value, -self.num_particles * surrogate
