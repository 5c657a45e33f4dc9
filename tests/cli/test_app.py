"""The command line does what it says, or says in one line what was wrong and what to do."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyrovae
from pyrovae.cli import app
from pyrovae.data import default_data_dir
from pyrovae.runs import DATA_SETTINGS, MODEL_SETTINGS, TRAINING_SETTINGS
from pyrovae.training import TrainingDisplay

pytestmark = pytest.mark.xdist_group("app")  # one process makes its runs once

SMALL = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", "2")
SHORT = (*SMALL, "--epochs", "2")

OWN = """
from pathlib import Path
Path("imported").touch()
import torch
from pyro import distributions as dist

class MyPrior(torch.nn.Module):
    def __init__(self, latent_dim, *, rate=1.0):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(latent_dim))
        self.rate = rate

    def forward(self):
        return dist.Laplace(self.loc, 1 / self.rate).to_event(1)

class Fixed(torch.nn.Module):
    def forward(self):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)
"""


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)


@pytest.fixture
def refused(command):
    """Run ``pyrovae`` and check that it is refused in one line, and that nothing was written."""

    def run(*arguments):
        before = sorted(os.listdir())
        result = command(*arguments)
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith("pyrovae: ")
        assert len(result.err.splitlines()) == 1
        assert "Traceback" not in result.err
        assert sorted(os.listdir()) == before
        return result.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs."""
    from pyrovae.runs import Config, start

    model = {"encoder": SMALL[1], "decoder": SMALL[3], "latent_dim": 2}
    resolved = Config.resolve({"model": model, "training": {"epochs": 2}})
    return start(*resolved, tmp_path_factory.mktemp("cli") / "trained")[0]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run in the working folder."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def own(tmp_path):
    """A module of the user's own in the working folder, which leaves a mark when imported."""
    (tmp_path / "cli_components.py").write_text(OWN)
    yield tmp_path / "imported"
    sys.modules.pop("cli_components", None)


@pytest.mark.contract
def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib, pyrovae.cli\n"
        "for words in ([], ['fit']):\n"
        "    sys.argv = ['pyrovae', *words, '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        pyrovae.cli.main()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Train:" in out.stdout
    assert "--learning-rate" in out.stdout
    loaded = set(out.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "pyro", "numpy", "matplotlib", "rich", "sklearn", "scipy"}


def test_a_closed_pipe_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; sys.argv = ['pyrovae', '--help']; from pyrovae.cli import main; main()"
    try:
        done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.contract
def test_no_command_shows_help(command):
    result = command()
    assert (result.status, result.err) == (0, "")
    assert "Train:" in result.out


@pytest.mark.contract
def test_options_of_fit_are_the_settings():
    options = {parameter.name for parameter in app.cli.commands["fit"].params}
    settings = {*DATA_SETTINGS, *MODEL_SETTINGS, *TRAINING_SETTINGS} - {"name"}
    more = {"data", "recipe", "config", "out", "resume", "begin", "no_report", "quiet", "as_json"}
    assert options == settings | more


