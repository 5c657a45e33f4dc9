"""The page of several runs: paired differences, the same noise, and refusals."""

import re
import shutil

import numpy as np
import pytest

from pyrovae.estimates import Estimate
from pyrovae.evidence import per_example
from pyrovae.report import FILE_OF_SEVERAL, value, write_comparison
from tests.report.pages import Checked, finished


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    priors = ("normal", "laplace", "learned_normal")
    return [finished(folder / prior, prior=prior) for prior in priors]


def test_differences_are_paired_and_the_settings_that_differ_are_listed(runs, tmp_path):
    told = []
    only = [run for run, _, _ in runs]
    path = write_comparison(only, tmp_path / "page.html", progress=told.append)
    page = Checked(path.read_text("utf-8"))
    assert page.scripts == 0
    assert sum(told) == 3 * 359
    bounds = [
        per_example(vae, dataset.test, samples=1_000).log_evidence for _, vae, dataset in runs
    ]
    assert all(value(Estimate.of(bound)) in page.words for bound in bounds)
    for bound in bounds[1:]:
        paired = Estimate.of(bound - bounds[0])
        assert value(paired) in page.words
        assert paired.standard_error < Estimate.of(bound).standard_error
    differing = page.words.partition("What differs")[2].rpartition("What differs")[2]
    assert "model.prior" in differing
    assert "model.decoder" not in page.words
    again = write_comparison(only, tmp_path / "again.html")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_density_and_a_probability_have_no_difference(runs, tmp_path):
    other = finished(tmp_path / "dense", likelihood="normal")[0]
    path = write_comparison([runs[0][0], other], tmp_path / "page.html")
    page = Checked(path.read_text("utf-8"))
    assert "of another kind" in page.words
    row = re.search(r'<th scope="row">dense</th><td>[^<]+</td><td>([^<]+)</td>', path.read_text())
    assert row[1] == "\N{EN DASH}"


@pytest.mark.slow
def test_tables_stand_side_by_side_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3)).round(2)
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="a,b,c", comments="")
    data = {"name": str(tmp_path / "t.csv")}
    both = [finished(tmp_path / p, data, prior=p, latent_dim=1)[0] for p in ("normal", "laplace")]
    page = Checked(write_comparison(both, tmp_path / "page.html").read_text("utf-8"))
    assert "histogram" in page.words


def test_the_command_sets_runs_side_by_side_and_refuses_in_one_line(command, runs, tmp_path):
    for run, _, _ in runs:
        shutil.copytree(run.folder, tmp_path / "runs" / run.folder.name)
    result = command("report", "runs/normal", "runs/laplace", "--quiet")
    assert (result.status, result.out) == (0, f"report   runs/{FILE_OF_SEVERAL}\n")
    np.save(tmp_path / "other.npy", np.zeros((30, 4), np.int64))
    finished(tmp_path / "other", {"name": str(tmp_path / "other.npy")})
    for arguments, message in (
        (("runs/normal", "runs/normal"), "is named twice"),
        (("runs/normal", "other"), "are of different data"),
        (("runs/normal", "none"), "there is no run at none"),
        ((), "missing argument 'RUN...'"),
    ):
        result = command("report", *arguments)
        assert result.status == 2
        assert message in result.err
