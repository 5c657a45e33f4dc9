r"""What a training leaves behind: its epochs as columns, and its outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from pyrovae.estimates import Result

__all__ = ["Fit", "History"]


class History(Result, eq=False):
    """The epochs of a training run, as columns of equal length.

    Attributes:
        epoch: number of the epoch, from 1.
        step: steps in total at its end.
        elbo, reconstruction, kl: the bound and its parts over the epoch's training examples, in
            nats per example.
        elbo_error: standard error of this bound, by its variation between batches; nan for one.
        objective: the training objective, in nats per example.
        validation_elbo: validation bound; nan where it was not measured.
        validation_error: its standard error over the validation examples.
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
    elbo_error: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    objective: np.ndarray
    validation_elbo: np.ndarray
    validation_error: np.ndarray
    seconds: np.ndarray
    images_per_second: np.ndarray

    @classmethod
    def of(cls, metrics: Sequence[Mapping[str, Any]]) -> "History":
        """The columns of the rows of ``metrics``; runs of older versions have no errors."""
        columns = {}
        for name in (column.name for column in fields(cls)):
            kind = np.int64 if name in ("epoch", "step") else np.float64
            of = (row.get(name) if name.endswith("error") else row[name] for row in metrics)
            columns[name] = np.array(list(of), dtype=kind)
        return cls(**columns)

    def __getitem__(self, name: str) -> np.ndarray:
        """The column of a name."""
        columns: dict[str, np.ndarray] = vars(self)
        if name not in columns:
            raise KeyError(f"no column {name!r}; the columns are {', '.join(columns)}")
        return columns[name]

    def __len__(self) -> int:
        """Return the number of epochs."""
        return len(self.epoch)

    def to_dict(self) -> dict[str, object]:
        """Lists by name; a validation bound that was not measured is None."""
        return {
            name: [None if value != value else value for value in column.tolist()]
            for name, column in vars(self).items()
        }

    def to_pandas(self) -> Any:
        """Columns of a data frame, a row for each epoch."""
        import pandas

        return pandas.DataFrame(vars(self))

    def _repr_html_(self) -> str:
        """A table for notebooks: the first and last epochs."""
        return str(self.to_pandas().round(2).to_html(max_rows=10, index=False, na_rep=""))

    def __repr__(self) -> str:
        names = ("epoch", "elbo", "reconstruction", "kl", "objective", "validation_elbo")
        rows = [
            (str(self.epoch[i]), *(f"{self[name][i]:.2f}" for name in names[1:]))
            for i in range(len(self))
        ]
        if len(rows) > 6:
            rows[3:-3] = [("...",)]
        return "\n".join(
            "  ".join(
                f"{part:>{max(len(name), 7)}}" for name, part in zip(names, row, strict=False)
            )
            for row in (names, *rows)
        )


class Fit(Result):
    """The outcome of a training run.

    Attributes:
        metrics: a dict for each epoch, with the names of :class:`History`, in nats per example;
            ``validation_elbo`` is None where it was not measured.
        stopped: why training ended: ``"finished"``, ``"patience"`` or ``"max_minutes"``.
        best_epoch: the epoch whose weights the VAE now has; 0 if time was up before the first
            validation bound, in which case the weights are those of the last step.
        best_validation_elbo: validation bound of these weights; None without validation data.
        best_validation_error: its standard error over the validation examples.
        seconds: training time, over all parts of a resumed run.

    Example:
        >>> pyrovae.fit(vae, x, epochs=2).history.validation_elbo
        array([nan, nan])
    """

    metrics: list[dict[str, Any]]
    stopped: str
    best_epoch: int
    best_validation_elbo: float | None
    best_validation_error: float | None
    seconds: float

    @property
    def history(self) -> History:
        """The metrics as columns, such as ``history.elbo``."""
        return History.of(self.metrics)

    def _repr_html_(self) -> str:
        """A table for notebooks: the first and last epochs."""
        return self.history._repr_html_()

    def __repr__(self) -> str:
        best = self.best_validation_elbo
        bound = "" if best is None else f", best_validation_elbo={best:.2f}"
        elbo = f"elbo={self.metrics[-1]['elbo']:.2f}, " if self.metrics else ""
        return (
            f"Fit({len(self.metrics)} epochs, {elbo}stopped={self.stopped!r}, "
            f"best_epoch={self.best_epoch}{bound}, seconds={self.seconds:.1f})"
        )