@pytest.mark.contract
def test_help_lists_every_command_within_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = command("--help").out
    listed = re.findall(r"^  (\w+)  ", out.partition("Train:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(app.cli.commands)
    assert listed[0] == "fit"
    assert "..." not in out.partition("Train:")[2]
    for name in (*app.cli.commands, ""):
        help = command(*([name] if name else []), "--help").out
        assert max(map(len, help.splitlines())) <= 80
    assert max(map(len, command("components").out.splitlines())) <= 80


def test_quiet_shows_no_progress(command, run):
    assert "9/9" not in command("encode", "run", "--quiet").err
    quiet = command("evaluate", "run", "--samples", 20, "--limit", 9, "--quiet")
    assert (quiet.status, quiet.err) == (0, "")


@pytest.mark.contract
def test_runs_are_listed_with_bound_and_date(command, run):
    shutil.copytree("run", "stopped")
    assert command("fit", "--resume", "run").status == 0
    shutil.copytree("run", "damaged")
    with open("damaged/config.toml", "a") as file:
        file.write("?")
    found = command("runs", ".")
    assert (found.status, found.err) == (0, "")
    rows = {line.split()[0]: line for line in found.out.splitlines()}
    assert re.search(r"digits +normal +-\d+.\d\d \+- \d+.\d\d +20\d\d-", found.out)
    assert "epoch " in rows["stopped"]
    assert "damaged/" in rows["damaged"]
    assert command("runs").err == (
        "pyrovae: there is no folder runs; pyrovae fit makes runs in runs/\n"
    )


@pytest.mark.contract
def test_a_shell_completes_folders_for_runs_and_files_for_data():
    words = {"COMP_WORDS": "pyrovae evaluate ru", "COMP_CWORD": "2"}
    environment = os.environ | words | {"_PYROVAE_COMPLETE": "bash_complete"}
    line = [sys.executable, "-c", "from pyrovae.cli import main; main()"]
    assert (
        subprocess.run(line, env=environment, capture_output=True, text=True).stdout == "dir,ru\n"
    )
    environment |= {"COMP_WORDS": "pyrovae fit --data x", "COMP_CWORD": "3"}
    assert (
        subprocess.run(line, env=environment, capture_output=True, text=True).stdout == "file,x\n"
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--prior lapalce", "got 'lapalce' (did you mean 'laplace'?); or write module:Class"),
        ("--likelihood bernouli", "did you mean 'bernoulli'?"),
        ("--posterior diag", "did you mean 'diagonal'?"),
        ("--encoder mpl", "did you mean 'mlp'?"),
        ("--decoder mlp:hiden_dims=3", "did you mean 'hidden_dims'?"),
        ("--encoder mlp:hidden_dims=a-b", "takes integers joined by dashes (500-500)"),
        ("--encoder mlp:hidden_dims=0", "hidden_dims must be one or more positive integers"),
        ("--encoder mlp:activation=reluu", "encoder mlp: activation takes"),
        ("--prior mixture:components=0", "got 0; for p(z) = N(0, I) use StandardNormal (--prior n"),
        ("--prior laplace:scale=inf", "scale takes a finite number, got 'inf'"),
        ("--prior laplace:", "nothing follows the colon"),
        ("--prior laplace:scale", "write laplace:scale=VALUE"),
        ("--likelihood normal:scale=0", "scale must be a positive number or 'learned'"),
        ("--likelihood binomial:total_count=8", "set total_count to the largest value"),
        ("--likelihood bernoulli", "either binarize (binarization dynamic, static or threshold)"),
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--epochs many", "'many' is not a valid integer; see pyrovae fit --help"),
        ("--batch-size 0", "batch_size must be at least 1"),
        ("--learning-rate -1", "learning_rate must be positive"),
        ("--learning-rate nan", "[training] learning_rate takes a finite number"),
        ("--warmup 2", "warmup is a fraction of all steps"),
        (
            "--schedule cosin",
            "schedule must be one of cosine, constant, got 'cosin' (did you mean 'cosine'?)",
        ),
        ("--clip-norm 0", "clip_norm must be positive, or None"),
        ("--averaging 1", "averaging must be at least 0 and below 1"),
        ("--recipe best", "there is no recipe 'best' for digits; there is best for mnist"),
        ("--patience x", "[training] patience takes an integer or none, got 'x'"),
        ("--max-minutes 0", "max_minutes must be positive"),
        ("--device gpu", "device must be one of auto, cpu, cuda, got 'gpu'"),
        ("--seed -1", "seed must not be negative, got -1"),
        ("--latent-dim 0", "latent_dim must be at least 1, got 0"),
        ("--data didgits", "did you mean 'digits'?"),
        ("--data absent.npy", "no file or folder at absent.npy"),
        ("--image-size 8", "image_size is for a folder of images"),
        ("--binarization dynamik", "got 'dynamik' (did you mean 'dynamic'?)"),
        ("--binarization dynamic --scaling unit", "set one of the two to 'none'"),
        ("--config absent.toml", "there is no file absent.toml"),
        ("--resume absent", "there is no run at absent"),
        ("--prior absent:Prior", "cannot import absent"),
        ("--out .", "exists; choose another folder"),
        ("--out /proc/run", "cannot create /proc/run"),
        ("--epocs 3", "--epochs"),
        ("--lr 3", "(did you mean '--learning-rate'?); see pyrovae fit --help"),
        ("--bs 3", "(did you mean '--batch-size'?)"),
        ("--epochs", "requires an argument"),
        ("extra", "unexpected extra argument (extra); see pyrovae fit --help"),
    ],
)
def test_fit_refuses_in_one_line(refused, arguments, part):
    assert part in refused("fit", *arguments.split())


@pytest.mark.parametrize("option", ["--data", "--out", "--resume", "--config", "--prior"])
def test_empty_text_is_refused(refused, option):
    assert f"invalid value for '{option}': it is empty" in refused("fit", option, "")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[modle]\nx = 1", "c.toml: unknown table [modle] (did you mean 'model'?)"),
        ('[model]\nprio = "x"', "c.toml: unknown key 'prio' in [model] (did you mean 'prior'?)"),
        ("model = 3", "c.toml: [model] is a table of settings"),
        ("[training]\nepochs = [1]", "c.toml: [training] epochs takes an integer, got [1]"),
        ("epochs = ", "c.toml is not a TOML file"),
    ],
)
def test_a_wrong_file_is_refused(refused, tmp_path, text, part):
    (tmp_path / "c.toml").write_text(text)
    assert part in refused("fit", "--config", "c.toml")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("evaluate", "missing argument 'RUN'; see pyrovae evaluate --help"),
        ("evaluate absent", "there is no run at absent"),
        ("evaluate run --samples 0", "0 is not in the range x>=1"),
        ("evaluate run --limit 0", "0 is not in the range x>=1"),
        ("evaluate run --seed -1", "-1 is not in the range"),
        ("evaluate run --prior laplace", "the prior of run is normal, not laplace"),
        ("evaluate run/config.toml", "is a file; give the folder of a run"),
        ("sample run --count 0", "0 is not in the range x>=1"),
        ("sample run --out x.jpg", "its ending must be .png or .npy or .npz, such as x.png"),
        ("sample run --out absent/x.png", "there is no folder absent"),
        ("sample run --out /proc/x.npy", "cannot write /proc/x.npy"),
        ("reconstruct run --out x.csv", "its ending must be .png or .npz"),
        ("reconstruct run --count -1", "-1 is not in the range x>=1"),
        ("encode run --data digits --out x.npy", "its ending must be .csv or .parquet or .npz"),
        ("encode run --data shape.npy --out x.npz", "was trained on examples of shape"),
        ("score run --data shape.npy --out x.npz", "have (1, 7, 7); give data of shape (N, 8, 8)"),
        ("encode run --data scale.npy --out x.npz", "the model was trained on counts out of 16"),
        ("score run --data scale.npy --out x.npz", "integers from 0 to 16 (an int64 array)"),
        ("encode run --data absent.npy --out x.npz", "no file or folder at absent.npy"),
        ("fit --resume run --epochs 3", "leave out --epochs"),
        ("fit --resume run --out other", "leave out --out"),
        ("fit --resume run --prior laplace", "the prior of run is normal, not laplace"),
        ("fit --out run", "run exists; choose another folder, or resume it: pyrovae fit --re"),
        ("shw run", "no such command 'shw'"),
    ],
)
def test_commands_on_a_run_refuse_in_one_line(refused, run, tmp_path, arguments, part):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "shape.npy", rng.integers(0, 17, (20, 7, 7)))
    np.save(tmp_path / "scale.npy", rng.random((20, 8, 8)))
    assert part in refused(*arguments.split())


