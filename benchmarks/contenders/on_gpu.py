"""The same on a GPU, where there is one: ``fit``, and the hand-written script."""

from functools import partial

import torch

from . import EpochsOf, StepOf, hand_written, pyrovae_fit

__all__ = ["EPOCHS", "STEPS", "epochs_on"]


def epochs_on(device: str) -> dict[str, EpochsOf]:
    """The contenders for a device, by label."""
    by_hand = {"PyTorch": False, "torch.compile": True}
    ways = {
        "staged, inductor": ("inductor", "float32"),
        "staged, inductor, bf16": ("inductor", "bf16"),
        "staged, graph": ("graph", "float32"),
        "eager": ("off", "float32"),
    }
    return {
        f"GPU, hand-written, {label}": partial(
            hand_written.epochs, compiled=compiled, device=device
        )
        for label, compiled in by_hand.items()
    } | {
        f"GPU, pyrovae {label}": partial(
            pyrovae_fit.epochs, mode=mode, precision=precision, device=device
        )
        for label, (mode, precision) in ways.items()
    }


STEPS: dict[str, StepOf] = {}
EPOCHS = epochs_on("cuda") if torch.cuda.is_available() else {}
