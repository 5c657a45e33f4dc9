"""A replay equals the program: same loss, same gradients, fresh noise; or it gives a reason."""

import math
import warnings
from importlib import import_module

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import nn
from torch.nn.utils import get_total_norm

from pyrovae._process.compilation import has_compiler
from pyrovae.data import Split
from pyrovae.evidence import evaluate
from pyrovae.likelihoods import LIKELIHOODS, Bernoulli
from pyrovae.networks import MLP, NETWORKS
from pyrovae.objectives import OBJECTIVES, Beta, Elbo, recording
from pyrovae.posteriors import DiagonalNormal, Point
from pyrovae.priors import StandardNormal
from pyrovae.training.fitting import fit
from pyrovae.training.staging import Staged
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import ELEMENTWISE, EVERY_PAIR, OPTIONS
from tests.models import make_pair as make

compiled = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")


def run(objective, vae, x, seed):
    """Loss and gradients under a seed."""
    vae.zero_grad()
    torch.manual_seed(seed)
    loss = objective.loss_and_grads(vae.model, vae.guide, x)
    gradients = {name: p.grad for name, p in vae.named_parameters()}
    vae.zero_grad()
    return loss, gradients


def assert_same(objective, staged, vae, x):
    """Bit for bit, under three seeds, and with another value for each of them."""
    losses = set()
    staged.loss_and_grads(vae.model, vae.guide, x)
    assert staged.reason is None
    for seed in SEEDS:
        loss, gradients = run(objective, vae, x, seed)
        replayed, found = run(staged, vae, x, seed)
        assert replayed == loss
        assert gradients.keys() == found.keys()
        for name, gradient in gradients.items():
            assert gradient is found[name] is None or torch.equal(gradient, found[name]), name
        losses.add(loss)
    assert len(losses) == (1 if isinstance(vae.posterior, Point) else len(SEEDS))


