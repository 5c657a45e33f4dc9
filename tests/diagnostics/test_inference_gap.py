"""The identity closes, and its terms are those of models whose answer is known."""

import json
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import pyrovae
from pyrovae.data import Split, load
from pyrovae.diagnostics.inference_gap import NutsSettings, gap, posterior_densities
from pyrovae.diagnostics.optimal_posterior import best_posterior, log_weights, with_outputs
from pyrovae.evidence import Draws, bridge, log_joint
from pyrovae.likelihoods import Bernoulli, Binomial
from pyrovae.networks import MLP, Linear
from pyrovae.plots import gap as gap_figure
from pyrovae.plots import posteriors
from pyrovae.posteriors import (
    DiagonalLaplace,
    DiagonalNormal,
    FullNormal,
    InverseAutoregressive,
    LowRankNormal,
)
from pyrovae.priors import Flow, GaussianMixture, Laplace, StandardNormal, VampPrior
from pyrovae.runs import Spec
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import NO_REAL_LATENT, exact_posterior, linear_gaussian
from tests.oracles import assert_finite, assert_no_less, assert_within

pytestmark = pytest.mark.xdist_group("inference gap")  # one process makes its runs once

TERMS = ("log_evidence", "elbo", "kl", "residual", "best_elbo", "approximation", "amortization")
QUICK = {"samples": 200, "steps": 20, "nuts": NutsSettings(draws=8, warmup=8, chains=2)}
NO_NUTS = QUICK | {"samples": 2_000, "nuts": None}


def with_diagonal_normal(seed, optimal=False):
    """A linear-Gaussian model, its data, and a diagonal q: of random weights, or the best one."""
    vae, x, evidence = linear_gaussian(seed)
    q = DiagonalNormal(2, (5,), Linear).double()
    if optimal:
        # the mean is affine in x, so that a linear encoder holds it
        inputs = torch.cat([torch.zeros(1, 5), torch.eye(5)]).double()
        with torch.no_grad():
            mean, covariance = exact_posterior(vae, inputs)
            precision = torch.linalg.inv(covariance)
            layer = q.encoder.layer
            layer.weight[:2], layer.bias[:2] = (mean[1:] - mean[0]).T, mean[0]
            layer.weight[2:], layer.bias[2:] = 0.0, -precision.diagonal().log() / 2
    return VAE(vae.prior, vae.likelihood, q), x, evidence


