r"""Models side by side: the same data, network, budget and seeds, and one component exchanged.

The bound on log p(x) of two models is compared on the same test examples and the same seeds, so
that what makes an example easy or a seed lucky for both leaves their difference.
"""

import contextlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae._process.files import write_text
from pyrovae.data import Dataset
from pyrovae.diagnostics import active_units
from pyrovae.distributions import is_discrete
from pyrovae.evidence import NO_BOUND, Bounds, bits_per_dimension, kind, per_example
from pyrovae.runs.config import Config
from pyrovae.runs.export import as_json
from pyrovae.runs.pairs import suggesting_pairs
from pyrovae.runs.run import CHANGEABLE, CONFIG, DIGEST, SUMMARY, Run, start
from pyrovae.training import Progress, check
from pyrovae.vae import VAE

__all__ = ["ROLES", "Candidate", "candidates", "compare", "comparison_table"]

ROLES = ("prior", "posterior", "likelihood", "objective")
"""What can be varied, in the order of the table's columns."""

BOUNDS = "bounds.safetensors"
DRAWS = 12  # images of each model in the picture
LATENTS = 1_000  # examples by which active units are counted

Reporting = Callable[[str], AbstractContextManager[Callable[[Progress], None] | None]]
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None] | None]]


@dataclass(frozen=True)
class Candidate:
    """One of the models that are compared.

    Attributes:
        config: of its runs, with the first seed.
        dataset: that ``config`` was resolved with.
        chosen: what was written for each role that is varied.
    """

    config: Config
    dataset: Dataset
    chosen: Mapping[str, str]

    @property
    def label(self) -> str:
        """What sets it apart."""
        return ", ".join(self.chosen.values())

    def with_seed(self, seed: int) -> Config:
        """Its configuration under another seed."""
        return replace(self.config, training=dict(self.config.training) | {"seed": seed})


@dataclass(frozen=True)
class _Result:
    """A trained model, and its bounds on each test example."""

    folder: Path
    reused: bool
    vae: VAE
    bounds: Bounds
    active_units: int
    seconds: float


def candidates(
    settings: Mapping[str, Mapping[str, Any]],
    varied: Mapping[str, Sequence[str]],
    *,
    trusted: Collection[str] = (),
) -> tuple[list[Candidate], list[str]]:
    """Every combination of the components listed, each built once to see that its parts fit.

    Args:
        settings: of all runs, as for :meth:`pyrovae.Config.resolve`.
        varied: for some of ``ROLES``, the specs to compare.
        trusted: ``module:attribute`` names that may be imported.

    Returns:
        The candidates, and a line for each combination left out because its parts do not go
        together.

    Raises:
        ValueError: if nothing is varied, a spec is listed twice, or one goes with none of the
            others.
    """
    lists = {role: tuple(specs) for role, specs in varied.items() if specs}
    if not lists:
        raise ValueError(f"nothing to compare; list specs for {', '.join(ROLES)}")
    for role, specs in lists.items():
        if role not in ROLES:
            raise ValueError(f"cannot compare {role!r}; choose among {', '.join(ROLES)}")
        for spec in specs:
            if specs.count(spec) > 1:
                raise ValueError(f"the {role} {spec} is listed twice")
    found: list[Candidate] = []
    refused: dict[tuple[str, ...], str] = {}
    datasets: dict[str, Dataset] = {}
    for specs in itertools.product(*lists.values()):
        chosen = dict(zip(lists, specs, strict=True))
        config, dataset = Config.resolve(_with(settings, chosen), trusted=trusted)
        dataset = datasets.setdefault(as_json(dict(config.data)), dataset)
        candidate = Candidate(config, dataset, chosen)
        try:
            _check(candidate, trusted)
        except ValueError as error:
            refused[specs] = str(error)
        else:
            found.append(candidate)
    for place, specs in enumerate(lists.values()):
        for spec in specs:
            if not any(spec == list(candidate.chosen.values())[place] for candidate in found):
                raise ValueError(next(why for c, why in refused.items() if c[place] == spec))
    return found, [f"{', '.join(specs)} is left out: {why}" for specs, why in refused.items()]


