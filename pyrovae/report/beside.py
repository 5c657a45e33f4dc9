r"""The page of several runs of the same data, side by side."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrovae
from pyrovae import evidence, plots
from pyrovae._process.files import write_text
from pyrovae._process.isolation import evaluating, isolated
from pyrovae.data import Dataset
from pyrovae.diagnostics import active_units
from pyrovae.estimates import Estimate
from pyrovae.report.findings import LIMIT
from pyrovae.report.page import (
    Section,
    document,
    picture,
    plain,
    preformatted,
    table,
    term,
    value,
)
from pyrovae.runs import Run, measure
from pyrovae.vae import VAE

__all__ = ["FILE_OF_SEVERAL", "write_comparison"]

SAMPLES = 1_000  # draws of z for the bound of each example
SHOWN = 36  # samples of each run
FILE_OF_SEVERAL = "comparison.html"
"""The name of the page of several runs."""


def write_comparison(
    runs: Sequence[Run],
    out: Path,
    *,
    data_dir: str | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write one page about several finished runs of the same data.

    Their bounds on log p(x) are computed anew, for the same test examples and with the same kind of
    draws, so that differences are paired.

    Args:
        runs: at least two, finished; differences are from the first.
        out: the file.
        data_dir: folder of named datasets.
        seed: of all draws, and of the noise that all samples share.
        progress: callback, called with the number of examples finished since the last call.

    Returns:
        The file.

    Raises:
        ValueError: if there are fewer than two runs, two of them are one, one is not finished, or
            they are of different data.
        OSError: if the file cannot be written; nothing is left then.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.report import write_comparison
        >>> from pyrovae.runs import Run, start
        >>> def run(prior):
        ...     network = "mlp:hidden_dims=4"
        ...     model = {"encoder": network, "decoder": network, "latent_dim": 2, "prior": prior}
        ...     settings = {"model": model, "training": {"epochs": 1}}
        ...     config, digits = pyrovae.Config.resolve(settings)
        ...     folder, trained, fitted = start(config, digits, None)
        ...     Run.open(folder).finish(trained, digits, fitted, samples=2)
        ...     return Run.open(folder)
        >>> write_comparison([run("normal"), run("laplace")], Path("both.html")).name
        'both.html'
    """
    _check(runs)
    datasets = [run.dataset(data_dir) for run in runs]
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset.digest() != datasets[0].digest():
            raise ValueError(
                f"{run.folder} and {runs[0].folder} are of different data, and cannot stand side "
                "by side; name runs of one dataset"
            )
    vaes = [run.vae() for run in runs]
    found = _bounds(vaes, datasets, seed, progress)
    write_text(out, _page(runs, vaes, datasets, found, seed))
    return out


