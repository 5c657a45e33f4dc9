"""Why samples are blurred: means are shown as samples, few latents average, or p(x|z) is too broad.

Sharpness is the mean absolute difference of neighboring pixels, printed as a percentage above or
below the sharpness of the test images. It is measured for the mean of p(x|z) and for a draw of x
from it, at the code of a test image and at a z from the prior. The rows are three likelihoods, two
and ten latents, autoencoders without the KL term, and a normal whose scale is fixed too large. More
is not better, because the noise of a draw counts as sharp.

    python examples/blur.py
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyrovae
from pyrovae import plots
from pyrovae.objectives import Beta
from pyrovae.posteriors import Point

BITS = {"binarization": "threshold"}
AUTOENCODER = {"posterior": "point"}  # and no KL term
SETTINGS: dict[str, dict[str, Any]] = {
    "normal": {"likelihood": "normal"},
    "discretized logistic": {"likelihood": "discretized_logistic"},
    "Bernoulli, of bits": {"likelihood": "bernoulli"},
    "normal, 2 latents": {"likelihood": "normal", "latent_dim": 2},
    "normal, 2 latents, no KL": {"likelihood": "normal", "latent_dim": 2} | AUTOENCODER,
    "normal, no KL": {"likelihood": "normal"} | AUTOENCODER,
    "normal, scale fixed at 1": {"likelihood": "normal:scale=1"},
}
COUNT, SHOWN = 300, 5  # images: measured, and shown


def trained(name: str, arguments: argparse.Namespace) -> tuple[pyrovae.VAE, Tensor, float]:
    """A VAE with ten latents unless the setting differs, test images, and the value of white."""
    model = {"latent_dim": 10} | SETTINGS[name]
    settings = {
        "data": {"name": arguments.data} | (BITS if model["likelihood"] == "bernoulli" else {}),
        "model": model,
        "training": {"epochs": arguments.epochs, "seed": arguments.seed},
    }
    config, data = pyrovae.Config.resolve(settings)
    objective = Beta(beta=0.0 if "posterior" in model else 1.0)
    vae = config.build()
    # no validation data: validation would use the ELBO, which an autoencoder does not have
    pyrovae.fit(vae, data.train, **dict(config.training, objective=objective))
    test = next(iter(data.test.batches(COUNT)))
    return vae.cpu(), test, float(test.max())


def sharpness(x: Tensor) -> Tensor:
    """The mean absolute difference of neighboring pixels, of images ``(n, 1, H, W)``: ``(n,)``."""
    across, down = (x.diff(dim=dim).abs().flatten(1) for dim in (-1, -2))
    return torch.cat([across, down], 1).mean(1)


def relative(x: Tensor, data: Tensor) -> str:
    """Sharpness relative to the data, in percent, with the standard error of the ratio."""
    a, b = sharpness(x).double(), sharpness(data).double()
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std() / len(a) ** 0.5 / b.mean()
    return f"{100 * (ratio - 1):+.1f} +- {100 * error:.1f}"


def strip(x: Tensor) -> np.ndarray:
    """A few images side by side, with a gap."""
    return np.concatenate([np.pad(image[0], 1, constant_values=0.5) for image in x[:SHOWN]], 1)


@torch.no_grad()
def images(vae: pyrovae.VAE, test: Tensor, white: float) -> dict[str, Tensor]:
    """Means and draws of p(x|z), at codes of test images and at z from the prior, black 0, white 1.

    An autoencoder has no prior to draw from, so its last two entries are left out.
    """
    torch.manual_seed(0)
    at_code = vae.likelihood(vae.encode(vae.place(test)))
    found = {"mean, at the code": at_code.mean, "draw, at the code": at_code.sample()}
    if not isinstance(vae.posterior, Point):
        from_prior = vae.likelihood(vae.prior().sample((len(test),)))
        found |= {"mean, from p(z)": from_prior.mean, "draw, from p(z)": from_prior.sample()}
    return {name: (x / white).clamp(0, 1) for name, x in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", choices=("digits", "mnist"), help="[digits]")
    parser.add_argument("--epochs", type=int, default=25, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = ("mean, at the code", "draw, at the code", "mean, from p(z)", "draw, from p(z)")
    figure = Figure(figsize=(12, 0.56 * len(SETTINGS) + 0.8), layout="constrained")
    panels = figure.subplots(len(SETTINGS), 5)
    print("sharpness relative to the test images, in percent +- standard error")
    print(f"{'':<26}" + "".join(f"{column:>19}" for column in columns))
    for row, name in zip(panels, SETTINGS, strict=True):
        vae, test, white = trained(name, arguments)
        made = images(vae, test, white)
        told = (relative(made[c], test / white) if c in made else "none" for c in columns)
        print(f"{name:<26}" + "".join(f"{number:>19}" for number in told), flush=True)
        shown = {"test images": test / white} | made
        for axes, column in zip(row, ("test images", *columns), strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column in shown:
                axes.imshow(strip(shown[column].numpy()), cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center")
    for axes, column in zip(panels[0], ("test images", *columns), strict=True):
        axes.set_title(column, size="medium")
    figure.suptitle("Means of p(x|z) are smoother than images, draws are noisier")
    plots.save(figure, arguments.out / "blur.png")


if __name__ == "__main__":
    main()
