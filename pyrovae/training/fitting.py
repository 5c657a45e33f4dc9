r"""Training: Pyro's ``SVI`` over epochs, reproducible to the bit and resumable at any step."""

import contextlib
import copy
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader

from pyrovae._process import processes
from pyrovae._process.files import expanded
from pyrovae._process.isolation import isolated, stream
from pyrovae._process.memory import check_memory
from pyrovae.data import DataLike, Dataset, Split, as_split
from pyrovae.distributions import missing_values, observed_values
from pyrovae.training.checkpoint import TrainingCheckpoint, TrainingOptions, TrainingState
from pyrovae.training.history import Fit
from pyrovae.training.loaders import Loaded
from pyrovae.training.loop import TrainingLoop
from pyrovae.training.precision import products_in
from pyrovae.training.progress import Progress, TrainingDisplay
from pyrovae.training.running_statistics import has_running_statistics
from pyrovae.training.steps import check_sum, explaining_batches, training_device
from pyrovae.vae import VAE

__all__ = ["check", "fit"]

ROLES = ("posterior", "likelihood", "prior")  # in the order in which they are initialized

_trained: set[int] = set()  # the parameters that some thread is training, by their identity


def fit(
    vae: VAE,
    data: Dataset | DataLike,
    *,
    objective: ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    drop_last: bool = False,
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
    initialize: bool | Collection[str] = True,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Fit:
    """Train a VAE with Pyro's ``SVI``, and leave it with the weights of the best validation bound.

    The caller's param store, random state and warning filters are restored on return. The same seed
    gives the same result, bit for bit, on one machine. Each step draws from its own random stream,
    so a resumed run equals an uninterrupted one.

    Several threads may train, evaluate and draw at the same time. They take turns, training after
    each step, so each gets the result that it would get alone, and none is faster than alone. Draws
    of your own from torch's default generator are not in turn, and change what others draw.

    Several processes, inside :func:`pyrovae.training.joined`, each take a share of every batch and
    make the same steps. The first process sends its weights to the others at the start, and is the
    only one that writes to ``out``.

    Args:
        vae: trained in place, and left in eval mode on the device that trained it. Its prior,
            likelihood and posterior may have a method ``at(progress)``, as the objective may.
        data: a ``Dataset``, whose validation part chooses the weights, and of whose test part only
            the likelihood's support is checked; or examples ``(examples, *event_shape)`` as
            :func:`pyrovae.data.as_split` takes them, such as an array, a DataFrame or a torch
            ``Dataset``, all of which are trained on, and the last weights kept. The batches of a
            ``DataLoader`` are taken as they come, with a warning: an epoch is ``len(loader)`` of
            them, ``batch_size`` and ``drop_last`` are the loader's, the first examples stand for
            all where the model is checked and initialized, and a resumed run trains on without
            being equal to an uninterrupted one.
        objective: a Pyro ELBO; ``Trace_ELBO()`` by default. If it has a method ``at(progress)``,
            that is called before each step with the fraction of all steps that is done.
        epochs: passes over the training data.
        batch_size: examples per step, in all processes together; the last step of an epoch takes
            the remainder. A remainder of less than two examples for each process joins the step
            before, since batch normalization needs two.
        drop_last: leave out the last batch of an epoch if it is smaller than the others; each epoch
            leaves out other examples.
        learning_rate: largest step size of Adam.
        warmup: fraction of all steps over which the step size rises linearly.
        schedule: of the step size after the warm-up, one of :data:`pyrovae.training.SCHEDULES`:
            ``"cosine"`` (to zero) or ``"constant"``.
        weight_decay: decoupled weight decay of matrices.
        clip_norm: largest norm of the gradient of the loss per example; None for no clipping.
        averaging: decay of the exponential moving average of the weights that is validated and
            kept, below 1; 0 keeps the weights themselves. Running statistics, such as those of
            batch normalization, are gathered anew for the average, in a pass over the training
            data.
        validate_every: epochs between validation bounds; the last epoch always has one.
        patience: stop after this many validation bounds without a better one; None never stops.
        max_minutes: stop after this wall-clock time, resumable; None for no limit.
        compile: how steps are run, see :mod:`pyrovae.training.staging`. ``"off"``: as Pyro runs
            them; ``"graph"``: as a replay of their tensor operations, with the same results;
            ``"inductor"``: as a compiled replay, with the same results up to rounding; ``"auto"``:
            chosen by the size of the run, so that compiling pays off.
        precision: of the matrix products of encoder and decoder in training steps, ``"float32"`` or
            ``"bf16"``; everything else is float32, including validation bounds.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
        seed: of everything drawn during training.
        out: a folder for checkpoints and metrics; it must not exist, unless resuming.
        files: contents of further files for ``out``, by name, written at the start.
        initialize: start the components that have an ``initialize(x)`` from training data, such as
            the decoder's output bias from the data's mean; False trains on from the current
            weights, and names of roles (``"prior"``, ``"likelihood"``, ``"posterior"``) start
            those alone.
        resume: resume the run in ``out``.
        report: callback, called after each step and epoch, in every process; by default a line on
            standard error shows the progress, if that is a terminal.

    Returns:
        The metrics of each epoch, and why training ended.

    Raises:
        TypeError: if the objective is not a Pyro ELBO, or the data are no examples.
        ValueError: if an option is outside its range, or the data outside the likelihood's support;
            with several processes, if the objective is not a sum over examples.
        FileExistsError: if ``out`` exists and ``resume`` is False.
        TrainingDivergedError: if the loss is no longer finite; the message has the step and the
            likely cause.
        TrainingInterrupted: on Ctrl-C in any process, after the running step is finished and saved;
            SIGTERM and SIGHUP save too, and then act as they would have without ``fit``.
        StoppedError: if another process has ended.
        RuntimeError: if another thread is training the same parameters, or seeds torch's generator
            during a step.

    Example:
        >>> fitted = pyrovae.fit(vae, x, epochs=5, learning_rate=0.01)
        >>> fitted.history.elbo.shape
        (5,)
        >>> fitted.stopped, fitted.best_epoch
        ('finished', 5)
    """
    if not isinstance(objective, ELBO | None):
        raise TypeError(
            f"objective must be a Pyro ELBO, got {objective!r}; to make one from a name or a "
            "configuration, use pyrovae.objectives.OBJECTIVES or Config.objective()"
        )
    options = TrainingOptions(
        epochs=epochs,
        batch_size=batch_size,
        drop_last=drop_last,
        learning_rate=learning_rate,
        warmup=warmup,
        schedule=schedule,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        averaging=averaging,
        validate_every=validate_every,
        patience=patience,
        compile=compile,
        precision=precision,
        seed=seed,
    )
    max_seconds = _max_seconds(max_minutes)
    folder = _folder(out, resume)
    train, validation = (Loaded(data, seed), None) if isinstance(data, DataLoader) else _parts(data)
    some = train.first if isinstance(train, Loaded) else train  # on which the model is tried
    where = training_device(device)
    objective = objective or Trace_ELBO()
    every = [some, data.validation, data.test] if isinstance(data, Dataset) else [some]
    gaps = any(part.gaps for part in every)
    with _alone_with(vae, where, gaps) as held:
        if where.type == "cpu":
            _check_room(vae)
        torch.manual_seed(stream(seed, "initialize"))
        for name, part in zip((None, "validation", "test"), every, strict=False):
            _check_data(vae.to(where), part, name)
        if not resume:
            _initialize(vae, some, ROLES if initialize is True else initialize or ())
        processes.from_first([*vae.parameters(), *vae.buffers()])
        check_sum(objective)
        state = _state(vae, options, train)
        checkpoint = TrainingCheckpoint(folder, state, _described(objective))
        held.callback(checkpoint.close)
        if resume:
            checkpoint.restore(files or {})
        else:
            with products_in(precision, vae), explaining_batches():
                _try(vae, some, objective)
                if min(state.options.batch_size, len(some)) < 2 * processes.count():
                    _try(vae, some, objective, 1)
            checkpoint.create(files or {})
        state.progress.log_slope = _mean_log_slope(some)
        has_statistics = averaging > 0 and has_running_statistics(vae, objective, _some(vae, some))
        with _reporting(report, _about(train)) as shown:
            loop = TrainingLoop(
                checkpoint, train, validation, objective, max_seconds, shown, has_statistics
            )
            stopped = loop.run()
        state.take_best()
    progress = state.progress
    best = progress.best_epoch, progress.best_validation_elbo, progress.best_validation_error
    return Fit(progress.metrics, stopped, *best, seconds=progress.seconds)


def _max_seconds(max_minutes: float | None) -> float:
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"max_minutes must be positive, or None; got {max_minutes}")
    return math.inf if max_minutes is None else 60 * max_minutes


