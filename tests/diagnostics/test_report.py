"""A diagnosis says of models that are known what is known of them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae import plots
from pyrovae.data import Dataset, Split, load
from pyrovae.diagnostics.report import diagnose
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.runs import as_json
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import make_pair as make
from tests.oracles import assert_finite

PAIRS = [
    ("normal", "diagonal"),
    pytest.param("mixture", "full", marks=pytest.mark.slow),
    ("vamp", "laplace"),
    pytest.param("flow", "low_rank", marks=pytest.mark.slow),
    pytest.param("laplace", "flow", marks=pytest.mark.slow),
    ("sphere", "power_spherical"),
    ("categorical", "relaxed_categorical"),
    ("student_t", "point"),
]


class Decoder(nn.Module):
    """x given z: a normal around a multiple of z."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, z):
        return dist.Normal(self.slope * z, 1.0).to_event(1)


class Columns(nn.Module):
    """Means that are multiples of the columns of x, and one scale."""

    def __init__(self, slopes, scale):
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes))
        self.log_scale = float(np.log(scale))

    def forward(self, x):
        loc = self.slopes * x
        return torch.stack([loc, torch.full_like(loc, self.log_scale)], -2)


def model(slopes, scale, slope):
    dim = len(slopes)
    posterior = DiagonalNormal(dim, (dim,), lambda *shapes: Columns(slopes, scale))
    return VAE(StandardNormal(dim), Decoder(slope), posterior)


def dataset(seed, scale, dim, count=400, labels=False):
    rng = np.random.default_rng(seed)

    def split(rows):
        x = (scale * rng.normal(size=(rows, dim))).astype(np.float32)
        return Split.from_array(x, (x[:, 0] > 0).astype(int) if labels else None)

    parts = {"train": split(count), "validation": split(20), "test": split(count)}
    treatment = {"binarization": "none", "scaling": "none", "maximum": None, "splits": ""}
    return Dataset(name="known", unit_interval=False, statistics={}, seeds={}, **treatment, **parts)


@pytest.fixture(scope="module")
def few_digits():
    whole = load("digits")
    parts = {}
    for name, count in {"train": 200, "validation": 20, "test": 90}.items():
        split = getattr(whole, name)
        x = (split.batch(np.arange(count)) > 8).float()
        parts[name] = Split.from_array(x, split.labels[:count])
    return replace(whole, **parts)


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_and_codes_of_the_true_model_pass_every_test(seed):
    """z ~ N(0, I), x = 2 z + noise, and the exact posterior: nothing is to be told apart."""
    exact = model([0.4, 0.4], 0.2**0.5, 2.0)
    report = diagnose(exact, dataset(seed, 5**0.5, 2), seed=seed)
    tests = [report.population.groups[0].test, *(row.test for row in report.samples)]
    assert len(tests) == 5
    assert all(test.p_value > 1e-3 for test in tests)
    assert report.collapse.verdict == "none"
    assert report.probes is None
    assert_finite(report.use_of_code.value)
    assert report.use_of_code.value > 1


def test_a_posterior_that_is_the_same_for_all_is_called_a_full_collapse():
    report = diagnose(model([0.0, 0.0], 1.0, 1.0), dataset(0, 1.0, 2, 100))
    assert report.surgery.mutual_information.value == pytest.approx(0, abs=1e-6)
    assert report.collapse.verdict == "full"
    reason = report.collapse.reason
    assert "the encoder gives every example nearly the same posterior" in reason
    assert "the code holds" in reason
    assert "0 of 2 dimensions are active" in reason


def test_a_decoder_that_ignores_the_code_is_named():
    report = diagnose(model([0.9, 0.9], 0.3, 0.0), dataset(0, 1.0, 2, 100))
    assert report.collapse.verdict == "full"
    assert report.collapse.reason.startswith("the decoder ignores z: the code holds")
    assert report.use_of_code.value == pytest.approx(0, abs=1e-6)


