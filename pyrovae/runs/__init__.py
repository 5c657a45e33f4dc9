"""Runs: a training as text, the folder that it leaves, and what is done with whole runs.

``specs`` reads components written as text (``vamp:components=500``), ``config`` a whole run,
``run`` is the folder, ``comparison`` and ``sweep`` train several, ``refitting`` gives a run another
prior, ``description`` puts a run into words and ``export`` writes results to files.
"""

from pyrovae.runs.comparison import ROLES, Candidate, candidates, compare, comparison_table
from pyrovae.runs.config import DATA_SETTINGS, FAMILIES, MODEL_SETTINGS, TRAINING_SETTINGS, Config
from pyrovae.runs.description import (
    catalogue,
    describe,
    draw_programs,
    headline,
    in_words,
    reliability,
    text_table,
)
from pyrovae.runs.export import as_json, destination, write_arrays
from pyrovae.runs.refitting import REFIT, change, refit, refit_run
from pyrovae.runs.run import CHANGEABLE, Run, going_on, load, next_folder, resuming, start
from pyrovae.runs.specs import (
    Option,
    Spec,
    context_of,
    failure,
    find,
    nearest,
    options_of,
    resolve,
    write,
)
from pyrovae.runs.sweep import BETAS, check_weights, sweep_betas, sweep_table

__all__ = [
    "BETAS",
    "CHANGEABLE",
    "DATA_SETTINGS",
    "FAMILIES",
    "MODEL_SETTINGS",
    "REFIT",
    "ROLES",
    "TRAINING_SETTINGS",
    "Candidate",
    "Config",
    "Option",
    "Run",
    "Spec",
    "as_json",
    "candidates",
    "catalogue",
    "change",
    "check_weights",
    "compare",
    "comparison_table",
    "context_of",
    "describe",
    "destination",
    "draw_programs",
    "failure",
    "find",
    "going_on",
    "headline",
    "in_words",
    "load",
    "nearest",
    "next_folder",
    "options_of",
    "refit",
    "refit_run",
    "reliability",
    "resolve",
    "resuming",
    "start",
    "sweep_betas",
    "sweep_table",
    "text_table",
    "write",
    "write_arrays",
]
