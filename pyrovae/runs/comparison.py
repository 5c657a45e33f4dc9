r"""Models side by side: the same data, network, budget and seeds, with one component exchanged.

The bounds on log p(x) of two models are compared on the same test examples and the same seeds, so
that easy examples and lucky seeds cancel from their difference.
"""

import contextlib
import itertools
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import evidence, plots
from pyrovae._process.choices import check_choice
from pyrovae._process.files import contents, expanded, write_text
from pyrovae._process.isolation import isolated
from pyrovae.data import Dataset
from pyrovae.diagnostics import active_units
from pyrovae.distributions import ColumnProduct, base, is_discrete
from pyrovae.estimates import number_of_examples
from pyrovae.runs.compared import ComparedModel, Comparison, SeedEstimate
from pyrovae.runs.config import Config
from pyrovae.runs.export import as_json
from pyrovae.runs.records import CONFIG, DIGEST, read_summary
from pyrovae.runs.run import CHANGEABLE, Run
from pyrovae.runs.settings import SETTINGS, Settings
from pyrovae.runs.starting import Counting, Reporting, check_place, silent, start, suggesting_pairs
from pyrovae.training import MODEL, check, check_meaning
from pyrovae.vae import VAE

__all__ = ["ROLES", "Candidate", "candidates", "compare", "measure"]

BOUNDS = "bounds.safetensors"
DRAWS = 12  # images of each model in the figure
LATENTS = 1_000  # examples used to count active units

ROLES = ("prior", "posterior", "likelihood", "objective")
"""The roles that can be varied, in the order of the table's columns."""


@dataclass(frozen=True)
class Candidate:
    """One of the models in a comparison.

    Attributes:
        config: configuration of its runs, with the first seed.
        dataset: the dataset that ``config`` was resolved with.
        chosen: the spec of each role that is varied.

    Example:
        >>> from pyrovae.runs import candidates
        >>> (candidate,), _ = candidates({}, {"prior": ["laplace"]})
        >>> candidate.label, candidate.with_seed(3).training["seed"]
        ('laplace', 3)
    """

    config: Config
    dataset: Dataset
    chosen: Mapping[str, str]

    @property
    def label(self) -> str:
        """The varied specs, joined by commas."""
        return ", ".join(self.chosen.values())

    def with_seed(self, seed: int) -> Config:
        """Its configuration under another seed."""
        return replace(self.config, training=dict(self.config.training) | {"seed": seed})


def candidates(
    settings: Settings, varied: Mapping[str, Sequence[str]], *, trusted: Collection[str] = ()
) -> tuple[list[Candidate], list[str]]:
    """Combine the listed components, and build each model once to check that its parts fit.

    Args:
        settings: of all runs, as for :meth:`pyrovae.Config.resolve`.
        varied: the specs to compare, for some of ``ROLES``.
        trusted: ``module:attribute`` names that may be imported.

    Returns:
        The candidates, and a line for each combination left out because its parts do not fit.

    Raises:
        ValueError: if nothing is varied, a spec is listed twice, or a spec fits none of the others.

    Example:
        >>> from pyrovae.runs import candidates
        >>> found, left_out = candidates(
        ...     {}, {"prior": ["normal", "sphere"], "posterior": ["power_spherical", "diagonal"]}
        ... )
        >>> [candidate.label for candidate in found]
        ['normal, diagonal', 'sphere, power_spherical']
        >>> len(left_out)
        2
    """
    lists = _checked(varied)
    found: list[Candidate] = []
    refused: dict[tuple[str, ...], str] = {}
    datasets: dict[str, Dataset] = {}
    for specs in itertools.product(*lists.values()):
        chosen = dict(zip(lists, specs, strict=True))
        config, dataset = Config.resolve(_with(settings, chosen), trusted=trusted)
        dataset = datasets.setdefault(as_json(dict(config.data)), dataset)
        candidate = Candidate(config, dataset, chosen)
        try:
            _check_parts(candidate, trusted)
        except ValueError as error:
            refused[specs] = str(error)
        else:
            found.append(candidate)
    for place, specs in enumerate(lists.values()):
        for spec in specs:
            if not any(spec == list(candidate.chosen.values())[place] for candidate in found):
                raise ValueError(next(why for c, why in refused.items() if c[place] == spec))
    return found, [f"{', '.join(specs)} is left out: {why}" for specs, why in refused.items()]


