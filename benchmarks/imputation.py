"""Errors of imputed tables: half of the cells of five tables hidden at random, and filled in again.

    python benchmarks/imputation.py --json imputation.json       # five tables, five masks
    python benchmarks/imputation.py --tables wine iris --masks 2
    python benchmarks/imputation.py --read imputation.json --markdown

Each table with gaps is written to a csv file and configured as by ``pyrovae fit --data table.csv
--likelihood normal:scale=dimension --scaling standardize``; the recipe for tables with gaps chooses
the rest. As the other methods do, the model sees all rows: it is trained for 6,000 steps on
whatever is left of them, and the last weights fill the gaps as in ``pyrovae impute``. A run sees no
hidden value; the recipe was chosen on the masks of seeds 0 to 4 and 200 to 202. The others are
scikit-learn's on standardized columns, with their defaults. With ``--json``,
finished masks are kept and not run again.

The error is the root of the mean squared error over the hidden cells, each in units of the standard
deviation of its column, constant columns left out. Errors behind a figure are standard errors over
masks. Coverage is the share of hidden cells inside their intervals.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import describe, in_words, table
from sklearn import datasets
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from pyrovae.queries import impute
from pyrovae.runs import Config
from pyrovae.training import fit

TABLES = {
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "digits": datasets.load_digits,
    "iris": datasets.load_iris,
}
OURS = "pyrovae"
LEVEL = 0.9
LIKELIHOOD = "normal:scale=dimension"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first mask; one more each")
    parser.add_argument("--share", type=float, default=0.5, help="of the cells that is hidden")
    parser.add_argument("--samples", type=int, default=400, help="draws of z for each row")
    parser.add_argument("--steps", type=int, default=6_000, help="of training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show these, and run nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table for a web page")
    options = parser.parse_args()
    if options.masks < 1 or not 0 < options.share < 1:
        parser.error("--masks must be at least 1, and --share between 0 and 1")
    if options.read is not None:
        show(json.loads(options.read.read_text()), options.markdown)
        return
    settings = {name: getattr(options, name) for name in ("seed", "share", "samples", "steps")}
    figures: dict[str, Any] = {"machine": describe(), "settings": settings, "tables": {}}
    if options.json is not None and options.json.exists():
        figures = json.loads(options.json.read_text())
        if figures["settings"] != settings:
            parser.error(f"{options.json} was made with {figures['settings']}; name another file")
    for name in options.tables:
        done = figures["tables"].setdefault(name, {})
        for mask in range(options.masks):
            if str(mask) in done:
                continue
            done[str(mask)] = measure(name, mask, **settings)
            if options.json is not None:
                options.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, options.markdown)


def measure(
    name: str, mask: int, *, seed: int, share: float, samples: int, steps: int
) -> dict[str, float]:
    """Errors of all methods on one table with one mask, and what belongs to ours."""
    seed += mask
    x = np.asarray(TABLES[name]().data, dtype=np.float64)
    hidden = np.random.default_rng(seed).random(x.shape) < share
    with_gaps = np.where(hidden, np.nan, x)
    varied = hidden & (x.std(0) > 0)

    def error(filled: np.ndarray) -> float:
        unit = np.where(x.std(0) > 0, x.std(0), 1.0)
        return math.sqrt(np.square(((filled - x) / unit)[varied]).mean())

    found = {label: error(filled) for label, filled in by_others(with_gaps).items()}
    start = time.perf_counter()
    mean, lower, upper = by_pyrovae(with_gaps, seed, samples, steps)
    found[OURS] = error(mean)
    found["coverage"] = float(((lower <= x) & (x <= upper))[varied].mean())
    found["seconds"] = time.perf_counter() - start
    return found


def by_others(x: np.ndarray) -> dict[str, np.ndarray]:
    """The table filled in by scikit-learn, by the name of the method."""
    loc, scale = np.nanmean(x, 0), np.nanstd(x, 0)
    scale = np.where(scale > 0, scale, 1.0)
    methods = {
        "column mean": SimpleImputer(),
        "KNNImputer": KNNImputer(),
        "IterativeImputer": IterativeImputer(random_state=0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged, as IterativeImputer often says
        return {
            label: loc + scale * method.fit_transform((x - loc) / scale)
            for label, method in methods.items()
        }


def by_pyrovae(
    x: np.ndarray, seed: int, samples: int, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and bounds of the interval of each cell, in the units of the table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        header = ",".join(f"x{column}" for column in range(x.shape[1]))
        rows = [",".join("" if math.isnan(v) else repr(v) for v in row) for row in x.tolist()]
        file.write_text("\n".join([header, *rows]) + "\n")
        config, data = Config.resolve(
            {
                "data": {"name": str(file), "scaling": "standardize"},
                "model": {"likelihood": LIKELIHOOD},
                "training": {"seed": seed},
            }
        )
    vae = config.build()
    loc, scale = (torch.as_tensor(data.statistics[name]) for name in ("loc", "scale"))
    scaled = ((torch.as_tensor(x) - loc) / scale).to(torch.float32)
    settings = {name: value for name, value in config.training.items() if name != "objective"}
    settings["epochs"] = math.ceil(steps * settings["batch_size"] / len(x))
    fit(vae, scaled, objective=config.objective(), **settings, report=lambda progress: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows with a heavy tail of the weights
        found = impute(vae, scaled, ~scaled.isnan(), samples=samples, level=LEVEL, seed=seed)
    mean, lower, upper = (
        (loc + scale * part.double()).numpy() for part in (found.mean, found.lower, found.upper)
    )
    return mean, lower, upper


def show(figures: dict[str, Any], markdown: bool) -> None:
    print(in_words(figures["machine"]), end="\n\n")
    methods = ("column mean", "KNNImputer", "IterativeImputer", OURS, "coverage")
    rows = []
    for name, masks in figures["tables"].items():
        found = list(masks.values())
        cells = [_with_error([mask[method] for mask in found]) for method in methods]
        seconds = statistics.median(mask["seconds"] for mask in found)
        rows.append((name, str(len(found)), *cells, f"{seconds:.0f}"))
    titles = ("", "masks", *methods[:-1], f"{LEVEL:.0%} intervals cover", "seconds")
    table(titles, rows, markdown)


def _with_error(values: list[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
