r"""Options that commands share, the opening of a run, and the printing of what a command found."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyrovae._process import processes
from pyrovae._process.text import printable

if TYPE_CHECKING:
    from pyrovae.runs import Run, Settings

ROLES = ("prior", "likelihood", "posterior", "encoder", "decoder")

F = TypeVar("F", bound=Callable[..., Any])

Found = tuple[Mapping[str, object], Iterable[str]]
"""What a command found: as plain data, and as lines of text."""


def _not_empty(value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it is empty")
    return value


class _Place(click.types.StringParamType):
    """A path as text; a shell completes it with folders, or with files and folders."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: str, option: Any, context: Any) -> str:
        return _not_empty(value)

    def shell_complete(self, context: Any, option: Any, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self.kind)]


FOLDER, FILE = _Place("dir"), _Place("file")

text = partial(click.option, type=_not_empty, show_default=True)
folder = partial(click.option, type=FOLDER, show_default=True)
file = partial(click.option, type=FILE, show_default=True)
count = partial(click.option, type=click.IntRange(1), show_default=True)
integer = partial(click.option, type=int, metavar="N")
number = partial(click.option, type=float, metavar="X", show_default=True)


def whole_number(name: str, default: int, help: str, *, least: int = 1) -> Callable[[F], F]:
    """An option that takes a whole number, of which the help shows the default."""
    return count(name, metavar="N", type=click.IntRange(least), default=default, help=help)


def choice(
    name: str, allowed: Sequence[str], help: str, default: str | None = None
) -> Callable[[F], F]:
    """An option that takes one of some words."""
    return click.option(
        name, type=click.Choice(allowed), default=default, show_default=True, help=help
    )


proposal = choice(
    "--proposal",
    ["auto", "posterior", "refined", "mixture"],
    "Draw z from q(z|x), from q refined for each example, or from a mixture fitted without q (iw). "
    "auto: refined if that takes seconds, else posterior. [auto]",
)


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def refuse_without(name: str, condition: str, *, met: bool) -> None:
    """Refuse an option that is written on the command line and has no effect there.

    Args:
        name: of the option, as the command receives it.
        condition: what it applies to, for the message.
        met: whether that is so.
    """
    source = click.get_current_context().get_parameter_source(name)
    if not met and source is click.core.ParameterSource.COMMANDLINE:
        option = name.removesuffix("_column").replace("_", "-")
        raise click.UsageError(f"--{option} applies to {condition}; leave it out")


def check_data_dir(data: str | None = None, run: "Run | None" = None) -> None:
    """Refuse the folder of torchvision's datasets for other data.

    Args:
        data: name or path of the data.
        run: whose own data are read, which may also be a file that has moved.
    """
    from pyrovae.data import DATASETS, TorchvisionSet

    if click.get_current_context().params.get("data_dir") is None:
        return
    name = str(data) if run is None else run.config.data["name"]
    moved = run is not None and name not in DATASETS
    known = isinstance(DATASETS.get(name), TorchvisionSet)
    refuse_without("data_dir", f"the datasets of torchvision, not to {name}", met=known or moved)


data_dir = folder("--data-dir", metavar="DIR", help="Folder of the torchvision datasets.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _silence(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        from pyrovae.training import silenced

        context.with_resource(silenced())


quiet = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_silence,
    help="Show no progress, only results and warnings.",
)
seed = count("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Seed of all draws.")

data = _together(
    file("--data", metavar="NAME|PATH", help="Dataset, file, or folder of images. [digits]"),
    data_dir,
    text("--image-size", metavar="N|HxW", help="Resize a folder's images."),
    text("--id", "id_column", metavar="COLUMN", help="Column that identifies rows, no data."),
    text("--binarization", metavar="HOW", help="dynamic, static, threshold or none."),
    text("--scaling", metavar="HOW", help="none, unit, standardize or columns."),
)

columns = click.option(
    "--column",
    "columns",
    type=_not_empty,
    multiple=True,
    metavar="NAME=SPEC",
    help="Likelihood of a column of a table; may be repeated.",
)

scaled = click.option(
    "--scaled", is_flag=True, help="Densities of the scaled values, not of the data's units."
)

network = _together(
    text("--encoder", metavar="SPEC", help="Network of q(z|x). [from the recipe]"),
    text("--decoder", metavar="SPEC", help="Network of p(x|z). [from the recipe]"),
    integer("--latent-dim", help="Dimensions of z. [from the recipe]"),
    number("--input-divisor", help="The encoder reads x / X. [from the recipe]"),
)

