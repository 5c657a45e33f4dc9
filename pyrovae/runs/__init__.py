"""Runs: a training as text, the folder it leaves behind, and work with whole runs.

``specs`` reads components written as text (``vamp:components=500``). ``config`` holds a whole run;
``settings``, ``resolution`` and ``construction`` read it, fill it in and build it. ``run`` is the
folder, ``starting`` trains into one, ``comparison`` trains several. ``refitting`` fits another
prior, ``refitted_runs`` does so for a run. ``encoding`` computes the codes of a dataset,
``description`` puts runs into words, and ``export`` writes results to files.
"""

from pyrovae.runs.combinations import ROLES, Candidate, candidates
from pyrovae.runs.comparison import compare
from pyrovae.runs.comparison_results import ComparedModel, Comparison, SeedEstimate
from pyrovae.runs.config import Config
from pyrovae.runs.description import (
    ComponentEntry,
    OptionEntry,
    catalogue,
    describe,
    draw_programs,
    headline,
    in_words,
    reliability,
    text_table,
)
from pyrovae.runs.encoding import encodings
from pyrovae.runs.export import as_json, destination, write_arrays
from pyrovae.runs.refitted_runs import REFIT, Refit, refit_run
from pyrovae.runs.refitting import Paired, PriorChange, change, refit
from pyrovae.runs.run import CHANGEABLE, Run, load
from pyrovae.runs.settings import DATA_SETTINGS, FAMILIES, MODEL_SETTINGS, TRAINING_SETTINGS
from pyrovae.runs.specs import (
    Option,
    Spec,
    context_of,
    failure,
    find,
    options_of,
    resolve,
    write,
)
from pyrovae.runs.starting import next_folder, resume_command, start, with_resume_command
from pyrovae.runs.summary import Summary

__all__ = [
    "CHANGEABLE",
    "DATA_SETTINGS",
    "FAMILIES",
    "MODEL_SETTINGS",
    "REFIT",
    "ROLES",
    "TRAINING_SETTINGS",
    "Candidate",
    "ComparedModel",
    "Comparison",
    "ComponentEntry",
    "Config",
    "Option",
    "OptionEntry",
    "Paired",
    "PriorChange",
    "Refit",
    "Run",
    "SeedEstimate",
    "Spec",
    "Summary",
    "as_json",
    "candidates",
    "catalogue",
    "change",
    "compare",
    "context_of",
    "describe",
    "destination",
    "draw_programs",
    "encodings",
    "failure",
    "find",
    "headline",
    "in_words",
    "load",
    "next_folder",
    "options_of",
    "refit",
    "refit_run",
    "reliability",
    "resolve",
    "resume_command",
    "start",
    "text_table",
    "with_resume_command",
    "write",
    "write_arrays",
]
