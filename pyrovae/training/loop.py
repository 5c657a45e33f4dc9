"""The loop over epochs and steps: it validates, saves, and stops in time."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pyrovae._process import processes
from pyrovae.data import Split
from pyrovae.evidence import evaluate
from pyrovae.training.checkpoint import TrainingCheckpoint
from pyrovae.training.optim import NonFiniteGradientError
from pyrovae.training.precision import products_in
from pyrovae.training.progress import Progress
from pyrovae.training.steps import Requests, Step

__all__ = ["TrainingDivergedError", "TrainingInterrupted"]

CHECKPOINT_SECONDS = 5.0  # about as much work as a kill can lose


class TrainingDivergedError(ArithmeticError):
    """The loss or its gradient is no longer finite.

    Example:
        >>> from pyrovae.training import TrainingDivergedError
        >>> try:
        ...     pyrovae.fit(vae, x, learning_rate=1e30)
        ... except TrainingDivergedError as error:
        ...     print(str(error)[:25])
        training diverged at step
    """


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C, after the running step was finished and saved.

    Example:
        >>> from pyrovae.training import TrainingInterrupted
        >>> issubclass(TrainingInterrupted, KeyboardInterrupt)
        True
    """


@dataclass
class TrainingLoop:
    """Steps and epochs until training is finished, stopped or interrupted.

    Args:
        checkpoint: saves the state.
        step: makes one step.
        validation: data whose bound chooses the weights; None keeps the last weights.
        schedules: called before each step with the fraction of all steps that is done.
        requests: whether to interrupt, and whether time is up; the same in every process.
        report: called with the progress after each step and epoch.
    """

    checkpoint: TrainingCheckpoint
    step: Step
    validation: Split | None
    schedules: Sequence[Callable[[float], None]]
    requests: Requests
    report: Callable[[Progress], None]

    def __post_init__(self) -> None:
        self.state, self.options = self.checkpoint.state, self.checkpoint.state.options

    def run(self) -> str:
        """Train to the end.

        Returns:
            Why it ended: ``"finished"``, ``"patience"`` or ``"max_minutes"``.

        Raises:
            TrainingDivergedError: if the gradient is not finite.
            TrainingInterrupted: on Ctrl-C.
        """
        progress, stopped = self.state.progress, "finished"
        self.state.vae.train()
        try:
            self.report(progress)
            saved = time.monotonic()
            while progress.epoch < progress.epochs and stopped == "finished":
                for index in self.step.batches.left(progress):
                    self._step(index)
                    self.report(progress)
                    interrupted, time_is_up = self.requests()
                    if interrupted:
                        self._interrupt()
                    if time_is_up:
                        stopped = "max_minutes"
                        break
                    if time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self._save()
                        saved = time.monotonic()
                if progress.position == progress.steps_per_epoch:
                    self._end_epoch()
                    self.report(progress)
                    if self.requests()[0] and progress.epoch < progress.epochs:
                        self._interrupt()
                if self.options.patience is not None and progress.stale >= self.options.patience:
                    stopped = "patience"
            self.step.synchronize()
            if progress.best_epoch == 0:  # out of time before the first validation bound
                self.state.keep()
            self._save()
        except NonFiniteGradientError as error:
            self.checkpoint.save()
            processes.wait()
            raise TrainingDivergedError(self._why_diverged()) from error
        processes.wait()  # another process may read these files, or end and so stop all
        return stopped

    def _step(self, index: Tensor) -> None:
        start = time.monotonic()
        progress = self.state.progress
        for set_schedule in self.schedules:
            set_schedule(progress.step / self.state.optimizer.total_steps)
        with products_in(self.options.precision, self.state.vae):
            self.step(index)
        elapsed = time.monotonic() - start
        progress.epoch_seconds += elapsed
        progress.seconds += elapsed

    def _end_epoch(self) -> None:
        progress, every = self.state.progress, self.options.validate_every
        progress.epoch += 1
        elbo, best = None, self.validation is None
        due = progress.epoch % every == 0 or progress.epoch == progress.epochs
        if self.validation is not None and due:
            start = time.monotonic()
            result = evaluate(self.state.kept, self.validation, samples=1, seed=self.options.seed)
            elbo = result.elbo.value
            best = progress.validate(elbo)
            progress.seconds += time.monotonic() - start
        if best:
            self.state.keep()
            progress.best_epoch = progress.epoch
        progress.end_epoch(elbo)

    def _save(self) -> None:
        self.step.synchronize()
        self.checkpoint.save()

    def _interrupt(self) -> None:
        self._save()
        processes.wait()
        raise TrainingInterrupted

    def _why_diverged(self) -> str:
        progress, terms, folder = (
            self.state.progress,
            self.step.record.terms,
            self.checkpoint.folder,
        )
        what = "the gradient is not finite"
        if not math.isfinite(float(terms.reconstruction)):
            what = f"log p(x | z) is {float(terms.reconstruction)}"
        elif not math.isfinite(float(terms.kl)):
            what = f"log q(z | x) - log p(z) is {float(terms.kl)}"
        kept = "" if folder is None else f"; the weights before that step are in {folder}"
        return (
            f"training diverged at step {progress.step + 1} (epoch {progress.epoch + 1}): {what}; "
            f"the most likely cause is a learning rate ({self.options.learning_rate:g}) that is "
            f"too large for these data: lower it, or set clip_norm (now {self.options.clip_norm})"
            f"{kept}"
        )
