r"""Results for each example: log p(x) or bounds on it, and statistics of importance weights.

.. math:: \hat L_K = \log \frac{1}{K} \sum_{k=1}^{K} w_k, \qquad
    w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

The mean weight has mean p(x), so :math:`\hat L_K` lies below log p(x) in expectation. The weights
themselves show by how much, as far as the draws have reached their tail.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import Delta
from torch import Tensor

from pyrovae._process.isolation import evaluating
from pyrovae.distributions import base
from pyrovae.estimates import Estimate, Examples, Result
from pyrovae.evidence.outliers import error_of_mean
from pyrovae.evidence.weights import Weights
from pyrovae.vae import VAE

__all__ = [
    "FITTED",
    "NO_BOUND",
    "NO_ELBO",
    "Bounds",
    "Evidence",
    "EvidenceEstimate",
    "Range",
    "Sandwich",
    "WeightedBounds",
    "bits_per_dimension",
    "in_units",
    "kind",
]

NO_BOUND = "log p(x, z) at one point z: no bound on log p(x), since a point has no density"
"""Name of the estimate for a posterior that is a point."""
NO_ELBO = "; the ELBO is none, since q is a point"
"""Ending of the name of a bound whose draws are not from this point."""
FITTED = {
    "refined": "from q refined for each example",
    "mixture": "from a mixture fitted to each example",
}
"""Words for proposals that are fitted to each example."""
DENSITIES = ("elbo", "reconstruction", "log_evidence", "at_a_tenth", "bias_corrected")
"""Results for each example that are log densities of x, so that they depend on its units."""


class Range(Result):
    """Median and extremes of one number for each example.

    Example:
        >>> Range.of(torch.tensor([3.0, 1.0, 2.0]))
        Range(median=2, minimum=1, maximum=3)
    """

    median: float
    minimum: float
    maximum: float

    @staticmethod
    def of(values: Tensor) -> "Range":
        """The range of ``values`` ``(examples,)``."""
        median = values.double().median().item()
        return Range(median, values.min().item(), values.max().item())


class EvidenceEstimate(Estimate):
    """Mean of log p(x) over examples, in nats.

    Attributes:
        value: the mean.
        standard_error: its standard error, None for a single example. It includes both the
            variation between examples and the error of each of them.
        sampling_error: the part that is due to sampling (or quadrature) alone; None if it is not
            known.
        samples: draws, chains or values of z for each example; None where none are made.
        kind: whether the numbers are exact, estimates, or which kind of bound.

    Example:
        >>> pyrovae.evaluate(vae, data, samples=10).log_evidence.kind
        'importance-weighted lower bound'
    """

    sampling_error: float | None
    samples: int | None
    kind: str

    def __repr__(self) -> str:
        return f"{super().__repr__()} ({self.kind})"


class Evidence(Result):
    """log p(x) of each example by one method, in nats.

    Attributes:
        log_evidence: ``(examples,)``.
        standard_error: ``(examples,)``, the error of the method for a given example, from sampling
            or quadrature; zero for a formula.
        kind: whether the numbers are exact, estimates, or which kind of bound.
        samples: draws, chains or values of z for each example; None where none are made.
        details: further results for each example by name, each ``(examples, ...)``.

    Example:
        >>> pyrovae.evidence.integrated(vae, x[:2]).mean().kind
        'exact to the error of integration'
    """

    log_evidence: Tensor
    standard_error: Tensor
    kind: str
    samples: int | None
    details: dict[str, Tensor]

    def mean(self) -> EvidenceEstimate:
        """Average over examples."""
        mean = Estimate.of(self.log_evidence)
        error = error_of_mean(self.standard_error)
        return EvidenceEstimate(mean.value, mean.standard_error, error, self.samples, self.kind)

    def ranges(self) -> dict[str, Range]:
        """Median and extremes of the details that are one number for each example."""
        return {name: Range.of(each) for name, each in self.details.items() if each.dim() == 1}

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        values = {"log_evidence": self.log_evidence, "standard_error": self.standard_error}
        return values | self.details


class Sandwich(Result):
    """Two bounds on log p(x) for examples that were drawn from the model.

    Attributes:
        lower: annealed importance sampling from the prior or q to the posterior.
        upper: the same path backwards, from the z that x was drawn from.
        x: the examples ``(examples, *event_shape)``.

    Example:
        >>> both = pyrovae.evidence.sandwich(vae, 4, samples=4, temperatures=20)
        >>> both.lower.log_evidence.shape, both.x.shape
        (torch.Size([4]), torch.Size([4, 1, 8, 8]))
    """

    lower: Evidence
    upper: Evidence
    x: Tensor

    def arrays(self) -> dict[str, Tensor]:
        """All numbers by name, for a file."""
        lower = {f"lower_{name}": array for name, array in self.lower.arrays().items()}
        upper = {f"upper_{name}": array for name, array in self.upper.arrays().items()}
        return lower | upper | {"x": self.x}


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


def in_units(found: Mapping[str, Tensor], log_slope: Tensor | None) -> dict[str, Tensor]:
    """Turn results for scaled examples into those for the data in their own units.

    Args:
        found: results for each example ``(examples,)`` by name.
        log_slope: what a log density gains, ``(examples,)``, see
            :meth:`pyrovae.data.Split.log_slope`; None if nothing was scaled.

    Returns:
        The results; those that are no log densities of x, such as a KL term, are as they were.

    Example:
        >>> in_units({"elbo": torch.zeros(2), "kl": torch.ones(2)}, torch.ones(2))
        {'elbo': tensor([1., 1.]), 'kl': tensor([1., 1.])}
    """
    if log_slope is None:
        return dict(found)
    return {n: v + log_slope if n in DENSITIES else v for n, v in found.items()}


def kind(vae: VAE, data: Examples, samples: int, proposal: str = "posterior") -> str:
    """Name the estimate of log p(x) that weighted draws give.

    Args:
        vae: the model and its posterior.
        data: the examples; only the first is used.
        samples: draws for each example.
        proposal: what z is drawn from.

    Example:
        >>> kind(vae, data, samples=1_000)
        'importance-weighted lower bound'
    """
    with torch.no_grad(), evaluating(vae):
        point = isinstance(base(vae.posterior(vae.place(next(iter(data.batches(1)))))), Delta)
    if point and proposal != "mixture":
        return NO_BOUND
    if proposal in FITTED:
        return f"importance-weighted lower bound, {FITTED[proposal]}" + (NO_ELBO if point else "")
    return "importance-weighted lower bound" if samples > 1 else "evidence lower bound"


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
