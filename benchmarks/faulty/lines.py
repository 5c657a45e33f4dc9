"""Command lines, right and wrong, made from the parameters that click knows of each command."""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from faulty.cases import Case, Verdict
from faulty.commands import TRAINED, Outcome, Workshop, command, complaints, listing, little_memory
from pyrovae.cli import app

__all__ = ["judged", "line_of", "wrong_lines"]

T = TypeVar("T")
Choose = Callable[[Sequence[Any]], Any]

SECONDS = 15.0  # then it is interrupted, which is a case of its own

CHEAP: dict[str, tuple[str, ...]] = {
    "fit": ("--data", "images.npz", *TRAINED, "--epochs", "1"),
    "compare": (
        *("--data", "images.npz", *TRAINED, "--epochs", "1", "--seeds", "1", "--samples", "2"),
        *("--priors", "normal,laplace"),
    ),
    "refit": ("--prior", "laplace", "--epochs", "1", "--samples", "2"),
    "evaluate": ("--samples", "2", "--limit", "3"),
    "kl": ("--samples", "1,5", "--limit", "5"),
    "gap": ("--images", "1", "--samples", "5", "--steps", "3", "--draws", "4"),
    "calibrate": (
        "--simulations",
        "20",
    ),
    "diagnose": ("--limit", "40", "--draws", "2"),
    "score": ("--data", "new.npy", "--samples", "2", "--out", "scores.csv"),
    "encode": ("--data", "new.npy", "--out", "codes.npz"),
    "impute": ("--mask", "lower", "--samples", "10", "--count", "2"),
    "sample": ("--count", "2"),
    "reconstruct": ("--count", "2"),
}
"""What makes a command quick; a command that is not here has its defaults."""

NUMBERS = (
    *("-1", "0", "1", "2", "3", "007", "1.5", "-0.0", "1e3", "1e308", "1e-320", "nan", "inf"),
    *("-inf", "x", "", " ", "1,2", "1_0", "0x10", "\u0663", "9223372036854775807", "none", "0.5"),
    *("9223372036854775808", "1" + 30 * "0", "1" + 5_000 * "0", "-9223372036854775809", "1000000"),
)
SPECS = (
    *("normal", "laplace", "mixture:components=3", "mixture:components=0", "mixture:components=x"),
    *("mixture:components=1000000000000", "flow", "vamp:components=2", "full", "low_rank", "point"),
    *("mlp:hidden_dims=4", "mlp:hidden_dims=-1", "mlp:hidden_dims=9999999999", "linear", "mlp:"),
    *("conv", "bernoulli", "categorical", "binomial:total_count=1", "poisson", "normal:scale=0"),
    *("normal:scale=nan", "elbo", "iwae:particles=2", "iwae:particles=99999999999", "beta:beta=-1"),
    *(
        "beta:beta=nan",
        "os:system",
        "os:getcwd",
        "no.such.module:Thing",
        "builtins:eval",
        ":",
        "::",
    ),
    *("a:b:c", "normal:normal", "mixture:components=3,components=4", "=", ",", "mixture:=3", "a=b"),
    *("student_t:df=0", "discretized_logistic", "relaxed_categorical", "columns", "lapalce"),
    *("a=normal", "a=", "=normal", "nosuch=normal", "power_spherical", "subprocess:run"),
)
PATHS = (
    *("images.npz", "new.npy", "table.csv", "run", "table", "other", "nowhere", "no/such/folder/x"),
    *("", ".", "..", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "~/nowhere-at-all", "a.npz"),
    *(
        "a.csv",
        "a.parquet",
        "a.png",
        "a.npy",
        "a.txt",
        "a.json",
        ".npz",
        "run/x.npz",
        "run/config.toml",
    ),
    *(
        "run/model.safetensors",
        "a\nb",
        "\x1b[31mred",
        "\x07",
        "a b.csv",
        "-",
        "--",
        "x" * 300,
        "\u00e9",
    ),
    *("\udcff.csv", "new.npy/x", "/root/nobody/x.csv", "/etc/passwd", "digits", "mnist", "*"),
)
WORDS = (
    "yes",
    "no",
    "true",
    "auto",
    "off",
    "none",
    "AUTO",
    "\u202eabc",
    "<b>x</b>",
    "'",
    '"',
    "{}",
)


