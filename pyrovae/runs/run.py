r"""A run: the folder that a training leaves behind, and what is asked of it afterwards.

``config.toml``      every setting; ``pyrovae fit --config`` repeats the run
``model.safetensors``  the weights that are kept
``last.safetensors``   all that a resumption needs
``metrics.jsonl``      a line per epoch
``statistics.safetensors``  what the data were standardised by, where they were
``summary.json``       the test bounds, once training has ended
``figures/``           pictures
"""

import contextlib
import errno
import itertools
import json
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.files import read_tensors, tensor_bytes, write_text
from pyrovae.data import Dataset, Split, load_all
from pyrovae.evidence import evaluate
from pyrovae.runs.config import DATA_SETTINGS, FAMILIES, Config
from pyrovae.runs.export import as_json
from pyrovae.runs.pairs import suggesting_pairs
from pyrovae.runs.specs import Spec
from pyrovae.training import LAST, METRICS, MODEL, Fit, Progress, TrainingInterrupted, fit
from pyrovae.vae import VAE

__all__ = ["CHANGEABLE", "Run", "going_on", "load", "next_folder", "resuming", "start"]

CONFIG, SUMMARY, FIGURES = "config.toml", "summary.json", "figures"
DIGEST = "data.sha256"
STATISTICS, EVALUATION = "statistics.safetensors", "unfinished-evaluation.safetensors"

CHANGEABLE = ("data_dir", "device", "max_minutes")
"""Settings that a resumed run may change."""


def load(folder: str | Path, *, vae: VAE | None = None, trusted: Collection[str] = ()) -> VAE:
    """The trained VAE of a run.

    Nothing outside pyrovae is imported unless it is named here: components of the user's own are
    rebuilt from ``trusted`` names, or handed over whole as ``vae``.

    Args:
        folder: of the run.
        vae: takes the weights instead of one rebuilt from the run's configuration; for runs
            whose components were made in Python.
        trusted: ``module:attribute`` names in the run's configuration that may be imported.

    Returns:
        The VAE in eval mode, on the CPU.

    Raises:
        FileNotFoundError: if it is no run, or its configuration or weights are missing.
        ValueError: if a file is damaged, or the weights are of another model.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run at {path}")
    if vae is None:
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{path} has no {CONFIG}; if its VAE was built in Python, build it again and give "
                "it as load(folder, vae=...)"
            )
        vae = Config.opened(path / CONFIG).build(trusted=trusted)
    try:
        weights, _ = read_tensors(path / MODEL)
    except (FileNotFoundError, ValueError) as error:
        again = f"pyrovae fit --config {path / CONFIG} --out NEW"
        raise type(error)(f"{error}; restore it from a copy, or train again: {again}") from error
    differences = _differences(vae.state_dict(), weights)
    if differences:
        raise ValueError(
            f"the weights in {path} are of another model than its {CONFIG}: {differences}"
        )
    vae.load_state_dict(weights)
    return vae.eval()


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first name or shape in which two sets of weights differ, and how many do."""
    shapes = [
        {name: tuple(value.shape) for name, value in weights.items()}
        for weights in (expected, found)
    ]
    names = [n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)]
    if not names:
        return ""
    here, there = (side.get(names[0], "absent") for side in shapes)
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]} should be {here} and is {there}{more}"


def next_folder(data: str, prior: str, root: str | Path = "runs") -> Path:
    """The first of ``root/<data>-<prior>-<n>``, n = 1, 2, ..., that is not taken.

    Args:
        data: name or path of the data.
        prior: spec of the prior.
        root: the folder of all runs.
    """
    stem = f"{Path(data).stem}-{Spec.parse(prior).name.replace(':', '.')}"
    return next(p for n in itertools.count(1) if not (p := Path(root) / f"{stem}-{n}").exists())


