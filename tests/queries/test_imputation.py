"""Completions against the conditional normal of a linear-Gaussian model, and sums over a latent."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae import priors
from pyrovae.likelihoods import LIKELIHOODS, Bernoulli, Categorical, Columns
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import DiagonalNormal, Point, RelaxedCategorical
from pyrovae.priors import StandardNormal
from pyrovae.queries import imputation
from pyrovae.queries.imputation import impute, work
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import ELEMENTWISE, EVERY_PAIR, linear_gaussian
from tests.models import make_pair as make
from tests.oracles import assert_within

MASKS = torch.tensor(
    [[1, 1, 0, 0, 1], [0, 0, 0, 1, 1], [1, 0, 1, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool
)
ALL, NONE = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)


def wrong(vae):
    """The same model with a posterior that is far off where pixels are filled in or not."""
    exact = vae.posterior

    def posterior(x):
        q = exact(x)
        return dist.Normal(q.mean + 0.3, 0.7 * q.stddev).to_event(1)

    return VAE(vae.prior, vae.likelihood, posterior)


def conditional(vae, x, observed):
    """Mean and covariance of the missing pixels of one datum, and log p of the observed ones."""
    layer = vae.likelihood.decoder.layer
    weight, bias = layer.weight.detach(), layer.bias.detach()
    joint = weight @ weight.T + 0.36 * torch.eye(5).double()
    o, m = observed.nonzero().flatten(), (~observed).nonzero().flatten()
    across = torch.linalg.solve(joint[o][:, o], joint[o][:, m]).T
    mean = bias[m] + across @ (x[o] - bias[o])
    covariance = joint[m][:, m] - across @ joint[o][:, m]
    evidence = dist.MultivariateNormal(bias[o], joint[o][:, o]).log_prob(x[o])
    return mean, covariance, evidence


@pytest.fixture
def short_chains(monkeypatch):
    monkeypatch.setattr(imputation, "CHAINS", 2)
    monkeypatch.setattr(imputation, "WARMUP", 40)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize(("method", "samples"), [("importance", 4_000), ("nuts", 300)])
def test_completions_have_mean_and_covariance_of_the_conditional_normal(
    method, samples, seed, short_chains
):
    """Within 5 standard errors, for each pixel and each pair of pixels."""
    vae, x, _ = linear_gaussian(seed)
    x, count = x[:4], 2_000
    found = impute(
        wrong(vae), x, MASKS, method=method, samples=samples, completions=count, seed=seed
    )
    assert (found.effective > imputation.POOR).all()
    for i, observed in enumerate(MASKS):
        mean, covariance, _ = conditional(vae, x[i], observed)
        missing = ~observed
        error = found.mean_error[i, missing]
        assert_within(found.mean[i, missing], mean, error, 5)
        assert (found.mean_error[i, observed] == 0).all()
        drawn = found.completions[i][:, missing]
        alike = 1 / count + 1 / found.effective[i]  # draws of a pool share what its draws have
        spread = covariance.diagonal()
        assert_within(drawn.mean(0), mean, (spread * alike).sqrt(), 5)
        apart = torch.atleast_2d(drawn.T.cov()) - covariance
        error = ((spread[:, None] * spread + covariance.square()) * alike).sqrt()
        assert_within(apart, 0.0, error, 5)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_the_evidence_of_the_observed_pixels_is_the_exact_marginal(seed):
    """Within 4 standard errors; of nothing it is zero, of everything log p(x)."""
    vae, x, evidence = linear_gaussian(seed)
    for masks in (MASKS, ALL.expand(4, 5), NONE.expand(4, 5)):
        found = impute(wrong(vae), x[:4], masks, completions=1, seed=seed)
        for i, observed in enumerate(masks):
            exact = conditional(vae, x[i], observed)[2] if observed.any() else torch.zeros(())
            if observed.all():
                torch.testing.assert_close(exact, evidence[i])
            assert_within(found.log_evidence[i], exact, found.standard_error[i])
            assert found.standard_error[i] < 0.1
            assert found.pareto_k[i] < 0.7


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_have_the_quantiles_of_the_conditional_normal(level):
    """The probability below each bound within 5 errors of what it should be."""
    vae, x, _ = linear_gaussian(1)
    found = impute(wrong(vae), x[:4], MASKS, samples=4_000, level=level, completions=1)
    for i, observed in enumerate(MASKS):
        mean, covariance, _ = conditional(vae, x[i], observed)
        exact = dist.Normal(mean, covariance.diagonal().sqrt())
        for bound, below in ((found.lower, (1 - level) / 2), (found.upper, (1 + level) / 2)):
            error = (below * (1 - below) / found.effective[i]).sqrt()
            assert_within(exact.cdf(bound[i, ~observed]), below, error, 5)
            assert torch.equal(bound[i, observed], x[i, observed])


@pytest.mark.filterwarnings("ignore:the weights of . of 200")  # by chance, of so many
@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_intervals_cover_as_many_values_as_they_say(seed):
    """Of one missing value in each of 200 rows from the model, within 4 errors."""
    vae, _, _ = linear_gaussian(seed)
    x = vae.sample(200)
    missing = nn.functional.one_hot(torch.arange(200) % 5, 5).bool()
    found = impute(vae, x, ~missing, samples=500, level=0.8, completions=1)
    covered = ((found.lower <= x) & (x <= found.upper))[missing].double()
    assert_within(covered.mean(), 0.8, math.sqrt(0.8 * 0.2 / 200))


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_missing_category_becomes_its_most_probable_code(seed):
    """By probabilities that are averaged over draws from the prior, unless two are about equal."""
    torch.manual_seed(seed)
    text = "normal+categorical(levels=4)+bernoulli"
    likelihood = Columns(2, (3,), Linear, columns=text)
    with torch.no_grad():
        likelihood.decoder.layer.weight.mul_(4)
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, (3,), MLP))
    x = vae.sample(30)
    observed = torch.tensor([True, False, True]).expand(30, 3)
    found = impute(vae, x, observed, samples=1_000, completions=200, seed=seed)
    with torch.no_grad():
        z = torch.randn(100_000, 2)
        holed = torch.where(observed, x, math.nan)
        probabilities = torch.empty(30, 4)
        column = next(group for group in likelihood.groups if isinstance(group, Categorical))
        each = column(z).base_dist.probs.squeeze(1)  # (draws, 4)
        for i, row in enumerate(holed):
            w = vae.log_likelihood(row[None], z[:, None]).squeeze(1).softmax(0)
            probabilities[i] = w @ each
    best = probabilities.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.08
    assert clear.sum() > 5  # enough of them to tell
    code = probabilities.argmax(1).to(x)
    assert torch.equal(found.mean[clear, 1], code[clear])
    for bound in (found.lower, found.upper):
        assert torch.equal(bound[:, 1], found.mean[:, 1])
    drawn = nn.functional.one_hot(found.completions[..., 1].long(), 4).double().mean(1)
    assert_within(drawn, probabilities, 0.5 * math.sqrt(1 / 200 + 1 / 300), 5)


@pytest.mark.parametrize("method", ["importance", "nuts"])
def test_observed_pixels_stay_and_what_stands_at_missing_ones_does_not_matter(method, monkeypatch):
    monkeypatch.setattr(imputation, "CHAINS", 2)
    monkeypatch.setattr(imputation, "WARMUP", 5)
    vae, x, _ = linear_gaussian(0)
    x = x[:4]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    vae.train()
    kept = partial(impute, vae, method=method, samples=20, completions=3, seed=1)
    with pytest.warns(UserWarning, match=r"effective|disagree|tail"):
        found = [
            kept(x, MASKS),
            kept(torch.where(MASKS, x, 1e6), MASKS),
            kept(torch.where(MASKS, x, math.nan), ALL),
        ]
    assert vae.training
    assert torch.equal(state, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    for each in found:
        assert torch.equal(each.completions, found[0].completions)
        assert torch.equal(each.mean, found[0].mean)
        every = each.completions.transpose(0, 1)  # (completions, examples, 5)
        assert torch.equal(every[:, MASKS], x[MASKS].expand(3, -1))
        assert torch.equal(each.mean[MASKS], x[MASKS])
        assert len(every[:, ~MASKS].unique(dim=0)) == 3


def test_other_seeds_give_other_draws():
    vae, x, _ = linear_gaussian(0)
    one, other = (impute(vae, x[:2], MASKS[:2], seed=seed) for seed in (0, 1))
    assert not torch.equal(one.completions, other.completions)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_a_discrete_latent_it_is_the_sum_over_its_values(network, digits, seed):
    """log p(x_obs) and the mean of the missing pixels within 4 and 5 standard errors."""
    torch.manual_seed(seed)
    parts = Bernoulli(6, (1, 8, 8), network), RelaxedCategorical(6, (1, 8, 8), network, classes=3)
    vae = VAE(priors.Categorical(6, classes=3), *parts).eval()
    for parameter in vae.likelihood.parameters():
        parameter.data *= 2  # the values of z differ in what they give
    x, observed = digits[:3], torch.rand(3, 1, 8, 8) < 0.5
    found = impute(vae, x, observed, samples=2_000, seed=seed)
    one = torch.eye(3)
    z = torch.stack([torch.cat([one[i], one[j]]) for i in range(3) for j in range(3)])
    with torch.no_grad():
        p = vae.likelihood(z)
        each = p.base_dist.log_prob(x[:, None])  # (3, 9, 1, 8, 8)
        log_joint = (each * observed[:, None]).sum((2, 3, 4)) - math.log(9)
        exact = log_joint.logsumexp(1)
        mean = torch.einsum("nz,zchw->nchw", log_joint.softmax(1), p.mean)
    assert_within(found.log_evidence, exact, found.standard_error, floor=1e-4)
    apart = (found.mean - mean).abs()[~observed]
    assert_within(apart, 0.0, found.mean_error[~observed], 5, floor=1e-4)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_likelihood_completes_inside_its_support(name, network, digits):
    torch.manual_seed(0)
    options = {"levels": 4} if name == "categorical" else {}
    likelihood = LIKELIHOODS[name](2, (1, 8, 8), network, **options)
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, (1, 8, 8), network))
    x = digits[:3] if likelihood.scaling == "none" else 0.1 + 0.5 * digits[:3]
    observed = torch.zeros(1, 8, 8, dtype=torch.bool)
    observed[:, :4] = True
    found = impute(vae, x, observed, samples=300, completions=4)
    p = likelihood(torch.zeros(2))
    assert p.support.check(found.completions).all()
    assert found.log_evidence.isfinite().all()
    assert found.mean.isfinite().all()
    assert torch.equal(found.mean[:, :, :4], x[:, :, :4])


@pytest.mark.filterwarnings("ignore:the weights of")
@pytest.mark.parametrize(("prior", "posterior"), EVERY_PAIR)
def test_every_pair_of_prior_and_posterior_completes(prior, posterior, digits):
    vae = make(prior, posterior)
    observed = torch.zeros(1, 8, 8, dtype=torch.bool)
    observed[..., 4:] = True
    found = impute(vae, digits[:2], observed, samples=500, completions=3)
    assert found.completions.shape == (2, 3, 1, 8, 8)
    assert (found.effective > 50).all()
    assert (found.standard_error < 0.2).all()


@pytest.mark.parametrize("pair", [("sphere", "power_spherical"), ("categorical",) * 2])
def test_nuts_refuses_a_latent_that_is_no_real_vector(pair, digits):
    prior, posterior = pair if pair[0] == "sphere" else ("categorical", "relaxed_categorical")
    with pytest.raises(ValueError, match="not over real vectors; use the method importance"):
        impute(make(prior, posterior), digits[:1], torch.ones(1, 8, 8) > 0, method="nuts")


def test_a_point_posterior_is_left_out_of_the_mixture(network, digits):
    torch.manual_seed(0)
    shape = (1, 8, 8)
    likelihood = Bernoulli(2, shape, network)
    vaes = [
        VAE(StandardNormal(2), likelihood, posterior(2, shape, network))
        for posterior in (Point, DiagonalNormal)
    ]
    observed = torch.rand(shape) < 0.5
    point, normal = (impute(vae, digits[:4], observed) for vae in vaes)
    error = (point.standard_error.square() + normal.standard_error.square()).sqrt()
    assert_within(point.log_evidence, normal.log_evidence, error)


class Joint(nn.Module):
    """A likelihood whose pixels depend on each other given z."""

    def forward(self, z):
        return dist.MultivariateNormal(z.new_zeros(*z.shape[:-1], 5), torch.eye(5).to(z))


def test_a_likelihood_that_is_no_product_over_pixels_is_refused():
    vae, x, _ = linear_gaussian(0)
    vae = VAE(vae.prior, Joint(), vae.posterior)
    with pytest.raises(
        ValueError, match="Joint returns MultivariateNormal, which is not a product"
    ):
        impute(vae, x, ALL)


def test_what_cannot_be_asked_is_refused(vae, digits):
    observed = torch.ones(1, 8, 8, dtype=torch.bool)
    for changes, message in (
        ({"method": "gibbs"}, "method must be one of importance, nuts, got 'gibbs'"),
        ({"completions": 0}, "completions must be at least 1, got 0"),
        ({"samples": 3}, "samples must be at least 20, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            impute(vae, digits[:2], observed, **changes)
    with pytest.raises(ValueError, match=r"must be boolean, .* got torch.float32"):
        impute(vae, digits[:2], observed.float())
    with pytest.raises(
        ValueError, match=r"shape \(8, 8\); .* \(1, 8, 8\), or of all examples, \(2, 1, 8"
    ):
        impute(vae, digits[:2], observed[0])
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), the data's have \(64,\)"):
        impute(vae, digits[:2].flatten(1), observed.flatten())
    with pytest.raises(ValueError, match=r"holds 0.25, outside .* Bernoulli"):
        impute(vae, digits[:2] / 4, observed)
    impute(vae, torch.where(digits[:2] == 1, 0.25, 0.0), digits[:2] == 0)  # hidden, so of no harm


@pytest.mark.filterwarnings("ignore:the weights of")
def test_few_draws_are_told(vae, digits):
    with pytest.warns(UserWarning, match="effective sample size is below 50 for 4 of 4 examples"):
        impute(vae, digits[:4], torch.ones(1, 8, 8) > 0, samples=20)


@pytest.mark.parametrize("method", ["importance", "nuts"])
def test_progress_ends_at_the_work_that_was_said(method, monkeypatch):
    monkeypatch.setattr(imputation, "CHAIN_EXAMPLES", 2)
    monkeypatch.setattr(imputation, "CHAINS", 2)
    monkeypatch.setattr(imputation, "WARMUP", 5)
    monkeypatch.setitem(imputation.SAMPLES, "nuts", 30)
    monkeypatch.setattr(imputation, "ROWS", 2_000)
    monkeypatch.setattr(imputation, "POOR", 0)
    monkeypatch.setattr(imputation, "UNMIXED", 9.0)
    vae, x, _ = linear_gaussian(0)
    told = []
    impute(vae, x[:3], ALL, method=method, progress=told.append)
    assert sum(told) == work(method, 3)


def test_a_network_takes_batches_of_draws(digits):
    vae = VAE(
        StandardNormal(3),
        Bernoulli(3, (1, 8, 8), MLP),
        DiagonalNormal(3, (1, 8, 8), MLP),
    )
    found = impute(vae, digits[:25], torch.ones(1, 8, 8) > 2, samples=400, completions=1)
    assert found.completions.shape == (25, 1, 1, 8, 8)
    assert_within(found.log_evidence, 0.0, found.standard_error)
