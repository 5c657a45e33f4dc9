"""Every posterior is a distribution over z for each x, and differentiable in all its parameters."""

import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyrovae.distributions import moments
from pyrovae.networks import MLP, Divided, Linear
from pyrovae.posteriors import (
    POSTERIORS,
    DiagonalLaplace,
    DiagonalNormal,
    FullNormal,
    LowRankNormal,
    Point,
    PowerSpherical,
    RelaxedCategorical,
)
from pyrovae.runs import Config, Spec, compare, context_of, resolve
from pyrovae.training import fit
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.oracles import assert_reached

SHAPES = [(5,), (1, 4, 4)]
VARIANTS = [*POSTERIORS, "low_rank:rank=2"]
ELSEWHERE = ("point", "power_spherical", "relaxed_categorical")  # than over all of the plane
DENSITIES = [text for text in VARIANTS if text not in ELSEWHERE]


def make(text, latent_dim, event_shape, network):
    """A posterior as it is written."""
    spec = Spec.parse(text)
    known = {"latent_dim": latent_dim, "event_shape": event_shape, "network": network}
    _, options = resolve("posterior", POSTERIORS[spec.name], spec, {})
    return POSTERIORS[spec.name](**context_of(POSTERIORS[spec.name], known), **options)


def shaken(posterior):
    """Away from the small starting weights, so that shapes of densities show."""
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return posterior


@pytest.mark.contract
@pytest.mark.parametrize("event_shape", SHAPES)
@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
@pytest.mark.parametrize("text", VARIANTS)
def test_shapes_under_extra_batch_dimensions(text, batch, event_shape, network):
    q = make(text, 2, event_shape, network)(torch.randn(*batch, *event_shape))
    assert q.batch_shape == batch
    assert q.event_shape == (2,)
    z = q.rsample((6,))
    assert z.shape == (6, *batch, 2)
    assert q.log_prob(z).shape == q.log_prob(z.clone()).shape == (6, *batch)


@pytest.mark.contract
@pytest.mark.parametrize("text", VARIANTS)
def test_expands_as_under_vectorized_particles(text, network):
    q = make(text, 2, (5,), network)(torch.randn(7, 5))
    wide = q.expand((3, 7))
    z = wide.rsample()
    assert (wide.batch_shape, wide.event_shape, z.shape) == ((3, 7), (2,), (3, 7, 2))
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z.clone()), rtol=1e-4, atol=1e-4)
    with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 7, dim=-1):
        assert pyro.sample("z", q).shape == (3, 7, 2)


@pytest.mark.contract
@pytest.mark.parametrize("text", VARIANTS)
def test_gradients_reach_every_parameter(text, network):
    posterior = make(text, 2, (5,), network)
    q = posterior(torch.randn(8, 5))
    z = q.rsample()
    (q.log_prob(z.detach()).sum() + z.square().sum()).backward()
    for parameter_name, parameter in posterior.named_parameters():
        assert_reached(parameter, parameter_name)


def on_a_grid(q, points=801, widths=12):
    """Axes (points, 2) over so many standard deviations about the mean, the density and a cell."""
    loc, variance = moments(q)
    step = 2 * widths * variance.sqrt() / (points - 1)
    axes = loc + (torch.arange(points)[:, None] - (points - 1) / 2) * step
    z = torch.stack(torch.meshgrid(axes[:, 0], axes[:, 1], indexing="ij"), -1)
    with torch.no_grad():
        density = torch.cat([q.log_prob(rows).exp() for rows in z.split(100)])
    return axes.detach().numpy(), density.numpy(), step.prod().item()


def distribution_function(density):
    """By the trapezoidal rule along the last axis, scaled to end at 1."""
    area = np.cumsum((density[..., 1:] + density[..., :-1]) / 2, -1)
    cdf = np.concatenate([np.zeros_like(area[..., :1]), area], -1)
    return cdf / cdf[..., -1:]


@pytest.mark.parametrize("text", DENSITIES)
def test_density_integrates_to_one_and_samples_follow_it(text, network):
    """Rosenblatt's transform of the draws is uniform: by Kolmogorov and Smirnov, three seeds."""
    q = shaken(make(text, 2, (5,), network)).double()(torch.randn(5, dtype=torch.float64))
    axes, density, cell = on_a_grid(q)
    assert density.sum() * cell == pytest.approx(1, abs=1e-3)
    first = distribution_function(density.sum(1))
    for seed in SEEDS:
        torch.manual_seed(seed)
        z = q.sample((2_000,)).numpy()
        u1 = np.interp(z[:, 0], axes[:, 0], first)
        position = (z[:, 0] - axes[0, 0]) / (axes[1, 0] - axes[0, 0])
        row = position.astype(int)
        part = (position - row)[:, None]
        given = (1 - part) * density[row] + part * density[row + 1]  # q(z2 | z1), unscaled
        second = distribution_function(given)
        u2 = [np.interp(v, axes[:, 1], cdf) for v, cdf in zip(z[:, 1], second, strict=True)]
        assert stats.kstest(u1, "uniform").pvalue > 1e-4
        assert stats.kstest(u2, "uniform").pvalue > 1e-4


