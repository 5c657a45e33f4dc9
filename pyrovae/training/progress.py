r"""How far training has come: what it counts, saves and returns, and how it is shown.

Long computations show a live line in a terminal, and plain lines elsewhere.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import IO, Any, Self, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pyrovae._process import processes
from pyrovae._process.text import printable
from pyrovae.estimates import Estimate, Result

__all__ = ["Fit", "History", "Progress", "TrainingDisplay", "counting", "silenced"]

LINE_SECONDS = 10.0  # between lines where there is no terminal
WIDE = 100  # columns needed for a bar and full names


@dataclass
class Progress:
    """How far training has come; ``report`` receives it after each step and each epoch.

    Attributes:
        epochs, steps_per_epoch: the plan.
        epoch, position, step: finished epochs, steps in the running one, steps in total.
        seconds: training time so far.
        images, epoch_seconds: examples and seconds of the running epoch.
        reconstruction, kl, objective: sums over these examples, in nats.
        squares: sum over its batches of the square of the batch's bound, over the batch's size.
        best_epoch, best_validation_elbo: of the best validation bound; None before the first.
        best_validation_error: its standard error over the validation examples.
        stale: number of validation bounds since then.
        metrics: a dict for each finished epoch, see :class:`pyrovae.training.Fit`.
        log_slope: what turns a mean log density of scaled data into one of the data in their own
            units, in nats per example, see :meth:`pyrovae.data.Split.log_slope`.

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
    squares: float = 0.0
    best_epoch: int = 0
    best_validation_elbo: float | None = None
    best_validation_error: float | None = None
    stale: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    log_slope: float = 0.0

    def reach(self, step: int, images: int, sums: Sequence[float]) -> None:
        """Set how far the running epoch has come.

        Args:
            step: steps in total.
            images: examples of the epoch.
            sums: of objective, reconstruction and KL over these examples, in nats, and of the
                squares.
        """
        self.step, self.position = step, step - self.epoch * self.steps_per_epoch
        self.images = images
        self.objective, self.reconstruction, self.kl, self.squares = sums

    def means(self) -> tuple[float, float]:
        """Means of log p(x | z), in the units of the data, and of the KL term in this epoch."""
        return self.reconstruction / self.images + self.log_slope, self.kl / self.images

    def error(self) -> float | None:
        """Standard error of the epoch's mean bound, by how it varies between batches.

        The weights change meanwhile, which adds to it. None with fewer than two batches.
        """
        total = self.reconstruction - self.kl
        spread = self.squares - total * total / self.images  # of batches, weighted by their sizes
        if self.position < 2 or not spread > 0:
            return None
        return math.sqrt(spread / (self.position - 1) / self.images)

    def validate(self, elbo: float, error: float | None = None) -> bool:
        """Note a validation bound and its error, and return whether it is the best so far.

        A bound that is not finite, since an example has no density, is worse than any other one,
        and no better than those after it.
        """
        best = self.best_validation_elbo
        self.stale += 1
        if best is not None and math.isfinite(best) and not elbo > best:
            return False
        self.best_validation_elbo, self.best_validation_error, self.stale = elbo, error, 0
        return True

    def end_epoch(self, validation: Estimate | None) -> None:
        """Add the running epoch, which ``epoch`` already counts, to ``metrics``; start the next.

        Args:
            validation: its validation bound; None where it was not measured.
        """
        reconstruction, kl = self.means()
        self.metrics.append(
            {
                "epoch": self.epoch,
                "step": self.step,
                "elbo": reconstruction - kl,
                "elbo_error": self.error(),
                "reconstruction": reconstruction,
                "kl": kl,
                "objective": self.objective / self.images + self.log_slope,
                "validation_elbo": None if validation is None else validation.value,
                "validation_error": None if validation is None else validation.standard_error,
                "seconds": round(self.seconds, 3),
                "images_per_second": round(self.images / self.epoch_seconds, 1),
            }
        )
        self.position = self.images = 0
        self.reconstruction = self.kl = self.objective = self.squares = self.epoch_seconds = 0.0


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

    def __repr__(self) -> str:
        best = self.best_validation_elbo
        bound = "" if best is None else f", best_validation_elbo={best:.2f}"
        elbo = f"elbo={self.metrics[-1]['elbo']:.2f}, " if self.metrics else ""
        return (
            f"Fit({len(self.metrics)} epochs, {elbo}stopped={self.stopped!r}, "
            f"best_epoch={self.best_epoch}{bound}, seconds={self.seconds:.1f})"
        )


