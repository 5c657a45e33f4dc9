"""Every example runs, small, and none is left out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

ARGUMENTS = {
    "quickstart.py": ["--epochs", "2", "--samples", "5"],
    "anomaly.py": ["--epochs", "1", "--samples", "2", "--count", "20"],
    "impute.py": ["--epochs", "1", "--count", "2"],
    "docs_figures.py": ["--epochs", "2", "--out", "images"],
    "evidence_identity.py": ["--epochs", "2"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs an example once, in an empty folder; its output and the folder."""
    done = {}

    def run_once(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("example")
            command = [sys.executable, str(ROOT / "examples" / name), *ARGUMENTS[name]]
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
            result = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr
            done[name] = result.stdout, folder
        return done[name]

    return run_once


def test_every_example_has_arguments_for_a_small_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs_and_prints_its_result(run, name):
    output, _ = run(name)
    assert re.search(r"-\d+\.\d+ \+- \d+\.\d+", output)


def test_impute_draws_its_picture(run):
    output, folder = run("impute.py")
    assert output.count("log p(upper half)") == 2
    with Image.open(folder / "imputed.png") as picture:
        assert min(picture.size) > 300


def test_anomaly_scores_both_ways_round(run):
    output, folder = run("anomaly.py")
    for data, other in (("digits", "shapes"), ("shapes", "digits")):
        table = output.partition(f"trained on {data}")[2].partition("trained on")[0]
        assert re.search(
            rf"^{other}  .*( +[01]\.\d{{3}} \+- \d\.\d{{3}}){{3}}$", table, re.MULTILINE
        )
        assert (folder / f"anomaly-{data}.png").is_file()


def test_quickstart_compares_four_priors(run):
    rows = run("quickstart.py")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == [
        "StandardNormal",
        "Laplace",
        "GaussianMixture",
        "StudentT",
    ]
    for row in rows:
        elbo, evidence = (float(number) for number in re.findall(r"(-\d+\.\d+) \+-", row))
        assert elbo < evidence


def test_pictures_of_the_docs_are_those_that_the_example_makes(run):
    made = {path.name for path in (run("docs_figures.py")[1] / "images").iterdir()}
    kept = list((ROOT / "docs" / "images").iterdir())
    assert {path.name for path in kept} == made | {
        "comparison.png",  # the commands in compare.md and diagnose.md
        "rate_distortion.png",
        "anomaly-digits.png",  # examples/anomaly.py
        "anomaly-shapes.png",
    }
    for path in kept:
        assert path.stat().st_size < 250_000
        with Image.open(path) as image:
            assert min(image.size) > 400
