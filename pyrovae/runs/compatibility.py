"""Which priors and posteriors go together, found from the supports of the components."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from pyrovae.networks import Linear
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs.specs import Spec, context_of, resolve
from pyrovae.vae import VAE, SpaceError


@cache
def matching_priors() -> dict[str, tuple[str, ...]]:
    """The names of the priors that go with each posterior, by the posterior's name.

    Small components are built with their defaults; a pair goes together if the VAE takes it.
    """
    return {
        posterior: tuple(prior for prior in PRIORS if _match(prior, posterior))
        for posterior in POSTERIORS
    }


@contextmanager
def suggesting_pairs() -> Iterator[None]:
    """Add to an error about two spaces which priors and posteriors go together."""
    try:
        yield
    except SpaceError as error:
        groups: dict[tuple[str, ...], list[str]] = {}
        for posterior, priors in matching_priors().items():
            groups.setdefault(priors, []).append(posterior)
        together = "; ".join(
            f"{_listed('prior', priors)} with {_listed('posterior', posteriors)}"
            for priors, posteriors in groups.items()
        )
        raise SpaceError(f"{error}. These go together: {together}") from error


def _match(prior: str, posterior: str) -> bool:
    known: dict[str, Any] = {"latent_dim": 2, "event_shape": (1,), "network": Linear}

    def make(role: str, component: type[nn.Module], name: str) -> Any:
        options = resolve(role, component, Spec(name, {}), {})[1]
        return component(**context_of(component, known), **options)

    with torch.random.fork_rng():
        try:
            q = make("posterior", POSTERIORS[posterior], posterior)
            known["posterior"] = q
            p = make("prior", PRIORS[prior], prior)
            VAE(p, nn.Identity(), q).check_spaces(torch.zeros(2, 1))  # uses no likelihood
        except ValueError:  # another space, or a mixture without a density
            return False
    return True


def _listed(role: str, names: Sequence[str]) -> str:
    return f"the {role}{'s' if len(names) > 1 else ''} {', '.join(names)}"
