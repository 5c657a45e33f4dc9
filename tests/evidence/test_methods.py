"""Every method answers through one function, in the library and on the command line."""

import inspect
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae._process import processes
from pyrovae.cli.evaluate import METHODS as COMMAND_LINE
from pyrovae.cli.evaluate import OPTIONS, _lines_of_weights
from pyrovae.cli.evaluate import evaluate as evaluate_command
from pyrovae.data import Split
from pyrovae.estimates import Estimate
from pyrovae.evidence import (
    FEWEST,
    FITTED,
    METHODS,
    PROPOSALS,
    Evaluation,
    Evidence,
    MeanEvidence,
    MeanSandwich,
    WeightSummary,
    annealed,
    evaluate,
    exact,
    gradients,
    importance_weighted,
    integrated,
    per_example,
)
from pyrovae.likelihoods import Bernoulli
from pyrovae.posteriors import Point
from pyrovae.priors import StandardNormal
from pyrovae.runs import Config, start
from pyrovae.vae import VAE
from tests import models
from tests.conftest import EXPENSIVE_SEEDS
from tests.models import SHAPE
from tests.models import loose as loosened
from tests.oracles import assert_within

pytestmark = pytest.mark.xdist_group("methods")  # one process makes its runs once

FUNCTIONS = {
    "iw": (importance_weighted, {"samples": 4_000}),
    "ais": (annealed, {"samples": 200, "temperatures": 40}),
    "quadrature": (integrated, {}),
    "exact": (exact, {}),
}


def test_the_names_of_the_command_line_are_those_of_the_registry():
    """With the options of each method, which the functions behind it have."""
    assert list(COMMAND_LINE) == list(METHODS)
    assert list(FUNCTIONS) == [name for name in METHODS if name != "bdmc"]
    assert set().union(*COMMAND_LINE.values()) == set(OPTIONS)
    for name, options in COMMAND_LINE.items():
        function = pyrovae.evidence.sandwich if name == "bdmc" else FUNCTIONS[name][0]
        assert set(options) <= set(inspect.signature(function).parameters)
    choices = {option.name: option.type for option in evaluate_command.params}
    assert tuple(choices["proposal"].choices) == ("auto", *PROPOSALS)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_method_finds_the_exact_evidence_within_its_error(name, seed):
    """Within 4.5 errors for each of 20 x, and a rounding of 1e-9."""
    _, x, evidence = models.linear_gaussian(seed)
    vae, _ = loosened(models.linear_gaussian(seed)[0])
    function, options = FUNCTIONS[name]
    with torch.no_grad():
        found = function(vae, x, seed=seed, **options)
    assert isinstance(found, Evidence)
    assert found.log_evidence.shape == found.standard_error.shape == (20,)
    assert_within(found.log_evidence, evidence, found.standard_error, 4.5, floor=1e-9)
    assert all(len(value) == 20 for value in found.details.values())
    told = []
    again = function(vae, x, seed=seed, progress=told.append, **options)
    assert torch.equal(again.log_evidence, found.log_evidence)
    assert sum(told) == pytest.approx(20)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ais", {"samples": 3, "temperatures": 5, "start": "posterior"}),
        ("quadrature", {}),
    ],
)
def test_one_function_applies_every_method_to_the_first_examples(vae, digits, method, options):
    data, told = Split.from_array(digits), []
    found = evaluate(vae, data, method=method, limit=5, seed=3, progress=told.append, **options)
    expected = FUNCTIONS[method][0](vae, digits[:5], seed=3, **options)
    assert isinstance(found, MeanEvidence)
    assert torch.equal(found.per_example.log_evidence, expected.log_evidence)
    assert found.log_evidence == expected.mean()
    assert (found.method, found.examples) == (method, 5)
    assert sum(told) == pytest.approx(5)
    plain = found.to_dict()
    assert list(plain) == ["method", "log_evidence", "details", "images"]
    assert list(plain["log_evidence"]) == [
        "estimate", "standard_error", "sampling_error", "samples", "kind",
    ]  # fmt: skip
    assert set(plain["details"]) == set(found.details)
    assert "per_example" not in repr(found)


