r"""How far training has come: what it counts, saves and reports, and the history of its epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pyrovae.estimates import Result

__all__ = ["History", "Progress"]


@dataclass
class Progress:
    """How far training has come; ``report`` receives it after each step and each epoch.

    Attributes:
        epochs, steps_per_epoch: the plan.
        epoch, position, step: finished epochs, steps in the running one, steps in total.
        seconds: training time so far.
        images, epoch_seconds: examples and seconds of the running epoch.
        reconstruction, kl, objective: sums over these examples, in nats.
        best_epoch, best_validation_elbo: of the best validation bound; None before the first.
        stale: number of validation bounds since then.
        metrics: a dict for each finished epoch, see :class:`pyrovae.training.Fit`.

    Example:
        >>> from pyrovae.training import Progress
        >>> steps = []
        >>> def report(progress: Progress) -> None:
        ...     steps.append(progress.step)
        >>> fitted = pyrovae.fit(vae, x, epochs=2, batch_size=32, report=report)
        >>> sorted(set(steps))
        [0, 1, 2, 3, 4]
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

    def reach(
        self, step: int, *, images: int, objective: float, reconstruction: float, kl: float
    ) -> None:
        """Set how far the running epoch has come.

        Args:
            step: steps in total.
            images: examples of the epoch.
            objective, reconstruction, kl: sums over these examples, in nats.
        """
        self.step, self.position = step, step - self.epoch * self.steps_per_epoch
        self.images, self.objective = images, objective
        self.reconstruction, self.kl = reconstruction, kl

    def validate(self, elbo: float) -> bool:
        """Note a validation bound, and return whether it is the best so far."""
        best = self.best_validation_elbo
        self.stale += 1
        if best is not None and not elbo > best:
            return False
        self.best_validation_elbo, self.stale = elbo, 0
        return True

    def end_epoch(self, validation_elbo: float | None) -> None:
        """Add the running epoch, which ``epoch`` already counts, to ``metrics``; start the next.

        Args:
            validation_elbo: its validation bound; None where it was not measured.
        """
        self.metrics.append(
            {
                "epoch": self.epoch,
                "step": self.step,
                "elbo": (self.reconstruction - self.kl) / self.images,
                "reconstruction": self.reconstruction / self.images,
                "kl": self.kl / self.images,
                "objective": self.objective / self.images,
                "validation_elbo": validation_elbo,
                "seconds": round(self.seconds, 3),
                "images_per_second": round(self.images / self.epoch_seconds, 1),
            }
        )
        self.position = self.images = 0
        self.reconstruction = self.kl = self.objective = self.epoch_seconds = 0.0


class History(Result, eq=False):
    """The epochs of a training run, as columns of equal length.

    Attributes:
        epoch: number of the epoch, from 1.
        step: steps in total at its end.
        elbo, reconstruction, kl: the bound and its parts over the epoch's training examples, in
            nats per example.
        objective: the training objective, in nats per example.
        validation_elbo: validation bound; nan where it was not measured.
        seconds: training time since the start.
        images_per_second: examples per second in this epoch.

    Example:
        >>> history = pyrovae.fit(vae, x, epochs=2).history
        >>> history.elbo.shape, history.epoch.tolist()
        ((2,), [1, 2])
        >>> bool((history["elbo"] == history.reconstruction - history.kl).all())
        True
    """

    epoch: np.ndarray
    step: np.ndarray
    elbo: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    objective: np.ndarray
    validation_elbo: np.ndarray
    seconds: np.ndarray
    images_per_second: np.ndarray

    @classmethod
    def of(cls, metrics: Sequence[Mapping[str, Any]]) -> "History":
        """The columns of the rows of ``metrics``."""
        columns = {}
        for name in (column.name for column in fields(cls)):
            kind = np.int64 if name in ("epoch", "step") else np.float64
            columns[name] = np.array([row[name] for row in metrics], dtype=kind)
        return cls(**columns)

    def __getitem__(self, name: str) -> np.ndarray:
        """The column of a name."""
        if name not in (names := [column.name for column in fields(self)]):
            raise KeyError(f"no column {name!r}; the columns are {', '.join(names)}")
        column: np.ndarray = getattr(self, name)
        return column

    def __len__(self) -> int:
        """Return the number of epochs."""
        return len(self.epoch)

    def to_dict(self) -> dict[str, object]:
        """Lists by name; a validation bound that was not measured is None."""
        return {
            column.name: [None if value != value else value for value in self[column.name].tolist()]
            for column in fields(self)
        }

    def __repr__(self) -> str:
        names = ("epoch", "elbo", "reconstruction", "kl", "objective", "validation_elbo")
        widths = [max(len(name), 7) for name in names]
        shown = [*range(len(self))] if len(self) <= 6 else [0, 1, 2, -1, -2, -3]
        lines = [
            names,
            *((self.epoch[i], *(f"{self[n][i]:.2f}" for n in names[1:])) for i in shown),
        ]
        if len(self) > 6:
            lines[4:] = [("...", *[""] * (len(names) - 1)), *lines[:3:-1]]
        return "\n".join(
            "  ".join(
                f"{part!s:>{width}}" for part, width in zip(line, widths, strict=True)
            ).rstrip()
            for line in lines
        )
