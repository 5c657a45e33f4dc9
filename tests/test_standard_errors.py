"""Standard errors are those that estimates have when they are repeated: one test for each kind.

The error of the importance-weighted bound is by the jackknife. It is held where q is wider than the
posterior and where it is narrower, so that weights have a heavy tail: for each example with a true
Pareto shape below the threshold, and for a mean over examples also above it.
"""

import numpy as np
import pytest
import torch
from pyro import distributions as dist

from pyrovae.data import Split, load
from pyrovae.diagnostics import (
    NutsSettings,
    aggregate_draws,
    calibrate,
    compare_gradients,
    gap,
    surgery,
)
from pyrovae.diagnostics.two_sample import probe
from pyrovae.evidence import (
    Draws,
    annealed,
    bounds,
    bridge,
    evaluate,
    importance_weighted,
    reliable_below,
)
from pyrovae.kl import compare
from pyrovae.likelihoods import Binomial
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.queries import impute
from pyrovae.training import fit
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import affine, linear_gaussian, loose
from tests.oracles import assert_calibrated

MASKS = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 1, 1], [1, 0, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("stated", "bias"), [(0.7, 0.0), (1.4, 0.0), (1.0, 0.7), (float("inf"), 0.0), (0.0, 0.0)]
)
def test_errors_that_are_not_the_real_ones_are_found(stated, bias):
    """Of 100 values, with errors off by the root of two, or a bias below one error of each."""

    def make(seed):
        torch.manual_seed(seed)
        return bias + torch.randn(()), stated

    assert_calibrated(lambda seed: (make(seed)[0] - bias, 1.0), 0.0, range(100))
    with pytest.raises(AssertionError):
        assert_calibrated(make, 0.0, range(100))


def test_of_the_importance_weighted_bound_where_q_is_wider_than_the_posterior():
    vae, x, evidence = linear_gaussian(0)
    vae, _ = loose(vae)

    def make(seed):
        torch.manual_seed(seed)
        found = bounds(vae, x, 2_000)
        assert found.pareto_k.max() < 0.7
        return found.log_evidence, found.standard_error

    assert_calibrated(make, evidence, range(50))


def narrow(vae, share, off=0.0):
    """With a posterior of less variance: the weights have a tail of the shape 1 - share."""
    exact = vae.posterior

    def posterior(x):
        q = exact(x)
        return dist.MultivariateNormal(q.mean + off, share * q.covariance_matrix)

    return VAE(vae.prior, vae.likelihood, posterior)


@pytest.mark.parametrize("model", SEEDS)
@pytest.mark.parametrize(
    ("samples", "share", "off"), [(50, 0.7, 0.2), (200, 0.6, 0.3), (1_000, 0.5, 0.4)]
)
def test_of_the_importance_weighted_bound_where_q_is_narrower(samples, share, off, model):
    """Of each example; the true shape of the tail is below the threshold."""
    vae, x, _ = linear_gaussian(model)
    vae = narrow(vae, share, off)
    assert 1 - share < reliable_below(samples)

    def make(seed):
        torch.manual_seed(seed)
        found = bounds(vae, x, samples)
        return found.log_evidence, found.standard_error

    assert_calibrated(make, None, range(60))


