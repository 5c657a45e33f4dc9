"""Statistics of weights against formulas, known tails, and the bias of known log-normal weights."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from pyrovae.evidence.weighted_draws import weighted_moments
from pyrovae.evidence.weights import (
    Weights,
    _fitted_shape,
    jackknife_error,
    pareto_shape,
    reliable_below,
    weight_statistics,
)
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.oracles import assert_within


@pytest.mark.parametrize("seed", SEEDS)
def test_the_effective_size_and_a_tenth_are_those_of_the_weights_written_out(seed):
    torch.manual_seed(seed)
    log_w = 2 * torch.randn(50, 3).double() - 400  # far below the smallest number
    w = (log_w + 400).exp()
    found = weight_statistics(log_w)
    torch.testing.assert_close(found.ess, w.sum(0) ** 2 / w.square().sum(0))
    tenths = torch.stack([part.mean(0).log() - 400 for part in w.split(5)])
    torch.testing.assert_close(found.at_a_tenth, tenths.mean(0))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_jackknife_is_the_one_written_out(seed):
    torch.manual_seed(seed)
    log_w = torch.randn(12, 4).double()
    log_w[3, 1] = 60.0  # beside which the others have no digits in the sum
    whole = log_w.logsumexp(0) - math.log(12)
    left_out = [
        torch.cat([log_w[:k], log_w[k + 1 :]]).logsumexp(0) - math.log(11) for k in range(12)
    ]
    expected = 12 * whole - 11 * torch.stack(left_out).mean(0)
    torch.testing.assert_close(weight_statistics(log_w).bias_corrected, expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("counts", [(12,), (2, 4, 6)])
def test_the_error_is_the_spread_of_bounds_without_each_draw(seed, counts):
    """For parts of a mixture, the mean of a part stands for its number of draws."""
    torch.manual_seed(seed)
    log_w = torch.randn(12, 4).double()
    log_w[3, 1] = 60.0
    variance = torch.zeros(4).double()
    parts = log_w.exp().split(counts)
    for place, part in enumerate(parts):
        rest = sum(
            (other.sum(0) for other in (*parts[:place], *parts[place + 1 :])), torch.zeros(4)
        )
        size = len(part)
        without = torch.stack(
            [
                (rest + size * torch.cat([part[:k], part[k + 1 :]]).mean(0)).log()
                for k in range(size)
            ]
        )
        variance += (size - 1) ** 2 / size * without.var(0)
    torch.testing.assert_close(jackknife_error(log_w, counts), variance.sqrt())
    if len(counts) == 1:
        torch.testing.assert_close(weight_statistics(log_w).standard_error, variance.sqrt())
        torch.testing.assert_close(jackknife_error(log_w), variance.sqrt())


def test_weights_too_uneven_for_a_jackknife_are_left_uncorrected():
    log_w = torch.full((20, 1), -3_000.0).double()
    log_w[7] = 5.0
    found = weight_statistics(log_w)
    assert found.bias_corrected.item() == pytest.approx(5 - math.log(20))


def test_errors_of_weights_that_are_zero_or_decide_alone():
    log_w = torch.full((20, 4), -math.inf).double()
    log_w[7, 0] = 3.0  # nothing is left without it
    log_w[:, 1] = 0.0
    log_w[7, 1] = 200.0  # the bound falls by 200 - log(19)
    log_w[:10, 2] = 0.0  # one of two parts is impossible, and the other even
    error = jackknife_error(log_w, (10, 10))
    assert error[0] == pytest.approx(0.9 * 1_000, rel=1e-3)
    assert error[1] == pytest.approx(0.9 * 200, rel=0.02)
    assert error[2] < 1e-12
    assert error[3].isnan()


def test_the_threshold_depends_on_the_number_of_draws():
    """The values of the formula of Vehtari et al. (2024)."""
    for draws, most in ((10, 0.0), (100, 0.5), (1_000, 2 / 3), (10**6, 0.7)):
        assert reliable_below(draws) == pytest.approx(most)
    assert reliable_below(2_154) < 0.7 == reliable_below(2_155)
    with pytest.raises(ValueError, match="draws must be at least 2, got 1"):
        reliable_below(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_share_under_warning_has_the_error_of_a_share(seed):
    """Against the spread over 1,000 sets of 100 examples, within a seventh; none is zero."""
    torch.manual_seed(seed)
    for most, shape in ((0.5, 0.3), (2 / 3, 0.6)):
        sets = [
            Weights(*[torch.ones(100)] * 2, each, *[torch.ones(100)] * 2).summary(1_000)
            for each in torch.rand(1_000, 100) + most - shape
        ]
        shares = torch.tensor([each.unreliable for each in sets])
        stated = torch.tensor([each.unreliable_error for each in sets])
        assert stated.square().mean().sqrt() == pytest.approx(shares.std().item(), rel=1 / 7)
        assert sets[0].reliable_below == reliable_below(1_000)
    shifted = (sets[0].unreliable * 100 + 2) / 104  # Agresti and Coull (1998), for 95 percent
    assert sets[0].unreliable_error == pytest.approx(math.sqrt(shifted * (1 - shifted) / 104))
    even = weight_statistics(torch.zeros(1_000, 20).double()).summary(1_000)
    assert even.unreliable == 0 < 0.02 < even.unreliable_error < 0.1


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_the_jackknife_takes_away_the_first_order_of_the_bias(seed):
    """Of log-normal weights with mean one, at K = 20 and 40; 4 standard errors of 200,000 means.

    The bias of the bound is close to -var(w) / 2K. What the jackknife leaves is smaller by more
    than the factor that would be left of order 1 / K, and falls faster than the bound's.
    """
    torch.manual_seed(seed)
    sigma, repeats = 0.7, 200_000
    bias = {}
    for count in (20, 40):
        log_w = sigma * torch.randn(count, repeats).double() - sigma**2 / 2
        found = weight_statistics(log_w)
        bound = log_w.logsumexp(0) - math.log(count)
        bias[count] = [(v.mean().item(), v.std().item()) for v in (bound, found.bias_corrected)]
    errors = {n: [spread / math.sqrt(repeats) for _, spread in rows] for n, rows in bias.items()}
    leading = (math.exp(sigma**2) - 1) / 2
    for count, ((plain, _), (corrected, _)) in bias.items():
        assert -1.1 * leading / count < plain < -0.8 * leading / count
        assert_within(corrected, 0.0, errors[count][1], floor=0.15 * abs(plain))
    assert abs(bias[40][1][0]) < abs(bias[20][1][0]) / 2 + 4 * math.hypot(
        *(row[1] for row in errors.values())
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_the_shape_of_generalised_pareto_draws_is_found(k, seed):
    """In mean over 200 samples of 500: bias below 0.04 of its own, 4 standard errors."""
    x = genpareto.rvs(k, scale=3.0, size=(500, 200), random_state=seed)
    found = _fitted_shape(torch.from_numpy(x).sort(0).values)
    spread = max(1 + k, 0.6) / math.sqrt(500)
    assert abs(found.mean() - k) < 0.04 + 4 * spread / math.sqrt(200)
    assert found.std() < 1.5 * spread


def profile_estimate(x):
    """Zhang and Stephens (2009), their equations 7 to 9 with a grid of 30 + sqrt(n), in NumPy."""
    n, grid = len(x), 30 + int(len(x) ** 0.5)
    x = np.sort(x)
    quartile = x[int(n / 4 + 0.5) - 1]
    steps = np.arange(1, grid + 1) - 0.5
    theta = 1 / x[-1] + (1 - np.sqrt(grid / steps)) / 3 / quartile
    k = np.array([-np.log1p(-t * x).mean() for t in theta])
    log_likelihood = n * (np.log(theta / k) + k - 1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    mean = (weights * theta).sum() / weights.sum()
    return np.log1p(-mean * x).mean()


@pytest.mark.parametrize("size", [10, 45, 200])
def test_the_shape_is_the_estimate_written_out(size):
    x = genpareto.rvs(0.4, size=size, random_state=size)
    found = _fitted_shape(torch.from_numpy(np.sort(x))[:, None])
    assert found.item() == pytest.approx(profile_estimate(x), abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_the_tail_of_weights_is_found_whatever_their_scale(k, seed):
    """P(w > t) = t^(-1/k), 4,000 draws, 190 of them in the tail: 4 standard errors and 0.05."""
    torch.manual_seed(seed)
    log_w = -k * torch.rand(4_000, 300).double().log()
    found = pareto_shape(log_w)
    expected = (190 * k + 10 * 0.5) / 200
    assert abs(found.mean() - expected) < 0.05 + 4 * (1 + k) / math.sqrt(190 * 300)
    torch.testing.assert_close(pareto_shape(log_w - 1_000), found)


def test_thresholds_are_told_apart():
    torch.manual_seed(0)
    u = torch.rand(5_000, 200).double().log()
    assert (pareto_shape(-0.3 * u) > 0.7).double().mean() < 0.01
    assert (pareto_shape(-1.2 * u) > 0.7).double().mean() > 0.99


def test_the_tail_is_the_largest_weights_above_the_next_one():
    """Of 100 draws the largest 20 are the tail and the next one is the threshold."""
    log_w = torch.randn(100, 3, dtype=torch.float64).sort(0, descending=True).values
    shape = pareto_shape(log_w)
    for first, changes in ((21, False), (20, True), (19, True)):
        below = log_w.clone()
        below[first:] = below[first:] - 0.3
        assert bool((pareto_shape(below) == shape).all()) is not changes, first


def test_what_has_no_tail_has_no_shape():
    equal = torch.zeros(1_000, 2).double()
    found = weight_statistics(equal)
    assert found.pareto_k.isnan().all()
    torch.testing.assert_close(found.ess, torch.full((2,), 1_000.0).double())
    torch.testing.assert_close(found.standard_error, torch.zeros(2).double())
    torch.testing.assert_close(found.bias_corrected, torch.zeros(2).double(), rtol=0, atol=1e-9)
    assert weight_statistics(torch.randn(20, 2).double()).pareto_k.isnan().all()


def test_weighted_moments_are_those_written_out():
    """The covariance is shrunk towards its diagonal by d / (d + effective number of draws)."""
    torch.manual_seed(0)
    z, log_w = torch.randn(40, 5, 3).double(), torch.randn(40, 5).double()
    loc, tril = weighted_moments(z, log_w)
    for i in range(5):
        w = log_w[:, i].softmax(0).numpy()
        mean = w @ z[:, i].numpy()
        covariance = np.cov(z[:, i].numpy().T, aweights=w, bias=True)
        shrunk = 3 / (3 + 1 / (w**2).sum())
        expected = (1 - shrunk) * covariance + shrunk * np.diag(np.diag(covariance))
        np.testing.assert_allclose(loc[i], mean)
        np.testing.assert_allclose(tril[i] @ tril[i].T, expected, atol=1e-5)


def test_one_draw_has_a_size_and_nothing_else():
    found = weight_statistics(torch.tensor([[-3.0]]).double())
    assert found.ess.item() == 1
    for name in ("standard_error", "pareto_k", "bias_corrected", "at_a_tenth"):
        assert getattr(found, name).isnan().all()
