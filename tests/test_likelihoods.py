"""Every likelihood is normalized, keeps its constants, and starts from the data's mean."""

import itertools

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from scipy.integrate import quad
from scipy.special import log_softmax

from pyrovae import distributions
from pyrovae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Beta,
    BetaBinomial,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    Spread,
    StudentT,
)
from pyrovae.networks import Conv, Linear
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.runs import options_of
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import ELEMENTWISE
from tests.oracles import assert_reached, assert_within

OPTIONS = {
    "binomial": {"total_count": 3},
    "beta_binomial": {"total_count": 3},
    "discretized_logistic": {"levels": 4},
    "categorical": {"levels": 4},
}
COUNTS = {
    "binomial",
    "beta_binomial",
    "discretized_logistic",
    "categorical",
    "poisson",
    "negative_binomial",
}
MEANS = torch.tensor([0.1, 0.5, 0.9])


def spread_option(name):
    """The name of the option that says how far x strays, or None."""
    options = options_of(LIKELIHOODS[name]).values()
    return next((option.name for option in options if option.annotation == Spread), None)


def cases():
    for name in ELEMENTWISE:
        option = spread_option(name)
        if option is None:
            yield pytest.param(name, {}, id=name)
        else:
            for value in (0.3, "learned", "dimension", "decoder"):
                yield pytest.param(name, {option: value}, id=f"{name}:{option}={value}")


every = pytest.mark.parametrize(("name", "options"), list(cases()))


def make(name, event_shape, network, **options):
    return LIKELIHOODS[name](2, event_shape, network, **(OPTIONS.get(name, {}) | options))


def values(name, bits):
    """Data in the support of a likelihood, its lowest value where ``bits`` is 0."""
    if name in {"beta", "log_normal"}:
        return 0.02 + 0.96 * bits
    return 3 * bits if name in COUNTS else bits


def data_of_means(name):
    """Data (2000, 3) whose columns take their largest value in the shares of ``MEANS``."""
    shares = np.linspace(0.05, 0.95, 2_000)[:, None] < MEANS.numpy()
    return values(name, torch.from_numpy(shares.astype(np.float32)))


def at_the_start(likelihood, x):
    """p(x | z) of a linear decoder whose weights are zero: its start, whatever z is."""
    likelihood.initialize(x)
    with torch.no_grad():
        likelihood.decoder.layer.weight.zero_()
    return likelihood(torch.zeros(2))


@pytest.mark.contract
@pytest.mark.parametrize("event_shape", [(5,), (1, 4, 4), (3, 6, 5)])
@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
@every
def test_shapes_under_extra_batch_dimensions(name, options, batch, event_shape, network):
    p = make(name, event_shape, network, **options)(torch.randn(*batch, 2))
    assert p.batch_shape == batch
    assert p.event_shape == event_shape
    x = p.sample((4,))
    assert x.shape == (4, *batch, *event_shape)
    assert x.dtype == p.mean.dtype == torch.float32
    assert p.log_prob(x).shape == (4, *batch)
    assert p.mean.shape == (*batch, *event_shape)


@every
def test_an_image_decoder_gives_all_outputs(name, options):
    p = make(name, (3, 6, 5), Conv, **options)(torch.randn(7, 2))
    assert p.mean.shape == (7, 3, 6, 5)


@pytest.mark.contract
@every
def test_samples_lie_in_the_support(name, options, network):
    p = make(name, (5,), network, **options)(torch.randn(20, 2))
    assert p.support.check(p.sample((50,))).all()


@every
def test_sums_or_integrates_to_one(name, options, network):
    likelihood = make(name, (1,), network, **options).double()
    p = likelihood(torch.randn(2, dtype=torch.float64))

    def density(x: float) -> float:
        with torch.no_grad():
            return p.log_prob(torch.tensor([x], dtype=torch.float64)).exp().item()

    if name == "bernoulli":
        total = density(0) + density(1)
    elif name in {"poisson", "negative_binomial"}:
        total = sum(density(x) for x in range(300))
    elif name in COUNTS:
        total = sum(density(x) for x in range(4))
    elif name in {"continuous_bernoulli", "beta"}:
        total = quad(density, 0, 0.5)[0] + quad(density, 0.5, 1)[0]
    elif name == "log_normal":
        ends = [0, *p.base_dist.icdf(torch.tensor([0.01, 0.5, 0.99])).flatten().tolist(), np.inf]
        total = sum(quad(density, *pair)[0] for pair in itertools.pairwise(ends))
    else:
        middle = p.mean.item()
        total = quad(density, -np.inf, middle)[0] + quad(density, middle, np.inf)[0]
    assert total == pytest.approx(1, abs=1e-6)


