r"""Results: log p(x) of each example by one method, and its mean over a dataset."""

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence.lower_bounds import NO_BOUND, WeightedBounds
from pyrovae.evidence.weights import WeightSummary

__all__ = [
    "Evaluation",
    "Evidence",
    "EvidenceEstimate",
    "MeanEvidence",
    "MeanSandwich",
    "Range",
    "Sandwich",
]


class Range(Result):
    """Median and extremes of one number for each example.

    Example:
        >>> Range.of(torch.tensor([3.0, 1.0, 2.0]))
        Range(median=2, minimum=1, maximum=3)
    """

    median: float
    minimum: float
    maximum: float

    @staticmethod
    def of(values: Tensor) -> "Range":
        """The range of ``values`` ``(examples,)``."""
        median = values.double().median().item()
        return Range(median, values.min().item(), values.max().item())


class EvidenceEstimate(Estimate):
    """Mean of log p(x) over examples, in nats.

    Attributes:
        value: the mean.
        standard_error: its standard error, None for a single example. It includes both the
            variation between examples and the error of each of them.
        sampling_error: the part that is due to sampling (or quadrature) alone; None if it is not
            known.
        samples: draws, chains or values of z for each example; None where none are made.
        kind: whether the numbers are exact, estimates, or which kind of bound.

    Example:
        >>> pyrovae.evaluate(vae, data, samples=10).log_evidence.kind
        'importance-weighted lower bound'
    """

    sampling_error: float | None
    samples: int | None
    kind: str

    def __repr__(self) -> str:
        return f"{super().__repr__()} ({self.kind})"


class Evidence(Result):
    """log p(x) of each example by one method, in nats.

    Attributes:
        log_evidence: ``(examples,)``.
        standard_error: ``(examples,)``, the error of the method for a given example, from sampling
            or quadrature; zero for a formula.
        kind: whether the numbers are exact, estimates, or which kind of bound.
        samples: draws, chains or values of z for each example; None where none are made.
        details: further results for each example by name, each ``(examples, ...)``.

    Example:
        >>> pyrovae.evidence.integrated(vae, x[:2]).mean().kind
        'exact to the error of integration'
    """

    log_evidence: Tensor
    standard_error: Tensor
    kind: str
    samples: int | None
    details: dict[str, Tensor]

    def mean(self) -> EvidenceEstimate:
        """Average over examples."""
        mean = Estimate.of(self.log_evidence)
        error = self.standard_error.norm().item() / len(self.standard_error)
        return EvidenceEstimate(mean.value, mean.standard_error, error, self.samples, self.kind)

    def ranges(self) -> dict[str, Range]:
        """Median and extremes of the details that are one number for each example."""
        return {name: Range.of(each) for name, each in self.details.items() if each.dim() == 1}

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        values = {"log_evidence": self.log_evidence, "standard_error": self.standard_error}
        return values | self.details


class Sandwich(Result):
    """Two bounds on log p(x) for examples that were drawn from the model.

    Attributes:
        lower: annealed importance sampling from the prior or q to the posterior.
        upper: the same path backwards, from the z that x was drawn from.
        x: the examples ``(examples, *event_shape)``.

    Example:
        >>> both = pyrovae.evidence.sandwich(vae, 4, samples=4, temperatures=20)
        >>> both.lower.log_evidence.shape, both.x.shape
        (torch.Size([4]), torch.Size([4, 1, 8, 8]))
    """

    lower: Evidence
    upper: Evidence
    x: Tensor

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        sides = {"lower": self.lower, "upper": self.upper}
        named = {
            f"{side}_{name}": array
            for side, found in sides.items()
            for name, array in found.arrays().items()
        }
        return named | {"x": self.x}


class Evaluation(Result):
    """Mean bounds over a dataset from draws of q(z | x), in nats per example.

    Attributes:
        elbo: the evidence lower bound, reconstruction - kl.
        reconstruction: log p(x | z) under q.
        kl: KL(q(z | x) || p(z)).
        log_evidence: the importance-weighted bound on log p(x).
        weights: diagnostics of its weights; None for one draw or a posterior without a density.
        examples: number of examples.
        per_example: the same numbers for each example.

    Example:
        >>> result = pyrovae.evaluate(vae, data, samples=100)
        >>> result.elbo.value < result.log_evidence.value
        True
        >>> result.per_example.elbo.shape
        torch.Size([64])
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}

    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    log_evidence: EvidenceEstimate
    weights: WeightSummary | None
    examples: int
    per_example: WeightedBounds = field(repr=False, compare=False)

    @staticmethod
    def of(bounds: WeightedBounds, samples: int, kind: str) -> "Evaluation":
        """Average over examples.

        Args:
            bounds: as :func:`per_example` returns them.
            samples: draws for each example.
            kind: as :func:`kind` returns it.
        """
        weights = bounds.summary() if samples > 1 and kind != NO_BOUND else None
        mean, error = Estimate.of(bounds.log_evidence), None
        if weights is not None:
            error = weights.sampling_error
        return Evaluation(
            elbo=Estimate.of(bounds.elbo),
            reconstruction=Estimate.of(bounds.reconstruction),
            kl=Estimate.of(bounds.kl),
            log_evidence=EvidenceEstimate(mean.value, mean.standard_error, error, samples, kind),
            weights=weights,
            examples=len(bounds.elbo),
            per_example=bounds,
        )

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with the sampling error under ``weights`` only."""
        evidence = self.log_evidence.to_dict()
        del evidence["sampling_error"]
        return super().to_dict() | {"log_evidence": evidence}


class MeanEvidence(Result):
    """Mean of log p(x) over a dataset by one method, in nats per example.

    Attributes:
        method: name of the method.
        log_evidence: the mean.
        details: range over examples of each further result.
        examples: number of examples.
        weights: diagnostics of importance weights, for draws from a fitted mixture.
        per_example: the same numbers for each example.

    Example:
        >>> result = pyrovae.evaluate(vae, data, method="quadrature", limit=2)
        >>> result.examples, result.per_example.log_evidence.shape
        (2, torch.Size([2]))
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}

    method: str
    log_evidence: EvidenceEstimate
    details: Mapping[str, Range]
    examples: int
    weights: WeightSummary | None
    per_example: Evidence = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, without ``weights`` where there are none."""
        found = super().to_dict()
        return {name: value for name, value in found.items() if name != "weights" or value}


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

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}

    method: str
    lower: EvidenceEstimate
    upper: EvidenceEstimate
    gap: Estimate
    examples: int
    per_example: Sandwich = field(repr=False, compare=False)