training = _together(
    integer("--epochs", help="Passes over the training data."),
    integer("--batch-size", help="Examples per step."),
    click.option("--drop-last", is_flag=True, default=None, help="Leave out a smaller last batch."),
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
    file("--config", metavar="FILE", help="TOML file with further settings."),
)


def own_roles(*roles: str) -> Callable[[F], F]:
    """An option for each role, which names user-defined code that the run was trained with."""
    about = "Allow the run's own {}, module:Class."
    return _together(*(text(f"--{r}", metavar="SPEC", help=about.format(r)) for r in roles))


def on_run(function: Callable[..., None]) -> Callable[..., None]:
    """The argument RUN and the options for its own code; the command receives the run opened."""

    @click.argument("run", type=FOLDER, metavar="RUN")
    @own_roles(*ROLES)
    @wraps(function)
    def command(run: str, **given: Any) -> None:
        own = {role: given.pop(role) for role in ROLES}
        function(opened_run(run, own), **given)

    return command


def on_runs(function: Callable[..., None]) -> Callable[..., None]:
    """The argument RUN, once or more; the command receives the runs opened."""

    @click.argument("run", type=FOLDER, metavar="RUN...", nargs=-1, required=True)
    @own_roles(*ROLES)
    @wraps(function)
    def command(run: tuple[str, ...], **given: Any) -> None:
        own = {role: given.pop(role) for role in ROLES}
        function([opened_run(folder, own) for folder in run], **given)

    return command


def other_data(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name other data than the run's test set; the command receives the split."""

    @file("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
    @text("--id", "id_column", metavar="COLUMN", help="Column of --data that identifies rows.")
    @data_dir
    @wraps(function)
    def command(
        run: "Run", data: str | None, id_column: str | None, data_dir: str | None, **given: Any
    ) -> Any:
        refuse_without("id_column", "the table of --data", met=data is not None)
        check_data_dir(data, run if data is None else None)
        split = run.dataset(data_dir).test if data is None else run.treat(data, data_dir, id_column)
        return function(run, split, **given)

    return command


def opened_run(run: str, own: Mapping[str, str | None]) -> "Run":
    """Open the run in a folder, with the user-defined code that was named."""
    from pyrovae.runs import Run

    opened = Run.open(run, trusted=own_code(own.values()))
    opened.check_named(own)
    return opened


def own_code(specs: Iterable[str | None]) -> frozenset[str]:
    """The user-defined code that is named among these, which may therefore be imported."""
    from pyrovae.runs import Spec

    parsed = [Spec.parse(spec) for spec in specs if spec]
    return frozenset(spec.name for spec in parsed if spec.is_users_own)


def settings(config: str | None, given: Mapping[str, Any]) -> "Settings":
    """Combine the settings of a file with those of the command line, which take precedence."""
    from pyrovae.runs import SETTINGS, Config

    written = {} if config is None else Config.read(Path(config))
    named = {"name" if name == "data" else name: value for name, value in given.items()}
    if "columns" in named:
        named["columns"] = "\n".join(named["columns"]) or None
    chosen = {name: value for name, value in named.items() if value is not None}
    return {
        table: dict(written.get(table, {})) | {n: v for n, v in chosen.items() if n in names}
        for table, names in SETTINGS.items()
    }


def drawn(run: "Run", figures: Mapping[str, Any]) -> list[str]:
    """Save figures of a run by name, and name the files that could be written."""
    from pyrovae import plots, runs

    run.remove_leftovers()
    paths = {run.folder / f"figures/{name}.png": figure for name, figure in figures.items()}
    saved = (p for p, figure in paths.items() if runs.written(p, partial(plots.save, figure)))
    return [f"figure   {path}" for path in saved]


def printed(function: Callable[..., Found]) -> Callable[..., None]:
    """The option ``--json``, for a command that returns what it found."""

    @json_option
    @wraps(function)
    def command(*run: "Run", as_json: bool, **given: object) -> None:
        show(as_json, *function(*run, **given))

    return command


def echo(text: object, *, err: bool = False) -> None:
    """Print a line for people, with nothing in it that a terminal would obey.

    All that commands print goes through here: names, labels, paths and what files hold come from
    anywhere.
    """
    click.echo(printable(str(text)), err=err)


def show(as_json: bool, plain: Mapping[str, object], lines: Iterable[str]) -> None:
    """Print what a command found, as one JSON object or as lines, in the first process."""
    from pyrovae import runs

    if processes.is_first():
        echo(runs.as_json(plain) if as_json else "\n".join(lines))
