"""Probability distributions that torch and Pyro lack, and questions about any distribution.

``densities`` has densities that keep their digits where torch's lose them, and those of flows;
``spaces`` has densities on other spaces; ``product`` puts columns of different families side by
side; ``properties`` answers questions about any distribution: its support, factors and moments;
``observed`` leaves out the factors of missing values; ``extremes`` bounds numbers where floating
point ends. A new distribution belongs here, whichever role will use it; a prior or a likelihood
built on it belongs in :mod:`pyrovae.priors` or :mod:`pyrovae.likelihoods`.
"""

from pyrovae.distributions import densities, extremes, observed, product, properties, spaces
from pyrovae.distributions.densities import *
from pyrovae.distributions.extremes import *
from pyrovae.distributions.observed import *
from pyrovae.distributions.product import *
from pyrovae.distributions.properties import *
from pyrovae.distributions.spaces import *

__all__ = [
    name
    for file in (densities, extremes, observed, product, properties, spaces)
    for name in file.__all__
]