def best_mean_field_gap(vae, x):
    """KL(q* || p) of the diagonal q* whose precisions are the diagonal of that of p."""
    from tests.models import ExactPosterior

    exact = ExactPosterior(vae.likelihood)(x)
    precision = exact.precision_matrix[0].detach()
    return (precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1]) / 2


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_identity_closes_exactly_for_linear_gaussian_models(seed):
    vae, x, evidence = with_diagonal_normal(seed)
    found = gap(vae, Split.from_array(x), images=20, steps=1, nuts=None)
    assert found.method == "exact"
    assert (found.log_evidence.value - evidence).abs().max() < 1e-5
    assert found.residual.value.abs().max() < 1e-9
    assert_finite(found.kl.value)
    assert found.kl.value.min() > 0
    for name in TERMS:
        assert not getattr(found, name).error.any()
    # the closed ELBO against draws, within 5 standard errors
    log_w = log_weights(vae, vae.posterior(x), x, 20_000, seed)
    error = log_w.std(0) / math.sqrt(20_000)
    assert_within(log_w.mean(0), found.elbo.value, error, 5)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_approximation_gap_is_the_closed_form_of_the_best_mean_field_normal(seed):
    vae, x, _ = with_diagonal_normal(seed)
    found = gap(vae, Split.from_array(x), images=3, steps=2_000, nuts=None)
    expected = best_mean_field_gap(vae, x)
    assert expected > 1e-3
    # the gap is quadratic about the best q, so that what the search misses is small, and positive
    missed = found.approximation.value - expected
    assert missed.min() > -1e-9
    assert missed.max() < 2e-3
    total = found.log_evidence.value - found.elbo.value
    assert_finite(total)
    assert torch.allclose(found.approximation.value + found.amortization.value, total, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_q_is_at_another_mode_than_the_encoders_where_that_is_better(seed):
    """z^2 + z / 2 = 1 has the roots 0.78 and -1.28, and the prior prefers the first in both."""

    def likelihood(z):
        return dist.Normal(z.square() + z / 2, 0.1).to_event(1)

    q = DiagonalNormal(2, (2,), Linear)
    with torch.no_grad():
        q.encoder.layer.weight.zero_()
        q.encoder.layer.bias.copy_(torch.tensor([-1.28, -1.28, -3.0, -3.0]))
    vae, x = VAE(StandardNormal(2), likelihood, q), torch.ones(1, 2)
    vae.decode = lambda z: x
    found = with_outputs(q, best_posterior(vae, x, steps=300, seed=seed))(x)
    assert found.mean.detach().flatten().tolist() == pytest.approx([0.78, 0.78], abs=0.05)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_amortization_gap_is_zero_where_the_encoders_q_is_the_best(seed):
    vae, x, _ = with_diagonal_normal(seed, optimal=True)
    found = gap(vae, Split.from_array(x), images=5, steps=800, nuts=None)
    assert found.amortization.value.abs().max() < 2e-3
    assert torch.allclose(found.kl.value, best_mean_field_gap(vae, x), atol=1e-9)


def test_approximation_gap_is_zero_where_the_family_holds_the_posterior():
    vae, x, _ = linear_gaussian(0)
    vae = VAE(vae.prior, vae.likelihood, FullNormal(2, (5,), Linear).double())
    found = gap(vae, Split.from_array(x), images=4, steps=800, nuts=None)
    assert found.method == "exact"
    assert found.approximation.value.abs().max() < 1e-3
    assert_finite(found.amortization.value)
    assert found.amortization.value.min() > 0.1


@pytest.mark.parametrize("degrees", [6, 100])
@pytest.mark.parametrize("seed", SEEDS)
def test_bridge_sampling_is_the_exact_integral(seed, degrees):
    """From independent draws of a correlated t in place of chains: 4 standard errors, 40 times.

    The error may be too large by a factor of up to the root of 2, so that squares of the quotient
    have a mean between 0.5 and 1; their own standard error is at most 0.22, taken 4 times.
    """
    torch.manual_seed(seed)
    tril = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.3, 0.4]]).double()
    df, log_z = torch.tensor(float(degrees)).double(), torch.linspace(-50, 50, 40).double()
    target = dist.MultivariateStudentT(df, torch.ones(3).double(), tril)
    z = target.sample((4, 200, 40))
    flat = torch.ones(40, 3)
    draws = Draws(z, flat, flat, 0)
    value, error = bridge(lambda z: target.log_prob(z) + log_z, draws, seed=seed)
    assert_within(value, log_z, error)
    z_scores = (value - log_z) / error
    assert 0.1 < z_scores.square().mean() < 1.9
    assert error.max() < 0.05


def test_bridge_sampling_iterates_until_its_estimate_is_a_fixed_point(monkeypatch):
    """More steps change nothing, though one step is not enough."""
    torch.manual_seed(0)
    target = dist.MultivariateStudentT(torch.tensor(2.5), torch.ones(3), torch.eye(3))
    z = target.expand((1,)).sample((2, 40))
    draws = Draws(z, torch.ones(1, 3), torch.ones(1, 3), 0)
    found = {}
    for steps in (1, 1_000, 5_000):
        monkeypatch.setattr("pyrovae.evidence.chains.STEPS", steps)
        found[steps] = bridge(target.log_prob, draws)[0].item()
    assert found[5_000] == pytest.approx(found[1_000], abs=1e-9)
    assert abs(found[1] - found[1_000]) > 1e-4


