"""What a person can cause is answered in one line: no text that acts on a terminal, no dump."""

import json

import numpy as np
import pytest

from pyrovae.runs import Config, start

pytestmark = pytest.mark.xdist_group("messages")  # one process makes its run once

HUGE = 10**12
SMALL = ("--encoder", "mlp:hidden_dims=4", "--decoder", "mlp:hidden_dims=4", "--epochs", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch on a table of numbers, with three latent dimensions."""
    folder = tmp_path_factory.mktemp("messages")
    np.save(folder / "rows.npy", np.random.default_rng(0).normal(size=(60, 4)))
    model = {"encoder": SMALL[1], "decoder": SMALL[3], "latent_dim": 3}
    settings = {"model": model, "training": {"epochs": 1}, "data": {"name": folder / "rows.npy"}}
    return start(*Config.resolve(settings), folder / "run")[0]


@pytest.fixture
def refused(command, tmp_path):
    def run(*arguments):
        before = sorted(tmp_path.iterdir())
        result = command(*arguments)
        assert (result.status, result.out) == (2, ""), result
        assert len(result.err.splitlines()) == 1
        assert result.err.startswith("pyrovae: ")
        assert "unexpected" not in result.err
        assert sorted(tmp_path.iterdir()) == before
        return result.err

    return run


TOO_MUCH = [
    ("sample", "RUN", "--count", HUGE),
    ("sample", "RUN", "--count", HUGE, "--means"),
    ("evaluate", "RUN", "--samples", HUGE),
    ("evaluate", "RUN", "--proposal", "mixture", "--samples", HUGE),
    ("evaluate", "RUN", "--method", "ais", "--samples", HUGE),
    ("evaluate", "RUN", "--method", "ais", "--temperatures", HUGE),
    ("evaluate", "RUN", "--method", "bdmc", "--samples", HUGE),
    ("score", "RUN", "--data", "ROWS", "--out", "s.csv", "--samples", HUGE),
    ("impute", "RUN", "--mask", "random:0.5", "--samples", HUGE),
    ("impute", "RUN", "--mask", "random:0.5", "--completions", HUGE),
    ("gap", "RUN", "--images", "1", "--samples", HUGE),
    ("gap", "RUN", "--images", "1", "--draws", HUGE),
    ("calibrate", "RUN", "--draws", HUGE - 1),
    ("calibrate", "RUN", "--simulations", HUGE),
    ("diagnose", "RUN", "--draws", HUGE),
    ("fit", *SMALL, "--latent-dim", 10**30),
    ("fit", *SMALL, "--latent-dim", HUGE),
    ("fit", "--encoder", f"mlp:hidden_dims={HUGE}"),
    ("fit", "--decoder", "conv:channels=10000000-10000000"),
    ("fit", "--encoder", f"residual:width={HUGE}"),
    ("fit", *SMALL, "--prior", f"mixture:components={HUGE}"),
    ("fit", *SMALL, "--prior", f"vamp:components={HUGE}"),
    ("fit", *SMALL, "--posterior", "full", "--latent-dim", 10**9),
    ("fit", *SMALL, "--posterior", f"flow:hidden_dims={10**9}"),
    ("fit", *SMALL, "--prior", f"flow:hidden_dims={10**9}"),
    ("fit", *SMALL, "--likelihood", f"categorical:levels={HUGE}"),
]

FAST = (0, 2, 15, 20)  # the others only in the slow tier


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(arguments, marks=[] if place in FAST else pytest.mark.slow)
        for place, arguments in enumerate(TOO_MUCH)
    ],
    ids=lambda arguments: "-".join(map(str, arguments)).replace("/", "")[:60],
)
def test_what_memory_cannot_hold_is_refused_with_its_size(refused, trained, arguments):
    known = {"RUN": trained, "ROWS": trained.parent / "rows.npy"}
    message = refused(*(known.get(part, part) for part in arguments))
    fits = ("of memory", "more memory than there is", "levels must be at most", "examples of shape")
    assert any(words in message for words in fits), message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("kl", "RUN", "--draws", "9"), "--draws applies to --gradients"),
        (("gap", "RUN", "--images", "1", "--method", "exact", "--draws", "9"), "no exact"),
        (("diagnose", "RUN", "--epochs", "5"), "compare --config"),
        (("encode", "RUN", "--out", "e.npz", "--id", "a"), "--id applies to the table of --data"),
        (("score", "RUN", "--out", "s.csv", "--id", "a"), "--id applies to the table of --data"),
        (("impute", "RUN", "--mask", "random:0.5", "--id", "a"), "--id applies to the table"),
        (("reconstruct", "RUN", "--id", "a"), "--id applies to the table of --data"),
        (("evaluate", "RUN", "--method", "exact", "--seed", "1"), "--seed applies to methods that"),
        (("evaluate", "RUN", "--method", "bdmc", "--proposal", "mixture"), "applies to iw"),
        (("evaluate", "RUN", "--start", "prior"), "--start applies to ais and bdmc"),
        *(
            ((name, "RUN", "--data", "ROWS", *more, "--data-dir", "."), "--data-dir applies to the")
            for name, *more in (
                ("encode", "--out", "e.npz"),
                ("score", "--out", "s.csv"),
                ("impute", "--mask", "random:0.5"),
                ("reconstruct",),
            )
        ),
        (("fit", "--data-dir", "."), "--data-dir applies to the datasets of torchvision"),
        (("fit", "--data", "ROWS", "--data-dir", "."), "--data-dir applies to the datasets of"),
        (("compare", "--priors", "normal", "--data-dir", "."), "--data-dir applies to the data"),
        (("fit", "--id", "a"), "id_column is for a table"),
        (("fit", "--image-size", "8"), "image_size is for a folder of images"),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, tuple) else "",
)
def test_an_option_without_effect_is_refused(refused, trained, arguments, named):
    known = {"RUN": trained, "ROWS": trained.parent / "rows.npy"}
    assert named in refused(*(known.get(part, part) for part in arguments))


ATTACK = "\x1b]0;X\x07\u202egpj\x9b31m"
SHOWN = "\\x1b]0;X\\x07\\u202egpj\\x9b31m"


def test_a_name_in_a_config_does_not_reach_the_terminal(command, trained, tmp_path):
    run = tmp_path / "copy"
    run.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (run / file.name).write_bytes(file.read_bytes())
    config = (run / "config.toml").read_text()
    name = json.dumps(str(trained.parent / "rows.npy"))
    assert name in config
    (run / "config.toml").write_text(config.replace(name, json.dumps(f"{ATTACK}.csv")))
    for arguments in (("show", run), ("evaluate", run), ("fit", "--resume", run)):
        result = command(*arguments)
        text = result.out + result.err
        assert SHOWN in text
        assert not any(mark in text for mark in "\x1b\x07\u202e\x9b")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "--data", ATTACK),
        ("fit", "--data", f"{ATTACK}.csv"),
        ("fit", "--prior", ATTACK),
        ("fit", "--encoder", f"mlp:{ATTACK}=3"),
        ("fit", f"--{ATTACK}"),
        (ATTACK,),
        ("show", ATTACK),
        ("evaluate", "RUN", "--method", ATTACK),
        ("sample", "RUN", "--out", f"{ATTACK}/x.csv"),
        ("impute", "RUN", "--mask", ATTACK),
        ("fit", "--config", ATTACK),
    ],
    ids=lambda arguments: arguments[-2] if len(arguments) > 1 else "command",
)
def test_what_is_typed_comes_back_escaped(refused, trained, arguments):
    message = refused(*(trained if part == "RUN" else part for part in arguments))
    assert not any(mark in message for mark in "\x1b\x07\u202e\x9b")


def test_names_of_columns_and_categories_are_escaped_and_words_stay(command, tmp_path):
    column = "Größe 高さ"
    rows = "\n".join(f"{n % 3}.5,{'a' if n % 2 else ATTACK}" for n in range(40))
    (tmp_path / "t.csv").write_text(f"{column},{ATTACK}\n{rows}\n", encoding="utf-8")
    fitted = command("fit", "--data", "t.csv", *SMALL, "--out", "run")
    assert fitted.status == 0, fitted
    found = command("evaluate", "run", "--samples", "5")
    text = fitted.out + fitted.err + found.out + found.err
    assert not any(mark in text for mark in "\x1b\x07\u202e\x9b")
    assert column in text
    assert SHOWN in text
