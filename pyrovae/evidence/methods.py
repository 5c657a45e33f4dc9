r"""Every way to know log p(x), by name, for a batch of data.

Each is called ``method(vae, x, samples=..., seed=..., advance=...)``, with options of its own, and
returns :class:`pyrovae.evidence.Evidence`. ``samples=None`` is what each takes by itself.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae.estimates import Estimate
from pyrovae.evidence.annealing import CHAINS, annealed
from pyrovae.evidence.lower_bounds import NO_BOUND, Evidence, kind, per_example
from pyrovae.evidence.proposals import FEWEST, Whole, adapted, from_mixture
from pyrovae.evidence.quadrature import integrated
from pyrovae.evidence.tractable import exact
from pyrovae.evidence.weights import weight_statistics
from pyrovae.vae import VAE

__all__ = ["CHAINS", "DRAWS", "METHODS", "PROPOSALS", "importance_weighted", "summary"]

DRAWS = 1_000
"""Of z for each example, where no number is given."""
PROPOSALS = ("posterior", "mixture")
"""From which draws are made and weighed."""

ROWS = 10_000  # examples times draws from a mixture at a time


@dataclass(frozen=True)
class _Batches:
    x: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[Tensor]:
        return iter(self.x.split(size))


def importance_weighted(
    vae: VAE,
    x: Tensor,
    *,
    samples: int | None = None,
    seed: int = 0,
    proposal: str = "posterior",
    compile: str = "auto",
    advance: Callable[[int], None] | None = None,
) -> Evidence:
    """The importance-weighted bound, with what its weights say of it.

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        x: data ``(examples, *event_shape)``.
        samples: draws of z for each example, at least 2, from a mixture ``FEWEST`` of
            :mod:`pyrovae.evidence.proposals`; None for ``DRAWS``.
        proposal: what z is drawn from: ``"posterior"``, q(z | x), or ``"mixture"``, one that is
            fitted to each example, which takes longer, and needs no good q.
        compile: as for :func:`pyrovae.evaluate`; draws from a mixture run as written.
        seed, advance: as for :func:`pyrovae.evaluate`.

    Returns:
        The bound; ``details`` has all else that :class:`pyrovae.evidence.WeightedBounds` has, or
        for a mixture all else that :class:`pyrovae.evidence.Weights` has.

    Raises:
        ValueError: if ``samples`` is too small, ``proposal`` is neither, or the posterior is a
            point and the proposal.
    """
    if proposal not in PROPOSALS:
        raise ValueError(f"proposal must be one of {', '.join(PROPOSALS)}, got {proposal!r}")
    samples = DRAWS if samples is None else samples
    if proposal == "mixture":
        return _from_mixture(vae, x, samples, seed, advance)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to have an error, got {samples}")
    data = _Batches(x)
    words = kind(vae, data, samples)
    if words == NO_BOUND:
        raise ValueError(
            f"{type(vae.posterior).__name__} has no density to weigh draws by; use the "
            "proposal mixture, the method ais, or in one and two dimensions quadrature"
        )
    every = vars(
        per_example(vae, data, samples=samples, seed=seed, compile=compile, advance=advance)
    )
    value, error = every.pop("log_evidence"), every.pop("standard_error")
    return Evidence(value, error, words, samples, every)


@torch.no_grad()
def _from_mixture(
    vae: VAE, x: Tensor, samples: int, seed: int, advance: Callable[[int], None] | None
) -> Evidence:
    if samples < FEWEST:
        raise ValueError(f"samples from a mixture must be at least {FEWEST}, got {samples}")
    every, x = [], vae.place(x)
    with isolated(x.device), evaluating(vae):
        for place, part in enumerate(x.split(max(1, ROWS // samples))):
            seed_device(x.device, derived(seed, place))
            target = Whole(vae, part)
            _, log_w = from_mixture(target, adapted(target), samples)
            every.append(log_w[torch.randperm(len(log_w), device=x.device)].cpu())
            if advance is not None:
                advance(len(part))
    log_w = torch.cat(every, 1)  # (samples, examples)
    details = vars(weight_statistics(log_w))
    return Evidence(
        log_w.logsumexp(0) - math.log(len(log_w)),
        details.pop("standard_error"),
        "importance-weighted lower bound, by a fitted mixture",
        samples,
        details,
    )


def summary(evidence: Evidence) -> dict[str, Any]:
    """The mean over examples, with its errors.

    Args:
        evidence: of a dataset.

    Returns:
        ``estimate``; ``standard_error`` over examples, None for a single one, which counts both
        that there might have been others and that each was sampled; ``sampling_error``, the part
        of it that comes from sampling, or integration, alone; ``samples`` and ``kind``.
    """
    mean = Estimate.of(evidence.log_evidence).to_dict()
    error = evidence.standard_error.norm().item() / len(evidence.standard_error)
    return mean | {
        "sampling_error": error,
        "samples": evidence.samples,
        "kind": evidence.kind,
    }


METHODS: dict[str, Callable[..., Evidence]] = {
    "iw": importance_weighted,
    "ais": annealed,
    "quadrature": integrated,
    "exact": exact,
}
