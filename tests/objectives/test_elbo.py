"""Objectives have the exact value and gradient, and a recorded one is the same with its parts."""

import itertools
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyrovae.data import load
from pyrovae.likelihoods import Bernoulli
from pyrovae.objectives import (
    IWAE,
    OBJECTIVES,
    STL,
    Analytic,
    Beta,
    BetaTC,
    DReG,
    Elbo,
    FreeBits,
    Info,
    Renyi,
    recording,
)
from pyrovae.posteriors import FullNormal, RelaxedCategorical
from pyrovae.priors import Categorical, GaussianMixture, StandardNormal
from pyrovae.runs import Config, Run, start
from pyrovae.training import TrainingInterrupted, fit
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import StopAfter, affine
from tests.oracles import (
    assert_adds_up,
    assert_finite,
    assert_within,
    exact_elbo,
    same,
    with_gradient,
)

COPIES = 40  # of each datum in a batch, each with draws of its own

RECORDED = [
    Trace_ELBO(),
    Trace_ELBO(num_particles=3),
    Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    TraceMeanField_ELBO(),
    TraceGraph_ELBO(),
    RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    *(make() for make in OBJECTIVES.values()),
]


def gradients(objective, vae, x):
    torch.manual_seed(1)
    vae.zero_grad()
    with pyro.get_param_store().scope():
        loss = objective.loss_and_grads(vae.model, vae.guide, x)
    return loss, [p.grad.clone() for p in vae.parameters()]


@pytest.mark.parametrize("objective", RECORDED, ids=lambda o: type(o).__name__)
def test_recording_changes_neither_loss_nor_gradients(vae, digits, objective):
    watched, _ = recording(objective)
    loss, expected = gradients(objective, vae, digits)
    same_loss, found = gradients(watched, vae, digits)
    assert loss == same_loss
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.contract
@pytest.mark.parametrize("objective", RECORDED[:3], ids=lambda o: type(o).__name__)
def test_the_two_parts_make_the_elbo(vae, digits, objective):
    watched, record = recording(objective)
    loss = watched.loss(vae.model, vae.guide, digits)
    assert -loss == pytest.approx(float(record.terms.reconstruction - record.terms.kl), rel=1e-5)


def test_the_parts_are_the_terms_of_the_draw(vae, digits):
    watched, record = recording(Trace_ELBO())
    torch.manual_seed(2)
    watched.loss(vae.model, vae.guide, digits)
    torch.manual_seed(2)
    q = vae.posterior(digits)
    z = q.rsample()
    reconstruction = vae.likelihood(z).log_prob(digits).sum()
    kl = (q.log_prob(z) - vae.prior().log_prob(z)).sum()
    torch.testing.assert_close(record.terms.reconstruction, reconstruction.detach())
    torch.testing.assert_close(record.terms.kl, kl.detach())


def test_the_callers_object_is_untouched_and_each_step_is_new(vae, digits):
    objective = Trace_ELBO()
    watched, record = recording(objective)
    assert type(objective) is Trace_ELBO
    assert not hasattr(objective, "record")
    assert isinstance(watched, Trace_ELBO)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), watched)
    for _ in range(3):
        loss = svi.step(digits)
        assert loss == pytest.approx(float(record.terms.kl - record.terms.reconstruction), rel=1e-5)


def value_and_gradient(objective, vae, x):
    """The bound and its gradient in one vector."""
    vae.zero_grad()
    with pyro.get_param_store().scope():
        loss = objective.loss_and_grads(vae.model, vae.guide, x)
    zeros = (torch.zeros_like(p) if p.grad is None else p.grad for p in vae.parameters())
    return -torch.cat([torch.tensor([loss], dtype=torch.float64), *(g.flatten() for g in zeros)])


def sampled(objective, vae, x, repetitions=150, copies=COPIES):
    """Mean and standard error of bound and gradient over draws."""
    repeated = x.repeat(copies, 1)
    draws = torch.stack(
        [value_and_gradient(objective, vae, repeated) / copies for _ in range(repetitions)]
    )
    return draws.mean(0), draws.std(0) / math.sqrt(repetitions)


