r"""The settings of a run: three tables of options, read from dictionaries or from a TOML file."""

import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pyrovae._process.choices import nearest
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
    "image_size": Option("image_size", int | None, None),
    "binarization": Option("binarization", str, None),
    "scaling": Option("scaling", str, None),
}
"""The settings of the table ``[data]``."""

MODEL_SETTINGS: dict[str, Option] = {
    **{role: Option(role, str, None) for role in FAMILIES if role != "objective"},
    "latent_dim": Option("latent_dim", int, None),
    "input_divisor": Option("input_divisor", float, None),
}
"""The settings of the table ``[model]``."""

_NOT_SETTINGS = ("objective", "out", "files", "initialize", "resume", "report")

TRAINING_SETTINGS: dict[str, Option] = {"objective": Option("objective", str, "elbo")} | {
    name: Option(name, parameter.annotation, parameter.default)
    for name, parameter in inspect.signature(fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_SETTINGS
}
"""The settings of the table ``[training]``: keyword arguments of :func:`pyrovae.fit`."""

FOUND: dict[str, Option] = {
    "maximum": Option("maximum", int | None, None),
    "event_shape": Option("event_shape", tuple[int, ...], None),
}
"""Found in the data and written to a run's file; these cannot be set."""

SETTINGS = {"data": DATA_SETTINGS, "model": MODEL_SETTINGS, "training": TRAINING_SETTINGS}
"""All settings, by table."""


def checked(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Read each value as its option takes it.

    Args:
        settings: some of the tables, with some of their settings.

    Returns:
        All tables, with these settings.

    Raises:
        ValueError: if a table or key is unknown, or a value cannot be read.
    """
    for table in settings:
        if table not in SETTINGS:
            raise ValueError(
                f"unknown table [{table}]{nearest(table, SETTINGS)}; allowed: "
                + ", ".join(f"[{name}]" for name in SETTINGS)
            )
    return {
        table: _read_table(
            table, options, settings.get(table, {}), ignored=FOUND if table == "data" else ()
        )
        for table, options in SETTINGS.items()
    }


def _read_table(
    table: str, options: Mapping[str, Option], values: Any, *, ignored: Collection[str]
) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"[{table}] is a table of settings, got {table} = {values!r}")
    for name in values:
        if name not in options and name not in ignored:
            raise ValueError(
                f"unknown key {name!r} in [{table}]{nearest(name, options)}; allowed: "
                + ", ".join(options)
            )
    try:
        return {
            name: None if values[name] is None else option.take(values[name])
            for name, option in options.items()
            if name in values
        }
    except ValueError as error:
        raise ValueError(f"[{table}] {error}") from error


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """Read settings from a TOML file.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML, or a key is unknown.
    """
    tables = _tables(path)
    complete = tables.pop("pyrovae", None) is not None
    try:
        settings = checked(tables)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if complete:  # the file of a run, which may be older than these settings
        settings["model"].setdefault("input_divisor", 1.0)
        settings["training"].setdefault("precision", "float32")
    return settings


def read_complete(path: Path) -> dict[str, dict[str, Any]]:
    """Read the file of a run, which has every setting and what was found in the data.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_settings`, and if a setting is missing.
    """
    settings = read_settings(path)
    try:
        found = _read_table("data", FOUND, _tables(path).get("data", {}), ignored=DATA_SETTINGS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    settings["data"] |= found
    for table, options in SETTINGS.items():
        needed = [*options, *(FOUND if table == "data" else ())]
        missing = [name for name in needed if name not in settings[table]]
        if missing:
            raise ValueError(
                f"{path} is not the whole configuration of a run: [{table}] has no "
                f"{', '.join(missing)}"
            )
    return settings


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a TOML file; give {path}/config.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
