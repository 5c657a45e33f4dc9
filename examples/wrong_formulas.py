"""Eight wrong formulas of VAE code, each run beside the right one and the truth.

Six are run where the truth is known: from an integral, or because z ~ N(0, 1) and
x ~ N(sqrt(3) z, 1), so that p(x) is N(0, 4) and p(z | x) is N(sqrt(3) x / 4, 1/4). Three are
trained, to show their effect. Log-probabilities, KL and ELBO are in nats; sampled quantities have
their standard error.

    python examples/wrong_formulas.py --epochs 40
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro import distributions as dist
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import plots
from pyrovae.data import Dataset
from pyrovae.diagnostics import log_weights
from pyrovae.distributions import ContinuousBernoulli
from pyrovae.estimates import Estimate
from pyrovae.evidence import exact, linear_gaussian, log_joint
from pyrovae.likelihoods import Normal
from pyrovae.networks import Linear
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

W = math.sqrt(3.0)
X = torch.tensor([[2.0]], dtype=torch.float64)  # one example, a single number
NETWORK = "mlp:hidden_dims=256-256"
LATENT_DIM = 10
DRAWS, DATA, REPEATS = 10, 100, 200  # for the importance-weighted bounds


class Row(NamedTuple):
    """A quantity: its name, its true value, and its values by the right and the wrong formula."""

    what: str
    truth: float | None
    right: float | Estimate
    wrong: float | Estimate


def small(exact_posterior: bool = True) -> pyrovae.VAE:
    """The model with a known truth; q(z | x) is the exact posterior, or the prior N(0, 1)."""
    likelihood = Normal(1, (1,), Linear, scale=1.0)
    posterior = DiagonalNormal(1, (1,), Linear)
    loc, scale = (W / 4, 0.5) if exact_posterior else (0.0, 1.0)
    with torch.no_grad():
        for parameter in (*likelihood.parameters(), *posterior.parameters()):
            parameter.zero_()
        likelihood.decoder.layer.weight.fill_(W)
        posterior.encoder.layer.weight[0] = loc
        posterior.encoder.layer.bias[1] = math.log(scale)
    return pyrovae.VAE(StandardNormal(1), likelihood, posterior).double()


def noise() -> list[Row]:
    """(a) z = loc + log(scale / 2) * eps"""
    vae, rows = small(), []
    eps = torch.randn(100_000, 1, 1, dtype=torch.float64)
    for scale in (0.5, 2.0):
        right, wrong = scale * eps, math.log(scale / 2) * eps
        what = f"standard deviation of z, scale {scale}"
        rows.append(Row(what, scale, deviation(right), deviation(wrong)))
    q, p = vae.posterior(X), vae.prior()
    right, wrong = q.mean + q.stddev * eps, q.mean + (q.stddev / 2).log() * eps
    bounds = (vae.likelihood(z).log_prob(X) - kl_divergence(q, p) for z in (right, wrong))
    evidence = exact(vae, X).log_evidence.item()
    rows.append(Row("ELBO, q being p(z | x)", evidence, *(Estimate.of(b[:, 0]) for b in bounds)))
    return rows


def deviation(z: Tensor) -> Estimate:
    """The standard deviation of draws from a normal, with its standard error."""
    sd = z.std().item()
    return Estimate(sd, sd / math.sqrt(2 * len(z)))


def kl_of_sigma() -> list[Row]:
    """(b) KL = 0.5 * (loc^2 + scale - 1 - log(scale))"""
    vae = small()
    q, p = vae.posterior(X), vae.prior()
    loc, scale = q.mean.item(), q.stddev.item()

    def right(scale: float) -> float:
        return 0.5 * (loc**2 + scale**2 - 1 - math.log(scale**2))

    def wrong(scale: float) -> float:
        return 0.5 * (loc**2 + scale - 1 - math.log(scale))

    def reconstruction(scale: float) -> float:
        """The mean of log p(x | z) under N(loc, scale^2); the log density is quadratic in z."""
        return vae.likelihood(q.mean).log_prob(X).item() - (W * scale) ** 2 / 2

    def best(kl: Callable[[float], float]) -> float:
        found = minimize_scalar(
            lambda s: kl(s) - reconstruction(s), bounds=(1e-3, 2), options={"xatol": 1e-9}
        )
        return float(found.x)

    kls = right(scale), wrong(scale)
    evidence = exact(vae, X).log_evidence.item()
    return [
        Row("KL(q || p), q being p(z | x)", kl_divergence(q, p).item(), *kls),
        Row("ELBO, q being p(z | x)", evidence, *(reconstruction(scale) - kl for kl in kls)),
        Row("scale of q with the best ELBO", 0.5, best(right), best(wrong)),
    ]


def denominator() -> list[Row]:
    """(d) p(z | x) = p(x | z) p(z)"""
    vae = small()
    truth = linear_gaussian(vae)
    z = torch.linspace(-12, 12, 4_001, dtype=torch.float64)
    wrong = log_joint(vae, X)(z[:, None, None])[:, 0].exp().detach()  # (4001,)
    right = wrong / truth.marginal().log_prob(X).exp()
    integrals = (torch.trapezoid(density, z).item() for density in (right, wrong))
    means = (torch.trapezoid(z * density, z).item() for density in (right, wrong))
    return [
        Row("integral over z", 1.0, *integrals),
        Row("mean of z given x", truth.posterior(X).mean.item(), *means),
    ]


def surrogate() -> list[Row]:
    """(g) sum of normalized weights times log weights"""
    vae = small(exact_posterior=False)
    x = X.expand(DATA * REPEATS, 1)  # one example repeated: the error is due to the draws
    log_w = log_weights(vae, vae.posterior(x), x, DRAWS, seed=0)  # (draws, repeats)
    right = log_w.logsumexp(0) - math.log(DRAWS)
    wrong = (log_w.softmax(0) * log_w).sum(0)
    evidence = exact(vae, X).log_evidence.item()
    return [Row("bound on log p(x), 10 draws", evidence, Estimate.of(right), Estimate.of(wrong))]


def averages() -> list[Row]:
    """(h) logarithm and averages in another order"""
    vae = small(exact_posterior=False)
    data = vae.sample(DATA)
    x = data.repeat(REPEATS, 1)  # the same data repeated: the error is due to the draws
    log_w = log_weights(vae, vae.posterior(x), x, DRAWS, seed=0)
    log_w = log_w.reshape(DRAWS, REPEATS, DATA)
    right = Estimate.of((log_w.logsumexp(0) - math.log(DRAWS)).mean(-1))
    wrong = {
        "log of the mean over data too": log_w.logsumexp((0, 2)) - math.log(DRAWS * DATA),
        "one weight for all data": (log_w.sum(2).logsumexp(0) - math.log(DRAWS)) / DATA,
        "mean of the logs": log_w.mean((0, 2)),
    }
    evidence = exact(vae, data).log_evidence.mean().item()
    return [Row(what, evidence, right, Estimate.of(values)) for what, values in wrong.items()]


class WithoutConstant(ContinuousBernoulli):
    """The binary cross-entropy, x log(p) + (1 - x) log(1 - p), used as a log density."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - self._cont_bern_log_norm()


