"""Quadrature against exact evidence, hidden and distant peaks, heavy tails and other methods."""

import math

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae.evidence import (
    annealed,
    bounds,
    exact,
    integrated,
    linear_gaussian,
    posterior_density,
    quadrature,
)
from pyrovae.likelihoods import Normal
from pyrovae.networks import Linear
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import LearnedNormal, StandardNormal
from pyrovae.vae import VAE
from tests import models
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import ELEMENTWISE, EVERY_PAIR, of_bits, with_likelihood
from tests.models import make_pair as make
from tests.oracles import assert_finite, assert_within, rational_evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_two_dimensions_give_the_exact_evidence_and_posterior(seed):
    vae, x, evidence = models.linear_gaussian(seed)
    found = integrated(vae, x)
    assert_within(found.log_evidence, evidence, found.standard_error, 1)
    assert found.standard_error.max() < 1e-7
    assert found.kind == "exact to the error of integration"
    truth = linear_gaussian(vae).posterior(x)
    torch.testing.assert_close(found.details["mean"], truth.mean, rtol=0, atol=1e-7)
    covariance = found.details["covariance"]
    torch.testing.assert_close(covariance, truth.covariance_matrix, rtol=0, atol=1e-7)


def narrow(dim, scale, seed=0, where=None):
    """A linear model whose posteriors have the given scale, and a q that lies elsewhere."""
    torch.manual_seed(seed)
    likelihood = Normal(dim, (6,), Linear, scale=scale)
    prior = LearnedNormal(dim)
    vae = VAE(prior, likelihood, DiagonalNormal(dim, (6,), Linear)).double()
    with torch.no_grad():
        likelihood.decoder.layer.weight.copy_(torch.randn(6, dim))
        prior.loc.copy_(torch.randn(dim))
        prior.log_scale.copy_(0.3 * torch.randn(dim))
        z = vae.prior().sample((8,)) if where is None else torch.full((8, dim), where).double()
        return vae, vae.likelihood(z).sample()


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("scale", [0.02, 0.1, 1.0, 30.0])
def test_posteriors_of_any_width_are_integrated_with_a_q_that_is_off(dim, scale, seed):
    vae, x = narrow(dim, scale, seed)
    found, truth = integrated(vae, x), exact(vae, x).log_evidence
    assert_within(found.log_evidence, truth, found.standard_error, 1)
    assert found.standard_error.max() < 1e-6


@pytest.mark.parametrize("dim", [1, 2])
def test_posteriors_far_out_in_the_prior_are_found(dim):
    vae, x = narrow(dim, 0.05, where=7.0)
    found, truth = integrated(vae, x), exact(vae, x).log_evidence
    assert_within(found.log_evidence, truth, found.standard_error, 1)


def beside_the_posterior(vae):
    """The model with a q that is half a deviation off, and half as wide again."""
    posterior = linear_gaussian(vae).posterior

    def near(x):
        q = posterior(x)
        return dist.Normal(q.mean + q.stddev / 2, 1.5 * q.stddev).to_event(1)

    return VAE(vae.prior, vae.likelihood, near)


@torch.no_grad()
def of_the_first_mesh(vae, x):
    """log p(x) as the first mesh has it."""
    cells = quadrature._first(quadrature._Mesh(vae), vae, x)
    return quadrature._by_example(cells, len(x))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-6])
def test_a_peak_that_the_first_mesh_has_no_node_in_is_found_by_q(scale, dim, seed):
    """Also where the mesh misses thousands of nats, which no ratio of masses can hold."""
    vae, x = narrow(dim, scale, seed)
    found = integrated(beside_the_posterior(vae), x)
    truth = rational_evidence(vae, x)
    assert_within(found.log_evidence, truth, found.standard_error, 1)
    assert found.standard_error.max() < 1e-7
    assert_finite(*found.details.values())
    if scale < 1e-3:
        assert (truth - of_the_first_mesh(vae, x)).max() > 5_000


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("scale", [1e-3, 1e-1])
def test_rounding_in_single_precision_is_within_the_error(scale, dim, seed):
    """With a posterior of 1e-3, rounding z alone moves log p(x, z) by 1e-4."""
    vae, x = narrow(dim, scale, seed)
    vae, x = vae.float(), x.float()
    found = integrated(beside_the_posterior(vae), x)
    assert_within(found.log_evidence, rational_evidence(vae, x), found.standard_error, 1)
    assert found.standard_error.max() < (1e-2 if scale == 1e-3 else 1e-4)


