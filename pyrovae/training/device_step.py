r"""A training step that never leaves its device: the host says which rows, and waits for nothing.

The networks of a VAE are small. On a GPU, starting one of their operations takes longer than the
operation itself, and a number that the host asks for holds up all of them. So a step is written
here as a list of operations on the device alone:

1. gather the rows, and draw their bits;
2. the staged graph: loss, its terms, gradients, see :mod:`pyrovae.training.staging`;
3. clip, and update weights and their moving average;
4. add loss and terms to sums.

What the host knows and changes from step to step (rows, step size, scheduled numbers) are tensors
that it writes to. What it wants to know it reads now and then. A gradient that is not finite is
noticed on the device: from then on nothing changes, so that a later reading still finds the weights
before that step.

Such a list can be captured as a CUDA graph: recorded at its second run, and from then on started as
a whole. A batch of another size, the last one of an epoch, runs operation by operation.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pyrovae._process.graphs import in_one_line
from pyrovae._process.isolation import seed_device
from pyrovae.data import Resident
from pyrovae.objectives import Terms
from pyrovae.training.optim import FusedAdam, MovingAverage
from pyrovae.training.staging import Stage

__all__ = ["DeviceStep", "Reading", "cuda_graph"]

Operations = Callable[[], None]


@dataclass(frozen=True)
class Reading:
    """What the steps on a device came to.

    Attributes:
        taken: steps that changed the weights.
        failed: whether the gradient of the one after these was not finite.
        objective, reconstruction, kl: sums, see :meth:`DeviceStep.count_from`.
        terms: of the last step that was tried.
    """

    taken: int
    failed: bool
    objective: float
    reconstruction: float
    kl: float
    terms: Terms


class DeviceStep:
    """One step of training, as operations on one device.

    Args:
        find: gives the graph for a batch; None where the program is not staged.
        module: what is trained.
        optimizer: of its parameters; it has made a step already, which made its moments.
        data: on the device of the module.
        average: of the module's weights, which has been updated already; None for none.
        batch_size: of the batches that are worth capturing.
        capture: from operations to a replay of them, such as :func:`cuda_graph`; None runs them as
            they are.
    """

    def __init__(
        self,
        find: Callable[[Tensor], Stage | None],
        module: nn.Module,
        optimizer: FusedAdam,
        data: Resident,
        average: MovingAverage | None,
        *,
        batch_size: int,
        capture: Callable[[Operations], Operations] | None,
    ) -> None:
        self.find, self.module, self.optimizer = find, module, optimizer
        self.data, self.average = data, average
        self.batch_size, self.capture = batch_size, capture
        parameter = optimizer.parameters[0]
        self.device, self.dtype = parameter.device, parameter.dtype
        self.index = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        self.numbers: list[Tensor] = []  # that a schedule changes
        self.rate, self.failed = torch.zeros(2, device=self.device)
        self.weight = torch.zeros((), dtype=self.dtype, device=self.device)
        self.taken = torch.zeros((), dtype=torch.float64, device=self.device)
        self.sums, self.terms = torch.zeros(2, 3, dtype=torch.float64, device=self.device)
        self.stages: dict[int, Stage] = {}
        self.replay: Operations | None = None
        self.steps_before = optimizer.steps
        self.updates_before = 0 if average is None else int(average.n_averaged)

    def count_from(self, objective: float, reconstruction: float, kl: float) -> None:
        """Set the sums to which each step adds its loss, with the other sign, and its terms."""
        self.sums.copy_(torch.tensor([objective, reconstruction, kl], dtype=torch.float64))

    def __call__(self, index: Tensor, seed: int) -> bool:
        """Put a step in the queue of the device.

        Args:
            index: rows of the data, on the device.
            seed: of everything that the step draws.

        Returns:
            False where the program is not staged, and nothing was done.
        """
        stage = self._stage(index, seed)
        if stage is None:
            return False
        whole = len(index) == self.batch_size
        self._write(stage)
        self.optimizer.examples = len(index)
        if whole:
            self.index.copy_(index)
            index = self.index
            if self.capture is not None:
                self._capture(stage, self.capture)
        seed_device(self.device, seed)
        if whole and self.replay is not None:
            self.replay()
        else:
            self._operations(stage, index)
        self.optimizer.steps += 1
        if self.average is not None:
            self.average.n_averaged += 1
        return True

    def read(self) -> Reading:
        """Wait for the device, and say what became of the steps.

        Counts of the optimizer and the average are then those of the steps that were taken.
        """
        counts = torch.stack([self.taken, self.failed.double()])
        numbers = torch.cat([counts, self.sums, self.terms]).tolist()
        taken, failed, objective, reconstruction, kl, *terms = numbers
        self.optimizer.steps = self.steps_before + int(taken)
        if self.average is not None:
            self.average.n_averaged.fill_(self.updates_before + int(taken))
        return Reading(int(taken), failed > 0, objective, reconstruction, kl, Terms(*terms[1:]))

    def _stage(self, index: Tensor, seed: int) -> Stage | None:
        if len(index) not in self.stages:
            seed_device(self.device, seed)
            x = self.data.batch(index).to(self.dtype)
            stage = self.find(x)
            if stage is None:
                return None
            self.stages[len(index)] = stage
            if not self.numbers:
                self.numbers = [torch.as_tensor(n).to(x) for n in stage.inputs.numbers()]
        return self.stages[len(index)]

    def _write(self, stage: Stage) -> None:
        """Tell the device the numbers of this step."""
        for tensor, number in zip(self.numbers, stage.inputs.numbers(), strict=True):
            tensor.fill_(number)
        self.rate.fill_(self.optimizer.current_learning_rate())
        if self.average is not None:
            self.weight.fill_(1 - self.average.current_decay())

    @torch.no_grad()
    def _operations(self, stage: Stage, index: Tensor) -> None:
        x = self.data.batch(index).to(self.dtype)
        buffers = list(self.module.buffers())
        before = [buffer.clone() for buffer in buffers]  # statistics of batches, say
        loss, reconstruction, kl, norm, *gradients = stage.replay((x,), self.numbers)
        if norm is None:
            norm = get_total_norm(gradients)
        values = torch.stack([-loss.double(), reconstruction.double(), kl.double()])
        self.terms.copy_(torch.where(self.failed > 0, self.terms, values))
        self.failed += (self.failed == 0) & ~norm.isfinite()
        self.sums += torch.where(self.failed > 0, 0.0, values)
        self.taken += self.failed == 0
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(self.failed > 0, value, buffer))
        for parameter, gradient in zip(stage.used, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.update_on_device(norm, self.rate, self.failed)
        if self.average is not None:
            self.average.update_on_device(self.weight * (1 - self.failed))

    @torch.no_grad()
    def _capture(self, stage: Stage, capture: Callable[[Operations], Operations]) -> None:
        """Record the operations, which runs them, and put everything back as it was."""
        if self.replay is not None:
            return
        changed = list(self._changed())
        before = [tensor.clone() for tensor in changed]
        try:
            self.replay = capture(lambda: self._operations(stage, self.index))
        except RuntimeError as error:
            self.capture = None
            warnings.warn(f"steps are not captured: {in_one_line(error)}", stacklevel=2)
        finally:
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
            for parameter in self.optimizer.parameters:
                parameter.grad = None

    def _changed(self) -> Iterator[Tensor]:
        """Every tensor that a step changes."""
        yield from (self.failed, self.taken, self.sums, self.terms)
        yield from self.module.state_dict().values()
        for moments in self.optimizer.adam.state.values():
            yield from moments.values()
        if self.average is not None:
            yield from self.average.module.state_dict().values()


def cuda_graph(operations: Operations) -> Operations:
    """Capture operations as a CUDA graph.

    They run three times first, on a stream of their own, since libraries set themselves up then.

    References:
        PyTorch, CUDA semantics, section CUDA Graphs

    Args:
        operations: on the current GPU alone, on the same tensors each time.

    Returns:
        Starts all of them at once.

    Raises:
        RuntimeError: if one of them cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            operations()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    gc.collect()  # an older graph must not be freed while this one is captured
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, stream=stream):
            operations()
    finally:
        if collects:
            gc.enable()
    return graph.replay
