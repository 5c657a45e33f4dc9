r"""The KL ledger: every way to compute KL(q || p) side by side, each under the name of its formula.

.. math::
    \mathrm{KL}(q \,\|\, p) = \mathbb{E}_{z \sim q}[\log q(z) - \log p(z)]
    = \mathbb{E}_{z \sim q}[r - 1 - \log r], \qquad r = p(z) / q(z)

The second form holds because the mean of r under q is one wherever q covers p. Its terms are never
negative, and where q is near p they vary less. Where q is much narrower than p, the mean of r is
made of draws that never come: the variance is infinite, and the estimate of any affordable size is
too low, by up to one nat. So the ledger shows the mean of r too, and counts the q for which the
variance is known to be infinite: for normals, unless :math:`2 \Sigma_q \succ \Sigma_p`.

References:
    Schulman (2020), Approximating KL Divergence, http://joschu.net/blog/kl-approx.html;
    Hershey and Olsen (2007), Approximating the Kullback Leibler Divergence Between Gaussian
    Mixture Models, ICASSP
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrovae._process.isolation import derived, evaluating
from pyrovae.distributions import (
    base,
    components,
    expand,
    factorizes,
    in_float64,
    is_discrete,
    is_point,
    log_density,
    name,
)
from pyrovae.estimates import Examples, batches
from pyrovae.kl.closed_forms import closed_form
from pyrovae.kl.mixture_bounds import divergence_bounds, infinite_variance
from pyrovae.kl.quadrature import integrate
from pyrovae.vae import VAE

__all__ = ["compare", "ledger"]

SAMPLES = (1, 10, 100, 1_000, 10_000)
MONTE_CARLO, LOW_VARIANCE = "log q - log p", "r - 1 - log r"
BOUNDS = "Hershey and Olsen 2007: variational upper bound, product of Gaussians lower bound"
BATCH = 100  # images at a time
VALUES = 1 << 18  # of z at a time


def compare(
    q: Distribution, p: Distribution, samples: Sequence[int] = SAMPLES, seed: int = 0
) -> dict[str, Any]:
    """KL(q || p) in every way there is, as a mean over the batch of q.

    The parameters of torch's own normals, Laplace and t distributions and of mixtures of these are
    taken as float64, so that the ways differ in nothing else. Standard errors are those of the
    draws, for the q given; a draw's variance is estimated from the draws of all rows together. Rows
    share no draws.

    Args:
        q: where draws come from, with any batch.
        p: with the same event shape, and a batch that broadcasts to q's.
        samples: numbers of draws for each q.
        seed: of the draws.

    Returns:
        ``closed_form``, with ``value`` and ``formula``, or None;
        ``monte_carlo`` and ``low_variance``, a row for each number of ``samples`` with
        ``estimate``, ``standard_error`` (None where it is not defined), ``z_score`` (of the
        difference from the closed form; None without one) and ``formula``, and in ``low_variance``
        ``mean_ratio``, which is one if there are enough draws;
        ``quadrature``, with ``value``, ``error``, ``difference`` from the closed form and
        ``formula``, or None;
        ``bounds``, with ``lower``, ``upper`` and ``formula``, for mixtures of normals, or None;
        ``per_dimension``, each with ``value`` and ``formula``, empty where q or p does not
        factorise; ``infinite_variance``, the number of q for which the variance of
        ``low_variance`` is infinite, or None where that is not known; ``infinite``, the reason if
        the divergence is infinite, or None; ``images``, the number of q; ``q``, ``p``, their names.

    Raises:
        TypeError: if q or p is no distribution.
        ValueError: if event shapes differ, batches do not fit, a number of samples is not
            positive, or a density is not a number.
    """
    _check(q, p, samples)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _summary([_part(q, p, samples)], samples)


def ledger(
    vae: VAE,
    data: Examples,
    *,
    samples: Sequence[int] = SAMPLES,
    limit: int | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """KL(q(z | x) || p(z)) in every way there is, as a mean over data.

    Args:
        vae: whose posterior and prior; dropout and the like are switched off meanwhile.
        data: one part of a dataset, usually the test set.
        samples: numbers of draws for each datum.
        limit: only the first so many data.
        seed: of the draws; a batch's draws depend on it and on the batch's place alone.
        advance: told the number of data after each batch.

    Returns:
        What :func:`compare` gives, in nats per datum.

    Raises:
        ValueError: if ``limit`` is not positive, or as :func:`compare`.
    """
    parts: list[_Part] = []
    with torch.random.fork_rng(), torch.no_grad(), evaluating(vae):
        for place, x in enumerate(batches(data, BATCH, limit)):
            q, p = vae.posterior(vae.place(x)), vae.prior()
            _check(q, p, samples)
            torch.manual_seed(derived(seed, place))
            parts.append(_part(q, p, samples))
            if advance is not None:
                advance(len(x))
    return _summary(parts, samples)


def _check(q: Any, p: Any, samples: Sequence[int]) -> None:
    for role, d in (("q", q), ("p", p)):
        if not isinstance(d, Distribution):
            raise TypeError(
                f"{role} must be a distribution of torch or Pyro, got {type(d).__name__}; "
                "call the module that makes it"
            )
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"q has event shape {tuple(q.event_shape)} and p {tuple(p.event_shape)}; they must be "
            "equal: Independent(d, 1) or .to_event(1) makes a batch dimension part of the event"
        )
    try:
        fits = torch.broadcast_shapes(q.batch_shape, p.batch_shape) == q.batch_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"the batch {tuple(p.batch_shape)} of p must broadcast to that of q, "
            f"{tuple(q.batch_shape)}; expand q first"
        )
    if q.batch_shape.numel() == 0:
        raise ValueError(f"q has the empty batch {tuple(q.batch_shape)}; give at least one q")
    if not samples or not all(isinstance(n, int) and n > 0 for n in samples):
        raise ValueError(
            f"samples must be one or more positive whole numbers, got {samples}; such as {SAMPLES}"
        )


@dataclass(frozen=True)
class _Part:
    """What is known of the q of one batch: each tensor ends in ``(images,)``."""

    estimates: Tensor  # (2 estimators, rows, images)
    variances: Tensor  # (2, images), of one draw
    ratios: Tensor  # (rows, images)
    closed: tuple[Tensor, str] | None
    integrated: tuple[Tensor, float, str] | None
    bounds: tuple[Tensor, Tensor] | None
    marginals: tuple[Tensor, str] | None  # (dimensions, images)
    infinite_variance: Tensor | None
    infinite: str | None
    names: tuple[str, str]


@torch.no_grad()
def _part(q: Any, p: Any, samples: Sequence[int]) -> _Part:
    names = name(q), name(p)
    q, p = in_float64(q, p)
    reason = _no_density(q, p)
    if reason is not None:
        return _infinite_part(q.batch_shape.numel(), len(samples), reason, names)
    moments = [_draw(q, p, count) for count in samples]
    total = sum(samples)
    estimates = torch.stack([mean for mean, _ in moments], 1)  # (3, rows, images)
    squares = torch.stack([squares for _, squares in moments], 1)
    weights = torch.tensor(samples, dtype=torch.float64)[:, None]
    pooled = (weights * estimates).sum(1, keepdim=True) / total
    spread = (squares + weights * (estimates - pooled).square()).sum(1)
    closed, integrated, bounds = closed_form(q, p), integrate(q, p), divergence_bounds(q, p)
    if closed is not None:
        closed = closed[0].reshape(-1).double(), closed[1]
    if integrated is not None:
        integrated = integrated[0].reshape(-1), *integrated[1:]
    if bounds is not None:
        bounds = bounds[0].reshape(-1), bounds[1].reshape(-1)
    known = [estimates[:2], *(found[0] for found in (closed, integrated) if found is not None)]
    if any(value.isinf().any() for value in known):
        reason = "q has mass where p has none, or its tails are too heavy for p"
    return _Part(
        estimates=estimates[:2],
        variances=spread[:2] / (total - 1) if total > 1 else torch.full_like(spread[:2], math.nan),
        ratios=estimates[2],
        closed=closed,
        integrated=integrated,
        bounds=bounds,
        marginals=_marginals(q, p),
        infinite_variance=infinite_variance(q, p),
        infinite=reason,
        names=names,
    )


def _draw(q: Any, p: Any, count: int) -> tuple[Tensor, Tensor]:
    """Means, and sums of squares about them, of both terms and r ``(3, images)``."""
    images = q.batch_shape.numel()
    chunk = max(1, VALUES // max(1, images * q.event_shape.numel() * components(q, p)))
    mean = squares = torch.zeros(3, images, dtype=torch.float64)
    done = 0
    while done < count:
        n = min(chunk, count - done)
        z = q.sample((n,))
        log_ratio = (q.log_prob(z).double() - log_density(p, z).double()).reshape(n, images).cpu()
        if log_ratio.isnan().any():
            raise ValueError(
                "log q - log p is not a number at a draw from q; look for parameters that are not "
                "finite in what makes q and p"
            )
        terms = torch.stack([log_ratio, torch.expm1(-log_ratio) + log_ratio, (-log_ratio).exp()])
        terms = terms.transpose(0, 1)  # (n, 3, images)
        part = terms.mean(0)
        shift = part - mean
        squares = squares + (terms - part).square().sum(0) + shift.square() * done * n / (done + n)
        mean = part if done == 0 else mean + shift * n / (done + n)
        done += n
    return mean, squares


def _infinite_part(images: int, rows: int, reason: str, names: tuple[str, str]) -> _Part:
    infinite = torch.full((2, rows, images), math.inf, dtype=torch.float64)
    return _Part(
        estimates=infinite,
        variances=torch.full((2, images), math.nan, dtype=torch.float64),
        ratios=torch.zeros(rows, images, dtype=torch.float64),
        closed=(infinite[0, 0], reason),
        integrated=None,
        bounds=None,
        marginals=None,
        infinite_variance=None,
        infinite=reason,
        names=names,
    )


def _summary(parts: Sequence[_Part], samples: Sequence[int]) -> dict[str, Any]:
    first = parts[0]
    estimates = torch.cat([part.estimates for part in parts], -1)
    images = estimates.shape[-1]
    closed = first.closed and _mean([part.closed[0] for part in parts if part.closed])
    reference = None if closed is None else float(closed)
    errors = torch.cat([part.variances for part in parts], -1).sum(-1).sqrt() / images
    ratios = _row_means([part.ratios for part in parts])
    tables = []
    for mean, error, formula in zip(
        estimates.mean(-1).tolist(), errors.tolist(), (MONTE_CARLO, LOW_VARIANCE), strict=True
    ):
        tables.append(
            [
                _row(count, value, error / math.sqrt(count), reference) | {"formula": formula}
                for count, value in zip(samples, mean, strict=True)
            ]
        )
    for row, ratio in zip(tables[1], ratios, strict=True):
        row["mean_ratio"] = ratio
    variance = [part.infinite_variance for part in parts if part.infinite_variance is not None]
    return {
        "closed_form": first.closed and {"value": reference, "formula": first.closed[1]},
        "monte_carlo": tables[0],
        "low_variance": tables[1],
        "quadrature": _integrated(parts, reference),
        "bounds": first.bounds
        and {
            "lower": _mean([part.bounds[0] for part in parts if part.bounds]),
            "upper": _mean([part.bounds[1] for part in parts if part.bounds]),
            "formula": BOUNDS,
        },
        "per_dimension": []
        if first.marginals is None
        else [
            {"value": value, "formula": first.marginals[1]}
            for value in _row_means([part.marginals[0] for part in parts if part.marginals])
        ],
        "infinite_variance": int(torch.cat(variance).sum()) if variance else None,
        "infinite": next((part.infinite for part in parts if part.infinite), None),
        "images": images,
        "q": first.names[0],
        "p": first.names[1],
    }


def _mean(values: Sequence[Tensor]) -> float:
    return torch.cat(list(values)).double().mean().item()


def _row_means(values: Sequence[Tensor]) -> list[float]:
    return torch.cat(list(values), -1).double().mean(-1).tolist()


def _row(count: int, value: float, error: float, reference: float | None) -> dict[str, Any]:
    defined = math.isfinite(error) and math.isfinite(value)
    compared = defined and error > 0 and reference is not None and math.isfinite(reference)
    return {
        "samples": count,
        "estimate": value,
        "standard_error": error if defined else None,
        "z_score": (value - reference) / error if compared and reference is not None else None,
    }


def _integrated(parts: Sequence[_Part], reference: float | None) -> dict[str, Any] | None:
    found = [part.integrated for part in parts if part.integrated is not None]
    if not found:
        return None
    value = _mean([part[0] for part in found])
    return {
        "value": value,
        "error": max(part[1] for part in found),
        "difference": value - reference
        if reference is not None and math.isfinite(reference)
        else None,
        "formula": found[0][2],
    }


def _marginals(q: Any, p: Any) -> tuple[Tensor, str] | None:
    p = expand(p, q.batch_shape)
    if not factorizes(q, p):
        return None
    marginal_q, marginal_p = base(q), base(p)
    found = closed_form(marginal_q, marginal_p)
    if found is None:
        integrated = integrate(marginal_q, marginal_p)
        if integrated is None:
            return None
        found = integrated[0], integrated[2]
    return found[0].reshape(-1, q.event_shape[0]).T.double(), found[1]


def _no_density(q: Any, p: Any) -> str | None:
    """Why the divergence is infinite before any formula is asked, if it is."""
    discrete = [is_discrete(d) for d in (q, p)]
    if discrete[0] != discrete[1]:
        return f"{'q' if discrete[0] else 'p'} is discrete and the other one is not"
    if discrete[0]:
        return None
    points = [is_point(d) for d in (q, p)]
    if all(points):
        raise ValueError("both q and p have scale zero and so no density; give one of them a scale")
    if any(points):
        return f"{'q' if points[0] else 'p'} has scale zero: a point, not a density"
    return None
