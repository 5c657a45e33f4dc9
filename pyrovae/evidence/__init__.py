"""Estimators of log p(x), the evidence.

``evaluate`` is the one function for all of them. ``lower_bounds`` has the ELBO and the
importance-weighted bound, of a batch and of every example of a dataset, from draws of q(z | x) or
of ``proposals``, which are fitted to each example; ``importance`` gives the bound alone. Of the
other methods, ``annealing`` has annealed importance sampling and the bounds on both sides;
``quadrature`` integrates; ``tractable`` has the models whose log p(x) is a formula; ``chains``
draws from p(z | x) by NUTS, and estimates log p(x) from these draws. ``by_column`` takes the
reconstruction term apart, and ``outliers`` finds the examples that decide a mean. ``results`` holds
the objects they return, ``weights`` the errors and diagnostics of importance weights, and
``weighted_draws`` moments and resampling. A new estimator is a file with one function, a line in
the dictionary ``METHODS`` of ``methods``, and one in that of the command.
"""

from pyrovae.evidence import (
    annealing,
    by_column,
    chains,
    importance,
    lower_bounds,
    methods,
    outliers,
    proposals,
    quadrature,
    results,
    tractable,
    weighted_draws,
    weights,
)
from pyrovae.evidence.annealing import *
from pyrovae.evidence.by_column import *
from pyrovae.evidence.chains import *
from pyrovae.evidence.importance import *
from pyrovae.evidence.lower_bounds import *
from pyrovae.evidence.methods import *
from pyrovae.evidence.outliers import *
from pyrovae.evidence.proposals import *
from pyrovae.evidence.quadrature import *
from pyrovae.evidence.results import *
from pyrovae.evidence.tractable import *
from pyrovae.evidence.weighted_draws import *
from pyrovae.evidence.weights import *

__all__ = [
    name
    for file in (
        annealing,
        by_column,
        importance,
        lower_bounds,
        methods,
        chains,
        outliers,
        proposals,
        quadrature,
        results,
        tractable,
        weighted_draws,
        weights,
    )
    for name in file.__all__
]
