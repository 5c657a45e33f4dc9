r"""The command line: the group, its errors, and commands that train, draw and list."""

import json
import os
import sys
import warnings
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

import click

import pyrovae
from pyrovae._process import processes
from pyrovae.cli.calibrate import calibrate
from pyrovae.cli.compare import compare
from pyrovae.cli.diagnose import diagnose
from pyrovae.cli.evaluate import evaluate
from pyrovae.cli.gap import gap
from pyrovae.cli.kl import kl
from pyrovae.cli.options import (
    ROLES,
    data_dir_option,
    data_options,
    integer,
    json_option,
    network_options,
    opened_run,
    own_code,
    run_options,
    seed_option,
    settings,
    text,
    training_options,
    whole_number,
)
from pyrovae.cli.queries import impute, score
from pyrovae.cli.refit import refit

__all__ = ["cli", "main"]

SUMMARY_SAMPLES = 100
SHARED = ("fit", "evaluate")  # commands that several processes can share


def main() -> NoReturn:
    """Run the command line; an error is one line on standard error.

    Exit status: 0 on success; 1 if training diverged, the reader of standard output closed it, or
    for an unexpected error (``PYROVAE_TRACEBACK=1`` shows where); 2 for bad input; 130 if
    interrupted. With several processes, the first to stop reports why, and all have its status.
    """
    # Set before torch is loaded: threads that wait for each other spin for some microseconds and
    # then sleep. Sleeping at once makes a step twice as slow; spinning for long makes it many times
    # slower while other programs keep the cores busy.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with processes.joined():
            status = _main()
        processes.leave(status)
    except processes.StoppedError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:  # while processes waited for each other
        _fail("interrupted", 130)


