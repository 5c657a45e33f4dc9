r"""The posterior over missing pixels given the others, and the evidence of the others.

.. math::
    p(x_\text{miss} \mid x_\text{obs})
    = \int p(x_\text{miss} \mid z) \, p(z \mid x_\text{obs}) \, dz, \qquad
    p(z \mid x_\text{obs}) \propto p(z) \prod_{d \in \text{obs}} p(x_d \mid z)

The likelihoods of the house are products over pixels, so that to leave a factor out is to integrate
its pixel out. z is drawn from :math:`p(z \mid x_\text{obs})` in one of two ways, and then the
missing pixels from :math:`p(x_\text{miss} \mid z)`. Observed pixels stay as they are.

``importance`` draws z from a mixture that is fitted to the observed pixels, and corrects by
weights: see :mod:`pyrovae.evidence.proposals`. The posterior in it is that at observations whose
missing pixels are filled in. The draws that are reported are fresh ones, so that the average of
their weights has the mean :math:`p(x_\text{obs})`.

``nuts`` draws z by the No-U-Turn sampler from the density above, with its gradients.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pyrovae._process.choices import check_choice
from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae._process.memory import in_chunks, rows_per_chunk
from pyrovae.distributions import base, is_discrete, is_real, name
from pyrovae.evidence import (
    FEWEST,
    RELIABLE,
    Draws,
    adapted,
    draw_chains,
    from_mixture,
    resampled,
    weight_statistics,
    weighted_moments,
)
from pyrovae.vae import VAE

__all__ = ["KINDS", "METHODS", "POOR", "SAMPLES", "UNMIXED", "Imputed", "impute", "work"]

METHODS = ("importance", "nuts")
KINDS = {
    "importance": "importance-weighted lower bound on log p(x_obs)",
    "nuts": "none: the draws of a Markov chain give no normalising constant",
}
"""What each method gives for the evidence of the observed pixels."""
SAMPLES = {"importance": 1_000, "nuts": 400}
"""Draws of z for each datum by default."""
POOR = 50
"""The effective sample size below which a warning is given."""
UNMIXED = 1.05
"""The Gelman-Rubin statistic above which one is given."""

FILLS = 10  # ways of filling in that the posterior is asked about
ROWS = 10_000  # examples times draws in a chunk, which has a seed of its own
CHAINS, WARMUP = 4, 150  # of the sampler
CHAIN_EXAMPLES = 10  # that it draws together


@dataclass(frozen=True)
class Imputed:
    r"""Draws of the missing pixels of some data, and what is known about them.

    Attributes:
        completions: draws ``(examples, completions, *event_shape)``; observed pixels are the
            data's.
        mean: :math:`\mathbb{E}[x \mid x_\text{obs}]`, ``(examples, *event_shape)``; observed pixels
            are the data's.
        mean_error: standard error of ``mean``, zero at observed pixels; under ``nuts`` as if every
            pixel mixed like the worst dimension of z.
        effective: so many independent draws of z would do as well ``(examples,)``. Of weights,
            :math:`(\sum w)^2 / \sum w^2`; of chains, that of the worst dimension of z.
        log_evidence: estimate of :math:`\log p(x_\text{obs})`, ``(examples,)``, with an expectation
            below it; None under ``nuts``.
        standard_error: of ``log_evidence``, by the delta method.
        pareto_k: shape of the tail of the weights, see :class:`pyrovae.evidence.Weights`.
        r_hat: split Gelman-Rubin statistic of the worst dimension of z, ``(examples,)``; None under
            ``importance``.
    """

    completions: Tensor
    mean: Tensor
    mean_error: Tensor
    effective: Tensor
    log_evidence: Tensor | None = None
    standard_error: Tensor | None = None
    pareto_k: Tensor | None = None
    r_hat: Tensor | None = None


def impute(
    vae: VAE,
    x: Tensor,
    observed: Tensor,
    *,
    method: str = "importance",
    completions: int = 5,
    samples: int | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Imputed:
    r"""Draw the missing pixels of each of some data given its observed ones.

    References:
        Rezende, Mohamed and Wierstra (2014), Stochastic Backpropagation and Approximate Inference
        in Deep Generative Models, arXiv:1401.4082; Mattei and Frellsen (2018), Leveraging the Exact
        Likelihood of Deep Latent Variable Models, arXiv:1802.04826; Cappé, Guillin, Marin and
        Robert (2004), Population Monte Carlo; Hoffman and Gelman (2014), The No-U-Turn Sampler,
        arXiv:1111.4246

    Args:
        vae: the model, and under ``importance`` its posterior, if that has a density.
        x: data ``(examples, *event_shape)``; what stands at missing pixels does not matter, and
            NaN is missing too.
        observed: booleans, true where a pixel is observed, ``event_shape`` or
            ``(examples, *event_shape)``.
        method: ``"importance"`` or ``"nuts"``.
        completions: number of draws of the missing pixels of each datum. Under ``importance`` they
            are draws of z by weight, with replacement.
        samples: number of draws of z for each datum, by default ``SAMPLES``; under ``nuts`` of all
            chains together.
        seed: of all draws.
        advance: told how much of the :func:`work` is done.

    Returns:
        Completions, means and errors, in the order of x. The VAE's mode, param store and random
        state are left as they were.

    Raises:
        ValueError: if the data do not fit the likelihood, ``observed`` is no booleans or has
            another shape, a number is not positive, the method is neither, the likelihood is no
            product over pixels, or z is no real vector under ``nuts``.
    """
    check_choice("method", method, METHODS)
    samples = SAMPLES[method] if samples is None else samples
    for option, value, least in (("completions", completions, 1), ("samples", samples, FEWEST)):
        if value < least:
            raise ValueError(f"{option} must be at least {least}, got {value}")
    x = vae.place(x)
    observed = _mask(observed.to(x.device), x) & ~x.isnan()
    size = _together_in(method, samples)
    parts: list[Imputed] = []
    with isolated(x.device), evaluating(vae):
        for place, (some, seen) in enumerate(zip(x.split(size), observed.split(size), strict=True)):
            stream = derived(seed, place)
            seed_device(x.device, stream)
            with torch.no_grad():
                given = _Given(vae, some, seen)
                if method == "importance":
                    parts.append(_by_weights(given, samples, completions))
                    if advance is not None:
                        advance(len(some))
                else:
                    parts.append(_by_chains(given, samples, completions, stream, advance))
    result = _joined(parts)
    _warn(result)
    return result


def work(method: str, examples: int, samples: int | None = None) -> int:
    """How much there is to do: examples, or under ``nuts`` draws of chains.

    Args:
        method, samples: as for :func:`impute`.
        examples: how many there are.
    """
    samples = SAMPLES[method] if samples is None else samples
    if method == "importance":
        return examples
    return -(-examples // _together_in(method, samples)) * CHAINS * (WARMUP + _each(samples))


def _together_in(method: str, samples: int) -> int:
    """Examples in a batch."""
    return rows_per_chunk(samples, ROWS) if method == "importance" else CHAIN_EXAMPLES


def _each(samples: int) -> int:
    """Draws of one chain."""
    return -(-samples // CHAINS)


class _Given:
    """A VAE with some pixels of some data observed."""

    def __init__(self, vae: VAE, x: Tensor, observed: Tensor) -> None:
        self.vae, self.observed, self.examples = vae, observed, len(x)
        self.p = vae.prior()
        likelihood: Any = vae.likelihood(self.p.sample(torch.Size([len(x)])))
        pixel = base(likelihood)
        if pixel.event_shape:
            raise ValueError(
                f"the likelihood {type(vae.likelihood).__name__} gives {name(likelihood)}, which "
                "is no product over pixels, and pixels cannot be left out of it; take a likelihood "
                "of independent pixels, as all in pyrovae.likelihoods are"
            )
        self.event_dims = len(likelihood.event_shape)
        anything = likelihood.sample() if is_discrete(pixel) else likelihood.mean
        if observed.shape[1:] == anything.shape[1:]:  # else check_data says what is wrong
            x = torch.where(observed, x, anything)
        vae.check_data(x)
        self.x = x

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x_obs | z), from z ``(draws, examples, latent_dim)`` to ``(draws, examples)``."""
        return torch.cat([self._log_likelihood(part) for part in self._parts(z)])

    def complete(self, z: Tensor) -> Tensor:
        """Draws of x ``(draws, examples, *event_shape)``, one for each z."""
        return torch.where(self.observed, self.x, self.vae.likelihood(z).sample())

    def posterior(self, z: Tensor, log_w: Tensor) -> Any:
        """q(z | x) of some ways of filling in, batch shape ``(FILLS, examples)``."""
        return self.vae.posterior(self.complete(resampled(z, log_w, FILLS)))

    def means(self, z: Tensor) -> Tensor:
        """Means of x ``(draws, examples, *event_shape)``, one for each z."""
        means = torch.cat([self.vae.likelihood(part).mean for part in self._parts(z)])
        return torch.where(self.observed, self.x, means)

    def _log_likelihood(self, z: Tensor) -> Tensor:
        each = base(self.vae.likelihood(z)).log_prob(self.x)
        seen = torch.where(self.observed, each, torch.zeros_like(each))
        return seen.flatten(-self.event_dims).sum(-1)

    def _parts(self, z: Tensor) -> Iterator[Tensor]:
        yield from in_chunks(z, self.examples)


