"""Why a Gaussian prior, and what another one changes: five priors p(z) in the same VAE, in numbers.

The prior enters the bound in one place, the KL term. Its mean is a sum of two parts. The first is
the mutual information of code and image, which no prior can reduce. The second is the divergence of
q(z), the population of codes, from p(z), which another prior can reduce. In two latent dimensions
both can be seen. Differences from the standard normal are paired over the same images.

    python examples/swap_prior.py
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import pyrovae
from pyrovae import plots
from pyrovae.diagnostics import AggregateDraws, Surgery, aggregate_draws, surgery
from pyrovae.estimates import Estimate
from pyrovae.evidence import WeightedBounds, per_example

PRIORS = {
    "normal": "normal",
    "Laplace": "laplace",
    "mixture": "mixture:components=20",
    "Vamp": "vamp:components=50",
    "flow": "flow",
}
SAMPLES, LIMIT = 100, 1_000  # draws of each posterior; number of test images at most
SHOWN = 200  # images in the picture
INFORMATION, MARGINAL = "#4477AA", "#EE6677"
# fmt: off
CLASSES = ["#332288", "#DDAA33", "#117733", "#CC6677", "#88CCEE",  # Paul Tol's "muted"
           "#882255", "#44AA99", "#999933", "#AA4499", "#777777"]
# fmt: on


def trained(prior: str, arguments: argparse.Namespace) -> tuple[pyrovae.VAE, Any]:
    """The data's recipe with two latent dimensions and this prior, and the test images."""
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {"latent_dim": 2, "prior": prior, "likelihood": "binomial"},
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    return vae.cpu(), data.test


def text(value: float, error: float) -> str:
    """A number and its error as text."""
    return f"{value:.2f} +- {error:.2f}"


def paired(values: Tensor) -> str:
    """The mean of a difference over images, with its standard error."""
    found = Estimate.of(values)
    return f"{found.value:+.2f} +- {found.standard_error:.2f}"


@torch.no_grad()
def codes(axes: Axes, vae: pyrovae.VAE, drawn: AggregateDraws, title: str) -> None:
    """Plot one draw of each q(z|x), over regions that hold 50, 80 and 95 % of the prior."""
    prior, z = vae.prior(), drawn.z[:SHOWN, 0]
    edge = float(z.abs().max()) + 0.5
    points = torch.linspace(-edge, edge, 160)
    grid = torch.cartesian_prod(points, points)
    density = prior.log_prob(grid).exp().view(160, 160).T
    torch.manual_seed(0)
    at_draws = prior.log_prob(prior.sample((4_000,))).exp()
    levels = at_draws.quantile(torch.tensor([0.05, 0.2, 0.5])).tolist()
    top = max(float(density.max()), 1.01 * levels[-1])
    grays = ["0.93", "0.86", "0.76"]
    axes.contourf(points, points, density, levels=[*levels, top], colors=grays)
    axes.contour(points, points, density, levels=levels, colors="0.3", linewidths=0.6)
    colors = [CLASSES[label] for label in drawn.labels[:SHOWN]]
    axes.scatter(*z.T, c=colors, s=4, linewidths=0)
    axes.set(title=title, xlabel="$z_1$", ylabel="$z_2$", aspect="equal")


def picture(
    models: dict[str, tuple[pyrovae.VAE, AggregateDraws]], terms: dict[str, Surgery]
) -> Figure:
    """Plot the codes over each prior, and the two parts of each KL term."""
    figure = Figure(figsize=(8.6, 5.8), layout="constrained")
    *panels, bars = figure.subplots(2, 3).flat
    for axes, (name, (vae, drawn)) in zip(panels, models.items(), strict=True):
        codes(axes, vae, drawn, name)
    names = list(terms)[::-1]
    information, marginal = (
        np.array([getattr(terms[name], term).value for name in names])
        for term in ("mutual_information", "marginal_kl")
    )
    bars.barh(names, information, color=INFORMATION, label="information on the image")
    bars.barh(
        names, marginal, left=information, color=MARGINAL, label="KL(q(z) || p(z)): the misfit"
    )
    bars.set(xlabel="nats per image", title="the KL term, of two parts", xlim=(0, None))
    bars.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    for axes in (*panels, bars):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Codes of {SHOWN} test digits, by class, over each prior (gray: 50, 80 and 95 % of it)"
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", choices=("digits", "mnist"), help="[digits]")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    models: dict[str, tuple[pyrovae.VAE, AggregateDraws]] = {}
    terms: dict[str, Surgery] = {}
    bounds: dict[str, WeightedBounds] = {}
    print("nats per test image; +- the error over images, for information and misfit over draws")
    print(f"{'prior':<8} {'reconstruction':>16} {'KL term':>13} = {'information':>12}", end="")
    print(f" + {'misfit to p(z)':<14} {'ELBO':>16} {'log p(x) at least':>18}")
    for name, prior in PRIORS.items():
        vae, test = trained(prior, arguments)
        drawn = aggregate_draws(vae, test, labels=test.labels[:LIMIT], draws=SAMPLES, limit=LIMIT)
        models[name], terms[name] = (vae, drawn), surgery(drawn)
        bounds[name] = per_example(vae, test, samples=SAMPLES, limit=LIMIT)
        of = terms[name]
        reconstruction, kl, elbo = (
            text(term.value, term.over_examples) for term in (of.reconstruction, of.kl, of.elbo)
        )
        information, misfit, evidence = (
            text(term.value, term.standard_error)
            for term in (
                of.mutual_information,
                of.marginal_kl,
                Estimate.of(bounds[name].log_evidence),
            )
        )
        print(f"{name:<8} {reconstruction:>16} {kl:>13} = {information:>12}", end="")
        print(f" + {misfit:<14} {elbo:>16} {evidence:>18}", flush=True)

    print("\nminus the normal's, for the same images")
    normal = bounds["normal"]
    print(f"{'prior':<8} {'reconstruction':>16} {'KL term':>15} {'ELBO':>15} {'log p(x)':>15}")
    for name in list(PRIORS)[1:]:
        differences = (
            paired(getattr(bounds[name], term) - getattr(normal, term))
            for term in ("reconstruction", "kl", "elbo", "log_evidence")
        )
        print(f"{name:<8} " + " ".join(f"{difference:>15}" for difference in differences))
    plots.save(picture(models, terms), arguments.out / "swap_prior.png")


if __name__ == "__main__":
    main()
