r"""The command that tests the posterior of a run on data drawn from its own model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pyrovae.cli.options import (
    count,
    json_option,
    opened_run,
    run_options,
    seed_option,
    whole_number,
)

if TYPE_CHECKING:
    from pyrovae.diagnostics import Calibration

__all__ = ["calibrate"]


@click.command()
@run_options
@whole_number("--simulations", 1_000, "Pairs of z and x to draw.")
@count(
    "--draws", metavar="L", default=99, show_default=True, help="Draws from q(z|x) for each pair."
)
@seed_option
@json_option
def calibrate(
    run: str, simulations: int, draws: int, seed: int, as_json: bool, **own: str | None
) -> None:
    """Test whether q(z|x) is the posterior of the run's own model: simulation-based calibration.

    On data drawn from the model, the z that generated an x is ranked among draws from q(z|x). The
    test does not cover real data or the quality of the model. The figure is written to
    RUN/figures/calibration.png.
    """
    from pyrovae import diagnostics, plots
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(None, opened.folder / "figures/calibration.png", (".png",))
    vae, roles = opened.vae(), opened.roles()
    with counting("simulations", simulations) as progress:
        result = diagnostics.calibrate(
            vae, simulations=simulations, draws=draws, seed=seed, progress=progress
        )
    plots.save(plots.calibration(result), path)
    if as_json:
        click.echo(in_json(result.to_dict() | roles))
    else:
        click.echo("\n".join([*_lines(result, roles), f"figure   {path}"]))


def _lines(result: "Calibration", roles: dict[str, str]) -> Iterator[str]:
    yield (
        f"{result.simulations:,} data drawn from the model, {result.draws} draws from q(z|x) "
        f"for each; prior {roles['prior']}, posterior {roles['posterior']}"
    )
    yield result.verdict
    yield (
        f"{'':<11} {'chi-squared':>11} {'p':>6} {'50 %':>6} {'80 %':>6} {'90 %':>6} "
        f"{'error / stated':>15}  ranks"
    )
    for row in result.functions:
        covered = [f"{100 * part.observed.value:.1f}" for part in row.coverage or ()]
        ratio = row.error_ratio
        error = "" if ratio is None else f"{ratio.value:.2f} +- {ratio.standard_error:.2f}"
        yield (
            f"{row.name:<11} {row.chi_squared:>11.1f} {row.adjusted_p_value:>6.3f} "
            + " ".join(f"{share:>6}" for share in covered or [""] * 3)
            + f" {error:>15}  {row.verdict}"
        )
    yield (
        f"p: adjusted for {len(result.functions)} functions by {result.permutations} "
        f"permutations; 50 %, 80 %, 90 %: how often such an interval of q holds z, in percent, "
        f"+- {_largest_error(result):.1f}; error / stated: that of q's mean over the standard "
        "deviation that q states"
    )


def _largest_error(result: "Calibration") -> float:
    parts = [part.observed for row in result.functions for part in row.coverage or ()]
    return 100 * max((part.standard_error or 0.0 for part in parts), default=0.0)
