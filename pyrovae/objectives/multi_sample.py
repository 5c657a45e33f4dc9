r"""Objectives that combine several draws: importance-weighted and Renyi bounds."""

import math
from typing import Any, cast

from pyro.infer import RenyiELBO
from torch import Tensor

from pyrovae.objectives import traces

__all__ = ["IWAE", "DReG", "Renyi"]


class Renyi(RenyiELBO):
    r"""The variational Renyi bound, between the ELBO and the importance-weighted bound and beyond.

    .. math::
        \frac{1}{1 - \alpha} \, \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
        \left( \frac{p(x, z_k)}{q(z_k \mid x)} \right)^{1 - \alpha}

    At :math:`\alpha = 0` it is the importance-weighted bound; as :math:`\alpha` goes to 1 it
    approaches the ELBO. With :math:`\alpha` below 0 it is no lower bound of :math:`\log p(x)`.

    References:
        Li and Turner (2016), Renyi Divergence Variational Inference, arXiv:1602.02311

    Args:
        alpha: :math:`\alpha`.
        particles: number K of draws of z.

    Raises:
        ValueError: if ``alpha`` is 1 or not finite, or ``particles`` is not positive; and in use,
            if a site of the programs lies outside the plate of the others.

    Example:
        >>> from pyrovae.objectives import Renyi
        >>> Renyi(alpha=0.5, particles=5).loss(vae.model, vae.guide, x) > 0
        True
    """

    def __init__(self, *, alpha: float = 0.5, particles: int = 10) -> None:
        if alpha == 1 or not math.isfinite(alpha):
            raise ValueError(
                f"alpha must be finite and not 1, got {alpha}; at 1 the bound is the ELBO: use elbo"
            )
        super().__init__(alpha=alpha, **traces.draws(particles))

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        pair = super()._get_trace(model, guide, args, kwargs)
        for trace in pair:
            traces.check_plates(trace)
        return pair

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        """K times the loss as a number, and a tensor with its gradient, from one vectorized trace.

        It repeats the operations of ``RenyiELBO.loss_and_grads``, for staged training steps.
        """
        log_p = cast(Tensor, sum(site["log_prob"] for site in traces.sites(model_trace)))
        log_q = sum(traces.reparameterized(site)["log_prob"] for site in traces.sites(guide_trace))
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

    With one draw it is the ELBO; it increases with K towards :math:`\log p(x)`.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        particles: number K of draws of z.

    Raises:
        ValueError: as :class:`Renyi`.

    Example:
        >>> from pyrovae.objectives import IWAE
        >>> fitted = pyrovae.fit(vae, data, objective=IWAE(particles=5), epochs=1)
        >>> len(fitted.metrics)
        1
    """

    def __init__(self, *, particles: int = 10) -> None:
        super().__init__(alpha=0.0, particles=particles)


class DReG(IWAE):
    r"""The importance-weighted bound, with the doubly reparameterized gradient.

    .. math::
        \nabla_\phi = \mathbb{E}_{\epsilon_k} \sum_{k=1}^{K} \tilde w_k^2 \, \nabla_{z_k}
        \left( \log p(x, z_k) - \log q_\phi(z_k \mid x) \right) \nabla_\phi z_k

    Here :math:`\tilde w_k` are the weights, normalized over k. The gradient with respect to the
    model's own parameters is the same as for :class:`IWAE`. It takes any posterior with one site.

    References:
        Tucker et al. (2019), Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives,
        arXiv:1810.04152

    Args:
        particles: number K of draws of z.

    Raises:
        ValueError: if ``particles`` is below 2; and in use as :class:`Renyi`.

    Example:
        >>> from pyrovae.objectives import DReG
        >>> fitted = pyrovae.fit(vae, data, objective=DReG(particles=5), epochs=1)
        >>> len(fitted.metrics)
        1
    """

    def __init__(self, *, particles: int = 10) -> None:
        if particles < 2:
            raise ValueError(
                f"particles must be at least 2, got {particles}; with one draw this is stl"
            )
        super().__init__(particles=particles)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss, and add its gradient to the parameters' gradients."""
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        value, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
        if surrogate.requires_grad:
            (surrogate / self.num_particles).backward()
        return float(value) / self.num_particles

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        posterior = traces.only_site(guide_trace, "dreg")
        sites = traces.sites(model_trace)
        log_p = cast(Tensor, sum(site["log_prob"] for site in sites))  # (K, batch)
        log_w = log_p.detach() - posterior["log_prob"].detach()
        weights = log_w.softmax(0)
        surrogate = (weights * (log_p - traces.along_the_draw(posterior))).sum()
        z = posterior["value"]
        if z.requires_grad:
            squares = weights.reshape(weights.shape + (1,) * posterior["fn"].event_dim)
            z.register_hook(lambda gradient: squares * gradient)
        value = (log_w.logsumexp(0) - math.log(self.num_particles)).sum().item()
        return -self.num_particles * value, -self.num_particles * surrogate
