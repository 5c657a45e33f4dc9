"""A run in text: every setting is resolved, read back as it was written, and named if wrong."""

import tomllib

import numpy as np
import pytest
import torch

from pyrovae.config import MODEL_SETTINGS, TRAINING_SETTINGS, Config

SMALL = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}


def resolved(**tables):
    return Config.resolve({"model": SMALL, **tables})[0]


@pytest.fixture
def written(tmp_path):
    """A function that writes the configuration of a run, changed, and gives its path."""

    def write(old="", new=""):
        text = resolved().to_toml()
        assert old in text
        path = tmp_path / "config.toml"
        path.write_text(text.replace(old, new))
        return path

    return write


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"data": {"binarization": "dynamic"}, "model": {"likelihood": "bernoulli"}},
        {"model": {"prior": "mixture:components=3", "likelihood": "normal:scale=0.5"}},
        {"training": {"patience": 3, "max_minutes": 0.5, "clip_norm": None}},
    ],
)
def test_a_configuration_survives_toml(tmp_path, tables):
    config = resolved(**tables)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert Config.opened(path) == config
    assert Config.resolve(Config.read(path))[0] == config


def test_every_setting_is_resolved():
    tables = tomllib.loads(resolved().to_toml())
    assert tables["training"].keys() == TRAINING_SETTINGS.keys()
    assert tables["model"].keys() == MODEL_SETTINGS.keys()
    assert tables["model"]["likelihood"] == "binomial:total_count=16"
    assert tables["model"]["encoder"] == "mlp:hidden_dims=8,activation=silu,dropout=0.0"
    assert tables["data"]["event_shape"] == [1, 8, 8]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"modle": {}}, r"unknown table \[modle\] \(did you mean 'model'\?\)"),
        ({"model": 3}, r"\[model\] is a table of settings, got model = 3"),
        ({"model": {"prio": "x"}}, r"unknown key 'prio' in \[model\] \(did you mean 'prior'\?\)"),
        ({"model": {"prior": 3}}, r"\[model\] prior takes text, got 3"),
        ({"model": {"prior": {"x": 1}}}, r"\[model\] prior takes text"),
        ({"model": {"latent_dim": "ten"}}, r"\[model\] latent_dim takes an integer, got 'ten'"),
        ({"training": {"epochs": 2.5}}, r"\[training\] epochs takes an integer, got '2.5'"),
        ({"training": {"epochs": [1]}}, r"\[training\] epochs takes an integer, got \[1\]"),
        ({"training": {"epochs": True}}, r"\[training\] epochs takes an integer"),
        ({"training": {"warmup": "nan"}}, r"\[training\] warmup takes a finite number"),
        ({"data": {"name": ["a"]}}, r"\[data\] name takes text"),
        ({"data": {"scaling": "unitt"}}, "unknown scaling 'unitt'; choose one of"),
    ],
)
def test_a_wrong_setting_is_named(tables, message):
    with pytest.raises(ValueError, match=message):
        Config.resolve(tables)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[data]", "[data", "is not a TOML file"),
        ("maximum = 16\n", "", r"not the whole configuration of a run: \[data\] has no maximum"),
        ("maximum = 16", 'maximum = "many"', r"\[data\] maximum takes an integer or none"),
        ("    8,\n", '    "x",\n', r"\[data\] event_shape takes"),
        ("seed = 0\n", "", r"\[training\] has no seed"),
        ("epochs = 120", 'epochs = "many"', r"\[training\] epochs takes an integer"),
    ],
)
def test_a_damaged_configuration_is_refused_with_the_place(written, old, new, message):
    path = written(old, new)
    with pytest.raises(ValueError, match=message) as caught:
        Config.opened(path)
    assert str(path) in str(caught.value)


def test_an_empty_or_absent_file_is_refused(tmp_path):
    (tmp_path / "empty.toml").touch()
    with pytest.raises(ValueError, match="has no name, data_dir, image_size"):
        Config.opened(tmp_path / "empty.toml")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Config.read(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="is a folder"):
        Config.read(tmp_path)


def test_a_setting_wins_over_the_recipe_and_the_recipe_over_the_default():
    assert resolved().training["batch_size"] == 64
    assert resolved(training={"batch_size": 5}).training["batch_size"] == 5
    assert resolved().training["schedule"] == "cosine"


@pytest.mark.parametrize(
    ("likelihood", "scaling"),
    [("binomial", "none"), ("normal", "unit"), ("continuous_bernoulli", "unit")],
)
def test_counts_are_scaled_for_the_likelihood(likelihood, scaling):
    config = resolved(model=SMALL | {"likelihood": likelihood})
    assert (config.data["scaling"], config.data["binarization"]) == (scaling, "none")


@pytest.mark.parametrize(
    ("likelihood", "binarization", "written"),
    [
        ("binomial", "none", "total_count=16"),
        ("binomial", "static", "total_count=1"),
        ("categorical", "none", "levels=17"),
        ("discretized_logistic", "none", "levels=17,scale=decoder"),
        ("discretized_logistic:levels=20", "none", "levels=20,scale=decoder"),
        ("categorical", "dynamic", "levels=2"),
    ],
)
def test_counts_and_levels_are_those_of_the_data(likelihood, binarization, written):
    config = resolved(model=SMALL | {"likelihood": likelihood}, data={"binarization": binarization})
    assert config.model["likelihood"] == f"{likelihood.partition(':')[0]}:{written}"


def test_paths_are_kept_whole(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 4)))
    monkeypatch.chdir(tmp_path)
    assert resolved(data={"name": "x.npy"}).data["name"] == str(tmp_path / "x.npy")


def test_starting_weights_depend_on_the_seed_alone():
    config = resolved()
    torch.manual_seed(1)
    a = config.build().state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    b = config.build().state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    c = resolved(training={"seed": 1}).build().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": SMALL | {"latent_dim": 0}}, "latent_dim must be at least 1, got 0"),
        ({"training": {"seed": -1}}, "seed must not be negative, got -1"),
        ({"model": SMALL | {"encoder": "mlp:hidden_dims=0"}}, "hidden_dims must be"),
        ({"model": SMALL | {"prior": "mixture:components=0"}}, "components must be positive"),
    ],
)
def test_what_cannot_be_built_says_why(tables, message):
    with pytest.raises(ValueError, match=message):
        resolved(**tables).build()


def test_a_prior_of_another_dimension_says_which_latent_dim_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "three_dimensions.py").write_text(
        "import torch\nfrom pyro.distributions import Normal\n"
        "class Three(torch.nn.Module):\n"
        "    def forward(self):\n"
        "        return Normal(torch.zeros(3), 1.0).to_event(1)\n"
    )
    model = SMALL | {"prior": "three_dimensions:Three"}
    trusted = {"three_dimensions:Three"}
    config, _ = Config.resolve({"model": model}, trusted=trusted)
    with pytest.raises(ValueError, match="set latent_dim to 3"):
        config.build(trusted=trusted)
    config, _ = Config.resolve({"model": model | {"latent_dim": 3}}, trusted=trusted)
    assert config.build(trusted=trusted).latent_dim == 3
