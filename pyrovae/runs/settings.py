r"""The settings of a run, in three tables, and how they are read from a TOML file."""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyrovae._process.choices import nearest
from pyrovae._process.files import check_format, contents
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.networks import NETWORKS
from pyrovae.objectives import OBJECTIVES
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs.specs import Option
from pyrovae.training import fit

__all__ = [
    "DATA_SETTINGS",
    "FAMILIES",
    "MODEL_SETTINGS",
    "SETTINGS",
    "TRAINING_SETTINGS",
    "Settings",
]

Settings = Mapping[str, Mapping[str, Any]]
"""Tables of settings by name, ``data``, ``model`` and ``training``: some or all of them."""

FAMILIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
    "encoder": NETWORKS,
    "decoder": NETWORKS,
    "objective": OBJECTIVES,
}
"""The components that can be named for each role of the model, and for the objective."""

DATA_SETTINGS: dict[str, Option] = {
    "name": Option("name", str, "digits"),
    "data_dir": Option("data_dir", str | None, None),
    "image_size": Option("image_size", int | str | None, None),
    "id_column": Option("id_column", str | None, None),
    "binarization": Option("binarization", str, None),
    "scaling": Option("scaling", str, None),
}
"""The settings of the table ``[data]``."""

MODEL_SETTINGS: dict[str, Option] = {
    **{role: Option(role, str, None) for role in FAMILIES if role != "objective"},
    "latent_dim": Option("latent_dim", int, None),
    "input_divisor": Option("input_divisor", float, None),
    "columns": Option("columns", str | None, None),
}
"""The settings of the table ``[model]``."""

_NOT_SETTINGS = ("objective", "out", "files", "initialize", "resume", "report")

TRAINING_SETTINGS: dict[str, Option] = {"objective": Option("objective", str, "elbo")} | {
    name: Option(name, parameter.annotation, parameter.default)
    for name, parameter in inspect.signature(fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_SETTINGS
}
"""The settings of the table ``[training]``: keyword arguments of :func:`pyrovae.fit`."""

_FOUND: dict[str, Option] = {
    "maximum": Option("maximum", int | None, None),
    "event_shape": Option("event_shape", tuple[int, ...], None),
    "gaps": Option("gaps", bool, False),
}
"""Found in the data and written to a run's file; these cannot be set."""

SETTINGS = {"data": DATA_SETTINGS, "model": MODEL_SETTINGS, "training": TRAINING_SETTINGS}
"""All settings, by table."""

WRITTEN = SETTINGS | {"data": DATA_SETTINGS | _FOUND}
"""The settings and findings in the file of a run, by table."""


def read_settings(
    path: Path, wanted: Mapping[str, Mapping[str, Option]]
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Read the ``wanted`` settings of a TOML file, and whether it is that of a run."""
    try:
        tables = tomllib.loads(contents(path).decode())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except RecursionError:
        raise ValueError(f"{path} is not a TOML file of settings: it is nested too deep") from None
    except ValueError as error:
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder, not a TOML file; give {path}/config.toml"
            ) from None
        if not path.is_file():
            raise
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    is_of_run = tables.pop("pyrovae", None) is not None
    check_format(path, str(tables.pop("format", 1)))
    try:
        settings = checked(tables, wanted)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if is_of_run:  # it may be older than these settings
        settings["model"].setdefault("input_divisor", 1.0)
        settings["model"].setdefault("columns", None)
        settings["training"].setdefault("precision", "float32")
        settings["training"].setdefault("drop_last", False)
        settings["data"] = {"id_column": None, "gaps": False} | settings["data"]
    return settings, is_of_run


def checked(
    settings: Settings, wanted: Mapping[str, Mapping[str, Option]] = SETTINGS
) -> dict[str, dict[str, Any]]:
    """Read each of the ``wanted`` values as its option takes it, in all tables."""
    for table in settings:
        if table not in SETTINGS:
            raise ValueError(
                f"unknown table [{table}]{nearest(table, SETTINGS)}; allowed: "
                + ", ".join(f"[{name}]" for name in SETTINGS)
            )
    return {
        table: _read_table(table, options, settings.get(table, {}))
        for table, options in wanted.items()
    }


def _read_table(table: str, wanted: Mapping[str, Option], values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"[{table}] is a table of settings, got {table} = {values!r}")
    for name in values:
        if name not in WRITTEN[table]:
            allowed = SETTINGS[table]
            raise ValueError(
                f"unknown key {name!r} in [{table}]{nearest(name, allowed)}; allowed: "
                + ", ".join(allowed)
            )
    try:
        return {
            name: None if values[name] is None else option.take(values[name])
            for name, option in wanted.items()
            if name in values
        }
    except ValueError as error:
        raise ValueError(f"[{table}] {error}") from error
