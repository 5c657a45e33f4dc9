"""Bounds against the exact evidence of a linear-Gaussian model, and quadrature of a small VAE."""

import math
import warnings
from dataclasses import fields

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae._process import compilation
from pyrovae._process.compilation import has_compiler
from pyrovae.data import Split
from pyrovae.estimates import Estimate
from pyrovae.evidence import (
    Bounds,
    bits_per_dimension,
    bounds,
    evaluate,
    per_example,
    reliable_below,
    weight_statistics,
)
from pyrovae.evidence._draws import Compiled, NotCompiledError, chunk
from pyrovae.evidence.lower_bounds import ROWS
from pyrovae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    BetaBinomial,
    Binomial,
    Categorical,
    DiscretizedLogistic,
)
from pyrovae.networks import NETWORKS, Linear
from pyrovae.posteriors import DiagonalNormal, Point, RelaxedCategorical
from pyrovae.priors import Categorical as CategoricalPrior
from pyrovae.priors import Laplace, StandardNormal
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import (
    ELEMENTWISE,
    EVERY_PAIR,
    SHAPE,
    linear_gaussian,
    loose,
    of_bits,
    with_likelihood,
)
from tests.models import make_pair as make
from tests.oracles import assert_adds_up, assert_finite, assert_no_less, assert_within

compiled = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")


@pytest.mark.parametrize("seed", SEEDS)
def test_all_bounds_are_the_evidence_at_the_exact_posterior(seed):
    vae, x, evidence = linear_gaussian(seed)
    found = bounds(vae, x, 10)
    torch.testing.assert_close(found.elbo, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_evidence, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.reconstruction - found.kl, found.elbo)


@pytest.mark.parametrize("seed", SEEDS)
def test_elbo_misses_the_evidence_by_kl_to_the_exact_posterior(seed):
    """log p(x) - ELBO = KL(q || p(z | x)), within 5 standard errors of 4,000 draws."""
    torch.manual_seed(seed)
    vae, exact = loose(linear_gaussian(seed)[0])
    _, x, evidence = linear_gaussian(seed)
    torch.manual_seed(seed + 10)
    gap = torch.distributions.kl_divergence(vae.posterior(x), exact(x))
    draws = torch.stack([bounds(vae, x, 1).elbo for _ in range(400)])
    error = draws.std(0) / math.sqrt(400)
    assert_within(draws.mean(0), evidence - gap, error, 5)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_importance_weighted_bound_rises_to_the_evidence(seed):
    vae, x, evidence = linear_gaussian(seed)
    vae, _ = loose(vae)
    torch.manual_seed(seed)
    values = {}
    for samples in (1, 10, 100, 2_500):
        repeats = torch.stack([bounds(vae, x, samples).log_evidence.mean() for _ in range(40)])
        values[samples] = repeats.mean(), repeats.std() / math.sqrt(40)
    means = [mean for mean, _ in values.values()]
    assert_finite(means)
    assert means[0] < means[1] < means[2]
    mean, error = values[2_500]
    assert_within(mean, evidence.mean(), error, floor=1e-3)


def test_bounds_of_a_bernoulli_vae_equal_quadrature_over_the_latent_square(vae, digits):
    x = digits[:4]
    axis = torch.linspace(-7, 7, 281)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        log_joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)  # (points, 4)
    exact = log_joint.double().logsumexp(0) + 2 * math.log(0.05)
    found = bounds(vae, x, 20_000)
    torch.testing.assert_close(found.log_evidence, exact, rtol=0, atol=0.1)
    assert_finite(found.elbo, exact)
    assert (found.elbo < exact).all()


def one_hot_vae(latent_dim, classes):
    """A small one with a prior, a likelihood and a posterior away from their start, and data."""
    prior = CategoricalPrior(latent_dim, classes=classes, weights="learned")
    likelihood = Bernoulli(latent_dim, (5,), Linear)
    vae = VAE(prior, likelihood, RelaxedCategorical(latent_dim, (5,), Linear, classes=classes))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    return vae, (torch.rand(8, 5) > 0.5).float()


