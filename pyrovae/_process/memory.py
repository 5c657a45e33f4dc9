"""One budget for how much a computation holds in memory at a time.

A row is one input of a decoder, or one z at which a density is evaluated. A computation over many
rows goes through them in chunks of at most ``ROWS``. If a chunk draws random numbers, its size is
part of what a seed means, and the caller passes its own number of rows.
"""

import contextlib
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 2_000
COPIES = 6  # in double precision, of what is kept of each draw


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


def check_memory(what: str, size: float, remedy: str) -> None:
    """Refuse a computation before it asks for more memory than there is.

    Args:
        what: that needs the memory, with its number, such as ``"samples=1000000"``.
        size: bytes that it needs, at least.
        remedy: what to do instead.

    Raises:
        ValueError: if they are not available.
    """
    there = available()
    if there is not None and size > there:
        raise ValueError(
            f"{what} needs {_in_words(size)} of memory, and {_in_words(there)} are available; "
            f"{remedy}"
        )


def check_draws(name: str, draws: int, examples: int = 1, numbers: int = 1) -> None:
    """Refuse more draws than memory holds, with the copies that are made of them.

    Args:
        name: of the option.
        draws: for each example.
        examples: number of examples whose draws are held together.
        numbers: how many are kept of each draw.

    Raises:
        ValueError: if there is too little memory.
    """
    check_memory(f"{name}={draws}", COPIES * 8 * draws * examples * numbers, f"take fewer {name}")


def check_layers(name: str, widths: Sequence[int], copies: int = 1) -> None:
    """Refuse a stack of layers that memory cannot hold.

    Args:
        name: of the component.
        widths: of its layers, from the input to the output.
        copies: how many such stacks there are.

    Raises:
        ValueError: if there is too little memory.
    """
    # of autoregressive layers also which output depends on which input
    numbers = sum(n * m for n, m in pairwise(widths)) + widths[0] * widths[-1]
    check_memory(f"{name} with {widths} units", 4 * copies * numbers, "make it smaller")


def available() -> int | None:
    """Bytes of memory that this process can have; None where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: text for name, _, text in (line.partition(":") for line in lines)}
        found.append(1024 * sum(int(sizes[n].split()[0]) for n in ("MemAvailable", "SwapFree")))
    with contextlib.suppress(OSError, ValueError):  # the limit of a container
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{n}").read_text()) for n in ("max", "current"))
        found.append(max(0, limit - used))
    if not found:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def _in_words(size: float) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:,.3g} {unit}" if size < 1e15 else f"{size / one:.3g} {unit}"
    return f"{size:,.0f} bytes"
