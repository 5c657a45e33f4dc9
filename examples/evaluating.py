"""Judge models by numbers that mean what they say: bounds, two kinds of error, pairs and seeds.

Six VAEs are trained on the counts of the digits' pixels: a standard normal prior and a learned
mixture of 20 normals, three seeds each. Then come a VAE for bits, a VAE for pixels as real numbers,
and a model that has only memorized its training images. All bounds use the same test images.

    python examples/evaluating.py
"""

import argparse
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrovae
from pyrovae.data import Dataset, Split, draw_bits, load
from pyrovae.estimates import Estimate
from pyrovae.evidence import per_example
from pyrovae.vae import VAE

PRIORS = ("normal", "mixture:components=20")
SEEDS = (0, 1, 2)
SPLITS = 1_000  # random choices of the images used to select a model


def trained(
    data: dict[str, Any], model: dict[str, Any], epochs: int, seed: int = 0
) -> tuple[VAE, Dataset]:
    """Train a VAE by the recipe of the data; return it with the preprocessed data."""
    training = {"epochs": epochs, "seed": seed}
    config, dataset = pyrovae.Config.resolve({"data": data, "model": model, "training": training})
    vae = config.build()
    pyrovae.fit(vae, dataset, **dict(config.training, objective=config.objective()))
    return vae, dataset


def text(values: Tensor, sign: str = "") -> str:
    """The mean over images and its standard error as text."""
    found = Estimate.of(values)
    return f"{found.value:{sign}.2f} +- {found.standard_error:.2f}"


def rising(vae: VAE, dataset: Dataset, limit: int | None, most: int) -> None:
    """Print the bound of one model for increasing numbers of draws."""
    print("one model, more draws: the bound rises; its own error, bias and weights")
    titles = f"{'K':>6}{'log p(x) at least':>20}{'draw error':>14}{'jackknife':>11}"
    print(f"{titles}{'k-hat too large':>24}")
    for samples in (1, 10, 100, most):
        every = per_example(vae, dataset.test, samples=samples, limit=limit)
        line = f"{samples:>6}{text(every.log_evidence):>20}"
        if samples > 1:
            weights = every.summary(samples)
            error, corrected = weights.sampling_error or math.nan, weights.bias_corrected.value
            line += f"{f'+- {error:.3f}':>14}{corrected:>11.2f}"
        if samples >= 100:
            share = f"{weights.unreliable:.1%} +- {weights.unreliable_error:.1%}"
            line += f"{f'{share} > {weights.reliable_below:.2f}':>24}"
        print(line)


def paired(bounds: dict[str, list[Tensor]]) -> None:
    """Compare two models on the same images, with three training seeds each."""
    print("\ntwo priors, three seeds each, the same images")
    names = [name.partition(":")[0] for name in PRIORS]
    print(f"{'seed':>6}{names[0]:>17}{names[1]:>17}{'difference':>16}{'if unpaired':>18}")
    rows = zip(SEEDS, *bounds.values(), strict=True)
    for seed, first, second in rows:
        apart = math.hypot(*(Estimate.of(x).standard_error or 0 for x in (first, second)))
        print(
            f"{seed:>6}{text(first):>17}{text(second):>17}{text(second - first, '+'):>16}"
            f"{f'+- {apart:.2f}':>18}"
        )
    first, second = (torch.stack(found) for found in bounds.values())  # (seeds, images)
    error = math.hypot(
        Estimate.of((second - first).mean(0)).standard_error or 0,  # over images
        Estimate.of((second - first).mean(1)).standard_error or 0,  # over seeds
    )
    both = f"{(second - first).mean():+.2f} +- {error:.2f}"
    print(f"{'mean':>6}{first.mean():>8.2f}{second.mean():>17.2f}{both:>25}")


