r"""The command that tests the posterior of a run on data drawn from its own model."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from pyrovae.cli.options import count, json_option, opened_run, run_options, seed_option

__all__ = ["calibrate"]


@click.command()
@run_options
@count("--simulations", metavar="N", default=1_000, show_default=True, help="Draws of z and x.")
@count("--draws", metavar="L", default=99, show_default=True, help="Draws of q(z|x) for each.")
@seed_option
@json_option
def calibrate(
    run: str, simulations: int, draws: int, seed: int, as_json: bool, **own: str | None
) -> None:
    """Whether q(z|x) is the posterior of the run's own model: simulation-based calibration.

    On data drawn from the model, the z that made an x is compared with draws from q(z|x), by its
    rank among them. It says nothing about real data, nor whether the model is a good one. A
    picture goes to RUN/figures/calibration.png.
    """
    from pyrovae import diagnostics, plots
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(None, opened.folder / "figures/calibration.png", (".png",))
    vae = opened.vae()
    with counting("simulations", simulations) as advance:
        result = diagnostics.calibrate(
            vae, simulations=simulations, draws=draws, seed=seed, advance=advance
        )
    result |= opened.roles()
    plots.save(plots.calibration(result), path)
    if as_json:
        click.echo(in_json(result))
    else:
        click.echo("\n".join([*_lines(result), f"figure   {path}"]))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['simulations']:,} data drawn from the model, {result['draws']} draws from q(z|x) "
        f"for each; prior {result['prior']}, posterior {result['posterior']}"
    )
    yield result["verdict"]
    yield (
        f"{'':<11} {'chi-squared':>11} {'p':>6} {'50 %':>6} {'80 %':>6} {'90 %':>6} "
        f"{'error / stated':>15}  ranks"
    )
    for row in result["functions"]:
        covered = [f"{100 * part['estimate']:.1f}" for part in row["coverage"] or ()]
        ratio = row["error_ratio"]
        error = "" if ratio is None else f"{ratio['estimate']:.2f} +- {ratio['standard_error']:.2f}"
        yield (
            f"{row['name']:<11} {row['chi_squared']:>11.1f} {row['adjusted_p_value']:>6.3f} "
            + " ".join(f"{share:>6}" for share in covered or [""] * 3)
            + f" {error:>15}  {row['verdict']}"
        )
    yield (
        f"p: adjusted for {len(result['functions'])} functions by {result['permutations']} "
        f"permutations; 50 %, 80 %, 90 %: how often such an interval of q holds z, in percent, "
        f"+- {_largest_error(result):.1f}; error / stated: that of q's mean over the standard "
        "deviation that q states"
    )


def _largest_error(result: Mapping[str, Any]) -> float:
    errors = [
        part["standard_error"] for row in result["functions"] for part in row["coverage"] or ()
    ]
    return 100 * max(errors, default=0.0)
