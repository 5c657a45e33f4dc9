"""Proposals that are fitted to each datum find the mass of its posterior."""

import pytest
import torch
from pyro import distributions as dist

from pyrovae.data import Split
from pyrovae.evidence import (
    NO_BOUND,
    Whole,
    adapted,
    affordable,
    evaluate,
    from_mixture,
    importance_weighted,
    integrated,
)
from pyrovae.networks import MLP
from pyrovae.priors import StandardNormal
from pyrovae.vae import VAE
from tests import models
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.oracles import assert_finite, assert_within


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_it_needs_no_good_posterior(seed):
    """One far off and far too narrow, and a point: within 4 errors for each of 20 x, all small."""
    vae, x, evidence = models.linear_gaussian(seed)

    def narrow(x):
        q = vae.posterior(x)
        return dist.MultivariateNormal(q.mean + 3 * q.stddev, q.covariance_matrix / 400)

    far = VAE(vae.prior, vae.likelihood, narrow)
    point = VAE(vae.prior, vae.likelihood, lambda x: dist.Delta(vae.posterior(x).mean).to_event(1))
    for other in (far, point):
        found = importance_weighted(other, x, samples=4_000, seed=seed, proposal="mixture")
        assert found.standard_error.max() < 0.1
        assert found.details["pareto_k"].max() < 0.7
        assert_within(found.log_evidence, evidence, found.standard_error)
        tenth = found.details["at_a_tenth"]
        assert_within(tenth, evidence, found.standard_error, floor=0.05)
    plain = importance_weighted(far, x, samples=4_000, seed=seed)
    assert_finite(plain.log_evidence)
    assert (evidence - plain.log_evidence).mean() > 1


def four_modes(scale):
    """z in two dimensions, of which x tells the squares; q knows of one corner out of four."""

    def likelihood(z):
        return dist.Normal(z.square(), scale).to_event(1)

    def corner(x):
        return dist.Normal(x.clamp_min(0.01).sqrt(), scale).to_event(1)

    return VAE(StandardNormal(2), likelihood, corner)


@pytest.mark.parametrize("seed", SEEDS)
def test_several_narrow_modes_are_found(seed):
    """Modes 0.02 wide and 2 apart: within 4 errors of quadrature for each x, all below 0.1."""
    vae, x = four_modes(0.04), torch.tensor([[1.0, 1.0], [0.5, 1.5], [1.2, 0.8]])
    found = importance_weighted(vae, x, samples=4_000, seed=seed, proposal="mixture")
    truth = integrated(vae, x).log_evidence
    assert found.standard_error.max() < 0.1
    assert_within(found.log_evidence, truth, found.standard_error)
    plain = importance_weighted(vae, x, samples=4_000, seed=seed)
    assert_finite(plain.log_evidence)
    assert (truth - plain.log_evidence).min() > 1  # log 4, less what strays


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_weighted_draws_have_the_moments_of_the_posterior(seed):
    """Mean and variance of each x within 4.5 errors of the exact ones."""
    torch.manual_seed(seed)
    vae, x, _ = models.linear_gaussian(seed)
    q = vae.posterior(x)  # the exact posterior
    with torch.no_grad():
        target = Whole(vae, x)
        z, log_w, _ = from_mixture(target, adapted(target), 4_000)
    w = log_w.softmax(0).unsqueeze(-1)
    for moment in (z - q.mean, (z - q.mean).square() - q.variance):
        error = (w * moment).square().sum(0).sqrt()
        assert_within((w * moment).sum(0), 0.0, error, 4.5)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_refined_posterior_has_few_weights_that_dominate(seed):
    """Of a q that is far off and too narrow: within 4 errors for each of 20 x, all below 0.05."""
    vae, x, evidence = models.linear_gaussian(seed)

    def narrow(x):
        q = vae.posterior(x)
        return dist.Normal(q.mean + q.stddev, q.stddev / 3).to_event(1)

    other = VAE(vae.prior, vae.likelihood, narrow)
    found = importance_weighted(other, x, samples=1_000, seed=seed, proposal="refined")
    assert found.kind.endswith("from q refined for each example")
    assert found.standard_error.max() < 0.05
    assert found.details["pareto_k"].max() < 0.7
    assert_within(found.log_evidence, evidence, found.standard_error)
    plain = importance_weighted(other, x, samples=1_000, seed=seed)
    assert plain.details["pareto_k"].max() > 0.7
    assert torch.equal(found.details["elbo"].isfinite(), torch.ones(len(x)) > 0)


def test_every_proposal_has_the_same_elbo_and_as_many_draws_as_it_is_asked_for(vae, digits):
    """Also for a z that is no real vector, of which only prior and posterior draw."""
    data = Split.from_array(digits)
    found = [
        evaluate(vae, data, proposal=proposal, samples=40, limit=20)
        for proposal in ("posterior", "refined", "mixture")
    ]
    assert len({each.elbo for each in found}) == 1
    assert len({each.log_evidence.kind for each in found}) == 3
    for each in found[1:]:
        assert each.weights.median_ess > found[0].weights.median_ess
    discrete = models.with_categorical(MLP).eval()
    for proposal in ("refined", "mixture"):
        found = importance_weighted(discrete, digits, samples=500, proposal=proposal)
        plain = importance_weighted(discrete, digits, samples=500)
        assert_within(found.log_evidence, plain.log_evidence, found.standard_error, 6, 0.05)


def test_a_point_is_not_refined_but_its_model_has_a_bound_by_a_mixture(vae, digits):
    point = VAE(vae.prior, vae.likelihood, lambda x: dist.Delta(vae.posterior(x).mean).to_event(1))
    data = Split.from_array(digits)
    found = evaluate(point, data, proposal="refined", samples=40, limit=5)
    assert found.log_evidence.kind == NO_BOUND
    assert found.weights is None
    found = evaluate(point, data, proposal="mixture", samples=40, limit=5)
    assert "the ELBO is none" in found.log_evidence.kind
    whole = evaluate(vae, data, proposal="mixture", samples=400, limit=5)
    error = found.weights.sampling_error + whole.weights.sampling_error
    assert_within(found.log_evidence.value, whole.log_evidence.value, error)


def test_what_is_affordable_depends_on_the_work_alone(vae):
    assert affordable([vae], 359, 200) == "refined"
    assert affordable([vae], 359, 19) == "posterior"
    assert affordable([vae], 10**9, 200) == "posterior"
