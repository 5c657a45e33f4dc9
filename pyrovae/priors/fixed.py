r"""Priors without parameters to learn."""

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae._process.allocation import within_memory
from pyrovae.distributions import UniformSphere

__all__ = ["Laplace", "Logistic", "Sphere", "StandardNormal", "StudentT"]


class Centered(nn.Module):
    """A prior centered at a fixed zero, a buffer that keeps the device and dtype."""

    loc: Tensor

    @within_memory
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        positive("latent_dim", latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)


class Scaled(Centered):
    """A prior whose dimensions have one scale."""

    def __init__(self, latent_dim: int, *, scale: float = 1.0) -> None:
        super().__init__(latent_dim)
        positive("scale", scale)
        self.scale = scale


class StandardNormal(Centered):
    r"""The standard normal distribution.

    .. math:: p(z) = \mathcal{N}(z \mid 0, I)

    Args:
        latent_dim: number of dimensions of z.

    Raises:
        ValueError: if ``latent_dim`` is not positive.

    Example:
        >>> from pyrovae.priors import StandardNormal
        >>> StandardNormal(2)().sample((5,)).shape
        torch.Size([5, 2])
    """

    scale: Tensor

    @within_memory
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Laplace(Scaled):
    r"""Independent Laplace variables: a sharper peak and heavier tails than a normal distribution.

    .. math:: p(z) = \prod_{d} \frac{1}{2b} \exp\left(-\frac{|z_d|}{b}\right)

    Args:
        latent_dim: number of dimensions of z.
        scale: :math:`b`; the variance of each dimension is :math:`2 b^2`.

    Raises:
        ValueError: if ``latent_dim`` or ``scale`` is not positive.

    Example:
        >>> from pyrovae.priors import Laplace
        >>> Laplace(2, scale=0.5)().variance
        tensor([0.5000, 0.5000])
    """

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(Scaled):
    r"""Independent Student t variables, whose tails fall as a power.

    .. math:: p(z) \propto \prod_{d} \left(1 + \frac{z_d^2}{\nu s^2}\right)^{-(\nu + 1) / 2}

    Args:
        latent_dim: number of dimensions of z.
        df: degrees of freedom :math:`\nu`; the variance is finite above 2.
        scale: :math:`s`; the variance of each dimension is :math:`s^2 \nu / (\nu - 2)`.

    Raises:
        ValueError: if ``latent_dim``, ``df`` or ``scale`` is not positive.

    Example:
        >>> from pyrovae.priors import StudentT
        >>> StudentT(2, df=4.0)().variance
        tensor([2., 2.])
    """

    def __init__(self, latent_dim: int, *, df: float = 5.0, scale: float = 1.0) -> None:
        super().__init__(latent_dim, scale=scale)
        positive("df", df)
        self.df = df

    def forward(self) -> dist.Distribution:
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)


class Logistic(Scaled):
    r"""Independent logistic variables: nearly normal in the middle, with exponential tails.

    .. math:: p(z) = \prod_{d} \frac{e^{-z_d / s}}{s \, (1 + e^{-z_d / s})^2}

    Args:
        latent_dim: number of dimensions of z.
        scale: :math:`s`; the variance of each dimension is :math:`\pi^2 s^2 / 3`.

    Raises:
        ValueError: if ``latent_dim`` or ``scale`` is not positive.

    Example:
        >>> from pyrovae.priors import Logistic
        >>> Logistic(2)().sample((5,)).isfinite().all()
        tensor(True)
    """

    def forward(self) -> dist.Distribution:
        return distributions.Logistic(self.loc, self.scale).to_event(1)


class Sphere(nn.Module):
    r"""The uniform distribution on the unit sphere, for the posterior ``power_spherical``.

    .. math:: p(z) = \frac{\Gamma(n / 2)}{2 \pi^{n / 2}}, \qquad |z| = 1, \; z \in \mathbb{R}^n

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak (2018), Hyperspherical Variational
        Auto-Encoders, arXiv:1804.00891

    Args:
        latent_dim: number n of coordinates of z; the sphere has n - 1 dimensions.

    Raises:
        ValueError: if ``latent_dim`` is below 2.

    Example:
        >>> from pyrovae.priors import Sphere
        >>> z = Sphere(3)().sample((5,))
        >>> torch.allclose(z.norm(dim=-1), torch.ones(5))
        True
    """

    zero: Tensor

    @within_memory
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim must be at least 2 on a sphere, which is a circle then, got "
                f"{latent_dim}"
            )
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return UniformSphere(self.zero)


def positive(name: str, value: float, remedy: str = "") -> None:
    """Refuse a number that is not positive."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}" + (remedy and f"; {remedy}"))
