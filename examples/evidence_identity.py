"""The evidence identity in numbers: log p(x) = ELBO + KL(q(z|x) || p(z|x)) for one digit.

With two latent dimensions a VAE can be integrated numerically: on a grid of z, the evidence and the
exact posterior are sums. Estimates by sampling for the same digit are printed for comparison.

    python examples/evidence_identity.py --epochs 100
"""

import argparse

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae.diagnostics import compare_gradients
from pyrovae.evidence import bounds

EDGE, POINTS = 6.0, 401  # extent and size of the grid in each dimension


class ScoreGradient(nn.Module):
    """The same posterior without ``rsample``, so Pyro uses the score-function gradient."""

    class Normal(dist.Normal):
        has_rsample = False

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor) -> dist.Distribution:
        q = self.posterior(x).base_dist
        return self.Normal(q.loc, q.scale).to_event(1)


def parts(vae: pyrovae.VAE, x: Tensor, points: int) -> dict[str, float]:
    """Integrate each term of the identity for x (1, 1, 8, 8) over a grid of z."""
    axis = torch.linspace(-EDGE, EDGE, points, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None]  # (points^2, 1, 2)
    log_area = 2 * (axis[1] - axis[0]).log()
    log_likelihood = torch.cat([vae.likelihood(part).log_prob(x)[:, 0] for part in z.split(20_000)])
    p, q = vae.prior(), vae.posterior(x)
    log_prior, log_q = p.log_prob(z)[:, 0], q.log_prob(z)[:, 0]
    evidence = (log_prior + log_likelihood + log_area).logsumexp(0)
    log_posterior = log_prior + log_likelihood - evidence
    weights = (log_q + log_area).exp()
    return {
        "log p(x)": evidence.item(),
        "E_q log p(x|z)": (weights * log_likelihood).sum().item(),
        "KL(q(z|x) || p(z))": kl_divergence(q, p.expand(q.batch_shape)).item(),  # by formula
        "KL(q(z|x) || p(z|x))": (weights * (log_q - log_posterior)).sum().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=100, help="passes over the training images")
    parser.add_argument("--digit", type=int, default=0, help="index of the digit in the test set")
    arguments = parser.parse_args()

    config, digits = pyrovae.Config.resolve(
        {
            "model": {"latent_dim": 2, "likelihood": "binomial"},
            "training": {"epochs": arguments.epochs},
        }
    )
    vae = config.build()
    pyrovae.fit(vae, digits, **dict(config.training, objective=config.objective()))
    vae = vae.double()
    torch.manual_seed(0)

    with torch.no_grad():
        x = vae.place(next(iter(digits.test.batches(500))))[arguments.digit, None]
        fine, coarse = (parts(vae, x, points) for points in (POINTS, POINTS // 2 + 1))
        evidence, reconstruction, to_prior, to_posterior = fine.values()
        label = digits.test.labels[arguments.digit]
        print(f"test image {arguments.digit}, a {label}; in nats, integrated over a grid of z")
        print(f"  E_q log p(x|z)           {reconstruction:10.4f}")
        print(f"- KL(q(z|x) || p(z))       {to_prior:10.4f}")
        print(f"= ELBO                     {reconstruction - to_prior:10.4f}")
        print(f"+ KL(q(z|x) || p(z|x))     {to_posterior:10.4f}")
        print(f"= sum                      {reconstruction - to_prior + to_posterior:10.4f}")
        print(f"  log p(x)                 {evidence:10.4f}")
        change = max(abs(fine[name] - coarse[name]) for name in fine)
        print("with half as many points in each dimension, no number changes by more than", end="")
        print(f" {change:.0e}\n")

        print("log p(x) by sampling, repeated 50 times: mean and standard deviation")
        print(f"{'draws':>6} {'z from p(z)':>20} {'z from q(z|x)':>20}")
        prior = vae.prior()
        from_prior = pyrovae.VAE(vae.prior, vae.likelihood, lambda x: prior.expand([len(x)]))
        many = x.expand(50, *x.shape[1:])
        for draws in (1, 10, 100, 1_000):
            columns = [bounds(model, many, draws).log_evidence for model in (from_prior, vae)]
            told = (f"{c.mean():.2f} +- {c.std():.2f}" for c in columns)
            print(f"{draws:>6} " + " ".join(f"{text:>20}" for text in told))
    print("\nvariance of the encoder's gradient for one draw, 100 test images")
    scored = pyrovae.VAE(vae.prior, vae.likelihood, ScoreGradient(vae.posterior))
    for name, model in (("pathwise", vae), ("score", scored)):
        variance = compare_gradients(model, digits.test).estimators[0].noise.variance
        print(f"{name:>9}: {variance.value:.3g} +- {variance.standard_error:.1g}")


if __name__ == "__main__":
    main()
