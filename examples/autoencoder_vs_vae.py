"""Autoencoder against VAE: how each reconstructs, and what its samples look like.

Both have the same networks and the same p(x|z), with two latent dimensions. The autoencoder has a
point for a posterior and no term for p(z): it is trained only to reconstruct. Sampling requires a
p(z). The first is the standard normal, with which the autoencoder was not trained. The second is a
mixture fitted to the codes afterwards, which is fair to both. log p(x) is integrated over z, which
is exact for either model.

    python examples/autoencoder_vs_vae.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset
from pyrovae.diagnostics import two_samples
from pyrovae.estimates import Estimate
from pyrovae.evidence import integrated
from pyrovae.objectives import Beta, Elbo
from pyrovae.posteriors import Point
from pyrovae.priors import GaussianMixture
from pyrovae.runs import refit

SHOWN = 8  # rows and columns of samples
# fmt: off
CLASSES = ["#332288", "#DDAA33", "#117733", "#CC6677", "#88CCEE",  # Paul Tol's "muted"
           "#882255", "#44AA99", "#999933", "#AA4499", "#777777"]
# fmt: on
KINDS = {"VAE": ("diagonal", Elbo()), "autoencoder": ("point", Beta(beta=0.0))}


def trained(kind: str, arguments: argparse.Namespace) -> tuple[pyrovae.VAE, Dataset]:
    """Train one of the two and keep the last weights, because validation would use the ELBO."""
    posterior, objective = KINDS[kind]
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {"latent_dim": 2, "posterior": posterior, "likelihood": "binomial"},
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data.train, **dict(config.training, objective=objective))
    return vae.cpu(), data


def with_fitted_prior(vae: pyrovae.VAE, data: Dataset, epochs: int) -> pyrovae.VAE:
    """The same encoder and decoder, and a mixture of 20 normals fitted to the training codes."""
    torch.manual_seed(0)
    prior = GaussianMixture(2, vae.posterior, components=20, start="data")
    if not isinstance(vae.posterior, Point):
        return refit(vae, prior, data.train, epochs=epochs, learning_rate=2e-2)[0]
    x = vae.place(
        data.train.batch(np.arange(min(10_000, len(data.train))), np.random.default_rng(0))
    )
    codes = vae.encode(x).detach()  # refit needs a density and a point has none: log p(z) alone
    prior.initialize(x)
    adam = torch.optim.Adam(prior.parameters(), lr=2e-2)
    for _ in range(10 * epochs):
        adam.zero_grad()
        (-prior().log_prob(codes).mean()).backward()
        adam.step()
    return pyrovae.VAE(prior, vae.likelihood, vae.posterior)


def text(values: torch.Tensor) -> str:
    """A mean over images, with its standard error."""
    found = Estimate.of(values)
    return f"{found.value:.2f} +- {found.standard_error:.2f}"


def told(vae: pyrovae.VAE, test: torch.Tensor) -> str:
    """Accuracy of a classifier that tells draws of the model from as many test images."""
    torch.manual_seed(1)
    a, b = vae.sample(len(test)).flatten(1).numpy(), test.flatten(1).numpy()
    found = two_samples(a, b).accuracy
    return f"{100 * found.value:.1f} +- {100 * found.standard_error:.1f}"


def codes(axes: Axes, z: torch.Tensor, labels: np.ndarray, fitted: pyrovae.VAE) -> None:
    """Test codes, the circle that holds 95 % of N(0, I), and the fitted prior in gray."""
    edge = float(z.abs().max()) * 1.1
    points = torch.linspace(-edge, edge, 200)
    prior = fitted.prior()
    torch.manual_seed(0)
    levels = prior.log_prob(prior.sample((4_000,))).quantile(torch.tensor([0.05, 0.2, 0.5]))
    density = prior.log_prob(torch.cartesian_prod(points, points)).view(200, 200).T
    top = max(float(density.max()), float(levels[-1]) + 1e-3)
    axes.contourf(points, points, density, [*levels.tolist(), top], colors=["0.93", "0.87", "0.8"])
    axes.scatter(*z.T, c=[CLASSES[label] for label in labels], s=5, linewidths=0)
    angle = np.linspace(0, 2 * np.pi, 100)
    axes.plot(2.45 * np.cos(angle), 2.45 * np.sin(angle), color="black", lw=1.2)
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")


def mosaic(axes: Axes, x: np.ndarray, largest: float) -> None:
    """Images ``(64, 1, H, W)`` in a square, with gaps."""
    tiles = np.pad(x[:, 0], ((0, 0), (0, 1), (0, 1)), constant_values=largest / 2)
    height, width = tiles.shape[-2:]
    rows = tiles.reshape(SHOWN, SHOWN, height, width).transpose(0, 2, 1, 3)
    square = rows.reshape(SHOWN * height, SHOWN * width)[:-1, :-1]
    axes.imshow(square, cmap="gray", vmin=0, vmax=largest)
    axes.set(xticks=[], yticks=[])


@torch.no_grad()
def compared(
    models: dict[str, dict[str, pyrovae.VAE]], test: torch.Tensor, labels: np.ndarray, count: int
) -> Figure:
    """Print log p(x) and the classifier's accuracy for each model and prior, and draw samples."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    print(f"{'':<12} {'z from':<18} {'log p(x)':>18} {'minus first row':>18} {'accuracy':>14}")
    first = None
    for (kind, priors), row in zip(models.items(), figure.subplots(2, 3), strict=True):
        codes(row[0], priors["N(0, I)"].encode(test), labels, priors["a fitted mixture"])
        row[0].set_title(f"{kind}: codes of test images", size="medium")
        for (name, vae), axes in zip(priors.items(), row[1:], strict=True):
            evidence = integrated(vae, test[:count]).log_evidence
            first = evidence if first is None else first
            columns = text(evidence), text(evidence - first), told(vae, test)
            print("{:<12} {:<18} {:>18} {:>18} {:>14}".format(kind, name, *columns), flush=True)
            torch.manual_seed(2)
            means = vae.decode(vae.prior().sample((SHOWN**2,)))
            mosaic(axes, means.numpy(), float(test.max()))
            axes.set_title(f"{kind}: z from {name}", size="medium")
    figure.suptitle(
        "Codes, with a circle for 95 % of N(0, I) and in gray a mixture fitted to training codes;\n"
        "means of p(x|z) at draws of z from one and from the other"
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", choices=("digits", "mnist"), help="[digits]")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    parser.add_argument("--count", type=int, default=25, help="test images for which to integrate")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    models: dict[str, dict[str, pyrovae.VAE]] = {}
    print("log p(x|z) at the code, which is the mean of q(z|x), in nats per test image; and the")
    print(f"spread of the codes, the root of their total variance, {2**0.5:.1f} for N(0, I)")
    for kind in KINDS:
        vae, data = trained(kind, arguments)
        fitted = with_fitted_prior(vae, data, arguments.epochs)
        models[kind] = {"N(0, I)": vae, "a fitted mixture": fitted}
        test = next(iter(data.test.batches(1_000)))
        z = vae.encode(test).detach()
        at_code, spread = vae.likelihood(z).log_prob(test).detach(), z.std(0).norm()
        print(f"{kind:<12}{text(at_code):>18}, spread {spread:.1f}")

    print("\nlog p(x) by integration, in nats per test image, and the accuracy of a classifier")
    print("that tells draws of the model from test images, in percent: 50 is chance")
    labels = data.test.labels[: len(test)]
    figure = compared(models, test, labels, arguments.count)
    plots.save(figure, arguments.out / "autoencoder_vs_vae.png")


if __name__ == "__main__":
    main()