def two_draws_by_quadrature(vae, x, alpha):
    """The Renyi bound of K = 2 by Gauss-Hermite quadrature over both draws of both dimensions."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(14)
    grid = torch.cartesian_prod(*[torch.from_numpy(nodes)] * 4).reshape(-1, 2, 1, 2)
    mass = torch.cartesian_prod(*[torch.from_numpy(weights / weights.sum())] * 4).prod(-1)
    q = vae.posterior(x)
    z = q.mean + q.stddev * grid  # (nodes, K, batch, latent_dim)
    log_w = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - q.log_prob(z)
    bound = ((1 - alpha) * log_w).logsumexp(1).sub(math.log(2)).sum(-1) / (1 - alpha)
    return with_gradient(mass @ bound, vae)


def total_correlation_by_quadrature(vae, x, weight):
    """The ELBO less ``weight`` times the total correlation of the mixture of the posteriors."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = torch.cartesian_prod(*[torch.from_numpy(nodes)] * 2)
    mass = torch.cartesian_prod(*[torch.from_numpy(weights / weights.sum())] * 2).prod(-1)
    q = vae.posterior(x).base_dist
    z = q.mean + q.stddev * grid.unsqueeze(1)  # (nodes, batch, latent_dim)
    each = q.log_prob(z.unsqueeze(-2))  # (nodes, batch, posterior, latent_dim)
    joint = each.sum(-1).exp().mean(-1).log()
    alone = each.exp().mean(-2).log().sum(-1)
    total = (mass @ (joint - alone)).sum()
    kl = (q.mean.square() + q.variance - q.variance.log() - 1) / 2
    return exact_elbo(vae, x, lambda _: kl.sum() + weight * total)


def discrepancy_in_closed_form(vae, x, share, weight, copies=COPIES):
    """The objective of InfoVAE for a batch of copies, from means of the kernel under normals."""
    q = vae.posterior(x.repeat(copies, 1))

    def mean_kernel(loc, variance):
        return ((2 / (2 + variance)).sqrt() * (-loc.square() / (2 * (2 + variance))).exp()).prod(-1)

    pairs = mean_kernel(
        q.mean.unsqueeze(0) - q.mean.unsqueeze(1), q.variance.unsqueeze(0) + q.variance.unsqueeze(1)
    )
    n = len(q.mean)
    within = (pairs.sum() - pairs.diagonal().sum()) / (n * (n - 1))
    across = mean_kernel(q.mean, q.variance + 1).mean()
    distance = within + mean_kernel(torch.zeros(2).double(), torch.tensor(2.0)) - 2 * across
    return exact_elbo(vae, x, lambda kl: share * kl.sum() + weight * len(x) * distance)


def free(nats, groups):
    def of_kl(kl):
        mean = kl.mean(0).reshape(groups, -1).sum(1)
        return len(kl) * torch.maximum(mean, torch.full_like(mean, nats)).sum()

    return of_kl