@pytest.fixture(autouse=True)
def quiet():
    """A program that is not staged warns, and a warning is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no closed form of")
        yield


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_replayed_exactly(name, vae, digits):
    objective = OBJECTIVES[name]()
    assert_same(objective, Staged(objective, vae), vae, digits)


@pytest.mark.parametrize(("prior", "posterior"), EVERY_PAIR)
def test_every_pair_is_replayed_exactly(prior, posterior, digits):
    vae = make(prior, posterior)
    objective = Elbo()
    assert_same(objective, Staged(objective, vae), vae, digits)


VALUES = {
    "bernoulli": lambda x: x,
    "binomial": lambda x: 3 * x,
    "beta_binomial": lambda x: 3 * x,
    "discretized_logistic": lambda x: 3 * x,
    "categorical": lambda x: 3 * x,
    "beta": lambda x: 0.25 + x / 2,
    "log_normal": lambda x: 0.25 + x / 2,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_likelihood_is_replayed_exactly(name, network, digits):
    likelihood = LIKELIHOODS[name](2, (1, 8, 8), network, **OPTIONS.get(name, {}))
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, (1, 8, 8), network))
    objective = Elbo()
    x = VALUES.get(name, lambda x: x)(digits)
    assert_same(objective, Staged(objective, vae), vae, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_replayed_exactly(name, digits):
    network = NETWORKS[name]
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network))
    objective = Elbo()
    assert_same(objective, Staged(objective, vae), vae, digits)


def test_fixed_numbers_are_made_where_the_graph_runs(network, digits):
    """A constant of the host would be copied to a GPU at each replay, and the host would wait."""
    shape = (1, 8, 8)
    likelihood = LIKELIHOODS["negative_binomial"](2, shape, network, dispersion=0.5)
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, shape, network))
    stage = Staged(Elbo(), vae).stage(vae.model, vae.guide, (digits,), {})
    assert [node for node in stage.graph.graph.nodes if node.op == "get_attr"] == []


def test_stock_pyro_and_several_particles_are_replayed_exactly(vae, digits):
    for particles in (1, 3):
        objective = Trace_ELBO(
            num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
        )
        assert_same(objective, Staged(objective, vae), vae, digits)
        pyro.clear_param_store()


def test_the_terms_are_recorded(vae, digits):
    objective, record = recording(Elbo())
    staged = Staged(objective, vae)
    for seed in SEEDS:
        run(objective, vae, digits, seed)
        expected = record.terms
        loss, _ = run(staged, vae, digits, seed)
        assert record.terms == expected
        assert float(record.terms.reconstruction - record.terms.kl) == pytest.approx(
            -loss, rel=1e-5
        )


def test_dropout_draws_anew(digits):
    def network(in_shape, out_shape):
        return MLP(in_shape, out_shape, hidden_dims=(16,), dropout=0.5)

    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network))
    objective = Elbo()
    staged = Staged(objective, vae.train())
    assert_same(objective, staged, vae, digits)
    assert_same(objective, staged, vae.eval(), digits)


def test_scheduled_numbers_are_inputs(vae, digits):
    objective = Beta(schedule="linear", rise=1.0)
    staged = Staged(objective, vae)
    for progress in (0.1, 0.5, 1.0):
        objective.at(progress)
        assert_same(objective, staged, vae, digits)
        assert objective.weight == pytest.approx(progress)


def test_each_shape_of_the_batch_has_its_graph(vae, digits):
    objective = Elbo()
    staged = Staged(objective, vae)
    for size in (64, 10, 64, 1, 10):
        assert_same(objective, staged, vae, digits[:size])
    assert len(staged._stages) == 3


def test_statistics_of_batches_are_kept_as_by_the_program(digits):
    def network(in_shape, out_shape):
        return nn.Sequential(MLP(in_shape, (8,)), nn.BatchNorm1d(8), MLP((8,), out_shape))

    shape, states = (1, 8, 8), []
    for stages in (False, True):
        torch.manual_seed(0)
        pyro.clear_param_store()
        vae = VAE(
            StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network)
        )
        objective = Staged(Elbo(), vae) if stages else Elbo()
        for seed in SEEDS:
            run(objective, vae, digits, seed)
        states.append(vae.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_parameter_may_be_frozen_between_steps(vae, digits):
    objective = Elbo()
    staged = Staged(objective, vae.eval())
    assert_same(objective, staged, vae, digits)
    next(vae.posterior.parameters()).requires_grad_(False)
    assert_same(objective, staged, vae, digits)


def test_another_vae_under_the_same_names_is_reported(make_vae, digits):
    """Pyro's store has one parameter for each name."""
    staged = Staged(Elbo(), make_vae())
    svi = SVI(staged.module.model, staged.module.guide, pyro.optim.Adam({"lr": 0.01}), staged)
    svi.step(digits)
    pyro.clear_param_store()
    other = make_vae()
    Elbo().loss_and_grads(other.model, other.guide, digits)
    with pytest.warns(UserWarning, match="another parameter in Pyro's store is called posterior"):
        svi.step(digits)


@pytest.mark.slow
@compiled
def test_the_norm_is_that_of_the_gradient_or_is_not_given(vae, digits):
    staged = Staged(Elbo(), vae, mode="inductor")
    with pyro.get_param_store().scope():
        staged.loss_and_grads(vae.model, vae.guide, digits)
        norm = get_total_norm([p.grad for p in vae.parameters()])
        torch.testing.assert_close(staged.norm, norm)
        staged.loss_and_grads(vae.model, vae.guide, digits)  # added to the gradient of the first
        assert staged.norm is None


def test_weights_may_be_exchanged_between_steps(vae, digits):
    objective = Elbo()
    staged = Staged(objective, vae)
    assert_same(objective, staged, vae, digits)
    vae.load_state_dict({name: 0.5 * value for name, value in vae.state_dict().items()})
    assert_same(objective, staged, vae, digits)


