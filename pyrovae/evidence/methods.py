r"""Every method of estimating log p(x), by name, and its mean over a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from pyrovae._process.choices import check_choice
from pyrovae.estimates import (
    AnyExamples,
    Estimate,
    Examples,
    Result,
    as_examples,
    batches,
    log_slope_of,
    number_of_examples,
)
from pyrovae.evidence import results
from pyrovae.evidence.annealing import annealed, sandwich
from pyrovae.evidence.lower_bounds import DRAWS, per_example
from pyrovae.evidence.outliers import FarBelow, far_below, warn_of_rows
from pyrovae.evidence.proposals import affordable
from pyrovae.evidence.quadrature import integrated
from pyrovae.evidence.tractable import exact
from pyrovae.evidence.weights import WeightSummary
from pyrovae.vae import VAE

__all__ = ["METHODS", "SIMULATED", "Evaluation", "MeanEvidence", "MeanSandwich", "evaluate"]

SIMULATED = 100
"""Default number of examples that ``bdmc`` draws from the model."""

READ = 1_000  # examples that are read at a time

Method = Callable[..., results.Evidence]
"""A function of the model and of all examples as one tensor."""


class Evaluation(Result):
    """Mean bounds over a dataset by weighted draws, in nats per example.

    Attributes:
        elbo: the evidence lower bound, reconstruction - kl.
        reconstruction: log p(x | z) under q.
        kl: KL(q(z | x) || p(z)).
        log_evidence: the importance-weighted bound on log p(x).
        weights: diagnostics of its weights; None for one draw or a posterior without a density.
        examples: number of examples.
        per_example: the same numbers for each example.
        far_below: examples whose log p(x) lies far below that of all others; None if none does.

    Example:
        >>> result = pyrovae.evaluate(vae, data, samples=100)
        >>> result.elbo.value < result.log_evidence.value
        True
        >>> result.per_example.elbo.shape
        torch.Size([64])
    """

    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    log_evidence: results.EvidenceEstimate
    weights: WeightSummary | None
    examples: int
    per_example: results.WeightedBounds = field(repr=False, compare=False)
    far_below: FarBelow | None = field(repr=False, compare=False)

    @staticmethod
    def of(bounds: results.WeightedBounds, samples: int, kind: str) -> "Evaluation":
        """Average over examples.

        Args:
            bounds: as :func:`per_example` returns them.
            samples: draws for each example.
            kind: as :func:`kind` returns it.
        """
        weights = None
        if samples > 1 and kind != results.NO_BOUND:
            weights = bounds.summary(samples)
        mean = Estimate.of(bounds.log_evidence)
        error = None if weights is None else weights.sampling_error
        evidence = results.EvidenceEstimate(mean.value, mean.standard_error, error, samples, kind)
        return Evaluation(
            elbo=Estimate.of(bounds.elbo),
            reconstruction=Estimate.of(bounds.reconstruction),
            kl=Estimate.of(bounds.kl),
            log_evidence=evidence,
            weights=weights,
            examples=len(bounds.elbo),
            per_example=bounds,
            far_below=far_below(bounds.log_evidence),
        )

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with the sampling error under ``weights`` only."""
        evidence = self.log_evidence.to_dict()
        del evidence["sampling_error"]
        return super().to_dict() | {"log_evidence": evidence} | _named(self.far_below)


