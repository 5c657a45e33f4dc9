"""A comparison exchanges one component and nothing else, and its errors are those of the runs."""

import contextlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.runs import Config, Run, SeedEstimate, Spec, candidates, compare, start
from tests.conftest import SEEDS
from tests.oracles import assert_finite, assert_within

pytestmark = pytest.mark.xdist_group("comparison")  # one process makes its runs once

SMALL = {
    "model": {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2},
    "training": {"epochs": 2},
}
PRIORS = {"prior": ["normal", "mixture:components=3,start=data"]}
FEW = {"seeds": 2, "samples": 5, "limit": 150}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of two priors with two seeds, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
        folder = tmp_path_factory.mktemp("runs") / "compared"
        return compare(SMALL, PRIORS, out=folder, **FEW), folder


def without_times(summary):
    """What must be the same when a comparison is repeated."""
    rows = [replace(row, seconds=0.0, reused=[], runs=[]) for row in summary.rows]
    return replace(summary, folder="", rows=rows)


def test_tables_are_compared_if_the_same_columns_have_densities(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{a},{b}" for a, b in zip(rng.normal(size=60), rng.poisson(3, 60), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    likelihoods = ["normal", "laplace", "columns:columns=normal+poisson"]
    likelihoods += ["columns:columns=laplace+poisson", "columns:columns=normal+laplace"]
    settings = SMALL | {"data": {"name": str(tmp_path / "t.csv"), "scaling": "none"}}
    choices = {"likelihood": likelihoods}
    found = compare(settings, choices, out=tmp_path / "runs", seeds=1, samples=5)
    mixed = "density, but probability in columns [2]"
    assert [row.measure for row in found.rows] == ["density"] * 2 + [mixed] * 2 + ["density"]
    assert [row.difference is not None for row in found.rows] == [False, True, False, False, True]
    assert all(row.bits_per_dimension is None for row in found.rows)


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("normal", ["normal"]),
        ("normal,flow", ["normal", "flow"]),
        (
            "mixture:components=20,start=data, vamp:components=5,flow",
            ["mixture:components=20,start=data", "vamp:components=5", "flow"],
        ),
        ("a.b:Mine:rate=2,deep=true,normal", ["a.b:Mine:rate=2,deep=true", "normal"]),
    ],
)
def test_a_list_of_specs_is_taken_apart(text, specs):
    assert Spec.several(text) == specs


@pytest.mark.parametrize("text", ["", ",", "normal,", "rate=2,normal"])
def test_a_list_with_a_gap_is_refused(text):
    with pytest.raises(ValueError, match="write specs joined by commas"):
        Spec.several(text)


def test_each_row_is_the_mean_of_the_bounds_of_its_runs(compared):
    summary, folder = compared
    dataset = Config.resolve(SMALL)[1]
    for row in summary.rows:
        assert row.chosen["prior"] in PRIORS["prior"]
        results = [
            pyrovae.evaluate(pyrovae.load(path), dataset.test, samples=5, limit=150)
            for path in row.runs
        ]
        for name, key, sign in [
            ("log_evidence", "log_evidence", 1),
            ("elbo", "elbo", 1),
            ("rate", "kl", 1),
            ("distortion", "reconstruction", -1),
        ]:
            mean = sum(getattr(result, key).value for result in results) / 2
            assert getattr(row, name).value == pytest.approx(sign * mean, rel=1e-12)
        assert_finite(row.log_evidence.value, row.elbo.value, row.rate.value)
        assert row.elbo.value == pytest.approx(-row.distortion.value - row.rate.value, rel=1e-9)
        assert row.reused == [False, False]
        assert row.seconds > 0
        assert row.measure == "probability"
        bits = -row.log_evidence.value / (64 * math.log(2))
        assert row.bits_per_dimension.value == pytest.approx(bits)
        error = row.log_evidence.standard_error / (64 * math.log(2))
        assert row.bits_per_dimension.standard_error == pytest.approx(error)
        assert row.parameters == sum(p.numel() for p in pyrovae.load(row.runs[0]).parameters())
    first, second = summary.rows
    assert first.difference is None
    assert second.difference.value == pytest.approx(
        second.log_evidence.value - first.log_evidence.value
    )
    low, high = second.difference.interval
    assert low < second.difference.value < high
    lines = summary.table()
    assert "95% interval" in lines[1]
    assert f"{low:+.2f} to {high:+.2f}" in lines[3]
    assert second.against_first() == f"{second.difference.value:+.2f} ({low:+.2f} to {high:+.2f})"
    assert first.against_first() == ""
    written = json.loads((folder / "comparison.json").read_text())
    assert written["rows"][1]["difference"]["interval"] == [low, high]
    assert written["rows"][1]["difference"]["degrees_of_freedom"] > 1
    assert written == json.loads(json.dumps(summary.to_dict()))
    assert (folder / "comparison.txt").read_text().splitlines() == summary.table()
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_runs_differ_in_the_component_and_the_seed_alone(compared):
    configs = [Run.open(path).config for row in compared[0].rows for path in row.runs]
    assert [config.training["seed"] for config in configs] == [0, 1, 0, 1]
    for config in configs:
        assert config.data == configs[0].data
        assert dict(config.model, prior="") == dict(configs[0].model, prior="")
        assert dict(config.training, seed=0) == configs[0].training


