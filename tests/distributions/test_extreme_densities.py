"""Log densities against mpmath, out to parameters that no training reaches.

mpmath computes each formula with 60 digits from the very numbers that torch was given.
"""

import mpmath as mp
import numpy as np
import pytest
import torch
from pyro import distributions as dist

from pyrovae import distributions as own
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.networks import Linear
from pyrovae.posteriors import DiagonalNormal, FullNormal, LowRankNormal
from pyrovae.priors import PRIORS
from pyrovae.vae import VAE

SCALES = [1e-30, 1e-20, 1e-6, 1.0, 1e6, 1e20, 1e30]
SQUARED = {"normal": (1e-18, 1e15)}  # whose squares float32 holds: others are refused
LOGITS = [-1e4, -88.0, -30.0, -3.0, -1e-3, 0.0, 1e-3, 3.0, 30.0, 88.0, 1e4]


@pytest.fixture(autouse=True)
def sixty_digits():
    with mp.workdps(60):
        yield


def close(found, truth, *, sizes, dtype):
    """Within a few roundings of the largest of some terms, or both below the smallest number."""
    limits = torch.finfo(dtype)
    if truth < -limits.max:
        assert found < -limits.max / 4
        return
    tolerance = 16 * limits.eps * max(1.0, *(abs(float(size)) for size in sizes))
    assert abs(mp.mpf(found) - truth) <= tolerance, (found, mp.nstr(truth, 20), tolerance)


def exact(*tensors):
    return [mp.mpf(t.double().item()) for t in tensors]


def normal(x, loc, scale):
    return -(((x - loc) / scale) ** 2) / 2 - mp.log(scale) - mp.log(2 * mp.pi) / 2


def laplace(x, loc, scale):
    return -abs(x - loc) / scale - mp.log(2 * scale)


def logistic(x, loc, scale):
    t = (x - loc) / scale
    return -abs(t) - 2 * mp.log1p(mp.exp(-abs(t))) - mp.log(scale)


def student_t(x, loc, scale):
    t, nu = (x - loc) / scale, mp.mpf(3)
    constant = mp.loggamma((nu + 1) / 2) - mp.loggamma(nu / 2) - mp.log(nu * mp.pi) / 2
    return constant - mp.log(scale) - (nu + 1) / 2 * mp.log1p(t**2 / nu)


