"""Runs: a training as text, the folder it leaves behind, and work with whole runs.

``specs`` reads components written as text (``vamp:components=500``), and ``compatibility`` finds
which of them go together. ``config`` holds a whole run; ``settings``, ``resolution`` and
``construction`` read it, fill it in and build it. ``run`` is the folder, ``starting`` trains into
one and leaves its ``summary``. ``comparison`` trains several, one for each of the ``combinations``,
and returns ``comparison_results``. ``refitting`` fits another prior, ``refitted_runs`` does so for
a run. ``encoding`` computes the codes of a dataset, ``description`` puts runs into words,
``reporting`` passes progress on, and ``export`` writes results to files.
"""

from pyrovae.runs import (
    combinations,
    comparison,
    comparison_results,
    config,
    description,
    encoding,
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
from pyrovae.runs.encoding import *
from pyrovae.runs.export import *
from pyrovae.runs.refitted_runs import *
from pyrovae.runs.refitting import *
from pyrovae.runs.run import *
from pyrovae.runs.settings import *
from pyrovae.runs.specs import *
from pyrovae.runs.starting import *
from pyrovae.runs.summary import *

__all__: list[str] = []
__all__ += combinations.__all__
__all__ += comparison.__all__
__all__ += comparison_results.__all__
__all__ += config.__all__
__all__ += description.__all__
__all__ += encoding.__all__
__all__ += export.__all__
__all__ += refitted_runs.__all__
__all__ += refitting.__all__
__all__ += run.__all__
__all__ += settings.__all__
__all__ += specs.__all__
__all__ += starting.__all__
__all__ += summary.__all__