class Cut(nn.Module):
    """A likelihood that is zero beyond 20 of its deviations, and its normal one otherwise."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, z):
        p = self.likelihood(z)

        class Bounded(type(p)):
            def log_prob(self, x):
                base = self.base_dist
                far = ((x - base.loc).abs() > 20 * base.scale).any(-1)
                return super().log_prob(x).masked_fill(far, -math.inf)

        p.__class__ = Bounded
        return p


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dim", [1, 2])
def test_a_peak_is_found_by_q_where_p_is_zero_at_every_node_of_the_first_mesh(dim, seed):
    vae, x = narrow(dim, 1e-5, seed)
    found = beside_the_posterior(vae)
    found.likelihood = Cut(vae.likelihood)
    assert (of_the_first_mesh(found, x) == -math.inf).all()
    found = integrated(found, x)
    assert_within(found.log_evidence, rational_evidence(vae, x), found.standard_error, 1)
    assert found.standard_error.max() < 1e-7
    assert_finite(*found.details.values())


def test_x_that_has_no_density_anywhere_is_refused():
    vae, x = narrow(2, 1e-5)
    vae.likelihood = Cut(vae.likelihood)  # and q is far off
    with pytest.raises(ValueError, match=r"p\(x\) is zero for every x"):
        integrated(vae, x)


class Folded(nn.Module):
    """x depends on |z|: the posterior has four modes of equal mass, and q sits at one of them."""

    def forward(self, z):
        return dist.Normal(z.abs(), 0.05).to_event(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_mode_counts_though_q_knows_one(seed):
    torch.manual_seed(seed)
    x = 0.3 + 1.5 * torch.rand(5, 2).double()
    prior = StandardNormal(2).double()

    def posterior(x):
        return dist.Normal(x, 0.05).to_event(1)

    found = integrated(VAE(prior, Folded(), posterior), x)
    one = dist.Normal(torch.zeros(2).double(), math.hypot(1, 0.05)).to_event(1).log_prob(x)
    expected = one + math.log(4)  # each side: z = x + noise; below zero is 6 deviations away
    torch.testing.assert_close(found.log_evidence, expected, rtol=0, atol=1e-6)
    assert (found.details["mean"].abs() < 1e-5).all()


@pytest.mark.parametrize(("prior", "posterior"), EVERY_PAIR)
def test_every_pair_agrees_with_importance_weighting_or_is_refused(prior, posterior, digits):
    vae = make(prior, posterior).eval()
    if posterior in ("power_spherical", "relaxed_categorical"):
        with pytest.raises(ValueError, match="quadrature is over real z, but the prior"):
            integrated(vae, digits[:1])
        return
    found = integrated(vae, digits[:1])
    assert found.standard_error.max() < 1e-3
    if posterior == "point":
        return
    torch.manual_seed(0)
    truth = bounds(vae, digits[:1], 2_000)
    error = torch.hypot(truth.standard_error, found.standard_error)
    assert_within(found.log_evidence, truth.log_evidence, error, 5)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_likelihood_agrees_with_importance_weighting(name, network, digits):
    vae = with_likelihood(name, network)
    x = of_bits(name, digits[:3])
    found = integrated(vae, x)
    truth = bounds(vae, x, 4_000)
    error = torch.hypot(truth.standard_error, found.standard_error)
    assert_within(found.log_evidence, truth.log_evidence, error, 5)


def test_a_density_on_a_grid_is_the_exact_posterior_s():
    vae, x, _ = models.linear_gaussian(0)
    found = integrated(vae, x[:3])
    axes, p = posterior_density(vae, x[:3], found, points=80)
    assert (axes.shape, p.shape) == ((3, 2, 80), (3, 80, 80))
    truth = linear_gaussian(vae).posterior(x[:3])
    for i in range(3):
        z = torch.stack(torch.meshgrid(*axes[i], indexing="ij"), -1)
        expected = truth.log_prob(z[:, :, None])[..., i].exp()
        torch.testing.assert_close(p[i], expected, rtol=1e-6, atol=1e-9)
    given = torch.linspace(-1, 1, 30).double().expand(3, 2, 30)
    again, _ = posterior_density(vae, x[:3], found, axes=given)
    assert torch.equal(again, given)


def test_one_dimension_has_a_curve():
    vae, x = narrow(1, 0.3)
    found = integrated(vae, x)
    axes, p = posterior_density(vae, x, found, points=400)
    width = axes[:, 0, 1] - axes[:, 0, 0]
    torch.testing.assert_close(p.sum(1) * width, torch.ones(8).double(), rtol=0, atol=1e-4)


def test_more_dimensions_and_draws_are_refused(network, digits):
    vae = VAE(StandardNormal(3), Normal(3, (4,), Linear), DiagonalNormal(3, (4,), Linear))
    with pytest.raises(ValueError, match="one or two latent dimensions, but z has 3"):
        integrated(vae, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="samples is 5, and quadrature takes none"):
        integrated(with_likelihood("normal", network), digits[:1], samples=5)


def test_what_is_no_number_is_refused_with_the_place(network, digits):
    class Broken(nn.Module):
        def forward(self, z):
            loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4)
            return dist.Normal(torch.where(loc > 3, math.nan, loc), 1.0).to_event(1)

    vae = VAE(StandardNormal(2), Broken(), lambda x: dist.Normal(x[:, :2], 1.0).to_event(1))
    with pytest.raises(ValueError, match=r"not a number at z = \[.*look for an overflow"):
        integrated(vae, torch.zeros(2, 4))


def test_batches_progress_and_modes(vae, digits):
    vae.train()
    told = []
    state = torch.get_rng_state()
    whole = integrated(vae, digits[:25], progress=told.append)
    assert told == [20, 5]
    assert vae.training
    assert torch.equal(state, torch.get_rng_state())
    part = integrated(vae, digits[20:25])
    torch.testing.assert_close(part.log_evidence, whole.log_evidence[20:25], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def trained():
    """A small Bernoulli VAE with a 2-D latent after 40 epochs on binarised digits."""
    from functools import partial

    import numpy as np
    from sklearn.datasets import load_digits

    from pyrovae.likelihoods import Bernoulli
    from pyrovae.networks import MLP
    from pyrovae.training import fit

    torch.manual_seed(0)
    x = torch.from_numpy((load_digits().images[:, None] > 8).astype(np.float32))
    network = partial(MLP, hidden_dims=(64,))
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network))
    fit(vae, x[:1_500], epochs=40, batch_size=100, learning_rate=3e-3, compile="off")
    return vae, x[1_500:]


@pytest.mark.slow
def test_quadrature_weighting_and_annealing_agree_on_a_trained_model(trained):
    """On 100 held-out digits: differences within 4.5 of their joint errors, where k-hat < 0.7."""
    vae, x = trained[0].eval(), trained[1][:100]
    truth = integrated(vae, x)
    assert truth.standard_error.max() < 1e-3
    torch.manual_seed(0)
    weighted = bounds(vae, x, 5_000)
    chains = annealed(vae, x, samples=40, temperatures=80)
    reliable = weighted.pareto_k < 0.7
    assert reliable.double().mean() > 0.7
    for found, usable in ((weighted, reliable), (chains, torch.ones(100, dtype=torch.bool))):
        error = torch.hypot(found.standard_error, truth.standard_error)
        value = found.log_evidence[usable]
        assert_within(value, truth.log_evidence[usable], error[usable], 4.5)
    assert_finite(weighted.elbo)
    assert (weighted.elbo < truth.log_evidence).double().mean() > 0.95
