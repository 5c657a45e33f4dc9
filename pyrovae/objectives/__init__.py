"""Training objectives: Pyro ELBOs that ``SVI`` takes, by name in ``OBJECTIVES``.

``elbo`` has the evidence lower bound and its weighted forms, ``multi_sample`` bounds of several
draws (IWAE, Renyi), ``regularized`` objectives that look at the aggregate posterior, ``traces``
what they all read in Pyro's traces. A new objective is a class and one line in ``OBJECTIVES``.
"""

from collections.abc import Callable

from pyro.infer import ELBO

from pyrovae.objectives.elbo import STL, Analytic, Beta, Elbo, FreeBits, Terms, recording
from pyrovae.objectives.multi_sample import IWAE, DReG, Renyi
from pyrovae.objectives.regularized import BetaTC, Info

__all__ = [
    "IWAE",
    "OBJECTIVES",
    "STL",
    "Analytic",
    "Beta",
    "BetaTC",
    "DReG",
    "Elbo",
    "FreeBits",
    "Info",
    "Renyi",
    "Terms",
    "recording",
]

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
