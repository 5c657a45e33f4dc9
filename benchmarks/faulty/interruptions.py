"""Processes that are killed, and signals at random moments of every long command."""

import os
import random
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faulty.cases import Case, Verdict
from faulty.commands import LONG, Outcome, Workshop, command, complaints, files_of, plain, same

__all__ = ["kills", "locks", "signals"]

MADE = {"fit": "new", "fit of a table": "new", "compare": "compared", "refit": "refitted"}
"""The folders that commands make."""

RESUMED = ("fit", "--resume", "new", "--json")
WHOLE: dict[str, tuple[Outcome, dict[str, Any]]] = {}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def undisturbed(shop: Workshop, name: str) -> tuple[Outcome, dict[str, Any]]:
    """What a command prints, and the files of the folder, if nothing happens to it."""
    if name not in WHOLE:
        with shop.copy() as place:
            found = command(LONG[name], place)
            if found.status:
                raise RuntimeError(f"{shlex.join(LONG[name])}: {found.err}")
            WHOLE[name] = found, files_of(place)
    return WHOLE[name]


def at(moment: float, number: int) -> Callable[[int], None]:
    """Sends a signal after some seconds."""

    def send(child: int) -> None:
        time.sleep(moment)
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return

    return send


def again(name: str, place: Path) -> tuple[str, ...]:
    """The command that goes on where one was ended."""
    if name.startswith("fit") and (place / "new").exists():
        return RESUMED
    if name == "refit":
        shutil.rmtree(place / "refitted", ignore_errors=True)
    return LONG[name]


def ended_alike(shop: Workshop, name: str, place: Path, found: Outcome) -> list[str]:
    """What differs between a folder and that of the undisturbed command."""
    whole, files = undisturbed(shop, name)
    wrong = [] if same(plain(found.out), plain(whole.out)) else ["other numbers are printed"]
    here = files_of(place)
    wrong += [f"{file} is left" for file in here if file not in files]
    wrong += [f"{file} is missing" for file in files if file not in here]
    wrong += [
        f"{file} differs" for file in files if file in here and not same(files[file], here[file])
    ]
    return wrong


def kills(shop: Workshop, count: int) -> Iterator[Case]:
    """SIGKILL at random moments, up to five in a row, then resumption: the same bits."""
    names = ["fit", "fit of a table", "compare", "evaluate"]
    for number in range(0, count, 5):
        name = names[number // 5 % len(names)]
        yield Case(f"{name}, kills {number + 1} to {number + 5}", _killed(shop, name, number))


def _killed(shop: Workshop, name: str, number: int) -> Callable[[], Verdict]:
    def run() -> Verdict:
        moments = random.Random(f"kill {number}")
        seconds = undisturbed(shop, name)[0].seconds
        killed, wrong = 0, []
        with shop.copy() as place:
            for _ in range(5):
                moment = moments.uniform(0.05, 0.5 * seconds)
                found = command(again(name, place), place, meanwhile=at(moment, signal.SIGKILL))
                killed += found.status == -signal.SIGKILL
                if found.status not in (-signal.SIGKILL, 0):
                    wrong += [f"resumed: {found.err.strip()}"]
            last = command(again(name, place), place)
            wrong += complaints(last, (0,)) + ended_alike(shop, name, place, last)
        return Verdict(f"{killed} of 5 killed before the end", wrong)

    return run


def signals(shop: Workshop, count: int, names: Sequence[str] = tuple(LONG)) -> Iterator[Case]:
    """SIGINT, SIGTERM and SIGHUP at random moments of each long command."""
    for name in names:
        for number in SIGNALS:
            for turn in range(count):
                case = f"{name}, {number.name} {turn + 1}"
                yield Case(case, _stopped(shop, name, number, case))


def _stopped(shop: Workshop, name: str, number: signal.Signals, case: str) -> Any:
    def run() -> Verdict:
        whole, _ = undisturbed(shop, name)
        moment = random.Random(case).uniform(0.02, 0.95 * whole.seconds)
        with shop.copy() as place:
            found = command(LONG[name], place, meanwhile=at(moment, number))
            if found.status == 0:
                return Verdict("ended before", ended_alike(shop, name, place, found))
            wrong = complaints(found, (130, 128 + number))
            if name in MADE and (place / MADE[name]).exists() and "resume" not in found.err:
                wrong.append(f"it does not say how to resume: {found.err.splitlines()[-1:]}")
            finished = command(again(name, place), place)
            wrong += complaints(finished, (0,)) + ended_alike(shop, name, place, finished)
        return Verdict(f"stopped, {found.status}", wrong)

    return run


def locks(shop: Workshop, count: int) -> Iterator[Case]:
    """Two processes on one run: one of them is refused, or both end in the same bits."""
    for number in range(count):
        yield Case(f"two resumptions {number + 1}", _two(shop, number))
        yield Case(f"evaluation beside resumption {number + 1}", _beside(shop, number))


def _begun(place: Path, seconds: float) -> None:
    while not (place / "new/last.safetensors").exists():
        command(LONG["fit"], place, meanwhile=at(0.2 * seconds, signal.SIGKILL))


def _together(one: Sequence[str], other: Sequence[str], place: Path, pause: float) -> Any:
    found: list[Outcome] = []

    def second(child: int) -> None:
        time.sleep(pause)
        found.append(_fresh(other, place))

    first = command(one, place, meanwhile=lambda child: thread(second, child))
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        time.sleep(0.05)
    return first, found[0]


def thread(function: Callable[[int], None], child: int) -> None:
    threading.Thread(target=function, args=(child,), daemon=True).start()


def _fresh(arguments: Sequence[str], place: Path) -> Outcome:
    """A command in a process of its own: a thread must not fork."""
    import subprocess
    import sys

    began = time.monotonic()
    line = [sys.executable, "-m", "pyrovae", *arguments]
    found = subprocess.run(line, cwd=place, capture_output=True, text=True)
    return Outcome(found.returncode, found.stdout, found.stderr, time.monotonic() - began)


def _two(shop: Workshop, number: int) -> Callable[[], Verdict]:
    def run() -> Verdict:
        seconds = undisturbed(shop, "fit")[0].seconds
        with shop.copy() as place:
            _begun(place, seconds)
            slow = (*RESUMED,)
            found = _together(slow, slow, place, 0.0)
            wrong = [words for each in found for words in complaints(each)]
            refused = sum(each.status == 2 for each in found)
            good = next((each for each in found if each.status == 0), None)
            if good is None:
                return Verdict("both refused", [*wrong, "both were refused"])
            wrong += ended_alike(shop, "fit", place, good)
        return Verdict(f"{refused} of 2 refused", wrong)

    return run


def _beside(shop: Workshop, number: int) -> Callable[[], Verdict]:
    def run() -> Verdict:
        seconds = undisturbed(shop, "fit")[0].seconds
        with shop.copy() as place:
            _begun(place, seconds)
            reads = ("evaluate", "new", "--samples", "20", "--json")
            first, second = _together(RESUMED, reads, place, 0.0)
            wrong = complaints(first, (0,)) + complaints(second)
            wrong += ended_alike(shop, "fit", place, first)
        return Verdict(f"status {first.status} and {second.status}", wrong)

    return run
