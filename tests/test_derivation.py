"""Each numbered equation of docs/derivation.md, its two sides computed apart from each other.

One side is written out here in NumPy and integrated over a grid, taken from SciPy, or known for a
linear-Gaussian model. The other is the function of pyrovae that the page names. The small model has
three binary pixels and one latent dimension.
"""

import ast
import importlib
import inspect
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from scipy import integrate as scipy_integrate
from scipy import stats

from pyrovae._process.isolation import stream
from pyrovae.data import Split
from pyrovae.diagnostics import compare_gradients
from pyrovae.evidence import bounds, evaluate
from pyrovae.kl import closed_form, compare, integrate
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import Linear
from pyrovae.objectives import IWAE, STL, Analytic, Beta, Elbo
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.training import fit
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import exact_posterior, linear_gaussian
from tests.oracles import assert_finite, assert_within

PAGE = Path(__file__).parents[1] / "docs" / "derivation.md"
BITS = np.array(list(itertools.product([0.0, 1.0], repeat=3)))  # all x there are
GRID, STEP = np.linspace(-12, 12, 2401, retstep=True)

each_seed = pytest.mark.parametrize("seed", SEEDS)
one_seed = pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)  # of the three, by default


# The small model, and the same model written out in NumPy.


def small(seed):
    """Three bits given one latent dimension, a linear decoder and a linear encoder."""
    torch.manual_seed(seed)
    vae = VAE(
        StandardNormal(1), Bernoulli(1, (3,), Linear), DiagonalNormal(1, (3,), Linear)
    ).double()
    with torch.no_grad():
        vae.likelihood.decoder.layer.weight.normal_(0, 2)
        vae.posterior.encoder.layer.weight.mul_(torch.tensor([[1.0], [0.2]]))
        vae.posterior.encoder.layer.bias[1] = -0.2  # q is about as wide as the prior
    return vae


def x_of(bits=BITS):
    return torch.from_numpy(bits)


def flat(parameters):
    return np.concatenate([p.detach().numpy().ravel() for p in parameters])


def theta_of(vae):
    return flat(vae.likelihood.parameters())  # w (3,), b (3,)


def phi_of(vae):
    return flat(vae.posterior.parameters())  # rows of loc and log scale (2, 3), their biases (2,)


def log_normal(z, loc, scale):
    return -math.log(2 * math.pi) / 2 - np.log(scale) - ((z - loc) / scale) ** 2 / 2


def log_prior(z):
    return log_normal(z, 0.0, 1.0)


def log_likelihood(theta, x, z):
    """log p(x | z), for x (n, 3) and z (n, points) or (points,): (n, points)."""
    logits = np.asarray(z)[..., None] * theta[:3] + theta[3:]
    return (x[:, None, :] * logits - np.logaddexp(0, logits)).sum(-1)


def encoded(phi, x):
    """Mean and standard deviation of q(z | x), each (n, 1)."""
    out = x @ phi[:6].reshape(2, 3).T + phi[6:]
    return out[:, :1], np.exp(out[:, 1:])


def over_grid(values):
    return values.sum(-1) * STEP


def exact_log_evidence(theta, x=BITS):
    return np.log(over_grid(np.exp(log_prior(GRID) + log_likelihood(theta, x, GRID))))


def log_posterior(theta, x=BITS):
    joint = log_prior(GRID) + log_likelihood(theta, x, GRID)
    return joint - exact_log_evidence(theta, x)[:, None]


def log_q(phi, x=BITS, z=GRID):
    return log_normal(z, *encoded(phi, x))


def mean_under_q(phi, values, x=BITS):
    return over_grid(np.exp(log_q(phi, x)) * values)


def exact_elbo(theta, phi, x=BITS):
    joint = log_prior(GRID) + log_likelihood(theta, x, GRID)
    return mean_under_q(phi, joint - log_q(phi, x), x)


def kl_to_posterior(theta, phi, x=BITS):
    return mean_under_q(phi, log_q(phi, x) - log_posterior(theta, x), x)


