r"""A run: the folder that a training leaves behind, and what can be asked of it afterwards.

``config.toml``      every setting; ``pyrovae fit --config`` repeats the run
``model.safetensors``  the weights that are kept
``last.safetensors``   everything needed to resume
``metrics.jsonl``      a line per epoch
``statistics.safetensors``  means and scales by which the data were standardized, if they were
``schema.json``        names, kinds and categories of the columns, if the data are a table
``summary.json``       the test bounds, once training has ended
``figures/``           pictures
"""

import contextlib
import json
import math
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae._process import processes
from pyrovae._process.files import read_tensors, write_text
from pyrovae.data import Dataset, Schema, Split, Standardize, Unit, load_all
from pyrovae.estimates import batches
from pyrovae.evidence import evaluate
from pyrovae.queries import Imputed
from pyrovae.runs.config import DATA_SETTINGS, FAMILIES, Config, Settings
from pyrovae.runs.export import as_json
from pyrovae.runs.results import Summary
from pyrovae.runs.specs import Spec
from pyrovae.runs.tables import check_unchanged, rounded
from pyrovae.training import METRICS, MODEL, Fit, History
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas

__all__ = ["CHANGEABLE", "Run", "load"]

CONFIG, SUMMARY, FIGURES = "config.toml", "summary.json", "figures"
DIGEST, SCHEMA = "data.sha256", "schema.json"
STATISTICS, EVALUATION = "statistics.safetensors", "unfinished-evaluation.safetensors"

CHANGEABLE = ("data_dir", "device", "max_minutes")
"""Settings that a resumed run may change."""


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
        ValueError: if a file is damaged, or the weights belong to another model.

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
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run at {path}")
    if vae is None:
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{path} has no {CONFIG}; if its VAE was built in Python, build it again and pass "
                "it: load(folder, vae=...)"
            )
        vae = Config.opened(path / CONFIG).build(trusted=trusted)
    try:
        weights, _ = read_tensors(path / MODEL)
    except (FileNotFoundError, ValueError) as error:
        again = f"pyrovae fit --config {path / CONFIG} --out NEW"
        raise type(error)(f"{error}; restore it from a copy, or train again: {again}") from error
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        differences = _differences(vae.state_dict(), weights)
        raise ValueError(
            f"the weights in {path} belong to another model than its {CONFIG}: {differences}"
        ) from error
    return vae.eval()


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


