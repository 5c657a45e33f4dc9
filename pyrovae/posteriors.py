r"""Posteriors q(z | x): modules whose ``forward(x)`` returns a Pyro distribution over z.

An encoder maps x to the parameters of a distribution. The encoder is deterministic; z is random.
A posterior of your own is any module that meets :class:`pyrovae.vae.Posterior`.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae._process.choices import check_choice
from pyrovae._process.memory import check_layers
from pyrovae.distributions import (
    FARTHEST,
    LARGEST_INPUT,
    FlowDistribution,
    OneHots,
    RelaxedOneHots,
    bounded,
    filled,
    location_and_low_rank,
    location_and_scale,
    location_and_tril,
)
from pyrovae.networks import NetworkFactory, Shape, applied, built

__all__ = [
    "POSTERIORS",
    "DiagonalLaplace",
    "DiagonalNormal",
    "FullNormal",
    "InverseAutoregressive",
    "LowRankNormal",
    "Point",
    "PowerSpherical",
    "RelaxedCategorical",
]


class _Encoded(nn.Module):
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


class _Diagonal(_Encoded):
    """Independent variables; the encoder computes their locations and log scales."""

    family: ClassVar[type[dist.Distribution]]

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__(event_shape, network, (2, latent_dim))

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_scale = self.encoded(x).unbind(-2)  # (*batch, 2, latent_dim)
        return self.family(*location_and_scale(loc, log_scale)).to_event(1)


class DiagonalNormal(_Diagonal):
    r"""A normal distribution with diagonal covariance; the encoder computes its mean and scale.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x), \operatorname{diag} \sigma(x)^2)

    The encoder's outputs are :math:`\mu` and :math:`\log \sigma`: a log standard deviation, not a
    log variance.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with ``(event_shape, (2, latent_dim))``.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> DiagonalNormal(2, (1, 8, 8), MLP)(x).rsample().shape
        torch.Size([64, 2])
    """

    family = dist.Normal


class FullNormal(_Encoded):
    r"""A normal distribution with full covariance, parameterized by its Cholesky factor.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x), L(x) L(x)^\top)

    L is lower triangular. The encoder's outputs are :math:`\mu`, the logarithm of the diagonal of
    L, and the entries below the diagonal.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with
            ``(event_shape, (latent_dim * (latent_dim + 3) / 2,))``.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FullNormal
        >>> FullNormal(3, (1, 8, 8), MLP)(x).covariance_matrix.shape
        torch.Size([64, 3, 3])
    """

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        sizes = (latent_dim, latent_dim, latent_dim * (latent_dim - 1) // 2)
        super().__init__(event_shape, network, (sum(sizes),))
        self.sizes = sizes

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, tril = location_and_tril(*self.encoded(x).split(self.sizes, -1))
        return dist.MultivariateNormal(loc, scale_tril=tril)


class LowRankNormal(_Encoded):
    r"""A normal distribution whose covariance is diagonal plus a matrix of low rank.

    .. math::
        q(z \mid x) = \mathcal{N}(z \mid \mu(x), \operatorname{diag} \sigma(x)^2 + W(x) W(x)^\top)

    W has ``rank`` columns. The encoder's outputs are :math:`\mu`, :math:`\log \sigma` and W.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with ``(event_shape, (2 + rank, latent_dim))``.
        rank: number of columns of W. With ``latent_dim`` columns it reaches every covariance;
            ``FullNormal`` does so with fewer outputs.

    Raises:
        ValueError: if ``rank`` is not between 1 and ``latent_dim``.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import LowRankNormal
        >>> LowRankNormal(3, (1, 8, 8), MLP, rank=2)(x).cov_factor.shape
        torch.Size([64, 3, 2])
    """

    def __init__(
        self, latent_dim: int, event_shape: Shape, network: NetworkFactory, *, rank: int = 1
    ) -> None:
        if not 1 <= rank <= latent_dim:
            raise ValueError(
                f"rank must be between 1 and latent_dim = {latent_dim}, got {rank}; for no "
                "covariance use DiagonalNormal, for all of it FullNormal"
            )
        super().__init__(event_shape, network, (2 + rank, latent_dim))

    def forward(self, x: Tensor) -> dist.Distribution:
        out = self.encoded(x)  # (*batch, 2 + rank, latent_dim)
        loc, log_scale, factor = out[..., 0, :], out[..., 1, :], out[..., 2:, :].mT
        return dist.LowRankMultivariateNormal(*location_and_low_rank(loc, log_scale, factor))


class DiagonalLaplace(_Diagonal):
    r"""Independent Laplace variables; the encoder computes their medians and scales.

    .. math::
        q(z \mid x) = \prod_{d} \frac{1}{2 b_d(x)} \exp\left(-\frac{|z_d - \mu_d(x)|}{b_d(x)}\right)

    The encoder's outputs are :math:`\mu` and :math:`\log b`; the variance is :math:`2 b^2`.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with ``(event_shape, (2, latent_dim))``.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalLaplace
        >>> DiagonalLaplace(2, (1, 8, 8), MLP)(x).mean.shape
        torch.Size([64, 2])
    """

    family = dist.Laplace


class InverseAutoregressive(_Encoded):
    r"""A diagonal normal distribution bent by autoregressive maps, conditioned on features of x.

    .. math::
        e \sim \mathcal{N}(\mu(x), \operatorname{diag} \sigma(x)^2), \qquad
        z = f_T \circ \dots \circ f_1(e; h(x)), \qquad
        f_t(e)_d = a_{t d}(e_{<d}, h) \, e_d + b_{t d}(e_{<d}, h)

    with :math:`a_{td} > 0`, and the order of the dimensions reversed from each map to the next.
    Drawing z and computing the log density of that draw takes one pass; the density of any other
    value takes one pass for each dimension.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improving Variational
        Inference with Inverse Autoregressive Flow, arXiv:1606.04934

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with
            ``(event_shape, (2 * latent_dim + features,))``.
        transforms: number T of maps.
        hidden_dims: widths of the hidden layers in each map.
        features: number of features h of x.

    Raises:
        ValueError: if ``transforms``, ``features`` or a width is not positive.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import InverseAutoregressive
        >>> q = InverseAutoregressive(2, (1, 8, 8), MLP, transforms=3)(x)
        >>> q.log_prob(q.rsample()).shape
        torch.Size([64])
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
        options = {"transforms": [transforms], "features": [features], "hidden_dims": hidden_dims}
        for name, values in options.items():
            if min(values, default=1) < 1:
                raise ValueError(
                    f"{name} must be positive, got {min(values)}; for a normal use DiagonalNormal"
                )
        check_layers("flow", (latent_dim + features, *hidden_dims, 2 * latent_dim), transforms)
        sizes = (latent_dim, latent_dim, features)
        super().__init__(event_shape, network, (sum(sizes),))
        self.sizes = sizes
        flow = distributions.zuko_flows().MAF(
            latent_dim, features, transforms=transforms, hidden_features=tuple(hidden_dims)
        )
        self.from_normal = flow.transform

    def forward(self, x: Tensor) -> dist.Distribution:
        out = bounded(self.encoded(x), 100.0)
        loc, log_scale, features = out.split(self.sizes, -1)
        far = out.abs().amax(-1, keepdim=True) > 30  # where the maps would lose a density's digits
        log_scale = torch.where(far, log_scale - log_scale.detach(), log_scale)
        base = dist.Normal(*location_and_scale(loc, log_scale)).to_event(1)
        return FlowDistribution(base, self.from_normal(features))