@contextlib.contextmanager
def _alone_with(vae: VAE, device: torch.device, gaps: bool) -> Iterator[contextlib.ExitStack]:
    """The block of a training; what is held in the stack is let go when it ends."""
    with (
        isolated(device),
        missing_values(gaps),
        _not_elsewhere(vae),
        contextlib.ExitStack() as held,
    ):
        yield held


def _mean_log_slope(data: Split) -> float:
    slope = data.log_slope()
    return 0.0 if slope is None else slope.mean().item()


def _folder(out: str | Path | None, resume: bool) -> Path | None:
    """The folder of the run, which exists if and only if it is resumed."""
    folder = None if out is None else expanded(out)
    if folder is None and resume:
        raise ValueError("resume needs out, the folder of the run to resume")
    if processes.is_first() and folder is not None and folder.exists() and not resume:
        raise FileExistsError(f"{folder} exists; resume that run, or choose another folder")
    return folder


def check(vae: VAE, data: Split, objective: ELBO) -> None:
    """Refuse a model whose parts do not fit together, as :func:`fit` would, without training.

    Args:
        vae: left unchanged.
        data: training data, of which the first hundred examples are tried.
        objective: a Pyro ELBO.

    Raises:
        ValueError: if a component cannot be initialized from the data, the data lie outside the
            likelihood's support, prior and posterior are over different spaces, or the objective
            does not apply to these distributions.

    Example:
        >>> from pyrovae.objectives import Elbo
        >>> from pyrovae.training import check
        >>> check(vae, data, Elbo())
    """
    _check_room(vae)
    trial = copy.deepcopy(vae)
    with isolated(next(vae.parameters(), torch.empty(0)).device), missing_values(data.gaps):
        trial.check_data(_some(trial, data))
        _initialize(trial, data)
        _try(trial, data, objective)


