"""Figures. Nothing else imports matplotlib, and nothing here computes what it shows.

A function takes arrays or a result and returns a matplotlib ``Figure``; :func:`save` writes it.
``figures`` draws arrays, ``vae`` the set of figures that each run gets,
the other files one subject each. A new figure is a function in the file of its subject.
"""

from pyrovae.plots.diagnosis import diagnosis_figures, rate_distortion
from pyrovae.plots.figures import (
    bound,
    comparison,
    discrete,
    divergence,
    gradients,
    grid,
    images,
    latent,
    reconstructions,
    samples,
    save,
)
from pyrovae.plots.inference_gap import gap, posteriors
from pyrovae.plots.queries import completions
from pyrovae.plots.rank_histograms import calibration
from pyrovae.plots.refit import prior_swap, refit_samples
from pyrovae.plots.vae import draw_vae, fills_space, prior_density

__all__ = [
    "bound",
    "calibration",
    "comparison",
    "completions",
    "diagnosis_figures",
    "discrete",
    "divergence",
    "draw_vae",
    "fills_space",
    "gap",
    "gradients",
    "grid",
    "images",
    "latent",
    "posteriors",
    "prior_density",
    "prior_swap",
    "rate_distortion",
    "reconstructions",
    "refit_samples",
    "samples",
    "save",
]