EXACT = {
    "elbo": (Elbo(), lambda v, x: exact_elbo(v, x, torch.sum)),
    "elbo of 3": (Elbo(particles=3), lambda v, x: exact_elbo(v, x, torch.sum)),
    "analytic": (Analytic(), lambda v, x: exact_elbo(v, x, torch.sum)),
    "beta 0.3": (Beta(beta=0.3), lambda v, x: exact_elbo(v, x, lambda kl: 0.3 * kl.sum())),
    "beta 4": (
        Beta(beta=4.0, particles=2),
        lambda v, x: exact_elbo(v, x, lambda kl: 4 * kl.sum()),
    ),
    "free bits": (FreeBits(nats=1.2), lambda v, x: exact_elbo(v, x, free(1.2, 2))),
    "free bits of 2": (
        FreeBits(nats=1.2, groups=2, particles=2),
        lambda v, x: exact_elbo(v, x, free(1.2, 2)),
    ),
    "free bits together": (
        FreeBits(nats=9.0, groups=1),
        lambda v, x: exact_elbo(v, x, free(9.0, 1)),
    ),
    "stl": (STL(), lambda v, x: exact_elbo(v, x, torch.sum)),
    "stl of 3": (STL(particles=3), lambda v, x: exact_elbo(v, x, torch.sum)),
    "iwae": (IWAE(particles=2), lambda v, x: two_draws_by_quadrature(v, x, 0.0)),
    "dreg": (DReG(particles=2), lambda v, x: two_draws_by_quadrature(v, x, 0.0)),
    "renyi": (Renyi(alpha=0.5, particles=2), lambda v, x: two_draws_by_quadrature(v, x, 0.5)),
    "beta tc": (BetaTC(beta=3.0), lambda v, x: total_correlation_by_quadrature(v, x, 2.0)),
    "beta tc of 2": (
        BetaTC(beta=0.0, particles=2),
        lambda v, x: total_correlation_by_quadrature(v, x, -1.0),
    ),
    "info": (
        Info(alpha=0.75, weight=20.0),
        lambda v, x: discrepancy_in_closed_form(v, x, 0.25, 19.75),
    ),
    "info of 2": (
        Info(alpha=-1.0, weight=7.0, particles=2),
        lambda v, x: discrepancy_in_closed_form(v, x, 2.0, 5.0),
    ),
    "renyi -1": (Renyi(alpha=-1.0, particles=2), lambda v, x: two_draws_by_quadrature(v, x, -1.0)),
}


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("name", EXACT)
def test_value_and_gradient_are_exact_in_mean(name, seed):
    """On a linear-Gaussian VAE, in every parameter: 4 standard errors of 150 repetitions."""
    objective, exact = EXACT[name]
    vae, x, _ = affine(seed)
    expected = exact(vae, x)
    mean, error = sampled(objective, vae, x)
    assert_within(mean, expected, error, floor=1e-9 * expected.abs())


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_iwae_rises_with_the_draws_and_stays_under_the_evidence(seed):
    """4 standard errors of the difference of two means, over 150 repetitions."""
    vae, x, evidence = affine(seed)
    bounds = [sampled(IWAE(particles=k), vae, x, copies=20) for k in (1, 5, 25)]
    for (low, error), (high, other) in itertools.pairwise(bounds):
        assert_finite(high, low, error, other)
        assert high[0] - low[0] > 4 * (error[0] ** 2 + other[0] ** 2).sqrt()
    assert bounds[-1][0][0] < evidence.sum()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("objective", [STL(), STL(particles=3), DReG(particles=3)])
def test_path_gradients_vanish_at_the_exact_posterior(objective, seed):
    vae, x, evidence = affine(seed, diagonal=False)
    for _ in range(5):
        loss = value_and_gradient(objective, vae, x)[0]
        assert abs(loss - evidence.sum()) < 1e-10
        assert all(p.grad.abs().max() < 1e-10 for p in vae.posterior.parameters())
        value_and_gradient(Elbo(), vae, x)
        assert all(1e-3 < p.grad.abs().max() < math.inf for p in vae.posterior.parameters())


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_dreg_has_the_mean_of_iwae_and_less_variance_near_the_optimum(seed):
    """4 standard errors of the difference of two means, over 150 repetitions."""
    vae, x, _ = affine(seed)
    (mean, error), (other, noisy) = (
        sampled(make(particles=10), vae, x, copies=20) for make in (DReG, IWAE)
    )
    assert_within(mean, other, (error.square() + noisy.square()).sqrt())
    encoder = sum(p.numel() for p in vae.posterior.parameters())
    assert error[-encoder:].square().sum() < 0.5 * noisy[-encoder:].square().sum()


@pytest.mark.parametrize("particles", [1, 3])
def test_beta_one_is_the_elbo_to_the_bit(vae, digits, particles):
    plain = Trace_ELBO(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
    )
    loss, expected = gradients(plain, vae, digits)
    for objective in (Elbo(particles=particles), Beta(particles=particles)):
        same_loss, found = gradients(objective, vae, digits)
        assert loss == same_loss
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_weight_may_be_a_tensor(vae, digits):
    number, tensor = Beta(beta=0.5), Beta()
    tensor.weight = torch.tensor(0.5)
    assert gradients(number, vae, digits)[0] == gradients(tensor, vae, digits)[0]


@pytest.mark.parametrize("groups", [None, 1, 2])
def test_no_free_bits_are_the_analytic_elbo(vae, digits, groups):
    loss, expected = gradients(Analytic(), vae, digits)
    same_loss, found = gradients(FreeBits(nats=0.0, groups=groups), vae, digits)
    assert same_loss == pytest.approx(loss, rel=1e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "objective", [Analytic(), FreeBits(nats=0.0, groups=1)], ids=["analytic", "free_bits"]
)
def test_a_missing_closed_form_is_named_once_and_the_divergence_sampled(vae, digits, objective):
    vae.prior = GaussianMixture(2, components=3)
    watched, _ = recording(objective)
    with pytest.warns(
        UserWarning,
        match=r"KL\(Independent Normal \|\| Mixture of Independent Normal\) is known; it",
    ):
        loss, _ = gradients(watched, vae, digits)
    assert gradients(watched, vae, digits)[0] == loss  # warnings are errors: there is no second
    assert loss == pytest.approx(gradients(Trace_ELBO(), vae, digits)[0], rel=1e-5)