def exact_bound(theta, phi, draws, x=BITS):
    """The importance-weighted bound, by Gauss-Hermite nodes for each of its draws."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    loc, scale = encoded(phi, x)
    z = loc + scale * nodes  # (n, nodes)
    log_w = log_prior(z) + log_likelihood(theta, x, z) - log_normal(z, loc, scale)
    total, weight = log_w, weights
    for _ in range(draws - 1):
        total = np.logaddexp(total[:, :, None], log_w[:, None, :]).reshape(len(x), -1)
        weight = np.outer(weight, weights).ravel()
    return (total - math.log(draws)) @ weight


def finite_differences(function, at, step=1e-5):
    """The gradient of the sum of ``function`` over its examples."""
    shifts = step * np.eye(len(at))
    return np.array([(function(at + h) - function(at - h)).sum() for h in shifts]) / (2 * step)


# Sampled sides.


def agree(values, exact, errors=5):
    """Means over the first axis are ``exact`` within so many standard errors, which are small."""
    values = np.asarray(values)
    error = values.std(0, ddof=1) / math.sqrt(len(values))
    assert_within(values.mean(0), exact, error, errors)
    assert np.max(error) < 0.05 * np.max(np.abs(exact))


def repeated_bounds(vae, samples, repeats=1_000):
    """Bounds of all x, each (repeats, 8)."""
    found = bounds(vae, x_of().repeat(repeats, 1), samples)
    return {name: value.reshape(repeats, 8).numpy() for name, value in vars(found).items()}


def losses(vae, objective, repeats=200):
    """-loss, a sum over all x."""
    return [-objective.loss(vae.model, vae.guide, x_of()) for _ in range(repeats)]


def gradients(vae, objective, parameters, x=None, repeats=200):
    """Gradients of the objective, which is maximised: (repeats, parameters)."""
    x, parameters = x_of() if x is None else x, list(parameters)
    found = []
    for _ in range(repeats):
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        found.append(-flat(torch.autograd.grad(loss, parameters)))
    return found


class PlainNormal(dist.Normal):
    """A normal whose draws carry no gradient."""

    has_rsample = False


def not_differentiable(q):
    return PlainNormal(q.base_dist.loc, q.base_dist.scale).to_event(1)


def log_joint_of(vae, x, z):
    """log p(x, z) for each datum of the plate, by running the model with z given."""
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    return (trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]).detach().numpy()


# The equations, in the order of the page.


@each_seed
def test_equation_1_the_joint_density_is_prior_times_likelihood(seed):
    vae, z = small(seed), torch.randn(8, 1).double()
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(x_of())
    points = z.numpy()
    exact = log_prior(points) + log_likelihood(theta_of(vae), BITS, points)
    assert trace.log_prob_sum().item() == pytest.approx(exact.sum(), rel=1e-12)
    assert log_joint_of(vae, x_of(), z) == pytest.approx(exact[:, 0], rel=1e-12)


@each_seed
def test_equation_2_draws_are_distributed_as_the_integral_says(seed):
    """Frequencies of all x among 20,000 draws: 5 standard errors."""
    vae = small(seed)
    exact = np.exp(exact_log_evidence(theta_of(vae)))
    assert exact.sum() == pytest.approx(1, abs=1e-12)
    drawn = (vae.sample(20_000).detach().numpy() @ [4, 2, 1]).astype(int)
    frequencies = np.bincount(drawn, minlength=8) / len(drawn)
    error = np.sqrt(exact * (1 - exact) / len(drawn))
    assert_within(frequencies, exact, error, 5)


@each_seed
def test_equation_3_bayes_theorem_with_its_denominator(seed):
    """The exact posterior is known where the decoder is linear and its noise normal."""
    torch.manual_seed(seed)
    vae = VAE(
        StandardNormal(1), Normal(1, (3,), Linear, scale=0.6), DiagonalNormal(1, (3,), Linear)
    ).double()
    x = torch.randn(1, 3).double()
    joint = log_joint_of(vae, x.expand(len(GRID), 3), torch.from_numpy(GRID)[:, None])
    by_bayes = joint - np.log(over_grid(np.exp(joint)))
    w, b = np.split(theta_of(vae), 2)
    precision = 1 + w @ w / 0.36
    loc = w @ (x[0].numpy() - b) / 0.36 / precision
    near = np.abs(GRID) < 4
    exact = log_normal(GRID, loc, precision**-0.5)
    assert by_bayes[near] == pytest.approx(exact[near], abs=1e-9)
    # without the denominator the product integrates to p(x), not to one
    assert abs(over_grid(np.exp(joint)) - 1) > 0.1


@each_seed
def test_equation_4_the_divergence_is_a_mean_of_log_ratios(seed):
    q = dist.Normal(torch.tensor(0.3 * seed - 0.2).double(), torch.tensor(0.7).double())
    p = dist.Laplace(torch.tensor(0.5).double(), torch.tensor(1.2).double())
    n, laplace = stats.norm(q.loc.item(), 0.7), stats.laplace(0.5, 1.2)
    exact, _ = scipy_integrate.quad(
        lambda z: n.pdf(z) * (n.logpdf(z) - laplace.logpdf(z)), -8, 8, points=[0.5], epsabs=1e-12
    )
    found = compare(q, p, samples=(20_000,), seed=seed)
    assert found.quadrature.value == pytest.approx(exact, abs=1e-7)
    (row,) = found.monte_carlo
    assert_within(row.estimate.value, exact, row.estimate.standard_error)
    assert exact > 0
    same = compare(q, q, samples=(1,))
    assert same.quadrature.value == pytest.approx(0, abs=1e-12)


@each_seed
def test_equation_5_likelihood_and_divergence_from_the_data_differ_by_a_constant(seed):
    """20,000 data from a known distribution: 4 standard errors."""
    vae, _, _ = linear_gaussian(seed)
    layer = vae.likelihood.decoder.layer
    model = dist.MultivariateNormal(
        layer.bias, layer.weight @ layer.weight.T + 0.36 * torch.eye(5).double()
    )
    data = dist.MultivariateNormal(torch.full((5,), 0.5).double(), torch.eye(5).double())
    exact = torch.distributions.kl_divergence(data, model).item()
    x = Split.from_array(data.sample((20_000,)))
    found = evaluate(vae, x, samples=1).log_evidence
    constant = -data.entropy().item()
    assert_within(constant - found.value, exact, found.standard_error)
    assert found.standard_error < 0.02 * exact


@each_seed
def test_equation_6_the_log_likelihood_of_data_is_a_mean_of_log_evidences(seed):
    vae, x, evidence = linear_gaussian(seed)
    found = evaluate(vae, Split.from_array(x), samples=1).log_evidence
    assert found.value == pytest.approx(evidence.mean().item(), rel=1e-6)


@each_seed
def test_equation_7_draws_from_the_prior_estimate_the_evidence_without_bias(seed):
    """1,000 estimates of 5 draws each: 5 standard errors."""
    vae = small(seed)
    prior = vae.prior()
    from_prior = VAE(vae.prior, vae.likelihood, lambda x: prior.expand([len(x)]))
    found = repeated_bounds(from_prior, samples=5)
    agree(np.exp(found["log_evidence"]), np.exp(exact_log_evidence(theta_of(vae))))


@each_seed
def test_equation_8_the_encoder_gives_mean_and_standard_deviation(seed):
    vae, z = small(seed), torch.randn(8, 1).double()
    q = DiagonalNormal.forward(vae.posterior, x_of())
    exact = log_q(phi_of(vae), z=z.numpy())[:, 0]
    assert q.log_prob(z).detach().numpy() == pytest.approx(exact, rel=1e-12)
    assert q.stddev.detach().numpy() == pytest.approx(encoded(phi_of(vae), BITS)[1], rel=1e-12)


@each_seed
def test_equation_9_the_elbo_is_the_mean_of_log_joint_less_log_q(seed):
    """Sums over all x: 5 standard errors of 200 estimates."""
    vae = small(seed)
    exact = exact_elbo(theta_of(vae), phi_of(vae)).sum()
    agree(losses(vae, Elbo(particles=20)), exact)


@each_seed
def test_equation_10_the_evidence_is_elbo_plus_divergence_from_the_posterior(seed):
    """Each x apart: 5 standard errors of 1,000 estimates."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    gap = kl_to_posterior(theta, phi)
    agree(repeated_bounds(vae, samples=50)["elbo"] + gap, exact_log_evidence(theta))
    assert gap.min() > 0.001
    assert exact_elbo(theta, phi) + gap == pytest.approx(exact_log_evidence(theta), abs=1e-12)


