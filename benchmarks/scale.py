"""What grows with what: data, batch size, draws, methods of evaluation, components.

    python benchmarks/scale.py
    python benchmarks/scale.py --only data draws --json figures.json

Everything runs on one thread and is timed by the processor's time of this process, so that other
work on the machine matters less. Figures are medians over rounds, and ratios are of figures of one
round. The data are the digits, repeated; the model is their recipe's.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import describe, in_words, table

import pyrovae
from pyrovae.data import Split, load
from pyrovae.evidence import annealed, importance_weighted, integrated, posterior_draws
from pyrovae.training import Progress
from pyrovae.vae import VAE

COMPONENTS = {
    "prior": (
        *("learned_normal", "learned_normal:covariance=full", "laplace", "student_t", "logistic"),
        *("mixture:components=20", "vamp:components=50", "flow"),
    ),
    "posterior": ("full", "low_rank", "laplace", "flow", "point"),
    "likelihood": ("discretized_logistic", "categorical", "poisson", "negative_binomial", "normal"),
    "objective": (
        *("analytic", "stl", "beta", "free_bits", "beta_tc", "info"),
        *("elbo:particles=5", "iwae:particles=5", "dreg:particles=5", "renyi:particles=5"),
    ),
}


def digits(count: int) -> Split:
    """So many digits, bytes in memory, repeated where there are not as many."""
    first = load("digits").train
    x = first.batch(np.arange(len(first))).numpy().astype(np.uint8)
    return Split.from_array(np.resize(x, (count, *x.shape[1:])))


def made(model: dict[str, Any], **training: Any) -> tuple[VAE, dict[str, Any]]:
    """The recipe's VAE with some parts exchanged, and the arguments of its training."""
    config, _ = pyrovae.Config.resolve({"model": model, "training": training})
    return config.build(), dict(config.training, objective=config.objective())


def epoch(vae: VAE, data: Split, settings: dict[str, Any]) -> float:
    """Processor seconds of the second epoch of a training."""
    times: list[float] = []

    def report(progress: Progress) -> None:
        if progress.epoch == len(times):
            times.append(time.process_time())

    pyrovae.fit(vae, data, **settings, report=report)
    return times[2] - times[1]


def by_data(options: argparse.Namespace) -> Iterable[tuple[str, dict[str, float]]]:
    """An epoch over more and more data."""
    for count in options.data:
        vae, settings = made({}, epochs=2, compile="graph", device="cpu")
        seconds = epoch(vae, data := digits(count), settings)
        found = {"epoch, s": seconds, "step, ms": 1e3 * seconds / -(-count // 64)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB
        yield f"{count:,}", found | {"of the data, MiB": len(data) * 64 / 2**20, "peak, MiB": peak}


def by_batch(options: argparse.Namespace) -> Iterable[tuple[str, dict[str, float]]]:
    """An epoch over the same data in larger and larger batches."""
    for size in (16, 64, 256, 1_024):
        vae, settings = made({}, epochs=2, batch_size=size, compile="graph", device="cpu")
        seconds = epoch(vae, digits(options.data[1]), settings)
        steps = -(-options.data[1] // size)
        found = {"step, ms": 1e3 * seconds / steps, "image, us": 1e6 * seconds / options.data[1]}
        yield str(size), found


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def by_draws(options: argparse.Namespace) -> Iterable[tuple[str, dict[str, float]]]:
    """The importance-weighted bound with more and more draws."""
    vae, data = made({})[0].eval(), digits(options.images)
    for samples in options.samples:
        run = lambda k=samples: pyrovae.evaluate(vae, data, samples=k)  # noqa: E731
        seconds = timed(run)
        each = {"image, ms": 1e3 * seconds / len(data)}
        yield f"{samples:,}", each | {"draw, us": 1e6 * seconds / len(data) / samples}


def by_method(options: argparse.Namespace) -> Iterable[tuple[str, dict[str, float]]]:
    """One image by each method."""
    models = []
    for size in (2, 10):
        vae, settings = made({"latent_dim": size}, epochs=5, device="cpu")
        pyrovae.fit(vae, digits(1_000), **settings)
        models.append(vae.eval())
    two, ten = models
    x = digits(4).batch(np.arange(4))
    draws = options.draws
    work: dict[str, Callable[[], object]] = {
        "iw, 1,000 draws": lambda: importance_weighted(ten, x, seed=0, samples=1_000),
        f"ais, 16 chains, {draws} temperatures": lambda: annealed(
            ten, x, seed=0, samples=16, temperatures=draws
        ),
        "quadrature, two dimensions": lambda: integrated(two, x, seed=0),
        f"NUTS, 2 chains of {draws}": lambda: posterior_draws(
            ten, x, draws=draws, warmup=draws, chains=2
        ),
    }
    for name, run in work.items():
        yield name, {"image, s": timed(run) / len(x)}


def by_component(options: argparse.Namespace) -> Iterable[tuple[str, dict[str, float]]]:
    """A step with one component exchanged, relative to the recipe's."""
    data = digits(options.data[0])
    fixed = {"epochs": 2, "compile": "off", "device": "cpu"}
    for role, specs in COMPONENTS.items():
        for spec in specs:
            place = {"training": {role: spec}} if role == "objective" else {"model": {role: spec}}
            ratios = []
            for _ in range(options.rounds):
                base, settings = made({}, **fixed)
                usual = epoch(base, data, settings)
                vae, settings = made(place.get("model", {}), **fixed, **place.get("training", {}))
                ratios.append(epoch(vae, data, settings) / usual)
            yield f"{role} {spec}", {"step, relative": statistics.median(ratios)}


PARTS = {
    "data": ("digits", by_data),
    "batch": ("batch size", by_batch),
    "draws": ("draws", by_draws),
    "methods": ("after five epochs", by_method),
    "components": ("one exchanged", by_component),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=int, nargs="*", default=[1_000, 4_000, 16_000], metavar="N")
    parser.add_argument("--samples", type=int, nargs="*", default=[10, 100, 1_000], metavar="K")
    parser.add_argument("--images", type=int, default=100, help="that are evaluated")
    parser.add_argument("--draws", type=int, default=50, help="of NUTS; temperatures of ais")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--markdown", action="store_true", help="print tables for a web page")
    options = parser.parse_args()
    if options.rounds < 1 or len(options.data) < 2:
        parser.error("--rounds must be at least 1, and --data needs two numbers at least")

    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": describe()}
    print(in_words(figures["machine"]))
    for part in options.only:
        title, measure = PARTS[part]
        repeated = 1 if part == "components" else options.rounds
        rounds = [dict(measure(options)) for _ in range(repeated)]
        medians = {
            row: {
                column: statistics.median(found[row][column] for found in rounds)
                for column in rounds[0][row]
            }
            for row in rounds[0]
        }
        figures[part] = medians
        columns = next(iter(medians.values()))
        print(flush=True)
        rows = [(row, *(f"{x:.4g}" for x in found.values())) for row, found in medians.items()]
        table((title, *columns), rows, options.markdown)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
