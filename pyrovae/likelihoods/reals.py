r"""Likelihoods of real numbers: of any, of positive ones, and of those between 0 and 1."""

import math
from typing import ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods._base import Elementwise, Spread, SpreadParameter, root
from pyrovae.networks import NetworkFactory, Shape

__all__ = ["Beta", "ContinuousBernoulli", "Laplace", "LogNormal", "Normal", "StudentT"]

LEAST, MOST = 1e-18, 1e15  # scales of a normal density: float32 holds the square of a distance


class Normal(Elementwise):
    r"""Independent normal variables around the decoder's output.

    .. math:: p(x \mid z) = \prod_d \mathcal{N}(x_d \mid \mu_d(z), \sigma_d^2)

    The scale :math:`\sigma` weighs the reconstruction against the KL term. Learned by maximum
    likelihood it finds that weight; fixed by hand it is chosen.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are :math:`\mu`. With ``scale="decoder"`` it is called for ``(2, *event_shape)``, and
            the second half of its outputs is :math:`\log \sigma`.
        scale: :math:`\sigma`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``scale`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import Normal
        >>> from pyrovae.networks import MLP
        >>> Normal(2, (3,), MLP, scale=0.1).scale, Normal(2, (3,), MLP).scale.requires_grad
        (0.1, True)
    """

    column_scaling = "standardize"
    remedy: ClassVar[str] = "a Normal likelihood takes finite real numbers"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        scale: Spread = "learned",
    ) -> None:
        _check_scale(scale)
        spread = SpreadParameter("scale", scale, event_shape)
        super().__init__(latent_dim, event_shape, network, spread=spread)

    @property
    def scale(self) -> Tensor | float:
        r""":math:`\sigma`, where it does not depend on z."""
        return self.spread.value

    def element(self, loc: Tensor, scale: Tensor | float) -> dist.Distribution:
        return dist.Normal(loc, scale)

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _mean_and_root_variance(x)


class LogNormal(Elementwise):
    r"""Independent positive variables whose logarithms are normal.

    .. math:: p(x \mid z) = \prod_d \frac{1}{x_d} \mathcal{N}(\log x_d \mid \mu_d(z), \sigma_d^2)

    The decoder's outputs are :math:`\mu`, so that the unit of x only moves them:
    :math:`e^\mu` is the median, the mean is :math:`e^{\mu + \sigma^2 / 2}`, and :math:`\sigma` is
    about the relative deviation where it is small.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``. With
            ``scale="decoder"`` it is called for ``(2, *event_shape)``, and the second half of its
            outputs is :math:`\log \sigma`.
        scale: :math:`\sigma`, of the logarithms, or ``"learned"``, ``"dimension"`` or
            ``"decoder"``.

    Raises:
        ValueError: if ``scale`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import LogNormal
        >>> from pyrovae.networks import MLP
        >>> bool((LogNormal(2, (3,), MLP)(torch.zeros(5, 2)).sample() > 0).all())
        True
    """

    column_scaling = "divide"
    remedy: ClassVar[str] = (
        "a log-normal likelihood takes positive numbers; for those that are also zero or negative "
        "choose normal, for counts negative_binomial"
    )

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        scale: Spread = "learned",
    ) -> None:
        _check_scale(scale)
        spread = SpreadParameter("scale", scale, event_shape)
        super().__init__(latent_dim, event_shape, network, spread=spread)

    def element(self, loc: Tensor, scale: Tensor | float) -> dist.Distribution:
        return distributions.LogNormal(loc, scale)

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _mean_and_root_variance(x.log())


class Laplace(Elementwise):
    r"""Independent Laplace variables around the decoder's output.

    .. math:: p(x \mid z) = \prod_d \frac{1}{2 b_d} e^{-|x_d - \mu_d(z)| / b_d}

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are :math:`\mu`. With ``scale="decoder"`` it is called for ``(2, *event_shape)``, and
            the second half of its outputs is :math:`\log b`.
        scale: :math:`b`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``scale`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import Laplace
        >>> from pyrovae.networks import MLP
        >>> Laplace(2, (3,), MLP, scale="decoder").decoder.out_shape
        (2, 3)
    """

    column_scaling = "standardize"
    remedy: ClassVar[str] = "a Laplace likelihood takes finite real numbers"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        scale: Spread = "learned",
    ) -> None:
        spread = SpreadParameter("scale", scale, event_shape)
        super().__init__(latent_dim, event_shape, network, spread=spread)

    def element(self, loc: Tensor, scale: Tensor | float) -> dist.Distribution:
        return dist.Laplace(loc, scale)

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _mean_and_deviation(x)