def repeated(vae, x, samples):
    """Means of both bounds over 40 repetitions, and their standard errors."""
    found = [bounds(vae, x, samples) for _ in range(40)]
    both = torch.stack([torch.stack([each.elbo, each.log_evidence]) for each in found])
    return both.mean(0), both.std(0) / math.sqrt(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_of_a_discrete_latent_lie_below_the_sum_over_its_values_and_reach_it(seed):
    """In eval mode, of two variables of three classes; 4 standard errors of 40 x 2,000 draws."""
    torch.manual_seed(seed)
    vae, x = one_hot_vae(6, 3)
    vae.eval()
    p = vae.prior()
    z = p.enumerate_support()
    log_joint = p.log_prob(z)[:, None] + vae.likelihood(z[:, None]).log_prob(x)  # (9, 8)
    evidence = log_joint.logsumexp(0).double()
    (elbo, weighted), error = repeated(vae, x, 2_000)
    gap = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=vae.posterior(x).log_prob(z[:, None]).T),
        torch.distributions.Categorical(logits=log_joint.T),
    )
    assert_within(elbo, evidence - gap, error[0])
    assert (elbo < evidence).all()
    assert_within(weighted, evidence, error[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_of_its_relaxation_reach_the_relaxed_models_evidence_by_quadrature(seed):
    """In training mode, of one variable of two classes; 4 standard errors of 40 x 2,000 draws."""
    torch.manual_seed(seed)
    vae, x = one_hot_vae(2, 2)
    vae.double()
    x = x.double()
    p = vae.prior()
    odds = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    z = torch.stack([odds.sigmoid(), (-odds).sigmoid()], -1)
    log_z = p.log_prob(z) + z.log().sum(-1)  # dz = z (1 - z) d odds
    log_joint = log_z[:, None] + vae.likelihood(z[:, None]).log_prob(x)
    evidence = log_joint.logsumexp(0) + math.log(odds[1] - odds[0])
    (elbo, weighted), error = repeated(vae, x, 2_000)
    assert_no_less(evidence, elbo, error[0])
    assert_within(weighted, evidence, error[1])


def test_chunks_do_not_change_what_is_estimated(vae, digits):
    """More draws than fit into one product: the mean over all of them, per image."""
    samples = 2 * ROWS + 7
    torch.manual_seed(0)
    found = bounds(vae, digits[:1], samples)
    torch.manual_seed(0)
    q = vae.posterior(digits[:1])
    z = torch.cat([q.sample((n,)) for n in (ROWS, ROWS, 7)])
    log_w = vae.likelihood(z).log_prob(digits[:1]) + vae.prior().log_prob(z) - q.log_prob(z)
    log_w = log_w.detach().double()
    torch.testing.assert_close(found.elbo, log_w.mean(0), rtol=1e-5, atol=1e-5)
    expected = log_w.logsumexp(0) - math.log(samples)
    torch.testing.assert_close(found.log_evidence, expected, rtol=1e-5, atol=1e-5)


def test_statistics_of_the_weights_come_with_the_bounds(vae, digits):
    """They are those of all draws of an image together, over chunks and whole datasets."""
    samples = 2 * ROWS + 7
    torch.manual_seed(0)
    found = bounds(vae, digits[:1], samples)
    torch.manual_seed(0)
    q = vae.posterior(digits[:1])
    z = torch.cat([q.sample((n,)) for n in (ROWS, ROWS, 7)])
    log_w = vae.likelihood(z).log_prob(digits[:1]) + vae.prior().log_prob(z) - q.log_prob(z)
    expected = weight_statistics(log_w.detach().double())
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-4, atol=1e-4)

    data = Split.from_array(digits)
    every, result = per_example(vae, data, samples=50), evaluate(vae, data, samples=50)
    weights = result.weights
    assert weights.minimum_ess == every.ess.min().item()
    assert weights.unreliable == (every.pareto_k > reliable_below(50)).double().mean().item()
    tenth, corrected = weights.at_a_tenth.value, weights.bias_corrected.value
    assert_finite(tenth, corrected)
    assert tenth < every.log_evidence.mean() < corrected
    error = every.standard_error.square().sum().sqrt().item() / 64
    assert weights.sampling_error == pytest.approx(error)
    assert result.log_evidence.sampling_error == weights.sampling_error
    assert evaluate(vae, data, samples=1).weights is None
    assert evaluate(vae, data, samples=9).weights.at_a_tenth is None


def test_evaluate_is_repeatable_and_a_limit_is_a_prefix(vae, digits):
    split = Split.from_array(digits)
    state = torch.get_rng_state()
    whole = evaluate(vae, split, samples=50)
    assert evaluate(vae, split, samples=50) == whole
    assert torch.equal(state, torch.get_rng_state())
    assert evaluate(vae, split, samples=50, seed=1) != whole
    part = evaluate(vae, split, samples=50, limit=40)
    alone = evaluate(vae, Split.from_array(digits[:40]), samples=50)
    assert part == alone
    assert part.examples == 40


def test_an_interrupted_evaluation_goes_on_where_it_was(vae, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.ROWS", 50)
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.EXAMPLES", 5)  # in a batch
    split, path = Split.from_array(digits), tmp_path / "evaluations/10.safetensors"
    whole = evaluate(vae, split, samples=10)

    class StopError(Exception):
        pass

    def stop_after_thirty(count, done=[0]):  # noqa: B006
        done[0] += count
        if done[0] == 30:
            raise StopError

    with pytest.raises(StopError):
        evaluate(vae, split, samples=10, store=path, progress=stop_after_thirty)
    computed = []

    def counting(*arguments, **options):
        computed.append(1)
        return bounds(*arguments, **options)

    monkeypatch.setattr("pyrovae.evidence.lower_bounds.bounds", counting)
    assert evaluate(vae, split, samples=10, store=path) == whole
    assert len(computed) == 1 + 13 - 6  # one to know the model by; 6 of 13 batches were done
    assert evaluate(vae, split, samples=10, store=path, limit=22).examples == 22
    assert len(computed) == 1 + 13 - 6 + 1 + 1  # a batch that the limit cuts has draws of its own


@pytest.mark.parametrize("change", ["weights", "data", "seed", "samples", "prior"])
def test_stored_bounds_of_anything_else_are_not_used(vae, digits, tmp_path, change):
    path = tmp_path / "x.safetensors"
    options = {"samples": 50, "seed": 0}
    evaluate(vae, Split.from_array(digits), **options, store=path)
    if change == "weights":
        with torch.no_grad():
            vae.likelihood.decoder.output_bias.add_(0.1)
    elif change == "prior":
        vae.prior = Laplace(2)
    elif change == "data":
        digits[3, 0, 2, 2] = 1 - digits[3, 0, 2, 2]
    else:
        options[change] += 1
    fresh = evaluate(vae, Split.from_array(digits), **options)
    assert evaluate(vae, Split.from_array(digits), **options, store=path) == fresh


def test_evaluate_reports_means_and_their_standard_errors(vae, digits):
    result = evaluate(vae, Split.from_array(digits), samples=20)
    terms = ("elbo", "reconstruction", "kl")
    assert_adds_up({name: getattr(result, name).value for name in terms})
    assert_finite(result.log_evidence.value)
    assert result.log_evidence.value > result.elbo.value
    assert result.log_evidence.samples == 20
    assert result.log_evidence.kind == "importance-weighted lower bound"
    values = torch.randn(1_000) * 3 + 1
    estimate = Estimate.of(values)
    assert estimate.value == pytest.approx(values.mean().item(), rel=1e-5)
    assert estimate.standard_error == pytest.approx(3 / math.sqrt(1_000), rel=0.1)
    assert evaluate(vae, Split.from_array(digits[:1])).elbo.standard_error is None


def test_evaluate_switches_dropout_off_and_back_on(digits):
    from functools import partial

    from pyrovae.likelihoods import Bernoulli
    from pyrovae.networks import MLP
    from pyrovae.posteriors import DiagonalNormal
    from pyrovae.priors import StandardNormal

    network = partial(MLP, hidden_dims=(32,), dropout=0.5)
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network))
    vae.train()
    evaluated = evaluate(vae, Split.from_array(digits), samples=5)
    assert vae.training
    assert evaluate(vae.eval(), Split.from_array(digits), samples=5) == evaluated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be positive, got 0"),
        ({"limit": 0}, "limit must be positive, got 0"),
    ],
)
def test_wrong_options_are_refused(vae, digits, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(vae, Split.from_array(digits), **options)


def test_a_uniform_code_of_bytes_takes_eight_bits_per_dimension():
    assert bits_per_dimension(-12 * math.log(256), (3, 2, 2)) == pytest.approx(8)
    assert bits_per_dimension(0.0, (5,)) == 0


@pytest.mark.parametrize("event_shape", [(), (3, 0)])
def test_an_observation_without_dimensions_has_no_bits_per_dimension(event_shape):
    with pytest.raises(ValueError, match="at least one dimension, all positive, got"):
        bits_per_dimension(-1.0, event_shape)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_bits_of_likelihoods_of_the_same_levels_are_code_lengths(levels):
    """Each is a probability of the levels, and no code beats the entropy on data of its own."""
    torch.manual_seed(levels)
    likelihoods = {
        "binomial": Binomial(2, (4,), Linear, total_count=levels - 1),
        "beta_binomial": BetaBinomial(2, (4,), Linear, total_count=levels - 1),
        "discretized_logistic": DiscretizedLogistic(2, (4,), Linear, levels=levels),
        "categorical": Categorical(2, (4,), Linear, levels=levels),
    }
    x = torch.arange(float(levels))[:, None].expand(levels, 4).double()
    z = torch.randn(2).double()
    with torch.no_grad():
        log_p = {name: p.double()(z).base_dist.log_prob(x) for name, p in likelihoods.items()}
    for name, values in log_p.items():  # (levels, 4)
        torch.testing.assert_close(values.exp().sum(0), torch.ones(4).double(), msg=name)
    for true in log_p.values():
        bits = {
            name: bits_per_dimension((true.exp() * coded).sum().item(), (4,))
            for name, coded in log_p.items()
        }
        entropy = bits_per_dimension((true.exp() * true).sum().item(), (4,))
        assert min(bits.values()) >= entropy - 1e-12


def test_the_joint_density_at_a_point_is_not_called_a_bound(network, digits):
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), Point(2, shape, network))
    result = evaluate(vae, Split.from_array(digits), samples=5)
    assert "no bound" in result.log_evidence.kind
    assert result.weights is None
    z = vae.encode(digits)
    joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(digits)
    assert result.elbo.value == pytest.approx(joint.mean().item(), rel=1e-5)


