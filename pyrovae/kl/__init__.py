"""The KL divergence KL(q || p), computed in every available way.

``comparison`` compares all methods, and ``results`` holds the objects that it returns. ``formulas``
has the closed forms, and bounds for mixtures of normals; ``quadrature`` the numerical integrals.
To add a closed form, write a function in ``formulas`` and add a line to its dictionary
``CLOSED_FORMS``.
"""

from pyrovae.kl import comparison, formulas, quadrature, results
from pyrovae.kl.comparison import *
from pyrovae.kl.formulas import *
from pyrovae.kl.quadrature import *
from pyrovae.kl.results import *

__all__ = [name for file in (comparison, formulas, quadrature, results) for name in file.__all__]
