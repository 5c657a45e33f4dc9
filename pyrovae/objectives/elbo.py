r"""Objectives: Pyro ELBOs, and a record of the terms that they already compute.

Each is an :class:`pyro.infer.ELBO` for any ``SVI`` over a model and a guide with one plate of data.
Draws are vectorised: ``particles`` of them stand in front of the batch.

An objective that changes over training has a method ``at(progress)``, which ``fit`` calls before
each step with the fraction of all steps that is done. In a ``SVI`` loop of one's own it is called
by hand, or not at all.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyrovae._process.choices import check_choice
from pyrovae.objectives.traces import (
    along_the_draw,
    divergence,
    divergence_by_dimension,
    draws,
    only_site,
    reparameterised,
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
    """Sums over the traces of one step, in nats, averaged over particles.

    Attributes:
        reconstruction: log p(x | z), with z drawn from q(z | x).
        kl: log q(z | x) - log p(z) at the same draws.
    """

    reconstruction: Tensor | float = 0.0
    kl: Tensor | float = 0.0


@dataclass
class _Record:
    terms: Terms = field(default_factory=Terms)


class _Recording:
    """Mixed in front of an objective's own class by :func:`recording`."""

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
    """A copy of an objective that keeps the two parts of the bound at each evaluation.

    An ELBO has log p(x | z), log p(z) and log q(z | x) of its draws in hand and returns one number.
    The copy leaves them in a record at no further cost; the plain ELBO of the draws is
    ``reconstruction - kl`` whatever the objective makes of them.

    Args:
        objective: any Pyro objective that works on traces of model and guide.

    Returns:
        The copy, and the record whose ``terms`` it renews at each evaluation.
    """
    kind = type(objective)
    watched = cast(Any, copy.copy(objective))
    watched.__class__ = type(kind.__name__, (_Recording, kind), {})
    watched.record = _Record()
    return watched, watched.record


def _add(terms: Terms, model_trace: Any, guide_trace: Any, num_particles: int) -> None:
    for site in model_trace.nodes.values():
        if site["type"] == "sample":
            log_prob = site["log_prob_sum"].detach() / num_particles
            if site["is_observed"]:
                terms.reconstruction = terms.reconstruction + log_prob
            else:
                terms.kl = terms.kl - log_prob
    for site in guide_trace.nodes.values():
        if site["type"] == "sample":
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
    """

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(**draws(particles))


class Analytic(TraceMeanField_ELBO):
    r"""The evidence lower bound with the KL divergence in closed form.

    .. math:: \mathbb{E}_{q(z \mid x)} \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    Where no closed form is registered for the two distributions, the divergence is sampled, and a
    warning names them, once.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.
    """

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(**draws(particles))
        self.warned: set[str] = set()

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        bound: Any = 0.0
        for site in sites(model_trace):
            if site["is_observed"]:
                bound = bound + site["log_prob_sum"]
            else:
                posterior = reparameterised(guide_trace.nodes[site["name"]])
                bound = bound - divergence(posterior, site, self.warned).sum()
        return -bound.item(), -bound


class Beta(TraceMeanField_ELBO):
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
        schedule: ``"constant"``; ``"linear"``, a rise from zero at the start of training; or
            ``"cyclical"``, such a rise at the start of each of several cycles.
        rise: fraction of the training, or of a cycle, in which the weight rises.
        cycles: number of cycles, all of the same length.
        particles: number of draws of z.

    Raises:
        ValueError: if an option is outside its range.
    """

    scheduled = ("weight",)
    _get_trace = Trace_ELBO._get_trace  # without the check of mean fields

    def __init__(
        self,
        *,
        beta: float = 1.0,
        schedule: Literal["constant", "linear", "cyclical"] = "constant",
        rise: float = 0.5,
        cycles: int = 4,
        particles: int = 1,
    ) -> None:
        super().__init__(**draws(particles))
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
        """Set the weight for a moment of the training.

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
            term = self._weighted(reparameterised(site))
            value, bound = value - term.item(), bound - term
        return -value, -bound

    def _weighted(self, site: Any) -> Any:
        return self.weight * site["log_prob_sum"]


class FreeBits(TraceMeanField_ELBO):
    r"""The evidence lower bound in which a little of the KL divergence costs nothing more.

    .. math::
        \mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        - \sum_{j} \max\left(\lambda, \overline{\mathrm{KL}}(q(z_j \mid x) \,\|\, p(z_j))\right)

    The bar is a mean over the batch. Below :math:`\lambda` nats a group :math:`z_j` is not pushed
    towards the prior. The divergence is in closed form where one is registered; else it is sampled,
    and a warning names the two distributions, once.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
        arXiv:1606.04934

    Args:
        nats: :math:`\lambda`, for each group; 0 is the ELBO.
        groups: number of groups of equal size, of neighbouring dimensions; None makes each
            dimension a group. More than one needs a prior and a posterior that are independent
            in each dimension.
        particles: number of draws of z.

    Raises:
        ValueError: if an option is outside its range.
    """

    whole_batch = True

    def __init__(
        self, *, nats: float = 0.25, groups: int | None = None, particles: int = 1
    ) -> None:
        super().__init__(**draws(particles))
        if not 0 <= nats < math.inf:
            raise ValueError(f"nats must be finite and not negative, got {nats}; 0 is the ELBO")
        if groups is not None and groups < 1:
            raise ValueError(
                f"groups must be at least 1, or None for each dimension by itself; got {groups}"
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
                posterior = reparameterised(guide_trace.nodes[site["name"]])
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


class STL(TraceMeanField_ELBO):
    r"""The evidence lower bound, its gradient without the score of the posterior.

    .. math::
        \nabla_\phi = \mathbb{E}_{\epsilon} \left[ \nabla_z
        \left( \log p(x, z) - \log q_\phi(z \mid x) \right) \nabla_\phi z \right],
        \qquad z = z(\epsilon, \phi)

    "Sticking the landing": what is left out has mean zero, and at the exact posterior what is left
    has no variance. It needs no closed form, and takes any posterior with one site.

    References:
        Roeder, Wu and Duvenaud (2017), Sticking the Landing, arXiv:1703.09194

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.
    """

    _get_trace = Trace_ELBO._get_trace  # without the check of mean fields

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(**draws(particles))

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        posterior = only_site(guide_trace, "stl")
        log_joint = sum(site["log_prob_sum"] for site in sites(model_trace))
        value = log_joint.item() - posterior["log_prob_sum"].item()
        return -value, along_the_draw(posterior).sum() - log_joint
