"""The weight beta of the KL term: rate against distortion, and where the posterior collapses.

The same VAE is trained on -distortion - beta * rate for several values of beta. The rate is the KL
term, the cost of a code. The distortion is minus the reconstruction term, the cost of the image
once the code is known. Their sum is an upper bound on -log p(x), and beta = 1 minimizes it. At the
largest beta a code costs more than it can gain: every q(z|x) equals the prior, the decoder ignores
z, and the ELBO equals that of a model without z, whose pixels are independent with the frequencies
of the training data.

    python examples/beta_rate_distortion.py
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro import distributions as dist

import pyrovae
from pyrovae import plots
from pyrovae.data import Split
from pyrovae.diagnostics import active_units, aggregate_draws
from pyrovae.estimates import Estimate
from pyrovae.objectives import Beta

BETAS = (0.03, 0.3, 1.0, 2.0, 5.0, 20.0, 100.0)
LIMIT = 1_000  # images of each split, at most
TRAINING, TEST = "#4477AA", "#EE6677"


def text(found: Estimate) -> str:
    """An estimate and its error as text."""
    return f"{found.value:.2f} +- {found.standard_error:.2f}"


def terms(vae: pyrovae.VAE, images: Split) -> dict[str, Estimate]:
    """Rate, distortion, ELBO, and the loss in log p(x|z) with the code of another image."""
    drawn = aggregate_draws(vae, images, limit=LIMIT)
    rate = (drawn.log_posterior - drawn.log_prior).mean(1)
    distortion = -drawn.log_likelihood.mean(1)
    loss = -distortion - drawn.log_likelihood_of_others.mean(1)
    values = {"rate": rate, "distortion": distortion, "ELBO": -rate - distortion, "loss": loss}
    return {name: Estimate.of(value) for name, value in values.items()}


def without_z(train: torch.Tensor, test: torch.Tensor) -> Estimate:
    """log p(x) of test images for independent pixels with the training frequencies."""
    largest = int(train.max())
    frequency = (train.mean(0) / largest).clamp(1e-4, 1 - 1e-4)
    return Estimate.of(dist.Binomial(largest, frequency).log_prob(test).flatten(1).sum(1))


def picture(rows: list[dict[str, Any]], nothing: float) -> Figure:
    """Plot rate and distortion for each beta, with the expected slope -beta."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    for part, color in (("test", TEST), ("training", TRAINING)):
        rate, distortion = (
            [row[part][name].value for row in rows] for name in ("rate", "distortion")
        )
        axes.plot(rate, distortion, "o-", color=color, ms=5, lw=0.8, label=f"{part} images")
    wide, high = 1.12 * max(rate), 1.3 * (nothing - min(distortion))
    for row, r, d in zip(rows, rate, distortion, strict=True):
        reach = min(0.06 * wide, 0.06 * high / row["beta"])  # of the tangent, on each side
        across = np.array([-reach, reach])
        axes.plot(r + across, d - row["beta"] * across, color="black", lw=1.6)
        near = [other["beta"] for other, at in zip(rows, rate, strict=True) if abs(at - r) < 0.5]
        if row["beta"] == near[0]:  # the others are at the same point
            told = "β = " + ", ".join(f"{beta:g}" for beta in near)
            axes.annotate(told, (r, d), xytext=(8, 8), textcoords="offset points")
    axes.axhline(nothing, color="0.5", ls="--", lw=1)
    axes.annotate("a model without z", (0.98 * wide, nothing), ha="right", va="top", color="0.3")
    axes.set(
        xlabel="rate, KL(q(z|x) || p(z)) (nats per image)",
        ylabel="distortion, minus the mean of log p(x|z) (nats per image)",
        title="What a code costs and what it saves; black: lines of slope $-$β",
        xlim=(-0.04 * wide, wide),
        ylim=(min(distortion) - 0.1 * high, min(distortion) + high),
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", choices=("digits", "mnist"), help="[digits]")
    parser.add_argument("--epochs", type=int, default=25, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    training = {"epochs": arguments.epochs, "seed": arguments.seed}
    settings = {
        "data": {"name": arguments.data},
        "model": {"likelihood": "binomial"},
        "training": training,
    }
    config, data = pyrovae.Config.resolve(settings)
    some = data.train.batch(np.arange(min(LIMIT, len(data.train))), np.random.default_rng(0))
    parts = {"training": Split.from_array(some), "test": data.test}
    print("nats per test image, +- the error over images; one column is for training images")
    print("loss: how much log p(x|z) falls if z is the code of another image")
    heads = ("rate", "distortion", "ELBO", "ELBO, training", "loss")
    print(f"{'beta':>5} " + " ".join(f"{head:>16}" for head in heads) + "  active units")
    rows = []
    for beta in BETAS:
        vae = config.build()
        settings = dict(config.training, objective=Beta(beta=beta))
        pyrovae.fit(vae, data.train, **settings)  # validation would select by the plain ELBO
        row = {part: terms(vae, images) for part, images in parts.items()}
        rows.append({"beta": beta} | row)
        told = [row["test"][name] for name in ("rate", "distortion", "ELBO")]
        told += [row["training"]["ELBO"], row["test"]["loss"]]
        line = f"{beta:>5g} " + " ".join(f"{text(found):>16}" for found in told)
        print(f"{line} {active_units(vae, data.test):>13}", flush=True)
    every = torch.cat(list(data.test.batches(LIMIT)))[:LIMIT]
    nothing = without_z(some, every)
    print(f"\nlog p(x) of test images without any z: {text(nothing)}")
    plots.save(picture(rows, -nothing.value), arguments.out / "beta_rate_distortion.png")


if __name__ == "__main__":
    main()
