r"""Results of queries: completions of examples, and scores of examples."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import FarBelow, far_below, reliable_below

__all__ = ["KINDS", "Imputed", "ImputedExample", "Scores"]

KINDS = {
    "importance": "importance-weighted lower bound on log p(x_obs)",
    "nuts": "none: the draws of a Markov chain give no normalizing constant",
}
"""The estimate of the evidence of the observed pixels that each method gives."""


class ImputedExample(Result):
    """Quality of the completions of one example.

    Attributes:
        observed: number of observed pixels.
        pixels: number of all pixels.
        effective: effective number of independent draws of z.
        log_evidence: estimate of log p(x_obs); None under ``nuts``.
        pareto_k: tail shape of the importance weights; None under ``nuts``.
        r_hat: split Gelman-Rubin statistic; None under ``importance``.

    Example:
        >>> from pyrovae.queries import impute, mask
        >>> observed = torch.from_numpy(mask("lower", (1, 8, 8), 2))
        >>> row = impute(vae, x[:2], observed, samples=100).rows[0]
        >>> row.observed, row.pixels, row.r_hat is None
        (32, 64, True)
    """

    observed: int
    pixels: int
    effective: float
    log_evidence: Estimate | None = None
    pareto_k: float | None = None
    r_hat: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain data, without the attributes that the method does not have."""
        return {name: value for name, value in super().to_dict().items() if value is not None}


