r"""log p(x) = ELBO + KL(q(z | x) || p(z | x)), each term of a batch computed on its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyrovae._process.choices import check_choice
from pyrovae.diagnostics.optimal_posterior import log_weights
from pyrovae.diagnostics.posterior_grid import divergences
from pyrovae.distributions import base
from pyrovae.estimates import Estimate
from pyrovae.evidence import Draws, LinearGaussian, bridge, integrated, linear_gaussian, log_joint
from pyrovae.vae import VAE

__all__ = ["METHODS", "MeanTerm", "Term"]

METHODS = ("auto", "exact", "quadrature", "bridge")
"""Methods for log p(x) in :func:`pyrovae.diagnostics.gap`."""

TERMS = (
    "log_evidence",
    "elbo",
    "kl",
    "residual",
    "best_elbo",
    "approximation",
    "amortization",
)

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
    """
    check_choice("method", method, METHODS)
    if method == "quadrature" and vae.latent_dim > 2:
        raise ValueError(
            f"quadrature is for 1 and 2 latent dimensions, got {vae.latent_dim}; use bridge"
        )
    if method in ("auto", "exact"):
        try:
            linear_gaussian(vae)
            return "exact"
        except ValueError:
            if method == "exact":
                raise
        return "quadrature" if vae.latent_dim <= 2 else "bridge"
    return method


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
        The terms ``TERMS``, and a description of the way each of the first three was computed.
    """
    moments = None
    if method == "exact":
        model = linear_gaussian(vae)
        log_p = model.log_evidence(x)
        evidence = Term(log_p, torch.zeros_like(log_p))
        q, best = (_as_normal(q) for q in qs)
        if q is not None and best is not None:
            terms, ways = _closed(model, x, evidence, q, best)
            return terms, {"log_evidence": _WAYS[method]} | ways
    elif method == "quadrature":
        known = integrated(vae, x, seed=seeds[1])
        evidence = Term(known.log_evidence.to(x.device), known.standard_error.to(x.device))
        moments = known.details
    else:
        assert draws is not None
        evidence = Term(*bridge(log_joint(vae, x), draws, seed=seeds[2]))
    terms, ways = _sampled(vae, x, qs, evidence, moments, samples, seeds)
    return terms, {"log_evidence": _WAYS[method]} | ways


def _closed(
    model: LinearGaussian,
    x: Tensor,
    evidence: Term,
    q: MultivariateNormal,
    best: MultivariateNormal,
) -> tuple[dict[str, Term], dict[str, str]]:
    elbo, best_elbo = _exact_elbo(model, x, q), _exact_elbo(model, x, best)
    kl = kl_divergence(q, model.posterior(x))
    values = {
        "elbo": elbo,
        "kl": kl,
        "residual": evidence.value - elbo - kl,
        "best_elbo": best_elbo,
        "approximation": evidence.value - best_elbo,
        "amortization": best_elbo - elbo,
    }
    terms = {name: Term(value, evidence.error) for name, value in values.items()}
    ways = {"elbo": "closed form", "kl": "closed form between normals"}
    return {"log_evidence": evidence} | terms, ways


def _sampled(
    vae: VAE,
    x: Tensor,
    qs: tuple[Any, Any],
    evidence: Term,
    moments: Mapping[str, Tensor] | None,
    samples: int,
    seeds: Sequence[int],
) -> tuple[dict[str, Term], dict[str, str]]:
    """ELBOs from draws; the divergence on a grid given the moments of p(z | x), else from draws."""
    log_w, log_w_best = (log_weights(vae, q, x, samples, seeds[0]) for q in qs)
    elbo, best_elbo = _mean(log_w), _mean(log_w_best)
    if moments is not None:
        way = "sum over a grid of z that also normalizes p(z | x)"
        kl = Term(*divergences(vae, x, qs[0], moments, seeds[1]))
        residual = Term(evidence.value - elbo.value - kl.value, _root(evidence, elbo, kl))
    else:
        way = "mean over other draws from q, plus log p(x), which therefore cancels in the residual"
        other = _mean(log_weights(vae, qs[0], x, samples, seeds[1]))
        kl = Term(evidence.value - other.value, _root(other, evidence))
        residual = Term(other.value - elbo.value, _root(other, elbo))
    terms = {
        "log_evidence": evidence,
        "elbo": elbo,
        "kl": kl,
        "residual": residual,
        "best_elbo": best_elbo,
        "approximation": Term(evidence.value - best_elbo.value, _root(evidence, best_elbo)),
        "amortization": _mean(log_w_best - log_w),
    }
    return terms, {"elbo": "mean over draws from q", "kl": way}


def _mean(values: Tensor) -> Term:
    return Term(values.mean(0), values.std(0) / math.sqrt(len(values)))


def _root(*terms: Term) -> Tensor:
    return torch.stack([term.error for term in terms]).square().sum(0).sqrt()


def _exact_elbo(model: LinearGaussian, x: Tensor, q: MultivariateNormal) -> Tensor:
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
        return MultivariateNormal(
            inner.loc.double(), scale_tril=torch.diag_embed(inner.scale.double())
        )
    if isinstance(inner, MultivariateNormal):
        return MultivariateNormal(inner.loc.double(), scale_tril=inner.scale_tril.double())
    if isinstance(inner, LowRankMultivariateNormal):
        return MultivariateNormal(inner.loc.double(), inner.covariance_matrix.double())
    return None
