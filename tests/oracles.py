"""Assertions that several tests share, and an exact p(x) of linear-Gaussian models.

A comparison within an error passes for an infinite error, and one from above for minus infinity.
These ask for finite numbers first.
"""

import math
from fractions import Fraction

import torch
from scipy.stats import chi2
from torch import Tensor

from pyrovae.estimates import Estimate
from pyrovae.evidence import linear_gaussian


def double(values):
    """A tensor, array, sequence or number in double precision."""
    return torch.as_tensor(values, dtype=torch.float64)


def assert_finite(*values):
    """Every number in tensors, arrays, sequences or floats is finite."""
    for value in values:
        value = double(value)
        assert value.isfinite().all(), f"not finite: {value[~value.isfinite()]}"


def assert_within(value, truth, error, errors=4.0, floor=0.0):
    """|value - truth| is at most ``errors`` errors plus the floor; all of them are finite."""
    value, truth, error, floor = map(double, (value, truth, error, floor))
    assert_finite(value, truth, error, floor)
    off, allowed = (value - truth).abs(), errors * error + floor
    assert (off <= allowed).all(), f"off by {off}, with {allowed} allowed"


def assert_no_less(value, truth, error, errors=4.0):
    """The value is at most ``errors`` errors below the truth; all three are finite."""
    value, truth, error = map(double, (value, truth, error))
    assert_finite(value, truth, error)
    assert (value > truth - errors * error).all(), f"{value} is too far below {truth}"


def assert_calibrated(make, truth, seeds, errors=4.0, overstated=1.0):
    """The standard errors that an estimator states are those that its values have.

    Over repetitions the mean of the values is within ``errors`` standard errors of the truth, and
    their spread is what the errors state: the sum of squares about the mean, over the mean of the
    squared errors, is chi-squared, with one degree of freedom less than there are repetitions, for
    each element. It must lie where a chi-squared lies but once in 10,000 times to either side. That
    is of normal values, so let each be a mean over many draws.

    Args:
        make: from a seed to an ``Estimate``, or to a value and its standard error: numbers, or
            tensors of one shape whose elements share no draws.
        truth: what the values estimate, or None where nobody knows it: then the spread is all that
            is held.
        seeds: of the repetitions.
        errors: allowed between mean and truth.
        overstated: factor by which a stated variance may be too large, where that is by design.
    """
    found = [make(seed) for seed in seeds]
    found = [(e.value, e.standard_error) if isinstance(e, Estimate) else e for e in found]
    values, stated = (
        torch.stack([double(part) for part in column]) for column in zip(*found, strict=True)
    )
    assert_finite(values, stated)
    variance = stated.square().mean(0)
    if truth is not None:
        assert_within(values.mean(0), truth, (variance / len(values)).sqrt(), errors)
    degrees = (len(values) - 1) * variance.numel()
    ratio = ((values - values.mean(0)).square().sum(0) / variance).sum().item() / degrees
    low, high = (chi2.ppf(p, degrees) / degrees for p in (1e-4, 1 - 1e-4))
    about = f"the variance is {ratio:.3f} of what is stated; chance allows {low:.3f} to {high:.3f}"
    assert low / overstated < ratio < high, about


def assert_adds_up(row):
    """The ELBO of a row of metrics is the reconstruction less the KL divergence, and finite."""
    elbo, difference = row["elbo"], row["reconstruction"] - row["kl"]
    assert_finite(elbo, row["reconstruction"], row["kl"])
    size = abs(row["reconstruction"]) + abs(row["kl"])
    assert abs(elbo - difference) <= 1e-6 * size, f"{elbo} is not {difference}"


def assert_reached(parameter, name=""):
    """A gradient came to a parameter: finite, and not all zeros."""
    assert parameter.grad is not None, name
    assert parameter.grad.isfinite().all(), name
    assert parameter.grad.any(), name


def rational_evidence(vae, x: Tensor) -> Tensor:
    """log p(x) of a linear-Gaussian model in rational arithmetic: no rounding but the last."""
    model = linear_gaussian(vae)
    with torch.no_grad():
        scale = vae.likelihood(model.prior_loc.to(x)).base_dist.scale
    W, L = rational(model.weight), rational(model.prior_tril)
    loc, bias, scale = (rational(part) for part in (model.prior_loc, model.bias, scale))
    mean = [dot(row, loc) + b for row, b in zip(W, bias, strict=True)]
    root = [[dot(row, column) for column in zip(*L, strict=True)] for row in W]
    matrix = [[dot(a, b) for b in root] for a in root]
    for i, s in enumerate(scale):
        matrix[i][i] += s * s
    off = [[v - m for v, m in zip(row, mean, strict=True)] for row in rational(x.flatten(1))]
    determinant, squares = eliminated(matrix, off)
    constant = len(mean) * math.log(2 * math.pi) + math.log(determinant)
    values = [-(constant + float(square)) / 2 for square in squares]
    return torch.tensor(values, dtype=torch.float64)


