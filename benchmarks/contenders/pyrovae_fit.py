"""pyrovae: what ``fit`` does, in each of its ways to run a step."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

from pyrovae.data import Dynamic, Split
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.objectives import recording
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.training import FusedAdam, Progress, Staged, fit
from pyrovae.vae import VAE

from . import LEARNING_RATE, Net

__all__ = ["EPOCHS", "STEPS", "make_vae"]


def make_vae(net: Net) -> VAE:
    network = partial(MLP, hidden_dims=(net.hidden, net.hidden), activation="relu")
    return VAE(
        StandardNormal(net.latent_dim),
        Bernoulli(net.latent_dim, (1, 28, 28), network),
        DiagonalNormal(net.latent_dim, (1, 28, 28), network),
    )


def step_of_fit(net: Net, bits: np.ndarray, *, mode: str) -> Callable[[], object]:
    """With fit's optimizer: with a schedule, and a check that the gradient is finite."""
    vae, x = make_vae(net), torch.from_numpy(bits).view(-1, 1, 28, 28)
    optimizer = FusedAdam(vae.parameters(), learning_rate=LEARNING_RATE, total_steps=10**6)
    optimizer.examples = len(x)
    objective, _ = recording(Trace_ELBO())
    svi = SVI(vae.model, vae.guide, optimizer, objective)
    staged = None if mode == "off" else Staged(objective, vae, mode=mode)

    def step() -> object:
        optimizer.release()
        with pyro.validation_enabled(False):
            if staged is None:
                return svi.step(x)
            loss = staged.loss_and_grads(vae.model, vae.guide, x)
            optimizer(optimizer.parameters, norm=staged.norm)
            return loss

    return step


def step_with_adam(net: Net, bits: np.ndarray, *, mode: str) -> Callable[[], object]:
    """The loss and its gradients alone, then the optimizer of the hand-written script."""
    vae, x = make_vae(net), torch.from_numpy(bits).view(-1, 1, 28, 28)
    adam = torch.optim.Adam(vae.parameters(), LEARNING_RATE, fused=True)
    objective = Trace_ELBO()
    loss = objective if mode == "off" else Staged(objective, vae, mode=mode)

    def step() -> object:
        adam.zero_grad()
        with pyro.validation_enabled(False):
            value: object = loss.loss_and_grads(vae.model, vae.guide, x)
        adam.step()
        return value

    return step


def epochs(
    net: Net,
    pixels: np.ndarray,
    epochs: int,
    turn: Callable[[], None],
    *,
    mode: str,
    device: str = "cpu",
    precision: str = "float32",
) -> None:
    """``fit`` itself, which waits its turn after each epoch."""
    data = Split(pixels.reshape(-1, 1, 28, 28), None, (1, 28, 28), transform=Dynamic(255))
    done = -1

    def report(progress: Progress) -> None:
        nonlocal done
        if progress.epoch != done:
            done = progress.epoch
            turn()

    fit(
        make_vae(net),
        data,
        epochs=epochs,
        batch_size=net.batch_size,
        learning_rate=LEARNING_RATE,
        compile=mode,
        device=device,
        precision=precision,
        report=report,
    )


LABELS = {"inductor": "staged, inductor", "graph": "staged, graph", "off": "eager"}
STEPS = {
    f"pyrovae {label}{suffix}": partial(prepare, mode=mode)
    for suffix, prepare in (("", step_of_fit), (", plain Adam", step_with_adam))
    for mode, label in LABELS.items()
}
EPOCHS = {f"pyrovae {label}": partial(epochs, mode=mode) for mode, label in LABELS.items()}
