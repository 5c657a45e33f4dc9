"""Disks that fill up, and folders that may not be written or read."""

import contextlib
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from faulty.cases import Case, Verdict
from faulty.commands import LONG, SHORT, Workshop, command, complaints, listing
from faulty.interruptions import MADE, again, ended_alike, undisturbed

__all__ = ["forbidden", "full"]

WRITES = ("fit", "fit of a table", "compare", "refit", "evaluate", "diagnose", "kl", "score")
READ_ONLY = {name: LONG[name] for name in ("evaluate", "diagnose", "kl", "calibrate", "gap")} | {
    name: SHORT[name] for name in ("sample", "encode", "score", "reconstruct", "show", "resume")
}


def mounted(place: Path, *options: str) -> bool:
    """Whether a file system could be mounted at a folder."""
    done = subprocess.run(["mount", *options, str(place)], capture_output=True)
    return done.returncode == 0


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[bool]:
    """The folder with its files on a file system of its own, of a number of bytes."""
    kept = place.with_name(f"{place.name}-kept")
    shutil.copytree(place, kept)
    has = mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    try:
        if has:
            shutil.copytree(kept, place, dirs_exist_ok=True)
        yield has
    finally:
        if has:
            subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)
        shutil.rmtree(kept)


def full(shop: Workshop, count: int) -> Iterator[Case]:
    """A file system that is full at some moment; then it has room, and the command goes on."""
    for name in WRITES:
        for number in range(count):
            yield Case(f"{name}, disk {number + 1}", _full(shop, name, number))
            yield Case(f"{name}, file size {number + 1}", _too_long(shop, name, number))


def _size(folder: Path) -> int:
    """Bytes that files take in pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in folder.rglob("*"))


def _full(shop: Workshop, name: str, number: int) -> Callable[[], Verdict]:
    def run() -> Verdict:
        undisturbed(shop, name)
        has = _size(shop.base)
        moments = random.Random(f"disk {name} {number}")
        with shop.copy() as place:
            more = 4096 * moments.randint(1, 60)
            with small_disk(place, has + more) as mounts:
                if not mounts:
                    return Verdict("nothing can be mounted here", [])
                found = command(LONG[name], place)
                wrong = complaints(found, begun=True) if found.status else []
                if found.status == 0:
                    return Verdict("it was enough", ended_alike(shop, name, place, found))
                if not any(part in found.err for part in ("space", "full")):
                    wrong.append(f"the reason is not named: {found.err.strip()}")
                if name in MADE and (place / MADE[name]).exists() and "resume" not in found.err:
                    wrong.append(f"it does not say how to resume: {found.err.strip()}")
                subprocess.run(
                    ["mount", "-o", f"remount,size={has + 2**26}", str(place)], check=True
                )
                finished = command(again(name, place), place)
                wrong += complaints(finished, (0,)) + ended_alike(shop, name, place, finished)
        return Verdict("refused, then finished", wrong)

    return run


def _too_long(shop: Workshop, name: str, number: int) -> Callable[[], Verdict]:
    def run() -> Verdict:
        undisturbed(shop, name)
        size = random.Random(f"length {name} {number}").randint(1, 40_000)
        with shop.copy() as place:
            limit = (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])

            def prepare() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)

            found = command(LONG[name], place, prepare=prepare)
            if found.status == 0:
                return Verdict("it was enough", ended_alike(shop, name, place, found))
            wrong = complaints(found, begun=True)
            finished = command(again(name, place), place)
            wrong += complaints(finished, (0,)) + ended_alike(shop, name, place, finished)
        return Verdict("refused, then finished", wrong)

    return run


def forbidden(shop: Workshop, count: int) -> Iterator[Case]:
    """Commands over a run in a read-only file system, and as a user who may not write or read."""
    for name, line in READ_ONLY.items():
        yield Case(f"{name}, read-only", _read_only(shop, line))
        yield Case(f"{name}, not the owner", _as_nobody(shop, line, 0o555))
        yield Case(f"{name}, not readable", _as_nobody(shop, line, 0o000))


def _read_only(shop: Workshop, line: Sequence[str]) -> Callable[[], Verdict]:
    def run() -> Verdict:
        with shop.copy() as place:
            inside = place / "run"
            if not mounted(inside, "--bind", str(inside)):
                return Verdict("nothing can be mounted here", [])
            try:
                subprocess.run(["mount", "-o", "remount,ro,bind", str(inside)], check=True)
                before = listing(inside)
                found = command(line, place)
                wrong = complaints(found) if found.status else []
                if listing(inside) != before:
                    wrong.append("the run has changed")
                resumes = line[0] == "fit"
                if found.status and not resumes:
                    wrong.append(f"it does not work: {found.err.strip()}")
            finally:
                subprocess.run(["umount", "-l", str(inside)], check=True)
        return Verdict(f"status {found.status}", wrong)

    return run


def _as_nobody(shop: Workshop, line: Sequence[str], mode: int) -> Callable[[], Verdict]:
    def prepare() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    def run() -> Verdict:
        if os.getuid():
            return Verdict("needs root", [])
        with shop.copy() as place:
            for path in (place / "run").iterdir():
                path.chmod(0o444 & mode)
            (place / "run").chmod(mode)
            place.chmod(0o777)
            found = command(line, place, prepare=prepare)
            wrong = complaints(found) if found.status else []
            if mode and found.status and line[0] != "fit":
                wrong.append(f"it does not work: {found.err.strip()}")
            if not mode and found.status != 2:
                wrong.append(f"status {found.status} over a run that cannot be read")
            (place / "run").chmod(0o755)
        return Verdict(f"status {found.status}", wrong)

    return run
