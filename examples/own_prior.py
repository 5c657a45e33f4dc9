"""A prior that pyrovae does not have: between Laplace and normal, with a shape that is learned.

The density falls as exp(-|z / s|^p). It is a Laplace density for p = 1 and a normal one for p = 2;
for larger p its tails are lighter. s keeps the variance at 1, so that only the shape differs. Each
dimension of z learns its own p, from one of three starting values. Everything else is the same,
including the initial weights.

    python examples/own_prior.py --epochs 60
"""

import argparse
import math
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae
from pyrovae import plots
from pyrovae.estimates import Estimate
from pyrovae.evidence import per_example
from pyrovae.priors import StandardNormal


class ExponentialPower(dist.TorchDistribution):
    """p(z) = exp(-|z / s|^power) / (2 s Gamma(1 + 1 / power)), with mean 0 and variance 1."""

    arg_constraints: ClassVar = {"power": constraints.positive}
    support = constraints.real

    def __init__(self, power: Tensor, validate_args: bool | None = None) -> None:
        self.power = power
        self.log_scale = ((1 / power).lgamma() - (3 / power).lgamma()) / 2
        super().__init__(power.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "ExponentialPower":
        return ExponentialPower(self.power.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        log_constant = math.log(2) + self.log_scale + (1 + 1 / self.power).lgamma()
        return -((value.abs() / self.log_scale.exp()) ** self.power) - log_constant

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        power = self.power.expand(self._extended_shape(sample_shape))
        size = torch.distributions.Gamma(1 / power, torch.ones_like(power)).sample() ** (1 / power)
        sign = 2 * torch.randint_like(size, 2) - 1
        return sign * self.log_scale.exp() * size


class ExponentialPowerPrior(nn.Module):
    """Independent exponential power variables, one learned shape for each dimension of z."""

    def __init__(self, latent_dim: int, *, power: float = 2.0) -> None:
        super().__init__()
        self.start = power
        self.log_power = nn.Parameter(torch.full((latent_dim,), math.log(power)))

    def forward(self) -> dist.Distribution:
        return ExponentialPower(self.log_power.exp()).to_event(1)


def densities(powers: dict[float, Tensor]) -> Figure:
    """Plot the learned density of each dimension of z, by the initial power."""
    z = torch.linspace(-5, 5, 501)
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    figure.suptitle("Density of one dimension of z: a line for each dimension, as it was learned")
    colors = ("#EE6677", "#4477AA", "#228833")
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        for (start, learned), color in zip(powers.items(), colors, strict=True):
            for power in learned:
                density = ExponentialPower(power).log_prob(z).exp()
                (line,) = axes.plot(z, density, color=color, lw=0.8)
            line.set_label(f"from p = {start:g}")
        normal = ExponentialPower(torch.tensor(2.0)).log_prob(z).exp()
        axes.plot(z, normal, "--", color="black", label="normal")
        axes.set(xlabel="$z_d$", ylabel=f"$p(z_d)$, {scale} scale", yscale=scale)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
    axes.set_ylim(1e-5, 2)
    figure.axes[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    training = {"epochs": arguments.epochs, "seed": arguments.seed}
    settings = {
        "data": {"name": arguments.data},
        "model": {"likelihood": "binomial"},
        "training": training,
    }
    config, data = pyrovae.Config.resolve(settings)
    latent_dim = config.model["latent_dim"]
    priors = {"normal": StandardNormal(latent_dim)}
    priors |= {
        f"own, p = {p:g}": ExponentialPowerPrior(latent_dim, power=p) for p in (1.0, 2.0, 4.0)
    }
    print(f"{'prior':<12} {'learned p':>12} {'ELBO':>16} {'above normal':>18} {'KL':>15}")
    normal, powers = None, {}
    for name, prior in priors.items():
        parts = config.build()  # the same initial weights each time
        vae = pyrovae.VAE(prior, parts.likelihood, parts.posterior)
        pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
        found = per_example(vae, data.test, samples=50, limit=1_000)
        normal = found if normal is None else normal
        columns = (found.elbo, found.elbo - normal.elbo, found.kl)
        text = [f"{e.value:.2f} +- {e.standard_error:.2f}" for e in map(Estimate.of, columns)]
        learned = "2"
        if isinstance(prior, ExponentialPowerPrior):
            power = powers[prior.start] = prior.log_power.detach().exp()
            learned = f"{power.min():.2f} to {power.max():.2f}"
        print(f"{name:<12} {learned:>12} {text[0]:>16} {text[1]:>18} {text[2]:>15}", flush=True)
    plots.save(densities(powers), arguments.out / "own_prior.png")


if __name__ == "__main__":
    main()
