"""The two programs work unchanged with Pyro's own tools, and the methods call the three roles."""

import importlib.util
import math
import shutil

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from torch import nn

from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import Linear
from pyrovae.posteriors import DiagonalNormal, RelaxedCategorical
from pyrovae.priors import Categorical, StandardNormal, VampPrior
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import exact_posterior, linear_gaussian
from tests.oracles import assert_finite, assert_within


def by_hand(vae, x, z):
    """log p(z) + log p(x | z) - log q(z | x), from the distributions themselves."""
    return vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - vae.posterior(x).log_prob(z)


def test_the_log_joint_is_the_sum_of_the_two_terms(vae, digits):
    z = torch.randn(5, len(digits), vae.latent_dim)
    terms = vae.prior().log_prob(z), vae.likelihood(z).log_prob(digits)
    joint = vae.log_joint(digits, z)
    assert joint.shape == (5, len(digits))
    assert torch.equal(joint, terms[0] + terms[1])
    assert torch.equal(vae.log_joint(digits, z, prior=vae.prior()), joint)
    wide = vae.log_joint(digits, z, dtype=torch.float64)
    assert torch.equal(wide, terms[0].double() + terms[1].double())


@pytest.mark.contract
def test_svi_lowers_the_loss(vae, digits):
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(digits) for _ in range(80)]
    assert_finite(losses)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.contract
def test_trace_elbo_is_the_sum_written_out(vae, digits):
    torch.manual_seed(5)
    loss = Trace_ELBO().loss(vae.model, vae.guide, digits)
    torch.manual_seed(5)
    z = vae.posterior(digits).rsample()
    assert -loss == pytest.approx(by_hand(vae, digits, z).sum().item(), rel=1e-5)


def test_trace_mean_field_elbo_uses_the_closed_form(vae, digits):
    torch.manual_seed(5)
    loss = TraceMeanField_ELBO().loss(vae.model, vae.guide, digits)
    torch.manual_seed(5)
    q = vae.posterior(digits)
    reconstruction = vae.likelihood(q.rsample()).log_prob(digits).sum()
    kl = torch.distributions.kl_divergence(q, vae.prior().expand(q.batch_shape)).sum()
    assert -loss == pytest.approx((reconstruction - kl).item(), rel=1e-5)


@pytest.mark.parametrize("particles", [1, 7])
def test_renyi_elbo_at_alpha_zero_is_the_importance_weighted_bound_per_image(
    vae, digits, particles
):
    objective = RenyiELBO(
        alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1
    )
    torch.manual_seed(5)
    loss = objective.loss(vae.model, vae.guide, digits)
    torch.manual_seed(5)
    z = vae.posterior(digits).rsample((particles,))
    log_w = by_hand(vae, digits, z)  # (K, batch)
    expected = (log_w.logsumexp(0) - math.log(particles)).sum()
    assert -loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_vectorized_particles_equal_particles_one_by_one(vae, digits, seed):
    """In mean: 4 standard errors of the difference of two averages over 50 repetitions."""
    torch.manual_seed(seed)
    together = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    apart = Trace_ELBO(num_particles=4)
    a, b = (
        torch.tensor([e.loss(vae.model, vae.guide, digits) for _ in range(50)])
        for e in (together, apart)
    )
    error = ((a.var() + b.var()) / 50).sqrt()
    assert_within(a.mean(), b.mean(), error)


def test_predictive_draws_latents_from_the_guide(vae, digits):
    draws = Predictive(vae.model, guide=vae.guide, num_samples=500)(digits)["z"]
    assert draws.shape == (500, 64, 2)
    q = vae.posterior(digits)
    error = q.stddev / math.sqrt(500)
    assert_within(draws.mean(0), q.mean, error, 5)


def test_predictive_draws_observations_from_the_unconditioned_model(vae, digits):
    draws = Predictive(poutine.uncondition(vae.model), num_samples=300)(digits)
    assert draws["x"].shape == (300, 64, 1, 8, 8)
    assert set(draws["x"].unique().tolist()) == {0.0, 1.0}
    assert draws["z"].std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * 300 * 128))


def test_poutine_trace_shows_the_two_factorizations(vae, digits):
    model = poutine.trace(vae.model).get_trace(digits)
    guide = poutine.trace(vae.guide).get_trace(digits)
    assert model.stochastic_nodes == ["data", "z"]
    assert model.observation_nodes == ["x"]
    assert guide.stochastic_nodes == ["data", "z"]
    model.compute_log_prob()
    z = model.nodes["z"]["value"]
    torch.testing.assert_close(model.nodes["z"]["log_prob"], vae.prior().log_prob(z))
    likelihood = vae.likelihood(z).log_prob(digits)
    torch.testing.assert_close(model.nodes["x"]["log_prob"], likelihood)


