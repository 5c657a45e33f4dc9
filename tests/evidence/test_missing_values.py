"""log p of the observed values: by formula, by every estimator, in training and by NUTS."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyrovae.data import Split
from pyrovae.evidence import annealed, evaluate, exact, importance_weighted, integrated
from pyrovae.evidence import linear_gaussian as recognized
from pyrovae.kl import compare
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import FullNormal
from pyrovae.priors import StandardNormal
from pyrovae.training import fit
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.oracles import assert_within


def holed(x, share, seed):
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(gone, torch.full_like(x, math.nan), x)


def model(seed, dims=5, latent_dim=2):
    torch.manual_seed(seed)
    parts = (
        Normal(latent_dim, (dims,), Linear, scale="dimension"),
        FullNormal(latent_dim, (dims,), MLP),
    )
    vae = VAE(StandardNormal(latent_dim), *parts).double()
    with torch.no_grad():
        vae.likelihood.decoder.layer.weight.normal_()
        vae.likelihood.spread.log.uniform_(-1, 0.5)
    x = vae.sample(40)
    return vae, holed(x, 0.4, seed)


def marginals(vae, x):
    """log p of the observed values of each row, from the normal over all of x."""
    whole = recognized(vae).marginal()
    found = torch.zeros(len(x), dtype=torch.float64)
    for i, row in enumerate(x):
        seen = ~row.isnan()
        if seen.any():
            part = MultivariateNormal(whole.loc[seen], whole.covariance_matrix[seen][:, seen])
            found[i] = part.log_prob(row[seen])
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_formula_is_the_marginal_of_the_normal_over_all_of_x(seed):
    vae, x = model(seed)
    assert x.isnan().any(1).any()
    found = exact(vae, x).log_evidence
    torch.testing.assert_close(found, marginals(vae, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_the_exact_posterior_each_weight_is_the_evidence(seed):
    """log p(x_obs, z) - log p(z | x_obs) is the same for every z, to 1e-10."""
    vae, x = model(seed)
    q = recognized(vae).posterior(x)
    z = q.sample((7,))
    log_w = vae.log_joint(x, z) - q.log_prob(z)
    torch.testing.assert_close(log_w, marginals(vae, x).expand(7, -1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_estimator_agrees_with_the_formula(seed):
    vae, x = model(seed)
    truth = marginals(vae, x)
    some = slice(0, 8)
    for proposal in ("posterior", "mixture"):
        found = importance_weighted(vae, x[some], samples=4_000, proposal=proposal, seed=seed)
        good = found.details["pareto_k"] < 0.5
        assert good.any()
        assert_within(
            found.log_evidence[good], truth[some][good], found.standard_error[good] + 1e-3, 5
        )
    found = integrated(vae, x[some])
    assert_within(found.log_evidence, truth[some], found.standard_error + 1e-9, 1)
    found = annealed(vae, x[some], samples=64, temperatures=100, seed=seed)
    assert_within(found.log_evidence, truth[some], found.standard_error + 1e-3, 6)


@pytest.mark.parametrize("mode", ["off", "graph"])
def test_training_reads_gaps_alike_however_steps_are_run(mode):
    torch.manual_seed(0)
    data = Split.from_array(
        holed(torch.randn(200, 1) * torch.ones(4) + torch.randn(200, 4), 0.3, 0)
    )
    assert data.gaps
    runs = []
    for compile in ("off", mode):
        torch.manual_seed(1)
        parts = Normal(1, (4,), Linear, scale="dimension"), FullNormal(1, (4,), MLP)
        vae = VAE(StandardNormal(1), *parts)
        runs.append(fit(vae, data, epochs=3, compile=compile).history.elbo)
    torch.testing.assert_close(torch.tensor(runs[0]), torch.tensor(runs[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_trained_linear_model_reaches_what_maximum_likelihood_reaches(seed):
    """Its bound comes within 0.05 nats of log p(x_obs) by formula, and beats the start."""
    torch.manual_seed(seed)
    weight = torch.randn(2, 5)
    data = holed(torch.randn(400, 2) @ weight + 0.5 * torch.randn(400, 5), 0.2, seed)
    parts = Normal(2, (5,), Linear, scale="dimension"), FullNormal(2, (5,), MLP)
    vae = VAE(StandardNormal(2), *parts)
    split = Split.from_array(data)
    start = evaluate(vae, split, method="exact").log_evidence.value
    fit(vae, split, epochs=150, learning_rate=3e-3, batch_size=50, averaging=0.99)
    truth = evaluate(vae, split, method="exact").log_evidence.value
    found = evaluate(vae, split, samples=200)
    assert start < truth - 0.5
    assert abs(found.log_evidence.value - truth) < 0.05
    assert found.elbo.value <= truth + 0.05


def test_a_row_without_any_value_has_log_p_zero_and_the_kl_is_compared_as_ever():
    vae, x = model(0)
    x[0] = math.nan
    assert exact(vae, x).log_evidence[0] == 0.0
    found = compare(vae.posterior(x), vae.prior())
    assert math.isfinite(found.closed_form.value)