def test_a_run_is_the_one_that_fit_makes(compared, tmp_path):
    _, vae, _ = start(*Config.resolve(SMALL), tmp_path / "run")
    same = pyrovae.load(compared[0].rows[0].runs[0])
    for name, value in vae.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])


def test_a_repeated_comparison_trains_nothing(compared):
    summary, folder = compared

    def fail(about):
        raise AssertionError(about)

    again = compare(SMALL, PRIORS, out=folder, **FEW, reporting=fail)
    assert without_times(again) == without_times(summary)
    assert all(all(row.reused) for row in again.rows)
    assert [row.runs for row in again.rows] == [row.runs for row in summary.rows]


def test_runs_beside_it_are_reused_and_other_ones_are_not(compared, tmp_path):
    beside = tmp_path / "earlier"
    start(*Config.resolve(SMALL), beside)
    run = Run.open(beside)
    other = Config.resolve(SMALL | {"training": {"epochs": 1}})
    start(*other, tmp_path / "shorter")
    settings = {"seeds": 1, "samples": 5, "limit": 150, "out": tmp_path / "compared"}
    row = compare(SMALL, {"prior": ["normal"]}, **settings).rows[0]
    assert row.runs == [str(beside)]
    assert row.reused == [False]  # it had not been summed up
    assert run.summary().examples == 150
    row = compare(SMALL, {"prior": ["normal"]}, **settings).rows[0]
    assert row.reused == [True]
    (beside / "data.sha256").write_text("of other data\n")
    row = compare(SMALL, {"prior": ["normal"]}, **settings).rows[0]
    assert row.runs == [str(tmp_path / "compared" / "normal-seed-0")]


@pytest.mark.parametrize("run", [1, 3])
def test_an_interrupted_comparison_goes_on_to_the_same_numbers(compared, tmp_path, run):
    begun = []

    @contextlib.contextmanager
    def interrupting(about):
        begun.append(about)

        def report(progress):
            if len(begun) == run and progress.step == 5:
                raise KeyboardInterrupt

        yield report

    with pytest.raises(KeyboardInterrupt, match="repeat the command to resume"):
        compare(SMALL, PRIORS, out=tmp_path / "again", **FEW, reporting=interrupting)
    assert len(begun) == run
    again = compare(SMALL, PRIORS, out=tmp_path / "again", **FEW)
    assert without_times(again) == without_times(compared[0])
    assert len(list((tmp_path / "again").glob("*/config.toml"))) == 4


