"""Datasets: read, split, transformed and served in batches.

``catalog`` has the datasets with a name, ``readers`` a reader for each file format, and
``image_folders`` the reader of folders. ``text_tables`` reads csv files, with ``numerals`` for
numbers in other notations, and ``tables`` turns the columns of any table into one array, each by
``coding``, and a ``schema``. All of them return the arrays of ``sources``. ``dataset``
splits these into training, validation and test rows, ``treatment`` chooses the transform of their
pixels (binarization, scaling) from ``transforms``, and ``batching`` makes the batches. ``recipes``
holds the default model and training for each dataset. To add a file format, write a function in
``readers`` and add a line to its dictionary ``READERS``.
"""

from pyrovae.data import (
    batching,
    catalog,
    dataset,
    inputs,
    readers,
    recipes,
    schema,
    sources,
    tables,
    transforms,
    treatment,
)
from pyrovae.data.batching import *
from pyrovae.data.catalog import *
from pyrovae.data.dataset import *
from pyrovae.data.inputs import *
from pyrovae.data.readers import *
from pyrovae.data.recipes import *
from pyrovae.data.schema import *
from pyrovae.data.sources import *
from pyrovae.data.tables import *
from pyrovae.data.transforms import *
from pyrovae.data.treatment import *

__all__ = [
    name
    for file in (
        catalog,
        dataset,
        inputs,
        readers,
        recipes,
        schema,
        sources,
        tables,
        batching,
        transforms,
        treatment,
    )
    for name in file.__all__
]
