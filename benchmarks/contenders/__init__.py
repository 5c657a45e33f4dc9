"""What is compared: one module for each way of training the same VAE, imported only when it runs.

A module has two dictionaries by label. ``STEPS`` holds functions of a net and a batch of bits that
return the step; ``EPOCHS`` holds functions of a net, gray pixels, a number of epochs and ``turn``,
which they call before the first epoch and after each one. So each loop stays as its library has it,
also where the library owns the loop.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MODULES", "NETS", "EpochsOf", "Net", "StepOf", "mnist_folder", "pixels"]

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Net:
    """Two hidden layers of one width on each side of the latent space, with ReLU."""

    hidden: int
    latent_dim: int
    batch_size: int

    def __str__(self) -> str:
        widths = f"784-{self.hidden}-{self.hidden}-{self.latent_dim}"
        return f"{widths}, batches of {self.batch_size} images"


NETS = {"400": Net(400, 20, 128), "200": Net(200, 50, 100), "512": Net(512, 32, 512)}

StepOf = Callable[[Net, np.ndarray], Callable[[], Any]]
EpochsOf = Callable[[Net, np.ndarray, int, Callable[[], None]], None]

MODULES = {
    "products": (),
    "hand_written": (),
    "pyrovae_fit": (),
    "pyro_svi": (),
    "on_gpu": (),
    "numpyro_scan": ("jax", "numpyro"),
    "pythae_trainer": ("pythae",),
}
"""Modules of this package, with the packages that each needs besides pyrovae's own."""


def mnist_folder() -> Path:
    """The folder named by ``PYROVAE_DATA``, in torchvision's layout."""
    return Path(os.environ.get("PYROVAE_DATA", "~/.cache/pyrovae")).expanduser()


def pixels(images: int) -> np.ndarray:
    """Grey training images of MNIST, (images, 784) bytes; in its absence noise with as many zeros.

    Args:
        images: how many, from the front of the file.
    """
    file = mnist_folder() / "MNIST" / "raw" / "train-images-idx3-ubyte"
    if file.is_file():
        x = np.fromfile(file, np.uint8, count=784 * images, offset=16)
        return x.reshape(-1, 784)
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (images, 784), dtype=np.uint8)
    return gray * (rng.random((images, 784), dtype=np.float32) < 0.19)
