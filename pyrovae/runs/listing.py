r"""Lists the runs of a folder: their data and components, their bounds, and when they were made."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pyrovae._process.files import expanded
from pyrovae.estimates import Estimate, Result
from pyrovae.runs.config import Config
from pyrovae.runs.records import CONFIG, SUMMARY, read_history, read_summary

__all__ = ["RunEntry", "find_runs", "table_of_runs"]

WIDTH = 80


class RunEntry(Result):
    """What is known of a run without building its VAE or reading its data.

    Attributes:
        folder: of the run.
        data: name or path of its data.
        prior: p(z), as it is written.
        likelihood: p(x | z), as it is written.
        posterior: q(z | x), as it is written.
        log_evidence: lower bound on log p(x) of the test set, in nats per example; None if the run
            is not finished or cannot be read.
        state: ``"finished"``, the last epoch of training so far, or why the run cannot be read.
        changed: when it was finished or else begun: an ISO 8601 date and time with its offset.

    Example:
        >>> from pyrovae.runs import find_runs
        >>> find_runs(".")
        []
    """

    folder: Path
    data: str
    prior: str
    likelihood: str
    posterior: str
    log_evidence: Estimate | None
    state: str
    changed: str


def find_runs(folder: str | Path = "runs") -> list[RunEntry]:
    """Find the runs in a folder and in the folders in it, the oldest first.

    Nothing is imported, built or written, and links to folders are not followed.

    Args:
        folder: where to look.

    Raises:
        FileNotFoundError: if there is no such folder.

    Example:
        >>> from pyrovae.runs import find_runs, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network}
        >>> config, data = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> _ = start(config, data, Path("some") / "first")
        >>> [(str(entry.folder), entry.state) for entry in find_runs("some")]
        [('some/first', 'epoch 1 of 1')]
    """
    place = expanded(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {place}; pyrovae fit makes runs in runs/")
    entries = [_entry(path) for path in _folders(place)]
    return sorted(entries, key=lambda entry: (entry.changed, entry.folder))


def _folders(place: Path) -> Iterator[Path]:
    for path, inside, files in os.walk(place):
        inside.sort()
        if CONFIG in files:
            inside.clear()
            yield Path(path)


def _entry(folder: Path) -> RunEntry:
    summary = folder / SUMMARY
    newest = summary if summary.is_file() else folder / CONFIG
    moment = datetime.fromtimestamp(newest.stat().st_mtime).astimezone()
    changed = moment.isoformat(timespec="seconds")
    try:
        config = Config.opened(folder / CONFIG)
    except (OSError, ValueError) as error:
        return RunEntry(folder, "", "", "", "", None, str(error), changed)
    model, found = config.model, None
    try:
        if summary.is_file():
            state, found = "finished", Estimate(*_bound(folder))
        else:
            epochs = len(read_history(folder))
            state = f"epoch {epochs} of {config.training['epochs']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        state = f"cannot be read: {error}"
    roles = (model["prior"], model["likelihood"], model["posterior"])
    return RunEntry(folder, config.data["name"], *roles, found, state, changed)


def _bound(folder: Path) -> tuple[float, float | None]:
    evidence = read_summary(folder).log_evidence
    return evidence.value, evidence.standard_error


def table_of_runs(entries: list[RunEntry]) -> list[str]:
    """Lay out runs as a table of at most 80 columns, one line each.

    Args:
        entries: as :func:`find_runs` returns them.

    Example:
        >>> from pyrovae.runs import table_of_runs
        >>> table_of_runs([])
        ['no runs; pyrovae fit makes one']
    """
    if not entries:
        return ["no runs; pyrovae fit makes one"]
    rows = [("run", "data", "prior", "log p(x) at least", "date")]
    for entry in entries:
        about = entry.state if entry.log_evidence is None else f"{entry.log_evidence:.2f}"
        date = f"{entry.changed[:10]} {entry.changed[11:16]}"
        rows.append((str(entry.folder), Path(entry.data).name, entry.prior, about, date))
    most = (None, 12, 14, 17, 16)
    widths = [
        max(len(row[column]) if limit is None else min(len(row[column]), limit) for row in rows)
        for column, limit in enumerate(most)
    ]
    widths[0] = min(widths[0], max(12, WIDTH - 2 * 4 - sum(widths[1:])))
    return ["  ".join(map(_cut, row, widths, range(len(row)))).rstrip() for row in rows]


def _cut(text: str, width: int, column: int) -> str:
    """A text in so many columns; of a folder that is longer the end stays, of others the start."""
    if len(text) <= width:
        return text.ljust(width)
    return f"{text[: width - 2]}.." if column else f"..{text[2 - width :]}"
