"""The test of a posterior on data from its own model accepts the exact one and rejects others."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from scipy.stats import kstest, norm
from torch import nn

from pyrovae import plots
from pyrovae.diagnostics.calibration import BINS, _overall_verdict, calibrate, uniformity
from pyrovae.distributions import OneHots
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import Categorical, StandardNormal
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import EVERY_DENSE_PAIR, linear_gaussian
from tests.models import make_pair as make
from tests.oracles import assert_within

CORRECT = 20  # seeds for which the exact posterior is tested


class Changed(nn.Module):
    """The exact posterior with another scale or place."""

    def __init__(self, exact, scale=1.0, shift=0.0):
        super().__init__()
        self.exact, self.scale, self.shift = exact, scale, shift

    def forward(self, x):
        q = self.exact(x)
        sd = q.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        return dist.MultivariateNormal(
            q.mean + self.shift * sd, scale_tril=self.scale * q.scale_tril
        )


def changed(seed, **change):
    vae = linear_gaussian(seed)[0]
    return VAE(vae.prior, vae.likelihood, Changed(vae.posterior, **change))


def words(result):
    """What is said of each function of z."""
    return {row.name: row.verdict for row in result.functions}


def test_the_exact_posterior_is_accepted_with_uniform_p_values():
    results = [
        calibrate(linear_gaussian(seed)[0], simulations=400, draws=39, seed=seed)
        for seed in range(CORRECT)
    ]
    overall = [result.p_value for result in results]
    assert kstest(overall, "uniform").pvalue > 0.01
    assert sum(p < 0.05 for p in overall) <= 4  # 4 or fewer of 20 with probability 0.997
    for place in range(4):  # each function by itself as well
        alone = [result.functions[place].p_value for result in results]
        assert kstest(alone, "uniform").pvalue > 0.002
    shares = np.array(
        [[row.coverage[1].observed.value for row in r.functions[:2]] for r in results]
    )
    assert_within(shares.mean(), 0.8, (0.16 / (400 * CORRECT)) ** 0.5)
    ratios = np.array([[row.error_ratio.value for row in r.functions[:2]] for r in results])
    assert_within(ratios.mean(), 1, ratios.std() / CORRECT**0.5)


@pytest.mark.parametrize(("scale", "verdict"), [(0.8, "too narrow"), (1.2, "too wide")])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_scale_off_by_a_fifth_is_rejected_and_named(seed, scale, verdict):
    result = calibrate(changed(seed, scale=scale), seed=seed)
    assert result.p_value <= 0.002
    assert words(result)["z1"] == words(result)["z2"] == verdict
    assert verdict in result.verdict
    for row in result.functions[:2]:
        # the error is that of the exact posterior, which q multiplies by the scale
        found = row.error_ratio
        assert_within(found.value, 1 / scale, found.standard_error)
        for covered in row.coverage:
            # an interval of q reaches scale times as far as that of the exact posterior
            expected = 2 * norm.cdf(scale * norm.ppf(0.5 + covered.nominal / 2)) - 1
            # and 99 draws do not fix the interval
            assert_within(
                covered.observed.value, expected, covered.observed.standard_error, floor=0.01
            )


@pytest.mark.parametrize(("shift", "verdict"), [(0.4, "too high"), (-0.4, "too low")])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_shifted_posterior_is_rejected_and_its_side_is_named(seed, shift, verdict):
    result = calibrate(changed(seed, shift=shift), seed=seed)
    assert result.p_value <= 0.002
    assert words(result)["z1"] == words(result)["z2"] == verdict


class Ignores(nn.Module):
    """A posterior that is the prior, whatever x is."""

    def forward(self, x):
        return dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_posterior_that_ignores_x_is_seen_by_the_likelihood_alone(seed):
    vae = linear_gaussian(seed)[0]
    result = calibrate(VAE(vae.prior, vae.likelihood, Ignores()), seed=seed)
    found = words(result)
    assert found.pop("log p(x|z)") == "too low"
    assert set(found.values()) == {"flat"}
    assert result.p_value <= 0.002


def dependent(rng, functions):
    """Exchangeable values of functions that are nearly the same."""
    common = rng.normal(size=(200, BINS, 1))
    return common + 0.1 * rng.normal(size=(200, BINS, functions))


@pytest.mark.parametrize("kind", ["independent", "dependent", "tied"])
def test_p_values_are_uniform_for_many_functions_dependent_ones_and_ties(kind):
    rng = np.random.default_rng(0)
    make_values = {
        "independent": lambda: rng.normal(size=(200, BINS, 10)),
        "dependent": lambda: dependent(rng, 10),
        "tied": lambda: rng.integers(3, size=(200, BINS, 5)),
    }[kind]
    names = [f"f{n}" for n in range(10)]
    p_values = [
        uniformity(make_values(), names[: 5 if kind == "tied" else 10], seed=seed).p_value
        for seed in range(60)
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_a_constant_is_the_same_everywhere_by_its_random_ranks(seed):
    result = uniformity(np.zeros((2_000, BINS, 1)), ["nothing"], seed=seed)
    assert result.functions[0].p_value > 1e-3


def test_the_ranks_are_those_of_the_values():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(500, 2 * BINS, 2))
    result = uniformity(values, ["a", "b"], intervals=["a"])
    for place, row in enumerate(result.functions):
        ranks = (values[:, 1:, place] < values[:, :1, place]).sum(1)
        assert row.histogram == np.bincount(ranks // 2, minlength=BINS).tolist()
        u = (ranks + 0.5) / (2 * BINS)
        assert row.mean_rank.value == pytest.approx(u.mean())
    assert result.functions[1].coverage is None
    ranks = (values[:, 1:, 0] < values[:, :1, 0]).sum(1)
    inside = ((ranks >= 10) & (ranks < 30)).mean()  # the central half of 40 ranks
    assert result.functions[0].coverage[0].observed.value == pytest.approx(inside)
    assert result.coverage[-1].nominal == result.coverage[-1].observed.value == 1


@pytest.mark.parametrize(("prior", "posterior"), EVERY_DENSE_PAIR)
def test_every_pair_is_tested_or_said_to_be_constant(prior, posterior, tmp_path):
    vae = make(prior, posterior)
    before = torch.get_rng_state()
    result = calibrate(vae, simulations=100, draws=19)
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training
    assert result == calibrate(vae, simulations=100, draws=19)
    assert 0 < result.p_value <= 1
    names = set(words(result))
    assert {"z1", "z2", "log p(x|z)"} <= names
    assert ("log p(z)" in names) == (prior not in ("sphere", "categorical"))  # uniform ones
    assert (result.coverage is None) == (posterior == "relaxed_categorical")
    plots.save(plots.calibration(result), tmp_path / "calibration.png")


class Enumerated(nn.Module):
    """p(z | x) for one one-hot variable with equal weights, by Bayes' rule."""

    def __init__(self, likelihood, change):
        super().__init__()
        self.likelihood, self.change = likelihood, change

    def forward(self, x):
        log_p = self.likelihood(torch.eye(2)).log_prob(x.unsqueeze(1))  # (batch, classes)
        return OneHots(self.change * log_p.unsqueeze(-2))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_discrete_posterior_is_accepted_if_exact_and_rejected_if_too_sure(seed):
    torch.manual_seed(seed)
    for change, accepted in ((1.0, True), (2.0, False)):
        likelihood = Bernoulli(2, (1, 8, 8), lambda i, o: MLP(i, o, hidden_dims=(8,)))
        vae = VAE(Categorical(2, classes=2), likelihood, Enumerated(likelihood, change))
        result = calibrate(vae, draws=39, seed=seed)
        assert (result.p_value > 0.005) == accepted


