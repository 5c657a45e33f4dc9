r"""A run: the folder that a training leaves behind, and what is asked of it afterwards.

``config.toml``      every setting; ``pyrovae fit --config`` repeats the run
``model.safetensors``  the weights that are kept
``last.safetensors``   all that a resumption needs
``metrics.jsonl``      a line per epoch
``statistics.safetensors``  what the data were standardised by, where they were
``summary.json``       the test bounds, once training has ended
``figures/``           pictures
"""

import itertools
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyrovae.checkpoint import read_tensors, tensor_bytes, write_json
from pyrovae.components import Spec
from pyrovae.config import Config
from pyrovae.data import Dataset, Split, load_all
from pyrovae.evidence import evaluate
from pyrovae.training import METRICS, MODEL, Fit, Progress, fit
from pyrovae.vae import VAE

__all__ = ["Run", "load", "next_folder", "start"]

CONFIG, SUMMARY, FIGURES, STATISTICS = (
    "config.toml",
    "summary.json",
    "figures",
    "statistics.safetensors",
)


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
    weights, _ = read_tensors(path / MODEL)
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the weights in {path} are of another model: {reason}") from error
    return vae.eval()


def next_folder(data: str, prior: str, root: str | Path = "runs") -> Path:
    """The first of ``root/<data>-<prior>-<n>``, n = 1, 2, ..., that is not taken.

    Args:
        data: name or path of the data.
        prior: spec of the prior.
        root: the folder of all runs.
    """
    stem = f"{Path(data).stem}-{Spec.parse(prior).name.replace(':', '.')}"
    return next(p for n in itertools.count(1) if not (p := Path(root) / f"{stem}-{n}").exists())


def start(
    config: Config,
    dataset: Dataset,
    folder: Path,
    *,
    trusted: Collection[str] = (),
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> tuple[VAE, Fit]:
    """Train what a configuration says into a folder, or go on with it.

    Args:
        config: of the run.
        dataset: that ``config`` was resolved with.
        folder: of the run.
        trusted: ``module:attribute`` names that may be imported.
        resume: go on with the run in ``folder``.
        report: called after each step and epoch.

    Returns:
        The trained VAE and what training did.

    Raises:
        As :func:`pyrovae.fit`.
    """
    vae = config.build(trusted=trusted)
    files = {CONFIG: config.to_toml().encode()}
    if dataset.statistics:
        statistics = {name: torch.from_numpy(array) for name, array in dataset.statistics.items()}
        files[STATISTICS] = tensor_bytes(statistics)
    trained = fit(
        vae,
        dataset,
        **config.training,
        out=folder,
        files=files,
        resume=resume,
        report=report,
    )
    return vae, trained


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
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{path} is no run: it has no {CONFIG}; runs are made by pyrovae fit"
            )
        return cls(path, Config.opened(path / CONFIG), frozenset(trusted))

    def vae(self) -> VAE:
        """The trained VAE, in eval mode."""
        return load(self.folder, trusted=self.trusted)

    def dataset(self, data_dir: str | None = None) -> Dataset:
        """The data that it was trained on, under the same treatment.

        Args:
            data_dir: where named datasets are now, if not where they were.
        """
        data = dict(self.config.data) | ({} if data_dir is None else {"data_dir": data_dir})
        settings = {"data": data, "model": self.config.model, "training": self.config.training}
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
            raise ValueError(
                f"the run {self.folder} was trained on observations of shape "
                f"{settings['event_shape']}, those of {data} have {split.event_shape}"
            )
        return split

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``: one for each epoch."""
        path = self.folder / METRICS
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def roles(self) -> dict[str, str]:
        """Binarisation and the three roles, as results name them."""
        return {"binarization": self.config.data["binarization"]} | {
            role: self.config.model[role] for role in ("likelihood", "prior", "posterior")
        }

    def finish(self, vae: VAE, dataset: Dataset, trained: Fit, *, samples: int) -> dict[str, Any]:
        """Evaluate on the test set, draw the pictures, and write the summary.

        Args:
            vae: trained.
            dataset: that it was trained on.
            trained: what training did.
            samples: of the importance-weighted bound.

        Returns:
            What ``summary.json`` holds.
        """
        from pyrovae import pictures  # matplotlib takes a while to import

        result = self.evaluate(vae, dataset, samples=samples)
        summary = result | {
            "data": dataset.name,
            "parameters": sum(p.numel() for p in vae.parameters()),
            "stopped": trained.stopped,
            "epochs": len(trained.metrics),
            "best_epoch": trained.best_epoch,
            "best_validation_elbo": trained.best_validation_elbo,
            "seconds": round(trained.seconds, 3),
        }
        (self.folder / FIGURES).mkdir(exist_ok=True)
        x = torch.cat(
            [batch for batch, _ in zip(dataset.test.batches(500), range(4), strict=False)]
        )
        labels = None if dataset.test.labels is None else dataset.test.labels[: len(x)]
        pictures.draw(vae, x, labels, trained.metrics, self.folder / FIGURES)
        write_json(self.folder / SUMMARY, summary)
        return summary

    def evaluate(self, vae: VAE, dataset: Dataset, **options: Any) -> dict[str, Any]:
        """Test bounds under the names of the roles; options as :func:`pyrovae.evaluate`."""
        return evaluate(vae, dataset.test, **options) | self.roles()