class Imputed(Result):
    r"""Draws of the missing pixels of examples, with their means, errors and diagnostics.

    Attributes:
        method: ``"importance"`` or ``"nuts"``.
        samples: number of draws of z per example.
        level: probability that a missing value lies in its interval.
        x: the examples ``(examples, *event_shape)``, as passed in.
        observed: booleans ``(examples, *event_shape)``, true at observed pixels.
        completions: draws ``(examples, completions, *event_shape)``, equal to x at observed pixels.
        mean: :math:`\mathbb{E}[x \mid x_\text{obs}]`, ``(examples, *event_shape)``, equal to x at
            observed pixels; for the code of a category, the most probable one.
        lower, upper: bounds of the central interval of each missing value,
            ``(examples, *event_shape)``; both equal x at observed pixels, and the most probable
            code of a category, whose codes have no order.
        mean_error: standard error of ``mean``, zero at observed pixels; under ``nuts`` computed as
            if every pixel mixed as slowly as the slowest dimension of z.
        effective: effective number of independent draws of z ``(examples,)``: for weights
            :math:`(\sum w)^2 / \sum w^2`, for chains the smallest over the dimensions of z.
        log_evidence: estimate of :math:`\log p(x_\text{obs})`, ``(examples,)``, a lower bound in
            expectation; None under ``nuts``.
        standard_error: standard error of ``log_evidence``, by the jackknife.
        pareto_k: shape of the tail of the weights, see :class:`pyrovae.evidence.Weights`.
        r_hat: split Gelman-Rubin statistic, the largest over the dimensions of z ``(examples,)``;
            None under ``importance``.

    Example:
        >>> from pyrovae.queries import impute
        >>> found = impute(vae, x[:2], torch.rand(2, 1, 8, 8) < 0.5, completions=3)
        >>> found.completions.shape
        torch.Size([2, 3, 1, 8, 8])
        >>> list(found.to_dict())
        ['method', 'samples', 'level', 'kind', 'completions', 'images', 'rows']
    """

    method: str
    samples: int
    level: float
    x: Tensor
    observed: Tensor
    completions: Tensor
    mean: Tensor
    lower: Tensor
    upper: Tensor
    mean_error: Tensor
    effective: Tensor
    log_evidence: Tensor | None = None
    standard_error: Tensor | None = None
    pareto_k: Tensor | None = None
    r_hat: Tensor | None = None

    @property
    def kind(self) -> str:
        """The meaning of ``log_evidence`` in words."""
        return KINDS[self.method]

    @property
    def rows(self) -> tuple[ImputedExample, ...]:
        """The diagnostics of each example."""

        def numbers(values: Tensor | None) -> list[Any]:
            return [None] * len(self.x) if values is None else values.tolist()

        evidence = zip(numbers(self.log_evidence), numbers(self.standard_error), strict=True)
        estimates = [None if value is None else Estimate(value, error) for value, error in evidence]
        return tuple(
            ImputedExample(int(seen.sum()), seen.numel(), *diagnostics)
            for seen, *diagnostics in zip(
                self.observed,
                numbers(self.effective),
                estimates,
                numbers(self.pareto_k),
                numbers(self.r_hat),
                strict=True,
            )
        )

    def __repr__(self) -> str:
        return (
            f"Imputed({self.completions.shape[1]} completions of each of {len(self.x)} examples by "
            f"{self.method}, effective draws of z from {self.effective.min():.0f} to "
            f"{self.effective.max():.0f})"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, without those that the method does not have."""
        numbers = (
            "mean",
            "lower",
            "upper",
            "mean_error",
            "effective",
            "log_evidence",
            "standard_error",
        )
        return _arrays(self, ("completions", "x", *numbers, "pareto_k", "r_hat", "observed"))

    def to_dict(self) -> dict[str, object]:
        """Plain data, without the arrays."""
        return {
            "method": self.method,
            "samples": self.samples,
            "level": self.level,
            "kind": self.kind,
            "completions": self.completions.shape[1],
            "images": len(self.x),
            "rows": [row.to_dict() for row in self.rows],
        }


class Scores(Result):
    r"""Estimates of log p(x) of examples, with diagnostics of their importance weights.

    Attributes:
        log_evidence: importance-weighted lower bounds on log p(x), in nats ``(examples,)``.
        standard_error: standard errors of ``log_evidence``, by the jackknife ``(examples,)``.
        ess: effective sample sizes :math:`(\sum w)^2 / \sum w^2`, ``(examples,)``.
        pareto_k: shapes of the tails of the weights ``(examples,)``; where the shape is above
            :func:`pyrovae.evidence.reliable_below`, the standard error is a lower limit.
        kind: the meaning of ``log_evidence`` in words.
        proposal: the distribution that z is drawn from, ``"posterior"`` or ``"mixture"``.
        samples: number of draws of z per example.

    Example:
        >>> from pyrovae.queries import score
        >>> found = score(vae, data, samples=100, limit=5)
        >>> found.log_evidence.shape, found.kind
        (torch.Size([5]), 'importance-weighted lower bound')
    """

    log_evidence: Tensor
    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    kind: str
    proposal: str
    samples: int

    @property
    def mean(self) -> Estimate:
        """The mean over examples, in nats per example."""
        return Estimate.of(self.log_evidence)

    @property
    def far_below(self) -> FarBelow | None:
        """The examples whose log p(x) lies far below that of all others; None if none does."""
        return far_below(self.log_evidence)

    @property
    def heavy_tails(self) -> int:
        """The number of examples whose weights have a heavy tail."""
        return int((self.pareto_k > reliable_below(self.samples)).sum())

    def __repr__(self) -> str:
        return (
            f"Scores(log p(x) {self.mean}, mean of {len(self.log_evidence)} examples, "
            f"{self.heavy_tails} with heavy tails of the weights)"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of the table, one row for each example."""
        return _arrays(self, ("log_evidence", "standard_error", "ess", "pareto_k"))

    def to_dict(self) -> dict[str, object]:
        """Plain data, without the arrays."""
        return {
            "log_evidence": self.mean.to_dict(),
            "kind": self.kind,
            "proposal": self.proposal,
            "samples": self.samples,
            "examples": len(self.log_evidence),
            "heavy_tails": self.heavy_tails,
        } | ({} if self.far_below is None else {"far_below": self.far_below.to_dict()})


def _arrays(result: Result, names: Iterable[str]) -> dict[str, np.ndarray]:
    values = {name: getattr(result, name) for name in names}
    return {name: value.numpy() for name, value in values.items() if value is not None}
