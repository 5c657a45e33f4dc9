r"""KL(q || p) by numerical integration."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from pyrovae import distributions

__all__ = ["TOLERANCES", "integrate"]

VALUES = 1 << 18  # values of z at a time
NODES = 10  # nodes in each panel
HEAVY = 1e12  # scales covered under a heavy tail
TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-5}
"""Change, in nats, below which an integral has converged, by dtype."""


@torch.no_grad()
def integrate(q: td.Distribution, p: td.Distribution) -> tuple[Tensor, float, str] | None:
    r"""Compute KL(q || p) by numerical integration in one or two dimensions, or one by one.

    Panels of Gauss-Legendre nodes lie around the mean of q and widen outwards. They extend to
    10 standard deviations of a normal q, to :math:`10^{12}` scales of Student's t and Cauchy, and
    to 40 standard deviations otherwise. The mean of p, where a Laplace density has its kink, is an
    edge between panels. In two dimensions the inner panels follow the conditional mean of q. Panels
    are halved until the value stays within ``TOLERANCES`` or there are too many of them.

    Args:
        q: a distribution of real numbers or vectors, with any batch shape.
        p: a distribution with the same event shape and a batch that broadcasts to that of q.

    Returns:
        The divergences ``(*batch,)``; an estimate of the error, which is the largest change at the
        last halving plus, in one dimension, the contribution of the outermost eighth of the panels;
        and the name of the rule. None if q is not over the reals, if more than two of its
        dimensions are dependent, or two with the tails of Student's t, or if in two dimensions
        either is a flow, whose density is too expensive at that many points.

    Example:
        >>> from torch.distributions import Laplace, Normal
        >>> from pyrovae.kl import closed_form, integrate
        >>> q, p = Normal(0.3, 0.7), Laplace(0.0, 1.0)
        >>> value, error, rule = integrate(q, p)
        >>> rule, abs(value - closed_form(q, p)[0]).item() < 1e-4
        ('Gauss-Legendre, one dimension', True)
    """
    if not distributions.is_real(q) or len(q.event_shape) > 1:
        return None
    p = distributions.expand(p, q.batch_shape)
    if distributions.factorizes(q, p):
        value, error = _refined(distributions.base(q), distributions.base(p), _line, 1_024)
        how = "one dimension" if q.event_shape.numel() == 1 else "dimension by dimension"
        return value.sum(-1), error * q.event_shape.numel(), f"Gauss-Legendre, {how}"
    if q.event_shape.numel() == 1:
        value, error = _refined(q, p, _line, 1_024)
        return value, error, "Gauss-Legendre, one dimension"
    flows = any(isinstance(distributions.base(d), distributions.FlowDistribution) for d in (q, p))
    if q.event_shape.numel() == 2 and _reach(q) < HEAVY and not flows:
        value, error = _refined(q, p, _plane, 48)
        return value, error, "Gauss-Legendre, two dimensions"
    return None


def _refined(
    q: Any, p: Any, rule: Callable[[Any, Any, float, int], tuple[Tensor, Tensor]], most: int
) -> tuple[Tensor, float]:
    reach = math.asinh(_reach(q))
    panels = max(6, math.ceil(1.5 * reach))
    value, _ = rule(q, p, reach, panels)
    while True:
        panels *= 2
        coarse, (value, tail) = value, rule(q, p, reach, panels)
        change = torch.where(coarse == value, 0.0, value - coarse).abs()
        if change.max() < TOLERANCES.get(value.dtype, 1e-5) or 2 * panels > most:
            return value, (change + tail).max().item()


def _reach(q: Any) -> float:
    """How far from its mean q must be followed, in its scales."""
    inner = distributions.base(q)
    if isinstance(inner, td.MixtureSameFamily):
        return _reach(inner.component_distribution)
    if isinstance(inner, td.StudentT | td.Cauchy):
        return HEAVY
    normal = isinstance(inner, td.Normal | td.MultivariateNormal | td.LowRankMultivariateNormal)
    return 10.0 if normal else 40.0


def _line(q: Any, p: Any, reach: float, panels: int) -> tuple[Tensor, Tensor]:
    loc, tril, kinks = _placed(q, p)
    z, weights = _nodes(loc[..., 0], tril[..., 0, 0], kinks[..., 0], reach, panels)
    total = torch.zeros_like(weights[0])
    chunk = max(1, VALUES // (total.numel() * distributions.components(q, p)))
    z = z[..., None] if q.event_shape else z
    for part, weight in zip(z.split(chunk), weights.split(chunk), strict=True):
        total = total + _integrand(q, p, part, weight).sum(0)
    end = NODES * max(1, panels // 16)
    tails = (slice(0, end), slice(-end, None))
    outermost = torch.stack([_integrand(q, p, z[tail], weights[tail]).sum(0) for tail in tails])
    return total, torch.where(total.isinf(), 0.0, outermost.abs().sum(0))


def _plane(q: Any, p: Any, reach: float, panels: int) -> tuple[Tensor, Tensor]:
    loc, tril, kinks = _placed(q, p)
    outer, outer_weights = _nodes(loc[..., 0], tril[..., 0, 0], kinks[..., 0], reach, panels)
    slope = tril[..., 1, 0] / tril[..., 0, 0]
    chunk = max(1, VALUES // (outer.numel() * distributions.components(q, p)))
    total = torch.zeros_like(loc[..., 0])
    for z1, weight in zip(outer.split(chunk), outer_weights.split(chunk), strict=True):
        center = loc[..., 1] + slope * (z1 - loc[..., 0])  # (outer, *batch)
        spread, kink = tril[..., 1, 1].expand_as(z1), kinks[..., 1].expand_as(z1)
        z2, inner_weights = _nodes(center, spread, kink, reach, panels)  # (inner, outer, *batch)
        z = torch.stack([z1.expand_as(z2), z2], -1)
        total = total + _integrand(q, p, z, weight * inner_weights).sum((0, 1))
    return total, torch.zeros_like(total)


def _nodes(
    center: Tensor, scale: Tensor, kink: Tensor, reach: float, panels: int
) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``(nodes, *batch)`` for integrals over one variable."""
    grid = torch.linspace(-reach, reach, panels + 1, dtype=center.dtype, device=center.device)
    shape = (-1, *[1] * center.ndim)
    grid = grid.sinh().reshape(shape)
    edges = torch.cat([center + scale * grid, kink[None]]).sort(0).values
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    rule = np.polynomial.legendre.leggauss(NODES)
    points, weights = (torch.from_numpy(part).to(center).reshape(shape) for part in rule)
    middle, half = middle[:, None], half[:, None]  # (panels, 1, *batch)
    return (middle + half * points).flatten(0, 1), (half * weights).flatten(0, 1)


