"""What all posteriors here share: an encoder that computes the parameters of a distribution."""

from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae.distributions import LARGEST_INPUT, LARGEST_LOG, bounded, filled, location_and_scale
from pyrovae.networks import NetworkFactory, Shape, applied, built

__all__ = ["Diagonal", "Encoded", "slopes"]


class Encoded(nn.Module):
    """A distribution over z whose parameters, which are bounded, an encoder computes from x.

    Args:
        event_shape: shape of one example.
        network: factory of the encoder.
        out_shape: shape of the encoder's output for one example.
    """

    def __init__(self, event_shape: Shape, network: NetworkFactory, out_shape: Shape) -> None:
        super().__init__()
        self.shapes = tuple(event_shape), out_shape
        self.encoder: Any = built(network, *self.shapes)

    def encoded(self, x: Tensor) -> Tensor:
        return applied(self.encoder, self._read(x), *self.shapes)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        x = self._read(x)
        if hasattr(self.encoder, "initialize"):
            self.encoder.initialize(x)
        if hasattr(self.encoder, "prepared"):
            x = self.encoder.prepared(x)
        unit = 3 * x.square().mean().sqrt()  # nearly all values lie between -unit and unit
        weight = getattr(self.encoder, "input_weight", None)
        if weight is not None and unit > 0:
            weight /= unit

    def _read(self, x: Tensor) -> Tensor:
        """x with zeros for missing values, unless the encoder reads gaps itself."""
        read = x if getattr(self.encoder, "reads_gaps", False) else filled(x)
        return read.clamp(-LARGEST_INPUT, LARGEST_INPUT)


def slopes(out: Tensor, size: float) -> Tensor:
    r"""Regression coefficients of elements of z on others, from unconstrained numbers.

    .. math:: b = c \sinh a

    The elements of z are nearly independent at first, and stay so for the first steps, whose size
    is chosen for means and scales: coefficients as large as those would widen q before the decoder
    has learned to use z. Any size is a few steps away all the same.

    Args:
        out: a, of any shape.
        size: c.
    """
    return size * bounded(out, LARGEST_LOG).sinh()


class Diagonal(Encoded):
    """Independent variables; the encoder computes their locations and log scales."""

    family: ClassVar[type[dist.Distribution]]

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__(event_shape, network, (2, latent_dim))

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_scale = self.encoded(x).unbind(-2)  # (*batch, 2, latent_dim)
        return self.family(*location_and_scale(loc, log_scale)).to_event(1)
