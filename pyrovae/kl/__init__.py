"""The KL divergence KL(q || p), computed in every available way.

``comparison`` compares all methods, and ``results`` holds the objects that it returns.
``closed_forms`` has the formulas, ``quadrature`` and ``mixture_bounds`` the numerical integrals and
the bounds for pairs without a formula. To add a closed form, write a function in ``closed_forms``
and add a line to its dictionary ``CLOSED_FORMS``.
"""

from pyrovae.kl.closed_forms import (
    CLOSED_FORMS,
    closed_form,
    joint_to_laplaces,
    joint_to_normals,
    normals_to_low_rank,
    one_hots_to_one_hots,
    students_to_normals,
)
from pyrovae.kl.comparison import compare, ledger
from pyrovae.kl.mixture_bounds import divergence_bounds, infinite_variance
from pyrovae.kl.quadrature import TOLERANCES, integrate
from pyrovae.kl.results import Bracket, Computed, Integrated, Ledger, Sampled

__all__ = [
    "CLOSED_FORMS",
    "TOLERANCES",
    "Bracket",
    "Computed",
    "Integrated",
    "Ledger",
    "Sampled",
    "closed_form",
    "compare",
    "divergence_bounds",
    "infinite_variance",
    "integrate",
    "joint_to_laplaces",
    "joint_to_normals",
    "ledger",
    "normals_to_low_rank",
    "one_hots_to_one_hots",
    "students_to_normals",
]
