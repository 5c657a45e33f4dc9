r"""Training: Pyro's ``SVI`` over epochs, repeatable to the bit and resumable at any step."""

import contextlib
import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.files import (
    read_tensors,
    whole_folder,
    write_bytes,
    write_tensors,
    write_text,
)
from pyrovae._process.graphs import has_compiler
from pyrovae._process.isolation import interrupt_after_step, isolated, seed_device, stream
from pyrovae.data import Dataset, Resident, Split
from pyrovae.evidence import evaluate
from pyrovae.objectives import recording
from pyrovae.training.device_step import DeviceStep, cuda_graph
from pyrovae.training.distributed import Summed, check_sum
from pyrovae.training.optim import FusedAdam, MovingAverage, NonFiniteGradientError
from pyrovae.training.precision import PRECISIONS, products_in
from pyrovae.training.progress import Progress
from pyrovae.training.staging import MODES, Staged
from pyrovae.vae import VAE

__all__ = ["Fit", "TrainingDivergedError", "TrainingInterrupted", "check", "fit"]

CHECKPOINT_SECONDS = 5.0  # about as much work as a kill can lose
STAGED_STEPS = 1_500  # staging takes a second or two, and a replay saves about a millisecond
COMPILED_PRODUCTS = 10**13  # multiplications and additions: minutes of them repay a compilation
STAGING_TOLERANCE = {"float32": 1e-4, "bf16": 0.05}  # the second: of what a compiler rounds later
DEVICES = {"cuda": cuda_graph}  # whose steps stay there, and how they are captured
RESIDENT_SHARE = 0.25  # of such a device's memory, at most, is for training data
READ_STEPS = 50  # steps after which the host asks such a device what they came to


class TrainingDivergedError(ArithmeticError):
    """The loss or its gradient stopped being finite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C: the step was finished and everything was saved."""


@dataclass(frozen=True)
class Fit:
    """What a training run did.

    Attributes:
        metrics: a dict per epoch: ``epoch``, ``step``, ``elbo``, ``reconstruction``, ``kl``,
            ``objective``, ``validation_elbo`` (None where it was not measured), ``seconds`` since
            the start, ``images_per_second``. In nats per example.
        stopped: why it ended: ``"finished"``, ``"patience"`` or ``"max_minutes"``.
        best_epoch: the epoch whose weights the VAE now has; 0 if time was up before the first
            validation bound, where they are those of the last step.
        best_validation_elbo: their validation bound; None without validation data.
        seconds: time spent training, over all parts of a resumed run.
    """

    metrics: list[dict[str, Any]]
    stopped: str
    best_epoch: int
    best_validation_elbo: float | None
    seconds: float


