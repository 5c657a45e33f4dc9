r"""A chunk of an importance-weighted bound: some draws for each example, as written or compiled.

The bound of one batch is a sum over many chunks of the same shape. Each is the same few dozen
tensor operations, which write and read every number of p(x | z) several times when they run one by
one. :class:`Compiled` writes them down once, for any VAE, and has them compiled to fewer passes.
"""

import warnings
from collections.abc import Callable

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae._process.graphs import compiled, in_one_line
from pyrovae.vae import VAE

__all__ = ["Compiled", "NotCompiledError", "Sums", "chunk"]

ABSOLUTE, RELATIVE = 1e-3, 1e-5  # what compiled sums may differ by: nats per draw, or a part

Sums = tuple[Tensor, Tensor, Tensor, Tensor]
"""Over the draws of a chunk, each ``(batch,)``: of log p(x | z), of log q(z | x) - log p(z), and
the logarithm of the sum of the weights; last the logarithms of the weights ``(draws, batch)``."""


class NotCompiledError(Exception):
    """Why a chunk is not run compiled."""


def chunk(
    vae: VAE,
    p: dist.Distribution,
    q: dist.Distribution,
    x: Tensor,
    draws: int,
    *,
    at_once: int | None = None,
) -> Sums:
    """The sums over some draws from the posterior.

    Args:
        vae: of which the likelihood is taken.
        p: its prior.
        q: its posterior at ``x``.
        x: data ``(batch, *event_shape)``.
        draws: for each example.
        at_once: the likelihood is computed for so many draws at a time; None for all.

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


class Compiled:
    """Chunks of one shape as one compiled graph: the same draws under the same seed.

    What runs is traced on tensors without numbers, prior and posterior with it, and compiled.
    Before it is used it runs beside the chunk itself under two seeds, on the batch and on the batch
    in another order, and must agree with it within 0.001 nats for each draw or a 1e-5th part.

    Args:
        vae: in the mode that it is evaluated in, with the weights that it keeps.
        x: a batch ``(batch, *event_shape)``; only its shape and type stay.
        draws: for each example.

    Raises:
        NotCompiledError: if it cannot be traced or compiled, or does not agree.
    """

    def __init__(self, vae: VAE, x: Tensor, draws: int) -> None:
        self.shape, self.draws = x.shape, draws

        def eager(x: Tensor) -> Sums:
            return chunk(vae, vae.prior(), vae.posterior(x), x, draws)

        with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            batches = (x, x.roll(1, 0))
            expected = [_seeded(eager, seed, batch) for seed, batch in enumerate(batches)]
            try:
                # warnings of torch's about its own code, while it compiles, are not the caller's
                with pyro.validation_enabled(False), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    trace = make_fx(eager, tracing_mode="fake", _allow_non_fake_inputs=True)
                    self._graph = compiled(trace(x))
                    found = [_seeded(self._graph, seed, x) for seed, x in enumerate(batches)]
            except Exception as error:
                raise NotCompiledError(in_one_line(error)) from error
        for sums, truth in zip(found, expected, strict=True):
            self._compare(sums, truth)

    def __call__(self, x: Tensor) -> Sums:
        """The sums over fresh draws.

        Args:
            x: data of the shape that the graph was made for.
        """
        sums: Sums = self._graph(x)
        return sums

    def fits(self, x: Tensor, draws: int) -> bool:
        """Whether the graph is one for such a batch and so many draws."""
        return x.shape == self.shape and draws == self.draws

    def _compare(self, found: Sums, expected: Sums) -> None:
        names = ("log p(x | z)", "log q(z | x) - log p(z)", "log of the weights")
        for name, value, truth, draws in zip(
            names, found[:3], expected[:3], (self.draws, self.draws, 1), strict=True
        ):
            if not torch.allclose(value / draws, truth / draws, RELATIVE, ABSOLUTE, equal_nan=True):
                difference = ((value - truth) / draws).abs().max().item()
                raise NotCompiledError(
                    f"compiled, the mean of {name} differs by {difference:.2g} nats"
                )


def _seeded(function: Callable[[Tensor], Sums], seed: int, x: Tensor) -> Sums:
    torch.manual_seed(seed)
    return function(x)
