"""Time the importance-weighted bound: in pyrovae, by hand in PyTorch, and matrix products alone.

    python benchmarks/evidence.py                # about a minute
    python benchmarks/evidence.py --images 10000 --rounds 1 --whole --only inductor --json out.json

All of them work on the same images with the same network, in alternating rounds in one process, so
that a machine whose speed drifts slows all of them alike. The table shows medians over rounds, and
ratios to the floor: the decoder's matrix products for every draw of every image, in the fastest
chunk size. Compilation is timed separately; with ``--whole`` it is part of each round, as in
``pyrovae evaluate``.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pyrovae.data import Split
from pyrovae.evidence import bounds, evaluate
from pyrovae.evidence.lower_bounds import EXAMPLES, ROWS, Compiled
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.vae import VAE

CHUNKS = (400, 800, 1_250, 2_000)  # rows of one product
PIXELS = 784


def make_vae(hidden: int, latent_dim: int) -> VAE:
    network = partial(MLP, hidden_dims=(hidden, hidden))
    return VAE(
        StandardNormal(latent_dim),
        Bernoulli(latent_dim, (PIXELS,), network),
        DiagonalNormal(latent_dim, (PIXELS,), network),
    ).eval()


@torch.no_grad()
def products(vae: VAE, rows: int, chunk: int) -> None:
    """Compute the decoder's matrix products and nothing else."""
    layers = [m for m in vae.likelihood.modules() if isinstance(m, nn.Linear)]
    inputs = [torch.randn(chunk, layer.in_features) for layer in layers]
    for _ in range(rows // chunk):
        for layer, h in zip(layers, inputs, strict=True):
            torch.addmm(layer.bias, h, layer.weight.T)


@torch.no_grad()
def by_hand(vae: VAE, x: Tensor, samples: int, chunk: int) -> Tensor:
    """Compute the bound of each image as a script would: one image and one chunk at a time."""
    bounds = []
    for image in x:
        loc, log_scale = vae.posterior.encoder(image).unbind(-2)
        scale = log_scale.exp()
        log_w = []
        for start in range(0, samples, chunk):
            noise = torch.randn(min(chunk, samples - start), len(loc))
            z = loc + scale * noise
            logits = vae.likelihood.decoder(z)
            reconstruction = -nn.functional.binary_cross_entropy_with_logits(
                logits, image.expand_as(logits), reduction="none"
            ).sum(-1)
            kl = (0.5 * (z.square() - noise.square()) - log_scale).sum(-1)
            log_w.append(reconstruction - kl)
        bounds.append(torch.cat(log_w).double().logsumexp(0) - math.log(samples))
    return torch.stack(bounds)


def pyrovaes(vae: VAE, data: Split, samples: int, compiled: Compiled | None) -> None:
    """Do what ``pyrovae evaluate`` does with a dataset once it has compiled."""
    for batch in data.batches(EXAMPLES):
        bounds(vae, vae.place(batch), samples, compiled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--images", type=int, default=60, help=f"a multiple of {EXAMPLES}")
    parser.add_argument("--samples", type=int, default=5_000, help="draws for each image")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--whole", action="store_true", help="time evaluate(), including compilation"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="WORD",
        help="time the products, and ways whose name has a WORD",
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()

    torch.manual_seed(0)
    vae = make_vae(options.hidden, options.latent_dim)
    x = (torch.rand(options.images, PIXELS) < 0.13).float()
    data, rows = Split.from_array(x), options.images * options.samples
    ways: dict[str, Callable[[], object]] = {
        f"products, {chunk:,} rows": partial(products, vae, rows, chunk) for chunk in CHUNKS
    }
    ways["by hand in PyTorch"] = partial(by_hand, vae, x, options.samples, 1_000)
    start = time.perf_counter()
    compiled = Compiled(vae, x[:EXAMPLES], min(options.samples, ROWS // EXAMPLES))
    compiling = time.perf_counter() - start
    if options.whole:
        for mode in ("off", "inductor"):
            ways[f"pyrovae, compile {mode}"] = partial(
                evaluate, vae, data, samples=options.samples, compile=mode
            )
    else:
        ways["pyrovae, compile off"] = partial(pyrovaes, vae, data, options.samples, None)
        ways["pyrovae, compile inductor"] = partial(pyrovaes, vae, data, options.samples, compiled)

    if options.only is not None:
        words = ("products", *options.only)
        ways = {name: way for name, way in ways.items() if any(word in name for word in words)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = min(median for name, median in medians.items() if name.startswith("products"))
    print(
        f"{PIXELS}-{options.hidden}-{options.hidden}-{options.latent_dim}, {options.images:,} "
        f"images, {options.samples:,} draws each, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, compiled in "
        f"{compiling:.1f} s"
    )
    print(f"{'':<26} {'s':>8} {'us/draw':>8} {'ratio':>6}")
    for name, median in medians.items():
        print(f"{name:<26} {median:8.2f} {1e6 * median / rows:8.3f} {median / floor:6.2f}")
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        figures = {"settings": settings, "compiling": compiling, "seconds": seconds}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
