r"""Datasets: loaded, split into training, validation and test rows, and treated."""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.data.batching import Split
from pyrovae.data.catalog import read
from pyrovae.data.schema import Schema
from pyrovae.data.sources import Rows, Source
from pyrovae.data.treatment import (
    STANDARDIZING,
    STATIC_SEEDS,
    check_columns,
    check_maximum,
    check_options,
    check_treatment,
    flat_columns,
    moments_of,
    statistics_of,
    treat,
)

if TYPE_CHECKING:
    import pandas

__all__ = ["SPLIT_SEED", "Dataset", "load", "load_all", "prepare"]

SPLIT_SEED = 0
"""Seed of the permutation that splits arrays which come without splits."""

MINIMUM_ROWS = 10

_NAMED = 5  # ignored columns whose names are given


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test splits of one source, under one treatment.

    Args:
        name: name of the dataset, or file name of a path.
        train: training rows.
        validation: rows for choices during training.
        test: rows for reported numbers.
        binarization: one of `BINARIZATIONS`.
        scaling: one of `SCALINGS`.
        maximum: largest count of integer pixels, or None for real numbers.
        unit_interval: whether the values are real numbers that all lie in [0, 1].
        splits: description of the rule that made the splits.
        statistics: `loc` and `scale`, ``(*event_shape)``, by which values were standardized;
            empty if they were not.
        seeds: seeds of static binarization, by split; empty without it.
        schema: names and kinds of the columns of a table; None for images and unnamed arrays.
        classes: words for the labels 0, 1, 2, ...; None if labels are numbers in the file.
        flat: columns of a table, counted from 0, whose training values are all one number, up to
            the precision of float32.

    Example:
        >>> from pyrovae.data import load
        >>> digits = load("digits")
        >>> [len(split) for split in (digits.train, digits.validation, digits.test)]
        [1258, 180, 359]
        >>> digits.maximum, digits.digest()[:8]
        (16, 'a41209da')
    """

    name: str
    train: Split
    validation: Split
    test: Split
    binarization: str
    scaling: str
    maximum: int | None
    unit_interval: bool
    splits: str
    statistics: Mapping[str, np.ndarray]
    seeds: Mapping[str, int]
    schema: Schema | None = None
    classes: tuple[str, ...] | None = None
    flat: tuple[int, ...] = ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example: (C, H, W) for images, (D,) for tables."""
        return self.train.event_shape

    def digest(self) -> str:
        """Hash all rows and their splits, as 64 hexadecimal digits."""
        parts = (self.train, self.validation, self.test)
        return hashlib.sha256(b"".join(part.digest() for part in parts)).hexdigest()


def load(
    data: "str | os.PathLike[str] | pandas.DataFrame" = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    binarization: str | None = None,
    scaling: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    download: bool = True,
    id_column: str | None = None,
) -> Dataset:
    """Load a dataset by name or by path, and split it.

    Official test sets are kept, and the last 5,000 rows of the training file become the validation
    set. Splits in a file are kept. An array without splits is permuted once with seed
    `SPLIT_SEED`: the last 20% become the test set and the 10% before them the validation set. If a
    file holds training and test rows only, the last 10% of its permuted training rows become the
    validation set.

    Args:
        data: a name in `DATASETS`; the path of a file with a suffix in `READERS`; or a folder of
            images; or a pandas DataFrame.
        data_dir: folder of named datasets in torchvision's layout; by default `PYROVAE_DATA`, else
            `~/.cache/pyrovae`.
        binarization: one of `BINARIZATIONS`; None means `none`.
        scaling: one of `SCALINGS`; None means `none`.
        image_size: height and width to which the images of a folder are resized, one number for
            both; None keeps their size.
        download: whether a missing named dataset may be downloaded.
        id_column: name of the column of a table that identifies rows and is no data.

    Returns:
        The dataset.

    Raises:
        ValueError: for an unknown name or option, unusable contents, fewer than 10 rows, or a
            treatment that does not fit the numbers.
        FileNotFoundError: for a path that does not exist, or a named dataset that is missing and
            could not be downloaded.
        ImportError: if a package that this source needs cannot be imported.
        TypeError: if `image_size` is given for anything other than a folder of images, or
            `id_column` for anything other than a table.

    Example:
        >>> from pyrovae.data import load
        >>> bits = load("digits", binarization="static")
        >>> bits.test.batch(torch.arange(3).numpy()).unique()
        tensor([0., 1.])
    """
    check_options(binarization or "none", scaling or "none")
    source = read(
        data, data_dir=data_dir, image_size=image_size, download=download, id_column=id_column
    )
    return prepare(source, binarization=binarization, scaling=scaling)


