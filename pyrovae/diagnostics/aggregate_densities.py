r"""Draws from the posterior of every example, with the densities that describe them.

.. math:: q(z) = \frac{1}{N} \sum_{n=1}^{N} q(z \mid x_n)

This mixture of the posteriors of all N examples is the aggregate posterior. Its density is computed
exactly, as a sum over all examples, so the only randomness is that of the draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Independent

from pyrovae._process.isolation import derived, evaluating
from pyrovae.distributions import (
    OneHots,
    base,
    components,
    in_float64,
    is_discrete,
    is_point,
    log_density,
    name,
)
from pyrovae.estimates import Examples, batches, number_of_examples
from pyrovae.evidence import batch_size
from pyrovae.vae import VAE

__all__ = ["DRAWS", "AggregateDraws", "aggregate_draws", "no_density"]

DRAWS = 10
"""Default number of draws from the posterior of each example."""

VALUES = 1 << 20  # values of log q(z | x) held at a time


@dataclass(frozen=True, repr=False)
class AggregateDraws:
    """Draws from the posteriors of N examples, and the log densities at these draws, in float64.

    Attributes:
        z: the draws ``(N, draws, latent_dim)``.
        log_likelihood: log p(x | z) ``(N, draws)``.
        log_likelihood_of_others: log p(x | z') at the draws of another example, of the same shape
            as the other densities.
        log_prior: log p(z).
        log_posterior: log q(z | x) of the example's own posterior.
        log_aggregate: log q(z).
        log_others: log of q(z) without the example's own posterior.
        log_class: log of the mixture of the posteriors of the example's class; None without labels.
        parts: for the variables that the posterior makes independent, log q(z_j | x), log q(z_j)
            and, if the prior makes them independent too, log p(z_j): each
            ``(N, draws, variables)``.
        labels: the class of each example ``(N,)``, or None.
        available: number of examples in the data; the draws cover the first N.
        names: names of posterior and prior.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws
        >>> drawn = aggregate_draws(vae, data, draws=3)
        >>> drawn.z.shape, drawn.log_aggregate.shape
        (torch.Size([64, 3, 2]), torch.Size([64, 3]))
    """

    z: Tensor
    log_likelihood: Tensor
    log_likelihood_of_others: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    log_aggregate: Tensor
    log_others: Tensor
    log_class: Tensor | None
    parts: tuple[Tensor, Tensor, Tensor | None] | None
    labels: NDArray[Any] | None
    available: int
    names: tuple[str, str]

    def __repr__(self) -> str:
        examples, draws = self.log_prior.shape
        q, p = self.names
        return f"AggregateDraws({examples} examples, {draws} draws each, q: {q}, p: {p})"


@torch.no_grad()
def aggregate_draws(
    vae: VAE,
    data: Examples,
    *,
    labels: NDArray[Any] | None = None,
    draws: int = DRAWS,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> AggregateDraws:
    """Draw from the posterior of each example and evaluate every density at each draw.

    Up to 100 draws are the draws of :func:`pyrovae.evaluate` with as many samples and the same
    seed. The time grows with the square of the number of examples; memory does not.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        data: one part of a dataset.
        labels: the class of each example, for mixtures over classes.
        draws: draws per example, at least two.
        limit: use only the first ``limit`` examples.
        seed: seed of the draws; those of a batch depend only on it and on the batch's position.
        progress: callback, called with the number of examples finished.

    Returns:
        The draws and their log densities, in nats.

    Raises:
        ValueError: if there are fewer than two examples or draws, or the posterior is a point.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws
        >>> aggregate_draws(vae, data, draws=3)
        AggregateDraws(64 examples, 3 draws each, q: Independent Normal, p: Independent Normal)
    """
    count = number_of_examples(data, limit, at_least=2)
    if draws < 2:
        raise ValueError(f"draws must be at least 2 for a standard error, got {draws}")
    size = batch_size(draws)
    own = None if labels is None else torch.as_tensor(labels[:count])
    x: list[Tensor] = []
    posteriors: list[Any] = []
    z: list[Tensor] = []
    log_likelihood: list[Tensor] = []
    with torch.random.fork_rng(), evaluating(vae):
        for place, batch in enumerate(batches(data, size, limit)):
            x.append(vae.place(batch))
            q = vae.posterior(x[-1])
            if reason := no_density(q):
                raise ValueError(reason)
            torch.manual_seed(derived(seed, place))
            z.append(q.sample((draws,)))  # (draws, batch, latent_dim)
            log_likelihood.append(vae.log_likelihood(x[-1], z[-1]))
            posteriors.append(q)
        every = torch.cat(z, 1)
        partner = _partners(count, seed)
        of_others = [
            vae.log_likelihood(batch, every[:, rows])
            for rows, batch in zip(partner.split(size), x, strict=True)
        ]
        p = vae.prior()
        names = name(posteriors[0]), name(p)
        found = _densities(every.transpose(0, 1), posteriors, p, own, progress)
    return AggregateDraws(
        z=every.transpose(0, 1).double().cpu(),
        log_likelihood=torch.cat(log_likelihood, 1).T.double().cpu(),
        log_likelihood_of_others=torch.cat(of_others, 1).T.double().cpu(),
        labels=None if labels is None else np.asarray(labels)[:count],
        available=len(data),
        names=names,
        **found,
    )


def no_density(q: Any) -> str | None:
    """Explain why a point posterior has no terms; None for a posterior that has a density.

    Args:
        q: the posterior q(z | x) of any examples.

    Example:
        >>> from pyrovae.diagnostics import no_density
        >>> no_density(vae.posterior(x)) is None
        True
    """
    if is_discrete(q) or not is_point(q):
        return None
    return (
        f"the posterior ({name(q)}) is a point, which has no density: mutual information and "
        "KL(q(z) || p(z)) are infinite"
    )


def _partners(count: int, seed: int) -> Tensor:
    """The index of another example for each example, at random."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return torch.from_numpy(partner)


def _densities(
    z: Tensor,
    posteriors: list[Any],
    p: Any,
    labels: Tensor | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Log densities of prior and posteriors at the draws ``(N, draws, latent_dim)``."""
    count, draws, dim = z.shape
    size = posteriors[0].batch_shape[0]
    step = max(1, VALUES // (draws * dim * size * components(posteriors[0])))
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, count, step):
        rows = z[start : start + step].flatten(0, 1)
        owner = torch.arange(start, start + len(rows) // draws).repeat_interleave(draws)
        parts.append(_of_rows(rows, owner, posteriors, labels))
        if progress is not None:
            progress(len(rows) // draws)
    joined = [torch.cat(part).unflatten(0, (count, draws)) for part in zip(*parts, strict=True)]
    own, others, members, *each = joined
    of_prior = _log_parts(p, z)
    log_prior = (_log_prob(p, z) if of_prior is None else of_prior.sum(-1)).cpu()
    counted = None if labels is None else (labels[:, None] == labels).sum(1)
    return {
        "log_prior": log_prior,
        "log_posterior": own,
        "log_aggregate": torch.logaddexp(own, others) - math.log(count),
        "log_others": others - math.log(count - 1),
        "log_class": None if counted is None else members - counted.double().log()[:, None],
        "parts": (
            (each[0], each[1] - math.log(count), None if of_prior is None else of_prior.cpu())
            if each
            else None
        ),
    }


def _of_rows(
    z: Tensor, owner: Tensor, posteriors: list[Any], labels: Tensor | None
) -> tuple[Tensor, ...]:
    """log q of each row's own posterior, and log sums over all other ones and over its class."""
    own = torch.full((len(z),), -math.inf, dtype=torch.float64)
    others, members = own.clone(), own.clone()
    own_parts = all_parts = torch.empty(0)
    start = 0
    for q in posteriors:
        split = _log_parts(q, z[:, None])  # (rows, batch, variables)
        values = (_log_prob(q, z[:, None]) if split is None else split.sum(-1)).cpu()
        columns = torch.arange(start, start + values.shape[1])
        mine = owner[:, None] == columns
        row, column = mine.nonzero(as_tuple=True)
        own[row] = values[row, column]
        others = torch.logaddexp(others, values.masked_fill(mine, -math.inf).logsumexp(1))
        if labels is not None:
            apart = labels[owner][:, None] != labels[columns]
            members = torch.logaddexp(members, values.masked_fill(apart, -math.inf).logsumexp(1))
        if split is not None:
            split = split.cpu()
            if start == 0:
                own_parts = torch.full_like(split[:, 0], -math.inf)
                all_parts = own_parts.clone()
            own_parts[row] = split[row, column]
            all_parts = torch.logaddexp(all_parts, split.logsumexp(1))
        start += values.shape[1]
    found = own, others, members
    return (*found, own_parts, all_parts) if own_parts.numel() else found


def _log_prob(d: Any, z: Tensor) -> Tensor:
    double = in_float64(d)[0]
    z = z.expand(torch.broadcast_shapes(z.shape, d.batch_shape + d.event_shape))
    return log_density(double, z if double is d else z.double()).double()


def _log_parts(d: Any, z: Tensor) -> Tensor | None:
    """The log densities of the variables that d makes independent, along the last dimension."""
    if isinstance(d, OneHots):
        variables = z.unflatten(-1, (-1, d.classes))
        return (variables * d.logits.log_softmax(-1)).sum(-1).double()
    if not isinstance(d, Independent) or len(d.event_shape) != 1 or base(d).event_shape:
        return None
    double: Any = in_float64(d)[0]
    return base(double).log_prob(z if double is d else z.double()).double()
