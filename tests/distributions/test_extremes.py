"""Bounds leave usual numbers alone, let gradients through, and keep densities of draws right."""

import math

import pytest
import torch
from pyro import distributions as dist
from scipy import stats

from pyrovae.distributions import (
    FARTHEST,
    LARGEST_LOG,
    LogNormal,
    NegativeBinomial,
    Poisson,
    bounded,
    bounded_exp,
    cholesky_factor,
    location_and_low_rank,
    location_and_scale,
    location_and_tril,
)
from tests.oracles import assert_finite

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@BOTH
def test_usual_numbers_keep_their_bits(dtype):
    torch.manual_seed(0)
    loc, log = 3 * torch.randn(200, 5, dtype=dtype), torch.randn(200, 5, dtype=dtype) - 3
    assert torch.equal(bounded(loc, 100.0), loc)
    assert torch.equal(bounded_exp(3 * log), (3 * log).exp())
    for found, expected in zip(location_and_scale(loc, log), (loc, log.exp()), strict=True):
        assert torch.equal(found, expected)


@BOTH
def test_covariances_of_usual_parameters_are_those_of_the_formulas(dtype):
    torch.manual_seed(0)
    loc, log = 3 * torch.randn(200, 5, dtype=dtype), torch.randn(200, 5, dtype=dtype) - 3
    below, factor = torch.randn(200, 10, dtype=dtype), torch.randn(200, 5, 2, dtype=dtype)
    mean, tril = location_and_tril(loc, log, below)
    lower = cholesky_factor(torch.zeros_like(log), below)
    assert torch.equal(mean, loc)
    torch.testing.assert_close(tril, lower @ torch.diag_embed(log.exp()))
    mean, wide, variance = location_and_low_rank(loc, log, factor)
    covariance = torch.diag_embed(variance) + wide @ wide.mT
    shape = torch.eye(5, dtype=dtype) + factor @ factor.mT
    size = log.exp() / shape.diagonal(dim1=-2, dim2=-1).sqrt()
    assert torch.equal(mean, loc)
    torch.testing.assert_close(covariance.diagonal(dim1=-2, dim2=-1), (2 * log).exp())
    torch.testing.assert_close(covariance, shape * size.unsqueeze(-1) * size.unsqueeze(-2))


@BOTH
def test_the_gradient_passes_a_bound(dtype):
    log = torch.tensor([-1e4, -1.0, 0.0, 39.0, 1e4], dtype=dtype, requires_grad=True)
    scale = bounded_exp(log)
    assert scale.log().tolist() == pytest.approx([-LARGEST_LOG, -1, 0, 39, LARGEST_LOG])
    scale.log().sum().backward()
    torch.testing.assert_close(log.grad, torch.ones_like(log))
    assert bounded(torch.tensor(math.nan), 1.0).isnan()


@BOTH
@pytest.mark.parametrize("size", [1e2, 1e4, 1e15])
def test_densities_of_draws_are_those_of_their_noise(dtype, size):
    """log q at a draw of an absurd q is within a few nats of what the noise says."""
    torch.manual_seed(0)
    loc, log = size * torch.randn(2, 300, 4, dtype=dtype)
    below = size * torch.randn(300, 6, dtype=dtype)
    factor = size * torch.randn(300, 4, 2, dtype=dtype)
    loc_, scale = location_and_scale(loc, log)
    full, tril = location_and_tril(loc, log, below)
    low = location_and_low_rank(loc, log, factor)
    for q in (
        dist.Normal(loc_, scale).to_event(1),
        dist.MultivariateNormal(full, scale_tril=tril),
        dist.LowRankMultivariateNormal(*low),
    ):
        z = q.sample((20,))
        assert_finite(z, q.log_prob(z))
        assert z.abs().max() < 10 * max(FARTHEST, math.exp(LARGEST_LOG) * 1e3)
        noise = (q.log_prob(z) - q.log_prob(q.mean)).abs()  # half a chi-squared of 4 degrees
        assert noise.max() < 100, noise.max()


def test_absurd_parameters_have_finite_gradients():
    parameters = [1e4 * torch.randn(50, n) for n in (4, 4, 6)]
    parameters = [p.requires_grad_() for p in parameters]
    loc, tril = location_and_tril(*parameters)
    q = dist.MultivariateNormal(loc, scale_tril=tril)
    q.log_prob(q.rsample().detach()).sum().backward()
    assert_finite(*(p.grad for p in parameters))


def test_counts_of_any_size_have_the_mass_of_scipy():
    x = torch.tensor([0.0, 3, 1e3, 999_999, 1_000_001, 1e7, 1e9], dtype=torch.float64)
    for rate in (0.5, 1e3, 1e6, 1e7):
        found = Poisson(torch.tensor(rate).double()).log_prob(x)
        torch.testing.assert_close(
            found, torch.from_numpy(stats.poisson.logpmf(x, rate)), rtol=1e-9, atol=1e-6
        )
    for r in (0.3, 1.0, 40.0):
        p = NegativeBinomial(torch.tensor(r).double(), logits=torch.tensor(6.0).double())
        expected = torch.from_numpy(stats.nbinom.logpmf(x, r, 1 / (1 + math.exp(6))))
        torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-9, atol=1e-6)


@BOTH
def test_counts_that_overflow_are_impossible_and_not_undefined(dtype):
    x = torch.tensor([1e20, 1e30, 3e38], dtype=dtype)
    for rate in (1e-17, 1.0, 2e17):
        p = Poisson(torch.tensor(rate, dtype=dtype))
        assert (p.log_prob(x) < -1e20).all()
        assert (p.log_prob(x).diff().nan_to_num(-1.0) < 0).all()
    for logits in (-40.0, 0.0, 5.0):
        p = NegativeBinomial(torch.tensor(2.0, dtype=dtype), logits=torch.tensor(logits).to(dtype))
        assert (p.log_prob(x) < -1e17).all()


@BOTH
def test_log_normal_draws_are_positive_and_finite(dtype):
    p = LogNormal(torch.tensor([-1e4, 0.0, 1e4], dtype=dtype), 1.0)
    for x in (p.sample((5,)), p.rsample((5,)), p.mean, p.expand((2, 3)).sample()):
        assert_finite(x)
        assert p.support.check(x).all()
    x = torch.tensor(0.7, dtype=dtype)
    plain = dist.LogNormal(torch.tensor([-1.0, 0.5], dtype=dtype), 0.4)
    assert torch.equal(
        LogNormal(torch.tensor([-1.0, 0.5], dtype=dtype), 0.4).log_prob(x), plain.log_prob(x)
    )