class StudentT(Elementwise):
    r"""Independent Student t variables around the decoder's output.

    .. math:: p(x \mid z) = \prod_d t_\nu\!\left(\frac{x_d - \mu_d(z)}{s_d}\right) / s_d

    Its tails are heavy: an outlier costs little, where a normal likelihood would follow it.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are :math:`\mu`. With ``scale="decoder"`` it is called for ``(2, *event_shape)``, and
            the second half of its outputs is :math:`\log s`.
        df: degrees of freedom :math:`\nu`.
        scale: :math:`s`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``df`` is not above 1, or ``scale`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import StudentT
        >>> from pyrovae.networks import MLP
        >>> StudentT(2, (3,), MLP, df=3.0)(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    column_scaling = "standardize"
    remedy: ClassVar[str] = "a Student t likelihood takes finite real numbers"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        df: float = 5.0,
        scale: Spread = "learned",
    ) -> None:
        if not 1 < df < math.inf:
            raise ValueError(
                f"df must be a number above 1, got {df}; at 1 and below there is no mean to show"
            )
        spread = SpreadParameter("scale", scale, event_shape)
        super().__init__(latent_dim, event_shape, network, spread=spread)
        self.df = df

    def element(self, loc: Tensor, scale: Tensor | float) -> dist.Distribution:
        return distributions.StudentT(self.df, loc, scale)

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _mean_and_deviation(x)


class ContinuousBernoulli(Elementwise):
    r"""Independent values between 0 and 1 under the normalized continuous Bernoulli distribution.

    .. math:: p(x \mid z) = \prod_d C(\lambda_d) \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}

    A density of gray values, which the Bernoulli likelihood is not: it lacks the constant
    :math:`C`. The decoder's outputs are the logits of :math:`\lambda`; the mean is not
    :math:`\lambda` but a monotone function of it.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``.

    Example:
        >>> from pyrovae.likelihoods import ContinuousBernoulli
        >>> from pyrovae.networks import MLP
        >>> gray = ContinuousBernoulli(2, (1, 8, 8), MLP)(torch.zeros(5, 2)).sample()
        >>> bool(((gray > 0) & (gray < 1)).all())
        True
    """

    remedy: ClassVar[str] = (
        "a continuous Bernoulli likelihood takes values between 0 and 1; divide pixels by their "
        "largest value (scaling unit), or choose normal"
    )

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__(latent_dim, event_shape, network)

    def element(self, logits: Tensor) -> dist.Distribution:
        return distributions.ContinuousBernoulli(logits=logits)

    def starting_values(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        return root(lambda logits: self.element(logits).mean - mean, mean, 200.0)


class Beta(Elementwise):
    r"""Independent beta variables, with values strictly between 0 and 1.

    .. math::
        p(x \mid z) = \prod_d \mathrm{Beta}(x_d \mid \mu_d / \delta_d, (1 - \mu_d) / \delta_d)

    The decoder's outputs are the logits of the mean :math:`\mu`; the variance is
    :math:`\mu (1 - \mu) \, \delta / (1 + \delta)`. At exactly 0 and 1 the density is zero or
    infinite, so data that contain either are refused.

    References:
        Ferrari and Cribari-Neto (2004), Beta Regression for Modelling Rates and Proportions

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``. With
            ``dispersion="decoder"`` it is called for ``(2, *event_shape)``, and the second half of
            its outputs is :math:`\log \delta`.
        dispersion: :math:`\delta`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``dispersion`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import Beta
        >>> from pyrovae.networks import MLP
        >>> Beta(2, (1, 8, 8), MLP)(torch.zeros(5, 2)).log_prob(0.5 + 0 * x[:5]).shape
        torch.Size([5])
    """

    remedy: ClassVar[str] = (
        "a Beta likelihood takes values strictly between 0 and 1, and its density at 0 and 1 is "
        "zero or infinite; move counts x out of m inside by (x + 0.5) / (m + 1) and save them as "
        "floats, or choose continuous_bernoulli, whose density is finite at 0 and 1"
    )

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        dispersion: Spread = "decoder",
    ) -> None:
        spread = SpreadParameter("dispersion", dispersion, event_shape, minimum=1e-4)
        super().__init__(latent_dim, event_shape, network, spread=spread)

    def element(self, logits: Tensor, dispersion: Tensor | float) -> dist.Distribution:
        tiny = torch.finfo(logits.dtype).tiny
        mean, rest = logits.sigmoid().clamp_min(tiny), (-logits).sigmoid().clamp_min(tiny)
        least = tiny**0.75  # whose digamma function is finite, too
        return distributions.Beta(
            (mean / dispersion).clamp_min(least), (rest / dispersion).clamp_min(least)
        )

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(0)
        variance, largest = (x - mean).square().mean(0), mean * (1 - mean)
        pooled, each = (
            share.clamp(1e-3, 0.9) for share in (variance.sum() / largest.sum(), variance / largest)
        )
        return mean.logit(), pooled / (1 - pooled), each / (1 - each)


def _mean_and_root_variance(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(0)
    variance = (x - mean).square().mean(0)
    return mean, variance.mean().sqrt(), variance.sqrt()


def _mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(0)
    deviation = (x - mean).abs().mean(0)
    return mean, deviation.mean(), deviation


def _check_scale(scale: Spread) -> None:
    if isinstance(scale, int | float) and 0 < scale < math.inf and not LEAST <= scale <= MOST:
        raise ValueError(
            f"scale must be between {LEAST:.0e} and {MOST:.0e}, so that float32 holds its square, "
            f"got {scale}; scale the data instead"
        )
