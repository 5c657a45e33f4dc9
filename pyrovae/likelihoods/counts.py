r"""Likelihoods of integers: counts with a known total or without a limit, and levels."""

import math
from typing import ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.likelihoods._base import (
    Elementwise,
    Spread,
    SpreadParameter,
    log_of_mean,
    logit_of_mean,
    root,
)
from pyrovae.networks import NetworkFactory, Shape

__all__ = [
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "DiscretizedLogistic",
    "NegativeBinomial",
    "Poisson",
]

MOST_LEVELS = 65_536  # those of 16 bits
SUMMED = 4_096  # levels up to which a mean is started from as a sum over all of them

_TAKES_LEVELS = (
    "takes integers from 0 to levels - 1; set levels to the largest value that a pixel can take "
    "plus 1, and leave the integers unscaled (scaling none)"
)
_TAKES_COUNTS = (
    "takes counts 0, 1, 2, ...; leave them unscaled (scaling none), and for real numbers choose "
    "normal"
)


class Binomial(Elementwise):
    r"""Independent counts out of a known total.

    .. math::
        p(x \mid z) = \prod_d \binom{n}{x_d} \pi_d(z)^{x_d} (1 - \pi_d(z))^{n - x_d}

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are the logits of :math:`\pi`.
        total_count: n, the largest count that a pixel can take.

    Raises:
        ValueError: if ``total_count`` is not positive.

    Example:
        >>> from pyrovae.likelihoods import Binomial
        >>> from pyrovae.networks import MLP
        >>> likelihood = Binomial(2, (1, 8, 8), MLP, total_count=16)
        >>> likelihood(torch.zeros(5, 2)).sample().max() <= 16
        tensor(True)
    """

    scaling = "none"
    remedy: ClassVar[str] = (
        "a Binomial likelihood counts successes: integers from 0 to total_count; set total_count "
        "to the largest value that a pixel can take, and leave the counts unscaled (scaling none)"
    )

    constants: Tensor | None

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        total_count: int = 255,
    ) -> None:
        if total_count < 1:
            raise ValueError(f"total_count must be positive, got {total_count}")
        super().__init__(latent_dim, event_shape, network)
        self.total_count = total_count
        constants = None
        if total_count < MOST_LEVELS:
            constants = distributions.log_choose(total_count, torch.arange(total_count + 1))
            constants = constants.to(torch.get_default_dtype())
        self.rounded_to = torch.get_default_dtype()
        self.register_buffer("constants", constants, persistent=False)

    def element(self, logits: Tensor) -> dist.Distribution:
        # in a wider type they are computed anew
        constants = self.constants if logits.dtype == self.rounded_to else None
        return distributions.Binomial(self.total_count, logits, constants)

    def starting_values(self, x: Tensor) -> Tensor:
        return logit_of_mean(x, self.total_count)


class BetaBinomial(Elementwise):
    r"""Independent counts out of a known total that vary more than binomial counts.

    .. math::
        p(x \mid z) = \prod_d \binom{n}{x_d}
        \frac{B(x_d + \pi_d(z) / \delta_d, \; n - x_d + (1 - \pi_d(z)) / \delta_d)}
        {B(\pi_d(z) / \delta_d, \; (1 - \pi_d(z)) / \delta_d)}

    The mean is :math:`n \pi`, as for the binomial likelihood, which is its limit at dispersion
    :math:`\delta = 0`. A binomial takes a gray level for n independent bits, and so for a far more
    precise observation than it is; :math:`\delta` says how precise. See
    :class:`pyrovae.distributions.BetaBinomial`.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are the logits of :math:`\pi`. With ``dispersion="decoder"`` it is called for
            ``(2, *event_shape)``, and the second half of its outputs is :math:`\log \delta`.
        total_count: n, the largest count that a pixel can take.
        dispersion: :math:`\delta`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``total_count`` is not positive, or ``dispersion`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import BetaBinomial
        >>> from pyrovae.networks import MLP
        >>> counts = BetaBinomial(2, (3,), MLP, total_count=16, dispersion=0.5)(torch.zeros(5, 2))
        >>> bool((counts.variance > counts.mean * (1 - counts.mean / 16)).all())
        True
    """

    scaling = "none"
    remedy: ClassVar[str] = Binomial.remedy.replace("a Binomial", "a beta-binomial")

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        total_count: int = 255,
        dispersion: Spread = "learned",
    ) -> None:
        if total_count < 1:
            raise ValueError(f"total_count must be positive, got {total_count}")
        spread = SpreadParameter("dispersion", dispersion, event_shape, minimum=1e-6)
        super().__init__(latent_dim, event_shape, network, spread=spread)
        self.total_count = total_count

    def element(self, logits: Tensor, dispersion: Tensor | float) -> dist.Distribution:
        return distributions.BetaBinomial(self.total_count, logits, dispersion)

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = logit_of_mean(x, self.total_count)
        share = logits.sigmoid()
        independent = self.total_count * share * (1 - share)
        variance = (x - x.mean(0)).square().mean(0)
        trials = max(1, self.total_count - 1)
        pooled, each = (
            ((ratio - 1) / trials).clamp(1e-2, 0.9)
            for ratio in (variance.sum() / independent.sum(), variance / independent)
        )
        return logits, pooled / (1 - pooled), each / (1 - each)


