r"""Importance-weighted bounds on log p(x), from draws of q(z | x) or of a fitted mixture."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae._process.choices import check_choice
from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae._process.memory import in_chunks
from pyrovae.evidence.lower_bounds import DRAWS, NO_BOUND, kind
from pyrovae.evidence.over_dataset import per_example
from pyrovae.evidence.proposals import FEWEST, Whole, adapted, from_mixture
from pyrovae.evidence.results import Evidence
from pyrovae.evidence.weights import weight_statistics
from pyrovae.vae import VAE

__all__ = ["PROPOSALS", "importance_weighted"]

PROPOSALS = ("posterior", "mixture")
"""Distributions from which z can be drawn, to be weighted."""

ROWS = 10_000  # examples times draws from a mixture in a chunk, which has a seed of its own


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
    progress: Callable[[int], None] | None = None,
) -> Evidence:
    """Estimate log p(x) by importance weighting, with diagnostics of the weights.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        x: data ``(examples, *event_shape)``.
        samples: draws of z for each example: at least 2, or 20 from a mixture. None for the
            default, 1,000.
        seed: seed of the draws.
        proposal: what z is drawn from: ``"posterior"``, q(z | x), or ``"mixture"``, a distribution
            fitted to each example, which takes longer and does not rely on q.
        compile: as for :func:`per_example`; draws from a mixture always run as written.
        progress: callback, called with the number of examples finished.

    Returns:
        The bound; ``details`` holds the other numbers of
        :class:`pyrovae.evidence.WeightedBounds`, or for a mixture the other numbers of
        :class:`pyrovae.evidence.Weights`.

    Raises:
        ValueError: if ``samples`` is too small, ``proposal`` is unknown, or the proposal is a
            posterior without a density.

    Example:
        >>> found = importance_weighted(vae, x[:4], samples=50)
        >>> found.kind, found.details["ess"].shape
        ('importance-weighted lower bound', torch.Size([4]))
    """
    check_choice("proposal", proposal, PROPOSALS)
    samples = DRAWS if samples is None else samples
    if proposal == "mixture":
        return _from_mixture(vae, x, samples, seed, progress)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to have an error, got {samples}")
    data = _Batches(x)
    words = kind(vae, data, samples)
    if words == NO_BOUND:
        raise ValueError(
            f"{type(vae.posterior).__name__} has no density to weight draws by; use the "
            "proposal mixture, the method ais, or in one and two dimensions quadrature"
        )
    every = per_example(
        vae, data, samples=samples, seed=seed, compile=compile, progress=progress
    ).arrays()
    value, error = every.pop("log_evidence"), every.pop("standard_error")
    return Evidence(value, error, words, samples, every)


@torch.no_grad()
def _from_mixture(
    vae: VAE, x: Tensor, samples: int, seed: int, progress: Callable[[int], None] | None
) -> Evidence:
    if samples < FEWEST:
        raise ValueError(f"samples from a mixture must be at least {FEWEST}, got {samples}")
    every, x = [], vae.place(x)
    with isolated(x.device), evaluating(vae):
        for place, part in enumerate(in_chunks(x, samples, ROWS)):
            seed_device(x.device, derived(seed, place))
            target = Whole(vae, part)
            _, log_w = from_mixture(target, adapted(target), samples)
            every.append(log_w[torch.randperm(len(log_w), device=x.device)].cpu())
            if progress is not None:
                progress(len(part))
    log_w = torch.cat(every, 1)  # (samples, examples)
    details = dict(vars(weight_statistics(log_w)))
    return Evidence(
        log_w.logsumexp(0) - math.log(len(log_w)),
        details.pop("standard_error"),
        "importance-weighted lower bound, by a fitted mixture",
        samples,
        details,
    )
