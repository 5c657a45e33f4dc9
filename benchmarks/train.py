"""Training steps and epochs of one VAE: pyrovae, Pyro as shipped, by hand in PyTorch, and others.

    python benchmarks/train.py                          # some minutes
    python benchmarks/train.py --json figures.json
    python benchmarks/train.py --read figures.json --markdown

Every contender trains the same network on the same data in alternating rounds of one run, so that a
machine whose speed drifts slows all of them. A figure is the median over rounds; a ratio is the
median of the ratios within a round. Epochs run in a process for each contender, which waits its
turn, so that each has a peak memory of its own.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import contenders
from contenders import NETS, Net
from report import describe, in_words, table

BASE = "hand-written PyTorch"


def main() -> None:
    options = parse()
    if options.read is not None:
        figures = json.loads(options.read.read_text())
    else:
        figures = measure(options)
        if options.json is not None:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, markdown=options.markdown)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    nets = {"nargs": "*", "choices": tuple(NETS)}
    parser.add_argument("--nets", **nets, default=list(NETS), help="whose steps to time")
    parser.add_argument("--epoch-nets", **nets, default=["400"], help="whose epochs to time")
    parser.add_argument("--rounds", type=int, default=9, help="of steps")
    parser.add_argument("--steps", type=int, default=20, help="per round")
    parser.add_argument("--epochs", type=int, default=3, help="rounds of one epoch each")
    parser.add_argument("--images", type=int, default=55_000, help="per epoch")
    parser.add_argument(
        "--only", nargs="*", metavar="WORD", help=f"{BASE}, and contenders with a word in the name"
    )
    parser.add_argument("--data-dir", help="where MNIST is; by default PYROVAE_DATA")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing, show these")
    parser.add_argument("--markdown", action="store_true", help="print tables for a web page")
    options = parser.parse_args()
    for name in ("rounds", "steps", "epochs", "images"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.data_dir is not None:
        os.environ["PYROVAE_DATA"] = options.data_dir
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    modules, left_out = present()
    real = (contenders.mnist_folder() / "MNIST").is_dir()
    if not real:
        left_out.append("MNIST is not in PYROVAE_DATA: the data are noise with as many zeros")
    for line in left_out:
        print(line, file=sys.stderr)
    figures: dict[str, Any] = {
        "machine": describe(),
        "settings": {
            name: getattr(options, name) for name in ("rounds", "steps", "epochs", "images")
        },
        "left_out": left_out,
        "step": {},
        "epoch": {},
    }
    for name in options.nets:
        net = NETS[name]
        with noted(figures, str(net)):
            figures["step"][str(net)] = time_steps(net, modules, options)
    for name in options.epoch_nets:
        net = NETS[name]
        figures["epoch"][str(net)] = time_epochs(net, modules, options, left_out)
    return figures


def present() -> tuple[dict[str, Any], list[str]]:
    """The contenders' modules that can be imported, and a line for each that cannot."""
    modules, left_out = {}, []
    for name, packages in contenders.MODULES.items():
        try:
            modules[name] = importlib.import_module(f"contenders.{name}")
        except ImportError as error:
            if not packages:
                raise
            left_out.append(f"left out: {', '.join(packages)} ({error}); pip install -e '.[bench]'")
    return modules, left_out


@contextlib.contextmanager
def noted(figures: dict[str, Any], where: str) -> Iterator[None]:
    """Keeps warnings, such as that a program could not be staged, with the figures."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        figures["left_out"].append(f"{where}: {message}")
        print(f"{where}: {message}", file=sys.stderr)


def chosen(label: str, only: list[str] | None) -> bool:
    return only is None or label == BASE or any(word in label for word in only)


def time_steps(
    net: Net, modules: dict[str, Any], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds per step in each round, of each contender."""
    import pyro
    import torch

    torch.manual_seed(0)
    gray = contenders.pixels(net.batch_size)
    bits = torch.bernoulli(torch.from_numpy(gray) / 255).numpy()
    steps: dict[str, tuple[Callable[[], object], dict[str, Any]]] = {}
    for module in modules.values():
        for label, prepare in module.STEPS.items():
            if chosen(label, options.only):
                with pyro.get_param_store().scope() as store:
                    steps[label] = prepare(net, bits), store
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for round_number in range(options.rounds + 1):
        for label, (step, store) in steps.items():
            with pyro.get_param_store().scope(store) as left:
                start = time.perf_counter()
                for _ in range(options.steps):
                    step()
                if round_number:  # the first round warms up
                    seconds[label].append((time.perf_counter() - start) / options.steps)
            steps[label] = step, left
    return seconds


