"""Named datasets are read from torchvision's layout, and say what is missing."""

import importlib
import pickle
import socket
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from pyrovae.data import catalog
from pyrovae.data.catalog import DATASETS, TorchvisionSet, default_data_dir, read

RNG = np.random.default_rng(5)
PUBLISHED = [name for name, source in DATASETS.items() if isinstance(source, TorchvisionSet)]


@pytest.fixture
def short_holdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "OFFICIAL_HOLDOUT", 5)


def write_idx(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, x.ndim]) + b"".join(n.to_bytes(4, "big") for n in x.shape)
    path.write_bytes(header + x.astype(np.uint8).tobytes())


def write_mnist_family(name: str, data_dir: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    written = []
    files = DATASETS[name].files  # type: ignore[attr-defined]
    for rows, images, labels in ((30, *files[:2]), (20, *files[2:])):
        x = RNG.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        y = RNG.integers(0, 10, rows)
        write_idx(data_dir / images, x)
        write_idx(data_dir / labels, y)
        written.append((x, y))
    return written


def no_network(*args: Any, **kwargs: Any) -> None:
    raise urllib.error.URLError("no network in this test")


# Readers


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "emnist"])
def test_the_mnist_family_is_read_from_idx_files(tmp_path: Path, name: str) -> None:
    written = write_mnist_family(name, tmp_path)
    source = read(name, data_dir=tmp_path, download=False)
    assert source.maximum == 255
    assert source.holdout == 5_000
    assert not source.unit_interval
    for rows, (x, y) in zip(source.parts.values(), written, strict=True):
        upright = x.swapaxes(1, 2) if name == "emnist" else x
        assert rows.x.dtype == np.uint8
        assert (rows.x[:, 0] == upright).all()
        assert rows.labels is not None
        assert (rows.labels == y).all()


def test_cifar10_is_read_from_its_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    x = RNG.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    y = RNG.integers(0, 10, 60)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for i, name in enumerate(names):
        rows = slice(10 * i, 10 * i + 10)
        batch = {"data": x[rows].reshape(10, -1), "labels": y[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, None] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": None})
    parts = read("cifar10", data_dir=tmp_path, download=False).parts
    assert (parts["train"].x == x[:50]).all()
    assert (parts["test"].x == x[50:]).all()
    assert parts["train"].labels is not None
    assert (parts["train"].labels == y[:50]).all()


def test_svhn_is_read_from_its_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    y = np.arange(12) % 10 + 1
    urls = {}
    for part in ("train", "test"):
        file = f"{part}_32x32.mat"
        scipy.io.savemat(tmp_path / file, {"X": x.transpose(2, 3, 1, 0), "y": y[:, None]})
        urls[part] = ["", file, None]
    monkeypatch.setattr(datasets.SVHN, "split_list", urls)
    parts = read("svhn", data_dir=tmp_path, download=False).parts
    assert (parts["train"].x == x).all()
    assert parts["train"].x.flags.c_contiguous
    assert parts["test"].labels is not None
    assert (parts["test"].labels == y % 10).all()


def test_omniglot_is_averaged_to_28_with_high_ink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = np.ones((105, 105), bool)
    paper[:15, :15] = False  # 4 pixels of 3.75 across
    for part in ("background", "evaluation"):
        for alphabet, character in (("B", "1"), ("A", "2"), ("A", "1")):
            folder = tmp_path / "omniglot-py" / f"images_{part}" / alphabet / character
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(paper).save(folder / f"{i}.png")
        (tmp_path / "omniglot-py" / f"images_{part}.zip").touch()
    md5 = dict.fromkeys(("images_background", "images_evaluation"))
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", md5)
    parts = read("omniglot", data_dir=tmp_path, download=False).parts
    assert parts["train"].labels is not None
    assert parts["test"].labels is not None
    assert parts["train"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert parts["test"].labels.tolist() == [3, 3, 4, 4, 5, 5]
    expected = np.zeros((28, 28), np.uint8)
    expected[:4, :4] = 255
    assert (parts["train"].x == expected).all()


def test_area_weights_average_quarters_of_pixels_in_blocks_of_fifteen() -> None:
    x = RNG.random((105, 3))
    quarters = np.repeat(x, 4, axis=0)  # 420 = 28 * 15
    assert np.allclose(catalog._area_weights(105, 28) @ x, quarters.reshape(28, 15, 3).mean(1))


# What is missing or damaged


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("download", [True, False])
def test_a_missing_set_fails_promptly_and_lists_its_files(
    tmp_path: Path,
    name: str,
    download: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"it waited {seconds} s"))
    with pytest.raises(FileNotFoundError) as caught:
        read(name, data_dir=tmp_path / "new", download=download)
    message = str(caught.value)
    assert "\n" not in message
    assert all(file in message for file in DATASETS[name].files)  # type: ignore[attr-defined]
    assert str(tmp_path / "new") in message
    assert ("no network" in message) == download
    assert not list(tmp_path.glob("new/*"))
    assert not list(tmp_path.glob("new/.*"))
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written_is_reported_as_missing_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"mnist is not in .*MNIST/raw/train-images"):
        read("mnist", data_dir=tmp_path / "file")


