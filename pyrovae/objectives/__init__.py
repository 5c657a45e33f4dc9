"""Training objectives: Pyro ELBOs that ``SVI`` takes, by name in ``OBJECTIVES``.

``elbo`` has the evidence lower bound, its weighted forms and those that depend on the aggregate
posterior, ``multi_sample`` bounds from several draws (IWAE, Renyi); ``traces`` reads what they need
from Pyro's traces, and records the terms of the bound. A new objective is a class in one of these
files, or in a new one, and one line in ``OBJECTIVES`` below.

Each is a :class:`pyro.infer.ELBO` for any ``SVI`` over a model and a guide with one plate of data.
An objective that changes during training has a method ``at(progress)``, which ``fit`` calls before
each step with the fraction of all steps that is done. In your own ``SVI`` loop, call it yourself or
not at all.
"""

from collections.abc import Callable

from pyro.infer import ELBO

from pyrovae.objectives import elbo, multi_sample, traces
from pyrovae.objectives.elbo import *
from pyrovae.objectives.multi_sample import *
from pyrovae.objectives.traces import *

__all__ = ["OBJECTIVES", *(name for file in (elbo, multi_sample, traces) for name in file.__all__)]

OBJECTIVES: dict[str, Callable[..., ELBO]] = {
    "elbo": Elbo,
    "analytic": Analytic,
    "beta": Beta,
    "free_bits": FreeBits,
    "iwae": IWAE,
    "renyi": Renyi,
    "stl": STL,
    "dreg": DReG,
    "beta_tc": BetaTC,
    "info": Info,
}
"""Objectives by name."""
