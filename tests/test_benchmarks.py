"""The benchmarks run, small, and their figures can be read again."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_startup_prints_its_limits(tmp_path):
    file = tmp_path / "figures.json"
    output = run("startup.py", tmp_path, "--rounds", 1, "--json", file)
    seconds = json.loads(file.read_text())["seconds"]
    assert len(seconds) == 5
    for label, values in seconds.items():
        assert label in output
        assert len(values) == 1
    assert seconds["import pyrovae, after them"][0] < 0.3
