"""Every prior is a normalized density with samples to match, over vectors z."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from scipy import stats
from scipy.integrate import quad
from torch import nn

from pyrovae.distributions import OneHots
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import Linear
from pyrovae.posteriors import DiagonalNormal, RelaxedCategorical
from pyrovae.priors import (
    PRIORS,
    Categorical,
    GaussianMixture,
    Laplace,
    LearnedNormal,
    Logistic,
    Sphere,
    StandardNormal,
    StudentT,
    VampPrior,
)
from pyrovae.runs import Spec, context_of, resolve
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.oracles import assert_reached

VARIANTS = [
    *(name for name in PRIORS if name not in ("sphere", "categorical")),  # see test_spheres.py
    "learned_normal:covariance=full",
    "student_t:df=3,scale=0.5",
    "mixture:start=data",
    "vamp:weights=learned",
    "flow:kind=maf",
    "flow:kind=realnvp",
]


def make(text, latent_dim=2, **known):
    """A prior as it is written, with a linear encoder for those that ask for a posterior."""
    spec = Spec.parse(text)
    known = {"latent_dim": latent_dim, "event_shape": (5,)} | known
    known.setdefault("posterior", DiagonalNormal(latent_dim, (5,), Linear))
    few = {"components": 10}  # a hundred would take long on a grid
    _, options = resolve("prior", PRIORS[spec.name], spec, few)
    return PRIORS[spec.name](**context_of(PRIORS[spec.name], known), **options)


@pytest.fixture(params=VARIANTS)
def prior(request):
    prior = make(request.param)
    with torch.no_grad():
        for parameter in prior.parameters():  # away from the symmetric start
            parameter += (0.1 if "flow" in request.param else 0.3) * torch.randn_like(parameter)
    return prior


@pytest.mark.contract
def test_is_one_distribution_over_vectors(prior):
    p = prior()
    assert p.batch_shape == ()
    assert p.event_shape == (2,)
    assert p.sample((3, 4)).shape == (3, 4, 2)
    assert p.log_prob(torch.randn(5, 6, 2)).shape == (5, 6)


@pytest.mark.contract
def test_expands_as_under_plates_and_vectorized_particles(prior):
    p = prior()
    z = torch.randn(3, 4, 2)
    wide = p.expand((3, 4))
    assert (wide.batch_shape, wide.event_shape) == ((3, 4), (2,))
    torch.testing.assert_close(wide.log_prob(z), p.log_prob(z))
    assert wide.sample().shape == (3, 4, 2)
    with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 4, dim=-1):
        assert pyro.sample("z", p).shape == (3, 4, 2)


def on_a_grid(p, half_width=20.0, step=0.05):
    """The axis, and the density on its square."""
    axis = torch.arange(-half_width, half_width + step / 2, step, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        density = torch.cat([p.log_prob(rows).exp() for rows in z.split(100)])
    return axis.numpy(), density.numpy()


def distribution_function(density):
    """By the trapezoidal rule along the last axis, scaled to end at 1."""
    area = np.cumsum((density[..., 1:] + density[..., :-1]) / 2, -1)
    cdf = np.concatenate([np.zeros_like(area[..., :1]), area], -1)
    return cdf / cdf[..., -1:]


def test_density_integrates_to_one_and_samples_follow_it(prior):
    """Rosenblatt's transform of the draws is uniform: by Kolmogorov and Smirnov, three seeds."""
    draws = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        with torch.no_grad():
            draws.append(prior().sample((2_000,)).double().numpy())
    for module in (prior, getattr(prior, "posterior", None)):
        if module is not None:
            module.double()
    axis, density = on_a_grid(prior())
    assert density.sum() * 0.05**2 == pytest.approx(1, abs=1e-3)
    first = distribution_function(density.sum(1))
    for z in draws:
        inside = (np.abs(z) < 20).all(1)
        assert inside.mean() > 0.99
        z = z[inside]
        u1 = np.interp(z[:, 0], axis, first)
        position = (z[:, 0] + 20) / 0.05
        row = position.astype(int)
        part = (position - row)[:, None]
        given = (1 - part) * density[row] + part * density[row + 1]  # p(z2 | z1), unscaled
        second = distribution_function(given)
        u2 = [np.interp(v, axis, cdf) for v, cdf in zip(z[:, 1], second, strict=True)]
        assert stats.kstest(u1, "uniform").pvalue > 1e-4
        assert stats.kstest(u2, "uniform").pvalue > 1e-4


