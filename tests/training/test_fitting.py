"""Training reaches known optima, repeats to the bit, resumes exactly and leaves nothing behind."""

import copy
import json
import signal
import threading
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from sklearn.datasets import load_diabetes, load_wine
from sklearn.decomposition import PCA
from torch import nn

from pyrovae._process import memory
from pyrovae._process.files import read_tensors
from pyrovae.data import Split, load
from pyrovae.evidence import evaluate
from pyrovae.likelihoods import Bernoulli, Binomial, Normal
from pyrovae.networks import MLP, Linear
from pyrovae.objectives import FreeBits
from pyrovae.posteriors import DiagonalNormal, RelaxedCategorical
from pyrovae.priors import Categorical, GaussianMixture, StandardNormal
from pyrovae.training import TrainingDivergedError, TrainingInterrupted, check, fit
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS
from tests.models import StopAfter
from tests.oracles import assert_adds_up, assert_finite, assert_within, same

SHORT = {"epochs": 3, "batch_size": 24, "warmup": 0.1, "averaging": 0.9, "device": "cpu"}


@pytest.fixture
def make(network):
    """The same untrained VAE of binary 8x8 images, every time."""

    def make(prior=None):
        torch.manual_seed(0)
        shape = (1, 8, 8)
        return VAE(
            prior or StandardNormal(2),
            Bernoulli(2, shape, network),
            DiagonalNormal(2, shape, network),
        )

    return make


def standardized(data):
    return ((data - data.mean(0)) / data.std(0)).astype(np.float32)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize(("load_data", "n"), [(load_wine, 3), (load_diabetes, 2)])
def test_linear_vae_on_standardized_data_reaches_the_score_of_pca(load_data, n, seed):
    """The optimum of the ELBO is the likelihood of probabilistic PCA (Tipping and Bishop)."""
    x = standardized(load_data().data)
    d = x.shape[1]
    torch.manual_seed(seed)
    vae = VAE(StandardNormal(n), Normal(n, (d,), Linear), DiagonalNormal(n, (d,), Linear))
    fit(
        vae,
        x,
        objective=TraceMeanField_ELBO(),
        epochs=700,
        batch_size=len(x),
        learning_rate=0.03,
        averaging=0.9,
        seed=seed,
        device="cpu",
    )
    result = evaluate(vae, Split.from_array(x), samples=1_000)
    score = PCA(n).fit(x).score(x)
    assert abs(result.elbo.value - score) < 0.02
    assert_finite(score)
    assert result.elbo.value < score + 0.005


def test_one_seed_gives_one_result_to_the_bit(make, digits):
    a, b, c = make(), make(), make()
    first = fit(a, digits, **SHORT, seed=3)
    torch.randn(5)
    second = fit(b, digits, **SHORT, seed=3)
    fit(c, digits, **SHORT, seed=4)
    assert same(a, b)
    assert not same(a, c)

    def without_time(rows):
        timed = ("seconds", "images_per_second")
        return [{k: v for k, v in row.items() if k not in timed} for row in rows]

    assert without_time(first.metrics) == without_time(second.metrics)


def test_nothing_global_is_left_changed(make, digits):
    vae = make()
    pyro.param("mine", torch.tensor(7.0))
    torch.manual_seed(11)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    handler, filters = signal.getsignal(signal.SIGINT), list(warnings.filters)
    fit(vae, digits, **SHORT)
    assert dict(pyro.get_param_store().items()) == {"mine": torch.tensor(7.0)}
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert signal.getsignal(signal.SIGINT) is handler
    assert warnings.filters == filters
    assert torch.distributions.Distribution._validate_args is True


def test_two_models_are_trained_in_one_process(make, digits):
    a, b = make(), make()
    fit(a, digits, **SHORT)
    fit(b, digits, **SHORT)
    assert same(a, b)
    assert not same(a, make())


def test_every_parameter_of_a_learned_prior_is_trained(make, digits):
    vae = make(GaussianMixture(2, components=3))
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    fit(vae, digits, **SHORT)
    assert all(not torch.equal(p, before[name]) for name, p in vae.named_parameters())