def test_bridge_sampling_shows_chains_that_do_not_agree():
    """Two chains in one of two modes, two in the other: the error covers what that does."""
    modes = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.1, 0.9])),
        dist.Normal(torch.tensor([[-9.0], [9.0]]), 1.0).to_event(1),
    )
    torch.manual_seed(0)
    z = torch.randn(4, 300, 1, 1) + torch.tensor([-9.0, -9.0, 9.0, 9.0]).reshape(4, 1, 1, 1)
    value, error = bridge(modes.log_prob, Draws(z, torch.ones(1, 1), torch.ones(1, 1), 0))
    assert_within(value, 0.0, error)
    assert error > 0.1


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_nuts_and_bridge_sampling_give_the_exact_evidence(seed):
    """All of the way, on a linear-Gaussian model: 4.5 standard errors."""
    vae, x, evidence = with_diagonal_normal(seed)
    nuts = NutsSettings(draws=150, warmup=60, chains=2)
    options = {"samples": 2_000, "steps": 100, "nuts": nuts}
    found = gap(vae, Split.from_array(x), images=4, method="bridge", seed=seed, **options)
    assert_within(found.log_evidence.value, evidence[:4], found.log_evidence.error, 4.5)
    assert found.log_evidence.error.max() < 0.1
    exact = gap(vae, Split.from_array(x), images=4, steps=1, nuts=None)
    for name in ("elbo", "kl"):
        term, truth = getattr(found, name), getattr(exact, name)
        assert_within(term.value, truth.value, term.error, 4.5)
    assert_within(found.residual.value, 0.0, found.residual.error, 4.5)


