"""Figures: the only wing that imports matplotlib. It draws results and computes none.

Functions take arrays or a result and return a matplotlib ``Figure``; :func:`save` writes it.
``run_figures`` draws the set of figures that each run gets, ``diagnosis`` the figures of a
diagnosis; each other file holds one subject. A new figure is a function in the file of its
subject, or a new file; colors and settings that all figures share are in ``style``.
"""

from pyrovae.plots.bound_curve import bound
from pyrovae.plots.diagnosis import diagnosis_figures
from pyrovae.plots.divergences import divergence
from pyrovae.plots.gradient_noise import gradients
from pyrovae.plots.image_grids import grid, images, reconstructions, samples
from pyrovae.plots.inference_gap import gap, posteriors
from pyrovae.plots.latent_space import discrete, latent
from pyrovae.plots.model_comparison import comparison, rate_distortion
from pyrovae.plots.queries import completions
from pyrovae.plots.rank_histograms import calibration
from pyrovae.plots.refit import prior_swap, refit_samples
from pyrovae.plots.run_figures import draw_vae
from pyrovae.plots.style import save

__all__ = [
    "bound",
    "calibration",
    "comparison",
    "completions",
    "diagnosis_figures",
    "discrete",
    "divergence",
    "draw_vae",
    "gap",
    "gradients",
    "grid",
    "images",
    "latent",
    "posteriors",
    "prior_swap",
    "rate_distortion",
    "reconstructions",
    "refit_samples",
    "samples",
    "save",
]
