"""Datasets by name, read and downloaded through the libraries that publish them.

To add a dataset, add an entry to `DATASETS` at the end of this module.
"""

import contextlib
import difflib
import http.client
import os
import socket
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae._process.files import check_regular, expanded
from pyrovae._process.optional_imports import import_for
from pyrovae.data.readers import READERS, read_path, suffix_of
from pyrovae.data.schema import Schema
from pyrovae.data.sources import Rows, Source
from pyrovae.data.tables import from_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["DATASETS", "TorchvisionSet", "default_data_dir", "read"]

DOWNLOAD_TIMEOUT = 20.0
"""Seconds without a response after which a download is aborted."""

OFFICIAL_HOLDOUT = 5_000
"""Number of last rows of an official training file that become the validation set."""


def default_data_dir() -> Path:
    """Return the folder of named datasets: `PYROVAE_DATA`, else `~/.cache/pyrovae`.

    Example:
        >>> from pyrovae.data import default_data_dir
        >>> default_data_dir().is_absolute()
        True
    """
    return expanded(os.environ.get("PYROVAE_DATA") or "~/.cache/pyrovae")


def read(
    data: "str | os.PathLike[str] | pandas.DataFrame",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    download: bool = True,
    id_column: str | None = None,
    schema: Schema | None = None,
) -> Source:
    """Read a dataset by name, a file or folder by path, or a table in memory.

    Args:
        data: a name in `DATASETS`, or the path of a file with a suffix in `READERS` or of a folder
            of images; or a pandas DataFrame.
        data_dir: folder of named datasets in torchvision's layout; by default `PYROVAE_DATA`, else
            `~/.cache/pyrovae`.
        image_size: height and width to which the images of a folder are resized, one number for
            both; None keeps their size.
        download: whether a missing named dataset may be downloaded.
        id_column: name of the column of a table that identifies rows and is no data.
        schema: of the table that a model was trained on, whose columns are taken from a new table
            by their names; None to recognize the columns.

    Returns:
        The arrays, checked: numeric, not empty, finite or missing (NaN), in a known layout.

    Raises:
        ValueError: for an unknown name, or contents that cannot be read as numbers.
        FileNotFoundError: for a path that does not exist, or a named dataset that is missing and
            could not be downloaded.
        ImportError: if a package that this source needs cannot be imported.
        TypeError: if `data` is neither text nor a path, `image_size` is given for anything other
            than a folder of images, or `id_column` for anything other than a table.

    Example:
        >>> from pyrovae.data import read
        >>> list(read("digits").parts)
        ['all']
    """
    if not isinstance(data, (str, os.PathLike)):
        if type(data).__name__ == "DataFrame":
            return from_frame(data, id_column=id_column, schema=schema)
        raise TypeError(
            f"data must be a name, a path or a DataFrame, got {type(data).__name__}; for an array "
            "or a tensor use Split.from_array"
        )
    text = os.fspath(data)
    path = expanded(text)
    if text in DATASETS:
        for option, use, value in (
            ("image_size", "a folder of images", image_size),
            ("id_column", "a table", id_column),
        ):
            if value is not None:
                raise TypeError(
                    f"{option} is for {use}, and {text} is a named dataset; leave it out"
                )
        folder = default_data_dir() if data_dir is None else expanded(data_dir)
        return DATASETS[text](text, folder, download)
    if text and path.exists():
        check_regular(path)
        return read_path(path, image_size, id_column=id_column, schema=schema)
    if suffix_of(path) is not None or os.sep in text:
        raise FileNotFoundError(f"no file or folder at {path}; check the path")
    nearest = difflib.get_close_matches(text.lower(), DATASETS, n=1, cutoff=0.5)
    hint = f", did you mean {nearest[0]!r}?" if nearest else ";"
    raise ValueError(
        f"unknown dataset {text!r}{hint} names are {', '.join(DATASETS)}; "
        f"a path works too: a file ({', '.join(READERS)}) or a folder of images"
    )


