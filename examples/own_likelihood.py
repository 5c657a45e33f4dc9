"""A likelihood that pyrovae does not have: a binomial whose bits share a probability.

A pixel of the digits counts the set bits of a block of 4 x 4. A binomial treats the 16 bits as
independent, but neighbors in a drawing are not: more blocks are all paper or all ink than the
binomial allows. In a beta-binomial the bits of a block share a probability, drawn for that block.
Both are probabilities of the same counts, and so is the built-in discretized logistic, so the three
bounds can be compared. The column "sums to" is the sum of p(x_d | z) over all counts.

    python examples/own_likelihood.py --epochs 30
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from pyro import distributions as dist
from torch import Tensor, nn

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset, Rows, prepare, read
from pyrovae.estimates import Estimate
from pyrovae.evidence import per_example
from pyrovae.likelihoods import Binomial, DiscretizedLogistic
from pyrovae.networks import MLP, NetworkFactory, Shape
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

LATENT_DIM = 10


class BetaBinomial(nn.Module):
    """x_d given z counts n bits of probability pi_d, and pi_d given z is Beta(a_d(z), b_d(z))."""

    scaling = "none"  # unchanged counts
    remedy = "a BetaBinomial likelihood takes integers from 0 to total_count, unscaled"

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        total_count: int = 255,
    ) -> None:
        super().__init__()
        self.total_count, self.dims = total_count, len(event_shape)
        self.decoder = network((latent_dim,), (2, *event_shape))

    def forward(self, z: Tensor) -> dist.Distribution:
        a, b = self.decoder(z).exp().unbind(-1 - self.dims)  # (*batch, 2, *event_shape)
        return dist.BetaBinomial(a, b, self.total_count).to_event(self.dims)


def as_counts(name: str) -> Dataset:
    """Images as counts: digits out of 16; MNIST out of 15, its gray levels in steps of 16."""
    source = read(name)
    if source.maximum == 255:
        parts = {part: Rows(rows.x // 16, rows.labels) for part, rows in source.parts.items()}
        source = replace(source, parts=parts, maximum=15)
    return prepare(source)


@torch.no_grad()
def total(vae: pyrovae.VAE, levels: int) -> Tensor:
    """The sum of p(x_d | z) over all counts, for each pixel and each of 5 draws of z."""
    pixels = vae.likelihood(vae.prior().sample((5, 1))).base_dist  # (5, 1, *event_shape)
    counts = torch.arange(float(levels)).reshape(-1, *[1] * (len(pixels.batch_shape) - 2))
    return pixels.log_prob(counts).exp().sum(1)


def shares(counts: dict[str, np.ndarray], levels: int) -> Figure:
    """Relative frequency of each count among all pixels of some images."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    looks = {"data": {"color": "0.75", "fill": True}}
    colors = iter(("#4477AA", "#EE6677", "#228833"))
    for name, x in counts.items():
        share = np.bincount(x.astype(int).ravel(), minlength=levels) / x.size
        look = looks.get(name) or {"color": next(colors), "lw": 1.5}
        axes.stairs(share, np.arange(levels + 1) - 0.5, label=name, **look)
    axes.set(
        xlabel="count of a pixel",
        ylabel="share of pixels",
        yscale="log",
        title="How often a pixel has each count: test images, and draws of each model",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    data = as_counts(arguments.data)
    levels = data.maximum + 1
    network = partial(MLP, hidden_dims=(256,))
    shape = (LATENT_DIM, data.event_shape, network)
    count = min(len(data.test), 1_000)
    drawn = {"data": data.test.batch(np.arange(count)).numpy()}
    print(f"{'p(x|z)':<20} {'sums to':>8} {'ELBO':>18} {'above binomial':>20}")
    reference = None
    for make in (
        partial(Binomial, total_count=data.maximum),
        partial(BetaBinomial, total_count=data.maximum),
        partial(DiscretizedLogistic, levels=levels),
    ):
        torch.manual_seed(arguments.seed)
        vae = pyrovae.VAE(StandardNormal(LATENT_DIM), make(*shape), DiagonalNormal(*shape))
        pyrovae.fit(vae, data, epochs=arguments.epochs, batch_size=64, seed=arguments.seed)
        found = per_example(vae, data.test, samples=20, limit=count).elbo
        reference = found if reference is None else reference
        sums = total(vae, levels)
        assert torch.allclose(sums, torch.ones(()), atol=1e-3)
        text = [
            f"{e.value:.2f} +- {e.standard_error:.2f}"
            for e in map(Estimate.of, (found, found - reference))
        ]
        name = make.func.__name__
        print(f"{name:<20} {sums.mean():>8.4f} {text[0]:>18} {text[1]:>20}", flush=True)
        torch.manual_seed(arguments.seed)
        with torch.no_grad():
            drawn[name] = vae.sample(count).numpy()
    plots.save(shares(drawn, levels), arguments.out / "own_likelihood.png")


if __name__ == "__main__":
    main()
