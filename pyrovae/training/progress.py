r"""How far training has come: what it counts, saves and returns, and how it is shown.

Long computations show a live line in a terminal, and plain lines elsewhere.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO, Any, Self, cast

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pyrovae._process import processes
from pyrovae._process.text import printable
from pyrovae.estimates import Estimate

__all__ = ["Progress", "TrainingDisplay", "counting", "silenced"]

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
