"""Estimators of log p(x), the evidence.

``lower_bounds`` draws from q(z | x): the ELBO and the importance-weighted bound. The other files
hold one method each: ``annealing`` (annealed importance sampling, and the sandwich from both
sides), ``quadrature``, ``tractable`` (models whose log p(x) has a formula), ``bridge_sampling`` and
``nuts`` (from draws of p(z | x)); ``proposals`` and ``weights`` serve importance sampling. A new
estimator is a file with one function and one line in the dictionary ``METHODS`` of ``methods``.
"""

from pyrovae.evidence.annealing import CHAINS, Sandwich, annealed, sandwich, sigmoidal
from pyrovae.evidence.bridge_sampling import bridge
from pyrovae.evidence.lower_bounds import (
    MODES,
    NO_BOUND,
    Bounds,
    Evidence,
    WeightedBounds,
    batch_size,
    bits_per_dimension,
    bounds,
    evaluate,
    in_short,
    kind,
    of_weights,
    per_example,
)
from pyrovae.evidence.methods import DRAWS, METHODS, PROPOSALS, importance_weighted, summary
from pyrovae.evidence.nuts import Draws, check_real, draw_chains, log_joint, posterior_draws
from pyrovae.evidence.proposals import (
    FEWEST,
    Fitted,
    Target,
    Whole,
    adapted,
    from_mixture,
    resampled,
    weighted_moments,
)
from pyrovae.evidence.quadrature import integrated, posterior_density
from pyrovae.evidence.tractable import STATES, LinearGaussian, exact, linear_gaussian
from pyrovae.evidence.weights import RELIABLE, Weights, pareto_shape, weight_statistics

__all__ = [
    "CHAINS",
    "DRAWS",
    "FEWEST",
    "METHODS",
    "MODES",
    "NO_BOUND",
    "PROPOSALS",
    "RELIABLE",
    "STATES",
    "Bounds",
    "Draws",
    "Evidence",
    "Fitted",
    "LinearGaussian",
    "Sandwich",
    "Target",
    "WeightedBounds",
    "Weights",
    "Whole",
    "adapted",
    "annealed",
    "batch_size",
    "bits_per_dimension",
    "bounds",
    "bridge",
    "check_real",
    "draw_chains",
    "evaluate",
    "exact",
    "from_mixture",
    "importance_weighted",
    "in_short",
    "integrated",
    "kind",
    "linear_gaussian",
    "log_joint",
    "of_weights",
    "pareto_shape",
    "per_example",
    "posterior_density",
    "posterior_draws",
    "resampled",
    "sandwich",
    "sigmoidal",
    "summary",
    "weight_statistics",
    "weighted_moments",
]
