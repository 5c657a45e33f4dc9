"""Posteriors over all real vectors that are not normal."""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor

from pyrovae import distributions
from pyrovae._process.memory import check_layers
from pyrovae.distributions import FARTHEST, FlowDistribution, bounded, location_and_scale
from pyrovae.networks import NetworkFactory, Shape
from pyrovae.posteriors._base import Diagonal, Encoded

__all__ = ["DiagonalLaplace", "InverseAutoregressive", "Point"]


class DiagonalLaplace(Diagonal):
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


class InverseAutoregressive(Encoded):
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


class Point(Encoded):
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
