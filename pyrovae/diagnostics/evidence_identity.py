r"""log p(x) = ELBO + KL(q(z | x) || p(z | x)), each term of a batch computed on its own.

In one and two latent dimensions the divergence is a sum over a grid of z.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from pyrovae._process.choices import check_choice
from pyrovae._process.isolation import isolated, seed_device
from pyrovae._process.memory import in_chunks
from pyrovae.diagnostics.optimal_posterior import log_weights
from pyrovae.distributions import base
from pyrovae.estimates import Estimate
from pyrovae.evidence import Draws, LinearGaussian, bridge, integrated, linear_gaussian, log_joint
from pyrovae.vae import VAE

__all__ = ["METHODS", "MeanTerm", "Term", "chosen"]

METHODS = ("auto", "exact", "quadrature", "bridge")
"""Methods for log p(x) in :func:`pyrovae.diagnostics.gap`."""

DEVIATIONS = 8.0  # reach of a grid, in standard deviations of p(z | x)
NODES = (101, 201, 401, 801)  # nodes per dimension, tried in turn
TOLERANCE = 1e-5  # nats, between a grid and every second node of it

_WAYS = {
    "exact": "exact, a linear decoder with normal noise",
    "quadrature": "quadrature over z, with an estimate of its error",
    "bridge": "bridge sampling between NUTS draws and a normal fitted to other ones of them; "
    "biased by the order of its squared error",
}


class MeanTerm(Estimate):
    """The mean of a term over examples, in nats per example.

    Attributes:
        value: the mean.
        standard_error: its standard error over examples; None for a single example.
        error: error of the mean that is due to the errors of the terms.

    Example:
        >>> from pyrovae.diagnostics import MeanTerm
        >>> MeanTerm(-90.5, 0.9, error=0.01)
        -90.50 ± 0.90
    """

    error: float


@dataclass(frozen=True, repr=False)
class Term:
    """One number for each example, in nats.

    Attributes:
        value: ``(examples,)``.
        error: its standard error or quadrature error; zero for a closed form ``(examples,)``.

    Example:
        >>> from pyrovae.diagnostics import Term
        >>> Term(torch.tensor([1.0, 3.0]), error=torch.tensor([0.1, 0.1]))
        Term(mean 2.00 ± 1.00, 2 examples)
    """

    value: Tensor
    error: Tensor

    @property
    def mean(self) -> MeanTerm:
        """The mean over examples."""
        error = self.error.square().sum().sqrt().item() / len(self.value)
        over_examples = Estimate.of(self.value)
        return MeanTerm(over_examples.value, over_examples.standard_error, error)

    def __repr__(self) -> str:
        return f"Term(mean {self.mean}, {len(self.value)} examples)"


def chosen(vae: VAE, method: str) -> str:
    """The method for log p(x), with ``auto`` replaced by the best one for this VAE.

    Raises:
        ValueError: if there is no such method, or it does not apply.

    Example:
        >>> from pyrovae.diagnostics import chosen
        >>> chosen(vae, "auto")
        'quadrature'
    """
    check_choice("method", method, METHODS)
    if method == "quadrature" and vae.latent_dim > 2:
        raise ValueError(
            f"quadrature is for 1 and 2 latent dimensions, got {vae.latent_dim}; use bridge"
        )
    if method == "exact":
        linear_gaussian(vae)  # raises for any other model
    if method != "auto":
        return method
    with suppress(ValueError):
        linear_gaussian(vae)
        return "exact"
    return "quadrature" if vae.latent_dim <= 2 else "bridge"


def batch_terms(
    vae: VAE,
    x: Tensor,
    qs: tuple[Any, Any],
    method: str,
    draws: Draws | None,
    samples: int,
    seeds: Sequence[int],
) -> tuple[dict[str, Term], dict[str, str]]:
    """Compute every term for a batch.

    Args:
        vae: the model and its posterior, in eval mode.
        x: data ``(batch, *event_shape)``.
        qs: the encoder's q and the best q.
        method: method for log p(x), not ``auto``.
        draws: draws from p(z | x), for bridge sampling.
        samples: draws from each q for each ELBO.
        seeds: seeds of the ELBO, of the divergence and of bridge sampling.

    Returns:
        The terms of :class:`Gap` by name, and a description of the way each of the first three was
        computed.
    """
    integrals = closed = None
    if method == "exact":
        model = linear_gaussian(vae)
        evidence = _exact(model.log_evidence(x))
        closed = _closed(model, x, qs)
    elif method == "quadrature":
        known = integrated(vae, x, seed=seeds[1])
        evidence = Term(known.log_evidence.to(x.device), known.standard_error.to(x.device))
        integrals = known.details
    else:
        assert draws is not None
        evidence = Term(*bridge(log_joint(vae, x), draws, seed=seeds[2]))
    if closed is not None:
        ways = {"elbo": "closed form", "kl": "closed form between normals"}
        elbo, best_elbo, kl = closed
        residual, amortization = _difference(evidence, elbo, kl), _difference(best_elbo, elbo)
    else:
        ways = {"elbo": "mean over draws from q"}
        log_w, log_w_best = (log_weights(vae, q, x, samples, seeds[0]) for q in qs)
        elbo, best_elbo, amortization = map(_mean, (log_w, log_w_best, log_w_best - log_w))
        if integrals is not None:
            ways["kl"] = "sum over a grid of z that also normalizes p(z | x)"
            kl = Term(*_divergences(vae, x, qs[0], integrals, seeds[1]))
            residual = _difference(evidence, elbo, kl)
        else:
            ways["kl"] = (
                "mean over other draws from q, plus log p(x), which therefore cancels in the "
                "residual"
            )
            other = _mean(log_weights(vae, qs[0], x, samples, seeds[1]))
            kl, residual = _difference(evidence, other), _difference(other, elbo)
    terms = {
        "log_evidence": evidence,
        "elbo": elbo,
        "kl": kl,
        "residual": residual,
        "best_elbo": best_elbo,
        "approximation": _difference(evidence, best_elbo),
        "amortization": amortization,
    }
    return terms, {"log_evidence": _WAYS[method]} | ways


def _exact(values: Tensor) -> Term:
    return Term(values, torch.zeros_like(values))


def _mean(values: Tensor) -> Term:
    return Term(values.mean(0), values.std(0) / math.sqrt(len(values)))


def _difference(term: Term, *others: Term) -> Term:
    """A term minus others, with the error of independent ones."""
    value = reduce(torch.sub, (other.value for other in others), term.value)
    errors = torch.stack([term.error, *(other.error for other in others)])
    return Term(value, errors.square().sum(0).sqrt())


def _closed(
    model: LinearGaussian, x: Tensor, qs: tuple[Any, Any]
) -> tuple[Term, Term, Term] | None:
    """Both ELBOs and the encoder's divergence by formula; None if q is not normal."""
    q, best = map(_as_normal, qs)
    if q is None or best is None:
        return None
    kl = kl_divergence(q, model.posterior(x))
    return _exact(_elbo(model, x, q)), _exact(_elbo(model, x, best)), _exact(kl)


