r"""The command line: the group, its errors, and the commands that describe and list."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

import pyrovae
from pyrovae._process import interruption, processes
from pyrovae.cli import diagnose, evaluate, fitting, onward, options, posterior, queries

if TYPE_CHECKING:
    from pyrovae.runs import Run

__all__ = ["cli", "main"]

SHARED = ("fit", "evaluate")  # commands that several processes can share

SECTIONS = {
    "Train": ("fit", "compare", "refit"),
    "Judge a run": ("evaluate", "kl", "gap", "diagnose", "calibrate"),
    "Use a run": (
        "sample",
        "reconstruct",
        "encode",
        "decode",
        "traverse",
        "score",
        "impute",
        "export",
    ),
    "Look up": ("report", "runs", "show", "components"),
}
"""The commands in the order in which the help lists them."""


def main() -> NoReturn:
    """Run the command line; an error is one line on standard error.

    Exit status: 0 on success; 1 if training diverged, the reader of standard output closed it, or
    for an unexpected error (``PYROVAE_TRACEBACK=1`` shows where); 2 for bad input; 130, 143 or 129
    if interrupted by Ctrl-C, SIGTERM or SIGHUP. With several processes, the first to stop reports
    why, and all have its status.
    """
    # Set before torch is loaded: threads that wait for each other spin for some microseconds and
    # then sleep. Sleeping at once makes a step twice as slow; spinning for long makes it many times
    # slower while other programs keep the cores busy.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with interruption.heeded():
            try:
                with processes.joined():
                    status = _main()
                processes.leave(status)
            except processes.StoppedError as error:
                _fail(str(error), 1)
    except KeyboardInterrupt:  # outside a command, as while processes waited for each other
        _fail("interrupted", 130)


def _main() -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status = cli(prog_name="pyrovae", standalone_mode=False)
        interruption.check()
        sys.stdout.flush()
    except click.UsageError as error:
        _fail(_usage(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (InterruptedCommandError, KeyboardInterrupt) as error:
        _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("PYROVAE_TRACEBACK"):
            raise
        _fail(*_reason(error))
    return status if isinstance(status, int) else 0


def _warn(message: Warning | str, *place: Any, **more: Any) -> None:
    if processes.is_first() and interruption.status() is None:
        _say(str(message))


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        options.echo(f"pyrovae: {' '.join(message.split())}", err=True)


def _fail(message: str, status: int) -> NoReturn:
    by_signal = interruption.status()
    if by_signal is not None and status != 130:  # what fails after a signal fails because of it
        message = "interrupted"
    processes.leave(processes.stop(lambda: _say(message), by_signal or status))


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx is not None else "pyrovae"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        given = error.option_name.lstrip("-")
        options = [name for option in error.ctx.command.params for name in option.opts]
        if meant := [name for name in options if _initials(name) == given]:
            message = f"{error.message.rstrip('.')} (did you mean {meant[0]!r}?)"
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


def _initials(option: str) -> str:
    return "".join(word[:1] for word in option.lstrip("-").split("-"))


def _reason(error: Exception) -> tuple[str, int]:
    if isinstance(error, ArithmeticError | processes.StoppedError):
        return str(error), 1
    from pyrovae._process.allocation import is_of_memory

    if is_of_memory(error):
        return f"there is not enough memory ({str(error) or 'for Python'}); ask for less", 2
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror}; check the path, its permissions and the space left", 2
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        return str(error), 2
    return (
        f"{type(error).__name__}: {error}; an unexpected error in pyrovae or in code of your own: "
        "PYROVAE_TRACEBACK=1 shows where"
    ), 1


class InterruptedCommandError(Exception):
    """A ``KeyboardInterrupt`` that click passes on; the other it answers with an empty line."""


@contextlib.contextmanager
def _passed_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedCommandError(str(error)) from error


class _Commands(click.Group):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _passed_on():
            return super().make_context(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        with _passed_on():
            return super().invoke(context)

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(n, self.commands[n].get_short_help_str(66)) for n in names])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(pyrovae.__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Variational autoencoders as Bayesian models, in Pyro.

    Components are written NAME or NAME:KEY=VALUE,KEY=VALUE, and code of your own module:Class.
    "pyrovae components" lists all components with their options.
    """
    if context.invoked_subcommand is None:
        options.echo(context.get_help())
    elif processes.count() > 1 and context.invoked_subcommand not in SHARED:
        raise click.UsageError(
            f"{context.invoked_subcommand} runs in one process; only {' and '.join(SHARED)} share "
            "their work under torchrun"
        )


@cli.command()
@options.on_run
def show(run: "Run") -> None:
    """Describe a run: roles, distributions, shapes, programs.

    The programs of model and guide are also drawn, where Graphviz is installed.
    """
    from pyrovae import runs

    vae = run.vae()
    options.echo("\n".join(runs.describe(run, vae)))
    options.echo(runs.draw_programs(vae, run.config.data["event_shape"], run.folder / "figures"))


@cli.command()
@options.on_runs
@options.file(
    "--out",
    metavar="FILE",
    help="The page, .html. [RUN/report.html; of several runs, comparison.html beside the first]",
)
@options.seed
@options.data_dir
@options.quiet
def report(found: "list[Run]", out: str | None, seed: int, data_dir: str | None) -> None:
    """Write a page about a run, one HTML file without network.

    It has the three roles, the bound and its parts, log p(x) with its error, samples, the best and
    worst reconstructions, the codes, networks that decode as you move z, the KL term by formula and
    by sampling, the ELBO taken apart, and what the run does not show. fit writes it too, unless
    --no-report is given. Several runs of the same data are set side by side, with paired
    differences from the first and samples from the same noise.
    """
    from pyrovae import report, runs, training

    run, *others = found
    for one in found:
        options.check_data_dir(run=one)
        one.summary()
    usual = run.folder.parent / report.FILE_OF_SEVERAL if others else run.folder / report.FILE
    path = runs.destination(out, usual, (".html",))
    dataset = run.dataset(data_dir)
    passes = len(found) if others else report.PASSES
    with training.counting("report", passes * min(report.LIMIT, len(dataset.test))) as progress:
        if others:
            report.write_comparison(found, path, data_dir=data_dir, seed=seed, progress=progress)
        else:
            report.write_report(run, run.vae(), dataset, path, seed=seed, progress=progress)
    options.echo(f"report   {path}")


@cli.command()
@options.printed
def components() -> options.Found:
    """List all components, with their options and defaults."""
    from pyrovae import runs

    families = runs.catalogue()
    plain = {
        role: {name: entry.to_dict() for name, entry in family.items()}
        for role, family in families.items()
    }
    return plain, runs.text_table(families)


@cli.command(name="runs")
@click.argument("folder", metavar="[DIR]", default="runs", type=options.FOLDER)
@options.printed
def list_runs(folder: str) -> options.Found:
    """List the runs in a folder, with data, prior, bound and date."""
    from pyrovae import runs

    found = runs.find_runs(folder)
    return {"runs": [entry.to_dict() for entry in found]}, runs.table_of_runs(found)


for file in (diagnose, evaluate, fitting, onward, posterior, queries):
    for name in file.__all__:
        cli.add_command(getattr(file, name))