@pytest.mark.parametrize("command_name", ["show", "evaluate", "sample"])
@pytest.mark.parametrize("file", ["config.toml", "model.safetensors"])
def test_a_damaged_run_is_refused(refused, run, command_name, file):
    contents = (run / file).read_bytes()
    (run / file).write_bytes(contents[: len(contents) // 3])
    assert f"run/{file}" in refused(command_name, "run")


def test_damage_to_what_resuming_needs_is_refused(refused, run):
    contents = (run / "last.safetensors").read_bytes()
    (run / "last.safetensors").write_bytes(contents[:99])
    assert "run/last.safetensors is not a whole safetensors file" in refused(
        "fit", "--resume", "run"
    )
    (run / "last.safetensors").unlink()
    assert "run/last.safetensors is missing" in refused("fit", "--resume", "run")


def test_damaged_metrics_are_written_again_by_resuming(refused, command, run, no_figures):
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole[:99])
    assert "pyrovae fit --resume run writes it again" in refused("show", "run")
    assert command("fit", "--resume", "run").status == 0
    assert (run / "metrics.jsonl").read_bytes() == whole


@pytest.mark.skipif(
    not (default_data_dir() / "MNIST").is_dir(), reason="MNIST is not in PYROVAE_DATA"
)
def test_bernoulli_on_grey_mnist_is_refused_with_the_choices(refused):
    err = refused("fit", "--data", "mnist", "--binarization", "none")
    assert "choose a likelihood of gray values (continuous_bernoulli or normal;" in err


@pytest.mark.contract
def test_json_is_one_object_and_nothing_else(command, no_figures):
    result = command("fit", *SHORT, "--json", "--out", "a")
    summary = json.loads(result.out)
    written = json.loads(Path("a/summary.json").read_text())
    assert summary | {"digest": written["digest"]} == written
    result = command("evaluate", "a", "--samples", 3, "--limit", 20, "--json")
    value = json.loads(result.out)
    assert result.status == 0
    assert value["elbo"].keys() == {"estimate", "standard_error"}
    assert value["log_evidence"].keys() == {"estimate", "standard_error", "samples", "kind"}
    assert value["reconstruction"].keys() == value["kl"].keys() == value["elbo"].keys()
    assert (value["images"], value["log_evidence"]["samples"]) == (20, 3)
    assert value["binarization"] == "none"
    assert value["likelihood"] == "discretized_logistic:levels=17,scale=decoder"
    assert (value["prior"], value["posterior"]) == ("normal", "diagonal")


def test_a_run_says_where_things_are_and_makes_its_pictures(command, monkeypatch):
    monkeypatch.setattr("pyrovae.evidence.proposals.AFFORDABLE", 10**12)  # as it is for users
    result = command("fit", *SHORT)
    assert result.status == 0
    assert "runs/digits-normal-1/figures" in result.out
    assert "pyrovae evaluate runs/digits-normal-1" in result.out
    assert "200 samples from q refined for each example" in result.out
    assert "Pareto k-hat" not in result.out
    assert "+-" in result.out
    assert "epoch 2/2  elbo " in result.err
    names = {"config.toml", "data.sha256", "metrics.jsonl", "summary.json", "figures"}
    names |= {"model.safetensors", "last.safetensors", "report.html"}
    assert {*os.listdir("runs/digits-normal-1")} == names
    assert len(os.listdir("runs/digits-normal-1/figures")) >= 4


def test_a_configuration_repeats_its_run_to_the_bit(command, no_figures):
    command("fit", *SHORT, "--prior", "mixture:components=3", "--out", "a")
    assert command("fit", "--config", "a/config.toml", "--out", "b").status == 0
    for name in ("model.safetensors", "config.toml"):
        assert Path(f"a/{name}").read_bytes() == Path(f"b/{name}").read_bytes()


def test_the_command_line_wins_over_the_file_and_the_file_over_the_recipe(
    command, tmp_path, no_figures
):
    (tmp_path / "c.toml").write_text(
        '[model]\nprior = "laplace"\nlatent_dim = 3\n[training]\nepochs = 2\nbatch_size = 500\n'
    )
    command("fit", "--config", "c.toml", *SMALL[:4], "--epochs", 1, "--latent-dim", 2, "--out", "a")
    config = pyrovae.Config.opened(tmp_path / "a" / "config.toml")
    assert (config.training["epochs"], config.model["latent_dim"]) == (1, 2)
    assert (config.training["batch_size"], config.model["prior"]) == (500, "laplace:scale=1.0")
    assert config.training["averaging"] == 0.999  # the recipe's; the default is 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prior", "laplace"),
        ("--prior", "mixture:components=20"),
        ("--likelihood", "normal:scale=0.5"),
        ("--likelihood", "continuous_bernoulli"),
        ("--likelihood", "bernoulli", "--binarization", "dynamic"),
        ("--encoder", "gated:hidden_dims=8"),
        ("--decoder", "conv:channels=4-4"),
        ("--latent-dim", "3"),
        ("--prior", "categorical", "--posterior", "relaxed_categorical:final=0.3"),
    ],
)
def test_a_component_is_swapped_by_one_option(command, no_figures, arguments):
    result = command("fit", *SMALL, "--epochs", 1, *arguments, "--out", "a")
    assert result.status == 0, result.err
    assert command("evaluate", "a", "--samples", 2, "--limit", 5).status == 0
    assert command("sample", "a", "--count", 3, "--out", "x.npy").status == 0
    assert np.load("x.npy").shape == (3, 1, 8, 8)


