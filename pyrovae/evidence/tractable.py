r"""Exact log p(x): a formula for linear-Gaussian models, and a sum over discrete latents.

With a prior :math:`\mathcal{N}(m, P)`, a decoder :math:`Wz + b` and diagonal noise :math:`S` that
does not depend on z,

.. math::
    p(x) = \mathcal{N}(x \mid W m + b, \; W P W^\top + S), \qquad
    p(z \mid x) = \mathcal{N}(z \mid m + A W^\top S^{-1} (x - W m - b), \; A), \qquad
    A = (P^{-1} + W^\top S^{-1} W)^{-1}

For finitely many values of z, :math:`p(x) = \sum_z p(z) \, p(x \mid z)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from pyrovae._process.isolation import evaluating, isolated
from pyrovae._process.memory import in_chunks
from pyrovae.distributions import base, is_discrete, observed_values
from pyrovae.estimates import AnyExamples, as_tensor
from pyrovae.evidence.results import Evidence
from pyrovae.networks import Linear
from pyrovae.vae import VAE

__all__ = ["STATES", "LinearGaussian", "exact", "linear_gaussian"]

STATES = 1 << 16
"""Largest number of values of a discrete z to sum over."""

PROBES = 20  # values of z at which the likelihood is compared with its affine decoder


@dataclass(frozen=True)
class LinearGaussian:
    """A linear-Gaussian model, in double precision.

    Attributes:
        prior_loc: m ``(latent_dim,)``.
        prior_tril: lower triangular Cholesky factor of P ``(latent_dim, latent_dim)``.
        weight: W ``(dimensions of x, latent_dim)``.
        bias: b ``(dimensions of x,)``.
        variance: the diagonal of S ``(dimensions of x,)``.

    Example:
        >>> one = torch.ones(1, 1)
        >>> model = LinearGaussian(torch.zeros(1), one, one, torch.zeros(1), torch.ones(1))
        >>> model.marginal().variance
        tensor([2.])
        >>> model.posterior(torch.tensor([[4.0]])).mean
        tensor([[2.]])
    """

    prior_loc: Tensor
    prior_tril: Tensor
    weight: Tensor
    bias: Tensor
    variance: Tensor

    def marginal(self) -> dist.Distribution:
        """p(x), over vectors ``(dimensions of x,)``."""
        loc = self.weight @ self.prior_loc + self.bias
        return dist.LowRankMultivariateNormal(loc, self.weight @ self.prior_tril, self.variance)

    def posterior(self, x: Tensor) -> dist.Distribution:
        """p(z | x).

        Args:
            x: data ``(batch, *event_shape)``.

        Returns:
            Multivariate normals with batch shape ``(batch,)``; p(z | x_obs) where values of x are
            NaN, which are missing.
        """
        parts = self._by_pattern(x)
        if parts is not None:
            loc = self.prior_loc.new_empty(len(x), len(self.prior_loc))
            covariance = loc.new_empty(*loc.shape, loc.shape[-1])
            for some, model, seen in parts:
                q: Any = model.posterior(seen)
                loc[some], covariance[some] = q.loc, q.covariance_matrix
            return dist.MultivariateNormal(loc, covariance)
        _, root, solved = self._solved(x)
        loc = self.prior_loc + solved @ self.prior_tril.mT
        half = torch.linalg.solve_triangular(root, self.prior_tril.mT, upper=False)
        covariance = half.mT @ half
        return dist.MultivariateNormal(loc, covariance.expand(len(x), -1, -1))

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""Compute log p(x) ``(batch,)``, accurately even if S is small.

        Where values are NaN, they are missing, and this is log p of the observed ones.

        :meth:`marginal` subtracts two squares of the size of :math:`|x - W m - b|^2 / S`. Here
        log p(z | x) is subtracted from log p(x, z) at the mean of p(z | x), where all terms are
        small: with g the gradient of log p(x, z) that rounding leaves,
        :math:`\log p(x) = \log p(x, z) - \log \mathcal{N}(0 \mid 0, A) + g^\top A g / 2`.

        Args:
            x: data ``(batch, *event_shape)``.
        """
        parts = self._by_pattern(x)
        if parts is not None:
            total = self.weight.new_zeros(len(x))
            for some, model, seen in parts:
                total[some] = model.log_evidence(seen)
            return total
        scaled, root, w = self._solved(x)  # z = m + P^(1/2) w
        scale = self.variance.sqrt()
        z = self.prior_loc + w @ self.prior_tril.mT
        off = (x.flatten(1).to(self.weight) - z @ self.weight.mT - self.bias) / scale
        left = torch.linalg.solve_triangular(root, (off @ scaled - w).mT, upper=False)
        constant = scale.log().sum() + len(scale) / 2 * math.log(2 * math.pi)
        squares = off.square().sum(-1) + w.square().sum(-1) - left.square().sum(0)
        return -squares / 2 - constant - root.diagonal().log().sum()

    def _by_pattern(self, x: Tensor) -> list[tuple[Tensor, "LinearGaussian", Tensor]] | None:
        """Examples by what is missing: which they are, the model of what is left, and that."""
        observed = observed_values(x)
        if observed is None or bool(observed.all()):
            return None
        patterns, owner = observed.flatten(1).unique(dim=0, return_inverse=True)
        prior = self.prior_loc, self.prior_tril
        return [
            (
                owner == pattern,
                LinearGaussian(*prior, self.weight[seen], self.bias[seen], self.variance[seen]),
                x[owner == pattern].flatten(1)[:, seen],
            )
            for pattern, seen in enumerate(patterns)
        ]

    def _solved(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W P^(1/2) / S^(1/2), and for z in units of P a root of its precision, and its mean."""
        scaled = (self.weight @ self.prior_tril) / self.variance.sqrt()[:, None]
        inner = torch.eye(scaled.shape[-1]).to(scaled) + scaled.mT @ scaled
        root = torch.linalg.cholesky(inner)
        off = x.flatten(1).to(self.weight) - self.weight @ self.prior_loc - self.bias
        solved = torch.cholesky_solve((off / self.variance.sqrt() @ scaled).mT, root).mT
        return scaled, root, solved


def linear_gaussian(vae: VAE) -> LinearGaussian:
    """Recognize a VAE whose model is linear-Gaussian, by its parts.

    The prior must be normal, the decoder a single affine layer, and the likelihood a product of
    normals of constant scale. At random z, near and far, their means must be the outputs of that
    layer.

    Args:
        vae: the model, with any posterior.

    Returns:
        The model.

    Raises:
        ValueError: if it is not such a model, naming the part that is not.

    Example:
        >>> from pyrovae.networks import Linear
        >>> likelihood = pyrovae.likelihoods.Normal(2, (3,), Linear)
        >>> posterior = pyrovae.posteriors.DiagonalNormal(2, (3,), Linear)
        >>> model = pyrovae.VAE(pyrovae.priors.StandardNormal(2), likelihood, posterior)
        >>> linear_gaussian(model).weight.shape
        torch.Size([3, 2])
    """
    with torch.no_grad(), isolated(), evaluating(vae):
        torch.manual_seed(0)
        return _recognized(vae)


def _recognized(vae: VAE) -> LinearGaussian:
    p = vae.prior()
    inner = base(p)
    if isinstance(inner, MultivariateNormal | LowRankMultivariateNormal):
        prior_loc = inner.loc.double()
        prior_tril = torch.linalg.cholesky(inner.covariance_matrix.double())
    elif isinstance(inner, Normal):
        prior_loc, prior_tril = inner.loc.double(), torch.diag(inner.scale.double())
    else:
        raise _no_formula(f"the prior is {type(inner).__name__}, not a normal")
    decoder = getattr(vae.likelihood, "decoder", None)
    layer = decoder.layer if isinstance(decoder, Linear) else decoder
    if not isinstance(layer, nn.Linear):
        name = "no module" if decoder is None else type(decoder).__name__
        raise _no_formula(f"the decoder is {name}, not linear")
    z = prior_loc + torch.randn(PROBES, len(prior_loc)).to(prior_loc) @ prior_tril.mT
    z = z * torch.logspace(-1, 2, PROBES).to(z)[:, None]
    with pyro.validation_enabled(False):  # a scale that depends on z may overflow out there
        p_x = vae.likelihood(z.to(layer.weight))
    if not (isinstance(p_x, Independent) and isinstance(p_x.base_dist, Normal)):
        raise _no_formula(f"the likelihood is {type(base(p_x)).__name__}, not independent normals")
    loc, scale = (part.double().flatten(1) for part in (base(p_x).loc, base(p_x).scale))
    if (scale != scale[0]).any():
        raise _no_formula("the scale of the likelihood depends on z")
    weight = layer.weight.double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
    expected = z @ weight.mT + bias
    digits = 100 * torch.finfo(layer.weight.dtype).eps
    if loc.shape != expected.shape or not torch.allclose(
        loc, expected, digits, digits * (z.abs() @ weight.abs().mT + bias.abs()).max().item()
    ):
        raise _no_formula("the mean of the likelihood is not the output of its linear decoder")
    return LinearGaussian(prior_loc, prior_tril, weight, bias, scale[0].square())


def _no_formula(reason: str) -> ValueError:
    return ValueError(
        f"there is no exact log p(x): {reason}; a formula exists for a normal prior with a linear "
        "decoder and normal likelihood of fixed scale, and for a categorical prior; otherwise use "
        "the methods iw, ais or, in one and two dimensions, quadrature"
    )


@torch.no_grad()
def exact(
    vae: VAE,
    x: AnyExamples,
    *,
    samples: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Evidence:
    """Compute log p(x) by the formula for linear-Gaussian models, or by a sum over a discrete z.

    Args:
        vae: the model; evaluated in eval mode, without dropout and the like.
        x: data ``(examples, *event_shape)``, or as :func:`pyrovae.data.as_split` takes them.
        samples: None, since nothing is sampled.
        seed: unused, for the same reason.
        progress: callback, called with the number of examples finished, in fractions.

    Returns:
        log p(x), with standard errors of zero.

    Raises:
        ValueError: if ``samples`` is given, the model is of neither kind, naming the part that is
            not, or z has more than ``STATES`` values.

    Example:
        >>> from pyrovae.networks import Linear
        >>> prior = pyrovae.priors.Categorical(4, classes=2)
        >>> likelihood = pyrovae.likelihoods.Bernoulli(4, (1, 8, 8), Linear)
        >>> posterior = pyrovae.posteriors.RelaxedCategorical(4, (1, 8, 8), Linear, classes=2)
        >>> exact(pyrovae.VAE(prior, likelihood, posterior), x[:2]).kind
        'exact, a sum over 4 values of z'
    """
    x = as_tensor(x)
    if samples is not None:
        raise ValueError(f"samples is {samples}, and an exact log p(x) takes none; leave it out")
    vae.check_data(vae.place(x))
    with isolated(), evaluating(vae):
        p = vae.prior()
        if is_discrete(p):
            value, kind = _summed(vae, p, vae.place(x), progress)
        else:
            value, kind = linear_gaussian(vae).log_evidence(vae.place(x)), "exact, by formula"
            if progress is not None:
                progress(len(x))
    return Evidence(value.cpu(), torch.zeros_like(value).cpu(), kind, None, {})


def _summed(
    vae: VAE, p: Any, x: Tensor, progress: Callable[[float], None] | None
) -> tuple[Tensor, str]:
    z = _values(p)
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for part in in_chunks(z, len(x)):
        log_joint = vae.log_joint(x, part[:, None], prior=p, dtype=torch.float64)
        total = torch.logaddexp(total, log_joint.logsumexp(0))
        if progress is not None:
            progress(len(x) * len(part) / len(z))
    return total, f"exact, a sum over {len(z):,} values of z"


def _values(p: Any) -> Tensor:
    """Every z, ``(values, latent_dim)``."""
    name = type(base(p)).__name__
    logits = getattr(p, "logits", None)
    if logits is not None and logits.dim() == 2:
        variables, classes = logits.shape  # count the values before listing them
        if classes**variables > STATES:
            raise _too_many(f"{classes}^{variables} = {classes**variables:,}")
    if not p.has_enumerate_support:
        raise ValueError(f"the values of the discrete prior {name} cannot be listed; use iw")
    z: Tensor = p.enumerate_support()
    if len(z) > STATES:
        raise _too_many(f"{len(z):,}")
    return z


def _too_many(values: str) -> ValueError:
    return ValueError(
        f"z has {values} values, and at most {STATES:,} are summed over; use the method iw"
    )