def compare(
    settings: Mapping[str, Mapping[str, Any]],
    varied: Mapping[str, Sequence[str]],
    *,
    seeds: int = 3,
    samples: int = 1_000,
    limit: int | None = None,
    out: str | Path | None = None,
    trusted: Collection[str] = (),
    reporting: Reporting | None = None,
    counting: Counting | None = None,
) -> dict[str, Any]:
    """Train the same VAE with each of some components, and compare the bounds on the test set.

    Each run is an ordinary one of ``pyrovae fit`` with a folder in ``out``. One that is there
    already, or beside ``out``, with the same configuration and data, is taken as it is; one that
    was stopped goes on. An interrupted comparison goes on when it is asked for again. Code of the
    user's own is taken to be what it was: after a change, remove the folders of its runs.

    Args:
        settings: of all runs, as for :meth:`pyrovae.Config.resolve`.
        varied: for some of ``ROLES``, the specs to compare; all their combinations are.
        seeds: runs of each, from the seed in ``settings`` (0) upwards.
        samples: draws of the importance-weighted bound for each test example.
        limit: only the first so many test examples.
        out: the folder of the comparison; ``runs/compare-<data>`` by default. It takes
            ``comparison.json``, ``comparison.txt`` and ``comparison.png``, which replace older
            ones.
        trusted: ``module:attribute`` names that may be imported.
        reporting: from a line about a run to a context in which a function is told of its
            training progress.
        counting: likewise for evaluations, with the number of examples.

    Returns:
        What ``comparison.json`` holds: ``folder``, ``data``, ``images``, ``samples``, ``seeds``,
        ``varied``, ``left_out``, and ``rows``. Each row has a value for each varied role;
        ``log_evidence``, ``elbo``, ``rate`` and ``distortion``, each with ``estimate`` and
        ``standard_error`` and the parts of the error ``over_images`` and ``over_seeds`` (None for
        one seed); ``difference``, the same for the paired difference of ``log_evidence`` from the
        first row, None where the two do not compare; ``bits_per_dimension``, the same for that
        unit, None for a density; ``kind``, ``measure`` and ``treatment``;
        ``active_units`` and ``seconds`` of training, means over seeds; ``parameters``; the folders
        ``runs`` and which of them were ``reused``. In nats per example.

    Raises:
        ValueError: if an option is outside its range, or as :func:`candidates`.
        KeyboardInterrupt: on Ctrl-C, with what was done kept.
    """
    for name, value in (("seeds", seeds), ("samples", samples), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    chosen, left_out = candidates(settings, varied, trusted=trusted)
    name = chosen[0].config.data["name"]
    folder = Path("runs") / f"compare-{Path(name).stem}" if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    first_seed = chosen[0].config.training["seed"]
    jobs = [(c, seed) for c in chosen for seed in range(first_seed, first_seed + seeds)]
    results: dict[str, list[_Result]] = {candidate.label: [] for candidate in chosen}
    try:
        for number, (candidate, seed) in enumerate(jobs, 1):
            about = f"{number} of {len(jobs)}: {candidate.label}, seed {seed}"
            result = _run(
                candidate,
                candidate.with_seed(seed),
                folder,
                trusted,
                {"samples": samples, "limit": limit},
                (about, reporting, counting),
            )
            results[candidate.label].append(result)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from error
    rows = [_row(candidate, results[candidate.label], samples) for candidate in chosen]
    for row, candidate in zip(rows, chosen, strict=True):
        row["difference"] = None
        reference = rows[0]
        bounded = NO_BOUND not in (row["kind"], reference["kind"])
        if row is not reference and bounded and not _apart(row, reference):
            both = (_of(results[c.label], "log_evidence") for c in (candidate, chosen[0]))
            row["difference"] = _estimate(torch.sub(*both))
    summary = {
        "folder": str(folder),
        "data": chosen[0].dataset.name,
        "images": len(results[chosen[0].label][0].bounds.elbo),
        "samples": samples,
        "seeds": seeds,
        "varied": list(chosen[0].chosen),
        "left_out": left_out,
        "rows": rows,
    }
    write_text(folder / "comparison.json", as_json(summary, indent=2) + "\n")
    write_text(folder / "comparison.txt", "\n".join(comparison_table(summary)) + "\n")
    _draw(summary, [results[candidate.label][0].vae for candidate in chosen], folder)
    return summary


def comparison_table(summary: Mapping[str, Any]) -> list[str]:
    """Lines for what :func:`compare` gives.

    Args:
        summary: of it.
    """
    rows, varied = summary["rows"], summary["varied"]
    labels = [", ".join(row[role] for role in varied) for row in rows]
    in_bits = len({row["likelihood"] for row in rows if "likelihood" in row}) > 1
    columns = {
        ", ".join(varied): labels,
        "log p(x) at least": [_plus_minus(row["log_evidence"]) for row in rows],
        f"against {labels[0]}": [
            "" if row["difference"] is None else _plus_minus(row["difference"], "+") for row in rows
        ],
        "bits/dim": [
            ""
            if row["bits_per_dimension"] is None
            else _plus_minus(row["bits_per_dimension"], digits=4)
            for row in rows
        ],
        "rate": [_plus_minus(row["rate"]) for row in rows],
        "distortion": [_plus_minus(row["distortion"]) for row in rows],
        "active": [f"{row['active_units']:.3g} of {row['latent_dim']}" for row in rows],
        "parameters": [f"{row['parameters']:,}" for row in rows],
        "seconds": [f"{row['seconds']:.0f}" for row in rows],
    }
    if not in_bits:
        del columns["bits/dim"]
    seeds = f" and {summary['seeds']} seeds" if summary["seeds"] > 1 else ", of one seed"
    about = (
        f"{summary['data']}, {summary['images']:,} test examples, {summary['samples']:,} samples "
        f"each; nats per example, +- standard error over examples{seeds}"
    )
    lines = [about]
    widths = [max(map(len, [title, *cells])) for title, cells in columns.items()]
    for cells in [list(columns), *zip(*columns.values(), strict=True)]:
        first, *others = zip(cells, widths, strict=True)
        line = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
        lines.append("  ".join(line).rstrip())
    named = list(zip(labels, rows, strict=True))
    lines += [f"{text}: {row['kind']}" for text, row in named if row["kind"] == NO_BOUND]
    apart = [text for text, row in named if _apart(row, rows[0])]
    if apart:
        lines.append(
            f"not to be compared with {labels[0]}, since the data are treated in another way or "
            f"one is a density and the other a probability: {', '.join(apart)}"
        )
    return lines


def _apart(row: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    return any(row[key] != reference[key] for key in ("measure", "treatment"))


def _plus_minus(estimate: Mapping[str, Any], sign: str = "", digits: int = 2) -> str:
    error = estimate["standard_error"]
    plus_minus = "" if error is None else f" +- {error:.{digits}f}"
    return f"{estimate['estimate']:{sign}.{digits}f}{plus_minus}"


def _with(
    settings: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    model = {role: spec for role, spec in chosen.items() if role != "objective"}
    training = {role: spec for role, spec in chosen.items() if role == "objective"}
    return {
        "data": dict(settings.get("data", {})),
        "model": dict(settings.get("model", {})) | model,
        "training": dict(settings.get("training", {})) | training,
    }


@suggesting_pairs()
def _check(candidate: Candidate, trusted: Collection[str]) -> None:
    config = candidate.config
    vae, objective = config.build(trusted=trusted), config.objective(trusted=trusted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are for the runs themselves
        check(vae, candidate.dataset.train, objective)


def _run(
    candidate: Candidate,
    config: Config,
    folder: Path,
    trusted: Collection[str],
    evaluation: Mapping[str, Any],
    telling: tuple[str, Reporting | None, Counting | None],
) -> _Result:
    """A run with this configuration: found or trained, and evaluated."""
    about, reporting, counting = telling
    dataset = candidate.dataset
    found = _find(config, dataset, (folder, folder.parent))
    if found is None or not _is_done(found):
        path = found or _free(folder, f"{candidate.label}-seed-{config.training['seed']}")
        with contextlib.nullcontext() if reporting is None else reporting(about) as report:
            _, vae, trained = start(
                config, dataset, path, trusted=trusted, resume=found is not None, report=report
            )
        run = Run.open(path, trusted=trusted)
    else:
        run = Run.open(found, trusted=trusted)
        vae, trained = run.vae(), None
    total = min(evaluation["limit"] or len(dataset.test), len(dataset.test))
    telling_count = contextlib.nullcontext() if counting is None else counting(about, total)
    with telling_count as advance:
        every = per_example(
            vae, dataset.test, **evaluation, store=run.folder / BOUNDS, advance=advance
        )
    if trained is not None:
        run.finish(vae, dataset, trained, **evaluation, store=run.folder / BOUNDS)
    return _Result(
        run.folder,
        trained is None,
        vae,
        every,
        active_units(vae, dataset.test, limit=LATENTS),
        run.summary()["seconds"],
    )


def _find(config: Config, dataset: Dataset, roots: Sequence[Path]) -> Path | None:
    """The folder of a run that has this configuration and these data."""
    wanted, digest = _identity(config), dataset.digest()
    for path in (path for root in roots for path in sorted(root.glob(f"*/{CONFIG}"))):
        with contextlib.suppress(ValueError, OSError):  # a damaged or foreign folder
            same_data = (path.parent / DIGEST).read_text().strip() == digest
            if same_data and _identity(Config.opened(path)) == wanted:
                return path.parent
    return None


def _identity(config: Config) -> str:
    """All settings but those that change nothing in the result."""
    tables = {
        table: {n: v for n, v in sorted(getattr(config, table).items()) if n not in CHANGEABLE}
        for table in ("data", "model", "training")
    }
    return Config(**tables).to_toml()


def _is_done(folder: Path) -> bool:
    """Whether a run has been trained to its end and summed up."""
    try:
        return bool(json.loads((folder / SUMMARY).read_text())["stopped"] != "max_minutes")
    except (OSError, ValueError, KeyError):
        return False


def _free(folder: Path, label: str) -> Path:
    stem = re.sub(r"[^\w.=+-]+", "-", label)
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
    return next(path for name in names if not (path := folder / name).exists())


def _of(results: Sequence[_Result], name: str) -> Tensor:
    """One quantity of all runs of a model ``(seeds, images)``."""
    return torch.stack([getattr(result.bounds, name).double() for result in results])


def _estimate(values: Tensor) -> dict[str, float | None]:
    """The mean of ``values`` ``(seeds, images)``, and its error over both."""
    seeds, images = values.shape
    over_images = (values.mean(0).std() / math.sqrt(images)).item() if images > 1 else None
    over_seeds = (values.mean(1).std() / math.sqrt(seeds)).item() if seeds > 1 else None
    parts = [part for part in (over_images, over_seeds) if part is not None]
    return {
        "estimate": values.mean().item(),
        "standard_error": math.hypot(*parts) if parts else None,
        "over_images": over_images,
        "over_seeds": over_seeds,
    }


def _row(candidate: Candidate, results: Sequence[_Result], samples: int) -> dict[str, Any]:
    values = {field.name: _of(results, field.name) for field in fields(Bounds)}
    vae, data = results[0].vae, candidate.config.data
    with torch.no_grad(), torch.random.fork_rng():
        discrete = is_discrete(vae.likelihood(vae.prior().sample()))
    evidence, bits = _estimate(values["log_evidence"]), None
    if discrete:
        each = bits_per_dimension(1.0, data["event_shape"])  # of one nat
        bits = _estimate(each * values["log_evidence"])
    return dict(candidate.chosen) | {
        "log_evidence": evidence,
        "elbo": _estimate(values["elbo"]),
        "rate": _estimate(values["kl"]),
        "distortion": _estimate(-values["reconstruction"]),
        "kind": kind(vae, candidate.dataset.test, samples),
        "measure": "probability" if discrete else "density",
        "treatment": f"binarization {data['binarization']}, scaling {data['scaling']}",
        "bits_per_dimension": bits,
        "active_units": sum(result.active_units for result in results) / len(results),
        "latent_dim": vae.latent_dim,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "seconds": sum(result.seconds for result in results) / len(results),
        "runs": [str(result.folder) for result in results],
        "reused": [result.reused for result in results],
    }


@torch.no_grad()
def _draw(summary: Mapping[str, Any], vaes: Sequence[VAE], folder: Path) -> None:
    from pyrovae import plots

    images = []
    with torch.random.fork_rng():
        for vae in vaes:
            torch.manual_seed(0)
            images.append(vae.decode(vae.prior().sample((DRAWS,))).cpu().numpy())
    figure = plots.comparison(summary, images if images[0].ndim == 4 else None)
    plots.save(figure, folder / "comparison.png")