class TrainingDisplay:
    """A line that shows epoch, bound, its two parts, images per second and the time left.

    Args:
        about: a line about model and data, shown when training begins.
        console: by default standard error, in the first of several processes.

    Example:
        >>> from pyrovae.training import TrainingDisplay
        >>> with TrainingDisplay("64 digits") as display:
        ...     fitted = pyrovae.fit(vae, x, epochs=1, report=display)
    """

    def __init__(self, about: str, console: Console | None = None) -> None:
        self.about = about
        self.console = console or _standard_error()
        bar = [BarColumn(bar_width=16)] if self.console.width >= WIDE else []
        self.bars = _bars(self.console, *bar, TextColumn("{task.fields[numbers]}"))
        self.task = self.bars.add_task("starting", total=None, numbers="")
        self.live = self.console.is_terminal
        self.begun = False
        self.shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.begun:
            self.bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress, at most a few times a second, since this is called at every step."""
        now = time.monotonic()
        if not self.begun:
            self.begun = True
            _line(self.console, self.about)
            self.bars.start()
        ended = progress.epoch == progress.epochs
        if now - self.shown < (0.1 if self.live else LINE_SECONDS) and not ended:
            return
        self.shown = now
        epoch = f"epoch {min(progress.epoch + 1, progress.epochs)}/{progress.epochs}"
        total = progress.epochs * progress.steps_per_epoch
        if self.live:
            text = numbers(progress, self.console.width)
            self.bars.update(
                self.task, description=epoch, completed=progress.step, total=total, numbers=text
            )
        elif progress.step:
            left = progress.seconds / progress.step * (total - progress.step)
            _line(self.console, f"{epoch}  {numbers(progress)}  {_clock(left)} left")


def numbers(progress: Progress, width: int = 2 * WIDE) -> str:
    """The bound and its parts in nats per example, of the running epoch or else of the last one.

    Args:
        progress: of training.
        width: columns of the terminal; a narrow one gets short names.
    """
    if progress.images:
        reconstruction, kl = progress.means()
        error, speed = progress.error(), progress.images / max(progress.epoch_seconds, 1e-9)
    elif progress.metrics:
        last = progress.metrics[-1]
        reconstruction, kl = last["reconstruction"], last["kl"]
        error, speed = last.get("elbo_error"), last["images_per_second"]
    else:
        return ""
    name = "reconstruction" if width >= WIDE else "rec"
    text = (
        f"elbo {Estimate(reconstruction - kl, error):.2f} = {name} {reconstruction:.2f} - kl "
        f"{kl:.2f}  {speed:,.0f}{' images' if width >= WIDE else ''}/s"
    )
    if progress.best_validation_elbo is not None and width >= WIDE + 50:
        best = Estimate(progress.best_validation_elbo, progress.best_validation_error)
        text += f"  best validation elbo {best:.2f}"
    return text


@contextmanager
def counting(
    description: str, total: int, console: Console | None = None
) -> Iterator[Callable[[float], None]]:
    """Show how many of ``total`` items are finished: a bar in a terminal, else lines.

    Args:
        description: of the computation.
        total: number of items.
        console: by default standard error, in the first of several processes.

    Yields:
        A callback for the number of items finished since its last call, which may be a fraction.

    Example:
        >>> from pyrovae.training import counting
        >>> with counting("64 digits", 64) as progress:
        ...     progress(64)
    """
    console = console or _standard_error()
    finished = TextColumn("{task.completed:,.0f}/{task.total:,.0f}")
    bars = _bars(console, BarColumn(bar_width=16), finished)
    task = bars.add_task(description, total=total)
    started = shown = time.monotonic()
    done = 0.0

    def progress(count: float) -> None:
        nonlocal done, shown
        done += count
        bars.advance(task, count)
        now = time.monotonic()
        if not console.is_terminal and now - shown >= LINE_SECONDS:
            shown = now
            left = (now - started) / done * (total - done)
            _line(console, f"{description}  {done:,.0f}/{total:,}  {_clock(left)} left")

    with bars:
        yield progress


def _bars(console: Console, *columns: ProgressColumn) -> Bars:
    """A live line: a description, these columns, the time left; nothing outside a terminal."""
    columns = (TextColumn("{task.description}"), *columns, TimeRemainingColumn(compact=True))
    return Bars(*columns, console=console, disable=not console.is_terminal)


class _StandardError:
    """Standard error, whose terminal may be closed before a run has ended."""

    @property
    def _stream(self) -> Any:  # a live line of rich puts a proxy in its place
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    @property
    def encoding(self) -> str:
        return cast("str", self._stream.encoding)

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


_SILENT: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silenced() -> Iterator[None]:
    """Show no progress on standard error within the block.

    Example:
        >>> from pyrovae.training import TrainingDisplay, silenced
        >>> with silenced(), TrainingDisplay("64 digits") as display:
        ...     fitted = pyrovae.fit(vae, x, epochs=1, report=display)
    """
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


def _standard_error() -> Console:
    quiet = _SILENT.get() or not processes.is_first()
    return Console(file=cast("IO[str]", _StandardError()), quiet=quiet)


def _line(console: Console, text: str) -> None:
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