@pytest.mark.contract
def test_gradients_reach_every_parameter(prior):
    z = torch.randn(7, 2, requires_grad=True)
    prior().log_prob(z).sum().backward()
    for parameter in (z, *prior.parameters()):
        assert_reached(parameter)


@pytest.mark.contract
@pytest.mark.parametrize("text", VARIANTS)
def test_save_and_load(text):
    posterior = DiagonalNormal(3, (5,), Linear)
    a, b = (make(text, 3, posterior=posterior) for _ in range(2))
    b.load_state_dict(a.state_dict())
    z = torch.randn(5, 3)
    assert torch.equal(a().log_prob(z), b().log_prob(z))


CATEGORICAL = ["categorical:classes=3", "categorical:classes=3,weights=learned", "vamp"]


@pytest.fixture(params=CATEGORICAL)
def categorical(request):
    """Two variables of three classes, as a mixture where it is a vamp."""
    posterior = RelaxedCategorical(6, (5,), Linear, classes=3)
    prior = make(request.param, 6, posterior=posterior)
    with torch.no_grad():
        for parameter in (*prior.parameters(), *posterior.parameters()):
            parameter += torch.randn_like(parameter)
    return nn.ModuleList([prior, posterior])  # so that both are in one mode


@pytest.mark.contract
@pytest.mark.parametrize("training", [True, False])
def test_categorical_is_one_distribution_over_vectors_in_both_modes(categorical, training):
    p = categorical.train(training)[0]()
    assert (p.batch_shape, p.event_shape) == ((), (6,))
    z = p.sample((3, 4))
    assert z.shape == (3, 4, 6)
    assert bool(((z == 0) | (z == 1)).all()) is not training
    wide = p.expand((3, 4))
    torch.testing.assert_close(wide.log_prob(z), p.log_prob(z))
    assert wide.sample().shape == (3, 4, 6)
    if p.log_prob(z).requires_grad:
        p.log_prob(z).sum().backward()
    part_of_p = categorical if hasattr(categorical[0], "posterior") else categorical[0]
    for name, parameter in part_of_p.named_parameters():
        assert_reached(parameter, name)


def test_categorical_masses_sum_to_one_and_samples_follow_them(categorical):
    """Chi-squared over all nine values, three seeds."""
    p = categorical.eval()[0]()
    values = OneHots(torch.zeros(2, 3)).enumerate_support()
    mass = p.log_prob(values).detach().exp().double()
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    for seed in SEEDS:
        torch.manual_seed(seed)
        counts = (p.sample((4_000,))[:, None] == values).all(-1).sum(0)
        expected = 4_000 * mass / mass.sum()
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_categorical_starts_from_equal_masses():
    for weights in ("equal", "learned"):
        p = Categorical(6, classes=3, weights=weights).eval()()
        torch.testing.assert_close(p.mean, torch.full((6,), 1 / 3))
    assert list(Categorical(6).parameters()) == []


def test_standard_normal_is_scipys():
    z = torch.randn(5, 3, dtype=torch.float64)
    expected = stats.norm.logpdf(z.numpy()).sum(-1)
    torch.testing.assert_close(StandardNormal(3).double()().log_prob(z), torch.tensor(expected))


def test_laplace_is_scipys_and_has_variance_two_b_squared():
    prior = Laplace(3, scale=0.7).double()
    z = torch.randn(5, 3, dtype=torch.float64)
    expected = torch.tensor(stats.laplace.logpdf(z.numpy(), scale=0.7).sum(-1))
    torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior().variance, torch.full((3,), 0.98).double())


def test_mixture_of_one_centered_component_is_the_standard_normal():
    mixture = GaussianMixture(3, components=1)
    with torch.no_grad():
        mixture.loc.zero_()
    z = torch.randn(9, 3)
    torch.testing.assert_close(mixture().log_prob(z), StandardNormal(3)().log_prob(z))


