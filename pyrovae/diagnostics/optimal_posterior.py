r"""The best q(z | x) of a posterior's family for each example separately, without the encoder."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyrovae._process.isolation import evaluating, isolated, seed_device
from pyrovae._process.memory import in_chunks, rows_per_chunk
from pyrovae.evidence import Whole, adapted, from_mixture, log_joint, resampled
from pyrovae.vae import VAE

__all__ = ["best_posterior", "log_weights", "with_outputs"]

ROWS = 20_000  # z in a chunk; chunks draw in turn, so this is part of what a seed means
DRAWS = 32  # draws per example in one step of the search
RATE = 0.05  # initial learning rate
CANDIDATES = 2_000  # draws from the prior for the second start
NEAR = 100  # draws from the posterior for the third start
FITTING = 300  # steps that fit a q to these draws
STARTS = 3
CHOICE = 1_000  # draws that compare the results of the starts


def best_posterior(
    vae: VAE,
    x: Tensor,
    *,
    steps: int = 1_000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    r"""Optimize the outputs of the posterior's network for each example separately.

    Adam moves the outputs themselves along the gradient of the ELBO, estimated from 32 draws in
    each step, with a learning rate that falls to zero. The result is the mean over the last quarter
    of the steps. Three searches run, and the one that ends with the highest ELBO wins. The first
    starts from the encoder's output for x. The second starts from its output for
    :math:`\mathbb{E}[x \mid z']`, where :math:`z'` is the draw, among 2,000 from the prior, that
    gives x the highest likelihood. The third starts from the q with the highest likelihood of some
    draws: the importance-weighted draws from a fitted mixture (:mod:`pyrovae.evidence`) that are
    nearest to the maximum of :math:`p(x, z)`. All other parts of the posterior stay fixed, such as
    the maps of a flow: the family is the set of q that the outputs can reach. The search may miss a
    higher optimum elsewhere; the approximation gap is then too large.

    Args:
        vae: the model and its posterior, whose part ``encoder`` gives the outputs.
        x: data ``(batch, *event_shape)``.
        steps: steps of Adam.
        seed: seed of the draws.
        progress: callback, called with 1 after each step.

    Returns:
        The outputs ``(batch, ...)``, for :func:`with_outputs`.

    Raises:
        ValueError: if the posterior has no part named ``encoder``, or its draws cannot be
            differentiated.

    Example:
        >>> from pyrovae.diagnostics import best_posterior
        >>> best_posterior(vae, x[:2], steps=10).shape
        torch.Size([2, 2, 2])
    """
    encoder = getattr(vae.posterior, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"the posterior {type(vae.posterior).__name__} has no part named encoder, whose "
            "outputs could be optimized; give the network of the posterior that name"
        )
    with evaluating(vae), isolated(x.device), pyro.validation_enabled(False):
        seed_device(x.device, seed)
        with torch.no_grad():
            if not vae.posterior(x).has_rsample:
                raise ValueError(
                    f"draws of the posterior {type(vae.posterior).__name__} cannot be "
                    "differentiated, so its best q cannot be found; use one with rsample"
                )
            first, second = encoder(x), encoder(vae.decode(_likeliest(vae, x)).to(x))
            heap = _heap(vae, x)
        outputs = torch.cat([first, second, _around(vae, first, x, heap)]).requires_grad_()
        x = torch.cat([x] * STARTS)  # (STARTS * batch, *event_shape)
        joint, family = log_joint(vae, x), with_outputs(vae.posterior, outputs)
        adam = torch.optim.Adam([outputs], lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        total, kept = torch.zeros_like(outputs), 0
        for step in range(steps):
            q = family(x)
            z = q.rsample(torch.Size([DRAWS]))
            loss = -(joint(z) - q.log_prob(z)).mean(0).sum()
            (outputs.grad,) = torch.autograd.grad(loss, [outputs])
            adam.step()
            schedule.step()
            if step >= 3 * steps // 4:
                total, kept = total + outputs.detach(), kept + 1
            if progress is not None:
                progress(1)
        found = total / kept
        with torch.no_grad():
            q = with_outputs(vae.posterior, found)(x)
            elbo = log_weights(vae, q, x, CHOICE, seed).mean(0)
    found, elbo = found.unflatten(0, (STARTS, -1)), elbo.unflatten(0, (STARTS, -1))
    highest = elbo.nan_to_num(-torch.inf).argmax(0)  # (batch,)
    return found[highest, torch.arange(len(highest), device=highest.device)]


def _heap(vae: VAE, x: Tensor) -> Tensor:
    """Weighted draws from p(z | x) nearest to the maximum of p(x, z): ``(NEAR, batch, ...)``."""
    target = Whole(vae, x)
    z, log_w, _ = from_mixture(target, adapted(target), CANDIDATES)
    top = log_joint(vae, x)(z).argmax(0)
    peak = z[top, torch.arange(len(top), device=top.device)]
    drawn = resampled(z, log_w, 4 * NEAR)
    spread = drawn.std(0) + torch.finfo(drawn.dtype).tiny
    nearest = ((drawn - peak) / spread).square().sum(-1).topk(NEAR, 0, largest=False).indices
    return drawn.take_along_dim(nearest.unsqueeze(-1), 0)


def _around(vae: VAE, outputs: Tensor, x: Tensor, heap: Tensor) -> Tensor:
    """Outputs of a q under which some draws are likely, starting from the given outputs."""
    outputs = outputs.clone().requires_grad_()
    adam = torch.optim.Adam([outputs], lr=RATE)
    for _ in range(FITTING):
        loss = -with_outputs(vae.posterior, outputs)(x).log_prob(heap).mean(0).sum()
        (outputs.grad,) = torch.autograd.grad(loss, [outputs])
        adam.step()
    return outputs.detach()


def _likeliest(vae: VAE, x: Tensor) -> Tensor:
    """For each example, the draw from the prior that gives it the highest likelihood."""
    z = vae.prior().sample(torch.Size([CANDIDATES]))
    parts = in_chunks(z, len(x))
    log = torch.cat([vae.log_likelihood(x, part[:, None]) for part in parts])
    return z[log.argmax(0)]


def with_outputs(posterior: Any, outputs: Tensor) -> Any:
    """Copy a posterior, with given outputs in place of those of its network.

    Args:
        posterior: a posterior with a part named ``encoder``; left unchanged.
        outputs: outputs for each example, in the form that the encoder gives them.

    Example:
        >>> from pyrovae.diagnostics import with_outputs
        >>> outputs = vae.posterior.encoder(x)
        >>> torch.equal(with_outputs(vae.posterior, outputs)(x).mean, vae.posterior(x).mean)
        True
    """
    family = copy.copy(posterior)
    family._modules = dict(posterior._modules)
    family.encoder = _Given(outputs)
    return family


class _Given(nn.Module):
    """A network with constant outputs."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = (outputs,)  # a tuple registers nothing

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs[0]


@torch.no_grad()
def log_weights(vae: VAE, q: Any, x: Tensor, samples: int, seed: int) -> Tensor:
    """Draw from q and compute the log importance weights, log p(x, z) - log q(z | x).

    Args:
        vae: the VAE that holds the model, in eval mode.
        q: a distribution of batch shape ``(batch,)``.
        x: data ``(batch, *event_shape)``.
        samples: number of draws.
        seed: seed of the draws; another q of the same family uses the same noise.

    Returns:
        ``(samples, batch)``, in double precision.

    Example:
        >>> from pyrovae.diagnostics import log_weights
        >>> log_weights(vae, vae.posterior(x), x, samples=5, seed=0).shape
        torch.Size([5, 64])
    """
    joint, size, parts = log_joint(vae, x), rows_per_chunk(len(x), ROWS), []
    with isolated(x.device):
        seed_device(x.device, seed)
        for start in range(0, samples, size):
            z = q.sample(torch.Size([min(size, samples - start)]))
            parts.append(joint(z).double() - q.log_prob(z).double())
    return torch.cat(parts)