def fit(
    vae: VAE,
    data: Dataset | Split | Tensor | np.ndarray,
    *,
    objective: ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    warmup: float = 0.02,
    schedule: str = "cosine",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    averaging: float = 0.0,
    validate_every: int = 1,
    patience: int | None = None,
    max_minutes: float | None = None,
    compile: str = "auto",
    precision: str = "float32",
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    files: Mapping[str, bytes] | None = None,
    initialize: bool = True,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Fit:
    """Train a VAE with Pyro's ``SVI``, and leave it with the weights of the best validation bound.

    The caller's param store, random state and warning filters are as before when it returns. One
    seed gives one result, bit for bit, on one machine; each step draws from a random stream of its
    own, so that a resumed run equals an uninterrupted one.

    Several processes, inside of :func:`pyrovae._process.joined`, share each batch between them and
    make the same steps; the first of them starts the others' weights, and alone writes to ``out``.

    Args:
        vae: trained in place, and left in eval mode on the CPU or GPU that trained it. Its prior,
            likelihood and posterior may have a method ``at(progress)``, as the objective.
        data: a ``Dataset``, whose validation part chooses the weights; or observations
            ``(examples, *event_shape)`` alone, all of them trained on, where the last weights are
            kept.
        objective: a Pyro ELBO; ``Trace_ELBO()`` by default. If it has a method ``at(progress)``,
            that is called before each step with the fraction of all steps that is done.
        epochs: passes over the training data.
        batch_size: examples per step, of all processes together; the last step of an epoch takes
            what is left.
        learning_rate: largest step size of Adam.
        warmup: fraction of all steps in which the step size rises linearly.
        schedule: of the step size after the warm-up, ``"cosine"`` (to zero) or ``"constant"``.
        weight_decay: decoupled weight decay of matrices.
        clip_norm: largest norm of the gradient of the loss per example; None for no clipping.
        averaging: decay of the exponential moving average of the weights that is validated and
            kept, below 1; 0 keeps the weights themselves.
        validate_every: epochs between validation bounds; the last epoch always has one.
        patience: stop after so many validation bounds without a better one; None never stops.
        max_minutes: stop, resumable, after so much time; None for no limit.
        compile: how steps are run, see :mod:`pyrovae.training.staging`. ``"off"``: as Pyro runs
            them; ``"graph"``: as a replay of their tensor operations, with the same results;
            ``"inductor"``: that compiled, with the same results but for rounding; ``"auto"``: by
            the size of the run, so that the time it takes is repaid.
        precision: of the matrix products of encoder and decoder in training steps, ``"float32"`` or
            ``"bf16"``; all else is float32, and so are validation bounds.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
        seed: of everything drawn during training.
        out: a folder for checkpoints and metrics; it must not exist, unless resuming.
        files: further files for ``out``, by name, there from the start.
        initialize: start the components that have an ``initialize(x)`` from training data, such as
            the decoder's output bias from the data's mean; False trains on from the weights as
            they are.
        resume: continue the run in ``out``.
        report: called after each step and epoch, in every process; by default a line on standard
            error shows the progress, where that is a terminal.

    Returns:
        The metrics of each epoch and why it ended.

    Raises:
        TypeError: if the objective is not a Pyro ELBO.
        ValueError: if an option is outside its range, or the data outside the likelihood's support;
            with several processes, if the objective is no sum over examples.
        FileExistsError: if ``out`` exists and ``resume`` was not asked for.
        TrainingDivergedError: if the loss is no longer finite; says where and the likely cause.
        TrainingInterrupted: on Ctrl-C, after the running step is finished and saved; in every
            process, whichever it reached.
        StoppedError: if another process is gone.
    """
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
        "averaging": averaging,
        "validate_every": validate_every,
        "patience": patience,
        "compile": compile,
        "precision": precision,
        "seed": seed,
        "processes": processes.count(),
    }
    if not isinstance(objective, ELBO | None):
        raise TypeError(
            f"objective must be a Pyro ELBO, got {objective!r}; for a name or a configuration's, "
            "make it with pyrovae.objectives.OBJECTIVES or Config.objective()"
        )
    _check_options(options, max_minutes)
    if resume and out is None:
        raise ValueError("resume needs out, the folder of the run to continue")
    folder = None if out is None else Path(out)
    if processes.is_first() and folder is not None and folder.exists() and not resume:
        raise FileExistsError(f"{folder} exists; resume that run, or choose another folder")
    train, validation = _parts(data)
    where = _device(device)
    with isolated(where):
        torch.manual_seed(stream(seed, "initialize"))
        vae.to(where)
        _check_data(vae, train)
        if initialize and not resume:
            _initialize(vae, train)
        processes.from_first([*vae.parameters(), *vae.buffers()])
        objective = objective or Trace_ELBO()
        check_sum(objective)
        if not resume:
            with products_in(precision, vae):
                _try(vae, train, objective)
        run = _Run(vae, objective, train, validation, options, folder, where)
        if resume:
            run.restore()
        elif folder is not None:
            run.create(folder, files or {})
        with _reporting(report, f"{len(train):,} training examples") as told:
            try:
                stopped = run.train(math.inf if max_minutes is None else 60 * max_minutes, told)
            finally:
                run.device_step = None  # with its graph, which has to go before another is captured
        run.take_best()
    return Fit(
        metrics=run.progress.metrics,
        stopped=stopped,
        best_epoch=run.progress.best_epoch,
        best_validation_elbo=run.progress.best_validation_elbo,
        seconds=run.progress.seconds,
    )


