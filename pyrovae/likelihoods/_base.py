"""What all likelihoods here share: a decoder, independent elements of x, and starting values."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae.distributions import bounded_exp
from pyrovae.networks import NetworkFactory, Shape, applied, built

__all__ = [
    "Elementwise",
    "Spread",
    "SpreadParameter",
    "log_of_mean",
    "logit_of_mean",
    "root",
]

Spread = float | Literal["learned", "dimension", "decoder"]
"""How far x strays from its mean: a fixed number, or how that number is learned."""


class SpreadParameter(nn.Module):
    """A positive parameter beside the mean: fixed, learned, one per dimension, or decoded.

    A learned one is a minimum plus the exponential of an unconstrained number. Its logarithm is
    bounded, see :func:`pyrovae.distributions.bounded_exp`.

    Args:
        name: of the option, for its error message.
        value: of the option.
        event_shape: shape of one example.
        minimum: smallest learned value; None for the scale of a density, which is then kept above
            a hundredth of the training data's where it could vanish: of all of x together, or of
            the smallest unit where the columns of a table are in units that differ more than
            tenfold.

    Raises:
        ValueError: if ``value`` is neither a positive number nor one of the three words.
    """

    minimum: Tensor

    def __init__(
        self, name: str, value: Spread, event_shape: Shape, minimum: float | None = None
    ) -> None:
        super().__init__()
        learned = value in ("learned", "dimension", "decoder")
        if not learned and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(
                f"{name} must be a positive number or 'learned', 'dimension' or 'decoder', "
                f"got {value!r}"
            )
        self.kind, self.event_shape = value, tuple(event_shape)
        self.is_scale_of_density = minimum is None
        if value in ("learned", "dimension"):
            self.log = nn.Parameter(torch.zeros(() if value == "learned" else self.event_shape))
        if learned:
            self.register_buffer("minimum", torch.tensor(minimum or 0.0))

    @property
    def out_shape(self) -> Shape:
        """Shape of the decoder's output: the mean's parameter, and this one where it is decoded."""
        return (2, *self.event_shape) if self.kind == "decoder" else self.event_shape

    @property
    def value(self) -> Tensor | float:
        """The number, where it does not depend on z."""
        if self.kind in ("learned", "dimension"):
            return self.minimum + bounded_exp(self.log)
        assert isinstance(self.kind, int | float)
        return self.kind

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | float]:
        """The mean's parameter and this one, from the decoder's output."""
        if self.kind != "decoder":
            return output, self.value
        first, log = output.unbind(-1 - len(self.event_shape))
        return first, self.minimum + bounded_exp(log)

    def chosen(self, pooled: Tensor, each: Tensor) -> Tensor:
        """The starting value: one for all dimensions ``()``, one for each, or the fixed number."""
        if isinstance(self.kind, int | float):
            return torch.full_like(pooled, self.kind)
        return pooled if self.kind == "learned" else each

    def start(self, first: Tensor, pooled: Tensor, each: Tensor, varied: Tensor) -> Tensor:
        """Set this parameter to its starting value.

        Args:
            first: starting value of the mean's parameter, ``event_shape``.
            pooled: starting value for all dimensions together ``()``, above the minimum.
            each: starting values for each dimension, ``event_shape``, above the minimum.
            varied: whether a dimension's own starting value is one of its unit, ``event_shape``.

        Returns:
            The starting value of the decoder's output bias.
        """
        if self.is_scale_of_density:
            if pooled == 0:
                pooled = torch.ones_like(pooled)
            small = varied & (each > 0) & (each < 0.1 * pooled)  # a unit of its own
            size = torch.where(small, each, pooled) if small.any() else pooled
            if self.kind in ("dimension", "decoder"):
                self.minimum.copy_(0.01 * size.min())
            each = each.clamp_min(0.1 * size)
        if self.kind == "decoder":
            return torch.stack([first, (each - self.minimum).log()])
        if self.kind in ("learned", "dimension"):
            self.log.copy_((self.chosen(pooled, each) - self.minimum).log())
        return first


class Elementwise(nn.Module):
    """Elements of x that are independent given z, their parameters computed by a decoder.

    A subclass defines ``element``, from the decoder's output (and the spread, where there is one)
    to the distribution of each element, and ``starting_values``, from training data
    ``(batch, *event_shape)`` to the value of the decoder's output bias, or to the three arguments
    of :meth:`SpreadParameter.start`.

    Attributes:
        scaling: how to scale integer pixels for this likelihood, ``"none"`` or ``"unit"``.
        column_scaling: how to scale a column of a table for it: ``"standardize"``, ``"divide"``
            by its standard deviation, or ``"none"``.
        remedy: what to do with data outside the support, for the error message.

    Args:
        latent_dim, event_shape, network: as for every likelihood.
        spread: the parameter beside the mean's.
        levels: number of outputs of the decoder for each element, in front of its output; None for
            one, without that dimension.
    """

    scaling: ClassVar[str] = "unit"
    column_scaling: ClassVar[str] = "none"
    remedy: ClassVar[str]
    element: Callable[..., Any]
    starting_values: Callable[[Tensor], Tensor | tuple[Tensor, Tensor, Tensor]]

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        spread: SpreadParameter | None = None,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        out_shape = self.event_shape if levels is None else (levels, *self.event_shape)
        if spread is not None:
            self.spread, out_shape = spread, spread.out_shape
        self.shapes = (latent_dim,), out_shape
        self.decoder = built(network, *self.shapes)

    def forward(self, z: Tensor) -> dist.Distribution:
        output = applied(self.decoder, z, *self.shapes)
        return self.elements(output).to_event(len(self.event_shape))

    def elements(self, output: Tensor) -> dist.Distribution:
        """The distribution of each element of x, from the decoder's output.

        Args:
            output: ``(*batch, *out_shape)``, with the shape that the decoder was made for.

        Returns:
            A distribution with batch shape ``(*batch, *event_shape)``.
        """
        spread = getattr(self, "spread", None)
        parameters = (output,) if spread is None else spread.split(output)
        found: dist.Distribution = self.element(*parameters)
        return found

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start p(x | z) at the mean of x, and a learned spread at the spread of x.

        Args:
            x: training data ``(batch, *event_shape)``; NaN is missing.
        """
        x = _without_gaps(x)
        values = self.starting_values(x)
        value = values if isinstance(values, Tensor) else self.spread.start(*values, _varied(x))
        bias = getattr(self.decoder, "output_bias", None)
        if bias is not None:
            bias.copy_(value.reshape(bias.shape))


