r"""The models of a comparison: every combination of the listed components that fits together."""

import itertools
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyrovae._process.choices import check_choice
from pyrovae.data import Dataset
from pyrovae.runs.compatibility import suggesting_pairs
from pyrovae.runs.config import Config
from pyrovae.runs.export import as_json
from pyrovae.training import check

__all__ = ["ROLES", "Candidate", "candidates"]

ROLES = ("prior", "posterior", "likelihood", "objective")
"""The roles that can be varied, in the order of the table's columns."""


@dataclass(frozen=True)
class Candidate:
    """One of the models in a comparison.

    Attributes:
        config: configuration of its runs, with the first seed.
        dataset: the dataset that ``config`` was resolved with.
        chosen: the spec of each role that is varied.

    Example:
        >>> from pyrovae.runs import candidates
        >>> (candidate,), _ = candidates({}, {"prior": ["laplace"]})
        >>> candidate.label, candidate.with_seed(3).training["seed"]
        ('laplace', 3)
    """

    config: Config
    dataset: Dataset
    chosen: Mapping[str, str]

    @property
    def label(self) -> str:
        """The varied specs, joined by commas."""
        return ", ".join(self.chosen.values())

    def with_seed(self, seed: int) -> Config:
        """Its configuration under another seed."""
        return replace(self.config, training=dict(self.config.training) | {"seed": seed})


def candidates(
    settings: Mapping[str, Mapping[str, Any]],
    varied: Mapping[str, Sequence[str]],
    *,
    trusted: Collection[str] = (),
) -> tuple[list[Candidate], list[str]]:
    """Combine the listed components, and build each model once to check that its parts fit.

    Args:
        settings: of all runs, as for :meth:`pyrovae.Config.resolve`.
        varied: the specs to compare, for some of ``ROLES``.
        trusted: ``module:attribute`` names that may be imported.

    Returns:
        The candidates, and a line for each combination left out because its parts do not fit.

    Raises:
        ValueError: if nothing is varied, a spec is listed twice, or a spec fits none of the others.

    Example:
        >>> from pyrovae.runs import candidates
        >>> found, left_out = candidates(
        ...     {}, {"prior": ["normal", "sphere"], "posterior": ["power_spherical", "diagonal"]}
        ... )
        >>> [candidate.label for candidate in found]
        ['normal, diagonal', 'sphere, power_spherical']
        >>> len(left_out)
        2
    """
    lists = _checked(varied)
    found: list[Candidate] = []
    refused: dict[tuple[str, ...], str] = {}
    datasets: dict[str, Dataset] = {}
    for specs in itertools.product(*lists.values()):
        chosen = dict(zip(lists, specs, strict=True))
        config, dataset = Config.resolve(_with(settings, chosen), trusted=trusted)
        dataset = datasets.setdefault(as_json(dict(config.data)), dataset)
        candidate = Candidate(config, dataset, chosen)
        try:
            _check_parts(candidate, trusted)
        except ValueError as error:
            refused[specs] = str(error)
        else:
            found.append(candidate)
    for place, specs in enumerate(lists.values()):
        for spec in specs:
            if not any(spec == list(candidate.chosen.values())[place] for candidate in found):
                raise ValueError(next(why for c, why in refused.items() if c[place] == spec))
    return found, [f"{', '.join(specs)} is left out: {why}" for specs, why in refused.items()]


def _checked(varied: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    lists = {role: tuple(specs) for role, specs in varied.items() if specs}
    if not lists:
        raise ValueError(f"nothing to compare; list specs for {', '.join(ROLES)}")
    for role, specs in lists.items():
        check_choice("role", role, ROLES)
        for spec in specs:
            if specs.count(spec) > 1:
                raise ValueError(f"the {role} {spec} is listed twice")
    return lists


def _with(
    settings: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    tables = {table: dict(settings.get(table, {})) for table in ("data", "model", "training")}
    for role, spec in chosen.items():
        tables["training" if role == "objective" else "model"][role] = spec
    return tables


@suggesting_pairs()
def _check_parts(candidate: Candidate, trusted: Collection[str]) -> None:
    config = candidate.config
    vae, objective = config.build(trusted=trusted), config.objective(trusted=trusted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs themselves repeat them
        check(vae, candidate.dataset.train, objective)
