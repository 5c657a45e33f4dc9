r"""The files of a run that are believed later: read only if they are as the run wrote them.

The weights name the files that the run began with, by their digests, and have a digest of their
own, as has everything that is written after them.
"""

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from pyrovae._process.files import (
    check_unchanged,
    check_values,
    contents,
    digest,
    expanded,
    lines_of,
    read_about,
    read_json,
    read_tensors,
    write_text,
)
from pyrovae.runs.config import Config
from pyrovae.runs.export import as_json
from pyrovae.runs.results import Summary
from pyrovae.runs.settings import FAMILIES
from pyrovae.runs.specs import Spec, find
from pyrovae.training import LAST, METRICS, MODEL, History, check_meaning
from pyrovae.vae import VAE

__all__ = ["load"]

CONFIG, SUMMARY = "config.toml", "summary.json"
DIGEST, SCHEMA = "data.sha256", "schema.json"
STATISTICS, EVALUATION = "statistics.safetensors", "unfinished-evaluation.safetensors"


def load(folder: str | Path, *, vae: VAE | None = None, trusted: Collection[str] = ()) -> VAE:
    """Load the trained VAE of a run.

    Nothing outside pyrovae is imported unless it is named here: user-defined components are rebuilt
    from ``trusted`` names, or passed in ``vae``.

    Args:
        folder: of the run.
        vae: receives the weights in place of a VAE rebuilt from the run's configuration; for runs
            whose components were built in Python.
        trusted: ``module:attribute`` names in the run's configuration that may be imported.

    Returns:
        The VAE in eval mode, on the CPU.

    Raises:
        FileNotFoundError: if the folder is not a run, or its configuration or weights are missing.
        ValueError: if a file is damaged, or the weights belong to another model, or to one whose
            parameters meant something else.

    Example:
        >>> network = "mlp:hidden_dims=4"
        >>> config, data = pyrovae.Config.resolve(
        ...     {"model": {"encoder": network, "decoder": network}, "training": {"epochs": 1}}
        ... )
        >>> folder, trained, _ = pyrovae.runs.start(config, data, None)
        >>> vae = pyrovae.load(folder)
        >>> torch.equal(vae.encode(data.test.batch([0])), trained.encode(data.test.batch([0])))
        True
    """
    path = expanded(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run at {path}")
    if vae is None:
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{path} has no {CONFIG}; if its VAE was built in Python, build it again and pass "
                "it: load(folder, vae=...)"
            )
        config = Config.opened(path / CONFIG)
        check_config(path, config, trusted)
        vae = config.build(trusted=trusted)
    else:
        origin(path)
    try:
        weights, _ = read_tensors(path / MODEL)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{error}; {_again(path)}") from error
    check_meaning(vae, path / MODEL)
    check_values(path / MODEL, vae.state_dict(), weights)
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        differences = _differences(vae.state_dict(), weights)
        raise ValueError(
            f"the weights in {path} belong to another model than its {CONFIG}: {differences}"
        ) from error
    return vae.eval()


def _again(folder: Path) -> str:
    config = shlex.quote(str(folder / CONFIG))
    return f"restore it from a copy, or train again: pyrovae fit --config {config} --out NEW"


def check_config(folder: Path, config: Config, trusted: Collection[str]) -> None:
    """Check the configuration of a run, before anything is made of it.

    Raises:
        ValueError: if it names code that is not trusted, which is said first, or has changed.
    """
    for role, family in FAMILIES.items():
        if role in config.model:
            find(role, family, Spec.parse(config.model[role]), trusted)
    origin(folder)


def origin(folder: Path, *names: str) -> Mapping[str, str] | None:
    """Check that the files a run began with are as they were.

    Args:
        folder: of the run.
        names: of the files to check; all by default.

    Returns:
        Their digests by name, which the weights name as their origin; None for an older run, which
        has no digests, and for one without weights.

    Raises:
        ValueError: if one of them has changed, or the weights are damaged.
        FileNotFoundError: if one is missing.
    """
    if not (folder / MODEL).exists():
        return None
    try:
        about = read_about(folder / MODEL)
    except ValueError as error:
        raise ValueError(f"{error}; {_again(folder)}") from error
    known: Mapping[str, str] | None = about.get("files") if isinstance(about, dict) else None
    check_unchanged(
        folder, {n: found for n, found in (known or {}).items() if n in names or not names}
    )
    return known


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first difference in name or shape between two sets of weights, and their number."""
    here, there = (
        {name: tuple(value.shape) for name, value in weights.items()}
        for weights in (expected, found)
    )
    names = [name for name in here | there if here.get(name) != there.get(name)]
    if not names:
        return ""
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    first, absent = names[0], "absent"
    return f"{first} should be {here.get(first, absent)} and is {there.get(first, absent)}{more}"


def read_history(folder: Path) -> History:
    """Read ``metrics.jsonl``, which has all epochs that the state of the training has.

    It may be an epoch ahead of that state, if the process was killed.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: if it is damaged.
    """
    path, state = folder / METRICS, folder / LAST
    text = contents(path).decode() if path.exists() else ""
    about = read_about(state if state.exists() else folder / MODEL)
    known = about if isinstance(about, dict) else {}
    rows = known.get("progress", known).get("metrics", ())
    if not text.startswith(lines_of(rows)):
        raise ValueError("it is not what the run has recorded")
    return History.of([json.loads(line) for line in text.splitlines()])


def write_summary(folder: Path, summary: Summary) -> None:
    """Write ``summary.json``, with a digest of itself and of what the run began with."""
    plain, known = json.loads(as_json(summary.to_dict())), origin(folder)
    if known is not None:
        plain["digest"] = digest(plain, known)
    write_text(folder / SUMMARY, json.dumps(plain, indent=2) + "\n")


def read_summary(folder: Path) -> Summary:
    """Read ``summary.json``.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: if it is missing or damaged.
    """
    plain, known = read_json(folder / SUMMARY), origin(folder)
    written = plain.pop("digest", None)
    if written != (None if known is None else digest(plain, known)):
        raise ValueError("it does not have its own digest, or is of another run")
    return Summary.of(plain)


def check_same_data(folder: Path, known: str, remedy: str) -> None:
    """Refuse data whose rows or splits are no longer those that a run began with.

    Args:
        folder: of the run; one without a digest of its data passes.
        known: digest of the data that are there now.
        remedy: what to do, other than to restore the old data.

    Raises:
        ValueError: if they differ.
    """
    path = folder / DIGEST
    if path.exists() and contents(path) != f"{known}\n".encode():
        raise ValueError(
            f"the data have changed since the run in {folder} began, or {path} is damaged; restore "
            f"the old data, or {remedy}"
        )
