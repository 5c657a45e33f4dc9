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
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset, Rows, Source, Split, load, prepare
from pyrovae.evidence import per_example
from pyrovae.vae import VAE

REPLACED = 0.1  # share of pixels replaced for the background model
REAL = "0.45"
# fmt: off
COLORS = ["#332288", "#DDAA33", "#117733", "#CC6677", "#88CCEE",  # Paul Tol's "muted"
          "#882255", "#44AA99", "#999933", "#AA4499", "#777777"]
# fmt: on


def auc(higher: np.ndarray, lower: np.ndarray) -> tuple[float, float]:
    r"""The area under the ROC curve, P(a > b) + P(a = b) / 2, with its standard error.

    a is a number of the kind that should score higher, b one of the other kind. The standard error
    is the one of DeLong, DeLong and Clarke-Pearson (1988), Comparing the Areas under Two or More
    Correlated Receiver Operating Characteristic Curves, Biometrics 44, which assumes no shape of
    the distributions. It is zero if the two kinds do not overlap at all, although the area may then
    still be short of 1 by about one over the size of the smaller sample.
    """
    a, b = (np.asarray(values, float) for values in (higher, lower))
    if min(len(a), len(b)) < 2 or np.isnan(a).any() or np.isnan(b).any():
        raise ValueError(
            f"auc needs at least two numbers of each kind and no NaN, got {len(a)} and {len(b)}"
        )
    of_a, of_b = share_below(a, b), 1 - share_below(b, a)
    variance = of_a.var(ddof=1) / len(a) + of_b.var(ddof=1) / len(b)
    return float(of_a.mean()), math.sqrt(variance)


def share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of ``others`` below each value; those equal to it count half."""
    others = np.sort(others)
    below = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
    return below / 2 / len(others)


def shapes(n: int, size: int, top: int, rng: np.random.Generator, grain: float) -> np.ndarray:
    """Draw filled shapes with random outlines, counts from 0 to ``top``, ``(n, 1, size, size)``."""
    heights = np.linspace(0, size - 1, 4)
    wide = np.stack([np.interp(range(size), heights, rng.uniform(0.3, 0.95, 4)) for _ in range(n)])
    inside = abs(np.arange(size) - (size - 1) / 2) < wide[:, :, None] * size / 2
    gray = rng.uniform(0.4, 0.8, (n, 1, 1)) + grain * rng.uniform(-0.4, 0.4, inside.shape)
    return np.rint(top * inside * gray.clip(0, 1)).astype(np.int64)[:, None]


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


def picture(
    scores: Mapping[str, np.ndarray], areas: Mapping[str, tuple[float, float]], real: str
) -> Figure:
    """Plot the scores of each kind of input, and how well a low score identifies the other kinds.

    A curve below the diagonal belongs to inputs that score higher than real ones.
    """
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    boxes, curves = figure.subplots(1, 2, width_ratios=(1.25, 1))
    others = [kind for kind in scores if kind != real]
    colors = dict(zip(others, COLORS, strict=False)) | {real: REAL}
    kinds = [real, *others]
    drawn = boxes.boxplot(
        [scores[kind] for kind in kinds],
        orientation="horizontal",
        whis=(1, 99),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for box, kind in zip(drawn["boxes"], kinds, strict=True):
        box.set(facecolor=colors[kind], alpha=0.6)
    middle = float(np.median(scores[real]))
    boxes.axvline(middle, color=REAL, lw=1, ls="--", zorder=0)
    boxes.set_yticks(range(1, len(kinds) + 1), kinds)
    boxes.invert_yaxis()
    ends = np.concatenate([np.quantile(scores[kind], (0.01, 0.99)) for kind in kinds])
    low, high = float(ends.min()), float(ends.max())
    boxes.set_xscale("symlog", linthresh=100)
    boxes.set_xlim(low - 0.2 * abs(low), high + 0.2 * abs(high))
    boxes.set(xlabel="log p(x), lower bound (nats); logarithmic beyond 100")
    boxes.set_title("quartiles, and from 1 to 99 % of the inputs", loc="left")
    figure.suptitle(f"A VAE trained on {real}, and other inputs")
    levels = np.linspace(0, 1, 501)
    for kind in others:
        found = np.quantile(
            scores[real], levels
        )  # thresholds, by the share of real inputs below them
        share = (scores[kind][:, None] < found).mean(0)
        area, error = areas[kind]
        label = f"{kind}: {area:.3f} ± {error:.3f}".replace("-", "\N{MINUS SIGN}")
        curves.plot(levels, share, color=colors[kind], lw=1.8, label=label)
    curves.plot([0, 1], [0, 1], color=REAL, lw=1, ls="--")
    curves.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
        xlabel=f"share of {real} called other",
        ylabel="share of others found",
    )
    curves.set_title("low scores called other: area under the curve", loc="left")
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


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
        drawn = picture(scores["log p(x)"], areas, data.name)
        plots.save(drawn, arguments.out / f"anomaly-{data.name}.png")


if __name__ == "__main__":
    main()
