"""Files of a run that are damaged, replaced or linked: no wrong number with status 0."""

import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faulty.cases import Case, Verdict
from faulty.commands import SHORT, Outcome, Workshop, command, complaints, files_of, plain, same

__all__ = ["damaged", "flips"]

RUNS = ("run", "table")
BELIEVED = ("model.safetensors", "last.safetensors", "statistics.safetensors")
"""Files that must be refused if a bit of them has changed."""

READERS = {"model.safetensors": "evaluate", "last.safetensors": "resume"}
"""A command that reads a file."""

WHOLE: dict[tuple[str, str], tuple[Outcome, dict[str, Any]]] = {}


def line_for(name: str, run: str) -> tuple[str, ...]:
    """A short command, for one of the runs."""
    words = SHORT[name]
    if run == "table":
        words = tuple({"run": "table", "new.npy": "table.csv"}.get(word, word) for word in words)
    return words


def told(place: Path, found: Outcome) -> tuple[Any, dict[str, Any]]:
    """What a command printed and made, but for the run that it read."""
    return plain(found.out), files_of(place, but=(*RUNS, "other"))


def whole(shop: Workshop, name: str, run: str) -> Any:
    if (name, run) not in WHOLE:
        with shop.copy() as place:
            found = command(line_for(name, run), place)
            if found.status:
                raise RuntimeError(f"{name} of {run}: {found.err}")
            WHOLE[name, run] = told(place, found)
    return WHOLE[name, run]


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    contents = bytearray(path.read_bytes())
    contents[place // 8 % len(contents)] ^= 1 << place % 8
    path.write_bytes(contents)


def in_data(path: Path, moments: random.Random) -> int:
    """The number of a bit in the tensors' bytes."""
    contents = path.read_bytes()
    begin = 8 + struct.unpack("<Q", contents[:8])[0]
    return moments.randrange(8 * begin, 8 * len(contents))


def judged(shop: Workshop, name: str, run: str, place: Path, *, refused: bool) -> Verdict:
    """Run a command over a damaged run, and say whether what it did is right."""
    found = command(line_for(name, run), place, seconds=60)
    wrong = complaints(found, begun=name == "resume") if found.status else []
    if found.status:
        return Verdict("refused", wrong)
    if "Traceback" in found.err:
        wrong.append("it shows a traceback")
    if not same(told(place, found), whole(shop, name, run)):
        return Verdict("accepted, other numbers", [*wrong, "other numbers with status 0"])
    if refused:
        return Verdict("accepted, same numbers", [*wrong, "a damaged file was accepted"])
    return Verdict("accepted, same numbers", wrong)


def flips(shop: Workshop, count: int) -> Iterator[Case]:
    """One bit changed in the weights, the state of the training or the statistics."""
    for number in range(count):
        run, file = (("run", BELIEVED[0]), ("run", BELIEVED[1]), ("table", BELIEVED[2]))[number % 3]
        yield Case(f"{run}/{file}, bit {number + 1}", _flipped(shop, run, file, number))


def _flipped(shop: Workshop, run: str, file: str, number: int) -> Callable[[], Verdict]:
    def case() -> Verdict:
        moments = random.Random(f"flip {number}")
        whole(shop, READERS.get(file, "evaluate"), run)
        with shop.copy() as place:
            path = place / run / file
            anywhere = moments.random() < 0.25
            flip(
                path,
                moments.randrange(8 * path.stat().st_size) if anywhere else in_data(path, moments),
            )
            return judged(shop, READERS.get(file, "evaluate"), run, place, refused=True)

    return case


def emptied(path: Path, place: Path, moments: random.Random) -> None:
    path.write_bytes(b"")


def truncated(path: Path, place: Path, moments: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: moments.randrange(max(1, path.stat().st_size))])


def flipped(path: Path, place: Path, moments: random.Random) -> None:
    flip(path, moments.randrange(8 * path.stat().st_size))


def longer(path: Path, place: Path, moments: random.Random) -> None:
    path.write_bytes(path.read_bytes() + moments.randbytes(moments.randint(1, 40)))


def junk(path: Path, place: Path, moments: random.Random) -> None:
    path.write_bytes(moments.randbytes(moments.randint(1, 300)))


def of_another_run(path: Path, place: Path, moments: random.Random) -> None:
    other = place / ("other" if path.parent.name == "run" else "run") / path.name
    if other.exists():
        shutil.copy(other, path)


def linked(path: Path, place: Path, moments: random.Random) -> None:
    other = place / ("other" if path.parent.name == "run" else "run") / path.name
    path.unlink()
    path.symlink_to(other if other.exists() else "/etc/hostname")


def a_loop(path: Path, place: Path, moments: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def a_folder(path: Path, place: Path, moments: random.Random) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path, place: Path, moments: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def gone(path: Path, place: Path, moments: random.Random) -> None:
    path.unlink()


KINDS: tuple[tuple[Callable[..., None], bool], ...] = (
    *((emptied, False), (a_loop, False), (a_folder, False), (a_pipe, False), (gone, False)),
    *((truncated, True), (flipped, True), (longer, True), (junk, True)),
    *((of_another_run, False), (linked, False)),
)
"""Kinds of damage, and whether chance has a part in them."""


def damaged(shop: Workshop, count: int) -> Iterator[Case]:
    """Each file of a run with each kind of damage, read by each command."""
    for run in RUNS:
        for path in sorted((shop.base / run).iterdir()):
            for kind, random_kind in KINDS:
                for number in range(count if random_kind else 1):
                    for name in SHORT:
                        if run == "table" and name in ("sample", "reconstruct", "kl"):
                            continue
                        case = f"{run}/{path.name} {kind.__name__} {number + 1}, {name}"
                        yield Case(case, _damaged(shop, run, path.name, kind, name, case))


def _damaged(
    shop: Workshop, run: str, file: str, kind: Callable[..., None], name: str, case: str
) -> Callable[[], Verdict]:
    def judge() -> Verdict:
        whole(shop, name, run)
        with shop.copy() as place:
            kind(place / run / file, place, random.Random(case.rpartition(",")[0]))
            return judged(shop, name, run, place, refused=False)

    return judge
