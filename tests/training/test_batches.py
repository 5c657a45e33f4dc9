"""Batches of every size: leftovers, batch normalization, averaged statistics, and loaders."""

import json
import os
import re
import signal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyrovae._process import processes
from pyrovae._process.files import read_tensors, write_tensors
from pyrovae._process.isolation import stream
from pyrovae.data import Rows, Source, Split, prepare
from pyrovae.evidence import evaluate
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP, Linear
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.runs import Config
from pyrovae.training import TrainingInterrupted, checkpoint, device_step, fit, loop
from pyrovae.training.checkpoint import TrainingOptions
from pyrovae.training.running_statistics import renew_statistics
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.models import StopAfter
from tests.oracles import assert_finite, same

SHORT = {"epochs": 3, "batch_size": 16, "device": "cpu"}


def plain(*shapes):
    return MLP(*shapes, hidden_dims=(8,))


def normalized(in_shape, out_shape):
    return nn.Sequential(plain(in_shape, (6,)), nn.BatchNorm1d(6), plain((6,), out_shape))


def make(encoder=plain, decoder=plain, seed=0):
    torch.manual_seed(seed)
    return VAE(StandardNormal(2), Normal(2, (4,), decoder), DiagonalNormal(2, (4,), encoder))


def rows(count, seed=0):
    z = np.random.default_rng(seed).normal(size=(count, 5))
    return (z[:, :1] + 0.5 * z[:, 1:]).astype(np.float32)


def sizes_of(monkeypatch, vae, x, **options):
    """How many examples each step of the first epoch has, and what they are."""
    seen = []
    batch = Split.batch

    def watched(self, index, rng=None):
        seen.append(index.tolist())
        return batch(self, index, rng)

    def report(progress):
        if progress.step == 0:
            seen.clear()

    with monkeypatch.context() as patched:
        patched.setattr(Split, "batch", watched)
        result = fit(vae, x, **options, report=report)
    steps = result.metrics[0]["step"]
    return [len(index) for index in seen[:steps]], seen[:steps]


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "expected"),
    [
        (33, 16, False, [16, 17]),
        (33, 16, True, [16, 16]),
        (34, 16, False, [16, 16, 2]),
        (34, 16, True, [16, 16]),
        (32, 16, False, [16, 16]),
        (32, 16, True, [16, 16]),
        (17, 16, False, [17]),
        (3, 2, False, [3]),
        (3, 1, False, [1, 1, 1]),
        (1, 16, False, [1]),
        (5, 16, True, [5]),
        (16, 15, True, [15]),
    ],
)
def test_a_leftover_of_one_joins_the_batch_before_it(monkeypatch, count, size, drop_last, expected):
    options = {"epochs": 2, "batch_size": size, "drop_last": drop_last, "device": "cpu"}
    sizes, seen = sizes_of(monkeypatch, make(), rows(count), **options)
    assert sizes == expected
    order = np.random.default_rng(stream(0, "order", 0)).permutation(count).tolist()
    assert [i for index in seen for i in index] == order[: sum(expected)]


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_examples_that_are_seen_are_counted(drop_last):
    seen = []
    result = fit(make(), rows(33), **SHORT, drop_last=drop_last, report=seen_images(seen))
    assert max(seen) == (32 if drop_last else 33)
    assert [row["step"] for row in result.metrics] == [2, 4, 6]


def seen_images(seen):
    return lambda progress: seen.append(progress.images)


@pytest.mark.parametrize("mode", ["off", "graph"])
@pytest.mark.parametrize("place", ["encoder", "decoder"])
@pytest.mark.parametrize("count", [33, 17, 34, 32])
def test_batch_normalization_trains_whatever_is_left_over(mode, place, count):
    vae = make(**{place: normalized})
    result = fit(vae, rows(count), **SHORT, compile=mode, averaging=0.9)
    assert_finite([row["elbo"] for row in result.metrics])
    assert_finite([evaluate(vae, rows(count), samples=5).log_evidence.value])


