"""Distributions against quadrature, enumeration and scipy, far into their tails; moments."""

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from scipy.integrate import quad

from pyrovae.distributions import (
    Beta,
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Logistic,
    NegativeBinomial,
    StudentT,
    cholesky_factor,
    moments,
)
from tests.conftest import SEEDS
from tests.oracles import assert_within

LOGITS = [-80.0, -20.0, -3.0, -0.11, -0.09, -1e-3, -1e-4, 0.0, 1e-4, 0.09, 0.11, 3.0, 20.0, 80.0]


def unnormalized(x: float, logit: float) -> float:
    return float(np.exp(logit * x - np.logaddexp(0, logit)))


def integral(f, logit):
    edge = 1 / max(abs(logit), 1.0)
    return quad(f, 0, 1, points=[edge, 1 - edge], epsabs=1e-13, epsrel=1e-13, limit=200)[0]


@pytest.mark.parametrize("logit", LOGITS)
def test_constant_mean_variance_and_entropy_equal_quadrature(logit):
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    constant = 1 / integral(lambda x: unnormalized(x, logit), logit)

    def density(x: float) -> float:
        return constant * unnormalized(x, logit)

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


@pytest.mark.parametrize(
    "p",
    [
        Beta(torch.ones(3), 2.0),
        BetaBinomial(5, torch.zeros(3), 0.5),
        Categorical(logits=torch.randn(3, 4)),
        ContinuousBernoulli(logits=torch.zeros(3)),
        DiscretizedLogistic(torch.zeros(3), 2.0, 4),
        NegativeBinomial(2.0, logits=torch.zeros(3)),
        StudentT(5.0, torch.zeros(3), 1.0),
    ],
    ids=lambda p: type(p).__name__,
)
def test_expands_as_pyro_plates_ask(p):
    wide = p.expand([5, 3])
    assert type(wide) is type(p)
    assert wide.batch_shape == (5, 3)
    x = wide.sample((2,))
    assert x.shape == (2, 5, 3)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x))
    torch.testing.assert_close(wide.mean, p.mean.expand(5, 3))
    with pytest.raises(ValueError, match="within the support"):
        wide.log_prob(torch.full((5, 3), float("nan")))


LEVELS = [2, 17, 256]


def grid(levels, dtype=torch.float64):
    """Locations inside and far outside the levels, and scales from narrow to wide."""
    loc = levels * torch.tensor([-5.0, 0.0, 0.3, 0.5, 0.77, 1.0, 6.0], dtype=dtype)
    scale = torch.tensor([0.03, 0.3, 2.0, 40.0, 1e4], dtype=dtype)
    return tuple(t.flatten() for t in torch.meshgrid(loc, scale, indexing="ij"))


def column(levels, dtype=torch.float64):
    return torch.arange(levels, dtype=dtype)[:, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
@pytest.mark.parametrize("levels", LEVELS)
def test_masses_of_the_levels_sum_to_one(levels, dtype, tolerance):
    """In float32 a location of 1,000 levels is rounded to 6e-5, a five-hundredth of the scale."""
    log_p = DiscretizedLogistic(*grid(levels, dtype), levels).log_prob(column(levels, dtype))
    total = log_p.exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=tolerance)


