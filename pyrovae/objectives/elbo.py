r"""The evidence lower bound and its weighted forms, and a record of its terms.

Draws are vectorized: a dimension of size ``particles`` precedes the batch.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyrovae._process.choices import check_choice
from pyrovae.objectives._base import Differentiable
from pyrovae.objectives._traces import (
    along_the_draw,
    divergence,
    divergence_by_dimension,
    draws,
    only_site,
    reparameterized,
    sites,
)

__all__ = [
    "STL",
    "Analytic",
    "Beta",
    "Elbo",
    "FreeBits",
    "Terms",
    "recording",
]


@dataclass
class Terms:
    """The two terms of the bound, summed over a batch, in nats, averaged over particles.

    Attributes:
        reconstruction: log p(x | z), with z drawn from q(z | x).
        kl: log q(z | x) - log p(z) at the same draws.

    Example:
        >>> from pyrovae.objectives import Terms
        >>> Terms()
        Terms(reconstruction=0.0, kl=0.0)
    """

    reconstruction: Tensor | float = 0.0
    kl: Tensor | float = 0.0


@dataclass
class _Record:
    terms: Terms = field(default_factory=Terms)


class _Recording:
    """The class that :func:`recording` puts in front of the objective's own."""

    record: _Record
    num_particles: int
    vectorize_particles: bool

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        self.record.terms = Terms()
        for traces in super()._get_traces(model, guide, args, kwargs):  # type: ignore[misc]
            model_trace, guide_trace = traces
            _add(self.record.terms, model_trace, guide_trace, self.num_particles)
            yield traces


def recording(objective: ELBO) -> tuple[ELBO, _Record]:
    """Copy an objective so that it records the two terms of the bound at each evaluation.

    An ELBO computes log p(x | z), log p(z) and log q(z | x) at its draws and returns one number.
    The copy stores them at no extra cost; the plain ELBO at these draws is
    ``reconstruction - kl``, whatever the objective does with them.

    Args:
        objective: any Pyro objective that works on traces of model and guide.

    Returns:
        The copy, and the record whose ``terms`` it replaces at each evaluation.

    Example:
        >>> from pyrovae.objectives import Elbo, recording
        >>> objective, record = recording(Elbo())
        >>> loss = objective.loss(vae.model, vae.guide, x)
        >>> elbo = record.terms.reconstruction - record.terms.kl
        >>> abs(elbo.item() + loss) < 0.01
        True
    """
    kind = type(objective)
    watched = cast(Any, copy.copy(objective))
    watched.__class__ = type(kind.__name__, (_Recording, kind), {})
    watched.record = _Record()
    return watched, watched.record


def _add(terms: Terms, model_trace: Any, guide_trace: Any, num_particles: int) -> None:
    for site in sites(model_trace):
        log_prob = site["log_prob_sum"].detach() / num_particles
        if site["is_observed"]:
            terms.reconstruction = terms.reconstruction + log_prob
        else:
            terms.kl = terms.kl - log_prob
    for site in sites(guide_trace):
        terms.kl = terms.kl + site["log_prob_sum"].detach() / num_particles


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
        super().__init__(**draws(particles))


class Analytic(Differentiable):
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
        for site in sites(model_trace):
            if site["is_observed"]:
                bound = bound + site["log_prob_sum"]
            else:
                posterior = reparameterized(guide_trace.nodes[site["name"]])
                bound = bound - divergence(posterior, site, self.warned).sum()
        return -bound.item(), -bound


class Beta(Differentiable):
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
        for site in sites(model_trace):
            term = site["log_prob_sum"] if site["is_observed"] else self._weighted(site)
            value, bound = value + term.item(), bound + term
        for site in sites(guide_trace):
            term = self._weighted(reparameterized(site))
            value, bound = value - term.item(), bound - term
        return -value, -bound

    def _weighted(self, site: Any) -> Any:
        return self.weight * site["log_prob_sum"]


class FreeBits(Differentiable):
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
    _get_trace = TraceMeanField_ELBO._get_trace  # a closed form needs a mean-field guide

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
        self.warned: set[str] = set()

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        bound: Any = 0.0
        for site in sites(model_trace):
            if site["is_observed"]:
                bound = bound + site["log_prob_sum"]
            else:
                posterior = reparameterized(guide_trace.nodes[site["name"]])
                kl = self._kl_of_groups(posterior, site)  # (groups, *batch)
                mean = kl.flatten(1).mean(1)
                bound = bound - kl[0].numel() * mean.clamp(min=self.nats).sum()
        return -bound.item(), -bound

    def _kl_of_groups(self, posterior: Any, prior: Any) -> Tensor:
        if self.groups == 1:
            return divergence(posterior, prior, self.warned).unsqueeze(0)
        kl = divergence_by_dimension(posterior, prior, self.warned)  # (latent_dim, *batch)
        groups = len(kl) if self.groups is None else self.groups
        if len(kl) % groups:
            raise ValueError(
                f"groups must divide the {len(kl)} dimensions of z evenly, got {groups}"
            )
        return kl.unflatten(0, (groups, -1)).sum(1)


class STL(Differentiable):
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
        posterior = only_site(guide_trace, "stl")
        log_joint = sum(site["log_prob_sum"] for site in sites(model_trace))
        value = log_joint.item() - posterior["log_prob_sum"].item()
        return -value, along_the_draw(posterior).sum() - log_joint
