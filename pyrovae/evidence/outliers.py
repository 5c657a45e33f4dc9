r"""Examples that a model finds all but impossible, named beside a mean that they decide.

One wrong row is enough to make the mean of log p(x) meaningless: its log density is lower than that
of the others by many orders of magnitude, or minus infinity where floating point ends. Its own
number is right, and so is the mean; what is worth knowing is which row it is, and the mean without
it.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from pyrovae.estimates import Estimate, Result

__all__ = ["FarBelow", "error_of_mean", "far_below", "possible", "warn_of_rows"]

SHARE = 0.1  # of the examples, those of the highest log p(x), by which the others are measured
FACTOR = 1e3  # how many times their spread or size an example lies below the highest
NAMED = 5  # rows that a message lists


class FarBelow(Result):
    r"""Examples whose log p(x) lies far below that of the others.

    The measure is the distance from the highest log p(x) of all to the lowest of the tenth of the
    examples with the highest, or the size of the highest itself or one nat if that is more. An
    example is far below the others if it is a thousand times as far from the highest.

    Attributes:
        rows: positions of the examples in the data, counted from 0.
        log_evidence: their log p(x), as estimated, in nats.
        others: mean of log p(x) over all other examples; None if there are none.

    Example:
        >>> from pyrovae.evidence import far_below
        >>> found = far_below(torch.tensor([-6.0, -7.5, -1e9, -6.5]))
        >>> found.rows, found.others
        ((2,), -6.67 ± 0.44)
    """

    rows: tuple[int, ...]
    log_evidence: tuple[float, ...]
    others: Estimate | None

    def describe(self, ids: Any = None) -> str:
        """Name the examples in one line.

        Args:
            ids: what identifies each row of the data, if anything does.
        """
        pairs = list(zip(self.rows, self.log_evidence, strict=True))[:NAMED]
        named = ", ".join(
            f"{row}{'' if ids is None else f' (id {ids[row]})'} ({value:.4g})"
            for row, value in pairs
        )
        more = len(self.rows) - NAMED
        one = len(self.rows) == 1
        return (
            f"log p(x) is far below that of all others in row{'' if one else 's'} {named}"
            + (f" and {more:,} more" if more > 0 else "")
            + ", counted from 0: check "
            + ("its values" if one else "their values")
            + (
                ""
                if self.others is None
                else f"; without {'it' if one else 'them'} the mean is {self.others:.2f}"
            )
        )


def far_below(log_evidence: Tensor) -> FarBelow | None:
    """Find the examples whose log p(x) lies far below that of the others.

    Args:
        log_evidence: log p(x) ``(examples,)``, in nats.

    Returns:
        The examples; None if there are none.

    Example:
        >>> from pyrovae.evidence import far_below
        >>> far_below(torch.tensor([-6.0, -7.5, -60.0])) is None
        True
        >>> print(far_below(torch.tensor([-torch.inf, -1.0])).describe())
        log p(x) is far below that of all others in row 0 (-inf), counted from 0: check its ...
    """
    values = log_evidence.double().nan_to_num(-math.inf, math.inf, -math.inf)
    top = values.topk(max(1, math.ceil(SHARE * len(values)))).values
    spread = (
        (top[0] - top[-1]).nan_to_num(0.0, 0.0) if top[0].isfinite() else torch.zeros_like(top[0])
    )
    height = top[0].abs().nan_to_num(0.0, 0.0)
    size = torch.stack([spread, height, torch.ones_like(height)]).amax()
    low = (values == -math.inf) | (top[0] - values > FACTOR * size)
    if not low.any():
        return None
    rows, others = low.nonzero().flatten(), log_evidence[~low]
    return FarBelow(
        tuple(rows.tolist()),
        tuple(log_evidence[rows].tolist()),
        Estimate.of(others) if len(others) else None,
    )


def warn_of_rows(found: FarBelow | None, data: Any) -> None:
    """Warn of examples far below the others, with what identifies their rows.

    Args:
        found: as :func:`far_below` returns it.
        data: the examples; a split may have ``ids``.

    Example:
        >>> from pyrovae.evidence import warn_of_rows
        >>> warn_of_rows(None, data)
    """
    if found is not None:
        # named after the caller of evaluate or score, which is two calls up
        warnings.warn(found.describe(getattr(data, "ids", None)), stacklevel=3)


def possible(log_w: Tensor) -> Tensor:
    """The same weights, and equal ones for examples all of whose weights are zero.

    Args:
        log_w: logarithms of weights ``(draws, examples)``.

    Example:
        >>> from pyrovae.evidence import possible
        >>> possible(torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]]))
        tensor([[0., 0.],
                [-inf, 0.]])
    """
    return torch.where(log_w.amax(0) == -math.inf, 0.0, log_w)


def error_of_mean(errors: Tensor) -> float | None:
    """The error of a mean of examples with independent errors; None if one is not a number.

    Args:
        errors: ``(examples,)``.

    Example:
        >>> from pyrovae.evidence import error_of_mean
        >>> error_of_mean(torch.tensor([3.0, 4.0]))
        2.5
    """
    error = errors.norm().item() / len(errors)
    return error if math.isfinite(error) else None
