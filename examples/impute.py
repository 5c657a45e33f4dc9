"""Hide the lower half of some digits, and draw it again given the upper half.

The upper half does not determine the lower one, so the draws differ: each is one of the digits that
could have been. The encoder was trained on whole digits only, so its posterior for half a digit is
corrected by importance weights. The numbers are estimates of log p(upper half) in nats, with
standard errors.

    python examples/impute.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import pyrovae
from pyrovae import plots
from pyrovae.plots import completions
from pyrovae.queries import impute, mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="passes over the training images [the recipe's]")
    parser.add_argument("--count", type=int, default=6, help="test digits")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    changes = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    config, digits = pyrovae.Config.resolve(
        {"model": {"likelihood": "binomial"}, "training": changes}
    )
    vae = config.build()
    pyrovae.fit(vae, digits, **dict(config.training, objective=config.objective()))

    x = digits.test.batch(np.arange(arguments.count))
    observed = torch.from_numpy(mask("lower", digits.event_shape, len(x)))
    found = impute(vae, x, observed)
    captions = []
    for estimate, error, effective in zip(
        found.log_evidence, found.standard_error, found.effective, strict=True
    ):
        captions.append(f"{estimate:.2f} ± {error:.2f}")
        print(f"log p(upper half) {estimate:.2f} +- {error:.2f}, effective draws {effective:.0f}")
    picture = completions(
        x.numpy(),
        observed.expand_as(x).numpy(),
        found.completions.numpy(),
        found.mean.numpy(),
        captions,
        "The lower half of a digit, drawn given the upper half",
    )
    plots.save(picture, arguments.out / "impute.png")


if __name__ == "__main__":
    main()