def _check(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two runs, got {len(runs)}")
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise ValueError(f"{run.folder} is named twice; name each run once")
        run.summary()  # refuses a run that is not finished


def _bounds(
    vaes: Sequence[VAE],
    datasets: Sequence[Dataset],
    seed: int,
    progress: Callable[[int], None] | None,
) -> list[evidence.WeightedBounds]:
    options: dict[str, Any] = {"samples": SAMPLES, "seed": seed, "progress": progress}
    limit = min(LIMIT, len(datasets[0].test))
    found = []
    for vae, dataset in zip(vaes, datasets, strict=True):
        found.append(evidence.per_example(vae, dataset.test, limit=limit, **options))
    return found


def _page(
    runs: Sequence[Run],
    vaes: Sequence[VAE],
    datasets: Sequence[Dataset],
    found: Sequence[evidence.WeightedBounds],
    seed: int,
) -> str:
    names = _names(runs)
    sections = [
        Section("short", "In short", _short(names, runs, vaes, datasets, found)),
        Section("settings", "What differs", _settings(names, runs)),
        Section("training", "Training", _training(names, runs)),
        Section("samples", "Samples from the same noise", _samples(names, vaes, datasets, seed)),
        Section("limits", "What this page does not show", _limits(runs)),
        Section("again", "Repeat it", _again(runs)),
    ]
    title = f"{datasets[0].name}: {len(runs)} runs side by side"
    return document(title, f"<p>{plain(', '.join(names))}</p>", sections)


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the folders; the whole paths where two names are the same."""
    names = [run.folder.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _short(
    names: Sequence[str],
    runs: Sequence[Run],
    vaes: Sequence[VAE],
    datasets: Sequence[Dataset],
    found: Sequence[evidence.WeightedBounds],
) -> str:
    first = found[0].log_evidence
    kinds = [
        (measure(vae), run.config.data["binarization"]) for run, vae in zip(runs, vaes, strict=True)
    ]
    many = len(first) > 1
    rows = []
    apart = []
    for name, vae, dataset, bounds, kind in zip(names, vaes, datasets, found, kinds, strict=True):
        against = "\N{EN DASH}"
        if bounds is not found[0]:
            if kind == kinds[0]:
                against = _signed(Estimate.of(bounds.log_evidence - first))
            else:
                apart.append(name)
        active = active_units(vae, dataset.test, limit=len(first)) if many else None
        rows.append(
            [
                plain(name),
                value(Estimate.of(bounds.log_evidence)),
                against,
                value(Estimate.of(bounds.elbo)),
                value(Estimate.of(bounds.reconstruction)),
                value(Estimate.of(bounds.kl)),
                "\N{EN DASH}" if active is None else f"{active} of {vae.latent_dim}",
                f"{bounds.summary(SAMPLES).unreliable:.1%}",
            ]
        )
    head = [
        "run",
        f"{term('evidence')} is at least",
        "difference from the first",
        term("elbo"),
        term("reconstruction"),
        term("kl", "KL term"),
        term("active"),
        term("k-hat", "k-hat too large"),
    ]
    about = (
        f"<p>All bounds are of the same {len(first):,} test examples, with {SAMPLES:,} draws of "
        "q(z|x) for each. Where the last column is large, log p(x) may be far above the bound, and "
        "a difference may say more about the posteriors than about the models. The differences are "
        "paired: easy and hard examples cancel, so their errors are smaller than those of the "
        "bounds themselves. A difference of less than two errors may be chance, and another seed "
        "may change it by more.</p>"
    )
    if apart:
        about += (
            '<p class="key warning">Without a difference, because their log p(x) is of another '
            "kind (a density and a probability, or data made binary in another way): "
            f"{plain(', '.join(apart))}.</p>"
        )
    caption = f"nats per example, mean {term('error')} standard error over examples"
    return table(head, rows, caption) + about


def _signed(estimate: Estimate) -> str:
    text = value(estimate)
    return text if text.startswith("\N{MINUS SIGN}") else f"+{text}"


def _settings(names: Sequence[str], runs: Sequence[Run]) -> str:
    """A table of the settings that differ."""
    flat = [
        {
            f"{part}.{key}": str(at)
            for part in ("data", "model", "training")
            for key, at in getattr(run.config, part).items()
        }
        for run in runs
    ]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    rows = [
        [plain(key), *(f"<code>{plain(at)}</code>" for at in given)]
        for key in keys
        if len(set(given := [settings.get(key, "") for settings in flat])) > 1
    ]
    if not rows:
        return "<p>Nothing: all settings are the same.</p>"
    return table(["setting", *map(plain, names)], rows)


def _training(names: Sequence[str], runs: Sequence[Run]) -> str:
    figure = plots.histories(names, [run.history for run in runs])
    rows = [
        [plain(name), f"{s.epochs}", f"{s.best_epoch}", value(s.best_validation_elbo)]
        for name, s in ((name, run.summary()) for name, run in zip(names, runs, strict=True))
    ]
    return picture(
        plots.as_png(figure),
        "The validation bound and the two parts of the training bound of each run, by epoch",
    ) + table(["run", "epochs", "epoch of the weights", "validation ELBO there"], rows)


def _samples(
    names: Sequence[str], vaes: Sequence[VAE], datasets: Sequence[Dataset], seed: int
) -> str:
    first = datasets[0]
    images = len(first.event_shape) == 3 and first.event_shape[0] in (1, 3)
    count = min(SHOWN if images else 2_000, len(first.test))
    order = np.random.default_rng(seed).permutation(len(first.test))[:count]
    kinds = {"test data": _in_units(first, first.test.batch(order), images)}
    for name, vae, dataset in zip(names, vaes, datasets, strict=True):
        with torch.no_grad(), isolated(), evaluating(vae):
            torch.manual_seed(seed)
            z = vae.prior().sample((count,))
            x = vae.decode(z) if images else vae.likelihood(z).sample()
        kinds[name] = _in_units(dataset, x, images)
    figure = plots.side_by_side(kinds, first.schema)
    shown = "The means of p(x|z) are shown. " if images else "Each column's histogram is shown. "
    return (
        "<p>Each run draws z from its own prior with the same seed, and decodes it. "
        f"{shown}Where two priors turn noise into z alike, samples at the same place show what the "
        "decoders make of the same z.</p>"
        + picture(plots.as_png(figure), "Test data, and samples of each run")
    )


def _in_units(dataset: Dataset, x: Tensor, images: bool) -> np.ndarray:
    x = x.cpu()
    return np.asarray(x if images else dataset.test.original(x).reshape(len(x), -1))


def _limits(runs: Sequence[Run]) -> str:
    seeds = ", ".join(str(run.config.training["seed"]) for run in runs)
    lines = [
        (
            "How much another training of each would differ: ± is over test examples only, with "
            f"seeds {seeds}. <code>pyrovae compare --seeds 3</code> trains models alike and "
            "measures it."
        ),
        "Which single setting made the difference, where several differ.",
        "That a higher log p(x) means better samples: it does not follow.",
    ]
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _again(runs: Sequence[Run]) -> str:
    folders = " ".join(shlex.quote(str(run.folder)) for run in runs)
    return preformatted(f"pyrovae report {folders}") + (
        f"<p>pyrovae {plain(pyrovae.__version__)}, torch {plain(torch.__version__)}. Each run has "
        "a page of its own: <code>pyrovae report RUN</code>.</p>"
    )