def test_both_bounds_come_from_the_same_function_without_data(vae):
    options = {"samples": 3, "temperatures": 5, "limit": 6}
    found = evaluate(vae, None, method="bdmc", **options)
    assert isinstance(found, MeanSandwich)
    assert list(found.to_dict()) == ["method", "lower", "upper", "gap", "images"]
    assert found.gap.value == pytest.approx(found.upper.value - found.lower.value)
    assert found.examples == len(found.per_example.x) == 6


def test_the_default_result_gives_the_plain_data_of_the_command(vae, digits):
    found = evaluate(vae, Split.from_array(digits), samples=30)
    assert isinstance(found, Evaluation)
    plain = found.to_dict()
    assert list(plain) == ["elbo", "reconstruction", "kl", "log_evidence", "weights", "images"]
    assert list(plain["log_evidence"]) == ["estimate", "standard_error", "samples", "kind"]
    assert list(plain["weights"]) == [
        "at_a_tenth", "bias_corrected", "sampling_error", "ess", "reliable_below", "unreliable",
        "unreliable_error", "largest_pareto_k",
    ]  # fmt: skip
    assert list(plain["weights"]["ess"]) == ["median", "minimum"]
    assert plain["elbo"] == {
        "estimate": found.elbo.value, "standard_error": found.elbo.standard_error
    }  # fmt: skip
    assert torch.equal(
        found.per_example.elbo, per_example(vae, Split.from_array(digits), samples=30).elbo
    )


