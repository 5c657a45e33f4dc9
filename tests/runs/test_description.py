"""What a model is, and what it could be made of, is said completely."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyrovae.estimates import Estimate
from pyrovae.evidence import WeightSummary
from pyrovae.runs import FAMILIES, Config, Run, description, options_of, start


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8"}
    model |= {"prior": "mixture:components=3", "latent_dim": 2}
    resolved = Config.resolve({"model": model, "training": {"epochs": 1}})
    return Run.open(start(*resolved, tmp_path_factory.mktemp("summary") / "run")[0])


def test_the_catalogue_has_every_component_and_option():
    catalogue = description.catalogue()
    lines = "\n".join(description.text_table(catalogue))
    for role, family in FAMILIES.items():
        entries = catalogue["network" if role in ("encoder", "decoder") else role]
        assert entries.keys() == family.keys()
        for name, component in family.items():
            assert entries[name].about, name
            assert ":math:" not in entries[name].about
            assert entries[name].options.keys() == options_of(component).keys()
            assert f"  {name} " in lines
            for key, option in entries[name].options.items():
                assert f"    {key}={option.default} " in lines


def test_the_table_says_how_components_are_written():
    lines = description.text_table(description.catalogue())
    assert max(map(len, lines)) <= 100
    assert any("--prior mixture:components=20" in line for line in lines)


def test_columns_that_keep_their_units_are_told_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.save("x.npy", x)
    np.save("bits.npy", (x > 0).astype(np.uint8))

    def lines(data, likelihood=None, scaling=None):
        model = {} if likelihood is None else {"likelihood": likelihood}
        settings = {"name": data, "scaling": scaling}
        return description.headline(
            *Config.resolve({"data": settings, "model": model})
        ).splitlines()

    said = "the columns are not standardized: --scaling standardize does that"
    assert lines("x.npy", "student_t")[1:] == [said]
    assert lines("x.npy", "normal", "none")[1:] == [said]
    for quiet in (
        lines("x.npy"),
        lines("x.npy", "student_t", "standardize"),
        lines("bits.npy"),
        lines("digits", "normal"),
    ):
        assert len(quiet) == 1


def test_kind_and_likelihood_of_each_column_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i / 7},{i % 5},{word},{i}" for i, word in enumerate(["red", "blue"] * 20)]
    Path("mixed.csv").write_text("\n".join(["weight,visits,color,age", *rows]))
    model = {"columns": "age=poisson"}
    settings = {"data": {"name": "mixed.csv"}, "model": model}
    first, *listed = description.headline(*Config.resolve(settings)).splitlines()
    assert "likelihood columns, " in first
    assert listed == [
        "  real, normal(scale=dimension): weight",
        "  count, negative_binomial: visits",
        "  category, categorical(levels=2): color",
        "  count, poisson: age",
    ]


def test_a_description_names_roles_distributions_shapes_and_counts(run):
    vae = run.vae()
    lines = description.describe(run, vae)
    text = "\n".join(lines)
    assert "Mixture of Normal (2,), mixture:components=3,start=random; 15 parameters" in text
    assert "DiscretizedLogistic (1, 8, 8), discretized_logistic:levels=17,scale=decoder, " in text
    assert "q(z|x)  Normal (2,), diagonal, encoder mlp:hidden_dims=8" in text
    assert f"{sum(p.numel() for p in vae.parameters()):,} in all" in text
    assert "1 of 1 epochs" in text


def test_a_heavy_tail_of_the_weights_is_told_of():
    weights = WeightSummary(None, Estimate(-90.0, 1.0), 0.1, 30.0, 2.0, 2 / 3, 0.125, 0.02, 0.9)
    line, meaning = description.reliability(weights)
    shown = "Pareto k-hat above 0.67 12.5% +- 2.0% of the examples,"
    assert " ".join(line.split()) == shown
    assert meaning == "    where log p(x) may be far above the bound"
    older, _ = description.reliability(replace(weights, reliable_below=0.7, unreliable_error=None))
    assert older.split() == shown.replace("0.67", "0.7").replace(" +- 2.0%", "").split()
    assert older.index("%") == line.index("%")
    for nothing in (None, replace(weights, unreliable=0.0)):
        assert description.reliability(nothing) == []


def test_programs_are_drawn_where_graphviz_is(run, tmp_path):
    pytest.importorskip("graphviz")
    if shutil.which("dot") is None:
        pytest.skip("graphviz has no dot here")
    line = description.draw_programs(run.vae(), (1, 8, 8), tmp_path / "figures")
    for name in ("model", "guide"):
        path = tmp_path / "figures" / f"{name}.png"
        assert str(path) in line
        assert path.read_bytes().startswith(b"\x89PNG")


def test_missing_graphviz_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install graphviz" in description.draw_programs(
        run.vae(), (1, 8, 8), tmp_path / "figures"
    )
    assert not (tmp_path / "figures").exists()