class CrossEntropy(nn.Module):
    """A continuous Bernoulli likelihood without its normalizing constant."""

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.normalized = likelihood

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.normalized.decoder(z)
        return WithoutConstant(logits=logits).to_event(len(self.normalized.event_shape))


def trained(
    name: str,
    epochs: int,
    seed: int,
    *,
    likelihood: str | None = None,
    change: Callable[[nn.Module], nn.Module] | None = None,
    objective: str = "elbo",
) -> tuple[pyrovae.VAE, Dataset]:
    """A VAE fitted with a likelihood, possibly changed, and an objective; and its data."""
    model = {"latent_dim": LATENT_DIM, "encoder": NETWORK, "decoder": NETWORK}
    model["likelihood"] = "binomial" if likelihood is None else likelihood
    training = {"epochs": epochs, "seed": seed, "objective": objective}
    config, data = pyrovae.Config.resolve(
        {"data": {"name": name}, "model": model, "training": training}
    )
    vae = config.build()
    if change is not None:
        vae = pyrovae.VAE(vae.prior, change(vae.likelihood), vae.posterior)
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    return vae, data


def of_test_set(vae: pyrovae.VAE, data: Dataset, samples: int) -> dict[str, Estimate]:
    """ELBO, KL and a bound on log p(x), means over the test images."""
    # of the pixels divided by 16, as the formulas have them
    result = pyrovae.evaluate(vae, data.test, samples=samples, scaled=True)
    return {name: getattr(result, name) for name in ("elbo", "kl", "log_evidence")}


Trained = tuple[list[Row], dict[str, pyrovae.VAE]]


def averaged_kl(name: str, epochs: int, seed: int, samples: int) -> Trained:
    """(c) the KL averaged over the 10 latent dimensions"""
    right, data = trained(name, epochs, seed)
    wrong, _ = trained(name, epochs, seed, objective=f"beta:beta={1 / LATENT_DIM}")
    a, b = (of_test_set(vae, data, samples) for vae in (right, wrong))
    rows = [
        Row("trained: KL(q || p)", None, a["kl"], b["kl"]),
        Row("trained: ELBO", None, a["elbo"], b["elbo"]),
        Row("trained: log p(x) at least", None, a["log_evidence"], b["log_evidence"]),
    ]
    return rows, {"KL summed": right, "KL averaged": wrong}


