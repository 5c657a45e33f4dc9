"""How figures are reported: the machine they come from, and tables."""

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["describe", "in_words", "table"]


def describe() -> dict[str, Any]:
    """Processor, cores, threads, versions, and how busy it is."""
    import torch  # the process of an epoch may do without

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def in_words(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['threads']} threads, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Python {machine['python']}, "
        f"torch {machine['torch']}; load {machine['load']} at the start"
    )


def _processor() -> str:
    """Its model name and the widest vector instructions, which matter more."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return platform.machine()
    about = dict(
        (part.strip() for part in line.split(":", 1))
        for line in file.read_text().partition("\n\n")[0].splitlines()
        if ":" in line
    )
    flags = about.get("flags", "").split()
    widest = next((name for name in ("amx_tile", "avx512f", "avx2") if name in flags), "")
    name = about.get("model name", platform.machine())
    return f"{name}, {widest}" if widest else name


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]], markdown: bool) -> None:
    """Print rows of text below their titles, the first column to the left."""
    if markdown:
        rule = ("---",) + ("---:",) * (len(titles) - 1)
        for row in (titles, rule, *rows):
            print(f"| {' | '.join(row)} |")
        return
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join((f"{row[0]:<{len(first)}}", *others)))