def test_it_trains_in_a_plain_svi(make_vae, digits):
    """With Pyro's own optimizer, which finds the parameters by their names."""

    def train(stage):
        pyro.clear_param_store()
        vae = make_vae()
        objective = Staged(Elbo(), vae) if stage else Elbo()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), objective)
        torch.manual_seed(5)
        losses = [svi.step(digits[:size]) for size in (64, 64, 10, 64, 10)]
        assert svi.evaluate_loss(digits) > 0
        return losses, vae.state_dict()

    (losses, weights), (replayed, found) = train(False), train(True)
    # the first call of each shape is checked under seeds of its own and leaves the state as it was
    assert replayed == losses
    for name, value in weights.items():
        assert torch.equal(value, found[name]), name


@pytest.fixture
def make_vae(network):
    def make_vae():
        torch.manual_seed(0)
        shape = (1, 8, 8)
        return VAE(
            StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network)
        )

    return make_vae


@pytest.mark.parametrize("objective", [Elbo(), OBJECTIVES["iwae"](particles=3)])
def test_fit_gives_the_same_weights_staged_and_not(make_vae, digits, objective):
    trained = {}
    for mode in ("off", "graph"):
        vae = make_vae()
        metrics = fit(
            vae, digits, epochs=3, batch_size=24, objective=objective, compile=mode, averaging=0.9
        ).metrics
        trained[mode] = vae.state_dict(), [row["elbo"] for row in metrics]
    assert trained["off"][1] == trained["graph"][1]
    for name, value in trained["off"][0].items():
        assert torch.equal(value, trained["graph"][0][name]), name


@compiled
def test_fit_compiled_repeats_itself_and_agrees_with_the_program(make_vae, digits):
    """In double precision: Adam makes steps of full size of a gradient that is rounding alone."""
    trained = []
    for mode in ("inductor", "inductor", "off"):
        vae = make_vae().double()
        fit(vae, digits.double(), epochs=3, batch_size=24, compile=mode)
        trained.append(vae.state_dict())
    first, second, eager = trained
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, eager[name], rtol=0, atol=1e-9, msg=name)


class Branching(VAE):
    """Its structure depends on the numbers."""

    def model(self, x):
        pyro.module("vae", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            if z.sum() > 0:
                z = 2 * z
            pyro.sample("x", self.likelihood(z), obs=x)


class Discrete(nn.Module):
    """A posterior whose draws cannot be differentiated."""

    def __init__(self, network):
        super().__init__()
        self.encoder = network((1, 8, 8), (2,))

    def forward(self, x):
        return dist.Bernoulli(logits=self.encoder(x)).to_event(1)


class Coins(nn.Module):
    def forward(self):
        return dist.Bernoulli(torch.full((2,), 0.5)).to_event(1)


class Hidden(nn.Module):
    """A parameter that is not one of the module."""

    def forward(self):
        return dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1)


class Remembering(nn.Module):
    """It gives another distribution at each call, from Python's memory."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self):
        self.calls += 1
        return dist.Normal(torch.full((2,), float(self.calls)), 1.0).to_event(1)


class Delegating(ELBO):
    """An objective of the user's own that leaves the work to another."""

    def _get_trace(self, *arguments):
        return Elbo()._get_trace(*arguments)

    def loss_and_grads(self, model, guide, *args):
        return Elbo().loss_and_grads(model, guide, *args)


class Doubled(Elbo):
    """Its loss is made elsewhere than where a replay takes it from."""

    def loss_and_grads(self, model, guide, *args):
        return 2 * super().loss_and_grads(model, guide, *args)


class Unscheduled(Elbo):
    def at(self, progress):
        self.weight = progress


def refused(vae, objective, x, reason):
    """It runs eagerly, with one warning that gives the reason."""
    staged = Staged(objective, vae)
    with pytest.warns(UserWarning, match=f"not staged, so steps run eagerly: .*{reason}"):
        staged.loss_and_grads(vae.model, vae.guide, x)
    assert staged.reason is not None
    loss, gradients = run(objective, vae, x, 0)
    again, found = run(staged, vae, x, 0)  # no second warning, which would be an error
    assert again == loss
    for name, gradient in gradients.items():
        assert torch.equal(gradient, found[name])


def test_a_structure_that_depends_on_numbers_is_refused(vae, digits):
    refused(Branching(vae.prior, vae.likelihood, vae.posterior), Elbo(), digits, "")


