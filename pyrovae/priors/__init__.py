"""Priors p(z): modules whose ``forward()`` returns a Pyro distribution over z.

``fixed`` has priors without parameters, ``learned`` those that training adapts. A new prior goes
into one of the two and gets one line in ``PRIORS`` below; on a space that no posterior is over, it
needs a posterior as well. A prior of your own is any module that meets
:class:`pyrovae.vae.Prior`.
"""

from torch import nn

from pyrovae.priors import fixed, learned
from pyrovae.priors.fixed import *
from pyrovae.priors.learned import *

__all__ = ["PRIORS", *(name for file in (fixed, learned) for name in file.__all__)]

PRIORS: dict[str, type[nn.Module]] = {
    "normal": StandardNormal,
    "learned_normal": LearnedNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "logistic": Logistic,
    "mixture": GaussianMixture,
    "vamp": VampPrior,
    "flow": Flow,
    "sphere": Sphere,
    "categorical": Categorical,
}
"""Priors by name."""
