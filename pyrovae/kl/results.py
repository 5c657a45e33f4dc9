r"""Results of :func:`pyrovae.kl.compare`: each number with the formula behind it."""

from collections.abc import Iterator

from pyrovae.estimates import Estimate, Result

__all__ = ["Bracket", "Computed", "Integrated", "Ledger", "Sampled"]


class Computed(Result):
    """A divergence, or its part along one dimension of z, computed without sampling.

    Attributes:
        value: in nats.
        formula: name of the formula.

    Example:
        >>> from pyrovae.kl import compare
        >>> compare(vae.posterior(x), vae.prior(), samples=(10,)).closed_form.formula
        'Independent Normal || Independent Normal, torch.distributions.kl_divergence'
    """

    value: float
    formula: str


class Sampled(Result):
    """A Monte Carlo estimate of a divergence.

    Attributes:
        samples: number of draws from each q.
        estimate: mean over draws, in nats, and its standard error for the given q; the error is
            None where it is not defined.
        z_score: difference from the closed form in standard errors; None without a closed form.
        formula: the term that is averaged.
        mean_ratio: mean of r = p(z) / q(z), which is close to one with enough draws; None for the
            estimator that does not use it.

    Example:
        >>> from pyrovae.kl import compare
        >>> rows = compare(vae.posterior(x), vae.prior(), samples=(10, 1_000)).monte_carlo
        >>> [row.samples for row in rows], rows[0].formula
        ([10, 1000], 'log q - log p')
    """

    samples: int
    estimate: Estimate
    z_score: float | None
    formula: str
    mean_ratio: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain data, with ``estimate`` and ``standard_error`` side by side."""
        plain: dict[str, object] = {"samples": self.samples} | self.estimate.to_dict()
        plain |= {"z_score": self.z_score, "formula": self.formula}
        return plain if self.mean_ratio is None else plain | {"mean_ratio": self.mean_ratio}


class Integrated(Result):
    """A divergence by numerical integration.

    Attributes:
        value: in nats.
        error: estimate of the error of integration, the largest over all q.
        difference: ``value`` minus the closed form; None without a finite closed form.
        formula: the rule of integration.

    Example:
        >>> from pyrovae.kl import compare
        >>> found = compare(vae.posterior(x), vae.prior(), samples=(10,)).quadrature
        >>> found.formula, abs(found.difference) < 1e-6
        ('Gauss-Legendre, dimension by dimension', True)
    """

    value: float
    error: float
    difference: float | None
    formula: str


class Bracket(Result):
    """Bounds on both sides of a divergence.

    Attributes:
        lower: lower bound, in nats.
        upper: upper bound, in nats.
        formula: source of the bounds.

    Example:
        >>> from pyrovae.kl import compare
        >>> from pyrovae.priors import GaussianMixture
        >>> p = GaussianMixture(2, components=3)()
        >>> found = compare(vae.posterior(x), p, samples=(1_000,))
        >>> found.bounds.lower < found.monte_carlo[0].estimate.value < found.bounds.upper
        True
    """

    lower: float
    upper: float
    formula: str


class Ledger(Result):
    """KL(q || p) computed in every available way, as a mean over all q, in nats.

    Attributes:
        closed_form: the divergence by a formula; None where no formula is known.
        monte_carlo: mean of log q - log p, one row for each number of draws.
        low_variance: mean of r - 1 - log r with r = p(z) / q(z), one row for each number of draws.
        quadrature: the divergence by numerical integration; None where that is not available.
        bounds: bounds for mixtures of normals; None for other distributions.
        per_dimension: the divergence along each dimension of z; empty unless both q and p
            factorize.
        infinite_variance: number of q for which the variance of ``low_variance`` is infinite; None
            where that is not known.
        infinite: the reason if the divergence is infinite, else None.
        examples: number of q.
        q: name of q.
        p: name of p.

    Example:
        >>> from pyrovae.kl import compare
        >>> from torch.distributions import Independent, Laplace, Normal
        >>> q = Independent(Normal(torch.zeros(5, 2), 1.0), 1)
        >>> p = Independent(Laplace(torch.zeros(2), 1.0), 1)
        >>> found = compare(q, p)
        >>> found.closed_form.value == sum(part.value for part in found.per_dimension)
        True
        >>> sorted(found.to_dict())[:4]
        ['bounds', 'closed_form', 'images', 'infinite']
    """

    closed_form: Computed | None
    monte_carlo: tuple[Sampled, ...]
    low_variance: tuple[Sampled, ...]
    quadrature: Integrated | None
    bounds: Bracket | None
    per_dimension: tuple[Computed, ...]
    infinite_variance: int | None
    infinite: str | None
    examples: int
    q: str
    p: str

    @property
    def reference(self) -> Computed | Integrated | None:
        """The divergence without noise: the closed form, else the integral; None without either."""
        return self.closed_form or self.quadrature

    @property
    def unusable(self) -> str | None:
        """The reason why ``low_variance`` does not apply, or None if it is not known to fail."""
        if not self.infinite_variance:
            return None
        return (
            f"does not apply: r has infinite variance for {self.infinite_variance:,} of the "
            f"{self.examples:,} q, which are too narrow for it"
        )

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"KL(q || p), q {self.q}, p {self.p}, mean of {self.examples:,}, in nats"
        if self.infinite:
            yield f"infinite      {self.infinite}"
        for title, found in (("closed form", self.closed_form), ("quadrature", self.quadrature)):
            if found is not None:
                yield f"{title:<13} {found.value:.6f}"
        if self.bounds is not None:
            yield f"bounds        {self.bounds.lower:.6f} to {self.bounds.upper:.6f}"
        for title, rows in (("Monte Carlo", self.monte_carlo), ("low variance", self.low_variance)):
            if rows is self.low_variance and self.unusable:
                yield f"{title:<13} {self.unusable}"
                continue
            mean = rows[-1].estimate
            error = "" if mean.standard_error is None else f" ± {mean.standard_error:.6f}"
            yield f"{title:<13} {mean.value:.6f}{error}, {rows[-1].samples:,} draws"
