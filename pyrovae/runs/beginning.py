r"""Runs that begin with the weights of another run, under other settings."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from pyrovae.runs.export import as_json
from pyrovae.runs.records import origin
from pyrovae.runs.run import Run
from pyrovae.runs.settings import DATA_SETTINGS, Settings
from pyrovae.training import MODEL
from pyrovae.vae import VAE

__all__ = ["BEGINNING", "beginning_of", "record_of", "settings_with", "take_weights"]

BEGINNING = "from.json"
"""The file in the folder of a run that names the run whose weights it began with."""

ROLES = ("posterior", "likelihood", "prior")


def settings_with(run: Run, changes: Settings) -> Settings:
    """All settings of a run with some changed, for the :meth:`Config.resolve` of another run.

    Args:
        run: whose settings hold where nothing else is given.
        changes: tables ``data``, ``model`` and ``training``. Other data replace all settings of the
            data. A time limit is dropped unless it is set again.

    Example:
        >>> from pyrovae.runs import Run, settings_with, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> found = settings_with(run, {"model": {"prior": "laplace"}})
        >>> found["model"]["prior"], found["model"]["latent_dim"], found["training"]["epochs"]
        ('laplace', 2, 1)
    """
    data = {n: v for n, v in run.located(None).items() if n in DATA_SETTINGS}
    given = {table: dict(changes.get(table, {})) for table in ("data", "model", "training")}
    if given["data"].get("name", data["name"]) != data["name"]:
        data = {}
    return {
        "data": data | given["data"],
        "model": dict(run.config.model) | given["model"],
        "training": dict(run.config.training) | {"max_minutes": None} | given["training"],
    }


@torch.no_grad()
def take_weights(vae: VAE, run: Run) -> list[str]:
    """Copy the weights of a run into those components of a VAE that have the same ones.

    A component takes all of its weights or none: they must have the same names and shapes.

    Args:
        vae: changed in place.
        run: whose weights are taken; it need not be finished.

    Returns:
        The roles of the components that have weights and did not take any; they start anew.

    Raises:
        ValueError: if no component takes weights.

    Example:
        >>> from pyrovae.runs import Run, start, take_weights
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> other, _ = pyrovae.Config.resolve({"model": model | {"prior": "flow"}})
        >>> take_weights(other.build(), run)
        ['prior']
    """
    source = run.vae()
    taken: list[str] = []
    anew: list[str] = []
    for role in ROLES:
        new, old = getattr(vae, role).state_dict(), getattr(source, role).state_dict()
        if not new:
            continue
        same = {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in old.items()}
        if same:
            getattr(vae, role).load_state_dict(old)
        (taken if same else anew).append(role)
    if not taken:
        raise ValueError(
            f"no component has the weights of the same names and shapes as in {run.folder}; keep "
            "its latent_dim and networks, or start without --from"
        )
    return anew


def record_of(run: Run, anew: list[str]) -> bytes:
    """What the new run holds about its beginning, as JSON.

    Args:
        run: whose weights were taken.
        anew: components that start anew.

    Example:
        >>> import json
        >>> from pyrovae.runs import Run, record_of, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> sorted(json.loads(record_of(run, ["prior"])))
        ['run', 'started_anew', 'weights_sha256']
    """
    digest = sha256((run.folder / MODEL).read_bytes()).hexdigest()
    record = {"run": str(run.folder), "weights_sha256": digest, "started_anew": anew}
    return (as_json(record, indent=2) + "\n").encode()


def beginning_of(folder: Path) -> dict[str, Any] | None:
    """What :func:`record_of` wrote about the beginning of a run; None if it began anew.

    Args:
        folder: of the run.

    Raises:
        ValueError: if the file has changed since.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.runs import beginning_of
        >>> beginning_of(Path("nowhere")) is None
        True
    """
    path = folder / BEGINNING
    if not path.exists():
        return None
    origin(folder, BEGINNING)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