def _checked(varied: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    lists = {role: tuple(specs) for role, specs in varied.items() if specs}
    if not lists:
        raise ValueError(f"nothing to compare; list specs for {', '.join(ROLES)}")
    for role, specs in lists.items():
        check_choice("role", role, ROLES)
        for spec in specs:
            if specs.count(spec) > 1:
                raise ValueError(f"the {role} {spec} is listed twice")
    return lists


def _with(settings: Settings, chosen: Mapping[str, str]) -> Settings:
    tables = {table: dict(settings.get(table, {})) for table in SETTINGS}
    for role, spec in chosen.items():
        tables["training" if role == "objective" else "model"][role] = spec
    return tables


@suggesting_pairs()
def _check_parts(candidate: Candidate, trusted: Collection[str]) -> None:
    config = candidate.config
    vae, objective = config.build(trusted=trusted), config.objective(trusted=trusted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs themselves repeat them
        check(vae, candidate.dataset.train, objective)


def compare(
    settings: Settings,
    varied: Mapping[str, Sequence[str]],
    *,
    seeds: int = 3,
    samples: int = 1_000,
    proposal: str = "auto",
    limit: int | None = None,
    out: str | Path | None = None,
    trusted: Collection[str] = (),
    reporting: Reporting | None = None,
    counting: Counting | None = None,
) -> Comparison:
    """Train the same VAE with each of several components, and compare the bounds on the test set.

    Each run is an ordinary run, as ``pyrovae fit`` makes it, with a folder in ``out``. A finished
    run in ``out`` or beside it with the same configuration and data is reused; an unfinished one is
    resumed. Calling the function again resumes an interrupted comparison. User-defined components
    are assumed unchanged: after editing one, remove the folders of its runs.

    Args:
        settings: of all runs, as for :meth:`pyrovae.Config.resolve`.
        varied: the specs to compare, for some of ``ROLES``; every combination is trained.
        seeds: runs per model, with consecutive seeds from the one in ``settings`` (0).
        samples: draws of the importance-weighted bound for each test example.
        proposal: what they are drawn from, as for :func:`pyrovae.evidence.per_example`: draws of q
            alone favor models whose posteriors are easy. ``"auto"``: the same for all models, as
            :func:`pyrovae.evidence.affordable` says.
        limit: use only the first ``limit`` test examples.
        out: folder of the comparison, by default ``runs/compare-<data>``. It receives
            ``comparison.json``, ``comparison.txt`` and ``comparison.png``, and for several weights
            of the KL term ``rate_distortion.png``; older ones are replaced.
        trusted: ``module:attribute`` names that may be imported.
        reporting: from a line about a run, a context with a callback for its training progress.
        counting: likewise for evaluations, from a description and a number of examples.

    Returns:
        The comparison, as ``comparison.json`` holds it.

    Raises:
        ValueError: if an option is outside its range, or as :func:`candidates`.
        KeyboardInterrupt: on Ctrl-C; finished work is kept.

    Example:
        >>> from pyrovae.runs import compare
        >>> network = "mlp:hidden_dims=4"
        >>> settings = {
        ...     "model": {"latent_dim": 1, "encoder": network, "decoder": network},
        ...     "training": {"epochs": 1, "batch_size": 1000},
        ... }
        >>> found = compare(settings, {"prior": ["normal"]}, seeds=1, samples=2, limit=20)
        >>> found.rows[0].chosen, found.examples
        ({'prior': 'normal'}, 20)
    """
    for name, value in (("seeds", seeds), ("samples", samples), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    chosen, left_out = candidates(settings, varied, trusted=trusted)
    if proposal == "auto":
        vaes = [candidate.config.build(trusted=trusted) for candidate in chosen]
        count = number_of_examples(chosen[0].dataset.test, limit)
        proposal = evidence.affordable(vaes, count, samples)
    evidence.check_proposal(proposal, samples)
    name = chosen[0].config.data["name"]
    folder = Path("runs") / f"compare-{Path(name).stem}" if out is None else expanded(out)
    check_place(folder)
    train = partial(
        _trained,
        folder=folder,
        trusted=trusted,
        reporting=reporting or silent,
        counting=counting or silent,
        samples=samples,
        proposal=proposal,
        limit=limit,
    )
    first = chosen[0].config.training["seed"]
    by_model: list[list[_Trained]] = [[] for _ in chosen]
    jobs = list(itertools.product(zip(chosen, by_model, strict=True), range(first, first + seeds)))
    try:
        for number, ((candidate, trained), seed) in enumerate(jobs, 1):
            about = f"{number} of {len(jobs)}: {candidate.label}, seed {seed}"
            trained.append(train(candidate, seed, about))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; repeat the command to resume") from error
    except OSError as error:
        if not error.errno:  # it says what to do
            raise
        raise OSError(
            f"{error.filename}: {error.strerror}; free some space or allow writing, then repeat "
            "the command to resume"
        ) from error
    found = Comparison(
        folder=str(folder),
        data=chosen[0].dataset.name,
        examples=len(by_model[0][0].bounds.elbo),
        samples=samples,
        seeds=seeds,
        varied=list(chosen[0].chosen),
        left_out=left_out,
        rows=_rows(chosen, by_model),
    )
    write_text(folder / "comparison.json", as_json(found.to_dict(), indent=2) + "\n")
    write_text(folder / "comparison.txt", "\n".join(found.table()) + "\n")
    _draw(found, [runs[0].vae for runs in by_model], folder)
    return found


@dataclass(frozen=True)
class _Trained:
    """A trained model, and its bounds on each test example."""

    folder: Path
    reused: bool
    vae: VAE
    kind: str
    bounds: evidence.WeightedBounds
    active_units: int
    seconds: float


def _trained(
    candidate: Candidate,
    seed: int,
    about: str,
    *,
    folder: Path,
    trusted: Collection[str],
    reporting: Reporting,
    counting: Counting,
    **evaluation: Any,
) -> _Trained:
    """A run of a candidate with this seed: reused, resumed or trained, and evaluated."""
    config, dataset = candidate.with_seed(seed), candidate.dataset
    found = find_run(config, dataset, (folder, folder.parent), trusted)
    path = found or _free(folder, f"{candidate.label}-seed-{seed}")
    if found is not None and _is_done(found):
        vae, fitted = Run.open(path, trusted=trusted).vae(), None
    else:
        resume = found is not None
        with reporting(about) as report:
            _, vae, fitted = start(
                config, dataset, path, trusted=trusted, resume=resume, report=report
            )
    run = Run.open(path, trusted=trusted)
    evaluation["store"] = path / BOUNDS
    with counting(about, number_of_examples(dataset.test, evaluation["limit"])) as progress:
        result = evidence.evaluate(vae, dataset.test, progress=progress, **evaluation)
    if fitted is not None:
        run.finish(vae, dataset, fitted, **evaluation)
    active, seconds = active_units(vae, dataset.test, limit=LATENTS), run.summary().seconds
    kind, bounds = result.log_evidence.kind, result.per_example
    return _Trained(path, fitted is None, vae, kind, bounds, active, seconds)


def find_run(
    config: Config, dataset: Dataset, roots: Sequence[Path], trusted: Collection[str] = ()
) -> Path | None:
    """Find the folder of a run with this configuration and these data.

    One whose weights meant something else is left out, see :func:`pyrovae.training.check_meaning`.

    Args:
        config: of the run.
        dataset: that ``config`` was resolved with.
        roots: folders that hold folders of runs.
        trusted: ``module:attribute`` names that may be imported.
    """
    wanted, digest = _identity(config), dataset.digest()
    for path in (path for root in roots for path in sorted(root.glob(f"*/{CONFIG}"))):
        with contextlib.suppress(ValueError, OSError):  # a damaged or foreign folder
            same_data = contents(path.parent / DIGEST).decode().strip() == digest
            if same_data and _identity(Config.opened(path)) == wanted:
                check_meaning(config.build(trusted=trusted), path.parent / MODEL)
                return path.parent
    return None


def _identity(config: Config) -> str:
    """All settings that affect the result."""
    tables = {
        table: {n: v for n, v in sorted(getattr(config, table).items()) if n not in CHANGEABLE}
        for table in SETTINGS
    }
    return Config(**tables).to_toml()


def _is_done(folder: Path) -> bool:
    """Whether a run has been trained to its end and has a summary."""
    try:
        return read_summary(folder).stopped != "max_minutes"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _free(folder: Path, label: str) -> Path:
    stem = re.sub(r"[^\w.=+-]+", "-", label)
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
    return next(path for name in names if not (path := folder / name).exists())


def _rows(
    chosen: Sequence[Candidate], by_model: Sequence[Sequence[_Trained]]
) -> list[ComparedModel]:
    rows: list[ComparedModel] = []
    for candidate, runs in zip(chosen, by_model, strict=True):
        row = _row(candidate, runs)
        if (
            rows
            and evidence.NO_BOUND not in (row.kind, rows[0].kind)
            and row.is_comparable(rows[0])
        ):
            both = (_stacked(each, "log_evidence") for each in (runs, by_model[0]))
            row = replace(row, difference=SeedEstimate.from_runs(torch.sub(*both)))
        rows.append(row)
    return rows


def _row(candidate: Candidate, runs: Sequence[_Trained]) -> ComparedModel:
    names = ("elbo", "reconstruction", "kl", "log_evidence", "at_a_tenth")
    values = {name: _stacked(runs, name) for name in names}
    vae, data = runs[0].vae, candidate.config.data
    measured = measure(vae)
    bits = None
    if measured == "probability":
        each = evidence.bits_per_dimension(1.0, data["event_shape"])  # of one nat
        bits = SeedEstimate.from_runs(each * values["log_evidence"])
    rise = None
    if runs[0].kind != evidence.NO_BOUND and not values["at_a_tenth"].isnan().any():
        rise = SeedEstimate.from_runs(values["log_evidence"] - values["at_a_tenth"])
    return ComparedModel(
        chosen=candidate.chosen,
        log_evidence=SeedEstimate.from_runs(values["log_evidence"]),
        rise=rise,
        elbo=SeedEstimate.from_runs(values["elbo"]),
        rate=SeedEstimate.from_runs(values["kl"]),
        distortion=SeedEstimate.from_runs(-values["reconstruction"]),
        kind=runs[0].kind,
        measure=measured,
        treatment=f"binarization {data['binarization']}",
        bits_per_dimension=bits,
        active_units=sum(run.active_units for run in runs) / len(runs),
        latent_dim=vae.latent_dim,
        parameters=sum(p.numel() for p in vae.parameters()),
        seconds=sum(run.seconds for run in runs) / len(runs),
        runs=[str(run.folder) for run in runs],
        reused=[run.reused for run in runs],
        difference=None,
    )


@torch.no_grad()
def measure(vae: VAE) -> str:
    """Say what log p(x | z) is of x: a probability, a density, or one in some columns.

    Args:
        vae: the model.

    Example:
        >>> from pyrovae.runs import measure
        >>> measure(vae)
        'probability'
    """
    with isolated():
        likelihood = vae.likelihood(vae.prior().sample())
    product = base(likelihood)
    if is_discrete(likelihood) or not isinstance(product, ColumnProduct):
        return "probability" if is_discrete(likelihood) else "density"
    parts = zip(product.groups, product.columns, strict=True)
    columns = sorted(1 + int(at) for group, part in parts if is_discrete(group) for at in part)
    return f"density, but probability in columns {columns}" if columns else "density"


def _stacked(runs: Sequence[_Trained], name: str) -> Tensor:
    """One quantity of all runs of a model ``(seeds, examples)``."""
    return torch.stack([getattr(run.bounds, name).double() for run in runs])


@torch.no_grad()
def _draw(found: Comparison, vaes: Sequence[VAE], folder: Path) -> None:
    images = []
    with isolated():
        for vae in vaes:
            torch.manual_seed(0)
            images.append(vae.decode(vae.prior().sample((DRAWS,))).cpu().numpy())
    figure = plots.comparison(
        [row.label for row in found.rows],
        [row.log_evidence for row in found.rows],
        [row.against_first() for row in found.rows],
        images if images[0].ndim == 4 else None,
        title=f"{found.data}: same network, budget and seeds, another {', '.join(found.varied)}",
    )
    plots.save(figure, folder / "comparison.png")
    if betas := found.betas():
        seeds = f"{found.seeds} seeds" if found.seeds > 1 else "one seed"
        about = f"Rate and distortion of {found.data} for several weights β of the KL term, {seeds}"
        by_beta = sorted(zip(betas, found.rows, strict=True), key=lambda pair: pair[0])
        figure = plots.rate_distortion(
            [beta for beta, _ in by_beta],
            [row.rate for _, row in by_beta],
            [row.distortion for _, row in by_beta],
            title=about,
        )
        plots.save(figure, folder / "rate_distortion.png")
