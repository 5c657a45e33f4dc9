"""Commands run in forks of one process, data and runs for them, and how results are judged."""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import load_file

from pyrovae import plots
from pyrovae.cli import app
from pyrovae.training import loop

__all__ = ["LONG", "SHORT", "Outcome", "Workshop", "command", "complaints", "files_of", "started"]

NET = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", "2")
TRAINED = (*NET, "--compile", "off", "--batch-size", "16", "--validate-every", "2")

_IMAGES = ("--data", "images.npz", *TRAINED)
_OF_EACH = ("--data", "new.npy", "--out", "scores.csv")
_MASKED = ("impute", "run", "--mask", "lower", "--out", "full.npz", "--json")

LONG: dict[str, tuple[str, ...]] = {
    "fit": ("fit", *_IMAGES, "--epochs", "40", "--averaging", "0.9", "--out", "new", "--json"),
    "fit of a table": (
        *("fit", "--data", "table.csv", *TRAINED, "--epochs", "30", "--clip-norm", "20"),
        *("--prior", "mixture:components=3", "--out", "new", "--json"),
    ),
    "compare": (
        *("compare", *_IMAGES, "--epochs", "6", "--priors", "normal,laplace", "--seeds", "2"),
        *("--samples", "50", "--out", "compared", "--json"),
    ),
    "refit": (
        *("refit", "run", "--prior", "mixture:components=3", "--epochs", "20"),
        *("--samples", "50", "--out", "refitted", "--json"),
    ),
    "evaluate": ("evaluate", "run", "--samples", "3000", "--out", "each.npz", "--json"),
    "evaluate, ais": (
        *("evaluate", "run", "--method", "ais", "--temperatures", "60", "--samples", "8"),
        "--json",
    ),
    "evaluate, quadrature": ("evaluate", "run", "--method", "quadrature", "--json"),
    "evaluate, bdmc": (
        *("evaluate", "run", "--method", "bdmc", "--temperatures", "30", "--samples", "4"),
        *("--limit", "20", "--json"),
    ),
    "diagnose": ("diagnose", "run", "--json"),
    "kl": ("kl", "run", "--gradients", "--draws", "20", "--json"),
    "gap": ("gap", "run", "--images", "2", "--samples", "200", "--steps", "100", "--json"),
    "calibrate": ("calibrate", "run", "--simulations", "300", "--json"),
    "score": ("score", "run", *_OF_EACH, "--samples", "1000", "--json"),
    "impute": (*_MASKED, "--samples", "300"),
    "impute, nuts": (*_MASKED, "--method", "nuts", "--samples", "20", "--count", "2"),
}
"""Long commands, by name; each reads and makes what :class:`Workshop` has laid out."""

SHORT: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", "run", "--samples", "20", "--json"),
    "sample": ("sample", "run", "--count", "5", "--out", "drawn.npy"),
    "encode": ("encode", "run", "--data", "new.npy", "--out", "codes.npz"),
    "score": ("score", "run", *_OF_EACH, "--samples", "5"),
    "reconstruct": ("reconstruct", "run", "--count", "5", "--out", "again.npz"),
    "show": ("show", "run"),
    "kl": ("kl", "run", "--samples", "1,10", "--json"),
    "resume": ("fit", "--resume", "run", "--json"),
}
"""Commands that open a run, by name; resuming one reads what the others do not."""

PASSING = ("seconds", "images_per_second", "reused", "digest")
"""Keys of results that may differ: times, what was there already, and digests of all this."""

UNFORESEEN = ("Traceback", "unexpected error", "not foreseen", "TORCH_CHECK", "frame #")


class Outcome(NamedTuple):
    """What a command did: exit status (negative: the signal that ended it), text, and seconds."""

    status: int
    out: str
    err: str
    seconds: float
    in_time: bool = True


def command(
    arguments: Sequence[str],
    folder: Path,
    *,
    seconds: float = 120.0,
    prepare: Callable[[], object] | None = None,
    meanwhile: Callable[[int], object] | None = None,
) -> Outcome:
    """Run ``pyrovae`` in a fork of this process, as if it had been started anew.

    Args:
        arguments: of the command line.
        folder: working folder.
        seconds: after which it is interrupted, and five seconds later killed.
        prepare: run in the fork before the command, such as to limit its resources.
        meanwhile: run here, with the number of the process.
    """
    texts = [folder.parent / f".{folder.name}.{name}" for name in ("out", "err")]
    began = time.monotonic()
    with warnings.catch_warnings():  # newer Pythons warn of forks beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_the_command(arguments, folder, texts, prepare)
    if meanwhile is not None:
        meanwhile(child)
    status, in_time = _wait(child, began + seconds)
    took = time.monotonic() - began
    out, err = (path.read_bytes().decode(errors="replace") for path in texts)
    for path in texts:
        path.unlink()
    return Outcome(status, out, err, took, in_time)


def _be_the_command(
    arguments: Sequence[str], folder: Path, texts: list[Path], prepare: Any
) -> None:
    status = 70
    try:
        for number, path in enumerate((Path(os.devnull), *texts)):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags), number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False, errors=errors)  # noqa: SIM115
            for number, mode, errors in (
                *((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace")),
            )
        )
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        warnings.resetwarnings()  # as a new process has them
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        loop.CHECKPOINT_SECONDS = 0.0  # save at each step, so that more is disturbed
        os.chdir(folder)
        sys.argv = ["pyrovae", *arguments]
        if prepare is not None:
            prepare()
        app.main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


def _wait(child: int, end: float) -> tuple[int, bool]:
    in_time = True
    for last, number in ((end, signal.SIGINT), (end + 5, signal.SIGKILL), (end + 60, None)):
        pause = 0.002
        while time.monotonic() < last:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), in_time
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        in_time = False
        if number is not None:
            os.kill(child, number)
    raise TimeoutError(f"process {child} cannot be ended")


