r"""The gap between log p(x) and the ELBO of single examples, in two parts.

.. math::
    \log p(x) - \text{ELBO}(q) = \text{KL}(q(z \mid x) \,\|\, p(z \mid x))
    = \underbrace{\log p(x) - \text{ELBO}(q^*)}_{\text{approximation gap}}
    + \underbrace{\text{ELBO}(q^*) - \text{ELBO}(q)}_{\text{amortization gap}}

:math:`q^*` is the best q of the same family for this x alone. Each term is computed on its own, see
:func:`gap`.

References:
    Cremer, Li and Duvenaud (2018), Inference Suboptimality in Variational Autoencoders,
    arXiv:1801.03558
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae._process.memory import check_draws
from pyrovae.diagnostics._counting import Counting, silent
from pyrovae.diagnostics.evidence_identity import Term, batch_terms, chosen, grid, in_parts
from pyrovae.diagnostics.optimal_posterior import best_posterior, with_outputs
from pyrovae.estimates import AnyExamples, Result, as_examples, batches, log_slope_of
from pyrovae.evidence import Draws, check_real, log_joint, posterior_draws
from pyrovae.vae import VAE

__all__ = ["NUTS", "Gap", "NutsSettings", "PosteriorDensities", "gap", "posterior_densities"]

BLOCK = 16  # examples at a time


@dataclass(frozen=True)
class NutsSettings:
    """Length and number of the NUTS chains.

    Attributes:
        draws: draws that each chain keeps, at least 4.
        warmup: draws of each chain before these, which are discarded.
        chains: number of chains.

    Example:
        >>> from pyrovae.diagnostics import NutsSettings
        >>> NutsSettings(draws=100)
        NutsSettings(draws=100, warmup=250, chains=4)
    """

    draws: int = 250
    warmup: int = 250
    chains: int = 4


NUTS = NutsSettings()
"""Default chains."""


class Gap(Result):
    """The terms of log p(x) = ELBO + KL for single examples, in nats.

    Attributes:
        x: the examples ``(examples, *event_shape)``.
        labels: the class of each example, or None.
        log_evidence: log p(x).
        elbo: ELBO of the encoder's q.
        kl: KL(q(z | x) || p(z | x)) of the encoder's q.
        residual: log p(x) - ELBO - KL, zero up to the errors.
        best_elbo: ELBO of the best q.
        approximation: approximation gap, log p(x) minus the ELBO of the best q.
        amortization: amortization gap, the ELBO of the best q minus that of the encoder's q.
        ways: descriptions of the way ``log_evidence``, ``elbo`` and ``kl`` were computed, by name.
        method: ``exact``, ``quadrature`` or ``bridge``.
        samples: draws from each q for each ELBO.
        outputs: outputs of the posterior's network that give the best q.
        draws: NUTS draws from p(z | x) ``(chains, draws, examples, latent_dim)``, or None.
        log_slope: what turned the log densities of scaled examples into ones in the units of the
            data ``(examples,)``; None without scaling.

    Example:
        >>> from pyrovae.diagnostics import gap
        >>> found = gap(vae, data, images=2, samples=100, steps=5, nuts=None)
        >>> parts = found.approximation.value + found.amortization.value
        >>> torch.allclose(parts, found.log_evidence.value - found.elbo.value)
        True
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"amortization": "amortisation"}

    x: Tensor
    labels: list[int] | None
    log_evidence: Term
    elbo: Term
    kl: Term
    residual: Term
    best_elbo: Term
    approximation: Term
    amortization: Term
    ways: Mapping[str, str]
    method: str
    samples: int
    outputs: Tensor
    draws: Draws | None
    log_slope: Tensor | None = None

    @property
    def terms(self) -> dict[str, Term]:
        """The seven terms by name."""
        return {name: term for name, term in vars(self).items() if isinstance(term, Term)}

    def to_dict(self) -> dict[str, object]:
        """Plain data: the mean of each term, the terms of each example, and the NUTS chains."""
        terms = {self.JSON_NAMES.get(name, name): term for name, term in self.terms.items()}
        labels: Sequence[int | None] = self.labels or [None] * len(self.x)
        per_example = [
            {"image": i, "label": label}
            | {
                name: {"value": term.value[i].item(), "error": term.error[i].item()}
                for name, term in terms.items()
            }
            for i, label in enumerate(labels)
        ]
        return {
            "images": len(self.x),
            "method": self.method,
            "ways": dict(self.ways),
            "samples": self.samples,
            "mean": {name: term.mean.to_dict() for name, term in terms.items()},
            "per_image": per_example,
            "nuts": None if self.draws is None else _of_chains(self.draws),
        }

    def __repr__(self) -> str:
        return (
            f"Gap({len(self.x)} examples, log p(x) = {self.log_evidence.mean}, ELBO = "
            f"{self.elbo.mean}, approximation gap {self.approximation.mean}, amortization gap "
            f"{self.amortization.mean})"
        )


