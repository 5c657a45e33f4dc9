r"""Progress of long work on standard error: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pyrovae.training import Progress

__all__ = ["TrainingDisplay", "counting"]

LINE_SECONDS = 10.0  # between lines where there is no terminal


class TrainingDisplay:
    """Shows epoch, bound, its two parts, images per second and the time left.

    Args:
        console: where to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        self.task = self.bars.add_task("starting", total=None, numbers="")
        self.live = self.console.is_terminal
        self.shown = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Take note of where training is; cheap, for it is called at every step."""
        now = time.monotonic()
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
                numbers=numbers(progress),
            )
        elif progress.step:
            left = progress.seconds / progress.step
            left *= progress.epochs * progress.steps_per_epoch - progress.step
            self.console.print(f"{epoch}  {numbers(progress)}  {left:.0f} s left", highlight=False)


def numbers(progress: Progress) -> str:
    """The bound and its parts in nats per example: of the running epoch, or else of the last."""
    if progress.images:
        reconstruction = progress.reconstruction / progress.images
        kl = progress.kl / progress.images
        speed = progress.images / max(progress.epoch_seconds, 1e-9)
    elif progress.metrics:
        last = progress.metrics[-1]
        reconstruction, kl, speed = last["reconstruction"], last["kl"], last["images_per_second"]
    else:
        return ""
    text = (
        f"elbo {reconstruction - kl:.2f} = reconstruction {reconstruction:.2f} - kl {kl:.2f}  "
        f"{speed:,.0f} images/s"
    )
    if progress.best_validation_elbo is not None:
        text += f"  best validation elbo {progress.best_validation_elbo:.2f}"
    return text


@contextmanager
def counting(description: str, total: int) -> Iterator["Counter"]:
    """Show how many of ``total`` are done, where standard error is a terminal.

    Args:
        description: what is done to them.
        total: how many there are.
    """
    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        yield Counter(bars, bars.add_task(description, total=total))


class Counter:
    """Told how many more are done."""

    def __init__(self, bars: Bars, task: object) -> None:
        self.bars, self.task = bars, task

    def __call__(self, count: int) -> None:
        self.bars.advance(self.task, count)  # type: ignore[arg-type]
