"""Likelihoods p(x | z): modules whose ``forward(z)`` returns a Pyro distribution over x.

``bits`` describes binary pixels, ``counts`` integers, ``reals`` real numbers, and ``columns``
tables whose columns differ. A new likelihood goes into the file for its data, or a new one, and
gets one line in ``LIKELIHOODS`` below; a likelihood of your own is any module that meets
:class:`pyrovae.vae.Likelihood`.

Each likelihood keeps its normalizing constant: log p(x | z) is in nats per example, and can be
compared between two models of the same data.

A parameter for how far x strays from its mean, ``scale`` or ``dispersion``, takes four kinds of
value: a positive number, which stays fixed; ``learned``, one number for all dimensions of x;
``dimension``, one for each dimension; ``decoder``, an output of the decoder, different for each z.

A density has no upper limit. Where a pixel has the same value throughout the data, a scale of its
own tends to zero and the density to infinity, which says nothing about the model. With
``dimension`` and ``decoder`` the scale of a density therefore stays above a hundredth of the
training data's. Probabilities of levels and counts are at most 1 and need no such limit.
"""

from torch import nn

from pyrovae.likelihoods import bits, columns, counts, reals
from pyrovae.likelihoods._base import Spread
from pyrovae.likelihoods.bits import *
from pyrovae.likelihoods.columns import *
from pyrovae.likelihoods.counts import *
from pyrovae.likelihoods.reals import *

__all__ = [
    "LIKELIHOODS",
    "Spread",
    *(name for file in (bits, columns, counts, reals) for name in file.__all__),
]

LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "beta_binomial": BetaBinomial,
    "continuous_bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "log_normal": LogNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "beta": Beta,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "columns": Columns,
}
"""Likelihoods by name."""