def test_a_number_in_pythons_memory_is_refused(vae, digits):
    other = VAE(Remembering(), vae.likelihood, vae.posterior)
    staged = Staged(Elbo(), other)
    with pytest.warns(UserWarning, match="a replay gives another"):
        staged.loss_and_grads(other.model, other.guide, digits)


def test_a_hidden_parameter_is_refused(vae, digits):
    other = VAE(Hidden(), vae.likelihood, vae.posterior)
    refused(other, Elbo(), digits, "the parameter loc is not one of the module")


def test_an_objective_of_another_kind_is_refused(vae, digits):
    refused(vae, Delegating(), digits, "Delegating has no _differentiable_loss_particle")
    refused(vae, Doubled(), digits, "a replay gives another loss")


def test_a_schedule_that_does_not_name_its_numbers_is_refused(vae, digits):
    refused(vae, Unscheduled(), digits, "name them in a tuple, scheduled")


def test_a_program_with_other_arguments_is_refused(vae, digits):
    staged = Staged(Elbo(), vae)
    with pytest.warns(UserWarning, match="arguments that are not tensors"):
        staged.loss_and_grads(
            lambda x, flag: vae.model(x), lambda x, flag: vae.guide(x), digits, True
        )


def test_draws_without_reparameterization_are_replayed_or_refused(network, digits):
    """By the score function; a graph has that as well."""
    vae = VAE(Coins(), Bernoulli(2, (1, 8, 8), network), Discrete(network))
    objective = Elbo()
    assert_same(objective, Staged(objective, vae), vae, digits)


def test_a_missing_value_is_the_same_missing_value(vae, digits):
    staged = Staged(Elbo(), vae)
    staged.loss_and_grads(vae.model, vae.guide, digits)
    with torch.no_grad():
        next(vae.likelihood.decoder.parameters()).fill_(math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(run(staged, vae, digits, 0)[0])


def test_nothing_is_left_changed(vae, digits):
    for parameter in vae.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = torch.get_rng_state()
    staged = Staged(Elbo(), vae)
    staged.stage(vae.model, vae.guide, (digits,), {})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in vae.parameters())
    expected = run(Elbo(), vae, digits, 0)[1]
    for parameter in vae.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.manual_seed(0)
    staged.loss_and_grads(vae.model, vae.guide, digits)
    for name, parameter in vae.named_parameters():  # gradients are added to those that are there
        assert torch.equal(parameter.grad, expected[name] + 1)


@pytest.fixture
def moved(monkeypatch):
    """A release of torch in which ``make_fx`` lives elsewhere; torch itself finds it."""
    import_module("torch._dynamo")
    monkeypatch.delattr("torch.fx.experimental.proxy_tensor.make_fx")


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize("mode", ["graph", pytest.param("inductor", marks=compiled)])
def test_fit_runs_eagerly_where_torch_has_moved_make_fx(make_vae, digits, mode):
    options = {"epochs": 2, "batch_size": 24}
    staged, eager = make_vae(), make_vae()
    with pytest.warns(UserWarning, match="not staged, so steps run eagerly: .*make_fx") as said:
        fit(staged, digits, **options, compile=mode)
    assert len(said) == 1
    fit(eager, digits, **options, compile="off")
    for name, value in eager.state_dict().items():
        assert torch.equal(value, staged.state_dict()[name]), name


@pytest.mark.usefixtures("moved")
def test_bounds_run_as_written_where_torch_has_moved_make_fx(vae, digits, monkeypatch):
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.has_compiler", lambda: True)
    data = Split.from_array(digits)
    with pytest.warns(UserWarning, match="not compiled, so draws run as written: .*make_fx"):
        found = evaluate(vae, data, samples=20, compile="inductor")
    assert found == evaluate(vae, data, samples=20, compile="off")


@pytest.mark.parametrize("mode", ["off", "fast"])
def test_an_unknown_mode_is_refused(vae, mode):
    with pytest.raises(ValueError, match=f"mode must be one of graph, inductor, got '{mode}'"):
        Staged(Elbo(), vae, mode=mode)