def test_a_download_is_moved_into_place_with_clean_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timeouts = []

    def fetch(self: datasets.MNIST) -> None:
        print("progress")
        timeouts.append(socket.getdefaulttimeout())
        if not self._check_exists():
            write_mnist_family("mnist", Path(self.root))

    monkeypatch.setattr(datasets.MNIST, "download", fetch)
    source = read("mnist", data_dir=tmp_path)
    assert len(source.parts["train"].x) == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]
    assert capsys.readouterr().out == ""
    assert timeouts[0] is not None
    assert socket.getdefaulttimeout() is None


def test_an_interrupted_download_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_half(self: datasets.MNIST) -> None:
        write_idx(Path(self.raw_folder) / "train-images-idx3-ubyte", np.zeros((3, 28, 28)))
        raise RuntimeError("connection\nlost")

    monkeypatch.setattr(datasets.MNIST, "download", fetch_half)
    with pytest.raises(FileNotFoundError, match=r"not downloaded \(connection lost\)"):
        read("mnist", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_partial_set_is_completed_by_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "MNIST/raw/train-images-idx3-ubyte", np.zeros((3, 28, 28)))

    def fetch(self: datasets.MNIST) -> None:
        write_mnist_family("mnist", Path(self.root))

    monkeypatch.setattr(datasets.MNIST, "download", fetch)
    assert len(read("mnist", data_dir=tmp_path).parts["train"].x) == 30


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_mnist_family("kmnist", tmp_path)
    path = tmp_path / "KMNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"kmnist in .* cannot be read .*remove them and load"):
        read("kmnist", data_dir=tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("operator\nmissing"), OSError("libtorch.so")])
def test_a_torchvision_that_does_not_import_stops_its_own_sets_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name.startswith("torchvision"):
            raise error
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match=r"mnist needs torchvision.*pip install.* torchvision$"):
        read("mnist", data_dir=tmp_path)
    assert len(read("digits").parts["all"].x) == 1797


def test_svhn_without_scipy_names_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}_32x32.mat").touch()

    def lacking(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(datasets, "SVHN", lacking)
    with pytest.raises(ImportError, match=r"svhn needs scipy.*pip install scipy"):
        read("svhn", data_dir=tmp_path)


# Names and paths


def test_digits_are_counts_out_of_16() -> None:
    source = read("digits")
    rows = source.parts["all"]
    assert rows.x.shape == (1797, 1, 8, 8)
    assert rows.x.dtype == np.uint8
    assert rows.x.max() == source.maximum == 16
    assert rows.x.min() == 0
    assert rows.labels is not None
    assert set(rows.labels) == set(range(10))


def test_an_unknown_name_lists_names_suggests_one_and_mentions_paths() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'fashion_mnist'.*digits.*a path works too"):
        read("fashion-mnist")
    with pytest.raises(ValueError, match=r"unknown dataset 'zzzz'; names are digits, mnist"):
        read("zzzz")
    with pytest.raises(ValueError, match="unknown dataset ''"):
        read("")


@pytest.mark.parametrize("path", ["nothing.npy", "some/folder"])
def test_a_path_to_nothing_says_so(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"no file or folder at {path}"):
        read(path)


def test_data_must_be_text_or_a_path() -> None:
    with pytest.raises(TypeError, match=r"got ndarray; .*Split\.from_array"):
        read(np.zeros((12, 3)))  # type: ignore[arg-type]


def test_image_size_is_refused_for_a_name() -> None:
    with pytest.raises(TypeError, match="image_size is for a folder of images"):
        read("digits", image_size=4)


def test_the_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYROVAE_DATA", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.setenv("PYROVAE_DATA", "")
    assert default_data_dir() == Path.home() / ".cache/pyrovae"
