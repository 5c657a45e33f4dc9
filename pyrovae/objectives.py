r"""Objectives: Pyro ELBOs, and a record of the terms that they already compute."""

import copy
from dataclasses import dataclass, field
from typing import Any, cast

from pyro.infer import ELBO
from torch import Tensor

__all__ = ["Terms", "recording"]


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
