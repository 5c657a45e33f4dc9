"""Runs: a training as text, the folder it leaves behind, and work with whole runs.

``specs`` reads components written as text (``vamp:components=500``), and ``compatibility`` finds
which of them go together. ``config`` holds a whole run: it fills in the ``settings`` and builds
the VAE. ``run`` is the folder, ``starting`` trains into one and leaves its ``summary``.
``comparison`` trains several, one for each of the ``combinations``, and returns
``comparison_results``. ``refitting`` fits another prior, ``refitted_runs`` does so for a run.
``description`` puts runs into words, ``reporting`` passes progress on, and ``export`` writes
results to files.
"""

from pyrovae.runs import (
    combinations,
    comparison,
    comparison_results,
    config,
    description,
    export,
    refitted_runs,
    refitting,
    run,
    settings,
    specs,
    starting,
    summary,
)
from pyrovae.runs.combinations import *
from pyrovae.runs.comparison import *
from pyrovae.runs.comparison_results import *
from pyrovae.runs.config import *
from pyrovae.runs.description import *
from pyrovae.runs.export import *
from pyrovae.runs.refitted_runs import *
from pyrovae.runs.refitting import *
from pyrovae.runs.run import *
from pyrovae.runs.settings import *
from pyrovae.runs.specs import *
from pyrovae.runs.starting import *
from pyrovae.runs.summary import *

__all__ = [
    name
    for file in (
        combinations,
        comparison,
        comparison_results,
        config,
        description,
        export,
        refitted_runs,
        refitting,
        run,
        settings,
        specs,
        starting,
        summary,
    )
    for name in file.__all__
]
