"""Data as people have them: from a file to a trained run, and back to a file like the first."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from packaging.version import Version
from PIL import Image

import pyrovae
from pyrovae import plots
from pyrovae._process.files import read_tensors, write_tensors
from pyrovae.data import Column, Schema, Split, load
from pyrovae.runs import Config, Run, headline, start
from tests.oracles import assert_within

pytestmark = pytest.mark.xdist_group("own_data")  # one process makes its runs once

SMALL = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}
OPTIONS = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", 2)
FIT = (*OPTIONS, "--epochs", 1)


def made(folder, data, epochs=1, likelihood=None, **settings):
    """A small run, without pictures."""
    model = SMALL if likelihood is None else SMALL | {"likelihood": likelihood}
    settings = {"data": {"name": str(data)} | settings, "model": model}
    config, dataset = Config.resolve(settings | {"training": {"epochs": epochs, "compile": "off"}})
    start(config, dataset, folder)
    return folder


def lines(seed=0, count=400):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 1))
    x = np.c_[z, 10 + 2 * z, 100 - z] + 0.1 * rng.normal(size=(count, 3))
    return pd.DataFrame(x, columns=list("abc"))


def people(count=240, seed=3):
    """A table with columns of every kind and an id, of which a part depends on one number."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=count)
    return pd.DataFrame(
        {
            "height": 170 + 10 * z + rng.normal(size=count),
            "income": np.exp(8 + z + 0.3 * rng.normal(size=count)),
            "share": 1 / (1 + np.exp(-z - 0.5 * rng.normal(size=count))),
            "visits": rng.poisson(np.exp(1 + 0.5 * z)),
            "smoker": rng.random(count) < 1 / (1 + np.exp(-z)),
            "color": np.array(["red", "green", "blue, dark"])[rng.integers(0, 3, count)],
            "temp": rng.integers(-5, 6, count),
            "precise": 3637.058754 + 1e-3 * rng.normal(size=count),
        },
        index=pd.Index([f"p{i:03}" for i in range(count)], name="patient"),
    )


