"""What a resumed run repeats and continues from: options, all that training changes, a folder."""

import contextlib
import copy
import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from pyrovae._process import files, processes
from pyrovae._process.choices import check_choice
from pyrovae._process.compilation import has_compiler
from pyrovae.training.optim import FusedAdam, MovingAverage, check_optimizer_options
from pyrovae.training.precision import PRECISIONS
from pyrovae.training.progress import Progress
from pyrovae.training.staging import MODES
from pyrovae.vae import VAE

__all__ = ["LAST", "METRICS", "MODEL", "check_meaning"]

MODEL = "model.safetensors"
"""In the folder of a run: the weights with the best validation bound."""
LAST = "last.safetensors"
"""In the folder of a run: the state that resuming reads."""
METRICS = "metrics.jsonl"
"""In the folder of a run: a line of JSON for each epoch."""

STAGED_STEPS = 1_500  # staging takes a second or two, and a replay saves about a millisecond
COMPILED_PRODUCTS = 10**13  # multiply-adds: minutes of work, which repay a compilation


@dataclass(frozen=True)
class TrainingOptions:
    """The options of :func:`pyrovae.training.fit` that a resumed run must repeat; checked here.

    Raises:
        ValueError: if an option is outside its range.
    """

    epochs: int
    batch_size: int
    drop_last: bool
    learning_rate: float
    warmup: float
    schedule: str
    weight_decay: float
    clip_norm: float | None
    averaging: float
    validate_every: int
    patience: int | None
    compile: str
    precision: str
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "patience"):
            value = getattr(self, name)
            if (name, value) != ("patience", None) and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging must be at least 0 and below 1, got {self.averaging}")
        check_choice("compile", self.compile, ("auto", *MODES))
        check_choice("precision", self.precision, PRECISIONS)
        if self.compile == "inductor" and not has_compiler():
            raise ValueError("compile is inductor, and there is no C++ compiler; use graph or auto")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        check_optimizer_options(
            self.learning_rate, self.warmup, self.schedule, self.weight_decay, self.clip_norm
        )

    def steps_per_epoch(self, examples: int) -> int:
        """Count the batches of an epoch.

        A last batch of which some process would get a single example joins the one before it: one
        alone has no variance, which batch normalization divides by. With ``drop_last`` a smaller
        last batch is left out.
        """
        whole, left = divmod(examples, self.batch_size)
        enough = left >= 2 * processes.count()
        return max(1, whole + (enough and not self.drop_last))


def check_meaning(vae: VAE, weights: Path) -> None:
    """Refuse weights from before a part of the model computed what it computes now.

    A part whose parameters came to mean something else has an attribute ``meaning_since``: the
    version of the first files with weights of that meaning.

    Args:
        vae: that is to receive the weights.
        weights: file in the folder of a run.

    Raises:
        ValueError: if the weights are older than a part of ``vae``; FileNotFoundError if missing.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.training import MODEL, check_meaning
        >>> fitted = pyrovae.fit(vae, x, epochs=1, out="new")
        >>> check_meaning(vae, Path("new") / MODEL)
    """
    version, config = files.format_of(weights), weights.parent / "config.toml"
    command = f": pyrovae fit --config {shlex.quote(str(config))} --out NEW"
    for part in vae.modules():
        since = getattr(part, "meaning_since", 1)
        if version < since:
            raise ValueError(
                f"{weights} has the format {version}, and the weights of {type(part).__name__} "
                f"mean something else since format {since}; train the run again"
                f"{command if config.exists() else ''}"
            )


class TrainingState:
    """Everything that training changes.

    Args:
        vae: trained in place.
        options: of the run.
        examples: number of training examples; None if it is unknown.
        steps: number of steps in an epoch.

    Attributes:
        best: the weights that are kept.
    """

    def __init__(
        self, vae: VAE, options: TrainingOptions, examples: int | None, steps: int
    ) -> None:
        self.vae, self.options, self.examples = vae, options, examples
        self.progress = Progress(options.epochs, steps)
        self.optimizer = FusedAdam(
            vae.parameters(),
            learning_rate=options.learning_rate,
            total_steps=options.epochs * steps,
            warmup=options.warmup,
            schedule=options.schedule,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
        )
        self.average = MovingAverage(vae, options.averaging) if options.averaging else None
        self.best = copy.deepcopy(vae.state_dict())

    def worthwhile_mode(self) -> str:
        """Choose the way to run steps that repays the time it takes to prepare.

        The choice depends on sizes alone, not on timings, so the same run always takes the same
        way.

        Returns:
            One of :data:`pyrovae.training.MODES`.
        """
        steps = self.optimizer.total_steps
        weights = sum(p.numel() for p in self.optimizer.parameters)
        rows = self.options.batch_size  # which may be more than there are
        rows = rows if self.examples is None else min(rows, self.examples)
        if 6 * steps * rows * weights >= COMPILED_PRODUCTS and has_compiler():
            return "inductor"
        return "graph" if steps >= STAGED_STEPS else "off"

    @property
    def kept(self) -> VAE:
        """The VAE that is validated and kept: the averaged one, if there is an average."""
        return self.vae if self.average is None else cast(VAE, self.average.module)

    def keep(self) -> None:
        """Keep the current weights."""
        self.best = copy.deepcopy(self.kept.state_dict())

    def take_best(self) -> None:
        """Give the VAE the weights that were kept, and put it in eval mode."""
        self.vae.load_state_dict(self.best)
        self.vae.eval()

    def tensors(self) -> dict[str, Tensor]:
        """The weights, their average and the optimizer's state, by name."""
        parts = {"vae": self.vae.state_dict(), "optimizer": self.optimizer.get_state()}
        if self.average is not None:
            parts["average"] = self.average.state_dict()
        return {f"{part}.{name}": value for part in parts for name, value in parts[part].items()}

    def load(self, tensors: Mapping[str, Tensor], best: Mapping[str, Tensor]) -> None:
        """Resume from what :meth:`tensors` returned, and from the weights that were kept.

        Raises:
            KeyError, RuntimeError: if they are those of another model.
        """
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.vae.load_state_dict(parts["vae"])
        self.best = copy.deepcopy(self.vae.state_dict())
        for name, value in self.best.items():
            value.copy_(best[name])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        self.optimizer.set_state(parts["optimizer"])


