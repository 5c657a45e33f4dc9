"""Questions to a trained VAE about given examples: codes, missing pixels, the probability of each.

``encoding`` computes codes, ``imputation`` draws missing pixels, ``masks`` defines which pixels are
missing, ``scoring`` estimates log p(x) of each example, and ``results`` holds the objects that are
returned. A new question is a file here and a command in :mod:`pyrovae.cli`.
"""

from pyrovae.queries import encoding, imputation, masks, results, scoring
from pyrovae.queries.encoding import *
from pyrovae.queries.imputation import *
from pyrovae.queries.masks import *
from pyrovae.queries.results import *
from pyrovae.queries.scoring import *

__all__ = [
    name for file in (encoding, imputation, masks, results, scoring) for name in file.__all__
]