def of_images(in_shape, out_shape):
    return nn.Sequential(
        plain(in_shape, (2, 4, 4)),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, out_shape[0], 1),
    )


def test_a_layer_of_one_batch_dimension_gets_one(digits):
    """As from several draws of z for each x, or one z without any."""
    likelihood = Bernoulli(2, (1, 4, 4), of_images).eval()
    z = torch.randn(3, 5, 2)
    found = likelihood(z).mean
    assert found.shape == (3, 5, 1, 4, 4)
    torch.testing.assert_close(found[1], likelihood(z[1]).mean)
    torch.testing.assert_close(found[1, 2], likelihood(z[1, 2]).mean)


@pytest.mark.parametrize(
    ("data", "batch_size"),
    [(rows(1), 16), (rows(20), 1), (DataLoader(torch.from_numpy(rows(33)), 16), 16)],
    ids=["one example", "batches of one", "a loader's last batch"],
)
@pytest.mark.filterwarnings("ignore:the batches of a DataLoader")
def test_batch_normalization_of_a_single_example_is_refused_in_a_line(data, batch_size, tmp_path):
    options = SHORT | {"batch_size": batch_size, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"^a batch has a single example, and batch norm.*more ex"):
        fit(make(decoder=normalized), data, **options)
    loaded = isinstance(data, DataLoader)
    assert (tmp_path / "run").exists() == loaded  # its sizes show when they come
    if not loaded:
        fit(make(), data, **options)


def test_a_signal_that_ends_the_workers_of_a_loader_interrupts_training(tmp_path):
    class Ended(TensorDataset):
        """The first examples for the checks and a step, then what a loader says of lost workers."""

        taken = 0

        def __getitem__(self, index):
            self.taken += 1
            if self.taken == 33 + 17:
                os.kill(os.getpid(), signal.SIGINT)
                raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")
            return super().__getitem__(index)

    loader = DataLoader(Ended(torch.from_numpy(rows(33))), 16)
    with (
        pytest.warns(UserWarning, match="the batches of a DataLoader"),
        pytest.raises(TrainingInterrupted),
    ):
        fit(make(), loader, **SHORT, out=tmp_path / "run")
    about = read_tensors(tmp_path / "run" / "last.safetensors")[1]
    assert about["progress"]["step"] == 1