def _integrand(q: Any, p: Any, z: Tensor, weights: Tensor) -> Tensor:
    log_q, log_p = q.log_prob(z), distributions.log_density(p, z)
    density = log_q.exp()
    return torch.where(density > 0, weights * density * (log_q - log_p), 0.0)


def _placed(q: Any, p: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The location of q, a triangular root of its covariance, and the place of a kink of p."""
    if hasattr(q, "covariance_matrix"):
        loc, tril = q.mean, torch.linalg.cholesky(q.covariance_matrix)
    else:
        loc, scale = _location_and_scale(q)
        if not q.event_shape:
            loc, scale = loc[..., None], scale[..., None]
        tril = torch.diag_embed(scale)
    try:
        median = getattr(distributions.base(p), "loc", None)
        median = median if isinstance(median, Tensor) else p.mean
        kinks = median.expand(q.batch_shape + q.event_shape).reshape(loc.shape)
        kinks = torch.where(kinks.isfinite(), kinks, loc)
    except (NotImplementedError, AttributeError):
        kinks = loc
    return loc, tril, kinks


def _location_and_scale(q: Any) -> tuple[Tensor, Tensor]:
    inner = distributions.base(q)
    if isinstance(inner, td.Normal | td.Laplace | td.StudentT | td.Cauchy):
        return inner.loc, inner.scale
    try:
        return q.mean, q.stddev
    except (NotImplementedError, AttributeError):
        draws = q.sample((2_000,))
        return draws.mean(0), draws.std(0)
