"""Two processes are one: the same losses, each datum once, one writer, one end."""

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.distributed import TCPStore

from pyrovae._process import processes
from pyrovae._process.files import read_tensors, write_tensors
from pyrovae._process.isolation import stream
from pyrovae.cli import app
from pyrovae.data import Split, load
from pyrovae.evidence import bounds, evaluate, per_example
from pyrovae.likelihoods import Bernoulli, Binomial
from pyrovae.networks import MLP
from pyrovae.objectives import OBJECTIVES
from pyrovae.posteriors import DiagonalNormal, Point
from pyrovae.priors import StandardNormal
from pyrovae.runs import Config, Run, as_json, start
from pyrovae.training import TrainingInterrupted, fit
from pyrovae.training.steps import training_device
from pyrovae.vae import VAE
from tests.conftest import SEEDS
from tests.oracles import assert_within

pytestmark = pytest.mark.xdist_group("processes")  # one process makes its runs once

PATH = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
SECONDS = 300  # after which a process is taken to hang
SHAPE = (1, 8, 8)
ROWS = 81  # in batches of 16: the last one has 17, of which the second process has 8
OPTIONS = {"epochs": 3, "batch_size": 16, "averaging": 0.9, "device": "cpu"}
CLIP = {"clip_norm": 20.0, "weight_decay": 0.1, "learning_rate": 0.01}
RUN = {
    "model": {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2},
    "training": {"epochs": 1, "compile": "off"},
}
SMALL = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", "2")


def network(*shapes):
    return MLP(*shapes, hidden_dims=(16,))


def make(posterior=DiagonalNormal, likelihood=Binomial):
    torch.manual_seed(0)
    options = {"total_count": 16} if likelihood is Binomial else {}
    return VAE(
        StandardNormal(2),
        likelihood(2, SHAPE, network, **options),
        posterior(2, SHAPE, network),
    )


def digits():
    from sklearn.datasets import load_digits

    return load_digits().images[:ROWS, None].astype(np.float32)


class Unused(nn.Module):
    """A prior with a parameter that has no gradient, which weight decay must leave alone."""

    def __init__(self):
        super().__init__()
        self.prior = StandardNormal(2)
        self.unused = nn.Parameter(torch.ones(3, 3))

    def forward(self):
        return self.prior()


def normalized(*shapes):
    return nn.Sequential(network(shapes[0], (8,)), nn.BatchNorm1d(8), network((8,), shapes[1]))


def deterministic(mode, examples=ROWS):
    """A training without noise: what happened, and the weights that came out."""
    vae = make(Point)
    vae.prior = Unused()
    result = fit(vae, digits()[:examples], **OPTIONS, **CLIP, compile=mode)
    names = ("step", "elbo", "reconstruction", "kl", "objective")
    return [{name: row[name] for name in names} for row in result.metrics], vae.state_dict()


def noisy(seed):
    """Losses of a VAE that hardly moves, on bits that are drawn anew: equal up to noise."""
    data = load("digits", binarization="dynamic").train
    options = OPTIONS | {"epochs": 12, "batch_size": 629, "learning_rate": 1e-12}
    vae = make(likelihood=Bernoulli)
    return [row["elbo"] for row in fit(vae, data, **options, compile="off", seed=seed).metrics]


def evaluated(store=None, limit=77):
    return per_example(
        make(), Split.from_array(digits()), samples=300, limit=limit, seed=5, store=store
    )


def without_time(row):
    return {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}


