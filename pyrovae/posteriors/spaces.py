"""Posteriors over vectors that do not fill space: on the unit sphere, and of one-hot variables."""

import math
from typing import Literal

from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae._process.choices import check_choice
from pyrovae.distributions import OneHots, RelaxedOneHots, bounded
from pyrovae.networks import NetworkFactory, Shape
from pyrovae.posteriors._base import Encoded

__all__ = ["PowerSpherical", "RelaxedCategorical"]

FIRST_CONCENTRATION = 5.0  # per coordinate but one, where the encoder gives zero


class PowerSpherical(Encoded):
    r"""A power spherical distribution on the unit sphere, for the prior ``sphere``.

    .. math:: q(z \mid x) \propto (1 + \mu(x)^\top z)^{\kappa(x)}, \qquad |z| = |\mu(x)| = 1

    The encoder's outputs are a number a and a vector in the direction of :math:`\mu`:

    .. math:: \kappa(x) = 5 \, (n - 1) \, e^{a(x)}

    with n coordinates. The mean of z is :math:`\mu \kappa / (\kappa + n - 1)`, so at the start of
    training, where a is near zero, z is :math:`5/6 \, \mu` on average: with :math:`\kappa` near one
    it would be noise, from which the decoder learns to ignore it.

    References:
        De Cao and Aziz (2020), The Power Spherical distribution, arXiv:2006.04437

    Args:
        latent_dim: number of coordinates of z, at least 2.
        event_shape: shape of one example.
        network: factory of the encoder, called with ``(event_shape, (latent_dim + 1,))``.

    Raises:
        ValueError: if ``latent_dim`` is below 2.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import PowerSpherical
        >>> z = PowerSpherical(3, (1, 8, 8), MLP)(x).sample()
        >>> torch.allclose(z.norm(dim=-1), torch.ones(64))
        True
    """

    meaning_since = 3

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim must be at least 2 on a sphere, which is a circle then, got "
                f"{latent_dim}"
            )
        super().__init__(event_shape, network, (latent_dim + 1,))

    def forward(self, x: Tensor) -> dist.Distribution:
        out = self.encoded(x)  # (*batch, latent_dim + 1)
        log = out[..., 0] + math.log(FIRST_CONCENTRATION * (out.shape[-1] - 2))
        concentration = bounded(log, 15.0).exp()  # beyond, a density has no digits
        direction = nn.functional.normalize(out[..., 1:], dim=-1)
        return distributions.PowerSpherical(direction, concentration)


class RelaxedCategorical(Encoded):
    r"""L one-hot variables with K classes, relaxed in training, for the prior ``categorical``.

    .. math::
        q(z \mid x) = \prod_{l=1}^{L} \prod_{k=1}^{K} \pi_{lk}(x)^{z_{lk}},
        \qquad LK = \text{latent\_dim}

    The encoder's outputs are :math:`\log \pi` up to a constant. In eval mode this is q: z is L
    one-hot vectors side by side, and every reported number is about the discrete model and a bound
    on its evidence. In training mode it is the Concrete relaxation with temperature :math:`T`,
    whose draws are differentiable. Training therefore maximizes a bound on the evidence of the
    relaxed model, which is no bound on the evidence of the discrete one. With the schedule
    ``"exponential"`` the temperature falls during training; after the fraction s of training it is

    .. math:: T(s) = T_0^{1 - s} \, T_1^s

    The temperature in use is the attribute ``temperature``, :math:`T_0` until :meth:`at` is called.

    References:
        Maddison, Mnih and Teh (2017), The Concrete Distribution, arXiv:1611.00712;
        Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        arXiv:1611.01144

    Args:
        latent_dim: number L * K of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with ``(event_shape, (L, K))``.
        classes: K, the same as the prior's.
        temperature: :math:`T_0` of the relaxation.
        schedule: ``"exponential"``, or ``"constant"`` at ``temperature``.
        final: :math:`T_1`.

    Raises:
        ValueError: if ``classes`` is below 2 or does not divide ``latent_dim``, ``schedule`` is
            neither, or a temperature is not positive and finite.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import RelaxedCategorical
        >>> posterior = RelaxedCategorical(6, (1, 8, 8), MLP, classes=3)
        >>> posterior.eval()(x).sample().sum(-1).unique()  # two one-hot vectors
        tensor([2.])
    """

    scheduled = ("temperature",)

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        classes: int = 2,
        temperature: float = 1.0,
        schedule: Literal["constant", "exponential"] = "exponential",
        final: float = 0.5,
    ) -> None:
        for name, value in (("temperature", temperature), ("final", final)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        check_choice("schedule", schedule, ("constant", "exponential"))
        variables = distributions.number_of_variables(latent_dim, classes)
        super().__init__(event_shape, network, (variables, classes))
        self.schedule, self.first, self.final = schedule, temperature, final
        self.temperature: Tensor | float = temperature

    def forward(self, x: Tensor) -> dist.Distribution:
        logits = self.encoded(x)  # (*batch, L, K)
        return RelaxedOneHots(logits, self.temperature) if self.training else OneHots(logits)

    def at(self, progress: float) -> None:
        """Set the temperature for the current point of training.

        Args:
            progress: fraction of the training that is done, from 0 to 1.
        """
        if self.schedule == "exponential":
            self.temperature = self.first ** (1 - progress) * self.final**progress
