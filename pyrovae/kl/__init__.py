"""The KL divergence KL(q || p), computed in every way there is.

``estimators`` puts all ways side by side, ``closed_forms`` holds the formulas, ``quadrature`` and
``mixture_bounds`` what is left where there is none. A new closed form is a function in
``closed_forms`` and one line in its dictionary ``CLOSED_FORMS``.
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
from pyrovae.kl.estimators import compare, ledger
from pyrovae.kl.mixture_bounds import divergence_bounds, infinite_variance
from pyrovae.kl.quadrature import TOLERANCES, integrate

__all__ = [
    "CLOSED_FORMS",
    "TOLERANCES",
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