def write_data(kind):
    rng = np.random.default_rng(0)
    if kind == "x.csv":
        np.savetxt("x.csv", rng.normal(size=(40, 5)), delimiter=",")
    elif kind == "x.npy":
        np.save("x.npy", rng.integers(0, 2, (40, 6, 6), dtype=np.uint8))
    else:
        for i in range(20):
            os.makedirs(f"images/{i % 2}", exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).save(
                f"images/{i % 2}/{i}.png"
            )
    return kind


@pytest.mark.parametrize("kind", ["x.csv", "x.npy", "images"])
def test_data_of_ones_own(command, kind):
    data = write_data(kind)
    result = command("fit", "--data", data, *SHORT, "--out", "a")
    assert result.status == 0, result.err
    assert os.listdir("a/figures")
    for arguments in (("sample", "a"), ("reconstruct", "a")):
        result = command(*arguments)
        assert result.status == 0, result.err
        assert os.path.getsize(result.out.strip()) > 0
    assert command("encode", "a", "--data", data, "--out", "z.npz").status == 0
    rows = 20 if kind == "images" else 40
    assert np.load("z.npz")["loc"].shape == (rows, 2)


def test_encode_sample_and_reconstruct_agree_with_python(command, run):
    vae, x = pyrovae.load(run), 16 * np.random.default_rng(0).integers(0, 2, (9, 8, 8))
    np.save("x.npy", x)
    out = command("encode", "run", "--data", "x.npy", "--out", "z.npz").out
    assert out.startswith("mean and standard deviation of q(z|x), 9 examples, 2 dimensions\n")
    assert out.endswith("codes    z.npz\n")
    q = vae.posterior(vae.place(_tensor(x)[:, None]))
    np.testing.assert_allclose(np.load("z.npz")["loc"], q.mean.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.load("z.npz")["scale"], q.stddev.detach(), rtol=1e-4)
    for name in ("a", "b"):
        command("sample", "run", "--count", 4, "--means", "--seed", 3, "--out", f"{name}.npy")
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
    command("reconstruct", "run", "--data", "x.npy", "--count", 5, "--out", "r.npz")
    np.testing.assert_array_equal(np.load("r.npz")["x"][:, 0], x[:5])
    assert np.load("r.npz")["reconstruction"].shape == (5, 1, 8, 8)


