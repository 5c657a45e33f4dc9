"""Swap the prior p(z) of a VAE and keep everything else: one line of a model, four answers.

Four priors on scikit-learn's digits, including a Gumbel prior, which pyrovae does not have. The
last two columns are means over the test images in nats, with their standard errors; higher is
better. All priors are tested on the same images, so the difference between two rows has a smaller
error than the rows themselves.

    python examples/quickstart.py --epochs 60
"""

import argparse
from functools import partial

import torch
from pyro import distributions as dist
from torch import nn

import pyrovae
from pyrovae.data import load
from pyrovae.likelihoods import Binomial
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import GaussianMixture, Laplace, StandardNormal

LATENT_DIM = 10


class Gumbel(nn.Module):
    """A prior of your own: a module whose ``forward()`` returns a distribution over z."""

    def __init__(self, latent_dim: int, *, loc: float = 0.0) -> None:
        super().__init__()
        self.loc = loc
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> dist.Distribution:
        return dist.Gumbel(self.loc, self.log_scale.exp()).to_event(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--samples", type=int, default=500, help="draws of z per test image")
    arguments = parser.parse_args()

    digits = load("digits")  # 1,797 images of 8x8 pixels, each a count out of 16
    network = partial(MLP, hidden_dims=(256, 256))
    print(f"{'prior':<16} {'parameters':>10} {'ELBO':>17} {'log p(x) at least':>19}")
    for make_prior in (StandardNormal, Laplace, partial(GaussianMixture, components=20), Gumbel):
        torch.manual_seed(0)
        prior = make_prior(LATENT_DIM)
        vae = pyrovae.VAE(
            prior,
            Binomial(LATENT_DIM, digits.event_shape, network, total_count=16),
            DiagonalNormal(LATENT_DIM, digits.event_shape, network),
        )
        pyrovae.fit(vae, digits, epochs=arguments.epochs, batch_size=64)
        result = pyrovae.evaluate(vae, digits.test, samples=arguments.samples)
        elbo, evidence = (
            f"{bound.value:.2f} +- {bound.standard_error:.2f}"
            for bound in (result.elbo, result.log_evidence)
        )
        learned = sum(parameter.numel() for parameter in prior.parameters())
        print(f"{type(prior).__name__:<16} {learned:>10} {elbo:>17} {evidence:>19}", flush=True)


if __name__ == "__main__":
    main()
