r"""The commands that train: a run, runs that are compared, and another prior for a run."""

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from pyrovae._process import processes
from pyrovae.cli import options

if TYPE_CHECKING:
    from pyrovae.data import Dataset
    from pyrovae.runs import Comparison, Refit, Run, Summary
    from pyrovae.vae import VAE

__all__ = ["compare", "fit", "refit"]

NOT_REAL = ("categorical", "sphere")  # priors over other spaces than the real vectors
NOT_PRIOR = [role for role in options.ROLES if role != "prior"]


@click.command()
@options.data
@options.text("--recipe", metavar="NAME", help="Named recipe of the data: best, for mnist.")
@options.text("--prior", metavar="SPEC", help="p(z). [normal]")
@options.text("--likelihood", metavar="SPEC", help="p(x|z). [from the recipe]")
@options.columns
@options.text("--posterior", metavar="SPEC", help="q(z|x). [diagonal]")
@options.text("--objective", metavar="SPEC", help="Training objective. [elbo]")
@options.network
@options.training
@options.text("--max-minutes", metavar="X|none", help="Stop after X minutes; resumable.")
@options.integer("--seed", help="Seed of weights, order and draws. [0]")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@options.folder("--out", metavar="DIR", help="Folder of the run. [runs/<data>-<prior>-<n>]")
@options.folder("--resume", metavar="RUN", help="Resume a run that was stopped.")
@options.folder(
    "--from",
    "begin",
    metavar="RUN",
    help="Begin with a run's settings and weights, and change some.",
)
@options.quiet
@options.json_option
def fit(
    config: str | None,
    out: str | None,
    resume: str | None,
    begin: str | None,
    recipe: str | None,
    no_report: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a VAE, evaluate it and draw pictures, all in one folder.

    Without options, the data are the 1,797 handwritten digits that come with scikit-learn. Settings
    that are not given come from --config, then from the recipe of the data, then from the defaults.
    """
    from pyrovae import runs, training
    from pyrovae._process.files import expanded

    roles = (*options.ROLES, "objective")
    trusted = options.own_code(given.get(role) for role in roles)
    origin = None
    if begin is not None:
        if resume is not None or recipe is not None:
            raise click.UsageError(
                "--from takes its settings from a run; leave out --resume, --recipe"
            )
        origin = runs.Run.open(begin, trusted=trusted)
        chosen = runs.settings_with(origin, options.settings(config, given))
        folder = None if out is None else expanded(out)
    elif resume is None:
        chosen = options.settings(config, given)
        options.check_data_dir(chosen["data"].get("name", "digits"))
        folder = None if out is None else expanded(out)
    else:
        run = options.opened_run(resume, {role: given.pop(role, None) for role in roles})
        options.check_data_dir(run=run)
        given |= {"config": config, "out": out, "columns": given["columns"] or None}
        given |= {"recipe": recipe}
        changes = {name: value for name, value in given.items() if value is not None}
        chosen, folder = run.settings_to_resume(changes), run.folder
    resolved, dataset = runs.Config.resolve(
        chosen,
        recipe=None if resume else recipe,
        trusted=trusted,
        download=resume is None or given["data_dir"] is not None,
    )
    with training.TrainingDisplay(runs.headline(resolved, dataset)) as display:
        folder, vae, trained = runs.start(
            resolved,
            dataset,
            folder,
            trusted=trusted,
            resume=resume is not None,
            begin=origin,
            report=display,
        )
    run = runs.Run.open(folder, trusted=trusted)
    with runs.with_resume_command(folder):
        summary = run.finish(vae, dataset, trained)
    if not processes.is_first():
        return
    page = None if no_report else _page(run, vae, dataset)
    lines = [*runs.in_words(summary), *runs.reliability(summary.weights)]
    options.show(as_json, summary.to_dict(), lines)
    if trained.best_epoch == 0:
        options.echo("no validation bound yet: the weights are those of the last step", err=True)
    if trained.stopped == "max_minutes":
        options.echo(f"time is up; resume with: {runs.resume_command(folder)}", err=True)
    if not as_json:
        options.echo(
            f"{trained.seconds:.1f} s of training; weights of epoch {trained.best_epoch} of "
            f"{len(trained.metrics)}\n"
            f"run      {folder}\n"
            f"{_beginning(folder)}"
            f"figures  {folder / 'figures'}\n"
            + (f"report   {page}\n" if page else "")
            + f"next     pyrovae evaluate {quote(str(folder))}{run.named_again()}"
            + _another_prior(run, summary)
        )


def _beginning(folder: Path) -> str:
    """A line about the weights that a run began with; empty for one that began anew."""
    from pyrovae.runs import beginning_of

    found = beginning_of(folder)
    if found is None:
        return ""
    anew = ", ".join(found["started_anew"])
    return f"from     {found['run']}" + (f"; started anew: {anew}" if anew else "") + "\n"


def _another_prior(run: "Run", summary: "Summary") -> str:
    """A further step, where a flow can take the place of the prior."""
    prior = run.config.model["prior"].partition(":")[0]
    if summary.weights is None or run.trusted or prior in NOT_REAL or prior == "flow":
        return ""
    return f"\n         pyrovae refit {quote(str(run.folder))} --prior flow"


def _page(run: "Run", vae: "VAE", dataset: "Dataset") -> Path | None:
    """Write the page of a finished run, which is no worse where that fails."""
    from pyrovae import report, runs

    path = run.folder / report.FILE
    try:
        written = runs.written(path, partial(report.write_report, run, vae, dataset))
    except (ValueError, ArithmeticError) as error:
        warnings.warn(f"no report: {error}", stacklevel=2)
        return None
    return path if written else None


def _specs(context: click.Context, option: click.Parameter, value: str | None) -> list[str]:
    from pyrovae.runs import Spec

    try:
        return [] if value is None else Spec.several(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@options.data
@options.text("--priors", metavar="SPECS", callback=_specs, help="p(z). [normal]")
@options.text("--posteriors", metavar="SPECS", callback=_specs, help="q(z|x). [diagonal]")
@options.text("--likelihoods", metavar="SPECS", callback=_specs, help="p(x|z). [from the recipe]")
@options.text("--objectives", metavar="SPECS", callback=_specs, help="Training objective. [elbo]")
@options.network
@options.training
@options.whole_number("--seeds", 3, "Runs per model.")
@options.integer("--seed", help="First seed. [0]")
@options.whole_number("--samples", 1_000, "K, draws per example.")
@options.proposal
@options.count("--limit", metavar="N", help="Evaluate on the first N test examples.")
@options.folder("--out", metavar="DIR", help="Folder of the comparison. [runs/compare-<data>]")
@options.quiet
@options.printed
def compare(
    config: str | None,
    seeds: int,
    samples: int,
    proposal: str | None,
    limit: int | None,
    out: str | None,
    **given: Any,
) -> options.Found:
    """Train the same VAE with several components, compare bounds.

    SPECS are written as for fit and joined by commas: --priors normal,mixture:components=20,flow.
    Several lists give all combinations. Existing runs in DIR or beside it are reused; after Ctrl-C,
    repeat the command to resume. If only the weight of the KL term varies (--objectives
    beta:beta=0.5,beta:beta=2), DIR/rate_distortion.png shows the trade-off.
    """
    from pyrovae import runs, training

    varied = {role: given.pop(f"{role}s") for role in runs.ROLES}
    named = [spec for specs in varied.values() for spec in specs]
    settings = options.settings(config, given)
    options.check_data_dir(settings["data"].get("name", "digits"))
    found = runs.compare(
        settings,
        varied,
        seeds=seeds,
        samples=samples,
        proposal=proposal or "auto",
        limit=limit,
        out=out,
        trusted=options.own_code([*named, given["encoder"], given["decoder"]]),
        reporting=training.TrainingDisplay,
        counting=training.counting,
    )
    for line in found.left_out:
        options.echo(line, err=True)
    return found.to_dict(), _lines_of_comparison(found)


def _lines_of_comparison(found: "Comparison") -> Iterator[str]:
    yield from found.table()
    if reused := sum(sum(row.reused) for row in found.rows):
        yield f"{reused} of the runs were there already"
    yield f"figure  {found.folder}/comparison.png"
    if found.betas():
        yield f"figure  {found.folder}/rate_distortion.png"


@click.command()
@click.argument("run", type=options.FOLDER, metavar="RUN")
@options.text("--prior", metavar="SPEC", required=True, help="The new p(z).")
@options.folder("--out", metavar="DIR", help="Folder of the new run. [RUN-<prior>-<n>]")
@options.whole_number("--epochs", 100, "Passes over the data.")
@options.whole_number("--batch-size", 128, "Examples per step.")
@options.number("--learning-rate", default=5e-3, help="Largest step size of Adam.")
@options.count("--samples", metavar="K", default=1_000, help="Draws per test example.")
@options.count("--limit", metavar="N", help="Evaluate on the first N test examples.")
@options.text("--old-prior", metavar="SPEC", help="Allow the run's own prior, module:Class.")
@options.own_roles(*NOT_PRIOR)
@options.seed
@options.data_dir
@options.quiet
@options.printed
def refit(
    run: str, prior: str, out: str | None, old_prior: str | None, **given: Any
) -> options.Found:
    """Fit another prior to the codes of a trained run.

    Encoder and decoder stay as they are. The result is a new run, which all commands accept. The
    report shows how much KL(q(z) || p(z)) and the importance-weighted bound change on the test set;
    DIR/figures/refit.png shows samples with both priors.
    """
    from pyrovae import runs, training

    own = {role: given.pop(role) for role in NOT_PRIOR}
    opened = options.opened_run(run, own | {"prior": old_prior})
    options.check_data_dir(run=opened)
    found = runs.refit_run(
        opened,
        prior,
        None if out is None else Path(out),
        trusted=options.own_code([prior]),
        reporting=training.TrainingDisplay,
        counting=training.counting,
        **given,
    )
    return found.to_dict(), _lines_of_refit(found)


def _lines_of_refit(found: "Refit") -> Iterator[str]:
    change = found.change
    yield (
        f"prior {found.after} ({found.parameters:,} parameters) in place of {found.before}, "
        f"weights of epoch {found.best_epoch} of {found.epochs}; q(z|x) and decoder as before, "
        "to the bit"
    )
    yield f"test, {change.examples:,} examples, nats per example, +- standard error over examples:"
    yield f"  {'':<24} {'before':>17} {'after':>17} {'change, of pairs':>18}"
    yield f"  {'KL(q(z) || p(z))':<24} {'':>17} {'':>17} {f'{change.marginal_kl:+.2f}':>18}"
    for title, pair in (("ELBO", change.elbo), ("log p(x) is at least", change.log_evidence)):
        before, after, gained = f"{pair.before:.2f}", f"{pair.after:.2f}", f"{pair.change:+.2f}"
        yield f"  {title:<24} {before:>17} {after:>17} {gained:>18}"
    yield f"  {change.samples:,} samples each; both priors on the same draws of z"
    yield f"run      {found.run}"
    yield f"figure   {found.figure}"
