"""Pyro as it ships: the two programs written by hand, ``SVI.step``, one Adam per parameter."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from . import LEARNING_RATE, Net, mnist_folder
from .hand_written import VAE

__all__ = ["EPOCHS", "STEPS"]


class PyroVAE(VAE):
    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            zeros = x.new_zeros(len(x), self.decoder[0].in_features)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            logits = self.decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def _svi(net: Net) -> SVI:
    vae = PyroVAE(net.hidden, net.latent_dim)
    return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO())


def step(net: Net, x: np.ndarray) -> Callable[[], object]:
    return partial(_svi(net).step, torch.from_numpy(x))


def epochs_in_memory(net: Net, pixels: np.ndarray, epochs: int, turn: Callable[[], None]) -> None:
    svi = _svi(net)
    images = torch.from_numpy(pixels)
    turn()
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(len(images)).split(net.batch_size):
            total += svi.step(torch.bernoulli(images[index] / 255))
        turn()


def epochs_with_loader(net: Net, pixels: np.ndarray, epochs: int, turn: Callable[[], None]) -> None:
    """As Pyro's own tutorial has it: torchvision's MNIST, one image at a time."""
    from torchvision import datasets, transforms

    mnist = datasets.MNIST(mnist_folder(), download=False, transform=transforms.ToTensor())
    images = Subset(mnist, range(len(pixels)))
    loader = DataLoader(images, batch_size=net.batch_size, shuffle=True)
    svi = _svi(net)
    turn()
    for _ in range(epochs):
        total = 0.0
        for x, _ in loader:
            total += svi.step(torch.bernoulli(x.view(-1, 784)))
        turn()


STEPS = {"Pyro SVI.step as shipped": step}
EPOCHS = {
    "Pyro SVI.step, in memory": epochs_in_memory,
    "Pyro SVI.step, DataLoader": epochs_with_loader,
}