def _digits(name: str, data_dir: Path, download: bool) -> Source:
    """Read scikit-learn's 1,797 digits: 8x8 counts of the set bits in blocks of 4x4 bits."""
    digits = import_for("sklearn.datasets", "scikit-learn", f"the dataset {name}").load_digits()
    x = digits.images.astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    return Source(name, {"all": Rows(x, digits.target.astype(np.int64))}, maximum=16)


def _tensor_rows(train: Any, test: Any) -> dict[str, Rows]:
    """Arrange the MNIST family: `data` (N, H, W), `targets` (N,)."""
    return {
        part: Rows(files.data.numpy()[:, None], files.targets.numpy())
        for part, files in (("train", train), ("test", test))
    }


def _emnist_rows(train: Any, test: Any) -> dict[str, Rows]:
    """Arrange EMNIST, whose images are stored transposed."""
    return {
        part: Rows(np.ascontiguousarray(rows.x.swapaxes(2, 3)), rows.labels)
        for part, rows in _tensor_rows(train, test).items()
    }


def _cifar_rows(train: Any, test: Any) -> dict[str, Rows]:
    return {
        part: Rows(np.ascontiguousarray(np.moveaxis(files.data, 3, 1)), np.array(files.targets))
        for part, files in (("train", train), ("test", test))
    }


def _svhn_rows(train: Any, test: Any) -> dict[str, Rows]:
    return {
        part: Rows(np.ascontiguousarray(files.data), files.labels)
        for part, files in (("train", train), ("test", test))
    }


def _area_weights(size: int, target: int) -> np.ndarray:
    """Return the (target, size) matrix whose rows average equal shares of `size` pixels."""
    edges = np.arange(target + 1) * (size / target)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.clip(overlap, 0, None) * (target / size), np.float32)


def _omniglot_rows(train: Any, test: Any) -> dict[str, Rows]:
    """Arrange Omniglot: drawings in sorted order, averaged down to 28x28, with high values for ink.

    Characters are numbered across both parts, since the evaluation characters are different ones.
    """
    image = import_for("PIL.Image", "pillow", "the dataset omniglot")
    weights = _area_weights(105, 28)
    parts: dict[str, Rows] = {}
    characters = 0
    for part, files in (("train", train), ("test", test)):
        paths = sorted(Path(files.target_folder).glob("*/*/*.png"))
        folders = [path.parent for path in paths]
        _, labels = np.unique([str(folder) for folder in folders], return_inverse=True)
        x = np.empty((len(paths), 1, 28, 28), np.uint8)
        for i, path in enumerate(paths):
            with image.open(path) as file:
                ink = 255.0 - np.asarray(file.convert("L"), np.float32)
            x[i, 0] = np.rint(weights @ ink @ weights.T)
        parts[part] = Rows(x, labels + characters)
        characters += len(set(folders))
    return parts


