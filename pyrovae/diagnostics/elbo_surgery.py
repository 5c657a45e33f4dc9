r"""The ELBO taken apart at the aggregate posterior, from one set of draws.

.. math::
    q(z) = \frac{1}{N} \sum_{n=1}^{N} q(z \mid x_n), \qquad
    \frac{1}{N} \sum_{n} \mathrm{KL}(q(z \mid x_n) \,\|\, p(z))
    = \underbrace{\mathbb{E} \log \frac{q(z \mid x_n)}{q(z)}}_{I_q(n; z)}
    + \underbrace{\mathbb{E} \log \frac{q(z)}{p(z)}}_{\mathrm{KL}(q(z) \| p(z))}

Both means are over the examples, each with draws :math:`z \sim q(z \mid x_n)`. The first term is
the mutual information between the code and the index of its example. It lies between zero and
log N, and since :math:`q(z) \ge q(z \mid x_n) / N`, no draw exceeds log N. If p factorizes, the
second term is

.. math::
    \mathrm{KL}(q(z) \,\|\, p(z))
    = \underbrace{\mathbb{E} \log \frac{q(z)}{\prod_j q(z_j)}}_{\text{total correlation}}
    + \underbrace{\sum_j \mathrm{KL}(q(z_j) \,\|\, p(z_j))}_{\text{dimension-wise}}

Given the N examples, only the draws are random, and every estimate is unbiased. But the examples
are a sample too. Because the entropy is concave, :math:`I_q(n; z)` is, on average over such
samples, below the mutual information of example and code in the population, and the marginal KL is
above its population value by the same amount. If q(z) leaves out the example's own posterior, both
inequalities are reversed.

References:
    Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound, NIPS workshop on Advances in Approximate Bayesian Inference;
    Chen, Li, Grosse and Duvenaud (2018), Isolating Sources of Disentanglement in VAEs,
    arXiv:1802.04942
"""

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from pyrovae.diagnostics.aggregate_posterior import AggregateDraws, term_estimate
from pyrovae.estimates import Estimate, Result

__all__ = ["BoundTerm", "Bracket", "DimensionTerms", "PopulationTerms", "Surgery", "surgery"]

CEILING = 0.05  # share of log N; closer to log N, an estimate no longer reflects the population

ESTIMATOR = (
    "mean over draws z ~ q(z|x_n) with q(z) the mixture of the posteriors of all N examples; "
    "without bias for these N"
)
POPULATION = (
    "for new data of the same kind, in mean over sets of N: the mutual information lies between "
    "that of these N and the one with each datum's own posterior left out of q(z)"
)


