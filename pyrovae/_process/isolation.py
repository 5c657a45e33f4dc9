r"""Seeds of random streams, and blocks that leave global state as they found it.

Torch's default generator and Pyro's param store belong to the process. Threads therefore take turns
at them: a block of :func:`alone` or :func:`isolated` waits until no other thread is in one, and
training lets the others go ahead between its steps, in a block of :func:`others`. Each gets the
numbers that it would get without the others.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import nn

PURPOSES = ("build", "initialize", "order", "step")
"""Purposes of random streams; each purpose has its own streams."""


class _State(NamedTuple):
    """Random state of the CPU and of GPUs, Pyro's param store, and settings."""

    random: torch.Tensor
    of_gpus: list[torch.Tensor]
    store: Any
    filters: Any
    cudnn: tuple[bool, bool]


class _Surroundings:
    """The state of the process that :func:`isolated` restores, as it is now.

    Args:
        device: whose random state is restored, besides the CPU's; None for all GPUs.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.gpus: list[torch.device | int] = []
        if device is not None and device.type != "cpu":
            self.gpus = [device]
        elif device is None:
            self.gpus = [*range(torch.cuda.device_count())]
        self.gpus = self.gpus if torch.cuda.is_available() else []
        self.state = self.current()

    def current(self) -> _State:
        """The current state."""
        cudnn = torch.backends.cudnn
        return _State(
            random=torch.get_rng_state(),
            of_gpus=[torch.cuda.get_rng_state(gpu) for gpu in self.gpus],
            store=pyro.get_param_store().get_state(),
            filters=warnings.filters,
            cudnn=(cudnn.deterministic, cudnn.benchmark),
        )

    def read(self) -> None:
        """Replace what is held by the current state."""
        self.state = self.current()

    def put_back(self) -> None:
        """Make the state that is held the current one."""
        cudnn = torch.backends.cudnn
        torch.set_rng_state(self.state.random)
        for gpu, state in zip(self.gpus, self.state.of_gpus, strict=True):
            torch.cuda.set_rng_state(state, gpu)
        pyro.get_param_store().clear()
        pyro.get_param_store().set_state(self.state.store)
        warnings.filters = self.state.filters
        with warnings.catch_warnings():  # which makes other filters take effect
            pass
        cudnn.deterministic, cudnn.benchmark = self.state.cudnn


class _Turns:
    """The turns of threads, in the order in which they asked.

    Attributes:
        queue: threads by their number; the first one has its turn.
        outside: what the isolated blocks of that thread restore, the outermost one first.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queue: list[int] = []
        self.outside: list[_Surroundings] = []

    def is_mine(self) -> bool:
        """Whether it is the turn of the current thread."""
        return self.queue[:1] == [threading.get_ident()]

    def take(self) -> None:
        """Wait for the turn of the current thread."""
        with self.changed:
            self.queue.append(threading.get_ident())
            try:
                self.changed.wait_for(self.is_mine)
            except BaseException:
                self.queue.remove(threading.get_ident())
                self.changed.notify_all()
                raise

    def give(self) -> None:
        """End the turn of the current thread."""
        with self.changed:
            self.queue.pop(0)
            self.changed.notify_all()

    def fork(self) -> None:
        """Forget the other threads, which do not exist in a process that was forked."""
        self.changed = threading.Condition()
        self.queue = self.queue[:1] if self.is_mine() else []
        self.outside = self.outside if self.queue else []


_turns = _Turns()
os.register_at_fork(after_in_child=_turns.fork)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """A block during which no other thread is in such a block; blocks may be nested."""
    if _turns.is_mine():
        yield
        return
    _turns.take()
    try:
        yield
    finally:
        _turns.give()


@contextlib.contextmanager
def others(*, always: bool) -> Iterator[None]:
    """A pause in isolated blocks, during which other threads have their turns.

    Args:
        always: whether to pause even if no other thread waits, since one may do so in the pause.
    """
    if not always and len(_turns.queue) == 1:
        yield
        return
    outside = _turns.outside
    inside = _Surroundings(outside[0].device)
    outside[0].put_back()
    _turns.outside = []
    _turns.give()
    try:
        yield
    finally:
        _turns.take()
        _turns.outside = outside
        outside[0].read()
        inside.put_back()


@contextlib.contextmanager
def isolated(device: torch.device | None = None) -> Iterator[None]:
    """A block that restores param store, random state and warning filters when it ends.

    On a GPU, convolutions use deterministic algorithms inside the block. Other threads wait.

    Args:
        device: whose random state is restored, besides the CPU's; None for all GPUs.
    """
    with alone():
        before = _Surroundings(device)
        _turns.outside.append(before)
        try:
            pyro.get_param_store().clear()
            if device is not None and device.type == "cuda":
                torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            with warnings.catch_warnings():
                # Pyro warns of a loss that is not finite; here it is an error with its reason.
                warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
                yield
        finally:
            _turns.outside.pop()
            before.put_back()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A block with a module in eval mode; afterwards each submodule has its own mode again.

    Other threads wait, as for :func:`alone`.

    Args:
        module: put in eval mode, with all its submodules.
    """
    with alone():
        modes = {part: part.training for part in module.modules()}
        module.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the CPU and one device; ``torch.manual_seed`` also searches for all other devices.

    Args:
        device: CPU or GPU.
        seed: below 2**63.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def derived(*seeds: int) -> int:
    """Derive a seed from several integers, such as a user's seed and the number of a batch.

    Args:
        seeds: not negative; the same integers in the same order give the same seed.

    Returns:
        A seed below 2**32.
    """
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])


def stream(seed: int, purpose: str, number: int = 0, process: int = 0) -> int:
    """The seed of a random stream, which depends on these four arguments alone.

    Args:
        seed: of the run.
        purpose: one of ``PURPOSES``.
        number: of the step or epoch.
        process: number of the process, where several draw for shares of the same step.

    Returns:
        A seed below 2**63, for torch and NumPy alike.
    """
    entropy = [seed, PURPOSES.index(purpose), number]
    sequence = np.random.SeedSequence([*entropy, process] if process else entropy)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
