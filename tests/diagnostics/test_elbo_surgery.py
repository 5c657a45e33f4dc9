"""The terms of the ELBO sum to it, and are those of mixtures that are known."""

import math

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from scipy.integrate import quad
from torch import nn

import pyrovae
from pyrovae.data import Split
from pyrovae.diagnostics.aggregate_posterior import aggregate_draws, population
from pyrovae.diagnostics.elbo_surgery import surgery
from pyrovae.distributions import OneHots
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import Laplace, StandardNormal
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import PAIRS
from tests.models import make_pair as make
from tests.oracles import assert_finite

ERRORS = 4.5  # standard errors, for some hundred comparisons


class Encoder(nn.Module):
    """Means proportional to the first columns, and one scale."""

    def __init__(self, in_shape, out_shape, slope=1.0, scale=0.3):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(float(slope)))
        self.log_scale, self.dim = math.log(scale), out_shape[-1]

    def forward(self, x):
        loc = self.slope * x[..., : self.dim]
        return torch.stack([loc, torch.full_like(loc, self.log_scale)], -2)


def known(dim, slope=1.0, scale=0.3, prior=StandardNormal):
    """A VAE whose posteriors are normals around multiples of the data."""

    def encoder(in_shape, out_shape):
        return Encoder(in_shape, out_shape, slope, scale)

    likelihood = Normal(dim, (dim,), MLP)
    return VAE(prior(dim), likelihood, DiagonalNormal(dim, (dim,), encoder)).double()


def few(seed, count, dim):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()


def near(found, truth):
    return abs(found.value - truth) <= ERRORS * found.standard_error + 1e-9


@pytest.mark.parametrize(("prior", "posterior"), [pair for pair in PAIRS if pair[1] != "point"])
def test_the_terms_sum_to_the_elbo_that_is_evaluated_with_the_same_draws(prior, posterior, digits):
    vae, data = make(prior, posterior), Split.from_array(digits[:45])
    result = surgery(aggregate_draws(vae, data, draws=4, seed=3))
    expected = pyrovae.evaluate(vae, data, samples=4, seed=3)
    terms = {name: term.value for name, term in result.terms.items()}
    for term in ("elbo", "reconstruction", "kl"):
        assert terms[term] == pytest.approx(getattr(expected, term).value, abs=1e-4)
        over = result.terms[term].over_examples
        assert over == pytest.approx(getattr(expected, term).standard_error, rel=1e-3)
    total = terms["reconstruction"] - terms["mutual_information"] - terms["marginal_kl"]
    assert total == pytest.approx(expected.elbo.value, abs=1e-4)
    assert abs(result.remainder) < 1e-9
    assert terms["mutual_information"] <= math.log(45)
    assert ("total_correlation" in terms) == (posterior in FACTORISED)
    assert ("dimension_wise_kl" in terms) == (
        posterior in FACTORISED and prior in (*FACTORISED_PRIORS, "categorical")
    )
    assert set(result.omitted) == {"total_correlation", "dimension_wise_kl"} - set(terms)
    if "dimension_wise_kl" in terms:
        parts = terms["total_correlation"] + terms["dimension_wise_kl"]
        assert parts == pytest.approx(terms["marginal_kl"], abs=1e-9)
        by_dimension = [row.marginal_kl.value for row in result.dimensions]
        assert sum(by_dimension) == pytest.approx(terms["dimension_wise_kl"], abs=1e-9)
        by_dimension = [row.kl.value for row in result.dimensions]
        assert sum(by_dimension) == pytest.approx(terms["kl"], abs=1e-4)


