r"""The gap between log p(x) and the ELBO, for single data: what it is made of.

.. math::
    \log p(x) - \text{ELBO}(q) = \text{KL}(q(z \mid x) \,\|\, p(z \mid x))
    = \underbrace{\log p(x) - \text{ELBO}(q^*)}_{\text{approximation gap}}
    + \underbrace{\text{ELBO}(q^*) - \text{ELBO}(q)}_{\text{amortisation gap}}

:math:`q^*` is the best q of the same family for this x alone. Each term is computed by itself:
see :func:`gap`.

References:
    Cremer, Li and Duvenaud (2018), Inference Suboptimality in Variational Autoencoders,
    arXiv:1801.03558
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae.diagnostics.optimal_posterior import best_posterior, log_weights, with_outputs
from pyrovae.distributions import base
from pyrovae.estimates import Estimate, Examples
from pyrovae.evidence import (
    Draws,
    LinearGaussian,
    bridge,
    check_real,
    integrated,
    linear_gaussian,
    log_joint,
    posterior_draws,
)
from pyrovae.vae import VAE

__all__ = ["METHODS", "Gap", "Term", "gap", "gap_summary", "posterior_densities"]

METHODS = ("auto", "exact", "quadrature", "bridge")
BLOCK = 16  # images at a time
ROWS = 20_000  # of z at a time
DEVIATIONS = 8.0  # of p(z | x), that a grid reaches
NODES = (101, 201, 401, 801)  # of a grid in each dimension
TOLERANCE = 1e-5  # nats, between a grid and every second node of it

_WAYS = {
    "exact": "exact, a linear decoder with normal noise",
    "quadrature": "quadrature over z, with an estimate of its error",
    "bridge": "bridge sampling between NUTS draws and a normal fitted to other ones of them; "
    "biased by the order of its squared error",
}

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Term:
    """One number for each image, in nats.

    Attributes:
        value: ``(images,)``.
        error: its standard error, or that of quadrature; zero for a closed form ``(images,)``.
    """

    value: Tensor
    error: Tensor


@dataclass(frozen=True)
class Gap:
    """The evidence identity of some images, term by term.

    Attributes:
        x: the images ``(images, *event_shape)``.
        log_evidence: log p(x).
        elbo: of the encoder's q.
        kl: KL(q(z | x) || p(z | x)) of the encoder's q.
        residual: log p(x) - ELBO - KL, which is zero but for the errors.
        best_elbo: ELBO of the best q.
        approximation: log p(x) less that.
        amortisation: that less the encoder's ELBO.
        ways: how ``log_evidence``, ``elbo`` and ``kl`` were computed, by name.
        method: one of ``METHODS``, not ``"auto"``.
        samples: draws of each q for each ELBO.
        outputs: what the posterior's network would have to give out for the best q.
        draws: by NUTS from p(z | x), where they were made ``(chains, draws, images, latent_dim)``.
    """

    x: Tensor
    log_evidence: Term
    elbo: Term
    kl: Term
    residual: Term
    best_elbo: Term
    approximation: Term
    amortisation: Term
    ways: dict[str, str]
    method: str
    samples: int
    outputs: Tensor
    draws: Draws | None


TERMS = (
    "log_evidence",
    "elbo",
    "kl",
    "residual",
    "best_elbo",
    "approximation",
    "amortisation",
)


@contextmanager
def _silent(description: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def gap(
    vae: VAE,
    data: Examples,
    *,
    images: int = 16,
    method: str = "auto",
    samples: int = 10_000,
    steps: int = 1_000,
    draws: int = 250,
    warmup: int = 250,
    chains: int = 4,
    seed: int = 0,
    counting: Counting = _silent,
) -> Gap:
    r"""Take log p(x) - ELBO apart for each of the first images of a dataset.

    log p(x): exact for a linear decoder with normal noise and a normal prior; by quadrature in one
    and two dimensions; elsewhere by bridge sampling, :func:`pyrovae.evidence.bridge`.

    The ELBO: closed where log p(x) is exact and q normal; else the mean over draws from q.

    The KL divergence to the true posterior: closed between two normals; on a grid for one and two
    dimensions, which normalises p(z | x) too; else from draws of q, not those of the ELBO, with
    log p(x) as normaliser. Then the residual does not test log p(x), which cancels.

    The best q: :func:`pyrovae.diagnostics.best_posterior`. It and the encoder's q take the same
    noise, and the standard error of the amortisation gap is that of the paired difference.

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        data: one part of a dataset, usually the test set.
        images: how many.
        method: of log p(x), one of ``METHODS``.
        samples: draws of each q for each ELBO, fresh ones.
        steps: of the search for the best q.
        draws, warmup, chains: of NUTS, see :func:`pyrovae.evidence.draw_chains`. Bridge sampling
            needs it, and the picture of a two-dimensional latent shows it; elsewhere, or with no
            draws, it is left out.
        seed: of all draws.
        counting: shows progress, as :func:`pyrovae.training.counting` does.

    Returns:
        The terms.

    Raises:
        ValueError: if a number is too small, the data are not what the likelihood describes, the
            method does not apply, or the prior or posterior is discrete, on a sphere or a point.
    """
    for name, value, least in (("images", images, 1), ("samples", samples, 2), ("steps", steps, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    x = vae.place(_first(data, images))
    vae.check_data(x)
    with evaluating(vae), isolated(x.device), pyro.validation_enabled(False):
        check_real(vae, x)
        method = _method(vae, method)
        blocks = x.split(BLOCK)

        def seeded(block: int, purpose: int) -> int:
            return derived(seed, block, purpose)

        with counting("best q", steps * len(blocks)) as advance:
            outputs = [
                best_posterior(vae, part, steps=steps, seed=seeded(block, 0), advance=advance)
                for block, part in enumerate(blocks)
            ]
        found: list[Draws] | list[None] = [None] * len(blocks)
        if method == "bridge" or (vae.latent_dim == 2 and draws > 0):
            with counting("NUTS", chains * (warmup + draws) * len(blocks)) as advance:
                found = [
                    posterior_draws(
                        vae,
                        part,
                        draws=draws,
                        warmup=warmup,
                        chains=chains,
                        seed=seeded(block, 1),
                        start=with_outputs(vae.posterior, output)(part),
                        advance=advance,
                    )
                    for block, (part, output) in enumerate(zip(blocks, outputs, strict=True))
                ]
        parts = []
        with counting("log p(x) and its terms", len(x)) as advance, torch.no_grad():
            for block, (part, output, drawn) in enumerate(zip(blocks, outputs, found, strict=True)):
                seeds = [seeded(block, purpose) for purpose in (2, 3, 4)]
                parts.append(_terms(vae, part, output, method, drawn, samples, seeds))
                advance(len(part))
    terms = {
        name: Term(*(torch.cat([p[name][i] for p, _ in parts]).cpu() for i in (0, 1)))
        for name in TERMS
    }
    return Gap(
        x=x,
        **terms,
        ways=parts[0][1],
        method=method,
        samples=samples,
        outputs=torch.cat(outputs),
        draws=_together([drawn for drawn in found if drawn is not None]),
    )


def posterior_densities(
    vae: VAE, found: Gap, *, limit: int = 16, nodes: int = 121
) -> list[dict[str, np.ndarray]]:
    """What a picture of a two-dimensional latent shows of each image.

    Args:
        vae: the model and its posterior.
        found: by :func:`gap`, of the same VAE.
        limit: the most images.
        nodes: of the grid in each dimension.

    Returns:
        For each image ``z1`` and ``z2`` ``(nodes,)``; the densities ``posterior``, ``encoder`` and
        ``best`` ``(nodes, nodes)``, whose rows are of one ``z2``; and NUTS's ``draws`` ``(n, 2)``.

    Raises:
        ValueError: if z has not two dimensions.
    """
    if vae.latent_dim != 2 or found.draws is None:
        raise ValueError(f"the latent must have 2 dimensions for a picture, got {vae.latent_dim}")
    panels = []
    with torch.no_grad(), evaluating(vae), isolated(found.x.device):
        seed_device(found.x.device, 0)
        for i in range(min(limit, len(found.x))):
            x = found.x[i : i + 1]
            qs = vae.posterior(x), with_outputs(vae.posterior, found.outputs[i : i + 1])(x)
            draws = found.draws.z[:, :, i].flatten(0, 1)
            shown = torch.cat([draws, *(q.sample(torch.Size([500]))[:, 0] for q in qs)])
            ends = shown.quantile(torch.tensor([0.005, 0.995]).to(shown), 0)
            half = 0.7 * (ends[1] - ends[0]).max() * torch.ones(2).to(ends)
            middle = ends.mean(0)
            z, _ = _grid(middle - half, middle + half, nodes)
            joint = log_joint(vae, x)
            logs = [_in_parts(joint, z[:, None])[:, 0] - found.log_evidence.value[i].to(z)]
            logs += [_in_parts(q.log_prob, z[:, None])[:, 0] for q in qs]
            square = [log.exp().reshape(nodes, nodes).T.cpu().numpy() for log in logs]
            axes = z.reshape(nodes, nodes, 2).cpu().numpy()
            panels.append(
                {"z1": axes[:, 0, 0], "z2": axes[0, :, 1], "draws": draws.cpu().numpy()}
                | dict(zip(("posterior", "encoder", "best"), square, strict=True))
            )
    return panels


def gap_summary(found: Gap, labels: Sequence[Any] | None = None) -> dict[str, Any]:
    """Numbers and how they were computed, for a table or JSON.

    Args:
        found: by :func:`gap`.
        labels: the class of each image.

    Returns:
        ``per_image``, a list with ``image``, ``label`` and for each term ``value`` and ``error``;
        ``mean``, of each term ``estimate``, ``standard_error`` over images and ``error``, that of
        the terms themselves; ``method``, ``ways``, ``samples``; ``nuts``, or None.
    """
    terms = {name: getattr(found, name) for name in TERMS}
    per_image: list[dict[str, Any]] = []
    for i in range(len(found.x)):
        row: dict[str, Any] = {"image": i, "label": None if labels is None else int(labels[i])}
        per_image.append(row | {name: _number(term, i) for name, term in terms.items()})
    mean = {}
    for name, term in terms.items():
        of_images = Estimate.of(term.value)
        error = term.error.square().sum().sqrt().item() / len(term.value)
        mean[name] = of_images.to_dict() | {"error": error}
    return {
        "images": len(found.x),
        "method": found.method,
        "ways": found.ways,
        "samples": found.samples,
        "mean": mean,
        "per_image": per_image,
        "nuts": None if found.draws is None else _of_chains(found.draws),
    }


def _number(term: Term, i: int) -> dict[str, float]:
    return {"value": term.value[i].item(), "error": term.error[i].item()}


def _of_chains(draws: Draws) -> dict[str, Any]:
    chains, each = draws.z.shape[:2]
    return {
        "chains": chains,
        "draws": each,
        "divergences": draws.divergences,
        "largest_r_hat": draws.r_hat.max().item(),
        "smallest_effective": draws.effective.min().item(),
    }


def _first(data: Examples, images: int) -> Tensor:
    x = next(iter(data.batches(images)), None)
    if x is None or len(x) == 0:
        raise ValueError("there are no examples to take the gap of")
    return x


def _together(draws: list[Draws]) -> Draws | None:
    if not draws:
        return None
    return Draws(
        torch.cat([d.z for d in draws], 2),
        torch.cat([d.r_hat for d in draws]),
        torch.cat([d.effective for d in draws]),
        sum(d.divergences for d in draws),
    )


def _method(vae: VAE, method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "auto":
        if _linear_gaussian(vae) is not None:
            return "exact"
        return "quadrature" if vae.latent_dim <= 2 else "bridge"
    if method == "exact":
        linear_gaussian(vae)  # says what is in the way
    if method == "quadrature" and vae.latent_dim > 2:
        raise ValueError(
            f"quadrature is for 1 and 2 latent dimensions, got {vae.latent_dim}; take bridge"
        )
    return method


def _terms(
    vae: VAE,
    x: Tensor,
    output: Tensor,
    method: str,
    draws: Draws | None,
    samples: int,
    seeds: Sequence[int],
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    q, q_best = vae.posterior(x), with_outputs(vae.posterior, output)(x)
    ways = {"log_evidence": _WAYS[method], "elbo": "mean over draws from q"}
    zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    model = linear_gaussian(vae) if method == "exact" else None
    normals = _as_normal(q), _as_normal(q_best)
    if model is not None:
        evidence = model.log_evidence(x), zero
    elif method == "quadrature":
        known = integrated(vae, x, seed=seeds[1])
        evidence = known.log_evidence.to(x.device), known.standard_error.to(x.device)
    else:
        assert draws is not None
        evidence = bridge(log_joint(vae, x), draws, seed=seeds[2])
    if model is not None and normals[0] is not None and normals[1] is not None:
        ways |= {"elbo": "closed form", "kl": "closed form between normals"}
        elbo = _exact_elbo(model, x, normals[0]), zero
        best_elbo = _exact_elbo(model, x, normals[1]), zero
        amortisation = best_elbo[0] - elbo[0], zero
        kl = kl_divergence(normals[0], model.posterior(x)), zero
        residual = evidence[0] - elbo[0] - kl[0], zero
    else:
        log_w, log_w_best = (log_weights(vae, d, x, samples, seeds[0]) for d in (q, q_best))
        elbo, best_elbo, amortisation = _mean(log_w), _mean(log_w_best), _mean(log_w_best - log_w)
        if method == "quadrature":
            ways["kl"] = "sum over a grid of z that also normalises p(z | x)"
            kl = _divergences(vae, x, q, known.details, seeds[1])
            residual = evidence[0] - elbo[0] - kl[0], _root(evidence[1], elbo[1], kl[1])
        else:
            ways["kl"] = (
                "mean over other draws from q, plus log p(x), which therefore cancels in the "
                "residual"
            )
            minus, error = _mean(log_weights(vae, q, x, samples, seeds[1]))
            kl = evidence[0] - minus, _root(error, evidence[1])
            residual = minus - elbo[0], _root(error, elbo[1])
    terms = {
        "log_evidence": evidence,
        "elbo": elbo,
        "kl": kl,
        "residual": residual,
        "best_elbo": best_elbo,
        "approximation": (evidence[0] - best_elbo[0], _root(evidence[1], best_elbo[1])),
        "amortisation": amortisation,
    }
    return terms, ways


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def _root(*errors: Tensor) -> Tensor:
    return torch.stack(errors).square().sum(0).sqrt()


def _in_parts(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """A function of points ``(n, batch, latent_dim)``, of some of them at a time, in float64."""
    parts = points.split(max(1, ROWS // points.shape[1]))
    return torch.cat([function(part).double() for part in parts])


def _divergences(
    vae: VAE, x: Tensor, q: Any, moments: Mapping[str, Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """KL(q || p(z | x)) on a grid for each image that holds both, with its error."""
    mean = moments["mean"].to(x)
    reach = DEVIATIONS * moments["covariance"].diagonal(dim1=-2, dim2=-1).sqrt().to(x)
    outer = _wide(q, x.device, seed)  # (2, batch, latent_dim)
    low, high = torch.minimum(outer[0], mean - reach), torch.maximum(outer[1], mean + reach)
    found = []
    for i in range(len(x)):
        joint, one = log_joint(vae, x[i : i + 1]), vae.posterior(x[i : i + 1])

        def log_densities(z: Tensor, joint: Any = joint, one: Any = one) -> tuple[Tensor, Tensor]:
            return joint(z), one.log_prob(z)

        found.append(_refined(log_densities, low[i], high[i]))
    values, errors = zip(*found, strict=True)
    return torch.stack(values), torch.stack(errors)


def _refined(
    log_densities: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """A sum over a grid that is made finer until leaving out every second node changes nothing."""
    dimensions = len(low)
    every_second = (slice(None, None, 2),) * dimensions
    for nodes in NODES:
        z, cell = _grid(low, high, nodes)
        parts = [log_densities(part[:, None]) for part in z.split(ROWS)]
        log_p, log_q = (
            torch.cat(logs)[:, 0].double().reshape([nodes] * dimensions)
            for logs in zip(*parts, strict=True)
        )
        value = _divergence(log_p, log_q, cell)
        coarse = _divergence(log_p[every_second], log_q[every_second], cell * 2**dimensions)
        error = (value - coarse).abs()
        if error < TOLERANCE:
            break
    return value, error


def _divergence(log_p: Tensor, log_q: Tensor, cell: Tensor) -> Tensor:
    """KL(q || p) from values on a grid, both normalised there."""
    log_p, log_q = (log - log.flatten().logsumexp(0) - cell.log() for log in (log_p, log_q))
    return (cell * log_q.exp() * (log_q - log_p)).sum()


def _wide(q: Any, device: torch.device, seed: int) -> Tensor:
    """Corners ``(2, batch, latent_dim)`` far outside of nearly all draws."""
    with isolated(device):
        seed_device(device, seed)
        draws = q.sample(torch.Size([2_000]))
    low, high = draws.quantile(torch.tensor([0.001, 0.999]).to(draws), 0)
    return torch.stack([low - 0.7 * (high - low), high + 0.7 * (high - low)])


def _grid(low: Tensor, high: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(nodes ** dimensions, dimensions)`` and the size of a cell."""
    steps = torch.linspace(0, 1, nodes).to(low)
    axes = [a + (b - a) * steps for a, b in zip(low, high, strict=True)]
    z = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return z, ((high - low) / (nodes - 1)).double().prod()


def _exact_elbo(model: LinearGaussian, x: Tensor, q: MultivariateNormal) -> Tensor:
    prior = MultivariateNormal(model.prior_loc, scale_tril=model.prior_tril)
    scale = model.variance.sqrt()
    loc = q.loc @ model.weight.mT + model.bias
    at_mean = Normal(loc, scale).log_prob(x.double().flatten(1)).sum(-1)
    spread = ((model.weight @ q.scale_tril) / scale[:, None]).square().sum((-2, -1)) / 2
    return at_mean - spread - kl_divergence(q, prior)


def _linear_gaussian(vae: VAE) -> LinearGaussian | None:
    try:
        return linear_gaussian(vae)
    except ValueError:
        return None


def _as_normal(d: Any) -> MultivariateNormal | None:
    """A normal with all of its covariance, in float64; None for another distribution."""
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
