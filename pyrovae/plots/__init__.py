"""Figures: the only wing that imports matplotlib. It draws results and computes none.

Functions take arrays or a result and return a matplotlib ``Figure``; :func:`save` writes it.
``run_figures`` draws the set of figures that each run gets, ``diagnosis`` the figures of a
diagnosis; each other file holds one subject. A new figure is a function in the file of its
subject, or a new file; colors and settings that all figures share are in ``style``.
"""

from pyrovae.plots import (
    bound_curve,
    diagnosis,
    divergences,
    gradient_variance,
    image_grids,
    inference_gap,
    latent_space,
    model_comparison,
    queries,
    rank_histograms,
    refit,
    run_figures,
    style,
)
from pyrovae.plots.bound_curve import *
from pyrovae.plots.diagnosis import *
from pyrovae.plots.divergences import *
from pyrovae.plots.gradient_variance import *
from pyrovae.plots.image_grids import *
from pyrovae.plots.inference_gap import *
from pyrovae.plots.latent_space import *
from pyrovae.plots.model_comparison import *
from pyrovae.plots.queries import *
from pyrovae.plots.rank_histograms import *
from pyrovae.plots.refit import *
from pyrovae.plots.run_figures import *
from pyrovae.plots.style import *

__all__ = [
    name
    for file in (
        bound_curve,
        diagnosis,
        divergences,
        gradient_variance,
        image_grids,
        inference_gap,
        latent_space,
        model_comparison,
        queries,
        rank_histograms,
        refit,
        run_figures,
        style,
    )
    for name in file.__all__
]
