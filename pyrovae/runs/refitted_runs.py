r"""A run with another prior: the folder of a refitted run, and what changed."""

import contextlib
import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from pyrovae import plots
from pyrovae._process.files import (
    tensor_bytes,
    whole_folder,
    write_bytes,
    write_tensors,
    write_text,
)
from pyrovae.data import Dataset
from pyrovae.estimates import Result, number_of_examples
from pyrovae.runs.compatibility import suggesting_pairs
from pyrovae.runs.config import Config
from pyrovae.runs.export import as_json
from pyrovae.runs.refitting import PriorChange, change, refit
from pyrovae.runs.reporting import Counting, Reporting, silent
from pyrovae.runs.run import CONFIG, FIGURES, STATISTICS, Run
from pyrovae.runs.settings import DATA_SETTINGS
from pyrovae.runs.specs import Spec
from pyrovae.training import METRICS, MODEL, Fit
from pyrovae.vae import VAE

__all__ = ["REFIT", "Refit", "refit_run"]

REFIT = "refit.json"
"""The file in the folder of a refitted run that holds its origin, and what changed."""

SUMMARY_SAMPLES = 100

_TRAINING: Mapping[str, Any] = {
    "objective": "elbo",
    "warmup": 0.02,
    "weight_decay": 0.0,
    "clip_norm": None,
    "averaging": 0.0,
    "validate_every": 1,
}
"""Settings of a refit, in place of the data's recipe, which is meant for networks."""


class Refit(Result):
    """A run whose prior was replaced.

    Attributes:
        refit_from: folder of the original run.
        run: folder of the new one.
        before, after: specs of the two priors.
        parameters: number of parameters of the new prior.
        epochs: epochs of the fit.
        best_epoch: the epoch whose weights were kept.
        seconds: training time.
        seed: of the fit and of the draws.
        figure: path of the picture of samples from both priors.
        change: the effect on the test set.

    Example:
        >>> from pyrovae.runs import Refit, change
        >>> same = change(vae, vae, data, samples=10)
        >>> found = Refit("old", "new", "normal", "normal", 0, 1, 1, 0.2, 0, "new/refit.png", same)
        >>> found.change.marginal_kl
        0.00 ± 0.00
    """

    refit_from: str
    run: str
    before: str
    after: str
    parameters: int
    epochs: int
    best_epoch: int
    seconds: float
    seed: int
    figure: str
    change: PriorChange

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, as ``refit.json`` holds it."""
        return {
            "refit_from": self.refit_from,
            "run": self.run,
            "prior": {"before": self.before, "after": self.after},
            "parameters": self.parameters,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "seed": self.seed,
            "figure": self.figure,
        } | self.change.to_dict()


class _Fitting(TypedDict, total=False):
    """Options of the fit, as for :func:`refit`."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