class Point(_Encoded):
    r"""A single point: the plain autoencoder, as a guide of the same program.

    .. math:: q(z \mid x) = \delta(z - \mu(x))

    Pyro takes :math:`\log q = 0` at the point. The KL term is then :math:`-\log p(\mu(x))`, a
    penalty on the encoding, and the objective is the joint density :math:`\log p(x, \mu(x))`. A
    point has no density, so this is **no** bound on :math:`\log p(x)` and may exceed it.
    Evaluations point this out; training metrics still call it elbo.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the encoder, called with ``(event_shape, (latent_dim,))``.

    Example:
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import Point
        >>> q = Point(2, (1, 8, 8), MLP)(x)
        >>> torch.equal(q.sample(), q.mean)
        True
    """

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__(event_shape, network, (latent_dim,))

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Delta(bounded(self.encoded(x), FARTHEST), event_dim=1)


class PowerSpherical(_Encoded):
    r"""A power spherical distribution on the unit sphere, for the prior ``sphere``.

    .. math:: q(z \mid x) \propto (1 + \mu(x)^\top z)^{\kappa(x)}, \qquad |z| = |\mu(x)| = 1

    The encoder's outputs are :math:`\log \kappa` and a vector in the direction of :math:`\mu`.

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

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim must be at least 2 on a sphere, which is a circle then, got "
                f"{latent_dim}"
            )
        super().__init__(event_shape, network, (latent_dim + 1,))

    def forward(self, x: Tensor) -> dist.Distribution:
        out = self.encoded(x)  # (*batch, latent_dim + 1)
        concentration = bounded(out[..., 0], 15.0).exp()  # beyond, a density has no digits
        direction = nn.functional.normalize(out[..., 1:], dim=-1)
        return distributions.PowerSpherical(direction, concentration)


class RelaxedCategorical(_Encoded):
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


POSTERIORS: dict[str, type[nn.Module]] = {
    "diagonal": DiagonalNormal,
    "full": FullNormal,
    "low_rank": LowRankNormal,
    "laplace": DiagonalLaplace,
    "flow": InverseAutoregressive,
    "point": Point,
    "power_spherical": PowerSpherical,
    "relaxed_categorical": RelaxedCategorical,
}
"""Posteriors by name."""