class Poisson(Elementwise):
    r"""Independent counts without an upper limit.

    .. math:: P(x \mid z) = \prod_d \lambda_d(z)^{x_d} e^{-\lambda_d(z)} / x_d!

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are :math:`\log \lambda`, bounded as in :func:`pyrovae.distributions.bounded_exp`.

    Example:
        >>> from pyrovae.likelihoods import Poisson
        >>> from pyrovae.networks import MLP
        >>> counts = Poisson(2, (3,), MLP)(torch.zeros(5, 2))
        >>> torch.equal(counts.mean, counts.variance)
        True
    """

    scaling = "none"
    remedy: ClassVar[str] = f"a Poisson likelihood {_TAKES_COUNTS}"

    def __init__(self, latent_dim: int, event_shape: Shape, network: NetworkFactory) -> None:
        super().__init__(latent_dim, event_shape, network)

    def element(self, log_rate: Tensor) -> dist.Distribution:
        return distributions.Poisson(distributions.bounded_exp(log_rate))

    def starting_values(self, x: Tensor) -> Tensor:
        return log_of_mean(x)


class NegativeBinomial(Elementwise):
    r"""Independent counts that vary more than Poisson counts.

    .. math::
        P(x \mid z) = \prod_d \frac{\Gamma(x_d + r_d)}{x_d! \, \Gamma(r_d)}
        \left(\frac{r_d}{r_d + \mu_d}\right)^{r_d} \left(\frac{\mu_d}{r_d + \mu_d}\right)^{x_d}
        \qquad r_d = 1 / \delta_d

    The mean is :math:`\mu` and the variance :math:`\mu + \delta \mu^2`; at dispersion
    :math:`\delta = 0` it would be the Poisson distribution.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``; its outputs
            are :math:`\log \mu`, bounded as in :func:`pyrovae.distributions.bounded_exp`. With
            ``dispersion="decoder"`` it is called for ``(2, *event_shape)``, and the second half of
            its outputs is :math:`\log \delta`.
        dispersion: :math:`\delta`, or ``"learned"``, ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if ``dispersion`` is none of these.

    Example:
        >>> from pyrovae.likelihoods import NegativeBinomial
        >>> from pyrovae.networks import MLP
        >>> counts = NegativeBinomial(2, (3,), MLP, dispersion=0.5)(torch.zeros(5, 2))
        >>> bool((counts.variance > counts.mean).all())
        True
    """

    scaling = "none"
    remedy: ClassVar[str] = f"a negative binomial likelihood {_TAKES_COUNTS}"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        dispersion: Spread = "dimension",
    ) -> None:
        spread = SpreadParameter("dispersion", dispersion, event_shape, minimum=1e-6)
        super().__init__(latent_dim, event_shape, network, spread=spread)

    def element(self, log_mean: Tensor, dispersion: Tensor | float) -> dist.Distribution:
        log_mean = distributions.bounded(log_mean, distributions.LARGEST_LOG)
        delta = dispersion if isinstance(dispersion, Tensor) else log_mean.new_full((), dispersion)
        return distributions.NegativeBinomial(1 / delta, logits=log_mean + delta.log())

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_mean = log_of_mean(x)
        mean = log_mean.exp()
        excess = (x - x.mean(0)).square().mean(0) - mean
        pooled, each = excess.sum() / mean.square().sum(), excess / mean.square()
        return log_mean, pooled.clamp(1e-2, 10), each.clamp(1e-2, 10)