@each_seed
def test_equation_11_the_elbo_is_reconstruction_less_divergence_from_the_prior(seed):
    """Sums over all x: 5 standard errors of 200 estimates."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    reconstruction = mean_under_q(phi, log_likelihood(theta, BITS, GRID))
    kl_to_prior = mean_under_q(phi, log_q(phi) - log_prior(GRID))
    agree(losses(vae, Analytic(particles=20)), (reconstruction - kl_to_prior).sum())
    assert reconstruction - kl_to_prior == pytest.approx(exact_elbo(theta, phi), abs=1e-12)
    # the two divergences of q are different numbers
    assert np.abs(kl_to_prior - kl_to_posterior(theta, phi)).max() > 0.1


@each_seed
def test_equation_12_each_datum_has_its_own_z_and_the_joint_integral_is_a_product(seed):
    """All of (z_1, z_2, z_3) is integrated over at once, by 30 Gauss-Hermite nodes for each."""
    vae, x = small(seed), BITS[[1, 6, 3]]
    theta = theta_of(vae)
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    weights = weights / weights.sum()
    z = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3, 1)
    weight = weights[:, None, None] * weights[:, None] * weights
    trace = poutine.trace(poutine.condition(vae.model, {"z": torch.from_numpy(z)}))
    trace = trace.get_trace(x_of(x))
    trace.compute_log_prob()
    joint = trace.nodes["x"]["log_prob"].detach().numpy()  # (points, 3); the weights hold p(z)
    together = np.log(weight.ravel() @ np.exp(joint.sum(-1)))
    assert together == pytest.approx(exact_log_evidence(theta, x).sum(), abs=1e-4)
    shared = np.exp(log_prior(GRID) + log_likelihood(theta, x, GRID).sum(0))
    assert abs(np.log(over_grid(shared)) - together) > 0.01  # one z for all is another model


@each_seed
def test_equation_13_the_bound_is_below_the_evidence_and_touches_it_at_the_posterior(seed):
    """5 standard errors; at the exact posterior there are none, every draw gives the evidence."""
    vae, x, evidence = linear_gaussian(seed)
    assert bounds(vae, x, 3).elbo.numpy() == pytest.approx(evidence.numpy(), abs=1e-10)
    loc, covariance = exact_posterior(vae, x)
    wide = dist.MultivariateNormal(loc + 0.1, 1.5 * covariance)
    other = VAE(vae.prior, vae.likelihood, lambda x: wide)
    gap = torch.distributions.kl_divergence(wide, vae.posterior(x)).detach().numpy()
    found = np.stack([bounds(other, x, 100).elbo.numpy() for _ in range(100)])
    agree(found, evidence.numpy() - gap)
    assert gap.min() > 0.01
    assert_finite(found)
    assert (found.mean(0) < evidence.numpy()).all()


@each_seed
def test_equation_14_jensens_inequality_for_the_weights(seed):
    """The mean weight is p(x), in 5 standard errors; the mean log weight is below its log."""
    vae = small(seed)
    with torch.no_grad():
        vae.posterior.encoder.layer.bias[1] = 0.2  # wide, so that no weight is very large
    exact = np.exp(exact_log_evidence(theta_of(vae)))
    found = repeated_bounds(vae, samples=50)
    agree(np.exp(found["log_evidence"]), exact)
    assert_finite(found["log_evidence"], found["elbo"])
    assert (found["log_evidence"] > found["elbo"]).all()
    assert (found["elbo"].mean(0) < np.log(exact)).all()


@each_seed
def test_equation_15_the_encoder_climbs_the_bound_by_falling_towards_the_posterior(seed):
    """The gradient in phi: 5 standard errors of 200 estimates."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    exact = -finite_differences(lambda phi: kl_to_posterior(theta, phi), phi)
    agree(gradients(vae, Elbo(particles=50), vae.posterior.parameters()), exact)


