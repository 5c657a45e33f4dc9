r"""What training, comparing and refitting find: the summary of a run, rows of models, changes."""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import NO_BOUND, EvidenceEstimate, WeightSummary
from pyrovae.runs.specs import Spec

__all__ = [
    "ComparedModel",
    "Comparison",
    "Paired",
    "PriorChange",
    "Refit",
    "SeedEstimate",
    "Summary",
]

KL_ESTIMATOR = "mean of log p_before(z) - log p_after(z), z ~ q(z | x), over the examples"


class Summary(Result):
    """Test bounds of a finished run in nats per example, and the outcome of its training.

    Attributes:
        elbo: evidence lower bound, reconstruction - kl.
        reconstruction: mean of log p(x | z).
        kl: KL(q(z | x) || p(z)).
        log_evidence: importance-weighted bound on log p(x).
        weights: diagnostics of its weights; None for one draw or a posterior without a density.
        examples: number of test examples.
        data: name of the dataset.
        parameters: number of parameters.
        stopped: why training ended: ``"finished"``, ``"patience"`` or ``"max_minutes"``.
        epochs: epochs of training.
        best_epoch: the epoch whose weights were kept.
        best_validation_elbo: their validation bound; None without validation data.
        seconds: training time.
        contents: everything that ``summary.json`` holds.

    Example:
        >>> from pyrovae.runs import Run, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network}
        >>> config, data = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> folder, vae, fitted = start(config, data, None)
        >>> summary = Run.open(folder).finish(vae, data, fitted, samples=2)
        >>> summary.data, summary.stopped, summary.elbo.value < 0
        ('digits', 'finished', True)
    """

    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    log_evidence: EvidenceEstimate
    weights: WeightSummary | None
    examples: int
    data: str
    parameters: int
    stopped: str
    epochs: int
    best_epoch: int
    best_validation_elbo: float | None
    seconds: float
    contents: Mapping[str, Any] = field(repr=False)

    @staticmethod
    def of(contents: Mapping[str, Any]) -> "Summary":
        """Read the contents of ``summary.json``.

        Raises:
            KeyError: if something is missing.
        """
        bound, weights = contents["log_evidence"], _weights(contents.get("weights"))
        error = None if weights is None else weights.sampling_error
        named = ("data", "parameters", "stopped", "epochs", "best_epoch", "seconds")
        return Summary(
            elbo=_estimate(contents["elbo"]),
            reconstruction=_estimate(contents["reconstruction"]),
            kl=_estimate(contents["kl"]),
            log_evidence=EvidenceEstimate(
                bound["estimate"], bound["standard_error"], error, bound["samples"], bound["kind"]
            ),
            weights=weights,
            examples=contents["images"],
            **{name: contents[name] for name in (*named, "best_validation_elbo")},
            contents=contents,
        )

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, as ``summary.json`` holds it."""
        return dict(self.contents)


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
            and where the two cannot be compared.

    Example:
        >>> from pyrovae.runs import ComparedModel, SeedEstimate
        >>> bound, kind = SeedEstimate(-20.5, 0.3, 0.3, None), "importance-weighted lower bound"
        >>> others = (kind, "density", "none", None, 2.0, 2, 1_000, 3.5, ["run"], [False], None)
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
        >>> bound, kind = SeedEstimate(-20.5, 0.3, 0.3, None), "importance-weighted lower bound"
        >>> others = (kind, "density", "none", None, 2.0, 2, 1_000, 3.5, ["run"], [False], None)
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
            "log p(x) at least": [f"{row.log_evidence:.2f}" for row in rows],
            f"against {rows[0].label}": [_cell(row.difference, "+.2f") for row in rows],
            "bits/dim": [_cell(row.bits_per_dimension, ".4f") for row in rows],
            "rate": [f"{row.rate:.2f}" for row in rows],
            "distortion": [f"{row.distortion:.2f}" for row in rows],
            "active": [f"{row.active_units:.3g} of {row.latent_dim}" for row in rows],
            "parameters": [f"{row.parameters:,}" for row in rows],
            "seconds": [f"{row.seconds:.0f}" for row in rows],
        }
        if len({row.chosen.get("likelihood") for row in rows}) == 1:
            del columns["bits/dim"]
        return columns


class Paired(Result):
    """A mean before and after, and the mean of the paired differences, in nats per example.

    Attributes:
        before, after: means over examples.
        change: mean of after minus before, with the standard error of paired values.

    Example:
        >>> from pyrovae.runs import Paired
        >>> Paired.of(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
        Paired(before=1.50 ± 0.50, after=2.50 ± 0.50, change=1.00 ± 0.00)
    """

    before: Estimate
    after: Estimate
    change: Estimate

    @staticmethod
    def of(before: Tensor, after: Tensor) -> "Paired":
        """Compare values ``(examples,)`` of the same examples."""
        return Paired(Estimate.of(before), Estimate.of(after), Estimate.of(after - before))


class PriorChange(Result):
    """The effect of another prior, in nats per example.

    Attributes:
        marginal_kl: change of KL(q(z) || p(z)).
        elbo: the evidence lower bound with each prior.
        log_evidence: the importance-weighted bound on log p(x) with each prior.
        kind: what ``log_evidence`` is, in words.
        samples: draws for each example.
        examples: number of examples.

    Example:
        >>> from pyrovae.runs import change
        >>> change(vae, vae, data, samples=10).marginal_kl
        0.00 ± 0.00
    """

    marginal_kl: Estimate
    elbo: Paired
    log_evidence: Paired
    kind: str
    samples: int
    examples: int

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with the estimator of the KL divergence named."""
        return {
            "marginal_kl": {"change": self.marginal_kl.to_dict(), "estimator": KL_ESTIMATOR},
            "elbo": self.elbo.to_dict(),
            "log_evidence": self.log_evidence.to_dict() | {"kind": self.kind},
            "samples": self.samples,
            "images": self.examples,
        }


class Refit(Result):
    """A run whose prior was replaced.

    Attributes:
        refit_from: folder of the original run.
        run: folder of the new one.
        before, after: specs of the two priors.
        parameters: number of parameters of the new prior.
        epochs: epochs of the fit.
        best_epoch: the epoch whose weights were kept.
        seconds: training time.
        seed: of the fit and of the draws.
        figure: path of the picture of samples from both priors.
        change: the effect on the test set.

    Example:
        >>> from pyrovae.runs import Refit, change
        >>> same = change(vae, vae, data, samples=10)
        >>> found = Refit("old", "new", "normal", "normal", 0, 1, 1, 0.2, 0, "new/refit.png", same)
        >>> found.change.marginal_kl
        0.00 ± 0.00
    """

    refit_from: str
    run: str
    before: str
    after: str
    parameters: int
    epochs: int
    best_epoch: int
    seconds: float
    seed: int
    figure: str
    change: PriorChange

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, as ``refit.json`` holds it."""
        plain = super().to_dict()
        prior = {when: plain.pop(when) for when in ("before", "after")}
        origin = {"refit_from": self.refit_from, "run": self.run, "prior": prior}
        del plain["change"]
        return origin | plain | self.change.to_dict()


def _estimate(number: Mapping[str, Any]) -> Estimate:
    return Estimate(number["estimate"], number["standard_error"])


def _weights(found: Mapping[str, Any] | None) -> WeightSummary | None:
    if found is None:
        return None
    return WeightSummary(
        at_a_tenth=None if found["at_a_tenth"] is None else _estimate(found["at_a_tenth"]),
        bias_corrected=_estimate(found["bias_corrected"]),
        sampling_error=found["sampling_error"],
        median_ess=found["ess"]["median"],
        minimum_ess=found["ess"]["minimum"],
        reliable_below=found.get("reliable_below", 0.7),  # of files written before it was kept
        unreliable=found["unreliable"],
        unreliable_error=found.get("unreliable_error"),
        largest_pareto_k=found["largest_pareto_k"],
    )


def _cell(estimate: Estimate | None, spec: str) -> str:
    return "" if estimate is None else format(estimate, spec)
