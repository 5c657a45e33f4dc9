"""Small models that several tests use: with known answers, and of each pair of components."""

import os
import signal
from functools import partial

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae.likelihoods import LIKELIHOODS, Bernoulli, Normal
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import POSTERIORS, DiagonalNormal, Point, RelaxedCategorical
from pyrovae.posteriors import PowerSpherical as SphericalPosterior
from pyrovae.priors import PRIORS, Categorical, Sphere, StandardNormal
from pyrovae.runs import Spec, context_of, resolve
from pyrovae.vae import VAE

SHAPE = (1, 8, 8)

UNDEFINED_PAIRS = {("vamp", "point")}

PRIOR_SPACES = {"sphere": "sphere", "categorical": "one-hot"}  # the others are over real vectors

POSTERIOR_SPACES = {"power_spherical": "sphere", "relaxed_categorical": "one-hot"}

PAIRS = [
    (p, q)
    for p in PRIORS
    for q in POSTERIORS
    if (p, q) not in UNDEFINED_PAIRS
    and (p == "vamp" or PRIOR_SPACES.get(p) == POSTERIOR_SPACES.get(q))
]


def covering(pairs):
    """Few of these pairs, with each prior and each posterior in one of them at least."""
    found = []
    for prior in dict.fromkeys(p for p, _ in pairs):
        taken = {q for _, q in found}
        posteriors = [q for p, q in pairs if p == prior]
        found.append((prior, next((q for q in posteriors if q not in taken), posteriors[0])))
    rest = dict.fromkeys(q for _, q in pairs if q not in {q for _, q in found})
    return found + [next(pair for pair in pairs if pair[1] == q) for q in rest]


# and a vamp over each of its spaces
COVERING_PAIRS = list(
    dict.fromkeys([*covering(PAIRS), ("vamp", "diagonal"), ("vamp", "relaxed_categorical")])
)

PRODUCT = [
    pytest.param(*pair, marks=pytest.mark.contract if pair in COVERING_PAIRS else [])
    for pair in PAIRS
]
"""For ``parametrize``: the whole product by default, the covering pairs in the contract tier."""

EVERY_PAIR = [
    pytest.param(*pair, marks=[] if pair in COVERING_PAIRS else pytest.mark.slow) for pair in PAIRS
]
"""For ``parametrize``: the covering pairs by default, the whole product in the slow tier."""

EVERY_DENSE_PAIR = [pair for pair in EVERY_PAIR if pair.values[1] != "point"]
"""Of these, the ones whose posterior has a density."""

ACROSS = [(p, q) for p in PRIORS for q in POSTERIORS if (p, q) not in [*PAIRS, *UNDEFINED_PAIRS]]

FEW = {"components": 5}  # parts, where there are many by default


def make_pair(prior, posterior):
    """A small VAE of two components by name."""
    known = {"latent_dim": 2, "event_shape": SHAPE}
    known["network"] = partial(MLP, hidden_dims=(8,))

    def build(role, family, name):
        _, options = resolve(role, family[name], Spec.parse(name), FEW)
        return family[name](**context_of(family[name], known), **options)

    known["posterior"] = build("posterior", POSTERIORS, posterior)
    prior = build("prior", PRIORS, prior)
    return VAE(prior, Bernoulli(2, SHAPE, known["network"]), known["posterior"])


