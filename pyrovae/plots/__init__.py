"""Figures: the only wing that imports matplotlib. It draws results and computes none.

Functions take arrays or a result and return a matplotlib ``Figure``; :func:`save` writes it.
``run_figures`` draws the set of figures that each run gets, ``diagnosis`` the figures of a
diagnosis; each other file holds one subject. A new figure is a function in the file of its
subject, or a new file; colors and settings that all figures share are in ``style``.
"""

from pyrovae.plots import (
    curves,
    decoded,
    diagnosis,
    examples,
    latent_space,
    posterior_checks,
    run_figures,
    style,
)
from pyrovae.plots.curves import *
from pyrovae.plots.decoded import *
from pyrovae.plots.diagnosis import *
from pyrovae.plots.examples import *
from pyrovae.plots.latent_space import *
from pyrovae.plots.posterior_checks import *
from pyrovae.plots.run_figures import *
from pyrovae.plots.style import *

__all__ = [
    name
    for file in (
        diagnosis,
        curves,
        decoded,
        examples,
        latent_space,
        posterior_checks,
        run_figures,
        style,
    )
    for name in file.__all__
]
