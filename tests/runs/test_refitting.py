"""Another prior is fitted to the aggregate posterior, and nothing else of the VAE moves."""

import contextlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pyro import distributions as dist
from torch import nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import plots
from pyrovae._process.files import read_tensors
from pyrovae.data import Split
from pyrovae.estimates import Estimate
from pyrovae.evidence import evaluate
from pyrovae.priors import PRIORS, LearnedNormal, StandardNormal, VampPrior
from pyrovae.runs import Config, Run, Spec, change, context_of, refit, refit_run, resolve, start
from pyrovae.runs.comparison import find_run
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS
from tests.models import FEW, PAIRS, PRIOR_SPACES, SHAPE, exact_posterior, linear_gaussian
from tests.models import make_pair as make
from tests.oracles import assert_finite, assert_within

pytestmark = pytest.mark.xdist_group("refitting")  # one process makes its runs once

SMALL = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", 2)
FIRST = {None: "normal", "sphere": "sphere", "one-hot": "categorical"}
SPACES = {q: PRIOR_SPACES.get(p) for p, q in PAIRS if p != "vamp"}


def other_data(vae, count):
    """Data from another normal than the model's, and the aggregate posterior that they have."""
    layer = vae.likelihood.decoder.layer
    with torch.no_grad():
        covariance = 1.7 * layer.weight @ layer.weight.T + 0.5 * torch.eye(5).double()
        q = dist.MultivariateNormal(layer.bias + 0.8, covariance)
        x = q.sample((count,))
        points = torch.stack([q.mean, *(q.mean + torch.eye(5).double())])
        loc, posterior = exact_posterior(vae, points)
    slope = loc[1:] - loc[:1]  # (5, 2), of the posterior's mean in x
    aggregate = dist.MultivariateNormal(loc[0], slope.T @ covariance @ slope + posterior)
    return x, aggregate


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_learned_normal_finds_the_moments_of_the_aggregate_posterior(seed):
    vae, _, _ = linear_gaussian(seed)
    x, aggregate = other_data(vae, 4_000)
    prior = LearnedNormal(2, covariance="full").double()
    options = {"epochs": 60, "batch_size": 400, "learning_rate": 0.05, "seed": seed}
    fitted, _ = refit(vae, prior, x, **options)
    p, cov = fitted.prior(), aggregate.covariance_matrix
    variances = cov.diagonal()
    error = (variances / len(x)).sqrt()
    assert_within(p.mean, aggregate.mean, error)
    error = ((variances[:, None] * variances + cov**2) / len(x)).sqrt()
    assert_within(p.covariance_matrix, cov, error)

    test, _ = other_data(vae, 1_000)
    found = change(vae, fitted, Split.from_array(test), samples=50, seed=seed)
    standard = dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    exact = kl_divergence(aggregate, p) - kl_divergence(aggregate, standard)
    moved = found.marginal_kl
    assert_within(moved.value, exact, moved.standard_error)
    assert exact < -0.1
    assert found.elbo.change.value == pytest.approx(-moved.value, abs=1e-9)
    assert found.elbo.change.standard_error == pytest.approx(moved.standard_error)

    layer = vae.likelihood.decoder.layer
    noise = 0.36 * torch.eye(5).double()
    evidence = [
        dist.MultivariateNormal(
            layer.weight @ q.mean + layer.bias,
            layer.weight @ q.covariance_matrix @ layer.weight.T + noise,
        )
        .log_prob(test.float().double())
        .mean()
        .item()
        for q in (standard, p)
    ]
    # q is the exact posterior before; afterwards the bound of 50 draws is a little below
    assert found.log_evidence.before.value == pytest.approx(evidence[0], abs=1e-6)
    after = found.log_evidence.after.value
    assert evidence[1] - 0.1 < after < evidence[1] + 0.02


def test_a_refit_repeats_to_the_bit_and_leaves_all_else_as_it_was():
    vae, _, _ = linear_gaussian(0)
    x, _ = other_data(vae, 200)
    vae.train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    random = torch.get_rng_state()
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        prior = PRIORS["mixture"](2, components=3).double()
        torch.set_rng_state(random)
        fitted, result = refit(vae, prior, x, epochs=3, seed=1)
        assert torch.equal(torch.get_rng_state(), random)
        made.append(prior.state_dict())
        assert fitted.posterior is vae.posterior
        assert fitted.likelihood is vae.likelihood
        assert len(result.metrics) == 3
    assert all(torch.equal(made[0][name], value) for name, value in made[1].items())
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert all(parameter.requires_grad for parameter in vae.parameters())
    assert vae.training
    assert vae.posterior.training
    assert fitted.train().training


