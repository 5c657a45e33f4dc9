r"""Likelihoods p(x | z): modules whose ``forward(z)`` returns a Pyro distribution over x.

Each keeps its normalising constant: a log-likelihood is a log-likelihood, in nats per example,
and two models of the same data can be compared by it.

A class may say two things about its data: ``scaling``, how integer pixels are to be scaled for it
(``"none"`` counts, ``"unit"`` values between 0 and 1), and ``remedy``, what to do with data
outside its support.
"""

from typing import ClassVar, Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.networks import NetworkFactory, Shape

__all__ = ["LIKELIHOODS", "Bernoulli", "Binomial", "ContinuousBernoulli", "Normal"]


class Bernoulli(nn.Module):
    r"""Independent binary pixels.

    .. math:: p(x \mid z) = \prod_d \pi_d(z)^{x_d} (1 - \pi_d(z))^{1 - x_d}

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            the logits of :math:`\pi`.
    """

    scaling: ClassVar[str] = "none"
    remedy: ClassVar[str] = (
        "a Bernoulli likelihood is a probability of bits, and on grey values it is not normalised; "
        "either binarise (binarization dynamic, static or threshold) or choose a likelihood of "
        "grey values (continuous_bernoulli, normal or binomial)"
    )

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = network((latent_dim,), self.event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=self.decoder(z)).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        """Start the decoder's output bias from the mean of x ``(batch, *event_shape)``."""
        _start_bias(self.decoder, _logit_of_mean(x, 1))


class Binomial(nn.Module):
    r"""Independent counts out of a known total.

    .. math::
        p(x \mid z) = \prod_d \binom{n}{x_d} \pi_d(z)^{x_d} (1 - \pi_d(z))^{n - x_d}

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            the logits of :math:`\pi`.
        total_count: n, the largest count that a pixel can take.

    Raises:
        ValueError: if ``total_count`` is not positive.
    """

    scaling: ClassVar[str] = "none"
    remedy: ClassVar[str] = (
        "a Binomial likelihood counts successes: integers from 0 to total_count; set total_count "
        "to the largest value that a pixel can take, and leave the counts unscaled (scaling none)"
    )

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        total_count: int = 255,
    ) -> None:
        super().__init__()
        if total_count < 1:
            raise ValueError(f"total_count must be positive, got {total_count}")
        self.event_shape = tuple(event_shape)
        self.total_count = total_count
        self.decoder = network((latent_dim,), self.event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.decoder(z)
        return dist.Binomial(self.total_count, logits=logits).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        """Start the decoder's output bias from the mean of x ``(batch, *event_shape)``."""
        _start_bias(self.decoder, _logit_of_mean(x, self.total_count))


class Normal(nn.Module):
    r"""Independent normals around the decoder's output.

    .. math:: p(x \mid z) = \mathcal{N}(x \mid \mu(z), \sigma^2 I)

    One :math:`\sigma` is shared by all dimensions. Learned by maximum likelihood it weighs the
    reconstruction against the KL term; fixed by hand it is that weight.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            :math:`\mu`.
        scale: :math:`\sigma`, or ``"learned"``.

    Raises:
        ValueError: if ``scale`` is neither positive nor ``"learned"``.
    """

    scaling: ClassVar[str] = "unit"
    remedy: ClassVar[str] = "a Normal likelihood takes finite real numbers"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        scale: float | Literal["learned"] = "learned",
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = network((latent_dim,), self.event_shape)
        if scale != "learned" and not (isinstance(scale, int | float) and scale > 0):
            raise ValueError(f"scale must be a positive number or 'learned', got {scale!r}")
        self.fixed_scale = None if scale == "learned" else scale
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor | float:
        r""":math:`\sigma`, one for all dimensions."""
        return self.log_scale.exp() if self.fixed_scale is None else self.fixed_scale

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Normal(self.decoder(z), self.scale).to_event(len(self.event_shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start the output bias from the mean of x, and a learned scale from its spread.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        mean = x.mean(0)
        _start_bias(self.decoder, mean)
        spread = (x - mean).square().mean().sqrt()
        if self.fixed_scale is None and spread > 0:
            self.log_scale.copy_(spread.log())


class ContinuousBernoulli(nn.Module):
    r"""Independent values between 0 and 1 under the normalised continuous Bernoulli.

    .. math:: p(x \mid z) = \prod_d C(\lambda_d) \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}

    A density of grey values where a Bernoulli is none: the constant :math:`C` is what is lost
    when a Bernoulli is used on them. The decoder gives the logits of :math:`\lambda`; the mean is
    not :math:`\lambda` but a monotone function of it.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``.
    """

    scaling: ClassVar[str] = "unit"
    remedy: ClassVar[str] = (
        "a continuous Bernoulli likelihood takes values between 0 and 1; divide pixels by their "
        "largest value (scaling unit), or choose normal"
    )

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = network((latent_dim,), self.event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        return distributions.ContinuousBernoulli(logits=self.decoder(z)).to_event(
            len(self.event_shape)
        )

    def initialize(self, x: Tensor) -> None:
        """Start the output bias where the distribution's mean is the mean of x.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _start_bias(self.decoder, _continuous_bernoulli_logits(x.mean(0)))


@torch.no_grad()
def _start_bias(decoder: nn.Module, value: Tensor) -> None:
    bias = getattr(decoder, "output_bias", None)
    if bias is not None:
        bias.copy_(value.reshape(bias.shape))


def _logit_of_mean(x: Tensor, maximum: int) -> Tensor:
    mean = x.mean(0) / maximum
    margin = 0.5 / max(len(x), 100)  # a pixel that is always 0 keeps a finite logit
    return mean.clamp(margin, 1 - margin).logit()


def _continuous_bernoulli_logits(mean: Tensor) -> Tensor:
    low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
    for _ in range(40):  # the mean rises with the logits: halve the bracket
        middle = (low + high) / 2
        above = distributions.ContinuousBernoulli(logits=middle).mean > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "continuous_bernoulli": ContinuousBernoulli,
    "normal": Normal,
}