@pytest.mark.parametrize(
    "objective",
    [
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_any_pyro_objective_trains_and_the_plain_bound_is_reported(make, digits, objective):
    kind = type(objective)
    row = fit(make(), digits, objective=objective, **SHORT).metrics[-1]
    assert_adds_up(row)
    if kind is Trace_ELBO:
        assert row["objective"] == pytest.approx(row["elbo"], rel=1e-5)
    if kind is RenyiELBO:
        assert_finite(row["objective"])
        assert row["objective"] > row["elbo"]  # a tighter bound on the same draws
    assert type(objective) is kind  # the caller's object is as it was


def test_metrics_have_a_row_per_epoch_in_nats_per_example(make, digits, tmp_path):
    result = fit(make(), load("digits", binarization="static"), **SHORT, out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows == result.metrics
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    keys = "epoch step elbo reconstruction kl validation_elbo seconds images_per_second"
    assert set(keys.split()) <= rows[0].keys()
    assert -64 * np.log(2) - 5 < rows[0]["elbo"] < 0


def test_the_best_validation_bound_chooses_the_weights(make):
    data = load("digits", binarization="static")
    vae = make()
    result = fit(vae, data, **SHORT | {"learning_rate": 3e-2, "epochs": 12})
    bounds = [row["validation_elbo"] for row in result.metrics]
    assert result.best_validation_elbo == max(bounds)
    assert result.best_epoch == 1 + bounds.index(max(bounds))
    again = evaluate(vae, data.validation, samples=1, seed=0).elbo.value
    assert again == result.best_validation_elbo


def test_patience_stops_after_so_many_validations_without_gain(make):
    data = load("digits", binarization="static")
    options = SHORT | {"learning_rate": 0.1, "epochs": 60, "schedule": "constant"}
    result = fit(make(), data, **options, patience=3)
    assert result.stopped == "patience"
    assert len(result.metrics) == result.best_epoch + 3 < 60


def test_validate_every_and_the_last_epoch(make):
    data = load("digits", binarization="static")
    result = fit(make(), data, **SHORT | {"epochs": 5}, validate_every=2)
    measured = [row["validation_elbo"] is not None for row in result.metrics]
    assert measured == [False, True, False, True, True]


@pytest.mark.parametrize("steps", [1, 4, 6, 8])
def test_interrupted_and_resumed_equals_uninterrupted(make, tmp_path, steps):
    """64 images in batches of 24: three steps an epoch, so within and at the end of epochs."""
    data = load("digits", binarization="dynamic")
    options = SHORT | {"batch_size": 500}
    whole, first, second = make(), make(), make()
    expected = fit(whole, data, **options)
    with pytest.raises(TrainingInterrupted):
        fit(first, data, **options, out=tmp_path / "run", report=StopAfter(steps))
    result = fit(second, data, **options, out=tmp_path / "run", resume=True)
    assert same(whole, second)
    assert [row["elbo"] for row in result.metrics] == [row["elbo"] for row in expected.metrics]
    assert result.best_epoch == expected.best_epoch
    weights, _ = read_tensors(tmp_path / "run/model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("steps", [2, 5])
def test_a_scheduled_posterior_resumes_to_the_bit(network, tmp_path, steps):
    """The temperature depends on the fraction of the training that is done alone."""

    def relaxed(**options):
        torch.manual_seed(0)
        posterior = RelaxedCategorical(6, (1, 8, 8), network, classes=3, **options)
        return VAE(Categorical(6, classes=3), Bernoulli(6, (1, 8, 8), network), posterior)

    data = load("digits", binarization="dynamic")
    options = SHORT | {"batch_size": 500}
    whole, part, constant = relaxed(), relaxed(), relaxed(schedule="constant")
    temperatures = []

    def note(progress):
        temperatures.append((progress.step, whole.posterior.temperature))

    expected = fit(whole, data, **options, report=note)
    assert dict(temperatures)[7] == pytest.approx(0.5 ** (6 / 9))  # set before the step was made
    assert sorted(temperatures, key=lambda pair: -pair[1]) == sorted(temperatures)
    with pytest.raises(TrainingInterrupted):
        fit(part, data, **options, out=tmp_path / "run", report=StopAfter(steps))
    part = relaxed()
    result = fit(part, data, **options, out=tmp_path / "run", resume=True)
    assert same(whole, part)
    assert [row["elbo"] for row in result.metrics] == [row["elbo"] for row in expected.metrics]
    fit(constant, data, **options)
    assert not same(whole, constant)


def test_any_part_may_have_a_schedule(make, digits):
    vae, called = make(), []
    for part in (vae.prior, vae.likelihood, vae.posterior):
        part.at = called.append
    fit(vae, digits, epochs=2, batch_size=32, device="cpu")
    assert called == [0, 0, 0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75]


def test_max_minutes_stops_and_can_be_resumed(make, digits, tmp_path):
    whole, part = make(), make()
    fit(whole, digits, **SHORT)
    stopped = fit(part, digits, **SHORT, out=tmp_path / "run", max_minutes=1e-9)
    assert stopped.stopped == "max_minutes"
    assert stopped.best_epoch == 0
    assert not same(part, make())  # the weights of its one step
    assert fit(part, digits, **SHORT, out=tmp_path / "run", resume=True).stopped == "finished"
    assert same(whole, part)


def test_a_finished_run_resumes_to_itself(make, digits, tmp_path):
    a, b = make(), make()
    first = fit(a, digits, **SHORT, out=tmp_path / "run")
    assert fit(b, digits, **SHORT, out=tmp_path / "run", resume=True) == first
    assert same(a, b)


def test_resuming_with_other_options_or_another_model_is_refused(make, digits, network, tmp_path):
    fit(make(), digits, **SHORT, out=tmp_path / "run")
    with pytest.raises(ValueError, match="batch_size = 24, got 32; a resumed run keeps"):
        fit(make(), digits, **SHORT | {"batch_size": 32}, out=tmp_path / "run", resume=True)
    other = make(GaussianMixture(2, components=3))
    with pytest.raises(ValueError, match="of another model"):
        fit(other, digits, **SHORT, out=tmp_path / "run", resume=True)
    with pytest.raises(FileExistsError, match="resume that run, or choose another folder"):
        fit(make(), digits, **SHORT, out=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="missing"):
        fit(make(), digits, **SHORT, out=tmp_path / "none", resume=True)


def test_a_file_that_is_no_checkpoint_is_named(make, digits, tmp_path):
    fit(make(), digits, **SHORT, out=tmp_path / "run")
    (tmp_path / "run/model.safetensors").replace(tmp_path / "run/last.safetensors")
    with pytest.raises(ValueError, match=r"last.safetensors is not a file that a run resumes from"):
        fit(make(), digits, **SHORT, out=tmp_path / "run", resume=True)


def test_a_failed_start_leaves_no_folder(make, digits, tmp_path):
    with pytest.raises(ValueError, match="outside the support of Bernoulli"):
        fit(make(), digits / 2, **SHORT, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_divergence_says_where_and_why_and_keeps_the_last_good_weights(make, digits, tmp_path):
    vae = make()
    with pytest.raises(TrainingDivergedError, match=r"at step \d+ \(epoch \d+\): .* learning rate"):
        fit(
            vae,
            digits,
            **SHORT | {"epochs": 200, "warmup": 0.0},
            learning_rate=1e6,
            schedule="constant",
            out=tmp_path / "run",
        )
    assert all(torch.isfinite(p).all() for p in vae.parameters())
    tensors, about = read_tensors(tmp_path / "run/last.safetensors")
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert about["progress"]["step"] >= 1


def test_without_initialize_training_goes_on_from_the_weights_given(make, digits):
    vae = make()
    fit(vae, digits, **SHORT)
    bias = vae.likelihood.decoder.output_bias.detach().clone()
    tiny = SHORT | {"epochs": 1, "averaging": 0.0, "learning_rate": 1e-12}
    fit(vae, digits, **tiny, initialize=False)
    torch.testing.assert_close(vae.likelihood.decoder.output_bias, bias)
    fit(vae, digits, **tiny)
    assert not torch.allclose(vae.likelihood.decoder.output_bias, bias)


def test_averaged_weights_are_the_moving_average(make, digits):
    """With decay 0.5: the young average's decay is (1 + n) / (10 + n), capped there."""
    seen = []
    vae = make()
    options = SHORT | {"averaging": 0.5, "epochs": 2}

    def watch(progress):
        if progress.position:
            seen.append(vae.prior.loc.detach().clone())

    vae.prior = GaussianMixture(2, components=2)
    fit(vae, digits, **options, report=watch)
    average = seen[0]
    for n, weights in enumerate(seen[1:], start=1):
        average = torch.lerp(average, weights, 1 - min(0.5, (1 + n) / (10 + n)))
    torch.testing.assert_close(vae.prior.loc, average)


def test_float64_stays_float64(make, digits):
    vae = make().double()
    fit(vae, digits.double(), **SHORT)
    assert {p.dtype for p in vae.parameters()} == {torch.float64}


def test_progress_is_shown_where_standard_error_is_a_terminal(make, digits, capsys, monkeypatch):
    fit(make(), digits, **SHORT)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(make(), digits, **SHORT)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 3/3" in err
    assert "/s" in err


def test_training_in_a_thread_needs_no_signal_handler(make, digits):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(make(), digits, **SHORT)))
    thread.start()
    thread.join()
    assert results[0].stopped == "finished"


def test_the_user_module_without_initialize_is_left_alone(make, digits):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 64)

        def forward(self, z):
            logits = self.layer(z).unflatten(-1, (1, 8, 8))
            return pyro.distributions.Bernoulli(logits=logits).to_event(3)

    plain, known = Plain(), make()
    before = copy.deepcopy(plain.state_dict())
    bias = known.likelihood.decoder.output_bias.detach().clone()
    still = SHORT | {"epochs": 1, "learning_rate": 1e-30}  # below rounding: no step moves a weight
    for vae in (VAE(StandardNormal(2), plain, known.posterior), known):
        assert_adds_up(fit(vae, digits, **still).metrics[-1])
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not torch.equal(known.likelihood.decoder.output_bias, bias)  # what initialize sets


def test_binomial_counts_train_on_the_embedded_digits(network):
    data = load("digits")
    shape = data.event_shape
    vae = VAE(
        StandardNormal(2),
        Binomial(2, shape, network, total_count=16),
        DiagonalNormal(2, shape, network),
    )
    result = fit(vae, data, **SHORT | {"epochs": 5})
    assert_finite([row["elbo"] for row in result.metrics])
    assert result.metrics[-1]["elbo"] > result.metrics[0]["elbo"] + 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"warmup": 1.0}, "warmup is a fraction"),
        ({"averaging": 1.0}, "averaging must be at least 0 and below 1"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant, got 'linear'"),
        ({"clip_norm": 0.0}, "clip_norm must be positive, or None"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"max_minutes": 0.0}, "max_minutes must be positive"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"seed": -1}, "seed must not be negative"),
        ({"resume": True}, "resume needs out"),
    ],
)
def test_wrong_options_are_refused(make, digits, options, message):
    vae = make()
    with pytest.raises(ValueError, match=message):
        fit(vae, digits, **SHORT | options)
    assert same(vae, make())


