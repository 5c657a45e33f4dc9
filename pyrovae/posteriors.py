r"""Posteriors q(z | x): modules whose ``forward(x)`` returns a Pyro distribution over z.

The encoder's outputs are deterministic given x; they are the parameters of a distribution, and z
is what is random.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae.distributions import (
    FlowDistribution,
    OneHots,
    PowerSpherical,
    RelaxedOneHots,
    cholesky_factor,
    number_of_variables,
    zuko_flows,
)
from pyrovae.networks import Divided, NetworkFactory, Shape

__all__ = [
    "POSTERIORS",
    "DiagonalLaplace",
    "DiagonalNormal",
    "FullNormal",
    "InverseAutoregressive",
    "LowRankNormal",
    "Point",
    "RelaxedCategorical",
    "Spherical",
]


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

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class FullNormal(nn.Module):
    r"""A normal with full covariance, given by its Cholesky factor.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x), L(x) L(x)^\top)

    L is lower triangular. The encoder gives :math:`\mu`, the logarithm of L's diagonal and the
    entries below it.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the encoder, called with
            ``(event_shape, (latent_dim * (latent_dim + 3) / 2,))``.
    """

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.sizes = (latent_dim, latent_dim, latent_dim * (latent_dim - 1) // 2)
        self.encoder = network(tuple(event_shape), (sum(self.sizes),))

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_diagonal, below = self.encoder(x).split(self.sizes, -1)
        return dist.MultivariateNormal(loc, scale_tril=cholesky_factor(log_diagonal, below))

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class LowRankNormal(nn.Module):
    r"""A normal with a covariance of low rank beside its diagonal.

    .. math::
        q(z \mid x) = \mathcal{N}(z \mid \mu(x), \operatorname{diag} \sigma(x)^2 + W(x) W(x)^\top)

    W has ``rank`` columns. The encoder gives :math:`\mu`, :math:`\log \sigma` and W.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the encoder, called with ``(event_shape, (2 + rank, latent_dim))``.
        rank: number of columns of W; with ``latent_dim`` of them every covariance can be reached,
            which ``FullNormal`` does with fewer numbers.

    Raises:
        ValueError: if ``rank`` is not between 1 and ``latent_dim``.
    """

    def __init__(
        self, latent_dim: int, event_shape: Shape, network: NetworkFactory, *, rank: int = 1
    ) -> None:
        super().__init__()
        if not 1 <= rank <= latent_dim:
            raise ValueError(
                f"rank must be between 1 and latent_dim = {latent_dim}, got {rank}; for no "
                "covariance use DiagonalNormal, for all of it FullNormal"
            )
        self.encoder = network(tuple(event_shape), (2 + rank, latent_dim))

    def forward(self, x: Tensor) -> dist.Distribution:
        out = self.encoder(x)  # (*batch, 2 + rank, latent_dim)
        loc, log_scale, factor = out[..., 0, :], out[..., 1, :], out[..., 2:, :].mT
        return dist.LowRankMultivariateNormal(loc, factor, (2 * log_scale).exp())

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class DiagonalLaplace(nn.Module):
    r"""Independent Laplace variables, their medians and scales given by the encoder.

    .. math::
        q(z \mid x) = \prod_{d} \frac{1}{2 b_d(x)} \exp\left(-\frac{|z_d - \mu_d(x)|}{b_d(x)}\right)

    The encoder gives :math:`\mu` and :math:`\log b`; the variance is :math:`2 b^2`.

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
        return dist.Laplace(loc, log_scale.exp()).to_event(1)

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class InverseAutoregressive(nn.Module):
    r"""A diagonal normal, bent by autoregressive maps that are conditioned on features of x.

    .. math::
        e \sim \mathcal{N}(\mu(x), \operatorname{diag} \sigma(x)^2), \qquad
        z = f_T \circ \dots \circ f_1(e; h(x)), \qquad
        f_t(e)_d = a_{t d}(e_{<d}, h) \, e_d + b_{t d}(e_{<d}, h)

    with :math:`a_{td} > 0`, and the order of dimensions reversed from each map to the next. A draw
    and its own log density take one pass; the density of any other value one pass for each
    dimension.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improving Variational
        Inference with Inverse Autoregressive Flow, arXiv:1606.04934

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the encoder, called with
            ``(event_shape, (2 * latent_dim + features,))``.
        transforms: number T of maps.
        hidden_dims: widths of the network in each.
        features: number of features h of x.

    Raises:
        ValueError: if ``transforms``, ``features`` or a width is not positive.
    """

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        transforms: int = 2,
        hidden_dims: Sequence[int] = (64,),
        features: int = 16,
    ) -> None:
        super().__init__()
        options = {"transforms": [transforms], "features": [features], "hidden_dims": hidden_dims}
        for name, values in options.items():
            if min(values, default=1) < 1:
                raise ValueError(
                    f"{name} must be positive, got {min(values)}; for a normal use DiagonalNormal"
                )
        self.sizes = (latent_dim, latent_dim, features)
        self.encoder = network(tuple(event_shape), (sum(self.sizes),))
        flow = zuko_flows().MAF(
            latent_dim, features, transforms=transforms, hidden_features=tuple(hidden_dims)
        )
        self.from_normal = flow.transform

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_scale, features = self.encoder(x).split(self.sizes, -1)
        base = dist.Normal(loc, log_scale.exp()).to_event(1)
        return FlowDistribution(base, self.from_normal(features))

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class Point(nn.Module):
    r"""A single point: the plain autoencoder, as a guide of the same program.

    .. math:: q(z \mid x) = \delta(z - \mu(x))

    Pyro counts :math:`\log q = 0` at the point. The KL term is then :math:`-\log p(\mu(x))`, a
    penalty on the encoding, and the objective the joint density
    :math:`\log p(x, \mu(x))`. A point has no density, so that this is **no** bound on
    :math:`\log p(x)` and may exceed it. Evaluations say so; training metrics still name it elbo.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the encoder, called with ``(event_shape, (latent_dim,))``.
    """

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.encoder = network(tuple(event_shape), (latent_dim,))

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Delta(self.encoder(x), event_dim=1)

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class Spherical(nn.Module):
    r"""A power spherical distribution on the unit sphere; it goes with the prior sphere.

    .. math:: q(z \mid x) \propto (1 + \mu(x)^\top z)^{\kappa(x)}, \qquad |z| = |\mu(x)| = 1

    The encoder gives a vector, whose direction is :math:`\mu`, and :math:`\log \kappa`.

    References:
        De Cao and Aziz (2020), The Power Spherical distribution, arXiv:2006.04437

    Args:
        latent_dim: number of coordinates of z, at least 2.
        event_shape: shape of one observation.
        network: factory of the encoder, called with ``(event_shape, (latent_dim + 1,))``.

    Raises:
        ValueError: if ``latent_dim`` is below 2.
    """

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim must be at least 2 on a sphere, which is a circle then, got "
                f"{latent_dim}"
            )
        self.encoder = network(tuple(event_shape), (latent_dim + 1,))

    def forward(self, x: Tensor) -> dist.Distribution:
        out = self.encoder(x)  # (*batch, latent_dim + 1)
        return PowerSpherical(nn.functional.normalize(out[..., 1:], dim=-1), out[..., 0].exp())

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


