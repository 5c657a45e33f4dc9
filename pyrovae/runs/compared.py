"""Models side by side: their means over examples and seeds, and their differences."""

import math
from collections.abc import Mapping
from typing import ClassVar

from scipy.stats import t
from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import NO_BOUND
from pyrovae.runs.specs import Spec

__all__ = ["ComparedModel", "Comparison", "SeedEstimate"]


class SeedEstimate(Estimate):
    r"""A mean over examples and over runs with different seeds, in nats per example.

    The error has a part :math:`s_x` due to the examples, with :math:`n - 1` degrees of freedom, and
    a part :math:`s_r` due to the seeds, with as many as there are seeds, less one. The degrees of
    freedom of both together are those of Welch and Satterthwaite. With two or three seeds these are
    too many, for :math:`s_r` is often far too small. So the interval takes the quantile of Cochran:
    the mean of the quantiles of both parts, weighted by :math:`s_x^2` and :math:`s_r^2`.

    References:
        Welch (1947), The Generalization of "Student's" Problem when Several Different Population
        Variances are Involved, Biometrika 34; Satterthwaite (1946), An Approximate Distribution of
        Estimates of Variance Components, Biometrics Bulletin 2; Cochran (1964), Approximate
        Significance Levels of the Behrens-Fisher Test, Biometrics 20

    Attributes:
        over_examples: the part of the standard error due to the examples; None for a single one.
        over_seeds: the part due to the seeds; None for a single one.
        degrees_of_freedom: of the standard error; None where there is none.
        interval: ends of a 95% t interval for the mean over all examples and seeds, or for this
            seed if there is one; None where there is no standard error.

    Example:
        >>> from pyrovae.runs import SeedEstimate
        >>> found = SeedEstimate.from_runs(torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
        >>> found
        2.50 ± 1.12
        >>> low, high = found.interval
        >>> f"{found.degrees_of_freedom:.2f} degrees of freedom: {low:.1f} to {high:.1f}"
        '1.47 degrees of freedom: -11.7 to 16.7'
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"value": "estimate", "over_examples": "over_images"}

    over_examples: float | None
    over_seeds: float | None
    degrees_of_freedom: float | None
    interval: tuple[float, float] | None

    @staticmethod
    def from_runs(values: Tensor) -> "SeedEstimate":
        """The mean of ``values`` ``(seeds, examples)``, and its standard error over both."""
        mean = values.mean().item()
        over_examples = Estimate.of(values.mean(0)).standard_error
        over_seeds = Estimate.of(values.mean(1)).standard_error
        counts = (over_examples, values.shape[1]), (over_seeds, values.shape[0])
        parts = [(error**2, count - 1) for error, count in counts if error is not None]
        variance = sum(part for part, _ in parts)
        if not variance:
            error = 0.0 if parts else None
            interval = (mean, mean) if parts else None
            return SeedEstimate(mean, error, over_examples, over_seeds, None, interval)
        freedom = variance**2 / sum(part**2 / count for part, count in parts)
        quantile = sum(part * t.ppf(0.975, count) for part, count in parts) / variance
        error = math.sqrt(variance)
        interval = mean - quantile * error, mean + quantile * error
        return SeedEstimate(mean, error, over_examples, over_seeds, freedom, interval)


class ComparedModel(Result):
    """One model of a comparison; estimates are in nats per example.

    Attributes:
        chosen: the spec of each varied role.
        log_evidence: importance-weighted bound on log p(x).
        rise: mean of ``log_evidence`` minus the same bound from a tenth of the draws, over examples
            and seeds: a bound that still rises by more than the models differ does not rank them.
            None below ten draws, and where there is no bound.
        elbo: evidence lower bound.
        rate: KL(q(z | x) || p(z)).
        distortion: minus the mean of log p(x | z).
        kind: what ``log_evidence`` is, in words.
        measure: ``"probability"`` or ``"density"``, as x is discrete or continuous, or which
            columns of a table have which.
        treatment: how the data were made binary, in words; scaling does not matter, since densities
            are of the data in their own units.
        bits_per_dimension: ``log_evidence`` in this unit; None for a density.
        active_units: latent dimensions in use, mean over seeds.
        latent_dim: latent dimensions in total.
        parameters: number of parameters.
        seconds: training time, mean over seeds.
        runs: folders of its runs.
        reused: for each run, whether it had been trained before.
        difference: paired difference of ``log_evidence`` from the first model; None for the first,
            and where the two cannot be compared. To say whether it could be chance, take its
            ``interval``: with few seeds, two standard errors are not 95 %.

    Example:
        >>> from pyrovae.runs import ComparedModel, SeedEstimate
        >>> bound = SeedEstimate.from_runs(torch.tensor([[-20.8, -20.2]]))
        >>> kind = "importance-weighted lower bound"
        >>> others = (kind, "density", "none", None, 2.0, 2, 1_000, 3.5, ["run"], [False], None)
        >>> ComparedModel({"prior": "flow"}, bound, None, bound, bound, bound, *others)
        flow: log p(x) at least -20.50 ± 0.30
    """

    chosen: Mapping[str, str]
    log_evidence: SeedEstimate
    rise: SeedEstimate | None
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

    def against_first(self) -> str:
        """The difference from the first model and its interval, in words; empty without one."""
        if self.difference is None:
            return ""
        interval = _interval(self.difference)
        return f"{self.difference.value:+.2f}" + (f" ({interval})" if interval else "")

    def is_comparable(self, other: "ComparedModel") -> bool:
        """Whether both evaluate the same x, and both densities or probabilities."""
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
        >>> bound = SeedEstimate.from_runs(torch.tensor([[-20.8, -20.2]]))
        >>> kind = "importance-weighted lower bound"
        >>> others = (kind, "density", "none", None, 2.0, 2, 1_000, 3.5, ["run"], [False], None)
        >>> row = ComparedModel({"prior": "flow"}, bound, None, bound, bound, bound, *others)
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
        kinds = (row.kind.partition(", ") for row in self.rows)
        fitted = next((f" {words}" for *_, words in kinds if words), "")
        seeds = f" and {self.seeds} seeds" if self.seeds > 1 else ", of one seed"
        about = (
            f"{self.data}, {self.examples:,} test examples, {self.samples:,} samples each"
            f"{fitted}; nats per example, +- standard error over examples{seeds}"
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
            "log p(x) at least": [f"{row.log_evidence:.2f}" for row in rows],
            "rise": [_cell(row.rise, "+.2f").partition(" ")[0] for row in rows],
            f"against {rows[0].label}": [_cell(row.difference, "+.2f") for row in rows],
            "95% interval": [_interval(row.difference) for row in rows],
            "df": [_freedom(row.difference) for row in rows],
            "bits/dim": [_cell(row.bits_per_dimension, ".4f") for row in rows],
            "rate": [f"{row.rate:.2f}" for row in rows],
            "distortion": [f"{row.distortion:.2f}" for row in rows],
            "active": [f"{row.active_units:.3g} of {row.latent_dim}" for row in rows],
            "parameters": [f"{row.parameters:,}" for row in rows],
            "seconds": [f"{row.seconds:.0f}" for row in rows],
        }
        if not any(row.difference for row in rows):
            del columns["95% interval"], columns["df"]
        if len({row.chosen.get("likelihood") for row in rows}) == 1 or not any(columns["bits/dim"]):
            del columns["bits/dim"]
        return columns


def _cell(estimate: Estimate | None, spec: str) -> str:
    return "" if estimate is None else format(estimate, spec)


def _interval(estimate: SeedEstimate | None) -> str:
    if estimate is None or estimate.interval is None:
        return ""
    return "{:+.2f} to {:+.2f}".format(*estimate.interval)


def _freedom(estimate: SeedEstimate | None) -> str:
    if estimate is None or estimate.degrees_of_freedom is None:
        return ""
    return f"{estimate.degrees_of_freedom:.1f}"
