"""Where commands read and write: runs from elsewhere, read-only, in use, and full disks."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pyrovae._process.files import locked
from pyrovae.data import load
from pyrovae.runs import Config, Run, start

NETWORK = "mlp:hidden_dims=4"
SMALL = ("--encoder", NETWORK, "--decoder", NETWORK, "--latent-dim", "2", "--epochs", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs."""
    model = {"encoder": NETWORK, "decoder": NETWORK, "latent_dim": 2}
    resolved = Config.resolve({"model": model, "training": {"epochs": 2}})
    return start(*resolved, tmp_path_factory.mktemp("places") / "trained")[0]


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run in the working folder; pictures of new runs are not drawn."""
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def refused(command):
    """Run a command and check that it is refused in one line; return the line."""

    def call(*arguments):
        result = command(*arguments)
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith("pyrovae: ")
        assert len(result.err.splitlines()) == 1
        return result.err

    return call


def every_file(folder="."):
    return sorted(str(path) for path in Path(folder).rglob("*"))


@pytest.fixture
def no_download(monkeypatch):
    def download(*arguments):
        raise AssertionError("it downloads")

    monkeypatch.setattr("pyrovae.data.TorchvisionSet._download", download)


def name_data(run, **settings):
    """Write other places of the data into the configuration of a run, as a sender might."""
    path = run / "config.toml"
    text = path.read_text()
    for name, value in settings.items():
        text = re.sub(rf'^{name} = ".*"$', f'{name} = "{value}"', text, flags=re.MULTILINE)
    path.write_text(text)


COMMANDS = (
    ("evaluate", "run"),
    ("kl", "run"),
    ("diagnose", "run"),
    ("gap", "run"),
    ("reconstruct", "run"),
    ("score", "run", "--data", "mnist", "--out", "s.csv"),
    ("refit", "run", "--prior", "learned_normal", "--out", "new"),
    ("fit", "--resume", "run"),
)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: each[0])
def test_a_run_never_decides_what_is_made_or_downloaded(refused, run, no_download, arguments):
    name_data(run, name="mnist", data_dir="some/where")
    before = every_file()
    err = refused(*arguments)
    assert "some/where" in err
    assert "--data-dir" in err
    assert every_file() == before


@pytest.mark.filterwarnings("default")
def test_a_configuration_of_a_run_does_not_choose_the_folder_of_a_download(
    command, run, monkeypatch, tmp_path
):
    asked = []

    def download(self, reader, data_dir):
        asked.append(data_dir)
        return "no network"

    monkeypatch.setattr("pyrovae.data.TorchvisionSet._download", download)
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path / "own"))
    name_data(run, name="mnist", data_dir="some/where")
    result = command("fit", "--config", "run/config.toml", "--out", "new")
    assert "names the folder some/where, which does not hold mnist" in result.err
    command("fit", "--config", "run/config.toml", "--data-dir", "~/here", "--out", "new")
    command("evaluate", "run", "--data-dir", "given")
    assert asked == [tmp_path / "own", Path("~/here").expanduser(), tmp_path / "given"]


def test_data_that_have_moved_are_found_by_naming_their_folder(
    command, refused, tmp_path, monkeypatch
):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    np.save(tmp_path / "x.npy", load("digits").test.batch(np.arange(80)).numpy().astype(np.uint8))
    (tmp_path / "new").mkdir()
    assert command("fit", "--data", "x.npy", *SMALL, "--epochs", "1", "--out", "run").status == 0
    expected = command("evaluate", "run", "--samples", 2).out
    os.rename("x.npy", "new/x.npy")
    for arguments in (("evaluate", "run"), ("fit", "--resume", "run")):
        err = refused(*arguments)
        assert f"the data of run are not at {tmp_path / 'x.npy'}; if x.npy has moved" in err
        assert "--data-dir" in err
    assert "are not in run" in refused("evaluate", "run", "--data-dir", "run")
    assert command("evaluate", "run", "--samples", 2, "--data-dir", "new").out == expected
    assert command("fit", "--resume", "run", "--data-dir", "new").status == 0


@pytest.mark.filterwarnings("default")
def test_a_link_out_of_a_run_is_not_followed(command, refused, run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "figures").symlink_to(tmp_path / "elsewhere")
    for arguments in (
        ("kl", "run", "--limit", 5, "--samples", "1,2"),
        ("calibrate", "run", "--simulations", 100),
    ):
        result = command(*arguments)
        assert result.status == 0
        assert "run/figures: a link, which is not followed" in result.err
        assert "figure   " not in result.out
    for name in ("sample", "reconstruct"):
        assert "run/figures is a link, which is not followed" in refused(name, "run")
    assert command("sample", "run", "--out", "s.npy").status == 0
    result = command("fit", "--resume", "run")
    assert result.status == 0
    assert "run/figures is a link, which is not followed: no pictures" in result.err
    command("show", "run")
    assert not os.listdir(tmp_path / "elsewhere")


def test_a_link_in_place_of_a_file_is_replaced(command, run, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    (run / "figures").mkdir()
    for name in ("summary.json", "figures/kl.png"):
        (run / name).symlink_to(tmp_path / "note.txt")
    assert command("kl", "run", "--limit", 5, "--samples", "1,2").status == 0
    assert command("fit", "--resume", "run").status == 0
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert not (run / "summary.json").is_symlink()


QUESTIONS = (
    ("kl", "run", "--limit", 5, "--samples", "1,2", "--json"),
    pytest.param(("diagnose", "run", "--limit", 20, "--json"), marks=pytest.mark.slow),
    ("calibrate", "run", "--simulations", 100, "--json"),
)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("arguments", QUESTIONS, ids=lambda each: each[0])
def test_numbers_of_a_run_that_cannot_be_written_are_the_same(command, run, full_disk, arguments):
    with full_disk():
        full = command(*arguments)
    assert full.status == 0
    assert "pyrovae: run/figures/" in full.err
    assert ".png is not written: No space left on device" in full.err
    assert not [path for path in every_file("run/figures") if "png" in path]
    whole = command(*arguments)
    assert (whole.status, whole.out) == (0, full.out)
    assert "not written" not in whole.err


@pytest.mark.filterwarnings("default")
def test_an_evaluation_goes_on_without_its_cache_on_a_full_disk(
    command, run, full_disk, monkeypatch
):
    arguments = ("evaluate", "run", "--samples", 100, "--json")
    expected = command(*arguments).out
    monkeypatch.setattr("pyrovae.evidence.lower_bounds.SECONDS", -1.0)
    with full_disk():
        result = command(*arguments)
    assert (result.status, result.out) == (0, expected)
    line = "unfinished-evaluation.safetensors: No space left on device; the work goes on, and if"
    assert result.err.count(line) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", *SMALL, "--out", "new"),
        ("refit", "run", "--prior", "learned_normal", "--out", "new"),
        ("compare", "--priors", "normal", *SMALL, "--out", "new"),
        ("fit", "--resume", "run"),
    ],
    ids=["fit", "refit", "compare", "resume"],
)
def test_long_work_is_refused_at_once_where_it_cannot_be_kept(
    refused, run, full_disk, monkeypatch, arguments
):
    def step(*arguments):
        raise AssertionError("it trains")

    monkeypatch.setattr("pyrovae.training.loop.TrainingLoop.run", step)
    before = every_file()
    with full_disk():
        err = refused(*arguments)
    assert "No space left on device" in err
    how = "resume with: pyrovae fit --resume run\n" if "run" in arguments[2:] else "--out\n"
    assert err.endswith(how)
    assert every_file() == before


@pytest.mark.parametrize("name", ["model", "metrics", "last", "summary"])
def test_a_disk_that_fills_up_names_the_file_and_how_to_resume(
    command, run, trained, monkeypatch, tmp_path, name
):
    fsync, written = os.fsync, []
    monkeypatch.setattr("pyrovae.training.loop.CHECKPOINT_SECONDS", 0.0)

    def fails(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if f"/new/.{name}." in path:  # of the folder in place, not of the one being made
            written.append(path)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as full:
        full.setattr("os.fsync", fails)
        result = command("fit", *SMALL, "--out", "new")
    assert result.status == 2
    assert len(written) == 1
    last = result.err.splitlines()[-1]
    assert last.startswith(f"pyrovae: new/{name}.")
    assert last.endswith(
        ": No space left on device; free some space or allow writing, then resume with: "
        "pyrovae fit --resume new"
    )
    assert not [file for file in every_file("new") if "/." in file]
    assert command("fit", "--resume", "new").status == 0
    expected = (trained / "model.safetensors").read_bytes()
    assert Path("new/model.safetensors").read_bytes() == expected


def test_a_run_that_is_gone_is_not_made_again_in_part(command, run, monkeypatch):
    monkeypatch.setattr("pyrovae.training.loop.CHECKPOINT_SECONDS", 0.0)
    whole = Path("new")

    def remove(progress):
        shutil.rmtree(whole, ignore_errors=True)

    monkeypatch.setattr("pyrovae.training.TrainingDisplay.__call__", lambda self, p: remove(p))
    result = command("fit", *SMALL, "--out", "new")
    assert result.status == 2
    assert "pyrovae: new was moved or removed while it was trained" in result.err
    assert not whole.exists()


@pytest.mark.parametrize("arguments", [("fit", "--resume", "run"), ("evaluate", "run")])
def test_what_a_killed_run_left_is_removed(command, run, arguments):
    (run / "figures").mkdir()
    left = [run / ".last.safetensors.0123abcd", run / "figures" / ".kl.png.89ab4567"]
    for path in left:
        path.write_bytes(b"half")
    (run / ".notes").touch()
    assert command(*arguments).status == 0
    assert not any(path.exists() for path in left)
    assert (run / ".notes").exists()


def test_a_run_is_resumed_by_one_process_at_a_time(command, refused, run):
    before = {path: path.read_bytes() for path in run.iterdir()}
    with locked(run):
        err = refused("fit", "--resume", "run")
        assert "another process is training run; wait until it ends" in err
        assert command("evaluate", "run", "--samples", 1, "--limit", 5).status == 0
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert command("fit", "--resume", "run").status == 0


def test_a_run_that_is_being_made_is_not_resumed(refused, run, monkeypatch, command):
    said = []

    def resume(self, progress):
        if progress.step == 3:
            opened = Run.open("new")
            resolved = opened.config, opened.dataset()
            with pytest.raises(BlockingIOError, match="another process is training") as caught:
                start(*resolved, "new", resume=True)
            said.append(caught)

    monkeypatch.setattr("pyrovae.training.TrainingDisplay.__call__", resume)
    assert command("fit", *SMALL, "--out", "new").status == 0
    assert said


def test_the_home_folder_is_written_as_a_tilde(command, run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.move(run, tmp_path / "home" / "run")
    for arguments in (
        ("fit", *SMALL, "--out", "~/fitted"),
        ("sample", "~/run", "--out", "~/s.npy"),
        ("encode", "~/run", "--data", "digits", "--out", "~/z.npz"),
        ("evaluate", "~/run", "--samples", 2, "--limit", 5, "--out", "~/e.npz"),
        ("refit", "~/run", "--prior", "learned_normal", "--epochs", 1, "--out", "~/refitted"),
        ("fit", "--config", "~/run/config.toml", "--epochs", 1, "--out", "~/repeated"),
        ("compare", "--priors", "normal", *SMALL, "--seeds", 1, "--samples", 2, "--out", "~/two"),
    ):
        result = command(*arguments)
        assert result.status == 0, result.err
        assert (tmp_path / "home" / arguments[-1][2:]).exists()
    assert os.listdir(tmp_path) == ["home"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "--data", "x.npy"),
        ("fit", "--data", "x.csv"),
        ("fit", "--data", "/dev/zero"),
        ("fit", "--config", "x.toml"),
        ("score", "run", "--data", "x.parquet", "--out", "s.csv"),
        ("encode", "run", "--data", "digits", "--out", "x.npz"),
    ],
    ids=lambda each: " ".join(each[1:3]),
)
def test_pipes_and_devices_are_refused_at_once(refused, run, arguments):
    os.mkfifo("pipe")
    for ending in ("npy", "csv", "toml", "parquet", "npz"):
        Path(f"x.{ending}").symlink_to("pipe")
    assert re.search(r"(pipe|x\.\w+|/dev/zero) is a (pipe|device), not a file", refused(*arguments))


@pytest.mark.parametrize("name", ["config.toml", "model.safetensors", "last.safetensors"])
def test_a_pipe_in_a_run_is_refused_at_once(refused, run, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    assert name in refused(*(("fit", "--resume") if name[0] == "l" else ("evaluate",)), "run")


def test_wrong_levels_in_a_configuration_are_refused(refused, run):
    path = run / "config.toml"
    path.write_text(path.read_text().replace("levels=17", "levels=5"))
    assert "run/config.toml is damaged or was edited" in refused("evaluate", "run")