def test_every_entry_has_a_normalization_test():
    densities = {"continuous_bernoulli", "beta", "normal", "log_normal", "laplace", "student_t"}
    assert set(ELEMENTWISE) == {"bernoulli"} | COUNTS | densities


@pytest.mark.parametrize("seed", SEEDS)
@every
def test_samples_have_the_mean(name, options, network, seed):
    """Within 5 standard errors of 4,000 draws."""
    torch.manual_seed(seed)
    p = make(name, (3,), network, **options)(torch.randn(2))
    x = p.sample((4_000,)).double()
    assert_within(x.mean(0), p.mean, x.std(0) / np.sqrt(4_000), 5, floor=1e-6)


@pytest.mark.contract
@every
def test_gradients_reach_every_parameter(name, options, network):
    likelihood = make(name, (5,), network, **options)
    p = likelihood(torch.randn(8, 2))
    p.log_prob(p.sample()).sum().backward()
    for parameter_name, parameter in likelihood.named_parameters():
        assert_reached(parameter, parameter_name)


@pytest.mark.contract
@every
def test_a_vae_takes_its_data_and_has_finite_gradients(name, options, network, digits):
    vae = VAE(
        StandardNormal(2),
        make(name, (1, 8, 8), network, **options),
        DiagonalNormal(2, (1, 8, 8), network),
    )
    x = values(name, digits)
    vae.check_data(x)
    vae.likelihood.initialize(x)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in vae.parameters())
    assert vae.sample(3).shape == vae.decode(torch.randn(3, 2)).shape == (3, 1, 8, 8)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bernoulli", 0.5),
        ("binomial", 4.0),
        ("continuous_bernoulli", 1.5),
        ("log_normal", 0.0),
        ("log_normal", -1.0),
        ("beta", 0.0),
        ("beta", 1.0),
        ("discretized_logistic", -1.0),
        ("discretized_logistic", 0.5),
        ("discretized_logistic", 4.0),
        ("categorical", -1.0),
        ("categorical", 0.5),
        ("categorical", 4.0),
        ("poisson", 0.5),
        ("poisson", -1.0),
        ("negative_binomial", 0.5),
        ("negative_binomial", -1.0),
    ],
)
def test_data_outside_the_support_are_refused_with_the_remedy(name, value, network):
    likelihood = make(name, (5,), network)
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, (5,), network))
    x = values(name, torch.ones(3, 5))
    vae.check_data(x)
    x[1, 2] = value
    with pytest.raises(ValueError, match="outside the support of") as caught:
        vae.check_data(x)
    assert f"holds {value:.6g}, " in str(caught.value)
    assert likelihood.remedy in str(caught.value)


@pytest.mark.contract
@every
def test_save_and_load(name, options, network):
    a, b = (make(name, (5,), network, **options) for _ in range(2))
    z = torch.randn(3, 2)
    a.initialize(values(name, torch.rand(50, 5).round()))
    b.load_state_dict(a.state_dict())
    x = a(z).sample()
    assert torch.equal(a(z).log_prob(x), b(z).log_prob(x))


@every
def test_initialize_starts_the_mean_at_the_mean_of_the_data(name, options):
    x = data_of_means(name)
    p = at_the_start(make(name, (3,), Linear, **options), x)
    if name == "log_normal":
        torch.testing.assert_close(p.base_dist.base_dist.loc, x.log().mean(0))
    else:
        torch.testing.assert_close(p.mean, x.mean(0), rtol=1e-3, atol=1e-3)


