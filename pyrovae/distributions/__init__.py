"""Probability distributions that torch and Pyro lack, and questions about any distribution.

``densities`` has densities that keep their digits where torch's lose them; ``flow``, ``sphere`` and
``one_hot`` have densities built from maps and on other spaces; ``properties`` answers questions
about any distribution: its support, factors and moments. A new distribution belongs here, whichever
role will use it; a prior or a likelihood built on it belongs in :mod:`pyrovae.priors` or
:mod:`pyrovae.likelihoods`.
"""

from pyrovae.distributions.densities import (
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Logistic,
    NegativeBinomial,
    StudentT,
    cholesky_factor,
)
from pyrovae.distributions.flow import FlowDistribution, zuko_flows
from pyrovae.distributions.one_hot import OneHots, RelaxedOneHots, number_of_variables
from pyrovae.distributions.properties import (
    base,
    components,
    expand,
    factorizes,
    fills_space,
    in_float64,
    is_discrete,
    is_point,
    is_real,
    log_density,
    moments,
    name,
)
from pyrovae.distributions.sphere import PowerSpherical, UniformSphere

__all__ = [
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FlowDistribution",
    "Logistic",
    "NegativeBinomial",
    "OneHots",
    "PowerSpherical",
    "RelaxedOneHots",
    "StudentT",
    "UniformSphere",
    "base",
    "cholesky_factor",
    "components",
    "expand",
    "factorizes",
    "fills_space",
    "in_float64",
    "is_discrete",
    "is_point",
    "is_real",
    "log_density",
    "moments",
    "name",
    "number_of_variables",
    "zuko_flows",
]
