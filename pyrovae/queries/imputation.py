r"""Imputation: missing pixels drawn given the observed ones, and the evidence of the latter.

.. math::
    p(x_\text{miss} \mid x_\text{obs})
    = \int p(x_\text{miss} \mid z) \, p(z \mid x_\text{obs}) \, dz, \qquad
    p(z \mid x_\text{obs}) \propto p(z) \prod_{d \in \text{obs}} p(x_d \mid z)

The likelihoods of this package are products over pixels, so leaving out a factor integrates out its
pixel. z is drawn from :math:`p(z \mid x_\text{obs})` by one of two methods, and then the missing
pixels from :math:`p(x_\text{miss} \mid z)`. Observed pixels stay as they are.

``importance`` draws z from a mixture fitted to the observed pixels and corrects the draws by
importance weights, see :mod:`pyrovae.evidence.importance`. One component of the mixture is the
approximate posterior at observations whose missing pixels have been filled in. The reported draws
are new ones, so that their average weight is an unbiased estimate of :math:`p(x_\text{obs})`.

``nuts`` draws z from the density above with the No-U-Turn sampler.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae._process.choices import check_choice
from pyrovae._process.isolation import derived, evaluating, isolated, seed_device
from pyrovae._process.memory import check_draws, in_chunks, rows_per_chunk
from pyrovae.distributions import base, is_real, name
from pyrovae.estimates import AnyExamples, as_tensor
from pyrovae.evidence import (
    FEWEST,
    Draws,
    adapted,
    draw_chains,
    from_mixture,
    jackknife_error,
    possible,
    reliable_below,
    resampled,
    weight_statistics,
    weighted_moments,
)
from pyrovae.queries.results import Imputed
from pyrovae.vae import VAE

__all__ = ["METHODS", "POOR", "SAMPLES", "UNMIXED", "impute", "work"]

METHODS = ("importance", "nuts")
SAMPLES = {"importance": 1_000, "nuts": 400}
"""Default number of draws of z per example."""
POOR = 50
"""Effective sample size below which a warning is issued."""
UNMIXED = 1.05
"""Gelman-Rubin statistic above which a warning is issued."""

FILLS = 10  # fillings of the missing pixels that q is conditioned on
ROWS = 10_000  # examples times draws in a chunk, which has a seed of its own
CHAINS, WARMUP = 4, 150  # chains of the sampler, and steps of its warm-up
CHAIN_EXAMPLES = 10  # examples that are sampled together


def impute(
    vae: VAE,
    x: AnyExamples,
    observed: Tensor | np.ndarray,
    *,
    method: str = "importance",
    completions: int = 5,
    samples: int | None = None,
    level: float = 0.9,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Imputed:
    r"""Draw the missing pixels of examples given their observed ones.

    References:
        Rezende, Mohamed and Wierstra (2014), Stochastic Backpropagation and Approximate Inference
        in Deep Generative Models, arXiv:1401.4082; Mattei and Frellsen (2018), Leveraging the Exact
        Likelihood of Deep Latent Variable Models, arXiv:1802.04826; Cappé, Guillin, Marin and
        Robert (2004), Population Monte Carlo; Hoffman and Gelman (2014), The No-U-Turn Sampler,
        arXiv:1111.4246

    Args:
        vae: the model; ``importance`` also uses its posterior, if that has a density.
        x: examples ``(examples, *event_shape)``, or as :func:`pyrovae.data.as_split` takes them;
            values at missing pixels are ignored, and NaN counts as missing.
        observed: booleans, true at observed pixels, ``event_shape`` or
            ``(examples, *event_shape)``.
        method: ``"importance"`` or ``"nuts"``.
        completions: number of draws of the missing pixels per example. Under ``importance`` each
            comes from a z that is resampled by weight, with replacement.
        samples: number of draws of z per example, by default ``SAMPLES``; under ``nuts`` over all
            chains together.
        level: probability that a missing value lies in its interval, as the model has it.
        seed: seed of all draws.
        progress: callback, called with the amount of :func:`work` finished.

    Returns:
        Completions, means, errors and intervals, in the order of x. The VAE's mode, the param store
        and the random state are left unchanged.

    Raises:
        ValueError: if the data do not fit the likelihood, ``observed`` is not boolean or has the
            wrong shape, a number is not positive, the method is unknown, the likelihood is not a
            product over pixels, or z is not a real vector under ``nuts``.

    Example:
        >>> from pyrovae.queries import impute, mask
        >>> observed = torch.from_numpy(mask("lower", (1, 8, 8), 2))
        >>> found = impute(vae, x[:2], observed, samples=100, completions=5)
        >>> found.completions.shape
        torch.Size([2, 5, 1, 8, 8])
        >>> torch.equal(found.mean[:, :, :4], x[:2, :, :4])  # the observed upper half
        True
    """
    check_choice("method", method, METHODS)
    samples = SAMPLES[method] if samples is None else samples
    for option, value, least in (("completions", completions, 1), ("samples", samples, FEWEST)):
        if value < least:
            raise ValueError(f"{option} must be at least {least}, got {value}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level:g}, e.g. 0.9")
    given_x = as_tensor(x)
    x = vae.place(given_x)
    check_draws("samples", samples, numbers=x[0].numel() + vae.latent_dim)
    check_draws("completions", completions, len(x), x[0].numel())
    observed = _mask(torch.as_tensor(observed).to(x.device), x) & ~x.isnan()
    size = _together_in(method, samples)
    parts: list[dict[str, Tensor]] = []
    with isolated(x.device), evaluating(vae):
        for place, (some, seen) in enumerate(zip(x.split(size), observed.split(size), strict=True)):
            stream = derived(seed, place)
            seed_device(x.device, stream)
            with torch.no_grad():
                given = _Given(vae, some, seen)
                if method == "importance":
                    parts.append(_by_weights(given, samples, completions, level))
                    if progress is not None:
                        progress(len(some))
                else:
                    parts.append(_by_chains(given, samples, completions, level, stream, progress))
    joined = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    result = Imputed(method, samples, level, given_x.cpu(), observed.cpu(), **joined)
    _warn(result)
    return result


def work(method: str, examples: int, samples: int | None = None) -> int:
    """The amount of work in :func:`impute`, for a progress bar.

    Args:
        method: as for :func:`impute`.
        examples: number of examples.
        samples: as for :func:`impute`.

    Returns:
        The number of examples, or under ``nuts`` the number of draws of all chains.

    Example:
        >>> from pyrovae.queries import work
        >>> work("importance", 8), work("nuts", 8)
        (8, 1000)
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
    """A VAE with some pixels of a batch observed."""

    def __init__(self, vae: VAE, x: Tensor, observed: Tensor) -> None:
        self.vae, self.examples = vae, len(x)
        self.p = vae.prior()
        likelihood: Any = vae.likelihood(self.p.sample(torch.Size([len(x)])))
        pixel = base(likelihood)
        if pixel.event_shape:
            raise ValueError(
                f"the likelihood {type(vae.likelihood).__name__} returns {name(likelihood)}, which "
                "is not a product over pixels, so missing pixels cannot be left out; use a "
                "likelihood with independent pixels, such as those in pyrovae.likelihoods"
            )
        self.event_dims = len(likelihood.event_shape)
        self.x = torch.where(observed, x, torch.full_like(x, math.nan))
        vae.check_data(self.x)
        self.observed = observed
        nominal: Tensor | None = getattr(vae.likelihood, "nominal", None)
        self.nominal = nominal if nominal is not None and bool(nominal.any()) else None

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x_obs | z), from z ``(draws, examples, latent_dim)`` to ``(draws, examples)``."""
        return torch.cat([self.vae.log_likelihood(self.x, part) for part in self._parts(z)])

    def complete(self, z: Tensor) -> Tensor:
        """Draws of x ``(draws, examples, *event_shape)``, one for each z."""
        return torch.where(self.observed, self.x, self.vae.likelihood(z).sample())

    def posterior(self, z: Tensor, log_w: Tensor) -> Any:
        """q(z | x) at several fillings of the missing pixels, batch shape ``(FILLS, examples)``."""
        return self.vae.posterior(self.complete(resampled(z, log_w, FILLS)))

    def means(self, z: Tensor) -> Tensor:
        """Means of x ``(draws, examples, *event_shape)``, one for each z."""
        means = torch.cat([self.vae.likelihood(part).mean for part in self._parts(z)])
        return torch.where(self.observed, self.x, means)

    def _parts(self, z: Tensor) -> Iterator[Tensor]:
        yield from in_chunks(z, self.examples)


def _by_weights(given: _Given, samples: int, completions: int, level: float) -> dict[str, Tensor]:
    z, log_w, counts = from_mixture(given, adapted(given), samples)
    log_evidence = log_w.logsumexp(0) - math.log(len(log_w))
    found = weight_statistics(log_w)
    means = given.means(z)  # (samples, examples, *event_shape)
    w = possible(log_w).softmax(0).to(means).reshape(*log_w.shape, *[1] * given.event_dims)
    mean = torch.where(given.observed, given.x, (w * means).sum(0))
    mean_error = (w * (means - mean)).square().sum(0).sqrt()
    drawn = given.complete(resampled(z, log_w, completions)).transpose(0, 1)
    return {
        "completions": drawn,
        **_summary(given, z, w, mean, level),
        "mean_error": mean_error,
        "effective": found.ess,
        "log_evidence": log_evidence,
        "standard_error": jackknife_error(log_w, counts),
        "pareto_k": found.pareto_k,
    }


def _by_chains(
    given: _Given,
    samples: int,
    completions: int,
    level: float,
    seed: int,
    progress: Callable[[int], None] | None,
) -> dict[str, Tensor]:
    if not is_real(given.p):
        raise ValueError(
            f"nuts samples real vectors z, and the prior {type(given.vae.prior).__name__} is not "
            "over real vectors; use the method importance"
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
            progress=progress,
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
    w = even.softmax(0).to(means).reshape(*even.shape, *[1] * given.event_dims)
    return {
        "completions": drawn,
        **_summary(given, z.flatten(0, 1), w, mean, level),
        "mean_error": error,
        "effective": effective,
        "r_hat": r_hat,
    }


def _summary(given: _Given, z: Tensor, w: Tensor, mean: Tensor, level: float) -> dict[str, Tensor]:
    """Means and intervals, from draws of the missing values, one for each z.

    Args:
        given: the examples.
        z: draws ``(draws, examples, latent_dim)``.
        w: their weights, which sum to one over the draws, ``(draws, examples, 1, ...)``.
        mean: mean of x ``(examples, *event_shape)``, replaced by the most frequent code where x is
            a code of a category.
        level: probability of an interval.
    """
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2]).to(mean)
    bounds = mean.repeat(2, *[1] * mean.dim())  # (2, examples, *event_shape)
    for example, draws in enumerate(given.complete(z).unbind(1)):
        missing = ~given.observed[example]
        values, order = draws[:, missing].sort(0)  # (draws, missing)
        passed = w[:, example].flatten()[order].cumsum(0)
        places = torch.searchsorted(passed.mT.contiguous(), tails.repeat(values.shape[1], 1))
        bounds[:, example, missing] = values.gather(0, places.mT.clamp_max(len(values) - 1))
        column = missing if given.nominal is None else missing & given.nominal
        if given.nominal is not None and column.any():
            codes = nn.functional.one_hot(draws[:, column].long())  # (draws, columns, codes)
            votes = (w[:, example].reshape(-1, 1, 1) * codes).sum(0)
            mean[example, column] = votes.argmax(-1).to(mean)
            bounds[:, example, column] = mean[example, column]
    return {"mean": mean, "lower": bounds[0], "upper": bounds[1]}


def _mask(observed: Tensor, x: Tensor) -> Tensor:
    if observed.dtype != torch.bool:
        raise ValueError(f"observed must be boolean, true at observed pixels, got {observed.dtype}")
    if observed.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}; it must have the shape of one example, "
            f"{tuple(x.shape[1:])}, or of all examples, {tuple(x.shape)}"
        )
    return observed.expand_as(x)


def _warn(result: Imputed) -> None:
    few, count, weighted = result.effective < POOR, len(result.x), result.pareto_k is not None
    messages = []
    if few.any():
        messages.append(
            f"the effective sample size is below {POOR} for {int(few.sum())} of {count} examples "
            f"(least {result.effective.min():.1f}): their completions may be too similar and their "
            f"errors too small; {'use the method nuts' if weighted else 'take more samples'}"
        )
    most = reliable_below(result.samples)
    if result.pareto_k is not None and (heavy := result.pareto_k > most).any():
        messages.append(
            f"the weights of {int(heavy.sum())} of {count} examples have a heavy tail (Pareto "
            f"shape above {most:.2g}), so their errors are lower limits; use the method nuts, "
            "which needs no weights, since more samples seldom help"
        )
    if result.r_hat is not None and (apart := result.r_hat > UNMIXED).any():
        messages.append(
            f"the chains disagree for {int(apart.sum())} of {count} examples (r_hat up to "
            f"{result.r_hat.max():.2f}, above {UNMIXED}); take more samples"
        )
    for message in messages:
        warnings.warn(message, stacklevel=3)
