r"""The KL ledger: KL(q || p) in every available way, each number with its formula.

.. math::
    \mathrm{KL}(q \,\|\, p) = \mathbb{E}_{z \sim q}[\log q(z) - \log p(z)]
    = \mathbb{E}_{z \sim q}[r - 1 - \log r], \qquad r = p(z) / q(z)

The second form holds because the mean of r under q is one wherever q covers p. Its terms are never
negative, and they vary less where q is close to p. Where q is much narrower than p, draws that
practically never occur carry the mean of r: the variance is infinite, and an estimate from any
affordable number of draws is too low, by up to one nat. The ledger therefore reports the mean of r
too, and counts the q for which the variance is known to be infinite: for normals, unless
:math:`2 \Sigma_q \succ \Sigma_p`.

References:
    Schulman (2020), Approximating KL Divergence, http://joschu.net/blog/kl-approx.html;
    Hershey and Olsen (2007), Approximating the Kullback Leibler Divergence Between Gaussian
    Mixture Models, ICASSP
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrovae import distributions
from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.estimates import AnyExamples, Estimate, as_examples, batches
from pyrovae.kl.formulas import closed_form, divergence_bounds, infinite_variance
from pyrovae.kl.quadrature import integrate
from pyrovae.kl.results import Bracket, Computed, Integrated, Ledger, Sampled
from pyrovae.vae import VAE

__all__ = ["compare", "ledger"]

SAMPLES = (1, 10, 100, 1_000, 10_000)
BOUNDS = "Hershey and Olsen 2007: variational upper bound, product of Gaussians lower bound"
BATCH = 100  # examples at a time
VALUES = 1 << 18  # values of z at a time


def compare(
    q: Distribution, p: Distribution, samples: Sequence[int] = SAMPLES, seed: int = 0
) -> Ledger:
    """Compute KL(q || p) in every available way, as a mean over the batch of q.

    Parameters of torch's normal, Laplace and t distributions, and of mixtures of these, are
    converted to float64, so that the results differ in nothing but the method. Standard errors
    cover the randomness of the draws for the given q; the variance of one draw is estimated from
    the draws of all rows together. Rows do not share draws.

    Args:
        q: the distribution that is drawn from, with any batch shape.
        p: a distribution with the same event shape and a batch that broadcasts to that of q.
        samples: numbers of draws from each q, one row of the result for each number.
        seed: seed of the draws.

    Raises:
        TypeError: if q or p is not a distribution.
        ValueError: if the event shapes differ, the batches do not fit, a number of samples is not
            positive, or a density is NaN.

    Example:
        >>> from pyrovae.kl import compare
        >>> found = compare(vae.posterior(x), vae.prior())
        >>> abs(found.quadrature.value - found.closed_form.value) < 1e-6
        True
        >>> found.bounds is None  # there are bounds for mixtures of normals only
        True
    """
    _check(q, p, samples)
    with isolated():
        torch.manual_seed(seed)
        return _summary([_part(q, p, samples)], samples)


def ledger(
    vae: VAE,
    data: AnyExamples,
    *,
    samples: Sequence[int] = SAMPLES,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Ledger:
    """Compute KL(q(z | x) || p(z)) in every available way, as a mean over examples.

    Args:
        vae: the model; it is evaluated without dropout, and its mode is restored.
        data: one split of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them.
        samples: numbers of draws for each example, one row of the result for each number.
        limit: use only the first `limit` examples.
        seed: seed of the draws; those of a batch depend on the seed and the batch's position only.
        progress: callback, called with the number of examples finished.

    Returns:
        The result of :func:`compare`, in nats per example.

    Raises:
        ValueError: if ``limit`` is not positive, or as :func:`compare`.

    Example:
        >>> from pyrovae.kl import ledger
        >>> found = ledger(vae, data, samples=(10, 100), limit=20)
        >>> found.examples, [row.samples for row in found.monte_carlo]
        (20, [10, 100])
    """
    parts: list[_Part] = []
    with isolated(), torch.no_grad(), evaluating(vae):
        for place, x in enumerate(batches(as_examples(data), BATCH, limit)):
            q, p = vae.posterior(vae.place(x)), vae.prior()
            _check(q, p, samples)
            torch.manual_seed(derived(seed, place))
            parts.append(_part(q, p, samples))
            if progress is not None:
                progress(len(x))
    return _summary(parts, samples)


def _check(q: Any, p: Any, samples: Sequence[int]) -> None:
    for role, d in (("q", q), ("p", p)):
        if not isinstance(d, Distribution):
            raise TypeError(
                f"{role} must be a distribution from torch or Pyro, got {type(d).__name__}; "
                "call the module that returns it"
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
            f"the batch shape {tuple(p.batch_shape)} of p must broadcast to the batch shape "
            f"{tuple(q.batch_shape)} of q; expand q first"
        )
    if q.batch_shape.numel() == 0:
        raise ValueError(f"q has the empty batch shape {tuple(q.batch_shape)}; pass at least one q")
    if not samples or not all(isinstance(n, int) and n > 0 for n in samples):
        raise ValueError(
            f"samples must be one or more positive whole numbers, such as {SAMPLES}, got {samples}"
        )


@dataclass(frozen=True)
class _Part:
    """Results for the q of one batch; the last dimension of each tensor is ``examples``."""

    names: tuple[str, str]
    estimates: Tensor  # (2 estimators, rows, examples)
    variances: Tensor  # (2, examples), variance of one draw
    ratios: Tensor  # (rows, examples)
    closed: tuple[Tensor, str] | None = None
    integrated: tuple[Tensor, float, str] | None = None
    bounds: tuple[Tensor, Tensor] | None = None
    marginals: tuple[Tensor, str] | None = None  # (dimensions, examples)
    infinite_variance: Tensor | None = None
    infinite: str | None = None


@torch.no_grad()
def _part(q: Any, p: Any, samples: Sequence[int]) -> _Part:
    names = distributions.name(q), distributions.name(p)
    q, p = distributions.in_float64(q, p)
    reason = _no_density(q, p)
    if reason is not None:
        shape = 2, len(samples), q.batch_shape.numel()
        infinite = torch.full(shape, math.inf, dtype=torch.float64)
        return _Part(
            names=names,
            estimates=infinite,
            variances=torch.full_like(infinite[:, 0], math.nan),
            ratios=torch.zeros_like(infinite[0]),
            closed=(infinite[0, 0], reason),
            infinite=reason,
        )
    moments = [_draw(q, p, count) for count in samples]
    total = sum(samples)
    estimates = torch.stack([mean for mean, _ in moments], 1)  # (3, rows, examples)
    squares = torch.stack([squares for _, squares in moments], 1)
    weights = torch.tensor(samples, dtype=torch.float64)[:, None]
    pooled = (weights * estimates).sum(1, keepdim=True) / total
    spread = (squares + weights * (estimates - pooled).square()).sum(1)
    closed, integrated, bounds = closed_form(q, p), integrate(q, p), divergence_bounds(q, p)
    known = [estimates[:2], *(found[0] for found in (closed, integrated) if found is not None)]
    if any(value.isinf().any() for value in known):
        reason = "q has mass where p has none, or its tails are too heavy for p"
    return _Part(
        names=names,
        estimates=estimates[:2],
        variances=spread[:2] / (total - 1) if total > 1 else torch.full_like(spread[:2], math.nan),
        ratios=estimates[2],
        closed=closed,
        integrated=integrated,
        bounds=bounds,
        marginals=_marginals(q, p),
        infinite_variance=infinite_variance(q, p),
        infinite=reason,
    )


def _draw(q: Any, p: Any, count: int) -> tuple[Tensor, Tensor]:
    """Means of both terms and of r, and sums of squares about them ``(3, examples)``."""
    examples = q.batch_shape.numel()
    each = examples * q.event_shape.numel() * distributions.components(q, p)
    chunk = max(1, VALUES // max(1, each))
    mean = squares = torch.zeros(3, examples, dtype=torch.float64)
    done = 0
    while done < count:
        n = min(chunk, count - done)
        z = q.sample((n,))
        log_q, log_p = q.log_prob(z).double(), distributions.log_density(p, z).double()
        log_ratio = (log_q - log_p).reshape(n, examples).cpu()
        if log_ratio.isnan().any():
            raise ValueError(
                "log q - log p is NaN at a draw from q; look for parameters of q or p that are not "
                "finite"
            )
        terms = torch.stack([log_ratio, torch.expm1(-log_ratio) + log_ratio, (-log_ratio).exp()])
        terms = terms.transpose(0, 1)  # (n, 3, examples)
        part = terms.mean(0)
        shift = part - mean
        squares = squares + (terms - part).square().sum(0) + shift.square() * done * n / (done + n)
        mean = part if done == 0 else mean + shift * n / (done + n)
        done += n
    return mean, squares


def _summary(parts: Sequence[_Part], samples: Sequence[int]) -> Ledger:
    first = parts[0]
    values = [part.closed[0] for part in parts if part.closed]
    closed = first.closed and Computed(_mean(values), first.closed[1])
    exact = closed.value if closed is not None and math.isfinite(closed.value) else None
    monte_carlo, low_variance = _rows(parts, samples, exact)
    bounds = zip(*[part.bounds for part in parts if part.bounds], strict=True)
    sides = [_mean(side) for side in bounds]
    variance = [part.infinite_variance for part in parts if part.infinite_variance is not None]
    return Ledger(
        closed_form=closed,
        monte_carlo=monte_carlo,
        low_variance=low_variance,
        quadrature=_integrated(parts, exact),
        bounds=first.bounds and Bracket(sides[0], sides[1], BOUNDS),
        per_dimension=()
        if first.marginals is None
        else tuple(
            Computed(value, first.marginals[1])
            for value in _row_means([part.marginals[0] for part in parts if part.marginals])
        ),
        infinite_variance=int(torch.cat(variance).sum()) if variance else None,
        infinite=next((part.infinite for part in parts if part.infinite), None),
        examples=sum(part.estimates.shape[-1] for part in parts),
        q=first.names[0],
        p=first.names[1],
    )


def _mean(values: Sequence[Tensor]) -> float:
    return torch.cat([value.reshape(-1) for value in values]).double().mean().item()


def _row_means(values: Sequence[Tensor]) -> list[float]:
    return torch.cat(list(values), -1).double().mean(-1).tolist()


def _rows(
    parts: Sequence[_Part], samples: Sequence[int], exact: float | None
) -> tuple[tuple[Sampled, ...], tuple[Sampled, ...]]:
    """The rows of both estimators."""
    estimates = torch.cat([part.estimates for part in parts], -1)  # (2, rows, examples)
    errors = torch.cat([part.variances for part in parts], -1).sum(-1).sqrt() / estimates.shape[-1]
    means = estimates.mean(-1).tolist()

    def rows(which: int, formula: str, ratios: Sequence[float | None]) -> Iterator[Sampled]:
        for count, value, ratio in zip(samples, means[which], ratios, strict=True):
            error = errors[which].item() / math.sqrt(count)
            defined = math.isfinite(error) and math.isfinite(value)
            z_score = (value - exact) / error if defined and error and exact is not None else None
            estimate = Estimate(value, error if defined else None)
            yield Sampled(count, estimate, z_score, formula, ratio)

    ratios = _row_means([part.ratios for part in parts])
    plain, low = rows(0, "log q - log p", [None] * len(samples)), rows(1, "r - 1 - log r", ratios)
    return tuple(plain), tuple(low)


def _integrated(parts: Sequence[_Part], exact: float | None) -> Integrated | None:
    found = [part.integrated for part in parts if part.integrated is not None]
    if not found:
        return None
    value = _mean([part[0] for part in found])
    difference = None if exact is None else value - exact
    return Integrated(value, max(part[1] for part in found), difference, found[0][2])


def _marginals(q: Any, p: Any) -> tuple[Tensor, str] | None:
    p = distributions.expand(p, q.batch_shape)
    if not distributions.factorizes(q, p):
        return None
    marginals = distributions.base(q), distributions.base(p)
    found = closed_form(*marginals) or integrate(*marginals)
    return found and (found[0].reshape(-1, q.event_shape[0]).T.double(), found[-1])


def _no_density(q: Any, p: Any) -> str | None:
    """The reason why the divergence is infinite, if it can be seen without computing it."""
    discrete = [distributions.is_discrete(d) for d in (q, p)]
    if discrete[0] != discrete[1]:
        return f"{'q' if discrete[0] else 'p'} is discrete and the other one is not"
    if discrete[0]:
        return None
    points = [distributions.is_point(d) for d in (q, p)]
    if all(points):
        raise ValueError(
            "both q and p have scale zero and hence no density; give one of them a positive scale"
        )
    if any(points):
        return f"{'q' if points[0] else 'p'} has scale zero: a point, not a density"
    return None