@pytest.mark.parametrize("levels", LEVELS)
def test_masses_are_differences_of_scipys_distribution_function(levels):
    """Taken on the side where the difference of two logarithms keeps its digits."""
    loc, scale = grid(levels)
    k = column(levels)
    p = DiscretizedLogistic(loc, scale, levels)
    sign = torch.where(k > loc, -1.0, 1.0)  # reflect the upper tail into the lower
    upper, lower = (((k + shift * sign - loc) * sign / scale).numpy() for shift in (0.5, -0.5))
    top = np.where(sign > 0, k == levels - 1, k == 0)
    bottom = np.where(sign > 0, k == 0, k == levels - 1)
    upper = np.where(top, np.inf, upper)
    lower = np.where(bottom, -np.inf, lower)
    high, low = stats.logistic.logcdf(upper), stats.logistic.logcdf(lower)
    expected = high + np.log1p(-np.exp(low - high))
    np.testing.assert_allclose(p.log_prob(k).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("levels", LEVELS)
def test_mean_is_the_sum_over_the_levels(levels):
    p = DiscretizedLogistic(*grid(levels), levels)
    k = column(levels)
    torch.testing.assert_close(p.mean, (k * p.log_prob(k).exp()).sum(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("levels", LEVELS)
def test_the_expected_score_is_zero_and_finite_in_the_tails(levels):
    """The derivative of the sum of all masses, which is one whatever the parameters are."""
    loc, scale = (t.requires_grad_() for t in grid(levels))
    log_p = DiscretizedLogistic(loc, scale, levels).log_prob(column(levels))
    scores = torch.autograd.grad((log_p.exp().detach() * log_p).sum(), (loc, scale))
    for score in scores:
        torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-10)
    loc, scale = (t.requires_grad_() for t in grid(levels, torch.float32))
    log_p = DiscretizedLogistic(loc, scale, levels).log_prob(column(levels, torch.float32))
    assert torch.isfinite(log_p).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(log_p.sum(), (loc, scale)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("loc", "scale"), [(3.2, 1.1), (-2.0, 2.0), (9.0, 0.4)])
def test_levels_are_drawn_with_their_masses(loc, scale, seed):
    """Pearson's statistic of 20,000 draws over the levels that expect at least five."""
    torch.manual_seed(seed)
    p = DiscretizedLogistic(torch.tensor(loc).double(), scale, 8)
    found = np.bincount(p.sample((20_000,)).long().numpy(), minlength=8)
    expected = 20_000 * p.log_prob(column(8)[:, 0]).exp().numpy()
    kept = expected >= 5
    found = np.append(found[kept], found[~kept].sum())
    expected = np.append(expected[kept], expected[~kept].sum() + 1e-9)
    assert stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-4


def test_fewer_than_two_levels_are_refused():
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        DiscretizedLogistic(torch.zeros(3), 1.0, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_categorical_of_numbers_has_their_moments(seed):
    torch.manual_seed(seed)
    p = Categorical(logits=3 * torch.randn(5, 7, dtype=torch.float64))
    oracle = [stats.rv_discrete(values=(np.arange(7), w / w.sum())) for w in p.probs.numpy()]
    np.testing.assert_allclose(p.mean, [each.mean() for each in oracle])
    np.testing.assert_allclose(p.variance, [each.var() for each in oracle], rtol=1e-6)
    assert p.sample((3,)).dtype == torch.float64


COUNTS = torch.tensor([0.0, 1.0, 7.0, 40.0, 255.0])


@pytest.mark.parametrize("r", [1e-2, 0.5, 3.0, 1e3, 1e5, 1e7])
def test_negative_binomial_is_scipys_in_float32(r):
    logits = torch.tensor(9.0 / r).log()
    found = NegativeBinomial(torch.tensor(r), logits=logits).log_prob(COUNTS)
    expected = stats.nbinom.logpmf(COUNTS.numpy().astype(float), r, 1 / (1 + 9 / r))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_negative_binomial_tends_to_poisson():
    r = torch.tensor(1e9)
    found = NegativeBinomial(r, logits=(9 / r).log()).log_prob(COUNTS)
    expected = torch.distributions.Poisson(9.0).log_prob(COUNTS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.5), (1.0, 1.0), (3.0, 0.7), (2e3, 9e3), (1e5, 1e5)])
def test_beta_is_scipys_in_float32(a, b):
    x = torch.tensor([1e-6, 0.01, 0.18, 0.5, 0.999])
    found = Beta(torch.tensor(a), torch.tensor(b)).log_prob(x)
    expected = stats.beta.logpdf(x.numpy().astype(float), a, b)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_beta_never_draws_zero_or_one(seed):
    torch.manual_seed(seed)
    p = Beta(torch.tensor([1e-3, 1e-3, 5.0]), torch.tensor([1e-3, 5.0, 1e-3]))
    x = p.sample((10_000,))
    assert p.support.check(x).all()
    assert torch.isfinite(p.log_prob(x)).all()
    assert p.support.check(torch.tensor([0.0, 0.5, 1.0])).tolist() == [False, True, False]


@pytest.mark.parametrize("df", [0.5, 2.0, 15.9, 16.1, 50.0, 1e4, 1e7])
def test_student_t_is_scipys_in_both_precisions(df):
    x = torch.tensor([-2.0, 0.25, 0.5, 7.0])
    expected = stats.t.logpdf(x.numpy().astype(float), df, 0.25, 0.5)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-10)):
        found = StudentT(torch.tensor(df, dtype=dtype), 0.25, 0.5).log_prob(x.to(dtype))
        np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


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
    assert_within(mean, normal.loc, normal.scale / 1_000**0.5, 5)  # 5 standard errors
    assert ((variance / normal.variance - 1).abs() < 5 * (2 / 1_000) ** 0.5).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dispersion", [1e-3, 0.3, 20.0])
def test_draws_of_a_beta_binomial_follow_its_probabilities(dispersion, seed):
    torch.manual_seed(seed)
    p = BetaBinomial(6, torch.tensor([-1.0, 2.0]), dispersion)
    counts = torch.arange(7.0)
    expected = p.log_prob(counts[:, None]).exp().double()
    torch.testing.assert_close(expected.sum(0), torch.ones(2).double(), rtol=1e-5, atol=0)
    draws = p.sample((20_000,))
    found = torch.stack([(draws == k).double().mean(0) for k in counts])
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert_within(found, expected, error, 4.5, 1e-9)
    assert_within(draws.mean(0), p.mean, (p.variance / 20_000).sqrt(), 4.5)
    mean = (counts[:, None] * expected).sum(0)
    variance = (counts[:, None].square() * expected).sum(0) - mean.square()
    torch.testing.assert_close(p.variance.double(), variance, rtol=1e-4, atol=1e-6)


def test_a_beta_binomial_without_dispersion_is_binomial():
    logits, counts = torch.tensor([-3.0, 0.5]), torch.arange(17.0)[:, None]
    found = BetaBinomial(16, logits, 1e-12).log_prob(counts)
    expected = torch.distributions.Binomial(16, logits=logits).log_prob(counts)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
