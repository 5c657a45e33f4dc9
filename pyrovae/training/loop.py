"""The loop over epochs and steps: it validates, saves, and stops in time."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pyro.infer import ELBO, SVI
from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.interruption import AbandonedStep, after_step, held
from pyrovae._process.isolation import others
from pyrovae.data import Split
from pyrovae.evidence import evaluate
from pyrovae.objectives import recording
from pyrovae.training.checkpoint import TrainingCheckpoint
from pyrovae.training.device_step import DEVICES, DeviceStep
from pyrovae.training.loaders import Loaded, LoaderBatches
from pyrovae.training.optim import NonFiniteGradientError
from pyrovae.training.precision import products_in
from pyrovae.training.progress import Progress, TrainingDisplay
from pyrovae.training.running_statistics import renew_statistics
from pyrovae.training.staging import Staged
from pyrovae.training.steps import Batches, Requests, Step, Summed, resident_on

__all__ = ["TrainingDivergedError", "TrainingInterrupted"]

STAGING_TOLERANCE = {"float32": 1e-4, "bf16": 0.05}  # a compiler rounds to bf16 later
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
    """Training was stopped by a signal, such as Ctrl-C, after the running step was saved.

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
        train: the training data, or the loader that gives them.
        validation: data whose bound chooses the weights; None keeps the last weights.
        objective: a Pyro ELBO.
        max_seconds: the wall-clock time after which to stop.
        report: called with the progress after each step and epoch; None for nothing.
        has_statistics: whether averaged weights need running statistics of their own.
    """

    checkpoint: TrainingCheckpoint
    train: Split | Loaded
    validation: Split | None
    objective: ELBO
    max_seconds: float
    report: Callable[[Progress], None] | None
    has_statistics: bool
    requests: Requests = field(init=False)
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        self.state, self.options = self.checkpoint.state, self.checkpoint.state.options
        self.objective, self.record = recording(self.objective)
        vae = self.state.vae
        parts = (self.objective, vae.prior, vae.likelihood, vae.posterior)
        self.schedules = [part.at for part in parts if hasattr(part, "at")]

    def run(self) -> str:
        """Train to the end.

        Returns:
            Why it ended: ``"finished"``, ``"patience"`` or ``"max_minutes"``.

        Raises:
            TrainingDivergedError: if the gradient is not finite.
            TrainingInterrupted: on Ctrl-C, SIGTERM or SIGHUP.
        """
        progress = self.state.progress
        with after_step() as interrupted:
            self.requests = Requests(
                lambda: (interrupted.is_set(), progress.seconds > self.max_seconds)
            )
            with contextlib.closing(self._choose_step()) as self.step:
                stopped = self._run()
            if interrupted.is_set():  # too late to stop training, but not what follows it
                raise TrainingInterrupted
        return stopped

    def _choose_step(self) -> Step:
        """Choose how steps are run: once, before the first of them."""
        state, vae, where = self.state, self.state.vae, next(self.state.vae.parameters()).device
        batches: Batches | LoaderBatches
        resident = None
        if isinstance(self.train, Loaded):
            batches = LoaderBatches(self.train, state)
        else:
            resident = resident_on(where, self.train) if where.type in DEVICES else None
            batches = Batches(self.train, resident, state)
        staged: Staged | None = None
        loss = self.objective
        if (mode := self.checkpoint.settings["compile"]) != "off":
            share = len(range(processes.rank(), batches.whole, processes.count()))
            tolerance = STAGING_TOLERANCE[self.options.precision]
            loss = staged = Staged(loss, vae, mode=mode, size=share, tolerance=tolerance)
        if processes.count() > 1:
            loss = Summed(loss, vae, self.record, self.requests)
        svi = SVI(vae.model, vae.guide, state.optimizer, loss)
        alone = processes.count() == 1  # else there are sums within a step
        if staged is not None and resident is not None and isinstance(batches, Batches) and alone:
            capture = DEVICES[where.type]
            return DeviceStep(state, batches, svi, self.record, staged, resident, capture)
        return Step(state, batches, svi, self.record, staged)

    def _run(self) -> str:
        progress, stopped = self.state.progress, "finished"
        self.state.vae.train()
        try:
            self._report()
            saved = time.monotonic()
            while progress.epoch < progress.epochs and stopped == "finished":
                for index in self._batches():
                    self._step(index)
                    self._report()
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
                    self._report()
                    if self.requests()[0] and progress.epoch < progress.epochs:
                        self._interrupt()
                if self.options.patience is not None and progress.stale >= self.options.patience:
                    stopped = "patience"
            self.step.synchronize()
            if progress.best_epoch == 0:  # out of time before the first validation bound
                self._renew_statistics()
                self.state.keep()
            self._save()
        except AbandonedStep:
            self._interrupt()
        except NonFiniteGradientError as error:
            self.checkpoint.save()
            processes.wait()
            raise TrainingDivergedError(self._why_diverged()) from error
        processes.wait()  # another process may read these files, or end and so stop all
        return stopped

    def _batches(self) -> Iterator[Tensor]:
        """The batches that are left of the epoch, unless a signal has ended a loader's workers."""
        try:
            yield from self.step.batches.left(self.state.progress)
        except RuntimeError:
            if not self.requests()[0]:
                raise
            self._interrupt()

    def _report(self) -> None:
        """Report the progress, and let other threads go ahead, which the callback may wait for."""
        waits = self.report is not None and not isinstance(self.report, TrainingDisplay)
        with others(always=waits):
            if self.report is not None:
                self.report(self.state.progress)

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
        bound, best = None, self.validation is None
        due = progress.epoch % every == 0 or progress.epoch == progress.epochs
        if best or due:
            self._renew_statistics()
        if self.validation is not None and due:
            start = time.monotonic()
            result = evaluate(self.state.kept, self.validation, samples=1, seed=self.options.seed)
            bound = result.elbo
            best = progress.validate(bound.value, bound.standard_error)
            progress.seconds += time.monotonic() - start
        if best:
            self.state.keep()
            progress.best_epoch = progress.epoch
        progress.end_epoch(bound)

    def _renew_statistics(self) -> None:
        """Gather running statistics of the averaged weights, if the model has any."""
        if not self.has_statistics:
            return
        start, vae, batches = time.monotonic(), self.state.kept, self.step.batches
        whole = replace(self.state.progress, position=0)
        shares = (batches.share(each, place) for place, each in enumerate(batches.left(whole)))
        # a process may have no share of a small batch
        renew_statistics(vae, self.objective, (x for x in shares if len(x)))
        processes.from_first(list(vae.buffers()))
        self.state.progress.seconds += time.monotonic() - start

    def _save(self) -> None:
        with held():
            self.step.synchronize()
            self.checkpoint.save()

    def _interrupt(self) -> None:
        self._save()
        processes.wait()
        raise TrainingInterrupted

    def _why_diverged(self) -> str:
        progress, terms, folder = (
            self.state.progress,
            self.record.terms,
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
            f"too large for these data: lower it, set clip_norm (now {self.options.clip_norm}), or "
            "scale columns that are in units of their own (scaling standardize)"
            f"{kept}"
        )
