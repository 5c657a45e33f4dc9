"""Exact evidence against scikit-learn, dense normals and sums written out; refusals elsewhere."""

import itertools
import math
from functools import partial

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae.evidence.tractable import exact, linear_gaussian
from pyrovae.likelihoods import Bernoulli, Binomial, Laplace, Normal
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import DiagonalNormal, Point, RelaxedCategorical
from pyrovae.priors import Categorical, LearnedNormal, StandardNormal
from pyrovae.priors import Laplace as LaplacePrior
from pyrovae.vae import VAE
from tests import models
from tests.conftest import SEEDS
from tests.oracles import assert_within, rational_evidence


def pca_data(seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(10, 10, generator=generator, dtype=torch.float64)
    mix[:, 3:] *= 0.3
    return torch.randn(400, 10, generator=generator, dtype=torch.float64) @ mix.T + 1.0


def linear_vae(weight, bias, scale):
    """A VAE that is the factor model of these numbers."""
    likelihood = Normal(weight.shape[1], (len(weight),), Linear, scale="dimension").double()
    with torch.no_grad():
        likelihood.decoder.layer.weight.copy_(weight)
        likelihood.decoder.layer.bias.copy_(bias)
        likelihood.spread.log.copy_(scale.log().expand(len(weight)))
    posterior = DiagonalNormal(weight.shape[1], (len(weight),), Linear)
    return VAE(StandardNormal(weight.shape[1]), likelihood, posterior).double()


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_is_scikit_learns_pca_score(seed):
    """Probabilistic PCA: log p(x) of each example to 1e-6 nats."""
    from sklearn.decomposition import PCA

    x = pca_data(seed)
    pca = PCA(3).fit(x.numpy())
    components, variance = map(torch.from_numpy, (pca.components_, pca.explained_variance_))
    weight = components.T * (variance - pca.noise_variance_).sqrt()
    noise = torch.tensor(pca.noise_variance_).sqrt()
    vae = linear_vae(weight, torch.from_numpy(pca.mean_), noise)
    expected = torch.from_numpy(pca.score_samples(x.numpy()))
    torch.testing.assert_close(exact(vae, x).log_evidence, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_is_scikit_learns_factor_analysis_score(seed):
    from sklearn.decomposition import FactorAnalysis

    x = pca_data(seed)
    fa = FactorAnalysis(3).fit(x.numpy())
    weight, mean, noise = map(torch.from_numpy, (fa.components_.T, fa.mean_, fa.noise_variance_))
    vae = linear_vae(weight, mean, noise.sqrt())
    expected = torch.from_numpy(fa.score_samples(x.numpy()))
    torch.testing.assert_close(exact(vae, x).log_evidence, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_any_normal_prior_gives_the_dense_normal_and_its_posterior(covariance, seed):
    """p(x, z) = p(x) p(z | x) at random x and z, of images."""
    torch.manual_seed(seed)
    prior = LearnedNormal(3, covariance=covariance)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    likelihood = Normal(3, (1, 2, 4), Linear, scale="dimension")
    vae = VAE(prior, likelihood, DiagonalNormal(3, (1, 2, 4), Linear)).double()
    with torch.no_grad():
        likelihood.spread.log += torch.randn(1, 2, 4)
    x, z = torch.randn(6, 1, 2, 4).double(), torch.randn(6, 3).double()
    result = exact(vae, x)
    with torch.no_grad():
        joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    posterior = linear_gaussian(vae).posterior(x)
    torch.testing.assert_close(result.log_evidence, joint - posterior.log_prob(z))
    assert (result.standard_error == 0).all()
    assert result.kind == "exact, by formula"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_small_noise_takes_no_digits_but_those_of_the_residual(scale, seed):
    """Against rational arithmetic. The residual over the noise, about one, is off by eps |x| / s.

    The factor is for the four roundings of a residual.
    """
    torch.manual_seed(seed)
    weight = torch.randn(6, 2).double()
    vae = linear_vae(weight, torch.randn(6).double(), torch.tensor(scale).double())
    with torch.no_grad():
        x = vae.likelihood(torch.randn(8, 2).double()).sample()
    rounding = torch.finfo(x.dtype).eps * (1 + x.abs().sum(-1) / scale)
    assert_within(exact(vae, x).log_evidence, rational_evidence(vae, x), rounding, 4, floor=1e-13)


def test_the_exact_posterior_is_the_one_written_out():
    vae, x, evidence = models.linear_gaussian(0)
    found, expected = linear_gaussian(vae).posterior(x), vae.posterior(x)
    torch.testing.assert_close(found.mean, expected.mean.detach())
    torch.testing.assert_close(found.covariance_matrix, expected.covariance_matrix.detach())
    torch.testing.assert_close(exact(vae, x).log_evidence, evidence)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("variables", "classes"), [(1, 2), (1, 7), (3, 4)])
def test_a_discrete_latent_is_summed_over(variables, classes, seed):
    """Against loops over all values, in training mode too: z is discrete in what is evaluated."""
    torch.manual_seed(seed)
    dim = variables * classes
    vae = VAE(
        Categorical(dim, classes=classes, weights="learned"),
        Binomial(dim, (5,), partial(MLP, hidden_dims=(8,)), total_count=4),
        RelaxedCategorical(dim, (5,), Linear, classes=classes),
    ).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    x = torch.randint(0, 5, (7, 5)).double()
    found = exact(vae.train(), x)
    assert vae.training
    log_pi = vae.prior.logits.detach().log_softmax(-1)
    total = torch.zeros(7).double()
    for chosen in itertools.product(range(classes), repeat=variables):
        z = torch.zeros(variables, classes).double()
        z[range(variables), chosen] = 1
        with torch.no_grad():
            p = vae.likelihood(z.flatten()).log_prob(x).exp()
        total += math.exp((z * log_pi).sum()) * p
    torch.testing.assert_close(found.log_evidence, total.log())
    assert found.kind == f"exact, a sum over {classes**variables:,} values of z"


class Squared(Normal):
    def forward(self, z):
        return super().forward(z.square())


class Widening(Normal):
    def forward(self, z):
        scale = 1 + z.square().sum(-1, keepdim=True)
        return dist.Normal(self.decoder(z), scale).to_event(1)


class Bare(nn.Module):
    def forward(self, z):
        return dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1)


NETWORK = partial(MLP, hidden_dims=(4,), activation="relu")


@pytest.mark.parametrize(
    ("prior", "likelihood", "reason"),
    [
        (LaplacePrior(2), Normal(2, (4,), Linear), "the prior is Laplace, not a normal"),
        (StandardNormal(2), Normal(2, (4,), NETWORK), "the decoder is MLP, not linear"),
        (StandardNormal(2), Bare(), "the decoder is no module, not linear"),
        (StandardNormal(2), Squared(2, (4,), Linear), "not the output of its linear decoder"),
        (StandardNormal(2), Widening(2, (4,), Linear), "scale of the likelihood depends on z"),
        (StandardNormal(2), Normal(2, (4,), Linear, scale="decoder"), "depends on z"),
        (StandardNormal(2), Laplace(2, (4,), Linear), "is Laplace, not independent normals"),
    ],
)
def test_what_is_not_linear_gaussian_is_refused_with_the_part_in_the_way(prior, likelihood, reason):
    vae = VAE(prior, likelihood, DiagonalNormal(2, (4,), Linear))
    with pytest.raises(ValueError, match=f"no exact log p.*{reason}.*use the methods iw"):
        exact(vae, torch.zeros(3, 4))


def test_a_scale_that_overflows_is_refused_like_any_that_depends_on_z():
    likelihood = Normal(2, (4,), Linear, scale="decoder")
    for parameter in likelihood.parameters():
        parameter.data.fill_(10.0)
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, (4,), Linear))
    with pytest.raises(ValueError, match=r"no exact log p.*depends on z.*use the methods iw"):
        exact(vae, torch.zeros(3, 4))


@pytest.mark.parametrize("posterior", [Point, DiagonalNormal])
def test_the_posterior_is_of_no_matter(posterior):
    """A point and a normal, both of random weights: the evidence of the exact posterior's VAE."""
    vae, x, evidence = models.linear_gaussian(0)
    other = VAE(vae.prior, vae.likelihood, posterior(2, (5,), Linear).double())
    assert torch.equal(exact(other, x).log_evidence, exact(vae, x).log_evidence)
    torch.testing.assert_close(exact(other, x).log_evidence, evidence)


def test_too_many_values_are_refused_before_they_are_written_down():
    vae = VAE(
        Categorical(40, classes=2),
        Bernoulli(40, (5,), Linear),
        RelaxedCategorical(40, (5,), Linear, classes=2),
    )
    with pytest.raises(ValueError, match=r"z has 2\^20 = 1,048,576 values, .* 65,536 .* iw"):
        exact(vae, torch.zeros(2, 5))


def test_samples_are_refused():
    with pytest.raises(ValueError, match="samples is 10, and an exact"):
        exact(models.linear_gaussian(0)[0], torch.zeros(2, 5).double(), samples=10)
