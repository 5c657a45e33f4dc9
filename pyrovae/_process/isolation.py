r"""Keeping the process as it was: random streams, param store, warning filters, Ctrl-C."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

__all__ = [
    "PURPOSES",
    "derived",
    "evaluating",
    "interrupt_after_step",
    "isolated",
    "seed_device",
    "stream",
]

PURPOSES = ("build", "initialize", "order", "step")
"""What random streams are for: each has its own."""


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """A block that leaves param store, random state and warning filters as they were.

    On a GPU, convolutions take algorithms inside of it that give one result.

    Args:
        device: whose random state is kept, besides the CPU's.
    """
    with (
        _repeatable(device),
        pyro.get_param_store().scope(),
        torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]),
        warnings.catch_warnings(),
    ):
        # Pyro warns of a loss that is not finite; here that ends the run, with the reason.
        warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
        yield


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    kept = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = kept


@contextlib.contextmanager
def interrupt_after_step() -> Iterator[threading.Event]:
    """A block in which the first Ctrl-C sets an event, and a second one interrupts at once.

    Outside the main thread, where Python delivers no signals, the event is never set.

    Yields:
        The event.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A block in eval mode, after which each submodule is in the mode that it was in.

    Args:
        module: in eval mode meanwhile, with all its parts.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the random numbers of one device; ``torch.manual_seed`` looks for every other one too.

    Args:
        device: CPU or GPU.
        seed: below 2**63.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def derived(*seeds: int) -> int:
    """A seed from several: of a user's seed, say, and the place of a batch.

    Args:
        seeds: not negative; the same ones in the same order give the same result.

    Returns:
        A seed below 2**32.
    """
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])


def stream(seed: int, purpose: str, number: int = 0, process: int = 0) -> int:
    """The seed of a random stream that depends on nothing but these four.

    Args:
        seed: of the run.
        purpose: one of ``PURPOSES``.
        number: of the step or epoch.
        process: one of several that draw for shares of the same step.

    Returns:
        A seed below 2**63, for torch and NumPy alike.
    """
    entropy = [seed, PURPOSES.index(purpose), number]
    sequence = np.random.SeedSequence([*entropy, process] if process else entropy)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