def _elbo(model: LinearGaussian, x: Tensor, q: MultivariateNormal) -> Tensor:
    prior = MultivariateNormal(model.prior_loc, scale_tril=model.prior_tril)
    scale = model.variance.sqrt()
    loc = q.loc @ model.weight.mT + model.bias
    at_mean = Normal(loc, scale).log_prob(x.double().flatten(1)).sum(-1)
    spread = ((model.weight @ q.scale_tril) / scale[:, None]).square().sum((-2, -1)) / 2
    return at_mean - spread - kl_divergence(q, prior)


def _as_normal(d: Any) -> MultivariateNormal | None:
    """A normal with its full covariance, in float64; None for another distribution."""
    inner = base(d)
    if isinstance(inner, Normal):
        scale_tril = torch.diag_embed(inner.scale)
    elif isinstance(inner, MultivariateNormal):
        scale_tril = inner.scale_tril
    elif isinstance(inner, LowRankMultivariateNormal):
        scale_tril = torch.linalg.cholesky(inner.covariance_matrix.double())
    else:
        return None
    return MultivariateNormal(inner.loc.double(), scale_tril=scale_tril.double())


def grid(low: Tensor, high: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(nodes ** dimensions, dimensions)`` between two corners, and the size of a cell."""
    steps = torch.linspace(0, 1, nodes).to(low)
    axes = [a + (b - a) * steps for a, b in zip(low, high, strict=True)]
    z = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return z, ((high - low) / (nodes - 1)).double().prod()


def in_parts(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Evaluate a function at nodes ``(nodes, dimensions)``, in float64, a part at a time."""
    return torch.cat([function(part[:, None])[:, 0] for part in in_chunks(z)]).double()


def _divergences(
    vae: VAE, x: Tensor, q: Any, moments: Mapping[str, Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """KL(q || p(z | x)) of each example on a grid that covers both densities, with its error.

    Args:
        vae: the model and its posterior, in eval mode.
        x: data ``(batch, *event_shape)``.
        q: the posterior at x.
        moments: ``mean`` and ``covariance`` of p(z | x).
        seed: seed of the draws from q that determine its extent.
    """
    mean = moments["mean"].to(x)
    reach = DEVIATIONS * moments["covariance"].diagonal(dim1=-2, dim2=-1).sqrt().to(x)
    with isolated(x.device):
        seed_device(x.device, seed)
        draws = q.sample(torch.Size([2_000]))
    least, most = draws.quantile(torch.tensor([0.001, 0.999]).to(draws), 0)  # (batch, latent_dim)
    beyond = 0.7 * (most - least)  # far outside nearly all draws
    low = torch.minimum(least - beyond, mean - reach)
    high = torch.maximum(most + beyond, mean + reach)
    found = [
        _refined(log_joint(vae, one), vae.posterior(one).log_prob, low[i], high[i])
        for i, one in enumerate(x.split(1))
    ]
    values, errors = zip(*found, strict=True)
    return torch.stack(values), torch.stack(errors)


def _refined(
    log_joint: Callable[[Tensor], Tensor],
    log_q: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
) -> tuple[Tensor, Tensor]:
    """Refine a grid until dropping every second node no longer changes the divergence."""
    dimensions = len(low)
    every_second = (slice(None, None, 2),) * dimensions
    for nodes in NODES:
        z, cell = grid(low, high, nodes)
        p, q = (in_parts(log, z).reshape([nodes] * dimensions) for log in (log_joint, log_q))
        value = _divergence(p, q, cell)
        coarse = _divergence(p[every_second], q[every_second], cell * 2**dimensions)
        error = (value - coarse).abs()
        if error < TOLERANCE:
            break
    return value, error


def _divergence(log_p: Tensor, log_q: Tensor, cell: Tensor) -> Tensor:
    """KL(q || p) from values on a grid, both normalized there."""
    log_p, log_q = (log - log.flatten().logsumexp(0) - cell.log() for log in (log_p, log_q))
    return (cell * log_q.exp() * (log_q - log_p)).sum()
