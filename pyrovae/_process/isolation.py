r"""Seeds of random streams, and blocks that leave global state as they found it."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import pyro
import torch
from torch import nn

PURPOSES = ("build", "initialize", "order", "step")
"""Purposes of random streams; each purpose has its own streams."""


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """A block that restores param store, random state and warning filters when it ends.

    On a GPU, convolutions use deterministic algorithms inside the block.

    Args:
        device: whose random state is restored, besides the CPU's.
    """
    with (
        _repeatable(device),
        pyro.get_param_store().scope(),
        torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]),
        warnings.catch_warnings(),
    ):
        # Pyro warns of a loss that is not finite; here such a loss is an error with its reason.
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
def evaluating(module: nn.Module) -> Iterator[None]:
    """A block with a module in eval mode; afterwards each submodule has its own mode again.

    Args:
        module: put in eval mode, with all its submodules.
    """
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