def check(vae: VAE, data: Split, objective: ELBO) -> None:
    """Refuse a model whose parts do not go together, as :func:`fit` would, and train nothing.

    Args:
        vae: left as it is.
        data: to train on; the first hundred examples are tried.
        objective: a Pyro ELBO.

    Raises:
        ValueError: if a component cannot start from the data, the data lie outside the
            likelihood's support, prior and posterior are over different spaces, or the objective
            does not apply to these distributions.
    """
    trial = copy.deepcopy(vae)
    with isolated(next(vae.parameters(), torch.empty(0)).device):
        trial.check_data(_some(trial, data))
        _initialize(trial, data)
        _try(trial, data, objective)


class _Run:
    """One training run: its parts, where it is, and how it is saved and taken up again."""

    def __init__(
        self,
        vae: VAE,
        objective: ELBO,
        train: Split,
        validation: Split | None,
        options: dict[str, Any],
        folder: Path | None,
        device: torch.device,
    ) -> None:
        self.vae, self.train_data, self.validation = vae, train, validation
        self.device = device
        self.options, self.folder = options, folder
        self.options |= {"examples": len(train), "objective": _described(objective)}
        steps_per_epoch = math.ceil(len(train) / options["batch_size"])
        self.chooses_mode = options["compile"] == "auto"
        if self.chooses_mode:
            self.options["compile"] = _worthwhile(vae, options, steps_per_epoch)
        self.optimizer = FusedAdam(
            vae.parameters(),
            total_steps=options["epochs"] * steps_per_epoch,
            **{name: options[name] for name in _OPTIMIZER_OPTIONS},
        )
        self.objective, self.record = recording(objective)
        parts = (self.objective, vae.prior, vae.likelihood, vae.posterior)
        self.scheduled = [part.at for part in parts if hasattr(part, "at")]
        self.average = MovingAverage(vae, options["averaging"]) if options["averaging"] else None
        self.best = _copy_of(vae.state_dict())
        self.best_is_saved = False
        self.progress = Progress(options["epochs"], steps_per_epoch)
        self.device_step: DeviceStep | None = None
        self.failed = False  # a step on the device

    @property
    def kept(self) -> VAE:
        """The VAE that is validated and kept: the averaged one where there is one."""
        return self.vae if self.average is None else cast(VAE, self.average.module)

    def train(self, max_seconds: float, report: Callable[[Progress], None]) -> str:
        """Run to the end, and say why it ended."""
        progress, patience = self.progress, self.options["patience"]
        self.vae.train()
        mode = self.options["compile"]
        whole = min(self.options["batch_size"], len(self.train_data))
        share = len(range(processes.rank(), whole, processes.count()))
        self.staged = None
        if mode != "off":
            tolerance = STAGING_TOLERANCE[self.options["precision"]]
            self.staged = Staged(
                self.objective, self.vae, mode=mode, size=share, tolerance=tolerance
            )
        self.resident = _on_device(self.train_data, self.device)
        objective: ELBO = self.staged or self.objective
        stopped = "finished"
        saved = time.monotonic()
        with interrupt_after_step() as interrupted:

            def requests() -> Sequence[bool]:
                return interrupted.is_set(), progress.seconds > max_seconds

            heard = requests
            if processes.count() > 1:
                summed = Summed(objective, self.vae, self.record, requests)
                objective, heard = summed, lambda: summed.heard
            self.svi = SVI(self.vae.model, self.vae.guide, self.optimizer, objective)
            report(progress)
            while progress.epoch < progress.epochs and stopped == "finished":
                for index in self._batches_left():
                    self._step(index)
                    report(progress)
                    interrupt, time_is_up = heard()
                    if interrupt:
                        self._save_for_all()
                        raise TrainingInterrupted
                    if time_is_up:
                        stopped = "max_minutes"
                        break
                    if time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self.save()
                        saved = time.monotonic()
                if progress.position == progress.steps_per_epoch:
                    self._end_epoch()
                    report(progress)
                    if heard()[0] and progress.epoch < progress.epochs:
                        self._save_for_all()
                        raise TrainingInterrupted
                if patience is not None and progress.stale >= patience:
                    stopped = "patience"
        if progress.best_epoch == 0:  # out of time before the first validation bound
            self.best = _copy_of(self.kept.state_dict())
            self.best_is_saved = False
        self._save_for_all()
        if self.failed:  # which that reading of the device has found
            raise TrainingDivergedError(self._why_diverged())
        return stopped

    def take_best(self) -> None:
        """Give the VAE the weights that are kept."""
        self.vae.load_state_dict(self.best)
        self.vae.eval()

    def create(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Make the folder, with all that a resumption needs already in it, in one rename."""
        if not processes.is_first():
            return
        with whole_folder(folder) as self.folder:
            for name, contents in files.items():
                write_bytes(self.folder / name, contents)
            self.save()
        self.folder = folder

    def save(self) -> None:
        """Bring the folder up to date, what resumes last: it never points ahead of the rest."""
        self._read()
        if self.folder is None or not processes.is_first():
            return
        if not self.best_is_saved:
            write_tensors(self.folder / MODEL, self.best)
            self.best_is_saved = True
        rows = "".join(json.dumps(row) + "\n" for row in self.progress.metrics)
        write_text(self.folder / METRICS, rows)
        tensors = {f"vae.{name}": value for name, value in self.vae.state_dict().items()}
        tensors |= {f"optimizer.{name}": v for name, v in self.optimizer.get_state().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": v for name, v in self.average.state_dict().items()}
        about = {"options": self.options, "progress": asdict(self.progress)}
        write_tensors(self.folder / LAST, tensors, about)

    def _save_for_all(self) -> None:
        """Save before any process goes on: it may read what is saved, or end and so end all."""
        self.save()
        processes.wait()

    def restore(self) -> None:
        """Take up the run where its folder left it."""
        assert self.folder is not None
        tensors, about = read_tensors(self.folder / LAST)
        if not isinstance(about, dict) or not {"options", "progress"} <= about.keys():
            raise ValueError(
                f"{self.folder / LAST} is not what a run resumes from; restore it from a copy, or "
                "train again"
            )
        if self.chooses_mode:
            self.options["compile"] = about["options"]["compile"]
        count = about["options"].get("processes", 1)
        if count != self.options["processes"]:
            raise ValueError(
                f"the run in {self.folder} has {count} process{'es' if count > 1 else ''}, got "
                f"{self.options['processes']}; each draws from a stream of its own, so that the "
                f"run goes on with {count}: torchrun --nproc-per-node {count}"
            )
        for name, value in about["options"].items():
            if self.options[name] != value:
                raise ValueError(
                    f"the run in {self.folder} has {name} = {value}, got {self.options[name]}; a "
                    "resumed run keeps the options and data that it began with"
                )
        self.progress = Progress(**about["progress"])
        try:
            self.vae.load_state_dict(_below("vae.", tensors))
            self.best = _copy_of(self.vae.state_dict())
            best, _ = read_tensors(self.folder / MODEL)
            for name, value in self.best.items():
                value.copy_(best[name])
            if self.average is not None:
                self.average.load_state_dict(_below("average.", tensors))
        except (RuntimeError, KeyError) as error:
            first = str(error).split("\n\t")[-1].strip()
            raise ValueError(f"the run in {self.folder} is of another model: {first}") from error
        self.optimizer.set_state(_below("optimizer.", tensors))

    def _batches_left(self) -> Iterator[np.ndarray]:
        progress, size = self.progress, self.options["batch_size"]
        order = np.random.default_rng(stream(self.options["seed"], "order", progress.epoch))
        permutation = order.permutation(len(self.train_data))
        if self.resident is not None:
            self.permutation = torch.from_numpy(permutation).to(self.device)
        for position in range(progress.position, progress.steps_per_epoch):
            yield permutation[position * size : (position + 1) * size]

    def _step(self, index: np.ndarray) -> None:
        """One step of training; its randomness depends on the seed and on its number alone."""
        start = time.monotonic()
        progress = self.progress
        for set_schedule in self.scheduled:
            set_schedule(progress.step / (progress.epochs * progress.steps_per_epoch))
        try:
            with products_in(self.options["precision"], self.vae):
                if not self._step_on_device(index):
                    self._step_of_svi(index)
        except NonFiniteGradientError as error:
            self._save_for_all()
            raise TrainingDivergedError(self._why_diverged()) from error
        elapsed = time.monotonic() - start
        progress.epoch_seconds += elapsed
        progress.seconds += elapsed

    def _step_of_svi(self, index: np.ndarray) -> None:
        """A step as ``SVI`` makes it.

        Several processes take a share of the batch each, with a random stream for each.
        """
        progress = self.progress
        share = index[processes.rank() :: processes.count()]
        step_seed = stream(self.options["seed"], "step", progress.step, processes.rank())
        if self.resident is None:
            rng = np.random.Generator(np.random.SFC64(step_seed))
            x = self.vae.place(self.train_data.batch(share, rng))
            seed_device(x.device, step_seed)
        else:
            seed_device(self.device, step_seed)
            x = self.vae.place(self.resident.batch(torch.from_numpy(share).to(self.device)))
        self.optimizer.examples = len(index)
        # Pyro checks shapes and supports at the first step; at every step that would cost time.
        with pyro.validation_enabled(progress.step == 0):
            loss = self._update(x)
        if self.average is not None:
            self.average.update()
        progress.objective -= loss
        progress.reconstruction += float(self.record.terms.reconstruction)
        progress.kl += float(self.record.terms.kl)
        progress.images += len(index)
        progress.position += 1
        progress.step += 1

    def _step_on_device(self, index: np.ndarray) -> bool:
        """A step that stays on the device; False where there is none.

        The first step of a run is Pyro's own, which checks shapes and supports. Where there are
        several processes, gradients are summed between the two halves of a step.
        """
        progress, staged = self.progress, self.staged
        if self.resident is None or staged is None or progress.step == 0 or processes.count() > 1:
            return False
        if self.failed:
            raise NonFiniteGradientError("the gradient is not finite")
        if staged.reason is not None:
            return False
        if self.device_step is None:
            self.device_step = DeviceStep(
                lambda x: staged.stage(self.vae.model, self.vae.guide, (x,), {}),
                self.vae,
                self.optimizer,
                self.resident,
                self.average,
                batch_size=min(self.options["batch_size"], len(self.train_data)),
                capture=DEVICES[self.device.type],
            )
            self.device_step.count_from(progress.objective, progress.reconstruction, progress.kl)
            self.first_on_device = progress.step
        start = progress.position * self.options["batch_size"]
        rows = self.permutation[start : start + len(index)]
        if not self.device_step(rows, stream(self.options["seed"], "step", progress.step)):
            self._read()
            self.device_step = None
            return self._step_on_device(index)  # staging has given up
        progress.position += 1
        progress.step += 1
        if progress.step % READ_STEPS == 0 or progress.position == progress.steps_per_epoch:
            self._read()
            if self.failed:
                raise NonFiniteGradientError("the gradient is not finite")
        return True

    def _read(self) -> None:
        """Learn what the steps on the device came to; if one failed, that is where training is."""
        if self.device_step is None:
            return
        progress, reading = self.progress, self.device_step.read()
        beyond = progress.step - self.first_on_device - reading.taken
        progress.step -= beyond
        progress.position -= beyond
        done = progress.position * self.options["batch_size"]
        progress.images = min(done, len(self.train_data))
        progress.objective = reading.objective
        progress.reconstruction, progress.kl = reading.reconstruction, reading.kl
        self.failed, self.record.terms = reading.failed, reading.terms

    def _update(self, x: Tensor) -> float:
        """``SVI.step``; for a replay, whose parameters are known, without the search for them."""
        self.optimizer.release()
        if self.staged is None or self.staged.reason is not None:
            return float(self.svi.step(x))
        loss = float(self.svi.loss_and_grads(self.vae.model, self.vae.guide, x))
        alone = processes.count() == 1  # else the gradient is a sum over processes
        self.optimizer(self.optimizer.parameters, norm=self.staged.norm if alone else None)
        return loss

    def _end_epoch(self) -> None:
        progress = self.progress
        progress.epoch += 1
        due = progress.epoch % self.options["validate_every"] == 0
        validation_elbo = None
        if self.validation is None:
            self._keep()
        elif due or progress.epoch == progress.epochs:
            start = time.monotonic()
            result = evaluate(self.kept, self.validation, samples=1, seed=self.options["seed"])
            validation_elbo = result.elbo.value
            best = progress.best_validation_elbo
            progress.stale += 1
            if best is None or validation_elbo > best:
                progress.best_validation_elbo, progress.stale = validation_elbo, 0
                self._keep()
            progress.seconds += time.monotonic() - start
        images = progress.images
        progress.metrics.append(
            {
                "epoch": progress.epoch,
                "step": progress.step,
                "elbo": (progress.reconstruction - progress.kl) / images,
                "reconstruction": progress.reconstruction / images,
                "kl": progress.kl / images,
                "objective": progress.objective / images,
                "validation_elbo": validation_elbo,
                "seconds": round(progress.seconds, 3),
                "images_per_second": round(images / progress.epoch_seconds, 1),
            }
        )
        progress.position = progress.images = 0
        progress.reconstruction = progress.kl = progress.objective = progress.epoch_seconds = 0.0
        if self.device_step is not None:
            self.device_step.count_from(0.0, 0.0, 0.0)

    def _keep(self) -> None:
        self.best = _copy_of(self.kept.state_dict())
        self.best_is_saved = False
        self.progress.best_epoch = self.progress.epoch

    def _why_diverged(self) -> str:
        progress, terms = self.progress, self.record.terms
        if not math.isfinite(float(terms.reconstruction)):
            what = f"log p(x | z) is {float(terms.reconstruction)}"
        elif not math.isfinite(float(terms.kl)):
            what = f"log q(z | x) - log p(z) is {float(terms.kl)}"
        else:
            what = "the gradient is not finite"
        kept = "" if self.folder is None else f"; the weights before that step are in {self.folder}"
        return (
            f"training diverged at step {progress.step + 1} (epoch {progress.epoch + 1}): {what}; "
            f"most likely the learning rate {self.options['learning_rate']:g} is too large for "
            f"these data: lower it, or set clip_norm (now {self.options['clip_norm']}){kept}"
        )


MODEL = "model.safetensors"
"""In the folder of a run: the weights with the best validation bound."""
LAST = "last.safetensors"
"""In the folder of a run: the state that resuming reads."""
METRICS = "metrics.jsonl"
"""In the folder of a run: a line of JSON for each epoch."""

_OPTIMIZER_OPTIONS = ("learning_rate", "warmup", "schedule", "weight_decay", "clip_norm")


def _check_options(options: Mapping[str, Any], max_minutes: float | None) -> None:
    for name in ("epochs", "batch_size", "validate_every", "patience"):
        value = options[name]
        if value is None and name == "patience":
            continue
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"max_minutes must be positive, or None; got {max_minutes}")
    if not 0 <= options["averaging"] < 1:
        raise ValueError(f"averaging must be at least 0 and below 1, got {options['averaging']}")
    if options["compile"] not in ("auto", *MODES):
        raise ValueError(
            f"compile must be one of auto, {', '.join(MODES)}, got {options['compile']!r}"
        )
    if options["precision"] not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {options['precision']!r}"
        )
    if options["compile"] == "inductor" and not has_compiler():
        raise ValueError("compile is inductor, and there is no C++ compiler; use graph or auto")
    if options["seed"] < 0:
        raise ValueError(f"seed must not be negative, got {options['seed']}")


@contextlib.contextmanager
def _reporting(
    report: Callable[[Progress], None] | None, about: str
) -> Iterator[Callable[[Progress], None]]:
    if report is not None or not sys.stderr.isatty():
        yield report or (lambda progress: None)
        return
    from pyrovae.training.display import TrainingDisplay

    with TrainingDisplay(about) as display:
        yield display


def _parts(data: Dataset | Split | Tensor | np.ndarray) -> tuple[Split, Split | None]:
    if isinstance(data, Dataset):
        return data.train, data.validation
    return (data if isinstance(data, Split) else Split.from_array(data)), None


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, and torch finds no GPU; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or processes.count() == 1:
        return torch.device(name)
    if processes.local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"there are fewer GPUs ({torch.cuda.device_count()}) than processes on this machine; "
            "start one for each GPU, or set device to cpu"
        )
    return torch.device("cuda", processes.local_rank())


def _on_device(train: Split, device: torch.device) -> Resident | None:
    """The training data on a device that makes batches; None for the CPU, or without room."""
    if device.type not in DEVICES:
        return None
    if device.type == "cuda":
        # by the size of the device, not by what is free: the same run always takes the same way
        room = RESIDENT_SHARE * torch.cuda.get_device_properties(device).total_memory
        if train.resident_bytes() > room:
            warnings.warn(
                f"the training data take {train.resident_bytes() / 2**30:.1f} GiB, more than a "
                f"share of {RESIDENT_SHARE:.0%} of the GPU's memory, so that each batch comes from "
                "main memory",
                stacklevel=2,
            )
            return None
    return train.on_device(device)


def _check_data(vae: VAE, train: Split) -> None:
    rng = np.random.default_rng(0)
    for start in range(0, len(train), 4096):
        index = np.arange(start, min(start + 4096, len(train)))
        vae.check_data(vae.place(train.batch(index, rng)))


def _try(vae: VAE, train: Split, objective: ELBO) -> None:
    """Compute a loss and its gradients once, with Pyro's checks of shapes and supports."""
    trial = copy.deepcopy(vae).train()
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        objective.loss_and_grads(trial.model, trial.guide, _some(trial, train))


def _some(vae: VAE, train: Split) -> Tensor:
    index = np.arange(min(len(train), 100))
    return vae.place(train.batch(index, np.random.default_rng(0)))


def _initialize(vae: VAE, train: Split) -> None:
    """Start the components that know how from up to 10,000 evenly spaced training data."""
    index = np.linspace(0, len(train) - 1, min(len(train), 10_000)).astype(np.int64)
    x = vae.place(train.batch(index, np.random.default_rng(0)))
    for component in (vae.posterior, vae.likelihood, vae.prior):
        start = getattr(component, "initialize", None)
        if start is not None:
            start(x)


def _described(objective: ELBO) -> str:
    """An objective's class and its numbers, less those that a schedule changes."""
    numbers = {
        name: value
        for name, value in sorted(vars(objective).items())
        if isinstance(value, bool | int | float | str)
        and name not in getattr(objective, "scheduled", ())
    }
    return f"{type(objective).__name__} with {numbers}"


def _worthwhile(vae: VAE, options: Mapping[str, Any], steps_per_epoch: int) -> str:
    """What repays its own time: by size alone, so that the same run always takes the same way."""
    steps = options["epochs"] * steps_per_epoch
    products = 6 * steps * options["batch_size"] * sum(p.numel() for p in vae.parameters())
    if products >= COMPILED_PRODUCTS and has_compiler():
        return "inductor"
    return "graph" if steps >= STAGED_STEPS else "off"


def _copy_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