def test_poutine_condition_fixes_the_latents(vae, digits):
    z = torch.randn(64, 2)
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(digits)
    expected = vae.prior().log_prob(z).sum() + vae.likelihood(z).log_prob(digits).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_importance_weights_average_to_the_evidence():
    """Pyro's Importance on a linear-Gaussian model whose evidence is known."""
    vae, x, evidence = linear_gaussian(seed=0)
    exact = vae.posterior

    def wider(x):
        q = exact(x)
        return dist.MultivariateNormal(q.mean + 0.1, 1.5 * q.covariance_matrix)

    vae = VAE(vae.prior, vae.likelihood, wider)
    posterior = Importance(vae.model, vae.guide, num_samples=1_000).run(x[:1])
    log_w = torch.stack([w.detach() for w in posterior.log_weights])
    w = (log_w - log_w.max()).exp()
    estimate = w.mean().log() + log_w.max()
    error = w.std() / w.mean() / math.sqrt(len(w))
    assert_within(estimate, evidence[0], error)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_nuts_finds_the_exact_posterior_of_a_linear_gaussian_model(seed):
    vae, x, _ = linear_gaussian(seed)
    loc, covariance = exact_posterior(vae, x[:1])
    pyro.set_rng_seed(seed)
    mcmc = MCMC(NUTS(vae.model), num_samples=400, warmup_steps=150, disable_progbar=True)
    mcmc.run(x[:1])
    z = mcmc.get_samples()["z"][:, 0]
    effective = torch.stack(
        [mcmc.diagnostics()["z"]["n_eff"].reshape(-1)[d] for d in range(2)]
    ).clamp(max=400)
    error = (covariance.diagonal() / effective).sqrt()
    assert_within(z.mean(0), loc[0], error, 5)
    assert_within(z.var(0) / covariance.diagonal(), 1.0, (2 / effective.min()).sqrt(), 5)


@pytest.mark.skipif(importlib.util.find_spec("graphviz") is None, reason="no graphviz package")
def test_render_model_draws_both_programs(vae, digits):
    for program, names in ((vae.model, ("z", "x")), (vae.guide, ("z",))):
        graph = pyro.render_model(program, model_args=(digits,), render_distributions=True)
        assert all(f"{name} [" in graph.source for name in names)
        if shutil.which("dot"):
            assert graph.pipe(format="png").startswith(b"\x89PNG")


@pytest.mark.contract
def test_methods_call_the_three_roles(vae, digits):
    torch.testing.assert_close(vae.encode(digits), vae.posterior(digits).mean)
    z = torch.randn(3, 5, 2)
    torch.testing.assert_close(vae.decode(z), vae.likelihood(z).mean)
    assert vae.encode(digits.expand(3, *digits.shape)).shape == (3, 64, 2)
    torch.manual_seed(1)
    reconstructed = vae.reconstruct(digits)
    torch.manual_seed(1)
    torch.testing.assert_close(reconstructed, vae.decode(vae.posterior(digits).sample()))
    assert vae.sample(7).shape == (7, 1, 8, 8)
    assert set(vae.sample(50).unique().tolist()) == {0.0, 1.0}


