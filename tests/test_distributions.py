"""Distributions against quadrature and their own definitions, far into the tails; moments."""

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from scipy.integrate import quad

from pyrovae.distributions import ContinuousBernoulli, Logistic, cholesky_factor, moments
from tests.conftest import SEEDS

LOGITS = [-80.0, -20.0, -3.0, -0.11, -0.09, -1e-3, -1e-4, 0.0, 1e-4, 0.09, 0.11, 3.0, 20.0, 80.0]


def unnormalised(x: float, logit: float) -> float:
    return float(np.exp(logit * x - np.logaddexp(0, logit)))


def integral(f, logit):
    edge = 1 / max(abs(logit), 1.0)
    return quad(f, 0, 1, points=[edge, 1 - edge], epsabs=1e-13, epsrel=1e-13, limit=200)[0]


@pytest.mark.parametrize("logit", LOGITS)
def test_constant_mean_variance_and_entropy_equal_quadrature(logit):
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    constant = 1 / integral(lambda x: unnormalised(x, logit), logit)

    def density(x: float) -> float:
        return constant * unnormalised(x, logit)

    mean = integral(lambda x: x * density(x), logit)
    variance = integral(lambda x: (x - mean) ** 2 * density(x), logit)
    entropy = integral(lambda x: -density(x) * np.log(max(density(x), 1e-300)), logit)
    half = torch.tensor(0.5, dtype=torch.float64)
    assert p.log_prob(half).item() == pytest.approx(np.log(density(0.5)), abs=1e-8)
    assert p.mean.item() == pytest.approx(mean, abs=1e-8)
    assert p.variance.item() == pytest.approx(variance, abs=1e-8)
    assert p.entropy().item() == pytest.approx(entropy, abs=1e-7)


@pytest.mark.parametrize("logit", LOGITS)
def test_float32_agrees_with_float64(logit):
    x = torch.linspace(0, 1, 11)
    single = ContinuousBernoulli(logits=torch.tensor(logit)).log_prob(x)
    double = ContinuousBernoulli(logits=torch.tensor(logit).double()).log_prob(x.double())
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("logit", LOGITS)
def test_quantiles_invert_the_distribution_function(logit):
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    u = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    torch.testing.assert_close(p.cdf(p.icdf(u)), u, rtol=1e-6, atol=1e-6)
    assert p.cdf(torch.tensor([-1.0, 2.0]).double()).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("logit", [-30.0, 0.0, 4.0])
def test_samples_follow_the_distribution_function(logit, seed):
    torch.manual_seed(seed)
    p = ContinuousBernoulli(logits=torch.tensor(logit))
    double = ContinuousBernoulli(logits=torch.tensor(logit).double())
    u = double.cdf(p.sample((5_000,)).double())
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_gradient_is_finite_and_right_across_zero():
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    x = torch.full_like(logits, 0.3)
    (gradient,) = torch.autograd.grad(ContinuousBernoulli(logits=logits).log_prob(x).sum(), logits)
    expected = x - ContinuousBernoulli(logits=logits).mean  # an exponential family
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_expands_as_pyro_plates_ask():
    p = ContinuousBernoulli(logits=torch.zeros(3)).expand([5, 3])
    assert type(p) is ContinuousBernoulli
    assert p.sample().shape == (5, 3)


@pytest.mark.parametrize("u", [0.0, 1.0])
def test_logistic_draws_are_finite_at_both_ends_of_the_uniform(u, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self: self.fill_(u))
    for dtype in (torch.float32, torch.float64):
        draws = Logistic(torch.zeros(3, dtype=dtype), 2.0).rsample((4,))
        assert draws.shape == (4, 3)
        assert draws.isfinite().all()


def test_cholesky_factor_is_filled_row_by_row():
    factor = cholesky_factor(torch.zeros(2, 3), torch.tensor([1.0, 2.0, 3.0]).expand(2, 3))
    expected = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, 3.0, 1.0]])
    torch.testing.assert_close(factor, expected.expand(2, 3, 3))


def test_moments_are_exact_where_there_is_a_formula_and_else_those_of_draws():
    normal = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    assert torch.equal(torch.stack(moments(normal)), torch.stack([normal.mean, normal.variance]))

    class NoFormula(dist.Normal):
        @property
        def mean(self):
            raise NotImplementedError

    mean, variance = moments(NoFormula(normal.loc, normal.scale))
    assert ((mean - normal.loc).abs() < 5 * normal.scale / 1_000**0.5).all()  # 5 standard errors
    assert ((variance / normal.variance - 1).abs() < 5 * (2 / 1_000) ** 0.5).all()
