r"""Starting and resuming runs, the commands that resume them, and which components go together."""

import contextlib
import errno
import functools
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from pyrovae._process import processes
from pyrovae._process.files import check_writable, expanded, tensor_bytes
from pyrovae._process.isolation import isolated
from pyrovae.data import Dataset
from pyrovae.networks import Linear
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs.beginning import BEGINNING, record_of, take_weights
from pyrovae.runs.config import Config, build_component
from pyrovae.runs.records import (
    CONFIG,
    DIGEST,
    SCHEMA,
    STATISTICS,
    SUMMARY,
    check_same_data,
)
from pyrovae.runs.run import Run, plain_resume_command
from pyrovae.runs.specs import Arguments, Spec
from pyrovae.training import LAST, METRICS, Fit, Progress, TrainingInterrupted, fit
from pyrovae.vae import VAE, SpaceError

__all__ = ["next_folder", "resume_command", "start", "with_resume_command"]

Reporting = Callable[[str], AbstractContextManager[Callable[[Progress], None] | None]]
"""From a line about a run, a context with a callback for its training progress."""

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None] | None]]
"""From a description and a total, a context with a callback for the number of examples."""


def silent(*about: Any) -> AbstractContextManager[None]:
    """Show nothing: the default for both."""
    return contextlib.nullcontext()


def first_free(folder: Path, stem: str) -> Path:
    """The first of ``folder/stem-n``, n = 1, 2, ..., that does not exist."""
    return next(p for n in itertools.count(1) if not (p := folder / f"{stem}-{n}").exists())


def next_folder(data: str, prior: str, root: str | Path = "runs") -> Path:
    """Find the first folder ``root/<data>-<prior>-<n>``, n = 1, 2, ..., that does not exist.

    Args:
        data: name or path of the data.
        prior: spec of the prior.
        root: the folder of all runs.

    Example:
        >>> from pyrovae.runs import next_folder
        >>> print(next_folder("digits", "mixture:components=20"))
        runs/digits-mixture-1
    """
    stem = f"{Path(data).stem}-{Spec.parse(prior).name.replace(':', '.')}"
    return first_free(Path(root), stem)


def files_of(config: Config, dataset: Dataset) -> dict[str, bytes]:
    """What the folder of a run holds before it is trained, by the name of the file."""
    files = {CONFIG: config.to_toml().encode()}
    if dataset.statistics:
        statistics = {name: torch.from_numpy(array) for name, array in dataset.statistics.items()}
        files[STATISTICS] = tensor_bytes(statistics)
    if dataset.schema is not None:
        files[SCHEMA] = json.dumps(dataset.schema.to_dict(), indent=1).encode()
    return files


@functools.cache
def matching_priors() -> dict[str, tuple[str, ...]]:
    """The names of the priors that go with each posterior, by the posterior's name.

    Small components are built with their defaults; a pair goes together if the VAE takes it.
    """
    return {
        posterior: tuple(prior for prior in PRIORS if _match(prior, posterior))
        for posterior in POSTERIORS
    }


@contextlib.contextmanager
def suggesting_pairs() -> Iterator[None]:
    """Add to an error about two spaces which priors and posteriors go together."""
    try:
        yield
    except SpaceError as error:
        groups: dict[tuple[str, ...], list[str]] = {}
        for posterior, priors in matching_priors().items():
            groups.setdefault(priors, []).append(posterior)
        together = "; ".join(
            f"{_listed('prior', priors)} with {_listed('posterior', posteriors)}"
            for priors, posteriors in groups.items()
        )
        raise SpaceError(f"{error}. These go together: {together}") from error


def _match(prior: str, posterior: str) -> bool:
    known: Arguments = {"latent_dim": 2, "event_shape": (1,), "network": Linear}
    with isolated():
        try:
            q = build_component("posterior", posterior, known)
            p = build_component("prior", prior, known | {"posterior": q})
            likelihood = build_component("likelihood", "normal", known)
            VAE(p, likelihood, q).check_spaces(torch.zeros(2, 1))
        except ValueError:  # another space, or a mixture without a density
            return False
    return True


def _listed(role: str, names: Sequence[str]) -> str:
    return f"the {role}{'s' if len(names) > 1 else ''} {', '.join(names)}"