@each_seed
def test_equation_16_the_decoder_climbs_the_mean_log_joint_under_q(seed):
    """The gradient in theta: 5 standard errors of 200 estimates."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    found = gradients(vae, Elbo(particles=50), vae.likelihood.parameters())
    log_p = lambda theta: mean_under_q(phi, log_likelihood(theta, BITS, GRID))  # noqa: E731
    agree(found, finite_differences(log_p, theta))
    both = lambda theta: exact_log_evidence(theta) - kl_to_posterior(theta, phi)  # noqa: E731
    agree(found, finite_differences(both, theta))


@each_seed
def test_equation_17_at_the_posterior_the_decoder_climbs_the_evidence(seed):
    """The gradient in theta with q held at the exact posterior: 5 standard errors."""
    vae, x, _ = linear_gaussian(seed)
    loc, covariance = exact_posterior(vae, x)
    fixed = dist.MultivariateNormal(loc, covariance)
    held = VAE(vae.prior, vae.likelihood, lambda x: fixed)
    layer = vae.likelihood.decoder.layer

    def evidence(theta):
        w, b = theta[:10].reshape(5, 2), theta[10:]
        return stats.multivariate_normal(b, w @ w.T + 0.36 * np.eye(5)).logpdf(x.numpy())

    exact = finite_differences(evidence, flat([layer.weight, layer.bias]))
    agree(gradients(held, Elbo(particles=100), [layer.weight, layer.bias], x), exact)


@each_seed
def test_equation_18_two_normals_of_one_dimension(seed):
    m, s, m0, s0 = 0.4 - seed, 0.6 + seed / 5, 0.3, 1.4
    q, p = stats.norm(m, s), stats.norm(m0, s0)
    exact, _ = scipy_integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), m - 12 * s, m + 12 * s, epsabs=1e-12
    )
    by_formula = math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 1 / 2
    tensors = torch.tensor([m, s, m0, s0], dtype=torch.float64)
    found, _ = closed_form(dist.Normal(*tensors[:2]), dist.Normal(*tensors[2:]))
    assert found.item() == pytest.approx(exact, abs=1e-9)
    assert by_formula == pytest.approx(exact, abs=1e-9)


@each_seed
def test_equation_19_a_diagonal_normal_and_the_standard_normal(seed):
    """Quadrature in each dimension against the closed form of the vectors."""
    torch.manual_seed(seed)
    loc, scale = torch.randn(4).double(), torch.rand(4).double() + 0.2
    q = dist.Normal(loc, scale).to_event(1)
    found, _ = closed_form(q, StandardNormal(4).double()())
    parts = [
        over_grid(np.exp(log_normal(GRID, m, s)) * (log_normal(GRID, m, s) - log_prior(GRID)))
        for m, s in zip(loc.numpy(), scale.numpy(), strict=True)
    ]
    assert found.item() == pytest.approx(sum(parts), abs=1e-9)
    variance = scale.square()
    by_formula = (variance + loc.square() - 1 - variance.log()).sum() / 2
    assert by_formula.item() == pytest.approx(sum(parts), abs=1e-9)
    integrated, _, _ = integrate(q, StandardNormal(4).double()())
    assert integrated.item() == pytest.approx(sum(parts), abs=1e-6)


@each_seed
def test_equation_20_draws_of_both_terms(seed):
    """The same draws by hand to rounding; in the mean the ELBO, 5 standard errors."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    torch.manual_seed(seed)
    found = -Elbo(particles=7).loss(vae.model, vae.guide, x_of())
    torch.manual_seed(seed)
    z = vae.posterior(x_of()).rsample((7,))[..., 0].numpy(force=True).T  # (8, 7)
    each = log_likelihood(theta, BITS, z) + log_prior(z) - log_q(phi, z=z)
    assert found == pytest.approx(each.mean(-1).sum(), rel=1e-12)
    agree(losses(vae, Elbo(particles=7), repeats=500), exact_elbo(theta, phi).sum())


