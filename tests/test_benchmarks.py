"""The benchmarks run, small, and their figures can be read again."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NET = "784-200-200-50, batches of 100 images"


def run(name, folder, *arguments):
    """Standard output of a benchmark that finds no MNIST."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYROVAE_DATA": str(folder),
        "PYTHONPATH": str(FOLDER.parent),
    }
    command = [sys.executable, str(FOLDER / name), *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def train(folder, *arguments):
    file = folder / "figures.json"
    small = ("--rounds", 2, "--steps", 1, "--epochs", 1, "--images", 250, "--json", file)
    output = run("train.py", folder, "--nets", 200, *small, *arguments)
    return output, json.loads(file.read_text())


@pytest.mark.slow
def test_steps_and_epochs_of_one_run_stand_beside_the_hand_written_ones(tmp_path):
    output, figures = train(tmp_path, "--epoch-nets", "200", "--only", "staged, graph")
    steps, epochs = figures["step"][NET], figures["epoch"][NET]
    assert set(steps) == {
        "hand-written PyTorch",
        "pyrovae staged, graph",
        "pyrovae staged, graph, plain Adam",
    }
    assert set(epochs) == {"hand-written PyTorch", "pyrovae staged, graph"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in steps.values())
    for found in epochs.values():
        assert len(found["seconds"]) == 1
        assert found["peak_bytes"] > 10**8
    again = run("train.py", tmp_path, "--read", tmp_path / "figures.json")
    assert again == output
    markdown = run("train.py", tmp_path, "--read", tmp_path / "figures.json", "--markdown")
    assert len([line for line in markdown.splitlines() if line.startswith("| hand-written")]) == 2


def test_contenders_for_a_gpu_run_on_the_cpu_too(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    on_gpu = importlib.import_module("contenders.on_gpu")
    net = on_gpu.pyrovae_fit.Net(16, 4, 100)
    pixels = np.random.default_rng(0).integers(0, 256, (250, 784), dtype=np.uint8)
    ran = []
    for label, epochs in on_gpu.epochs_on("cpu").items():
        if "inductor" in label or "torch.compile" in label:
            continue  # they take some seconds each
        turns = []
        epochs(net, pixels, 2, lambda turns=turns: turns.append(1))
        assert len(turns) == 3
        ran.append(label)
    assert ran == ["GPU, hand-written, PyTorch", "GPU, pyrovae staged, graph", "GPU, pyrovae eager"]


@pytest.mark.slow
def test_every_contender_whose_packages_are_there_runs(tmp_path):
    _, figures = train(tmp_path, "--epoch-nets", "200")
    steps, epochs = figures["step"][NET], figures["epoch"][NET]
    always = {
        "matrix products alone",
        "hand-written PyTorch",
        "hand-written, torch.compile",
        "pyrovae staged, inductor",
        "pyrovae staged, graph",
        "pyrovae eager",
    }
    assert always | {"Pyro SVI.step as shipped"} <= set(steps)
    assert always | {"Pyro SVI.step, in memory"} <= set(epochs)
    absent = " ".join(figures["left_out"])
    assert "DataLoader" in absent  # torchvision finds no MNIST
    for package, label in (("numpyro", "NumPyro"), ("pythae", "pythae")):
        assert (label in steps and label in epochs) or package in absent


@pytest.mark.slow
def test_startup_prints_its_limits(tmp_path):
    file = tmp_path / "figures.json"
    output = run("startup.py", tmp_path, "--rounds", 1, "--json", file)
    seconds = json.loads(file.read_text())["seconds"]
    assert len(seconds) == 5
    for label, values in seconds.items():
        assert label in output
        assert len(values) == 1
    # a limit in seconds is of one machine; test_imports.py says what is not imported
    assert seconds["import pyrovae, after them"] < seconds["import torch, pyro"]


@pytest.mark.slow
def test_imputed_tables_are_measured_once_and_shown_again(tmp_path):
    file = tmp_path / "figures.json"
    small = ("--tables", "iris", "--masks", 2, "--steps", 50, "--samples", 30, "--json", file)
    output = run("imputation.py", tmp_path, *small)
    figures = json.loads(file.read_text())["tables"]["iris"]
    assert set(figures) == {"0", "1"}
    for found in figures.values():
        assert 0.9 < found["column mean"] < 1.2
        assert 0.5 < found["coverage"] <= 1
        assert all(0.4 < found[name] < 2 for name in ("KNNImputer", "IterativeImputer", "pyrovae"))
    assert run("imputation.py", tmp_path, *small).splitlines()[1:] == output.splitlines()[1:]
    assert json.loads(file.read_text())["tables"]["iris"] == figures
    markdown = run("imputation.py", tmp_path, "--read", file, "--markdown")
    assert "| iris | 2 |" in markdown


def bits_in_files(folder, seed=0):
    """Files laid out as Larochelle's are: a line for each image, bits between blanks."""
    rng = np.random.default_rng(seed)
    for part, rows in {"train": 60, "valid": 20, "test": 30}.items():
        bits = (rng.random((rows, 784)) < 0.13).astype(int)
        np.savetxt(folder / f"binarized_mnist_{part}.amat", bits, fmt="%d")


@pytest.mark.slow
def test_a_published_row_is_trained_once_and_stands_beside_the_published_figure(tmp_path):
    bits_in_files(tmp_path)
    runs = tmp_path / "runs"
    static = ("--table", "vampprior", "--row", "standard, static", "--data-dir", tmp_path)
    small = ("--epochs", 1, "--samples", 3, "--batch-size", 20, "--out", runs)
    output = run("published.py", tmp_path, *static, *small)
    file = runs / "vampprior-standard-static-seed0" / "result.json"
    result = json.loads(file.read_text())
    assert result["images"] == 30
    assert 100 < result["nll"] < result["negative_elbo"] < 1_000
    assert 0 < result["standard_error"] < 1_000
    (row,) = (line for line in output.splitlines() if line.startswith("standard, static"))
    assert "88.56 (*)" in row
    assert f"{result['nll']:.2f} ± {result['standard_error']:.2f}" in row
    assert "not read in the paper" in output
    written = file.stat().st_mtime_ns
    again = run("published.py", tmp_path, *static, *small)
    assert again == output
    assert file.stat().st_mtime_ns == written
    shown = run("published.py", tmp_path, "--read", "--markdown", "--out", runs)
    assert "| vamp, dynamic | 82.38 (*) | not run |" in shown


def test_no_other_binarization_stands_in_for_larochelles(tmp_path):
    output = run("published.py", tmp_path, "--row", "vamp, static", "--data-dir", tmp_path)
    (row,) = (line for line in output.splitlines() if line.startswith("vamp, static"))
    assert "not run: binarized_mnist_train.amat, binarized_mnist_valid.amat" in row
    assert not list(tmp_path.glob("**/result.json"))


@pytest.mark.slow
def test_what_grows_with_what_is_measured_for_every_part(tmp_path):
    file = tmp_path / "figures.json"
    small = ("--rounds", 1, "--data", 70, 140, "--samples", 2, 4, "--images", 4, "--draws", 4)
    output = run("scale.py", tmp_path, *small, "--only", "data", "batch", "draws", "--json", file)
    figures = json.loads(file.read_text())
    assert list(figures) == ["machine", "data", "batch", "draws"]
    assert list(figures["data"]) == ["70", "140"]
    assert figures["data"]["140"]["epoch, s"] > 0
    assert list(figures["draws"]) == ["2", "4"]
    assert "step, ms" in output


@pytest.mark.slow
def test_estimators_on_photographs_are_compared_on_the_same_images(tmp_path):
    file = tmp_path / "photographs.json"
    small = ("--epochs", 1, "--images", 3, "--methods", "iw", "mixture", "--json", file)
    output = run("photographs.py", tmp_path, *small)
    rows = json.loads(file.read_text())["rows"]
    assert set(rows) == {"iw", "mixture"}
    for row in rows.values():
        mean = row["found"]["log_evidence"]["estimate"]
        assert mean == pytest.approx(np.mean(row["log_evidence"]))
        assert len(row["log_evidence"]) == 3
        assert 1 <= row["ess"] <= 1_000
        assert row["error"] > 0
    again = run("photographs.py", tmp_path, "--read", file)
    assert again == output
    difference = np.subtract(rows["mixture"]["log_evidence"], rows["iw"]["log_evidence"]).mean()
    assert f"{difference:.1f} ±" in output


@pytest.mark.slow
def test_likelihoods_of_the_digits_are_compared_on_validation_data(tmp_path):
    file = tmp_path / "digits.json"
    small = ("--epochs", 1, "--seeds", 2, "--likelihoods", "binomial", "poisson", "--json", file)
    output = run("digits.py", tmp_path, *small)
    found = json.loads(file.read_text())["found"]
    assert [len(runs) for runs in found.values()] == [2, 2]
    assert len(found["poisson"][0]["log_evidence"]) == 180
    means = [np.mean([each["log_evidence"] for each in runs]) for runs in found.values()]
    assert f"{means[1] - means[0]:+.2f} (" in output
    assert run("digits.py", tmp_path, *small) == output
