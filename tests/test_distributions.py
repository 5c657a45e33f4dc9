"""The continuous Bernoulli against quadrature and its own definition, far into its tails."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from pyrovae.distributions import ContinuousBernoulli
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