def test_mixture_in_one_dimension_is_the_weighted_sum():
    mixture = GaussianMixture(1, components=2).double()
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([0.3, 0.7]).log())
        mixture.loc.copy_(torch.tensor([[-1.0], [2.0]]))
        mixture.log_scale.copy_(torch.tensor([[0.5], [1.5]]).log())
    p = mixture()

    def expected(z: float) -> float:
        return 0.3 * stats.norm.pdf(z, -1, 0.5) + 0.7 * stats.norm.pdf(z, 2, 1.5)

    for z in (-2.0, 0.0, 1.5):
        found = p.log_prob(torch.tensor([z], dtype=torch.float64)).exp().item()
        assert found == pytest.approx(expected(z), rel=1e-6)
    assert quad(expected, -20, 20)[0] == pytest.approx(1)


def test_student_t_is_scipys():
    z = 3 * torch.randn(5, 3, dtype=torch.float64)
    expected = stats.t.logpdf(z.numpy(), 4.0, scale=0.7).sum(-1)
    p = StudentT(3, df=4.0, scale=0.7).double()()
    torch.testing.assert_close(p.log_prob(z), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.variance, torch.full((3,), 0.98).double())


def test_logistic_is_scipys():
    z = 3 * torch.randn(5, 3, dtype=torch.float64)
    expected = stats.logistic.logpdf(z.numpy(), scale=0.7).sum(-1)
    p = Logistic(3, scale=0.7).double()()
    torch.testing.assert_close(p.log_prob(z), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.variance, torch.full((3,), 0.49 * math.pi**2 / 3).double())


def test_full_learned_normal_is_scipys():
    prior = LearnedNormal(3, covariance="full").double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_()
    lower = np.diag(prior.log_scale.detach().exp().numpy())
    lower[[1, 2, 2], [0, 0, 1]] = prior.below.detach().numpy()
    oracle = stats.multivariate_normal(prior.loc.detach().numpy(), lower @ lower.T)
    z = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(prior().log_prob(z), torch.tensor(oracle.logpdf(z.numpy())))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_learned_normal_starts_from_the_standard_normal(covariance):
    z = torch.randn(9, 3)
    p = LearnedNormal(3, covariance=covariance)()
    torch.testing.assert_close(p.log_prob(z), StandardNormal(3)().log_prob(z))


def test_mixture_starts_from_the_encodings_of_data():
    posterior = DiagonalNormal(2, (5,), Linear)
    x = torch.randn(12, 5)
    mixture = GaussianMixture(2, posterior, components=12, start="data")
    assert len(list(mixture.parameters())) == 3  # none of the posterior's
    mixture.initialize(x)
    distances = torch.cdist(mixture.loc, posterior(x).mean)
    assert sorted(distances.argmin(1).tolist()) == list(range(12))
    assert distances.min(1).values.max() < 1e-5
    before = GaussianMixture(2, posterior, components=12)
    after = copy.deepcopy(before)
    after.initialize(x)
    assert torch.equal(before.loc, after.loc)


def test_vamp_is_the_average_of_the_posterior_at_its_pseudo_inputs():
    posterior = DiagonalNormal(2, (5,), Linear)
    prior = VampPrior(posterior, (5,), components=4, weights="learned")
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    z = torch.randn(9, 2)
    density = sum(
        weight * posterior(u).log_prob(z).exp()
        for weight, u in zip((0.1, 0.2, 0.3, 0.4), prior.pseudo_inputs, strict=True)
    )
    torch.testing.assert_close(prior().log_prob(z).exp(), density)


def test_vamp_draws_from_all_components():
    """As often as their weights say: chi-squared, with components that are far apart."""
    posterior = DiagonalNormal(1, (1,), Linear)
    with torch.no_grad():
        posterior.encoder.layer.weight.copy_(torch.tensor([[100.0], [0.0]]))
    prior = VampPrior(posterior, (1,), components=4, weights="learned")
    with torch.no_grad():
        prior.pseudo_inputs.copy_(torch.arange(4.0)[:, None])
        prior.logits.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
        component = (prior().sample((4_000,)) / 100).round().long().flatten()
    counts = component.bincount(minlength=4).numpy()
    assert stats.chisquare(counts, [400, 800, 1_200, 1_600]).pvalue > 1e-4


def test_vamp_starts_from_training_data_without_repeating_one():
    x = torch.randn(20, 5)
    prior = VampPrior(DiagonalNormal(2, (5,), Linear), (5,), components=20)
    prior.initialize(x)
    assert torch.equal(prior.pseudo_inputs.sort(0).values, x.sort(0).values)


