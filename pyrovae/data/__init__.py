"""Datasets: read, split, transformed, and given out in batches.

``named`` has the datasets that are known by name, ``readers`` one reader for each file format,
``transforms`` what happens to pixels (binarization, scaling), ``recipes`` the model and training
that suit each dataset, and ``dataset`` the splits themselves. A new file format is a function in
``readers`` and one line in its dictionary ``READERS``.
"""

from pyrovae.data.dataset import SPLIT_SEED, Dataset, load, load_all, prepare
from pyrovae.data.named import DATASETS, TorchvisionSet, default_data_dir, read
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