def little_memory(more: int = 4 * 2**30) -> None:
    """Let this process take 4 GiB more than it has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + more,) * 2)


def complaints(
    found: Outcome, allowed: Sequence[int] = (0, 2), *, begun: bool = False
) -> list[str]:
    """What is wrong with how a command ended: a traceback, several lines, another status.

    Args:
        found: what it did.
        allowed: statuses.
        begun: whether lines of progress may stand before the reason.
    """
    wrong = [f"it shows {words!r}" for words in UNFORESEEN if words in found.out + found.err]
    if not found.in_time:
        stopped = found.status in (130, 0)
        return wrong if stopped else [*wrong, f"it could not be interrupted ({found.status})"]
    if found.status not in allowed:
        wrong.append(f"status {found.status}")
    lines = found.err.splitlines()
    if found.status and sum(line.startswith("pyrovae: ") for line in lines[-1:]) != 1:
        wrong.append("its last line on standard error is no reason")
    if found.status == 2 and len(lines) != 1 and not begun:
        wrong.append(f"{len(lines)} lines on standard error")
    if any(ord(char) < 32 and char not in "\n\t" for char in found.out + found.err):
        wrong.append("control characters reach the terminal")
    return wrong


def plain(text: str) -> Any:
    """What a command printed, without times; JSON where it is."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in PASSING}
        return [without(item) for item in value] if isinstance(value, list) else value

    try:
        return without(json.loads(text))
    except ValueError:
        return text


def files_of(folder: Path, but: Sequence[str] = ()) -> dict[str, Any]:
    """What the files in a folder hold, apart from times and pictures: what must be equal.

    Args:
        folder: with its folders.
        but: files and folders in it that are left out.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".png" or name.partition("/")[0] in but or not path.is_file():
            continue
        if path.name == "comparison.txt":  # shows times, and the numbers of comparison.json
            continue
        if path.suffix == ".safetensors":
            found[name] = {key: value.tolist() for key, value in load_file(path).items()}
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tolist() for key in arrays.files}
        elif path.suffix in (".json", ".jsonl"):
            found[name] = [plain(line) for line in path.read_text().splitlines()]
            found[name] = plain(path.read_text()) if path.suffix == ".json" else found[name]
        else:
            found[name] = path.read_bytes()
    return found


def same(one: Any, other: Any) -> bool:
    """Equal to the bit; NaN equals NaN."""
    return repr(one) == repr(other)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """The names, sizes and times of all files and folders in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found[str(path.relative_to(folder))] = about.st_size, about.st_mtime_ns
    return found


def _draw_nothing() -> None:
    plots.draw_vae = lambda *arguments, **options: None


class Workshop:
    """A folder of small data and trained runs, of which each case gets a fresh copy.

    Args:
        folder: where everything is laid out; made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        if not (folder / "whole").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            self.base.mkdir(parents=True)
            self._write_data()
            self._train()
            (folder / "whole").touch()

    def _write_data(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = (digits.images[:, None] > 8).astype(np.uint8)
        y = digits.target
        parts = {"train": slice(200), "validation": slice(200, 240), "test": slice(240, 320)}
        arrays = {f"x_{name}": x[part] for name, part in parts.items()}
        arrays |= {f"y_{name}": y[part] for name, part in parts.items()}
        np.savez(self.base / "images.npz", **arrays)
        np.save(self.base / "new.npy", x[400:420])
        r = np.random.default_rng(0)
        z = r.normal(size=(120, 1))
        reals = np.concatenate([z, 10 + 2 * z, 100 - z], 1) + 0.1 * r.normal(size=(120, 3))
        words = np.asarray(["red", "green", "blue"])[r.integers(0, 3, 120)]
        counts = r.poisson(3, 120)
        rows = [
            ",".join((*(f"{value:.4f}" for value in row), str(count), word))
            for row, count, word in zip(reals, counts, words, strict=True)
        ]
        (self.base / "table.csv").write_text("\n".join(("a,b,c,n,color", *rows)) + "\n")

    def _train(self) -> None:
        fits = {
            "run": ("images.npz", "--epochs", "4"),
            "other": ("images.npz", "--epochs", "4", "--seed", "1"),
            "table": ("table.csv", "--epochs", "4"),
        }
        for name, (data, *more) in fits.items():
            line = ("fit", "--data", data, *TRAINED, *more, "--out", name)
            found = command(line, self.base, prepare=_draw_nothing)
            if found.status:
                raise RuntimeError(f"{' '.join(line)}: {found.err}")

    @contextlib.contextmanager
    def copy(self, *names: str) -> Iterator[Path]:
        """A fresh folder with copies of what is named, or of everything; removed afterwards."""
        place = self.folder / "case"  # always the same, since results name their folder
        place.mkdir()  # one at a time
        try:
            for path in self.base.iterdir():
                if not names or path.name in names:
                    new = place / path.name
                    shutil.copytree(path, new) if path.is_dir() else shutil.copy(path, new)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def started() -> None:
    """Import what commands import, once for all forks, some of whom may not read the library."""
    import encodings.cp437  # of names in archives

    import matplotlib.pyplot
    import pandas
    import sklearn.linear_model
    import sklearn.neighbors
    import torch._dynamo

    from pyrovae import diagnostics, evidence, queries, runs  # noqa: F401

    del encodings, matplotlib, pandas, sklearn
    torch.set_num_threads(1)
