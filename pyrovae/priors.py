r"""Priors p(z): modules whose ``forward()`` returns a Pyro distribution over z.

Any ``nn.Module`` whose ``forward()`` does the same takes their place: there is no base class and
nothing to register.
"""

import torch
from pyro import distributions as dist
from torch import nn

__all__ = ["PRIORS", "GaussianMixture", "Laplace", "StandardNormal"]


class StandardNormal(nn.Module):
    r"""The standard normal.

    .. math:: p(z) = \mathcal{N}(z \mid 0, I)

    Args:
        latent_dim: number of dimensions of z.

    Raises:
        ValueError: if ``latent_dim`` is not positive.
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Laplace(nn.Module):
    r"""Independent Laplace variables: sharper at zero and with heavier tails than a normal.

    .. math:: p(z) = \prod_{d} \frac{1}{2b} \exp\left(-\frac{|z_d|}{b}\right)

    Args:
        latent_dim: number of dimensions of z.
        scale: :math:`b`; the variance of each dimension is :math:`2 b^2`.

    Raises:
        ValueError: if ``latent_dim`` or ``scale`` is not positive.
    """

    loc: torch.Tensor

    def __init__(self, latent_dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _positive("scale", scale)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal normals with learned weights, means and scales.

    .. math::
        p(z) = \sum_{c=1}^{C} \pi_c \, \mathcal{N}(z \mid \mu_c, \operatorname{diag} \sigma_c^2)

    It starts from equal weights, unit scales and means drawn from N(0, I).

    Args:
        latent_dim: number of dimensions of z.
        components: number C of normals.

    Raises:
        ValueError: if ``latent_dim`` or ``components`` is not positive.
    """

    def __init__(self, latent_dim: int, *, components: int = 10) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _positive("components", components, "for p(z) = N(0, I) use StandardNormal")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> dist.Distribution:
        weights = dist.Categorical(logits=self.logits)
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(weights, normals)


def _positive(name: str, value: float, remedy: str = "") -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}" + (remedy and f"; {remedy}"))


PRIORS: dict[str, type[nn.Module]] = {
    "normal": StandardNormal,
    "laplace": Laplace,
    "mixture": GaussianMixture,
}
