"""Posteriors q(z | x): modules whose ``forward(x)`` returns a Pyro distribution over z.

An encoder maps x to the parameters of a distribution. The encoder is deterministic; z is random.

``normals`` has normal distributions, ``reals`` others over all real vectors, and ``spaces`` those
on other spaces. A new posterior goes into one of them and gets one line in ``POSTERIORS`` below; a
posterior of your own is any module that meets :class:`pyrovae.vae.Posterior`.
"""

from torch import nn

from pyrovae.posteriors import normals, reals, spaces
from pyrovae.posteriors.normals import *
from pyrovae.posteriors.reals import *
from pyrovae.posteriors.spaces import *

__all__ = ["POSTERIORS", *(name for file in (normals, reals, spaces) for name in file.__all__)]

POSTERIORS: dict[str, type[nn.Module]] = {
    "diagonal": DiagonalNormal,
    "full": FullNormal,
    "low_rank": LowRankNormal,
    "laplace": DiagonalLaplace,
    "flow": InverseAutoregressive,
    "point": Point,
    "power_spherical": PowerSpherical,
    "relaxed_categorical": RelaxedCategorical,
}
"""Posteriors by name."""
