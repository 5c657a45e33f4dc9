r"""The command that trains one model with several components in turn, and compares them."""

from typing import Any

import click

from pyrovae.cli.options import (
    count,
    data_options,
    integer,
    json_option,
    network_options,
    settings,
    text,
    training_options,
    whole_number,
)

__all__ = ["compare"]


def _specs(context: click.Context, option: click.Parameter, value: str | None) -> list[str]:
    from pyrovae.runs import Spec

    try:
        return [] if value is None else Spec.several(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@data_options
@text("--priors", metavar="SPECS", callback=_specs, help="p(z). [normal]")
@text("--posteriors", metavar="SPECS", callback=_specs, help="q(z|x). [diagonal]")
@text("--likelihoods", metavar="SPECS", callback=_specs, help="p(x|z). [from the recipe]")
@text("--objectives", metavar="SPECS", callback=_specs, help="Training objective. [elbo]")
@network_options
@training_options
@whole_number("--seeds", 3, "Runs per model.")
@integer("--seed", help="First seed. [0]")
@whole_number("--samples", 1_000, "K, draws per example.")
@count("--limit", metavar="N", help="Evaluate on the first N test examples.")
@text("--out", metavar="DIR", help="Folder of the comparison. [runs/compare-<data>]")
@json_option
def compare(
    priors: list[str],
    posteriors: list[str],
    likelihoods: list[str],
    objectives: list[str],
    config: str | None,
    seeds: int,
    samples: int,
    limit: int | None,
    out: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train the same VAE with each of several components, and compare the bounds.

    SPECS are written as for fit and joined by commas: --priors normal,mixture:components=20,flow.
    Several lists give all combinations. Existing runs in DIR or beside it are reused; after Ctrl-C,
    repeat the command to resume. If only the weight of the KL term varies (--objectives
    beta:beta=0.5,beta:beta=2), DIR/rate_distortion.png shows the trade-off.
    """
    from pyrovae import runs
    from pyrovae.runs import Spec
    from pyrovae.runs import as_json as in_json
    from pyrovae.training import TrainingDisplay, counting

    varied = {
        "prior": priors,
        "posterior": posteriors,
        "likelihood": likelihoods,
        "objective": objectives,
    }
    named = [Spec.parse(spec) for specs in varied.values() for spec in specs]
    named += [Spec.parse(given[role]) for role in ("encoder", "decoder") if given[role]]
    found = runs.compare(
        settings(config, {name: value for name, value in given.items() if value is not None}),
        varied,
        seeds=seeds,
        samples=samples,
        limit=limit,
        out=out,
        trusted=frozenset(spec.name for spec in named if spec.is_users_own),
        reporting=TrainingDisplay,
        counting=counting,
    )
    for line in found.left_out:
        click.echo(line, err=True)
    if as_json:
        click.echo(in_json(found.to_dict()))
        return
    click.echo("\n".join(found.table()))
    reused = sum(sum(row.reused) for row in found.rows)
    if reused:
        click.echo(f"{reused} of the runs were there already")
    click.echo(f"figure  {found.folder}/comparison.png")
    if found.betas():
        click.echo(f"figure  {found.folder}/rate_distortion.png")
