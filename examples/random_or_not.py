"""What is random in a VAE and what is not: compute everything twice, and see what changes.

Given x, the encoder's mu and sigma are fixed numbers, and so are the decoder's outputs given z. The
random variables are z and x. The picture and the first numbers are for the test image with the
widest q(z|x), where the randomness is easiest to see; the errors are over test images.

    python examples/random_or_not.py
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyrovae
from pyrovae import plots

DRAWS = 4  # in the picture


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference between two results of the same computation."""
    return (a - b).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    config, data = pyrovae.Config.resolve(
        {
            "data": {"name": arguments.data},
            "model": {"latent_dim": 2, "likelihood": "binomial"},
            "training": {"epochs": arguments.epochs, "seed": arguments.seed},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    torch.manual_seed(0)

    with torch.no_grad(), pyro.get_param_store().scope():
        x = vae.place(next(iter(data.test.batches(300))))
        x = x[vae.posterior(x).stddev.prod(-1).argmax()][None]  # (1, *event_shape)
        print("random variables of each program when run alone, and whether it draws them:")
        for name in ("model", "guide"):
            sites = pyro.poutine.trace(getattr(vae, name)).get_trace(x).nodes.items()
            for site, node in sites:
                if node["type"] == "sample" and site != "data":  # "data" is the plate
                    made = "no, it is given" if node["is_observed"] else "yes"
                    print(f"  {name}: {site}  {made}")

        before = [parameter.clone() for parameter in vae.parameters()]
        first, second = vae.posterior(x), vae.posterior(x)
        z = first.sample(), second.sample()
        decoded = [vae.likelihood(each) for each in z]
        same_z = vae.likelihood(z[0])
        print("\none image, everything computed twice: largest difference")
        rows = {
            "mu of q(z|x)": (first.mean, second.mean),
            "sigma of q(z|x)": (first.stddev, second.stddev),
            "z drawn from q(z|x)": z,
            "mean of p(x|z), each z": (decoded[0].mean, decoded[1].mean),
            "mean of p(x|z), same z": (decoded[0].mean, same_z.mean),
            "x drawn from p(x|z), same z": (decoded[0].sample(), same_z.sample()),
        }
        for name, (a, b) in rows.items():
            print(f"  {name:<28} {apart(a, b):10.6f}")
        moved = max(apart(a, b) for a, b in zip(before, vae.parameters(), strict=True))
        print(f"  {'weights, before and after':<28} {moved:10.6f}")

        every = vae.place(data.test.batch(np.arange(300), np.random.default_rng(0)))
        from_z, given_z = spread(vae, every)
    print("\nvariance of a pixel of x, where z ~ q(z|x) and x ~ p(x|z), over 300 test images")
    for name, part in (("because z is random", from_z), ("because x is random, given z", given_z)):
        print(f"  {name:<29} {part.mean():.3f} +- {part.std() / math.sqrt(len(part)):.3f}")
    print("\nELBO of the test images, nats per image: mean with its standard error")
    for seed in (0, 0, 1):
        elbo = pyrovae.evaluate(vae, data.test, samples=1, seed=seed).elbo
        print(f"  draws with seed {seed}: {elbo.value:.3f} +- {elbo.standard_error:.3f}")
    plots.save(picture(vae, x), arguments.out / "random_or_not.png")


def spread(vae: pyrovae.VAE, x: Tensor, draws: int = 100) -> tuple[Tensor, Tensor]:
    """The law of total variance, for each image: Var E[x|z] and E Var[x|z], mean over pixels."""
    decoded = vae.likelihood(vae.posterior(x).sample((draws,)))
    mean, variance = decoded.mean, decoded.variance  # (draws, images, *event_shape)
    return mean.var(0).flatten(1).mean(1), variance.mean(0).flatten(1).mean(1)


@torch.no_grad()
def picture(vae: pyrovae.VAE, x: Tensor) -> Figure:
    """One q(z|x) with draws of z, and for each z the mean of p(x|z) and draws of x."""
    q = vae.posterior(x)
    z = q.sample((DRAWS,))[:, 0]  # (DRAWS, 2)
    decoded = vae.likelihood(z)
    loc, scale = q.mean[0].cpu().numpy(), q.stddev[0].cpu().numpy()
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    axes = left.add_subplot()
    angle = np.linspace(0, 2 * np.pi, 100)
    for k in (1, 2):
        ellipse = loc[:, None] + k * scale[:, None] * np.stack([np.cos(angle), np.sin(angle)])
        axes.plot(*ellipse, color="#4477AA", lw=1.4 / k, label=f"{k} scale from loc")
    axes.plot(*loc, "+", color="#4477AA", ms=12, mew=2, label="loc")
    axes.plot(*z.T.cpu().numpy(), "o", color="#AA3377", label="draws of z")
    for number, point in enumerate(z.tolist(), 1):
        axes.annotate(str(number), point, (6, 4), textcoords="offset points")
    axes.set(xlabel="$z_1$", ylabel="$z_2$", title="q(z|x) of one x: the same at each call")
    left.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    panels = right.subplots(DRAWS, 4)
    columns = "x (given)", "mean of p(x|z)", "x drawn", "x drawn again"
    means = decoded.mean
    for row, images in enumerate(
        zip(x.expand_as(means), means, *decoded.sample((2,)), strict=True)
    ):
        for panel, image, title in zip(panels[row], images, columns, strict=True):
            panel.imshow(image[0].cpu(), cmap="gray_r", vmin=0, vmax=float(x.max()))
            panel.set(xticks=[], yticks=[])
            if row == 0:
                panel.set_title(title, fontsize=10)
        panels[row][0].set_ylabel(f"z number {row + 1}", fontsize=10)
    figure.suptitle("Random: z given x, and x given z. Not random: loc, scale and the decoder")
    return figure


if __name__ == "__main__":
    main()
