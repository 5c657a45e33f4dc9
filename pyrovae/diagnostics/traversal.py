r"""Walks through the latent space: along one dimension at a time, or from one code to another."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from pyrovae._process.choices import check_choice
from pyrovae.diagnostics.latent_dimensions import marginal_quantiles
from pyrovae.distributions import base, fills_space, is_discrete
from pyrovae.vae import VAE

__all__ = ["PATHS", "along_dimensions", "between"]

PATHS = ("auto", "linear", "spherical")
"""Ways from one code to another, see :func:`between`."""

EDGE = 0.025  # probability beyond either end of a walk along a dimension


@torch.no_grad()
def along_dimensions(
    vae: VAE, z: Tensor, dims: Sequence[int] | None = None, *, steps: int = 9
) -> Tensor:
    """Codes in which one dimension at a time takes values of its prior, and the others stay.

    Args:
        vae: the model.
        z: where the others stay ``(latent_dim,)``.
        dims: the dimensions, counted from 0; None for all.
        steps: values of each, at even steps of the prior's probability from 2.5 to 97.5 %.

    Returns:
        ``(len(dims), steps, latent_dim)``.

    Raises:
        ValueError: if z is discrete or on a sphere, where no dimension moves alone, there are fewer
            than two steps, or a dimension is none of z.

    Example:
        >>> from pyrovae.diagnostics import along_dimensions
        >>> along_dimensions(vae, torch.zeros(2), steps=3)[1]
        tensor([[ 0.0000, -1.9600],
                [ 0.0000,  0.0000],
                [ 0.0000,  1.9600]])
    """
    p = vae.prior()
    if is_discrete(p) or not fills_space(p):
        raise ValueError(
            "in this space no dimension of z moves alone; a walk between two examples is possible "
            "on a sphere, and for a discrete z look at pyrovae diagnose"
        )
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    chosen = list(range(vae.latent_dim)) if dims is None else list(dims)
    wrong = [d for d in chosen if not 0 <= d < vae.latent_dim]
    if wrong:
        raise ValueError(f"z has the dimensions 0 to {vae.latent_dim - 1}, got {wrong[0]}")
    values = marginal_quantiles(p, np.linspace(EDGE, 1 - EDGE, steps))  # (steps, latent_dim)
    walks = z.to(values).repeat(len(chosen), steps, 1)
    for row, d in enumerate(chosen):
        walks[row, :, d] = values[:, d]
    return walks


def between(vae: VAE, start: Tensor, end: Tensor, *, steps: int = 9, path: str = "auto") -> Tensor:
    r"""Codes on the way from one code to another.

    A straight line between two draws of a normal prior passes nearer to the origin than nearly all
    draws do, where the decoder was hardly trained. A spherical path turns the direction at a
    constant rate and changes the length evenly,

    .. math::
        z(t) = r(t) \left( \frac{\sin((1 - t) \omega)}{\sin \omega} \frac{a}{|a|}
        + \frac{\sin(t \omega)}{\sin \omega} \frac{b}{|b|} \right),
        \qquad r(t) = (1 - t) |a| + t |b|, \quad \cos \omega = \frac{a^\top b}{|a| |b|}

    References:
        White (2016), Sampling Generative Networks, arXiv:1609.04468; Shoemake (1985), Animating
        Rotation with Quaternion Curves

    Args:
        vae: the model.
        start, end: codes a and b ``(latent_dim,)``.
        steps: number of codes, both ends included.
        path: ``"linear"``, ``"spherical"``, or ``"auto"``: spherical where the prior is a standard
            normal or on a sphere, else linear.

    Returns:
        ``(steps, latent_dim)``.

    Raises:
        ValueError: if z is discrete, ``path`` is unknown, there are fewer than two steps, or the
            path is spherical and the codes point in opposite directions, or one is zero.

    Example:
        >>> from pyrovae.diagnostics import between
        >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> between(vae, a, b, steps=3)[1], between(vae, a, b, steps=3, path="linear")[1]
        (tensor([0.7071, 0.7071]), tensor([0.5000, 0.5000]))
    """
    check_choice("path", path, PATHS)
    p = vae.prior()
    if is_discrete(p):
        raise ValueError("z is discrete here, and nothing lies between two of its values")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    t = torch.linspace(0, 1, steps).to(start).unsqueeze(-1)
    round_ = not fills_space(p) or _standard(p)
    if path == "linear" or (path == "auto" and not round_):
        return (1 - t) * start + t * end
    lengths = start.norm(), end.norm()
    cosine = (start @ end / (lengths[0] * lengths[1])).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if min(lengths) == 0 or not cosine > -1 + 1e-6:
        raise ValueError(
            "no direction leads from one of these codes to the other along a sphere: one is zero, "
            "or they are opposite; use the path linear"
        )
    if angle < 1e-4:
        return (1 - t) * start + t * end
    first, second = torch.sin((1 - t) * angle), torch.sin(t * angle)
    turned = (first * start / lengths[0] + second * end / lengths[1]) / torch.sin(angle)
    return ((1 - t) * lengths[0] + t * lengths[1]) * turned


def _standard(p: td.Distribution) -> bool:
    inner = base(p)
    return isinstance(inner, td.Normal) and bool((inner.loc == 0).all() & (inner.scale == 1).all())
