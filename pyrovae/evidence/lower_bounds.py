r"""Lower bounds on the evidence log p(x) from draws of q(z | x).

.. math::
    \log p(x) \ge \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
    \frac{p(z_k) \, p(x \mid z_k)}{q(z_k \mid x)}

K = 1 is the ELBO; the bound rises with K.
"""

import math
from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import Delta, Distribution
from torch import Tensor

from pyrovae._process.compilation import compiled, in_one_line, side_by_side, traced
from pyrovae._process.memory import rows_per_chunk
from pyrovae.distributions import base
from pyrovae.estimates import Examples
from pyrovae.evidence.results import WeightedBounds, weight_statistics
from pyrovae.vae import VAE

__all__ = ["DRAWS", "NO_BOUND", "batch_size", "bits_per_dimension", "bounds", "kind"]

DRAWS = 1_000
"""Default number of draws of z per example."""
NO_BOUND = "log p(x, z) at one point z: no bound on log p(x), since a point has no density"
"""Name of the estimate for a posterior that is a point."""

# Batches and chunks draw one after the other, so both numbers are part of what a seed means.
ROWS = 2_000  # examples times draws in a chunk
EXAMPLES = 20  # fewest examples in a batch, if there are as many
CACHED = 800  # rows whose intermediate results fit in the CPU cache
ABSOLUTE, RELATIVE = 1e-3, 1e-5  # tolerances of compiled sums, in nats per draw and relative

Sums = tuple[Tensor, Tensor, Tensor, Tensor]
"""Over the draws of a chunk, each ``(batch,)``: the sums of log p(x | z) and of log q(z | x) -
log p(z), and the logarithm of the sum of the weights; last the log weights ``(draws, batch)``."""


@torch.no_grad()
def bounds(vae: VAE, x: Tensor, samples: int, compiled: "Compiled | None" = None) -> WeightedBounds:
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
        # the distributions check their arguments and the data, which compiled chunks do not
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            vae.likelihood(q.sample((1,))).log_prob(x)
    for start in range(0, samples, size):
        draws = min(size, samples - start)
        if compiled is not None and (x.shape, draws) == (compiled.shape, compiled.draws):
            sums = compiled(x)
        elif start == 0:
            sums = chunk(vae, p, q, x, draws, at_once)
        else:
            with pyro.validation_enabled(False):  # the first chunk was validated
                sums = chunk(vae, p, q, x, draws, at_once)
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


def chunk(
    vae: VAE, p: Distribution, q: Distribution, x: Tensor, draws: int, at_once: int | None = None
) -> Sums:
    """Draw from the posterior, and sum the terms of the bound over the draws.

    Args:
        vae: the model, whose likelihood is evaluated.
        p: its prior.
        q: its posterior at ``x``.
        x: data ``(batch, *event_shape)``.
        draws: number of draws for each example.
        at_once: evaluate the likelihood for at most this many draws at a time; None for all.

    Returns:
        The three sums and the log weights, in double precision.
    """
    z = q.sample(torch.Size([draws]))  # (draws, batch, latent_dim)
    parts = z.split(at_once or draws)
    log_likelihood = torch.cat([vae.likelihood(part).log_prob(x) for part in parts]).double()
    log_ratio = q.log_prob(z).double() - p.log_prob(z).double()
    log_weights = log_likelihood - log_ratio
    log_sum = torch.logsumexp(log_weights, 0)
    return log_likelihood.sum(0), log_ratio.sum(0), log_sum, log_weights


class NotCompiledError(Exception):
    """A chunk cannot be compiled; the message is the reason."""


class Compiled:
    """Chunks of one shape as one compiled graph, with the same draws under the same seed.

    The chunk is traced, with prior and posterior, and compiled. Before the graph is used, it runs
    beside the chunk under two seeds, on the batch and on the batch in another order. The sums must
    agree within 0.001 nats per draw, or a relative 1e-5.

    Args:
        vae: in the mode that it is evaluated in; its weights must not change afterwards.
        x: a batch ``(batch, *event_shape)``; only its shape and dtype are fixed.
        draws: number of draws for each example.

    Raises:
        NotCompiledError: if the chunk cannot be traced or compiled, or the sums do not agree.
    """

    def __init__(self, vae: VAE, x: Tensor, draws: int) -> None:
        self.shape, self.draws = x.shape, draws

        def eager(x: Tensor) -> Sums:
            return chunk(vae, vae.prior(), vae.posterior(x), x, draws)

        with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            try:
                self._graph = compiled(traced(eager, x))
                pairs = list(side_by_side(lambda xs: eager(*xs), lambda xs: self._graph(*xs), [x]))
            except Exception as error:
                raise NotCompiledError(in_one_line(error)) from error
        for expected, found in pairs:
            self._compare(found, expected)

    def __call__(self, x: Tensor) -> Sums:
        """Sum over fresh draws.

        Args:
            x: data of the shape that the graph was made for.
        """
        sums: Sums = self._graph(x)
        return sums

    def _compare(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        names = ("log p(x | z)", "log q(z | x) - log p(z)", "log of the weights")
        for name, value, truth, draws in zip(
            names, found[:3], expected[:3], (self.draws, self.draws, 1), strict=True
        ):
            if not torch.allclose(value / draws, truth / draws, RELATIVE, ABSOLUTE, equal_nan=True):
                difference = ((value - truth) / draws).abs().max().item()
                raise NotCompiledError(
                    f"compiled, the mean of {name} differs by {difference:.2g} nats"
                )


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
