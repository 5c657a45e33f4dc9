"""Make the pictures of the README and the documentation, from one run on the digits.

The run is ``pyrovae fit --latent-dim 2``: with two latent dimensions the latent space can be drawn
as it is. The pictures are those that every run leaves in its folder, and those of
``pyrovae kl --gradients`` and ``pyrovae gap``.

    python examples/docs_figures.py --out docs/images
"""

import argparse
from pathlib import Path

import torch

import pyrovae
from pyrovae import figures, gap, gap_figures, gradients, pictures
from pyrovae.kl import ledger

DOCS_IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="passes over the training images [the recipe's]")
    parser.add_argument("--out", type=Path, default=DOCS_IMAGES, help="folder of the pictures")
    arguments = parser.parse_args()

    changes = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    settings = {"model": {"latent_dim": 2}, "training": changes}
    config, digits = pyrovae.Config.resolve(settings)
    vae = config.build()
    training = dict(config.training, objective=config.objective())
    trained = pyrovae.fit(vae, digits, **training)
    elbo = pyrovae.evaluate(vae, digits.test, samples=100)["elbo"]
    x = torch.cat(list(digits.test.batches(500)))
    for path in pictures.draw(vae, x, digits.test.labels, trained.metrics, arguments.out):
        print(path)
    found = gap.gap(vae, digits.test, draws=100, warmup=100)
    result = gap.summary(found, digits.test.labels.tolist())
    for name, figure in (
        ("kl", figures.divergence(ledger(vae, digits.test))),
        ("gradients", figures.gradients(gradients.compare(vae, digits.test))),
        ("gap", gap_figures.gap(result)),
        ("posteriors", gap_figures.posteriors(gap.densities(vae, found), result)),
    ):
        figures.save(figure, arguments.out / f"{name}.png")
        print(arguments.out / f"{name}.png")
    print(f"test ELBO {elbo['estimate']:.2f} +- {elbo['standard_error']:.2f} nats per image")


if __name__ == "__main__":
    main()