@suggesting_pairs()
def start(
    config: Config,
    dataset: Dataset,
    folder: Path | None,
    *,
    trusted: Collection[str] = (),
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> tuple[Path, VAE, Fit]:
    """Train what a configuration says into a folder, or go on with it.

    Several processes, inside of :func:`pyrovae._process.joined`, train it together.

    Args:
        config: of the run.
        dataset: that ``config`` was resolved with.
        folder: of the run; None for the next free one of :func:`next_folder`.
        trusted: ``module:attribute`` names that may be imported.
        resume: go on with the run in ``folder``.
        report: called after each step and epoch.

    Returns:
        The folder, the trained VAE and what training did.

    Raises:
        TrainingInterrupted: on Ctrl-C, with the line to go on with.
        Exception: as :func:`pyrovae.fit` otherwise.
    """
    files = {CONFIG: config.to_toml().encode(), DIGEST: f"{dataset.digest()}\n".encode()}
    if resume and folder is not None:
        _check_digest(folder, files[DIGEST])
    if dataset.statistics:
        statistics = {name: torch.from_numpy(array) for name, array in dataset.statistics.items()}
        files[STATISTICS] = tensor_bytes(statistics)
    training = dict(config.training, objective=config.objective(trusted=trusted))
    while True:
        free = next_folder(config.data["name"], config.model["prior"])
        out = folder or Path(processes.text_of_first(str(free)))
        vae = config.build(trusted=trusted)
        with going_on(out):
            try:
                trained = fit(
                    vae, dataset, **training, out=out, files=files, resume=resume, report=report
                )
                return out, vae, trained
            except OSError as error:
                taken = isinstance(error, FileExistsError) or error.errno == errno.ENOTEMPTY
                if not taken or not out.is_dir():
                    raise _explained(error, out) from error
                if folder is not None or processes.count() > 1:
                    remedy = "choose another folder"
                    if (out / LAST).is_file():
                        remedy += f", or go on with it: {resuming(out)}"
                    raise FileExistsError(f"{out} exists; {remedy}") from error


def _check_digest(folder: Path, digest: bytes) -> None:
    path = folder / DIGEST
    if path.is_file() and path.read_bytes() != digest:
        raise ValueError(
            f"the data have changed since the run in {folder} began; put back the old ones to go "
            "on with it, or start a new run"
        )


def _explained(error: OSError, out: Path) -> OSError:
    """An error in making the folder of a run, under the name of that folder."""
    place = Path(error.filename or "/")
    if out.exists() or (place.parent != out.parent and place not in out.parents):
        return error
    return OSError(f"cannot make {out}: {place}: {error.strerror}; choose another with --out")


def resuming(folder: Path) -> str:
    """The command that goes on with a run, with the names of the user's own components.

    Args:
        folder: of the run.
    """
    named = ""
    with contextlib.suppress(OSError, ValueError):  # of a run made in Python, or damaged
        named = Run.open(folder).named_again("objective")
    return f"{processes.command()} fit --resume {shlex.quote(str(folder))}{named}"


@contextlib.contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """Let what stops a training say how to go on with the run in ``folder``, where there is one.

    Args:
        folder: of the run.

    Raises:
        TrainingInterrupted: instead of any ``KeyboardInterrupt``.
        StoppedError: instead of another.
    """
    try:
        yield
    except (KeyboardInterrupt, processes.StoppedError) as error:
        if not (folder / LAST).is_file():
            raise
        how = f"go on with: {resuming(folder)}"
        if isinstance(error, processes.StoppedError):
            raise processes.StoppedError(f"{error}; {how}") from error
        raise TrainingInterrupted(f"interrupted; {how}") from error


@dataclass(frozen=True)
class Run:
    """A run that has been opened: its configuration, and what it describes when asked for.

    Attributes:
        folder: where it is.
        config: every setting.
        trusted: ``module:attribute`` names that may be imported for it.
    """

    folder: Path
    config: Config
    trusted: frozenset[str] = frozenset()

    @classmethod
    def open(cls, folder: str | Path, *, trusted: Collection[str] = ()) -> "Run":
        """Open a run's folder; nothing is imported and no data are read yet.

        Args:
            folder: of the run.
            trusted: ``module:attribute`` names of the user's own that may be imported later.

        Raises:
            FileNotFoundError: if it is no run.
            ValueError: if its configuration cannot be read.
        """
        path = Path(folder)
        if not path.exists():
            raise FileNotFoundError(
                f"there is no run at {path}; pyrovae fit makes runs, in runs/ unless told otherwise"
            )
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is a file; give the folder of a run")
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{path} is no run: it has no {CONFIG}; runs are made by pyrovae fit"
            )
        return cls(path, Config.opened(path / CONFIG), frozenset(trusted))

    def check_named(self, given: Mapping[str, str | None]) -> None:
        """Make sure that components named again are those that the run was trained with.

        Args:
            given: what was written, by role.

        Raises:
            ValueError: if one is another, or has other options.
        """
        for role, text in given.items():
            if text is None:
                continue
            table = self.config.training if role == "objective" else self.config.model
            spec, trained = Spec.parse(text), Spec.parse(table[role])
            same = spec.name == trained.name and all(
                _same_value(value, trained.options.get(key)) for key, value in spec.options.items()
            )
            if not same:
                raise ValueError(
                    f"the {role} of {self.folder} is {trained}, not {text}; here --{role} only "
                    "names code of your own that the run was trained with"
                )

    def named_again(self, *more: str) -> str:
        """The options by which a command runs the user's own components of this run.

        Args:
            more: ``"objective"``, for a command that needs it besides the model.
        """
        written = dict(self.config.model) | {role: self.config.training[role] for role in more}
        specs = {role: Spec.parse(written[role]) for role in FAMILIES if role in written}
        return "".join(
            f" --{role} {shlex.quote(spec.name)}"
            for role, spec in specs.items()
            if spec.is_users_own
        )

    def settings_to_resume(self, changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """All settings of the run, for :meth:`Config.resolve`.

        Args:
            changes: those of ``CHANGEABLE`` that differ from now on. The time limit is of one
                sitting, and is gone unless it is set again.

        Raises:
            ValueError: for any other setting.
        """
        for name in changes:
            if name not in CHANGEABLE:
                raise ValueError(
                    f"a resumed run keeps the settings it began with; leave out "
                    f"--{name.replace('_', '-')} (--data-dir, --device and --max-minutes may "
                    f"change), or start a new run with --config {self.folder / CONFIG}"
                )
        data = {n: v for n, v in self.config.data.items() if n in DATA_SETTINGS}
        training = dict(self.config.training) | {"max_minutes": None}
        for table in (data, training):
            table |= {name: value for name, value in changes.items() if name in table}
        return {"data": data, "model": dict(self.config.model), "training": training}

    def vae(self) -> VAE:
        """The trained VAE, in eval mode."""
        return load(self.folder, trusted=self.trusted)

    def dataset(self, data_dir: str | None = None) -> Dataset:
        """The data that it was trained on, under the same treatment.

        Args:
            data_dir: where named datasets are now, if not where they were.
        """
        data = dict(self.config.data) | ({} if data_dir is None else {"data_dir": data_dir})
        settings = {"data": data, "model": self.config.model}
        return Config.resolve(settings, trusted=self.trusted)[1]

    def treat(self, data: str, data_dir: str | None = None) -> Split:
        """Other data, all rows in order, binarised or scaled as the training data were.

        Args:
            data: name or path.
            data_dir: where named datasets are.
        """
        settings = self.config.data
        statistics: Mapping[str, np.ndarray] = {}
        if settings["scaling"] == "standardize":
            tensors, _ = read_tensors(self.folder / STATISTICS)
            statistics = {name: tensor.numpy() for name, tensor in tensors.items()}
        split = load_all(
            data,
            data_dir=data_dir or settings["data_dir"],
            binarization=settings["binarization"],
            scaling=settings["scaling"],
            statistics=statistics,
            image_size=settings["image_size"] if Path(data).is_dir() else None,
            maximum=settings["maximum"],
        )
        if split.event_shape != settings["event_shape"]:
            channels, *sides = shape = settings["event_shape"]
            rows = ", ".join(str(size) for size in (sides if sides and channels == 1 else shape))
            raise ValueError(
                f"the run {self.folder} was trained on observations of shape {shape}, those of "
                f"{data} have {split.event_shape}; give data of shape (N, {rows})"
            )
        return split

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``: one for each epoch."""
        path = self.folder / METRICS
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text().splitlines()]
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}); {resuming(self.folder)} writes it again"
            ) from error

    def roles(self) -> dict[str, str]:
        """Binarisation and the three roles, as results name them."""
        return {"binarization": self.config.data["binarization"]} | {
            role: self.config.model[role] for role in ("likelihood", "prior", "posterior")
        }

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds: of a run that has been finished."""
        path = self.folder / SUMMARY
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); {resuming(self.folder)} writes it"
            ) from error
        return dict(found)

    def finish(self, vae: VAE, dataset: Dataset, trained: Fit, **evaluation: Any) -> dict[str, Any]:
        """Evaluate on the test set, draw the pictures, and write the summary.

        Several processes share the evaluation, and the first does the rest.

        Args:
            vae: trained.
            dataset: that it was trained on.
            trained: what training did.
            evaluation: options of :func:`pyrovae.evaluate`.

        Returns:
            What ``summary.json`` holds.
        """
        from pyrovae import plots

        result = self.evaluate(vae, dataset, **evaluation)
        summary = result | {
            "data": dataset.name,
            "parameters": sum(p.numel() for p in vae.parameters()),
            "stopped": trained.stopped,
            "epochs": len(trained.metrics),
            "best_epoch": trained.best_epoch,
            "best_validation_elbo": trained.best_validation_elbo,
            "seconds": round(trained.seconds, 3),
        }
        if not processes.is_first():
            return summary
        (self.folder / FIGURES).mkdir(exist_ok=True)
        x = torch.cat(
            [batch for batch, _ in zip(dataset.test.batches(500), range(4), strict=False)]
        )
        labels = None if dataset.test.labels is None else dataset.test.labels[: len(x)]
        plots.draw_vae(vae, x, labels, trained.metrics, self.folder / FIGURES)
        write_text(self.folder / SUMMARY, as_json(summary, indent=2) + "\n")
        return summary

    def evaluate(self, vae: VAE, dataset: Dataset, **options: Any) -> dict[str, Any]:
        """Test bounds under the names of the roles; options as :func:`pyrovae.evaluate`."""
        return evaluate(vae, dataset.test, **options) | self.roles()

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path | None]:
        """Where an evaluation keeps what it has, so that a repetition goes on after Ctrl-C.

        Code of the user's own may change in between: then there is no such place.
        """
        path = self.folder / EVALUATION
        if self.trusted or not os.access(self.folder, os.W_OK):
            yield None
            return
        try:
            yield path
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("interrupted; the same command goes on from here") from error
        if processes.is_first():
            path.unlink(missing_ok=True)


def _same_value(a: str, b: str | None) -> bool:
    try:
        return b is not None and (a == b or float(a) == float(b))
    except ValueError:
        return False
