"""Diagnostics: what a trained VAE has learned, and what is wrong with it.

``report`` is the whole examination. The other files hold one diagnostic each:
``aggregate_densities`` and ``elbo_surgery`` (the terms of the ELBO), ``aggregate_posterior`` (q(z)
against the prior), ``active_dimensions``, ``marginals`` (single dimensions of z), ``two_sample``
(classifier tests and probes), ``calibration`` (simulation-based) with ``rank_uniformity``,
``gradient_variance`` with ``gradient_moments``, and ``inference_gap`` (log p(x) - ELBO) with
``optimal_posterior``, ``evidence_identity`` and ``posterior_grid``. A new diagnostic is a file
here, its figure a function in :mod:`pyrovae.plots`, its command a file in :mod:`pyrovae.cli`.
"""

from pyrovae.diagnostics.active_dimensions import ACTIVE, active_units, activity
from pyrovae.diagnostics.aggregate_densities import (
    DRAWS,
    AggregateDraws,
    aggregate_draws,
    no_density,
)
from pyrovae.diagnostics.aggregate_posterior import (
    MOST_CLASSES,
    Group,
    Population,
    points,
    population,
)
from pyrovae.diagnostics.calibration import Calibration, calibrate
from pyrovae.diagnostics.elbo_surgery import (
    BoundTerm,
    Bracket,
    DimensionTerms,
    PopulationTerms,
    Surgery,
    surgery,
    term_estimate,
)
from pyrovae.diagnostics.evidence_identity import METHODS, MeanTerm, Term
from pyrovae.diagnostics.gradient_moments import (
    GradientDifference,
    GradientMean,
    GradientNoise,
    LayerNoise,
    Variance,
)
from pyrovae.diagnostics.gradient_variance import (
    GRADIENT_LIMIT,
    GradientComparison,
    GradientEstimator,
    compare_gradients,
)
from pyrovae.diagnostics.inference_gap import (
    NUTS,
    Gap,
    NutsSettings,
    PosteriorDensities,
    gap,
    posterior_densities,
)
from pyrovae.diagnostics.marginals import (
    kl_per_dimension,
    marginal_density,
    marginal_moments,
    marginal_quantiles,
)
from pyrovae.diagnostics.optimal_posterior import best_posterior, log_weights, with_outputs
from pyrovae.diagnostics.rank_uniformity import (
    BINS,
    LEVEL,
    PERMUTATIONS,
    Coverage,
    RankedFunction,
    Uniformity,
    uniformity,
)
from pyrovae.diagnostics.report import (
    LIMIT,
    Collapse,
    Diagnosis,
    FigureData,
    ProbeAccuracies,
    Probes,
    SampleTest,
    diagnose,
)
from pyrovae.diagnostics.two_sample import (
    FEWEST,
    NEIGHBORS,
    Accuracy,
    Probe,
    TwoSampleTest,
    probe,
    two_samples,
)

__all__ = [
    "ACTIVE",
    "BINS",
    "DRAWS",
    "FEWEST",
    "GRADIENT_LIMIT",
    "LEVEL",
    "LIMIT",
    "METHODS",
    "MOST_CLASSES",
    "NEIGHBORS",
    "NUTS",
    "PERMUTATIONS",
    "Accuracy",
    "AggregateDraws",
    "BoundTerm",
    "Bracket",
    "Calibration",
    "Collapse",
    "Coverage",
    "Diagnosis",
    "DimensionTerms",
    "FigureData",
    "Gap",
    "GradientComparison",
    "GradientDifference",
    "GradientEstimator",
    "GradientMean",
    "GradientNoise",
    "Group",
    "LayerNoise",
    "MeanTerm",
    "NutsSettings",
    "Population",
    "PopulationTerms",
    "PosteriorDensities",
    "Probe",
    "ProbeAccuracies",
    "Probes",
    "RankedFunction",
    "SampleTest",
    "Surgery",
    "Term",
    "TwoSampleTest",
    "Uniformity",
    "Variance",
    "active_units",
    "activity",
    "aggregate_draws",
    "best_posterior",
    "calibrate",
    "compare_gradients",
    "diagnose",
    "gap",
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