class BoundTerm(Estimate):
    """A term of the ELBO for the given examples, in nats per example.

    Attributes:
        value: the mean over examples and draws.
        standard_error: standard error due to the draws, for these examples.
        over_examples: standard error due to the choice of examples.

    Example:
        >>> from pyrovae.diagnostics import BoundTerm
        >>> BoundTerm(-90.5, 0.1, over_examples=0.9).to_dict()
        {'estimate': -90.5, 'standard_error': 0.1, 'over_images': 0.9}
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"value": "estimate", "over_examples": "over_images"}

    over_examples: float


class Bracket(Result):
    """Two estimates that bracket a population value on average over sets of N examples.

    Attributes:
        lower: an estimate that is on average below the population value.
        upper: an estimate that is on average above it.

    Example:
        >>> from pyrovae.diagnostics import Bracket
        >>> Bracket(Estimate(3.5, 0.01), Estimate(4.5, 0.02))
        Bracket(lower=3.50 ± 0.01, upper=4.50 ± 0.02)
    """

    lower: Estimate
    upper: Estimate


class PopulationTerms(Result):
    """The two parts of the KL term for new data of the same kind.

    Attributes:
        mutual_information: of example and code.
        marginal_kl: KL(q(z) || p(z)).
        about: the meaning of the two brackets in words.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws, surgery
        >>> between = surgery(aggregate_draws(vae, data, draws=2)).population.mutual_information
        >>> between.lower.value <= between.upper.value
        True
    """

    mutual_information: Bracket
    marginal_kl: Bracket
    about: str


class DimensionTerms(Result):
    """The KL term of one independent variable and its two parts, in nats per example.

    Attributes:
        dimension: number of the variable, from 1.
        mutual_information: of the example and this variable.
        marginal_kl: KL(q(z_j) || p(z_j)); None if the prior does not factorize.
        kl: mean of KL(q(z_j | x) || p(z_j)); None if the prior does not factorize.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws, surgery
        >>> [row.dimension for row in surgery(aggregate_draws(vae, data, draws=2)).dimensions]
        [1, 2]
    """

    dimension: int
    mutual_information: Estimate
    marginal_kl: Estimate | None
    kl: Estimate | None


class Surgery(Result):
    """The terms of the ELBO for the given examples, in nats per example.

    Attributes:
        elbo: reconstruction - mutual_information - marginal_kl.
        reconstruction: mean of log p(x | z).
        kl: mean of KL(q(z | x) || p(z)), the sum of mutual_information and marginal_kl.
        mutual_information: of example and code.
        marginal_kl: KL(q(z) || p(z)).
        total_correlation: of the dimensions of z under q(z); None if the posterior does not
            factorize.
        dimension_wise_kl: sum of KL(q(z_j) || p(z_j)); None if posterior or prior does not
            factorize.
        remainder: the ELBO minus the sum of its terms, zero up to rounding.
        log_examples: log N, the largest possible mutual information.
        at_ceiling: whether the mutual information is within 5 % of log N.
        population: the terms for new data of the same kind.
        dimensions: the terms of each independent variable; empty if there are none.
        omitted: for each term that is None, the reason.
        notes: remarks on estimates that lie outside the range of the true value.
        examples: number N of examples.
        available: number of examples in the data.
        draws: draws per example.
        estimator: the estimator in words.
        q: name of the posterior.
        p: name of the prior.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws, surgery
        >>> list(surgery(aggregate_draws(vae, data, draws=2)).terms)[:4]
        ['elbo', 'reconstruction', 'kl', 'mutual_information']
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"log_examples": "log_images", "examples": "images"}

    elbo: BoundTerm
    reconstruction: BoundTerm
    kl: BoundTerm
    mutual_information: Estimate
    marginal_kl: Estimate
    total_correlation: Estimate | None
    dimension_wise_kl: Estimate | None
    remainder: float
    log_examples: float
    at_ceiling: bool
    population: PopulationTerms
    dimensions: list[DimensionTerms]
    omitted: Mapping[str, str]
    notes: list[str]
    examples: int
    available: int
    draws: int
    estimator: str
    q: str
    p: str

    @property
    def terms(self) -> dict[str, Estimate]:
        """The terms that are defined, by name."""
        return {name: term for name, term in vars(self).items() if isinstance(term, Estimate)}

    def to_dict(self) -> dict[str, object]:
        """Plain data; the terms are under the key ``terms``."""
        plain = super().to_dict()
        terms = {name: plain.pop(name) for name in (*self.terms, *self.omitted)}
        return {"terms": {name: terms[name] for name in self.terms}} | plain

    def __repr__(self) -> str:
        return f"Surgery({', '.join(f'{name}={term}' for name, term in self.terms.items())})"


