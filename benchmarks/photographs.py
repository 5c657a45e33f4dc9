"""Estimators of log p(x) where importance weighting fails: photographs, 40 latent dimensions.

    python benchmarks/photographs.py --json photographs.json
    python benchmarks/photographs.py --methods iw mixture --images 10
    python benchmarks/photographs.py --read photographs.json --markdown

The images are 28 x 20 pixels, cut from the two photographs that come with scikit-learn, as gray
levels from 0 to 255; those of the right fifth of each photograph are for testing. A VAE with a
discretized logistic likelihood is trained on the others on one thread, and every method then
estimates log p(x) of the same test images. The error behind a mean is its standard error over
images; differences from the first method are of the same images. The error of the method is the
part due to its draws or chains alone.

``bdmc`` anneals from both sides, on as many images drawn from the model.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import describe, in_words, table
from sklearn.datasets import load_sample_images

import pyrovae
from pyrovae.data import Rows, Source, prepare
from pyrovae.estimates import Estimate
from pyrovae.evidence import MeanSandwich
from pyrovae.likelihoods import DiscretizedLogistic
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

HEIGHT, WIDTH = 28, 20
STEPS = 7, 5  # rows and columns between neighboring images
LATENT_DIM = 40
METHODS: dict[str, dict[str, Any]] = {
    "iw": {"method": "iw", "samples": 1_000},
    "iw, 10 times the draws": {"method": "iw", "samples": 10_000},
    "mixture": {"method": "iw", "proposal": "mixture", "samples": 1_000},
    "ais": {"method": "ais", "samples": 16, "temperatures": 500},
    "ais from q": {"method": "ais", "start": "posterior", "samples": 16, "temperatures": 500},
    "bdmc from q": {"method": "bdmc", "start": "posterior", "samples": 16, "temperatures": 500},
    "ais from q, 2,000 steps": {
        "method": "ais",
        "start": "posterior",
        "samples": 16,
        "temperatures": 2_000,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--images", type=int, default=20, help="of the test set [20]")
    parser.add_argument("--epochs", type=int, default=100, help="of training [100]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="keep the trained model here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show these, and run nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table for a web page")
    options = parser.parse_args()
    if options.images < 1 or options.epochs < 1:
        parser.error("--images and --epochs must be at least 1")
    if options.read is not None:
        show(json.loads(options.read.read_text()), options.markdown)
        return
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": describe(), "rows": {}}
    vae, dataset = trained(options.epochs, options.seed, options.weights)
    x = dataset.test.batch(np.arange(min(options.images, len(dataset.test))))
    for name in options.methods:
        figures["rows"][name] = measure(vae, x, options.seed, METHODS[name])
        if options.json is not None:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, options.markdown)


def photographs(seed: int) -> Source:
    """Overlapping cuts of two photographs, in random order; no test pixel is trained on."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for image in load_sample_images().images:
        gray = image @ np.array([0.299, 0.587, 0.114])
        edge = round(0.8 * gray.shape[1])
        for part, area in (("train", gray[:, :edge]), ("test", gray[:, edge:])):
            windows = np.lib.stride_tricks.sliding_window_view(area, (HEIGHT, WIDTH))
            cuts = windows[:: STEPS[0], :: STEPS[1]].reshape(-1, 1, HEIGHT, WIDTH)
            parts[part].append(cuts.round().astype(np.uint8))
    rng = np.random.default_rng(seed)
    rows = {part: Rows(rng.permutation(np.concatenate(cuts))) for part, cuts in parts.items()}
    return Source("photographs", rows, maximum=255)


def trained(epochs: int, seed: int, weights: Path | None) -> tuple[pyrovae.VAE, Any]:
    """The VAE, from a file if it is there, and the data."""
    dataset = prepare(photographs(0))
    shape = (1, HEIGHT, WIDTH)
    torch.manual_seed(seed)
    likelihood = DiscretizedLogistic(LATENT_DIM, shape, MLP, levels=256)
    vae = pyrovae.VAE(
        StandardNormal(LATENT_DIM), likelihood, DiagonalNormal(LATENT_DIM, shape, MLP)
    )
    if weights is not None and weights.exists():
        vae.load_state_dict(torch.load(weights))
        return vae, dataset
    pyrovae.fit(vae, dataset, epochs=epochs, seed=seed, report=lambda progress: None)
    if weights is not None:
        torch.save(vae.state_dict(), weights)
    return vae, dataset


def measure(vae: pyrovae.VAE, x: torch.Tensor, seed: int, how: dict[str, Any]) -> dict[str, Any]:
    """A method's result as plain data, with its time."""
    start = time.perf_counter()
    if how["method"] == "bdmc":
        found = pyrovae.evaluate(vae, None, limit=len(x), seed=seed, **how)
    else:
        found = pyrovae.evaluate(vae, x, seed=seed, **how)
    seconds = time.perf_counter() - start
    if isinstance(found, MeanSandwich):
        return {"bounds": found.to_dict(), "seconds": seconds}
    error = found.log_evidence.sampling_error
    ess = found.per_example.arrays()["ess"].median().item()
    each = found.per_example.log_evidence.tolist()
    plain = {"error": error, "ess": ess, "seconds": seconds, "log_evidence": each}
    return {"found": found.to_dict()} | plain


def show(figures: dict[str, Any], markdown: bool) -> None:
    print(in_words(figures["machine"]), end="\n\n")
    titles = (
        *("", "log p(x)", "minus the first", "error of the method"),
        *("k-hat too large", "median ess", "seconds"),
    )
    rows: list[tuple[str, ...]] = []
    first = next((r["log_evidence"] for r in figures["rows"].values() if "found" in r), [])
    for name, row in figures["rows"].items():
        seconds = f"{row['seconds']:.0f}"
        if "bounds" in row:
            for side in ("lower", "upper"):
                bound = row["bounds"][side]
                error = f"{bound['sampling_error']:.2f}"
                rows.append((f"{name}, {side}", _with_error(bound), "", error, "", "", seconds))
            rows.append((f"{name}, gap", _with_error(row["bounds"]["gap"]), *[""] * 5))
            continue
        weights = row["found"].get("weights")
        share = "" if weights is None else _share(weights)
        mean = _with_error(row["found"]["log_evidence"])
        apart = np.subtract(row["log_evidence"], first)
        apart = Estimate.of(torch.from_numpy(apart)).to_dict() if apart.any() else None
        difference = "" if apart is None else _with_error(apart)
        error, ess = f"{row['error']:.2f}", f"{row['ess']:.1f}"
        rows.append((name, mean, difference, error, share, ess, seconds))
    table(titles, rows, markdown)


def _share(weights: dict[str, Any]) -> str:
    share = f"{weights['unreliable']:.0%} ± {weights['unreliable_error']:.0%}"
    return f"{share} above {weights['reliable_below']:.2g}"


def _with_error(mean: dict[str, Any]) -> str:
    return f"{mean['estimate']:.1f} ± {mean['standard_error']:.1f}"


if __name__ == "__main__":
    main()