def with_gaps(frame, share=0.15, seed=5):
    nullable = frame.astype({"visits": "Int64", "smoker": "boolean", "temp": "Int64"})
    return nullable.mask(np.random.default_rng(seed).random(frame.shape) < share)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tables, and a run of each."""
    folder = tmp_path_factory.mktemp("own")
    lines().to_csv(folder / "lines.csv", index=False)
    people().to_parquet(folder / "people.parquet")
    with_gaps(people()).to_csv(folder / "gaps.csv")
    with_gaps(people()).to_parquet(folder / "gaps.parquet")
    made(folder / "lines", folder / "lines.csv")
    made(folder / "gaps", folder / "gaps.csv", id_column="patient")
    made(folder / "people", folder / "people.parquet")
    return folder


@pytest.fixture
def run(place, tmp_path):
    """A copy of a run."""
    return lambda name: shutil.copytree(place / name, tmp_path / name)


def table(path):
    exact = {} if Version(pd.__version__) >= Version("3.1") else {"float_precision": "round_trip"}
    return pd.read_csv(path, **exact)


def refused(result):
    """The line in which a command was refused."""
    assert (result.status, result.out) == (2, ""), result.err
    assert "Traceback" not in result.err
    said = result.err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("pyrovae: ")
    return said[0]


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet with an index", "csv of digits", "csv with row numbers"])
def test_an_index_is_no_data_and_a_header_is_none(tmp_path, form):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 4)), columns=list("abcd"))
    path = tmp_path / ("t.parquet" if "parquet" in form else "t.csv")
    if "parquet" in form:
        frame = frame[frame.a > 0]
        frame.to_parquet(path)
    elif "digits" in form:
        frame.columns = range(4)
        frame.to_csv(path, index=False)
    else:
        frame.to_csv(path)
    dataset = load(path)
    parts = (dataset.train, dataset.validation, dataset.test)
    assert dataset.event_shape == (4,)
    assert sum(map(len, parts)) == len(frame)
    assert dataset.schema.names == tuple(map(str, frame.columns))
    first = dataset.test.in_units(np.array([0]))[0]
    if "digits" in form:
        assert dataset.test.ids is None
        assert (frame.to_numpy() == first).all(1).any()
    else:
        assert (frame.loc[dataset.test.ids[0]].to_numpy() == first).all()


def test_bits_and_counts_under_a_header_of_digits_keep_their_recipes(tmp_path):
    rng = np.random.default_rng(0)
    for name, x, spec in (
        ("bits", rng.integers(0, 2, (100, 6)), "bernoulli"),
        ("counts", rng.integers(0, 4, (100, 6)), "binomial:total_count=3"),
    ):
        pd.DataFrame(x).to_csv(tmp_path / "t.csv", index=False)
        model = {} if name == "bits" else {"model": {"likelihood": "binomial"}}
        config, _ = Config.resolve({"data": {"name": str(tmp_path / "t.csv")}} | model)
        assert config.model["likelihood"] == spec


@pytest.mark.filterwarnings("default:further.csv has columns")
def test_columns_are_matched_by_name(command, run, tmp_path):
    frame = lines()
    frame.to_csv("t.csv", index=False)
    frame[["c", "b", "a"]].to_csv("reordered.csv", index=False)
    frame.assign(extra=1.0, more="words")[["c", "extra", "b", "a", "more"]].to_csv("further.csv")
    frame.rename(columns={"a": "q"}).to_csv("renamed.csv", index=False)
    found = {}
    folder = run("lines")
    for name in ("t", "reordered", "further"):
        options = ("--data", f"{name}.csv", "--samples", 20, "--out", f"{name}-scores.parquet")
        result = command("score", folder, *options)
        assert result.status == 0, result.err
        found[name] = pd.read_parquet(f"{name}-scores.parquet")
        ignored = "pyrovae: further.csv has columns that the training data did not have, which"
        said = f"{ignored} are ignored: extra, more\n" if name == "further" else ""
        assert result.err == said
    pd.testing.assert_frame_equal(found["t"], found["reordered"])
    pd.testing.assert_frame_equal(found["t"], found["further"].drop(columns="id"))
    result = command("score", folder, "--data", "renamed.csv", "--out", "no.csv")
    assert "renamed.csv lacks the columns a of the training data" in refused(result)
    assert not Path("no.csv").exists()


def test_a_frame_in_python_is_matched_by_name(place):
    run = Run.open(place / "lines")
    frame = lines()
    index = np.arange(5)
    treated = run.treat(frame[["b", "c", "a"]]).batch(index)
    assert torch.equal(run.treat(frame).batch(index), treated)
    with pytest.warns(UserWarning, match="ignored: extra"):
        assert torch.equal(run.treat(frame.assign(extra=0)).batch(index), treated)
    with pytest.raises(ValueError, match="lacks the columns b"):
        run.treat(frame[["a", "c"]])


# --- values -----------------------------------------------------------------------------------


def test_wine_comes_back_as_wine(command, tmp_path):
    """Means within a third of a deviation, and deviations within a factor of 1.5."""
    from sklearn.datasets import load_wine

    wine = load_wine(as_frame=True).frame
    wine.to_csv("wine.csv", index=False)
    result = command("fit", "--data", "wine.csv", *OPTIONS, "--epochs", 12, "--out", "run")
    assert result.status == 0, result.err
    assert command("sample", "run", "--count", 1_000, "--out", "drawn.csv").status == 0
    drawn = table("drawn.csv")
    assert list(drawn.columns) == list(wine.columns)
    assert (drawn.dtypes == wine.dtypes).all()
    assert ((drawn.mean() - wine.mean()).abs() < 0.33 * wine.std()).all()
    assert (np.log(drawn.std() / wine.std()).abs() < 0.4).all()
    again, first = load("drawn.csv").schema, load("wine.csv").schema
    assert again.names == first.names
    assert [c.integer for c in again.columns] == [c.integer for c in first.columns]
    result = command("fit", "--data", "drawn.csv", *FIT, "--out", "again")
    assert result.status == 0, result.err
    command("reconstruct", "run", "--data", "wine.csv", "--out", "rec.npz")
    with np.load("rec.npz") as rec:
        assert rec["x"][0, 0] == 14.23
        assert (rec["x"] == wine.to_numpy()[:20]).all()
        assert ((rec["reconstruction"][:, 0] > 11) & (rec["reconstruction"][:, 0] < 15)).all()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_impute_fills_the_gaps_and_nothing_else(command, place, run, ending):
    options = ("--data", place / f"gaps.{ending}", "--count", 8, "--samples", 20)
    out = f"filled.{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples
        result = command("impute", run("gaps"), *options, "--completions", 2, "--out", out)
    assert result.status == 0, result.err
    read = table if ending == "csv" else pd.read_parquet
    given = with_gaps(people())[:8].reset_index()
    for name in ("filled", "filled-1", "filled-2"):
        filled = read(f"{name}.{ending}")
        assert list(filled.columns) == list(given.columns)
        assert not filled.isna().any().any()
        assert filled.dtypes["visits"] == filled.dtypes["temp"] == np.int64
        assert filled.dtypes["smoker"].kind == "b"
        assert set(filled["color"]) <= {"red", "green", "blue, dark"}
        for column in given:
            seen = given[column].notna()
            assert filled[column][seen].tolist() == given[column][seen].tolist()
    gaps = read(f"filled-gaps.{ending}")
    assert len(gaps) == given.isna().to_numpy().sum()
    assert list(gaps.columns) == ["row", "column", "mean", "lower", "upper"]
    assert set(gaps["row"]) <= set(given["patient"])
    numbers = gaps[~gaps["column"].isin(["color"])]
    numbers = numbers[numbers["column"] != "smoker"]
    bounds = numbers[["lower", "upper"]].astype(float)
    assert (bounds["lower"] <= bounds["upper"]).all()


def test_an_array_without_names_keeps_its_observed_values(command, tmp_path):
    x = 3637.058754 + 1e-3 * np.random.default_rng(0).normal(size=(100, 3))
    x[::4, 1] = np.nan
    np.save("x.npy", x)
    made(tmp_path / "run", tmp_path / "x.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = ("--data", "x.npy", "--samples", 20, "--count", 5, "--completions", 1)
        for out in ("x.csv", "x.parquet", "x.npz"):
            result = command("impute", "run", *options, "--out", out)
            assert result.status == 0, result.err
    seen = ~np.isnan(x[:5])
    with np.load("x.npz") as arrays:
        found = [np.loadtxt("x.csv", delimiter=","), pd.read_parquet("x.parquet").to_numpy()]
        for filled in (*found, arrays["mean"], arrays["completions"][:, 0]):
            assert np.isfinite(filled).all()
            assert (filled[seen] == x[:5][seen]).all()
        np.testing.assert_array_equal(arrays["x"], x[:5])


def test_drawn_rows_have_the_types_of_the_table(command, run):
    frame = people().reset_index(drop=True)
    for out, read in (("drawn.csv", table), ("drawn.parquet", pd.read_parquet)):
        result = command("sample", run("people") if out == "drawn.csv" else "people", "--out", out)
        assert result.status == 0, result.err
        drawn = read(out)
        assert list(drawn.columns) == list(frame.columns)
        for name in ("height", "income", "share", "visits", "smoker", "temp", "precise"):
            assert drawn.dtypes[name] == frame.dtypes[name]
        assert set(drawn["color"]) <= set(frame["color"])
        assert abs(drawn["precise"].mean() - 3637.0588) < 1e-3
        assert load(out).schema.names == tuple(frame.columns)


def test_ids_come_first_in_every_table(command, place, run):
    folder, ids = run("gaps"), list(load(place / "gaps.csv", id_column="patient").test.ids)
    for verb, options in (("score", ("--samples", 5)), ("encode", ()), ("reconstruct", ())):
        for ending, read in (("csv", table), ("parquet", pd.read_parquet)):
            out = f"{verb}.{ending}"
            result = command(verb, folder, *options, "--out", out)
            assert result.status == 0, result.err
            found = read(out)
            assert found.columns[0] == "patient"
            assert list(found["patient"]) == ids[: len(found)]
            assert len(found) == (20 if verb == "reconstruct" else len(ids))


def test_an_index_without_a_name_stays_one(command, tmp_path):
    lines(count=100).to_parquet("t.parquet", index=False)
    frame = lines(count=100)
    frame.index = [f"r{i}" for i in range(100)]
    frame.to_parquet("t.parquet")
    made(tmp_path / "run", tmp_path / "t.parquet")
    for ending in ("parquet", "csv"):
        result = command("reconstruct", "run", "--data", "t.parquet", "--out", f"r.{ending}")
        assert result.status == 0, result.err
        assert load_all_ids(f"r.{ending}") == [f"r{i}" for i in range(20)]


def load_all_ids(path):
    return list(pyrovae.data.load_all(path).ids)


# --- counts and images --------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_counts_above_the_largest_are_scored_as_improbable(command, tmp_path, likelihood):
    counts = np.random.default_rng(0).poisson(3, (500, 10))
    np.save("c.npy", counts)
    made(tmp_path / "run", tmp_path / "c.npy", likelihood=likelihood, scaling="none")
    counts[0, 0] = 60
    for dtype in (np.int64, np.uint8):
        np.save("n.npy", counts[:20].astype(dtype))
        options = ("--data", "n.npy", "--samples", 10, "--out", "n.csv")
        assert command("score", "run", *options).status == 0
        found = table("n.csv")["log_evidence"]
        assert np.isfinite(found).all()
        assert found[0] < -80 < -40 < found[1:].min()


def test_a_black_image_is_one_out_of_255(command, tmp_path):
    rng = np.random.default_rng(0)
    np.save("grey.npy", rng.integers(0, 256, (60, 8, 8), dtype=np.uint8))
    made(tmp_path / "run", tmp_path / "grey.npy")
    np.save("black.npy", np.zeros((1, 8, 8), np.uint8))
    Path("black").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("black/0.png")
    found = []
    for name in ("black.npy", "black"):
        result = command("score", "run", "--data", name, "--samples", 10, "--out", "b.csv")
        assert result.status == 0, result.err
        found.append(table("b.csv")["log_evidence"][0])
    assert np.isfinite(found[0])
    assert found[0] == found[1]


def test_larger_pixels_than_in_training_are_scored(command, tmp_path):
    rng = np.random.default_rng(0)
    np.save("u.npy", rng.integers(0, 4096, (60, 4, 4)).astype(np.uint16))
    made(tmp_path / "run", tmp_path / "u.npy", scaling="unit")
    x = rng.integers(0, 4096, (3, 4, 4)).astype(np.uint16)
    x[1, 0, 0] = 4096
    np.save("n.npy", x)
    result = command("score", "run", "--data", "n.npy", "--samples", 10, "--out", "n.csv")
    assert result.status == 0, result.err
    assert np.isfinite(table("n.csv")["log_evidence"]).all()


@pytest.mark.parametrize("shape", [(131, 2), (2, 131), (500, 1), (1, 500), (28, 28), (600, 600)])
def test_pictures_have_bounded_sizes(shape):
    rng = np.random.default_rng(0)
    x = rng.random((64 if shape[0] < 600 else 9, 1, *shape))
    captions = [str(i) for i in range(len(x))]
    z, quantiles = np.zeros((3, 2)), np.array([0.1, 0.5, 0.9])
    figures = (
        plots.samples(x, x),
        plots.prior_swap(x, x, x, "a", "b"),
        plots.images(x, "title"),
        plots.reconstructions(x[:20], x[:20]),
        plots.completions(x[:8], x[:8] > 0.5, x[:8, None], x[:8], captions[:8]),
        plots.grid(x[:9].reshape(3, 3, 1, *shape), z, quantiles),
    )
    for figure in figures:
        assert figure.get_size_inches().min() >= 0.9
        assert figure.get_size_inches().max() <= 30
        for axes in figure.axes:
            assert max(axes.images[0].get_array().shape) <= 4_500


def test_pictures_of_many_images_are_bounded_and_say_so():
    x = np.random.default_rng(0).random((700, 1, 8, 8))
    names = [str(i) for i in range(len(x))]
    drawn = plots.completions(x, x > 0.5, x[:, None].repeat(30, 1), x, names)
    assert "50 of 700 images, 20 of 30 draws" in drawn.get_suptitle()
    pairs = plots.reconstructions(x, x)
    assert "50 of 700 images" in pairs.get_suptitle()
    for figure in (drawn, pairs, plots.images(x, "many")):
        assert figure.get_size_inches().max() <= 30


# --- figures of tables --------------------------------------------------------------------------


def test_figures_of_tables_have_names_units_and_say_what_is_left_out(place, tmp_path, monkeypatch):
    names = [f"name {i}" for i in range(14)]
    schema = Schema(tuple(Column(name) for name in names))
    x = 1_000 + np.random.default_rng(0).normal(size=(50, 14))
    for figure in (
        plots.samples(x, x, schema),
        plots.reconstructions(x, x, schema=schema),
        plots.prior_swap(x, x, x, "a", "b", schema),
    ):
        assert figure.get_suptitle().endswith("12 of 14 columns; without name 12, name 13")
        assert [axes.get_title(loc="left") for axes in figure.axes] == names[:12]
        below = figure.get_supxlabel() or figure.legends[0].get_title().get_text()
        assert below == "x (units of the data)"
    two = plots.samples(x[:, :2], x[:, :2], Schema(schema.columns[:2]))
    assert two.axes[0].get_ylabel() == "name 1 (units of the data)"

    drawn = {}
    monkeypatch.setattr(
        "pyrovae.plots.run_figures.save", lambda figure, path: drawn.update({path.stem: figure})
    )
    run = Run.open(place / "gaps")
    test = run.dataset().test
    x = test.batch(np.arange(len(test)))
    plots.draw_vae(run.vae(), x, None, [], tmp_path, schema=run.schema, units=test.original)
    for name in ("samples", "reconstructions"):
        panels = {axes.get_title(loc="left"): axes for axes in drawn[name].axes}
        assert list(panels) == list(run.schema.names)
        low, high = panels["height"].get_xlim()
        assert 100 < low < 160 < 180 < high < 240
        words = [label.get_text() for label in panels["color"].get_xticklabels()]
        assert words == ["blue, …", "green", "red"]


def test_names_that_cannot_be_drawn_do_not_break_a_figure(tmp_path):
    names = ("a$b$c", "\u540d\u524d", "line\nbreak", "x" * 80, "", "_{^")
    schema = Schema(tuple(Column(name) for name in names))
    x = np.random.default_rng(0).normal(size=(30, len(names)))
    figure = plots.samples(x, x, schema)
    plots.save(figure, tmp_path / "x.png")  # without a warning
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == [r"a\$b\$c", "column 2", "line break"]
    assert len(titles[3]) == 20


# --- before training ----------------------------------------------------------------------------


def test_the_headline_says_what_describes_what_and_what_is_missing(place):
    said = headline(*resolved(place / "gaps"))
    assert "likelihood columns, posterior" in said.splitlines()[0]
    missing = with_gaps(people()).isna().to_numpy().sum()
    assert said.splitlines()[1:] == [
        "  real, normal(scale=dimension): height, temp, precise",
        "  positive, log_normal(scale=dimension): income",
        "  proportion, beta(dispersion=dimension): share",
        "  count, negative_binomial: visits",
        "  boolean, bernoulli: smoker",
        "  category, categorical(levels=3): color",
        f"{missing} of 1,920 values are missing ({missing / 1920:.1%})",
    ]


def resolved(folder):
    run = Run.open(folder)
    return run.config, run.dataset()


def test_the_headline_is_short_for_many_columns(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(40, 300)), columns=[f"gene {i}" for i in range(300)])
    frame.assign(sex=rng.integers(0, 2, 40).astype(bool)).to_parquet(tmp_path / "wide.parquet")
    said = headline(*Config.resolve({"data": {"name": str(tmp_path / "wide.parquet")}}))
    assert len(said.splitlines()) == 3
    assert said.splitlines()[1].startswith("  real, normal(scale=dimension): gene 0, gene 1, ")
    assert said.splitlines()[1].endswith("more")
    assert max(map(len, said.splitlines()[1:])) <= 110


@pytest.mark.filterwarnings("always:log p.x. is far below:UserWarning")
def test_a_column_that_hardly_varies_is_named_before_training(command, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    x[:, 1] = 1e6 + 1e-9 * rng.normal(size=200)
    np.save("x.npy", x)
    x = x[:5].copy()
    x[2, 1] += 1e-3
    np.save("n.npy", x)
    result = command("fit", "--data", "x.npy", *FIT, "--out", "run")
    assert result.status == 0, result.err
    assert "in the training rows one number, up to rounding, fills x2: " in result.err
    result = command("score", "run", "--data", "n.npy", "--samples", 10, "--out", "n.csv")
    assert result.status == 0, result.err
    assert "far below that of all others in row 2 (" in result.err
    found = table("n.csv")["log_evidence"].fillna(-np.inf)
    assert found.idxmin() == 2
    assert found[2] < -1e6
    assert np.isfinite(found.drop(2)).all()


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_support_is_checked_over_all_parts_before_training(command, part):
    rng = np.random.default_rng(0)
    bits = {
        name: rng.integers(0, 2, (n, 6)).astype(float)
        for name, n in (("train", 100), ("validation", 20), ("test", 20))
    }
    bits[part][3, 2] = 0.5
    np.savez("bits.npz", **bits)
    options = ("--data", "bits.npz", "--likelihood", "bernoulli", *FIT, "--out", "run")
    result = command("fit", *options)
    assert (result.status, result.out) == (2, "")
    last = result.err.strip().splitlines()[-1]
    assert "the data holds 0.5, outside the support of Bernoulli" in last
    assert (f"{part} part: " in last) == (part != "train")
    assert not Path("run").exists()
    config, dataset = Config.resolve(
        {"data": {"name": "bits.npz"}, "model": SMALL | {"likelihood": "bernoulli"}}
    )
    with pytest.raises(ValueError, match=r"the data holds 0\.5"):
        pyrovae.fit(config.build(), dataset, epochs=1)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_tiny_test_part_raises_no_warning(command, rows):
    rng = np.random.default_rng(0)
    sizes = {"train": 100, "validation": 20, "test": rows}
    np.savez("t.npz", **{part: rng.normal(size=(n, 4)) for part, n in sizes.items()})
    result = command("fit", "--data", "t.npz", *FIT, "--out", "run")
    assert result.status == 0, result.err
    assert "pyrovae:" not in result.err
    assert "invalid value" not in result.err
    for verb, options in (("evaluate", ("--samples", 5)), ("diagnose", ("--limit", 2))):
        result = command(verb, "run", *options)
        assert result.status in ((0, 2) if verb == "diagnose" else (0,)), result.err
        assert "invalid value" not in result.err


# --- a run of a table, later --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaps", "people"])
def test_the_config_of_a_table_repeats_its_run(command, place, name):
    result = command("fit", "--config", place / name / "config.toml", "--out", "again")
    assert result.status == 0, result.err
    weights = (Path(folder) / "model.safetensors" for folder in (place / name, "again"))
    assert next(weights).read_bytes() == next(weights).read_bytes()
    assert (Path("again") / "schema.json").read_bytes() == (
        place / name / "schema.json"
    ).read_bytes()


def test_a_stopped_run_of_a_table_resumes_to_the_same_weights(command, place):
    options = ("--data", place / "gaps.csv", "--id", "patient", *OPTIONS, "--epochs", 3)
    assert command("fit", *options, "--out", "whole").status == 0
    stopped = command("fit", *options, "--out", "parts", "--max-minutes", 1e-6)
    assert "time is up; resume with: pyrovae fit --resume parts" in stopped.err
    resumed = command("fit", "--resume", "parts")
    assert resumed.status == 0, resumed.err
    whole, parts = (pyrovae.load(name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


COMMANDS = {
    "show": (),
    "evaluate": ("--samples", 5),
    "diagnose": ("--limit", 30),
    "kl": ("--samples", "1,10", "--limit", 20),
    "gap": ("--images", 2, "--draws", 10, "--steps", 5, "--samples", 20),
    "refit": ("--prior", "mixture:components=2", "--epochs", 1, "--samples", 5),
    "calibrate": ("--simulations", 100, "--draws", 19),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("name", ["gaps", "people"])
def test_every_command_takes_a_run_of_a_table(command, run, verb, name):
    result = command(verb, run(name), *COMMANDS[verb])
    assert result.status == 0, result.err
    assert "nan" not in result.out.lower()


def test_a_comparison_takes_a_table_with_gaps(command, place):
    options = ("--priors", "normal,laplace", "--seeds", 1, "--samples", 5, "--out", "compared")
    result = command("compare", "--data", place / "gaps.csv", "--id", "patient", *FIT, *options)
    assert result.status == 0, result.err
    assert "laplace" in result.out


@pytest.mark.filterwarnings("ignore")
def test_a_run_from_before_tables_had_a_schema_opens(command, run):
    folder = run("lines")
    weights = folder / "model.safetensors"
    write_tensors(weights, read_tensors(weights)[0])
    (folder / "schema.json").unlink()
    text = (folder / "config.toml").read_text().splitlines()
    new = ("gaps", "id_column", "columns")
    (folder / "config.toml").write_text(
        "\n".join(line for line in text if line.partition(" =")[0] not in new)
    )
    for verb, options in (
        ("show", ()),
        ("evaluate", ("--samples", 5)),
        ("sample", ("--out", "s.csv")),
        ("score", ("--samples", 5, "--out", "x.csv")),
        ("impute", ("--mask", "random:0.5", "--count", 2, "--samples", 50, "--out", "i.csv")),
        ("reconstruct", ()),
    ):
        result = command(verb, folder, *options)
        assert result.status == 0, result.err
    assert np.loadtxt("s.csv", delimiter=",").shape == (64, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--column", "hight=normal"), "no column 'hight' (did you mean 'height'?)"),
        (("--column", "height=norml"), "got 'norml' (did you mean 'normal'?)"),
        (("--column", "temp=normal", "--column", "temp=laplace"), "temp is given two likelihoods"),
        (("--column", "height=columns"), "likelihood of a column must be one of"),
        (("--likelihood", "columns:columns=normal*2"), "columns describes 2 columns, and x has 8"),
        (("--column", "color=categorical:levels=2"), "outside the support"),
        (("--column", "height"), "cannot read 'height' among the columns; write NAME=LIKELIHOOD"),
        (("--column", "height=normal:size=3"), "size"),
        (("--column", "color=normal"), "column color holds words"),
        (("--column", "height=normal", "--likelihood", "normal"), "leave one of the two out"),
        (("--column", "height=poisson"), "outside the support"),
        (("--likelihood", "normal"), "column color holds words"),
        (("--binarization", "static"), "binarization 'static'"),
        (("--scaling", "unit"), "unit"),
        (("--id", "nobody"), "no column 'nobody' of ids"),
        (("--image-size", "8"), "image_size"),
        (("--column", ""), "empty"),
    ],
)
def test_wrong_options_for_a_table_are_refused_in_a_line(command, place, options, message):
    id_column = () if "--id" in options else ("--id", "patient")
    result = command("fit", "--data", place / "gaps.csv", *id_column, *FIT, *options)
    assert (result.status, result.out) == (2, "")
    said = [line for line in result.err.splitlines() if line.startswith("pyrovae:")]
    assert len(said) == 1
    assert message in said[0]
    assert "Traceback" not in result.err
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "lacks the columns c"),
        ("a,b,c\n1,2,word\n", "word"),
        ("a,b,c\n1,2,inf\n", "inf"),
        ("a,b,c\n", "empty"),
        ("a,a,b,c\n1,2,3,4\n", "several columns of the name a"),
        ("", "empty"),
    ],
)
def test_wrong_tables_are_refused_in_a_line(command, run, text, message):
    Path("t.csv").write_text(text)
    folder = run("lines")
    for verb, options in (
        ("score", ("--out", "o.csv")),
        ("encode", ("--out", "o.csv")),
        ("impute", ("--out", "o.csv")),
        ("reconstruct", ()),
    ):
        assert message in refused(command(verb, folder, "--data", "t.csv", *options))


def test_wrong_files_and_names_are_refused_in_a_line(command, run):
    folder = run("people")
    for verb, options, message in (
        ("sample", ("--out", "x.png"), "its ending must be .csv or .parquet or .npy or .npz"),
        ("sample", ("--out", "none/x.csv"), "there is no folder none"),
        ("sample", ("--count", 0), "0"),
        ("impute", (), "nothing is missing in the 48 examples; hide some values with --mask"),
        ("impute", ("--mask", "lower"), "lower"),
        ("impute", ("--mask", "random:0.5", "--level", 1.5), "level must be between 0 and 1"),
        ("impute", ("--mask", "random:2"), "random"),
        ("score", ("--out", "x.txt"), "its ending must be"),
        ("score", ("--out", "x.csv", "--data", "none.csv"), "no file or folder at none.csv"),
        ("score", ("--out", "x.csv", "--id", "height", "--data", "digits"), "named dataset"),
    ):
        assert message in refused(command(verb, folder, *options))
    (folder / "schema.json").write_text("{}")
    assert "schema.json is damaged" in refused(command("sample", folder, "--out", "x.csv"))


def test_masked_entries_are_missing():
    x = np.ma.masked_less([[1.0, -999.0], [2.0, 3.0]], -900)
    split = Split.from_array(x)
    assert split.gaps
    assert split.missing() == 1
    np.testing.assert_array_equal(split.in_units(np.arange(2)), [[1.0, np.nan], [2.0, 3.0]])


def test_densities_of_a_table_are_of_its_units(command, run):
    """A change of units by 1,000 changes log p by its logarithm, for the same trained model."""
    folder = run("lines")
    plain = json.loads(command("evaluate", folder, "--samples", 5, "--json").out)
    scaled = json.loads(command("evaluate", folder, "--samples", 5, "--json", "--scaled").out)
    statistics = Run.open(folder).statistics()
    moved = plain["elbo"]["estimate"] - scaled["elbo"]["estimate"]
    assert_within(moved, -np.log(statistics["scale"]).sum(), 1e-5, 1)


@pytest.mark.filterwarnings("ignore")
def test_every_command_has_densities_in_the_units_of_the_data(command, run):
    """The bounds of two commands agree within 6 of their errors, those of a refit and of a gap."""
    folder = run("gaps")
    whole = json.loads(command("evaluate", folder, "--samples", 50, "--json").out)
    refitted = json.loads(command("refit", folder, *COMMANDS["refit"], "--json").out)
    before = refitted["elbo"]["before"]
    assert abs(before["estimate"] - whole["elbo"]["estimate"]) < 0.1
    options = ("--images", 4, "--draws", 10, "--steps", 5, "--samples", 200)
    found = json.loads(command("gap", folder, *options, "--json").out)
    exact = command("evaluate", folder, "--method", "quadrature", "--limit", 4, "--json")
    truth = json.loads(exact.out)["log_evidence"]["estimate"]
    values = [row["log_evidence"]["value"] for row in found["per_image"]]
    assert np.mean(values) == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize("name", ["lines", "gaps", "people"])
def test_a_run_reads_its_own_data_to_the_bit(place, name):
    run = Run.open(place / name)
    assert run.dataset().digest() == (place / name / "data.sha256").read_text().strip()


def test_a_training_file_that_has_changed_is_matched_by_name_or_refused(command, tmp_path):
    frame = lines(count=100)
    frame.to_csv("t.csv", index=False)
    made(tmp_path / "run", tmp_path / "t.csv")
    options = ("evaluate", "run", "--samples", 5)
    first = command(*options).out
    for changed in (frame[["c", "a", "b"]], frame.assign(d=1.5)):
        changed.to_csv("t.csv", index=False)
        assert command(*options).out == first
    for changed, message in (
        (frame[["a", "b"]], "t.csv lacks the columns c"),
        (3 * frame, "t.csv has changed since run was trained on it: the means or deviations"),
    ):
        changed.to_csv("t.csv", index=False)
        assert message in refused(command(*options))
    np.save("x.npy", frame.to_numpy())
    made(tmp_path / "other", tmp_path / "x.npy")
    np.save("x.npy", frame.to_numpy()[:, :2])
    result = command("evaluate", "other", "--samples", 5)
    assert "its examples have the shape (2,) and had (3,)" in refused(result)