def test_an_option_that_a_method_does_not_have_is_a_type_error(vae, digits, tmp_path):
    data = Split.from_array(digits)
    for method, option in (
        ("ais", {"proposal": "mixture"}),
        ("quadrature", {"temperatures": 5}),
        ("exact", {"compile": "off"}),
        ("iw", {"start": "prior"}),
        ("ais", {"store": tmp_path / "x.safetensors"}),
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{list(option)[-1]}'"):
            evaluate(vae, data, method=method, limit=2, **option)
    with pytest.raises(ValueError, match="one of iw, ais, quadrature, exact, bdmc, got 'nuts'"):
        evaluate(vae, data, method="nuts")


def test_importance_weighting_is_that_of_the_evaluation(vae, digits):
    found = importance_weighted(vae, digits, samples=50, seed=3)
    every = per_example(vae, Split.from_array(digits), samples=50, seed=3)
    assert torch.equal(found.log_evidence, every.log_evidence)
    assert torch.equal(found.details["ess"], every.ess)
    assert (found.kind, found.samples) == ("importance-weighted lower bound", 50)


def test_a_point_is_refused_and_one_draw(network, digits):
    vae = VAE(StandardNormal(2), Bernoulli(2, SHAPE, network), Point(2, SHAPE, network))
    with pytest.raises(
        ValueError, match="Point has no density to weight draws by; use the proposal"
    ):
        importance_weighted(vae, digits)
    with pytest.raises(ValueError, match="samples must be at least 2, to have an error, got 1"):
        importance_weighted(vae, digits, samples=1)


def test_two_draws_are_enough_for_an_error(vae, digits):
    found = importance_weighted(vae, digits, samples=2)
    assert found.log_evidence.isfinite().all()
    assert found.standard_error.min() > 0
    assert evaluate(vae, digits, samples=2).weights is not None


def test_a_mixture_of_the_unknown_or_of_few_draws_is_refused(vae, digits):
    with pytest.raises(ValueError, match="one of posterior, refined, mixture, got 'prior'"):
        importance_weighted(vae, digits, proposal="prior")
    with pytest.raises(ValueError, match=f"mixture must be at least {FEWEST}, got 19"):
        importance_weighted(vae, digits, proposal="mixture", samples=19)


def test_the_error_of_a_mean_counts_examples_and_sampling():
    """Of 4,000 means of 50 x, each known to 0.5 and spread by 2: both errors are their spread's."""
    torch.manual_seed(0)
    truth = 2 * torch.randn(4_000, 50).double()
    noisy = truth + 0.5 * torch.randn(4_000, 50).double()
    found = [Evidence(v, torch.full((50,), 0.5).double(), "k", 3, {}).mean() for v in noisy]
    means = torch.tensor([row.value for row in found]).double()
    errors = torch.tensor([row.standard_error for row in found]).double()
    assert errors.mean().item() == pytest.approx(means.std().item(), rel=0.05)
    spread = (means - truth.mean(1)).std().item()
    assert found[0].sampling_error == pytest.approx(spread, rel=0.05)
    one = Evidence(noisy[0, :1], torch.full((1,), 0.5).double(), "k", 3, {})
    assert one.mean().standard_error is None
    assert one.mean().sampling_error == pytest.approx(0.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs of two epochs: of a 2-D latent, a linear model, and a categorical z."""
    folder = tmp_path_factory.mktemp("methods")
    small = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}
    linear = {"decoder": "linear", "likelihood": "normal", "latent_dim": 3}
    discrete = {"prior": "categorical", "posterior": "relaxed_categorical", "latent_dim": 6}
    for name, model in (
        ("plain", small),
        ("linear", small | linear),
        ("discrete", small | discrete),
    ):
        settings = {"model": model, "training": {"epochs": 2}}
        start(*Config.resolve(settings), folder / name)
    return folder


def evaluated(command, runs, name, *arguments):
    result = command("evaluate", runs / name, "--limit", 6, *arguments)
    assert result.status == 0, result.err
    return result.out


CHOICES = [
    ("plain", "iw", ("--samples", 60)),
    ("plain", "iw", ("--samples", 60, "--proposal", "posterior")),
    ("plain", "iw", ("--samples", 60, "--proposal", "mixture")),
    ("discrete", "iw", ("--samples", 60, "--proposal", "mixture")),
    ("plain", "ais", ("--samples", 3, "--temperatures", 5, "--start", "posterior")),
    ("plain", "quadrature", ()),
    ("plain", "bdmc", ("--samples", 3, "--temperatures", 5)),
    ("linear", "exact", ()),
    ("discrete", "exact", ()),
]


@pytest.mark.parametrize(("name", "method", "options"), CHOICES)
def test_every_method_prints_words_numbers_and_a_file(command, runs, name, method, options):
    words = evaluated(command, runs, name, "--method", method, *options, "--out", "x.npz")
    lines = words.splitlines()
    assert lines[-1] == "x.npz"
    assert "6 examples" in lines[0]
    assert max(map(len, lines)) <= 100
    value = json.loads(evaluated(command, runs, name, "--method", method, *options, "--json"))
    assert value["images"] == 6
    assert value["posterior"]
    with np.load("x.npz") as file:
        arrays = dict(file)
    means = {"log_evidence": value.get("log_evidence")}
    if method == "bdmc":
        assert value["gap"]["estimate"] == pytest.approx(
            value["upper"]["estimate"] - value["lower"]["estimate"]
        )
        means = {f"{side}_log_evidence": value[side] for side in ("lower", "upper")}
        assert arrays["x"].shape == (6, 1, 8, 8)
    for key, mean in means.items():
        assert arrays[key].shape == (6,)
        assert mean["estimate"] == pytest.approx(arrays[key].mean())
        assert mean["standard_error"] == pytest.approx(arrays[key].std(ddof=1) / math.sqrt(6))
        if method != "iw":
            assert mean["kind"].split()[0] in ("exact", "exact,", "lower", "upper")
            error = arrays[key.replace("log_evidence", "standard_error")]
            assert mean["sampling_error"] == pytest.approx(np.linalg.norm(error) / 6)


def test_the_weights_are_described_in_words(command, runs):
    words = evaluated(command, runs, "plain", "--samples", 60)
    for part in (
        "log p(x) is at least",
        "from a tenth of them",
        "jackknife, no bound",
        "error over draws",
        "effective sample size",
        "Pareto k-hat above 0.44",
    ):
        assert part in words
    assert "jackknife" not in evaluated(command, runs, "plain", "--samples", 1)


@pytest.mark.parametrize("method", ["ais", "bdmc"])
def test_one_chain_has_no_error(command, runs, method):
    options = ("--method", method, "--samples", 1, "--temperatures", 5)
    words = evaluated(command, runs, "plain", *options)
    assert "error over chains" not in words
    assert "nan" not in words.split("ess")[0]
    plain = json.loads(evaluated(command, runs, "plain", *options, "--json"))
    for name in ("lower", "upper") if method == "bdmc" else ("log_evidence",):
        assert plain[name]["sampling_error"] is None


def test_advice_on_heavy_tails_names_what_helps_and_what_it_costs():
    summary = WeightSummary(None, Estimate(-90.0, 1.0), 0.1, 30.0, 2.0, 2 / 3, 0.9, 0.02, 3.0)

    def advice(unreliable, kind):
        lines = _lines_of_weights(replace(summary, unreliable=unreliable), kind)
        return " ".join(" ".join(lines).split())

    kinds = ("a bound", FITTED["refined"], FITTED["mixture"])
    posterior, refined, most = (advice(0.9, kind) for kind in kinds)
    few = advice(0.1, FITTED["mixture"])
    for words in (posterior, refined, most, few):
        assert "k-hat above 0.67" in words
        assert "errors are lower limits" in words
        assert "more draws seldom help" in words
    assert "90.0% +- 2.0% of the examples" in most
    assert "--proposal refined" in posterior
    assert "--proposal mixture" in refined
    assert "--method ais" not in posterior
    assert "--method ais (in many dimensions with --start posterior)" in most
    assert f"{gradients():,} gradients of log p(x,z) per example" in most
    assert "most mixtures miss" in most
    assert "--method ais" in few
    assert "most mixtures miss" not in few
    assert "lower limits" not in advice(0.0, "a bound")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("plain --method exact", "there is no exact log p(x): the decoder is MLP, not linear"),
        ("linear --method quadrature", "takes one or two latent dimensions, but z has 3"),
        ("discrete --method quadrature", "quadrature is over real z, but the prior Categorical"),
        ("discrete --method ais", "annealing moves z over real vectors, but the prior Categorica"),
        ("discrete --method bdmc", "annealing moves z over real vectors, but the prior Categorica"),
        (
            "plain --method exact --samples 3",
            "--samples applies to iw and ais and bdmc, not to the",
        ),
        ("plain --temperatures 3", "--temperatures applies to ais and bdmc, not to the method iw"),
        ("plain --start prior", "--start applies to ais and bdmc, not to the method iw"),
        ("plain --method ais --compile off", "--compile applies to iw, not to the method ais"),
        ("plain --method nuts", "'nuts' is not one of 'iw', 'ais', 'quadrature', 'exact', 'bdmc'"),
        ("plain --method ais --proposal mixture", "--proposal applies to iw, not to the method"),
        ("plain --proposal prior", "'prior' is not one of 'auto', 'posterior', 'refined', "),
        ("plain --proposal mixture --samples 5", "proposal mixture must be at least 20, got 5"),
        ("plain --out x.csv", "its ending must be .npz"),
        ("plain --method ais --samples 0", "0 is not in the range x>=1"),
    ],
)
def test_what_a_method_cannot_do_is_refused_in_one_line(command, runs, arguments, part):
    name, *others = arguments.split()
    before = sorted(os.listdir())
    result = command("evaluate", runs / name, *others)
    assert (result.status, result.out) == (2, "")
    lines = [line for line in result.err.splitlines() if line.startswith("pyrovae: ")]
    assert len(lines) == 1
    assert part in lines[0]
    assert "Traceback" not in result.err
    assert sorted(os.listdir()) == before


def test_only_iw_shares_its_work(command, runs, monkeypatch):
    monkeypatch.setattr(processes, "_group", processes._Group(0, 2, None))
    monkeypatch.setattr(processes, "stop", lambda say, status: (say(), status)[1])
    result = command("evaluate", runs / "plain", "--method", "ais")
    assert result.status == 2
    assert "--method ais runs in one process; only iw shares its work" in result.err