FACTORISED = ("diagonal", "laplace", "relaxed_categorical")
FACTORISED_PRIORS = ("normal", "laplace", "student_t", "learned_normal", "logistic")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("prior", [StandardNormal, Laplace])
def test_one_dimension_is_what_quadrature_gives(seed, prior):
    x, scale = few(seed, 12, 1), 0.3
    vae = known(1, slope=0.8, scale=scale, prior=prior)
    result = surgery(aggregate_draws(vae, Split.from_array(x), draws=400, seed=seed))
    p, centres = vae.prior(), 0.8 * x[:, 0].numpy()

    def density(z):
        each = np.exp(-0.5 * ((z - centres) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
        return each.mean()

    def log_p(z):
        return p.log_prob(torch.tensor([z]).double()).item()

    ends = {"a": centres.min() - 9 * scale, "b": centres.max() + 9 * scale, "limit": 400}
    ends["points"] = [0.0]
    entropy = quad(lambda z: -density(z) * math.log(density(z) + 1e-300), **ends)[0]
    cross = quad(lambda z: -density(z) * log_p(z), **ends)[0]
    own = 0.5 * math.log(2 * math.pi * math.e * scale**2)
    assert near(result.mutual_information, entropy - own)
    assert near(result.marginal_kl, cross - entropy)
    assert near(result.kl, cross - own)
    assert near(result.dimension_wise_kl, cross - entropy)
    assert result.total_correlation.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_dimensions_are_what_a_grid_gives(seed):
    x, scale = few(seed, 8, 2), 0.4
    x[:, 1] = 0.8 * x[:, 0] + 0.2 * x[:, 1]  # so that there is total correlation
    result = surgery(
        aggregate_draws(known(2, scale=scale), Split.from_array(x), draws=500, seed=seed)
    )
    line = torch.linspace(-7, 7, 701).double()
    step = (line[1] - line[0]).item()
    each = dist.Normal(x, scale).log_prob(line[:, None, None]).exp()  # (points, data, 2)
    joint = torch.einsum("anj,bn->ab", each[..., :1], each[..., 1]) / len(x)
    marginals = each.mean(1)  # (points, 2)
    log_p = dist.Normal(0.0, 1.0).log_prob(line)
    entropy = -(joint * (joint + 1e-300).log()).sum().item() * step**2
    alone = [-(m * (m + 1e-300).log()).sum().item() * step for m in marginals.T]
    cross = [-(m * log_p).sum().item() * step for m in marginals.T]
    own = math.log(2 * math.pi * math.e * scale**2)
    assert near(result.mutual_information, entropy - own)
    assert near(result.marginal_kl, sum(cross) - entropy)
    assert near(result.total_correlation, sum(alone) - entropy)
    assert near(result.dimension_wise_kl, sum(cross) - sum(alone))
    for row, h, c in zip(result.dimensions, alone, cross, strict=True):
        assert near(row.mutual_information, h - own / 2)
        assert near(row.marginal_kl, c - h)
        assert near(row.kl, c - own / 2)


class Table(nn.Module):
    """Logits that are linear in the data."""

    def __init__(self, weights, variables, classes):
        super().__init__()
        self.weights, self.shape = nn.Parameter(weights), (variables, classes)

    def forward(self, x):
        return OneHots((x @ self.weights).unflatten(-1, self.shape))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_hot_vectors_are_what_enumeration_gives(seed):
    x = few(seed, 15, 3)
    posterior = Table(2 * few(seed + 9, 3, 6), 2, 3)
    prior = nn.Module()
    prior.forward = lambda: OneHots(torch.tensor([[0.0, 1.0, 0.5], [0.3, 0.0, 0.0]]).double())
    vae = VAE(prior, Normal(6, (3,), MLP).double(), posterior)
    result = surgery(aggregate_draws(vae, Split.from_array(x), draws=300, seed=seed))
    with torch.no_grad():
        q, p = vae.posterior(x.float().double()), vae.prior()
        z = p.enumerate_support()  # (9, 6)
        table = q.log_prob(z[:, None]).double().exp()  # (9, data)
    q_z, log_p = table.mean(1), p.log_prob(z).double()
    information = (table * (table.log() - q_z.log()[:, None])).sum().item() / len(x)
    marginals = [z[:, 3 * j : 3 * j + 3].T.double() @ q_z for j in (0, 1)]
    alone = -sum((m * m.log()).sum().item() for m in marginals)
    marginal_kl = (q_z * (q_z.log() - log_p)).sum().item()
    correlation = alone + (q_z * q_z.log()).sum().item()
    assert near(result.mutual_information, information)
    assert near(result.marginal_kl, marginal_kl)
    assert near(result.total_correlation, correlation)
    assert near(result.dimension_wise_kl, marginal_kl - correlation)
    assert len(result.dimensions) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_population_of_a_linear_gaussian_model_lies_between_the_two_estimates(seed):
    """With x = z + noise and the exact posterior the aggregate of all x is the prior."""
    noise, count = 0.5, 1_200
    x = few(seed, count, 1) * math.sqrt(1 + noise**2)
    vae = known(1, slope=1 / (1 + noise**2), scale=noise / math.sqrt(1 + noise**2))
    draws = aggregate_draws(vae, Split.from_array(x), draws=3, seed=seed)
    result = surgery(draws)
    information = 0.5 * math.log(1 + 1 / noise**2)
    between = result.population.mutual_information
    lower, upper = between.lower.value, between.upper.value
    over = (draws.log_posterior - draws.log_aggregate).mean(1).std().item() / math.sqrt(count)
    assert_finite(over)
    assert lower < upper < lower + 0.02
    assert lower - ERRORS * over < information < upper + ERRORS * over
    kl = result.population.marginal_kl
    assert_finite(kl.lower.value, kl.upper.value)
    assert kl.lower.value < kl.upper.value
    assert kl.lower.value - ERRORS * over < 0 < kl.upper.value + ERRORS * over


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_mean_over_sets_the_population_lies_between(seed):
    noise, sets, count = 0.5, 120, 6
    information = 0.5 * math.log(1 + 1 / noise**2)
    vae = known(1, slope=1 / (1 + noise**2), scale=noise / math.sqrt(1 + noise**2))
    found = []
    for number in range(sets):
        x = few(1_000 * seed + number, count, 1) * math.sqrt(1 + noise**2)
        draws = aggregate_draws(vae, Split.from_array(x), draws=10, seed=number)
        between = surgery(draws).population.mutual_information
        found.append([between.lower.value, between.upper.value])
    lower, upper = np.mean(found, 0)
    errors = np.std(found, 0) / math.sqrt(sets)
    assert_finite(found)
    assert lower + 3 * errors[0] < information < upper - 3 * errors[1]


def test_a_collapsed_posterior_has_no_mutual_information():
    result = surgery(
        aggregate_draws(known(2, slope=0.0, scale=0.7), Split.from_array(few(0, 40, 2)))
    )
    assert result.mutual_information.value == pytest.approx(0, abs=1e-12)
    assert result.mutual_information.standard_error == pytest.approx(0, abs=1e-12)
    kl = result.kl.value
    assert result.marginal_kl.value == pytest.approx(kl, abs=1e-12)


def test_posteriors_that_do_not_overlap_have_all_the_mutual_information_and_a_note():
    result = surgery(aggregate_draws(known(2, scale=1e-4), Split.from_array(few(0, 40, 2))))
    assert result.mutual_information.value == pytest.approx(math.log(40), rel=1e-9)
    assert result.mutual_information.value <= math.log(40) + 1e-12
    assert "at the ceiling log N = 3.689" in result.notes[0]


def test_an_estimate_below_zero_says_why():
    notes = []
    for seed in range(30):
        x = 1e-3 * few(seed, 40, 1)
        notes += surgery(
            aggregate_draws(known(1, scale=1.0), Split.from_array(x), draws=2, seed=seed)
        ).notes
    about = [note for note in notes if note.startswith("the mutual information is never negative")]
    assert about
    assert "by the noise of the draws, whose standard error is" in about[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_divergences_of_classes_are_that_of_the_population_and_what_is_told_of_the_class(seed):
    x, labels = few(seed, 90, 2), np.arange(90) % 3
    x += 2 * torch.eye(3).double()[labels][:, :2]
    vae = known(2)
    draws = aggregate_draws(vae, Split.from_array(x), labels=labels, draws=5, seed=seed)
    result = population(draws, vae.prior().sample((90,)), seed)
    everything, *classes = result.groups
    assert [group.label for group in classes] == [0, 1, 2]
    mean = np.mean([group.marginal_kl.value for group in classes])
    information = result.class_information.value
    kl = everything.marginal_kl.value
    assert kl == surgery(draws).marginal_kl.value
    assert mean == pytest.approx(kl + information, abs=1e-9)
    assert 0 < information < result.class_entropy == pytest.approx(math.log(3))
    with torch.no_grad():  # of one class by hand
        members = vae.posterior(x[labels == 1])
        z = draws.z[labels == 1]
        by_hand = members.log_prob(z[:, :, None]).logsumexp(-1) - math.log(30)
    assert torch.allclose(draws.log_class[labels == 1], by_hand, atol=1e-9)


def test_the_draws_do_not_depend_on_the_random_state_and_leave_it(vae, digits):
    data = Split.from_array(digits)
    vae.train()
    before = torch.get_rng_state()
    first = surgery(aggregate_draws(vae, data, draws=3, limit=30))
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training
    torch.manual_seed(7)
    assert surgery(aggregate_draws(vae, data, draws=3, limit=30)) == first
    assert surgery(aggregate_draws(vae, data, draws=3, limit=30, seed=1)) != first
    assert (first.examples, first.available, first.draws) == (30, 64, 3)


def test_chunks_do_not_matter(vae, digits, monkeypatch):
    data, labels = Split.from_array(digits), np.arange(64) % 4
    whole = aggregate_draws(vae, data, labels=labels, draws=3)
    monkeypatch.setattr("pyrovae.diagnostics.aggregate_posterior.VALUES", 1)
    told = []
    parts = aggregate_draws(vae, data, labels=labels, draws=3, progress=told.append)
    for name in ("log_prior", "log_posterior", "log_aggregate", "log_others", "log_class"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-9)
    assert sum(told) == 64


def test_what_has_no_aggregate_is_refused(digits, network):
    with pytest.raises(ValueError, match="is a point, which has no density"):
        aggregate_draws(make("normal", "point"), Split.from_array(digits))
    vae = VAE(
        StandardNormal(2), Bernoulli(2, (1, 8, 8), network), DiagonalNormal(2, (1, 8, 8), network)
    )
    with pytest.raises(ValueError, match="there are 1 examples; give at least 2"):
        aggregate_draws(vae, Split.from_array(digits[:1]))
    with pytest.raises(ValueError, match="draws must be at least 2 for a standard error"):
        aggregate_draws(vae, Split.from_array(digits), draws=1)
