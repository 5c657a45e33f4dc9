r"""What a trained VAE has learnt, in numbers and words: one report from its own three roles."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating
from pyrovae.data import Dataset, Split
from pyrovae.diagnostics.active_dimensions import ACTIVE, activity
from pyrovae.diagnostics.aggregate_posterior import points, population
from pyrovae.diagnostics.elbo_surgery import (
    DRAWS,
    AggregateDraws,
    aggregate_draws,
    no_density,
    surgery,
)
from pyrovae.diagnostics.two_sample import FEWEST, probe, two_samples
from pyrovae.vae import VAE

__all__ = ["LIMIT", "Diagnosis", "diagnose"]

LIMIT = 2_000
"""Examples that are looked at where nothing else is asked for."""

NEGLIGIBLE = 0.01  # of log N: mutual information below it is called none
ERRORS = 3  # standard errors within which a number is not told from zero
BATCH = 500  # examples at a time

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None] | None]]
Array = NDArray[Any]


@dataclass(frozen=True)
class Diagnosis:
    """A report, and the draws that it is made of.

    Attributes:
        report: what JSON can hold; see :func:`diagnose`.
        draws: of the posteriors of the test data; None for a posterior that is a point.
        z: one of each posterior ``(N, latent_dim)``.
        prior: as many draws from the prior.
        labels: the class of each test datum ``(N,)``, or None.
        samples: ``real``, and means of p(x | z) at draws of z: ``prior`` and ``aggregate``, each
            ``(n, *event_shape)``.
    """

    report: dict[str, Any]
    draws: AggregateDraws | None
    z: Array
    prior: Array
    labels: Array | None
    samples: Mapping[str, Array]


@torch.no_grad()
def diagnose(
    vae: VAE,
    dataset: Dataset,
    *,
    draws: int = DRAWS,
    limit: int = LIMIT,
    seed: int = 0,
    counting: Counting | None = None,
) -> Diagnosis:
    """Take the ELBO apart, set q(z) against p(z), and see what codes and samples are worth.

    Args:
        vae: trained; dropout and the like are switched off meanwhile.
        dataset: that it was trained on. Its test part is diagnosed; encodings of its training part
            train the probes and are decoded beside the prior's samples.
        draws: of the posterior of each datum.
        limit: only the first so many test data, and at most as many of the training part.
        seed: of all draws and tests.
        counting: from a line about the work and its amount to a context in which a function is told
            how much is done.

    Returns:
        In ``report``: ``surgery``, of :func:`pyrovae.diagnostics.surgery`, or None, with
        ``no_surgery``, the reason; ``population``, of :func:`pyrovae.diagnostics.population`;
        ``activity`` of each dimension, ``active_units``, ``latent_dim``;
        ``use_of_code``, what log p(x | z) loses, in nats per example, where z is of another datum;
        ``collapse`` with ``verdict`` (``none``, ``partial`` or ``full``) and ``reason``;
        ``samples``, with classifier two-sample tests of what the names say; ``probes``, accuracies
        of classes read from ``codes`` and from ``pixels``, their paired ``difference``, or None
        without labels; ``images``, ``available``, ``seed``.

    Raises:
        ValueError: if ``limit`` or ``draws`` is below two.
    """
    if limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}; an aggregate needs examples")
    count = min(limit, len(dataset.test))
    labels = None if dataset.test.labels is None else dataset.test.labels[:count]
    every = activity(vae, dataset.test, limit=count, seed=seed)
    with torch.random.fork_rng(), evaluating(vae):
        torch.manual_seed(derived(seed, 2))
        x = _rows(dataset.test, np.arange(count), seed)
        p = vae.prior()
        prior = p.sample((count,)).double().cpu()
        one = vae.posterior(vae.place(x[:2]))
        no_surgery = no_density(one)
        found, parts = None, None
        if no_surgery is None:
            telling = nullcontext() if counting is None else counting("densities", count)
            with telling as advance:
                found = aggregate_draws(
                    vae,
                    dataset.test,
                    labels=labels,
                    draws=draws,
                    limit=count,
                    seed=seed,
                    advance=advance,
                )
            parts, groups = surgery(found), population(found, prior, seed)
            z = found.z[:, 0]
        else:
            z = torch.cat([vae.posterior(vae.place(b)).sample().cpu() for b in x.split(BATCH)])
            groups = points(z, prior, labels, seed)
        telling = nullcontext() if counting is None else counting("samples and probes", 2)
        with telling as advance:
            samples, tests = _samples(vae, dataset, x, seed)
            if advance is not None:
                advance(1)
            probes = _probes(vae, dataset, x, labels, limit, seed)
            if advance is not None:
                advance(1)
    use = None if found is None else _use_of_code(found)
    active = int((every > ACTIVE).sum())
    report = {
        "images": count,
        "available": len(dataset.test),
        "seed": seed,
        "surgery": parts,
        "no_surgery": no_surgery,
        "population": groups,
        "activity": every.tolist(),
        "active_units": active,
        "latent_dim": vae.latent_dim,
        "use_of_code": use,
        "collapse": _collapse(parts, use, active, vae.latent_dim),
        "samples": tests,
        "probes": probes,
    }
    return Diagnosis(report, found, z.double().numpy(), prior.numpy(), labels, samples)


def _rows(split: Split, rows: Array, seed: int) -> Tensor:
    rng = np.random.default_rng([seed, 3])
    return torch.cat([split.batch(rows[i : i + BATCH], rng) for i in range(0, len(rows), BATCH)])


def _samples(
    vae: VAE, dataset: Dataset, real: Tensor, seed: int
) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    """What is decoded from p(z) and from the posteriors of training data, beside test data."""
    count = min(len(real), len(dataset.train))
    chosen = np.random.default_rng([seed, 4]).permutation(len(dataset.train))[:count]
    train = _rows(dataset.train, chosen, seed)
    latents = {
        "prior": vae.prior().sample((count,)).split(BATCH),
        "aggregate": [vae.posterior(vae.place(x)).sample() for x in train.split(BATCH)],
    }
    means, drawn = {}, {"test": real[:count], "training": train}
    for source, parts in latents.items():
        given = [vae.likelihood(z) for z in parts]
        means[source] = torch.cat([d.mean.cpu() for d in given]).double().numpy()
        drawn[source] = torch.cat([d.sample().cpu() for d in given])
    flat = {source: x.flatten(1).double().numpy() for source, x in drawn.items()}
    tests = [
        {"of": of, "against": against, "what": words}
        | (two_samples(flat[of], flat[against], seed) if count >= FEWEST else {"accuracy": None})
        for of, against, words in _COMPARISONS
    ]
    return means | {"real": real[:count].double().numpy()}, tests


_COMPARISONS = (
    ("prior", "test", "x ~ p(x|z), z ~ p(z), against test data"),
    ("aggregate", "test", "x ~ p(x|z), z ~ q(z|x') of training data x', against test data"),
    ("prior", "aggregate", "the two kinds of samples against each other"),
    ("training", "test", "real training data against test data: what no model is asked to beat"),
)


def _probes(
    vae: VAE, dataset: Dataset, x: Tensor, labels: Array | None, limit: int, seed: int
) -> dict[str, Any] | None:
    if labels is None or dataset.train.labels is None:
        return None
    chosen = np.random.default_rng([seed, 5]).permutation(len(dataset.train))[:limit]
    train, classes = _rows(dataset.train, chosen, seed), dataset.train.labels[chosen]
    if len(np.unique(classes)) < 2:
        return None
    inputs = {
        "codes": [
            torch.cat([vae.encode(vae.place(b)).cpu() for b in part.split(BATCH)])
            for part in (train, x)
        ],
        "pixels": [train.flatten(1), x.flatten(1)],
    }
    result: dict[str, Any] = {"trained_on": len(chosen), "tested_on": len(x)}
    right = {}
    for source, (a, b) in inputs.items():
        found = probe(a.double().numpy(), classes, b.double().numpy(), labels)
        right[source], result["chance"] = found.pop("right"), found.pop("chance")
        result[source] = found
    result["difference"] = {
        kind: _mean(torch.from_numpy(right["codes"][kind] * 1.0 - right["pixels"][kind] * 1.0))
        for kind in ("linear", "neighbours")
    }
    return result


def _use_of_code(draws: AggregateDraws) -> dict[str, float]:
    return _mean((draws.log_likelihood - draws.log_likelihood_of_others).mean(1))


def _mean(values: Tensor) -> dict[str, float]:
    error = values.double().std().item() / math.sqrt(len(values))
    return {"estimate": values.double().mean().item(), "standard_error": error}


def _collapse(
    parts: dict[str, Any] | None, use: dict[str, float] | None, active: int, latent_dim: int
) -> dict[str, str]:
    """Whether the code is used, and by which numbers one sees it."""
    units = f"{active} of {latent_dim} dimensions are active (variance of means above {ACTIVE})"
    if parts is None or use is None:
        verdict = "full" if active == 0 else "partial" if active < latent_dim else "none"
        return {"verdict": verdict, "reason": f"{units}; a point has no mutual information"}
    information = parts["terms"]["mutual_information"]
    value, error = information["estimate"], information["standard_error"]
    most = parts["log_images"]
    told = (
        f"the code tells {value:.3f} +- {error:.3f} nats of {most:.3f} about which datum it is of"
    )
    loses = (
        f"with the code of another datum log p(x|z) falls by {use['estimate']:.3f} +- "
        f"{use['standard_error']:.3f} nats"
    )
    silent = value <= max(ERRORS * error, NEGLIGIBLE * most)
    ignored = use["estimate"] <= ERRORS * use["standard_error"]
    if silent or ignored:
        who = "the encoder gives every datum nearly the same posterior"
        if ignored:
            who = "the decoder ignores z" + ("" if not silent else f", and {who}")
        return {"verdict": "full", "reason": f"{who}: {told}; {loses}; {units}"}
    if active < latent_dim:
        rest = f"the other {latent_dim - active} have nearly the same posterior for every datum"
        return {"verdict": "partial", "reason": f"{units}, {rest}; {told}; {loses}"}
    return {"verdict": "none", "reason": f"{units}; {told}; {loses}"}