def _by_weights(given: _Given, samples: int, completions: int) -> Imputed:
    z, log_w = from_mixture(given, adapted(given), samples)
    log_evidence = log_w.logsumexp(0) - math.log(len(log_w))
    found = weight_statistics(log_w)
    w = log_w.softmax(0)  # (samples, examples)
    means = given.means(z)  # (samples, examples, *event_shape)
    w = w.to(means).reshape(*w.shape, *[1] * given.event_dims)
    mean = torch.where(given.observed, given.x, (w * means).sum(0))
    mean_error = (w * (means - mean)).square().sum(0).sqrt()
    drawn = given.complete(resampled(z, log_w, completions)).transpose(0, 1)
    return Imputed(
        drawn, mean, mean_error, found.ess, log_evidence, found.standard_error, found.pareto_k
    )


def _by_chains(
    given: _Given,
    samples: int,
    completions: int,
    seed: int,
    advance: Callable[[int], None] | None,
) -> Imputed:
    if not is_real(given.p):
        raise ValueError(
            f"nuts moves z along gradients through all real vectors, and the prior "
            f"{type(given.vae.prior).__name__} is not over these; take the method importance"
        )
    fitted = adapted(given)
    loc, factor = weighted_moments(fitted.z, fitted.log_w)
    apart = (resampled(fitted.z, fitted.log_w, CHAINS) - loc).unsqueeze(-1)
    start = torch.linalg.solve_triangular(factor, apart, upper=False).squeeze(-1)

    def z_of(u: Tensor) -> Tensor:
        return loc + (factor @ u.unsqueeze(-1)).squeeze(-1)

    def log_density(u: Tensor) -> Tensor:
        z = z_of(u).unsqueeze(0)
        density: Tensor = given.p.log_prob(z) + given.log_likelihood(z)
        return density.squeeze(0)

    with torch.enable_grad():
        found: Draws = draw_chains(
            log_density,
            start,
            draws=_each(samples),
            warmup=WARMUP,
            chains=CHAINS,
            seed=seed,
            progress=advance,
        )
    z = z_of(found.z)  # (chains, draws, examples, latent_dim)
    means = given.means(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    mean = torch.where(given.observed, given.x, means.mean((0, 1)))
    effective, r_hat = found.effective.min(-1).values, found.r_hat.max(-1).values
    error = means.flatten(0, 1).std(0) / effective.sqrt().to(mean).reshape(
        -1, *[1] * given.event_dims
    )
    even = torch.zeros(z.shape[:2].numel(), given.examples, dtype=z.dtype, device=z.device)
    drawn = given.complete(resampled(z.flatten(0, 1), even, completions)).transpose(0, 1)
    return Imputed(drawn, mean, error, effective, r_hat=r_hat)


def _mask(observed: Tensor, x: Tensor) -> Tensor:
    if observed.dtype != torch.bool:
        raise ValueError(
            f"observed must be booleans, true where a pixel is observed, got {observed.dtype}"
        )
    if observed.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"observed has the shape {tuple(observed.shape)}; it must be that of one observation, "
            f"{tuple(x.shape[1:])}, or of all, {tuple(x.shape)}"
        )
    return observed.expand_as(x)


