"""Distributions on spheres, by quadrature on the circle and on the sphere, and by their draws."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from pyrovae.distributions.spaces import PowerSpherical, UniformSphere
from tests.conftest import SEEDS
from tests.oracles import assert_within

KAPPAS = [1e-3, 0.7, 5.0, 80.0]


def on_the_sphere(f, n):
    """The integral of a function of the cosine to loc, over the sphere in n dimensions."""
    log_area = math.log(2) + (n - 1) / 2 * math.log(math.pi) - math.lgamma((n - 1) / 2)
    angles = quad(lambda a: f(math.cos(a)) * math.sin(a) ** (n - 2), 0, math.pi, epsabs=1e-12)
    return math.exp(log_area) * angles[0]


def at_cosine(q, cosine):
    """Log density of a point at that cosine to loc = (1, 0, ...)."""
    z = torch.zeros_like(q.loc)
    z[0], z[1] = cosine, math.sqrt(max(0.0, 1 - cosine**2))
    return q.log_prob(z).item()


def pointing_north(n, kappa):
    loc = torch.zeros(n, dtype=torch.float64)
    loc[0] = 1
    return PowerSpherical(loc, torch.tensor(kappa, dtype=torch.float64))


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_density_entropy_and_divergence_equal_quadrature(n, kappa):
    q = pointing_north(n, kappa)
    p = UniformSphere(torch.zeros(n, dtype=torch.float64))
    total = on_the_sphere(lambda c: math.exp(at_cosine(q, c)), n)
    assert total == pytest.approx(1, abs=1e-8)
    uniform = p.log_prob(q.loc).item()
    assert on_the_sphere(lambda c: math.exp(uniform), n) == pytest.approx(1, abs=1e-8)

    def term(c):
        return math.exp(at_cosine(q, c)) * (at_cosine(q, c) - uniform)

    divergence = on_the_sphere(term, n)
    assert kl_divergence(q, p).item() == pytest.approx(divergence, abs=1e-6)
    assert q.entropy().item() == pytest.approx(-uniform - divergence, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [2, 3, 6])
def test_draws_follow_the_density(n, seed):
    """The cosine by Kolmogorov and Smirnov; moments and rotation within 5 standard errors."""
    torch.manual_seed(seed)
    loc = normalize(torch.randn(n).double(), dim=-1)
    q = PowerSpherical(loc, torch.tensor(4.0).double())
    z = q.sample((4_000,))
    assert q.support.check(z).all()
    cosine = (z @ loc).numpy()
    grid = np.linspace(0, math.pi, 4_001)
    north = pointing_north(n, 4.0)
    density = [math.exp(at_cosine(north, math.cos(a))) * math.sin(a) ** (n - 2) for a in grid]
    cdf = np.concatenate([[0], np.cumsum((np.array(density)[1:] + density[:-1]) / 2)])
    u = np.interp(np.arccos(cosine.clip(-1, 1)), grid, cdf / cdf[-1])
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    error = (q.variance / 4_000).sqrt()
    assert_within(z.mean(0), q.mean, error, 5)
    spread = (z - q.mean).square()
    assert_within(spread.mean(0), q.variance, spread.std(0) / 4_000**0.5, 5)
    across = z - (z @ loc)[:, None] * loc  # uniform around loc: no preferred direction
    assert_within(across.mean(0), 0.0, (across.std(0) / 4_000**0.5), 5, floor=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_draws_are_uniform(seed):
    """Each coordinate of a point on the sphere in three dimensions is uniform: Archimedes."""
    torch.manual_seed(seed)
    z = UniformSphere(torch.zeros(3)).sample((4_000,))
    for coordinate in z.T:
        assert stats.kstest(coordinate.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-4


def test_gradients_of_draws_are_those_of_the_mean():
    """d E[z] / d kappa by reparameterization, within 5 standard errors of the formula's."""
    kappa = torch.full((20_000,), 4.0, dtype=torch.float64, requires_grad=True)
    loc = normalize(torch.tensor([1.0, 2.0, -1.0]).double(), dim=-1)
    z = PowerSpherical(loc.expand(20_000, 3), kappa).rsample()
    (gradient,) = torch.autograd.grad((z @ loc).sum(), kappa)
    exact = 2 / 6.0**2  # of kappa / (kappa + n - 1)
    assert_within(gradient.mean(), exact, gradient.std() / 20_000**0.5, 5)


@pytest.mark.parametrize("kind", ["uniform", "power"])
def test_shapes_and_expansion(kind):
    loc = normalize(torch.randn(4, 3), dim=-1)
    d = UniformSphere(loc) if kind == "uniform" else PowerSpherical(loc, torch.rand(4) + 1)
    assert (d.batch_shape, d.event_shape, d.rsample((5,)).shape) == ((4,), (3,), (5, 4, 3))
    wide = d.expand((6, 4))
    z = wide.rsample()
    torch.testing.assert_close(wide.log_prob(z), d.log_prob(z))
    with pyro.plate("particles", 6, dim=-2), pyro.plate("data", 4, dim=-1):
        assert pyro.sample("z", d).shape == (6, 4, 3)