def test_dimensions_that_are_off_are_called_a_partial_collapse():
    report = diagnose(model([0.9, 0.0, 0.9], 0.4, 1.0), dataset(0, 1.5, 3, 100))
    assert report.collapse.verdict == "partial"
    assert report.collapse.reason.startswith("2 of 3 dimensions are active")
    assert report.active_units == 2
    off = report.surgery.dimensions[1].mutual_information.value
    assert off == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_that_are_halves_of_a_dimension_are_read_from_the_codes(seed):
    exact = model([0.95, 0.95], 0.2, 1.0)
    report = diagnose(exact, dataset(seed, 1.0, 2, 300, labels=True), seed=seed)
    probes = report.probes
    assert probes.codes.linear.value > 0.97
    assert (probes.trained_on, probes.tested_on) == (300, 300)
    for kind in ("linear", "neighbors"):
        difference = getattr(probes.codes, kind).value - getattr(probes.pixels, kind).value
        assert getattr(probes.difference, kind).value == pytest.approx(difference)
    everything, *halves = report.population.groups
    for half in halves:
        assert_finite(half.marginal_kl.value, everything.marginal_kl.value)
        assert half.marginal_kl.value > everything.marginal_kl.value + 0.3
        assert half.test.accuracy.value > 0.65


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_every_kind_of_model_gets_what_applies(prior, posterior, few_digits):
    vae = make(prior, posterior)
    report = diagnose(vae, few_digits, draws=3, limit=60)
    json.loads(as_json(report.to_dict()))
    assert (report.examples, report.available) == (60, 90)
    assert len(report.activity) == report.latent_dim == vae.latent_dim
    assert len(report.samples) == 4
    assert all(0 <= row.test.accuracy.value <= 1 for row in report.samples)
    assert 0 < report.probes.codes.linear.standard_error < math.inf
    groups = report.population.groups
    assert groups[0].label is None
    assert groups[0].test is not None
    pictures = plots.diagnosis_figures(vae, report)
    if posterior == "point":
        assert report.surgery is None
        assert "is a point, which has no density" in report.no_surgery
        assert groups[0].marginal_kl is None
        assert list(pictures) == ["aggregate", "decoded"]
    else:
        assert report.no_surgery is None
        assert report.surgery.mutual_information.value < np.log(60) + 1e-9
        assert list(pictures) == ["surgery", "aggregate", "decoded"]


def test_the_report_depends_on_the_seed_alone_and_leaves_all_as_it_was(vae, few_digits):
    vae.train()
    before = torch.get_rng_state()
    first = diagnose(vae, few_digits, draws=2, limit=40)
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training
    torch.manual_seed(5)
    assert diagnose(vae, few_digits, draws=2, limit=40) == first
    assert diagnose(vae, few_digits, draws=2, limit=40, seed=1) != first


def test_a_few_rows_without_labels_are_enough_and_one_is_not():
    known = model([0.5], 0.5, 1.0)
    found = diagnose(known, dataset(0, 1.0, 1, 10))
    assert found.population.groups[0].test is None
    assert all(row.test is None for row in found.samples)
    assert set(plots.diagnosis_figures(known, found)) == {"surgery", "aggregate", "decoded"}
    with pytest.raises(ValueError, match="limit must be at least 2, got 1"):
        diagnose(known, dataset(0, 1.0, 1, 10), limit=1)


SMALL = ["--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", "2"]


@pytest.fixture
def run(command, monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    command("fit", *SMALL, "--epochs", 1, "--out", "run")
    return "run"


def test_the_command_writes_what_it_prints(command, run, tmp_path):
    few = ["--limit", 60, "--draws", 2]
    result = command("diagnose", run, *few, "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report == json.loads((tmp_path / run / "diagnosis.json").read_text())
    assert report["images"] == 60
    assert report["sweep"] is None
    for name in ("surgery", "aggregate", "decoded"):
        assert (tmp_path / run / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    words = command("diagnose", run, *few)
    assert words.status == 0
    for line in ("the bound, taken apart", "is the code used?", "do the codes fill the prior?"):
        assert line in words.out.splitlines()
    information = report["surgery"]["terms"]["mutual_information"]
    about = f"{information['estimate']:.3f} +- {information['standard_error']:.3f}"
    assert f"{about}  of code and example, of at most log 60 = 4.094" in words.out
    assert max(map(len, words.out.splitlines())) < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep"], "pyrovae compare --config RUN/config.toml --objectives beta:beta="),
        (["--sweep", "--betas", "1,2", "--epochs", "9"], "pyrovae compare --config"),
        (["--limit", "1"], "1 is not in the range x>=2"),
        (["--draws", "1"], "1 is not in the range x>=2"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(command, run, tmp_path, options, message):
    result = command("diagnose", run, *options)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert message in result.err
    assert not (tmp_path / run / "diagnosis.json").exists()