@every
def test_initialize_leaves_out_missing_values(name, options):
    """The start is that of the same data without gaps, up to what gaps at random take away."""
    x = data_of_means(name)[torch.randperm(2_000)]
    gappy = torch.where(torch.rand_like(x) < 0.3, float("nan"), x)
    whole, part = (at_the_start(make(name, (3,), Linear, **options), data) for data in (x, gappy))
    torch.testing.assert_close(
        part.mean, whole.mean, rtol=0.05, atol=0.05 * whole.mean.max().item()
    )
    gappy[:, 1] = float("nan")
    p = at_the_start(make(name, (3,), Linear, **options), gappy)
    assert p.log_prob(x).isfinite().all()
    half = torch.where(gappy.isnan().all(0), torch.full_like(x, 0.5), x)
    q = at_the_start(make(name, (3,), Linear, **options), half)
    torch.testing.assert_close(p.mean[1], q.mean[1], rtol=0.01, atol=0.01)


@every
def test_initialize_survives_constant_pixels(name, options, network):
    likelihood = make(name, (2,), network, **options)
    x = values(name, torch.tensor([[0.0, 1.0]]).expand(50, 2))
    likelihood.initialize(x)
    assert torch.isfinite(likelihood(torch.randn(2)).log_prob(x)).all()


@pytest.mark.parametrize("kind", ["learned", "dimension", "decoder"])
@pytest.mark.parametrize(
    "name", ["normal", "log_normal", "laplace", "beta", "negative_binomial", "beta_binomial"]
)
def test_initialize_starts_the_variance_at_the_variance_of_the_data(name, kind):
    """Data of the likelihood's own kind; where one number serves all, data that share it."""
    torch.manual_seed(0)
    draw = {
        "normal": torch.distributions.Normal(torch.zeros(3), 0.3),
        "log_normal": torch.distributions.LogNormal(torch.zeros(3), 0.3),
        "laplace": torch.distributions.Laplace(torch.zeros(3), 0.3),
        "beta": torch.distributions.Beta(
            torch.tensor([2.0, 4.0, 6.0]), torch.tensor([6.0, 4.0, 2.0])
        ),
        "negative_binomial": torch.distributions.NegativeBinomial(2.0, torch.full((3,), 0.6)),
        "beta_binomial": distributions.BetaBinomial(3, torch.zeros(3), torch.tensor(0.3)),
    }[name]
    x = draw.sample((50_000,))
    p = at_the_start(make(name, (3,), Linear, **{spread_option(name): kind}), x)
    torch.testing.assert_close(p.variance, draw.variance, rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["dimension", "decoder"])
@pytest.mark.parametrize("name", ["normal", "laplace", "student_t"])
def test_a_scale_of_its_own_stays_above_a_hundredth_of_the_datas(name, kind):
    x = torch.stack([torch.zeros(100), torch.linspace(-1, 1, 100)], -1)
    size = x.square().mean().sqrt() if name == "normal" else x.abs().mean()
    likelihood = make(name, (2,), Linear, scale=kind)
    scale = at_the_start(likelihood, x).base_dist.scale
    torch.testing.assert_close(scale.min(), 0.1 * size)
    if kind == "dimension":
        likelihood.spread.log.data.fill_(-100)
    else:
        likelihood.decoder.layer.bias.data[2:].fill_(-100)
    scale = likelihood(torch.zeros(2)).base_dist.scale
    torch.testing.assert_close(scale, (0.01 * size).expand(2))


@pytest.mark.parametrize("kind", ["dimension", "decoder"])
@pytest.mark.parametrize("name", ["normal", "laplace", "student_t"])
def test_a_column_of_a_small_unit_starts_at_its_own_and_sets_the_limit(name, kind):
    """But one that is nearly constant starts at a tenth of that of all columns."""
    torch.manual_seed(0)
    rare = (torch.arange(500) % 100 == 0) * 1e-3
    x = torch.cat([torch.randn(500, 3) * torch.tensor([1, 1e3, 1e6]), rare[:, None]], 1)
    off = (x - x.mean(0)).abs()
    power = 2 if name == "normal" else 1
    own, pooled = (off.pow(power).mean(over).pow(1 / power) for over in (0, (0, 1)))
    likelihood = make(name, (4,), Linear, scale=kind)
    scale = at_the_start(likelihood, x).base_dist.scale
    torch.testing.assert_close(scale, torch.cat([own[:3], 0.1 * pooled[None]]), rtol=1e-4, atol=0)
    torch.testing.assert_close(likelihood.spread.minimum, 0.01 * own[0])


