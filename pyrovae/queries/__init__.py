"""Questions to a trained VAE about given examples: missing pixels, and the probability of each.

``imputation`` draws missing pixels, ``masks`` defines which pixels are missing, ``scoring``
estimates log p(x) of each example, and ``results`` holds the objects that are returned. A new
question is a file here and a command in :mod:`pyrovae.cli`.
"""

from pyrovae.queries.imputation import METHODS, POOR, SAMPLES, UNMIXED, impute, work
from pyrovae.queries.masks import HALVES, mask
from pyrovae.queries.results import KINDS, Imputed, ImputedExample, Scores
from pyrovae.queries.scoring import score

__all__ = [
    "HALVES",
    "KINDS",
    "METHODS",
    "POOR",
    "SAMPLES",
    "UNMIXED",
    "Imputed",
    "ImputedExample",
    "Scores",
    "impute",
    "mask",
    "score",
    "work",
]
