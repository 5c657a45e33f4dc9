"""The KL divergence KL(q || p), computed in every available way.

``comparison`` compares all methods, and ``results`` holds the objects that it returns.
``closed_forms`` has the formulas, ``quadrature`` and ``mixture_bounds`` the numerical integrals and
the bounds for pairs without a formula. To add a closed form, write a function in ``closed_forms``
and add a line to its dictionary ``CLOSED_FORMS``.
"""

from pyrovae.kl import closed_forms, comparison, mixture_bounds, quadrature, results
from pyrovae.kl.closed_forms import *
from pyrovae.kl.comparison import *
from pyrovae.kl.mixture_bounds import *
from pyrovae.kl.quadrature import *
from pyrovae.kl.results import *

__all__ = [
    name
    for file in (closed_forms, comparison, mixture_bounds, quadrature, results)
    for name in file.__all__
]
