"""Diagnostics: what a trained VAE has learned, and what is wrong with it.

``report`` is the whole examination. The other files hold one diagnostic each:
``aggregate_densities`` and ``elbo_surgery`` (the terms of the ELBO), ``aggregate_posterior`` (q(z)
against the prior), ``active_dimensions``, ``marginals`` (single dimensions of z), ``two_sample``
(classifier tests and probes), ``calibration`` (simulation-based) with ``rank_uniformity``,
``gradient_variance`` with ``gradient_moments``, and ``inference_gap`` (log p(x) - ELBO) with
``optimal_posterior``, ``evidence_identity`` and ``posterior_grid``. A new diagnostic is a file
here (``report`` calls those of the whole examination), its figure a function in
:mod:`pyrovae.plots`, its command a file in :mod:`pyrovae.cli`.
"""

from pyrovae.diagnostics import (
    active_dimensions,
    aggregate_densities,
    aggregate_posterior,
    calibration,
    elbo_surgery,
    evidence_identity,
    gradient_moments,
    gradient_variance,
    inference_gap,
    marginals,
    optimal_posterior,
    rank_uniformity,
    report,
    two_sample,
)
from pyrovae.diagnostics.active_dimensions import *
from pyrovae.diagnostics.aggregate_densities import *
from pyrovae.diagnostics.aggregate_posterior import *
from pyrovae.diagnostics.calibration import *
from pyrovae.diagnostics.elbo_surgery import *
from pyrovae.diagnostics.evidence_identity import *
from pyrovae.diagnostics.gradient_moments import *
from pyrovae.diagnostics.gradient_variance import *
from pyrovae.diagnostics.inference_gap import *
from pyrovae.diagnostics.marginals import *
from pyrovae.diagnostics.optimal_posterior import *
from pyrovae.diagnostics.rank_uniformity import *
from pyrovae.diagnostics.report import *
from pyrovae.diagnostics.two_sample import *

__all__ = [
    name
    for file in (
        active_dimensions,
        aggregate_densities,
        aggregate_posterior,
        calibration,
        elbo_surgery,
        evidence_identity,
        gradient_moments,
        gradient_variance,
        inference_gap,
        marginals,
        optimal_posterior,
        rank_uniformity,
        report,
        two_sample,
    )
    for name in file.__all__
]
