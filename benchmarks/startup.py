"""How long the command line takes to answer, and what importing pyrovae adds to torch and Pyro.

    python benchmarks/startup.py
    python benchmarks/startup.py --json figures.json

Every process is a fresh one; they alternate, and medians over rounds are shown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from report import describe, in_words, table

IMPORTS = """
import time
start = time.perf_counter()
import torch, pyro
print(time.perf_counter() - start)
start = time.perf_counter()
import pyrovae
print(time.perf_counter() - start)
for name in pyrovae.__all__:
    getattr(pyrovae, name)
print(time.perf_counter() - start)
"""
LABELS = (
    "import torch, pyro",
    "import pyrovae, after them",
    "import pyrovae and all its public names, after them",
)
LIMITS = {"pyrovae --help": 0.5, LABELS[1]: 0.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--markdown", action="store_true", help="print the table for a web page")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")

    figures: dict[str, Any] = {"machine": describe(), "settings": {"rounds": options.rounds}}
    rounds = [measure() for _ in range(options.rounds + 1)][1:]  # the first fills the disk's cache
    seconds = {label: [found[label] for found in rounds] for label in rounds[0]}
    figures["seconds"] = seconds
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(in_words(figures["machine"]), end="\n\n")
    rows = [
        (label, f"{statistics.median(values):.3f}", str(LIMITS.get(label, "")))
        for label, values in seconds.items()
    ]
    table(("", "seconds", "must be under"), rows, options.markdown)


def measure() -> dict[str, float]:
    """Seconds of one fresh process of each kind, or of each part of it."""
    found = {}
    for label, arguments in (
        ("python -c pass", ("-c", "pass")),
        ("pyrovae --help", ("-m", "pyrovae", "--help")),
    ):
        start = time.perf_counter()
        python(*arguments)
        found[label] = time.perf_counter() - start
    return found | dict(zip(LABELS, map(float, python("-c", IMPORTS).split()), strict=True))


def python(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
