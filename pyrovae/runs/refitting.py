r"""Another prior for a trained VAE: fitted to the aggregate posterior, with q and decoder held.

.. math::
    \max_{p} \; \mathbb{E}_{q(z)} \log p(z), \qquad
    q(z) = \mathbb{E}_{\text{data}} \, q(z \mid x)

The ELBO depends on the prior by this term alone, so that it is the ELBO that is maximised, over the
prior's parameters. It changes by as much as :math:`\mathrm{KL}(q(z) \,\|\, p(z))` falls, since the
entropy of :math:`q(z)` is the same before and after.
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import plots
from pyrovae._process.files import (
    tensor_bytes,
    whole_folder,
    write_bytes,
    write_tensors,
    write_text,
)
from pyrovae._process.isolation import evaluating, isolated, stream
from pyrovae.data import Dataset, Split
from pyrovae.distributions import is_discrete, is_point
from pyrovae.estimates import Estimate, Examples
from pyrovae.evidence import kind, per_example
from pyrovae.objectives import Elbo
from pyrovae.runs.config import DATA_SETTINGS, Config
from pyrovae.runs.export import as_json
from pyrovae.runs.pairs import suggesting_pairs
from pyrovae.runs.run import CONFIG, FIGURES, STATISTICS, Run
from pyrovae.runs.specs import Spec
from pyrovae.training import METRICS, MODEL, Fit, Progress, fit
from pyrovae.vae import VAE

__all__ = ["REFIT", "change", "refit", "refit_run"]

REFIT = "refit.json"
"""In the folder of a refitted run: where it comes from, and what changed."""

SUMMARY_SAMPLES = 100

KL_ESTIMATOR = "mean of log p_before(z) - log p_after(z), z ~ q(z | x), over the examples"


def refit(
    vae: VAE,
    prior: Callable[[], Any],
    data: Dataset | Split | Tensor | np.ndarray,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
) -> tuple[VAE, Fit]:
    """Fit another prior to the aggregate posterior of a trained VAE.

    It is :func:`pyrovae.fit` with q and decoder held: their weights are the same to the bit, and
    they are in eval mode. Of a dataset the validation part chooses the prior's weights.

    Args:
        vae: trained; left as it is.
        prior: p(z) over the same space. One that is made of the posterior, as ``vamp``, is made of
            the VAE's own.
        data: that it was trained on.
        epochs, batch_size, learning_rate, seed, report: as for :func:`pyrovae.fit`.

    Returns:
        A VAE of the new prior with the posterior and likelihood of ``vae``, the same objects; and
        what the fit did.

    Raises:
        ValueError: if the posterior is a point, or the prior over another space.
        Exception: as :func:`pyrovae.fit` otherwise.
    """
    held = _Held(prior, vae.likelihood, vae.posterior)
    if held.latent_dim != vae.latent_dim:
        raise ValueError(
            f"the prior is over z of {held.latent_dim} dimensions, and the VAE's z has "
            f"{vae.latent_dim}; give it latent_dim={vae.latent_dim}"
        )
    train = data.train if isinstance(data, Dataset) else data
    train = train if isinstance(train, Split) else Split.from_array(train)
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
            data,
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
    data: Examples,
    *,
    samples: int = 1_000,
    limit: int | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    r"""What another prior changes, for two VAEs with the same posterior and likelihood.

    .. math::
        \mathrm{KL}(q(z) \,\|\, p'(z)) - \mathrm{KL}(q(z) \,\|\, p(z))
        = \mathbb{E}_{q(z)} [\log p(z) - \log p'(z)]

    Both are evaluated on the same draws of z for each example, so that the differences have
    standard errors of their own, of pairs.

    Args:
        before: with the prior p.
        after: with the prior p'.
        data: one part of a dataset, usually the test set; :math:`q(z)` is of these examples.
        samples: draws for each example.
        limit: only the first so many examples.
        seed: of the draws.
        advance: told the number of examples after each batch, of both VAEs.

    Returns:
        ``marginal_kl``, with the ``change`` and its ``estimator``; ``elbo`` and ``log_evidence``,
        with estimates ``before`` and ``after`` and their ``change``; ``samples``, ``images``,
        ``kind`` of the bound. In nats per example.

    Raises:
        ValueError: if ``samples`` or ``limit`` is not positive.
    """
    bounds = [
        per_example(vae, data, samples=samples, limit=limit, seed=seed, advance=advance)
        for vae in (before, after)
    ]
    old, new = bounds

    def three(name: str) -> dict[str, Any]:
        values = [getattr(bound, name) for bound in bounds]
        return {
            "before": Estimate.of(values[0]).to_dict(),
            "after": Estimate.of(values[1]).to_dict(),
            "change": Estimate.of(values[1] - values[0]).to_dict(),
        }

    return {
        "marginal_kl": {
            "change": Estimate.of(new.kl - old.kl).to_dict(),
            "estimator": KL_ESTIMATOR,
        },
        "elbo": three("elbo"),
        "log_evidence": three("log_evidence")
        | {"kind": f"{kind(after, data, samples)}; the change is of two bounds, and none itself"},
        "samples": samples,
        "images": len(new.elbo),
    }


@suggesting_pairs()
def refit_run(
    run: Run,
    prior: str,
    out: Path | None = None,
    *,
    trusted: Collection[str] = (),
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    samples: int = 1_000,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    reporting: Callable[[str], AbstractContextManager[Callable[[Progress], None]]] | None = None,
    counting: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] | None = None,
) -> dict[str, Any]:
    """Refit a run's prior into the folder of a new run, which appears whole at the end.

    The folder has the new prior in ``config.toml``, the settings of the refit as its training, and
    in ``refit.json`` what is returned here. It has nothing to resume from, and no comparison takes
    it for a run that was trained with that prior.

    Args:
        run: with a trained VAE.
        prior: spec of the new one.
        out: folder of the new run; by default the first of ``RUN-PRIOR-1``, ... that is not taken.
        trusted: ``module:attribute`` names that may be imported for the new prior.
        epochs, batch_size, learning_rate: as for :func:`refit`.
        samples, limit: as for :func:`change`, on the test set.
        seed: of the fit and of the draws.
        data_dir: where named datasets are now, if not where they were.
        reporting: makes what reports the fit, from a line about it.
        counting: makes what counts examples, from a description and their number.

    Returns:
        What :func:`change` gives, and ``refit_from``, ``run``, ``prior`` before and after,
        ``parameters`` of the new one, ``epochs``, ``best_epoch``, ``figure``.

    Raises:
        FileExistsError: if ``out`` exists.
        ValueError: as :func:`refit`, and if the spec is none of a prior.
    """
    spec = Spec.parse(prior)
    out = out or _free(run.folder, spec)
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder with --out")
    trusted = frozenset(trusted) | run.trusted
    data = {n: v for n, v in run.config.data.items() if n in DATA_SETTINGS}
    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    settings: dict[str, dict[str, Any]] = {
        "data": data if data_dir is None else data | {"data_dir": data_dir},
        "model": dict(run.config.model) | {"prior": prior},
        "training": dict(_TRAINING) | options | {"seed": seed},
    }
    config, dataset = Config.resolve(settings, trusted=trusted)
    before, built = run.vae(), config.build(trusted=trusted)
    for role in ("likelihood", "posterior"):
        getattr(built, role).load_state_dict(getattr(before, role).state_dict())
    learned = sum(p.numel() for n, p in built.named_parameters() if n.startswith("prior."))
    about = (
        f"{run.folder}: q and decoder held, prior {config.model['prior']} of {learned:,} "
        f"parameters fitted to q(z) of {len(dataset.train):,} training examples"
    )
    with contextlib.nullcontext() if reporting is None else reporting(about) as report:
        after, fitted = refit(
            built,
            built.prior,
            dataset,
            epochs=epochs if learned else 1,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            report=report,
        )
    _check_held(before, after)
    after.eval()
    total = 2 * min(limit or len(dataset.test), len(dataset.test))
    what = f"{samples:,} samples each"
    with contextlib.nullcontext() if counting is None else counting(what, total) as advance:
        changed = change(
            before, after, dataset.test, samples=samples, limit=limit, seed=seed, advance=advance
        )
    priors = {"before": run.config.model["prior"], "after": config.model["prior"]}
    result = {
        "refit_from": str(run.folder.resolve()),
        "run": str(out),
        "prior": priors,
        "parameters": learned,
        "epochs": len(fitted.metrics),
        "best_epoch": fitted.best_epoch,
        "seconds": round(fitted.seconds, 3),
        "seed": seed,
        "figure": str(out / FIGURES / "refit.png"),
    } | changed
    drawn = plots.refit_samples(before, after, dataset.test, *_short(priors), seed=seed)
    with whole_folder(out) as folder:
        write_text(folder / CONFIG, config.to_toml())
        write_tensors(folder / MODEL, after.state_dict())
        write_text(folder / METRICS, "".join(as_json(row) + "\n" for row in fitted.metrics))
        if dataset.statistics:
            statistics = {n: torch.from_numpy(array) for n, array in dataset.statistics.items()}
            write_bytes(folder / STATISTICS, tensor_bytes(statistics))
        write_text(folder / REFIT, as_json(result, indent=2) + "\n")
        Run.open(folder, trusted=trusted).finish(after, dataset, fitted, samples=SUMMARY_SAMPLES)
        plots.save(drawn, folder / FIGURES / "refit.png")
    return result


_TRAINING: Mapping[str, Any] = {
    "objective": "elbo",
    "warmup": 0.02,
    "weight_decay": 0.0,
    "clip_norm": None,
    "averaging": 0.0,
    "validate_every": 1,
}
"""Of a refit, in place of what the data's recipe says of training networks."""


class _Held(VAE):
    """A VAE that stays in eval mode: without dropout, with a discrete latent as it is reported."""

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
            "no bound or KL divergence that another prior could change; take a run whose posterior "
            "has one"
        )


def _check_held(before: VAE, after: VAE) -> None:
    for role in ("likelihood", "posterior"):
        pairs = (getattr(vae, role).state_dict() for vae in (before, after))
        old, new = pairs
        if not all(torch.equal(value, new[name].cpu()) for name, value in old.items()):
            raise RuntimeError(f"the weights of the {role} were to be held and have changed")


def _free(folder: Path, spec: Spec) -> Path:
    """The first of ``<run>-<prior>-<n>``, beside the run, that is not taken."""
    folder = folder.resolve()
    stem = f"{folder.name}-{spec.name.replace(':', '.')}"
    names = (folder.with_name(f"{stem}-{n}") for n in itertools.count(1))
    path = next(path for path in names if not path.exists())
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _short(priors: Mapping[str, str]) -> list[str]:
    """The names of two priors, with their options if the names are the same."""
    specs = [Spec.parse(priors[when]) for when in ("before", "after")]
    short = [spec.name for spec in specs]
    return short if short[0] != short[1] else list(map(str, specs))
