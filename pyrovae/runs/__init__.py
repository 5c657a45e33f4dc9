"""Runs: a training as text, the folder it leaves behind, and work with whole runs.

``specs`` reads components written as text (``vamp:components=500``), ``settings`` the settings of a
run. ``config`` holds a whole run: it fills in the settings and builds the VAE. ``run`` is the
folder, ``records`` its files that are checked when they are read, and ``starting`` trains into one.
``comparison`` trains several, one for each combination of components, and ``compared`` is the table
that it returns. ``refitting`` fits another prior to a VAE or to a whole run. ``results`` has the
summaries of both, ``description`` puts runs into words, ``listing`` lists the runs of a folder,
``export`` writes results to files, ``exchange`` encoders and decoders for other programs,
``beginning`` takes the weights of another run, and
``tables`` has the columns of tables: a likelihood for each, and values written as the table had
them.
"""

from pyrovae.runs import (
    beginning,
    compared,
    comparison,
    config,
    description,
    exchange,
    export,
    listing,
    records,
    refitting,
    results,
    run,
    settings,
    specs,
    starting,
    tables,
)
from pyrovae.runs.beginning import *
from pyrovae.runs.compared import *
from pyrovae.runs.comparison import *
from pyrovae.runs.config import *
from pyrovae.runs.description import *
from pyrovae.runs.exchange import *
from pyrovae.runs.export import *
from pyrovae.runs.listing import *
from pyrovae.runs.records import *
from pyrovae.runs.refitting import *
from pyrovae.runs.results import *
from pyrovae.runs.run import *
from pyrovae.runs.settings import *
from pyrovae.runs.specs import *
from pyrovae.runs.starting import *
from pyrovae.runs.tables import *

__all__ = [
    name
    for file in (
        beginning,
        compared,
        comparison,
        config,
        description,
        exchange,
        export,
        listing,
        records,
        refitting,
        results,
        run,
        settings,
        specs,
        starting,
        tables,
    )
    for name in file.__all__
]
