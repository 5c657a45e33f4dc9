r"""Posteriors q(z | x): modules whose ``forward(x)`` returns a Pyro distribution over z.

The encoder's outputs are deterministic given x; they are the parameters of a distribution, and z
is what is random.
"""

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae.networks import NetworkFactory, Shape

__all__ = ["POSTERIORS", "DiagonalNormal"]


class DiagonalNormal(nn.Module):
    r"""A normal with diagonal covariance, its mean and scale given by the encoder.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x), \operatorname{diag} \sigma(x)^2)

    The encoder gives :math:`\mu` and :math:`\log \sigma`: a log standard deviation, not a log
    variance.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the encoder, called with ``(event_shape, (2, latent_dim))``.
    """

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.encoder = network(tuple(event_shape), (2, latent_dim))

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_scale = self.encoder(x).unbind(-2)  # (*batch, 2, latent_dim)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        The unit becomes three times the root mean square of x, in which nearly all values lie
        between -1 and 1; images of pixels between 0 and 1 are about there already.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        unit = 3 * x.square().mean().sqrt()
        weight = getattr(self.encoder, "input_weight", None)
        if weight is not None and unit > 0:
            weight /= unit


POSTERIORS: dict[str, type[nn.Module]] = {
    "diagonal": DiagonalNormal,
}