@each_seed
def test_equation_21_draws_of_the_reconstruction_alone(seed):
    """The same draws by hand to rounding; in the mean the ELBO, 5 standard errors."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    torch.manual_seed(seed)
    found = -Analytic(particles=7).loss(vae.model, vae.guide, x_of())
    torch.manual_seed(seed)
    z = vae.posterior(x_of()).rsample((7,))[..., 0].numpy(force=True).T  # (8, 7)
    loc, scale = encoded(phi, BITS)
    kl = (scale**2 + loc**2 - 1 - np.log(scale**2)) / 2
    by_hand = (log_likelihood(theta, BITS, z).mean(-1) - kl[:, 0]).sum()
    assert found == pytest.approx(by_hand, rel=1e-12)
    agree(losses(vae, Analytic(particles=7), repeats=500), exact_elbo(theta, phi).sum())


@each_seed
def test_equation_22_the_gradient_of_a_mean_by_the_score(seed):
    """Draws that cannot be differentiated: 5 standard errors of 200 estimates."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    encoder = vae.posterior
    scored = VAE(vae.prior, vae.likelihood, lambda x: not_differentiable(encoder(x)))
    found = gradients(scored, Elbo(particles=500), encoder.parameters())
    agree(found, finite_differences(lambda phi: exact_elbo(theta, phi), phi))