FAR = {
    "real": [sign * size for size in (1e6, 1e20, 3e38) for sign in (1, -1)],
    "positive": [1e6, 1e20, 3e38, 1e-20, 1e-37],
    "unit": [1e-37, 1e-20, 1 - 1e-7],
}
FAR |= dict.fromkeys(("normal", "laplace", "student_t"), FAR["real"])
FAR |= dict.fromkeys(("poisson", "negative_binomial"), FAR["positive"][:3])
FAR |= {"log_normal": FAR["positive"], "beta": FAR["unit"], "continuous_bernoulli": FAR["unit"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every
def test_numbers_far_outside_are_never_undefined(name, options, network, dtype):
    """Far x are below the usual ones; far z give finite densities, draws and gradients."""
    likelihood = make(name, (3,), network, **options).to(dtype)
    usual = values(name, (torch.rand(50, 3) < 0.5).to(dtype))
    likelihood.initialize(usual)
    far = torch.tensor(FAR.get(name, [0.0]), dtype=dtype)[:, None].expand(-1, 3)
    for z in ((0.0, 0.0), (1e4, 1e4), (-1e4, 1e4), (-1e4, -1e4), (1e6, 1e6)):
        p = likelihood(torch.tensor(z, dtype=dtype))
        log_prob = p.log_prob(far)
        assert not log_prob.isnan().any()
        assert (log_prob < 1e3).all()
        if z == (0.0, 0.0) and name not in {"beta", "continuous_bernoulli", "bernoulli"}:
            largest = far.abs().max(1).values >= 1e20
            assert (log_prob[largest] < p.log_prob(usual).min() - 50).all()
        assert p.support.check(p.sample((20,))).all()
        likelihood.zero_grad()
        found = p.log_prob(usual)
        assert found.isfinite().all() or z != (0.0, 0.0)
        found.sum().backward()
        for parameter in likelihood.parameters():
            assert parameter.grad.isfinite().all()


def test_normalizing_constants_are_scipys():
    """Every likelihood but those without a parameter beside the mean has it fixed at 0.3."""
    z, x = torch.zeros(2), torch.tensor([0.0, 1.0, 2.0, 3.0])
    k, inside = x.numpy().astype(np.float64), np.array([0.1, 0.4, 0.8, 0.97])

    def check(likelihood, expected, x=x):
        p = likelihood(z)
        each = expected(likelihood.decoder(z).detach().double().numpy())
        assert p.log_prob(x).item() == pytest.approx(each.sum(), rel=1e-5)

    def logistic(loc):
        top = np.where(k == 3, np.inf, (k + 0.5 - 3 * loc) / 0.9)
        bottom = np.where(k == 0, -np.inf, (k - 0.5 - 3 * loc) / 0.9)
        return np.log(stats.logistic.cdf(top) - stats.logistic.cdf(bottom))

    def beta(logits):
        mean = 1 / (1 + np.exp(-logits))
        return stats.beta.logpdf(inside, mean / 0.3, (1 - mean) / 0.3)

    def binomial(logits):
        return stats.binom.logpmf(k, 3, 1 / (1 + np.exp(-logits)))

    def beta_binomial(logits):
        mean = 1 / (1 + np.exp(-logits))
        return stats.betabinom.logpmf(k, 3, mean / 0.3, (1 - mean) / 0.3)

    def negative_binomial(log_mean):
        return stats.nbinom.logpmf(k, 1 / 0.3, 1 / (1 + 0.3 * np.exp(log_mean)))

    check(Binomial(2, (4,), Linear, total_count=3), binomial)
    check(BetaBinomial(2, (4,), Linear, total_count=3, dispersion=0.3), beta_binomial)
    check(Normal(2, (4,), Linear, scale=0.3), lambda h: stats.norm.logpdf(k, h, 0.3))
    check(
        LogNormal(2, (4,), Linear, scale=0.3),
        lambda h: stats.lognorm.logpdf(inside, 0.3, scale=np.exp(h)),
        torch.from_numpy(inside).float(),
    )
    check(Laplace(2, (4,), Linear, scale=0.3), lambda h: stats.laplace.logpdf(k, h, 0.3))
    for df in (1.5, 3):
        student = StudentT(2, (4,), Linear, df=df, scale=0.3)
        check(student, lambda h, df=df: stats.t.logpdf(k, df, h, 0.3))
    check(Beta(2, (4,), Linear, dispersion=0.3), beta, torch.from_numpy(inside).float())
    check(DiscretizedLogistic(2, (4,), Linear, levels=4, scale=0.3), logistic)
    check(Categorical(2, (4,), Linear, levels=4), lambda h: np.diag(log_softmax(h, axis=0)))
    check(Poisson(2, (4,), Linear), lambda h: stats.poisson.logpmf(k, np.exp(h)))
    check(NegativeBinomial(2, (4,), Linear, dispersion=0.3), negative_binomial)


def test_a_decoder_gives_the_mean_first_and_the_spread_second():
    h = torch.tensor([[0.2, -0.4], [0.5, -1.5]])  # (2, *event_shape)

    def network(in_shape, out_shape):
        assert (in_shape, out_shape) == ((2,), (2, 2))
        return lambda z: h.expand(*z.shape[:-1], 2, 2)

    p = Normal(2, (2,), network, scale="decoder")(torch.zeros(2))
    torch.testing.assert_close(p.mean, h[0])
    torch.testing.assert_close(p.stddev, h[1].exp())
    p = Beta(2, (2,), network, dispersion="decoder")(torch.zeros(2))
    torch.testing.assert_close(p.mean, h[0].sigmoid())
    delta = h[1].exp() + 1e-4
    torch.testing.assert_close(p.variance, p.mean * (1 - p.mean) * delta / (1 + delta))
    p = NegativeBinomial(2, (2,), network, dispersion="decoder")(torch.zeros(2))
    torch.testing.assert_close(p.mean, h[0].exp())
    torch.testing.assert_close(p.variance, p.mean + (h[1].exp() + 1e-6) * p.mean.square())


def test_bernoulli_enumerated_over_all_images_sums_to_one():
    p = Bernoulli(2, (1, 2, 3), Linear)(torch.randn(2))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 1, 2, 3)
    assert p.log_prob(images).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("scale", "more"), [("learned", 1), ("dimension", 3), ("decoder", 9)])
