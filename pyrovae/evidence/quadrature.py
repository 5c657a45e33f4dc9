r"""log p(x) and p(z | x) by adaptive quadrature over z, in one and two dimensions.

.. math:: p(x) = \int p(z) \, p(x \mid z) \, dz

Each dimension is mapped by :math:`z = m + s \sinh u`, with m and s the mean and standard deviation
of the prior, so that a mesh of cells in u covers every z that floating-point numbers can resolve.
All examples share the first mesh, which misses no peak wider than about a hundredth of s. A cell is
halved if its halves together differ from the whole, and around q(z | x) until it is no wider than
q. The cells that touch it are halved too, since the rest of a narrow peak may lie there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrovae._process.isolation import evaluating, isolated
from pyrovae._process.memory import in_chunks
from pyrovae.distributions import base, is_point, is_real, moments, observed_log_prob
from pyrovae.estimates import AnyExamples, as_tensor
from pyrovae.evidence.results import Evidence
from pyrovae.vae import VAE

__all__ = ["integrated", "posterior_density"]

EXAMPLES = 20  # that are integrated together
NODES = 5  # Gauss-Legendre nodes in each dimension of a cell
EDGES = (*np.arange(0, 3, 0.25).tolist(), 3.0, 4.0, 6.0, 10.0, 28.0)  # of the first mesh, in u
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # change in a cell, relative to p(x)
NEGLIGIBLE = 35.0  # cells this many nats below the integral are not halved
DEEPEST = 22  # halvings
SHARE = 0.01  # smallest mass, relative to the largest cell, that counts in the rounding error
MOST = 20_000  # cells of one level for each example
FAR = -100.0  # log p(z) below which an undefined likelihood counts as zero
NEAR = 3.0  # standard deviations around the mean of q


@torch.no_grad()
def integrated(
    vae: VAE,
    x: AnyExamples,
    *,
    samples: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Evidence:
    """Compute log p(x) by adaptive quadrature, for a real z of one or two dimensions.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        x: data ``(examples, *event_shape)``, or as :func:`pyrovae.data.as_split` takes them.
        samples: None, since nothing is sampled.
        seed: seed of the draws that locate a prior or posterior whose moments have no formula.
        progress: callback, called with the number of examples finished.

    Returns:
        log p(x). In place of standard errors, the sum over all cells of the relative change when a
        cell was last halved, plus the mean rounding error of log p(x, z) under p(z | x): nearly
        always much more than the true error. ``details`` holds the ``mean``
        ``(examples, latent_dim)`` and ``covariance`` of p(z | x), and ``nodes``, the number of
        values of z for each example.

    Raises:
        ValueError: if ``samples`` is given, z is not a real vector of one or two dimensions, p(x)
            is zero for every x, or p(x | z) is not a number at a z with log p(z) above -100.

    Example:
        >>> found = integrated(vae, x[:2])
        >>> found.details["mean"].shape, bool((found.standard_error < 1e-3).all())
        (torch.Size([2, 2]), True)
    """
    x = as_tensor(x)
    if samples is not None:
        raise ValueError(f"samples is {samples}, and quadrature takes none; leave it out")
    _check(vae)
    vae.check_data(vae.place(x))
    parts = []
    with isolated(x.device), evaluating(vae):
        torch.manual_seed(seed)
        with pyro.validation_enabled(False):
            mesh = _Mesh(vae)
            for batch in x.split(EXAMPLES):
                parts.append(_batch(mesh, vae, vae.place(batch)))
                if progress is not None:
                    progress(len(batch))
    value, error, *rest = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    if not value.isfinite().any():
        raise ValueError("p(x) is zero for every x; look at the likelihood's support")
    details = dict(zip(("mean", "covariance", "nodes"), rest, strict=True))
    return Evidence(value, error, "exact to the error of integration", None, details)


@torch.no_grad()
def posterior_density(
    vae: VAE,
    x: Tensor,
    evidence: Evidence,
    *,
    points: int = 200,
    deviations: float = 5.0,
    axes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the normalized p(z | x) on a grid, for figures and sums.

    Args:
        vae: a model with a z of one or two dimensions.
        x: data ``(examples, *event_shape)``.
        evidence: the result of :func:`integrated` for these data.
        points: number of grid points in each dimension.
        deviations: reach of the grid, in standard deviations of p(z | x) around its mean.
        axes: the grid to use instead ``(examples, latent_dim, points)``.

    Returns:
        The axes ``(examples, latent_dim, points)``, and the density ``(examples, points)`` or
        ``(examples, points, points)``, the first dimension of z first.

    Example:
        >>> axes, density = posterior_density(vae, x[:1], integrated(vae, x[:1]), points=20)
        >>> axes.shape, density.shape
        (torch.Size([1, 2, 20]), torch.Size([1, 20, 20]))
    """
    _check(vae)
    if axes is None:
        mean, covariance = evidence.details["mean"], evidence.details["covariance"]
        reach = deviations * covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        axes = mean[..., None] + reach[..., None] * torch.linspace(-1, 1, points).to(mean)
    found = []
    with isolated(), evaluating(vae), pyro.validation_enabled(False):
        p = vae.prior()
        for one, grid, log_evidence in zip(x, axes, evidence.log_evidence, strict=True):
            z = torch.stack(torch.meshgrid(*grid, indexing="ij"), -1)
            rows = vae.place(z).flatten(0, -2)
            parts = [_log_joint(vae, p, part, vae.place(one)) for part in in_chunks(rows)]
            log_joint = torch.cat(parts).cpu()
            found.append((log_joint - log_evidence).exp().reshape(z.shape[:-1]))
    return axes, torch.stack(found)