def interrupt_at(step, process):
    """Ctrl-C after a step, heard at the next: after 4 and 5, the last and first of an epoch."""

    def report(progress):
        at = progress.step == step and progress.position > 0
        if at and processes.rank() == process:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def work(folder):
    """What each of two processes does, all in one start; its findings go to files of its own."""
    torch.set_num_threads(1)
    with processes.joined(), processes.joined():
        rank = processes.rank()
        found = {"rank": rank, "count": processes.count()}
        found["text"] = processes.text_of_first("näher" if rank == 0 else "x")
        values = [torch.full((2, 3), 1.0 + rank), torch.tensor(5), torch.zeros(0)]
        found["sums"] = [s.tolist() for s in processes.summed(values)]
        seen = []
        batch = Split.batch

        def watched(self, index, rng=None):
            seen.append(index.tolist())
            return batch(self, index, rng)

        for mode in ("off", "graph"):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Split, "batch", watched)
                found[mode], weights = deterministic(mode)
            write_tensors(folder / f"{mode}-{rank}", weights)
        found["seen"] = seen
        found["one"], weights = deterministic("off", examples=1)
        write_tensors(folder / f"one-{rank}", weights)
        torch.manual_seed(0)
        means = VAE(
            StandardNormal(2),
            Binomial(2, SHAPE, network, total_count=16),
            DiagonalNormal(2, SHAPE, normalized),
        )
        fit(means, digits(), **OPTIONS)
        write_tensors(folder / f"means-{rank}", means.state_dict())
        # three are left over, which would be two and one
        found["left"] = fit(means, digits()[:19], **OPTIONS).metrics[-1]["step"]
        torch.manual_seed(100 + rank)
        different = make()
        with torch.no_grad():
            for parameter in different.parameters():
                parameter.normal_(std=0.1)
        fit(different, digits(), **OPTIONS, initialize=False)
        write_tensors(folder / f"different-{rank}", different.state_dict())
        found["noisy"] = [noisy(seed) for seed in SEEDS]
        write_tensors(folder / f"bounds-{rank}", vars(evaluated()))
        evaluated(folder / "store", limit=20)
        write_tensors(folder / f"continued-{rank}", vars(evaluated(folder / "store")))
        for step, process in ((4, 1), (5, 0), (8, 1)):
            run = folder / f"run-{step}"
            with pytest.raises(TrainingInterrupted):
                fit(make(), digits(), **OPTIONS, out=run, report=interrupt_at(step, process))
            files = {"at": sorted(os.listdir(run)), "step": last(run)["progress"]["step"]}
            found[f"run-{step}"] = files
            processes.wait()
            vae = make()
            fit(vae, digits(), **OPTIONS, out=run, resume=True)
            write_tensors(folder / f"resumed-{step}-{rank}", vae.state_dict())
        config = Config.resolve(RUN)
        start(*config, folder / "run")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            arguments = ["evaluate", str(folder / "run"), "--samples", "100", "--json"]
            app.cli(arguments, standalone_mode=False)
        found["printed"] = printed.getvalue()
        whole = make()
        result = fit(whole, digits(), **OPTIONS, out=folder / "whole")
        found["whole"] = [without_time(row) for row in result.metrics]
        write_tensors(folder / f"whole-{rank}", whole.state_dict())
        out_of_time = fit(make(), digits(), **OPTIONS, max_minutes=1e-9)
        found["stopped"] = out_of_time.stopped
        refused = []
        for name in ("free_bits", "beta_tc", "info"):
            with pytest.raises(ValueError, match="depends on a batch as a whole") as caught:
                fit(make(), digits(), objective=OBJECTIVES[name](), **OPTIONS)
            refused.append(str(caught.value))
        found["refused"] = refused
    with processes.joined():
        found["after"] = processes.summed([torch.ones(1)])[0].item()
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


def last(run):
    return read_tensors(run / "last.safetensors")[1]


@dataclass
class Result:
    status: int
    out: str
    err: str


def together(*arguments, folder):
    """Start two processes as torchrun does, and wait for both."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "PYTHONPATH": PATH}
    place |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", *map(str, arguments)],
                    env=os.environ | place | {"RANK": str(r), "LOCAL_RANK": str(r)},
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for r in range(2)
        ]
        try:
            said = [process.communicate(timeout=SECONDS) for process in started]
        finally:
            for process in started:
                process.kill()
    return [Result(p.returncode, *words) for p, words in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder of findings of two processes, and what each found."""
    folder = tmp_path_factory.mktemp("pair")
    code = (
        f"import pathlib, tests.process.test_processes as t; t.work(pathlib.Path({str(folder)!r}))"
    )
    for result in together("-c", code, folder=folder):
        assert (result.status, result.out) == (0, ""), result.err
    return folder, [json.loads((folder / f"found-{r}.json").read_text()) for r in range(2)]


def weights(path):
    return read_tensors(path)[0]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_processes_know_each_other(pair):
    for rank, found in enumerate(pair[1]):
        assert (found["rank"], found["count"], found["text"]) == (rank, 2, "näher")
        assert found["sums"] == [[[3.0] * 3] * 2, 10, []]
        assert found["after"] == 2.0  # joined again