@dataclass(frozen=True)
class TorchvisionSet:
    """A dataset with an official test set, read and downloaded through torchvision.

    Args:
        reader: name of the class in `torchvision.datasets`.
        files: files that must be in the data folder.
        arrange: function from the two torchvision objects to rows by part.
        train: keyword arguments of the reader for the training file.
        test: keyword arguments of the reader for the test file.

    Example:
        >>> from pyrovae.data import DATASETS
        >>> DATASETS["cifar10"].reader
        'CIFAR10'
    """

    reader: str
    files: tuple[str, ...]
    arrange: Callable[[Any, Any], dict[str, Rows]] = _tensor_rows
    train: Mapping[str, Any] = field(default_factory=lambda: {"train": True})
    test: Mapping[str, Any] = field(default_factory=lambda: {"train": False})

    def __call__(self, name: str, data_dir: Path, download: bool) -> Source:
        """Read the dataset from `data_dir`, and download it first if it is missing."""
        datasets = import_for("torchvision.datasets", "torchvision", f"the dataset {name}")
        reader = getattr(datasets, self.reader)
        if not self.present(data_dir):
            if not download:
                raise FileNotFoundError(
                    f"{name} is not in {data_dir} ({', '.join(self.files)}), and nothing is made "
                    "or downloaded without your word; name the folder that holds it, or that it "
                    "may be downloaded into (--data-dir, or data_dir in Python)"
                )
            reason = self._download(reader, data_dir)
            if not self.present(data_dir):
                raise FileNotFoundError(
                    f"{name} is not in {data_dir} and was not downloaded ({reason}); "
                    f"put {', '.join(self.files)} there, or name another folder "
                    "(data_dir or PYROVAE_DATA)"
                )
        try:
            parts = self.arrange(
                *(reader(str(data_dir), **part) for part in (self.train, self.test))
            )
        except ModuleNotFoundError as error:
            raise ImportError(
                f"the dataset {name} needs {error.name}, which is not installed; "
                f"pip install {error.name}"
            ) from error
        except (RuntimeError, ValueError, TypeError, AssertionError, OSError, EOFError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"the files of {name} in {data_dir} cannot be read ({reason}); "
                f"remove them and load it again: {', '.join(self.files)}"
            ) from error
        return Source(name, parts, maximum=255, holdout=OFFICIAL_HOLDOUT)

    def present(self, data_dir: Path) -> bool:
        """Whether a folder holds the dataset."""
        return all((data_dir / file).exists() for file in self.files)

    def _download(self, reader: Any, data_dir: Path) -> str:
        """Download into a temporary folder, then move the files; return the reason of a failure.

        An interrupted download leaves nothing behind. Archives move last, because torchvision takes
        an archive as a sign that its unpacked files are complete.
        """
        timeout = socket.getdefaulttimeout()
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            with (
                tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as folder,
                contextlib.redirect_stdout(sys.stderr),
            ):
                for part in (self.train, self.test):
                    reader(folder, download=True, **part)
                found = [path for path in Path(folder).rglob("*") if path.is_file()]
                for path in sorted(found, key=lambda p: (p.suffix == ".zip", p)):
                    target = data_dir / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
        except (
            OSError,
            EOFError,
            RuntimeError,
            http.client.HTTPException,
            tarfile.TarError,
            zipfile.BadZipFile,
        ) as error:
            return " ".join(str(error).split())
        finally:
            socket.setdefaulttimeout(timeout)
        return "files were missing from the download"


def _idx_files(folder: str, train: str = "train", test: str = "t10k") -> tuple[str, ...]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{folder}/raw/{part}-{kind}" for part in (train, test) for kind in kinds)


EMNIST_FILES = _idx_files("EMNIST", "emnist-balanced-train", "emnist-balanced-test")

OMNIGLOT_FILES = tuple(
    f"omniglot-py/images_{part}{suffix}"
    for part in ("background", "evaluation")
    for suffix in ("", ".zip")
)

CIFAR10_FILES = tuple(
    f"cifar-10-batches-py/{file}"
    for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
)

SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")

EMNIST_PARTS = ({"split": "balanced", "train": True}, {"split": "balanced", "train": False})
OMNIGLOT_PARTS = ({"background": True}, {"background": False})
SVHN_PARTS = ({"split": "train"}, {"split": "test"})

DATASETS: Mapping[str, Callable[[str, Path, bool], Source]] = {
    "digits": _digits,
    "mnist": TorchvisionSet("MNIST", _idx_files("MNIST")),
    "fashion_mnist": TorchvisionSet("FashionMNIST", _idx_files("FashionMNIST")),
    "kmnist": TorchvisionSet("KMNIST", _idx_files("KMNIST")),
    "emnist": TorchvisionSet("EMNIST", EMNIST_FILES, _emnist_rows, *EMNIST_PARTS),
    "omniglot": TorchvisionSet("Omniglot", OMNIGLOT_FILES, _omniglot_rows, *OMNIGLOT_PARTS),
    "cifar10": TorchvisionSet("CIFAR10", CIFAR10_FILES, _cifar_rows),
    "svhn": TorchvisionSet("SVHN", SVHN_FILES, _svhn_rows, *SVHN_PARTS),
}
"""Readers of the named datasets."""