@pytest.fixture(scope="module")
def trained():
    """A model of the digits with two latent dimensions, after a few epochs."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    digits = load("digits")
    network = lambda *shapes: MLP(*shapes, hidden_dims=(64,))  # noqa: E731
    shape = digits.event_shape
    vae = VAE(
        StandardNormal(2),
        Binomial(2, shape, network, total_count=16),
        DiagonalNormal(2, shape, network),
    )
    pyrovae.fit(vae, digits, epochs=15, seed=0)
    return vae, digits


@pytest.fixture(scope="module")
def taken_apart(trained):
    vae, digits = trained
    options = {"samples": 4_000, "steps": 200, "labels": digits.test.labels}
    nuts = NutsSettings(draws=20, warmup=30, chains=2)
    return gap(vae, digits.test, images=12, nuts=nuts, **options)


def test_identity_closes_within_its_error_for_each_digit(taken_apart):
    """4 standard errors for each of 12 images, and no more spread than there should be."""
    assert taken_apart.method == "quadrature"
    assert_within(taken_apart.residual.value, 0.0, taken_apart.residual.error)
    z_scores = taken_apart.residual.value / taken_apart.residual.error
    assert 0.2 < z_scores.square().mean() < 2.6  # 4 standard errors of the mean of 12 squares: 1.6
    assert taken_apart.residual.error.max() < 0.2
    assert taken_apart.log_evidence.error.max() < 1e-3


def test_log_evidence_by_quadrature_is_that_of_a_plain_grid(trained, taken_apart):
    vae, _ = trained
    axis = torch.linspace(-8, 8, 801)
    z = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        joint = log_joint(vae, taken_apart.x[:3])
        log = torch.cat([joint(part) for part in z.split(20_000)]).double()
    expected = log.logsumexp(0) + 2 * math.log(16 / 800)
    assert (taken_apart.log_evidence.value[:3] - expected).abs().max() < 1e-3


def test_bridge_sampling_agrees_with_quadrature_on_digits(trained, taken_apart):
    """4.5 standard errors for each of 4 images."""
    vae, digits = trained
    nuts = NutsSettings(draws=100, warmup=60, chains=2)
    options = {"samples": 100, "steps": 200, "nuts": nuts}
    found = gap(vae, digits.test, images=4, method="bridge", **options)
    difference = found.log_evidence.value - taken_apart.log_evidence.value[:4]
    assert_within(difference, 0.0, found.log_evidence.error, 4.5)


def test_gaps_are_positive_and_add_up(taken_apart):
    approximation, amortization = taken_apart.approximation, taken_apart.amortization
    assert_no_less(approximation.value, 0.0, approximation.error)
    assert_no_less(amortization.value, 0.0, amortization.error)
    total = taken_apart.log_evidence.value - taken_apart.elbo.value
    assert_finite(total)
    assert torch.allclose(approximation.value + amortization.value, total, atol=1e-9)


def test_summary_and_pictures_show_every_image(trained, taken_apart, tmp_path):
    vae, digits = trained
    result = json.loads(json.dumps(taken_apart.to_dict()))
    assert [row["image"] for row in result["per_image"]] == list(range(12))
    assert [row["label"] for row in result["per_image"]] == digits.test.labels[:12].tolist()
    values = taken_apart.kl.value
    mean = result["mean"]["kl"]
    assert mean["estimate"] == pytest.approx(values.mean().item())
    assert mean["standard_error"] == pytest.approx(values.std().item() / math.sqrt(12))
    assert result["nuts"]["chains"] == 2
    axes = gap_figure(taken_apart).axes[0]
    assert len(axes.get_xticks()) == 13
    panels = posterior_densities(vae, taken_apart, limit=3)
    assert len(posteriors(panels, taken_apart).axes) == 3
    for panel in panels:
        cell = np.diff(panel.z1)[0] * np.diff(panel.z2)[0]
        for name in ("posterior", "encoder", "best"):
            assert getattr(panel, name).sum() * cell == pytest.approx(1, abs=0.05)


FAMILIES = {
    "normal, laplace": (Laplace, DiagonalNormal),
    "mixture, full": (lambda d: GaussianMixture(d, components=3), FullNormal),
    "flow, low rank": (lambda d: Flow(d, transforms=1, hidden_dims=(8,)), LowRankNormal),
    "normal, laplace q": (StandardNormal, DiagonalLaplace),
    "normal, flow q": (StandardNormal, InverseAutoregressive),
}


def pair(name, latent_dim, network):
    shape = (1, 8, 8)
    prior, posterior = FAMILIES[name]
    return VAE(
        prior(latent_dim),
        Bernoulli(latent_dim, shape, network),
        posterior(latent_dim, shape, network),
    )


SOME_FAMILIES = [
    name
    if name in ("mixture, full", "normal, flow q")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
]


@pytest.mark.parametrize("latent_dim", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("name", SOME_FAMILIES)
def test_identity_closes_for_any_real_pair(name, latent_dim, network, digits):
    """4.5 standard errors, of untrained models by quadrature, for each of 3 images."""
    torch.manual_seed(1)
    vae = pair(name, latent_dim, network)
    found = gap(vae, Split.from_array(digits), images=3, **NO_NUTS)
    assert found.method == "quadrature"
    assert_within(found.residual.value, 0.0, found.residual.error, 4.5)
    assert found.residual.error.max() < 0.2
    assert_no_less(found.amortization.value, 0.0, found.amortization.error, 4.5)
    assert_no_less(found.approximation.value, 0.0, found.approximation.error, 4.5)


@pytest.mark.parametrize("name", SOME_FAMILIES)
def test_every_pair_is_taken_apart_by_bridge_sampling(name, network, digits):
    found = gap(pair(name, 3, network), Split.from_array(digits), images=2, **QUICK)
    assert found.method == "bridge"
    for term in TERMS:
        assert getattr(found, term).value.isfinite().all()
        assert getattr(found, term).error.isfinite().all()


def test_the_prior_made_of_the_posterior_stays_what_it_is(network, digits):
    """The best q of one image must not move a prior that holds q at its pseudo-inputs."""
    q = DiagonalNormal(2, (1, 8, 8), network)
    vae = VAE(VampPrior(q, (1, 8, 8), components=4), Bernoulli(2, (1, 8, 8), network), q)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    found = gap(vae, Split.from_array(digits), images=2, **NO_NUTS)
    assert_within(found.residual.value, 0.0, found.residual.error, 4.5)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_outputs_take_the_place_of_the_network(vae, digits):
    outputs = vae.posterior.encoder(digits).detach()
    q = with_outputs(vae.posterior, outputs)(digits)
    assert torch.equal(q.mean, vae.posterior(digits).mean)
    moved = with_outputs(vae.posterior, outputs + 1)(digits)
    assert torch.equal(moved.mean, q.mean + 1)
    assert torch.equal(vae.posterior(digits).mean, q.mean)


def test_one_seed_gives_one_result_and_nothing_global_changes(vae, digits):
    data = Split.from_array(digits)
    vae.train()
    pyro.param("of the user", torch.ones(1))
    state = torch.get_rng_state()
    first = gap(vae, data, images=2, seed=3, **QUICK)
    assert torch.equal(state, torch.get_rng_state())
    assert list(pyro.get_param_store().keys()) == ["of the user"]
    assert vae.training
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    torch.manual_seed(9)
    again = gap(vae, data, images=2, seed=3, **QUICK)
    other = gap(vae, data, images=2, seed=4, **QUICK)
    for name in TERMS:
        assert torch.equal(getattr(first, name).value, getattr(again, name).value)
    assert torch.equal(first.draws.z, again.draws.z)
    assert not torch.equal(first.elbo.value, other.elbo.value)


def test_search_finds_the_place_that_the_encoder_misses():
    """The third number of x is noise, and sends the encoder to where no gradient leads back."""

    class TwoPlaces(nn.Module):
        def forward(self, z):
            first = z[..., :1]
            loc = torch.cat([z.abs().sum(-1, True), torch.tanh(9 * first), 0 * first], -1)
            return dist.Normal(loc, 0.1).to_event(1)

    q = DiagonalNormal(2, (3,), Linear)
    with torch.no_grad():
        q.encoder.layer.weight.zero_()
        q.encoder.layer.weight[0, 2] = -1.0
        q.encoder.layer.bias.copy_(torch.tensor([1.0, 0.0, -2.0, -2.0]))
    x = torch.tensor([[1.0, 1.0, 2.0]])
    vae = VAE(StandardNormal(2), TwoPlaces(), q)
    assert q(x).mean[0, 0] == -1
    found = with_outputs(q, best_posterior(vae, x, steps=150))(x)
    assert found.mean[0, 0] > 0.3
    elbo, highest = (log_weights(vae, d, x, 500, 0).mean() for d in (q(x), found))
    assert_finite(highest, elbo)
    assert highest > elbo + 100


@pytest.mark.parametrize(("make", "message"), NO_REAL_LATENT)
def test_a_latent_that_is_no_real_vector_is_refused(make, message, network, digits):
    with pytest.raises(ValueError, match=message):
        gap(make(network), Split.from_array(digits), images=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"method": "magic"}, "method must be one of auto, exact, quadrature, bridge, got 'magic'"),
        ({"method": "exact"}, "no exact log p"),
    ],
)
def test_bad_options_are_refused(vae, digits, options, message):
    with pytest.raises(ValueError, match=message):
        gap(vae, Split.from_array(digits), **options)


def test_what_cannot_be_searched_or_integrated_is_refused(vae, network, digits):
    def fixed(x):
        return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)

    with pytest.raises(ValueError, match="has no part named encoder"):
        gap(VAE(vae.prior, vae.likelihood, fixed), Split.from_array(digits))
    with pytest.raises(ValueError, match="quadrature is for 1 and 2 latent dimensions, got 3"):
        gap(pair("normal, laplace", 3, network), Split.from_array(digits), method="quadrature")
    with pytest.raises(ValueError, match="outside the support"):
        gap(vae, Split.from_array(digits + 0.5))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {"model": {"latent_dim": 2}, "training": {"epochs": 2}}
    config, digits = pyrovae.Config.resolve(settings)
    from pyrovae.runs import start

    start(config, digits, folder)
    assert Spec.parse(config.model["posterior"]).name == "diagonal"
    return folder


def test_command_prints_a_table_and_draws_pictures(run, command):
    few = ("--images", 3, "--samples", 50, "--steps", 5, "--draws", 8)
    done = command("gap", run, *few)
    assert done.status == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()[1:7]] == [
        "image", "0", "1", "2", "mean", "images",
    ]  # fmt: skip
    for name in ("gap", "posteriors"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 10_000
        assert f"figure   {run}/figures/{name}.png" in done.out
    first, again = (command("gap", run, *few, "--json", "--seed", 1) for _ in range(2))
    assert first.out == again.out
    result = json.loads(first.out)
    assert result["method"] == "quadrature"
    assert len(result["per_image"]) == result["images"] == 3
    assert set(result["mean"]) == {*TERMS[:-1], "amortisation"}


def test_command_refuses_in_one_line_and_writes_nothing(run, command):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = command("gap", run, "--method", "exact")
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "exact log p(x)" in done.err
    assert done.out == ""
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
