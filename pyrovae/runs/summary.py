r"""The summary of a finished run: its test bounds and how it was trained."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import EvidenceEstimate, WeightSummary

__all__ = ["Summary"]


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
        evidence, weights = contents["log_evidence"], _weights(contents.get("weights"))
        return Summary(
            elbo=_estimate(contents["elbo"]),
            reconstruction=_estimate(contents["reconstruction"]),
            kl=_estimate(contents["kl"]),
            log_evidence=EvidenceEstimate(
                evidence["estimate"],
                evidence["standard_error"],
                None if weights is None else weights.sampling_error,
                evidence["samples"],
                evidence["kind"],
            ),
            weights=weights,
            examples=contents["images"],
            data=contents["data"],
            parameters=contents["parameters"],
            stopped=contents["stopped"],
            epochs=contents["epochs"],
            best_epoch=contents["best_epoch"],
            best_validation_elbo=contents["best_validation_elbo"],
            seconds=contents["seconds"],
            contents=contents,
        )

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, as ``summary.json`` holds it."""
        return dict(self.contents)


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
        unreliable=found["unreliable"],
        largest_pareto_k=found["largest_pareto_k"],
    )
