"""A step that stays on its device equals one of SVI, resumes exactly, and reads nothing back."""

import gc
import json
import os
import signal
import types
import warnings
import weakref

import pyro
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae._process.compilation import has_compiler
from pyrovae._process.files import read_tensors
from pyrovae.data import Dynamic, Resident, load
from pyrovae.likelihoods import Bernoulli, Binomial
from pyrovae.networks import MLP
from pyrovae.objectives import IWAE, Analytic, Beta, Elbo, FreeBits, recording
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import GaussianMixture, StandardNormal, VampPrior
from pyrovae.training import device_step, loop, staging
from pyrovae.training.device_step import DeviceOperations
from pyrovae.training.fitting import fit
from pyrovae.training.loop import TrainingDivergedError, TrainingInterrupted
from pyrovae.training.optim import FusedAdam, MovingAverage
from pyrovae.training.steps import resident_on
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS

SHAPE = (1, 8, 8)
OPTIONS = {"epochs": 3, "batch_size": 60, "averaging": 0.9, "compile": "graph", "device": "cpu"}


def network(*shapes):
    return MLP(*shapes, hidden_dims=(16,))


def make(prior="normal"):
    torch.manual_seed(0)
    posterior = DiagonalNormal(3, SHAPE, network)
    priors = {
        "normal": lambda: StandardNormal(3),
        "mixture": lambda: GaussianMixture(3, components=4),
        "vamp": lambda: VampPrior(posterior, SHAPE, components=5),
    }
    return VAE(priors[prior](), Binomial(3, SHAPE, network, total_count=16), posterior)


def several_runs(operations):
    """What a capture does as far as a CPU can: runs to warm up, one that is recorded, replays."""
    for _ in range(4):
        operations()
    return operations


@pytest.fixture(scope="module")
def digits():
    """200 digits, so that the last batch of an epoch is smaller."""
    split = load("digits").train
    return torch.cat(list(split.batches(100)))[:200]


@pytest.fixture(params=[None, several_runs], ids=["as written", "captured"])
def on_device(request, monkeypatch):
    """Steps stay on the CPU, as they would on a GPU."""
    monkeypatch.setattr(loop, "DEVICES", {"cpu": request.param})
    monkeypatch.setattr(device_step, "READ_STEPS", 3)


@pytest.fixture
def calls(monkeypatch):
    """How many steps stayed on the device."""
    seen = []
    step = DeviceOperations.__call__

    def watched(self, index, seed):
        seen.append(len(index))
        return step(self, index, seed)

    monkeypatch.setattr(DeviceOperations, "__call__", watched)
    return seen


def numbers(result):
    names = ("step", "elbo", "reconstruction", "kl", "objective")
    return [[row[name] for name in names] for row in result.metrics]


