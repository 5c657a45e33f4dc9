"""Make the pictures of the README and the documentation, from one run on the digits.

The run is ``pyrovae fit --latent-dim 2``: with two latent dimensions the latent space can be drawn
as it is. The pictures are those that every run leaves in its folder, and those of
``pyrovae kl --gradients``, ``pyrovae gap``, ``pyrovae diagnose``, ``pyrovae calibrate`` and
``pyrovae refit --prior mixture``.

    python examples/docs_figures.py
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset
from pyrovae.diagnostics import (
    NutsSettings,
    calibrate,
    compare_gradients,
    diagnose,
    gap,
    posterior_densities,
)
from pyrovae.kl import ledger
from pyrovae.priors import GaussianMixture
from pyrovae.runs import refit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="passes over the training images [the recipe's]")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the pictures")
    arguments = parser.parse_args()

    changes = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    settings = {"model": {"latent_dim": 2, "likelihood": "binomial"}, "training": changes}
    config, digits = pyrovae.Config.resolve(settings)
    vae = config.build()
    training = dict(config.training, objective=config.objective())
    trained = pyrovae.fit(vae, digits, **training)
    elbo = pyrovae.evaluate(vae, digits.test, samples=100).elbo
    x = torch.cat(list(digits.test.batches(500)))
    for path in plots.draw_vae(vae, x, digits.test.labels, trained.metrics, arguments.out):
        print(path)
    nuts = NutsSettings(draws=100, warmup=100)
    found = gap(vae, digits.test, images=8, labels=digits.test.labels, nuts=nuts)
    made = {
        "kl": plots.divergence(ledger(vae, digits.test)),
        "gradients": plots.gradients(compare_gradients(vae, digits.test)),
        "gap": plots.gap(found),
        "posteriors": plots.posteriors(posterior_densities(vae, found), found),
        "calibration": plots.calibration(calibrate(vae)),
    } | plots.diagnosis_figures(vae, diagnose(vae, digits))
    for name, figure in made.items():
        plots.save(figure, arguments.out / f"{name}.png")
        print(arguments.out / f"{name}.png")
    for path in another_prior(vae, digits, x, arguments.out, **changes):
        print(path)
    print(f"test ELBO {elbo.value:.2f} +- {elbo.standard_error:.2f} nats per image")


def another_prior(
    vae: pyrovae.VAE, digits: Dataset, x: torch.Tensor, out: Path, **options: Any
) -> list[Path]:
    """Samples before and after a refit of the prior, and the codes over the new one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = GaussianMixture(2, vae.posterior, components=20, start="data")
    refitted, _ = refit(vae, prior, digits, **options)
    figure = plots.refit_samples(vae, refitted, digits.test, "normal", "mixture")
    plots.save(figure, out / "refit.png")
    with tempfile.TemporaryDirectory() as folder:
        plots.draw_vae(refitted, x, digits.test.labels, [], Path(folder))
        (out / "refit_latent.png").write_bytes((Path(folder) / "latent.png").read_bytes())
    return [out / "refit.png", out / "refit_latent.png"]


if __name__ == "__main__":
    main()
