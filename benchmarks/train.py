"""Images per second of one training step: pyrovae's, Pyro's as shipped, and by hand in PyTorch.

    python benchmarks/train.py                  # the net of the MNIST recipe's size, batch 128
    python benchmarks/train.py --json out.json

All three train the same network on the same binary noise, in alternating rounds of one process, so
that a machine whose speed drifts slows all of them; medians over rounds, and ratios to the
hand-written step.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.objectives import recording
from pyrovae.optim import FusedAdam
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.vae import VAE


def make_vae(hidden: int, latent_dim: int) -> VAE:
    network = partial(MLP, hidden_dims=(hidden, hidden))
    return VAE(
        StandardNormal(latent_dim),
        Bernoulli(latent_dim, (784,), network),
        DiagonalNormal(latent_dim, (784,), network),
    )


def pyrovae_step(vae: VAE, x: torch.Tensor) -> Callable[[], object]:
    """What ``fit`` does at each step, without its data path."""
    optimizer = FusedAdam(vae.parameters(), learning_rate=1e-3, total_steps=10**6)
    objective, _ = recording(Trace_ELBO())
    svi = SVI(vae.model, vae.guide, optimizer, objective)

    def step() -> None:
        with pyro.validation_enabled(False):
            svi.step(x)

    return step


def pyro_step(vae: VAE, x: torch.Tensor) -> Callable[[], object]:
    """``SVI.step`` as Pyro ships it: one optimiser for each parameter, validation on."""
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return lambda: svi.step(x)


def hand_written_step(vae: VAE, x: torch.Tensor) -> Callable[[], object]:
    """The same network and loss without Pyro, with torch's fused Adam."""
    encoder, decoder = vae.posterior.encoder, vae.likelihood.decoder
    adam = torch.optim.Adam(vae.parameters(), 1e-3, fused=True)

    def step() -> None:
        adam.zero_grad()
        loc, log_scale = encoder(x).unbind(-2)
        scale = log_scale.exp()
        z = loc + scale * torch.randn_like(scale)
        reconstruction = nn.functional.binary_cross_entropy_with_logits(
            decoder(z), x, reduction="sum"
        )
        kl = 0.5 * (loc.square() + scale.square() - 2 * log_scale - 1).sum()
        (reconstruction + kl).backward()
        adam.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30, help="per round")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()

    torch.manual_seed(0)
    x = (torch.rand(options.batch_size, 784) < 0.13).float()
    make = partial(make_vae, options.hidden, options.latent_dim)
    seconds: dict[str, list[float]] = {}
    steps = {}
    for name, prepare in (
        ("hand-written PyTorch", hand_written_step),
        ("pyrovae fit", pyrovae_step),
        ("Pyro SVI.step as shipped", pyro_step),
    ):
        steps[name], seconds[name] = prepare(make(), x), []
    for round_number in range(options.rounds + 1):
        for name, step in steps.items():
            with pyro.get_param_store().scope():
                start = time.perf_counter()
                for _ in range(options.steps):
                    step()
                if round_number:  # the first round warms up
                    seconds[name].append((time.perf_counter() - start) / options.steps)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["hand-written PyTorch"]
    print(
        f"784-{options.hidden}-{options.hidden}-{options.latent_dim}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'':<26} {'ms/step':>8} {'images/s':>10} {'ratio':>6}")
    for name, median in medians.items():
        speed = options.batch_size / median
        print(f"{name:<26} {1e3 * median:8.2f} {speed:10,.0f} {median / base:6.2f}")
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        figures = {"settings": settings, "seconds_per_step": seconds}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
