"""p(z | x) drawn by NUTS against q(z | x), digit by digit, with the true density as contours.

The latent space has two dimensions, so p(z | x) can be integrated too. The integral is a reference
without sampling error for both. The chains start at dispersed points around the encoder's q.

    python examples/nuts_vs_guide.py --epochs 60
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

import pyrovae
from pyrovae import plots
from pyrovae.diagnostics import log_weights
from pyrovae.evidence import Draws, Evidence, integrated, posterior_density, posterior_draws


def table(vae: pyrovae.VAE, x: Tensor, drawn: Draws, truth: Evidence, labels) -> None:
    """Print means and standard deviations of z in three ways, and KL(q || p(z | x))."""
    q = vae.posterior(x)
    z = drawn.z.double().flatten(0, 1)  # (draws of all chains, images, 2)
    mean, sd = z.mean(0), z.std(0)
    error = sd / drawn.effective.sqrt()
    exact = truth.details["covariance"].diagonal(dim1=-2, dim2=-1).sqrt()
    log_w = log_weights(vae, q, x, 2_000, seed=0)  # (draws, images)
    elbo, noise = log_w.mean(0), log_w.std(0) / len(log_w) ** 0.5
    print(f"{'':<14} {'mean of z':^38}   {'standard deviation':^24}")
    print(f"{'':<14} {'NUTS':>17} {'integral':>9} {'q':>9}   {'NUTS':>7} {'integral':>9} {'q':>6}")
    for place in range(len(x)):
        for dim in range(2):
            print(
                f"a {labels[place]}, z{dim + 1}{'':<8}"
                f"{mean[place, dim]:8.3f} +- {error[place, dim]:.3f} "
                f"{truth.details['mean'][place, dim]:9.3f} {q.mean[place, dim]:9.3f}   "
                f"{sd[place, dim]:7.3f} {exact[place, dim]:9.3f} {q.stddev[place, dim]:6.3f}"
            )
        gap = truth.log_evidence[place] - elbo[place]
        print(f"     log p(x) {truth.log_evidence[place]:9.3f}, ", end="")
        print(f"ELBO {elbo[place]:9.3f} +- {noise[place]:.3f}, ", end="")
        print(f"KL(q(z|x) || p(z|x)) {gap:.3f} +- {noise[place]:.3f}")
    print(f"largest r-hat {drawn.r_hat.max():.3f}, divergences {drawn.divergences}")


def picture(vae: pyrovae.VAE, x: Tensor, drawn: Draws, truth: Evidence, labels) -> Figure:
    """Plot the exact density, the NUTS draws and q for each digit."""
    q = vae.posterior(x)
    mean, covariance = truth.details["mean"], truth.details["covariance"]
    exact = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    low = torch.minimum(mean - 4 * exact, q.mean - 3 * q.stddev)
    high = torch.maximum(mean + 4 * exact, q.mean + 3 * q.stddev)
    steps = torch.linspace(0, 1, 200, dtype=torch.float64)
    axes_of_z = low[..., None] + (high - low)[..., None] * steps
    _, p = posterior_density(vae, x, truth, axes=axes_of_z)
    columns = min(3, len(x))
    rows = -(-len(x) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.8), layout="constrained")
    figure.suptitle("p(z|x): exact, drawn by NUTS, and as the encoder has it")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, axes in enumerate(panels[: len(x)]):
        z = drawn.z[:, :, place].flatten(0, 1)
        axes.plot(*z[::5].mT, ".", color="#88CCEE", ms=3, label="draws of NUTS")
        values = np.sort(p[place].flatten().numpy())[::-1]
        mass = values.cumsum() / values.sum()
        levels = sorted(values[np.searchsorted(mass, part)] for part in (0.5, 0.95))
        axes.contour(*axes_of_z[place], p[place].mT, levels, colors="#332288", linewidths=1.2)
        axes.plot([], [], color="#332288", lw=1.2, label="exact: 50 and 95 % of p(z|x)")
        for part in (0.5, 0.95):
            reach = 2 * np.sqrt(-2 * np.log(1 - part)) * q.stddev[place].numpy()
            label = "q(z|x): 50 and 95 %" if part == 0.5 else None
            ellipse = Ellipse(
                q.mean[place], *reach, fill=False, ec="#CC6677", ls="--", lw=1.6, label=label
            )
            axes.add_patch(ellipse)
        axes.set(title=f"test image {place}, a {labels[place]}", xlabel="$z_1$", ylabel="$z_2$")
        axes.set(xlim=axes_of_z[place, 0, [0, -1]], ylim=axes_of_z[place, 1, [0, -1]])
    for axes in panels[len(x) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--count", type=int, default=6, help="test images")
    parser.add_argument("--draws", type=int, default=250, help="draws of each of the four chains")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws and initial weights")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    network = "mlp:hidden_dims=256-256"
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {
                "latent_dim": 2,
                "likelihood": "binomial",
                "encoder": network,
                "decoder": network,
            },
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    vae = vae.double()  # integration needs more precision than training
    x = vae.place(data.test.batch(np.arange(arguments.count)))
    labels = data.test.labels[: arguments.count]
    drawn = posterior_draws(
        vae, x, draws=arguments.draws, warmup=arguments.draws, seed=arguments.seed
    )
    truth = integrated(vae, x, seed=arguments.seed)
    torch.manual_seed(arguments.seed)
    with torch.no_grad():
        table(vae, x, drawn, truth, labels)
        plots.save(picture(vae, x, drawn, truth, labels), arguments.out / "nuts_vs_guide.png")
    elbo = pyrovae.evaluate(vae, data.test, samples=10).elbo
    print(f"ELBO of all test images {elbo.value:.2f} +- {elbo.standard_error:.2f} nats")


if __name__ == "__main__":
    main()