class TenLines(nn.Module):
    """A prior of a user's own."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self):
        return dist.StudentT(5.0, torch.zeros(2), self.log_scale.exp()).to_event(1)


@pytest.mark.contract
def test_a_prior_of_ones_own_needs_no_other_change(network, digits):
    vae = VAE(TenLines(), Bernoulli(2, (1, 8, 8), network), DiagonalNormal(2, (1, 8, 8), network))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(3):
        svi.step(digits)
    assert vae.prior.log_scale.abs().min() > 0


def test_the_prior_may_be_any_callable(network, digits):
    likelihood, posterior = (
        Bernoulli(2, (1, 8, 8), network),
        DiagonalNormal(2, (1, 8, 8), network),
    )
    vae = VAE(lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), likelihood, posterior)
    assert math.isfinite(Trace_ELBO().loss(vae.model, vae.guide, digits))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (lambda: torch.distributions.Normal(torch.zeros(2), 1.0), r"take .* pyro.distributions"),
        (lambda: dist.Normal(torch.zeros(2), 1.0), r"add .to_event\(1\)"),
        (lambda: torch.zeros(2), "a prior returns a Pyro distribution when called, got Tensor"),
    ],
)
def test_what_is_no_prior_is_refused(vae, prior, message):
    with pytest.raises(TypeError, match=message):
        VAE(prior, vae.likelihood, vae.posterior)


def test_components_that_cannot_be_called_are_refused_in_one_line(vae):
    with pytest.raises(
        TypeError, match=r"^prior\(\) must .*, got the class StandardNormal; make an"
    ):
        VAE(StandardNormal, vae.likelihood, vae.posterior)
    with pytest.raises(
        TypeError, match=r"^likelihood\(z\) must .* when it is called, got a Tensor$"
    ):
        VAE(vae.prior, torch.zeros(3), vae.posterior)


def test_gray_values_are_refused_by_a_bernoulli_with_reason_and_choices(vae):
    x = torch.zeros(3, 1, 8, 8)
    x[1, 0, 2, 2] = 0.25
    with pytest.raises(
        ValueError, match=r"holds 0.25, outside .* Bernoulli; .* not normalized; .*"
    ):
        vae.check_data(x)
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), the data's have \(64,\)"):
        vae.check_data(torch.zeros(3, 64))
    vae.check_data(x.round())


def real(x=None):
    batch = () if x is None else (len(x),)
    return dist.Normal(torch.zeros(2), 1.0).expand((*batch, 2)).to_event(1)


def simplex(x=None):
    return dist.Dirichlet(torch.ones(2)).expand(() if x is None else (len(x),))


def one_hot(x=None):
    return dist.OneHotCategorical(torch.ones(2)).expand(() if x is None else (len(x),))


def positive(x=None):
    batch = () if x is None else (len(x),)
    return dist.LogNormal(torch.zeros(2), 1.0).expand((*batch, 2)).to_event(1)


def three(x):
    return dist.Normal(torch.zeros(3), 1.0).expand((len(x), 3)).to_event(1)


@pytest.mark.parametrize(
    ("prior", "posterior", "message"),
    [
        (real, simplex, "over real vectors .*, the posterior function over points of the simplex"),
        (simplex, real, "over points of the simplex .* over real vectors of shape"),
        (one_hot, simplex, "over one-hot vectors of shape .* over points of the simplex of shape"),
        (simplex, one_hot, "over points of the simplex of shape .* over one-hot vectors of shape"),
        (positive, real, r"over vectors of GreaterThan of shape \(2,\), .* over real vectors"),
        (
            real,
            three,
            r"z of shape \(2,\), the posterior .* over z of shape \(3,\); build both, and the like",
        ),
    ],
)
def test_a_posterior_off_the_priors_space_is_refused_naming_both(
    vae, digits, prior, posterior, message
):
    with pytest.raises(ValueError, match=message):
        VAE(prior, vae.likelihood, posterior).check_data(digits)


def test_one_hot_vectors_of_other_classes_are_refused_naming_both(network, digits):
    posterior = RelaxedCategorical(12, (1, 8, 8), network, classes=4)
    vae = VAE(Categorical(12, classes=3), Bernoulli(12, (1, 8, 8), network), posterior)
    message = (
        r"Categorical is over one-hot vectors side by side of 3 classes each of shape \(12,\), the "
        r"posterior RelaxedCategorical over one-hot vectors side by side of 4 classes each of shape"
    )
    with pytest.raises(ValueError, match=message):
        vae.check_data(digits)
    assert vae.training
    posterior = RelaxedCategorical(12, (1, 8, 8), network, classes=3)
    VAE(vae.prior, vae.likelihood, posterior).check_data(digits)


@pytest.mark.parametrize("space", [real, simplex, one_hot, positive])
def test_a_posterior_on_the_priors_space_is_taken(vae, digits, space):
    VAE(space, vae.likelihood, space).check_data(digits)


def test_a_posterior_that_declares_no_support_is_taken(vae, digits):
    class Undeclared(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    def posterior(x):
        return Undeclared(torch.zeros(len(x), 2), 1.0).to_event(1)

    VAE(vae.prior, vae.likelihood, posterior).check_data(digits)


def test_values_too_large_for_an_encoder_that_has_not_started_are_no_fault_of_the_data():
    posterior = DiagonalNormal(2, (4,), Linear)
    with torch.no_grad():
        posterior.encoder.layer.weight.fill_(-1.0)  # scales of exp(-1e5), until initialize
    x = torch.full((3, 4), 2.5e4)
    VAE(StandardNormal(2), Normal(2, (4,), Linear), posterior).check_data(x)


def test_check_data_leaves_the_random_state_alone(vae, digits):
    state = torch.get_rng_state()
    vae.check_data(digits)
    assert torch.equal(state, torch.get_rng_state())


def test_a_second_vae_in_one_process_trains_nothing_without_a_scope(network, digits):
    """The trap that fit guards against: the store still holds the first one's parameters."""

    def make():
        return VAE(
            StandardNormal(2),
            Bernoulli(2, (1, 8, 8), network),
            DiagonalNormal(2, (1, 8, 8), network),
        )

    for expected in (True, False):
        vae = make()
        before = [p.detach().clone() for p in vae.parameters()]
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(digits)
        moved = any(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
        assert moved is expected


@pytest.mark.contract
@pytest.mark.parametrize("seed", SEEDS)
def test_elbo_equals_log_evidence_at_the_exact_posterior(seed):
    vae, x, evidence = linear_gaussian(seed)
    for _ in range(5):  # every draw of z gives the same number
        bound = -Trace_ELBO().loss(vae.model, vae.guide, x)
        assert abs(bound - evidence.sum().item()) < 1e-10
    each = by_hand(vae, x, vae.posterior(x).rsample((50,)))
    assert (each - evidence).abs().max() < 1e-10


def test_a_guide_of_ones_own_trains_all_that_a_prior_made_of_the_posterior_uses(digits):
    posterior = DiagonalNormal(2, (1, 8, 8), Linear)
    prior = VampPrior(posterior, (1, 8, 8), components=3)
    vae = VAE(prior, Bernoulli(2, (1, 8, 8), Linear), posterior)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(digits)
    for name, parameter in vae.named_parameters():
        assert not torch.equal(parameter, before[name]), name
