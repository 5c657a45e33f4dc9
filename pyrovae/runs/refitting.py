r"""Another prior for a trained VAE, fitted to the aggregate posterior with q and decoder fixed.

.. math::
    \max_{p} \; \mathbb{E}_{q(z)} \log p(z), \qquad
    q(z) = \mathbb{E}_{\text{data}} \, q(z \mid x)

The ELBO depends on the prior through this term alone, so this maximizes the ELBO over the prior's
parameters. The ELBO rises by as much as :math:`\mathrm{KL}(q(z) \,\|\, p(z))` falls, since the
entropy of :math:`q(z)` does not change.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae._process.isolation import evaluating, isolated, stream
from pyrovae.data import Dataset, Split
from pyrovae.distributions import is_discrete, is_point
from pyrovae.estimates import Estimate, Examples, Result
from pyrovae.evidence import kind, per_example
from pyrovae.objectives import Elbo
from pyrovae.training import Fit, Progress, fit
from pyrovae.vae import VAE

__all__ = ["Paired", "PriorChange", "change", "refit"]

KL_ESTIMATOR = "mean of log p_before(z) - log p_after(z), z ~ q(z | x), over the examples"


class Paired(Result):
    """A mean before and after, and the mean of the paired differences, in nats per example.

    Attributes:
        before, after: means over examples.
        change: mean of after minus before, with the standard error of paired values.

    Example:
        >>> from pyrovae.runs import Paired
        >>> Paired.of(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
        Paired(before=1.50 ± 0.50, after=2.50 ± 0.50, change=1.00 ± 0.00)
    """

    before: Estimate
    after: Estimate
    change: Estimate

    @staticmethod
    def of(before: Tensor, after: Tensor) -> "Paired":
        """Compare values ``(examples,)`` of the same examples."""
        return Paired(Estimate.of(before), Estimate.of(after), Estimate.of(after - before))


class PriorChange(Result):
    """The effect of another prior, in nats per example.

    Attributes:
        marginal_kl: change of KL(q(z) || p(z)).
        elbo: the evidence lower bound with each prior.
        log_evidence: the importance-weighted bound on log p(x) with each prior.
        kind: what ``log_evidence`` is, in words.
        samples: draws for each example.
        examples: number of examples.

    Example:
        >>> from pyrovae.runs import change
        >>> change(vae, vae, data, samples=10).marginal_kl
        0.00 ± 0.00
    """

    marginal_kl: Estimate
    elbo: Paired
    log_evidence: Paired
    kind: str
    samples: int
    examples: int

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data, with the estimator of the KL divergence named."""
        return {
            "marginal_kl": {"change": self.marginal_kl.to_dict(), "estimator": KL_ESTIMATOR},
            "elbo": self.elbo.to_dict(),
            "log_evidence": self.log_evidence.to_dict() | {"kind": self.kind},
            "samples": self.samples,
            "images": self.examples,
        }


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

    This is :func:`pyrovae.fit` with encoder and decoder fixed: they are in eval mode, and their
    weights stay the same to the bit. The validation part of a dataset chooses the prior's weights.

    Args:
        vae: trained; it is not changed.
        prior: p(z) over the same space. A prior built from a posterior, such as ``vamp``, must be
            built from this VAE's.
        data: the data that ``vae`` was trained on.
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
    progress: Callable[[int], None] | None = None,
) -> PriorChange:
    r"""Compare two VAEs that differ in their priors alone.

    .. math::
        \mathrm{KL}(q(z) \,\|\, p'(z)) - \mathrm{KL}(q(z) \,\|\, p(z))
        = \mathbb{E}_{q(z)} [\log p(z) - \log p'(z)]

    Both are evaluated on the same draws of z for each example, so the standard errors of the
    differences are those of paired values.

    Args:
        before: with the prior p.
        after: with the prior p', and the same posterior and likelihood.
        data: one part of a dataset, usually the test set; :math:`q(z)` averages over its examples.
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
    old, new = (
        per_example(vae, data, samples=samples, limit=limit, seed=seed, progress=progress)
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
