"""One step of training: as Pyro's ``SVI`` makes it, or as a replay of its tensor operations."""

from typing import Any, Protocol

import pyro
from pyro.infer import SVI
from torch import Tensor

from pyrovae._process import processes
from pyrovae.training.batches import Batches
from pyrovae.training.checkpoint import TrainingState
from pyrovae.training.staging import Staged


class Step(Protocol):
    """A way to make one step: move the weights, and count the step in the progress."""

    def __call__(self, index: Tensor) -> None:
        """Make a step on the batch at ``index``.

        Raises:
            NonFiniteGradientError: if the gradient is not finite; the weights are those before
                that step.
        """

    def synchronize(self) -> None:
        """Finish all steps, and bring weights and progress up to date.

        Raises:
            NonFiniteGradientError: as a step does.
        """

    def close(self) -> None:
        """Free what steps hold on the device."""


class EagerStep:
    """A step as ``SVI.step`` makes it.

    Each of several processes computes its share of the batch, with a random stream of its own.

    Args:
        state: the VAE, its optimizer and the progress.
        batches: the training data.
        svi: model, guide, optimizer and objective.
        record: the terms of the objective, see :func:`pyrovae.objectives.recording`.
    """

    def __init__(self, state: TrainingState, batches: Batches, svi: SVI, record: Any) -> None:
        self.state, self.batches, self.svi, self.record = state, batches, svi, record

    def __call__(self, index: Tensor) -> None:
        progress, average = self.state.progress, self.state.average
        x = self.batches.share(index, progress.step)
        self.state.optimizer.examples = len(index)
        self.state.optimizer.release()
        # Pyro checks shapes and supports at the first step; at every step that would cost time.
        with pyro.validation_enabled(progress.step == 0):
            loss = self._update(x)
        if average is not None:
            average.update()
        terms = self.record.terms
        progress.reach(
            progress.step + 1,
            images=progress.images + len(index),
            objective=progress.objective - loss,
            reconstruction=progress.reconstruction + float(terms.reconstruction),
            kl=progress.kl + float(terms.kl),
        )

    def _update(self, x: Tensor) -> float:
        return float(self.svi.step(x))

    def synchronize(self) -> None:
        """Do nothing: a step ends when it returns."""

    def close(self) -> None:
        """Do nothing: the device holds no more than the weights."""


class StagedStep(EagerStep):
    """A step whose loss and gradients are replayed, see :mod:`pyrovae.training.staging`.

    A replay uses the same parameters each time, so they need not be looked up as ``SVI.step`` does.
    A program that cannot be staged runs as ``SVI.step`` runs it.

    Args:
        state: the VAE, its optimizer and the progress.
        batches: the training data.
        svi: of the staged objective, which may be summed over processes.
        record: the terms of the objective.
        staged: the staged objective.
    """

    def __init__(
        self, state: TrainingState, batches: Batches, svi: SVI, record: Any, staged: Staged
    ) -> None:
        super().__init__(state, batches, svi, record)
        self.staged = staged

    def _update(self, x: Tensor) -> float:
        if self.staged.reason is not None:
            return super()._update(x)
        loss = float(self.svi.loss_and_grads(self.svi.model, self.svi.guide, x))
        optimizer, alone = self.state.optimizer, processes.count() == 1
        # with several processes the gradient is a sum, whose norm the replay has not computed
        optimizer(optimizer.parameters, norm=self.staged.norm if alone else None)
        return loss