def test_a_learned_scale_has_its_parameters_and_a_fixed_one_none(scale, more):
    learned, fixed = Normal(2, (3,), Linear, scale=scale), Normal(2, (3,), Linear, scale=0.5)
    count = sum(p.numel() for p in fixed.parameters())
    assert sum(p.numel() for p in learned.parameters()) == count + more
    assert fixed(torch.zeros(2)).stddev.unique().item() == fixed.scale == 0.5


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda: Binomial(2, (3,), Linear, total_count=0), "total_count must be positive, got 0"),
        (
            lambda: Normal(2, (3,), Linear, scale=0.0),
            "scale must be a positive number or .* got 0.0",
        ),
        (lambda: Laplace(2, (3,), Linear, scale="shared"), "or 'decoder', got 'shared'"),
        (lambda: StudentT(2, (3,), Linear, scale=float("inf")), "or 'decoder', got inf"),
        (lambda: StudentT(2, (3,), Linear, df=1), "df must be a number above 1, got 1"),
        (lambda: Beta(2, (3,), Linear, dispersion=-1), "dispersion must be a .* got -1"),
        (lambda: NegativeBinomial(2, (3,), Linear, dispersion=0), "dispersion must .* got 0"),
        (lambda: Categorical(2, (3,), Linear, levels=1), "levels must be at least 2, got 1"),
        (lambda: DiscretizedLogistic(2, (3,), Linear, levels=0), "at least 2, got 0"),
    ],
)
def test_wrong_options_are_refused(make_wrong, message):
    with pytest.raises(ValueError, match=message):
        make_wrong()


def test_continuous_bernoulli_differs_from_bernoulli_by_its_constant():
    torch.manual_seed(3)
    bernoulli = Bernoulli(2, (4,), Linear)
    continuous = ContinuousBernoulli(2, (4,), Linear)
    continuous.load_state_dict(bernoulli.state_dict())
    z, x = torch.randn(2), torch.rand(4)
    logits = bernoulli.decoder(z)
    unnormalized = (x * logits - torch.nn.functional.softplus(logits)).sum()
    constant = continuous(z).log_prob(x) - unnormalized
    other = continuous(z).log_prob(1 - x)
    mirrored = ((1 - x) * logits - torch.nn.functional.softplus(logits)).sum()
    torch.testing.assert_close(other - mirrored, constant)
    assert constant.item() > 4 * np.log(2) - 1e-4  # C(lambda) is at least 2
