r"""Likelihoods of binary data."""

from typing import ClassVar

from pyro import distributions as dist
from torch import Tensor

from pyrovae.likelihoods._base import Elementwise, logit_of_mean
from pyrovae.networks import NetworkFactory, Shape

__all__ = ["Bernoulli"]


class Bernoulli(Elementwise):
    r"""Independent binary pixels.

    .. math:: p(x \mid z) = \prod_d \pi_d(z)^{x_d} (1 - \pi_d(z))^{1 - x_d}

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are the logits of :math:`\pi`.

    Example:
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.networks import MLP
        >>> Bernoulli(2, (1, 8, 8), MLP)(torch.zeros(5, 2)).log_prob(x[:5]).shape
        torch.Size([5])
    """

    scaling = "none"
    remedy: ClassVar[str] = (
        "a Bernoulli likelihood is a probability of bits, and on gray values it is not normalized; "
        "either binarize (binarization dynamic, static or threshold) or choose a likelihood of "
        "gray values (continuous_bernoulli or normal; of counts, binomial, discretized_logistic or "
        "categorical)"
    )

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__(latent_dim, event_shape, network)

    def element(self, logits: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=logits)

    def starting_values(self, x: Tensor) -> Tensor:
        return logit_of_mean(x, 1)