@suggesting_pairs()
def start(
    config: Config,
    dataset: Dataset,
    folder: str | Path | None,
    *,
    trusted: Collection[str] = (),
    resume: bool = False,
    begin: Run | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[Path, VAE, Fit]:
    """Train a configuration into the folder of a new run, or resume one.

    Inside :func:`pyrovae.training.joined`, several processes train it together.

    Args:
        config: of the run.
        dataset: the dataset that ``config`` was resolved with.
        folder: of the run; None takes the one of :func:`next_folder`.
        trusted: ``module:attribute`` names that may be imported.
        resume: resume the run in ``folder``.
        begin: a run whose weights the new one begins with, as
            :func:`pyrovae.runs.take_weights` takes them; the folder names it in ``from.json``.
        report: callback, called after each step and epoch.

    Returns:
        The folder, the trained VAE, and the outcome of the training.

    Raises:
        TrainingInterrupted: on Ctrl-C, with the command that resumes.
        Exception: as :func:`pyrovae.fit` otherwise.

    Example:
        >>> from pyrovae.runs import start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network}
        >>> config, data = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> folder, vae, fitted = start(config, data, None)
        >>> print(folder)
        runs/digits-normal-1
    """
    folder = None if folder is None else expanded(folder)
    digest = dataset.digest()
    files = files_of(config, dataset) | {DIGEST: f"{digest}\n".encode()}
    if resume and folder is not None:
        _check_resumable(folder)
        check_same_data(folder, digest, "start a new run")
    training = dict(config.training, objective=config.objective(trusted=trusted))
    while True:
        free = next_folder(config.data["name"], config.model["prior"])
        out = folder or Path(processes.text_of_first(str(free)))
        vae = config.build(trusted=trusted)
        parts: bool | list[str] = True
        if begin is not None:
            parts = take_weights(vae, begin)
            files |= {BEGINNING: record_of(begin, parts)}
        with with_resume_command(out):
            try:
                where: dict[str, Any] = {"out": out, "files": files, "resume": resume}
                trained = fit(vae, dataset, **training, **where, initialize=parts, report=report)
                return out, vae, trained
            except OSError as error:
                taken = isinstance(error, FileExistsError) or error.errno == errno.ENOTEMPTY
                if not taken or not out.is_dir():
                    raise explained(error, out) from error
                if folder is not None or processes.count() > 1:
                    remedy = "choose another folder"
                    if (out / LAST).is_file():
                        remedy += f", or resume it: {resume_command(out)}"
                    raise FileExistsError(f"{out} exists; {remedy}") from error


def _check_resumable(folder: Path) -> None:
    for name in (METRICS, SUMMARY):  # written anew, whatever is there now
        if (folder / name).is_dir():
            raise ValueError(f"{folder / name} is a folder, not a file; remove it to resume")


def check_place(out: Path) -> None:
    """Check that a folder can be made or written into, before the work that fills it begins.

    Raises:
        OSError: if it cannot.
    """
    try:
        check_writable(out)
    except OSError as error:
        raise explained(error, out) from error


def explained(error: OSError, out: Path) -> OSError:
    """Name the folder that is made in an error about making it."""
    place = Path(error.filename or "/")
    if (
        not error.errno
        or out.exists()
        or (out not in (place, *place.parents) and place not in out.parents)
    ):
        return error
    return OSError(f"cannot create {out}: {place}: {error.strerror}; choose another with --out")


def resume_command(folder: Path) -> str:
    """The command that resumes a run, with the names of its user-defined components.

    Args:
        folder: of the run.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.runs import resume_command
        >>> resume_command(Path("runs/digits-normal-1"))
        'pyrovae fit --resume runs/digits-normal-1'
    """
    with contextlib.suppress(OSError, ValueError):  # built in Python, or damaged
        return Run.open(folder).resume_command()
    return plain_resume_command(folder)


@contextlib.contextmanager
def with_resume_command(folder: Path) -> Iterator[None]:
    """Add the command that resumes the run in ``folder`` to any exception that interrupts it.

    Args:
        folder: of the run; it may not exist yet.

    Raises:
        TrainingInterrupted: instead of any other ``KeyboardInterrupt``.
        StoppedError: with the command added.
        OSError: with the command added, if a file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.runs import with_resume_command
        >>> with with_resume_command(Path("runs/digits-normal-1")):
        ...     pass  # on Ctrl-C: "interrupted; resume with: pyrovae fit --resume ..."
    """
    try:
        yield
    except (KeyboardInterrupt, processes.StoppedError, OSError) as error:
        unreadable = isinstance(error, OSError) and not error.errno  # says what to do
        if unreadable or not (folder / LAST).is_file():
            raise
        how = f"resume with: {resume_command(folder)}"
        if isinstance(error, OSError):
            file = f"{error.filename}: {error.strerror}"
            raise OSError(f"{file}; free some space or allow writing, then {how}") from error
        if isinstance(error, processes.StoppedError):
            raise processes.StoppedError(f"{error}; {how}") from error
        raise TrainingInterrupted(f"interrupted; {how}") from error
