r"""The ELBO taken apart at the aggregate posterior, from one set of draws.

.. math::
    q(z) = \frac{1}{N} \sum_{n=1}^{N} q(z \mid x_n), \qquad
    \frac{1}{N} \sum_{n} \mathrm{KL}(q(z \mid x_n) \,\|\, p(z))
    = \underbrace{\mathbb{E} \log \frac{q(z \mid x_n)}{q(z)}}_{I_q(n; z)}
    + \underbrace{\mathbb{E} \log \frac{q(z)}{p(z)}}_{\mathrm{KL}(q(z) \| p(z))}

Both means are over the data, each with draws :math:`z \sim q(z \mid x_n)`. The first is the mutual
information of the code and the index of its datum: between zero and log N, and since
:math:`q(z) \ge q(z \mid x_n) / N` no draw goes beyond log N. Where p factorises, the second is

.. math::
    \mathrm{KL}(q(z) \,\|\, p(z))
    = \underbrace{\mathbb{E} \log \frac{q(z)}{\prod_j q(z_j)}}_{\text{total correlation}}
    + \underbrace{\sum_j \mathrm{KL}(q(z_j) \,\|\, p(z_j))}_{\text{dimension-wise}}

For the N data that are given nothing but the draws is random, and no estimate has a bias. The data
are a sample too. By the concavity of the entropy, :math:`I_q(n; z)` is below the mutual information
of data and code in the population, in the mean over such samples, and the marginal KL as much
above its own. With the datum's own posterior left out of q(z) the inequality turns round.

References:
    Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound, NIPS workshop on Advances in Approximate Bayesian Inference;
    Chen, Li, Grosse and Duvenaud (2018), Isolating Sources of Disentanglement in VAEs,
    arXiv:1802.04942
"""

import math
from collections.abc import Callable, Iterator
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

__all__ = ["DRAWS", "AggregateDraws", "aggregate_draws", "no_density", "surgery", "term_estimate"]

DRAWS = 10
"""Draws of each posterior where nothing else is asked for."""

VALUES = 1 << 20  # of log q(z | x) at a time
CEILING = 0.05  # of log N: mutual information so near to it says little of the population's

ESTIMATOR = (
    "mean over draws z ~ q(z|x_n) with q(z) the mixture of the posteriors of all N examples; "
    "without bias for these N"
)
POPULATION = (
    "for new data of the same kind, in mean over sets of N: the mutual information lies between "
    "that of these N and the one with each datum's own posterior left out of q(z)"
)


