r"""Draws from the posterior of every example with their densities, and the test against the prior.

.. math::
    q(z) = \frac{1}{N} \sum_{n=1}^{N} q(z \mid x_n), \qquad
    q_c(z) = \frac{1}{N_c} \sum_{n \in c} q(z \mid x_n), \qquad
    \sum_c \frac{N_c}{N} \mathrm{KL}(q_c(z) \,\|\, p(z))
    = I_q(c; z) + \mathrm{KL}(q(z) \,\|\, p(z))

The mixture q(z) of the posteriors of all N examples is the aggregate posterior. Its density is
computed exactly, as a sum over all examples, so the only randomness is that of the draws.

The examples of one class fill a part of the prior, so their divergence from it is large. All
classes together should fill all of it, and :math:`\mathrm{KL}(q(z) \| p(z))` measures how nearly
they do. The difference, averaged over classes, is the information that a code carries about the
class, :math:`I_q(c; z)`, at most the entropy of the classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae import distributions
from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae._process.memory import check_draws
from pyrovae.diagnostics.two_sample import FEWEST, TwoSampleTest, two_samples
from pyrovae.estimates import (
    AnyExamples,
    Estimate,
    Result,
    as_examples,
    batches,
    log_slope_of,
    number_of_examples,
)
from pyrovae.evidence import batch_size
from pyrovae.vae import VAE

__all__ = [
    "DRAWS",
    "MOST_CLASSES",
    "AggregateDraws",
    "Group",
    "Population",
    "aggregate_draws",
    "no_density",
    "points",
    "population",
    "term_estimate",
]

DRAWS = 10
"""Default number of draws from the posterior of each example."""

MOST_CLASSES = 40
"""Largest number of distinct labels that are treated as classes."""

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
    data: AnyExamples,
    *,
    labels: NDArray[Any] | None = None,
    draws: int = DRAWS,
    limit: int | None = None,
    scaled: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> AggregateDraws:
    """Draw from the posterior of each example and evaluate every density at each draw.

    Up to 100 draws are the draws of :func:`pyrovae.evaluate` with as many samples and the same
    seed. The time grows with the square of the number of examples; memory does not.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        data: one part of a dataset, or examples as :func:`pyrovae.data.as_split` takes them.
        labels: the class of each example, for mixtures over classes.
        draws: draws per example, at least two.
        limit: use only the first ``limit`` examples.
        scaled: whether log p(x | z) is of the scaled values that the VAE sees, not of the data in
            their own units.
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
    data = as_examples(data)
    count = number_of_examples(data, limit, at_least=2)
    if draws < 2:
        raise ValueError(f"draws must be at least 2 for a standard error, got {draws}")
    check_draws("draws", draws, count, vae.latent_dim)
    size = batch_size(draws)
    classes = None if labels is None else np.asarray(labels)[:count]
    x: list[Tensor] = []
    posteriors: list[Any] = []
    drawn: list[Tensor] = []
    with isolated(), evaluating(vae):
        for place, batch in enumerate(batches(data, size, limit)):
            x.append(vae.place(batch))
            posteriors.append(vae.posterior(x[-1]))
            if reason := no_density(posteriors[-1]):
                raise ValueError(reason)
            torch.manual_seed(derived(seed, place))
            drawn.append(posteriors[-1].sample((draws,)))  # (draws, batch, latent_dim)
        z = torch.cat(drawn, 1)
        others = [z[:, rows] for rows in _partners(count, seed).split(size)]
        log_likelihood, of_others = (
            torch.cat([vae.log_likelihood(b, at) for at, b in zip(given, x, strict=True)], 1)
            for given in (drawn, others)
        )
        p, slope = vae.prior(), None if scaled else log_slope_of(data, limit)
        slope = torch.zeros(count) if slope is None else slope
        found = _densities(z.transpose(0, 1), posteriors, p, classes, progress)
    return AggregateDraws(
        z=z.transpose(0, 1).double().cpu(),
        log_likelihood=log_likelihood.T.double().cpu() + slope[:, None],
        log_likelihood_of_others=of_others.T.double().cpu() + slope[:, None],
        labels=classes,
        available=len(data),
        names=(distributions.name(posteriors[0]), distributions.name(p)),
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
    if distributions.is_discrete(q) or not distributions.is_point(q):
        return None
    return (
        f"the posterior ({distributions.name(q)}) is a point, which has no density: mutual "
        "information and KL(q(z) || p(z)) are infinite"
    )


def _partners(count: int, seed: int) -> Tensor:
    """The index of another example for each example, at random."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    return torch.from_numpy(np.roll(order, 1)[order.argsort()])


def _densities(
    z: Tensor,
    posteriors: list[Any],
    p: Any,
    classes: NDArray[Any] | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Log densities of prior and posteriors at the draws ``(N, draws, latent_dim)``."""
    count, draws, dim = z.shape
    # without labels the classes are the examples themselves
    labels = torch.arange(count) if classes is None else torch.as_tensor(classes)
    size = posteriors[0].batch_shape[0]
    step = max(1, VALUES // (draws * dim * size * distributions.components(posteriors[0])))
    found: list[list[Tensor]] = []
    for rows in torch.arange(count).split(step):
        owner = rows.repeat_interleave(draws)
        found.append(_of_rows(z[rows].flatten(0, 1), owner, posteriors, labels))
        if progress is not None:
            progress(len(rows))
    joined = [torch.cat(part).unflatten(0, (count, draws)) for part in zip(*found, strict=True)]
    own, others, members, *each = joined
    log_prior, of_prior = _log_density(p, z)
    counted = (labels[:, None] == labels).sum(1).double()
    return {
        "log_prior": log_prior,
        "log_posterior": own,
        "log_aggregate": torch.logaddexp(own, others) - math.log(count),
        "log_others": others - math.log(count - 1),
        "log_class": None if classes is None else members - counted.log()[:, None],
        "parts": (each[0], each[1] - math.log(count), of_prior) if each else None,
    }


def _of_rows(z: Tensor, owner: Tensor, posteriors: list[Any], labels: Tensor) -> list[Tensor]:
    """log q of each row's own posterior, and log sums over all other ones and over its class.

    Then, for each variable that q makes independent, log q of the own posterior and the log sum
    over all posteriors.
    """
    sums: list[Tensor] = []
    start = 0
    for q in posteriors:
        values, terms = _log_density(q, z[:, None])  # (rows, batch), (rows, batch, variables)
        columns = torch.arange(start, start + values.shape[1])
        start += values.shape[1]
        own = owner[:, None] == columns
        apart = labels[owner][:, None] != labels[columns]
        found = [
            _of_own(values, own),
            *(values.masked_fill(left_out, -math.inf).logsumexp(1) for left_out in (own, apart)),
        ]
        if terms is not None:
            found += [_of_own(terms, own), terms.logsumexp(1)]
        sums = [*map(torch.logaddexp, sums, found)] if sums else found
    return sums


def _of_own(log_q: Tensor, own: Tensor) -> Tensor:
    """log q of each row's own posterior, minus infinity where it is not among these."""
    row, column = own.nonzero(as_tuple=True)
    return torch.full_like(log_q[:, 0], -math.inf).index_copy(0, row, log_q[row, column])


def _log_density(d: Any, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """log d, and its terms along the last dimension for the variables that d makes independent."""
    (double,) = distributions.in_float64(d)
    if isinstance(d, distributions.OneHots):
        variables = z.unflatten(-1, (-1, d.classes))
        terms = (variables * d.logits.log_softmax(-1)).sum(-1).double()
    elif distributions.factorizes(d):
        terms = distributions.base(double).log_prob(z if double is d else z.double()).double()
    else:
        z = z.expand(torch.broadcast_shapes(z.shape, d.batch_shape + d.event_shape))
        z = z if double is d else z.double()
        return distributions.log_density(double, z).double().cpu(), None
    return terms.sum(-1).cpu(), terms.cpu()


def term_estimate(values: Tensor) -> Estimate:
    """Average a term over examples and draws, with the standard error for the given examples.

    Args:
        values: the term at each draw ``(examples, draws)``.

    Returns:
        The mean; its standard error counts the draws as random and the examples as fixed.

    Example:
        >>> from pyrovae.diagnostics import term_estimate
        >>> term_estimate(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
        3.50 ± 0.50
    """
    count, draws = values.shape
    error = (values.var(1).sum() / draws).sqrt() / count
    return Estimate(values.mean().item(), error.item())


class Group(Result):
    """The aggregate posterior of all examples, or of one class, against the prior.

    Attributes:
        label: the class; None for all examples.
        examples: number of examples.
        marginal_kl: KL(q(z) || p(z)) in nats, for these examples, with the error of the draws;
            None without densities.
        test: two-sample test of draws from q(z) against draws from p(z); None for fewer than
            ``FEWEST`` examples.

    Example:
        >>> from pyrovae.diagnostics import Group
        >>> Group(label=3, examples=12, marginal_kl=Estimate(2.5, 0.1), test=None)
        Group(label=3, examples=12, marginal_kl=2.50 ± 0.10, test=None)
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"label": "class", "examples": "images"}

    label: int | None
    examples: int
    marginal_kl: Estimate | None
    test: TwoSampleTest | None


class Population(Result):
    """The aggregate posterior against the prior.

    Attributes:
        groups: all examples first, then each class.
        class_information: :math:`I_q(c; z)` in nats; None without labels or densities.
        class_entropy: entropy of the classes, the largest possible value; None likewise.

    Example:
        >>> from pyrovae.diagnostics import Group, Population
        >>> everything = Group(label=None, examples=64, marginal_kl=Estimate(0.5, 0.1), test=None)
        >>> Population([everything], None, None).groups[0].examples
        64
    """

    groups: list[Group]
    class_information: Estimate | None
    class_entropy: float | None


def population(draws: AggregateDraws, prior: Tensor, seed: int = 0) -> Population:
    """Compare the aggregate posterior with the prior, for all examples and for each class.

    The two-sample test sees one draw per example, so that its draws are independent, and as many
    draws from the prior.

    Args:
        draws: the result of :func:`pyrovae.diagnostics.aggregate_draws`.
        prior: as many draws from the prior as there are examples ``(N, latent_dim)``.
        seed: seed of the tests.

    Returns:
        Divergences and tests.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws, population
        >>> found = population(aggregate_draws(vae, data, draws=2), torch.randn(64, 2))
        >>> found.groups[0].examples, found.groups[0].test.tested
        (64, 64)
    """
    whole, *classes = points(draws.z[:, 0], prior, draws.labels, seed).groups
    whole = replace(whole, marginal_kl=term_estimate(draws.log_aggregate - draws.log_prior))
    if draws.log_class is None or draws.labels is None:
        return Population([whole], class_information=None, class_entropy=None)
    of_class = draws.log_class - draws.log_prior
    members = [torch.from_numpy(draws.labels == group.label) for group in classes]
    kls = [term_estimate(of_class[rows]) for rows in members]
    shares = np.unique(draws.labels, return_counts=True)[1] / len(draws.labels)
    return Population(
        [whole, *(replace(a, marginal_kl=kl) for a, kl in zip(classes, kls, strict=True))],
        class_information=term_estimate(draws.log_class - draws.log_aggregate),
        class_entropy=float(-(shares * np.log(shares)).sum()),
    )


def points(z: Tensor, prior: Tensor, labels: NDArray[Any] | None, seed: int = 0) -> Population:
    """Compare codes without a density with the prior, by two-sample tests alone.

    Args:
        z: one code per example ``(N, latent_dim)``.
        prior: as many draws from the prior.
        labels: the class of each example ``(N,)``, or None.
        seed: seed of the tests.

    Returns:
        As :func:`population`, with None in place of divergences and information.

    Example:
        >>> from pyrovae.diagnostics import points
        >>> points(vae.encode(x), torch.randn(64, 2), labels=None).class_information is None
        True
    """
    codes, p = (part.detach().double().cpu().numpy() for part in (z, prior))
    members: dict[int | None, NDArray[Any]] = {None: np.arange(len(codes))}
    if labels is not None and len(np.unique(labels)) <= MOST_CLASSES:
        members |= {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    groups = [
        Group(
            label=label,
            examples=len(rows),
            marginal_kl=None,
            test=two_samples(codes[rows], p, seed) if len(rows) >= FEWEST else None,
        )
        for label, rows in members.items()
    ]
    return Population(groups, class_information=None, class_entropy=None)