def _tensor(x):
    import torch

    return torch.from_numpy(x)


@pytest.mark.contract
def test_show_and_components_describe(command, run):
    result = command("show", "run")
    assert (result.status, result.err) == (0, "")
    for part in ("p(z)", "p(x|z)", "q(z|x)", "DiscretizedLogistic (1, 8, 8)", "programs "):
        assert part in result.out
    assert "mixture" in command("components").out
    assert json.loads(command("components", "--json").out)["prior"]["laplace"]["options"] == {
        "scale": {"default": "1.0", "takes": "a finite number"}
    }


def test_own_code_works_wherever_it_is_named(command, own, no_figures):
    spec = ("--prior", "cli_components:MyPrior:rate=2.0")
    fitted = command("fit", *SHORT, *spec, "--out", "a")
    assert fitted.out.endswith("next     pyrovae evaluate a --prior cli_components:MyPrior\n")
    name = ("--prior", "cli_components:MyPrior")
    for arguments in (
        ("evaluate", "a", "--samples", 2, *spec),
        ("evaluate", "a", "--samples", 2, *name),
        ("sample", "a", "--out", "x.npy", *name),
        ("reconstruct", "a", "--out", "x.npz", *name),
        ("encode", "a", "--data", "digits", "--out", "z.npz", *name),
        ("show", "a", *name),
        ("fit", "--resume", "a", *name),
        ("fit", "--config", "a/config.toml", *spec, "--out", "b"),
    ):
        result = command(*arguments)
        assert result.status == 0, result.err
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert command("fit", *SHORT, "--prior", "cli_components:Fixed", "--out", "c").status == 0


