"""What training changes, and the folder that it is saved to and resumed from."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.files import (
    read_tensors,
    whole_folder,
    write_bytes,
    write_tensors,
    write_text,
)
from pyrovae.training.optim import FusedAdam, MovingAverage
from pyrovae.training.options import TrainingOptions
from pyrovae.training.progress import Progress
from pyrovae.vae import VAE

__all__ = ["LAST", "METRICS", "MODEL"]

MODEL = "model.safetensors"
"""In the folder of a run: the weights with the best validation bound."""
LAST = "last.safetensors"
"""In the folder of a run: the state that resuming reads."""
METRICS = "metrics.jsonl"
"""In the folder of a run: a line of JSON for each epoch."""


class TrainingState:
    """Everything that training changes.

    Args:
        vae: trained in place.
        options: of the optimizer and the average.
        steps_per_epoch: number of steps.

    Attributes:
        best: the weights that are kept.
    """

    def __init__(self, vae: VAE, options: TrainingOptions, steps_per_epoch: int) -> None:
        self.vae = vae
        self.optimizer = FusedAdam(
            vae.parameters(),
            learning_rate=options.learning_rate,
            total_steps=options.epochs * steps_per_epoch,
            warmup=options.warmup,
            schedule=options.schedule,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
        )
        self.average = MovingAverage(vae, options.averaging) if options.averaging else None
        self.progress = Progress(options.epochs, steps_per_epoch)
        self.best = _copy_of(vae.state_dict())

    @property
    def kept(self) -> VAE:
        """The VAE that is validated and kept: the averaged one, if there is an average."""
        return self.vae if self.average is None else cast(VAE, self.average.module)

    def keep(self) -> None:
        """Keep the current weights."""
        self.best = _copy_of(self.kept.state_dict())

    def take_best(self) -> None:
        """Give the VAE the weights that were kept, and put it in eval mode."""
        self.vae.load_state_dict(self.best)
        self.vae.eval()

    def tensors(self) -> dict[str, Tensor]:
        """The weights, their average and the optimizer's state, by name."""
        tensors = _above("vae.", self.vae.state_dict())
        tensors |= _above("optimizer.", self.optimizer.get_state())
        if self.average is not None:
            tensors |= _above("average.", self.average.state_dict())
        return tensors

    def load(self, tensors: Mapping[str, Tensor], best: Mapping[str, Tensor]) -> None:
        """Resume from what :meth:`tensors` returned, and from the weights that were kept.

        Raises:
            KeyError, RuntimeError: if they are those of another model.
        """
        self.vae.load_state_dict(_below("vae.", tensors))
        self.best = _copy_of(self.vae.state_dict())
        for name, value in self.best.items():
            value.copy_(best[name])
        if self.average is not None:
            self.average.load_state_dict(_below("average.", tensors))
        self.optimizer.set_state(_below("optimizer.", tensors))


class TrainingCheckpoint:
    """The folder of a run, from which training resumes to the bit.

    Of several processes, the first one alone writes.

    Args:
        folder: where files go; None saves nothing.
        state: saved and restored.
        settings: options, and properties of data and objective, that a resumed run must repeat.
    """

    def __init__(self, folder: Path | None, state: TrainingState, settings: dict[str, Any]) -> None:
        self.folder, self.state, self.settings = folder, state, settings
        self._written: Mapping[str, Tensor] | None = None  # the best weights that are in the folder

    def create(self, files: Mapping[str, bytes]) -> None:
        """Make the folder, complete enough to resume from, in one rename.

        Args:
            files: contents of further files, by name.
        """
        if self.folder is None or not processes.is_first():
            return
        with whole_folder(self.folder) as folder:
            for name, contents in files.items():
                write_bytes(folder / name, contents)
            self._write(folder)

    def save(self) -> None:
        """Bring the folder up to date."""
        if self.folder is not None and processes.is_first():
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        """Write the file that training resumes from last, so that it is never ahead of the rest."""
        progress = self.state.progress
        if self._written is not self.state.best:
            write_tensors(folder / MODEL, self.state.best)
            self._written = self.state.best
        rows = "".join(json.dumps(row) + "\n" for row in progress.metrics)
        write_text(folder / METRICS, rows)
        about = {"options": self.settings, "progress": asdict(progress)}
        write_tensors(folder / LAST, self.state.tensors(), about)

    def restore(self) -> None:
        """Resume the run in the folder; if ``compile`` is ``"auto"``, its steps run as before.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if it is a run with other settings, or of another model.
        """
        assert self.folder is not None
        tensors, about = read_tensors(self.folder / LAST)
        if not isinstance(about, dict) or not {"options", "progress"} <= about.keys():
            raise ValueError(
                f"{self.folder / LAST} is not a file that a run resumes from; restore it from a "
                "copy, or train again"
            )
        if self.settings["compile"] == "auto":
            self.settings["compile"] = about["options"]["compile"]
        self._compare(about["options"])
        self.state.progress = Progress(**about["progress"])
        best, _ = read_tensors(self.folder / MODEL)
        try:
            self.state.load(tensors, best)
        except (RuntimeError, KeyError) as error:
            first = str(error).split("\n\t")[-1].strip()
            raise ValueError(f"the run in {self.folder} is of another model: {first}") from error

    def _compare(self, saved: Mapping[str, Any]) -> None:
        count = saved.get("processes", 1)
        if count != self.settings["processes"]:
            raise ValueError(
                f"the run in {self.folder} has {count} process{'es' if count > 1 else ''}, got "
                f"{self.settings['processes']}; each draws from a random stream of its own, so "
                f"resume the run with {count}: torchrun --nproc-per-node {count}"
            )
        for name, value in saved.items():
            if self.settings[name] != value:
                raise ValueError(
                    f"the run in {self.folder} has {name} = {value}, got {self.settings[name]}; a "
                    "resumed run keeps the options and data that it began with"
                )


def _copy_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _above(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