class TrainingCheckpoint:
    """The folder of a run, from which training resumes to the bit.

    Of several processes, the first one alone writes.

    Args:
        folder: where files go; None saves nothing.
        state: saved and restored.
        objective: description of the objective.

    Attributes:
        settings: the options, and all else that a resumed run must repeat.
        digests: of the further files in the folder, by name.
    """

    def __init__(self, folder: Path | None, state: TrainingState, objective: str) -> None:
        self.folder, self.state = folder, state
        self.digests: Mapping[str, str] = {}
        self._held = contextlib.ExitStack()  # the lock on the folder
        data = {"examples": state.examples, "objective": objective}
        self.settings = asdict(state.options) | {"processes": processes.count()} | data
        self._written: Mapping[str, Tensor] | None = None  # the best weights that are in the folder

    def create(self, further: Mapping[str, bytes]) -> None:
        """Choose how steps are run, and make the folder, complete enough to resume from.

        Args:
            further: contents of further files, by name.
        """
        if self.settings["compile"] == "auto":
            self.settings["compile"] = self.state.worthwhile_mode()
        if self.folder is not None and processes.is_first():
            with files.whole_folder(self.folder) as folder:
                for name, contents in further.items():
                    files.write_bytes(folder / name, contents)
                self.digests = {name: files.digest_of(folder / name) for name in further}
                self._write(folder)
            self._held.enter_context(files.locked(self.folder))

    def close(self) -> None:
        """Let other processes train the run."""
        self._held.close()

    def save(self) -> None:
        """Bring the folder up to date."""
        if self.folder is not None and processes.is_first():
            if not self.folder.is_dir():  # it is not made again without its other files
                raise FileNotFoundError(
                    f"{self.folder} was moved or removed while it was trained; move it back to "
                    "resume it, or train again"
                )
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        """Write the file that training resumes from last, so that it is never ahead of the rest."""
        progress = self.state.progress
        if self._written is not self.state.best:
            files.write_tensors(folder / MODEL, self.state.best, {"files": self.digests})
            self._written = self.state.best
        files.write_text(folder / METRICS, files.lines_of(progress.metrics))
        about = {
            "files": self.digests,
            "options": self.settings,
            "progress": asdict(progress),
        }
        files.write_tensors(folder / LAST, self.state.tensors(), about)

    def restore(self, further: Collection[str]) -> None:
        """Resume the run in the folder; if ``compile`` is ``"auto"``, its steps run as before.

        Args:
            further: names of the further files of a run that has no digests of them yet.

        Raises:
            FileNotFoundError: if there is no run.
            BlockingIOError: if another process is training it.
            ValueError: if it is a run with other settings, or of another model, or damaged.
        """
        assert self.folder is not None
        if processes.is_first() and self.folder.is_dir():
            self._held.enter_context(files.locked(self.folder))
            files.remove_leftovers(self.folder)
        tensors, about = files.read_tensors(self.folder / LAST)
        if not isinstance(about, dict) or not {"options", "progress"} <= about.keys():
            raise ValueError(
                f"{self.folder / LAST} is not a file that a run resumes from; restore it from a "
                "copy, or train again"
            )
        best, origin = files.read_tensors(self.folder / MODEL)
        check_meaning(self.state.vae, self.folder / LAST)
        self.digests = self._checked_files(about, origin, further)
        if self.settings["compile"] == "auto":
            self.settings["compile"] = about["options"]["compile"]
        self._compare(about["options"])
        progress, steps = Progress(**about["progress"]), self.state.progress.steps_per_epoch
        if progress.steps_per_epoch != steps:
            raise ValueError(
                f"the run in {self.folder} has {progress.steps_per_epoch} steps in an epoch, got "
                f"{steps}: its loader had another length, or its last batch was a single example, "
                "which now joins the batch before it; train again in another folder"
            )
        self.state.progress = progress
        weights = {n: t for n, t in self.state.tensors().items() if not n.startswith("optimizer.")}
        files.check_values(self.folder / LAST, weights, tensors)
        files.check_values(self.folder / MODEL, self.state.best, best)
        try:
            self.state.load(tensors, best)
        except (RuntimeError, KeyError) as error:
            first = str(error).split("\n\t")[-1].strip()
            raise ValueError(f"the run in {self.folder} is of another model: {first}") from error

    def _checked_files(
        self, about: Mapping[str, Any], origin: Any, further: Collection[str]
    ) -> Mapping[str, str]:
        """The digests of the further files, which must be as they were, and those of both states.

        An older run has none, and gets those of its files as they are.
        """
        assert self.folder is not None
        known: Mapping[str, str] | None = about.get("files")
        if known is None:
            present = (name for name in further if (self.folder / name).is_file())
            return {name: files.digest_of(self.folder / name) for name in present}
        if not isinstance(origin, dict) or origin.get("files") != known:
            raise ValueError(
                f"{self.folder / LAST} and {self.folder / MODEL} are not of the same run; restore "
                "them from a copy, or train again"
            )
        files.check_unchanged(self.folder, known)
        return known

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
