"""``pyrovae impute`` and ``pyrovae score``: what they write, and what they refuse."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import pyrovae
from pyrovae.data import load
from pyrovae.evidence import per_example
from pyrovae.runs import Config, start
from tests.oracles import assert_finite, assert_within


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run on the digits, trained for an epoch."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    model = {"latent_dim": 2, "encoder": "mlp:hidden_dims=16", "decoder": "mlp:hidden_dims=16"}
    config, digits = Config.resolve({"model": model, "training": {"epochs": 1}})
    start(config, digits, folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def some_digits():
    return load("digits").test.batch(np.arange(12)).numpy()


def test_impute_draws_a_picture_and_says_its_numbers(command, run):
    result = command("impute", run, "--mask", "lower", "--count", 3, "--completions", 2)
    assert result.status == 0, result.err
    assert "importance-weighted lower bound on log p(x_obs)" in result.out
    assert result.out.count("32 of 64 observed  log p(x_obs)") == 3
    assert result.out.splitlines()[-1] == str(run / "figures" / "imputed.png")
    with Image.open(run / "figures" / "imputed.png") as picture:
        assert min(picture.size) > 300


def test_impute_writes_completions_that_keep_what_is_observed(command, run, tmp_path):
    out = tmp_path / "made.npz"
    options = ("--mask", "random:0.6", "--count", 3, "--completions", 4, "--json", "--out", out)
    result = command("impute", run, *options)
    said = json.loads(result.out)
    assert said["file"] == str(out)
    assert (said["samples"], said["images"], said["method"]) == (1_000, 3, "importance")
    with np.load(out) as made:
        arrays = dict(made)
    seen, x = arrays["observed"], arrays["x"]
    assert arrays["completions"].shape == (3, 4, 1, 8, 8)
    for draw in arrays["completions"].swapaxes(0, 1):
        assert (draw[seen] == x[seen]).all()
    for row, evidence, error in zip(
        said["rows"], arrays["log_evidence"], arrays["standard_error"], strict=True
    ):
        assert row["log_evidence"] == {"estimate": evidence, "standard_error": error}
    assert arrays["effective"].shape == (3,)
    again = command("impute", run, *options)
    assert again.out == result.out
    with np.load(out) as made:
        assert (made["completions"] == arrays["completions"]).all()


@pytest.mark.filterwarnings("ignore")
def test_impute_by_nuts(command, run, tmp_path):
    out = tmp_path / "made.npz"
    options = ("--mask", "upper", "--count", 1, "--samples", 20, "--out", out)
    result = command("impute", run, *options, "--method", "nuts")
    assert result.status == 0, result.err
    assert "r_hat" in result.out
    with np.load(out) as made:
        assert "log_evidence" not in made
        assert made["r_hat"].shape == (1,)


def test_nan_in_a_file_is_missing(command, run, tmp_path, some_digits):
    x = some_digits.astype(np.float32)
    x[:, :, :3] = np.nan
    np.save(tmp_path / "holes.npy", x)
    out = tmp_path / "made.npz"
    result = command("impute", run, "--data", tmp_path / "holes.npy", "--count", 2, "--out", out)
    assert result.status == 0, result.err
    assert "40 of 64 observed" in result.out
    with np.load(out) as made:
        assert (made["observed"] == ~np.isnan(x[:2])).all()
        assert (made["completions"][:, :, :, 3:] == x[:2, None, :, 3:]).all()
    both = command("impute", run, "--data", tmp_path / "holes.npy", "--mask", "left", "--count", 2)
    assert "20 of 64 observed" in both.out
    np.save(tmp_path / "nothing.npy", np.full_like(x, np.nan))
    refused = command("impute", run, "--data", tmp_path / "nothing.npy")
    assert refused.status == 2
    assert "holds no value, since all are missing (NaN)" in refused.err


def test_impute_refuses_in_one_line_and_writes_nothing(command, run, tmp_path):
    np.save(tmp_path / "other.npy", np.ones((1, 4, 4)))
    np.save(tmp_path / "small.npy", np.ones((10, 1, 4, 4), np.int64))
    before = {path.name for path in (run / "figures").glob("*")}
    for options, message in (
        ((), "nothing is missing in the 8 examples; hide some values with --mask"),
        (("--mask", "middle"), "unknown mask 'middle'"),
        (("--mask", tmp_path / "other.npy"), "has the shape (1, 4, 4)"),
        (("--mask", "lower", "--method", "gibbs"), "'gibbs' is not one of importance, nuts"),
        (("--mask", "lower", "--samples", "3"), "samples must be at least 20, got 3"),
        (("--mask", "lower", "--out", "x.csv"), "its ending must be .png or .npz"),
        (("--mask", "lower", "--data", tmp_path / "small.npy"), "of shape (1, 8, 8)"),
    ):
        result = command("impute", run, *options)
        assert result.status == 2
        assert result.err.count("\n") == 1
        assert message in result.err
    assert {path.name for path in (run / "figures").glob("*")} == before


def test_score_writes_the_bound_of_each_example(command, run, tmp_path, some_digits, monkeypatch):
    monkeypatch.setattr("pyrovae.evidence.proposals.AFFORDABLE", 10**12)  # as it is for users
    np.savez(tmp_path / "x.npz", x=some_digits.astype(np.int64), y=np.arange(12))
    rows = {}
    for ending in ("csv", "npz"):
        out = tmp_path / f"scores.{ending}"
        options = ("--data", tmp_path / "x.npz", "--samples", 50, "--out", out, "--json")
        result = command("score", run, *options)
        assert result.status == 0, result.err
        rows[ending] = out
    said = json.loads(result.out)
    assert said["kind"] == "importance-weighted lower bound, from q refined for each example"
    assert (said["samples"], said["examples"]) == (50, 12)
    with rows["csv"].open(newline="") as file:
        table = list(csv.DictReader(file))
    with np.load(rows["npz"]) as arrays:
        for name in ("log_evidence", "standard_error", "ess", "pareto_k", "label"):
            column = [float(row[name]) for row in table]
            np.testing.assert_allclose(column, arrays[name], rtol=1e-6)
        found = per_example(
            pyrovae.load(run),
            pyrovae.data.Split.from_array(some_digits),
            samples=50,
            proposal="refined",
        )
        assert_finite(arrays["log_evidence"])
        np.testing.assert_allclose(arrays["log_evidence"], found.log_evidence, rtol=1e-6)
        assert said["log_evidence"]["estimate"] == pytest.approx(arrays["log_evidence"].mean())


def test_score_by_the_mixture_agrees_within_errors(command, run, tmp_path, some_digits):
    """Within 5 standard errors of the two together."""
    np.save(tmp_path / "x.npy", some_digits[:4].astype(np.int64))
    found = []
    for proposal, samples in (("posterior", 20_000), ("mixture", 1_000)):
        out = tmp_path / f"{proposal}.npz"
        options = ("--data", tmp_path / "x.npy", "--samples", samples, "--out", out)
        result = command("score", run, *options, "--proposal", proposal)
        assert result.status == 0, result.err
        with np.load(out) as arrays:
            found.append(dict(arrays))
    error = np.hypot(*(each["standard_error"] for each in found))
    assert_within(found[0]["log_evidence"], found[1]["log_evidence"], error, 5)
    assert (found[1]["pareto_k"] < 0.7).all()


def test_score_refuses_in_one_line_and_writes_nothing(command, run, tmp_path):
    np.save(tmp_path / "small.npy", np.ones((10, 1, 4, 4), np.int64))
    np.save(tmp_path / "real.npy", np.full((10, 1, 8, 8), 0.5))
    for options, message in (
        (("--out", "x.txt"), "its ending must be .csv or .parquet or .npz"),
        (("--out", "x.csv", "--data", tmp_path / "small.npy"), "of shape (1, 8, 8)"),
        (("--out", "x.csv", "--data", tmp_path / "real.npy"), "counts out of 16"),
        (("--out", "x.csv", "--data", "nothing"), "unknown dataset 'nothing'"),
        (("--out", "x.csv", "--proposal", "prior"), "'prior' is not one of 'auto', 'posterior'"),
    ):
        result = command("score", run, *options)
        assert result.status == 2
        assert result.err.count("\n") == 1
        assert message in result.err
    assert not (tmp_path / "x.csv").exists()


def test_score_refuses_a_point(command, tmp_path):
    model = {"latent_dim": 2, "posterior": "point", "encoder": "mlp:hidden_dims=8"}
    config, digits = Config.resolve({"model": model, "training": {"epochs": 1}})
    start(config, digits, tmp_path / "point")
    result = command("score", "point", "--out", "x.csv", "--samples", 2)
    assert result.status == 2
    assert "Point has no density to weight draws by; use the proposal mixture" in result.err


def test_decode_decodes_what_encode_wrote(command, run, tmp_path):
    vae = pyrovae.load(run)
    for ending in ("npz", "csv"):
        assert command("encode", run, "--out", f"z.{ending}").status == 0
        assert command("decode", run, "--z", f"z.{ending}", "--out", f"{ending}.npy").status == 0
    with np.load("z.npz") as file, torch.no_grad():
        means = vae.decode(vae.place(file["loc"]))
        np.save("z.npy", file["loc"])
    np.testing.assert_allclose(np.load("npz.npy"), means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.load("csv.npy"), means, rtol=1e-4, atol=1e-4)
    for name in ("one", "two"):
        command("decode", run, "--z", "z.npy", "--draws", "--seed", 3, "--out", f"{name}.npy")
    np.testing.assert_array_equal(np.load("one.npy"), np.load("two.npy"))
    assert (np.load("one.npy") == np.load("one.npy").round()).all()  # counts, no means
    result = command("decode", run, "--z", "z.npy")
    assert result.out == f"{run}/figures/decoded.png\n"


def test_decode_refuses_in_one_line(command, run):
    np.save("wide.npy", np.zeros((3, 7)))
    np.save("nan.npy", np.full((3, pyrovae.load(run).latent_dim), np.nan))
    np.save("words.npy", np.array([["a", "b"]]))
    np.savez("other.npz", x=np.zeros((3, 2)))
    with open("other.csv", "w") as file:
        file.write("a,b\n1,2\n")
    with open("pickle.npy", "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    for name, message in {
        "absent.npy": "there is no file",
        "wide.npy": "of shape (3, 7); codes are numbers of shape (n, ",
        "nan.npy": "finite numbers only",
        "words.npy": "codes are numbers of shape",
        "other.npz": "holds no codes that can be read",
        "other.csv": "with columns z1 to z",
        "pickle.npy": "holds no codes that can be read",
        ".": "Is a directory",
    }.items():
        result = command("decode", run, "--z", name, "--out", "x.npy")
        assert (result.status, result.out) == (2, ""), name
        assert message in result.err, result.err
        assert result.err.count("\n") == 1
    assert not os.path.exists("x.npy")