def test_relaxed_one_hot_variables_are_sampled_by_the_analytic_objective(network, digits):
    """They have no closed form in training; the discrete ones of eval mode have."""
    posterior = RelaxedCategorical(6, (1, 8, 8), network, classes=3)
    vae = VAE(Categorical(6, classes=3), Bernoulli(6, (1, 8, 8), network), posterior)
    with pytest.warns(
        UserWarning, match=r"KL\(RelaxedOneHots \|\| RelaxedOneHots\) is known; it is"
    ):
        loss, _ = gradients(Analytic(), vae, digits)
    assert loss == pytest.approx(gradients(Trace_ELBO(), vae, digits)[0], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("beta_tc",)])
@pytest.mark.filterwarnings("ignore:no closed form of KL")
def test_objectives_take_relaxed_one_hot_variables_at_low_temperature(network, digits, name):
    """Gradients are finite where many coordinates are at the floor."""
    options = {"classes": 3, "temperature": 0.1, "schedule": "constant"}
    posterior = RelaxedCategorical(6, (1, 8, 8), network, **options)
    prior = Categorical(6, classes=3, weights="learned", temperature=0.1)
    vae = VAE(prior, Bernoulli(6, (1, 8, 8), network), posterior)
    with torch.no_grad():
        for parameter in vae.posterior.parameters():
            parameter *= 10
    z = posterior(digits).sample()
    assert (z == z.min()).float().mean() > 0.1
    objective = FreeBits(groups=1) if name == "free_bits" else OBJECTIVES[name]()
    loss, found = gradients(objective, vae, digits)
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in found)


def test_free_bits_of_each_dimension_are_sampled_where_there_is_no_closed_form(vae, digits):
    loc = torch.zeros(2)
    prior = dist.StudentT(5.0, loc, 1.0).to_event(1)
    vae = VAE(lambda: prior, vae.likelihood, vae.posterior)
    with pytest.warns(UserWarning, match=r"KL\(Normal \|\| StudentT\)"):
        loss, _ = gradients(FreeBits(nats=0.0), vae, digits)
    assert loss == pytest.approx(gradients(Trace_ELBO(), vae, digits)[0], rel=1e-4)


def test_free_bits_of_dimensions_that_depend_on_each_other_are_refused(vae, digits):
    vae.prior = GaussianMixture(2, components=3)
    with pytest.raises(
        ValueError,
        match=r"Mixture of Independent Normal is not independent .* groups to 1",
    ):
        gradients(FreeBits(), vae, digits)
    vae.prior = StandardNormal(2)
    with pytest.raises(ValueError, match="groups must divide the 2 dimensions of z evenly, got 3"):
        gradients(FreeBits(groups=3), vae, digits)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("objective", [STL(), DReG(particles=3)], ids=["stl", "dreg"])
