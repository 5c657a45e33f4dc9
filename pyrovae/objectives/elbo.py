r"""The evidence lower bound, its weighted forms, and those with the aggregate posterior q(z).

Draws are vectorized: a dimension of size ``particles`` precedes the batch. The aggregate posterior
is estimated from the batch.
"""

import math
from typing import Any, Literal, cast

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Independent

from pyrovae._process.choices import check_choice
from pyrovae.objectives import traces

__all__ = ["STL", "Analytic", "Beta", "BetaTC", "Elbo", "FreeBits", "Info"]


class Elbo(Trace_ELBO):
    r"""The evidence lower bound, both of its terms by Monte Carlo.

    .. math:: \mathbb{E}_{q(z \mid x)} [\log p(x \mid z) + \log p(z) - \log q(z \mid x)]

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.

    Example:
        >>> from pyrovae.objectives import Elbo
        >>> fitted = pyrovae.fit(vae, data, objective=Elbo(particles=5), epochs=1)
        >>> len(fitted.metrics)
        1
    """

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(**traces.draws(particles))


class _Differentiable(TraceMeanField_ELBO):
    """An objective that autograd differentiates, for posteriors with reparameterized draws.

    A subclass defines ``_differentiable_loss_particle``, from the traces of model and guide to the
    loss as a number and as a tensor with the gradient.

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.
    """

    _get_trace = Trace_ELBO._get_trace  # without Pyro's check for a mean-field guide

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(**traces.draws(particles))


class Analytic(_Differentiable):
    r"""The evidence lower bound with the KL divergence in closed form.

    .. math:: \mathbb{E}_{q(z \mid x)} \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    If no closed form is registered for the two distributions, the divergence is sampled, and a
    warning names them once.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.

    Example:
        >>> from pyrovae.objectives import Analytic
        >>> Analytic(particles=10).loss(vae.model, vae.guide, x) > 0
        True
    """

    _get_trace = TraceMeanField_ELBO._get_trace  # a closed form needs a mean-field guide

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(particles=particles)
        self.warned: set[str] = set()

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        bound: Any = 0.0
        for site in traces.sites(model_trace):
            if site["is_observed"]:
                bound = bound + site["log_prob_sum"]
            else:
                posterior = traces.reparameterized(guide_trace.nodes[site["name"]])
                bound = bound - self._cost(posterior, site)
        return -bound.item(), -bound

    def _cost(self, posterior: Any, prior: Any) -> Tensor:
        return traces.divergence(posterior, prior, self.warned).sum()


class Beta(_Differentiable):
    r"""The evidence lower bound with a weight on the KL divergence, constant or scheduled.

    .. math::
        \mathbb{E}_{q(z \mid x)} [\log p(x \mid z)
        + \beta \, (\log p(z) - \log q(z \mid x))]

    The weight in use is the attribute ``weight``: ``beta`` until :meth:`at` is called.

    References:
        Higgins et al. (2017), beta-VAE, ICLR;
        Bowman et al. (2016), Generating Sentences from a Continuous Space, arXiv:1511.06349;
        Fu et al. (2019), Cyclical Annealing Schedule, arXiv:1903.10145

    Args:
        beta: :math:`\beta`, or the largest one; 1 is the ELBO.
        schedule: ``"constant"``; ``"linear"``, which rises from zero at the start of training; or
            ``"cyclical"``, which rises from zero at the start of each cycle.
        rise: fraction of the training, or of a cycle, during which the weight rises.
        cycles: number of cycles, all of the same length.
        particles: number of draws of z.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyrovae.objectives import Beta
        >>> objective = Beta(beta=4.0, schedule="linear", rise=0.5)
        >>> objective.at(0.25)
        >>> objective.weight
        2.0
    """

    scheduled = ("weight",)

    def __init__(
        self,
        *,
        beta: float = 1.0,
        schedule: Literal["constant", "linear", "cyclical"] = "constant",
        rise: float = 0.5,
        cycles: int = 4,
        particles: int = 1,
    ) -> None:
        super().__init__(particles=particles)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be finite and not negative, got {beta}; 1 is the ELBO")
        check_choice("schedule", schedule, ("constant", "linear", "cyclical"))
        if not 0 < rise <= 1:
            raise ValueError(
                f"rise is a fraction, above 0 and at most 1, got {rise}; for no rise set schedule "
                "to constant"
            )
        if cycles < 1:
            raise ValueError(f"cycles must be at least 1, got {cycles}")
        self.beta, self.schedule, self.rise, self.cycles = beta, schedule, rise, cycles
        self.weight: Tensor | float = beta

    def at(self, progress: float) -> None:
        """Set the weight for the current point of training.

        Args:
            progress: fraction of the training that is done, from 0 to 1.
        """
        if self.schedule == "constant":
            return
        cycles = self.cycles if self.schedule == "cyclical" else 1
        place = progress * cycles % 1.0 if progress < 1 else 1.0
        self.weight = self.beta * min(place / self.rise, 1.0)

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        value, bound = cast(Any, 0.0), cast(Any, 0.0)
        for site in traces.sites(model_trace):
            term = site["log_prob_sum"]
            term = term if site["is_observed"] else self.weight * term
            value, bound = value + term.item(), bound + term
        for site in traces.sites(guide_trace):
            term = self.weight * traces.reparameterized(site)["log_prob_sum"]
            value, bound = value - term.item(), bound - term
        return -value, -bound