def rational(values: Tensor) -> list:
    """Floating-point numbers as the fractions that they are."""
    values = values.tolist()
    return [
        [Fraction(v) for v in row] if isinstance(row, list) else Fraction(row) for row in values
    ]


def dot(a, b):
    return sum(i * j for i, j in zip(a, b, strict=True))


def eliminated(matrix, vectors):
    """The determinant of a positive definite matrix, and v' M^-1 v of each vector."""
    matrix, vectors = [row[:] for row in matrix], [v[:] for v in vectors]
    determinant, squares = Fraction(1), [Fraction(0)] * len(vectors)
    for i, pivot in enumerate(matrix):
        determinant *= pivot[i]
        squares = [s + v[i] ** 2 / pivot[i] for s, v in zip(squares, vectors, strict=True)]
        for j in range(i + 1, len(matrix)):
            factor = matrix[j][i] / pivot[i]
            matrix[j] = [a - factor * b for a, b in zip(matrix[j], pivot, strict=True)]
            for v in vectors:
                v[j] -= factor * v[i]
    return determinant, squares


def same(a, b):
    """Whether two models have the same weights, to the bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def with_gradient(bound, vae):
    gradient = torch.autograd.grad(bound, list(vae.parameters()), materialize_grads=True)
    return torch.cat([bound.detach().reshape(1), *(g.flatten() for g in gradient)])


def exact_elbo(vae, x, of_kl):
    """E log p(x | z) by hand, less what ``of_kl`` makes of KL ``(batch, latent_dim)``."""
    q, layer = vae.posterior(x), vae.likelihood.decoder.layer
    variance = vae.likelihood.scale**2
    square = (x - q.mean @ layer.weight.T - layer.bias).square().sum()
    spread = len(x) * (layer.weight.square() @ q.variance[0]).sum()
    reconstruction = -x.numel() / 2 * math.log(2 * math.pi * variance)
    reconstruction = reconstruction - (square + spread) / (2 * variance)
    kl = (q.mean.square() + q.variance - q.variance.log() - 1) / 2
    return with_gradient(reconstruction - of_kl(kl), vae)


def ppca_maximum(x, latent_dim, steps=2_000):
    """The largest mean log p(x_obs) of probabilistic PCA: W, b and one variance, by EM.

    Of each row only the observed values count; NaN is missing. EM of Tipping and Bishop (1999),
    with sums over the observed values; the log density is of the normal over them.
    """
    x = double(x)
    seen = (~x.isnan()).double()
    x = torch.where(seen > 0, x, torch.zeros_like(x))
    rows, dims = x.shape
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(dims, latent_dim, generator=generator, dtype=torch.float64)
    bias, variance = (x.sum(0) / seen.sum(0)), torch.ones(()).double()
    one = torch.eye(latent_dim).double()
    for _ in range(steps):
        gram = torch.einsum("nd,di,dj->nij", seen, weight, weight)
        covariance = torch.linalg.inv(one + gram / variance)
        r = seen * (x - bias) / variance
        mean = torch.einsum("nij,nj->ni", covariance, r @ weight)
        more = torch.cat([mean, torch.ones(rows, 1).double()], 1)  # for the bias
        second = torch.einsum("ni,nj->nij", more, more)
        second[:, :latent_dim, :latent_dim] += covariance
        left = torch.einsum("nd,nij->dij", seen, second)
        both = torch.linalg.solve(left, (seen * x).T @ more)
        weight, bias = both[:, :latent_dim], both[:, latent_dim]
        squares = x.square().sum() - 2 * (both * ((seen * x).T @ more)).sum()
        squares += torch.einsum("di,dij,dj->", both, left, both)
        variance = squares / seen.sum()
    total = 0.0
    for row, here in zip(x, seen > 0, strict=True):
        w = weight[here]
        joint = w @ w.T + variance * torch.eye(len(w)).double()
        apart = row[here] - bias[here]
        total -= (apart @ torch.linalg.solve(joint, apart)).item() / 2
        total -= (torch.logdet(joint).item() + len(w) * math.log(2 * math.pi)) / 2
    return total / rows
