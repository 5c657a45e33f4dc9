"""Diagnostics: what a trained VAE has learned, and what is wrong with it.

``report`` is the whole examination; the other files hold one diagnostic each: ``elbo_surgery`` (the
terms of the ELBO), ``aggregate_posterior`` (q(z) against the prior), ``active_dimensions``,
``marginals`` (single dimensions of z),
``two_sample`` (classifier tests), ``calibration`` (simulation-based), ``inference_gap`` (log p(x) -
ELBO) with ``optimal_posterior``, ``gradient_variance``. A new diagnostic is a file here, its figure
a function in :mod:`pyrovae.plots`, its command a file in :mod:`pyrovae.cli`.
"""

from pyrovae.diagnostics.active_dimensions import ACTIVE, active_units, activity
from pyrovae.diagnostics.aggregate_posterior import MOST_CLASSES, points, population
from pyrovae.diagnostics.calibration import BINS, LEVEL, PERMUTATIONS, calibrate, uniformity
from pyrovae.diagnostics.elbo_surgery import (
    DRAWS,
    AggregateDraws,
    aggregate_draws,
    no_density,
    surgery,
    term_estimate,
)
from pyrovae.diagnostics.gradient_variance import compare_gradients
from pyrovae.diagnostics.inference_gap import (
    METHODS,
    Gap,
    Term,
    gap,
    gap_summary,
    posterior_densities,
)
from pyrovae.diagnostics.marginals import (
    kl_per_dimension,
    marginal_density,
    marginal_moments,
    marginal_quantiles,
)
from pyrovae.diagnostics.optimal_posterior import best_posterior, log_weights, with_outputs
from pyrovae.diagnostics.report import LIMIT, Diagnosis, diagnose
from pyrovae.diagnostics.two_sample import FEWEST, NEIGHBOURS, probe, two_samples

__all__ = [
    "ACTIVE",
    "BINS",
    "DRAWS",
    "FEWEST",
    "LEVEL",
    "LIMIT",
    "METHODS",
    "MOST_CLASSES",
    "NEIGHBOURS",
    "PERMUTATIONS",
    "AggregateDraws",
    "Diagnosis",
    "Gap",
    "Term",
    "active_units",
    "activity",
    "aggregate_draws",
    "best_posterior",
    "calibrate",
    "compare_gradients",
    "diagnose",
    "gap",
    "gap_summary",
    "kl_per_dimension",
    "log_weights",
    "marginal_density",
    "marginal_moments",
    "marginal_quantiles",
    "no_density",
    "points",
    "population",
    "posterior_densities",
    "probe",
    "surgery",
    "term_estimate",
    "two_samples",
    "uniformity",
    "with_outputs",
]