@one_seed
def test_equation_23_the_score_has_mean_zero(seed):
    """What sticking the landing leaves out of the gradient: 5 standard errors."""
    vae = small(seed)
    phi = phi_of(vae)
    for k in range(len(phi)):
        shift = 1e-5 * np.eye(len(phi))[k]
        score = (log_q(phi + shift) - log_q(phi - shift)) / 2e-5
        assert np.abs(mean_under_q(phi, score)).max() < 1e-9
    left_out = []
    for number in range(200):
        parts = []
        for objective in (Elbo(particles=50), STL(particles=50)):
            torch.manual_seed(1_000 * seed + number)
            parts += gradients(vae, objective, vae.posterior.parameters(), repeats=1)
        left_out.append(parts[1] - parts[0])
    error = np.std(left_out, 0, ddof=1) / math.sqrt(len(left_out))
    assert (error > 0).all()
    assert_within(np.mean(left_out, 0), 0.0, error, 5)


@each_seed
def test_equation_24_a_draw_is_loc_plus_scale_times_noise(seed):
    """The same numbers to the bit, and 2,000 of them as the density says."""
    vae = small(seed)
    q = DiagonalNormal.forward(vae.posterior, x_of())
    torch.manual_seed(seed)
    z = q.rsample((2_000,)).detach().numpy()
    torch.manual_seed(seed)
    noise = torch.normal(torch.zeros(2_000, 8, 1).double(), 1.0)
    loc, scale = encoded(phi_of(vae), BITS)
    assert z == pytest.approx(loc + scale * noise.numpy(), abs=1e-12)
    for n in range(8):
        exact = stats.norm(loc[n, 0], scale[n, 0])
        assert stats.kstest(z[:, n, 0], exact.cdf).pvalue > 1e-4


