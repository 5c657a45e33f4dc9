"""Is x the input or the output? It is data: the encoder reads it, the decoder's p(x|z) scores it.

The decoder outputs the parameters of a distribution over x. A "reconstruction" is the mean of that
distribution or a draw from it, and the two look different. The numbers are over test images, with
one draw of z for each and errors over images.

    python examples/input_or_output.py
"""

import argparse
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyrovae
from pyrovae import plots
from pyrovae.estimates import Estimate

COLUMNS = 10  # images in the picture


def told(values: Tensor) -> str:
    """The mean over images with its standard error."""
    mean = Estimate.of(values)
    return f"{mean.value:.2f} +- {mean.standard_error:.2f}"


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
            "model": {"likelihood": "binomial"},
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    torch.manual_seed(0)

    with torch.no_grad(), pyro.get_param_store().scope():
        x = vae.place(next(iter(data.test.batches(500))))
        guide = pyro.poutine.trace(vae.guide).get_trace(x)
        model = pyro.poutine.trace(pyro.poutine.replay(vae.model, guide)).get_trace(x)
        site = model.nodes["x"]
        print("x in the two programs                      yes 1, no 0")
        print(f"  guide: x is a random variable            {int('x' in guide.nodes)}")
        print(f"  model: x is a random variable            {int('x' in model.nodes)}")
        print(f"  model: it is observed                    {int(site['is_observed'])}")
        print(f"  model: its value is the data, unchanged  {int(site['value'] is x)}")

        decoded = site["fn"]  # p(x|z) at the z that the guide drew
        mean, drawn = decoded.mean, decoded.sample()
        logits = vae.likelihood.decoder(model.nodes["z"]["value"])
        print("\nsmallest and largest value of a pixel")
        rows = {"data x": x, "output of the decoder": logits, "mean of p(x|z)": mean}
        for name, values in (rows | {"draw from p(x|z)": drawn}).items():
            print(f"  {name:<24} {values.min().item():8.2f} {values.max().item():8.2f}")

        print(f"\n{len(x)} test images   possible as x       log p(.|z)   distance from x")
        candidates = {"data x": x, "mean": mean, "mean, rounded": mean.round(), "draw": drawn}
        for name, values in candidates.items():
            possible = decoded.support.check(values)  # (images,)
            score = told(decoded.log_prob(values)) if possible.all() else "-"
            away = (values - x).flatten(1).square().mean(1).sqrt()  # root mean square over pixels
            print(f"{name:<17} {100 * possible.double().mean():>11.0f} % {score:>16}", end="")
            print(f" {told(away):>17}")
    pictured = [images[:COLUMNS] for images in (x, mean, drawn, decoded.sample())]
    plots.save(picture(pictured), arguments.out / "input_or_output.png")


def picture(rows: list[Tensor]) -> Figure:
    """Data, and below them the mean of p(x|z) and two draws from it."""
    names = "x, the data", "mean of p(x|z)", "draw from p(x|z)", "another draw"
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(len(rows), len(rows[0]))
    for line, images, name in zip(panels, rows, names, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image[0].cpu(), cmap="gray_r", vmin=0, vmax=float(rows[0].max()))
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle("The same decoder output below each x: its mean is smooth, its draws are not")
    return figure


if __name__ == "__main__":
    main()