REAL = {
    "normal": (dist.Normal, normal),
    "laplace": (dist.Laplace, laplace),
    "logistic": (own.Logistic, logistic),
    "student_t": (lambda loc, scale: own.StudentT(3.0, loc, scale), student_t),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", REAL)
def test_real_densities_at_scales_over_sixty_orders(name, dtype):
    make, formula = REAL[name]
    least, most = SQUARED.get(name, (0, np.inf)) if dtype == torch.float32 else (0, np.inf)
    for scale in [least, *SCALES, most]:
        if not max(least, 1e-30) <= scale <= min(most, 1e30):
            continue
        for deviations in (0.0, 1e-3, 1.0, 30.0, 1e4):
            s = torch.tensor(scale, dtype=dtype)
            x = torch.tensor(deviations * scale, dtype=dtype)
            loc = torch.zeros((), dtype=dtype)
            found = make(loc, s).log_prob(x).item()
            truth = formula(*exact(x, loc, s))
            close(found, truth, sizes=[truth, mp.log(scale)], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", LOGITS)
def test_bits_and_counts_at_saturated_logits(logit, dtype):
    at = torch.tensor(logit, dtype=dtype)
    (a,) = exact(at)
    for bit in (0.0, 1.0):
        truth = -mp.log1p(mp.exp(-a if bit else a))
        found = dist.Bernoulli(logits=at).log_prob(torch.tensor(bit, dtype=dtype)).item()
        close(found, truth, sizes=[truth], dtype=dtype)
    for n in (1, 16, 255, 65_535, 10**6):
        for k in {0, 1, n // 2, n - 1, n}:
            truth = mp.log(mp.binomial(n, k)) - k * mp.log1p(mp.exp(-a))
            truth -= (n - k) * mp.log1p(mp.exp(a))
            value = torch.tensor(float(k), dtype=dtype)
            found = own.Binomial(n, at).log_prob(value).item()
            close(found, truth, sizes=[truth, n * a, mp.log(mp.binomial(n, k))], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [v for v in LOGITS if abs(v) < 1e3])
def test_continuous_bernoulli_at_saturated_logits(logit, dtype):
    at = torch.tensor(logit, dtype=dtype)
    (a,) = exact(at)
    constant = mp.mpf(2) if a == 0 else a / mp.tanh(a / 2)
    for x in (0.0, 0.25, 1.0):
        truth = mp.log(constant) + x * a - mp.log1p(mp.exp(a))
        value = torch.tensor(x, dtype=dtype)
        found = own.ContinuousBernoulli(logits=at).log_prob(value).item()
        close(found, truth, sizes=[truth, a], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [1e-30, 1e-6, 1.0, 255.0, 1e6, 1e17])
def test_poisson_of_any_rate_and_count(rate, dtype):
    r = torch.tensor(rate, dtype=dtype)
    (m,) = exact(r)
    for count in (0.0, 1.0, 5.0, 1e3, 1e6, 1e9):
        x = torch.tensor(count, dtype=dtype)
        truth = count * mp.log(m) - m - mp.loggamma(mp.mpf(count) + 1)
        found = own.Poisson(r).log_prob(x).item()
        close(found, truth, sizes=[truth, m, mp.loggamma(mp.mpf(count) + 1)], dtype=dtype)


@pytest.mark.parametrize("r", [1e-3, 1.0, 1e3, 1e7])
def test_negative_binomial_out_to_nearly_poisson(r):
    total, logits = torch.tensor(r), torch.tensor(3.0 / r).log()
    shape, a = exact(total, logits)
    for count in (0.0, 1.0, 5.0, 1e3):
        truth = mp.loggamma(count + shape) - mp.loggamma(shape) - mp.loggamma(count + 1)
        truth -= shape * mp.log1p(mp.exp(a)) + count * mp.log1p(mp.exp(-a))
        found = own.NegativeBinomial(total, logits=logits).log_prob(torch.tensor(count)).item()
        close(found, truth, sizes=[truth, count * a, r * 1e-7], dtype=torch.float32)


@pytest.mark.parametrize("dispersion", [1e-7, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("logit", [-300.0, -30.0, 0.0, 4.0, 90.0])
def test_beta_binomial_from_nearly_binomial_to_all_or_nothing(logit, dispersion):
    n, logits, spread = 255, torch.tensor(logit), torch.tensor(dispersion)
    at, delta = exact(logits, spread)
    a, b = (1 / (1 + mp.exp(sign * at)) / delta for sign in (-1, 1))
    p = own.BetaBinomial(n, logits, spread)
    for k in (0, 1, 100, 255):
        truth = mp.log(mp.binomial(n, k))
        truth += mp.fsum(mp.log(a + j) for j in range(k))
        truth += mp.fsum(mp.log(b + j) for j in range(n - k))
        truth -= mp.fsum(mp.log(1 / delta + j) for j in range(n))
        close(
            p.log_prob(torch.tensor(float(k))).item(), truth, sizes=[truth, 1], dtype=torch.float32
        )


@pytest.mark.parametrize("concentration", [1e-3, 0.5, 1.0, 1e3, 1e6])
def test_beta_of_any_concentration(concentration):
    a, b = torch.tensor(concentration), torch.tensor(2 * concentration)
    p, q = exact(a, b)
    for value in (1e-30, 1e-6, 1 / 3, 1 - 1e-6):
        x = torch.tensor(value)
        (v,) = exact(x)
        truth = mp.loggamma(p + q) - mp.loggamma(p) - mp.loggamma(q)
        truth += (p - 1) * mp.log(v) + (q - 1) * mp.log1p(-v)
        close(own.Beta(a, b).log_prob(x).item(), truth, sizes=[truth], dtype=torch.float32)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("loc", [-1e3, 0.0, 127.3, 255.0, 1e4])
def test_levels_far_from_their_location(loc, scale):
    at, width = torch.tensor(loc), torch.tensor(scale)
    m, s = exact(at, width)

    def below(edge):
        return 1 / (1 + mp.exp(-(edge - m) / s))

    with mp.workdps(200):
        for level in (0.0, 1.0, 128.0, 254.0, 255.0):
            low = mp.mpf(0) if level == 0 else below(mp.mpf(level) - 0.5)
            high = mp.mpf(1) if level == 255 else below(mp.mpf(level) + 0.5)
            if high - low < mp.mpf(10) ** -150:
                continue
            truth = mp.log(high - low)
            x = torch.tensor(level)
            found = own.DiscretizedLogistic(at, width, 256).log_prob(x).item()
            close(found, truth, sizes=[truth, (level - m) / s], dtype=torch.float32)


def test_binomial_of_255_is_within_a_thousandth_of_a_nat_of_an_image():
    torch.manual_seed(0)
    for spread in (0.1, 1.0, 3.0):
        logits = spread * torch.randn(784)
        x = own.Binomial(255, logits).sample()
        truth = mp.mpf(0)
        for k, a in zip(x.long().tolist(), logits.double().tolist(), strict=True):
            truth += mp.log(mp.binomial(255, k)) - k * mp.log1p(mp.exp(-mp.mpf(a)))
            truth -= (255 - k) * mp.log1p(mp.exp(mp.mpf(a)))
        found = own.Binomial(255, logits).to_event(1).log_prob(x).item()
        assert abs(mp.mpf(found) - truth) < 1e-3


@pytest.mark.parametrize("latent_dim", [1, 512])
@pytest.mark.parametrize("log_scale", [-30.0, 0.0, 30.0])
def test_posteriors_of_one_and_of_512_dimensions(latent_dim, log_scale):
    """log q at its own draw is that of the noise, whatever the scale."""
    torch.manual_seed(0)
    for family in (DiagonalNormal, FullNormal, LowRankNormal):
        posterior = family(latent_dim, (3,), Linear)
        with torch.no_grad():
            bias = posterior.encoder.layer.bias
            bias.zero_()
            place = slice(latent_dim, 2 * latent_dim)
            bias[place] = log_scale
            posterior.encoder.layer.weight.zero_()
        q = posterior(torch.zeros(1, 3))
        z = q.sample()
        s = mp.exp(mp.mpf(log_scale))
        truth = mp.fsum(normal(mp.mpf(v), 0, s) for v in z[0].double().tolist())
        found = q.log_prob(z).item()
        close(found, truth, sizes=[truth, latent_dim * log_scale, latent_dim], dtype=torch.float32)


@pytest.mark.parametrize("latent_dim", [1, 512])
@pytest.mark.parametrize("name", ["normal", "laplace", "student_t", "logistic", "mixture"])
def test_priors_of_one_and_of_512_dimensions_are_finite_far_out(name, latent_dim):
    p = PRIORS[name](latent_dim)()
    for size in (0.0, 1.0, 1e6):
        assert p.log_prob(torch.full((latent_dim,), size)).isfinite()


DATA = {
    "bernoulli": (0.0, 1.0),
    "binomial": (0.0, 255.0),
    "beta_binomial": (0.0, 255.0),
    "continuous_bernoulli": (0.0, 1.0),
    "normal": (-3.0, 3.0),
    "log_normal": (0.1, 3.0),
    "laplace": (-3.0, 3.0),
    "student_t": (-3.0, 3.0),
    "beta": (0.1, 0.9),
    "discretized_logistic": (0.0, 255.0),
    "categorical": (0.0, 255.0),
    "poisson": (0.0, 9.0),
    "negative_binomial": (0.0, 9.0),
}


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "columns"])
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_one_row_one_class_and_constant_columns_give_finite_bounds(name, rows):
    """The first column has one value throughout; initialization takes all other numbers from it."""
    low, high = DATA[name]
    x = torch.from_numpy(np.random.default_rng(0).choice([low, high], (rows, 3))).float()
    x[:, 0] = low
    for latent_dim in (1, 64):
        likelihood = LIKELIHOODS[name](latent_dim, (3,), Linear)
        posterior = DiagonalNormal(latent_dim, (3,), Linear)
        vae = VAE(PRIORS["normal"](latent_dim), likelihood, posterior)
        for part in (likelihood, posterior):
            part.initialize(x)
        with torch.no_grad():
            q = vae.posterior(x)
            z = q.sample()
            bound = vae.log_joint(x, z) - q.log_prob(z)
        assert bound.isfinite().all()


@pytest.mark.parametrize("name", ["normal", "log_normal"])
@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e19, 1e30])
def test_a_fixed_scale_whose_square_float32_does_not_hold_is_refused(name, scale):
    with pytest.raises(ValueError, match="between 1e-18 and 1e\\+15, so that float32 holds its"):
        LIKELIHOODS[name](2, (3,), Linear, scale=scale)
