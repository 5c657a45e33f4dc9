r"""Simulation-based calibration: test q(z | x) on data drawn from the model itself.

Draw :math:`z^* \sim p(z)` and :math:`x \sim p(x \mid z^*)`. Then :math:`z^*` is a draw from the
exact posterior :math:`p(z \mid x)`. If q is that posterior, :math:`z^*` cannot be distinguished
from draws from :math:`q(z \mid x)`, and its rank among L of them, ordered by any function of z and
x, is uniform on 0, ..., L. If a histogram of ranks over many such x is not flat, its shape shows
how q is wrong.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae._process.memory import rows_per_chunk
from pyrovae.diagnostics.rank_uniformity import BINS, Uniformity, uniformity
from pyrovae.distributions import is_discrete, is_point
from pyrovae.estimates import Estimate
from pyrovae.vae import VAE

__all__ = ["Calibration", "calibrate"]

Array = NDArray[Any]

ROWS = 2_000  # simulations times draws in a chunk, which has a seed of its own

ESTIMATOR = "rank of z* ~ p(z) among draws from q(z | x), x ~ p(x | z*)"


class Calibration(Uniformity):
    """A test of q(z | x) against the exact posterior, on data drawn from the model.

    Attributes:
        p_value, test, permutations, functions, coverage, verdict: as in :class:`Uniformity`.
        estimator: the origin of the ranks in words.
        simulations: number of pairs of z* and x.
        draws: number of draws from q(z | x) for each pair.
        seed: seed of all draws.

    Example:
        >>> from pyrovae.diagnostics import calibrate
        >>> found = calibrate(vae, simulations=100, draws=19)
        >>> found.simulations, found.draws, 0 < found.p_value <= 1
        (100, 19, True)
    """

    estimator: str
    simulations: int
    draws: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Plain data that starts with the settings."""
        plain = super().to_dict()
        names = ("estimator", "simulations", "draws", "seed")
        return {name: plain.pop(name) for name in names} | plain


@torch.no_grad()
def calibrate(
    vae: VAE,
    *,
    simulations: int = 1_000,
    draws: int = 99,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    r"""Test q(z | x) against the exact posterior, on data drawn from the model.

    Ranks are taken for each dimension of z; for :math:`\log p(z)`, which reveals dimensions that
    are wrong together; and for :math:`\log p(x \mid z)`, without which a q that ignores x and
    equals the prior would pass.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian Inference
        Algorithms with Simulation-Based Calibration, arXiv:1804.06788;
        Modrák et al. (2023), Simulation-Based Calibration Checking for Bayesian Computation: The
        Choice of Test Quantities Shapes Sensitivity, arXiv:2211.02383

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        simulations: number of pairs of z* and x.
        draws: number L of draws from q(z | x) for each pair; L + 1 must be a multiple of ``BINS``.
        seed: seed of all draws.
        progress: callback, called with the number of simulations finished.

    Returns:
        The test of uniformity, with an ``error_ratio`` for each dimension of z.

    Raises:
        ValueError: if an option is outside its range, or the posterior is a point.
        ArithmeticError: if a log density is NaN.

    Example:
        >>> from pyrovae.diagnostics import calibrate
        >>> found = calibrate(vae, simulations=100, draws=19)
        >>> [function.name for function in found.functions]
        ['z1', 'z2', 'log p(z)', 'log p(x|z)']
    """
    _check(simulations, draws)
    size = rows_per_chunk(draws + 1, ROWS)
    parts = []
    device = next(vae.parameters(), torch.empty(0)).device
    with isolated(device), evaluating(vae):
        for place, start in enumerate(range(0, simulations, size)):
            torch.manual_seed(derived(seed, place))
            parts.append(_simulated(vae, min(size, simulations - start), draws))
            if progress is not None:
                progress(len(parts[-1]))
        continuous = not is_discrete(vae.prior())
    values = np.concatenate(parts)  # (simulations, draws + 1, functions)
    dimensions = [f"z{d + 1}" for d in range(vae.latent_dim)]
    names = [*dimensions, "log p(z)", "log p(x|z)"]
    varies = np.ptp(values.reshape(-1, len(names)), 0) > 0
    kept = [name for name, differs in zip(names, varies, strict=True) if differs]
    intervals = dimensions if continuous else []
    found = uniformity(values[..., varies], kept, seed=seed, intervals=intervals)
    ratios = dict(zip(dimensions, _error_ratios(values[..., :-2]), strict=True))
    functions = [replace(row, error_ratio=ratios.get(row.name)) for row in found.functions]
    return Calibration(
        **vars(found) | {"functions": functions},
        estimator=ESTIMATOR,
        simulations=simulations,
        draws=draws,
        seed=seed,
    )


def _check(simulations: int, draws: int) -> None:
    if simulations < 5 * BINS:
        raise ValueError(
            f"simulations must be at least {5 * BINS}, five for each bin, got {simulations}; "
            "1000 is usual"
        )
    if draws < 1 or (draws + 1) % BINS:
        above = BINS * max(1, math.ceil((draws + 1) / BINS)) - 1
        raise ValueError(
            f"draws + 1 must be a multiple of {BINS}, so that each bin holds as many ranks; got "
            f"{draws}, use {above}"
        )


def _simulated(vae: VAE, count: int, draws: int) -> Array:
    """Functions of z* and of draws from q(z | x): ``(count, draws + 1, functions)``."""
    p = vae.prior()
    truth = p.sample((count,))
    x = vae.likelihood(truth).sample()
    q = vae.posterior(x)
    if is_point(q) and not is_discrete(q):
        raise ValueError(
            f"the posterior {type(vae.posterior).__name__} is a point: it claims no uncertainty "
            "that could be right or wrong; use a posterior with a density"
        )
    z = torch.cat([truth.unsqueeze(0), q.sample(torch.Size([draws]))])  # (draws + 1, count, dim)
    scalars = torch.stack([p.log_prob(z), vae.log_likelihood(x, z)], -1)
    values: Tensor = torch.cat([z.double(), scalars.double()], -1).transpose(0, 1)
    if values.isnan().any():
        raise ArithmeticError("a log density of the model at its own draws is NaN")
    return np.asarray(values.cpu())


def _error_ratios(values: Array) -> list[Estimate | None]:
    r"""The error of q's mean over the standard deviation that q claims, for each dimension.

    With mean m and variance :math:`s^2` of L draws, :math:`E (z^* - m)^2 = (1 + 1 / L) \, E s^2` if
    z* is one more draw. The standard error treats the ratio as one of two paired means.
    """
    truth, drawn = values[:, 0], values[:, 1:]
    error = (truth - drawn.mean(1)) ** 2  # (N, dim)
    stated = drawn.var(1, ddof=1) * (1 + 1 / drawn.shape[1])
    found: list[Estimate | None] = []
    for a, b in zip(error.T, stated.T, strict=True):
        if not b.mean() > 0 or not a.mean() > 0:
            found.append(None)
            continue
        ratio = a.mean() / b.mean()
        noise = (a - ratio * b).std(ddof=1) / (math.sqrt(len(a)) * b.mean())
        root = math.sqrt(ratio)
        found.append(Estimate(root, float(noise / (2 * root))))
    return found
