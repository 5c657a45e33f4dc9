"""One step of training: its batch, how it is made, and how several processes share it."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor, nn

from pyrovae._process import processes
from pyrovae._process.choices import check_choice
from pyrovae._process.isolation import seed_device, stream
from pyrovae._process.processes import StoppedError, is_first, joined
from pyrovae.data import Resident, Split
from pyrovae.objectives import Terms
from pyrovae.training.checkpoint import TrainingState
from pyrovae.training.loaders import LoaderBatches
from pyrovae.training.progress import Progress
from pyrovae.training.staging import Staged, Wrapped

__all__ = ["StoppedError", "is_first", "joined"]

RESIDENT_SHARE = 0.25  # largest share of a GPU's memory that training data may take


def training_device(name: str) -> torch.device:
    """The device that trains; with several processes, each has a GPU to itself.

    Args:
        name: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: for another name, or if there are too few GPUs.
    """
    check_choice("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or processes.count() == 1:
        return torch.device(name)
    if processes.local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"there are fewer GPUs ({torch.cuda.device_count()}) than processes on this machine; "
            "start one for each GPU, or set device to cpu"
        )
    return torch.device("cuda", processes.local_rank())


def resident_on(device: torch.device, train: Split) -> Resident | None:
    """Copy the training data to a device, if they fit in their share of its memory.

    Args:
        device: where steps are run.
        train: the training data.

    Returns:
        The data on the device; None, with a warning, where they are too large for a GPU.
    """
    if device.type == "cuda":
        # of the total memory, not of the free memory, so the same run always takes the same way
        room = RESIDENT_SHARE * torch.cuda.get_device_properties(device).total_memory
        if train.resident_bytes() > room:
            warnings.warn(
                f"the training data take {train.resident_bytes() / 2**30:.1f} GiB, more than a "
                f"share of {RESIDENT_SHARE:.0%} of the GPU's memory, so each batch is copied from "
                "main memory",
                stacklevel=2,
            )
            return None
    return train.on_device(device)


class Batches:
    """Training data in batches, in an order drawn anew for each epoch.

    Order and draws depend on the seed and on the number of the epoch or step alone, so a resumed
    run sees the batches that it would have seen.

    Args:
        train: the training data.
        resident: the same data on the device of the VAE; None to gather batches in main memory.
        state: the VAE, which places batches on its device, in its dtype; seed and batch size.
    """

    def __init__(self, train: Split, resident: Resident | None, state: TrainingState) -> None:
        self.train, self.resident, self.vae = train, resident, state.vae
        self.device = next(state.vae.parameters()).device
        self.size, self.seed = state.options.batch_size, state.options.seed
        self.steps, self.drop_last = state.progress.steps_per_epoch, state.options.drop_last
        self.whole = self.seen(1)  # examples in each batch but perhaps the last one

    def left(self, progress: Progress) -> Iterator[Tensor]:
        """The batches that are left of the running epoch.

        Args:
            progress: number of the epoch, and of the steps already taken in it.

        Yields:
            Indices into the training data ``(batch,)``, on the device that gathers them.
        """
        order = np.random.default_rng(stream(self.seed, "order", progress.epoch))
        permutation = torch.from_numpy(order.permutation(len(self.train)))
        if self.resident is not None:
            permutation = permutation.to(self.device)
        for position in range(progress.position, progress.steps_per_epoch):
            yield permutation[self.seen(position) : self.seen(position + 1)]

    def seen(self, position: int) -> int:
        """Count the examples in the first ``position`` batches of an epoch."""
        if position == self.steps and not self.drop_last:
            return len(self.train)
        return min(position * self.size, len(self.train))

    def share(self, index: Tensor, step: int) -> Tensor:
        """This process's share of a batch; seeds the device for everything that a step draws.

        Args:
            index: the batch, as :meth:`left` yields it.
            step: number of the step; each process has a random stream of its own.

        Returns:
            ``(share, *event_shape)``, on the device of the VAE.
        """
        index = index[processes.rank() :: processes.count()]
        seed = stream(self.seed, "step", step, processes.rank())
        seed_device(self.device, seed)
        if self.resident is not None:
            return self.vae.place(self.resident.batch(index))
        rng = np.random.Generator(np.random.SFC64(seed))
        return self.vae.place(self.train.batch(index.numpy(), rng))


@dataclass
class Step:
    """A step as ``SVI.step`` makes it, or with a replay of its loss and gradients.

    Each of several processes computes its share of the batch, with a random stream of its own. A
    replay uses the same parameters each time, so they need not be looked up as ``SVI.step`` does. A
    program that cannot be staged runs as ``SVI.step`` runs it.

    Args:
        state: the VAE, its optimizer and the progress.
        batches: the training data, in batches.
        svi: model, guide, optimizer and objective.
        record: the terms of the objective, see :func:`pyrovae.objectives.recording`.
        staged: the staged objective, which that of ``svi`` may sum over processes; None if steps
            are not staged, see :mod:`pyrovae.training.staging`.
    """

    state: TrainingState
    batches: Batches | LoaderBatches
    svi: SVI
    record: Any
    staged: Staged | None

    def __call__(self, index: Tensor) -> None:
        """Move the weights by the batch at ``index``, and count the step in the progress.

        Args:
            index: as the batches yield it: indices into the training data, or the batch itself.

        Raises:
            NonFiniteGradientError: if the gradient is not finite; the weights are those before
                that step.
            RuntimeError: if another thread has seeded torch's generator meanwhile.
        """
        progress, average = self.state.progress, self.state.average
        x = self.batches.share(index, progress.step)
        seed = torch.initial_seed()
        self.state.optimizer.examples = len(index)
        self.state.optimizer.release()
        # Pyro checks shapes and supports at the first step; at every step that would cost time.
        with explaining_batches(), pyro.validation_enabled(progress.step == 0):
            loss = self._update(x)
        if torch.initial_seed() != seed and threading.active_count() > 1:
            raise RuntimeError(
                "another thread has seeded torch's generator during a training step, which changes "
                "what the step draws; seed and build models before the threads start"
            )
        if average is not None:
            average.update()
        terms = self.record.terms
        reconstruction, kl = float(terms.reconstruction), float(terms.kl)
        sums = (
            progress.objective - loss,
            progress.reconstruction + reconstruction,
            progress.kl + kl,
            progress.squares + (reconstruction - kl) ** 2 / len(index),
        )
        progress.reach(progress.step + 1, progress.images + len(index), sums)

    def _update(self, x: Tensor) -> float:
        if self.staged is None or self.staged.reason is not None:
            return float(self.svi.step(x))
        loss = float(self.svi.loss_and_grads(self.svi.model, self.svi.guide, x))
        optimizer, alone = self.state.optimizer, processes.count() == 1
        # with several processes the gradient is a sum, whose norm the replay has not computed
        optimizer(optimizer.parameters, norm=self.staged.norm if alone else None)
        return loss

    def synchronize(self) -> None:
        """Finish all steps, and bring weights and progress up to date.

        Raises:
            NonFiniteGradientError: as a step does.
        """

    def close(self) -> None:
        """Free what steps hold on the device."""


@contextlib.contextmanager
def explaining_batches() -> Iterator[None]:
    """Say in one line what batch normalization needs, where torch refuses a single example."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        shared = f", in each of {processes.count()} processes" if processes.count() > 1 else ""
        raise ValueError(
            f"a batch has a single example{shared}, and batch normalization needs two to compute a "
            "variance; set a larger batch_size, set drop_last, or train on more examples"
        ) from error