def _check_room(vae: VAE) -> None:
    """Refuse to train more parameters than memory holds four more times."""
    count = sum(parameter.numel() for parameter in vae.parameters())
    size = 4 * sum(p.numel() * p.element_size() for p in vae.parameters())
    what = f"training {count:,} parameters, with their gradients, two moments and the best weights,"
    check_memory(what, size, "make the networks smaller")


def _reporting(
    report: Callable[[Progress], None] | None, about: str
) -> contextlib.AbstractContextManager[Callable[[Progress], None] | None]:
    if report is None and sys.stderr.isatty():
        return TrainingDisplay(about)
    return contextlib.nullcontext(report)


@contextlib.contextmanager
def _not_elsewhere(vae: VAE) -> Iterator[None]:
    """A block that trains the parameters of a VAE, which no other thread may train meanwhile."""
    parameters = {id(parameter) for parameter in vae.parameters()}
    if parameters & _trained:
        raise RuntimeError(
            "another thread is training parameters of this VAE; wait until it has finished, or "
            "train a copy: copy.deepcopy(vae)"
        )
    _trained.update(parameters)
    try:
        yield
    finally:
        _trained.difference_update(parameters)


def _parts(data: Dataset | DataLike) -> tuple[Split, Split | None]:
    if isinstance(data, Dataset):
        return data.train, data.validation
    return as_split(data), None


def _state(vae: VAE, options: TrainingOptions, train: Split | Loaded) -> TrainingState:
    if isinstance(train, Loaded):
        return TrainingState(vae, train.options(options), None, train.steps)
    return TrainingState(vae, options, len(train), options.steps_per_epoch(len(train)))


def _about(train: Split | Loaded) -> str:
    if isinstance(train, Loaded):
        return f"{train.steps:,} batches of a DataLoader in an epoch"
    return f"{len(train):,} training examples"


def _check_data(vae: VAE, split: Split, part: str | None = None) -> None:
    """Refuse examples that the model does not describe; a part is named in the message."""
    rng = np.random.default_rng(0)
    with missing_values(split.gaps):
        for index in torch.arange(len(split)).split(4096):
            try:
                vae.check_data(vae.place(split.batch(index.numpy(), rng)))
            except ValueError as error:
                if part is None:
                    raise
                raise type(error)(f"{part} part: {error}") from error


def _try(vae: VAE, train: Split, objective: ELBO, examples: int = 100) -> None:
    """Compute the loss and its gradients once, with Pyro's checks of shapes and supports."""
    trial = copy.deepcopy(vae).train()
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        objective.loss_and_grads(trial.model, trial.guide, _some(trial, train)[:examples])


def _some(vae: VAE, train: Split) -> Tensor:
    index = np.arange(min(len(train), 100))
    return vae.place(train.batch(index, np.random.default_rng(0)))


def _initialize(vae: VAE, train: Split, roles: Collection[str] = ROLES) -> None:
    """Initialize components that can be, from up to 10,000 evenly spaced training examples."""
    index = np.linspace(0, len(train) - 1, min(len(train), 10_000)).astype(np.int64)
    x = _completed(vae.place(train.batch(index, np.random.default_rng(0))))
    for role in ROLES:
        component = getattr(vae, role)
        if role in roles and hasattr(component, "initialize"):
            component.initialize(x)


def _completed(x: Tensor) -> Tensor:
    """The same examples, missing values replaced by observed ones of the same column in turn."""
    observed = observed_values(x)
    if observed is None or bool(observed.all()):
        return x
    columns, seen = x.flatten(1).clone(), observed.flatten(1)
    for d in (~seen).any(0).nonzero().flatten().tolist():
        values, gaps = columns[seen[:, d], d], ~seen[:, d]
        columns[gaps, d] = values.repeat(int(gaps.sum()) // max(len(values), 1) + 1)[: gaps.sum()]
    return columns.reshape(x.shape)


def _described(objective: ELBO) -> str:
    """The class of an objective and its numbers, except those that a schedule changes."""
    numbers = {
        name: value
        for name, value in sorted(vars(objective).items())
        if isinstance(value, bool | int | float | str)
        and name not in getattr(objective, "scheduled", ())
    }
    return f"{type(objective).__name__} with {numbers}"