class Watched(nn.Module):
    """A posterior that says in which mode it was called."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior, self.modes = posterior, set()

    def forward(self, x):
        self.modes.add(self.training)
        return self.posterior(x)


def test_the_posterior_is_held_in_eval_mode(digits):
    vae = make("normal", "diagonal")
    watched = Watched(vae.posterior)
    refit(VAE(vae.prior, vae.likelihood, watched), LearnedNormal(2), digits, epochs=2)
    assert watched.modes == {False}


def test_a_vamp_moves_its_pseudo_inputs_and_not_the_posterior(digits):
    vae = make("normal", "diagonal")
    before = {name: value.clone() for name, value in vae.posterior.state_dict().items()}
    vamp = VampPrior(vae.posterior, SHAPE, components=5)
    refit(vae, vamp, digits, epochs=1)
    first = vamp.pseudo_inputs.detach().clone()
    assert not torch.isin(first.flatten(1), torch.tensor([0.0, 1.0])).all()  # no data any more
    assert all(torch.equal(before[n], v) for n, v in vae.posterior.state_dict().items())


@pytest.mark.parametrize(("prior", "posterior"), [pair for pair in PAIRS if pair[1] != "point"])
def test_every_prior_is_refitted_to_every_posterior_of_its_space(prior, posterior, digits):
    vae = make(FIRST[SPACES[posterior]], posterior)
    known = {"latent_dim": 2, "event_shape": SHAPE, "posterior": vae.posterior}
    _, options = resolve("prior", PRIORS[prior], Spec.parse(prior), FEW)
    other = PRIORS[prior](**context_of(PRIORS[prior], known), **options)
    fitted, result = refit(vae, other, digits, epochs=2)
    assert all(math.isfinite(row["elbo"]) for row in result.metrics)
    found = change(vae, fitted, Split.from_array(digits[:20]), samples=5)
    assert math.isfinite(found.marginal_kl.value)
    assert math.isfinite(found.log_evidence.change.value)


@pytest.mark.parametrize(
    ("prior", "posterior"), [("normal", "diagonal"), ("sphere", "power_spherical")]
)
def test_the_same_prior_again_changes_nothing(prior, posterior, digits):
    vae = make(prior, posterior)
    fitted, _ = refit(vae, PRIORS[prior](2), digits, epochs=1)
    found = change(vae, fitted, Split.from_array(digits), samples=5)
    assert found.marginal_kl == found.log_evidence.change == Estimate(0.0, 0.0)


def test_a_point_and_a_prior_over_another_space_are_refused(digits):
    with pytest.raises(ValueError, match="Point is a point: it has no density"):
        refit(make("normal", "point"), LearnedNormal(2), digits)
    with pytest.raises(ValueError, match="must be over the same space"):
        refit(make("normal", "diagonal"), PRIORS["sphere"](2), digits)
    with pytest.raises(ValueError, match="z of 3 dimensions, and the VAE's z has 2"):
        refit(make("normal", "diagonal"), StandardNormal(3), digits)
    vae = make("normal", "diagonal")
    elsewhere = VampPrior(make("normal", "diagonal").posterior, SHAPE, components=2)
    with pytest.raises(ValueError, match="not the VAE's posterior"):
        refit(vae, elsewhere, digits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the digits in two dimensions, trained for a while."""
    network = "mlp:hidden_dims=64"
    model = {"encoder": network, "decoder": network, "latent_dim": 2}
    resolved = Config.resolve({"model": model, "training": {"epochs": 30, "averaging": 0.0}})
    return start(*resolved, tmp_path_factory.mktemp("refit") / "trained")[0]


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)


