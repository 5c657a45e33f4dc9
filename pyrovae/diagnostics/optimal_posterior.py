r"""The best q(z | x) of a posterior's family for each datum by itself, without the encoder."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyrovae._process.isolation import evaluating, isolated, seed_device
from pyrovae.evidence import Whole, adapted, from_mixture, log_joint, resampled
from pyrovae.vae import VAE

__all__ = ["best_posterior", "log_weights", "with_outputs"]

ROWS = 20_000  # of z at a time
DRAWS = 32  # of each datum in a step of the search
RATE = 0.05  # of Adam, at first
CANDIDATES = 2_000  # draws from the prior, for another start
NEAR = 100  # draws of the posterior, for a third start
FITTING = 300  # steps that fit a q to them
STARTS = 3
CHOICE = 1_000  # draws that choose between the results


def best_posterior(
    vae: VAE,
    x: Tensor,
    *,
    steps: int = 1_000,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    r"""What the posterior's network would have to give out for the highest ELBO of each datum.

    The outputs themselves are moved by Adam, with the gradient of the ELBO from 32 draws in each
    step and a rate that falls to zero; the result is the mean over the last quarter of the steps.
    There are three searches, and the one that ends highest is taken. One starts from what the
    encoder gives for x; the second from what it gives for :math:`\mathbb{E}[x \mid z']`, with
    :math:`z'` the one of 2,000 draws from the prior that makes x likeliest; the third from the q
    that makes some draws likeliest, the importance-weighted draws of a fitted mixture
    (:mod:`pyrovae.evidence.proposals`) that are nearest to where :math:`p(x, z)` is largest. All
    else of the posterior is held, such as the maps of a flow: the family is what the outputs can
    reach. A higher optimum elsewhere may be missed; the approximation gap is then too large.

    Args:
        vae: the model and its posterior, of which the part ``encoder`` gives the outputs.
        x: data ``(batch, *event_shape)``.
        steps: of Adam.
        seed: of the draws.
        advance: told of each step.

    Returns:
        The outputs ``(batch, ...)``, for :func:`with_outputs`.

    Raises:
        ValueError: if the posterior has no such part, or its draws cannot be differentiated.
    """
    encoder = getattr(vae.posterior, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"the posterior {type(vae.posterior).__name__} has no part named encoder, whose "
            "outputs could be optimised; give the network of the posterior that name"
        )
    with evaluating(vae), isolated(x.device), pyro.validation_enabled(False):
        seed_device(x.device, seed)
        with torch.no_grad():
            if not vae.posterior(x).has_rsample:
                raise ValueError(
                    f"draws of the posterior {type(vae.posterior).__name__} cannot be "
                    "differentiated, so that its best q cannot be found; take one with rsample"
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
            if advance is not None:
                advance(1)
        found = total / kept
        with torch.no_grad():
            q = with_outputs(vae.posterior, found)(x)
            elbo = log_weights(vae, q, x, CHOICE, seed).mean(0)
    found, elbo = found.unflatten(0, (STARTS, -1)), elbo.unflatten(0, (STARTS, -1))
    highest = elbo.nan_to_num(-torch.inf).argmax(0)  # (batch,)
    return found[highest, torch.arange(len(highest), device=highest.device)]


def _heap(vae: VAE, x: Tensor) -> Tensor:
    """Draws of p(z | x), by weight, nearest to where p(x, z) is largest: ``(NEAR, batch, ...)``."""
    target = Whole(vae, x)
    z, log_w = from_mixture(target, adapted(target), CANDIDATES)
    top = log_joint(vae, x)(z).argmax(0)
    peak = z[top, torch.arange(len(top), device=top.device)]
    drawn = resampled(z, log_w, 4 * NEAR)
    spread = drawn.std(0) + torch.finfo(drawn.dtype).tiny
    nearest = ((drawn - peak) / spread).square().sum(-1).topk(NEAR, 0, largest=False).indices
    return drawn.take_along_dim(nearest.unsqueeze(-1), 0)


def _around(vae: VAE, outputs: Tensor, x: Tensor, heap: Tensor) -> Tensor:
    """Outputs, to begin with these, of a q that makes some draws likely."""
    outputs = outputs.clone().requires_grad_()
    adam = torch.optim.Adam([outputs], lr=RATE)
    for _ in range(FITTING):
        loss = -with_outputs(vae.posterior, outputs)(x).log_prob(heap).mean(0).sum()
        (outputs.grad,) = torch.autograd.grad(loss, [outputs])
        adam.step()
    return outputs.detach()


def _likeliest(vae: VAE, x: Tensor) -> Tensor:
    """Of draws from the prior, for each datum the one that makes it likeliest."""
    z = vae.prior().sample(torch.Size([CANDIDATES]))
    size = max(1, ROWS // len(x))
    log = torch.cat([vae.likelihood(part[:, None]).log_prob(x) for part in z.split(size)])
    return z[log.argmax(0)]


def with_outputs(posterior: Any, outputs: Tensor) -> Any:
    """The same posterior, with these in place of what its network gives out.

    Args:
        posterior: with a part named ``encoder``; left as it is.
        outputs: for each datum, as the encoder gives them.
    """
    family = copy.copy(posterior)
    family._modules = dict(posterior._modules)
    family.encoder = _Given(outputs)
    return family


class _Given(nn.Module):
    """A network that gives out the same whatever comes in."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = (outputs,)  # a tuple registers nothing

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs[0]


@torch.no_grad()
def log_weights(vae: VAE, q: Any, x: Tensor, samples: int, seed: int) -> Tensor:
    """log p(x, z) - log q(z | x) at draws from q.

    Args:
        vae: whose model, in eval mode.
        q: of batch shape ``(batch,)``.
        x: data ``(batch, *event_shape)``.
        samples: number of draws.
        seed: of them; another q of the same family takes the same noise.

    Returns:
        ``(samples, batch)``, in double precision.
    """
    joint, size, parts = log_joint(vae, x), max(1, ROWS // len(x)), []
    with isolated(x.device):
        seed_device(x.device, seed)
        for start in range(0, samples, size):
            z = q.sample(torch.Size([min(size, samples - start)]))
            parts.append(joint(z).double() - q.log_prob(z).double())
    return torch.cat(parts)