@pytest.mark.parametrize("mode", ["off", "graph"])
def test_losses_and_weights_are_those_of_one_process_but_for_rounding(pair, mode):
    folder, found = pair
    rows, alone = deterministic(mode)
    assert found[0][mode] == found[1][mode]
    for row, expected in zip(found[0][mode], rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    together = weights(folder / f"{mode}-0")
    assert equal(together, weights(folder / f"{mode}-1"))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
    assert torch.equal(together["prior.unused"], torch.ones(3, 3))


def test_each_datum_is_seen_once_in_an_epoch_by_one_process(pair):
    steps = ROWS // OPTIONS["batch_size"]
    seen = [found["seen"][-3 * steps :] for found in pair[1]]
    for epoch in range(3):
        part = slice(epoch * steps, (epoch + 1) * steps)
        indices = [i for process in seen for index in process[part] for i in index]
        assert sorted(indices) == list(range(ROWS))
        assert [len(index) for index in seen[0][part]] == [8] * 4 + [9]
        assert [len(index) for index in seen[1][part]] == [8] * 5


def test_a_process_may_have_no_share_of_a_batch(pair):
    folder, found = pair
    rows, alone = deterministic("off", examples=1)
    for row, expected in zip(found[0]["one"], rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    together = weights(folder / "one-0")
    assert equal(together, weights(folder / "one-1"))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)


def test_statistics_of_averaged_weights_are_the_same_in_each_process(pair):
    folder, _ = pair
    first = weights(folder / "means-0")
    assert equal(first, weights(folder / "means-1"))
    assert first["posterior.encoder.1.num_batches_tracked"] == 5  # of the last pass alone


def test_no_process_gets_a_single_example_of_what_is_left_over(pair):
    assert [found["left"] for found in pair[1]] == [OPTIONS["epochs"]] * 2  # one step each


def test_weights_that_differ_at_the_start_become_those_of_the_first(pair):
    folder, _ = pair
    assert equal(weights(folder / "different-0"), weights(folder / "different-1"))


@pytest.mark.parametrize("seed", SEEDS)
def test_noisy_losses_are_those_of_one_process_but_for_noise(pair, seed):
    """Within 4 standard errors of the difference of two means over 12 epochs."""
    two, one = (np.array(values) for values in (pair[1][0]["noisy"][seed], noisy(seed)))
    error = math.sqrt((two.var(ddof=1) + one.var(ddof=1)) / len(one))
    assert_within(two.mean(), one.mean(), error)
    assert error < 0.1
    assert not np.isclose(two, one, rtol=1e-9).any()  # streams of their own
    assert pair[1][0]["noisy"] == pair[1][1]["noisy"]


def test_streams_differ_between_processes_and_that_of_one_is_as_before():
    assert stream(7, "step", 3) == stream(7, "step", 3, 0)
    assert len({stream(7, "step", step, p) for step in range(20) for p in range(5)}) == 100


def test_bounds_equal_those_of_one_process_to_the_bit(pair):
    folder, _ = pair
    alone = vars(evaluated())
    for name in ("bounds", "continued"):
        for rank in range(2):
            assert equal(weights(folder / f"{name}-{rank}"), alone)


def test_one_process_goes_on_with_the_evaluation_of_two(pair, monkeypatch):
    folder, _ = pair
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return bounds(*arguments, **options)

    monkeypatch.setattr("pyrovae.evidence.lower_bounds.bounds", counted)
    assert equal(vars(evaluated(folder / "store")), vars(evaluated()))
    # 77 images in batches of 20: the last batch is smaller and not stored, and one call verifies
    # that the store is of this VAE
    assert len(calls) == 2 + 4


@pytest.mark.parametrize("step", [4, 5, 8])
def test_an_interruption_of_one_stops_all_and_the_resumed_run_is_as_if_never_stopped(pair, step):
    folder, found = pair
    files = ["last.safetensors", "metrics.jsonl", "model.safetensors"]
    for process in found:
        at = process[f"run-{step}"]
        assert at["at"] == files
        assert step <= at["step"] <= step + 1
    expected = weights(folder / "whole-0")
    for rank in range(2):
        assert equal(weights(folder / f"resumed-{step}-{rank}"), expected)
    assert (folder / f"run-{step}/model.safetensors").read_bytes() == (
        folder / "whole/model.safetensors"
    ).read_bytes()


def test_the_first_process_alone_writes(pair):
    folder, found = pair
    rows = [json.loads(line) for line in (folder / "whole/metrics.jsonl").read_text().splitlines()]
    assert [without_time(row) for row in rows] == found[0]["whole"] == found[1]["whole"]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(pair):
    with pytest.raises(ValueError, match=r"whole has 2 processes, got 1; .* --nproc-per-node 2$"):
        fit(make(), digits(), **OPTIONS, out=pair[0] / "whole", resume=True)


def test_time_is_up_for_all_and_objectives_of_whole_batches_are_refused(pair):
    for found in pair[1]:
        assert found["stopped"] == "max_minutes"
        for name, line in zip(("FreeBits", "BetaTC", "Info"), found["refused"], strict=True):
            assert line.startswith(f"{name} depends on a batch as a whole, and 2 processes")


def test_processes_that_do_not_meet_say_so(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # main sets it; this puts it back
    with pytest.raises(SystemExit) as caught:
        app.main()
    line = capsys.readouterr().err
    assert caught.value.code == 1
    assert line.startswith("pyrovae: the processes of this run cannot find each other (")
    assert line.endswith("); start all of them with torchrun\n")


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert str(training_device("auto")) == "cuda:0"
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    assert str(training_device("cpu")) == "cpu"
    with pytest.raises(ValueError, match=r"fewer GPUs \(1\) than processes .* set device to cpu"):
        training_device("auto")


def test_torch_distributed_has_one_home():
    package = Path(processes.__file__).parents[1]
    users = [p.stem for p in package.rglob("*.py") if "torch.distributed" in p.read_text()]
    assert users == ["processes"]


def test_alone_nothing_is_joined_or_imported():
    code = (
        "import sys\nfrom pyrovae._process import processes\n"
        "with processes.joined():\n"
        "    assert processes.summed([1]) == [1] and processes.text_of_first('a') == 'a'\n"
        "    processes.wait(); processes.from_first([])\n"
        "    assert (processes.rank(), processes.count()) == (0, 1)\n"
        "    assert processes.command() == 'pyrovae'\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


REJOINED = """
import time
from pyrovae._process import processes

for late in (0, 1, 0):
    with processes.joined():
        processes.wait()
        if processes.rank() == late:
            time.sleep(0.5)  # still here when the other one joins again
"""


@pytest.mark.slow
def test_processes_join_again_whichever_is_late(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 120)
    assert [r.status for r in together("-c", REJOINED, folder=tmp_path)] == [0, 0]


THREADS = """
from pathlib import Path
from pyrovae._process import processes

with processes.joined():
    processes.wait()
    import torch._dynamo
names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux")
def test_no_thread_of_a_group_outlives_it(tmp_path):
    """Such a thread may still release a tensor while the interpreter ends, which aborts it."""
    assert [r.status for r in together("-c", THREADS, folder=tmp_path)] == [0, 0]


SPOILED = """
import os, signal, sys
from pyrovae import cli
from pyrovae._process import processes
from pyrovae.training import TrainingDisplay

def spoil(self, progress):
    if progress.step == 3 and processes.rank() == {process}:
        {deed}

TrainingDisplay.__call__ = spoil
sys.argv = ["pyrovae", "fit", *{options}, "--epochs", "2", "--compile", "off", "--out", "run"]
cli.main()
"""
FULL = 'raise OSError(28, "No space left on device", "run/last.safetensors")'


def spoiled(deed, process, folder):
    return together("-c", SPOILED.format(deed=deed, process=process, options=SMALL), folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_an_error_in_one_process_is_one_line_and_the_status_of_all(tmp_path, process):
    results = spoiled(FULL, process, tmp_path)
    assert [(result.status, result.out) for result in results] == [(2, "")] * 2
    assert results[1 - process].err == ""
    assert results[process].err == (
        "pyrovae: run/last.safetensors: No space left on device; free some space or allow writing, "
        "then resume with: torchrun --standalone --nproc-per-node 2 -m pyrovae fit --resume run\n"
    )
    assert (tmp_path / "run/last.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_process_does_not_leave_the_other_waiting(tmp_path):
    results = spoiled("os.kill(os.getpid(), signal.SIGKILL)", 1, tmp_path)
    assert [result.status for result in results] == [1, -signal.SIGKILL]
    assert len(results[0].err.splitlines()) == 1
    assert "another process of this run has ended" in results[0].err
    assert "resume with: torchrun --standalone --nproc-per-node 2 -m pyrovae fit --resume run" in (
        results[0].err
    )


@pytest.mark.slow
def test_torchrun_fits_on_the_command_line(tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    options = ("--posterior", "point", *SMALL, "--epochs", "2", "--compile", "off", "--json")
    result = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "pyrovae", "fit", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | {"PYTHONPATH": PATH},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs/digits-normal-1"
    assert os.listdir(tmp_path / "runs") == [run.name]
    written = json.loads((run / "summary.json").read_text())
    assert json.loads(result.stdout) | {"digest": written["digest"]} == written
    assert result.stderr.count("epoch 2/2") == 1
    assert os.listdir(run / "figures")


def test_two_processes_evaluate_as_one_does_and_the_first_prints(pair):
    folder, (first, second) = pair
    opened = Run.open(folder / "run")
    found = evaluate(opened.vae(), opened.dataset().test, samples=100, proposal="refined")
    expected = found.to_dict() | opened.roles()
    assert json.loads(first["printed"]) == json.loads(as_json(expected))
    assert second["printed"] == ""


def test_other_commands_are_for_one_process(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    result = CliRunner().invoke(app.cli, ["sample", "run"])
    assert result.exit_code == 2
    assert "sample runs in one process; only fit and evaluate share" in result.output
