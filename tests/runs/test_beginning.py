"""A run that begins with another one's weights takes those that fit, and says which do not."""

import json
from pathlib import Path

import pytest
import torch

import pyrovae
from pyrovae.runs import Run, beginning_of, settings_with, start, take_weights

NET = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}


def trained(folder, begin=None, epochs=2, **model):
    settings = {"model": NET | model, "training": {"epochs": epochs, "averaging": 0.0}}
    if begin is not None:
        settings = settings_with(begin, settings)
    config, dataset = pyrovae.Config.resolve(settings)
    folder, vae, found = start(config, dataset, folder, begin=begin)
    return Run.open(folder), vae, found


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(a, b) for (name, a), (again, b) in pairs)


def test_training_goes_on_where_the_other_run_ended(tmp_path):
    first, vae, before = trained(tmp_path / "first", epochs=20)
    second, _, after = trained(tmp_path / "second", first, epochs=1)
    fresh = trained(tmp_path / "fresh", epochs=1)[2]
    assert after.history.elbo[0] > before.history.elbo[-1] - 5
    assert after.history.elbo[0] > fresh.history.elbo[0] + 10
    assert beginning_of(second.folder)["started_anew"] == []
    assert second.config.training["epochs"] == 1
    assert same(vae, first.vae())  # the other run is as it was


def test_another_prior_starts_anew_and_the_rest_is_taken(tmp_path):
    first, *_ = trained(tmp_path / "first")
    config, _ = pyrovae.Config.resolve({"model": NET | {"prior": "mixture:components=3"}})
    vae = config.build()
    assert take_weights(vae, first) == ["prior"]
    assert same(vae.posterior, first.vae().posterior)
    assert same(vae.likelihood, first.vae().likelihood)
    config, _ = pyrovae.Config.resolve({"model": NET | {"latent_dim": 3}})
    other = config.build()
    state = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="no component has the weights"):
        take_weights(other, first)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_a_learned_prior_keeps_its_weights(tmp_path):
    first, *_ = trained(tmp_path / "first", prior="mixture:components=3,start=data")
    second, _, _ = trained(
        tmp_path / "second", first, prior="mixture:components=3,start=data", posterior="full"
    )
    assert beginning_of(second.folder)["started_anew"] == ["posterior"]


def test_the_command_begins_resumes_and_refuses(command, tmp_path):
    trained(tmp_path / "first")
    result = command(
        "fit", "--from", "first", "--prior", "laplace", "--epochs", 2, "--out", "second",
        "--no-report", "--max-minutes", 1e-9,
    )  # fmt: skip
    assert result.status == 0
    assert "from     first\n" in result.out
    result = command("fit", "--resume", "second", "--no-report")
    assert result.status == 0
    assert "from     first\n" in result.out
    whole = command(
        "fit",
        "--from",
        "first",
        "--prior",
        "laplace",
        "--epochs",
        2,
        "--out",
        "third",
        "--no-report",
    )
    assert whole.status == 0
    assert same(Run.open("second").vae(), Run.open("third").vae())
    assert json.loads(Path("third/from.json").read_text())["run"] == "first"
    for arguments, message in (
        (("--from", "none"), "there is no run at none"),
        (("--from", "first", "--resume", "second"), "leave out --resume, --recipe"),
        (("--from", "first", "--latent-dim", 5, "--out", "fourth"), "no component has the weights"),
    ):
        result = command("fit", *arguments)
        assert (result.status, result.out) == (2, "")
        assert message in result.err
    assert not Path("fourth").exists()
    Path("third/from.json").write_text("{}")
    assert command("evaluate", "third").status == 2