def vamp_vae(components=5):
    posterior = DiagonalNormal(2, (1, 8, 8), Linear)
    prior = VampPrior(posterior, (1, 8, 8), components=components, weights="learned")
    return VAE(prior, Bernoulli(2, (1, 8, 8), Linear), posterior)


def test_vamp_shares_the_posterior_and_each_parameter_is_trained_once(digits):
    vae = vamp_vae()
    names = [name for name, _ in vae.named_parameters(remove_duplicate=False)]
    assert sorted(vae.state_dict()) == sorted(names)
    assert len({id(p) for p in vae.parameters()}) == len(names) == 6
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(digits)
    assert sorted(pyro.get_param_store()) == sorted(name.replace(".", "$$$", 1) for name in names)
    for name, parameter in vae.named_parameters():
        step = (parameter - before[name]).abs().max().item()
        assert step == pytest.approx(0.1, rel=1e-3), name  # Adam's first: once, and not twice


def test_vamps_gradient_reaches_the_encoder_through_the_prior():
    vae = vamp_vae()
    vae.prior().log_prob(torch.randn(3, 2)).sum().backward()
    for parameter in vae.posterior.parameters():
        assert_reached(parameter)


def test_a_copied_or_loaded_vamp_vae_shares_its_own_posterior(digits):
    vae = vamp_vae()
    twin = copy.deepcopy(vae)
    assert twin.prior.posterior is twin.posterior
    assert twin.posterior is not vae.posterior
    other = vamp_vae()
    other.load_state_dict(vae.state_dict())
    z = torch.randn(7, 2)
    torch.testing.assert_close(other.prior().log_prob(z), vae.prior().log_prob(z))


def test_a_vamp_of_another_posterior_is_refused():
    vae = vamp_vae()
    with pytest.raises(ValueError, match="not the VAE's posterior and would not be trained"):
        VAE(vae.prior, vae.likelihood, DiagonalNormal(2, (1, 8, 8), Linear))


def test_vamp_of_points_is_refused():
    vamp = VampPrior(lambda x: dist.Delta(x, event_dim=1), (2,), components=3)
    with pytest.raises(ValueError, match=r"has no density; take a posterior with one"):
        vamp()


@pytest.mark.parametrize(
    "prior",
    [
        VampPrior(DiagonalNormal(2, (5,), Linear), (5,), components=30),
        GaussianMixture(2, DiagonalNormal(2, (5,), Linear), components=30, start="data"),
    ],
)
def test_more_components_than_data_are_refused(prior):
    with pytest.raises(ValueError, match="components is 30, and there are 7 data"):
        prior.initialize(torch.randn(7, 5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: GaussianMixture(2, components=0), "components must be positive, got 0; for .*"),
        (lambda: Laplace(2, scale=-1.0), "scale must be positive, got -1.0"),
        (lambda: Laplace(2, scale=math.nan), "scale must be positive, got nan"),
        (lambda: StandardNormal(0), "latent_dim must be positive, got 0"),
        (lambda: Sphere(1), "latent_dim must be at least 2 on a sphere, .*, got 1"),
        (lambda: StudentT(2, df=0.0), "df must be positive, got 0.0"),
        (lambda: Logistic(2, scale=0.0), "scale must be positive, got 0.0"),
        (lambda: LearnedNormal(2, covariance="x"), "covariance must be one of diagonal, full, got"),
        (lambda: GaussianMixture(2, start="x"), "start must be one of random, data, got 'x'"),
        (lambda: GaussianMixture(2, start="data"), "start='data' needs the posterior"),
        (lambda: Categorical(5), "classes must be a divisor of latent_dim = 5, from 2, got 2"),
        (lambda: Categorical(4, temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: Categorical(4, temperature=math.inf), "temperature must be finite, got inf"),
        (lambda: Categorical(4, weights="x"), "weights must be one of equal, learned, got 'x'"),
        (lambda: VampPrior(None, (5,), components=0), "components must be positive, got 0"),
        (lambda: VampPrior(None, (5,), weights="x"), "weights must be one of equal, learned"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_prior_without_weights_stores_nothing():
    """Runs of earlier versions have no such entries, and must open."""
    assert not StandardNormal(2).state_dict()