class RelaxedCategorical(nn.Module):
    r"""L one-hot variables of K classes, relaxed in training; it goes with the prior categorical.

    .. math::
        q(z \mid x) = \prod_{l=1}^{L} \prod_{k=1}^{K} \pi_{lk}(x)^{z_{lk}},
        \qquad LK = \text{latent\_dim}

    The encoder gives :math:`\log \pi` up to a constant. In eval mode this is q: z is L one-hot
    vectors laid side by side, and every number that is reported is of the discrete model and a
    bound on its evidence. In training mode it is the Concrete relaxation, of temperature
    :math:`T`, whose draws can be differentiated; what training maximises is a bound on the evidence
    of the relaxed model, and no bound on that of the discrete one. With the schedule
    ``"exponential"`` the temperature falls over the training, whose done fraction is s:

    .. math:: T(s) = T_0^{1 - s} \, T_1^s

    The temperature in use is the attribute ``temperature``, the first until :meth:`at` is called.

    References:
        Maddison, Mnih and Teh (2017), The Concrete Distribution, arXiv:1611.00712;
        Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        arXiv:1611.01144

    Args:
        latent_dim: number L * K of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the encoder, called with ``(event_shape, (L, K))``.
        classes: K, the same as the prior's.
        temperature: :math:`T_0`, of the relaxation.
        schedule: ``"exponential"``, or ``"constant"`` at ``temperature``.
        final: :math:`T_1`.

    Raises:
        ValueError: if ``classes`` is below 2 or does not divide ``latent_dim``, ``schedule`` is
            neither, or a temperature is not positive and finite.
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
        super().__init__()
        for name, value in (("temperature", temperature), ("final", final)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if schedule not in ("constant", "exponential"):
            raise ValueError(f"schedule must be one of constant, exponential, got {schedule!r}")
        variables = number_of_variables(latent_dim, classes)
        self.schedule, self.first, self.final = schedule, temperature, final
        self.temperature: Tensor | float = temperature
        self.encoder = network(tuple(event_shape), (variables, classes))

    def forward(self, x: Tensor) -> dist.Distribution:
        logits = self.encoder(x)  # (*batch, L, K)
        return RelaxedOneHots(logits, self.temperature) if self.training else OneHots(logits)

    def at(self, progress: float) -> None:
        """Set the temperature for a moment of the training.

        Args:
            progress: fraction of the training that is done, from 0 to 1.
        """
        if self.schedule == "exponential":
            self.temperature = self.first ** (1 - progress) * self.final**progress

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder's first weights to the data, so that the unit of x does not matter.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        _scale_to(self.encoder, x)


@torch.no_grad()
def _scale_to(encoder: nn.Module, x: Tensor) -> None:
    """Make three times the root mean square of x the unit of the encoder's input.

    Nearly all values lie between -1 and 1 then; images of pixels between 0 and 1 are about there
    already.
    """
    if isinstance(encoder, Divided):
        x = x / encoder.divisor
    unit = 3 * x.square().mean().sqrt()
    weight = getattr(encoder, "input_weight", None)
    if weight is not None and unit > 0:
        weight /= unit


POSTERIORS: dict[str, type[nn.Module]] = {
    "diagonal": DiagonalNormal,
    "full": FullNormal,
    "low_rank": LowRankNormal,
    "laplace": DiagonalLaplace,
    "flow": InverseAutoregressive,
    "point": Point,
    "power_spherical": Spherical,
    "relaxed_categorical": RelaxedCategorical,
}