class ExactPosterior(nn.Module):
    """p(z | x) of a linear-Gaussian model, by the formula."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, x):
        layer = self.likelihood.decoder.layer
        variance = self.likelihood.scale**2
        precision = torch.eye(layer.in_features).to(x) + layer.weight.T @ layer.weight / variance
        loc = (x - layer.bias) @ layer.weight @ torch.linalg.inv(precision) / variance
        return dist.MultivariateNormal(loc, precision_matrix=precision)


def linear_gaussian(seed):
    """A linear decoder with Normal likelihood, its exact posterior, data, and log p(x)."""
    torch.manual_seed(seed)
    likelihood = Normal(2, (5,), Linear, scale=0.6)
    vae = VAE(StandardNormal(2), likelihood, ExactPosterior(likelihood)).double()
    layer = likelihood.decoder.layer
    with torch.no_grad():
        layer.weight.mul_(3)
    covariance = layer.weight @ layer.weight.T + 0.36 * torch.eye(5).double()
    x = dist.MultivariateNormal(layer.bias, covariance).sample((20,))
    evidence = dist.MultivariateNormal(layer.bias, covariance).log_prob(x).detach()
    return vae, x, evidence


def exact_posterior(vae, x):
    q = vae.posterior(x)
    return q.mean.detach(), q.covariance_matrix[0].detach()


class Affine(nn.Module):
    """q(z | x) = N(A x + c, S), of parameters of its own: near the exact one, or equal to it."""

    def __init__(self, vae, *, diagonal):
        super().__init__()
        loc, covariance = exact_posterior(vae, torch.eye(6, 5).double())  # the last row is x = 0
        self.intercept = nn.Parameter(loc[5].clone())
        self.slope = nn.Parameter(loc[:5] - loc[5])
        self.diagonal = diagonal
        if diagonal:
            self.log_scale = nn.Parameter(covariance.diagonal().sqrt().log())
            with torch.no_grad():
                self.intercept += 0.1
                self.log_scale += 0.1
        else:
            self.scale_tril = nn.Parameter(torch.linalg.cholesky(covariance))

    def forward(self, x):
        loc = x @ self.slope + self.intercept
        if self.diagonal:
            return dist.Normal(loc, self.log_scale.exp()).to_event(1)
        return dist.MultivariateNormal(loc, scale_tril=self.scale_tril)


def affine(seed, *, diagonal=True):
    """A linear-Gaussian VAE, three data and their log p(x).

    For a diagonal posterior the columns of the decoder are made orthogonal: the exact posterior is
    diagonal then, too, and quadrature over draws from one near to it converges.
    """
    vae, x, _ = linear_gaussian(seed)
    layer, x = vae.likelihood.decoder.layer, x[:3]
    if diagonal:
        with torch.no_grad():
            layer.weight.copy_(torch.linalg.qr(layer.weight)[0] * torch.tensor([1.5, 0.8]).double())
    covariance = layer.weight @ layer.weight.T + 0.36 * torch.eye(5).double()
    evidence = dist.MultivariateNormal(layer.bias, covariance).log_prob(x).detach()
    return VAE(vae.prior, vae.likelihood, Affine(vae, diagonal=diagonal)), x, evidence


def loose(vae):
    """The model with a posterior that is off, so that the bounds are not tight."""
    exact = vae.posterior

    def posterior(x):
        q = exact(x)
        return dist.MultivariateNormal(q.mean + 0.2, 1.6 * q.covariance_matrix)

    return VAE(vae.prior, vae.likelihood, posterior), exact


ELEMENTWISE = [name for name in LIKELIHOODS if name != "columns"]
"""The likelihoods that describe all elements of x alike, whatever its shape."""

OPTIONS = {
    "binomial": {"total_count": 3},
    "beta_binomial": {"total_count": 3},
    "discretized_logistic": {"levels": 4},
    "categorical": {"levels": 4},
}


def with_likelihood(name, network):
    likelihood = LIKELIHOODS[name](2, SHAPE, network, **OPTIONS.get(name, {}))
    return VAE(StandardNormal(2), likelihood, DiagonalNormal(2, SHAPE, network))


def of_bits(name, bits):
    """Data in the support of a likelihood."""
    return 0.25 + bits / 2 if name in {"beta", "log_normal"} else bits


def with_categorical(network):
    q = RelaxedCategorical(4, (1, 8, 8), network, classes=2)
    return VAE(Categorical(4, classes=2), Bernoulli(4, (1, 8, 8), network), q)


def on_a_sphere(network):
    q = SphericalPosterior(3, (1, 8, 8), network)
    return VAE(Sphere(3), Bernoulli(3, (1, 8, 8), network), q)


def with_point(network):
    q = Point(2, (1, 8, 8), network)
    return VAE(StandardNormal(2), Bernoulli(2, (1, 8, 8), network), q)


NO_REAL_LATENT = [
    (with_categorical, "the prior Categorical is discrete"),
    (on_a_sphere, "the prior Sphere is not over all real vectors"),
    (with_point, "the posterior Point is a point, which has no density"),
]


class Rows:
    """Data as a ledger takes it."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def batches(self, size):
        return iter(self.x.split(size))


class StopAfter:
    """Sends a signal, that of Ctrl-C by default, after a given number of steps."""

    def __init__(self, steps, number=signal.SIGINT):
        self.steps, self.number = steps, number

    def __call__(self, progress):
        if progress.step == self.steps:
            os.kill(os.getpid(), self.number)
