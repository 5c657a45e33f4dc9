"""Questions to a trained VAE about given examples: missing pixels, and the probability of each.

``imputation`` draws missing pixels, ``masks`` defines which pixels are missing, ``scoring``
estimates log p(x) of each example, and ``results`` holds the objects that are returned. A new
question is a file here and a command in :mod:`pyrovae.cli`.
"""

from pyrovae.queries import imputation, masks, results, scoring
from pyrovae.queries.imputation import *
from pyrovae.queries.masks import *
from pyrovae.queries.results import *
from pyrovae.queries.scoring import *

__all__ = [name for file in (imputation, masks, results, scoring) for name in file.__all__]
