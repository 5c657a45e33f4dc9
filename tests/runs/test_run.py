"""A run's folder gives back what was trained, or says what is wrong with it."""

import json
import math
import secrets
import shutil

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae._process.files import read_tensors, write_tensors
from pyrovae.runs import (
    Config,
    Run,
    load,
    next_folder,
    resume_command,
    start,
    with_resume_command,
)
from pyrovae.training import TrainingInterrupted

SMALL = {
    "model": {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2},
    "training": {"epochs": 2},
}


@pytest.fixture(scope="module")
def resolved():
    return Config.resolve(SMALL)


@pytest.fixture(scope="module")
def trained(resolved, tmp_path_factory):
    """A run of two epochs, its VAE and what training did."""
    return start(*resolved, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of a run that may be damaged."""
    return shutil.copytree(trained[0], tmp_path / "run")


@pytest.mark.contract
def test_a_loaded_vae_has_the_bounds_of_the_trained_one(trained, resolved):
    folder, vae, _ = trained
    options = {"samples": 3, "limit": 50}
    expected = pyrovae.evaluate(vae, resolved[1].test, **options)
    assert pyrovae.evaluate(pyrovae.load(folder), resolved[1].test, **options) == expected
    opened = Run.open(folder)
    assert pyrovae.evaluate(opened.vae(), opened.dataset().test, **options) == expected


def test_a_hand_built_vae_takes_the_weights(trained, resolved, vae):
    folder, _, _ = trained
    built = load(folder, vae=resolved[0].build())
    assert not built.training
    for name, value in read_tensors(folder / "model.safetensors")[0].items():
        assert torch.equal(built.state_dict()[name], value)
    with pytest.raises(
        ValueError, match=r"belong to another model than .*: \S+ should be \(.*\) and is"
    ):
        load(folder, vae=vae)


def test_the_history_has_a_line_for_each_epoch(trained):
    history = Run.open(trained[0]).history
    assert history.epoch.tolist() == [1, 2]
    np.testing.assert_allclose(history.elbo, history.reconstruction - history.kl)
    assert history.to_dict() == trained[2].history.to_dict()


def test_the_summary_is_what_finish_returns(folder, resolved, trained, monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    summary = Run.open(folder).finish(trained[1], resolved[1], trained[2], samples=2)
    written = json.loads((folder / "summary.json").read_text())
    assert {name: value for name, value in written.items() if name != "digest"} == summary.to_dict()
    assert Run.open(folder).summary() == summary
    assert summary.contents["prior"] == "normal"
    assert summary.epochs == 2
    assert math.isfinite(summary.elbo.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.toml", "is not the whole configuration of a run"),
        ("model.safetensors", "not a whole safetensors file.*train again: pyrovae fit --config"),
        ("metrics.jsonl", "is damaged .*; pyrovae fit --resume"),
    ],
)
@pytest.mark.parametrize("kept", [0, 0.4])
def test_a_truncated_file_is_named_with_the_remedy(folder, name, message, kept):
    contents = (folder / name).read_bytes()
    (folder / name).write_bytes(contents[: int(kept * len(contents))])
    if name == "config.toml" and kept:
        message = "is not a TOML file|is not the whole configuration"
    with pytest.raises(ValueError, match=message) as caught:
        _ = Run.open(folder).history if name == "metrics.jsonl" else load(folder)
    assert str(folder / name) in str(caught.value)


def test_missing_parts_are_named(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing; restore it"):
        load(folder)
    (folder / "config.toml").unlink()
    with pytest.raises(FileNotFoundError, match="is not a run: it has no config"):
        Run.open(folder)
    with pytest.raises(FileNotFoundError, match=r"pass it: load\(folder, vae="):
        load(folder)
    with pytest.raises(FileNotFoundError, match="there is no run at"):
        Run.open(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="is a file; give the folder of a run"):
        Run.open(folder / "metrics.jsonl")


def test_weights_of_another_model_are_refused(folder):
    weights, _ = read_tensors(folder / "model.safetensors")
    name = next(iter(weights))
    del weights[name]
    write_tensors(folder / "model.safetensors", weights)
    with pytest.raises(ValueError, match=rf"{name} should be \(.*\) and is absent"):
        load(folder)


def test_folders_are_numbered(tmp_path):
    assert next_folder("/a/b/x.npy", "laplace:scale=2", tmp_path) == tmp_path / "x-laplace-1"
    (tmp_path / "x-laplace-1").mkdir()
    assert next_folder("x.npy", "laplace", tmp_path) == tmp_path / "x-laplace-2"
    assert next_folder("digits", "my:Prior:a=1", tmp_path) == tmp_path / "digits-my.Prior-1"


def test_a_folder_that_another_run_takes_meanwhile_is_left_alone(
    resolved, tmp_path, monkeypatch, trained
):
    monkeypatch.chdir(tmp_path)
    make = secrets.token_hex
    rival = tmp_path / "runs" / "digits-normal-1"

    def make_later(*arguments, **options):
        if not rival.exists():
            shutil.copytree(trained[0], rival)
        return make(*arguments, **options)

    monkeypatch.setattr("pyrovae._process.files.secrets.token_hex", make_later)
    folder, _, _ = start(*resolved, None)
    assert folder.name == "digits-normal-2"
    ours, theirs = ((path / "model.safetensors").read_bytes() for path in (folder, rival))
    assert ours == theirs
    assert sorted(path.name for path in rival.parent.iterdir()) == [rival.name, folder.name]


def test_a_named_folder_that_exists_is_refused_and_left_alone(resolved, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="choose another folder, or resume it: pyrovae"):
        start(*resolved, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "metrics.jsonl").rename(folder.parent / "file")
    with pytest.raises(FileExistsError, match="file exists"):
        start(*resolved, folder.parent / "file")
    with pytest.raises(OSError, match=r"cannot create .*choose another with --out"):
        start(*resolved, folder.parent / "file" / "run")


def test_an_interruption_says_how_to_go_on(folder, tmp_path):
    with (
        pytest.raises(TrainingInterrupted, match=f"pyrovae fit --resume {folder}"),
        with_resume_command(folder),
    ):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt) as caught, with_resume_command(tmp_path / "absent"):
        raise KeyboardInterrupt
    assert not str(caught.value)


def test_components_of_ones_own_are_named_in_the_lines_to_type(folder):
    assert Run.open(folder).named_again("objective") == ""
    config = folder / "config.toml"
    text = config.read_text().replace('prior = "normal"', 'prior = "own:Prior:rate=2.0"')
    text = text.replace('encoder = "mlp:', 'encoder = "own:Net:')
    config.write_text(text.replace('objective = "elbo', 'objective = "own:Bound'))
    named = " --prior own:Prior --encoder own:Net"
    assert Run.open(folder).named_again() == named
    assert resume_command(folder) == f"pyrovae fit --resume {folder}{named} --objective own:Bound"
    config.unlink()
    assert resume_command(folder) == f"pyrovae fit --resume {folder}"


def test_a_resumed_run_keeps_its_settings(folder):
    run = Run.open(folder)
    settings = run.settings_to_resume({"device": "cpu", "data_dir": "d", "max_minutes": "2"})
    assert settings["training"]["device"] == "cpu"
    assert settings["data"]["data_dir"] == "d"
    with pytest.raises(ValueError, match="leave out --batch-size"):
        run.settings_to_resume({"batch_size": 3})


def test_components_that_are_named_again_are_those_of_the_run(folder):
    path = folder / "config.toml"
    path.write_text(path.read_text().replace('"normal"', '"my:Prior:rate=2.0"'))
    run = Run.open(folder)
    run.check_named({"prior": "my:Prior", "likelihood": None})
    run.check_named({"prior": "my:Prior:rate=2"})
    for other in ("laplace", "my:Other", "my:Prior:rate=3", "my:Prior:speed=2"):
        with pytest.raises(ValueError, match=f"is my:Prior:rate=2.0, not {other}"):
            run.check_named({"prior": other})


def test_standardised_data_keep_their_statistics(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(5, 3, size=(40, 4))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:7])
    config, dataset = Config.resolve(SMALL | {"data": {"name": str(tmp_path / "x.npy")}})
    folder, _, _ = start(config, dataset, tmp_path / "run")
    run = Run.open(folder)
    treated = run.treat(str(tmp_path / "y.npy"))
    expected = (x[:7] - dataset.statistics["loc"]) / dataset.statistics["scale"]
    np.testing.assert_allclose(treated.batch(np.arange(7)), expected, rtol=1e-5)
    np.save(tmp_path / "y.npy", x[:7, :3])
    with pytest.raises(ValueError, match=r"3,"):
        run.treat(str(tmp_path / "y.npy"))


def test_a_run_whose_data_have_changed_does_not_go_on(resolved, folder):
    config, dataset = resolved
    (folder / "data.sha256").write_text("of other data\n")
    with pytest.raises(ValueError, match="the data have changed since the run"):
        start(config, dataset, folder, resume=True)


@pytest.mark.parametrize("change", ["appended", "in another order", "one value"])
def test_a_run_whose_data_have_changed_is_not_evaluated(tmp_path, change):
    """Their test split may hold examples that the run was trained on."""
    path = tmp_path / "x.npy"
    x = np.random.default_rng(0).integers(0, 17, size=(40, 4, 4), dtype=np.uint8)
    np.save(path, x)
    config, dataset = Config.resolve(SMALL | {"data": {"name": str(path)}})
    folder, _, _ = start(config, dataset, tmp_path / "run")
    run = Run.open(folder)
    assert run.dataset().digest() == dataset.digest()
    np.save(path, {"appended": np.concatenate([x, x[:1]]), "one value": x}.get(change, x[::-1]))
    if change == "one value":
        x[7, 0, 0] ^= 1
        np.save(path, x)
    with pytest.raises(ValueError, match=r"the data have changed since .* pyrovae score"):
        run.dataset()
