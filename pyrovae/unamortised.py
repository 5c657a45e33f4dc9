r"""The best q(z | x) of a posterior's family for each datum by itself, without the encoder."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyrovae.isolation import evaluating, isolated, seed_device
from pyrovae.nuts import log_joint
from pyrovae.vae import VAE

__all__ = ["best", "log_weights", "with_outputs"]

ROWS = 20_000  # of z at a time
DRAWS = 32  # of each datum in a step of the search
RATE = 0.05  # of Adam, at first
CANDIDATES = 2_000  # draws from the prior, for another start
CHOICE = 1_000  # draws that choose between the two results


def best(
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
    There are two searches, and the one that ends higher is taken. One starts from what the encoder
    gives for x, the other from what it gives for :math:`\mathbb{E}[x \mid z']`, with :math:`z'`
    the one of 2,000 draws from the prior that makes x likeliest: it is in the right place where the
    encoder is in the wrong one. All else of the posterior is held, such as the maps of a flow: the
    family is what the outputs can reach. A higher optimum elsewhere may be missed; the
    approximation gap is then too large.

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
            other = vae.decode(_likeliest(vae, x)).to(x)
        x = torch.cat([x, x])  # (2 * batch, *event_shape)
        outputs = encoder(torch.cat([x[: len(other)], other])).detach()
        outputs = outputs.clone().requires_grad_()
        joint, family = log_joint(vae, x), with_outputs(vae.posterior, outputs)
        if not family(x).has_rsample:
            raise ValueError(
                f"draws of the posterior {type(vae.posterior).__name__} cannot be differentiated, "
                "so that its best q cannot be found; take one with rsample"
            )
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
    first, second = found.chunk(2)
    better = (elbo[len(first) :] > elbo[: len(first)]).reshape(-1, *[1] * (first.ndim - 1))
    return torch.where(better, second, first)


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
