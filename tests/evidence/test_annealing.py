"""Annealed bounds against exact evidence, and the sandwich around it."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae.evidence.annealing import _Path, _precision, annealed, gradients, sandwich, sigmoidal
from pyrovae.evidence.lower_bounds import bounds
from pyrovae.evidence.quadrature import integrated
from pyrovae.evidence.tractable import exact
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import Linear
from pyrovae.posteriors import DiagonalNormal, Point
from pyrovae.priors import StandardNormal
from pyrovae.vae import VAE
from tests import models
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import ELEMENTWISE, EVERY_PAIR, SHAPE, of_bits, with_likelihood
from tests.models import make_pair as make
from tests.oracles import assert_finite, assert_no_less, assert_within

MODELS = 100


class ManyLinear(nn.Module):
    """p(x | z) of many models: the i-th of the batch is of the i-th one."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(MODELS, 10, 3, generator=generator).double())
        self.bias = nn.Parameter(torch.randn(MODELS, 10, generator=generator).double())
        self.scale = nn.Parameter(0.5 + torch.rand(MODELS, 10, generator=generator).double())

    def forward(self, z):
        count = z.shape[-2] if z.dim() > 1 else 1
        loc = torch.einsum("ide,...ie->...id", self.weight[:count], z.expand(*z.shape[:-2], -1, -1))
        return dist.Normal(loc + self.bias[:count], self.scale[:count]).to_event(1)