@pytest.mark.parametrize(
    ("objective", "prior", "options"),
    [
        (Elbo(), "normal", {}),
        pytest.param(Elbo(particles=3), "mixture", {"averaging": 0.0}, marks=pytest.mark.slow),
        (Analytic(), "normal", {"clip_norm": 1.0, "weight_decay": 0.1}),
        pytest.param(
            Beta(beta=2.0, schedule="linear"),
            "vamp",
            {"schedule": "constant"},
            marks=pytest.mark.slow,
        ),
        pytest.param(IWAE(particles=4), "normal", {"clip_norm": 1e6}, marks=pytest.mark.slow),
        pytest.param(FreeBits(), "normal", {"batch_size": 77}, marks=pytest.mark.slow),
    ],
)
def test_steps_are_those_of_svi_but_for_rounding(
    on_device, calls, digits, monkeypatch, objective, prior, options
):
    on, off = make(prior), make(prior)
    kept = fit(on, digits, objective=objective, **OPTIONS | options)
    assert len(calls) == kept.metrics[-1]["step"] - 1  # the first step is Pyro's
    monkeypatch.setattr(loop, "DEVICES", {})
    result = fit(off, digits, objective=objective, **OPTIONS | options)
    torch.testing.assert_close(on.state_dict(), off.state_dict(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(numbers(kept), numbers(result), atol=1e-3, rtol=1e-5)


def test_a_batch_of_all_data_is_captured(calls, digits, monkeypatch):
    captured = []

    def capture(operations):
        captured.append(operations)
        return several_runs(operations)

    monkeypatch.setattr(loop, "DEVICES", {"cpu": capture})
    fit(make(), digits, **OPTIONS | {"batch_size": 1_000, "epochs": 4})
    assert (calls, len(captured)) == ([200] * 3, 1)


def test_data_that_are_too_large_for_a_gpu_stay_where_they_are_and_a_line_says_so(monkeypatch):
    split = load("digits").train
    sizes = types.SimpleNamespace(total_memory=4 * split.resident_bytes() - 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: sizes)
    with pytest.warns(UserWarning, match=r"take 0.0 GiB, more than a share of 25% .* main memory"):
        assert resident_on(torch.device("cuda"), split) is None


def test_float64_stays_float64(on_device, calls, digits, monkeypatch):
    on, off = make().double(), make().double()
    fit(on, digits.double(), **OPTIONS)
    assert len(calls) == 3 * 4 - 1
    monkeypatch.setattr(loop, "DEVICES", {})
    fit(off, digits.double(), **OPTIONS)
    assert {p.dtype for p in on.parameters()} == {torch.float64}
    torch.testing.assert_close(on.state_dict(), off.state_dict(), atol=1e-7, rtol=1e-6)


@pytest.mark.slow
def test_compiled_steps_stay_as_well(on_device, calls, digits):
    if not has_compiler():
        pytest.skip("no C++ compiler")
    graph, compiled = make().double(), make().double()
    fit(graph, digits.double(), **OPTIONS)
    fit(compiled, digits.double(), **OPTIONS | {"compile": "inductor"})
    assert len(calls) == 2 * (3 * 4 - 1)
    torch.testing.assert_close(graph.state_dict(), compiled.state_dict(), atol=1e-9, rtol=0)


def raise_signal():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(  # 4 and 8 end an epoch
    "stop", [1, 4, 7, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 6, 8))]
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(on_device, digits, tmp_path, stop):
    whole, resumed = make(), make()
    expected = fit(whole, digits, **OPTIONS)

    def interrupt(progress):
        if progress.step == stop and (progress.position or stop % 4 == 0):
            raise_signal()

    with pytest.raises(TrainingInterrupted):
        fit(make(), digits, **OPTIONS, out=tmp_path / "run", report=interrupt)
    _, about = read_tensors(tmp_path / "run" / "last.safetensors")
    assert about["progress"]["step"] in (stop, stop + 1)
    result = fit(resumed, digits, **OPTIONS, out=tmp_path / "run", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert numbers(result) == numbers(expected)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_bits_are_drawn_on_the_device_and_one_seed_gives_one_result(
    on_device, calls, monkeypatch, seed
):
    data = load("digits", binarization="dynamic")

    def trained(seed):
        torch.manual_seed(0)
        vae = VAE(
            StandardNormal(3), Bernoulli(3, SHAPE, network), DiagonalNormal(3, SHAPE, network)
        )
        return fit(vae, data, **OPTIONS | {"epochs": 8}, seed=seed)

    first, second = trained(seed), trained(seed)
    assert numbers(first) == numbers(second)
    assert numbers(first) != numbers(trained(seed + 1))
    monkeypatch.setattr(loop, "DEVICES", {})
    host = trained(seed)  # other bits of the same probabilities
    assert abs(first.metrics[-1]["elbo"] - host.metrics[-1]["elbo"]) < 0.5
    assert numbers(first) != numbers(host)


def test_divergence_is_found_at_its_step_and_the_weights_before_are_kept(
    on_device, digits, tmp_path, monkeypatch
):
    """At step 7 the gradient is not finite, and the device is not read before step 8."""

    monkeypatch.setattr(device_step, "READ_STEPS", 100)
    with pytest.raises(TrainingDivergedError, match=r"step 7 \(epoch 2\): the gradient is not"):
        fit(make(), digits, objective=Exploding(), **OPTIONS, out=tmp_path / "device")
    tensors, about = read_tensors(tmp_path / "device" / "last.safetensors")
    assert about["progress"]["step"] == 6
    assert (about["progress"]["position"], about["progress"]["images"]) == (2, 120)
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())

    def interrupt(progress):
        if progress.step == 6:
            raise_signal()

    with pytest.raises(TrainingInterrupted):
        fit(make(), digits, **OPTIONS, out=tmp_path / "whole", report=interrupt)
    before, _ = read_tensors(tmp_path / "whole" / "last.safetensors")
    torch.testing.assert_close(tensors, before)


class Counted(nn.Module):
    """A network that counts its batches in a buffer, as batch normalization does."""

    def __init__(self, *shapes):
        super().__init__()
        self.network = network(*shapes)
        self.register_buffer("batches", torch.tensor(0.0))

    def forward(self, x):
        if self.training:
            self.batches += 1
        return self.network(x)


class Exploding(Elbo):
    """Its surrogate is infinite from step 7 of 12 on."""

    scheduled = ("factor",)
    factor = 1.0

    def at(self, progress):
        self.factor = 1.0 if progress < 0.45 else float("inf")

    def _differentiable_loss_particle(self, model_trace, guide_trace):
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss, surrogate * self.factor


def test_buffers_stay_as_before_the_step_that_failed(on_device, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(device_step, "READ_STEPS", 100)
    torch.manual_seed(0)
    posterior = DiagonalNormal(3, SHAPE, Counted)
    vae = VAE(StandardNormal(3), Binomial(3, SHAPE, network, total_count=16), posterior)
    options = OPTIONS | {"out": tmp_path / "run"}
    with pytest.raises(TrainingDivergedError, match="step 7 "):
        fit(vae, digits, objective=Exploding(), **options)
    tensors, _ = read_tensors(tmp_path / "run" / "last.safetensors")
    assert tensors["vae.posterior.encoder.batches"] == 6
    assert tensors["average.module.posterior.encoder.batches"] == 6


def test_a_divergence_that_the_last_saving_finds_is_one(on_device, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(device_step, "READ_STEPS", 100)

    def late(progress):
        if progress.step == 7:
            progress.seconds = 1e9

    options = OPTIONS | {"max_minutes": 1e6, "out": tmp_path / "run"}
    with pytest.raises(TrainingDivergedError, match="step 7 "):
        fit(make(), digits, objective=Exploding(), report=late, **options)


def test_a_step_is_gone_when_training_ends(digits, monkeypatch):
    """Its graph is not freed by chance, while the graph of another training is captured."""
    steps = []
    init = DeviceOperations.__init__

    def watched(self, *args, **kwargs):
        steps.append(weakref.ref(self))
        init(self, *args, **kwargs)

    monkeypatch.setattr(loop, "DEVICES", {"cpu": None})
    monkeypatch.setattr(DeviceOperations, "__init__", watched)
    gc.disable()
    try:
        fit(make(), digits, **OPTIONS)
        assert [step() for step in steps] == [None]
    finally:
        gc.enable()


def test_what_cannot_be_staged_runs_as_pyro_runs_it(on_device, calls, digits, monkeypatch):
    class Branching(Elbo):
        """Its loss depends on which numbers were drawn, by an if."""

        def _differentiable_loss_particle(self, model_trace, guide_trace):
            if guide_trace.nodes["z"]["value"].sum() > 0:
                return super()._differentiable_loss_particle(model_trace, guide_trace)
            return super()._differentiable_loss_particle(model_trace, guide_trace)

    on, off = make(), make()
    with pytest.warns(UserWarning, match="not staged, so steps run eagerly"):
        kept = fit(on, digits, objective=Branching(), **OPTIONS)
    assert calls == []
    monkeypatch.setattr(loop, "DEVICES", {})
    result = fit(off, digits, objective=Branching(), **OPTIONS | {"compile": "off"})
    torch.testing.assert_close(on.state_dict(), off.state_dict())
    torch.testing.assert_close(numbers(kept), numbers(result))


def test_a_step_that_cannot_be_captured_says_so_once_and_runs_as_written(digits, monkeypatch):
    def refuses(operations):
        operations()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    results = []
    for capture in (None, refuses):
        monkeypatch.setattr(loop, "DEVICES", {"cpu": capture})
        vae = make()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(numbers(fit(vae, digits, **OPTIONS)))
    (warning,) = caught
    assert str(warning.message) == (
        "steps are not captured: RuntimeError: operation not permitted when stream is capturing"
    )
    assert results[0] == results[1]


class Asked(TorchDispatchMode):
    """Counts the numbers that the host asks for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_host_asks_for_nothing_in_a_step(digits, monkeypatch):
    monkeypatch.setattr(loop, "DEVICES", {"cpu": None})
    seen = []
    step = DeviceOperations.__call__

    def watched(self, index, seed):
        if len(index) not in self.stages:  # a graph is made and checked
            return step(self, index, seed)
        average, self.average = self.average, None
        with Asked() as asked:
            done = step(self, index, seed)
        self.average = average
        seen.append(asked.count)
        return done

    monkeypatch.setattr(DeviceOperations, "__call__", watched)
    fit(make("mixture"), digits, **OPTIONS | {"clip_norm": 1.0})
    assert len(seen) > 5
    assert not any(seen)


def test_on_a_gpu_in_name_no_number_comes_from_elsewhere(monkeypatch):
    """All operations but Adam's own, on tensors of a GPU that have no numbers.

    Whatever asks for a number there raises an error, and so does what mixes devices.
    """
    gpu = torch.device("cuda")
    torch.manual_seed(0)
    vae, averaged = (
        VAE(
            GaussianMixture(3, components=4),
            Bernoulli(3, SHAPE, network),
            DiagonalNormal(3, SHAPE, network),
        )
        for _ in range(2)
    )
    objective, _ = recording(Beta(schedule="linear"))
    program = staging.Program(objective, vae, vae.model, vae.guide)
    graphs = {}
    for size in (20, 7):
        x = (torch.rand(size, *SHAPE) < 0.5).float()
        graph = staging._trace(program, list(vae.parameters()), (x,))
        graphs[size] = staging._without_norm(graph)
        for node in graphs[size].graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": gpu}
        graphs[size].recompile()

    def find(x):
        program = staging.Program(objective, vae, vae.model, vae.guide)
        return staging.Stage(program, graphs[len(x)], list(vae.parameters()), {})

    monkeypatch.setattr(device_step, "seed_device", lambda device, seed: None)
    monkeypatch.setattr(MovingAverage, "current_decay", lambda self: 0.9)
    with pyro.validation_enabled(False), FakeTensorMode(allow_non_fake_inputs=False):
        for module in (*vae.modules(), *averaged.modules()):
            for name, p in module._parameters.items():
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, device=gpu))
            for name, b in module._buffers.items():
                if b is not None:
                    module._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=gpu)
        optimizer = FusedAdam(vae.parameters(), learning_rate=1e-3, total_steps=9, clip_norm=1.0)
        updates = []

        def adam():
            (rate,) = {
                id(group["lr"]): group["lr"] for group in optimizer.adam.param_groups
            }.values()
            failed = optimizer.adam.found_inf
            gradients = [p.grad for p in optimizer.parameters]
            devices = {t.device.type for t in (rate, failed, *gradients)}
            updates.append((devices, rate.dtype, failed.dtype, failed.dim()))

        monkeypatch.setattr(optimizer.adam, "step", adam)
        data = Resident(torch.empty(50, *SHAPE, dtype=torch.uint8, device=gpu), Dynamic(16))
        monkeypatch.setattr("copy.deepcopy", lambda module: averaged)
        average = MovingAverage(vae, 0.9)
        state = types.SimpleNamespace(vae=vae, optimizer=optimizer, average=average)
        step = DeviceOperations(find, state, data, batch_size=20, capture=None)
        for rows in (20, 20, 7):
            assert step(torch.arange(rows, device=gpu), 0)
        with pytest.raises(DataDependentOutputException):
            step.read()  # which does ask
    assert updates == 3 * [({"cuda"}, torch.float32, torch.float32, 0)]
    assert all(group["capturable"] for group in optimizer.adam.param_groups)


def test_metrics_are_written_as_they_are_read(on_device, digits, tmp_path):
    result = fit(make(), digits, **OPTIONS, out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == result.metrics
    assert all(row["images_per_second"] > 0 for row in rows)
