"""Normal posteriors, which differ in the structure of their covariance."""

import math

from pyro import distributions as dist
from torch import Tensor

from pyrovae.distributions import location_and_low_rank, location_and_tril
from pyrovae.networks import NetworkFactory, Shape
from pyrovae.posteriors._base import Diagonal, Encoded, slopes

__all__ = ["DiagonalNormal", "FullNormal", "LowRankNormal"]


class DiagonalNormal(Diagonal):
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


class FullNormal(Encoded):
    r"""A normal distribution with full covariance, parameterized by scales and coefficients.

    .. math::
        q(z \mid x) = \mathcal{N}(z \mid \mu(x), L(x) L(x)^\top), \qquad
        L = (I + B) \operatorname{diag}(\sigma), \qquad
        B_{ij} = \frac{\sinh a_{ij}}{n} \text{ for } i > j

    with zeros elsewhere in B, and n dimensions of z. The encoder's outputs are :math:`\mu`,
    :math:`\log \sigma` and a, row by row. :math:`\sigma_i` is the standard deviation of
    :math:`z_i` given the dimensions before it, and B has the coefficients by which they change its
    mean. These start near zero, and so training starts as that of :class:`DiagonalNormal`.

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

    meaning_since = 3

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        sizes = (latent_dim, latent_dim, latent_dim * (latent_dim - 1) // 2)
        super().__init__(event_shape, network, (sum(sizes),))
        self.sizes = sizes

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_scale, below = self.encoded(x).split(self.sizes, -1)
        loc, tril = location_and_tril(loc, log_scale, slopes(below, 1 / self.sizes[0]))
        return dist.MultivariateNormal(loc, scale_tril=tril)


class LowRankNormal(Encoded):
    r"""A normal distribution whose covariance is diagonal plus a matrix of low rank.

    .. math::
        q(z \mid x) = \mathcal{N}(z \mid \mu(x), S(x) \, (I + W(x) W(x)^\top) \, S(x)), \qquad
        S = \operatorname{diag} \frac{\sigma_i}{\sqrt{1 + \sum_k W_{ik}^2}}, \qquad
        W_{ik} = \frac{\sinh a_{ik}}{\sqrt{n}}

    W has ``rank`` columns, and z has n dimensions. The encoder's outputs are :math:`\mu`,
    :math:`\log \sigma` and the columns of a. :math:`\sigma` are the standard deviations of z, as in
    :class:`DiagonalNormal`, and a decides its correlations alone, which start near zero.

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

    meaning_since = 3

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
        loc, log_scale = out[..., 0, :], out[..., 1, :]
        factor = slopes(out[..., 2:, :].mT, 1 / math.sqrt(out.shape[-1]))
        return dist.LowRankMultivariateNormal(*location_and_low_rank(loc, log_scale, factor))