def _without_gaps(x: Tensor) -> Tensor:
    """The same data, with observed values of the same element in place of missing ones.

    They are taken at even steps from the sorted observed values, so that the mean and the spread
    are about the same. An element that is never observed becomes one half, which every likelihood
    can start from.
    """
    missing = x.isnan()
    if not missing.any():
        return x
    ordered = x.sort(0).values  # NaN last
    observed = (~missing).sum(0)
    rank = missing.cumsum(0) - 1  # of each missing value among those of its element
    place = (rank + 0.5) / missing.sum(0).clamp_min(1) * observed
    index = place.long().clamp_min(0).minimum((observed - 1).clamp_min(0))
    values = torch.where(observed > 0, ordered.gather(0, index), torch.full_like(x, 0.5))
    return torch.where(missing, values, x)


def _varied(x: Tensor) -> Tensor:
    """Whether an element of x is a column that varies: at most half of its values are the same.

    A column of a small unit varies. A pixel that hardly ever differs from the background does not,
    and its small deviation says nothing of a unit.
    """
    if x.dim() != 2:
        return torch.zeros(x.shape[1:], dtype=torch.bool, device=x.device)
    return 2 * (x == x.median(0).values).sum(0) <= len(x)


def logit_of_mean(x: Tensor, maximum: int) -> Tensor:
    """The logit of the mean of x as a share of ``maximum``, finite for constant pixels too."""
    mean = x.mean(0) / maximum
    margin = 0.5 / max(len(x), 100)
    return mean.clamp(margin, 1 - margin).logit()


def log_of_mean(x: Tensor) -> Tensor:
    """The logarithm of the mean of x, finite for pixels that are always zero too."""
    return x.mean(0).clamp_min(0.5 / max(len(x), 100)).log()


def root(rising: Callable[[Tensor], Tensor], like: Tensor, limit: Tensor | float) -> Tensor:
    """Where a function that rises in each element of its argument is zero, by bisection.

    Args:
        rising: elementwise function.
        like: a tensor of the argument's shape, device and dtype.
        limit: largest absolute value of the root.
    """
    low, high = torch.zeros_like(like) - limit, torch.zeros_like(like) + limit
    for _ in range(40):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