def test_options_out_of_range_and_a_point_are_refused(vae):
    with pytest.raises(ValueError, match="simulations must be at least 100"):
        calibrate(vae, simulations=99)
    for draws, allowed in ((0, 19), (18, 19), (20, 39), (100, 119)):
        with pytest.raises(ValueError, match=f"multiple of 20.*use {allowed}"):
            calibrate(vae, draws=draws)
    with pytest.raises(ValueError, match="Point is a point: it claims no uncertainty"):
        calibrate(make("normal", "point"), simulations=100, draws=19)


def test_a_wide_latent_space_shows_its_worst_functions(network):
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(20), Bernoulli(20, shape, network), DiagonalNormal(20, shape, network))
    result = calibrate(vae, simulations=100, draws=19)
    assert len(result.functions) == 22
    picture = plots.calibration(result)
    titles = [axes.get_title(loc="left").partition(":")[0] for axes in picture.axes]
    assert len([title for title in titles if title.startswith("$")]) == 12


def test_the_command_prints_writes_and_refuses(command, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    small = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", 2)
    assert command("fit", *small, "--epochs", 1, "--out", "run").status == 0
    options = ("calibrate", "run", "--simulations", 200, "--draws", 19)
    status, out, _ = command(*options, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["prior"] == "normal"
    assert result["simulations"] == 200
    assert (tmp_path / "run/figures/calibration.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = command(*options)
    assert status == 0
    assert result["verdict"] in out
    for wrong in (("--draws", 20), ("--simulations", 10), ("--simulations", 0)):
        (tmp_path / "run/figures/calibration.png").unlink(missing_ok=True)
        status, out, err = command("calibrate", "run", *wrong)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert not (tmp_path / "run/figures/calibration.png").exists()
    fitted = command("fit", *small, "--posterior", "point", "--epochs", 1, "--out", "points")
    assert fitted.status == 0
    status, out, err = command("calibrate", "points")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "is a point" in err


def test_the_functions_that_are_furthest_from_flat_are_named_first():
    rows = [SimpleNamespace(name=n, verdict="low", chi_squared=c) for n, c in (("a", 5), ("b", 50))]
    verdict = _overall_verdict(0.001, rows, 100)
    assert verdict.endswith("b low; a low")
