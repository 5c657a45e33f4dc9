r"""Scores: an estimate of log p(x) for each example, with its error and its reliability."""

from collections.abc import Callable

import torch

from pyrovae.estimates import AnyExamples, as_examples, batches, log_slope_of
from pyrovae.evidence import importance_weighted, warn_of_rows
from pyrovae.queries.results import Scores
from pyrovae.vae import VAE

__all__ = ["score"]

BATCH = 1_000  # examples that are checked at a time


def score(
    vae: VAE,
    data: AnyExamples,
    *,
    samples: int = 1_000,
    proposal: str = "posterior",
    limit: int | None = None,
    scaled: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Estimate log p(x) of each example by importance sampling.

    A low log p(x) need not be an anomaly, and an anomaly may have a high one.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior; dropout is switched off during the call.
        data: the examples, in any number, a split or as :func:`pyrovae.data.as_split` takes them.
        samples: number of draws of z per example.
        proposal: the distribution to draw z from: ``"posterior"``, q(z | x), or ``"mixture"``, a
            mixture fitted to each example, which takes longer and needs fewer draws.
        limit: use only the first `limit` examples.
        scaled: whether densities are those of the scaled values that the VAE sees, not of the data
            in their own units.
        seed: seed of all draws.
        progress: callback, called with the number of examples finished.

    Returns:
        Lower bounds on log p(x) with their standard errors, in the order of the data.

    Raises:
        ValueError: if the data do not fit the likelihood, ``samples`` is too small, the proposal is
            unknown, or it is a posterior without a density.

    Warns:
        UserWarning: if log p(x) of some examples lies far below that of all others, with their
            rows.

    Example:
        >>> from pyrovae.queries import score
        >>> found = score(vae, data, samples=100)
        >>> bool((found.log_evidence < 0).all()), found.heavy_tails <= len(data)
        (True, True)
    """
    data = as_examples(data)
    x = torch.cat(list(batches(data, BATCH, limit)))
    for batch in x.split(BATCH):
        vae.check_data(vae.place(batch))
    found = importance_weighted(
        vae, x, samples=samples, seed=seed, proposal=proposal, progress=progress
    )
    slope = None if scaled else log_slope_of(data, limit)
    scores = Scores(
        log_evidence=found.log_evidence if slope is None else found.log_evidence + slope,
        standard_error=found.standard_error,
        ess=found.details["ess"],
        pareto_k=found.details["pareto_k"],
        kind=found.kind,
        proposal=proposal,
        samples=samples,
    )
    warn_of_rows(scores.far_below, data)
    return scores
