r"""Mixtures whose density takes matrix products in place of one density for each component."""

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor
from torch import distributions as td

from pyrovae._process.compilation import is_traced
from pyrovae.distributions.properties import base

__all__ = ["Mixture"]

LARGEST_SQUARE = 1e6
"""Of a distance in standard deviations: sums of such squares in float64 keep eight decimals."""


class Mixture(dist.MixtureSameFamily):
    r"""A mixture of components of one family. For diagonal normals, the density is fast.

    With :math:`w = 1 / \sigma^2`, the squares in the exponents are three matrix products,

    .. math::
        \sum_j \frac{(z_j - \mu_{cj})^2}{\sigma_{cj}^2}
        = \sum_j z_j^2 w_{cj} - 2 \sum_j z_j \, (\mu_{cj} w_{cj}) + \sum_j \mu_{cj}^2 w_{cj},

    in float64, so that nothing is lost where they cancel, and no tensor has draws, components and
    dimensions at once. Where the numbers are so extreme that float64 would lose digits, and for
    other components, the density is torch's own.

    Args:
        mixture_distribution: a ``Categorical`` over C components.
        component_distribution: the components, with C as the last batch dimension.

    Example:
        >>> from pyro.distributions import Categorical, Normal
        >>> from pyrovae.distributions import Mixture
        >>> normals = Normal(torch.tensor([[-1.0], [1.0]]), 0.5).to_event(1)
        >>> p = Mixture(Categorical(torch.ones(2)), normals)
        >>> p.log_prob(torch.zeros(3, 1)).shape
        torch.Size([3])
    """

    _unexpanded: "Mixture | None" = None

    def expand(self, batch_shape: Size, _instance: Any = None) -> "Mixture":
        new: Mixture = super().expand(batch_shape, self._get_checked_instance(Mixture, _instance))
        new._unexpanded = self._unexpanded or self
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        one = self._unexpanded or self
        normals = base(one.component_distribution)
        if (
            not isinstance(normals, td.Normal)
            or one.batch_shape
            or len(one.event_shape) != 1
            or value.device.type == "mps"  # without float64
        ):
            return super().log_prob(value)
        z, loc, scale = (t.double() for t in (value, normals.loc, normals.scale))
        if not is_traced() and not _moderate(z, loc, scale):
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        w = scale.square().reciprocal()
        at_zero = -(0.5 * loc.square() * w + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        weighted = at_zero + one.mixture_distribution.logits.double().log_softmax(-1)
        exponents = z @ (loc * w).mT - 0.5 * (z.square() @ w.mT)
        log_density = torch.logsumexp(exponents + weighted, -1)
        log_density = log_density.expand(
            torch.broadcast_shapes(log_density.shape, self.batch_shape)
        )
        return log_density.to(torch.promote_types(value.dtype, normals.loc.dtype))


def _moderate(z: Tensor, loc: Tensor, scale: Tensor) -> bool:
    """Whether the products keep their digits; not if a number is infinite or NaN."""
    with torch.no_grad():
        furthest = z.abs().max() + loc.abs().max()
        return bool((furthest / scale.min()).square() < LARGEST_SQUARE)
