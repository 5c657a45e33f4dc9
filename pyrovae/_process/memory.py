"""One budget for how much a computation holds in memory at a time.

A row is one input of a decoder, or one z at which a density is evaluated. A computation over many
rows goes through them in chunks of at most ``ROWS``. If a chunk draws random numbers, its size is
part of what a seed means, and the caller passes its own number of rows.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 2_000


def rows_per_chunk(each: int, rows: int = ROWS) -> int:
    """Count the elements that fit into one chunk; at least one.

    Args:
        each: rows that one element takes.
        rows: the budget.
    """
    return max(1, rows // max(1, each))


def in_chunks(x: "Tensor", each: int = 1, rows: int = ROWS) -> "tuple[Tensor, ...]":
    """Split a tensor along its first dimension into chunks within the budget.

    Args:
        x: any number of elements ``(n, ...)``.
        each: rows that one element takes.
        rows: the budget.
    """
    return x.split(rows_per_chunk(each, rows))
