"""Estimators of log p(x), the evidence.

``evaluate`` is the one function for all of them. ``lower_bounds`` draws from q(z | x): the ELBO and
the importance-weighted bound; ``over_dataset`` computes them for every example of a dataset. The
other files hold one method each: ``importance`` (with the fitted mixtures of ``proposals`` and the
diagnostics of ``weights``), ``annealing`` (annealed importance sampling; bounds on both sides),
``quadrature``, ``tractable`` (models whose log p(x) has a formula), ``bridge_sampling`` and
``nuts`` (from draws of p(z | x)). ``results`` holds the objects they return. A new estimator is a
file with one function and one line in the dictionary ``METHODS`` of ``methods``.
"""

from pyrovae.evidence.annealing import CHAINS, annealed, sandwich, sigmoidal
from pyrovae.evidence.bridge_sampling import bridge
from pyrovae.evidence.importance import PROPOSALS, importance_weighted
from pyrovae.evidence.lower_bounds import (
    DRAWS,
    NO_BOUND,
    Bounds,
    WeightedBounds,
    batch_size,
    bits_per_dimension,
    bounds,
    kind,
)
from pyrovae.evidence.methods import METHODS, SIMULATED, evaluate
from pyrovae.evidence.nuts import Draws, check_real, draw_chains, log_joint, posterior_draws
from pyrovae.evidence.over_dataset import MODES, per_example
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
from pyrovae.evidence.results import (
    Evaluation,
    Evidence,
    EvidenceEstimate,
    MeanEvidence,
    MeanSandwich,
    Range,
    Sandwich,
)
from pyrovae.evidence.tractable import STATES, LinearGaussian, exact, linear_gaussian
from pyrovae.evidence.weights import (
    RELIABLE,
    Weights,
    WeightSummary,
    pareto_shape,
    weight_statistics,
)

__all__ = [
    "CHAINS",
    "DRAWS",
    "FEWEST",
    "METHODS",
    "MODES",
    "NO_BOUND",
    "PROPOSALS",
    "RELIABLE",
    "SIMULATED",
    "STATES",
    "Bounds",
    "Draws",
    "Evaluation",
    "Evidence",
    "EvidenceEstimate",
    "Fitted",
    "LinearGaussian",
    "MeanEvidence",
    "MeanSandwich",
    "Range",
    "Sandwich",
    "Target",
    "WeightSummary",
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
    "integrated",
    "kind",
    "linear_gaussian",
    "log_joint",
    "pareto_shape",
    "per_example",
    "posterior_density",
    "posterior_draws",
    "resampled",
    "sandwich",
    "sigmoidal",
    "weight_statistics",
    "weighted_moments",
]
