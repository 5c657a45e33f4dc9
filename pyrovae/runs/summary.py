r"""The summary of a finished run: its test bounds and how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrovae.estimates import Estimate, Result

__all__ = ["Summary"]


@dataclass(frozen=True, repr=False)
class Summary(Result):
    """Test bounds of a finished run in nats per example, and the outcome of its training.

    Attributes:
        elbo: evidence lower bound, reconstruction - kl.
        reconstruction: mean of log p(x | z).
        kl: KL(q(z | x) || p(z)).
        log_evidence: importance-weighted bound on log p(x).
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
    log_evidence: Estimate
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
        names = ("elbo", "reconstruction", "kl", "log_evidence")
        bounds = {
            name: Estimate(contents[name]["estimate"], contents[name]["standard_error"])
            for name in names
        }
        return Summary(
            **bounds,
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