def test_own_code_is_named_in_the_line_to_go_on_with(command, own, refused, no_figures):
    spec = ("--prior", "cli_components:MyPrior:rate=2.0")
    limited = command("fit", *SHORT, *spec, "--max-minutes", "1e-9", "--out", "a")
    how = "pyrovae fit --resume a --prior cli_components:MyPrior"
    assert f"time is up; resume with: {how}\n" in limited.err
    assert refused("fit", *SHORT, "--out", "a").endswith(f"or resume it: {how}\n")
    assert command(*how.split()[1:]).status == 0


def test_own_code_is_never_imported_where_it_is_not_named(refused, run, own):
    config = run / "config.toml"
    config.write_text(config.read_text().replace('"normal"', '"cli_components:MyPrior:rate=2.0"'))
    for arguments in (
        ("evaluate", "run"),
        ("sample", "run"),
        ("reconstruct", "run"),
        ("encode", "run", "--data", "digits", "--out", "z.npz"),
        ("show", "run"),
        ("fit", "--resume", "run"),
        ("fit", "--config", "run/config.toml", "--out", "b"),
    ):
        err = refused(*arguments)
        assert "add --prior cli_components:MyPrior:rate=2.0 on the command line" in err
    assert not own.exists()


def test_errors_of_own_code_are_one_line(command, tmp_path, own):
    own.with_name("cli_components.py").write_text(
        "import torch\nclass Bad(torch.nn.Module):\n"
        "    def __init__(self):\n        raise KeyError('k')\n"
    )
    result = command("fit", "--prior", "cli_components:Bad")
    assert result.status == 2
    assert "cannot be built: KeyError: 'k' in line 4 of" in result.err
    own.with_name("cli_components.py").write_text(
        "import torch\nclass Bad(torch.nn.Module):\n"
        "    def forward(self):\n        raise KeyError('k')\n"
    )
    sys.modules.pop("cli_components")
    result = command("fit", "--prior", "cli_components:Bad")
    assert result.status == 1
    assert result.err.startswith("pyrovae: KeyError: 'k'; an unexpected error")
    assert len(result.err.splitlines()) == 1


def interrupt_at(step, monkeypatch, number=signal.SIGINT):
    show = TrainingDisplay.__call__

    def interrupting(self, progress):
        show(self, progress)
        if progress.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingDisplay, "__call__", interrupting)


