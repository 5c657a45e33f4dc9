r"""Lower bounds on the evidence log p(x) from draws of q(z | x).

.. math::
    \log p(x) \ge \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
    \frac{p(z_k) \, p(x \mid z_k)}{q(z_k \mid x)}

K = 1 is the ELBO; the bound rises with K.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import Delta
from torch import Tensor

from pyrovae._process.memory import rows_per_chunk
from pyrovae.distributions import base
from pyrovae.estimates import Examples, Result
from pyrovae.evidence._compiled import Compiled, chunk
from pyrovae.evidence.weights import Weights, weight_statistics
from pyrovae.vae import VAE

__all__ = [
    "DRAWS",
    "NO_BOUND",
    "Bounds",
    "WeightedBounds",
    "batch_size",
    "bits_per_dimension",
    "bounds",
    "kind",
]

DRAWS = 1_000
"""Default number of draws of z per example."""
NO_BOUND = "log p(x, z) at one point z: no bound on log p(x), since a point has no density"
"""Name of the estimate for a posterior that is a point."""

# Batches and chunks draw one after the other, so both numbers are part of what a seed means.
ROWS = 2_000  # examples times draws in a chunk
EXAMPLES = 20  # fewest examples in a batch, if there are as many
CACHED = 800  # rows whose intermediate results fit in the CPU cache


class Bounds(Result):
    """Estimates for each example from one set of draws, each ``(examples,)``, in nats.

    Attributes:
        elbo: mean over draws of log p(x, z) - log q(z | x).
        reconstruction: mean over draws of log p(x | z).
        kl: mean over draws of log q(z | x) - log p(z).
        log_evidence: importance-weighted bound from all draws together.

    Example:
        >>> found = pyrovae.evidence.bounds(vae, x, 10)
        >>> torch.allclose(found.elbo, found.reconstruction - found.kl)
        True
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_evidence: Tensor


class WeightedBounds(Weights, Bounds):
    """Bounds for each example, with diagnostics of the importance weights.

    Example:
        >>> pyrovae.evidence.bounds(vae, x, 10).ess.shape
        torch.Size([64])
    """

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        return dict(vars(self))


@torch.no_grad()
def bounds(vae: VAE, x: Tensor, samples: int, compiled: Compiled | None = None) -> WeightedBounds:
    """Estimate the ELBO, its two parts and the importance-weighted bound from the same draws.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior.
        x: data ``(batch, *event_shape)``.
        samples: number K of draws for each example. At most 2,000 rows are held in memory at a
            time, besides the weight of each draw.
        compiled: runs the chunks that have its shape.

    Returns:
        Estimates for each example; no weights are shared between examples.

    Raises:
        ValueError: if ``samples`` is not positive.

    Example:
        >>> found = bounds(vae, x, samples=100)
        >>> bool((found.elbo <= found.log_evidence).all())
        True
    """
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    q, p = vae.posterior(x), vae.prior()
    reconstruction = kl = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_sum = torch.full_like(kl, -math.inf)
    log_weights = []
    size = draws_per_chunk(len(x), samples)
    at_once = None if x.is_cuda else rows_per_chunk(len(x), CACHED)
    if compiled is not None:
        _validate(vae, q, x)
    for start in range(0, samples, size):
        draws = min(size, samples - start)
        if compiled is not None and compiled.fits(x, draws):
            sums = compiled(x)
        elif start == 0:
            sums = chunk(vae, p, q, x, draws, at_once=at_once)
        else:
            with pyro.validation_enabled(False):  # the first chunk was validated
                sums = chunk(vae, p, q, x, draws, at_once=at_once)
        reconstruction = reconstruction + sums[0]
        kl = kl + sums[1]
        log_sum = torch.logaddexp(log_sum, sums[2])
        log_weights.append(sums[3])
    return WeightedBounds(
        elbo=(reconstruction - kl) / samples,
        reconstruction=reconstruction / samples,
        kl=kl / samples,
        log_evidence=log_sum - math.log(samples),
        **vars(weight_statistics(torch.cat(log_weights))),
    )


def batch_size(samples: int) -> int:
    """Number of examples in a batch of an evaluation; an example's draws depend on its batch.

    Args:
        samples: draws of z for each example.

    Example:
        >>> batch_size(10), batch_size(1_000)
        (200, 20)
    """
    return max(EXAMPLES, ROWS // samples)


def draws_per_chunk(examples: int, samples: int) -> int:
    """Number of draws for each example that are made at a time.

    Args:
        examples: number of examples in the batch.
        samples: number of draws for each example in all.

    Example:
        >>> draws_per_chunk(20, 1_000)
        100
    """
    return min(samples, rows_per_chunk(examples, ROWS))


def _validate(vae: VAE, q: Any, x: Tensor) -> None:
    """Let the distributions check their arguments and the data, which compiled chunks do not."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        vae.log_likelihood(x, q.sample((1,)))


def bits_per_dimension(nats: float, event_shape: Sequence[int]) -> float:
    r"""Convert a log-probability of one example to bits per dimension.

    .. math:: -\frac{\log p(x)}{D \ln 2}

    This is a code length if the likelihood is a probability of the data as they are: ``bernoulli``
    for bits, and for counts ``binomial``, ``discretized_logistic``, ``categorical``, ``poisson``
    and ``negative_binomial``, which can be compared with each other. A density depends on the unit
    of x: for :math:`x / m` the bits are lower by :math:`\log_2 m` than for x, and neither can be
    compared with a probability. A lower bound on log p(x) gives an upper bound on the bits.

    Args:
        nats: log p(x), or a bound on it, in nats per example.
        event_shape: shape of one observation, with D dimensions in all.

    Returns:
        Bits per dimension. Standard errors are converted by the same factor.

    Raises:
        ValueError: if an observation has no dimensions.

    Example:
        >>> round(bits_per_dimension(-36.0, (1, 8, 8)), 2)
        0.81
    """
    dimensions = math.prod(event_shape)
    if not event_shape or dimensions < 1:
        raise ValueError(
            f"event_shape must have at least one dimension, all positive, got {tuple(event_shape)}"
        )
    return -nats / (dimensions * math.log(2))


def kind(vae: VAE, data: Examples, samples: int) -> str:
    """Name the estimate of log p(x) that draws from q(z | x) give.

    Args:
        vae: the model and its posterior.
        data: the examples; only the first is used.
        samples: draws for each example.

    Example:
        >>> kind(vae, data, samples=1_000)
        'importance-weighted lower bound'
    """
    with torch.no_grad():
        q = base(vae.posterior(vae.place(next(iter(data.batches(1))))))
    if isinstance(q, Delta):
        return NO_BOUND
    return "importance-weighted lower bound" if samples > 1 else "evidence lower bound"
