"""Log densities are per unit of the data, whatever scaling the VAE sees."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyrovae.data import Rows, Source, prepare
from pyrovae.diagnostics import aggregate_draws, surgery
from pyrovae.evidence import evaluate, linear_gaussian, per_example, reconstruction_by_element
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import FullNormal
from pyrovae.priors import StandardNormal
from pyrovae.queries import score
from pyrovae.training import fit
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.oracles import assert_within


def dataset(seed, gaps, scaling="standardize"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 1)) * [1.0, 20.0, 3e3] + rng.normal(size=(60, 3)) * [0.5, 5.0, 500.0]
    x += [10.0, -5.0, 1e4]
    if gaps:
        x[rng.random(x.shape) < 0.3] = np.nan
    source = Source("mine", {"all": Rows(x)}, maximum=None, gaps=gaps)
    return prepare(source, scaling=scaling)


def model(seed):
    torch.manual_seed(seed)
    parts = Normal(1, (3,), Linear, scale="dimension"), FullNormal(1, (3,), MLP)
    return VAE(StandardNormal(1), *parts).double()


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_log_p_is_that_of_the_normal_over_the_data_in_their_units(seed, gaps):
    data, vae = dataset(seed, gaps), model(seed)
    marginal = linear_gaussian(vae).marginal()
    loc, scale = (torch.from_numpy(data.statistics[name]) for name in ("loc", "scale"))
    whole = MultivariateNormal(
        marginal.loc * scale + loc, marginal.covariance_matrix * scale * scale[:, None]
    )
    found = evaluate(vae, data.test, method="exact").per_example.log_evidence
    scaled = data.test.batch(np.arange(len(data.test)))
    for value, row in zip(found, data.test.original(scaled), strict=True):
        x, seen = torch.from_numpy(row), torch.from_numpy(~np.isnan(row))
        truth = 0.0
        if seen.any():
            part = MultivariateNormal(whole.loc[seen], whole.covariance_matrix[seen][:, seen])
            truth = part.log_prob(x[seen]).item()
        assert value.item() == pytest.approx(truth, abs=1e-4)  # rows pass through float32


def test_every_number_that_is_a_density_moves_and_no_other():
    data, vae = dataset(0, gaps=True), model(0)
    slope = data.test.log_slope()
    for options in ({"samples": 100}, {"samples": 100, "proposal": "mixture"}):
        units = evaluate(vae, data.test, **options)
        scaled = evaluate(vae, data.test, scaled=True, **options)
        shift = slope.mean().item()
        assert units.log_evidence.value == pytest.approx(scaled.log_evidence.value + shift)
        assert units.weights.at_a_tenth.value == pytest.approx(
            scaled.weights.at_a_tenth.value + shift
        )
        assert units.weights.bias_corrected.value == pytest.approx(
            scaled.weights.bias_corrected.value + shift
        )
        assert units.weights.median_ess == scaled.weights.median_ess
    units, scaled = (evaluate(vae, data.test, samples=50, scaled=each) for each in (False, True))
    assert units.elbo.value == pytest.approx(scaled.elbo.value + shift)
    assert units.reconstruction.value == pytest.approx(scaled.reconstruction.value + shift)
    assert units.kl == scaled.kl
    every = [per_example(vae, data.test, samples=50, scaled=each) for each in (False, True)]
    torch.testing.assert_close(every[0].elbo, every[1].elbo + slope)
    assert torch.equal(every[0].kl, every[1].kl)
    scores = [score(vae, data.test, samples=50, scaled=each).log_evidence for each in (False, True)]
    torch.testing.assert_close(scores[0], scores[1] + slope)


def test_a_bound_taken_apart_is_the_bound_in_the_same_units():
    data, vae = dataset(1, gaps=True), model(1)
    for scaled in (False, True):
        terms = surgery(aggregate_draws(vae, data.test, draws=20, scaled=scaled))
        whole = evaluate(vae, data.test, samples=20, scaled=scaled)
        assert terms.elbo.value == pytest.approx(whole.elbo.value)
        assert terms.reconstruction.value == pytest.approx(whole.reconstruction.value)
        assert terms.kl.value == pytest.approx(whole.kl.value)


def test_the_terms_of_the_columns_add_up_to_the_reconstruction_term():
    data, vae = dataset(1, gaps=True), model(1)
    each = reconstruction_by_element(vae, data.test, samples=2_000)
    whole = evaluate(vae, data.test, samples=2_000).reconstruction
    assert_within(sum(part.value for part in each), whole.value, 0.05)
    scaled = reconstruction_by_element(vae, data.test, samples=2_000, scaled=True)
    seen = ~np.isnan(data.test.batch(np.arange(len(data.test))).numpy())
    for part, other, log_slope, share in zip(
        each, scaled, data.test.log_slopes, seen.mean(0), strict=True
    ):
        assert part.value == pytest.approx(other.value + share * log_slope)


def test_simulated_examples_have_no_gaps_whatever_the_data_have():
    data, vae = dataset(0, gaps=True), model(0)
    options = {"method": "bdmc", "limit": 4, "samples": 4, "temperatures": 20}
    units, scaled = (evaluate(vae, data.test, scaled=each, **options) for each in (False, True))
    shift = data.test.log_slopes.sum()
    for side in ("lower", "upper"):
        moved = getattr(units, side).value - getattr(scaled, side).value
        assert moved == pytest.approx(shift)


def test_training_counts_in_the_units_of_the_data():
    data, vae = dataset(2, gaps=True), model(2)
    result = fit(vae, data, epochs=2, batch_size=16)
    bound = evaluate(vae, data.validation, samples=1).elbo.value
    assert result.best_validation_elbo == pytest.approx(bound)
    assert result.history.elbo[-1] == pytest.approx(
        result.history.reconstruction[-1] - result.history.kl[-1]
    )
    own = evaluate(vae, data.train, samples=50).elbo.value
    assert abs(result.history.elbo[-1] - own) < 3.0  # and not some ten nats off


def test_counts_divided_by_their_maximum_are_densities_of_counts():
    counts = np.random.default_rng(0).integers(0, 17, (40, 2))
    data = prepare(Source("mine", {"all": Rows(counts)}, maximum=16), scaling="unit")
    assert data.test.log_slope()[0].item() == pytest.approx(-2 * math.log(16))
    index = np.arange(len(data.test))
    assert set(np.unique(data.test.original(data.test.batch(index)))) <= set(range(17))
    assert data.test.log_slope(limit=3).shape == (3,)
    plain = prepare(Source("mine", {"all": Rows(counts)}, maximum=16))
    assert plain.test.log_slope() is None
