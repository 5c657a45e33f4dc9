r"""Densities over z on a grid, for one and two latent dimensions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae._process.isolation import isolated, seed_device
from pyrovae._process.memory import in_chunks
from pyrovae.evidence import log_joint
from pyrovae.vae import VAE

DEVIATIONS = 8.0  # reach of a grid, in standard deviations of p(z | x)
NODES = (101, 201, 401, 801)  # nodes per dimension, tried in turn
TOLERANCE = 1e-5  # nats, between a grid and every second node of it


def grid(low: Tensor, high: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(nodes ** dimensions, dimensions)`` between two corners, and the size of a cell."""
    steps = torch.linspace(0, 1, nodes).to(low)
    axes = [a + (b - a) * steps for a, b in zip(low, high, strict=True)]
    z = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return z, ((high - low) / (nodes - 1)).double().prod()


def in_parts(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Evaluate a function at nodes ``(nodes, dimensions)``, in float64, a part at a time."""
    return torch.cat([function(part[:, None])[:, 0] for part in in_chunks(z)]).double()


def divergences(
    vae: VAE, x: Tensor, q: Any, moments: Mapping[str, Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """KL(q || p(z | x)) of each example on a grid that covers both densities, with its error.

    Args:
        vae: the model and its posterior, in eval mode.
        x: data ``(batch, *event_shape)``.
        q: the posterior at x.
        moments: ``mean`` and ``covariance`` of p(z | x).
        seed: seed of the draws from q that determine its extent.
    """
    mean = moments["mean"].to(x)
    reach = DEVIATIONS * moments["covariance"].diagonal(dim1=-2, dim2=-1).sqrt().to(x)
    outer = _extent(q, x.device, seed)  # (2, batch, latent_dim)
    low, high = torch.minimum(outer[0], mean - reach), torch.maximum(outer[1], mean + reach)
    found = [
        _refined(log_joint(vae, one), vae.posterior(one).log_prob, low[i], high[i])
        for i, one in enumerate(x.split(1))
    ]
    values, errors = zip(*found, strict=True)
    return torch.stack(values), torch.stack(errors)


def _refined(
    log_joint: Callable[[Tensor], Tensor],
    log_q: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
) -> tuple[Tensor, Tensor]:
    """Refine a grid until dropping every second node no longer changes the divergence."""
    dimensions = len(low)
    every_second = (slice(None, None, 2),) * dimensions
    for nodes in NODES:
        z, cell = grid(low, high, nodes)
        p, q = (in_parts(log, z).reshape([nodes] * dimensions) for log in (log_joint, log_q))
        value = _divergence(p, q, cell)
        coarse = _divergence(p[every_second], q[every_second], cell * 2**dimensions)
        error = (value - coarse).abs()
        if error < TOLERANCE:
            break
    return value, error


def _divergence(log_p: Tensor, log_q: Tensor, cell: Tensor) -> Tensor:
    """KL(q || p) from values on a grid, both normalized there."""
    log_p, log_q = (log - log.flatten().logsumexp(0) - cell.log() for log in (log_p, log_q))
    return (cell * log_q.exp() * (log_q - log_p)).sum()


def _extent(q: Any, device: torch.device, seed: int) -> Tensor:
    """Corners ``(2, batch, latent_dim)`` far outside nearly all draws from q."""
    with isolated(device):
        seed_device(device, seed)
        draws = q.sample(torch.Size([2_000]))
    low, high = draws.quantile(torch.tensor([0.001, 0.999]).to(draws), 0)
    return torch.stack([low - 0.7 * (high - low), high + 0.7 * (high - low)])
