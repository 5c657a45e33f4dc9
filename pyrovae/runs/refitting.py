r"""Another prior for a trained VAE, fitted to the aggregate posterior with q and decoder fixed.

.. math::
    \max_{p} \; \mathbb{E}_{q(z)} \log p(z), \qquad
    q(z) = \mathbb{E}_{\text{data}} \, q(z \mid x)

The ELBO depends on the prior through this term alone, so this maximizes the ELBO over the prior's
parameters. The ELBO rises by as much as :math:`\mathrm{KL}(q(z) \,\|\, p(z))` falls, since the
entropy of :math:`q(z)` does not change.

For a whole run, :func:`refit_run` writes the folder of a new one.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import plots
from pyrovae._process.files import (
    digest_of,
    expanded,
    lines_of,
    whole_folder,
    write_bytes,
    write_tensors,
    write_text,
)
from pyrovae._process.isolation import evaluating, isolated, stream
from pyrovae.data import DataLike, Dataset, as_split
from pyrovae.distributions import is_discrete, is_point, vector_size
from pyrovae.estimates import AnyExamples, Estimate, as_examples, number_of_examples
from pyrovae.evidence import evaluate, kind
from pyrovae.objectives import Elbo
from pyrovae.runs.config import Config
from pyrovae.runs.export import FIGURES, as_json
from pyrovae.runs.results import Paired, PriorChange, Refit
from pyrovae.runs.run import Run
from pyrovae.runs.specs import Spec
from pyrovae.runs.starting import (
    Counting,
    Reporting,
    check_place,
    files_of,
    first_free,
    silent,
    suggesting_pairs,
)
from pyrovae.training import METRICS, MODEL, Fit, Progress, fit
from pyrovae.vae import VAE

__all__ = ["REFIT", "change", "refit", "refit_run"]

REFIT = "refit.json"
"""The file in the folder of a refitted run that holds its origin, and what changed."""


_TRAINING: Mapping[str, Any] = {
    "objective": "elbo",
    "warmup": 0.02,
    "weight_decay": 0.0,
    "clip_norm": None,
    "averaging": 0.0,
    "validate_every": 1,
    "epochs": 100,
    "batch_size": 128,
    "learning_rate": 5e-3,
    "seed": 0,
}
"""Settings of a refit, in place of the data's recipe, which is meant for networks."""


def refit(
    vae: VAE,
    prior: Callable[[], Any],
    data: Dataset | DataLike,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
) -> tuple[VAE, Fit]:
    """Fit another prior to the aggregate posterior of a trained VAE.

    This is :func:`pyrovae.fit` with encoder and decoder fixed: they are in eval mode, and their
    weights stay the same to the bit. The validation part of a dataset chooses the prior's weights.

    Args:
        vae: trained; it is not changed.
        prior: p(z) over the same space. A prior built from a posterior, such as ``vamp``, must be
            built from this VAE's.
        data: the data that ``vae`` was trained on, a dataset or as
            :func:`pyrovae.data.as_split` takes them.
        epochs, batch_size, learning_rate, seed, report: as for :func:`pyrovae.fit`.

    Returns:
        A VAE with the new prior and the posterior and likelihood of ``vae``, the same objects; and
        the outcome of the fit.

    Raises:
        ValueError: if the posterior is a point, or the prior is over another space.
        Exception: as :func:`pyrovae.fit` otherwise.

    Example:
        >>> from pyrovae.priors import GaussianMixture
        >>> from pyrovae.runs import refit
        >>> prior = GaussianMixture(2, vae.posterior, components=3, start="data")
        >>> refitted, fitted = refit(vae, prior, x, epochs=2)
        >>> refitted.posterior is vae.posterior, len(fitted.metrics)
        (True, 2)
    """
    dimensions = vector_size(prior)
    if dimensions != vae.latent_dim:
        raise ValueError(
            f"the prior is over z of {dimensions} dimensions, and the VAE's z has "
            f"{vae.latent_dim}; give it latent_dim={vae.latent_dim}"
        )
    held = _Held(prior, vae.likelihood, vae.posterior)
    train = data.train if isinstance(data, Dataset) else as_split(data)
    index = np.linspace(0, len(train) - 1, min(len(train), 10_000)).astype(np.int64)
    x = vae.place(train.batch(index, np.random.default_rng(0)))
    device = x.device
    held.to(device)
    with isolated(device), evaluating(vae), _without_gradients(vae.likelihood, vae.posterior):
        torch.manual_seed(stream(seed, "initialize"))
        _check_density(vae, x[:1])
        held.check_data(x[:100])
        start = getattr(prior, "initialize", None)
        if start is not None:
            start(x)
        fitted = fit(
            held,
            data if isinstance(data, Dataset) else train,
            objective=Elbo(),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            device=device.type,
            seed=seed,
            initialize=False,
            report=report,
        )
    return VAE(prior, vae.likelihood, vae.posterior).train(vae.training), fitted


