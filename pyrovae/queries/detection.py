r"""How well a number tells two kinds of data apart."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["auc"]


def auc(higher: NDArray[np.floating], lower: NDArray[np.floating]) -> tuple[float, float]:
    r"""The area under the ROC curve, and its standard error.

    .. math:: A = P(a > b) + \tfrac12 P(a = b)

    for a of the one kind and b of the other: 1 if every a is above every b, one half if the number
    says nothing, 0 if every a is below. Its standard error is DeLong's, which assumes no shape of
    the distributions; where the kinds do not overlap at all it is zero, and A may still be short of
    1 by about one over the size of the smaller sample.

    References:
        DeLong, DeLong and Clarke-Pearson (1988), Comparing the Areas under Two or More Correlated
        Receiver Operating Characteristic Curves, Biometrics 44

    Args:
        higher: numbers of the kind that should have the higher ones ``(m,)``.
        lower: numbers of the other ``(n,)``.

    Returns:
        The area and its standard error.

    Raises:
        ValueError: if either has fewer than two numbers, or one is NaN.
    """
    a, b = (np.asarray(values, float) for values in (higher, lower))
    if min(len(a), len(b)) < 2 or np.isnan(a).any() or np.isnan(b).any():
        raise ValueError(
            f"auc takes at least two numbers of each kind and no NaN, got {len(a)} and {len(b)}"
        )
    of_a, of_b = _share_below(a, b), 1 - _share_below(b, a)
    variance = of_a.var(ddof=1) / len(a) + of_b.var(ddof=1) / len(b)
    return float(of_a.mean()), math.sqrt(variance)


def _share_below(
    values: NDArray[np.floating], others: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The share of others below each value, those equal to it by half."""
    others = np.sort(others)
    below = np.searchsorted(others, values, "left")
    share: NDArray[np.floating] = (
        (below + np.searchsorted(others, values, "right")) / 2 / len(others)
    )
    return share