def values(parameter: click.Parameter) -> tuple[str, ...]:
    """Values to try, right and wrong, from the kind of a parameter and the words of its help."""
    if isinstance(parameter.type, click.Choice):
        return (*map(str, parameter.type.choices), *WORDS, "")
    numeric = parameter.type.name in ("integer", "integer range", "float", "float range")
    if numeric:
        return NUMBERS
    metavar = parameter.metavar or ""
    hints = tuple(re.findall(r"[A-Za-z0-9_.:]+", getattr(parameter, "help", "") or ""))
    if "SPEC" in metavar:
        return (*SPECS, *hints, *WORDS[:3])
    if re.search("FILE|DIR|PATH|RUN", metavar):
        return (*PATHS, *hints)
    return (*hints, *NUMBERS, *WORDS)


def line_of(name: str, choose: Choose) -> list[str]:
    """A command line.

    Args:
        name: of the command.
        choose: takes one of several; a random generator's, or that of a library which looks for
            small examples.
    """
    parameters = app.cli.commands[name].params
    given: dict[str, list[str]] = {}
    words = iter(CHEAP.get(name, ()))
    for option in words:
        given[option] = [next(words)]
    place = ["run"] if any(isinstance(each, click.Argument) for each in parameters) else []
    options = [each for each in parameters if isinstance(each, click.Option)]
    for _ in range(choose((0, 1, 1, 1, 2, 3))):
        option = choose(options)
        flag = choose(option.opts)
        given[flag] = [] if option.is_flag else [choose(values(option))]
    for flag in [flag for flag in given if choose(range(12)) == 0]:
        del given[flag]
    line = [name, *place, *(word for flag, value in given.items() for word in (flag, *value))]
    odd = choose(("",) * 12 + ("unknown", "bare", "twice", "more", "run", "help", "equals"))
    if odd == "unknown":
        line.insert(
            choose(range(1, len(line) + 1)), choose(("--nosuch", "-x", "--sampels=3", "--"))
        )
    elif odd == "bare":
        line = line[:-1]
    elif odd == "twice":
        line += line[-2:]
    elif odd == "more":
        line.append(choose(PATHS))
    elif odd == "run" and place:
        line[1] = choose(PATHS)
    elif odd == "help":
        line.append("--help")
    elif odd == "equals" and len(line) > 2:
        line[-2:] = [f"{line[-2]}={line[-1]}"]
    return line


def judged(line: Sequence[str], place: Path) -> tuple[Outcome, list[str]]:
    """Run a command line, and say what is wrong with how it ended."""
    before = listing(place)
    found = command(line, place, seconds=SECONDS, prepare=little_memory)
    wrong = complaints(found, (0, 1, 2) if "diverge" in found.err else (0, 2))
    if found.status == 2:
        after = listing(place)
        wrong += [f"{name} was written" for name in after if name not in before]
        wrong += [f"{name} has changed" for name in before if after.get(name) != before[name]]
    return found, wrong


def wrong_lines(shop: Workshop, count: int) -> Iterator[Case]:
    """Command lines of all commands in turn."""
    names = sorted(app.cli.commands)
    for number in range(count):
        line = line_of(names[number % len(names)], random.Random(number).choice)
        words = " ".join(line).encode("unicode_escape", "backslashreplace").decode()
        yield Case(f"{number}: {words[:200]}", _line(shop, line))


def _line(shop: Workshop, line: Sequence[str]) -> Callable[[], Verdict]:
    def run() -> Verdict:
        if any("\x00" in word for word in line):
            return Verdict("cannot be typed", [])
        with shop.copy() as place:
            found, wrong = judged(line, place)
        word = f"status {found.status}" if found.in_time else "interrupted after its time"
        return Verdict(word, [*wrong, found.err.strip()[-300:]] if wrong else [])

    return run