def _check(vae: VAE) -> None:
    with isolated(), evaluating(vae):
        p = vae.prior()
    if not is_real(p) or is_point(p):
        raise ValueError(
            f"quadrature is over real z, but the prior {type(vae.prior).__name__} is not; "
            "use the method iw, or exact for a categorical prior"
        )
    if vae.latent_dim > 2:
        raise ValueError(
            f"quadrature takes one or two latent dimensions, but z has {vae.latent_dim}; use the "
            "method iw or ais"
        )


def _log_joint(vae: VAE, p: Any, z: Tensor, x: Tensor) -> Tensor:
    log_joint = vae.log_joint(x, z, prior=p, dtype=torch.float64)
    undefined = log_joint.isnan()
    far = undefined & (p.log_prob(z) < FAR)  # the decoder has overflowed
    log_joint, undefined = log_joint.masked_fill(far, -math.inf), undefined & ~far
    if undefined.any():
        where = z.expand(*log_joint.shape, z.shape[-1])[undefined][0].tolist()
        raise ValueError(
            f"log p(x, z) is not a number at z = {where}; look for an overflow in the decoder or "
            "the likelihood there"
        )
    return log_joint


class _Mesh:
    """The map from u to z, the nodes of a cell, and the first cells."""

    def __init__(self, vae: VAE) -> None:
        self.prior = vae.prior()
        mean, variance = moments(self.prior)
        usable = variance.isfinite() & (variance > 0) & mean.isfinite()
        self.loc = torch.where(usable, mean, 0.0).double()
        self.scale = torch.where(usable, variance, 1.0).sqrt().double()
        edges = torch.tensor(EDGES, dtype=torch.float64, device=mean.device)
        self.edges = torch.cat([-edges[1:].flip(0), edges])
        self.dims = len(self.loc)
        rule = np.polynomial.legendre.leggauss(NODES)
        points, weights = (torch.from_numpy(part).to(edges) for part in rule)
        self.points = self.product(points)  # (nodes, latent_dim)
        self.log_weights = self.product(weights.log()).sum(-1)
        self.first = self.product(torch.arange(len(self.edges) - 1, device=mean.device))
        self.halves = self.product(torch.tensor([0, 1], device=mean.device))
        self.around = self.product(torch.tensor([-1, 0, 1], device=mean.device))

    def product(self, values: Tensor) -> Tensor:
        """All vectors with one of these values in each dimension of z."""
        grid = torch.meshgrid(*[values] * self.dims, indexing="ij")
        return torch.stack(grid, -1).reshape(-1, self.dims)

    def place(self, index: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Middle and half width in u of cells, from their index along each dimension."""
        first, part = index >> level, index & ((1 << level) - 1)
        width = self.edges.diff()[first] / (1 << level)
        return self.edges[first] + width * (part + 0.5), width / 2

    def touching(self, owner: Tensor, index: Tensor, level: int, some: Tensor) -> Tensor:
        """Find the cells of each example that are among ``some``, or touch one of these."""
        size = (len(self.edges) + 1) << level  # room for a neighbour on either side

        def key(owner: Tensor, index: Tensor) -> Tensor:
            result = owner
            for dim in range(self.dims):
                result = result * size + index[..., dim] + 1
            return result

        near = key(owner[some][:, None], index[some][:, None] + self.around)
        return torch.isin(key(owner, index), near)

    def nodes(self, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(cells, nodes, latent_dim)`` and log weights ``(cells, nodes)`` at nodes of cells."""
        u = middle[:, None] + half[:, None] * self.points
        z = self.loc + self.scale * u.sinh()
        log_weights = self.log_weights + half.log().sum(-1, keepdim=True)
        return z, log_weights + (self.scale * u.cosh()).log().sum(-1)


def _batch(mesh: _Mesh, vae: VAE, x: Tensor) -> tuple[Tensor, ...]:
    """log p(x) of each example, its error, mean and covariance of z, and the number of nodes."""
    count = len(x)
    cells = _first(mesh, vae, x)
    center, variance = (part.double() for part in moments(vae.posterior(x)))
    nodes = torch.full((count,), len(mesh.first) * len(mesh.points), device=x.device)
    total = _by_example(cells, count)
    sums = _Sums(count, mesh.dims, x.device)
    tolerance = TOLERANCES.get(x.dtype, 1e-5)
    for level in range(DEEPEST):
        near = _near(mesh, cells, level, center, variance)
        split = near | (cells.log_mass > total[cells.owner] - NEGLIGIBLE)
        split = mesh.touching(cells.owner, cells.position, level, split)
        sums.keep(cells.only(~split))
        cells, near = cells.only(split), near[split]
        if not len(cells.owner):
            break
        halves = _halved(mesh, vae, x, cells, level)
        nodes.index_add_(0, halves.owner, torch.full_like(halves.owner, len(mesh.points)))
        sums.rise(cells)
        sums.rise(halves)
        together = sums.relative(halves).reshape(len(cells.owner), -1).sum(1)
        change = (together - sums.relative(cells)).abs()
        again = near | (change > tolerance * (total - sums.usable).exp()[cells.owner])
        again = mesh.touching(cells.owner, cells.position, level, again)
        crowded = torch.bincount(halves.owner, minlength=count) > MOST
        again &= ~crowded[cells.owner] & (level + 1 < DEEPEST)
        total = torch.logaddexp(sums.log_mass(), _by_example(halves, count))
        sums.error.index_add_(0, cells.owner[~again], change[~again])
        later = again.repeat_interleave(len(mesh.halves))
        sums.keep(halves.only(~later))
        cells = halves.only(later)
    value = sums.log_mass()
    if (value.isnan() | (value == math.inf)).any():
        raise ValueError("p(x) is not finite for some x; look at the likelihood's support")
    error = sums.error / sums.mass + _rounding(mesh, vae, x, sums, nodes)
    return value, error, *sums.moments(), nodes


def _first(mesh: _Mesh, vae: VAE, x: Tensor) -> "_Cells":
    """The cells of the first mesh, for every example."""
    z, log_weights = mesh.nodes(*mesh.place(mesh.first, 0))
    flat = z.flatten(0, 1).to(x)
    parts = [_log_joint(vae, mesh.prior, part[:, None], x) for part in in_chunks(flat, len(x))]
    log_joint = torch.cat(parts)  # (cells * nodes, count)
    terms = log_joint.reshape(*log_weights.shape, len(x)) + log_weights[..., None]
    return _Cells(
        torch.arange(len(x), device=x.device).repeat(len(terms)),
        mesh.first.repeat_interleave(len(x), 0),
        *_sums(terms.movedim(-1, 1).flatten(0, 1), z.repeat_interleave(len(x), 0)),
    )


def _rounding(mesh: _Mesh, vae: VAE, x: Tensor, sums: "_Sums", nodes: Tensor) -> Tensor:
    r"""Rounding error of log p(x), to first order: the mean of :math:`|\delta|` under p(z | x).

    :math:`\delta` is the rounding error of log p(x, z). It has three sources: log p(z) and the
    terms of log p(x | z), which may all round in the same direction; z itself, which matters if the
    peak is narrow; and the decoder. The last two are measured by moving z by its rounding error,
    one dimension at a time: the change is the slope times the move, plus whatever rounds
    differently. The sum over nodes adds an error that grows with the root of their number.
    """
    digits, double = torch.finfo(x.dtype).eps, torch.finfo(torch.float64).eps
    cells = sums.largest
    mass = sums.relative(cells)
    moves = torch.diag(digits * mesh.loc.new_ones(mesh.dims))
    total = torch.zeros_like(sums.mass)
    for some, z, weight in zip(*map(in_chunks, (cells.owner, cells.mean, mass)), strict=True):
        if not len(some):  # no example has any mass
            continue
        at = z.to(x)
        log_joint = _log_joint(vae, mesh.prior, at, x[some])
        terms = observed_log_prob(base(vae.likelihood(at)), x[some]).reshape(len(at), -1)
        off = digits * (mesh.prior.log_prob(at).abs() + terms.abs().sum(1)).double()
        for move in moves:
            moved = (z + move * (mesh.loc.abs() + (z - mesh.loc).abs())).to(x)
            off += (_log_joint(vae, mesh.prior, moved, x[some]) - log_joint).abs()
        off = off.nan_to_num(0.0, 0.0, 0.0)  # a move out of the support
        total.index_add_(0, some, weight * off)
    whole = torch.zeros_like(total).index_add_(0, cells.owner, mass)
    return total / whole + double * (nodes.double().sqrt() + sums.shift.abs())


class _Sums:
    """Sums over the finished cells, relative to the largest cell of each example."""

    def __init__(self, count: int, dims: int, device: torch.device) -> None:
        self.mass, self.error = torch.zeros(2, count, dtype=torch.float64, device=device)
        self.first = self.mass.new_zeros(count, dims)
        self.second = self.mass.new_zeros(count, dims, dims)
        self.shift = torch.full_like(self.mass, -math.inf)  # log mass of the largest cell so far
        none = torch.zeros(0, dims, dtype=torch.long, device=device)
        # those with nearly all of the mass
        self.largest = _Cells(none[:, 0], none, self.mass[:0], self.first[:0], self.second[:0])

    @property
    def usable(self) -> Tensor:
        """The shift, or zero if no cell has mass yet."""
        return torch.where(self.shift == -math.inf, 0.0, self.shift)

    def rise(self, cells: "_Cells") -> None:
        """Make the sums relative to the largest of these cells, if it is larger than before."""
        before = self.usable
        self.shift = self.shift.scatter_reduce(0, cells.owner, cells.log_mass, "amax")
        factor = (before - self.usable).exp()
        for total in (self.mass, self.error, self.first, self.second):
            total *= torch.where(total == 0, 1.0, factor.reshape(-1, *[1] * (total.dim() - 1)))

    def relative(self, cells: "_Cells") -> Tensor:
        return (cells.log_mass - self.usable[cells.owner]).exp()

    def keep(self, done: "_Cells") -> None:
        self.rise(done)
        part = self.relative(done)
        self.mass.index_add_(0, done.owner, part)
        self.first.index_add_(0, done.owner, part[:, None] * done.mean)
        self.second.index_add_(0, done.owner, part[:, None, None] * done.square)
        both = self.largest.joined(done)
        top = torch.full_like(self.mass, -math.inf)
        top = top.scatter_reduce(0, both.owner, both.log_mass, "amax")
        self.largest = both.only(both.log_mass > top[both.owner] + math.log(SHARE))

    def log_mass(self) -> Tensor:
        return self.mass.log() + self.usable

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of p(z | x)."""
        mean = self.first / self.mass[:, None]
        square = self.second / self.mass[:, None, None]
        return mean, square - mean[:, :, None] * mean[:, None, :]


class _Cells(NamedTuple):
    """Cells of several examples, with the mass and moments of p(x, z) in each."""

    owner: Tensor  # the example of each ``(cells,)``
    position: Tensor  # along each dimension ``(cells, latent_dim)``
    log_mass: Tensor
    mean: Tensor  # mean of z under p(x, z) in the cell
    square: Tensor  # mean of z z'

    def only(self, which: Tensor) -> "_Cells":
        return _Cells(*(part[which] for part in self))

    def joined(self, other: "_Cells") -> "_Cells":
        return _Cells(*(torch.cat(parts) for parts in zip(self, other, strict=True)))


def _halved(mesh: _Mesh, vae: VAE, x: Tensor, cells: _Cells, level: int) -> _Cells:
    """Cut each cell in two along every dimension; its parts follow each other."""
    index = (2 * cells.position[:, None] + mesh.halves).flatten(0, 1)
    middle, half = mesh.place(index, level + 1)
    owner = cells.owner.repeat_interleave(len(mesh.halves))
    sums = []
    chunks = (in_chunks(each, len(mesh.points)) for each in (owner, middle, half))
    for some, m, h in zip(*chunks, strict=True):
        z, log_weights = mesh.nodes(m, h)
        log_joint = _log_joint(vae, mesh.prior, z.to(x), x[some][:, None])
        sums.append(_sums(log_joint + log_weights, z))
    return _Cells(owner, index, *(torch.cat(part) for part in zip(*sums, strict=True)))


def _sums(terms: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log mass of each cell and the first two moments of z in it, from its nodes."""
    log_mass = terms.logsumexp(1)
    share = (terms - log_mass[:, None]).exp().nan_to_num(0.0)  # 0 / 0 in a cell without mass
    mean = (share[..., None] * z).sum(1)
    square = torch.einsum("cn,cni,cnj->cij", share, z, z)
    return log_mass, mean, square


def _by_example(cells: _Cells, count: int) -> Tensor:
    """Logarithm of the total mass of each example's cells."""
    log_mass = cells.log_mass
    largest = log_mass.new_full((count,), -math.inf)
    largest = largest.scatter_reduce(0, cells.owner, log_mass, "amax")
    usable = torch.where(largest.isfinite(), largest, 0.0)
    mass = (log_mass - usable[cells.owner]).exp()
    return torch.zeros_like(usable).index_add_(0, cells.owner, mass).log() + usable


def _near(mesh: _Mesh, cells: _Cells, level: int, center: Tensor, variance: Tensor) -> Tensor:
    """Find the cells that are wider than q(z | x) and touch its bulk."""
    middle, half = mesh.place(cells.position, level)
    low, high = (mesh.loc + mesh.scale * (middle + sign * half).sinh() for sign in (-1, 1))
    scale = torch.where(variance.isfinite(), variance, 0.0).sqrt()[cells.owner]
    loc = center[cells.owner]
    touching = ((low < loc + NEAR * scale) & (high > loc - NEAR * scale)).all(-1)
    wide = ((high - low) > 2 * scale).any(-1) & (scale > 0).all(-1)
    return touching & wide
