"""Datasets: read, split, transformed and served in batches.

``catalog`` has the datasets with a name, ``readers`` a reader for each file format, and
``image_folders`` the reader of folders; all of them return the arrays of ``sources``. ``dataset``
splits these into training, validation and test rows, ``treatment`` chooses the transform of their
pixels (binarization, scaling) from ``transforms``, and ``splits`` makes the batches. ``recipes``
holds the default model and training for each dataset. To add a file format, write a function in
``readers`` and add a line to its dictionary ``READERS``.
"""

from pyrovae.data.catalog import DATASETS, TorchvisionSet, default_data_dir, read
from pyrovae.data.dataset import SPLIT_SEED, Dataset, load, load_all, prepare
from pyrovae.data.readers import READERS, read_path
from pyrovae.data.recipes import RECIPES, Recipe, for_array
from pyrovae.data.sources import Rows, Source, chunks, float_range
from pyrovae.data.splits import Resident, Split
from pyrovae.data.transforms import (
    Dynamic,
    Packed,
    Standardize,
    Threshold,
    Transform,
    Unit,
    draw_bits,
    draw_bits_on_device,
    unchanged,
)
from pyrovae.data.treatment import BINARIZATIONS, SCALINGS, STATIC_SEEDS

__all__ = [
    "BINARIZATIONS",
    "DATASETS",
    "READERS",
    "RECIPES",
    "SCALINGS",
    "SPLIT_SEED",
    "STATIC_SEEDS",
    "Dataset",
    "Dynamic",
    "Packed",
    "Recipe",
    "Resident",
    "Rows",
    "Source",
    "Split",
    "Standardize",
    "Threshold",
    "TorchvisionSet",
    "Transform",
    "Unit",
    "chunks",
    "default_data_dir",
    "draw_bits",
    "draw_bits_on_device",
    "float_range",
    "for_array",
    "load",
    "load_all",
    "prepare",
    "read",
    "read_path",
    "unchanged",
]
