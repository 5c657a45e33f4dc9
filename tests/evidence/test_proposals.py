"""A mixture fitted to each datum finds the mass of its posterior, in however many places it is."""

import pytest
import torch
from pyro import distributions as dist

from pyrovae.evidence.importance import Whole, adapted, from_mixture
from pyrovae.evidence.methods import importance_weighted
from pyrovae.evidence.quadrature import integrated
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