def surgery(draws: AggregateDraws) -> Surgery:
    """Split the ELBO into its terms, with the standard errors of the draws.

    Args:
        draws: the result of :func:`aggregate_draws`.

    Returns:
        The terms, in nats per example.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws, surgery
        >>> found = surgery(aggregate_draws(vae, data, draws=5))
        >>> parts = found.mutual_information.value + found.marginal_kl.value
        >>> abs(found.kl.value - parts) < 1e-6
        True
    """
    count, per_example = draws.log_prior.shape
    log_ratio = draws.log_posterior - draws.log_prior
    elbo = _bound_term(draws.log_likelihood + draws.log_prior - draws.log_posterior)
    reconstruction, kl = _bound_term(draws.log_likelihood), _bound_term(log_ratio)
    information = term_estimate(draws.log_posterior - draws.log_aggregate)
    marginal_kl = term_estimate(draws.log_aggregate - draws.log_prior)
    correlation, dimension_wise, dimensions, omitted = _factorized(draws)
    without = draws.log_posterior - draws.log_others  # the example's own posterior left out
    at_ceiling = information.value > (1 - CEILING) * math.log(count)
    not_negative = {
        "the mutual information": information,
        "KL(q(z) || p(z))": marginal_kl,
        "the total correlation": correlation,
        "the dimension-wise KL": dimension_wise,
    }
    notes = [_of_ceiling(information, math.log(count))] if at_ceiling else []
    notes += _below_zero(not_negative)
    return Surgery(
        elbo=elbo,
        reconstruction=reconstruction,
        kl=kl,
        mutual_information=information,
        marginal_kl=marginal_kl,
        total_correlation=correlation,
        dimension_wise_kl=dimension_wise,
        remainder=elbo.value - (reconstruction.value - information.value - marginal_kl.value),
        log_examples=math.log(count),
        at_ceiling=at_ceiling,
        population=PopulationTerms(
            mutual_information=Bracket(information, term_estimate(without)),
            marginal_kl=Bracket(term_estimate(log_ratio - without), marginal_kl),
            about=POPULATION,
        ),
        dimensions=dimensions,
        omitted=omitted,
        notes=notes,
        examples=count,
        available=draws.available,
        draws=per_example,
        estimator=ESTIMATOR,
        q=draws.names[0],
        p=draws.names[1],
    )


def _bound_term(values: Tensor) -> BoundTerm:
    found = term_estimate(values)
    over_examples = (values.mean(1).std() / math.sqrt(len(values))).item()
    return BoundTerm(found.value, found.standard_error, over_examples)


def _factorized(
    draws: AggregateDraws,
) -> tuple[Estimate | None, Estimate | None, list[DimensionTerms], dict[str, str]]:
    """Total correlation, dimension-wise KL, each dimension, and the reasons for what is None."""
    q, p = draws.names
    if draws.parts is None:
        reason = f"the posterior ({q}) does not factorize over z, so q(z_j) has no formula"
        return None, None, [], {"total_correlation": reason, "dimension_wise_kl": reason}
    own, aggregate, prior = draws.parts
    correlation = term_estimate(draws.log_aggregate - aggregate.sum(-1))
    information = map(term_estimate, (own - aggregate).unbind(-1))
    if prior is None:
        rows = [DimensionTerms(j, each, None, None) for j, each in enumerate(information, 1)]
        reason = f"the prior ({p}) does not factorize over z"
        return correlation, None, rows, {"dimension_wise_kl": reason}
    marginal_kl, kl = (map(term_estimate, (of - prior).unbind(-1)) for of in (aggregate, own))
    terms = zip(information, marginal_kl, kl, strict=True)
    rows = [DimensionTerms(j, *each) for j, each in enumerate(terms, 1)]
    return correlation, term_estimate((aggregate - prior).sum(-1)), rows, {}


def _of_ceiling(information: Estimate, ceiling: float) -> str:
    return (
        f"the mutual information of {information.value:.3f} is at the ceiling log N = "
        f"{ceiling:.3f}: the posteriors of these data hardly overlap, and q(z) is a set of "
        "islands. A larger set would show more mutual information and as much less "
        "KL(q(z) || p(z))"
    )


def _below_zero(not_negative: Mapping[str, Estimate | None]) -> Iterator[str]:
    for words, term in not_negative.items():
        if term is not None and term.value < 0:
            yield (
                f"{words} is never negative; this estimate of it, {term.value:.4f}, is below zero "
                f"by the noise of the draws, whose standard error is {term.standard_error:.4f}"
            )