@dataclass(frozen=True)
class AggregateDraws:
    """Draws from the posteriors of N data, and what each density says of them, in float64.

    Attributes:
        z: ``(N, draws, latent_dim)``.
        log_likelihood: log p(x | z) ``(N, draws)``.
        log_likelihood_of_others: log p(x | z') at the draws of another datum, likewise.
        log_prior: log p(z), likewise.
        log_posterior: log q(z | x) of the datum's own posterior, likewise.
        log_aggregate: log q(z), likewise.
        log_others: log q(z) without the datum's own posterior, likewise.
        log_class: log of the mixture of the posteriors of the datum's class, likewise; None without
            labels.
        parts: of each variable that the posterior makes independent ``(N, draws, variables)``,
            log q(z_j | x), log q(z_j) and, where the prior makes them independent too, log p(z_j).
        labels: the class of each datum ``(N,)``, or None.
        available: how many data there are, of which these are the first.
        names: of posterior and prior.
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


@torch.no_grad()
def aggregate_draws(
    vae: VAE,
    data: Examples,
    *,
    labels: NDArray[Any] | None = None,
    draws: int = DRAWS,
    limit: int | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> AggregateDraws:
    """Draw from the posterior of each datum, and ask every density about each draw.

    Up to 100 draws are those of :func:`pyrovae.evaluate` with as many samples and the same seed.
    The time grows with the square of the number of data; memory does not.

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        data: one part of a dataset.
        labels: the class of each datum, for mixtures over classes.
        draws: for each datum, at least two.
        limit: only the first so many data.
        seed: of the draws; a batch's draws depend on it and on the batch's place alone.
        advance: told the number of data whose draws are done.

    Raises:
        ValueError: if there are fewer than two data or draws, or the posterior is a point.
    """
    count = number_of_examples(data, limit, at_least=2)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, which standard errors need, got {draws}")
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
            log_likelihood.append(vae.likelihood(z[-1]).log_prob(x[-1]))
            posteriors.append(q)
        every = torch.cat(z, 1)
        partner = _partners(count, seed)
        of_others = [
            vae.likelihood(every[:, rows]).log_prob(batch)
            for rows, batch in zip(partner.split(size), x, strict=True)
        ]
        p = vae.prior()
        names = name(posteriors[0]), name(p)
        found = _densities(every.transpose(0, 1), posteriors, p, own, advance)
    return AggregateDraws(
        z=every.transpose(0, 1).double().cpu(),
        log_likelihood=torch.cat(log_likelihood, 1).T.double().cpu(),
        log_likelihood_of_others=torch.cat(of_others, 1).T.double().cpu(),
        labels=None if labels is None else np.asarray(labels)[:count],
        available=len(data),
        names=names,
        **found,
    )


def surgery(draws: AggregateDraws) -> dict[str, Any]:
    """The terms of the ELBO, with the errors of the draws.

    Args:
        draws: of :func:`aggregate_draws`.

    Returns:
        ``terms``: ``elbo``, ``reconstruction``, ``kl``, ``mutual_information``, ``marginal_kl``
        and, where they are defined, ``total_correlation`` and ``dimension_wise_kl``, each with
        ``estimate`` and ``standard_error``, that of the draws for these data; the first three also
        with ``over_images``, that of the choice of data.
        ``remainder``, the ELBO less the sum of its terms; ``log_images``, the largest mutual
        information there can be, and ``at_ceiling``, whether it is within 5 % of that;
        ``population``, in which ``mutual_information`` and
        ``marginal_kl`` have ``lower`` and ``upper``, each an estimate; ``dimensions``, a row for
        each independent variable with ``mutual_information``, ``marginal_kl`` and ``kl`` (the
        latter two None where the prior does not factorise); ``omitted``, from a term to the reason;
        ``notes`` on estimates outside of the range of the truth; ``images``, ``available``,
        ``draws``, ``estimator``, ``q``, ``p``. In nats per example.
    """
    count, per_image = draws.log_prior.shape
    values = {
        "elbo": draws.log_likelihood + draws.log_prior - draws.log_posterior,
        "reconstruction": draws.log_likelihood,
        "kl": draws.log_posterior - draws.log_prior,
        "mutual_information": draws.log_posterior - draws.log_aggregate,
        "marginal_kl": draws.log_aggregate - draws.log_prior,
    }
    omitted: dict[str, str] = {}
    q, p = draws.names
    if draws.parts is None:
        reason = f"the posterior ({q}) does not factorise over z, so q(z_j) has no formula"
        omitted = {"total_correlation": reason, "dimension_wise_kl": reason}
    else:
        values["total_correlation"] = draws.log_aggregate - draws.parts[1].sum(-1)
        if draws.parts[2] is None:
            omitted["dimension_wise_kl"] = f"the prior ({p}) does not factorise over z"
        else:
            values["dimension_wise_kl"] = (draws.parts[1] - draws.parts[2]).sum(-1)
    terms = {term: term_estimate(value) for term, value in values.items()}
    for term in ("elbo", "reconstruction", "kl"):
        terms[term]["over_images"] = (values[term].mean(1).std() / math.sqrt(count)).item()
    without = draws.log_posterior - draws.log_others
    sums = terms["reconstruction"], terms["mutual_information"], terms["marginal_kl"]
    reconstruction, information, marginal = (term["estimate"] for term in sums)
    return {
        "terms": terms,
        "remainder": terms["elbo"]["estimate"] - (reconstruction - information - marginal),
        "log_images": math.log(count),
        "at_ceiling": information > (1 - CEILING) * math.log(count),
        "population": {
            "mutual_information": {
                "lower": terms["mutual_information"],
                "upper": term_estimate(without),
            },
            "marginal_kl": {
                "lower": term_estimate(values["kl"] - without),
                "upper": terms["marginal_kl"],
            },
            "about": POPULATION,
        },
        "dimensions": _dimensions(draws),
        "omitted": omitted,
        "notes": list(_notes(terms, math.log(count))),
        "images": count,
        "available": draws.available,
        "draws": per_image,
        "estimator": ESTIMATOR,
        "q": q,
        "p": p,
    }


def term_estimate(values: Tensor) -> dict[str, float]:
    """The mean of ``values`` ``(data, draws)``, and its error for the data that are given.

    Args:
        values: of each draw.
    """
    count, draws = values.shape
    error = (values.var(1).sum() / draws).sqrt() / count
    return {"estimate": values.mean().item(), "standard_error": error.item()}


def no_density(q: Any) -> str | None:
    """Why there are no terms, where q(z | x) is a point; else None."""
    if is_discrete(q) or not is_point(q):
        return None
    return (
        f"the posterior ({name(q)}) is a point, which has no density: mutual information and "
        "KL(q(z) || p(z)) are infinite"
    )


def _partners(count: int, seed: int) -> Tensor:
    """For each datum another one, at random."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return torch.from_numpy(partner)


