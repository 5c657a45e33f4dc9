"""If each q(z|x) is pulled to the prior, how do digits keep apart? The ELBO, split by digit.

The mean KL term of the images of one digit c is a sum of two parts. I_c(n; z) is the information
in z about which image of that digit it came from. KL(q_c(z) || p(z)) is the distance of the digit's
average posterior from the prior. Neither has to vanish for the whole population to match the prior.
Numbers are in nats per test image; the errors are over draws, for these images.

    python examples/aggregate_posterior.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset
from pyrovae.diagnostics import AggregateDraws, aggregate_draws, surgery, term_estimate
from pyrovae.estimates import Estimate

SHOWN = 1  # the digit that has a panel of its own


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

    draws = aggregate_draws(vae, data.test, labels=data.test.labels, limit=1_000)
    terms = surgery(draws)
    print(f"{len(draws.z)} test images, {draws.z.shape[1]} draws of each q(z|x)")
    print(f"  ELBO                                     {told(terms.elbo):>16}")
    print(f"  = reconstruction, E log p(x|z)           {told(terms.reconstruction):>16}")
    print(f"  - mutual information of image and z      {told(terms.mutual_information):>16}")
    print(f"  - KL(q(z) || p(z)), all images together  {told(terms.marginal_kl):>16}")

    heads = f"{'KL term':>14} {'I_c(n; z)':>19} {'KL(q_c(z) || p(z))':>24}"
    print(f"\n{'digit':>5} {'images':>7} {heads}")
    parts = {
        "kl": draws.log_posterior - draws.log_prior,
        "image": draws.log_posterior - draws.log_class,
        "digit": draws.log_class - draws.log_prior,
    }
    rows = {}
    for label in np.unique(draws.labels):
        members = torch.from_numpy(draws.labels == label)
        rows[label] = {name: term_estimate(value[members]) for name, value in parts.items()}
        kl, image, digit = (told(row) for row in rows[label].values())
        print(f"{label:>5} {int(members.sum()):>7} {kl:>14} {image:>19} {digit:>24}")
    kl, image, digit = (told(term_estimate(value)) for value in parts.values())
    print(f"mean over images {kl:>11} {image:>19} {digit:>24}")
    which = term_estimate(draws.log_class - draws.log_aggregate)
    shares = np.unique(draws.labels, return_counts=True)[1] / len(draws.labels)
    most = -(shares * np.log(shares)).sum()
    print(f"{f'  in the last column: I(c; z), at most {most:.2f}':<49} {told(which):>23}")
    print(f"  and KL(q(z) || p(z)), all images together      {told(terms.marginal_kl):>24}")

    print("\nlog p(x|z) if z is drawn for")
    for name, value in with_other_codes(vae, data, draws).items():
        print(f"  {name:<32} {told(term_estimate(value)):>16}")
    torch.manual_seed(0)
    with torch.no_grad():
        prior = vae.prior().sample((len(draws.z),)).cpu().numpy()
    plots.save(picture(draws, prior, rows), arguments.out / "aggregate_posterior.png")


@torch.no_grad()
def with_other_codes(
    vae: pyrovae.VAE, data: Dataset, draws: AggregateDraws
) -> dict[str, torch.Tensor]:
    """log p(x|z) of each image with its own draws of z, and with those of other images."""
    count = len(draws.z)
    x = vae.place(next(iter(data.test.batches(count))))
    order = np.argsort(draws.labels, kind="stable")
    same, other = np.empty(count, int), np.empty(count, int)
    other[order] = np.roll(order, count // 2)
    for label in np.unique(draws.labels):
        members = np.flatnonzero(draws.labels == label)
        same[members] = np.roll(members, 1)
    z = vae.place(draws.z)
    found = {"another image, another digit": other, "another image of the same digit": same}
    return {
        name: vae.likelihood(z[partner].transpose(0, 1)).log_prob(x).T.double().cpu()
        for name, partner in (found | {"the image itself": np.arange(count)}).items()
    }


def picture(draws: AggregateDraws, prior: np.ndarray, rows: dict[int, dict]) -> Figure:
    """The prior, all codes, the codes of one digit; and the two parts of each digit's KL term."""
    figure = Figure(figsize=(9.5, 7.2), layout="constrained")
    panels = figure.subplot_mosaic([["p", "q", "one"], ["bars"] * 3], height_ratios=(1, 0.85))
    z = draws.z[:, 0].numpy()
    own = draws.labels == SHOWN
    edge = 1.05 * max(np.abs(z).max(), np.abs(prior).max())
    dots = {"ms": 3.5, "ls": "", "marker": "o", "alpha": 0.6, "mew": 0}
    panels["p"].plot(*prior.T, color="0.35", **dots)
    panels["q"].plot(*z[~own].T, color="0.35", **dots)
    for name in ("q", "one"):
        panels[name].plot(*z[own].T, color="#AA3377", **dots)
    titles = "the prior p(z)", f"q(z): all digits, {SHOWN}s in purple", f"q(z) of the {SHOWN}s"
    angle = np.linspace(0, 2 * np.pi, 100)
    for name, title in zip(("p", "q", "one"), titles, strict=True):
        for share in (0.5, 0.95):
            radius = np.sqrt(-2 * np.log(1 - share))
            panels[name].plot(radius * np.cos(angle), radius * np.sin(angle), color="0.6", lw=0.8)
        panels[name].set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", title=title)
        panels[name].set(xlabel="$z_1$", ylabel="$z_2$")
    bars = panels["bars"]
    digit, image = ([row[name].value for row in rows.values()] for name in ("digit", "image"))
    places = np.arange(len(rows))
    bars.bar(places, digit, color="#AA3377", label="KL(q(z) of the digit || p(z))")
    bars.bar(places, image, bottom=digit, color="#88CCEE", label="which image of the digit it is")
    bars.set_xticks(places, [str(label) for label in rows])
    bars.set(xlabel="digit", ylabel="nats per image", title="the KL term, digit by digit")
    bars.set_ylim(top=1.3 * max(np.add(digit, image)))
    bars.legend(loc="upper center", ncols=2, frameon=False)
    figure.suptitle(
        "One draw of z for each image; the circles hold 50 and 95 % of the prior.\n"
        "All digits together fill it better than one digit by itself"
    )
    return figure


if __name__ == "__main__":
    main()