class Requests:
    """Requests to stop, which all processes follow at the same step.

    Args:
        own: the requests of this process, as they are now.

    Attributes:
        heard: for each request, whether some process made it at the last step.
    """

    def __init__(self, own: Callable[[], Sequence[bool]]) -> None:
        self.own = own
        self.heard: Sequence[bool] = [False for _ in own()]

    def __call__(self) -> Sequence[bool]:
        """The requests to follow: those of a single process, or those heard at the last step."""
        return self.own() if processes.count() == 1 else self.heard


class Summed(Wrapped):
    r"""An objective over a batch that several processes share.

    .. math::
        \mathcal{L}(x) = \sum_{r} \mathcal{L}(x_r), \qquad
        \nabla \mathcal{L}(x) = \sum_{r} \nabla \mathcal{L}(x_r)

    for the shares :math:`x_r` of the processes. Every process gets the same sums, so equal
    parameters stay equal to the bit. Loss, gradients, recorded terms and requests travel together,
    in one exchange per step.

    Args:
        objective: a sum over examples.
        module: holds the parameters; the same in every process.
        record: of the objective's terms, see :func:`pyrovae.objectives.recording`.
        requests: of this process; takes up those of all processes.
    """

    def __init__(self, objective: ELBO, module: nn.Module, record: Any, requests: Requests) -> None:
        super().__init__(objective)
        self.record, self.requests = record, requests
        self.parameters = [p for p in module.parameters() if p.requires_grad]

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss of the batch, and set the gradients of the parameters to its gradients.

        Args:
            model, guide: the programs.
            args: the share, which may be empty.
            kwargs: of the programs.

        Raises:
            StoppedError: if another process has ended.
        """
        self.record.terms = Terms()
        loss = 0.0
        if len(args[0]):
            loss = float(self.objective.loss_and_grads(model, guide, *args, **kwargs))
        terms = self.record.terms
        asked = [float(request) for request in self.requests.own()]
        # a parameter that no process used has no gradient; Adam would move it by zeros as well
        used = [float(p.grad is not None) for p in self.parameters]
        numbers = torch.tensor(
            [loss, float(terms.reconstruction), float(terms.kl), *asked, *used],
            dtype=self.parameters[0].dtype,
            device=self.parameters[0].device,
        )
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        *gradients, numbers = processes.summed([*gradients, numbers])
        loss, reconstruction, kl, *rest = numbers.tolist()
        self.record.terms = Terms(reconstruction, kl)
        self.requests.heard = [number > 0 for number in rest[: len(asked)]]
        for p, gradient, uses in zip(self.parameters, gradients, rest[len(asked) :], strict=True):
            p.grad = gradient if uses else None
        return loss


def check_sum(objective: ELBO) -> None:
    """Refuse an objective that is not a sum over examples, if there are several processes.

    Args:
        objective: its attribute ``whole_batch`` is true if it depends on a batch as a whole.

    Raises:
        ValueError: if it does.
    """
    if processes.count() > 1 and getattr(objective, "whole_batch", False):
        raise ValueError(
            f"{type(objective).__name__} depends on a batch as a whole, and {processes.count()} "
            "processes would each see a share of it; train it in one process, or optimize another "
            "objective"
        )