class FreeBits(Analytic):
    r"""The evidence lower bound with a minimum cost for the KL divergence of each group.

    .. math::
        \mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        - \sum_{j} \max\left(\lambda, \overline{\mathrm{KL}}(q(z_j \mid x) \,\|\, p(z_j))\right)

    The bar is a mean over the batch. Below :math:`\lambda` nats a group :math:`z_j` is not pushed
    towards the prior. The divergence is computed in closed form if one is registered; otherwise it
    is sampled, and a warning names the two distributions once.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
        arXiv:1606.04934

    Args:
        nats: :math:`\lambda`, for each group; 0 is the ELBO.
        groups: number of groups of equal size, each of neighboring dimensions; None makes each
            dimension a group. More than one group needs a prior and a posterior that are
            independent in each dimension.
        particles: number of draws of z.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyrovae.objectives import Analytic, FreeBits
        >>> objectives = FreeBits(nats=0.5), Analytic()
        >>> free, full = (o.loss(vae.model, vae.guide, x) for o in objectives)
        >>> free > 0 and full > 0
        True
    """

    whole_batch = True

    def __init__(
        self, *, nats: float = 0.25, groups: int | None = None, particles: int = 1
    ) -> None:
        super().__init__(particles=particles)
        if not 0 <= nats < math.inf:
            raise ValueError(f"nats must be finite and not negative, got {nats}; 0 is the ELBO")
        if groups is not None and groups < 1:
            raise ValueError(
                f"groups must be at least 1, or None to make each dimension a group; got {groups}"
            )
        self.nats: Tensor | float = nats
        self.groups = groups

    def _cost(self, posterior: Any, prior: Any) -> Tensor:
        kl = self._kl_of_groups(posterior, prior)  # (groups, *batch)
        mean = kl.flatten(1).mean(1)
        return kl[0].numel() * mean.clamp(min=self.nats).sum()

    def _kl_of_groups(self, posterior: Any, prior: Any) -> Tensor:
        if self.groups == 1:
            return traces.divergence(posterior, prior, self.warned).unsqueeze(0)
        kl = traces.divergence_by_dimension(posterior, prior, self.warned)  # (latent_dim, *batch)
        groups = len(kl) if self.groups is None else self.groups
        if len(kl) % groups:
            raise ValueError(
                f"groups must divide the {len(kl)} dimensions of z evenly, got {groups}"
            )
        return kl.unflatten(0, (groups, -1)).sum(1)


class STL(_Differentiable):
    r"""The evidence lower bound, with a gradient that omits the score of the posterior.

    .. math::
        \nabla_\phi = \mathbb{E}_{\epsilon} \left[ \nabla_z
        \left( \log p(x, z) - \log q_\phi(z \mid x) \right) \nabla_\phi z \right],
        \qquad z = z(\epsilon, \phi)

    "Sticking the landing": the omitted term has mean zero, and at the exact posterior the rest has
    no variance. It needs no closed form and takes any posterior with one site.

    References:
        Roeder, Wu and Duvenaud (2017), Sticking the Landing, arXiv:1703.09194

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.

    Example:
        >>> from pyrovae.objectives import STL
        >>> fitted = pyrovae.fit(vae, data, objective=STL(), epochs=1)
        >>> len(fitted.metrics)
        1
    """

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        posterior = traces.only_site(guide_trace, "stl")
        log_joint = sum(site["log_prob_sum"] for site in traces.sites(model_trace))
        value = log_joint.item() - posterior["log_prob_sum"].item()
        return -value, traces.along_the_draw(posterior).sum() - log_joint


class BetaTC(_Differentiable):
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
        posterior = traces.only_site(guide_trace, "beta_tc")
        bound = bound - (self.beta - 1) * posterior["scale"] * _total_correlation(posterior).sum()
        return -bound.item(), -bound


class Info(_Differentiable):
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
        posterior = traces.only_site(guide_trace, "info")
        prior = model_trace.nodes[posterior["name"]]
        z = posterior["value"]
        other = prior["fn"].rsample() if prior["fn"].has_rsample else prior["fn"].sample()
        distance = _squared_discrepancy(z, other).sum()
        bound = _elbo(model_trace, guide_trace, 1 - self.alpha)
        bound = bound - (self.alpha + self.weight - 1) * posterior["scale"] * z.shape[-2] * distance
        return -bound.item(), -bound


def _elbo(model_trace: Any, guide_trace: Any, weight: Tensor | float = 1.0) -> Tensor:
    bound = cast(Any, 0.0)
    for site in traces.sites(model_trace):
        bound = bound + (1.0 if site["is_observed"] else weight) * site["log_prob_sum"]
    for site in traces.sites(guide_trace):
        bound = bound - weight * traces.reparameterized(site)["log_prob_sum"]
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
