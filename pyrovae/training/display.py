r"""Progress of long computations: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pyrovae._process import processes
from pyrovae.training.progress import Progress

__all__ = ["TrainingDisplay", "counting"]

LINE_SECONDS = 10.0  # between lines where there is no terminal
WIDE = 100  # columns needed for a bar and full names


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
        self.bars = Bars(
            TextColumn("{task.description}"),
            *bar,
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        self.task = self.bars.add_task("starting", total=None, numbers="")
        self.live = self.console.is_terminal
        self.begun = False
        self.shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live and self.begun:
            self.bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress, at most a few times a second, since this is called at every step."""
        now = time.monotonic()
        if not self.begun:
            self._begin()
        ended = progress.epoch == progress.epochs
        if now - self.shown < (0.1 if self.live else LINE_SECONDS) and not ended:
            return
        self.shown = now
        epoch = f"epoch {min(progress.epoch + 1, progress.epochs)}/{progress.epochs}"
        if self.live:
            total = progress.epochs * progress.steps_per_epoch
            self.bars.update(
                self.task,
                description=epoch,
                completed=progress.step,
                total=total,
                numbers=numbers(progress, self.console.width),
            )
        elif progress.step:
            left = progress.seconds / progress.step
            left *= progress.epochs * progress.steps_per_epoch - progress.step
            _line(self.console, f"{epoch}  {numbers(progress)}  {_clock(left)} left")

    def _begin(self) -> None:
        self.begun = True
        _line(self.console, self.about)
        if self.live:
            self.bars.start()


def numbers(progress: Progress, width: int = 2 * WIDE) -> str:
    """The bound and its parts in nats per example, of the running epoch or else of the last one.

    Args:
        progress: of training.
        width: columns of the terminal; a narrow one gets short names.
    """
    if progress.images:
        reconstruction = progress.reconstruction / progress.images
        kl = progress.kl / progress.images
        speed = progress.images / max(progress.epoch_seconds, 1e-9)
    elif progress.metrics:
        last = progress.metrics[-1]
        reconstruction, kl, speed = last["reconstruction"], last["kl"], last["images_per_second"]
    else:
        return ""
    name = "reconstruction" if width >= WIDE else "rec"
    text = (
        f"elbo {reconstruction - kl:.2f} = {name} {reconstruction:.2f} - kl {kl:.2f}  "
        f"{speed:,.0f} images/s"
    )
    if progress.best_validation_elbo is not None and width >= WIDE + 35:
        text += f"  best validation elbo {progress.best_validation_elbo:.2f}"
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
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )
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


def _standard_error() -> Console:
    return Console(stderr=True, quiet=not processes.is_first())


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
