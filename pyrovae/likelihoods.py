r"""Likelihoods p(x | z): modules whose ``forward(z)`` returns a Pyro distribution over x.

Each keeps its normalising constant: a log-likelihood is a log-likelihood, in nats per example,
and two models of the same data can be compared by it.

A class may say two things about its data: ``scaling``, how integer pixels are to be scaled for it
(``"none"`` counts, ``"unit"`` values between 0 and 1), and ``remedy``, what to do with data
outside its support.

A parameter that says how far x strays from its mean, ``scale`` or ``dispersion``, is one option
with four kinds of value: a positive number, which stays as it is; ``learned``, one number for all
dimensions of x; ``dimension``, one for each of them; ``decoder``, given by the decoder for each x.

A density has no upper limit. Where a pixel has one value in all data, a scale of its own tends to
zero and the density to infinity, which says nothing about the model. Under ``dimension`` and
``decoder`` the scale of a density therefore stays above a hundredth of the training data's.
Probabilities of levels and counts are at most 1 and know no such trouble.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.networks import NetworkFactory, Shape

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Spread",
    "StudentT",
]

Spread = float | Literal["learned", "dimension", "decoder"]
"""How far x strays from its mean: a number, or how that number is learned."""


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
        "grey values (continuous_bernoulli or normal; of counts, binomial, discretized_logistic or "
        "categorical)"
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

    .. math:: p(x \mid z) = \prod_d \mathcal{N}(x_d \mid \mu_d(z), \sigma_d^2)

    One :math:`\sigma` learned by maximum likelihood weighs the reconstruction against the KL
    term; fixed by hand it is that weight.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            :math:`\mu`. Under ``scale="decoder"`` it is called for ``(2, *event_shape)`` and
            gives :math:`\log \sigma` too.
        scale: :math:`\sigma`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``scale`` is none of these.
    """

    scaling: ClassVar[str] = "unit"
    remedy: ClassVar[str] = "a Normal likelihood takes finite real numbers"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        scale: Spread = "learned",
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.spread = _Spread("scale", scale, self.event_shape)
        self.decoder = network((latent_dim,), self.spread.out_shape)

    @property
    def scale(self) -> Tensor | float:
        r""":math:`\sigma`, where it does not depend on z."""
        return self.spread.value

    def forward(self, z: Tensor) -> dist.Distribution:
        loc, scale = self.spread.split(self.decoder(z))
        return dist.Normal(loc, scale).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        """Start the output bias from the mean of x, and a learned scale from its deviation.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        mean = x.mean(0)
        variance = (x - mean).square().mean(0)
        self.spread.start_scale(self.decoder, mean, variance.mean().sqrt(), variance.sqrt())


class Laplace(nn.Module):
    r"""Independent Laplace distributions around the decoder's output.

    .. math:: p(x \mid z) = \prod_d \frac{1}{2 b_d} e^{-|x_d - \mu_d(z)| / b_d}

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            :math:`\mu`. Under ``scale="decoder"`` it is called for ``(2, *event_shape)`` and
            gives :math:`\log b` too.
        scale: :math:`b`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``scale`` is none of these.
    """

    scaling: ClassVar[str] = "unit"
    remedy: ClassVar[str] = "a Laplace likelihood takes finite real numbers"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        scale: Spread = "learned",
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.spread = _Spread("scale", scale, self.event_shape)
        self.decoder = network((latent_dim,), self.spread.out_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        loc, scale = self.spread.split(self.decoder(z))
        return dist.Laplace(loc, scale).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        """Start the output bias from the mean of x, and a learned scale from its deviation.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        mean = x.mean(0)
        deviation = (x - mean).abs().mean(0)
        self.spread.start_scale(self.decoder, mean, deviation.mean(), deviation)