@each_seed
def test_equation_25_the_gradient_of_a_mean_along_the_draw(seed):
    """Of all x: by hand at the same noise, and in 5 standard errors of 200 estimates."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    torch.manual_seed(seed)
    (found,) = gradients(vae, STL(), vae.posterior.parameters(), repeats=1)
    torch.manual_seed(seed)
    z = vae.posterior(x_of()).rsample().detach().numpy()
    loc, scale = encoded(phi, BITS)
    noise = (z - loc) / scale
    step = 1e-5
    f = lambda z: log_prior(z) + log_likelihood(theta, BITS, z) - log_normal(z, loc, scale)  # noqa: E731
    slope = (f(z + step) - f(z - step)) / (2 * step)  # (8, 1), in z alone
    by_loc, by_log_scale = slope, slope * scale * noise
    by_hand = np.concatenate(
        [(part * BITS).sum(0) for part in (by_loc, by_log_scale)]
        + [part.sum(0) for part in (by_loc, by_log_scale)]
    )
    assert found == pytest.approx(by_hand, abs=1e-8)
    exact = finite_differences(lambda phi: exact_elbo(theta, phi), phi)
    agree(gradients(vae, STL(particles=50), vae.posterior.parameters()), exact)


@one_seed
def test_the_gradient_by_the_score_is_the_noisier(seed):
    """What the page says beside equation 25, as the comparison of estimators measures it."""
    vae = small(seed)
    split = Split.from_array(BITS)
    pathwise = compare_gradients(vae, split, draws=200)
    encoder = vae.posterior

    class Scored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            return not_differentiable(self.encoder(x))

    scored = compare_gradients(VAE(vae.prior, vae.likelihood, Scored()), split, draws=200)
    variances = [found.estimators[0].noise.variance.value for found in (pathwise, scored)]
    assert_finite(variances)
    assert variances[1] > 2 * variances[0]


@each_seed
def test_equation_26_batches_scaled_up_have_the_sum_over_the_data_as_their_mean(seed):
    """All 15 batches of 2 out of 6; at the exact posterior the bound has no noise of draws."""
    vae, x, evidence = linear_gaussian(seed)
    x, evidence = x[:6], evidence[:6]
    batches = [list(batch) for batch in itertools.combinations(range(6), 2)]
    found = [6 / 2 * -Elbo().loss(vae.model, vae.guide, x[batch]) for batch in batches]
    assert np.mean(found) == pytest.approx(evidence.sum().item(), rel=1e-10)
    assert np.std(found) > 0.1  # one batch is not the mean


@each_seed
def test_equation_27_a_mean_over_pixels_is_another_weight_of_the_divergence(seed):
    vae = small(seed)
    torch.manual_seed(seed)
    found = -Beta(beta=3).loss(vae.model, vae.guide, x_of()) / 3
    torch.manual_seed(seed)
    z = vae.posterior(x_of()).rsample().detach().numpy()
    log_ratio = log_q(phi_of(vae), z=z) - log_prior(z)
    wrong = log_likelihood(theta_of(vae), BITS, z) / 3 - log_ratio  # a mean over three pixels
    assert found == pytest.approx(wrong.sum(), rel=1e-12)


@each_seed
def test_equation_28_the_training_step(seed):
    """Three steps on three data: ``fit``, and all of (8), (20), (24) and Adam by hand."""
    x = BITS[[1, 6, 3]]
    vae = small(seed)
    values = flat(vae.parameters())  # theta (6,), then phi (8,)
    options = {"learning_rate": 0.1, "warmup": 0.0, "schedule": "constant", "initialize": False}
    fit(vae, x_of(x), epochs=3, batch_size=3, device="cpu", seed=seed, **options)
    m, v = np.zeros_like(values), np.zeros_like(values)
    for step in range(3):
        batch = x[np.random.default_rng(stream(seed, "order", step)).permutation(3)]
        torch.manual_seed(stream(seed, "step", step))
        noise = torch.normal(torch.zeros(3, 1).double(), 1.0).numpy()

        def bound(values, batch=batch, noise=noise):
            theta, phi = np.split(values, [6])
            loc, scale = encoded(phi, batch)
            z = loc + scale * noise
            return log_prior(z) + log_likelihood(theta, batch, z) - log_normal(z, loc, scale)

        g = finite_differences(bound, values)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        values = values + 0.1 * m_hat / (np.sqrt(v_hat) + 1e-8)
    assert flat(vae.parameters()) == pytest.approx(values, abs=1e-6)


@each_seed
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_equation_29_the_importance_weighted_bound(seed, draws):
    """Each x apart, the left side by quadrature over all draws: 5 standard errors."""
    vae = small(seed)
    exact = exact_bound(theta_of(vae), phi_of(vae), draws)
    agree(repeated_bounds(vae, samples=draws, repeats=5_000)["log_evidence"], exact)


@one_seed
def test_equation_30_the_bound_rises_with_the_draws_towards_the_evidence(seed):
    """Exact sides strictly in order; the objective is each of them in 5 standard errors."""
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    rising = [exact_bound(theta, phi, draws) for draws in (1, 2, 3)]
    assert rising[0] == pytest.approx(exact_elbo(theta, phi), abs=1e-6)
    for lower, higher in itertools.pairwise([*rising, exact_log_evidence(theta)]):
        assert (lower < higher).all()
    for draws, exact in zip((1, 2, 3), rising, strict=True):
        agree(losses(vae, IWAE(particles=draws), repeats=500), exact.sum())
    objective, found = IWAE(particles=3), []
    for replayed in (False, True):  # as Pyro computes it, and as a staged step does
        torch.manual_seed(seed)
        if replayed:
            ((model, guide),) = objective._get_traces(vae.model, vae.guide, (x_of(),), {})
            found.append(objective._differentiable_loss_particle(model, guide)[0] / 3)
        else:
            found.append(objective.loss(vae.model, vae.guide, x_of()))
    assert found[1] == pytest.approx(found[0], rel=1e-12)


@each_seed
def test_the_mean_elbo_is_minus_one_divergence_of_pairs_and_a_constant(seed):
    vae = small(seed)
    theta, phi = theta_of(vae), phi_of(vae)
    data = np.random.default_rng(seed).dirichlet(np.ones(len(BITS)))  # p_D, of all x there are
    log_pairs = np.log(data)[:, None] + log_q(phi)
    log_joint = log_prior(GRID) + log_likelihood(theta, BITS, GRID)
    divergence = (over_grid(np.exp(log_pairs) * (log_pairs - log_joint))).sum()
    assert divergence > 0
    exact = -divergence + data @ np.log(data)
    assert data @ exact_elbo(theta, phi) == pytest.approx(exact, rel=1e-9)
    agree(repeated_bounds(vae, 1)["elbo"] @ data, exact)


# The page itself.

NUMBERED = re.compile(r"\\tag\{(\d+)\}\n\$\$\n\n(.*?)\n\n", re.DOTALL)
ROLE = re.compile(r"\{py:(\w+)\}`~?(pyrovae[\w.]*)`")


def numbered_tests():
    """Each number with the functions whose names begin with it."""
    found = {}
    for name, function in globals().items():
        if match := re.match(r"test_equation_(\d+)_", name):
            found.setdefault(int(match[1]), []).append(function)
    return found


def equations():
    """Each number with the objects that the line below it names."""
    page = PAGE.read_text()
    lines = {int(number): line for number, line in NUMBERED.findall(page)}
    assert sorted(map(int, re.findall(r"\\tag\{(\d+)\}", page))) == sorted(lines)
    return lines


def resolve(kind, name):
    """The object of a cross-reference, if the reference has it."""
    module, _, rest = name.partition(".")
    for part in [module, *rest.split(".")]:
        dotted = part if part == module else f"{module}.{part}"
        try:
            importlib.import_module(dotted)
        except ImportError:
            break
        module = dotted
    path = name.removeprefix(module).lstrip(".").split(".")
    found = importlib.import_module(module)
    assert path[0] in getattr(found, "__all__", [])
    for part in path:
        found = inspect.getattr_static(found, part)
    expected = {
        "class": lambda: inspect.isclass(found),
        "func": lambda: inspect.isfunction(found) and len(path) == 1,
        "meth": lambda: inspect.isfunction(found) and len(path) == 2,
    }
    assert expected[kind](), f"{name} is no {kind}"
    assert found.__doc__, f"{name} is not in the reference, which shows what has a docstring"
    return path[-1]


def test_equations_are_numbered_in_order_without_a_gap():
    assert list(equations()) == list(range(1, len(equations()) + 1))


def test_every_numbered_equation_has_a_test_and_every_test_an_equation():
    assert set(numbered_tests()) == set(equations())


@pytest.mark.parametrize("number", equations() if PAGE.is_file() else [])
def test_the_code_that_an_equation_names_exists_and_its_test_uses_it(number):
    line = equations()[number]
    assert line.startswith("In code: "), line
    named = {resolve(kind, name) for kind, name in ROLE.findall(line)}
    assert named
    source = "\n".join(inspect.getsource(test) for test in numbered_tests()[number])
    helpers = {"repeated_bounds": "bounds", "log_joint_of": "model"}
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    used |= {helpers[name] for name in used & set(helpers)}
    assert named <= used
