"""Diagnostics: what a trained VAE has learned, and what is wrong with it.

``report`` is the whole examination. The other files hold one diagnostic each:
``aggregate_posterior`` (q(z) against the prior), ``elbo_surgery`` (the terms of the ELBO),
``latent_dimensions`` (active units and marginals), ``traversal`` (walks through z),
``two_sample`` (classifier tests and probes),
``calibration`` (simulation-based), ``gradient_variance``, and ``inference_gap``
(log p(x) - ELBO) with ``optimal_posterior`` and ``evidence_identity``. A new diagnostic is a file
here (``report`` calls those of the whole examination), its figure a function in
:mod:`pyrovae.plots`, its command a function in a file of :mod:`pyrovae.cli`, old or new.
"""

from pyrovae.diagnostics import (
    aggregate_posterior,
    calibration,
    elbo_surgery,
    evidence_identity,
    gradient_variance,
    inference_gap,
    latent_dimensions,
    optimal_posterior,
    report,
    traversal,
    two_sample,
)
from pyrovae.diagnostics.aggregate_posterior import *
from pyrovae.diagnostics.calibration import *
from pyrovae.diagnostics.elbo_surgery import *
from pyrovae.diagnostics.evidence_identity import *
from pyrovae.diagnostics.gradient_variance import *
from pyrovae.diagnostics.inference_gap import *
from pyrovae.diagnostics.latent_dimensions import *
from pyrovae.diagnostics.optimal_posterior import *
from pyrovae.diagnostics.report import *
from pyrovae.diagnostics.traversal import *
from pyrovae.diagnostics.two_sample import *

__all__ = [
    name
    for file in (
        aggregate_posterior,
        calibration,
        elbo_surgery,
        evidence_identity,
        gradient_variance,
        inference_gap,
        latent_dimensions,
        optimal_posterior,
        report,
        traversal,
        two_sample,
    )
    for name in file.__all__
]