def assert_traced(vae, x, monkeypatch):
    """What is traced gives the chunk's own sums to the bit, under three seeds."""
    monkeypatch.setattr("pyrovae.evidence._draws.compiled", lambda graph: graph)
    vae.eval()
    traced = Compiled(vae, x, 4)
    with torch.no_grad():
        for seed in SEEDS:
            data = x.roll(seed, 0)
            torch.manual_seed(seed)
            expected = chunk(vae, vae.prior(), vae.posterior(data), data, 4)
            torch.manual_seed(seed)
            for value, truth in zip(traced(data), expected, strict=True):
                assert torch.equal(value, truth)


@pytest.mark.parametrize(("prior", "posterior"), EVERY_PAIR)
def test_chunks_of_every_pair_are_traced_exactly(prior, posterior, digits, monkeypatch):
    assert_traced(make(prior, posterior), digits[:6], monkeypatch)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_chunks_of_every_likelihood_are_traced_exactly(name, network, digits, monkeypatch):
    x = of_bits(name, digits)
    assert_traced(with_likelihood(name, network), x[:6], monkeypatch)


@pytest.mark.parametrize("name", NETWORKS)
def test_chunks_of_every_network_are_traced_exactly(name, digits, monkeypatch):
    assert_traced(with_likelihood("bernoulli", NETWORKS[name]), digits[:6], monkeypatch)


