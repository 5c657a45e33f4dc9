r"""A training step that stays on its device: the host passes indices and does not wait.

The networks of a VAE are small. On a GPU, launching one of their operations takes longer than the
operation itself, and reading a value back to the host holds up all of them. A step is therefore
written here as a list of operations on the device alone:

1. gather the rows, and draw their bits;
2. replay the staged graph (loss, its terms, gradients), see :mod:`pyrovae.training.staging`;
3. clip, and update the weights and their moving average;
4. add loss and terms to running sums.

What the host changes from step to step (indices, step size, scheduled numbers) are tensors that it
writes to. It reads the sums only now and then. A gradient that is not finite is noticed on the
device: from then on nothing changes, so a later reading still finds the weights before that step.

Such a list can be captured as a CUDA graph: recorded at its second run, and launched as a whole
from then on. A batch of another size, the last one of an epoch, runs operation by operation.
"""

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from pyrovae._process.compilation import in_one_line
from pyrovae._process.isolation import seed_device, stream
from pyrovae.data import Resident
from pyrovae.objectives import Terms
from pyrovae.training.checkpoint import TrainingState
from pyrovae.training.optim import NonFiniteGradientError
from pyrovae.training.staging import Stage, Staged
from pyrovae.training.steps import Batches, Step

READ_STEPS = 50  # steps between readings of the sums

Operations = Callable[[], None]


@dataclass
class DeviceStep(Step):
    """A step that stays on the device, in a single process.

    The first step of a run is made on the host, which checks shapes and supports and creates the
    moments of the optimizer. If a batch cannot be staged, that step and all later ones are made on
    the host.

    Args:
        data: the training data, on the device.
        capture: turns operations into a replay of them, such as :func:`cuda_graph`; None runs them
            one by one.
    """

    batches: Batches
    staged: Staged
    data: Resident
    capture: Callable[[Operations], Operations] | None
    _operations: "DeviceOperations | None" = field(default=None, init=False)
    _unread: bool = field(default=False, init=False)  # steps since the last reading

    def __call__(self, index: Tensor) -> None:
        if self.state.progress.step == 0 or not self._queue(index):
            super().__call__(index)

    def synchronize(self) -> None:
        if self._operations is None or not self._unread:
            return
        progress = self.state.progress
        step, failed, sums, self.record.terms = self._operations.read()
        self._unread = False
        position = step - progress.epoch * progress.steps_per_epoch
        progress.reach(step, self.batches.seen(position), sums)
        if failed:
            raise NonFiniteGradientError("the gradient is not finite")

    def close(self) -> None:
        # a captured graph must be freed before another training captures one
        self._operations = None

    def _queue(self, index: Tensor) -> bool:
        """Queue a step on the device; False if it cannot be staged, and nothing was done."""
        staged, vae, progress = self.staged, self.state.vae, self.state.progress
        if staged.reason is not None:
            return False
        if self._operations is None:
            self._operations = DeviceOperations(
                lambda x: staged.stage(vae.model, vae.guide, (x,), {}),
                self.state,
                self.data,
                self.batches.whole,
                self.capture,
            )
        if not self._unread:
            sums = progress.objective, progress.reconstruction, progress.kl, progress.squares
            self._operations.count_from(sums)
        if not self._operations(index, stream(self.batches.seed, "step", progress.step)):
            self.synchronize()
            self.close()
            return False
        progress.step += 1
        progress.position += 1
        self._unread = True
        if progress.step % READ_STEPS == 0 or progress.position == progress.steps_per_epoch:
            self.synchronize()
        return True


