"""Sums over a chunk of draws from q(z | x), as the program is written or compiled."""

from collections.abc import Sequence

import torch
from pyro.distributions import Distribution
from torch import Tensor

from pyrovae import distributions
from pyrovae._process.compilation import compiled, in_one_line, side_by_side, traced
from pyrovae.vae import VAE

ABSOLUTE, RELATIVE = 1e-3, 1e-5  # tolerances of compiled sums, in nats per draw and relative

Sums = tuple[Tensor, Tensor, Tensor, Tensor]
"""Over the draws of a chunk, each ``(batch,)``: the sums of log p(x | z) and of log q(z | x) -
log p(z), and the logarithm of the sum of the weights; last the log weights ``(draws, batch)``."""


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
    log_likelihood = torch.cat([vae.log_likelihood(x, part) for part in parts]).double()
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
                with distributions.missing_values(distributions.has_missing(x)):
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
        return self._graph(x)

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