@pytest.mark.parametrize(
    ("step", "number", "status"),
    [(7, signal.SIGINT, 130), (20, signal.SIGTERM, 143), (33, signal.SIGHUP, 129)],
)
def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(
    command, monkeypatch, trained, no_figures, step, number, status
):
    with monkeypatch.context() as patched:
        interrupt_at(step, patched, number)
        result = command("fit", *SHORT, "--out", "a b")
    assert (result.status, result.out) == (status, "")
    assert result.err.endswith("pyrovae: interrupted; resume with: pyrovae fit --resume 'a b'\n")
    assert command("show", "a b").status == 0
    assert command("evaluate", "a b", "--samples", 1, "--limit", 5).status == 0
    assert command("fit", "--resume", "a b").status == 0
    expected = (trained / "model.safetensors").read_bytes()
    assert Path("a b/model.safetensors").read_bytes() == expected


@pytest.mark.slow
def test_a_killed_run_is_readable_and_goes_on_to_the_same_weights(command, no_figures, tmp_path):
    code = (
        "import sys, pyrovae.training.loop, pyrovae.cli\n"
        "pyrovae.training.loop.CHECKPOINT_SECONDS = 0\n"
        f"sys.argv = ['pyrovae', 'fit', *{SMALL}, '--epochs', '30', '--out', 'killed']\n"
        "pyrovae.cli.app.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        metrics = tmp_path / "killed" / "metrics.jsonl"
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.003)
    finally:
        process.kill()
        process.wait()
    assert command("show", "killed").status == 0
    assert command("evaluate", "killed", "--samples", 1, "--limit", 5).status == 0
    assert len(pyrovae.runs.Run.open("killed").history) < 30
    assert command("fit", "--resume", "killed").status == 0
    assert command("fit", "--config", "killed/config.toml", "--out", "whole").status == 0
    killed, whole = (Path(f"{name}/model.safetensors").read_bytes() for name in ("killed", "whole"))
    assert killed == whole


def test_an_interrupted_evaluation_goes_on_where_it_stopped(command, run, monkeypatch):
    arguments = ("evaluate", "run", "--samples", 100, "--json")
    whole = command(*arguments).out
    bounds = pyrovae.evidence.bounds
    done = []

    def interrupted(*arguments, **options):
        done.append(1)
        if len(done) == 8:
            raise KeyboardInterrupt
        return bounds(*arguments, **options)

    monkeypatch.setattr("pyrovae.evidence.lower_bounds.bounds", interrupted)
    result = command(*arguments)
    assert (result.status, result.out) == (130, "")
    assert result.err == "pyrovae: interrupted; repeat the command to resume\n"
    assert command(*arguments).out == whole
    # 359 images are 18 batches, of which 6 were done; one more each time tells whose they are
    assert len(done) == 8 + 1 + 18 - 6
    assert not list(run.glob("unfinished*"))


def test_an_interruption_after_training_says_how_to_go_on(command, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.plots.draw_vae", interrupted)
    result = command("fit", *SHORT, "--out", "a")
    assert result.status == 130
    assert result.err.endswith("interrupted; resume with: pyrovae fit --resume a\n")


def test_divergence_has_a_status_of_its_own(command):
    result = command("fit", *SHORT, "--learning-rate", "1e30", "--out", "a")
    assert result.status == 1
    assert "training diverged at step" in result.err.splitlines()[-1]
    assert command("show", "a").status == 0


def test_a_time_limit_says_how_to_go_on(command, no_figures):
    result = command("fit", *SHORT, "--max-minutes", "1e-9", "--out", "a")
    assert result.status == 0
    assert "no validation bound yet: the weights are those of the last step" in result.err
    assert "time is up; resume with: pyrovae fit --resume a" in result.err
    assert command("fit", "--resume", "a").status == 0
    assert json.loads(Path("a/summary.json").read_text())["stopped"] == "finished"
