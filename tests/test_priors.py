"""Every prior is a normalised density with samples to match, over vectors z."""

import math

import pytest
import torch
from scipy import stats
from scipy.integrate import nquad, quad

from pyrovae.priors import PRIORS, GaussianMixture, Laplace, StandardNormal
from tests.conftest import SEEDS


@pytest.fixture(params=PRIORS)
def prior(request):
    prior = PRIORS[request.param](2)
    with torch.no_grad():
        for parameter in prior.parameters():  # away from the symmetric start
            parameter += 0.5 * torch.randn_like(parameter)
    return prior


def test_is_one_distribution_over_vectors(prior):
    p = prior()
    assert p.batch_shape == ()
    assert p.event_shape == (2,)
    assert p.sample((3, 4)).shape == (3, 4, 2)
    assert p.log_prob(torch.randn(5, 6, 2)).shape == (5, 6)


def test_density_integrates_to_one(prior):
    p = prior.double()()

    def density(a: float, b: float) -> float:
        with torch.no_grad():
            return p.log_prob(torch.tensor([a, b], dtype=torch.float64)).exp().item()

    points = {"points": [0.0], "limit": 200, "epsabs": 1e-5}
    total, _ = nquad(density, [(-25, 25)] * 2, opts=[points, points])
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_follow_the_density(prior, seed):
    """Probability integral transform of the first dimension: uniform by Kolmogorov and Smirnov."""
    torch.manual_seed(seed)
    with torch.no_grad():
        z = prior().sample((4_000,)).double()

    grid = torch.linspace(-30, 30, 3_001, dtype=torch.float64)
    with torch.no_grad():
        p = prior.double()()
        other = torch.linspace(-30, 30, 301, dtype=torch.float64)
        log_prob = p.log_prob(torch.stack(torch.meshgrid(grid, other, indexing="ij"), -1))
    cdf = log_prob.exp().sum(1).cumsum(0)
    cdf = (cdf / cdf[-1]).numpy()
    place = torch.searchsorted(grid, z[:, 0].contiguous()).clamp(max=len(grid) - 1)
    assert stats.kstest(cdf[place.numpy()], "uniform").pvalue > 1e-4


def test_gradients_reach_every_parameter(prior):
    z = torch.randn(7, 2, requires_grad=True)
    prior().log_prob(z).sum().backward()
    for parameter in (z, *prior.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", PRIORS)
def test_save_and_load(name):
    a, b = PRIORS[name](3), PRIORS[name](3)
    b.load_state_dict(a.state_dict())
    z = torch.randn(5, 3)
    assert torch.equal(a().log_prob(z), b().log_prob(z))


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


def test_mixture_of_one_centred_component_is_the_standard_normal():
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture(2, components=0), "components must be positive, got 0; for .*"),
        (lambda: Laplace(2, scale=-1.0), "scale must be positive, got -1.0"),
        (lambda: Laplace(2, scale=math.nan), "scale must be positive, got nan"),
        (lambda: StandardNormal(0), "latent_dim must be positive, got 0"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