@pytest.mark.parametrize("model", SEEDS)
def test_of_a_mean_of_importance_weighted_bounds_with_few_draws(model):
    """Over 100 examples at K = 50, for a shape far above the threshold."""
    vae, x, _ = linear_gaussian(model)
    vae, x = narrow(vae, 0.3, off=0.5), x.repeat(5, 1)
    assert reliable_below(50) < 0.5 < 1 - 0.3

    def make(seed):
        torch.manual_seed(seed)
        found = bounds(vae, x, 50)
        assert found.summary(50).unreliable > 0.5
        return found.log_evidence.mean(), found.summary(50).sampling_error

    assert_calibrated(make, None, range(100))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_of_the_bound_of_a_trained_model_with_few_draws(seed):
    """Mean and each of 100 digits at K = 50, over 40 evaluations; most have a heavy tail."""
    torch.manual_seed(seed)
    digits = load("digits")
    shape = digits.event_shape
    likelihood = Binomial(10, shape, MLP, total_count=16)
    vae = VAE(StandardNormal(10), likelihood, DiagonalNormal(10, shape, MLP))
    fit(vae, digits, epochs=15, seed=seed, report=lambda progress: None)
    found = [evaluate(vae, digits.test, samples=50, limit=100, seed=each) for each in range(40)]
    assert found[0].weights.unreliable > 0.5

    def mean(place):
        return found[place].log_evidence.value, found[place].weights.sampling_error

    def each(place):
        every = found[place].per_example
        return every.log_evidence, every.standard_error

    assert_calibrated(mean, None, range(40))
    assert_calibrated(each, None, range(40), overstated=1.1)


@pytest.mark.parametrize("samples", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_of_importance_weighting_by_a_fitted_mixture(samples):
    """It counts that each part of the mixture gives a fixed number of draws."""
    vae, x, evidence = linear_gaussian(0)
    vae, x, evidence = loose(vae)[0], x[:5], evidence[:5]

    def make(seed):
        found = importance_weighted(vae, x, samples=samples, seed=seed, proposal="mixture")
        return found.log_evidence, found.standard_error

    assert_calibrated(make, evidence, range(20))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_of_annealing(start):
    vae, x, evidence = linear_gaussian(0)
    vae, _ = loose(vae)
    options = {"samples": 200, "temperatures": 20, "leapfrog": 2, "start": start}

    def make(seed):
        found = annealed(vae, x, seed=seed, **options)
        return found.log_evidence, found.standard_error

    assert_calibrated(make, evidence, range(12))


def test_of_bridge_sampling_which_may_be_too_large_by_the_root_of_two():
    tril = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.3, 0.4]]).double()
    target = dist.MultivariateStudentT(torch.tensor(6.0).double(), torch.ones(3).double(), tril)
    flat = torch.ones(40, 3)

    def make(seed):
        torch.manual_seed(seed)
        draws = Draws(target.sample((4, 200, 40)), flat, flat, 0)
        return bridge(target.log_prob, draws, seed=seed)

    assert_calibrated(make, torch.zeros(40), range(20), overstated=2)


@pytest.mark.parametrize("estimator", ["monte_carlo", "low_variance"])
def test_of_a_divergence_by_draws(estimator):
    """From q that are wider than p, so that r - 1 - log r has a finite variance too."""
    torch.manual_seed(0)
    q = dist.Normal(torch.randn(20, 2) / 2, 1 + torch.rand(20, 2)).to_event(1)
    p = dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def make(seed):
        (row,) = getattr(compare(q, p, samples=(200,), seed=seed), estimator)
        return row.estimate

    exact = torch.distributions.kl_divergence(q, p).mean()
    assert_calibrated(make, exact, range(150))


def test_of_the_terms_of_the_bound_for_the_examples_that_are_given():
    vae, x, _ = linear_gaussian(0)
    vae, _ = loose(vae)
    data = Split.from_array(x)
    found = [surgery(aggregate_draws(vae, data, draws=20, seed=seed)) for seed in range(60)]
    for name in ("elbo", "reconstruction", "kl", "mutual_information", "marginal_kl"):
        terms = [result.terms[name] for result in found]
        assert_calibrated(terms.__getitem__, None, range(60))


@pytest.mark.slow
def test_of_the_variance_of_a_gradient():
    vae, x, _ = affine(0)
    data = Split.from_array(x)
    found = [compare_gradients(vae, data, draws=40, seed=seed) for seed in range(20)]
    for place, name in enumerate(("elbo", "analytic")):
        rows = [result.estimators[place] for result in found]
        assert {row.name for row in rows} == {name}
        variances = [row.noise.variance for row in rows]
        assert_calibrated(variances.__getitem__, None, range(20))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the weights of 1 of 3 examples have a heavy tail")