def prepare(
    source: Source,
    *,
    binarization: str | None = None,
    scaling: str | None = None,
    columns: Sequence[str] | None = None,
) -> Dataset:
    """Split the arrays that `pyrovae.data.read` returned, and choose their treatment.

    `load` calls `read` and then this function; in between, a recipe can be chosen for the source.

    Args:
        source: arrays by part.
        binarization: one of `BINARIZATIONS`; None means `none`.
        scaling: one of `SCALINGS`; None means `none`.
        columns: under the scaling `columns`, how each column is scaled: `standardize`, `divide`
            or `none`.

    Returns:
        The dataset, by the rules of `load`.

    Raises:
        ValueError: for an unknown option, fewer than 10 rows, or a treatment that does not fit
            the numbers.

    Example:
        >>> from pyrovae.data import Rows, Source, prepare
        >>> rows = Rows(torch.eye(20).numpy())
        >>> prepare(Source("mine", {"all": rows}, maximum=None), scaling="standardize").scaling
        'standardize'
    """
    binarization, scaling = binarization or "none", scaling or "none"
    check_options(binarization, scaling)
    check_treatment(source, source.maximum, binarization, scaling)
    check_columns(source)
    assigned, rule = _assign(source)
    statistics: Mapping[str, np.ndarray] = {}
    flat: tuple[int, ...] = ()
    x = assigned["train"][0].x
    if scaling in STANDARDIZING or (x.ndim == 2 and x.dtype.kind == "f"):
        moments = moments_of(*assigned["train"])
        flat = flat_columns(*moments) if x.ndim == 2 else ()
        if scaling in STANDARDIZING:
            statistics = statistics_of(*moments, columns)
    splits: dict[str, Split] = {}
    seeds: dict[str, int] = {}
    for part, (rows, index) in assigned.items():
        kind = "static" if binarization == "dynamic" and part != "train" else binarization
        if kind == "static":
            seeds[part] = STATIC_SEEDS[part]
        splits[part] = treat(
            part, rows, index, kind, scaling, source.maximum, statistics, source.gaps
        )
    return Dataset(
        name=source.name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        binarization=binarization,
        scaling=scaling,
        maximum=source.maximum,
        unit_interval=source.unit_interval,
        splits=rule,
        statistics=statistics,
        seeds=seeds,
        schema=source.schema,
        classes=source.classes,
        flat=flat,
    )