class StudentT(nn.Module):
    r"""Independent Student's t distributions around the decoder's output.

    .. math:: p(x \mid z) = \prod_d t_\nu\!\left(\frac{x_d - \mu_d(z)}{s_d}\right) / s_d

    Its tails are heavy: a value far from all others costs little, where a normal would follow it.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            :math:`\mu`. Under ``scale="decoder"`` it is called for ``(2, *event_shape)`` and
            gives :math:`\log s` too.
        df: degrees of freedom :math:`\nu`.
        scale: :math:`s`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``df`` is not above 1, or ``scale`` is none of these.
    """

    scaling: ClassVar[str] = "unit"
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
        super().__init__()
        if not 1 < df < math.inf:
            raise ValueError(
                f"df must be a number above 1, got {df}; at 1 and below there is no mean to show"
            )
        self.event_shape = tuple(event_shape)
        self.df = df
        self.spread = _Spread("scale", scale, self.event_shape)
        self.decoder = network((latent_dim,), self.spread.out_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        loc, scale = self.spread.split(self.decoder(z))
        return distributions.StudentT(self.df, loc, scale).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        """Start the output bias from the mean of x, and a learned scale from its deviation.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        mean = x.mean(0)
        deviation = (x - mean).abs().mean(0)
        self.spread.start_scale(self.decoder, mean, deviation.mean(), deviation)


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
        mean = x.mean(0)

        def excess(logits: Tensor) -> Tensor:
            return distributions.ContinuousBernoulli(logits=logits).mean - mean

        _start_bias(self.decoder, _root(excess, mean, 200.0))


class Beta(nn.Module):
    r"""Independent beta distributions of values strictly between 0 and 1.

    .. math::
        p(x \mid z) = \prod_d \mathrm{Beta}(x_d \mid \mu_d / \delta_d, (1 - \mu_d) / \delta_d)

    The decoder gives the logits of the mean :math:`\mu`; the variance is
    :math:`\mu (1 - \mu) \, \delta / (1 + \delta)`. At exactly 0 and 1 the density is zero or
    infinite, so data that hold either are refused.

    References:
        Ferrari and Cribari-Neto (2004), Beta Regression for Modelling Rates and Proportions

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``. Under
            ``dispersion="decoder"`` it is called for ``(2, *event_shape)`` and gives
            :math:`\log \delta` too.
        dispersion: :math:`\delta`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``dispersion`` is none of these.
    """

    scaling: ClassVar[str] = "unit"
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
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.spread = _Spread("dispersion", dispersion, self.event_shape, minimum=1e-4)
        self.decoder = network((latent_dim,), self.spread.out_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits, dispersion = self.spread.split(self.decoder(z))
        tiny = torch.finfo(logits.dtype).tiny
        mean, rest = logits.sigmoid().clamp_min(tiny), (-logits).sigmoid().clamp_min(tiny)
        return distributions.Beta(mean / dispersion, rest / dispersion).to_event(
            len(self.event_shape)
        )

    def initialize(self, x: Tensor) -> None:
        """Start the mean at the mean of x, and a learned dispersion from its variance.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        mean = x.mean(0)
        variance, largest = (x - mean).square().mean(0), mean * (1 - mean)
        pooled, each = (
            share / (1 - share)
            for share in (
                (variance.sum() / largest.sum()).clamp(1e-3, 0.9),
                (variance / largest).clamp(1e-3, 0.9),
            )
        )
        self.spread.start(self.decoder, mean.logit(), pooled, each)


class DiscretizedLogistic(nn.Module):
    r"""Independent levels, each a rounded logistic variable around the decoder's output.

    .. math::
        P(x \mid z) = \prod_d \sigma\!\left(\frac{x_d + \frac12 - \mu_d(z)}{s_d}\right)
        - \sigma\!\left(\frac{x_d - \frac12 - \mu_d(z)}{s_d}\right)

    The lowest and the highest level take all that lies beyond them, so that this is a probability
    of the levels 0, ..., L - 1. It knows that neighbouring levels are alike, which a categorical
    has to learn. The decoder gives :math:`\mu / (L - 1)`: 0 is the lowest level, 1 the highest.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
        arXiv:1606.04934; Salimans et al. (2017), PixelCNN++, arXiv:1701.05517

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``. Under
            ``scale="decoder"`` it is called for ``(2, *event_shape)`` and gives
            :math:`\log s / (L - 1)` too.
        levels: number L of levels.
        scale: :math:`s / (L - 1)`, so that its unit is the whole range, or ``"learned"``,
            ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if there are fewer than two levels, or ``scale`` is none of these.
    """

    scaling: ClassVar[str] = "none"
    remedy: ClassVar[str] = (
        "a discretized logistic likelihood takes integers from 0 to levels - 1; set levels to the "
        "largest value that a pixel can take plus 1, and leave the integers unscaled (scaling none)"
    )

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        levels: int = 256,
        scale: Spread = "decoder",
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.levels = _at_least_two(levels)
        self.spread = _Spread("scale", scale, self.event_shape, minimum=1e-3)
        self.decoder = network((latent_dim,), self.spread.out_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        return self._around(*self.spread.split(self.decoder(z))).to_event(len(self.event_shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start the mean at the mean of x, and a learned scale from its deviation.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        share = x / (self.levels - 1)
        variance = (share - share.mean(0)).square().mean(0)
        pooled, each = (
            (v.sqrt() * math.sqrt(3) / math.pi).clamp_min(0.02) for v in (variance.mean(), variance)
        )
        scale = self.spread.chosen(pooled, each).expand(self.event_shape)
        mean = _logit_of_mean(x, self.levels - 1).sigmoid() * (self.levels - 1)
        loc = _root(lambda at: self._around(at, scale).mean - mean, scale, 1 + 20 * scale.max())
        self.spread.start(self.decoder, loc, pooled, each)

    def _around(self, loc: Tensor, scale: Tensor | float) -> distributions.DiscretizedLogistic:
        top = self.levels - 1
        return distributions.DiscretizedLogistic(top * loc, top * scale, self.levels)


class Categorical(nn.Module):
    r"""Independent levels, each of a probability of its own.

    .. math:: P(x \mid z) = \prod_d \pi_{d, x_d}(z)

    Any probability of levels can be learned, and that neighbouring levels are alike has to be.
    The decoder has ``levels`` times as many outputs as the data has dimensions.

    References:
        van den Oord et al. (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), (levels, *event_shape))``;
            it gives :math:`\log \pi` up to a constant.
        levels: number of levels, 0, ..., levels - 1.

    Raises:
        ValueError: if there are fewer than two levels.
    """

    scaling: ClassVar[str] = "none"
    remedy: ClassVar[str] = (
        "a Categorical likelihood takes integers from 0 to levels - 1; set levels to the largest "
        "value that a pixel can take plus 1, and leave the integers unscaled (scaling none)"
    )

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        levels: int = 256,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.levels = _at_least_two(levels)
        self.decoder = network((latent_dim,), (self.levels, *self.event_shape))

    def forward(self, z: Tensor) -> dist.Distribution:
        dims = len(self.event_shape)
        logits = self.decoder(z).movedim(-1 - dims, -1)  # (*batch, *event_shape, levels)
        return distributions.Categorical(logits=logits).to_event(dims)

    def initialize(self, x: Tensor) -> None:
        """Start the probabilities from the shares of the levels in x ``(batch, *event_shape)``."""
        shares = torch.stack([(x == k).to(x).mean(0) for k in range(self.levels)])
        margin = 0.5 / max(len(x), 100)  # a level that does not occur keeps a finite logarithm
        _start_bias(self.decoder, ((1 - margin) * shares + margin / self.levels).log())


class Poisson(nn.Module):
    r"""Independent counts without an upper limit.

    .. math:: P(x \mid z) = \prod_d \lambda_d(z)^{x_d} e^{-\lambda_d(z)} / x_d!

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            :math:`\log \lambda`.
    """

    scaling: ClassVar[str] = "none"
    remedy: ClassVar[str] = (
        "a Poisson likelihood takes counts 0, 1, 2, ...; leave them unscaled (scaling none), and "
        "for real numbers choose normal"
    )

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = network((latent_dim,), self.event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Poisson(self.decoder(z).exp()).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        """Start the decoder's output bias from the mean of x ``(batch, *event_shape)``."""
        _start_bias(self.decoder, _log_of_mean(x))


class NegativeBinomial(nn.Module):
    r"""Independent counts that vary more than a Poisson's.

    .. math::
        P(x \mid z) = \prod_d \frac{\Gamma(x_d + r_d)}{x_d! \, \Gamma(r_d)}
        \left(\frac{r_d}{r_d + \mu_d}\right)^{r_d} \left(\frac{\mu_d}{r_d + \mu_d}\right)^{x_d}
        \qquad r_d = 1 / \delta_d

    The mean is :math:`\mu` and the variance :math:`\mu + \delta \mu^2`; at dispersion
    :math:`\delta = 0` it would be the Poisson.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one observation.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; it gives
            :math:`\log \mu`. Under ``dispersion="decoder"`` it is called for
            ``(2, *event_shape)`` and gives :math:`\log \delta` too.
        dispersion: :math:`\delta`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``dispersion`` is none of these.
    """

    scaling: ClassVar[str] = "none"
    remedy: ClassVar[str] = (
        "a negative binomial likelihood takes counts 0, 1, 2, ...; leave them unscaled (scaling "
        "none), and for real numbers choose normal"
    )

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        dispersion: Spread = "dimension",
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.spread = _Spread("dispersion", dispersion, self.event_shape, minimum=1e-6)
        self.decoder = network((latent_dim,), self.spread.out_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        log_mean, dispersion = self.spread.split(self.decoder(z))
        delta = dispersion if isinstance(dispersion, Tensor) else log_mean.new_full((), dispersion)
        return distributions.NegativeBinomial(1 / delta, logits=log_mean + delta.log()).to_event(
            len(self.event_shape)
        )

    def initialize(self, x: Tensor) -> None:
        """Start the mean at the mean of x, and a learned dispersion from its variance.

        Args:
            x: training data ``(batch, *event_shape)``.
        """
        log_mean = _log_of_mean(x)
        mean = log_mean.exp()
        excess = (x - x.mean(0)).square().mean(0) - mean
        pooled, each = (
            dispersion.clamp(1e-2, 10)
            for dispersion in (excess.sum() / mean.square().sum(), excess / mean.square())
        )
        self.spread.start(self.decoder, log_mean, pooled, each)


class _Spread(nn.Module):
    """A positive number beside the mean: fixed, learned, one per dimension, or the decoder's.

    Learned ones are a minimum plus the exponential of what is learned.
    """

    def __init__(self, name: str, value: Spread, event_shape: Shape, minimum: float = 0.0) -> None:
        super().__init__()
        learned = value in ("learned", "dimension", "decoder")
        if not learned and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(
                f"{name} must be a positive number or 'learned', 'dimension' or 'decoder', "
                f"got {value!r}"
            )
        self.kind, self.event_shape = value, event_shape
        if value in ("learned", "dimension"):
            self.log = nn.Parameter(torch.zeros(() if value == "learned" else event_shape))
        if learned:
            self.minimum: Tensor
            self.register_buffer("minimum", torch.tensor(minimum))

    @property
    def out_shape(self) -> Shape:
        """What the decoder gives: the mean's parameter, and this one's where it gives both."""
        return (2, *self.event_shape) if self.kind == "decoder" else self.event_shape

    @property
    def value(self) -> Tensor | float:
        """The number, where it does not depend on z."""
        if self.kind in ("learned", "dimension"):
            return self.minimum + self.log.exp()
        assert isinstance(self.kind, int | float)
        return self.kind

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | float]:
        """The mean's parameter and this one, from the decoder's output."""
        if self.kind != "decoder":
            return output, self.value
        first, log = output.unbind(-1 - len(self.event_shape))
        return first, self.minimum + log.exp()

    def chosen(self, pooled: Tensor, each: Tensor) -> Tensor:
        """The starting value: for all dimensions ``()``, for each, or the number that is fixed."""
        if isinstance(self.kind, int | float):
            return torch.full_like(pooled, self.kind)
        return pooled if self.kind == "learned" else each

    @torch.no_grad()
    def start(self, decoder: nn.Module, first: Tensor, pooled: Tensor, each: Tensor) -> None:
        """Start the decoder's bias at ``first``, and this at its value for all or each dimension.

        Args:
            decoder: whose output bias is set.
            first: the mean's parameter, ``event_shape``.
            pooled: above the minimum, ``()``.
            each: above the minimum, ``event_shape``.
        """
        if self.kind == "decoder":
            first = torch.stack([first, (each - self.minimum).log()])
        elif self.kind in ("learned", "dimension"):
            self.log.copy_((self.chosen(pooled, each) - self.minimum).log())
        _start_bias(decoder, first)

    @torch.no_grad()
    def start_scale(self, decoder: nn.Module, first: Tensor, pooled: Tensor, each: Tensor) -> None:
        """The same for the scale of a density, with a minimum that keeps it from vanishing."""
        if pooled == 0:
            pooled = torch.ones_like(pooled)
        if self.kind in ("dimension", "decoder"):
            self.minimum.copy_(0.01 * pooled)
        self.start(decoder, first, pooled, each.clamp_min(0.1 * pooled))


@torch.no_grad()
def _start_bias(decoder: nn.Module, value: Tensor) -> None:
    bias = getattr(decoder, "output_bias", None)
    if bias is not None:
        bias.copy_(value.reshape(bias.shape))


def _at_least_two(levels: int) -> int:
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    return levels


def _logit_of_mean(x: Tensor, maximum: int) -> Tensor:
    mean = x.mean(0) / maximum
    margin = 0.5 / max(len(x), 100)  # a pixel that is always 0 keeps a finite logit
    return mean.clamp(margin, 1 - margin).logit()


def _log_of_mean(x: Tensor) -> Tensor:
    return x.mean(0).clamp_min(0.5 / max(len(x), 100)).log()


def _root(rising: Callable[[Tensor], Tensor], like: Tensor, limit: Tensor | float) -> Tensor:
    """Where a function that rises in each element of its argument is zero, within +-limit."""
    low, high = torch.zeros_like(like) - limit, torch.zeros_like(like) + limit
    for _ in range(40):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "continuous_bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "laplace": Laplace,
    "student_t": StudentT,
    "beta": Beta,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}
