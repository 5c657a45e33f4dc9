"""Probability distributions that torch and Pyro lack, and questions about any distribution.

``densities`` and ``counts`` keep digits where torch loses them; ``densities`` has flows as well;
``mixtures`` has a mixture whose density is fast for diagonal normals;
``spaces`` has densities on other spaces; ``product`` puts columns of different families side by
side; ``properties`` answers questions about any distribution: its support, factors and moments;
``observed`` leaves out the factors of missing values; ``extremes`` bounds numbers where floating
point ends; ``roles`` tells what returns one from what does not. A new distribution belongs here,
whichever role will use it; a prior or a likelihood built on it belongs in :mod:`pyrovae.priors` or
:mod:`pyrovae.likelihoods`.
"""

from pyrovae.distributions import (
    counts,
    densities,
    extremes,
    mixtures,
    observed,
    product,
    properties,
    roles,
    spaces,
)
from pyrovae.distributions.counts import *
from pyrovae.distributions.densities import *
from pyrovae.distributions.extremes import *
from pyrovae.distributions.mixtures import *
from pyrovae.distributions.observed import *
from pyrovae.distributions.product import *
from pyrovae.distributions.properties import *
from pyrovae.distributions.roles import *
from pyrovae.distributions.spaces import *

__all__ = [
    name
    for file in (
        counts,
        densities,
        extremes,
        mixtures,
        observed,
        product,
        properties,
        roles,
        spaces,
    )
    for name in file.__all__
]
