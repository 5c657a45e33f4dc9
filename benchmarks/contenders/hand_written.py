"""The script that one writes without a library: a loss, autograd, torch's fused Adam."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from . import LEARNING_RATE, Net

__all__ = ["EPOCHS", "STEPS"]


class VAE(nn.Module):
    def __init__(self, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 784),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of a batch, the KL divergence in closed form."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        reconstruction = nn.functional.binary_cross_entropy_with_logits(
            self.decoder(z), x, reduction="sum"
        )
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 2 * log_scale - 1).sum()
        return reconstruction + kl


def _train_on(net: Net, compiled: bool, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    vae = VAE(net.hidden, net.latent_dim).to(device)
    loss_of = torch.compile(vae, dynamic=False) if compiled else vae
    adam = torch.optim.Adam(vae.parameters(), LEARNING_RATE, fused=True)

    def train_on(x: Tensor) -> Tensor:
        adam.zero_grad()
        loss: Tensor = loss_of(x)
        loss.backward()
        adam.step()
        return loss.detach()

    return train_on


def step(net: Net, x: np.ndarray, *, compiled: bool) -> Callable[[], Tensor]:
    return partial(_train_on(net, compiled), torch.from_numpy(x))


def epochs(
    net: Net,
    pixels: np.ndarray,
    epochs: int,
    turn: Callable[[], None],
    *,
    compiled: bool,
    device: str = "cpu",
) -> None:
    """Pixels stay bytes on the device; each batch is gathered and binarized there as it comes."""
    train_on = _train_on(net, compiled, device)
    images = torch.from_numpy(pixels).to(device)
    turn()
    for _ in range(epochs):
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(images), device=device).split(net.batch_size):
            total += train_on(torch.bernoulli(images[index] / 255))
        total.item()  # the first time that the host waits for a GPU
        turn()


STEPS = {
    "hand-written PyTorch": partial(step, compiled=False),
    "hand-written, torch.compile": partial(step, compiled=True),
}
EPOCHS = {
    "hand-written PyTorch": partial(epochs, compiled=False),
    "hand-written, torch.compile": partial(epochs, compiled=True),
}
