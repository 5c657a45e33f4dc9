r"""What a comparison finds: a row for each model, and the table that is printed."""

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import NO_BOUND
from pyrovae.runs.specs import Spec

__all__ = ["ComparedModel", "Comparison", "SeedEstimate"]


class SeedEstimate(Estimate):
    """A mean over examples and over runs with different seeds, in nats per example.

    Attributes:
        over_examples: the part of the standard error due to the examples; None for a single one.
        over_seeds: the part due to the seeds; None for a single one.

    Example:
        >>> from pyrovae.runs import SeedEstimate
        >>> SeedEstimate.from_runs(torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
        2.50 ± 1.12
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"value": "estimate", "over_examples": "over_images"}

    over_examples: float | None
    over_seeds: float | None

    @staticmethod
    def from_runs(values: Tensor) -> "SeedEstimate":
        """The mean of ``values`` ``(seeds, examples)``, and its standard error over both."""
        over_examples = Estimate.of(values.mean(0)).standard_error
        over_seeds = Estimate.of(values.mean(1)).standard_error
        parts = [part for part in (over_examples, over_seeds) if part is not None]
        error = math.hypot(*parts) if parts else None
        return SeedEstimate(values.mean().item(), error, over_examples, over_seeds)


class ComparedModel(Result):
    """One model of a comparison; estimates are in nats per example.

    Attributes:
        chosen: the spec of each varied role.
        log_evidence: importance-weighted bound on log p(x).
        elbo: evidence lower bound.
        rate: KL(q(z | x) || p(z)).
        distortion: minus the mean of log p(x | z).
        kind: what ``log_evidence`` is, in words.
        measure: ``"probability"`` or ``"density"``, as x is discrete or continuous.
        treatment: how the data were prepared, in words.
        bits_per_dimension: ``log_evidence`` in this unit; None for a density.
        active_units: latent dimensions in use, mean over seeds.
        latent_dim: latent dimensions in total.
        parameters: number of parameters.
        seconds: training time, mean over seeds.
        runs: folders of its runs.
        reused: for each run, whether it had been trained before.
        difference: paired difference of ``log_evidence`` from the first model; None for the first,
            and where the two cannot be compared.

    Example:
        >>> from pyrovae.runs import ComparedModel, SeedEstimate
        >>> bound, kind = SeedEstimate(-20.5, 0.3, 0.3, None), "importance-weighted lower bound"
        >>> others = (kind, "density", "unit", None, 2.0, 2, 1_000, 3.5, ["run"], [False], None)
        >>> ComparedModel({"prior": "flow"}, bound, bound, bound, bound, *others)
        flow: log p(x) at least -20.50 ± 0.30
    """

    chosen: Mapping[str, str]
    log_evidence: SeedEstimate
    elbo: SeedEstimate
    rate: SeedEstimate
    distortion: SeedEstimate
    kind: str
    measure: str
    treatment: str
    bits_per_dimension: SeedEstimate | None
    active_units: float
    latent_dim: int
    parameters: int
    seconds: float
    runs: list[str]
    reused: list[bool]
    difference: SeedEstimate | None

    @property
    def label(self) -> str:
        """The varied specs, joined by commas."""
        return ", ".join(self.chosen.values())

    def is_comparable(self, other: "ComparedModel") -> bool:
        """Whether both evaluate the same treatment of x, and both densities or probabilities."""
        return (self.measure, self.treatment) == (other.measure, other.treatment)

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with the varied roles as keys."""
        plain = super().to_dict()
        del plain["chosen"]
        return dict(self.chosen) | plain

    def __repr__(self) -> str:
        return f"{self.label}: log p(x) at least {self.log_evidence}"


class Comparison(Result):
    """Models that differ in some components, trained and evaluated alike.

    Attributes:
        folder: where the runs are.
        data: name of the dataset.
        examples: number of test examples.
        samples: draws for each of them.
        seeds: runs per model.
        varied: the roles that differ.
        left_out: a line for each combination whose parts do not fit.
        rows: one for each model.

    Example:
        >>> from pyrovae.runs import ComparedModel, Comparison, SeedEstimate
        >>> bound, kind = SeedEstimate(-20.5, 0.3, 0.3, None), "importance-weighted lower bound"
        >>> others = (kind, "density", "unit", None, 2.0, 2, 1_000, 3.5, ["run"], [False], None)
        >>> row = ComparedModel({"prior": "flow"}, bound, bound, bound, bound, *others)
        >>> found = Comparison("runs/compare", "digits", 359, 100, 1, ["prior"], [], [row])
        >>> print(found.table()[0])
        digits, 359 test examples, 100 samples each; nats per example, +- standard error over
        examples, of one seed
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}

    folder: str
    data: str
    examples: int
    samples: int
    seeds: int
    varied: list[str]
    left_out: list[str]
    rows: list[ComparedModel]

    def betas(self) -> list[float]:
        """Weights of the KL term, if nothing but these differs between the models.

        Returns:
            One for each row; empty if another component differs, or a weight occurs twice.
        """
        if self.varied != ["objective"]:
            return []
        specs = [Spec.parse(row.chosen["objective"]) for row in self.rows]
        if any(spec.name != "beta" for spec in specs):
            return []
        weights = [float(spec.options.get("beta", 1.0)) for spec in specs]
        return weights if len(set(weights)) == len(weights) > 1 else []

    def table(self) -> list[str]:
        """The lines that ``pyrovae compare`` prints."""
        seeds = f" and {self.seeds} seeds" if self.seeds > 1 else ", of one seed"
        about = (
            f"{self.data}, {self.examples:,} test examples, {self.samples:,} samples each; nats "
            f"per example, +- standard error over examples{seeds}"
        )
        lines = [about]
        columns = self._columns()
        widths = [max(map(len, [title, *cells])) for title, cells in columns.items()]
        for cells in [list(columns), *zip(*columns.values(), strict=True)]:
            first, *others = zip(cells, widths, strict=True)
            line = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
            lines.append("  ".join(line).rstrip())
        lines += [f"{row.label}: {row.kind}" for row in self.rows if row.kind == NO_BOUND]
        apart = [row.label for row in self.rows if not row.is_comparable(self.rows[0])]
        if apart:
            lines.append(
                f"not to be compared with {self.rows[0].label}, since the data are treated in "
                f"another way or one is a density and the other a probability: {', '.join(apart)}"
            )
        return lines

    def _columns(self) -> dict[str, list[str]]:
        rows = self.rows
        columns = {
            ", ".join(self.varied): [row.label for row in rows],
            "log p(x) at least": [_plus_minus(row.log_evidence) for row in rows],
            f"against {rows[0].label}": [_plus_minus(row.difference, "+") for row in rows],
            "bits/dim": [_plus_minus(row.bits_per_dimension, digits=4) for row in rows],
            "rate": [_plus_minus(row.rate) for row in rows],
            "distortion": [_plus_minus(row.distortion) for row in rows],
            "active": [f"{row.active_units:.3g} of {row.latent_dim}" for row in rows],
            "parameters": [f"{row.parameters:,}" for row in rows],
            "seconds": [f"{row.seconds:.0f}" for row in rows],
        }
        if len({row.chosen.get("likelihood") for row in rows}) == 1:
            del columns["bits/dim"]
        return columns


def _plus_minus(estimate: Estimate | None, sign: str = "", digits: int = 2) -> str:
    if estimate is None:
        return ""
    error = estimate.standard_error
    plus_minus = "" if error is None else f" +- {error:.{digits}f}"
    return f"{estimate.value:{sign}.{digits}f}{plus_minus}"
