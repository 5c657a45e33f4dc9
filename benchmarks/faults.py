"""What happens to a run when something goes wrong: counts, by kind.

    python benchmarks/faults.py --json faults.json
    python benchmarks/faults.py --only kills damage --json faults.json
    python benchmarks/faults.py --json faults.json --read

Each case is a command run in a fork of this process, in a folder of its own. It is right if the
numbers are those of the undisturbed run to the bit, or if the command says in one line why there
are none; a wrong number with status 0, a traceback, a second line, or a file left behind is a
fault. Cases that are in FILE already are not run again.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faulty import damage, files, interruptions, lines, room
from faulty.cases import Case
from faulty.commands import Workshop, started
from report import describe, in_words, table

PARTS: dict[str, tuple[int, Callable[[Workshop, int], Iterator[Case]], str]] = {
    "kills": (50, interruptions.kills, "SIGKILL, then resumed to the same bits"),
    "signals": (20, interruptions.signals, "of each signal for each long command"),
    "locks": (5, interruptions.locks, "two processes on one run"),
    "disk": (5, room.full, "a disk that fills up, for each command that writes"),
    "permission": (1, room.forbidden, "folders that cannot be written or read"),
    "flips": (200, damage.flips, "one bit changed in files that are believed"),
    "damage": (3, damage.damaged, "of each kind of damage for each file and command"),
    "input": (2_000, lines.wrong_lines, "command lines"),
    "files": (200, files.data_files, "files as data"),
    "folders": (60, files.image_folders, "folders of images"),
}


def run(
    shop: Workshop, part: str, count: int, found: dict[str, Any], save: Callable[[], None]
) -> None:
    """Run the cases of a part that have not been found yet."""
    for case in PARTS[part][1](shop, count):
        if case.name in found:
            continue
        try:
            word, wrong = case.run()
        except Exception as error:  # the harness itself, which must go on
            word, wrong = "no result", [f"{type(error).__name__}: {error}"]
        found[case.name] = {"word": word, "wrong": wrong}
        if wrong:
            print(f"  {part}: {case.name}: {'; '.join(wrong)[:400]}", flush=True)
        save()


def rows(parts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for part, cases in parts.items():
        words = Counter(case["word"] for case in cases.values())
        faults = sum(bool(case["wrong"]) for case in cases.values())
        about = ", ".join(f"{words[word]} {word}" for word in sorted(words)[:6])
        yield part, str(len(cases)), str(faults), about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, help="cases, in place of the part's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what is found here")
    parser.add_argument("--again", action="store_true", help="run cases again that were at fault")
    parser.add_argument("--read", action="store_true", help="print the table of FILE, run nothing")
    options = parser.parse_args()
    file = options.json
    found: dict[str, Any] = {"machine": describe(), "parts": {}}
    if file is not None and file.exists():
        found = json.loads(file.read_text())
    if options.again:
        for cases in found["parts"].values():
            for name in [name for name, case in cases.items() if case["wrong"]]:
                del cases[name]

    def save() -> None:
        if file is not None:
            new = file.with_suffix(".new")
            new.write_text(json.dumps(found, indent=1) + "\n")
            new.replace(file)

    print(in_words(found["machine"]))
    if not options.read:
        started()
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            Path(folder).chmod(0o755)  # for the user without rights, who reads the data
            shop = Workshop(Path(folder))
            for part in options.only:
                own = PARTS[part][0] if options.count is None else options.count
                run(shop, part, own, found["parts"].setdefault(part, {}), save)
    table(("part", "cases", "faults", "how they ended"), list(rows(found["parts"])), False)


if __name__ == "__main__":
    main()