@pytest.fixture
def ran(monkeypatch):
    """The data that compiled code was run on."""
    seen = []

    def counted(graph):
        run = compilation.compiled(graph)

        def call(*arguments):
            seen.append(arguments)
            return run(*arguments)

        return call

    monkeypatch.setattr("pyrovae.evidence._draws.compiled", counted)
    return seen


def of(name, network):
    if name in LIKELIHOODS:
        return with_likelihood(name, network)
    return make(*name.split())


COMPILED = ["bernoulli", "discretized_logistic", "mixture full", "categorical relaxed_categorical"]


@compiled
@pytest.mark.parametrize(
    "name", [COMPILED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED[1:])]
)
def test_compiled_bounds_are_those_of_the_same_draws_and_repeatable(name, network, digits, ran):
    """Within 0.001 nats of each image's; 64 digits are three whole batches and a part of one."""
    vae, data = of(name, network), Split.from_array(digits)
    options = {"samples": 230, "seed": 3}  # two chunks of 100 draws, and 30 more
    expected = per_example(vae, data, **options, compile="off")
    found = [per_example(vae, data, **options, compile="inductor") for _ in range(2)]
    for field in fields(Bounds):
        value, again = (getattr(each, field.name) for each in found)
        truth = getattr(expected, field.name)
        assert torch.equal(value, again)
        torch.testing.assert_close(value, truth, rtol=0, atol=1e-3)
        torch.testing.assert_close(value[60:], truth[60:], rtol=0, atol=0)  # not a whole batch
    assert len(ran) == 2 * (2 + 3 * 2)  # in each evaluation: 2 checks, 3 batches of 2 chunks


@compiled
def test_a_user_s_own_components_are_compiled(network, digits, ran):
    class Tilted(nn.Module):
        def forward(self):
            return dist.Gumbel(torch.zeros(2), 1.5).to_event(1)

    vae = VAE(Tilted(), Bernoulli(2, SHAPE, network), DiagonalNormal(2, SHAPE, network))
    data = Split.from_array(digits[:20])
    found, expected = (
        evaluate(vae, data, samples=100, compile=mode) for mode in ("inductor", "off")
    )
    assert found.elbo.value == pytest.approx(expected.elbo.value, abs=1e-3)
    assert ran


