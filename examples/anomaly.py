"""Tell one kind of image from others by log p(x), and see where that goes wrong.

A VAE is trained on one kind of image. Test images and other images are scored by the
importance-weighted bound on log p(x), and a low score is called an anomaly. The area under the
curve (AUC) is the probability that a test image scores higher than one of the others: 1 is perfect,
one half is chance, and near 0 the others are MORE probable than the data. This happens with simple
inputs: where the density is high, inputs need not be typical. See Nalisnick et al. (2019), Do Deep
Generative Models Know What They Don't Know?, arXiv:1810.09136.

There are two runs: one trained on digits, and one trained on grainy filled shapes that resemble
pictures of clothes and are drawn by this script. To use torchvision's data instead, pass
--data mnist --other fashion_mnist. Two more scores are derived from log p(x):

- typical: minus the distance of log p(x) from its median over validation data; too high is
  suspicious too.
- ratio: log p(x) minus log p(x) under a background model, the same VAE trained on the data with a
  tenth of the pixels replaced at random. What both models have learned, such as empty pixels,
  cancels: Ren et al. (2019), Likelihood Ratios for Out-of-Distribution Detection, arXiv:1906.02845.

    python examples/anomaly.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset, Rows, Source, Split, load, prepare
from pyrovae.evidence import per_example
from pyrovae.plots import detection
from pyrovae.queries import auc
from pyrovae.vae import VAE

REPLACED = 0.1  # share of pixels replaced for the background model


def shapes(n: int, size: int, top: int, rng: np.random.Generator, grain: float) -> np.ndarray:
    """Draw filled shapes with random outlines, counts from 0 to ``top``, ``(n, 1, size, size)``."""
    heights = np.linspace(0, size - 1, 4)
    wide = np.stack([np.interp(range(size), heights, rng.uniform(0.3, 0.95, 4)) for _ in range(n)])
    inside = abs(np.arange(size) - (size - 1) / 2) < wide[:, :, None] * size / 2
    grey = rng.uniform(0.4, 0.8, (n, 1, 1)) + grain * rng.uniform(-0.4, 0.4, inside.shape)
    return np.rint(top * inside * grey.clip(0, 1)).astype(np.int64)[:, None]


def changed(
    x: np.ndarray, means: np.ndarray, top: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Other inputs, made from the data x and from the model's reconstructions of x."""
    size = x.shape[-1]
    order = rng.permuted(np.tile(np.arange(size * size), (len(x), 1)), axis=1)
    waves = np.sin(np.arange(size) * rng.uniform(1, 2.5, (len(x), 1)) + rng.uniform(0, 6))
    return {
        "shuffled pixels": np.take_along_axis(x.reshape(len(x), -1), order, 1).reshape(x.shape),
        "inverted": top - x,
        "stripes": np.broadcast_to((waves / 2 + 0.5)[:, None, None] * top, x.shape),
        "nearly blank": np.broadcast_to(rng.uniform(0, 0.1 * top, (len(x), 1, 1, 1)), x.shape),
        "half as bright": x / 2,
        "smoothed": means,
    }


def trained(data: Dataset, top: int, epochs: int) -> VAE:
    model = {"likelihood": f"binomial:total_count={top}"}
    counts = {"binarization": "none", "scaling": "none"}
    config, _ = pyrovae.Config.resolve({"data": counts, "model": model})
    if data.event_shape != config.data["event_shape"]:
        described = {"name": data.name, **counts}
        config, _ = pyrovae.Config.resolve({"data": described, "model": model})
    vae = config.build()
    settings = dict(config.training, objective=config.objective(), epochs=epochs)
    pyrovae.fit(vae, data, **settings)
    return vae


def replaced(data: Dataset, top: int, rng: np.random.Generator) -> Dataset:
    """The same data with a share of the pixels uniform over all counts."""
    parts = {}
    for name in ("train", "validation"):
        split = getattr(data, name)
        x = split.batch(np.arange(len(split))).numpy()
        noise = rng.integers(0, top + 1, x.shape)
        parts[name] = np.where(rng.random(x.shape) < REPLACED, noise, x).astype(np.float32)
    splits = {name: Split.from_array(x) for name, x in parts.items()}
    return Dataset(**(vars(data) | splits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", help="a dataset [digits]")
    parser.add_argument("--other", help="another dataset of the same shape [drawn shapes]")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--samples", type=int, default=100, help="draws of z for each input")
    parser.add_argument("--count", type=int, default=200, help="inputs of each kind")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the pictures")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    first = load(arguments.data)
    top, size = first.maximum or 1, first.event_shape[-1]
    if arguments.other is None:
        made = Source("shapes", {"all": Rows(shapes(1_800, size, top, rng, grain=1.0))}, top)
        second = prepare(made)
    else:
        second = load(arguments.other)

    def some(split: Split) -> np.ndarray:
        return split.batch(np.arange(min(arguments.count, len(split)))).numpy()

    def log_p(model: VAE, x: np.ndarray) -> np.ndarray:
        counts = Split.from_array(np.rint(x).astype(np.float32))
        return per_example(model, counts, samples=arguments.samples).log_evidence.numpy()

    print(f"log p(x): importance-weighted lower bound of {arguments.samples} draws, in nats")
    print("AUC of three scores, +- standard error; 1: perfect separation, near 0: reversed order")
    for data, other in ((first, second), (second, first)):
        vae, background = (
            trained(each, top, arguments.epochs) for each in (data, replaced(data, top, rng))
        )
        real = some(data.test)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            means = vae.reconstruct(torch.from_numpy(real)).numpy()
        inputs = {data.name: real, other.name: some(other.test)} | changed(real, means, top, rng)
        inputs["flat shapes"] = shapes(len(real), size, top, rng, grain=0.0)
        middle = np.median(log_p(vae, some(data.validation)))
        scores: dict[str, dict[str, np.ndarray]] = {"log p(x)": {}, "typical": {}, "ratio": {}}
        areas: dict[str, tuple[float, float]] = {}
        print(f"\n{'trained on ' + data.name:<20}{'mean log p(x)':>20}", end="")
        print("".join(f"{'AUC, ' + name:>18}" for name in scores))
        for kind, x in inputs.items():
            value = log_p(vae, x)
            scores["log p(x)"][kind] = value
            scores["typical"][kind] = -abs(value - middle)
            scores["ratio"][kind] = value - log_p(background, x)
            error = value.std(ddof=1) / len(value) ** 0.5
            line = f"{kind:<20}{value.mean():>11.2f} +- {error:<5.2f}"
            if kind != data.name:
                found = {name: auc(each[data.name], each[kind]) for name, each in scores.items()}
                line += "".join(f"{area:>9.3f} +- {error:.3f}" for area, error in found.values())
                areas[kind] = found["log p(x)"]
            print(line, flush=True)
        drawn = detection(scores["log p(x)"], areas, real=data.name)
        plots.save(drawn, arguments.out / f"anomaly-{data.name}.png")


if __name__ == "__main__":
    main()
