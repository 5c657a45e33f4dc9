"""Normal posteriors, which differ in the structure of their covariance."""

from pyro import distributions as dist
from torch import Tensor

from pyrovae.distributions import location_and_low_rank, location_and_tril
from pyrovae.networks import NetworkFactory, Shape
from pyrovae.posteriors._base import Diagonal, Encoded

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


class LowRankNormal(Encoded):
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