@pytest.mark.parametrize(
    "prior",
    [
        "mixture:components=10,start=data",
        pytest.param("flow:transforms=2", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_mixture_and_a_flow_raise_the_bound_on_digits(run, prior, seed, tmp_path, no_figures):
    options = {"epochs": 25, "samples": 100, "seed": seed}
    result = refit_run(Run.open(run), prior, tmp_path / "new", learning_rate=0.01, **options)
    found = result.change
    for value, error in (
        (found.log_evidence.change.value, found.log_evidence.change.standard_error),
        (found.elbo.change.value, found.elbo.change.standard_error),
        (-found.marginal_kl.value, found.marginal_kl.standard_error),
    ):
        assert_finite(value, error)
        assert value > 4 * error
    assert_finite(found.log_evidence.after.standard_error)
    # the pairs have less noise than the examples
    evidence = found.log_evidence
    assert evidence.change.standard_error < 0.5 * evidence.after.standard_error
    old, new = (read_tensors(path / "model.safetensors")[0] for path in (run, tmp_path / "new"))
    held = [name for name in old if not name.startswith("prior.")]
    assert held
    assert all(torch.equal(old[name], new[name]) for name in held)


def test_the_new_run_is_one_that_all_commands_take(command, run, tmp_path, monkeypatch):
    options = ("--epochs", 3, "--samples", 20, "--limit", 40)
    status, out, _ = command("refit", "run", "--prior", "vamp:components=5", *options, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["run"] == "run-vamp-1"
    assert result["images"] == 40
    assert result["refit_from"] == str(run)
    assert result["prior"] == {"before": "normal", "after": "vamp:components=5,weights=equal"}
    new = tmp_path / "run-vamp-1"
    assert json.loads((new / "refit.json").read_text()) == result
    assert (new / "figures/refit.png").read_bytes().startswith(b"\x89PNG")
    assert (new / "figures/samples.png").exists()
    vae = pyrovae.load(new)
    test = Run.open(new).dataset().test
    again = evaluate(vae, test, samples=20, limit=40).log_evidence
    assert again.value == pytest.approx(result["log_evidence"]["after"]["estimate"], abs=1e-5)
    assert command("evaluate", new, "--samples", 5, "--limit", 20).status == 0
    assert command("sample", new, "--count", 4).status == 0
    assert "vamp:components=5" in command("show", new).out
    assert command("reconstruct", new, "--count", 4).status == 0
    assert command("kl", new, "--samples", 10, "--limit", 20).status == 0
    assert command("calibrate", new, "--simulations", 100, "--draws", 19).status == 0
    status, out, _ = command("refit", new, "--prior", "learned_normal", "--out", "third", *options)
    assert status == 0
    assert "change, of pairs" in out
    status, out, err = command("fit", "--resume", new)  # nothing to go on from
    assert (status, err.count("\n")) == (2, 1)


def test_a_comparison_does_not_take_a_refitted_run_for_a_trained_one(command, run, tmp_path):
    options = ("--epochs", 1, "--samples", 2, "--limit", 20, "--out", "refitted")
    assert command("refit", "run", "--prior", "mixture:components=2", *options).status == 0
    config = Config.opened(tmp_path / "refitted/config.toml")
    dataset = Run.open(tmp_path / "refitted").dataset()
    assert find_run(config, dataset, (tmp_path,)) is None


OWN = """
import torch
from pyro import distributions as dist

class MyPrior(torch.nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(latent_dim))

    def forward(self):
        return dist.Laplace(self.loc, 1.0).to_event(1)
"""


def test_a_prior_of_the_users_own_is_fitted_and_replaced(command, run, tmp_path, no_figures):
    (tmp_path / "refit_own.py").write_text(OWN)
    few = ("--epochs", 2, "--samples", 2, "--limit", 20)
    own = "refit_own:MyPrior"
    assert command("refit", "run", "--prior", own, "--out", "own", *few).status == 0
    assert pyrovae.load(tmp_path / "own", trusted=[own]).prior.loc.abs().sum() > 0
    assert command("refit", "own", "--prior", "normal", "--out", "back", *few).status == 2
    named = ("--old-prior", own)
    assert command("refit", "own", "--prior", "normal", "--out", "back", *named, *few).status == 0
    assert command("refit", "run", "--prior", "normal", *named, "--out", "x", *few).status == 2


def test_bad_input_is_one_line_and_writes_nothing(command, run, tmp_path, no_figures):
    fitted = command("fit", *SMALL, "--posterior", "point", "--epochs", 1, "--out", "points")
    assert fitted.status == 0
    (tmp_path / "taken").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, said in (
        (("run",), "prior"),
        (("run", "--prior", "nothing"), "prior must be one of"),
        (("run", "--prior", "mixture:parts=3"), "no option 'parts'"),
        (("run", "--prior", "sphere"), "over the same space"),
        (("run", "--prior", "categorical"), "over the same space"),
        (("points", "--prior", "flow"), "is a point"),
        (("points", "--prior", "vamp:components=3"), "has no density"),
        (("run", "--prior", "flow", "--out", "taken"), "taken exists"),
        (("run", "--prior", "flow", "--learning-rate", -1), "learning_rate must be positive"),
        (("run", "--prior", "flow", "--epochs", 0), "--epochs"),
        (("run", "--prior", "vamp:components=5000"), "there are 1258 data"),
        (("nowhere", "--prior", "flow"), "there is no run at nowhere"),
    ):
        status, out, err = command("refit", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_interruption_leaves_no_folder(run, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.plots.draw_vae", interrupted)
    before = sorted(path.name for path in tmp_path.iterdir())
    with contextlib.suppress(KeyboardInterrupt):
        refit_run(Run.open(run), "learned_normal", tmp_path / "new", epochs=1, samples=2, limit=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_table_is_refitted_and_drawn(command, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "table.npy", rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)))
    network = "mlp:hidden_dims=8"
    options = ("--data", "table.npy", "--encoder", network, "--decoder", network, "--epochs", 2)
    assert command("fit", *options, "--out", "run").status == 0
    few = ("--epochs", 2, "--samples", 5)
    assert command("refit", "run", "--prior", "student_t", "--out", "new", *few).status == 0
    assert (tmp_path / "new/figures/refit.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "new/refit.json").read_text())["parameters"] == 0
    assert (tmp_path / "new/statistics.safetensors").exists()
    assert command("encode", "new", "--data", "table.npy", "--out", "codes.npz").status == 0


def test_the_picture_of_a_table_has_a_panel_for_each_column():
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(50, 3)) for _ in range(3)]
    figure = plots.prior_swap(*tables, "normal", "flow")
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 3