def time_epochs(
    net: Net, modules: dict[str, Any], options: argparse.Namespace, left_out: list[str]
) -> dict[str, dict[str, Any]]:
    """Seconds of each epoch, and the peak memory of its process, of each contender."""
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Connection, Any]] = {}
    found: dict[str, dict[str, Any]] = {}

    def ask(label: str) -> Any:
        """Let a contender run until it answers; drop it if the answer is an error."""
        connection, process = running[label]
        try:
            connection.send("go")
            answer = connection.recv()
        except (EOFError, OSError):
            answer = "its process ended"
        if isinstance(answer, str):
            left_out.append(f"left out: {label} ({answer})")
            print(left_out[-1], file=sys.stderr)
            process.kill()
            del running[label]
            found.pop(label, None)
        return answer

    try:
        for name, module in modules.items():
            for label in module.EPOCHS:
                if not chosen(label, options.only):
                    continue
                here, there = context.Pipe()
                arguments = (there, name, label, net, options.images, options.epochs + 1)
                process = context.Process(target=serve, args=arguments, daemon=True)
                process.start()
                there.close()
                running[label] = here, process
                found[label] = {"seconds": []}
                if not isinstance(ask(label), str):
                    found[label]["first_seconds"] = ask(label)
        for _ in range(options.epochs):
            for label in list(running):
                answer = ask(label)
                if label in running:
                    found[label]["seconds"].append(answer)
        for label in list(running):
            peak = ask(label)
            if label in running:
                found[label]["peak_bytes"] = peak
    finally:
        for _, process in running.values():
            process.kill()
            process.join()
    return found


def serve(
    connection: Connection, module: str, label: str, net: Net, images: int, epochs: int
) -> None:
    """One contender in a process of its own, an epoch for each message."""
    start = 0.0

    def turn() -> None:
        nonlocal start
        end = time.perf_counter()
        connection.send(end - start)
        connection.recv()
        start = time.perf_counter()

    try:
        connection.recv()
        contender = importlib.import_module(f"contenders.{module}")
        contender.EPOCHS[label](net, contenders.pixels(images), epochs, turn)
        connection.send(peak_bytes())
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def peak_bytes() -> int:
    """The largest resident size of this process.

    ``ru_maxrss`` of a new program begins at the size of the one that started it; on Linux the high
    water mark of the address space does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def show(figures: dict[str, Any], *, markdown: bool) -> None:
    print(in_words(figures["machine"]))
    for net, seconds in figures["step"].items():
        rows = [
            (
                label,
                f"{1e3 * statistics.median(values):.2f}",
                f"{ratio(values, seconds[BASE]):.2f}",
            )
            for label, values in seconds.items()
        ]
        print(f"\nOne step, {net}\n")
        table(("", "ms", "ratio of times"), rows, markdown)
    for net, found in figures["epoch"].items():
        base = found[BASE]
        rows = [
            (
                label,
                f"{figures['settings']['images'] / statistics.median(one['seconds']):,.0f}",
                f"{ratio(base['seconds'], one['seconds']):.2f}",
                f"{one['peak_bytes'] / 2**20:,.0f}",
                f"{one['peak_bytes'] / base['peak_bytes']:.2f}",
                f"{max(0.0, one['first_seconds'] - statistics.median(one['seconds'])):.1f}",
            )
            for label, one in found.items()
        ]
        print(f"\nAn epoch, {net}\n")
        titles = ("images/s", "ratio of speeds", "peak MiB", "ratio of peaks", "warm-up s")
        table(("", *titles), rows, markdown)


def ratio(values: list[float], others: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


if __name__ == "__main__":
    main()
