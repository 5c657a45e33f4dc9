"""Estimators of log p(x), the evidence.

``evaluate`` is the one function for all of them. ``lower_bounds`` draws from q(z | x): the ELBO and
the importance-weighted bound, of a batch and of every example of a dataset. The other files hold
one method each: ``importance`` (with mixtures fitted to each example), ``annealing`` (annealed
importance sampling; bounds on both sides), ``quadrature``, ``tractable`` (models whose log p(x) has
a formula) and ``nuts`` (from draws of p(z | x)). ``by_column`` takes the reconstruction term apart.
``results`` holds the objects they return, with the diagnostics of importance weights. A new
estimator is a file with one function and one line in the dictionary ``METHODS`` of ``methods``.
"""

from pyrovae.evidence import (
    annealing,
    by_column,
    importance,
    lower_bounds,
    methods,
    nuts,
    quadrature,
    results,
    tractable,
)
from pyrovae.evidence.annealing import *
from pyrovae.evidence.by_column import *
from pyrovae.evidence.importance import *
from pyrovae.evidence.lower_bounds import *
from pyrovae.evidence.methods import *
from pyrovae.evidence.nuts import *
from pyrovae.evidence.quadrature import *
from pyrovae.evidence.results import *
from pyrovae.evidence.tractable import *

__all__ = [
    name
    for file in (
        annealing,
        by_column,
        importance,
        lower_bounds,
        methods,
        nuts,
        quadrature,
        results,
        tractable,
    )
    for name in file.__all__
]