class MeanEvidence(Result):
    """Mean of log p(x) over a dataset by one method, in nats per example.

    Attributes:
        method: name of the method.
        log_evidence: the mean.
        details: range over examples of each further result.
        examples: number of examples.
        per_example: the same numbers for each example.
        far_below: examples whose log p(x) lies far below that of all others; None if none does.

    Example:
        >>> result = pyrovae.evaluate(vae, data, method="quadrature", limit=2)
        >>> result.examples, result.per_example.log_evidence.shape
        (2, torch.Size([2]))
    """

    method: str
    log_evidence: results.EvidenceEstimate
    details: Mapping[str, results.Range]
    examples: int
    per_example: results.Evidence = field(repr=False, compare=False)
    far_below: FarBelow | None = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with the examples far below the others."""
        return super().to_dict() | _named(self.far_below)


def _named(found: FarBelow | None) -> dict[str, object]:
    """What plain data hold of the examples far below the others, if there are any."""
    return {} if found is None else {"far_below": found.to_dict()}


class MeanSandwich(Result):
    """Two bounds on the mean of log p(x) over examples drawn from the model.

    Attributes:
        method: name of the method.
        lower, upper: means of both bounds, in nats per example.
        gap: mean of upper - lower.
        examples: number of examples.
        per_example: both bounds for each example, and the examples.

    Example:
        >>> options = {"samples": 4, "temperatures": 20, "limit": 4}
        >>> pyrovae.evaluate(vae, None, method="bdmc", **options).per_example.x.shape
        torch.Size([4, 1, 8, 8])
    """

    method: str
    lower: results.EvidenceEstimate
    upper: results.EvidenceEstimate
    gap: Estimate
    examples: int
    per_example: results.Sandwich = field(repr=False, compare=False)


@overload
def evaluate(
    vae: VAE,
    data: AnyExamples,
    *,
    method: Literal["iw"] = ...,
    proposal: str | None = ...,
    samples: int | None = ...,
    limit: int | None = ...,
    seed: int = ...,
    compile: str | None = ...,
    progress: Callable[[int], None] | None = ...,
    scaled: bool = ...,
    **options: Any,
) -> Evaluation: ...


@overload
def evaluate(
    vae: VAE, data: AnyExamples | None, *, method: Literal["bdmc"], **options: Any
) -> MeanSandwich: ...


@overload
def evaluate(
    vae: VAE, data: AnyExamples | None, *, method: str = ..., **options: Any
) -> Evaluation | MeanEvidence | MeanSandwich: ...


def evaluate(
    vae: VAE,
    data: AnyExamples | None,
    *,
    method: str = "iw",
    proposal: str | None = None,
    samples: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    compile: str | None = None,
    progress: Callable[[int], None] | None = None,
    scaled: bool = False,
    **options: Any,
) -> Evaluation | MeanEvidence | MeanSandwich:
    """Estimate the mean of log p(x) over a dataset, with its standard error over examples.

    The default method also gives the ELBO and its two parts. Several processes, inside
    :func:`pyrovae._process.joined`, share its work.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        data: one part of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them; a ``DataLoader`` is gone through once, in its
            order. None for ``bdmc``, which draws its own examples from the model.
        method: one of ``METHODS``. ``"iw"``: importance weighting. ``"ais"``: annealed importance
            sampling. ``"quadrature"``: for one or two latent dimensions. ``"exact"``: for
            linear-Gaussian models and a categorical z. ``"bdmc"``: two bounds, one on either side
            of log p(x).
        proposal: for ``iw``, what z is drawn from, as for :func:`per_example`, or ``"auto"``, as
            the commands do: what :func:`affordable` says. None for ``"posterior"``.
        samples: draws of z (``iw``) or chains (``ais``, ``bdmc``) for each example. None for the
            default, 1,000 draws or 16 chains.
        limit: use only the first ``limit`` examples; for ``bdmc``, the number to draw, by default
            100.
        seed: seed of the draws.
        compile: for ``iw``, as for :func:`per_example`. None for ``"auto"``.
        progress: callback, called with the number of examples finished.
        scaled: whether densities are those of the scaled values that the VAE sees. By default they
            are those of the data in their own units: standardizing and dividing change a density
            by a factor, which is undone.
        options: options of the method: ``temperatures``, ``leapfrog`` and ``start`` for ``ais`` and
            ``bdmc``, as for :func:`annealed`; for ``iw`` ``store``, a file from which an
            interrupted evaluation resumes.

    Returns:
        For ``iw`` an :class:`Evaluation`, for ``bdmc`` a :class:`MeanSandwich`, and a
        :class:`MeanEvidence` otherwise. In nats per example.

    Raises:
        TypeError: if the method does not have one of the options, or the data are no examples.
        ValueError: if there is no such method, it does not apply to the model, or the value of an
            option is outside its range.

    Warns:
        UserWarning: if log p(x) of some examples lies far below that of all others, with their
            rows; the means include them.

    Example:
        >>> result = evaluate(vae, data, samples=100)
        >>> result.elbo.value < result.log_evidence.value
        True
        >>> evaluate(vae, data, method="quadrature", limit=2).log_evidence.kind
        'exact to the error of integration'
    """
    check_choice("method", method, METHODS)
    own = {"proposal": proposal, "compile": compile}
    options |= {name: value for name, value in own.items() if value is not None}
    examples = None if data is None else as_examples(data)
    found = METHODS[method](
        vae,
        examples,
        samples=samples,
        limit=limit,
        seed=seed,
        progress=progress,
        scaled=scaled,
        **options,
    )
    if not isinstance(found, MeanSandwich):
        warn_of_rows(found.far_below, examples)
    return found


def _by_weighting(
    vae: VAE,
    data: Examples,
    proposal: str = "posterior",
    samples: int | None = None,
    limit: int | None = None,
    **rest: Any,
) -> Evaluation:
    samples = DRAWS if samples is None else samples
    if proposal == "auto":
        proposal = affordable([vae], number_of_examples(data, limit), samples)
    every = per_example(vae, data, samples=samples, proposal=proposal, limit=limit, **rest)
    return Evaluation.of(every, samples, results.kind(vae, data, samples, proposal))


def _by_example(
    name: str,
    function: Method,
    vae: VAE,
    data: Examples,
    limit: int | None = None,
    scaled: bool = False,
    **options: Any,
) -> MeanEvidence:
    found = function(vae, torch.cat(list(batches(data, READ, limit))), **options)
    found = _in_units(found, None if scaled else log_slope_of(data, limit))
    return MeanEvidence(
        method=name,
        log_evidence=found.mean(),
        details=found.ranges(),
        examples=len(found.log_evidence),
        per_example=found,
        far_below=far_below(found.log_evidence),
    )


def _by_simulation(
    vae: VAE,
    data: Examples | None,
    *,
    limit: int | None = None,
    scaled: bool = False,
    **options: Any,
) -> MeanSandwich:
    both = sandwich(vae, SIMULATED if limit is None else limit, **options)
    slopes = None if scaled else getattr(data, "log_slopes", None)
    slope = None if slopes is None else torch.tensor(slopes.sum())  # simulated rows have no gaps
    both = replace(both, lower=_in_units(both.lower, slope), upper=_in_units(both.upper, slope))
    return MeanSandwich(
        method="bdmc",
        lower=both.lower.mean(),
        upper=both.upper.mean(),
        gap=Estimate.of(both.upper.log_evidence - both.lower.log_evidence),
        examples=len(both.x),
        per_example=both,
    )


def _in_units(found: results.Evidence, slope: Tensor | None) -> results.Evidence:
    own = results.in_units({"log_evidence": found.log_evidence}, slope)["log_evidence"]
    return replace(found, log_evidence=own, details=results.in_units(found.details, slope))


METHODS: dict[str, Callable[..., Evaluation | MeanEvidence | MeanSandwich]] = {
    "iw": _by_weighting,
    "ais": partial(_by_example, "ais", annealed),
    "quadrature": partial(_by_example, "quadrature", integrated),
    "exact": partial(_by_example, "exact", exact),
    "bdmc": _by_simulation,
}
"""Every method of :func:`evaluate` by name, from the model and the data to a result."""
