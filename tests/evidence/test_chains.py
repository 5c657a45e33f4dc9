"""Draws by NUTS have the moments of known posteriors, and leave everything global as it was."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyrovae.evidence.chains import draw_chains, log_joint, posterior_draws
from pyrovae.likelihoods import Bernoulli
from pyrovae.posteriors import InverseAutoregressive
from pyrovae.priors import Flow, GaussianMixture, Laplace
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import NO_REAL_LATENT, exact_posterior, linear_gaussian
from tests.oracles import assert_within

SHORT = {"draws": 300, "warmup": 150, "chains": 2}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_moments_are_those_of_the_exact_posterior(seed):
    """Within 4.5 standard errors of 24 means and 24 mean squares, by the effective sample size."""
    vae, x, _ = linear_gaussian(seed)
    found = posterior_draws(vae, x[:4], draws=400, warmup=150, chains=3, seed=seed)
    mean, covariance = exact_posterior(vae, x[:4])
    scale = covariance.diagonal().sqrt()
    u = (found.z - mean) / scale
    for power, expected, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0)):
        moment = u.pow(power)
        effective = pyro.ops.stats.effective_sample_size(moment, 0, 1)
        error = (variance / effective).sqrt()
        assert_within(moment.mean((0, 1)), expected, error, 4.5)
    correlation = u.prod(-1)
    expected = covariance[0, 1] / scale.prod()
    error = correlation.std((0, 1)) / found.effective.min(-1).values.sqrt()
    assert_within(correlation.mean((0, 1)), expected, error, 5)
    assert found.r_hat.max() < 1.05
    assert found.divergences == 0


@pytest.mark.parametrize(
    ("density", "mean", "variance"),
    [
        (dist.Laplace(torch.tensor([1.0, -2.0]), 0.5).to_event(1), [1.0, -2.0], [0.5, 0.5]),
        (
            dist.MixtureSameFamily(
                dist.Categorical(torch.tensor([0.25, 0.75])),
                dist.Normal(torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), 1.0).to_event(1),
            ),
            [0.5, 0.75],
            [1.75, 1.1875],
        ),
    ],
    ids=["laplace", "mixture"],
)
def test_means_are_those_of_densities_that_are_not_normal(density, mean, variance):
    """Within 4.5 standard errors, of two densities drawn as a batch of two."""
    start = torch.randn(2, 2, 2)
    found = draw_chains(density.log_prob, start, draws=400, warmup=150, chains=2, seed=1)
    assert found.z.shape == (2, 400, 2, 2)
    assert found.r_hat.shape == found.effective.shape == (2, 2)
    error = (torch.tensor(variance) / found.effective).sqrt()
    assert_within(found.z.mean((0, 1)), torch.tensor(mean), error, 4.5)


@pytest.mark.parametrize(
    "prior", ["mixture", *(pytest.param(p, marks=pytest.mark.slow) for p in ("laplace", "flow"))]
)
def test_draws_of_any_real_prior_agree_with_quadrature(prior, network, digits):
    """Means of z for two images within 5 standard errors, from single-precision networks."""
    torch.manual_seed(2)
    priors = {
        "laplace": lambda: Laplace(2),
        "mixture": lambda: GaussianMixture(2, components=3),
        "flow": lambda: Flow(2, transforms=1, hidden_dims=(8,)),
    }
    shape = (1, 8, 8)
    q = InverseAutoregressive(2, shape, network, transforms=1, hidden_dims=(8,))
    vae = VAE(priors[prior](), Bernoulli(2, shape, network), q)
    x = digits[:2]
    found = posterior_draws(vae, x, **SHORT)
    axis = torch.linspace(-9, 9, 181)
    z = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        weights = log_joint(vae, x)(z).double().softmax(0)  # (nodes, images)
    mean = (weights[..., None] * z).sum(0)
    variance = (weights[..., None] * (z - mean).square()).sum(0)
    error = (variance / found.effective).sqrt()
    assert_within(found.z.mean((0, 1)), mean, error, 5)


def test_one_seed_gives_the_same_draws_and_nothing_global_changes(vae, digits):
    vae.posterior.train()
    vae.likelihood.eval()
    pyro.param("of the user", torch.ones(1))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with pyro.validation_enabled(True):
        first = posterior_draws(vae, digits[:2], draws=10, warmup=10, chains=2, seed=5)
        assert pyro.distributions.is_validation_enabled()
    assert torch.equal(state, torch.get_rng_state())
    assert list(pyro.get_param_store().keys()) == ["of the user"]
    assert vae.posterior.training
    assert not vae.likelihood.training
    assert all(p.grad is None for p in vae.parameters())
    torch.manual_seed(4)
    again = posterior_draws(vae, digits[:2], draws=10, warmup=10, chains=2, seed=5)
    assert torch.equal(first.z, again.z)
    assert not torch.equal(first.z[0], first.z[1])
    other = posterior_draws(vae, digits[:2], draws=10, warmup=10, chains=2, seed=6)
    assert not torch.equal(first.z, other.z)


def test_chains_that_do_not_meet_are_seen():
    """Two far modes, and a chain in each."""
    modes = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([[-20.0], [20.0]]), 1).to_event(1)
    )
    start = torch.tensor([[-20.0], [20.0]])
    found = draw_chains(modes.log_prob, start, draws=50, warmup=20, chains=2, seed=0)
    assert found.r_hat > 5
    assert found.effective < 10


def test_progress_counts_every_draw():
    told = []
    draw_chains(
        dist.Normal(torch.zeros(1), 1).to_event(1).log_prob,
        torch.zeros(2, 1),
        draws=6,
        warmup=5,
        chains=2,
        seed=0,
        progress=told.append,
    )
    assert sum(told) == 22


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 3}, "draws must be at least 4, got 3"),
        ({"warmup": 0}, "warmup must be at least 1, got 0"),
        ({"chains": 3}, r"one z for each of the 3 chains, got the shape \(2, 1\)"),
        ({"start": torch.full((2, 1), math.inf)}, "not finite at 2 of the 2 starts"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(changes, message):
    arguments = {"start": torch.zeros(2, 1), "draws": 10, "warmup": 10, "chains": 2, "seed": 0}
    density = dist.Normal(torch.zeros(1), 1, validate_args=False).to_event(1)
    with pytest.raises(ValueError, match=message):
        draw_chains(density.log_prob, **(arguments | changes))


@pytest.mark.parametrize(("make", "message"), NO_REAL_LATENT)
def test_a_latent_that_is_no_real_vector_is_refused(make, message, network, digits):
    with pytest.raises(ValueError, match=message):
        posterior_draws(make(network), digits[:1], **SHORT)
