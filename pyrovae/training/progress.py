r"""Where training is: what it counts, saves and reports."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Progress"]


@dataclass
class Progress:
    """Where training is; handed to ``report`` after each step and each epoch.

    Attributes:
        epochs, steps_per_epoch: the plan.
        epoch, position, step: finished epochs, steps into the running one, steps in all.
        seconds: spent so far.
        images, epoch_seconds: examples and seconds of the running epoch.
        reconstruction, kl, objective: sums over its examples, in nats.
        best_epoch, best_validation_elbo: of the best validation bound; None before there is one.
        stale: validation bounds since then.
        metrics: a dict per finished epoch, see :class:`pyrovae.training.Fit`.
    """

    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    images: int = 0
    epoch_seconds: float = 0.0
    reconstruction: float = 0.0
    kl: float = 0.0
    objective: float = 0.0
    best_epoch: int = 0
    best_validation_elbo: float | None = None
    stale: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
