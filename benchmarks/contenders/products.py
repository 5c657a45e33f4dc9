"""The floor: the matrix products of forward and backward pass, and nothing else."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from . import Net

__all__ = ["EPOCHS", "STEPS"]


def step(net: Net, x: np.ndarray) -> Callable[[], None]:
    return _products(net, len(x))


def _products(net: Net, batch_size: int) -> Callable[[], None]:
    encoder = pairwise((784, net.hidden, net.hidden, 2 * net.latent_dim))
    decoder = pairwise((net.latent_dim, net.hidden, net.hidden, 784))
    layers = [
        (torch.randn(batch_size, i), torch.randn(o, i), torch.randn(batch_size, o))
        for i, o in (*encoder, *decoder)
    ]
    results = [tuple(map(torch.empty_like, layer)) for layer in layers]

    def run() -> None:
        for number, ((x, w, g), (dx, dw, y)) in enumerate(zip(layers, results, strict=True)):
            torch.mm(x, w.T, out=y)
            torch.mm(g.T, x, out=dw)
            if number:  # the gradient of the data is wanted by nobody
                torch.mm(g, w, out=dx)

    return run


def epochs(net: Net, pixels: np.ndarray, epochs: int, turn: Callable[[], None]) -> None:
    full, rest = divmod(len(pixels), net.batch_size)
    run = _products(net, net.batch_size)
    run_rest = _products(net, rest) if rest else lambda: None
    turn()
    for _ in range(epochs):
        for _ in range(full):
            run()
        run_rest()
        turn()


STEPS = {"matrix products alone": step}
EPOCHS = {"matrix products alone": epochs}