def _densities(
    z: Tensor,
    posteriors: list[Any],
    p: Any,
    labels: Tensor | None,
    advance: Callable[[int], None] | None,
) -> dict[str, Any]:
    """What priors and posteriors say of the draws ``(N, draws, latent_dim)``."""
    count, draws, dim = z.shape
    size = posteriors[0].batch_shape[0]
    step = max(1, VALUES // (draws * dim * size * components(posteriors[0])))
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, count, step):
        rows = z[start : start + step].flatten(0, 1)
        owner = torch.arange(start, start + len(rows) // draws).repeat_interleave(draws)
        parts.append(_of_rows(rows, owner, posteriors, labels))
        if advance is not None:
            advance(len(rows) // draws)
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
    """Of each row log q by its own posterior, and log sums over all others and over its class."""
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
    """The log density of each variable that d makes independent, as the last dimension."""
    if isinstance(d, OneHots):
        variables = z.unflatten(-1, (-1, d.classes))
        return (variables * d.logits.log_softmax(-1)).sum(-1).double()
    if not isinstance(d, Independent) or len(d.event_shape) != 1 or base(d).event_shape:
        return None
    double: Any = in_float64(d)[0]
    return base(double).log_prob(z if double is d else z.double()).double()


def _dimensions(draws: AggregateDraws) -> list[dict[str, Any]]:
    if draws.parts is None:
        return []
    own, aggregate, prior = draws.parts
    return [
        {
            "dimension": j + 1,
            "mutual_information": term_estimate((own - aggregate)[..., j]),
            "marginal_kl": None if prior is None else term_estimate((aggregate - prior)[..., j]),
            "kl": None if prior is None else term_estimate((own - prior)[..., j]),
        }
        for j in range(own.shape[-1])
    ]


def _notes(terms: dict[str, dict[str, float]], most: float) -> Iterator[str]:
    information = terms["mutual_information"]["estimate"]
    if information > (1 - CEILING) * most:
        yield (
            f"the mutual information of {information:.3f} is at the ceiling log N = {most:.3f}: "
            "the posteriors of these data hardly overlap, and q(z) is a set of islands. A larger "
            "set would show more mutual information and as much less KL(q(z) || p(z))"
        )
    for term, words in _NOT_NEGATIVE.items():
        if term in terms and terms[term]["estimate"] < 0:
            value, error = terms[term]["estimate"], terms[term]["standard_error"]
            yield (
                f"{words} is never negative; this estimate of it, {value:.4f}, is below zero by "
                f"the noise of the draws, whose standard error is {error:.4f}"
            )


_NOT_NEGATIVE = {
    "mutual_information": "the mutual information",
    "marginal_kl": "KL(q(z) || p(z))",
    "total_correlation": "the total correlation",
    "dimension_wise_kl": "the dimension-wise KL",
}
