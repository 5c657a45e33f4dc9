"""The KL term by formula and by sampling: the same number, with noise that depends on q and p.

A VAE is trained on the digits. KL(q(z | x) || p(z)) of test digits is then computed in every way
that the ledger has: for the prior of the training, and, with the same q, for two other priors, one
of which has no closed form. The last q is close to the prior, as it is before training.

    python examples/kl_analytic_vs_monte_carlo.py --epochs 40
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro import distributions as dist

import pyrovae
from pyrovae import plots
from pyrovae.kl import Ledger, compare

SAMPLES = (10, 100, 1_000, 10_000)
LATENT_DIM = 10
COLORS = ("#4477AA", "#EE6677", "#228833", "#AA3377")


def priors() -> dict[str, dist.Distribution]:
    """A normal, a Laplace distribution with the same variance, and a mixture of two normals."""
    loc = torch.full((2, LATENT_DIM), 0.5) * torch.tensor([[-1.0], [1.0]])
    halves = dist.Normal(loc, 0.75**0.5).to_event(1)
    return {
        "normal": dist.Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1),
        "Laplace": dist.Laplace(torch.zeros(LATENT_DIM), 0.5**0.5).to_event(1),
        "mixture": dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), halves),
    }


def show(name: str, result: Ledger) -> None:
    """Print the ledger of one pair."""
    print(f"q {name}")
    exact, limits = result.reference, result.bounds
    how = "closed form" if result.closed_form else "quadrature"
    if exact is not None:
        print(f"  {how + ':':<12} {exact.value:9.3f}")
    if limits is not None:
        print(f"  between      {limits.lower:9.3f} and {limits.upper:.3f}")
    for row, other in zip(result.monte_carlo, result.low_variance, strict=True):
        numbers = " ".join(
            f"{r.estimate.value:>12.3f} +- {r.estimate.standard_error:.3f}" for r in (row, other)
        )
        print(f"  {row.samples:>6} draws {numbers}    {other.mean_ratio:10.4f}")


def picture(results: dict[str, Ledger]) -> Figure:
    """Plot the actual error and the standard error against the number of draws."""
    known = [(name, r, r.reference.value) for name, r in results.items() if r.reference]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    figure.suptitle("How far sampled KL terms are from the exact one")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = {"monte_carlo": r"$\log q - \log p$", "low_variance": r"$r - 1 - \log r$, $r = p/q$"}
    for axes, (way, title) in zip(panels, titles.items(), strict=True):
        for (name, result, exact), color in zip(known, COLORS, strict=False):
            rows = getattr(result, way)
            draws = np.array([row.samples for row in rows])
            made = [abs(row.estimate.value - exact) for row in rows]
            said = [row.estimate.standard_error for row in rows]
            axes.loglog(draws, made, "o", color=color, label=f"q {name}: error")
            axes.loglog(draws, said, color=color, lw=1.2, label="standard error")
        axes.set(title=title, xlabel="draws for each q")
        axes.grid(True, color="0.9")
    panels[0].set_ylabel("nats per image")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    parser.add_argument("--limit", type=int, default=100, help="test images")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws and initial weights")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    network = "mlp:hidden_dims=256-256"
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {
                "latent_dim": LATENT_DIM,
                "likelihood": "binomial",
                "encoder": network,
                "decoder": network,
            },
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    elbo = pyrovae.evaluate(vae, data.test, samples=10, limit=arguments.limit).elbo
    print(f"ELBO of the test images {elbo.value:.2f} +- {elbo.standard_error:.2f}")

    x = data.test.batch(np.arange(min(arguments.limit, len(data.test))))
    with torch.no_grad():
        q = vae.posterior(vae.place(x))
    near = dist.Normal(torch.full((LATENT_DIM,), 0.05), 1.02).to_event(1)
    results = {
        f"of the VAE, p {name}": compare(q, p, SAMPLES, arguments.seed)
        for name, p in priors().items()
    }
    results["near p, p normal"] = compare(near, priors()["normal"], SAMPLES, arguments.seed)
    print(f"{'':<13}{'log q - log p':>21}{'r - 1 - log r':>23}{'mean of r':>13}")
    for name, result in results.items():
        show(name, result)
    plots.save(picture(results), arguments.out / "kl_analytic_vs_monte_carlo.png")


if __name__ == "__main__":
    main()