def change(
    before: VAE,
    after: VAE,
    data: AnyExamples,
    *,
    samples: int = 1_000,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> PriorChange:
    r"""Compare two VAEs that differ in their priors alone.

    .. math::
        \mathrm{KL}(q(z) \,\|\, p'(z)) - \mathrm{KL}(q(z) \,\|\, p(z))
        = \mathbb{E}_{q(z)} [\log p(z) - \log p'(z)]

    Both are evaluated on the same draws of z for each example, so the standard errors of the
    differences are those of paired values. Bounds of a split that scales are in the units of the
    data.

    Args:
        before: with the prior p.
        after: with the prior p', and the same posterior and likelihood.
        data: one part of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them; :math:`q(z)` averages over them.
        samples: draws for each example.
        limit: use only the first ``limit`` examples.
        seed: of the draws.
        progress: callback, called with the number of examples finished, of both VAEs.

    Raises:
        ValueError: if ``samples`` or ``limit`` is not positive.

    Example:
        >>> from pyrovae.priors import Laplace
        >>> from pyrovae.runs import change
        >>> other = pyrovae.VAE(Laplace(2), vae.likelihood, vae.posterior)
        >>> found = change(vae, other, data, samples=10)
        >>> round(found.elbo.change.value + found.marginal_kl.value, 6)
        0.0
    """
    data = as_examples(data)
    old, new = (
        evaluate(vae, data, samples=samples, limit=limit, seed=seed, progress=progress).per_example
        for vae in (before, after)
    )
    return PriorChange(
        marginal_kl=Estimate.of(new.kl - old.kl),
        elbo=Paired.of(old.elbo, new.elbo),
        log_evidence=Paired.of(old.log_evidence, new.log_evidence),
        kind=f"{kind(after, data, samples)}; the change is of two bounds, and none itself",
        samples=samples,
        examples=len(new.elbo),
    )


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
    out = _free(run.folder, prior) if out is None else expanded(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder with --out")
    check_place(out)
    trusted = frozenset(trusted) | run.trusted
    settings = {
        "data": run.located(data_dir),
        "model": dict(run.config.model) | {"prior": prior},
        "training": dict(_TRAINING) | dict(fitting),
    }
    config, dataset = Config.resolve(settings, trusted=trusted, download=data_dir is not None)
    seed = config.training["seed"]
    before = run.vae()
    built = config.build(trusted=trusted)
    for role in ("likelihood", "posterior"):
        getattr(built, role).load_state_dict(getattr(before, role).state_dict())
    learned = sum(p.numel() for n, p in built.named_parameters() if n.startswith("prior."))
    about = (
        f"{run.folder}: q and decoder held, prior {config.model['prior']} of {learned:,} "
        f"parameters fitted to q(z) of {len(dataset.train):,} training examples"
    )
    if not learned:
        fitting["epochs"] = 1
    with (reporting or silent)(about) as report:
        after, fitted = refit(built, built.prior, dataset, **fitting, report=report)
    _check_held(before, after)
    after.eval()
    total = 2 * number_of_examples(dataset.test, limit)
    with (counting or silent)(f"{samples:,} samples each", total) as progress:
        changed = change(
            before, after, dataset.test, samples=samples, limit=limit, seed=seed, progress=progress
        )
    result = Refit(
        refit_from=str(run.folder.resolve()),
        run=str(out),
        before=run.config.model["prior"],
        after=config.model["prior"],
        parameters=learned,
        epochs=len(fitted.metrics),
        best_epoch=fitted.best_epoch,
        seconds=round(fitted.seconds, 3),
        seed=seed,
        figure=str(out / FIGURES / "refit.png"),
        change=changed,
    )
    names = _short(result.before, result.after)
    drawn = plots.refit_samples(
        before, after, dataset.test, *names, seed=seed, schema=dataset.schema
    )
    with whole_folder(out) as folder:
        for name, contents in files_of(config, dataset).items():
            write_bytes(folder / name, contents)
        digests = {path.name: digest_of(path) for path in folder.iterdir()}
        rows = json.loads(as_json(fitted.metrics))
        write_tensors(folder / MODEL, after.state_dict(), {"files": digests, "metrics": rows})
        write_text(folder / METRICS, lines_of(rows))
        write_text(folder / REFIT, as_json(result.to_dict(), indent=2) + "\n")
        Run.open(folder, trusted=trusted).finish(after, dataset, fitted)
        plots.save(drawn, folder / FIGURES / "refit.png")
    return result


class _Held(VAE):
    """A VAE that stays in eval mode: no dropout, and a discrete latent is not relaxed."""

    def train(self, mode: bool = True) -> "_Held":
        return super().train(False)


@contextlib.contextmanager
def _without_gradients(*modules: Any) -> Iterator[None]:
    parameters = [p for module in modules for p in nn.Module.parameters(module)]
    flags = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


@torch.no_grad()
def _check_density(vae: VAE, x: Tensor) -> None:
    q = vae.posterior(x)
    if is_point(q) and not is_discrete(q):
        raise ValueError(
            f"the posterior {type(vae.posterior).__name__} is a point: it has no density, and so "
            "no bound or KL divergence that another prior could change; use a run whose posterior "
            "has a density"
        )


def _check_held(before: VAE, after: VAE) -> None:
    for role in ("likelihood", "posterior"):
        old, new = (getattr(vae, role).state_dict() for vae in (before, after))
        if not all(torch.equal(value, new[name].cpu()) for name, value in old.items()):
            raise RuntimeError(f"the weights of the {role} should be fixed, but have changed")


def _free(folder: Path, prior: str) -> Path:
    """The first of ``<run>-<prior>-<n>``, beside the run, that does not exist."""
    folder = folder.resolve()
    path = first_free(folder.parent, f"{folder.name}-{Spec.parse(prior).name.replace(':', '.')}")
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _short(before: str, after: str) -> tuple[str, str]:
    """The names of two priors, with their options if the names are the same."""
    old, new = Spec.parse(before), Spec.parse(after)
    return (old.name, new.name) if old.name != new.name else (str(old), str(new))