class Branching(Bernoulli):
    """Its distribution depends on a value, so there is no one graph."""

    def forward(self, z):
        return super().forward(z.abs() if z.sum() > 0 else z)


def test_what_cannot_be_traced_runs_as_written_and_says_why(network, digits, monkeypatch):
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.has_compiler", lambda: True)
    vae = VAE(StandardNormal(2), Branching(2, SHAPE, network), DiagonalNormal(2, SHAPE, network))
    data = Split.from_array(digits)
    with pytest.warns(UserWarning, match="not compiled, so draws run as written: .*[Dd]ata"):
        found = evaluate(vae, data, samples=20, compile="inductor")
    assert found == evaluate(vae, data, samples=20, compile="off")


def test_what_differs_from_the_program_is_not_used(vae, digits, monkeypatch):
    def wrong(graph):
        return lambda x: tuple(value + 0.1 for value in graph(x))

    monkeypatch.setattr("pyrovae.evidence._draws.compiled", wrong)
    with pytest.raises(NotCompiledError, match=r"mean of .* differs by 0.* nats"):
        Compiled(vae, digits[:6], 4)


def test_data_outside_the_support_are_refused_in_later_batches_too(vae, digits, monkeypatch):
    monkeypatch.setattr("pyrovae.evidence._draws.compiled", lambda graph: graph)
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.has_compiler", lambda: True)
    digits[50, 0, 3, 3] = 0.5
    for mode in ("off", "inductor"):
        with pytest.raises(ValueError, match="support"):
            evaluate(vae, Split.from_array(digits), samples=200, compile=mode)


def test_a_store_keeps_compiled_bounds_and_others_apart(vae, digits, tmp_path, monkeypatch):
    """An offset stands for rounding; after a fallback the store is one of bounds as written."""
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.has_compiler", lambda: True)
    monkeypatch.setattr("pyrovae.evidence._draws.ABSOLUTE", 1.0)
    monkeypatch.setattr(
        "pyrovae.evidence._draws.compiled",
        lambda graph: lambda x: tuple(value + 0.1 for value in graph(x)),
    )
    data, path = Split.from_array(digits), tmp_path / "x.safetensors"
    options = {"samples": 100, "store": path}
    rounded = evaluate(vae, data, **options, compile="inductor")
    plain = evaluate(vae, data, **options, compile="off")
    assert plain != rounded
    assert plain == evaluate(vae, data, samples=100, compile="off")
    assert evaluate(vae, data, **options, compile="inductor") == rounded
    with monkeypatch.context() as patch:  # what is stored whole needs no compiler
        patch.setattr("pyrovae.evidence.lower_bounds.Compiled", None)
        assert evaluate(vae, data, **options, compile="inductor") == rounded
    evaluate(vae, data, **options, compile="off", limit=40)
    monkeypatch.setattr("pyrovae.evidence._draws.ABSOLUTE", 0.0)
    with pytest.warns(UserWarning, match="not compiled"):
        assert evaluate(vae, data, **options, compile="inductor") == plain


def test_auto_compiles_where_it_is_worth_it(vae, digits, monkeypatch):
    asked = []

    def refuse(vae, x, draws):
        asked.append((len(x), draws))
        raise NotCompiledError("asked")

    monkeypatch.setattr("pyrovae.evidence.lower_bounds.Compiled", refuse)
    data = Split.from_array(digits)
    work = 64 * 100 * sum(p.numel() for p in vae.parameters())
    for worth, compiler, samples, expected in (
        (work + 1, True, 100, []),
        (work, True, 100, [(20, 100)]),
        (work, False, 100, []),
        (1, True, 1, []),
    ):
        monkeypatch.setattr("pyrovae.evidence.lower_bounds.WORTH", worth)
        monkeypatch.setattr(
            "pyrovae.evidence.lower_bounds.has_compiler", lambda compiler=compiler: compiler
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluate(vae, data, samples=samples)
        assert asked == expected
        asked.clear()
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.has_compiler", lambda: False)
    with pytest.raises(ValueError, match=r"needs a C.. compiler, and there is none"):
        evaluate(vae, data, compile="inductor")
    with pytest.raises(ValueError, match="one of auto, off, inductor, got 'fast'"):
        evaluate(vae, data, compile="fast")
