"""A VAE whose posterior is known: the guide that SVI finds, against the exact p(z | x).

The decoder is linear and the noise normal, so p(x) and p(z | x) have formulas: this is
probabilistic PCA. The encoder has to find p(z | x) using only the ELBO. Its result is compared with
the formula, the ELBO with log p(x), and the decoder with the PCA of scikit-learn.

    python examples/exact_posterior.py --epochs 200
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset
from pyrovae.estimates import Estimate
from pyrovae.evidence import LinearGaussian, exact, linear_gaussian

LATENT_DIM = 2
RATES = {"digits": 0.05, "mnist": 0.002}  # learning rates: smaller for more pixels


def whole(split) -> Tensor:
    """All images of one split of a dataset."""
    return torch.cat(list(split.batches(1_000))).double()


def table(vae: pyrovae.VAE, truth: LinearGaussian, data: Dataset, fitted: PCA) -> None:
    """Print the guide, the bound and the decoder beside their exact values."""
    x = whole(data.test)
    p, q = truth.posterior(x), vae.posterior(x)
    result = pyrovae.evaluate(vae, data.test, samples=100).elbo
    gap = Estimate.of(kl_divergence(q, p))
    evidence = Estimate.of(exact(vae, x).log_evidence)
    best = Estimate.of(torch.from_numpy(fitted.score_samples(x.flatten(1).numpy())))
    print("means over test images, in nats")
    print(f"  ELBO                      {result.value:9.3f} +- {result.standard_error:.3f}")
    print(f"+ KL(q(z|x) || p(z|x))      {gap.value:9.3f} +- {gap.standard_error:.3f}")
    print(f"= log p(x), exact           {evidence.value:9.3f} +- {evidence.standard_error:.3f}")
    print(f"  log p(x) under PCA        {best.value:9.3f} +- {best.standard_error:.3f}")

    print("\nq(z|x) beside p(z|x), first test images")
    scale, exactly = q.stddev, p.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = p.covariance_matrix[:, 0, 1] / exactly.prod(-1)
    for place in range(4):
        for dim in range(LATENT_DIM):
            print(
                f"  image {place}, z{dim + 1}: "
                f"mean {q.mean[place, dim]:7.3f} and {p.mean[place, dim]:7.3f}, "
                f"standard deviation {scale[place, dim]:.3f} and {exactly[place, dim]:.3f}"
            )
    print(f"  correlation of z1 and z2 in p(z|x): {correlation[0]:.3f}")

    principal, _, _ = torch.linalg.svd(truth.weight, full_matrices=False)
    components = torch.from_numpy(fitted.components_).mT  # orthonormal columns
    cosines = torch.linalg.svdvals(components.mT @ principal)
    print("\ndecoder beside PCA")
    print("  cosines of the angles between the planes  " + text(cosines))
    sizes = torch.linalg.svdvals(truth.weight).square() + truth.variance[0]
    print("  variance along the axes, decoder          " + text(sizes))
    print("  variance along the axes, PCA              " + text(fitted.explained_variance_))
    print("  variance of the noise, decoder and PCA    ", end="")
    print(text([truth.variance[0], fitted.noise_variance_]))


def text(numbers) -> str:
    """Numbers in one row, as text."""
    return "  ".join(f"{float(number):.4f}" for number in numbers)


def picture(vae: pyrovae.VAE, truth: LinearGaussian, data: Dataset, count: int = 12) -> Figure:
    """Plot both posteriors of some images as ellipses of two standard deviations."""
    x = whole(data.test)
    q, p = vae.posterior(x), truth.posterior(x)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*q.mean.mT.numpy(), ".", color="0.8", ms=4, label="means of q, all test images")
    diagonal = torch.diag_embed(q.variance)
    for name, style, loc, covariances in (
        ("exact p(z|x)", {"facecolor": "#DDAA33", "alpha": 0.5}, p.mean, p.covariance_matrix),
        ("q(z|x) of the encoder", {"fill": False, "edgecolor": "#332288"}, q.mean, diagonal),
    ):
        for place in range(count):
            variances, directions = np.linalg.eigh(covariances[place].numpy())
            angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
            width, height = 4 * np.sqrt(variances[::-1])  # two standard deviations to each side
            label = name if place == 0 else None
            axes.add_patch(Ellipse(loc[place], width, height, angle=angle, label=label, **style))
    axes.set(
        xlabel="$z_1$",
        ylabel="$z_2$",
        aspect="equal",
        title=f"Exact and encoded posteriors of {count} test images, two standard deviations",
    )
    axes.legend(loc="best")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=200, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws and initial weights")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {
                "latent_dim": LATENT_DIM,
                "likelihood": "normal:scale=learned",
                "encoder": "linear",
                "decoder": "linear",
            },
            "training": {
                "epochs": arguments.epochs,
                "seed": arguments.seed,
                "objective": "stl",  # its gradient has no noise where q is exact
                "batch_size": 128,
                "learning_rate": RATES[arguments.data],
                "clip_norm": 100.0,
                "weight_decay": 0.0,
            },
        }
    )
    vae = config.build()
    x = whole(data.train).float()  # without a validation set the last weights are kept
    pyrovae.fit(vae, x, **dict(config.training, objective=config.objective()))
    vae = vae.double()
    fitted = PCA(LATENT_DIM).fit(whole(data.train).flatten(1).numpy())
    with torch.no_grad():
        truth = linear_gaussian(vae)
        table(vae, truth, data, fitted)
        plots.save(picture(vae, truth, data), arguments.out / "exact_posterior.png")


if __name__ == "__main__":
    main()