@dataclass
class DeviceOperations:
    """One step of training, as operations on one device.

    Args:
        find: the graph for a batch; None where the program is not staged.
        state: the VAE, its optimizer and its average, which have made a step already.
        data: on the device of the VAE.
        batch_size: size of the batches that are worth capturing.
        capture: turns operations into a replay of them, such as :func:`cuda_graph`; None runs them
            one by one.
    """

    find: Callable[[Tensor], Stage | None]
    state: TrainingState
    data: Resident
    batch_size: int
    capture: Callable[[Operations], Operations] | None

    def __post_init__(self) -> None:
        self.module, self.optimizer = self.state.vae, self.state.optimizer
        self.average = self.state.average
        parameter = self.optimizer.parameters[0]
        self.device, self.dtype = parameter.device, parameter.dtype
        self.index = torch.zeros(self.batch_size, dtype=torch.int64, device=self.device)
        self.numbers: list[Tensor] = []  # those that a schedule changes
        self.rate, self.failed = torch.zeros(2, device=self.device)
        self.weight = torch.zeros((), dtype=self.dtype, device=self.device)
        self.counts = torch.zeros(7, dtype=torch.float64, device=self.device)
        self.steps, self.sums, self.terms = self.counts.split([1, 4, 2])
        self.steps.fill_(self.optimizer.steps)
        self.stages: dict[int, Stage] = {}
        self.replay: Operations | None = None

    def count_from(self, sums: Sequence[float]) -> None:
        """Set the sums that steps add to, as :meth:`pyrovae.training.Progress.reach` gets them."""
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))

    def __call__(self, index: Tensor, seed: int) -> bool:
        """Queue a step on the device.

        Args:
            index: indices into the data ``(batch,)``, on the device.
            seed: of everything that the step draws.

        Returns:
            False if the program is not staged; then nothing was done.
        """
        stage = self._stage(index, seed)
        if stage is None:
            return False
        for tensor, number in zip(self.numbers, stage.program.numbers(), strict=True):
            tensor.fill_(number)
        self.rate.fill_(self.optimizer.current_learning_rate())
        if self.average is not None:
            self.weight.fill_(1 - self.average.current_decay())
        self.optimizer.examples = len(index)
        whole = len(index) == self.batch_size
        if whole:
            self.index.copy_(index)
            index = self.index
            if self.capture is not None and self.replay is None:
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

    def read(self) -> tuple[int, bool, list[float], Terms]:
        """Wait for the device, and return the outcome of the steps.

        The optimizer and the average then count only the steps that changed the weights.

        Returns:
            The number of these steps, whether the gradient of the next one was not finite, the
            sums, and the terms of the last step that was tried.
        """
        numbers = torch.cat([self.counts, self.failed.double().unsqueeze(0)]).tolist()
        self.optimizer.steps = int(numbers[0])
        if self.average is not None:
            self.average.n_averaged.fill_(self.optimizer.steps)
        return self.optimizer.steps, numbers[7] > 0, numbers[1:5], Terms(*numbers[5:7])

    def _stage(self, index: Tensor, seed: int) -> Stage | None:
        if len(index) not in self.stages:
            seed_device(self.device, seed)
            x = self.data.batch(index).to(self.dtype)
            stage = self.find(x)
            if stage is None:
                return None
            self.stages[len(index)] = stage
            if not self.numbers:
                self.numbers = [torch.as_tensor(n).to(x) for n in stage.program.numbers()]
        return self.stages[len(index)]

    @torch.no_grad()
    def _operations(self, stage: Stage, index: Tensor) -> None:
        x = self.data.batch(index).to(self.dtype)
        buffers = list(self.module.buffers())
        before = [buffer.clone() for buffer in buffers]  # such as statistics of batches
        results = stage.graph(*stage.program.tensors((x,), self.numbers))
        loss, reconstruction, kl, norm, *gradients = results
        if norm is None:
            norm = get_total_norm(gradients)
        terms = reconstruction.double(), kl.double()
        values = torch.stack([-loss.double(), *terms, (terms[0] - terms[1]).square() / len(index)])
        self.terms.copy_(torch.where(self.failed > 0, self.terms, values[1:3]))
        self.failed += (self.failed == 0) & ~norm.isfinite()
        self.sums += torch.where(self.failed > 0, 0.0, values)
        self.steps += self.failed == 0
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(self.failed > 0, value, buffer))
        for parameter, gradient in zip(stage.used, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.update_on_device(norm, self.rate, self.failed)
        if self.average is not None:
            self.average.update_on_device(self.weight * (1 - self.failed))

    @torch.no_grad()
    def _capture(self, stage: Stage, capture: Callable[[Operations], Operations]) -> None:
        """Record the operations, and undo that recording them has run them."""
        changed = [self.failed, self.counts, *self.module.state_dict().values()]
        for moments in self.optimizer.adam.state.values():
            changed += moments.values()
        if self.average is not None:
            changed += self.average.module.state_dict().values()
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


def cuda_graph(operations: Operations) -> Operations:
    """Capture operations as a CUDA graph.

    They first run three times on a separate stream, because libraries initialize themselves then.

    References:
        PyTorch, CUDA semantics, section CUDA Graphs

    Args:
        operations: on the current GPU alone, on the same tensors each time.

    Returns:
        A function that launches all of them at once.

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


DEVICES: dict[str, Callable[[Operations], Operations] | None] = {"cuda": cuda_graph}
"""Types of devices on which steps stay, and how their operations are captured there."""
