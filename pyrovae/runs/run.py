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
import math
import os
import shlex
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae._process import processes
from pyrovae._process.files import expanded, read_json, read_tensors, remove_leftovers
from pyrovae.data import DATASETS, Dataset, Schema, Split, Standardize, Unit, load_all
from pyrovae.estimates import batches
from pyrovae.evidence import evaluate
from pyrovae.queries import Imputed
from pyrovae.runs.config import Config
from pyrovae.runs.export import FIGURES
from pyrovae.runs.records import (
    CONFIG,
    EVALUATION,
    SCHEMA,
    STATISTICS,
    SUMMARY,
    check_config,
    check_same_data,
    load,
    origin,
    read_history,
    read_summary,
    write_summary,
)
from pyrovae.runs.results import Summary
from pyrovae.runs.settings import DATA_SETTINGS, FAMILIES, Settings
from pyrovae.runs.specs import Spec
from pyrovae.runs.tables import check_unchanged, rounded
from pyrovae.training import METRICS, Fit, History
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas

__all__ = ["CHANGEABLE", "SUMMARIZED", "Run"]

CHANGEABLE = ("data_dir", "device", "max_minutes")
"""Settings that a resumed run may change."""

SUMMARIZED: Mapping[str, Any] = {"samples": 200, "proposal": "auto"}
"""How a finished run is evaluated, as options of :func:`pyrovae.evaluate`."""


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
        path = expanded(folder)
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
        located = self.located(changes.get("data_dir"))
        data = {n: v for n, v in located.items() if n in DATA_SETTINGS}
        training = dict(self.config.training) | {"max_minutes": None}
        training |= {name: value for name, value in changes.items() if name in training}
        return {"data": data, "model": dict(self.config.model), "training": training}

    def vae(self) -> VAE:
        """Load the trained VAE, in eval mode."""
        return load(self.folder, trusted=self.trusted)

    def located(self, data_dir: str | None = None) -> dict[str, Any]:
        """The settings of the data, where the data are now.

        Args:
            data_dir: folder of named datasets, or of the file, if they have moved.

        Raises:
            FileNotFoundError: if the file or folder that the run names is not there.
        """
        data = dict(self.config.data)
        if data_dir is not None:
            data["data_dir"] = data_dir
        if data["name"] in DATASETS:
            return data
        moved = expanded(data_dir or "") / Path(data["name"]).name
        if data_dir is not None and moved.exists():
            data["name"] = str(moved)
        elif not Path(data["name"]).exists():
            where = f"at {data['name']}" if data_dir is None else f"in {data_dir}"
            raise FileNotFoundError(
                f"the data of {self.folder} are not {where}; if {Path(data['name']).name} has "
                "moved, name the folder that holds it with --data-dir"
            )
        return data

    def dataset(self, data_dir: str | None = None) -> Dataset:
        """Read the data that it was trained on, prepared in the same way.

        Args:
            data_dir: folder of named datasets, or of the file, if they have moved. A named dataset
                is downloaded only into this folder, and nothing into the one that the run names.

        Raises:
            FileNotFoundError: if the data are missing.
            ValueError: if they have changed.
        """
        check_config(self.folder, self.config, self.trusted)
        data = self.located(data_dir)
        settings = {"data": data, "model": self.config.model}
        dataset = Config.resolve(
            settings, trusted=self.trusted, schema=self.schema, download=data_dir is not None
        )[1]
        check_unchanged(dataset, self.folder, data["event_shape"], self.statistics())
        remedy = "train again; other examples have a command of their own: pyrovae score"
        check_same_data(self.folder, dataset.digest(), remedy)
        return dataset

    @property
    def schema(self) -> Schema | None:
        """The columns of the table that it was trained on; None for other data.

        Raises:
            ValueError: if the file is damaged.
        """
        origin(self.folder, SCHEMA)
        path = self.folder / SCHEMA
        if not path.exists():
            return None
        try:
            return Schema.of(read_json(path))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it from a copy") from error

    @property
    def is_unscaled(self) -> bool:
        """Whether the VAE sees the data in their own units."""
        return bool(self.config.data["scaling"] == "none")

    def statistics(self) -> Mapping[str, np.ndarray]:
        """Means and scales by which the data were standardized; empty if they were not."""
        if self.config.data["scaling"] not in ("standardize", "columns"):
            return {}
        origin(self.folder, STATISTICS)
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
            download=data_dir is not None or settings["data_dir"] is None,
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
        try:
            return read_history(self.folder)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{self.folder / METRICS} is damaged ({error}); {self.resume_command()} writes it "
                "again"
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
        try:
            return read_summary(self.folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.folder / SUMMARY} cannot be read ({error}); {self.resume_command()} writes "
                "it"
            ) from error

    def finish(self, vae: VAE, dataset: Dataset, trained: Fit, **evaluation: Any) -> Summary:
        """Evaluate on the test set, draw the pictures, and write the summary.

        Several processes share the evaluation, and the first does the rest.

        Args:
            vae: trained.
            dataset: the data it was trained on.
            trained: outcome of the training.
            evaluation: options of :func:`pyrovae.evaluate`, in place of 200 draws from the proposal
                ``"auto"``.
        """
        found = evaluate(vae, dataset.test, **{**SUMMARIZED, **evaluation})
        training = {
            "data": dataset.name,
            "parameters": sum(p.numel() for p in vae.parameters()),
            "stopped": trained.stopped,
            "epochs": len(trained.metrics),
            "best_epoch": trained.best_epoch,
            "best_validation_elbo": trained.best_validation_elbo,
            "best_validation_error": trained.best_validation_error,
            "seconds": round(trained.seconds, 3),
        }
        summary = Summary.of(found.to_dict() | self.roles() | training)
        if not processes.is_first():
            return summary
        self.remove_leftovers()
        figures, units = self.folder / FIGURES, dataset.test.original
        if figures.is_symlink():
            warnings.warn(f"{figures} is a link, which is not followed: no pictures", stacklevel=2)
        else:
            x = torch.cat(list(batches(dataset.test, 500, limit=2_000)))
            labels = None if dataset.test.labels is None else dataset.test.labels[: len(x)]
            metrics, schema = trained.metrics, dataset.schema
            plots.draw_vae(vae, x, labels, metrics, figures, schema=schema, units=units)
        write_summary(self.folder, summary)
        return summary

    def remove_leftovers(self) -> None:
        """Remove temporary files that killed processes left in the folder."""
        remove_leftovers(self.folder)
        if not (self.folder / FIGURES).is_symlink():
            remove_leftovers(self.folder / FIGURES)

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path | None]:
        """The file in which an evaluation keeps its progress, to be resumed after Ctrl-C.

        None for runs with user-defined components, since their code may change in between.
        """
        path = self.folder / EVALUATION
        if self.trusted or not os.access(self.folder, os.W_OK):
            yield None
            return
        if processes.is_first():
            self.remove_leftovers()
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
