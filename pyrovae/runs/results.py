r"""What training and refitting find: the summary of a run, and the change by another prior."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import EvidenceEstimate, WeightSummary

__all__ = [
    "Paired",
    "PriorChange",
    "Refit",
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
        best_validation_error: its standard error over examples; None in runs of older versions.
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
    best_validation_error: float | None
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
            best_validation_error=contents.get("best_validation_error"),
            contents=contents,
        )

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, as ``summary.json`` holds it."""
        return dict(self.contents)


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
