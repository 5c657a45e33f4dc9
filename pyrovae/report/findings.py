r"""What a page shows of a run beyond its summary: bounds of each example, the KL term, q(z)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae import diagnostics, evidence, kl
from pyrovae.data import Dataset
from pyrovae.distributions import is_point
from pyrovae.estimates import Estimate, Result
from pyrovae.runs import Run, Summary
from pyrovae.training import History
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LIMIT", "PASSES", "ClassTerms", "Findings", "find"]

LIMIT = 500
"""Test examples that are looked at, at most; time grows with the square of their number."""

PASSES = 3
"""Passes over the examples, for a line that shows the progress."""

SAMPLES = 20  # draws of z for the bound of each example


class ClassTerms(Result):
    """The codes of one class together, against the prior.

    Attributes:
        label: the class.
        examples: number of examples.
        marginal_kl: KL(q_c(z) || p(z)) in nats, with the error of the draws.

    Example:
        >>> from pyrovae.report import ClassTerms
        >>> ClassTerms(3, 12, Estimate(2.5, 0.1)).marginal_kl
        2.50 ± 0.10
    """

    label: int
    examples: int
    marginal_kl: Estimate


class Findings(Result):
    """What is known of a run, as its page shows it.

    Attributes:
        summary: the test bounds of the finished run.
        history: its epochs.
        examples: number of test examples that the following are of.
        bounds: of each of them.
        ledger: the KL term by formula and by sampling; None for a posterior without a density.
        surgery: the terms of the ELBO; None likewise, and for a single example.
        classes: the codes of each class; empty without labels or densities.
        active: number of dimensions of z whose posterior mean varies; None for a single example.

    Example:
        >>> from dataclasses import fields
        >>> from pyrovae.report import Findings
        >>> [field.name for field in fields(Findings)][:3]
        ['summary', 'history', 'examples']
    """

    summary: Summary
    history: History
    examples: int
    bounds: evidence.Bounds
    ledger: kl.Ledger | None
    surgery: diagnostics.Surgery | None
    classes: list[ClassTerms]
    active: int | None

    @property
    def ordered(self) -> "Tensor":
        """Indices of the examples, from the best reconstruction to the worst."""
        return self.bounds.reconstruction.argsort(descending=True)


def find(
    run: Run,
    vae: VAE,
    dataset: Dataset,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Compute what a page shows, from at most the first 500 test examples.

    Args:
        run: finished.
        vae: its VAE.
        dataset: its data.
        seed: of all draws.
        progress: callback, called with the number of examples finished, of three passes.

    Raises:
        ValueError: if the run is not finished.

    Example:
        >>> from pyrovae.report import find
        >>> from pyrovae.runs import Run, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> summary = run.finish(run.vae(), digits, pyrovae.fit(vae, x, epochs=1), samples=2)
        >>> found = find(run, run.vae(), digits)
        >>> found.examples, found.ledger.examples, len(found.classes)
        (359, 359, 10)
    """
    test = dataset.test
    limit = min(LIMIT, len(test))
    options: dict[str, Any] = {"limit": limit, "seed": seed, "progress": progress}
    bounds = evidence.per_example(vae, test, samples=SAMPLES, compile="off", **options)
    with torch.no_grad():
        point = is_point(vae.posterior(vae.place(test.batch(np.arange(1)))))
    ledger = surgery = None
    classes: list[ClassTerms] = []
    if not point:
        ledger = kl.ledger(vae, test, samples=(1, 10, 100), **options)
    if not point and limit > 1:
        labels = test.labels
        draws = diagnostics.aggregate_draws(vae, test, labels=labels, draws=5, **options)
        surgery = diagnostics.surgery(draws)
        classes = _classes(draws)
    return Findings(
        summary=run.summary(),
        history=run.history,
        examples=limit,
        bounds=bounds,
        ledger=ledger,
        surgery=surgery,
        classes=classes,
        active=diagnostics.active_units(vae, test, limit=limit) if limit > 1 else None,
    )


def _classes(draws: diagnostics.AggregateDraws) -> list[ClassTerms]:
    if draws.log_class is None or draws.labels is None:
        return []
    of_class = draws.log_class - draws.log_prior
    found = []
    for label, count in zip(*np.unique(draws.labels, return_counts=True), strict=True):
        rows = torch.from_numpy(draws.labels == label)
        term = diagnostics.term_estimate(of_class[rows])
        found.append(ClassTerms(int(label), int(count), term))
    return found if len(found) <= diagnostics.MOST_CLASSES else []
