r"""Options that commands share, the settings they make up, and the opening of a run."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pyrovae.runs import Run

__all__ = [
    "ROLES",
    "count",
    "data_dir_option",
    "data_options",
    "integer",
    "json_option",
    "network_options",
    "number",
    "opened_run",
    "own_code",
    "run_options",
    "seed_option",
    "settings",
    "text",
    "training_options",
    "whole_number",
]

ROLES = ("prior", "likelihood", "posterior", "encoder", "decoder")

F = TypeVar("F", bound=Callable[..., Any])


def _not_empty(value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it is empty")
    return value


text = partial(click.option, type=_not_empty)
count = partial(click.option, type=click.IntRange(1))
integer = partial(click.option, type=int, metavar="N")
number = partial(click.option, type=float, metavar="X")


def whole_number(name: str, default: int, help: str, *, least: int = 1) -> Callable[[F], F]:
    """An option that takes a whole number, of which the help shows the default."""
    return click.option(
        name,
        metavar="N",
        type=click.IntRange(least),
        default=default,
        show_default=True,
        help=help,
    )


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


data_dir_option = text("--data-dir", metavar="DIR", help="Folder of the torchvision datasets.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of all draws.",
)

data_options = _options(
    text("--data", metavar="NAME|PATH", help="Dataset, file, or folder of images. [digits]"),
    data_dir_option,
    integer("--image-size", help="Resize a folder's images to N x N."),
    text("--binarization", metavar="HOW", help="dynamic, static, threshold or none."),
    text("--scaling", metavar="HOW", help="none, unit or standardize."),
)

network_options = _options(
    text("--encoder", metavar="SPEC", help="Network of q(z|x). [from the recipe]"),
    text("--decoder", metavar="SPEC", help="Network of p(x|z). [from the recipe]"),
    integer("--latent-dim", help="Dimensions of z. [from the recipe]"),
    number("--input-divisor", help="The encoder reads x / X. [from the recipe]"),
)

training_options = _options(
    integer("--epochs", help="Passes over the training data."),
    integer("--batch-size", help="Examples per step."),
    number("--learning-rate", help="Largest step size of Adam."),
    number("--warmup", help="Fraction of steps in which the rate rises."),
    text("--schedule", metavar="NAME", help="cosine or constant, after the warm-up."),
    number("--weight-decay", help="Decoupled weight decay of matrices."),
    text("--clip-norm", metavar="X|none", help="Largest gradient norm per example."),
    number("--averaging", help="Decay of the moving average of weights."),
    integer("--validate-every", help="Epochs between validation bounds."),
    text("--patience", metavar="N|none", help="Stop after N validation bounds without gain."),
    text("--compile", metavar="HOW", help="auto, off, graph or inductor."),
    text("--precision", metavar="NAME", help="Of matrix products: float32 or bf16."),
    text("--device", metavar="NAME", help="auto, cpu or cuda."),
    text("--config", metavar="FILE", help="TOML file with further settings."),
)

run_options = _options(
    click.argument("run", type=_not_empty, metavar="RUN"),
    *(
        text(f"--{role}", metavar="SPEC", help=f"Allow the run's own {role}, module:Class.")
        for role in ROLES
    ),
)


def settings(config: str | None, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Combine the settings of a file with those of the command line, which take precedence."""
    from pyrovae.runs import DATA_SETTINGS, MODEL_SETTINGS, TRAINING_SETTINGS, Config

    written = {} if config is None else Config.read(Path(config))
    given = {"name" if name == "data" else name: value for name, value in given.items()}
    tables = {"data": DATA_SETTINGS, "model": MODEL_SETTINGS, "training": TRAINING_SETTINGS}
    return {
        table: written.get(table, {}) | {n: v for n, v in given.items() if n in names}
        for table, names in tables.items()
    }


def own_code(given: dict[str, Any]) -> frozenset[str]:
    """The user-defined code that was named for some role, which may therefore be imported."""
    from pyrovae.runs import Spec

    named = (*ROLES, "objective")
    specs = [Spec.parse(given[role]) for role in named if given.get(role)]
    return frozenset(spec.name for spec in specs if spec.is_users_own)


def opened_run(run: str, own: dict[str, str | None]) -> "Run":
    """Open the run in a folder, with the user-defined code that was named."""
    from pyrovae.runs import Run

    opened = Run.open(run, trusted=own_code(own))
    opened.check_named(own)
    return opened