@dataclass(frozen=True)
class Run:
    """An opened run: its configuration, and what its folder holds.

    Attributes:
        folder: where it is.
        config: every setting.
        trusted: ``module:attribute`` names that may be imported for it.

    Example:
        >>> from pyrovae.runs import Run, start
        >>> network = "mlp:hidden_dims=4"
        >>> config, data = pyrovae.Config.resolve(
        ...     {"model": {"encoder": network, "decoder": network}, "training": {"epochs": 2}}
        ... )
        >>> folder, _, _ = start(config, data, None)
        >>> run = Run.open(folder)
        >>> run.history.epoch.tolist(), run.vae().latent_dim
        ([1, 2], 10)
    """

    folder: Path
    config: Config
    trusted: frozenset[str] = frozenset()

    @classmethod
    def open(cls, folder: str | Path, *, trusted: Collection[str] = ()) -> "Run":
        """Open the folder of a run; nothing is imported and no data are read yet.

        Args:
            folder: of the run.
            trusted: ``module:attribute`` names of user-defined code that may be imported later.

        Raises:
            FileNotFoundError: if it is not a run.
            ValueError: if its configuration cannot be read.
        """
        path = Path(folder)
        if not path.exists():
            raise FileNotFoundError(
                f"there is no run at {path}; pyrovae fit makes runs, by default in runs/"
            )
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is a file; give the folder of a run")
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{path} is not a run: it has no {CONFIG}; pyrovae fit makes runs"
            )
        return cls(path, Config.opened(path / CONFIG), frozenset(trusted))

    def check_named(self, given: Mapping[str, str | None]) -> None:
        """Check that components named again are those that the run was trained with.

        Args:
            given: specs as written, by role.

        Raises:
            ValueError: if one is another component, or has other options.
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
                    "names user-defined code that the run was trained with"
                )

    def named_again(self, *more: str) -> str:
        """The options that name the run's user-defined components in a command.

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

    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"{plain_resume_command(self.folder)}{self.named_again('objective')}"

    def settings_to_resume(self, changes: Mapping[str, Any]) -> Settings:
        """All settings of the run, for :meth:`Config.resolve`.

        Args:
            changes: new values of ``CHANGEABLE`` settings. A time limit applies to one session
                only, and is dropped unless it is set again.

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
        """Load the trained VAE, in eval mode."""
        return load(self.folder, trusted=self.trusted)

    def dataset(self, data_dir: str | None = None) -> Dataset:
        """Read the data that it was trained on, prepared in the same way.

        Args:
            data_dir: folder of named datasets, if they have moved.
        """
        data = dict(self.config.data) | ({} if data_dir is None else {"data_dir": data_dir})
        settings = {"data": data, "model": self.config.model}
        dataset = Config.resolve(settings, trusted=self.trusted, schema=self.schema)[1]
        check_unchanged(dataset, self.folder, data["event_shape"], self.statistics())
        return dataset

    @property
    def schema(self) -> Schema | None:
        """The columns of the table that it was trained on; None for other data.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / SCHEMA
        if not path.is_file():
            return None
        try:
            return Schema.of(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); restore it from a copy") from error

    @property
    def is_unscaled(self) -> bool:
        """Whether the VAE sees the data in their own units."""
        return bool(self.config.data["scaling"] == "none")

    def statistics(self) -> Mapping[str, np.ndarray]:
        """Means and scales by which the data were standardized; empty if they were not."""
        if self.config.data["scaling"] not in ("standardize", "columns"):
            return {}
        tensors, _ = read_tensors(self.folder / STATISTICS)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def original(self, values: Tensor) -> np.ndarray:
        """Return values that the VAE works with in the units of the data.

        Args:
            values: ``(..., *event_shape)``.
        """
        statistics = self.statistics()
        if statistics:
            return Standardize(statistics["loc"], statistics["scale"]).undo(values.numpy())
        if self.config.data["scaling"] == "unit":
            return Unit(self.config.data["maximum"] or 1).undo(values.numpy())
        return values.numpy()

    def readable(self, values: np.ndarray) -> np.ndarray:
        """Values in the units of the data, rounded to the digits that the VAE computes with.

        Args:
            values: ``(..., *event_shape)``.
        """
        return rounded(values, self.statistics().get("loc", np.zeros(())))

    def in_units(self, found: Imputed) -> Imputed:
        """The same completions, log p(x_obs) being that of the data in their own units."""
        statistics, slopes = self.statistics(), np.zeros(())
        if statistics:
            slopes = -np.log(statistics["scale"])
        elif self.config.data["scaling"] == "unit":
            slopes = np.asarray(-math.log(self.config.data["maximum"] or 1))
        if found.log_evidence is None:
            return found
        moved = (found.observed.numpy() * slopes).reshape(len(found.x), -1).sum(1)
        return replace(found, log_evidence=found.log_evidence + torch.from_numpy(moved))

    def treat(
        self,
        data: "str | pandas.DataFrame",
        data_dir: str | None = None,
        id_column: str | None = None,
    ) -> Split:
        """Read other data, all examples in order, binarized or scaled like the training data.

        The columns of a table are taken by their names, in any order; further ones are ignored.

        Args:
            data: name or path, or a table in memory.
            data_dir: folder of named datasets.
            id_column: name of the column of a table that identifies rows; by default that of the
                training data, where the table has it.

        Raises:
            ValueError: if the examples have another shape, or a column is missing.
        """
        settings = self.config.data
        split = load_all(
            data,
            data_dir=data_dir or settings["data_dir"],
            binarization=settings["binarization"],
            scaling=settings["scaling"],
            statistics=self.statistics(),
            image_size=settings["image_size"]
            if isinstance(data, str) and Path(data).is_dir()
            else None,
            maximum=settings["maximum"],
            id_column=id_column,
            schema=self.schema,
        )
        if split.event_shape != settings["event_shape"]:
            channels, *sides = shape = settings["event_shape"]
            rows = ", ".join(str(size) for size in (sides if sides and channels == 1 else shape))
            raise ValueError(
                f"the run {self.folder} was trained on examples of shape {shape}, those of "
                f"{data} have {split.event_shape}; give data of shape (N, {rows})"
            )
        return split

    @property
    def history(self) -> History:
        """The epochs of the training so far, read from ``metrics.jsonl``.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / METRICS
        try:
            lines = path.read_text().splitlines() if path.is_file() else []
            return History.of([json.loads(line) for line in lines])
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); {self.resume_command()} writes it again"
            ) from error

    def roles(self) -> dict[str, str]:
        """The binarization and the three roles, under the keys they have in results."""
        return {"binarization": self.config.data["binarization"]} | {
            role: self.config.model[role] for role in ("likelihood", "prior", "posterior")
        }

    def summary(self) -> Summary:
        """Read ``summary.json``, which a finished run has.

        Raises:
            ValueError: if it cannot be read.
        """
        path = self.folder / SUMMARY
        try:
            return Summary.of(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); {self.resume_command()} writes it"
            ) from error

    def finish(self, vae: VAE, dataset: Dataset, trained: Fit, **evaluation: Any) -> Summary:
        """Evaluate on the test set, draw the pictures, and write the summary.

        Several processes share the evaluation, and the first does the rest.

        Args:
            vae: trained.
            dataset: the data it was trained on.
            trained: outcome of the training.
            evaluation: options of :func:`pyrovae.evaluate`.
        """
        found = evaluate(vae, dataset.test, **evaluation)
        training = {
            "data": dataset.name,
            "parameters": sum(p.numel() for p in vae.parameters()),
            "stopped": trained.stopped,
            "epochs": len(trained.metrics),
            "best_epoch": trained.best_epoch,
            "best_validation_elbo": trained.best_validation_elbo,
            "seconds": round(trained.seconds, 3),
        }
        summary = Summary.of(found.to_dict() | self.roles() | training)
        if not processes.is_first():
            return summary
        figures, units = self.folder / FIGURES, dataset.test.original
        figures.mkdir(exist_ok=True)
        x = torch.cat(list(batches(dataset.test, 500, limit=2_000)))
        labels = None if dataset.test.labels is None else dataset.test.labels[: len(x)]
        plots.draw_vae(vae, x, labels, trained.metrics, figures, schema=dataset.schema, units=units)
        write_text(self.folder / SUMMARY, as_json(summary.to_dict(), indent=2) + "\n")
        return summary

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path | None]:
        """The file in which an evaluation keeps its progress, to be resumed after Ctrl-C.

        None for runs with user-defined components, since their code may change in between.
        """
        path = self.folder / EVALUATION
        if self.trusted or not os.access(self.folder, os.W_OK):
            yield None
            return
        try:
            yield path
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("interrupted; repeat the command to resume") from error
        if processes.is_first():
            path.unlink(missing_ok=True)


def plain_resume_command(folder: Path) -> str:
    """The command that resumes a run without user-defined components."""
    return f"{processes.command()} fit --resume {shlex.quote(str(folder))}"


def _same_value(a: str, b: str | None) -> bool:
    try:
        return b is not None and (a == b or float(a) == float(b))
    except ValueError:
        return False