@pytest.mark.parametrize("seed", SEEDS)
def test_the_error_covers_the_spread_over_examples_and_seeds(seed):
    """Of 2,000 means over 50 examples and 5 seeds with effects of both, against their own spread.

    The variance is estimated with a bias of the interaction alone, counted twice: here 1 part in
    5 * 50 beside 1 in 50 and 0.25 in 5. The spread is known to 1 / sqrt(2 * 2000), the mean of the
    estimates to about half of that.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(2_000, *shape, generator=generator, dtype=torch.float64)

    values = draw(1, 50) + 0.5 * draw(5, 1) + draw(5, 50)
    estimates = [SeedEstimate.from_runs(each) for each in values]
    spread = torch.tensor([e.value for e in estimates]).var()
    truth = 1 / 50 + 0.25 / 5 + 1 / 250
    assert abs(spread / truth - 1) < 4 * math.sqrt(2 / 2_000)
    claimed = torch.tensor([e.standard_error for e in estimates]).square()
    assert_within(claimed.mean(), truth + 1 / 250, claimed.std() / math.sqrt(2_000))


def test_the_error_of_one_seed_is_over_examples():
    values = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).double()
    found = SeedEstimate.from_runs(values)
    assert found.over_seeds is None
    assert found.standard_error == found.over_examples
    assert found.over_examples == pytest.approx(values.std().item() / math.sqrt(40))


def test_combinations_that_do_not_go_together_are_left_out_and_named():
    found, left_out = candidates(
        SMALL,
        {
            "prior": ["normal", "sphere", "vamp:components=3"],
            "posterior": ["power_spherical", "point"],
        },
    )
    assert [candidate.label for candidate in found] == [
        "normal, point",
        "sphere, power_spherical",
        "vamp:components=3, power_spherical",
    ]
    assert [line.partition(" is left out: ")[0] for line in left_out] == [
        "normal, power_spherical",
        "sphere, point",
        "vamp:components=3, point",
    ]
    assert "no density" in left_out[-1]


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ({}, "nothing to compare"),
        ({"prior": []}, "nothing to compare"),
        ({"encoder": ["mlp"]}, "role must be one of prior, .*, got 'encoder'"),
        ({"prior": ["normal", "normal"]}, "the prior normal is listed twice"),
        ({"prior": ["normal", "sphere"]}, "must be over the same space"),
        ({"prior": ["normal", "mixture:components=9999,start=data"]}, "there are 1258 data"),
        ({"objective": ["elbo", "free_bits:groups=7"]}, "groups must divide the 2 dimensions"),
        ({"likelihood": ["binomial", "beta"]}, "choose"),
        ({"prior": ["normal", "nromal"]}, "did you mean 'normal'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(varied, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(SMALL, varied, out=tmp_path / "compared")
    assert not (tmp_path / "compared").exists()


@pytest.mark.parametrize(
    ("proposal", "message"),
    [("prior", "one of posterior, refined, mixture"), ("mixture", "must be at least 20, got 5")],
)
def test_a_proposal_is_checked_before_anything_is_trained(proposal, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(SMALL, PRIORS, out=tmp_path / "compared", samples=5, proposal=proposal)
    assert not (tmp_path / "compared").exists()


@pytest.mark.parametrize("name", ["seeds", "samples", "limit"])
def test_numbers_below_one_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        compare(SMALL, PRIORS, out=tmp_path / "compared", **{name: 0})
    assert not (tmp_path / "compared").exists()


def test_likelihoods_of_one_treatment_are_compared_in_bits_and_others_are_told_apart(tmp_path):
    summary = compare(
        SMALL,
        {"likelihood": ["binomial", "discretized_logistic", "normal"]},
        seeds=1,
        samples=2,
        limit=50,
        out=tmp_path / "compared",
    )
    first, second, third = summary.rows
    assert second.difference is not None
    assert third.difference is None
    assert third.bits_per_dimension is None
    assert third.measure == "density"
    lines = summary.table()
    assert "bits/dim" in lines[1]
    assert lines[-1].startswith("not to be compared with binomial")
    assert lines[-1].endswith(": normal")
    assert first.treatment == second.treatment


def test_densities_under_two_scalings_are_compared_in_the_units_of_the_data(tmp_path):
    """The recipe standardizes for the normal alone; standardizing too changes no conclusion."""
    path = tmp_path / "table.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 3)) * [1, 10, 100])
    settings = {"data": {"name": str(path)}, "training": {"epochs": 1}}
    varied = {"likelihood": ["normal", "student_t"]}
    summary = compare(settings, varied, seeds=1, samples=2, out=tmp_path / "compared")
    assert summary.rows[1].difference is not None
    run = Run.open(summary.rows[0].runs[0])
    assert run.config.data["scaling"] == "standardize"
    found = pyrovae.evaluate(run.vae(), run.dataset().test, samples=2)
    assert summary.rows[0].elbo.value == pytest.approx(found.elbo.value)
    scaled = pyrovae.evaluate(run.vae(), run.dataset().test, samples=2, scaled=True)
    assert scaled.elbo.value > found.elbo.value + 3  # about log 1,000


def test_a_point_has_no_bound_to_compare(tmp_path):
    summary = compare(
        SMALL,
        {"posterior": ["diagonal", "point"]},
        seeds=1,
        samples=2,
        limit=50,
        out=tmp_path / "compared",
    )
    assert summary.rows[1].difference is None
    assert "no bound" in summary.table()[-1]


def test_a_table_of_data_is_compared_without_images(tmp_path):
    path = tmp_path / "table.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    settings = SMALL | {"data": {"name": str(path)}}
    settings["training"] = {"epochs": 1}
    varied = {"prior": ["normal", "laplace"]}
    out = tmp_path / "compared"
    summary = compare(settings, varied, seeds=1, samples=2, out=out)
    assert summary.examples == 8
    assert (out / "comparison.png").is_file()
    assert summary.table()[0].startswith("table.npy, 8 test examples")


def test_weights_of_the_kl_term_are_drawn_as_rate_and_distortion(tmp_path):
    varied = {"objective": ["beta:beta=20", "beta:beta=0.1"]}
    options = {"seeds": 1, "samples": 2, "limit": 60, "out": tmp_path / "betas"}
    settings = SMALL | {"training": {"epochs": 3}}
    found = compare(settings, varied, **options)
    assert found.betas() == [20, 0.1]
    assert found.rows[0].rate.value < found.rows[1].rate.value
    for row in found.rows:
        assert_finite(row.elbo.value, row.rate.value, row.distortion.value)
        assert row.elbo.value == pytest.approx(-row.rate.value - row.distortion.value)
    picture = (tmp_path / "betas/rate_distortion.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    for specs in (["beta:beta=4", "elbo"], ["beta:beta=4", "beta:beta=4,schedule=linear"]):
        chosen = [
            replace(row, chosen={"objective": s}) for row, s in zip(found.rows, specs, strict=True)
        ]
        assert replace(found, rows=chosen).betas() == []
    assert replace(found, varied=["objective", "prior"]).betas() == []


SHORT = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", "2")
SHORT = (*SHORT, "--epochs", "1", "--seeds", "1", "--samples", "3", "--limit", "40")


def test_the_command_prints_the_table_and_reuses_its_runs(command, tmp_path):
    status, out, _ = command(
        "compare", "--priors", "normal,mixture:components=3,start=data,flow", *SHORT
    )
    folder = tmp_path / "runs" / "compare-digits"
    table = (folder / "comparison.txt").read_text()
    assert status == 0
    assert out.startswith(table)
    assert out.endswith("figure  runs/compare-digits/comparison.png\n")
    assert [line.split()[0] for line in table.splitlines()[2:]] == [
        "normal",
        "mixture:components=3,start=data",
        "flow",
    ]
    status, out, _ = command("compare", "--priors", "flow,normal", *SHORT, "--json")
    result = json.loads(out)
    assert status == 0
    assert [row["prior"] for row in result["rows"]] == ["flow", "normal"]
    assert all(row["reused"] == [True] for row in result["rows"])


def test_the_command_takes_code_of_the_users_own_and_says_what_it_left_out(command, tmp_path):
    (tmp_path / "own_prior.py").write_text(
        "import torch\nfrom pyro import distributions as dist\n\n\n"
        "class Wide(torch.nn.Module):\n"
        "    def forward(self):\n"
        "        return dist.Normal(torch.zeros(2), 3.0).to_event(1)\n"
    )
    priors = ("--priors", "own_prior:Wide,sphere")
    status, out, err = command(
        "compare", *priors, "--posteriors", "power_spherical,laplace", *SHORT
    )
    assert status == 0
    assert "own_prior:Wide, laplace" in out
    assert "own_prior:Wide, power_spherical is left out: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to compare"),
        (("--priors", "normal,,flow"), "write specs joined by commas"),
        (("--priors", "normal,nromal"), "did you mean 'normal'"),
        (("--priors", "normal", "--seeds", "0"), "0 is not in the range"),
        (("--priors", "normal", "--config", "absent.toml"), "there is no file absent.toml"),
        (("--priors", "normal", "--data", "absent.npy"), "absent.npy"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(command, arguments, message, tmp_path):
    status, out, err = command("compare", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("pyrovae: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_settings_that_training_refuses_make_no_folder(command, tmp_path):
    small = ("--encoder", "linear", "--decoder", "linear", "--epochs", 1)
    result = command("compare", "--priors", "normal", *small, "--averaging", 2)
    assert result.status == 2
    assert "averaging must be" in result.err
    assert not list(tmp_path.iterdir())