def chosen(bounds: dict[str, list[Tensor]]) -> None:
    """Compare the best of six models on the images used to select it and on the others."""
    every = torch.stack([row for rows in bounds.values() for row in rows])  # (models, images)
    every = every - every.mean(0)
    print("\nthe best of the six minus their mean: on the images that select it, and elsewhere")
    print(f"{'chosen on':>12}{'there':>8}{'elsewhere':>11}")
    rng = np.random.default_rng(0)
    for count in (every.shape[1] // 20, every.shape[1] // 2):
        gains = []
        for _ in range(SPLITS):
            order = torch.from_numpy(rng.permutation(every.shape[1]))
            here, there = every[:, order[:count]].mean(1), every[:, order[count:]].mean(1)
            gains.append((here.max(), there[here.argmax()]))
        mine, others = torch.tensor(gains).mean(0).tolist()
        print(f"{count:>5} images{mine:>+8.2f}{others:>+11.2f}")


def drawn_again(vae: VAE, gray: Split, top: int, limit: int | None, samples: int) -> None:
    """Evaluate one model of bits on test images that are binarized several times."""
    x = gray.batch(np.arange(len(gray))).numpy().astype(np.uint8)
    found = []
    for seed in range(5):
        bits = draw_bits(x, top, np.random.default_rng(seed)).astype(np.float32)
        found.append(
            per_example(vae, Split.from_array(bits), samples=samples, limit=limit).log_evidence
        )
    print("\none model of bits, the test images binarized five times")
    print("  " + "  ".join(text(row) for row in found))
    print(f"  second minus first, same model and images: {text(found[1] - found[0], '+')}")


def by_heart(train: np.ndarray, x: np.ndarray, top: int) -> Tensor:
    """The exact log p(x) of a mixture of binomials, one around each training image."""
    p = (torch.from_numpy(train).flatten(1).double() + 0.5) / (top + 1)
    x = torch.from_numpy(x).flatten(1).double()
    log_each = x @ p.log().T + (top - x) @ (-p).log1p().T  # (images, training images)
    ways = math.lgamma(top + 1) - (x + 1).lgamma() - (top - x + 1).lgamma()
    return log_each.logsumexp(1) - math.log(len(p)) + ways.sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", help="counts; mnist needs a --limit [digits]")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--samples", type=int, default=1_000, help="draws of z per image at most")
    parser.add_argument("--limit", type=int, default=None, help="test images [all]")
    arguments = parser.parse_args()

    limit, samples, epochs = arguments.limit, arguments.samples, arguments.epochs
    data, gray = {"name": arguments.data}, load(arguments.data)
    top, dimensions = gray.maximum or 1, math.prod(gray.event_shape)
    bounds: dict[str, list[Tensor]] = {}
    for prior in PRIORS:
        for seed in SEEDS:
            model = {"prior": prior, "likelihood": f"binomial:total_count={top}"}
            vae, dataset = trained(data, model, epochs, seed)
            if not bounds:
                rising(vae, dataset, limit, samples)
            every = per_example(vae, dataset.test, samples=100, limit=limit)
            bounds.setdefault(prior, []).append(every.log_evidence)
    paired(bounds)
    chosen(bounds)

    bits, _ = trained(data | {"binarization": "dynamic"}, {"likelihood": "bernoulli"}, epochs)
    drawn_again(bits, gray.test, top, limit, 100)

    unit, dataset = trained(data, {"likelihood": "normal:scale=dimension"}, epochs)
    density = per_example(unit, dataset.test, samples=100, limit=limit).log_evidence
    first = bounds[PRIORS[0]][0]
    print("\na density depends on the unit of x, a probability does not")
    print(f"  {f'density of x / {top}':<32}{text(density + dimensions * math.log(top)):>16}")
    print(f"  {'density of x':<32}{text(density):>16}")
    print(f"  {'probability of the counts x':<32}{text(first):>16}")

    count = len(first)
    train, test = (
        split.batch(np.arange(number)).numpy()
        for split, number in ((gray.train, len(gray.train)), (gray.test, count))
    )
    noise = -dimensions * math.log(top + 1)  # log p(x) of any image under uniform counts
    mostly = torch.logaddexp(first + math.log(0.01), torch.tensor(noise + math.log(0.99)))
    print("\nsamples are one thing, log p(x) is another")
    print(f"  {'the VAE':<32}{text(first):>16}")
    print(f"  {'VAE 1 time in 100, else noise':<32}{text(mostly):>16}")
    print(f"  {'memorized training images':<32}{text(by_heart(train, test, top)):>16}")


if __name__ == "__main__":
    main()