def test_a_posterior_that_remembers_its_draws_has_the_same_gradient(objective, seed):
    """A normal made by a transform that caches: z leads back to its noise, not to its density."""
    vae, x, _ = affine(seed)
    plain = vae.posterior

    def transformed(x):
        q = plain(x)
        move = dist.transforms.AffineTransform(q.mean, q.stddev, event_dim=1, cache_size=1)
        noise = dist.Normal(torch.zeros_like(q.mean), 1.0).to_event(1)
        return dist.TransformedDistribution(noise, [move])

    other = VAE(vae.prior, vae.likelihood, transformed)
    other.parts = plain  # registers its parameters
    results = []
    for each in (vae, other):
        torch.manual_seed(seed)
        value_and_gradient(objective, each, x)
        results.append([p.grad.clone() for p in plain.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_site_outside_the_plate_is_refused_with_the_remedy(vae, digits):
    def model(x):
        pyro.module("vae", vae)
        pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.likelihood(z), obs=x)

    def guide(x):
        vae.guide(x)
        pyro.sample("shift", dist.Normal(torch.tensor(0.0), 1.0))

    for objective in (IWAE(particles=2), Renyi(particles=2), DReG(particles=2)):
        with pytest.raises(ValueError, match=r"'shift' lies outside the plate 'data', .* inside"):
            objective.loss(model, guide, digits)
        assert math.isfinite(objective.loss(vae.model, vae.guide, digits))
    with pytest.raises(ValueError, match=r"stl takes a guide with one site, got 'z', 'shift'"):
        STL().loss(model, guide, digits)


@pytest.mark.parametrize("make", [Analytic, Beta, FreeBits, STL, DReG, BetaTC, Info])
def test_draws_that_cannot_be_differentiated_are_refused(vae, digits, make):
    coin = dist.Bernoulli(torch.full((2,), 0.5)).to_event(1)
    vae = VAE(lambda: coin, vae.likelihood, lambda x: coin.expand((len(x),)))
    with pytest.raises((ValueError, NotImplementedError), match="reparam"):
        gradients(make(), vae, digits)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Elbo, {"particles": 0}, "particles must be at least 1, got 0"),
        (DReG, {"particles": 1}, "particles must be at least 2, got 1; .* stl"),
        (Renyi, {"alpha": 1.0}, r"alpha must be finite and not 1, got 1\.0; .* use elbo"),
        (Beta, {"beta": -1.0}, r"beta must be finite and not negative, got -1\.0"),
        (
            Beta,
            {"schedule": "cosine"},
            "schedule must be one of constant, linear, cyclical, got 'cosine'",
        ),
        (Beta, {"rise": 0.0}, "rise is a fraction, .* schedule to constant"),
        (Beta, {"cycles": 0}, "cycles must be at least 1, got 0"),
        (BetaTC, {"beta": -1.0}, r"beta must be finite and not negative, got -1\.0"),
        (Info, {"alpha": 2.0}, r"alpha must be finite and at most 1, got 2\.0"),
        (Info, {"weight": 0.2}, r"weight must be finite and at least 1 - alpha = 0\.5, got 0\.2"),
        (FreeBits, {"nats": -1.0}, "nats must be finite and not negative"),
        (FreeBits, {"groups": 0}, "groups must be at least 1, or None"),
    ],
)
def test_an_option_outside_its_range_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("objective", [BetaTC(), Info(alpha=0.0)], ids=["beta_tc", "info"])
def test_a_batch_of_one_has_no_term_of_the_aggregate(vae, digits, objective):
    """The last batch of an epoch may be that small."""
    loss, _ = gradients(objective, vae, digits[:1])
    assert loss == pytest.approx(gradients(Elbo(), vae, digits[:1])[0], rel=1e-6)


def test_beta_tc_needs_a_posterior_that_is_independent_in_each_dimension(vae, digits):
    full = VAE(
        vae.prior,
        vae.likelihood,
        lambda x: dist.MultivariateNormal(vae.posterior(x).mean, torch.eye(2)),
    )
    with pytest.raises(ValueError, match=r"beta_tc needs .* got MultivariateNormal; use"):
        gradients(BetaTC(), full, digits)


def test_schedules_of_beta():
    def weights(objective, places):
        found = []
        for place in places:
            objective.at(place)
            found.append(objective.weight)
        return found

    linear = Beta(beta=2.0, schedule="linear", rise=0.25)
    assert linear.weight == 2.0  # until it is told where training is
    assert weights(linear, [0, 0.125, 0.25, 0.5, 1]) == [0.0, 1.0, 2.0, 2.0, 2.0]
    cyclical = Beta(schedule="cyclical", rise=0.5, cycles=2)
    assert weights(cyclical, [0, 0.125, 0.25, 0.375, 0.5, 0.625, 1]) == [0, 0.5, 1, 1, 0, 0.5, 1]
    once = Beta(schedule="cyclical", rise=0.5, cycles=1)
    assert weights(once, [0, 0.25, 0.5, 0.75, 1]) == [0, 0.5, 1, 1, 1]
    assert weights(Beta(beta=3.0), [0, 0.5, 1]) == [3.0, 3.0, 3.0]


