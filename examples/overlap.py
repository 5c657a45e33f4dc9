"""What puts similar images side by side in z, although the loss knows no labels.

There is no encoder: each image has its own q(z|x), which starts at a random place. So no network
that reads x can put similar images at similar places. Only the decoder is left. It either varies
smoothly with z or can change completely within a tenth of a unit. The posteriors are either free to
overlap, or so narrow that they cannot. The numbers are means over three starts, with standard
errors; ELBO and mutual information are in nats per training image.

    python examples/overlap.py
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro import distributions as dist
from torch import Tensor, nn

import pyrovae
from pyrovae import plots
from pyrovae.data import Split
from pyrovae.diagnostics import aggregate_draws, surgery
from pyrovae.likelihoods import Bernoulli, Binomial
from pyrovae.networks import MLP
from pyrovae.priors import StandardNormal

LENGTH = 0.1  # distance in z within which the rough decoder can change
OVERLAPPING, APART = 0.3, 0.003  # sigma: the initial value, and the fixed one


class Table(nn.Module):
    """A posterior without an encoder: an image is only used to look up its row."""

    def __init__(self, x: Tensor, scale: float, learned: bool) -> None:
        super().__init__()
        self.register_buffer("images", x.flatten(1))
        self.loc = nn.Parameter(torch.randn(len(x), 2))
        log_scale = torch.full((len(x), 2), math.log(scale))
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, x: Tensor) -> dist.Distribution:
        row = torch.cdist(x.flatten(1), self.images).argmin(1)
        return dist.Normal(self.loc[row], self.log_scale[row].exp()).to_event(1)


class Waves(nn.Module):
    """A network whose inputs are fast waves of z, so that it need not be smooth."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(in_shape[0], 128) / LENGTH)
        self.mlp = MLP((256,), out_shape, hidden_dims=(128,))

    def forward(self, z: Tensor) -> Tensor:
        angle = z @ self.frequencies
        return self.mlp(torch.cat([angle.sin(), angle.cos()], -1))


def nearest(codes: Tensor, x: Tensor, labels: Tensor) -> tuple[float, float]:
    """Nearest neighbors in z: share of equal labels, and distance in x relative to the mean."""
    index = torch.cdist(codes, codes).fill_diagonal_(math.inf).argmin(1)
    distance = torch.cdist(x.flatten(1), x.flatten(1))
    relative = distance[torch.arange(len(x)), index].mean() / distance[distance > 0].mean()
    return (labels[index] == labels).double().mean().item(), relative.item()


def told(values: list[float], digits: int = 2) -> str:
    """The mean over starts with its standard error."""
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} +- {error:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--epochs", type=int, default=500, help="steps, each with all images")
    parser.add_argument("--images", type=int, default=200, help="training images")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    bits = {"binarization": "threshold"} if arguments.data == "mnist" else {}
    _, data = pyrovae.Config.resolve({"data": {"name": arguments.data} | bits})
    x = data.train.batch(np.arange(arguments.images))
    labels = torch.as_tensor(data.train.labels[: len(x)])
    make = Bernoulli if bits else partial(Binomial, total_count=16)
    decoders: dict[str, Callable[..., nn.Module]] = {
        "smooth": partial(MLP, hidden_dims=(128, 128)),
        "rough": Waves,
    }

    print(f"{len(x)} images, mutual information at most log {len(x)} = {math.log(len(x)):.2f} nats")
    print(f"{'nearest neighbor in z':>55}")
    print(f"{'decoder':<8} {'posteriors':<16} {'same digit':>14} {'distance in x':>14} ", end="")
    print(f"{'information':>14} {'ELBO':>17}")
    pixels = [nearest(x.flatten(1), x, labels)] * 3
    starts, panels = [], {}
    for decoder, network in decoders.items():
        for posteriors, scale in (("may overlap", OVERLAPPING), ("forced apart", APART)):
            rows = []
            for seed in range(3):
                torch.manual_seed(seed)
                table = Table(x, scale, learned=scale == OVERLAPPING)
                starts.append(nearest(table.loc.detach(), x, labels))
                likelihood = make(2, data.event_shape, network)
                vae = pyrovae.VAE(StandardNormal(2), likelihood, table)
                settings = {"epochs": arguments.epochs, "learning_rate": 0.03, "seed": seed}
                pyrovae.fit(vae, Split.from_array(x), batch_size=len(x), **settings)
                terms = surgery(aggregate_draws(vae, Split.from_array(x)))
                parts = [terms.mutual_information.value, terms.elbo.value]
                codes = table.loc.detach().cpu()
                rows.append((*nearest(codes, x, labels), *parts))
                panels.setdefault((decoder, posteriors), (codes, rows))
            columns = [told(list(column)) for column in zip(*rows, strict=True)]
            print(f"{decoder:<8} {posteriors:<16} ", end="")
            print(" ".join(f"{text:>14}" for text in columns[:3]), f"{columns[3]:>17}", flush=True)
    for name, rows in (("before training", starts), ("nearest neighbor in x", pixels)):
        columns = [told(list(column)) for column in zip(*rows, strict=True)]
        print(f"{name:<25} " + " ".join(f"{text:>14}" for text in columns))
    plots.save(picture(panels, labels), arguments.out / "overlap.png")


def picture(panels: dict[tuple[str, str], tuple[Tensor, list]], labels: Tensor) -> Figure:
    """Final codes of one start, each shown as its label."""
    figure = Figure(figsize=(7.4, 7.8), layout="constrained")
    colors = ["#332288", "#AA7711", "#117733", "#CC6677", "#3388BB"] * 2
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for panel, ((decoder, posteriors), (loc, rows)) in zip(axes.flat, panels.items(), strict=True):
        for (z1, z2), label in zip(loc.tolist(), labels.tolist(), strict=True):
            panel.text(
                z1, z2, str(label), color=colors[label], fontsize=7, ha="center", clip_on=True
            )
        share = f"{100 * rows[0][0]:.0f} % of nearest are the same digit"
        panel.set_title(f"{decoder} decoder, posteriors {posteriors}\n{share}", fontsize=9)
        panel.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
        panel.set(xlabel="$z_1$", ylabel="$z_2$")
        panel.label_outer()
    figure.suptitle("Means of q(z|x) that no encoder made, each shown as its image's label")
    return figure


if __name__ == "__main__":
    main()
