r"""What an objective takes from the traces of model and guide: sites, divergences, gradients."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent

from pyrovae.distributions import name
from pyrovae.kl import closed_form

__all__ = [
    "along_the_draw",
    "check_plates",
    "divergence",
    "divergence_by_dimension",
    "draws",
    "only_site",
    "reparameterised",
    "sites",
]


def draws(particles: int) -> dict[str, Any]:
    """Arguments of an ELBO over one plate for so many vectorised draws.

    Args:
        particles: their number.

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
    """The random variables of a trace.

    Args:
        trace: of a model or guide.
    """
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def reparameterised(site: Any) -> Any:
    """A guide's site, if its draws can be differentiated.

    Args:
        site: of the guide.

    Raises:
        ValueError: if they cannot.
    """
    if not site["fn"].has_rsample:
        raise ValueError(
            f"{name(site['fn'])}, of the guide's site {site['name']!r}, has no reparameterised "
            "draws, which this objective differentiates; use elbo, or another posterior"
        )
    return site


def only_site(guide_trace: Any, objective: str) -> Any:
    """The one site of a guide: where one draw moves another, its gradient has more parts.

    Args:
        guide_trace: of the guide.
        objective: what needs it, for the message.

    Raises:
        ValueError: if there are more, or its draws cannot be differentiated.
    """
    posterior, *others = map(reparameterised, sites(guide_trace))
    if others:
        names = ", ".join(repr(site["name"]) for site in (posterior, *others))
        raise ValueError(
            f"{objective} takes a guide with one site, got {names}; use elbo, analytic or iwae"
        )
    return posterior


def along_the_draw(site: Any) -> Tensor:
    """A term per draw whose gradient is that of log q(z | x) through z alone, q held fixed.

    The density is taken at a copy of z: q may remember how it made z itself.

    Args:
        site: of the guide.

    Returns:
        ``(*batch,)``; its value has no meaning.
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
    """Make sure that importance weights are one per datum.

    Pyro's ``RenyiELBO`` sums log weights over each plate that some site lies outside of.

    Args:
        trace: of a model or guide.

    Raises:
        ValueError: if no plate is around all sites, where there are plates.
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
            f"the site {outside} lies outside the plate {names[0]!r}, and an importance weight "
            "would be one for the whole batch instead of one per datum; put every pyro.sample of "
            f"model and guide inside the plate {names[0]!r}, or use elbo"
        )


def divergence(posterior: Any, prior: Any, warned: set[str]) -> Tensor:
    """KL(q || p) at a site: in closed form where one is known, else sampled.

    Args:
        posterior: the site in the guide.
        prior: the site in the model.
        warned: the pairs whose missing closed form was told of; one that is missing is added.

    Returns:
        ``(*batch,)``.
    """
    closed = _closed_form(posterior["fn"], prior["fn"], warned)
    if closed is None:
        return posterior["log_prob"] - prior["log_prob"]
    return scale_and_mask(closed, posterior["scale"], posterior["mask"])


def divergence_by_dimension(posterior: Any, prior: Any, warned: set[str]) -> Tensor:
    """KL(q || p) of each dimension of a vector, as :func:`divergence`.

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
                f"{name(distribution)} is not independent in each dimension of z, so that "
                "KL(q || p) is no sum over groups; set groups to 1"
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