def _joined(parts: Sequence[Imputed]) -> Imputed:
    columns = {
        field.name: [getattr(part, field.name) for part in parts] for field in fields(Imputed)
    }
    return Imputed(
        **{name: torch.cat(values).cpu() for name, values in columns.items() if None not in values}
    )


def _warn(result: Imputed) -> None:
    few = result.effective < POOR
    if few.any():
        warnings.warn(
            f"the effective sample size is below {POOR} for {int(few.sum())} of {len(few)} "
            f"examples (least {result.effective.min():.1f}): their completions may be too alike "
            "and their errors too small; take more samples, or the other method",
            stacklevel=3,
        )
    if result.pareto_k is not None and (heavy := result.pareto_k > RELIABLE).any():
        warnings.warn(
            f"the weights of {int(heavy.sum())} of {len(heavy)} examples have a heavy tail (Pareto "
            f"shape above {RELIABLE}), so that their errors may be too small; take more samples, "
            "or the other method",
            stacklevel=3,
        )
    if result.r_hat is not None and (apart := result.r_hat > UNMIXED).any():
        warnings.warn(
            f"chains disagree for {int(apart.sum())} of {len(apart)} examples (r_hat up to "
            f"{result.r_hat.max():.2f}, above {UNMIXED}); take more samples",
            stacklevel=3,
        )