def _main() -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status = cli(prog_name="pyrovae", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        _fail(_usage(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(str(error) or str(error.__cause__ or "") or "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("PYROVAE_TRACEBACK"):
            raise
        _fail(*_reason(error))
    return status if isinstance(status, int) else 0


def _warn(message: Warning | str, *place: Any, **more: Any) -> None:
    if processes.is_first():
        click.echo(f"pyrovae: {' '.join(str(message).split())}", err=True)


def _fail(message: str, status: int) -> NoReturn:
    line = f"pyrovae: {' '.join(message.split())}"
    processes.leave(processes.stop(lambda: click.echo(line, err=True), status))


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
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror}; check the path, its permissions and the space left", 2
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        return str(error), 2
    return (
        f"{type(error).__name__}: {error}; an unexpected error in pyrovae or in code of your own: "
        "PYROVAE_TRACEBACK=1 shows where"
    ), 1


@click.group(
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
        click.echo(context.get_help())
    elif processes.count() > 1 and context.invoked_subcommand not in SHARED:
        raise click.UsageError(
            f"{context.invoked_subcommand} runs in one process; only {' and '.join(SHARED)} share "
            "their work under torchrun"
        )


cli.add_command(calibrate)
cli.add_command(compare)
cli.add_command(evaluate)
cli.add_command(diagnose)
cli.add_command(gap)
cli.add_command(kl)
cli.add_command(refit)
cli.add_command(impute)
cli.add_command(score)


@cli.command()
@data_options
@text("--prior", metavar="SPEC", help="p(z). [normal]")
@text("--likelihood", metavar="SPEC", help="p(x|z). [from the recipe]")
@text("--posterior", metavar="SPEC", help="q(z|x). [diagonal]")
@text("--objective", metavar="SPEC", help="Training objective. [elbo]")
@network_options
@training_options
@text("--max-minutes", metavar="X|none", help="Stop after X minutes; resumable.")
@integer("--seed", help="Seed of weights, order and draws. [0]")
@text("--out", metavar="DIR", help="Folder of the run. [runs/<data>-<prior>-<n>]")
@text("--resume", metavar="RUN", help="Resume a run that was stopped.")
@json_option
def fit(
    config: str | None, out: str | None, resume: str | None, as_json: bool, **given: Any
) -> None:
    """Train a VAE, evaluate it and draw pictures, all in one folder.

    Without options, the data are the 1,797 handwritten digits that come with scikit-learn. Settings
    that are not given come from --config, then from the recipe of the data, then from the defaults.
    """
    from pyrovae.runs import (
        Config,
        Run,
        headline,
        in_words,
        reliability,
        resume_command,
        start,
        with_resume_command,
    )
    from pyrovae.runs import as_json as in_json
    from pyrovae.training import TrainingDisplay

    given = {name: value for name, value in given.items() if value is not None}
    trusted = own_code(given)
    if resume is None:
        chosen = settings(config, given)
        folder = None if out is None else Path(out)
    else:
        run = opened_run(resume, {role: given.pop(role, None) for role in (*ROLES, "objective")})
        others = {"config": config, "out": out}
        given |= {name: value for name, value in others.items() if value is not None}
        chosen, folder = run.settings_to_resume(given), run.folder
    resolved, dataset = Config.resolve(chosen, trusted=trusted)
    with TrainingDisplay(headline(resolved, dataset)) as display:
        folder, vae, trained = start(
            resolved,
            dataset,
            folder,
            trusted=trusted,
            resume=resume is not None,
            report=display,
        )
    run = Run.open(folder, trusted=trusted)
    with with_resume_command(folder):
        summary = run.finish(vae, dataset, trained, samples=SUMMARY_SAMPLES)
    if not processes.is_first():
        return
    lines = [*in_words(summary), *reliability(summary.weights)]
    click.echo(in_json(summary.to_dict()) if as_json else "\n".join(lines))
    if trained.best_epoch == 0:
        click.echo("no validation bound yet: the weights are those of the last step", err=True)
    if trained.stopped == "max_minutes":
        click.echo(f"time is up; resume with: {resume_command(folder)}", err=True)
    if not as_json:
        click.echo(
            f"{trained.seconds:.1f} s of training; weights of epoch {trained.best_epoch} of "
            f"{len(trained.metrics)}\n"
            f"run      {folder}\n"
            f"figures  {folder / 'figures'}\n"
            f"next     pyrovae evaluate {quote(str(folder))}{run.named_again()}"
        )


@cli.command()
@run_options
@whole_number("--count", 64, "Number of draws.")
@click.option("--means", is_flag=True, help="Means of p(x|z) instead of draws.")
@text("--out", metavar="FILE", help=".png of images, .csv of rows, .npy or .npz. [RUN/figures/...]")
@seed_option
def sample(
    run: str, count: int, means: bool, out: str | None, seed: int, **own: str | None
) -> None:
    """Sample from the model: z from p(z), then x from p(x|z)."""
    import torch

    from pyrovae import plots
    from pyrovae.runs import destination, write_arrays

    opened = opened_run(run, own)
    image = len(opened.config.data["event_shape"]) == 3
    kind = ".png" if image else ".csv"
    path = destination(out, opened.folder / f"figures/drawn{kind}", (kind, ".npy", ".npz"))
    vae = opened.vae()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        x = vae.decode(vae.prior().sample((count,))) if means else vae.sample(count)
    what = "means of $p(x|z)$" if means else "draws $x \\sim p(x|z)$"
    write_arrays(path, {"x": x.numpy()}, lambda: plots.images(x.numpy(), f"{what}, $z \\sim p(z)$"))
    click.echo(path)


@cli.command()
@run_options
@text("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
@data_dir_option
@whole_number("--count", 20, "Number of examples.")
@text("--out", metavar="FILE", help=".png or .npz. [RUN/figures/reconstructed.png]")
@seed_option
def reconstruct(
    run: str,
    data: str | None,
    data_dir: str | None,
    count: int,
    out: str | None,
    seed: int,
    **own: str | None,
) -> None:
    """Draw examples beside the mean of p(x|z) at a draw of z from q(z|x)."""
    import numpy as np
    import torch

    from pyrovae import plots
    from pyrovae.runs import destination, write_arrays

    opened = opened_run(run, own)
    path = destination(out, opened.folder / "figures/reconstructed.png", (".png", ".npz"))
    vae = opened.vae()
    split = opened.dataset(data_dir).test if data is None else opened.treat(data, data_dir)
    x = split.batch(np.arange(min(count, len(split))))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        means = vae.reconstruct(x)
    write_arrays(
        path,
        {"x": x.numpy(), "reconstruction": means.numpy()},
        lambda: plots.reconstructions(x.numpy(), means.numpy()),
    )
    click.echo(path)


@cli.command()
@run_options
@text("--data", metavar="NAME|PATH", required=True, help="Data to encode.")
@data_dir_option
@text("--out", metavar="FILE", required=True, help=".npz with loc, scale and labels.")
def encode(run: str, data: str, data_dir: str | None, out: str, **own: str | None) -> None:
    """Write the mean and standard deviation of q(z|x) for all examples of a dataset, in order."""
    from pyrovae.queries import encodings
    from pyrovae.runs import destination, write_arrays
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(out, Path(out), (".npz",))
    vae = opened.vae()
    split = opened.treat(data, data_dir)
    with counting("encoding", len(split)) as progress:
        loc, scale = encodings(vae, split, progress=progress)
    arrays = {"loc": loc.numpy(), "scale": scale.numpy()}
    if split.labels is not None:
        arrays["labels"] = split.labels
    write_arrays(path, arrays)
    click.echo(path)


@cli.command()
@run_options
def show(run: str, **own: str | None) -> None:
    """Describe a run: roles, distributions, shapes, parameters, and drawings of its programs."""
    from pyrovae.runs import describe, draw_programs

    opened = opened_run(run, own)
    vae = opened.vae()
    click.echo("\n".join(describe(opened, vae)))
    click.echo(draw_programs(vae, opened.config.data["event_shape"], opened.folder / "figures"))


@cli.command()
@json_option
def components(as_json: bool) -> None:
    """List every prior, posterior, likelihood, network and objective, with its options."""
    from pyrovae.runs import catalogue, text_table

    families = catalogue()
    plain = {
        role: {name: entry.to_dict() for name, entry in family.items()}
        for role, family in families.items()
    }
    click.echo(json.dumps(plain) if as_json else "\n".join(text_table(families)))