def test_of_imputation():
    """Of log p of what is observed, and of the mean of the first missing pixel of each example."""
    vae, x, _ = linear_gaussian(0)
    x, place = x[:3], torch.arange(3)
    pixel = (~MASKS).int().argmax(1)
    found = [impute(vae, x, MASKS, completions=1, samples=2_000, seed=seed) for seed in range(30)]
    joint = vae.likelihood.decoder.layer.weight.detach()
    joint = joint @ joint.T + 0.36 * torch.eye(5).double()
    bias = vae.likelihood.decoder.layer.bias.detach()
    evidence, mean = [], []
    for each, o, at in zip(x, MASKS, pixel, strict=True):
        evidence.append(dist.MultivariateNormal(bias[o], joint[o][:, o]).log_prob(each[o]))
        off = torch.linalg.solve(joint[o][:, o], each[o] - bias[o])
        mean.append(bias[at] + joint[at, o] @ off)

    assert_calibrated(
        lambda seed: (found[seed].log_evidence, found[seed].standard_error),
        torch.stack(evidence),
        range(30),
    )
    assert_calibrated(
        lambda seed: (found[seed].mean[place, pixel], found[seed].mean_error[place, pixel]),
        torch.stack(mean),
        range(30),
    )


def test_of_the_share_of_right_answers():
    """Of classifiers that are trained once, over test sets."""
    rng = np.random.default_rng(0)

    def sample(count, rng):
        labels = rng.integers(2, size=count)
        return rng.normal(size=(count, 2)) + labels[:, None], labels

    train = sample(200, rng)
    found = [probe(*train, *sample(300, np.random.default_rng(seed))) for seed in range(60)]
    for name in ("linear", "neighbors"):
        shares = [getattr(result, name) for result in found]
        assert_calibrated(shares.__getitem__, None, range(60))


def test_of_the_statistics_of_a_calibration():
    """For the exact posterior: mean rank, error ratio and coverage of each dimension."""
    found = [
        calibrate(linear_gaussian(seed)[0], simulations=400, draws=39, seed=seed)
        for seed in range(40)
    ]
    for dimension in (0, 1):
        rows = [result.functions[dimension] for result in found]
        held = [row.coverage[1] for row in rows]
        assert {covered.nominal for covered in held} == {0.8}
        for estimates, truth in (
            ([row.mean_rank for row in rows], 0.5),
            ([row.error_ratio for row in rows], 1.0),
            ([covered.observed for covered in held], 0.8),
        ):
            assert_calibrated(estimates.__getitem__, truth, range(40))


@pytest.mark.slow
def test_of_the_elbo_in_an_inference_gap():
    vae, x, _ = linear_gaussian(0)
    vae = VAE(vae.prior, vae.likelihood, DiagonalNormal(2, (5,), Linear).double())
    options = {"images": 3, "steps": 1, "nuts": None}
    exact = gap(vae, Split.from_array(x), **options).elbo.value

    def make(seed):
        found = gap(
            vae, Split.from_array(x), method="quadrature", samples=500, seed=seed, **options
        )
        return found.elbo.value, found.elbo.error

    assert_calibrated(make, exact, range(20))


@pytest.mark.slow
def test_of_what_chains_give_in_an_inference_gap():
    """log p(x) by bridge sampling, whose error is too large by up to the root of two by design."""
    vae, x, evidence = linear_gaussian(0)
    vae = VAE(vae.prior, vae.likelihood, DiagonalNormal(2, (5,), Linear).double())
    nuts = NutsSettings(draws=100, warmup=60, chains=2)
    options = {"images": 3, "steps": 1, "samples": 500, "nuts": nuts}
    data = Split.from_array(x)

    def make(seed):
        found = gap(vae, data, method="bridge", seed=seed, **options)
        return found.log_evidence.value, found.log_evidence.error

    assert_calibrated(make, evidence[:3], range(12), overstated=2)
