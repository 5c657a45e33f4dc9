r"""The command that replaces the prior of a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.options import (
    ROLES,
    count,
    data_dir_option,
    json_option,
    number,
    opened_run,
    own_code,
    seed_option,
    text,
    whole_number,
)

if TYPE_CHECKING:
    from pyrovae.estimates import Estimate
    from pyrovae.runs import Refit

__all__ = ["refit"]


def _own_roles(function: Any) -> Any:
    for role in reversed([role for role in ROLES if role != "prior"]):
        about = f"Allow the run's own {role}, module:Class."
        function = text(f"--{role}", metavar="SPEC", help=about)(function)
    return function


@click.command()
@click.argument("run", metavar="RUN")
@text("--prior", metavar="SPEC", required=True, help="The new p(z).")
@text("--out", metavar="DIR", help="Folder of the new run. [RUN-<prior>-<n>]")
@whole_number("--epochs", 100, "Passes over the data.")
@whole_number("--batch-size", 128, "Examples per step.")
@number("--learning-rate", default=5e-3, show_default=True, help="Largest step size of Adam.")
@count("--samples", metavar="K", default=1_000, show_default=True, help="Draws per test example.")
@count("--limit", metavar="N", help="Evaluate on the first N test examples.")
@text("--old-prior", metavar="SPEC", help="Allow the run's own prior, module:Class.")
@_own_roles
@seed_option
@data_dir_option
@json_option
def refit(
    run: str,
    prior: str,
    out: str | None,
    old_prior: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Fit another prior to the codes of a trained run, with encoder and decoder fixed.

    The result is a new run, which all commands accept. The report shows how much KL(q(z) || p(z))
    and the importance-weighted bound change on the test set; DIR/figures/refit.png shows samples
    with both priors.
    """
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import refit_run
    from pyrovae.training import TrainingDisplay, counting

    own = {role: given.pop(role) for role in ROLES if role != "prior"}
    opened = opened_run(run, own | {"prior": old_prior})
    found = refit_run(
        opened,
        prior,
        None if out is None else Path(out),
        trusted=own_code({"prior": prior}),
        reporting=TrainingDisplay,
        counting=counting,
        **given,
    )
    click.echo(in_json(found.to_dict()) if as_json else "\n".join(_lines(found)))


def _lines(found: "Refit") -> Iterator[str]:
    change = found.change
    yield (
        f"prior {found.after} ({found.parameters:,} parameters) in place of {found.before}, "
        f"weights of epoch {found.best_epoch} of {found.epochs}; q(z|x) and decoder as before, "
        "to the bit"
    )
    yield f"test, {change.examples:,} examples, nats per example (+- standard error):"
    yield f"  {'':<24} {'before':>17} {'after':>17} {'change, of pairs':>18}"
    yield f"  {'KL(q(z) || p(z))':<24} {'':>17} {'':>17} {_with_error(change.marginal_kl, '+'):>18}"
    for title, pair in (("ELBO", change.elbo), ("log p(x) is at least", change.log_evidence)):
        yield (
            f"  {title:<24} {_with_error(pair.before):>17} {_with_error(pair.after):>17} "
            f"{_with_error(pair.change, '+'):>18}"
        )
    yield f"  {change.samples:,} samples each; both priors on the same draws of z"
    yield f"run      {found.run}"
    yield f"figure   {found.figure}"


def _with_error(estimate: "Estimate", sign: str = "") -> str:
    error = estimate.standard_error
    plus_minus = "" if error is None else f" +- {error:.2f}"
    return f"{estimate.value:{sign}.2f}{plus_minus}"
