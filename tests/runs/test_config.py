"""A run in text: every setting is resolved, read back as it was written, and named if wrong."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyrovae.data.recipes import BITS
from pyrovae.networks import MLP, Divided
from pyrovae.runs import MODEL_SETTINGS, TRAINING_SETTINGS, Config
from pyrovae.training import TrainingDivergedError, fit

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
    assert tables["model"]["likelihood"] == "discretized_logistic:levels=17,scale=decoder"
    assert tables["model"]["encoder"] == "mlp:hidden_dims=8,activation=silu,dropout=0.0"
    assert tables["model"]["input_divisor"] == 1
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
        ({"data": {"scaling": "unitt"}}, "got 'unitt' \\(did you mean 'unit'\\?\\)"),
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


def blobs(dtype=np.uint8, unit=255, rows=400):
    """Smooth spots on black, (rows, 1, 16, 16), levels from 0 to ``unit``."""
    rng = np.random.default_rng(0)
    place = rng.uniform(3, 13, (rows, 1, 2, 1, 1))
    width = rng.uniform(1.5, 3, (rows, 1, 1, 1))
    squares = (np.mgrid[:16, :16] - place) ** 2  # (rows, 1, 2, 16, 16)
    return np.rint(unit * np.exp(-squares.sum(2) / 2 / width**2)).astype(dtype)


def of_levels(path, x, likelihood="binomial", data=None, **model):
    """What is resolved for an array of levels that are modelled as levels."""
    np.save(path / "levels.npy", x)
    return Config.resolve(
        {
            "data": {"name": str(path / "levels.npy")} | (data or {}),
            "model": SMALL | {"likelihood": likelihood} | model,
        }
    )


def test_only_large_levels_are_divided_and_only_for_the_encoder(tmp_path):
    config, data = of_levels(tmp_path, blobs())
    divisor = config.model["input_divisor"]
    x = data.train.batch(np.arange(len(data.train)))
    assert 2 / 2**0.5 < (x / divisor).square().mean().sqrt() < 2 * 2**0.5
    encoder = config.build().posterior.encoder
    torch.testing.assert_close(encoder(x), encoder.network(x / divisor))
    assert x.max() == data.maximum == 255
    assert "total_count=255" in config.model["likelihood"]


@pytest.mark.parametrize(
    ("x", "changes"),
    [
        (blobs(np.int64, 16), {}),
        (blobs(), {"likelihood": "normal"}),
        (blobs(), {"likelihood": "bernoulli", "data": {"binarization": "dynamic"}}),
        (blobs(np.float32) / np.float32(2), {"likelihood": "normal"}),
        (-blobs(np.int64), {"likelihood": "normal", "data": {"scaling": "none"}}),
        (blobs(), {"input_divisor": 1}),
    ],
)
def test_all_else_is_read_as_it_is(tmp_path, x, changes):
    config, _ = of_levels(tmp_path, x, **changes)
    assert config.model["input_divisor"] == 1
    assert "posterior.encoder.last.weight" in config.build().state_dict()


def test_one_huge_count_does_not_make_all_others_small(tmp_path):
    x = np.random.default_rng(0).poisson(20, (300, 6))
    usual = of_levels(tmp_path, x, "negative_binomial")[0].model["input_divisor"]
    x[5, 3] = 10_000
    huge = of_levels(tmp_path, x, "negative_binomial")[0].model["input_divisor"]
    assert (usual, huge) == (8, 128)


@pytest.mark.parametrize("likelihood", ["binomial", "discretized_logistic", "negative_binomial"])
def test_levels_to_255_train_at_the_step_size_of_bits(tmp_path, likelihood):
    np.save(tmp_path / "white.npy", 255 - blobs())
    data = {"name": str(tmp_path / "white.npy")}
    model = {"likelihood": likelihood, "prior": "vamp:components=5"}

    def trained(**more):
        config, dataset = Config.resolve({"data": data, "model": model | more})
        assert config.training["learning_rate"] == BITS.training["learning_rate"]
        settings = dict(config.training, objective=None, epochs=2)
        return [row["elbo"] for row in fit(config.build(), dataset, **settings).metrics]

    first, second = trained()
    assert first < second
    try:
        undivided = trained(input_divisor=1)  # levels as they are
    except TrainingDivergedError:
        return
    assert undivided[-1] < second


@pytest.mark.parametrize("unit", [0.0, -1.0])
def test_a_divisor_that_is_not_positive_is_refused(unit):
    with pytest.raises(ValueError, match="divisor of the input must be positive"):
        resolved(model=SMALL | {"input_divisor": unit}).build()


def test_a_run_from_before_the_divisor_and_the_precision_opens_as_it_was(tmp_path):
    config, _ = of_levels(tmp_path, blobs())
    path = tmp_path / "config.toml"
    lines = (f"input_divisor = {config.model['input_divisor']}\n", 'precision = "float32"\n')
    text = config.to_toml()
    for line in lines:
        assert line in text
        text = text.replace(line, "")
    path.write_text(text)
    assert Config.opened(path).model["input_divisor"] == 1
    assert Config.opened(path).training["precision"] == "float32"
    assert Config.resolve(Config.read(path))[0].model["input_divisor"] == 1


def test_what_is_not_x_is_not_divided(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two_networks.py").write_text(
        "from pyrovae.posteriors import DiagonalNormal\n"
        "class Two(DiagonalNormal):\n"
        "    def __init__(self, latent_dim, event_shape, network):\n"
        "        super().__init__(latent_dim, event_shape, network)\n"
        "        self.second = network((latent_dim,), (latent_dim,))\n"
    )
    config, _ = of_levels(tmp_path, blobs(), input_divisor=8)
    own = "two_networks:Two"
    config = replace(config, model=dict(config.model) | {"posterior": own})
    posterior = config.build(trusted={own}).posterior
    assert type(posterior.encoder) is Divided
    assert type(posterior.second) is MLP


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


def test_gaps_choose_an_objective_unless_the_posterior_has_no_weights(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[::5, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    data = {"name": str(tmp_path / "x.npy")}
    chosen = {
        posterior: Config.resolve({"data": data, "model": {"posterior": posterior}})[0]
        for posterior in ("full", "point")
    }
    assert chosen["full"].training["objective"] == "iwae:particles=10"
    assert chosen["point"].training["objective"] == "elbo:particles=1"
    given = {"data": data, "training": {"objective": "stl"}}
    assert Config.resolve(given)[0].training["objective"] == "stl:particles=1"
