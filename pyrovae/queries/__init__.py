"""Questions to a trained VAE about given examples: what is missing in one, how probable is one.

``imputation`` fills in what is missing, ``masks`` says what is missing. A new question is a file
here and a command in :mod:`pyrovae.cli`.
"""

from pyrovae.queries.imputation import KINDS, METHODS, POOR, SAMPLES, UNMIXED, Imputed, impute, work
from pyrovae.queries.masks import HALVES, mask

__all__ = [
    "HALVES",
    "KINDS",
    "METHODS",
    "POOR",
    "SAMPLES",
    "UNMIXED",
    "Imputed",
    "impute",
    "mask",
    "work",
]
