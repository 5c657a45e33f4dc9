"""What the KL term compares: q(z|x) of one x with p(z), and neither batches nor classes with it.

The KL term of an image depends on that image alone, whatever else is in the batch. The script also
prints the divergences for which it is mistaken: of all codes of a batch together, of the codes of a
class, and of the normal with the mean and variance of the codes. Numbers are in nats; the errors
are over draws.

    python examples/kl_term.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro import distributions as dist
from torch import Tensor

import pyrovae
from pyrovae import plots
from pyrovae.data import Split
from pyrovae.diagnostics import Surgery, aggregate_draws, surgery
from pyrovae.estimates import Estimate
from pyrovae.kl import closed_form

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)  # of batches


def together(vae: pyrovae.VAE, x: Tensor, seed: int) -> Surgery:
    """The KL term of the images x, and KL(q(z) || p(z)) of the mixture q(z) of their posteriors."""
    return surgery(aggregate_draws(vae, Split.from_array(x), draws=10, seed=seed))


def matched(q: dist.Distribution) -> dist.Distribution:
    """The normal with the mean and variance, in each dimension, of the mixture of a batch q."""
    variance = q.variance.mean(0) + q.mean.var(0, correction=0)
    return dist.Normal(q.mean.mean(0), variance.sqrt()).to_event(1)


def told(term: Estimate) -> str:
    """An estimate with its standard error."""
    return f"{term.value:.2f} +- {term.standard_error:.2f}"


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

    with torch.no_grad():
        x = vae.place(next(iter(data.test.batches(256))))
        labels = data.test.labels[: len(x)]
        p, q = vae.prior(), vae.posterior(x)
        term, _ = closed_form(q, p)  # (256,): one number for each image
        by_hand = 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).sum(-1)
        alone = torch.cat([closed_form(vae.posterior(image[None]), p)[0] for image in x])
        others = closed_form(vae.posterior(torch.cat([x[:4], x[4:].flip(0)])), p)[0]
        print("KL(q(z|x) || p(z)) of four test images")
        print("image             mu          sigma   formula   alone   in a batch   in another")
        for i in range(4):
            loc, scale = (
                " ".join(f"{value:6.2f}" for value in part[i].tolist())
                for part in (q.mean, q.stddev)
            )
            values = f"{by_hand[i]:9.4f} {alone[i]:7.4f} {term[i]:12.4f} {others[i]:12.4f}"
            print(f"a {labels[i]:<3} {loc:>14} {scale:>14} {values}")

        print("\ndivergences from p(z)          batch of 256     images of one")
        print("                                            digit, on average")
        classes = [x[torch.as_tensor(labels == label)] for label in np.unique(labels)]
        batch = together(vae, x, seed=0)
        each = [together(vae, members, seed) for seed, members in enumerate(classes, 1)]
        rows = {"mean of KL(q(z|x) || p(z))": "kl", "KL(mean of q(z|x) || p(z))": "marginal_kl"}
        for name, key in (rows | {"their difference": "mutual_information"}).items():
            terms = [part.terms[key] for part in each]
            share = np.array([len(members) for members in classes]) / len(x)
            mean = share @ [term.value for term in terms]
            error = np.linalg.norm(share * [term.standard_error for term in terms])
            of_class = told(Estimate(mean, error))
            print(f"{name:<28} {told(batch.terms[key]):>14} {of_class:>17}")
        normal = [
            closed_form(matched(vae.posterior(group)), p)[0].item() for group in (x, *classes)
        ]
        of_classes = np.average(normal[1:], weights=share)
        print(f"{'KL(one normal || p(z))':<28} {normal[0]:>6.2f} {of_classes:>17.2f}")

        print("\nimages together   mean KL(q(z|x) || p)   KL(mean of q(z|x) || p)")
        table = []
        for size in SIZES:
            groups = x[: len(x) // size * size].split(size)
            found = [together(vae, group, seed) for seed, group in enumerate(groups)]
            table.append([np.mean([f.terms[k].value for f in found]) for k in rows.values()])
            print(f"{size:>15} {table[-1][0]:>22.2f} {table[-1][1]:>25.2f}")
    elbo = pyrovae.evaluate(vae, data.test, samples=100).elbo
    print(f"\ntest ELBO {told(elbo)} nats per image, the error over images")
    plots.save(picture(np.array(table)), arguments.out / "kl_term.png")


def picture(table: np.ndarray) -> Figure:
    """Both divergences against the number of images whose posteriors are averaged."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.add_subplot()
    sizes = np.array(SIZES)
    mean, mixture = table.T
    axes.fill_between(sizes, mixture, mean, color="0.92", label="mutual information of image and z")
    axes.plot(sizes, mean, "o-", color="#228833", label="the KL term: mean of KL(q(z|x) || p(z))")
    axes.plot(sizes, mixture, "s-", color="#AA3377", label="KL(mean of q(z|x) || p(z))")
    label = "the KL term less log(images): the least it can be"
    axes.plot(sizes, mean - np.log(sizes), ":", color="0.3", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(ylim=(0, None), xlabel="images whose q(z|x) are averaged", ylabel="nats per image")
    axes.grid(color="0.9")
    axes.spines[["right", "top"]].set_visible(False)
    axes.set_title("The KL term does not know the batch; the divergence of the average does")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
