r"""What commands on a run share: their options, and the opening of the run."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pyrovae.run import Run

__all__ = [
    "ROLES",
    "count",
    "data_dir_option",
    "integer",
    "json_option",
    "number",
    "opened_run",
    "own_code",
    "run_options",
    "seed_option",
    "text",
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


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


data_dir_option = text("--data-dir", metavar="DIR", help="Folder of torchvision's data sets.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of all draws."
)

run_options = _options(
    click.argument("run", type=_not_empty, metavar="RUN"),
    *(
        text(
            f"--{role}", metavar="SPEC", help=f"Name the run's own {role} module:Class, to run it."
        )
        for role in ROLES
    ),
)


def own_code(given: dict[str, Any]) -> frozenset[str]:
    """The names outside pyrovae that were given for a role, and so may be imported."""
    from pyrovae.components import Spec

    named = (*ROLES, "objective")
    specs = [Spec.parse(given[role]) for role in named if given.get(role)]
    return frozenset(spec.name for spec in specs if spec.is_users_own)


def opened_run(run: str, own: dict[str, str | None]) -> "Run":
    """The run in a folder, with what was named of the user's own code."""
    from pyrovae.run import Run

    opened = Run.open(run, trusted=own_code(own))
    opened.check_named(own)
    return opened
