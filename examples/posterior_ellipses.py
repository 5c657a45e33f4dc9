"""In a latent plot, is a dot a Gaussian or is a color a Gaussian? A dot is; a color is tested.

Each dot is the mean of one q(z|x), and its ellipse shows the standard deviations. The dots of one
color, with their ellipses, form a mixture of as many Gaussians. The script prints how far this
mixture is from the single Gaussian with its mean and covariance: a divergence in nats, with the
error over draws. It would not be zero for so few dots even if they were drawn from that Gaussian,
so the same is done 99 times with such dots.

    python examples/posterior_ellipses.py
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from pyro import distributions as dist
from torch import Tensor

import pyrovae
from pyrovae import plots

DRAWS, REPEATS = 10, 99
SHOWN = 300  # images in the picture of all digits
COLORS = np.array(  # Paul Tol's "muted", and gray
    [
        "#332288",
        "#DDAA33",
        "#117733",
        "#CC6677",
        "#88CCEE",
        "#882255",
        "#44AA99",
        "#999933",
        "#AA4499",
        "#777777",
    ]
)


def same_moments(loc: Tensor, scale: Tensor) -> dist.MultivariateNormal:
    """The Gaussian with the mean and covariance of the mixture of N(loc, scale^2)."""
    within = scale.square().mean(0).diag()
    return dist.MultivariateNormal(loc.mean(0), loc.T.cov(correction=0) + within)


def divergence(loc: Tensor, scale: Tensor) -> tuple[float, float]:
    """KL(mixture || the Gaussian with its moments) by sampling, and its standard error."""
    q = dist.Normal(loc, scale).to_event(1)
    z = q.sample((DRAWS,))  # (DRAWS, images, 2)
    log_mixture = q.log_prob(z[:, :, None]).logsumexp(-1) - math.log(len(loc))
    log_ratio = log_mixture - same_moments(loc, scale).log_prob(z)
    error = (log_ratio.var(0).sum() / DRAWS).sqrt() / len(loc)
    return log_ratio.mean().item(), error.item()


def from_gaussian(loc: Tensor) -> Tensor:
    """As many means, drawn from the Gaussian with the mean and covariance of these."""
    normal = dist.MultivariateNormal(loc.mean(0), loc.T.cov(correction=0))
    return normal.sample((len(loc),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {"latent_dim": 2, "likelihood": "binomial"},
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    elbo = pyrovae.evaluate(vae, data.test, samples=100).elbo
    torch.manual_seed(0)

    with torch.no_grad():
        rows = np.arange(min(2_000, len(data.train)))
        x = vae.place(data.train.batch(rows, np.random.default_rng(0)))
        labels = torch.as_tensor(data.train.labels[rows])
        q = vae.posterior(x)
        loc, scale = q.mean.double().cpu(), q.stddev.double().cpu()
        spread = torch.stack([loc[labels == c].std(0) for c in labels.unique()])
        print(f"{len(x)} training images; means over images and both dimensions")
        print(f"  sigma of one q(z|x), a dot           {scale.mean():.2f}")
        print(f"  spread of the means of one digit     {spread.mean():.2f}")
        print("\nKL of a color from the Gaussian with its mean and covariance, in nats")
        print("digit  images    of the color      if its dots were drawn from a Gaussian")
        print("                                           mean    largest of 99")
        found, beyond = {}, 0
        for label in labels.unique().tolist():
            members = loc[labels == label], scale[labels == label]
            value, error = divergence(*members)
            null = [divergence(from_gaussian(members[0]), members[1])[0] for _ in range(REPEATS)]
            found[label] = value - np.mean(null)
            beyond += value > max(null)
            row = f"{label:>5} {len(members[0]):>7} {value:>8.2f} +- {error:.2f}"
            print(f"{row} {np.mean(null):>25.2f} {max(null):>16.2f}")
        print(f"digits above the largest of 99: {beyond} of {len(found)}")
        value, error = divergence(loc, scale)
        print(f"KL of all digits together from one Gaussian: {value:.2f} +- {error:.2f}")
    estimate = f"{elbo.value:.2f} +- {elbo.standard_error:.2f}"
    print(f"test ELBO {estimate} nats per image, the error over images")
    shown = max(found, key=found.__getitem__)
    plots.save(picture(loc, scale, labels, shown), arguments.out / "posterior_ellipses.png")


def ellipses(axes: Axes, loc: Tensor, scale: Tensor, color: np.ndarray | str) -> None:
    """A dot for each mean, an ellipse of two scales about it."""
    axes.add_collection(
        EllipseCollection(
            *(4 * scale.T.numpy()),  # the whole width and height
            np.zeros(len(scale)),
            units="xy",
            offsets=loc.numpy(),
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=color,
            linewidths=0.5,
            alpha=0.5,
        )
    )
    axes.scatter(*loc.T.numpy(), s=5, c=color, linewidths=0)


def contours(axes: Axes, normal: dist.MultivariateNormal) -> None:
    """Ellipses that hold 50, 80 and 95 % of a Gaussian in two dimensions."""
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    for share in (0.5, 0.8, 0.95):
        radius = math.sqrt(-2 * math.log(1 - share))
        outline = normal.mean[:, None] + radius * normal.scale_tril @ circle
        axes.plot(*outline.numpy(), "--", color="#AA3377", lw=1.2)


def picture(loc: Tensor, scale: Tensor, labels: Tensor, label: int) -> Figure:
    """All digits, the digit that is least Gaussian, and how a Gaussian color would look."""
    figure = Figure(figsize=(9.2, 4.1), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    some = slice(SHOWN)
    ellipses(first, loc[some], scale[some], COLORS[labels[some].numpy() % 10])
    box = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1}
    for each in labels.unique().tolist():
        place = loc[labels == each].median(0).values.tolist()
        first.text(*place, str(each), size=13, weight="bold", ha="center", va="center", bbox=box)
    mine, of = loc[labels == label], scale[labels == label]
    ellipses(second, mine, of, "#4477AA")
    ellipses(third, from_gaussian(mine), of, "#4477AA")
    low, high = mine.min(0).values - 1, mine.max(0).values + 1
    for axes in (second, third):
        contours(axes, same_moments(mine, of))
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    first.set_title(f"{min(SHOWN, len(loc))} images,\na color for each digit")
    second.set_title(f"the {label}s; dashed: the Gaussian of\ntheir mean and covariance")
    third.set_title("the same Gaussian, and\nas many dots drawn from it")
    for axes in (first, second, third):
        axes.set(xlabel="$z_1$", ylabel="$z_2$")
    figure.suptitle(
        "Each dot with its ellipse of two scales is a Gaussian q(z|x); a color is many of them"
    )
    return figure


if __name__ == "__main__":
    main()