def gap(
    vae: VAE,
    data: AnyExamples,
    *,
    images: int = 16,
    labels: Sequence[int] | NDArray[Any] | None = None,
    method: str = "auto",
    samples: int = 10_000,
    steps: int = 1_000,
    nuts: NutsSettings | None = NUTS,
    seed: int = 0,
    counting: Counting = silent,
) -> Gap:
    r"""Split log p(x) - ELBO into its parts, for each of the first examples of a dataset.

    log p(x): exact for a linear decoder with normal noise and a normal prior; by quadrature in one
    and two latent dimensions; otherwise by bridge sampling, :func:`pyrovae.evidence.bridge`.

    The ELBO: in closed form where log p(x) is exact and q is normal; otherwise the mean over draws
    from q.

    The KL divergence to the true posterior: in closed form between two normals; with quadrature, on
    a grid, which normalizes p(z | x) too; otherwise from draws from q other than those of the ELBO,
    with log p(x) as normalizer. In that case log p(x) cancels, and the residual does not test it.

    The best q: see :func:`pyrovae.diagnostics.best_posterior`. It uses the same noise as the
    encoder's q, and the standard error of the amortization gap is that of the paired difference.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        data: one part of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them.
        images: number of examples.
        labels: the class of each example of ``data``, kept in the result.
        method: method for log p(x), one of ``METHODS``; ``auto`` takes the first in the order above
            that applies.
        samples: draws from each q for each ELBO, different from those of the search.
        steps: steps of the search for the best q.
        nuts: chains for bridge sampling and for the figure of a two-dimensional latent; None for
            no chains, which bridge sampling does not allow.
        seed: seed of all draws.
        counting: progress display, called with a description and a total; yields a callback, called
            with the number finished, as :func:`pyrovae.training.counting` does.

    Returns:
        The terms. Log densities of a split that scales are in the units of the data.

    Raises:
        ValueError: if a number is too small, the data are outside the support of the likelihood,
            the method does not apply, or the prior or posterior is discrete, on a sphere or a
            point.

    Example:
        >>> from pyrovae.diagnostics import gap
        >>> found = gap(vae, data, images=2, samples=100, steps=5, nuts=None)
        >>> found.method, found.approximation.value.shape
        ('quadrature', torch.Size([2]))
    """
    for name, value, least in (("images", images, 1), ("samples", samples, 2), ("steps", steps, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    x = vae.place(next(batches(as_examples(data), images, images)))
    vae.check_data(x)
    check_draws("samples", samples, min(BLOCK, len(x)))
    if nuts is not None:
        check_draws("draws", nuts.draws + nuts.warmup, nuts.chains * len(x), vae.latent_dim)
    with evaluating(vae), isolated(x.device), pyro.validation_enabled(False):
        check_real(vae, x)
        method = chosen(vae, method)
        if nuts is None and method == "bridge":
            raise ValueError("bridge sampling needs draws by NUTS; give nuts=NutsSettings()")
        blocks = x.split(BLOCK)
        with counting("best q", steps * len(blocks)) as progress:
            outputs = [
                best_posterior(vae, block, steps=steps, seed=derived(seed, i, 0), progress=progress)
                for i, block in enumerate(blocks)
            ]
        with torch.no_grad():
            qs = [
                (vae.posterior(block), with_outputs(vae.posterior, output)(block))
                for block, output in zip(blocks, outputs, strict=True)
            ]
        drawn: Sequence[Draws | None] = [None] * len(blocks)
        if nuts is not None and (method == "bridge" or vae.latent_dim == 2):
            total = nuts.chains * (nuts.warmup + nuts.draws) * len(blocks)
            with counting("NUTS", total) as progress:
                settings = vars(nuts) | {"progress": progress}
                drawn = [
                    posterior_draws(vae, block, start=best, seed=derived(seed, i, 1), **settings)
                    for i, (block, (_, best)) in enumerate(zip(blocks, qs, strict=True))
                ]
        parts = []
        with counting("log p(x) and its terms", len(x)) as progress, torch.no_grad():
            for i, (block, of_block, draws) in enumerate(zip(blocks, qs, drawn, strict=True)):
                seeds = [derived(seed, i, purpose) for purpose in (2, 3, 4)]
                parts.append(batch_terms(vae, block, of_block, method, draws, samples, seeds))
                progress(len(block))
    joined = {name: _joined([terms[name] for terms, _ in parts]) for name in parts[0][0]}
    slope = log_slope_of(data, len(x))
    if slope is not None:
        for name in ("log_evidence", "elbo", "best_elbo"):
            joined[name] = Term(joined[name].value + slope, joined[name].error)
    return Gap(
        x=x,
        labels=None if labels is None else [int(label) for label in labels[: len(x)]],
        **joined,
        log_slope=slope,
        ways=parts[0][1],
        method=method,
        samples=samples,
        outputs=torch.cat(outputs),
        draws=_together([draws for draws in drawn if draws is not None]),
    )


@dataclass(frozen=True)
class PosteriorDensities:
    """Densities of one example over a two-dimensional latent space, for a figure.

    Attributes:
        z1: nodes in the first dimension ``(nodes,)``.
        z2: nodes in the second dimension ``(nodes,)``.
        draws: NUTS draws from p(z | x) ``(n, 2)``.
        posterior: p(z | x) ``(nodes, nodes)``, one row per node of ``z2``.
        encoder: the encoder's q(z | x), likewise.
        best: the best q, likewise.

    Example:
        >>> from pyrovae.diagnostics import NutsSettings, gap, posterior_densities
        >>> few = NutsSettings(draws=4, warmup=4, chains=1)
        >>> found = gap(vae, data, images=1, samples=10, steps=2, nuts=few)
        >>> posterior_densities(vae, found, nodes=51)[0].draws.shape
        (4, 2)
    """

    z1: NDArray[Any]
    z2: NDArray[Any]
    draws: NDArray[Any]
    posterior: NDArray[Any]
    encoder: NDArray[Any]
    best: NDArray[Any]


def posterior_densities(
    vae: VAE, found: Gap, *, limit: int = 16, nodes: int = 121
) -> list[PosteriorDensities]:
    """Evaluate p(z | x), the encoder's q and the best q on a grid over a two-dimensional latent.

    Args:
        vae: the model and its posterior.
        found: the result of :func:`gap` for the same VAE.
        limit: use only the first ``limit`` examples.
        nodes: nodes of the grid in each dimension.

    Returns:
        The densities of each example.

    Raises:
        ValueError: if z does not have two dimensions, or there are no NUTS draws.

    Example:
        >>> from pyrovae.diagnostics import NutsSettings, gap, posterior_densities
        >>> few = NutsSettings(draws=4, warmup=4, chains=1)
        >>> found = gap(vae, data, images=1, samples=10, steps=2, nuts=few)
        >>> posterior_densities(vae, found, nodes=51)[0].best.shape
        (51, 51)
    """
    if vae.latent_dim != 2 or found.draws is None:
        raise ValueError(
            f"a figure of densities needs 2 latent dimensions and NUTS draws, got {vae.latent_dim} "
            f"and {'no' if found.draws is None else 'some'} draws"
        )
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
            z, _ = grid(middle - half, middle + half, nodes)
            evidence = found.log_evidence.value[i]
            evidence = evidence if found.log_slope is None else evidence - found.log_slope[i]
            logs = [in_parts(log_joint(vae, x), z) - evidence.to(z)]
            logs += [in_parts(q.log_prob, z) for q in qs]
            square = [log.exp().reshape(nodes, nodes).T.cpu().numpy() for log in logs]
            axes = z.reshape(nodes, nodes, 2).cpu().numpy()
            panels.append(
                PosteriorDensities(axes[:, 0, 0], axes[0, :, 1], draws.cpu().numpy(), *square)
            )
    return panels


def _joined(terms: Sequence[Term]) -> Term:
    return Term(
        torch.cat([term.value for term in terms]).cpu(),
        torch.cat([term.error for term in terms]).cpu(),
    )


def _together(draws: Sequence[Draws]) -> Draws | None:
    if not draws:
        return None
    return Draws(
        torch.cat([d.z for d in draws], 2),
        torch.cat([d.r_hat for d in draws]),
        torch.cat([d.effective for d in draws]),
        sum(d.divergences for d in draws),
    )


def _of_chains(draws: Draws) -> dict[str, object]:
    chains, each = draws.z.shape[:2]
    return {
        "chains": chains,
        "draws": each,
        "divergences": draws.divergences,
        "largest_r_hat": draws.r_hat.max().item(),
        "smallest_effective": draws.effective.min().item(),
    }
