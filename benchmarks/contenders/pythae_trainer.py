"""pythae: its VAE, with networks of the same size, in its own trainer."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pythae import models
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor

from . import LEARNING_RATE, Net
from .hand_written import VAE

__all__ = ["EPOCHS", "STEPS"]


class Encoder(BaseEncoder):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        loc, log_variance = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z).sigmoid())


def _vae(net: Net) -> models.VAE:
    config = models.VAEConfig(
        input_dim=(784,), latent_dim=net.latent_dim, reconstruction_loss="bce"
    )
    networks = VAE(net.hidden, net.latent_dim)
    return models.VAE(config, encoder=Encoder(networks.encoder), decoder=Decoder(networks.decoder))


def step(net: Net, bits: np.ndarray) -> Callable[[], None]:
    vae, batch = _vae(net), DatasetOutput(data=torch.from_numpy(bits))
    adam = torch.optim.Adam(vae.parameters(), LEARNING_RATE)

    def run() -> None:
        loss = vae(batch, epoch=1, dataset_size=len(bits)).loss
        adam.zero_grad()
        loss.backward()
        adam.step()

    return run


class _Turns(TrainingCallback):
    def __init__(self, turn: Callable[[], None]) -> None:
        self.on_train_begin = self.on_epoch_end = lambda *args, **kwargs: turn()


def epochs(net: Net, pixels: np.ndarray, epochs: int, turn: Callable[[], None]) -> None:
    """Bits are drawn once: its trainer has no place for drawing them at each visit."""
    logging.disable()
    bits = torch.bernoulli(torch.from_numpy(pixels) / 255)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=net.batch_size,
            no_cuda=True,
        )
        data: Any = BaseDataset(bits, torch.zeros(len(bits)))
        trainer = BaseTrainer(_vae(net), data, training_config=config, callbacks=[_Turns(turn)])
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train()


STEPS = {"pythae": step}
EPOCHS = {"pythae": epochs}