def load_all(
    data: "str | os.PathLike[str] | pandas.DataFrame",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    binarization: str | None = None,
    scaling: str | None = None,
    statistics: Mapping[str, np.ndarray] | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    maximum: int | None = None,
    download: bool = True,
    id_column: str | None = None,
    schema: Schema | None = None,
) -> Split:
    """Load all rows of a source, in file order, under the treatment of a trained model.

    Training rows come first, then validation and test rows if the source holds such parts. Dynamic
    binarization becomes static here.

    Args:
        data: a name or a path, as in `load`.
        data_dir: folder of named datasets, as in `load`.
        binarization: binarization of the trained model's dataset.
        scaling: scaling of the trained model's dataset.
        statistics: statistics of the trained model's dataset.
        image_size: image size of the trained model's dataset, for a folder of images.
        maximum: maximum of the trained model's dataset.
        download: whether a missing named dataset may be downloaded.
        id_column: name of the column of a table that identifies rows and is no data.
        schema: of the trained model's dataset, whose columns are taken from a new table by their
            names.

    Returns:
        One split.

    Raises:
        ValueError: as in `load`, and if the numbers are not on the scale of the training data.
        FileNotFoundError: as in `load`.
        ImportError: as in `load`.
        TypeError: as in `load`.

    Warns:
        UserWarning: if a table has further columns, which are ignored.

    Example:
        >>> from pyrovae.data import load_all
        >>> len(load_all("digits", maximum=16))
        1797
    """
    binarization, scaling = binarization or "none", scaling or "none"
    check_options(binarization, scaling)
    source = read(
        data,
        data_dir=data_dir,
        image_size=image_size,
        download=download,
        id_column=id_column,
        schema=schema,
    )
    if source.unused:
        names = ", ".join(source.unused[:_NAMED])
        more = len(source.unused) - _NAMED
        names += f" and {more:,} more" if more > 0 else ""
        warnings.warn(
            f"{source.name} has columns that the training data did not have, which are ignored: "
            f"{names}",
            stacklevel=2,
        )
    kind = "static" if binarization == "dynamic" else binarization
    check_maximum(source, maximum, binarization, scaling)
    check_treatment(source, maximum, kind, scaling)
    parts = list(source.parts.values())
    x = parts[0].x if len(parts) == 1 else np.concatenate([rows.x for rows in parts])
    labels, ids = _joined([rows.labels for rows in parts]), _joined([rows.ids for rows in parts])
    statistics = statistics or {}
    if scaling in STANDARDIZING:
        shapes = {key: value.shape for key, value in statistics.items()}
        if shapes != {"loc": x.shape[1:], "scale": x.shape[1:]}:
            raise ValueError(
                f"statistics have the shapes {shapes}, and the rows of {source.name} have "
                f"{x.shape[1:]}; give dataset.statistics of the training data and rows like it"
            )
    index = np.arange(len(x))
    return treat(
        "all", Rows(x, labels, ids), index, kind, scaling, maximum, statistics, source.gaps
    )


def _joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    """Join the arrays of all parts; None unless every part has one."""
    found = [each for each in arrays if each is not None]
    return np.concatenate(found) if len(found) == len(arrays) else None


def _assign(source: Source) -> tuple[dict[str, tuple[Rows, np.ndarray]], str]:
    """Assign rows of the source's parts to splits, and describe the rule."""
    parts = source.parts
    first = parts.get("all") or parts["train"]
    count = len(first.x)
    if count < MINIMUM_ROWS:
        raise ValueError(
            f"{source.name} has {count} rows to train on and split; "
            f"at least {MINIMUM_ROWS} are needed: add rows"
        )
    if "validation" in parts:
        every = {part: (rows, np.arange(len(rows.x))) for part, rows in parts.items()}
        return every, "the splits that the file holds"
    if source.holdout is not None:
        if count <= source.holdout:
            raise ValueError(
                f"the training file of {source.name} has {count} rows, and its last "
                f"{source.holdout:,} are the validation set; get the complete file"
            )
        order = np.arange(count)
        rule = (
            f"test: the official test set; validation: the last {source.holdout:,} of the "
            "training file; train: the rest"
        )
        validation = source.holdout
    else:
        order = np.random.default_rng(SPLIT_SEED).permutation(count)
        validation = round(0.1 * count)
        rule = f"a permutation of the rows drawn with seed {SPLIT_SEED}: "
    if "test" in parts:
        if source.holdout is None:
            rule = (
                f"test: the file's own; validation: the last 10% of the training rows after {rule}"
                "train: the rest"
            )
        train, held = np.split(order, [count - validation])
        test = parts["test"], np.arange(len(parts["test"].x))
    else:
        tested = round(0.2 * count)
        rule += "the last 20% test, the 10% before them validation, the rest train"
        train, held, last = np.split(order, [count - validation - tested, count - tested])
        test = first, np.sort(last)
    assigned = {"train": (first, np.sort(train)), "validation": (first, np.sort(held))}
    return assigned | {"test": test}, rule