@suggesting_pairs()
def refit_run(
    run: Run,
    prior: str,
    out: Path | None = None,
    *,
    trusted: Collection[str] = (),
    samples: int = 1_000,
    limit: int | None = None,
    data_dir: str | None = None,
    reporting: Reporting | None = None,
    counting: Counting | None = None,
    **fitting: Unpack[_Fitting],
) -> Refit:
    """Refit a run's prior, and write the folder of a new run, which appears whole at the end.

    In the new folder, ``config.toml`` has the new prior and the settings of the refit, and
    ``refit.json`` the result. The new run cannot be resumed, and no comparison takes it for a run
    trained with that prior from the start.

    Args:
        run: a run with a trained VAE.
        prior: spec of the new prior.
        out: folder of the new run, by default the first of ``RUN-PRIOR-1``, ... that is free.
        trusted: ``module:attribute`` names that may be imported for the new prior.
        samples, limit: as for :func:`change`, on the test set.
        data_dir: folder of named datasets, if they have moved.
        reporting: from a line about the fit, a context with a callback for its progress.
        counting: from a description and a number of examples, a context with a callback.
        fitting: ``epochs``, ``batch_size``, ``learning_rate`` and ``seed``, as for :func:`refit`;
            the seed is also that of the draws of :func:`change`.

    Raises:
        FileExistsError: if ``out`` exists.
        ValueError: as :func:`refit`, and if the spec is not that of a prior.

    Example:
        >>> from pyrovae.runs import Run, refit_run, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, data = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, data, None)[0])
        >>> found = refit_run(run, "learned_normal", epochs=1, samples=2, limit=20)
        >>> Run.open(found.run).config.model["prior"]
        'learned_normal:covariance=diagonal'
    """
    spec = Spec.parse(prior)
    out = out or _free(run.folder, spec)
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder with --out")
    trusted = frozenset(trusted) | run.trusted
    options: _Fitting = {"epochs": 100, "batch_size": 128, "learning_rate": 5e-3, "seed": 0}
    options |= fitting
    config, dataset = Config.resolve(_settings(run, prior, data_dir, options), trusted=trusted)
    before = run.vae()
    built = _with_weights(config.build(trusted=trusted), before)
    learned = sum(p.numel() for n, p in built.named_parameters() if n.startswith("prior."))
    about = (
        f"{run.folder}: q and decoder held, prior {config.model['prior']} of {learned:,} "
        f"parameters fitted to q(z) of {len(dataset.train):,} training examples"
    )
    if not learned:
        options["epochs"] = 1
    with (reporting or silent)(about) as report:
        after, fitted = refit(built, built.prior, dataset, **options, report=report)
    _check_held(before, after)
    after.eval()
    evaluation: dict[str, Any] = {"samples": samples, "limit": limit, "seed": options["seed"]}
    total = 2 * number_of_examples(dataset.test, limit)
    with (counting or silent)(f"{samples:,} samples each", total) as progress:
        changed = change(before, after, dataset.test, **evaluation, progress=progress)
    result = Refit(
        refit_from=str(run.folder.resolve()),
        run=str(out),
        before=run.config.model["prior"],
        after=config.model["prior"],
        parameters=learned,
        epochs=len(fitted.metrics),
        best_epoch=fitted.best_epoch,
        seconds=round(fitted.seconds, 3),
        seed=options["seed"],
        figure=str(out / FIGURES / "refit.png"),
        change=changed,
    )
    names = _short(result.before, result.after)
    drawn = plots.refit_samples(before, after, dataset.test, *names, seed=result.seed)
    with whole_folder(out) as folder:
        _write(folder, config, dataset, after, fitted)
        write_text(folder / REFIT, as_json(result.to_dict(), indent=2) + "\n")
        Run.open(folder, trusted=trusted).finish(after, dataset, fitted, samples=SUMMARY_SAMPLES)
        plots.save(drawn, folder / FIGURES / "refit.png")
    return result


def _with_weights(built: VAE, trained: VAE) -> VAE:
    """Copy the weights of the likelihood and the posterior."""
    for role in ("likelihood", "posterior"):
        getattr(built, role).load_state_dict(getattr(trained, role).state_dict())
    return built


def _settings(
    run: Run, prior: str, data_dir: str | None, fitting: _Fitting
) -> dict[str, dict[str, Any]]:
    data = {n: v for n, v in run.config.data.items() if n in DATA_SETTINGS}
    return {
        "data": data if data_dir is None else data | {"data_dir": data_dir},
        "model": dict(run.config.model) | {"prior": prior},
        "training": dict(_TRAINING) | dict(fitting),
    }


def _write(folder: Path, config: Config, dataset: Dataset, vae: VAE, fitted: Fit) -> None:
    """Write the files that a training leaves in the folder of a run."""
    write_text(folder / CONFIG, config.to_toml())
    write_tensors(folder / MODEL, vae.state_dict())
    write_text(folder / METRICS, "".join(as_json(row) + "\n" for row in fitted.metrics))
    if dataset.statistics:
        statistics = {n: torch.from_numpy(array) for n, array in dataset.statistics.items()}
        write_bytes(folder / STATISTICS, tensor_bytes(statistics))


def _check_held(before: VAE, after: VAE) -> None:
    for role in ("likelihood", "posterior"):
        old, new = (getattr(vae, role).state_dict() for vae in (before, after))
        if not all(torch.equal(value, new[name].cpu()) for name, value in old.items()):
            raise RuntimeError(f"the weights of the {role} should be fixed, but have changed")


def _free(folder: Path, spec: Spec) -> Path:
    """The first of ``<run>-<prior>-<n>``, beside the run, that does not exist."""
    folder = folder.resolve()
    stem = f"{folder.name}-{spec.name.replace(':', '.')}"
    names = (folder.with_name(f"{stem}-{n}") for n in itertools.count(1))
    path = next(path for path in names if not path.exists())
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _short(before: str, after: str) -> tuple[str, str]:
    """The names of two priors, with their options if the names are the same."""
    old, new = Spec.parse(before), Spec.parse(after)
    return (old.name, new.name) if old.name != new.name else (str(old), str(new))