def grey_bernoulli(name: str, epochs: int, seed: int, samples: int) -> Trained:
    """(e) x log(p) + (1 - x) log(1 - p) for gray x"""
    kinds = ContinuousBernoulli, WithoutConstant
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(50))
    logit = torch.tensor(0.1, dtype=torch.float64).logit()
    x = (nodes + 1) / 2
    integrals = (
        (weights / 2 * kind(logits=logit).log_prob(x).exp()).sum().item() for kind in kinds
    )

    def mean_of_best(kind: type[ContinuousBernoulli]) -> float:
        """Mean of the density fitted to pixels with mean 0.2; log p(x) is linear in x."""
        found = minimize_scalar(
            lambda ell: -kind(logits=torch.tensor(ell)).log_prob(torch.tensor(0.2)).item(),
            bounds=(-10, 10),
            options={"xatol": 1e-9},
        )
        return ContinuousBernoulli(logits=torch.tensor(found.x)).mean.item()

    right, data = trained(name, epochs, seed, likelihood="continuous_bernoulli")
    wrong, _ = trained(name, epochs, seed, likelihood="continuous_bernoulli", change=CrossEntropy)
    density = pyrovae.VAE(wrong.prior, wrong.likelihood.normalized, wrong.posterior)
    a, b, c = (of_test_set(vae, data, samples) for vae in (right, wrong, density))
    rows = [
        Row("integral over x from 0 to 1, p = 0.1", 1.0, *integrals),
        Row("mean of the fit to pixels of mean 0.2", 0.2, *map(mean_of_best, kinds)),
        Row("trained: ELBO, as the formula has it", None, a["elbo"], b["elbo"]),
        Row("trained: ELBO, of the density", None, a["elbo"], c["elbo"]),
    ]
    return rows, {}


def squared_error(name: str, epochs: int, seed: int, samples: int) -> Trained:
    """(f) the mean squared error as -log p(x | z)"""
    right, data = trained(name, epochs, seed, likelihood="normal")
    pixels = math.prod(data.event_shape)
    x = right.place(next(iter(data.test.batches(1))))
    loc = right.decode(right.posterior(x).mean).detach()
    losses = {
        "0.5 * sum": (1.0, 0.5 * (x - loc).square().sum()),
        "mean": (math.sqrt(pixels / 2), (x - loc).square().mean()),
    }
    a, rows, models = of_test_set(right, data, samples), [], {"scale learned": right}
    for loss, (scale, value) in losses.items():
        exactly = -dist.Normal(loc, scale).to_event(loc.ndim - 1).log_prob(x).item()
        wrong, _ = trained(name, epochs, seed, likelihood=f"normal:scale={scale}")
        b = of_test_set(wrong, data, samples)
        rows += [
            Row(f"{loss}: -log N(x | loc, scale)", exactly, exactly, value.item()),
            Row(f"{loss}: scale, of pixels in [0, 1]", None, right.likelihood.scale.item(), scale),
            Row(f"{loss}, trained: KL(q || p)", None, a["kl"], b["kl"]),
            Row(f"{loss}, trained: ELBO", None, a["elbo"], b["elbo"]),
        ]
        models[f"squared error, {loss}"] = wrong
    return rows, models


def picture(data: Dataset, models: dict[str, pyrovae.VAE], columns: int = 12) -> Figure:
    """Means of p(x | z) at draws of z from the prior, one row per model, below some data."""
    z = torch.randn(columns, LATENT_DIM)
    real = data.test.batch(np.arange(columns)).float()
    rows = {"test images": real / real.max()}
    for name, vae in models.items():
        with torch.no_grad():
            means = vae.decode(z.to(next(vae.parameters())))
        rows[name] = means / getattr(vae.likelihood, "total_count", 1)
    figure = Figure(figsize=(9, 0.78 * len(rows) + 0.5), layout="constrained")
    figure.suptitle("What each training makes of the same draws of z from the prior")
    for axes, (name, x) in zip(figure.subplots(len(rows)), rows.items(), strict=True):
        axes.imshow(np.concatenate(list(x[:, 0].cpu().numpy()), 1), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def told(number: float | Estimate | None) -> str:
    """A number as it is printed."""
    if isinstance(number, Estimate):
        return f"{number.value:.3f} +- {number.standard_error:.3f}"
    return "-" if number is None else f"{number:.3f}"


TRAINED = (averaged_kl, grey_bernoulli, squared_error)
MISTAKES = (
    noise,
    kl_of_sigma,
    averaged_kl,
    denominator,
    grey_bernoulli,
    squared_error,
    surrogate,
    averages,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    parser.add_argument("--samples", type=int, default=100, help="draws of z per test image")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws and initial weights")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the picture")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'':<41} {'truth':>7} {'right':>18} {'wrong':>18}")
    models: dict[str, pyrovae.VAE] = {}
    for mistake in MISTAKES:
        torch.manual_seed(arguments.seed)
        if mistake in TRAINED:
            rows, made = mistake(
                arguments.data, arguments.epochs, arguments.seed, arguments.samples
            )
            models |= made
        else:
            rows = mistake()
        print(mistake.__doc__)
        for row in rows:
            numbers = told(row.truth), told(row.right), told(row.wrong)
            print("  {:<39} {:>7} {:>18} {:>18}".format(row.what, *numbers), flush=True)
    _, data = pyrovae.Config.resolve({"data": {"name": arguments.data}})
    torch.manual_seed(arguments.seed)
    plots.save(picture(data, models), arguments.out / "wrong_formulas.png")


if __name__ == "__main__":
    main()