@pytest.mark.contract
@pytest.mark.parametrize("text", VARIANTS)
def test_save_and_load(text, network):
    a, b = (make(text, 2, (5,), network) for _ in range(2))
    b.load_state_dict(a.state_dict())
    x = torch.randn(3, 5)
    torch.manual_seed(1)
    z = a(x).sample()
    torch.manual_seed(1)
    assert torch.equal(b(x).sample(), z)
    torch.testing.assert_close(a(x).log_prob(z.clone()), b(x).log_prob(z.clone()))


def test_encoder_gives_a_log_standard_deviation():
    posterior = DiagonalNormal(1, (1,), Linear)
    with torch.no_grad():
        posterior.encoder.layer.weight.zero_()
        posterior.encoder.layer.bias.copy_(torch.tensor([3.0, torch.log(torch.tensor(0.5))]))
    q = posterior(torch.zeros(1))
    torch.testing.assert_close(q.mean, torch.tensor([3.0]))
    torch.testing.assert_close(q.stddev, torch.tensor([0.5]))


@pytest.mark.parametrize("text", VARIANTS)
def test_initialize_makes_the_encoder_blind_to_the_unit_of_x(text, network):
    x = torch.randn(50, 5)
    draws = []
    for unit in (1, 1_000):
        torch.manual_seed(1)
        posterior = make(text, 2, (5,), network)
        posterior.initialize(unit * x)
        draws.append(posterior(unit * x).sample())
    torch.testing.assert_close(*draws, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", VARIANTS)
def test_initialize_knows_the_divisor_of_the_encoder(text, network):
    x = 100 * torch.randn(50, 5)
    draws = []
    for factory in (network, partial(Divided, network=network, divisor=32)):
        torch.manual_seed(1)
        posterior = make(text, 2, (5,), factory)
        posterior.initialize(x)
        draws.append(posterior(x).sample())
    torch.testing.assert_close(*draws, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", VARIANTS)
def test_initialize_leaves_what_it_cannot_divide(text, network):
    """Data that are zero have no unit, and an encoder of the user's own need not name its input."""
    posterior = make(text, 2, (5,), network)
    first = next(posterior.encoder.parameters())
    weight = first.detach().clone()
    posterior.initialize(torch.zeros(50, 5))
    assert torch.equal(first, weight)

    def plain(in_shape, out_shape):
        return nn.Sequential(
            nn.Linear(*in_shape, math.prod(out_shape)), nn.Unflatten(-1, out_shape)
        )

    make(text, 2, (5,), plain).initialize(torch.randn(50, 5))


@pytest.mark.parametrize("text", VARIANTS)
def test_an_x_far_outside_has_a_posterior_whose_draws_are_usable(text, network):
    torch.manual_seed(0)
    posterior = make(text, 2, (5,), network).eval()
    posterior.initialize(torch.randn(50, 5))
    sizes = torch.tensor([1e3, 1e6, 1e10, 1e20, 3e38])
    x = (torch.randn(40, 1, 5) * sizes[:, None]).clamp(-3e38, 3e38)
    for gain in (1,) if text.startswith("flow") else (1, 100):  # as after a long training
        with torch.no_grad():
            for parameter in posterior.encoder.parameters():
                parameter *= gain
        q = posterior(x.flatten(0, 1))
        z = q.sample((10,))
        assert q.support.check(z).all()
        assert z.isfinite().all()
        log_q = q.log_prob(z)
        assert not log_q.isnan().any()
        assert (log_q > -1e3).all()


def constant(posterior, values):
    """A posterior with a linear encoder that gives ``values`` for every x."""
    with torch.no_grad():
        posterior.encoder.layer.weight.zero_()
        posterior.encoder.layer.bias.copy_(torch.tensor(values))
    return posterior.double()(torch.zeros(1, dtype=torch.float64))


def test_full_normal_is_scipys():
    q = constant(FullNormal(3, (1,), Linear), [1.0, 2.0, 3.0, 0.1, -0.2, 0.3, 0.5, -0.6, 2.7])
    lower = np.eye(3)
    lower[[1, 2, 2], [0, 0, 1]] = np.sinh([0.5, -0.6, 2.7]) / 3
    covariance = lower @ np.diag(np.exp([0.2, -0.4, 0.6])) @ lower.T
    z = torch.randn(7, 3, dtype=torch.float64)
    expected = stats.multivariate_normal([1, 2, 3], covariance).logpdf(z.numpy())
    torch.testing.assert_close(q.log_prob(z), torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_low_rank_normal_is_scipys():
    values = [1.0, 2.0, 3.0, 0.1, -0.2, 0.3, 0.5, -0.6, 2.7, 1.5, 0.4, -0.9]
    q = constant(LowRankNormal(3, (1,), Linear, rank=2), values)
    factor = np.sinh([[0.5, -0.6, 2.7], [1.5, 0.4, -0.9]]).T / np.sqrt(3)
    shape = np.eye(3) + factor @ factor.T
    size = np.exp([0.1, -0.2, 0.3]) / np.sqrt(np.diag(shape))
    z = torch.randn(7, 3, dtype=torch.float64)
    covariance = shape * np.outer(size, size)
    expected = stats.multivariate_normal([1, 2, 3], covariance).logpdf(z.numpy())
    torch.testing.assert_close(q.log_prob(z), torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["full", "low_rank", "low_rank:rank=3"])
@pytest.mark.parametrize("latent_dim", [3, 10, 50])
def test_richer_normals_start_as_the_diagonal_one(text, latent_dim, digits):
    """No correlation is above 0.1 (0.3 in few dimensions) before training, and few are near it."""
    posterior = make(text, latent_dim, (1, 8, 8), MLP)
    posterior.initialize(digits)
    q = posterior(digits)
    scale = q.variance.sqrt()
    correlation = q.covariance_matrix / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    off = (correlation - torch.eye(latent_dim)).abs()
    assert 0 < off.max() < (0.3 if latent_dim == 3 else 0.1), off.max()
    assert off.square().mean().sqrt() < 0.05
    log_scale = posterior.encoded(digits).reshape(len(digits), -1)[:, latent_dim : 2 * latent_dim]
    torch.testing.assert_close(scale, log_scale.exp(), rtol=0.05, atol=0)


@pytest.mark.parametrize("text", ["full", "low_rank"])
def test_richer_normals_reach_a_strong_correlation_by_steps_on_their_outputs(text):
    """With the steps by which `gap` searches for the best q; the diagonal one is 1.2 nats off."""
    posterior, scale = make(text, 2, (1,), Linear).double(), torch.tensor([0.5, 1.0]).double()
    covariance = torch.tensor([[1, -0.95], [-0.95, 1]]).double() * scale.outer(scale)
    target = MultivariateNormal(torch.ones(2).double(), covariance)
    adam = torch.optim.Adam(posterior.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 1_000)
    for _ in range(1_000):
        q = posterior(torch.zeros(1, dtype=torch.float64))
        loss = kl_divergence(MultivariateNormal(q.mean, q.covariance_matrix), target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    assert loss < 0.02


@pytest.mark.slow
def test_a_richer_family_is_not_worse_than_the_diagonal_one(tmp_path):
    """On the digits, by more than the error of the difference over images and five seeds."""
    settings = {"training": {"epochs": 30}}
    posteriors = ["diagonal", "full", "low_rank", "flow"]
    found = compare(settings, {"posterior": posteriors}, seeds=5, samples=100, out=tmp_path / "c")
    for row in found.rows[1:]:
        upper = row.difference.value + 1.96 * row.difference.standard_error
        assert upper > 0, (row.chosen, row.difference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_training_on_the_sphere_does_not_collapse(seed):
    """On the digits, a quarter of the recipe: from the first epoch on the KL is not near zero."""
    model = {"prior": "sphere", "posterior": "power_spherical", "likelihood": "binomial"}
    settings = {"model": model}
    config, data = Config.resolve(settings | {"training": {"epochs": 30, "seed": seed}})
    training = {name: value for name, value in config.training.items() if name != "objective"}
    kl = [row["kl"] for row in fit(config.build(), data, **training).metrics]
    assert all(0.5 < value < 30 for value in kl), kl
    assert kl[-1] > 10


def test_laplace_is_scipys():
    q = constant(DiagonalLaplace(2, (1,), Linear), [1.0, -2.0, 0.3, -0.5])
    z = torch.randn(7, 2, dtype=torch.float64)
    expected = stats.laplace.logpdf(z.numpy(), [1, -2], np.exp([0.3, -0.5])).sum(-1)
    torch.testing.assert_close(q.log_prob(z), torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", [Trace_ELBO(), TraceMeanField_ELBO()])
def test_the_elbo_of_a_point_is_the_joint_density_there(vae, digits, network, objective):
    posterior = Point(2, (1, 8, 8), network)
    vae = VAE(vae.prior, vae.likelihood, posterior)
    z = posterior.encoder(digits)
    joint = vae.prior().log_prob(z).sum() + vae.likelihood(z).log_prob(digits).sum()
    loss = objective.loss(vae.model, vae.guide, digits)
    assert -loss == pytest.approx(joint.item(), rel=1e-5)


def test_a_point_trains_as_the_autoencoder_written_out(vae, digits, network):
    """One step of gradient descent on half the squared encoding and the reconstruction."""
    posterior = Point(2, (1, 8, 8), network)
    vae = VAE(vae.prior, vae.likelihood, posterior)
    z = posterior.encoder(digits)
    loss = z.square().sum() / 2 - vae.likelihood(z).log_prob(digits).sum()
    gradients = torch.autograd.grad(loss, list(vae.parameters()))
    expected = [p - 1e-4 * g for p, g in zip(vae.parameters(), gradients, strict=True)]
    SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO()).step(digits)
    torch.testing.assert_close(list(vae.parameters()), expected)


def test_spherical_gives_a_direction_and_a_log_concentration():
    q = constant(PowerSpherical(3, (1,), Linear), [math.log(0.3), 3.0, 0.0, -4.0])
    torch.testing.assert_close(q.loc, torch.tensor([0.6, 0.0, -0.8]).double())
    torch.testing.assert_close(q.concentration, torch.tensor(0.3 * 5 * 2).double())
    with pytest.raises(ValueError, match="latent_dim must be at least 2 on a sphere"):
        PowerSpherical(1, (1,), Linear)


@pytest.mark.parametrize("latent_dim", [2, 3, 10, 50])
def test_spherical_draws_start_near_their_direction(latent_dim, digits):
    posterior = PowerSpherical(latent_dim, (1, 8, 8), MLP)
    posterior.initialize(digits)
    cosine = posterior(digits).mean.norm(dim=-1)
    assert 0.8 < cosine.mean() < 0.87


@pytest.mark.parametrize("seed", SEEDS)
def test_relaxed_categorical_is_discrete_in_eval_mode(seed):
    """Its masses are those that the encoder gives; chi-squared over all nine values."""
    torch.manual_seed(seed)
    posterior = RelaxedCategorical(6, (1,), Linear, classes=3)
    values = [0.3, -1.0, 0.5, 1.2, 0.0, -0.4]
    assert constant(posterior, values).has_rsample
    q = constant(posterior.eval(), values)
    expected = torch.tensor(values).double().unflatten(0, (2, 3)).softmax(-1)
    torch.testing.assert_close(q.mean, expected.flatten())
    z = q.enumerate_support()
    joint = (expected[0][:, None] * expected[1]).flatten()
    torch.testing.assert_close(q.log_prob(z).exp().detach(), joint)
    counts = (q.sample((4_000,))[:, None] == z).all(-1).sum(0)
    assert stats.chisquare(counts.numpy(), 4_000 * joint.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_relaxed_categorical_draws_agree_with_its_density_in_training_mode(seed):
    """One variable of two classes: its log odds are logistic, by Kolmogorov and Smirnov."""
    torch.manual_seed(seed)
    q = constant(RelaxedCategorical(2, (1,), Linear, temperature=0.7), [1.0, -0.5])
    z = q.sample((2_000,))
    odds = (z[:, 0] / z[:, 1]).log()
    oracle = stats.logistic(1.5 / 0.7, 1 / 0.7)
    assert stats.kstest(odds.numpy(), oracle.cdf).pvalue > 1e-4
    density = torch.tensor(oracle.logpdf(odds.numpy())) - z.log().sum(-1)  # dz = z (1 - z) d odds
    torch.testing.assert_close(q.log_prob(z).detach(), density, rtol=1e-6, atol=1e-6)


def test_the_temperature_falls_geometrically_from_the_first_to_the_final_one(network):
    posterior = RelaxedCategorical(4, (5,), network, temperature=2.0, final=0.5)
    x = torch.randn(3, 5)
    for progress, temperature in ((0.0, 2.0), (0.5, 1.0), (1.0, 0.5)):
        posterior.at(progress)
        assert posterior(x).temperature == pytest.approx(temperature)
    constant = RelaxedCategorical(4, (5,), network, temperature=2.0, schedule="constant")
    constant.at(1.0)
    assert constant(x).temperature == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "divisor of latent_dim = 4, from 2, got 3; take one of 2, 4, or"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"final": math.nan}, "final must be positive and finite, got nan"),
        ({"schedule": "linear"}, "schedule must be one of constant, exponential, got 'linear'"),
    ],
)
def test_wrong_options_of_relaxed_categorical_are_refused(options, message, network):
    with pytest.raises(ValueError, match=message):
        RelaxedCategorical(4, (5,), network, **options)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_out_of_range_is_refused(rank, network):
    with pytest.raises(ValueError, match=f"rank must be between 1 and latent_dim = 2, got {rank}"):
        LowRankNormal(2, (5,), network, rank=rank)