def test_an_objective_by_its_name_alone_is_refused(make, digits):
    with pytest.raises(TypeError, match=r"a Pyro ELBO, got 'elbo'; .* Config.objective\(\)"):
        fit(make(), digits, objective="elbo", **SHORT)


def test_what_does_not_go_together_is_refused_before_anything_is_made(vae, digits, tmp_path):
    bad = FreeBits(groups=7)
    with pytest.raises(ValueError, match="groups must divide the 2 dimensions"):
        check(vae, Split.from_array(digits), bad)
    with pytest.raises(ValueError, match="groups must divide the 2 dimensions"):
        fit(vae, digits, objective=bad, epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check(vae, Split.from_array(digits), FreeBits())
    with pytest.raises(ValueError, match=r"outside the support of Bernoulli"):
        check(vae, Split.from_array(digits + 0.5), FreeBits())


def test_training_is_refused_before_memory_runs_out(vae, digits, tmp_path, monkeypatch):
    """Adam keeps two moments beside the gradient, and the best weights are kept too."""
    size = 4 * sum(4 * parameter.numel() for parameter in vae.parameters())
    monkeypatch.setattr(memory, "available", lambda: size)
    fit(vae, digits, epochs=1)
    monkeypatch.setattr(memory, "available", lambda: size - 1)
    with pytest.raises(
        ValueError, match=r"^training 2,\d+ parameters, .* make the networks smaller"
    ):
        fit(vae, digits, epochs=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match="make the networks smaller"):
        check(vae, Split.from_array(digits), Trace_ELBO())
    assert not (tmp_path / "run").exists()


def test_a_check_leaves_everything_as_it_was(vae, digits):
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state, training = torch.get_rng_state(), vae.training
    check(vae, Split.from_array(digits), Trace_ELBO())
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training == training
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize(
    ("units", "scale", "entropy"),
    [([1, 1e3, 1e6], "dimension", -24.9800), ([1e4] * 6, "learned", -63.7750)],
)
def test_raw_units_train_to_the_entropy(units, scale, entropy):
    """Independent normal columns: the bound is minus their entropy, whatever their units."""
    torch.manual_seed(0)
    x = torch.randn(1_000, len(units)) * torch.tensor(units)
    shape = (len(units),)
    vae = VAE(StandardNormal(2), Normal(2, shape, MLP, scale=scale), DiagonalNormal(2, shape, MLP))
    fit(vae, x, epochs=10)
    found = evaluate(vae, Split.from_array(x), samples=5).elbo
    assert_within(found.value, entropy, found.standard_error, floor=0.1)
