r"""Reading the traces of model and guide: sites, divergences, gradients, the terms of the bound."""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import Independent

from pyrovae.distributions import name
from pyrovae.kl import closed_form

__all__ = ["Terms", "recording"]


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

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        terms = self.record.terms = Terms()
        traces = super()._get_traces(model, guide, args, kwargs)  # type: ignore[misc]
        for model_trace, guide_trace in traces:
            for site in sites(model_trace):
                log_prob = site["log_prob_sum"].detach() / self.num_particles
                if site["is_observed"]:
                    terms.reconstruction = terms.reconstruction + log_prob
                else:
                    terms.kl = terms.kl - log_prob
            for site in sites(guide_trace):
                terms.kl = terms.kl + site["log_prob_sum"].detach() / self.num_particles
            yield model_trace, guide_trace


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


def draws(particles: int) -> dict[str, Any]:
    """The arguments of an ELBO with one plate and a number of vectorized draws.

    Args:
        particles: number of draws.

    Raises:
        ValueError: if it is not positive.
    """
    if particles < 1:
        raise ValueError(f"particles must be at least 1, got {particles}")
    return {
        "num_particles": particles,
        "vectorize_particles": particles > 1,
        "max_plate_nesting": 1,
    }


def sites(trace: Any) -> Iterator[Any]:
    """Iterate over the random variables of a trace.

    Args:
        trace: trace of a model or guide.
    """
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def reparameterized(site: Any) -> Any:
    """Return a site of the guide unchanged, after checking that its draws are differentiable.

    Args:
        site: site of the guide.

    Raises:
        ValueError: if they are not.
    """
    if not site["fn"].has_rsample:
        raise ValueError(
            f"{name(site['fn'])}, at the guide's site {site['name']!r}, has no reparameterized "
            "draws, which this objective differentiates; use elbo, or another posterior"
        )
    return site


def only_site(guide_trace: Any, objective: str) -> Any:
    """The single site of a guide, for gradients that hold only without dependent draws.

    Args:
        guide_trace: trace of the guide.
        objective: name of the objective, for the error message.

    Raises:
        ValueError: if there are several sites, or the draws are not differentiable.
    """
    posterior, *others = map(reparameterized, sites(guide_trace))
    if others:
        names = ", ".join(repr(site["name"]) for site in (posterior, *others))
        raise ValueError(
            f"{objective} takes a guide with one site, got {names}; use elbo, analytic or iwae"
        )
    return posterior


def along_the_draw(site: Any) -> Tensor:
    """A term for each draw with the gradient of log q(z | x) through z alone, with q held fixed.

    The density is evaluated at a copy of z, because q may have kept the density of z itself.

    Args:
        site: site of the guide.

    Returns:
        ``(*batch,)``; the value has no meaning.
    """
    z = site["value"]
    point = z.detach().requires_grad_()
    with torch.enable_grad():
        log_q = scale_and_mask(site["fn"].log_prob(point), site["scale"], site["mask"])
        if not log_q.requires_grad:  # a point mass
            return torch.zeros_like(log_q)
        (gradient,) = torch.autograd.grad(log_q.sum(), point, materialize_grads=True)
    return (gradient * z).reshape(*log_q.shape, -1).sum(-1)


def check_plates(trace: Any) -> None:
    """Check that there is one importance weight for each example.

    Pyro's ``RenyiELBO`` sums log weights over every plate that does not contain all sites.

    Args:
        trace: trace of a model or guide.

    Raises:
        ValueError: if there are plates and none of them contains all sites.
    """
    plates = {
        site["name"]: {
            frame.name
            for frame in site["cond_indep_stack"]
            if frame.vectorized and frame.name != "num_particles_vectorized"
        }
        for site in sites(trace)
    }
    of_all = set.intersection(*plates.values()) if plates else set()
    names = sorted(set().union(*plates.values()))
    if names and not of_all:
        outside = ", ".join(repr(name) for name, around in plates.items() if names[0] not in around)
        raise ValueError(
            f"the site {outside} lies outside the plate {names[0]!r}, so the whole batch would "
            "share one importance weight instead of one for each example; put every pyro.sample of "
            f"model and guide inside the plate {names[0]!r}, or use elbo"
        )


def divergence(posterior: Any, prior: Any, warned: set[str]) -> Tensor:
    """KL(q || p) at a site, in closed form if one is known, otherwise sampled.

    Args:
        posterior: the site in the guide.
        prior: the site in the model.
        warned: distribution pairs already warned about; updated in place.

    Returns:
        ``(*batch,)``.
    """
    closed = _closed_form(posterior["fn"], prior["fn"], warned)
    if closed is None:
        return posterior["log_prob"] - prior["log_prob"]
    return scale_and_mask(closed, posterior["scale"], posterior["mask"])


def divergence_by_dimension(posterior: Any, prior: Any, warned: set[str]) -> Tensor:
    """KL(q || p) for each dimension of a vector, as :func:`divergence`.

    Args:
        posterior: the site in the guide.
        prior: the site in the model.
        warned: as for :func:`divergence`.

    Returns:
        ``(latent_dim, *batch)``.

    Raises:
        ValueError: if one of the two is not independent in each dimension.
    """
    for distribution in (posterior["fn"], prior["fn"]):
        if not isinstance(distribution, Independent) or len(distribution.event_shape) != 1:
            raise ValueError(
                f"{name(distribution)} is not independent in each dimension of z, so KL(q || p) is "
                "not a sum over groups; set groups to 1"
            )
    q, p, z = posterior["fn"].base_dist, prior["fn"].base_dist, posterior["value"]
    each = _closed_form(q, p, warned)
    if each is None:
        each = q.log_prob(z) - p.log_prob(z)
    return scale_and_mask(each.movedim(-1, 0), posterior["scale"], posterior["mask"])


def _closed_form(q: Any, p: Any, warned: set[str]) -> Tensor | None:
    found = closed_form(q, p)
    if found is not None:
        return found[0]
    pair = f"KL({name(q)} || {name(p)})"
    if pair not in warned:
        warned.add(pair)
        warnings.warn(f"no closed form of {pair} is known; it is sampled", stacklevel=2)
    return None