class NearPosterior(nn.Module):
    """The exact posterior of each of them, moved and widened."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, x):
        weight, bias, scale = (p.detach()[: len(x)] for p in self.likelihood.parameters())
        scaled = weight / scale[..., None]
        covariance = torch.linalg.inv(torch.eye(3).to(x) + scaled.mT @ scaled)
        loc = torch.einsum("ief,idf,id->ie", covariance, scaled, (x - bias) / scale)
        return dist.MultivariateNormal(loc + 0.1, 1.4 * covariance)


def many_linear(seed):
    """100 random models of 10-D data with a 3-D latent, an x of each, and its log p(x)."""
    likelihood = ManyLinear(seed)
    prior = StandardNormal(3).double()
    vae = VAE(prior, likelihood, NearPosterior(likelihood))
    weight, bias, scale = (p.detach() for p in likelihood.parameters())
    covariance = weight @ weight.mT + torch.diag_embed(scale.square())
    marginal = dist.MultivariateNormal(bias, covariance)
    torch.manual_seed(seed)
    x = marginal.sample()
    return vae, x, marginal


@pytest.fixture
def one_batch(monkeypatch):
    monkeypatch.setattr("pyrovae.evidence.annealing.ROWS", 100 * MODELS)
    monkeypatch.setattr(VAE, "check_data", lambda self, x: None)  # it draws one z for all


@pytest.mark.parametrize("seed", SEEDS)
def test_importance_weighting_is_within_four_errors_of_the_evidence_of_100_models(seed):
    vae, x, marginal = many_linear(seed)
    torch.manual_seed(seed)
    found = bounds(vae, x, 2_000)
    truth = marginal.log_prob(x)
    assert_within(found.log_evidence, truth, found.standard_error)
    off = (found.log_evidence - truth) / found.standard_error
    assert 0.6 < off.square().mean() < 1.6  # errors are neither too small nor too large


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_annealing_is_within_four_errors_of_the_evidence_of_100_models(seed, start, one_batch):
    vae, x, marginal = many_linear(seed)
    found = annealed(vae, x, samples=100, temperatures=60, seed=seed, start=start)
    truth = marginal.log_prob(x)
    assert_within(found.log_evidence, truth, found.standard_error)
    off = (found.log_evidence - truth) / found.standard_error
    assert 0.6 < off.square().mean() < 1.7
    assert (found.kind, found.samples) == ("lower bound in expectation", 100)
    assert (found.details["acceptance"] - 0.65).abs().mean() < 0.1


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_the_sandwich_brackets_the_evidence_of_100_models(seed, one_batch, monkeypatch):
    """In mean over models, within 4 standard errors of it, with a gap that is seen at T = 10."""
    vae, _, marginal = many_linear(seed)
    found = sandwich(vae, MODELS, samples=10, temperatures=10, seed=seed)
    evidence = marginal.log_prob(found.x)
    below, above = evidence - found.lower.log_evidence, found.upper.log_evidence - evidence
    for gap in (below, above):
        assert_no_less(gap.mean(), 0.0, gap.std() / math.sqrt(MODELS))
    gap = found.upper.log_evidence - found.lower.log_evidence
    assert gap.mean() > 4 * gap.std() / math.sqrt(MODELS)
    finer = sandwich(vae, MODELS, samples=10, temperatures=100, seed=seed)
    assert_finite(gap, finer.upper.log_evidence, finer.lower.log_evidence)
    assert (finer.upper.log_evidence - finer.lower.log_evidence).mean() < gap.mean() / 3
    assert finer.upper.kind == "upper bound in expectation"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_chain_has_the_evidence_as_mean_weight_at_few_temperatures(seed):
    """Mean of w / p(x) over 4,000 chains is one, as is that of p(x) / w backwards; 4 errors."""
    vae, x, _ = models.linear_gaussian(seed)
    vae.posterior = DiagonalNormal(2, (5,), Linear).double()
    with torch.no_grad():
        vae.likelihood.decoder.layer.weight.div_(6)  # weights of a finite variance both ways
    found = annealed(vae, x[:8], samples=4_000, temperatures=5, leapfrog=2, seed=seed)
    off = found.log_evidence - exact(vae, x[:8]).log_evidence
    assert_within(off, 0.0, found.standard_error)
    both = sandwich(vae, 1_000, samples=1, temperatures=5, leapfrog=2, seed=seed)
    truth = exact(vae, both.x).log_evidence
    inverse = (truth - both.upper.log_evidence).exp()
    assert_within(inverse.mean(), 1, inverse.std() / math.sqrt(1_000))


def test_the_schedule_goes_from_zero_to_one_and_is_dense_at_both_ends():
    betas = sigmoidal(10)
    assert betas[0] == 0
    assert betas[-1] == 1
    steps = betas.diff()
    assert (steps > 0).all()
    assert steps.argmax() in (4, 5)
    torch.testing.assert_close(steps, steps.flip(0))


@pytest.mark.parametrize(("prior", "posterior"), EVERY_PAIR)
def test_every_pair_is_annealed_or_refused_in_one_line(prior, posterior, digits):
    """Annealed from either start: within 4.5 errors of quadrature, for each of two digits."""
    vae, x = make(prior, posterior), digits[:2]
    options = {"samples": 100, "temperatures": 10, "leapfrog": 2}

    def refused(reason, **options):
        with pytest.raises(ValueError, match=reason) as caught:
            annealed(vae, x, **options)
        assert "\n" not in str(caught.value)

    if posterior in ("power_spherical", "relaxed_categorical"):
        refused("annealing moves z over real vectors, but the prior", **options)
        return
    starts = ["prior", "posterior"]
    if posterior == "point":
        refused("Point has no density to start from", start=starts.pop(), **options)
    truth = integrated(vae, x)
    for start in starts:
        found = annealed(vae, x, start=start, **options)
        error = torch.hypot(found.standard_error, truth.standard_error)
        assert_within(found.log_evidence, truth.log_evidence, error, 4.5)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_likelihood_is_annealed_and_sandwiched(name, network, digits):
    """Within 4.5 errors of quadrature for two digits; bounds are in order for six other x."""
    vae, options = with_likelihood(name, network), {"temperatures": 6, "leapfrog": 2}
    x = of_bits(name, digits[:2])
    found, truth = annealed(vae, x, samples=100, **options), integrated(vae, x)
    error = torch.hypot(found.standard_error, truth.standard_error)
    assert_within(found.log_evidence, truth.log_evidence, error, 4.5)
    both = sandwich(vae, 6, samples=20, **options)
    assert both.x.shape == (6, *SHAPE)
    gap = both.upper.log_evidence - both.lower.log_evidence
    assert_no_less(gap.mean(), 0.0, gap.std() / math.sqrt(6))


def test_one_seed_gives_one_result_and_nothing_global_changes(vae, digits):
    vae.train()
    pyro.param("own", torch.zeros(1))
    state = torch.get_rng_state()
    first, again, other = (
        annealed(vae, digits[:3], samples=3, temperatures=4, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.log_evidence, again.log_evidence)
    assert not torch.equal(first.log_evidence, other.log_evidence)
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training
    assert all(p.requires_grad and p.grad is None for p in vae.parameters())
    assert list(pyro.get_param_store().keys()) == ["own"]


def test_progress_counts_the_examples(vae, digits):
    told = []
    annealed(vae, digits[:5], samples=2, temperatures=4, progress=told.append)
    assert sum(told) == pytest.approx(5)
    told.clear()
    sandwich(vae, 7, samples=2, temperatures=4, progress=told.append)
    assert sum(told) == pytest.approx(7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be positive, got 0"),
        ({"temperatures": 0}, "temperatures must be positive, got 0"),
        ({"leapfrog": -1}, "leapfrog must be positive, got -1"),
        ({"start": "q"}, "start must be one of prior, posterior, got 'q'"),
    ],
)
def test_wrong_options_are_refused(vae, digits, options, message):
    with pytest.raises(ValueError, match=message):
        annealed(vae, digits[:2], **options)
    with pytest.raises(ValueError, match=message):
        sandwich(vae, 2, **options)


def test_no_examples_are_refused(vae):
    with pytest.raises(ValueError, match="examples must be positive, got 0"):
        sandwich(vae, 0)


def test_grey_values_are_refused_with_the_remedy(vae, digits):
    with pytest.raises(ValueError, match=r"0.5, outside .* Bernoulli; .* not normalized"):
        annealed(vae, digits[:2] / 2, samples=2, temperatures=2)


def test_a_point_posterior_is_no_obstacle_from_the_prior(network, digits):
    """The evidence is the model's own: the same chains as with a posterior of unit scale."""
    vae = VAE(StandardNormal(2), Bernoulli(2, SHAPE, network), Point(2, SHAPE, network))
    found = annealed(vae, digits[:3], samples=200, temperatures=20)
    wide = VAE(vae.prior, vae.likelihood, DiagonalNormal(2, SHAPE, network))
    truth = bounds(wide, digits[:3], 20_000)
    error = torch.hypot(found.standard_error, truth.standard_error)
    assert_within(found.log_evidence, truth.log_evidence, error)


def test_a_dimension_without_a_variance_moves_as_one_of_variance_one():
    scales = torch.tensor([0.5, 1.0])
    for q, expected in (
        (dist.Normal(0.0, scales), (4.0, 1.0)),
        (dist.StudentT(1.5, 0.0, scales), (1.0, 1.0)),  # its variance is infinite
        (dist.Delta(scales), (1.0, 1.0)),  # and here zero
    ):
        found = _precision(q.to_event(1), 3)
        torch.testing.assert_close(found, torch.tensor(expected).expand(3, 2))


@pytest.mark.parametrize("options", [(3, 4, 2), (2, 2, 1), (5, 1, 3)])
def test_gradients_are_counted(monkeypatch, options):
    """Against the chains that the annealed path asks for a slope."""
    asked, slope = [], _Path.slope

    def counted(path, z, beta):
        asked.append(len(z))
        return slope(path, z, beta)

    monkeypatch.setattr(_Path, "slope", counted)
    vae, x, _ = models.linear_gaussian(0)
    samples, temperatures, leapfrog = options
    annealed(vae, x[:1], samples=samples, temperatures=temperatures, leapfrog=leapfrog)
    assert sum(asked) == gradients(*options)