@pytest.mark.contract
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_in_a_bare_svi(vae, digits, name):
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), OBJECTIVES[name]())
    losses = [svi.step(digits) for _ in range(60)]
    assert_finite(losses)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert math.isfinite(svi.evaluate_loss(digits))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_trained_by_a_run_and_the_plain_elbo_reported(name, tmp_path):
    model = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}
    training = {"objective": name, "epochs": 4}
    config, data = Config.resolve({"model": model, "training": training})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder, _, trained = start(config, data, tmp_path / "run")
    row = trained.metrics[-1]
    assert_adds_up(row)
    assert (row["objective"] == pytest.approx(row["elbo"])) == (name in ("elbo", "stl", "beta"))
    assert Run.open(folder).config.training["objective"].split(":")[0] == name


def test_an_objective_of_ones_own_is_named_to_train_and_not_to_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_objective.py").write_text(
        "from pyro.infer import Trace_ELBO\n"
        "class Mine(Trace_ELBO):\n"
        "    def __init__(self, *, draws: int = 1) -> None:\n"
        "        super().__init__(num_particles=draws)\n"
    )
    model = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}
    settings = {"model": model, "training": {"objective": "own_objective:Mine", "epochs": 1}}
    with pytest.raises(ValueError, match="the objective own_objective:Mine is code outside"):
        Config.resolve(settings)
    trusted = ["own_objective:Mine"]
    folder, vae, _ = start(*Config.resolve(settings, trusted=trusted), None, trusted=trusted)
    run = Run.open(folder)
    assert run.config.training["objective"] == "own_objective:Mine:draws=1"
    assert same(run.vae(), vae)
    assert len(run.dataset().test) == 359
    run.check_named({"objective": "own_objective:Mine"})
    with pytest.raises(ValueError, match=r"the objective of .* is own_objective:Mine:draws=1, not"):
        run.check_named({"objective": "elbo"})


@pytest.mark.parametrize("steps", [2, 5])
def test_a_scheduled_objective_resumes_to_the_bit(vae, tmp_path, steps):
    data = load("digits", binarization="dynamic")
    options = {"epochs": 3, "batch_size": 500, "device": "cpu"}
    start = {name: value.clone() for name, value in vae.state_dict().items()}
    objective = Beta(beta=4.0, schedule="cyclical", cycles=2)
    with pytest.raises(TrainingInterrupted):
        fit(vae, data, **options, objective=objective, out=tmp_path / "a", report=StopAfter(steps))
    fit(vae, data, **options, objective=objective, out=tmp_path / "a", resume=True)
    resumed = {name: value.clone() for name, value in vae.state_dict().items()}
    assert objective.weight == 4.0  # the caller's object is as it was
    vae.load_state_dict(start)
    result = fit(vae, data, **options, objective=objective)
    assert all(torch.equal(resumed[name], value) for name, value in vae.state_dict().items())
    vae.load_state_dict(start)
    assert fit(vae, data, **options, objective=Beta(beta=4.0)).metrics[0] != result.metrics[0]


def test_the_analytic_objective_knows_the_closed_forms_of_the_ledger(network, digits):
    """torch has none for a full covariance against independent normals; nothing is sampled."""
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), FullNormal(2, shape, network))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(3)
        loss = OBJECTIVES["analytic"]().loss(vae.model, vae.guide, digits)
    torch.manual_seed(3)
    q = vae.posterior(digits)
    reconstruction = vae.likelihood(q.rsample()).log_prob(digits)
    kl = torch.distributions.kl_divergence(
        q, dist.MultivariateNormal(torch.zeros(2), torch.eye(2)).expand((64,))
    )
    assert -loss == pytest.approx((reconstruction - kl).sum().item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5])
def test_a_staged_step_reports_the_renyi_bound_of_its_draws(alpha, vae, digits):
    objective = Renyi(alpha=alpha, particles=3)
    torch.manual_seed(0)
    expected = objective.loss_and_grads(vae.model, vae.guide, digits)
    torch.manual_seed(0)
    (pair,) = objective._get_traces(vae.model, vae.guide, (digits,), {})
    times_particles, _ = objective._differentiable_loss_particle(*pair)
    assert times_particles / 3 == pytest.approx(expected, rel=1e-6)


def test_without_its_weight_the_kl_term_is_left_out(vae, digits):
    losses = []
    for beta in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        losses.append(Beta(beta=beta).loss(vae.model, vae.guide, digits))
    assert losses[0] < losses[2]
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-6)