def test_a_share_of_a_single_example_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "from_first", lambda tensors: None)
    with pytest.raises(ValueError, match="single example, in each of 2 processes"):
        fit(make(decoder=normalized), rows(20), **SHORT | {"batch_size": 3})


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("capture", [None, lambda operations: operations])
def test_a_step_on_the_device_takes_the_sizes_that_a_step_on_the_host_takes(
    monkeypatch, drop_last, capture
):
    options = SHORT | {"drop_last": drop_last, "compile": "graph", "averaging": 0.9}
    host, device = make(), make()
    expected = fit(host, rows(49), **options)
    calls = []
    step = device_step.DeviceOperations.__call__

    def counted(self, index, seed):
        calls.append(len(index))
        return step(self, index, seed)

    monkeypatch.setattr(device_step.DeviceOperations, "__call__", counted)
    monkeypatch.setattr(loop, "DEVICES", {"cpu": capture})
    found = fit(device, rows(49), **options)
    assert calls == ([16] * 8 if drop_last else [16, 17, 16, 16, 17, 16, 16, 17])
    for name, value in host.state_dict().items():
        torch.testing.assert_close(device.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    for row, right in zip(found.metrics, expected.metrics, strict=True):
        assert row["elbo"] == pytest.approx(right["elbo"], rel=1e-4)
        assert row["step"] == right["step"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_joined_batches_resume_to_the_bit(tmp_path, steps):
    options = SHORT | {"averaging": 0.9}
    whole, second = make(encoder=normalized), make(encoder=normalized)
    fit(whole, rows(33), **options)
    with pytest.raises(TrainingInterrupted):
        fit(
            make(encoder=normalized),
            rows(33),
            **options,
            out=tmp_path / "x",
            report=StopAfter(steps),
        )
    fit(second, rows(33), **options, out=tmp_path / "x", resume=True)
    assert same(whole, second)


def test_a_run_that_began_with_a_last_batch_of_one_is_not_resumed(tmp_path):
    """Such runs were written when the leftover of one was a step of its own."""
    fit(make(), rows(33), **SHORT, out=tmp_path / "x")
    tensors, about = read_tensors(tmp_path / "x/last.safetensors")
    about["progress"]["steps_per_epoch"] = 3
    del about["options"]["drop_last"]
    write_tensors(tmp_path / "x/last.safetensors", tensors, about)
    with pytest.raises(ValueError, match=r"has 3 steps in an epoch, got 2: .*joins the batch"):
        fit(make(), rows(33), **SHORT, out=tmp_path / "x", resume=True)


def test_an_older_run_without_the_option_resumes(tmp_path):
    options = SHORT | {"epochs": 4}
    expected = make()
    fit(expected, rows(34), **options)
    with pytest.raises(TrainingInterrupted):
        fit(make(), rows(34), **options, out=tmp_path / "x", report=StopAfter(4))
    tensors, about = read_tensors(tmp_path / "x/last.safetensors")
    del about["options"]["drop_last"]
    write_tensors(tmp_path / "x/last.safetensors", tensors, about)
    resumed = make()
    fit(resumed, rows(34), **options, out=tmp_path / "x", resume=True)
    assert same(expected, resumed)


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_batch_normalization_is_validated_in_eval_mode(seed, averaging, tmp_path):
    x = rows(200, seed)
    data = prepare(Source("x", {"all": Rows(x)}, maximum=None))
    vae = make(encoder=normalized, seed=seed)
    result = fit(vae, data, **SHORT, averaging=averaging, learning_rate=0.01, seed=seed)
    bound = evaluate(vae, data.validation, samples=1, seed=seed)
    assert result.best_validation_elbo == bound.elbo.value
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    evaluate(vae.train(), data.test, samples=3, store=tmp_path / "x" / "store")
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_drop_last_is_a_setting_of_a_run(tmp_path):
    resolved, _ = Config.resolve({"training": {"drop_last": True}})
    assert resolved.training["drop_last"] is True
    assert Config.resolve({"training": {"epochs": 1}})[0].training["drop_last"] is False
    with pytest.raises(ValueError, match="drop_last"):
        Config.resolve({"training": {"drop_last": 3}})


# ---- averaged weights


class Own(nn.Module):
    """A layer of a user's own that subtracts a running mean of its inputs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().reshape(-1, 6).mean(0)
        return x - self.mean


def with_own(in_shape, out_shape):
    return nn.Sequential(plain(in_shape, (6,)), Own(), plain((6,), out_shape))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_averaged_batch_normalization_has_the_statistics_of_its_own_activations(place, seed):
    """All in one batch, so the statistics are those of all activations, to rounding."""
    x = rows(64, seed)
    vae = make(**{place: normalized}, seed=seed)
    fit(
        vae, x, epochs=20, batch_size=64, averaging=0.9, learning_rate=0.03, device="cpu", seed=seed
    )
    network = vae.posterior.encoder if place == "encoder" else vae.likelihood.decoder
    assert network[1].num_batches_tracked == 1
    assert network[1].momentum == 0.1
    if place == "encoder":
        with torch.no_grad():
            inside = network[0](torch.from_numpy(x))
        torch.testing.assert_close(network[1].running_mean, inside.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network[1].running_var, inside.var(0), rtol=1e-4, atol=1e-5)


def below_training(kind, seed):
    """By how much the bound in eval mode lies below that of train mode, in nats."""
    x = rows(256, seed)
    vae = make(encoder=kind, seed=seed)
    options = {"epochs": 12, "batch_size": 32, "learning_rate": 0.05, "schedule": "constant"}
    fit(vae, x, **options, averaging=0.99, device="cpu", seed=seed)
    bound = evaluate(vae, x, samples=50).elbo.value
    vae.train()
    torch.manual_seed(0)
    x = torch.from_numpy(x)
    with torch.no_grad():
        losses = [Trace_ELBO().loss(vae.model, vae.guide, x) / len(x) for _ in range(50)]
    return -np.mean(losses) - bound


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [normalized, with_own])
def test_the_bound_of_averaged_weights_is_sane(kind, seed, monkeypatch):
    """It is that of batches, up to the noise of their statistics; else up to nats below."""
    assert abs(below_training(kind, seed)) < 0.05
    if kind is with_own:
        monkeypatch.setattr(loop, "renew_statistics", lambda *arguments: None)
        assert below_training(kind, seed) > 0.5


def test_what_no_batch_came_through_keeps_its_statistics():
    vae = make()
    vae.unused = nn.BatchNorm1d(3)
    vae.unused.running_mean.fill_(7.0)
    vae.frozen = nn.BatchNorm1d(3, track_running_stats=False)
    renew_statistics(vae.eval(), Trace_ELBO(), [torch.from_numpy(rows(8))])
    assert vae.unused.running_mean.tolist() == [7.0] * 3
    assert vae.unused.momentum == 0.1
    assert not vae.training


def test_without_running_statistics_no_pass_is_made(monkeypatch):
    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr(loop, "renew_statistics", never)
    fit(make(), rows(20), **SHORT, averaging=0.9)  # its prior has buffers, which stay the same
    fit(make(encoder=normalized), rows(20), **SHORT)
    with pytest.raises(AssertionError):
        fit(make(encoder=normalized), rows(20), **SHORT, averaging=0.9)


# ---- forms of the training data


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: np.ma.array(x),
        lambda x: pd.DataFrame(x, columns=list("abcd")),
        scipy.sparse.csr_matrix,
        lambda x: TensorDataset(torch.from_numpy(x)),
        lambda x: TensorDataset(torch.from_numpy(x), torch.arange(len(x))),
    ],
)
def test_every_form_of_the_same_examples_trains_alike(form):
    x = rows(40)
    expected, found = make(), make()
    fit(expected, x, **SHORT)
    fit(found, form(x), **SHORT)
    assert same(expected, found)


def test_gaps_in_a_frame_and_in_a_masked_array_are_missing_in_training():
    x = rows(40).astype(np.float64)
    x[::3, 1] = np.nan
    expected, framed, masked = make(), make(), make()
    fit(expected, x, **SHORT)
    fit(framed, pd.DataFrame(x), **SHORT)
    fit(masked, np.ma.masked_equal(np.where(np.isnan(x), -999.0, x), -999.0), **SHORT)
    assert same(expected, framed)
    assert same(expected, masked)


# ---- loaders


AS_THEY_COME = "batches of a DataLoader are taken as they come"


def loader(x, *further, **options):
    options = {"batch_size": 16} | options
    return DataLoader(TensorDataset(torch.from_numpy(x), *further), **options)


def test_a_loader_trains_on_its_own_batches_in_its_own_order(monkeypatch):
    """The same steps as by hand: each batch seeded as a step is."""
    x = rows(40)
    seen = []
    own = loader(x, torch.arange(40))
    collate = own.collate_fn

    def kept(items):
        batch = collate(items)
        seen.append(batch[1].tolist())
        return batch

    own.collate_fn = kept
    with pytest.warns(UserWarning, match=AS_THEY_COME) as caught:
        result = fit(make(), own, epochs=2, device="cpu")
    assert sum("DataLoader" in str(w.message) for w in caught) == 1
    assert caught[0].filename == __file__
    assert "an epoch is 3 of them" in str(caught[0].message)
    plan = [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert seen == plan * 3  # the first pass is the check
    assert [row["step"] for row in result.metrics] == [3, 6]
    assert result.best_validation_elbo is None


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", ["off", "graph"])
def test_a_loader_that_shuffles_repeats_under_the_same_seed(seed, mode):
    x, found = rows(40, seed), []
    for _ in range(2):
        vae = make(seed=seed)
        torch.rand(7)  # the state of the generator outside does not matter
        fit(vae, loader(x, shuffle=True), epochs=3, seed=seed, device="cpu", compile=mode)
        found.append(vae)
    assert same(*found)
    other = make(seed=seed)
    fit(other, loader(x, shuffle=True), epochs=3, seed=seed + 10, device="cpu", compile=mode)
    assert not same(found[0], other)


@pytest.mark.slow
@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
def test_a_loader_reaches_the_bound_that_its_dataset_reaches():
    x = rows(200)
    bounds = []
    for data in (x, loader(x, shuffle=True, batch_size=50)):
        torch.manual_seed(0)
        vae = VAE(StandardNormal(1), Normal(1, (4,), Linear), DiagonalNormal(1, (4,), Linear))
        fit(vae, data, epochs=300, batch_size=50, learning_rate=0.02, device="cpu", averaging=0.9)
        bounds.append(evaluate(vae, x, samples=200).elbo.value)
    assert abs(bounds[0] - bounds[1]) < 0.02


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_loader_is_interrupted_saved_and_trains_on(tmp_path, steps):
    x, options = rows(40), {"epochs": 3, "device": "cpu", "averaging": 0.9}
    whole, resumed = make(encoder=normalized), make(encoder=normalized)
    expected = fit(whole, loader(x, shuffle=True), **options)
    with pytest.raises(TrainingInterrupted):
        fit(
            make(encoder=normalized),
            loader(x, shuffle=True),
            **options,
            out=tmp_path / "x",
            report=StopAfter(steps),
        )
    about = read_tensors(tmp_path / "x/last.safetensors")[1]
    assert about["progress"]["step"] == steps
    found = fit(resumed, loader(x, shuffle=True), **options, out=tmp_path / "x", resume=True)
    assert [row["step"] for row in found.metrics] == [row["step"] for row in expected.metrics]
    assert_finite([row["elbo"] for row in found.metrics])
    assert same(whole, resumed)  # this loader's order and examples depend on the seed alone
    rows_written = (tmp_path / "x/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows_written] == [1, 2, 3]


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
def test_a_loader_with_a_worker_trains_as_one_without():
    x = rows(40)
    alone, helped = make(), make()
    fit(alone, loader(x), epochs=2, device="cpu")
    fit(helped, loader(x, num_workers=1), epochs=2, device="cpu")
    assert same(alone, helped)


class Endless(IterableDataset):
    """A stream of which an epoch is three batches of five."""

    def __init__(self, length, available):
        self.length, self.available = length, available

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(torch.from_numpy(rows(self.available)))


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}", "ignore:Length of IterableDataset")
@pytest.mark.parametrize("available", [100, 15, 7])
def test_an_epoch_has_as_many_batches_as_the_loader_says(available):
    stream = DataLoader(Endless(15, available), batch_size=5)
    seen = []
    result = fit(make(), stream, epochs=2, device="cpu", report=seen_images(seen))
    assert [row["step"] for row in result.metrics] == [3, 6]
    assert max(seen) == (12 if available == 7 else 15)  # 5 + 2, and 5 of those begun again


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
def test_batches_of_their_own_sizes(tmp_path):
    own = DataLoader(
        TensorDataset(torch.from_numpy(rows(20))),
        batch_sampler=[[0, 1, 2], [3, 4], list(range(5, 20))],
    )
    seen = []
    fit(make(), own, epochs=1, device="cpu", out=tmp_path / "x", report=seen_images(seen))
    assert seen[:4] == [0, 3, 5, 20]
    settings = read_tensors(tmp_path / "x/last.safetensors")[1]["options"]
    assert settings["compile"] == "off"


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
def test_a_resumed_run_keeps_the_length_and_batch_size_of_its_loader(tmp_path):
    x, options = rows(40), {"epochs": 2, "device": "cpu", "out": tmp_path / "x"}
    fit(make(), loader(x), **options)
    assert read_tensors(tmp_path / "x/last.safetensors")[1]["options"]["batch_size"] == 16
    with pytest.raises(ValueError, match="batch_size = 16, got 8"):
        fit(make(), loader(x, batch_size=8), **options, resume=True)
    with pytest.raises(ValueError, match="3 steps in an epoch, got 1: its loader had another"):
        fit(make(), loader(x[:10]), **options, resume=True)
    with pytest.raises(ValueError, match="examples = None, got 40"):
        fit(make(), x, **options, batch_size=16, resume=True)


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
def test_gaps_of_a_loader_show_in_its_first_examples():
    x = rows(1_500)
    x[3, 2] = np.nan
    found = fit(make(), loader(x, batch_size=500), epochs=1, device="cpu")
    assert_finite(found.metrics[0]["elbo"])
    late = rows(1_500)
    late[1_200, 2] = np.nan
    with pytest.raises(ValueError, match=re.escape("step 3 has missing values (NaN), and the")):
        fit(make(), loader(late, batch_size=500), epochs=1, device="cpu")


class Lengthless(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(8, 4))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (DataLoader(Lengthless()), TypeError, "the DataLoader has no length, .*__len__"),
        (DataLoader([{"x": 1}] * 3), TypeError, "batches are of type dict"),
        (DataLoader(Endless(9, 0), batch_size=3), ValueError, "the loader has no batches"),
        (Lengthless(), TypeError, "of type Lengthless"),
        ([[1.0] * 4], TypeError, "of type list"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        fit(make(), data, device="cpu")


def test_a_loader_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr("pyrovae._process.processes.count", lambda: 2)
    with pytest.raises(ValueError, match="trains in one process, and there are several"):
        fit(make(), loader(rows(20)), device="cpu")


@pytest.mark.filterwarnings(f"ignore:the {AS_THEY_COME}")
def test_progress_names_the_batches_of_a_loader(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(make(), loader(rows(40)), epochs=1, device="cpu")
    assert "3 batches of a DataLoader in an epoch" in capsys.readouterr().err


def test_the_number_of_steps(monkeypatch):
    options = TrainingOptions(
        epochs=1,
        batch_size=10,
        drop_last=False,
        learning_rate=1e-3,
        warmup=0.0,
        schedule="cosine",
        weight_decay=0.0,
        clip_norm=None,
        averaging=0.0,
        validate_every=1,
        patience=None,
        compile="off",
        precision="float32",
        seed=0,
    )
    counts = [options.steps_per_epoch(n) for n in (1, 2, 9, 10, 11, 12, 20, 21, 22)]
    assert counts == [1, 1, 1, 1, 1, 2, 2, 2, 3]
    monkeypatch.setattr(processes, "count", lambda: 2)  # each of which needs two of what is left
    assert [options.steps_per_epoch(n) for n in (11, 12, 13, 14, 24)] == [1, 1, 1, 2, 3]


def test_a_batch_size_above_the_number_of_rows_is_that_number(monkeypatch):
    """Where it is decided whether to compile, too, which takes a while."""
    monkeypatch.setattr(checkpoint, "COMPILED_PRODUCTS", 10**10)
    options = SHORT | {"batch_size": 10**30}
    large, exact = make(), make()
    result = fit(large, rows(50), **options)
    assert [row["step"] for row in result.metrics] == [1, 2, 3]
    fit(exact, rows(50), **options | {"batch_size": 50}, compile="off")
    assert same(large, exact)
