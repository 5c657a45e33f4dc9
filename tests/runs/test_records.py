"""What a run has written is believed only as it was written."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

import pyrovae
from pyrovae._process import files
from pyrovae.posteriors import FullNormal, LowRankNormal, PowerSpherical
from pyrovae.runs import Config, Run, describe, load, refit_run, start
from pyrovae.runs.comparison import find_run

MODEL, LAST, CACHE = "model.safetensors", "last.safetensors", "unfinished-evaluation.safetensors"
BELIEVED = (
    *("config.toml", "data.sha256", "metrics.jsonl", "schema.json", "summary.json"),
    *(MODEL, LAST, "statistics.safetensors"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of a table, its configuration and its data."""
    place = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=(60, 2)), rng.integers(0, 3, 60)]
    lines = ["a,b,kind", *(f"{a:.4f},{b:.4f},{'xyz'[int(k)]}" for a, b, k in rows)]
    (place / "t.csv").write_text("\n".join(lines) + "\n")
    network = "mlp:hidden_dims=4"
    model = {"encoder": network, "decoder": network, "latent_dim": 2}
    settings = {"model": model, "training": {"epochs": 3}, "data": {"name": str(place / "t.csv")}}
    config, data = Config.resolve(settings)
    folder, vae, fitted = start(config, data, place / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
        Run.open(folder).finish(vae, data, fitted, samples=2)
    return folder, config, data


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(made[0], tmp_path / "run")


def everything(folder: Path) -> str:
    """All that is read from a run: what it was made from, its results, and its last state."""
    run = Run.open(folder)
    result = pyrovae.evaluate(run.vae(), run.dataset().test, samples=3)
    tensors, about = files.read_tensors(folder / LAST)
    state = {name: value.tolist() for name, value in tensors.items()}
    statistics = {name: value.tolist() for name, value in run.statistics().items()}
    found = (result.to_dict(), run.history.to_dict(), run.summary().to_dict(), statistics)
    return json.dumps([*found, str(run.schema), state, about])


def flips(folder: Path, name: str, count: int) -> int:
    """Flip bits of a file, one at a time; all are refused, or change nothing: count the latter."""
    path, rng, same = folder / name, random.Random(name), 0
    before, whole = everything(folder), (folder / name).read_bytes()
    for place in (rng.randrange(8 * len(whole)) for _ in range(count)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        said = found = ""
        try:
            found = everything(folder)
        except (ValueError, OSError) as error:
            said = str(error)
        assert found in ("", before), f"bit {place} of {name} changed a number"
        assert len(said.splitlines()) <= 1
        same += not said
    return same


@pytest.mark.parametrize("name", BELIEVED)
def test_a_flipped_bit_is_refused(folder, name):
    assert flips(folder, name, 8) <= (name == "config.toml")


@pytest.mark.slow
@pytest.mark.parametrize("name", BELIEVED)
def test_no_flipped_bit_of_two_hundred_is_believed(folder, name):
    """In a configuration, a few fall into the lines that a person may edit: no number changes."""
    assert flips(folder, name, 200) <= 10 * (name == "config.toml")


def test_an_edited_configuration_is_refused_with_what_to_do(folder):
    path = folder / "config.toml"
    text = path.read_text()
    path.write_text(text.replace("latent_dim = 2", "latent_dim = 3"))
    for opened in (lambda folder: Run.open(folder).dataset(), load):
        with pytest.raises(ValueError, match=r"config\.toml is damaged or was edited") as caught:
            opened(folder)
        assert f"pyrovae fit --config {path} --out NEW" in str(caught.value)
    assert Config.read(path)["model"]["latent_dim"] == 3  # to train with it
    path.write_text(text.replace('device = "auto"', 'device = "cpu"  # elsewhere'))
    assert Run.open(folder).config.training["device"] == "cpu"


@pytest.mark.parametrize("name", BELIEVED)
def test_a_file_of_another_run_is_refused(folder, made, tmp_path, name):
    _, config, data = made
    other = Config(config.data, config.model, dict(config.training) | {"seed": 1})
    path, vae, fitted = start(other, data, tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
        Run.open(path).finish(vae, data, fitted, samples=2)
    before = everything(folder)
    shutil.copy(path / name, folder / name)
    if name in ("data.sha256", "schema.json", "statistics.safetensors"):  # equal, of equal data
        assert everything(folder) == before
        return
    with pytest.raises(ValueError, match=r"config\.toml|of another run|recorded|same run"):
        start(config, data, folder, resume=True) if name == LAST else everything(folder)


@pytest.mark.parametrize("name", ["schema.json", "statistics.safetensors", "data.sha256"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load(folder)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
@pytest.mark.parametrize("lines", [0, 1])
def test_lines_that_are_lost_are_missed(folder, name, lines):
    path = folder / name
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    run = Run.open(folder)
    with pytest.raises(ValueError, match=rf"{name} .*pyrovae fit --resume .* writes it"):
        _ = run.history if name == "metrics.jsonl" else run.summary()


def test_resuming_checks_what_it_reads(folder, made):
    _, config, data = made
    for name in (LAST, MODEL, "schema.json", "config.toml"):
        whole = (folder / name).read_bytes()
        place = whole.index(b"latent_dim") + 13 if name == "config.toml" else len(whole) - 2
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            start(config, data, folder, resume=True)
        (folder / name).write_bytes(whole)
    start(config, data, folder, resume=True)


def test_a_refitted_run_is_checked_too(folder):
    found = refit_run(
        Run.open(folder), "learned_normal", folder.parent / "new", epochs=2, samples=2, limit=5
    )
    new = Path(found.run)
    assert Run.open(new).history.epoch.tolist() == [1, 2]
    (new / "metrics.jsonl").write_text((new / "metrics.jsonl").read_text().replace("1", "2"))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        _ = Run.open(new).history
    (new / "schema.json").write_text("{}")
    with pytest.raises(ValueError, match=r"schema\.json is damaged"):
        _ = Run.open(new).schema


@pytest.fixture
def older(folder):
    """A run as it was written before files had digests."""
    for name in (MODEL, LAST, "statistics.safetensors"):
        tensors, about = files.read_tensors(folder / name)
        known = {"options", "progress"} & (about or {}).keys()
        plain = json.dumps({key: about[key] for key in known} if known else None)
        (folder / name).write_bytes(save(tensors, metadata={"about": plain}))
    for name in ("config.toml", "summary.json"):
        lines = (folder / name).read_text().splitlines()
        kept = [line for line in lines if not line.strip().startswith(("format", '"digest"'))]
        text = "\n".join(kept).replace(",\n}", "\n}") + "\n"
        (folder / name).write_text(text)
    return folder


def test_an_older_run_opens_and_resuming_protects_it(older, made):
    _, config, data = made
    run = Run.open(older)
    assert len(run.history) == 3
    assert run.summary().epochs == 3
    said = "format      1, without digests: damage to its files may not be noticed"
    assert said in describe(run, run.vae())
    start(config, data, older, resume=True)
    assert said not in describe(Run.open(older), run.vae())
    (older / "schema.json").write_text("{}")
    with pytest.raises(ValueError, match=r"schema\.json is damaged"):
        load(older)


def test_older_weights_that_cannot_be_right_are_refused(older):
    weights, _ = files.read_tensors(older / MODEL)
    name = next(name for name, value in weights.items() if value.dtype == torch.float32)

    def written(value):
        (older / MODEL).write_bytes(save(weights | {name: value}, metadata={"about": "null"}))
        return Run.open(older)

    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=rf"{name} with values that are not finite"):
            written(torch.full_like(weights[name], value)).vae()
    for dtype in (torch.int32, torch.float64):
        with pytest.raises(ValueError, match=rf"{name} as {dtype}, and the model has torch.float3"):
            written(weights[name].to(dtype)).vae()
    assert written(weights[name].bfloat16()).vae().latent_dim == 2  # an exact conversion


@pytest.mark.parametrize("version", [files.FORMAT + 1, 99, '"x"'])
def test_a_later_format_is_refused(older, folder, version):
    path = older / "config.toml"
    path.write_text(f"format = {version}\n{path.read_text()}")
    with pytest.raises(
        ValueError, match=f"and this pyrovae reads up to {files.FORMAT}: install"
    ) as caught:
        Run.open(older)
    assert len(str(caught.value).splitlines()) == 1


def test_a_later_format_of_tensors_is_refused(folder, monkeypatch):
    tensors, about = files.read_tensors(folder / MODEL)
    with monkeypatch.context() as later:
        later.setattr(files, "FORMAT", 99)
        files.write_tensors(folder / MODEL, tensors, about)
    with pytest.raises(ValueError, match=r"model\.safetensors has the format 99, and this pyrovae"):
        load(folder)


@pytest.fixture(params=["full", "low_rank", "power_spherical"])
def before(request, made, tmp_path):
    """A run from before the parameters of its posterior meant what they mean now."""
    model = dict(made[1].model) | {"posterior": request.param}
    if request.param == "power_spherical":
        model["prior"] = "sphere"
    settings = {"model": model, "data": {"name": made[1].data["name"]}, "training": {"epochs": 1}}
    config, data = Config.resolve(settings)
    with pytest.MonkeyPatch.context() as then:
        then.setattr(files, "FORMAT", 2)
        then.setattr("pyrovae.runs.config.FORMAT", 2)
        then.setattr(FullNormal, "meaning_since", 1)
        then.setattr(LowRankNormal, "meaning_since", 1)
        then.setattr(PowerSpherical, "meaning_since", 1)
        folder, vae, _ = start(config, data, tmp_path / "before")
        load(folder)
    return folder, config, data, vae


def test_weights_of_another_meaning_are_refused_with_what_to_do(before):
    folder, config, data, vae = before
    assert len(Run.open(folder).history) == 1  # what was measured then is still read
    for act in (
        lambda: load(folder),
        lambda: load(folder, vae=vae),
        lambda: Run.open(folder).vae(),
        lambda: start(config, data, folder, resume=True),
    ):
        with pytest.raises(ValueError, match="since format 3; train the run again: pyrov") as found:
            act()
        assert len(str(found.value).splitlines()) == 1
    again, _ = Config.resolve(Config.read(folder / "config.toml"))
    load(start(again, data, folder.parent / "again")[0])


def test_a_comparison_does_not_take_weights_of_another_meaning(before):
    folder, config, data, _ = before
    assert find_run(config, data, (folder.parent,)) is None
    again, _, _ = start(config, data, folder.parent / "again")
    assert find_run(config, data, (folder.parent,)) == again


@pytest.mark.parametrize("damage", [b"xyz", b"", None, 40])
def test_a_damaged_cache_is_set_aside_with_one_line(vae, digits, tmp_path, damage):
    options = {"samples": 1_000, "compile": "off", "seed": 1}
    expected = pyrovae.evaluate(vae, digits, **options)
    path = tmp_path / CACHE
    pyrovae.evaluate(vae, digits, **options, store=path)
    whole = bytearray(path.read_bytes())
    if damage is None:
        whole[-1] ^= 1
    elif isinstance(damage, int):
        whole[damage] ^= 4
    else:
        whole = damage
    path.write_bytes(whole)
    with pytest.warns(UserWarning, match="it is not used, and the work starts anew") as caught:
        assert pyrovae.evaluate(vae, digits, **options, store=path) == expected
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    assert pyrovae.evaluate(vae, digits, **options, store=path) == expected  # written again


def test_a_deep_file_of_settings_is_refused_in_one_line(tmp_path):
    for text in ("a = " + 5_000 * "[" + 5_000 * "]", "[" + 9_000 * "a." + "a]"):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(ValueError, match=r"c\.toml") as caught:
            Config.read(tmp_path / "c.toml")
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_a_folder_in_place_of_a_file_is_refused_before_the_work(folder, made, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} is a folder, not a file; remove it to resume"):
        start(*made[1:], folder, resume=True)