class DiscretizedLogistic(Elementwise):
    r"""Independent levels, each a rounded logistic variable around the decoder's output.

    .. math::
        P(x \mid z) = \prod_d \sigma\!\left(\frac{x_d + \frac12 - \mu_d(z)}{s_d}\right)
        - \sigma\!\left(\frac{x_d - \frac12 - \mu_d(z)}{s_d}\right)

    The lowest and the highest level take all the mass beyond them, so this is a probability of the
    levels 0, ..., L - 1. Neighboring levels are alike by construction, which a categorical
    likelihood has to learn. The decoder's outputs are :math:`\mu / (L - 1)`: 0 is the lowest level,
    1 the highest.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
        arXiv:1606.04934; Salimans et al. (2017), PixelCNN++, arXiv:1701.05517

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), event_shape)``. With
            ``scale="decoder"`` it is called for ``(2, *event_shape)``, and the second half of its
            outputs is :math:`\log s / (L - 1)`.
        levels: number L of levels.
        scale: :math:`s / (L - 1)`, so that its unit is the whole range, or ``"learned"``,
            ``"dimension"`` or ``"decoder"``.

    Raises:
        ValueError: if there are fewer than two levels or more than 65,536, or ``scale`` is none of
            these.

    Example:
        >>> from pyrovae.likelihoods import DiscretizedLogistic
        >>> from pyrovae.networks import MLP
        >>> likelihood = DiscretizedLogistic(2, (1, 8, 8), MLP, levels=17)
        >>> likelihood(torch.zeros(5, 2)).sample().max() <= 16
        tensor(True)
    """

    scaling = "none"
    remedy: ClassVar[str] = f"a discretized logistic likelihood {_TAKES_LEVELS}"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        levels: int = 256,
        scale: Spread = "decoder",
    ) -> None:
        _check_levels(levels)
        spread = SpreadParameter("scale", scale, event_shape, minimum=1e-3)
        super().__init__(latent_dim, event_shape, network, spread=spread)
        self.levels = levels

    def element(self, loc: Tensor, scale: Tensor | float) -> distributions.DiscretizedLogistic:
        top = self.levels - 1
        return distributions.DiscretizedLogistic(top * loc, top * scale, self.levels)

    def starting_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = x / (self.levels - 1)
        variance = (share - share.mean(0)).square().mean(0)
        pooled, each = (
            (v.sqrt() * math.sqrt(3) / math.pi).clamp_min(0.02) for v in (variance.mean(), variance)
        )
        scale = self.spread.chosen(pooled, each).expand(self.event_shape)
        mean = logit_of_mean(x, self.levels - 1).sigmoid() * (self.levels - 1)
        loc = root(lambda at: self._mean(at, scale) - mean, scale, 1 + 20 * scale.max())
        return loc, pooled, each

    def _mean(self, loc: Tensor, scale: Tensor) -> Tensor:
        """The mean of x; of many levels by an integral in place of the sum over levels."""
        if self.levels <= SUMMED:
            return self.element(loc, scale).mean
        top = self.levels - 1
        below, above = (nn.functional.softplus(at / scale) for at in (loc, loc - 1))
        return top * scale * (below - above)


class Categorical(Elementwise):
    r"""Independent levels, each level with its own probability.

    .. math:: P(x \mid z) = \prod_d \pi_{d, x_d}(z)

    It can learn any probabilities of the levels, and has to learn that neighboring levels are
    alike. The decoder has ``levels`` times as many outputs as x has dimensions.

    References:
        van den Oord et al. (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example.
        network: factory of the decoder, called with ``((latent_dim,), (levels, *event_shape))``;
            its outputs are :math:`\log \pi` up to a constant.
        levels: number of levels, 0, ..., levels - 1.

    Raises:
        ValueError: if there are fewer than two levels or more than 65,536.

    Example:
        >>> from pyrovae.likelihoods import Categorical
        >>> from pyrovae.networks import MLP
        >>> likelihood = Categorical(2, (1, 8, 8), MLP, levels=17)
        >>> likelihood.decoder.out_shape
        (17, 1, 8, 8)
    """

    scaling = "none"
    remedy: ClassVar[str] = f"a Categorical likelihood {_TAKES_LEVELS}"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        levels: int = 256,
    ) -> None:
        _check_levels(levels)
        super().__init__(latent_dim, event_shape, network, levels=levels)
        self.levels = levels

    def element(self, logits: Tensor) -> dist.Distribution:
        logits = logits.movedim(-1 - len(self.event_shape), -1)  # (*batch, *event_shape, levels)
        return distributions.Categorical(logits=logits)

    def starting_values(self, x: Tensor) -> Tensor:
        shares = torch.stack([(x == k).to(x).mean(0) for k in range(self.levels)])
        margin = 0.5 / max(len(x), 100)  # a level that does not occur keeps a finite logarithm
        return ((1 - margin) * shares + margin / self.levels).log()


def _check_levels(levels: int) -> None:
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    if levels > MOST_LEVELS:
        raise ValueError(
            f"levels must be at most {MOST_LEVELS:,}, got {levels:,}; for larger counts use "
            "poisson, negative_binomial or binomial, or a density such as normal of scaled values"
        )
