r"""log p(x) and p(z | x) by integration over z, in one and two dimensions.

.. math:: p(x) = \int p(z) \, p(x \mid z) \, dz

Each dimension is mapped by :math:`z = m + s \sinh u`, with m and s the mean and standard deviation
of the prior, so that a mesh of cells in u reaches all of z that floating-point numbers tell apart.
All examples share the first mesh, which no peak wider than about a hundredth of s falls through.
Cells are halved where their halves together differ from the whole, and around q(z | x) until they
are no wider than it; so are those that touch them, where the rest of a narrow peak may lie.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrovae._process.isolation import evaluating, isolated
from pyrovae.distributions import is_point, is_real, moments
from pyrovae.evidence.lower_bounds import Evidence
from pyrovae.vae import VAE

__all__ = ["integrated", "posterior_density"]

EXAMPLES = 20  # at a time
ROWS = 8_000  # values of z times examples at a time
NODES = 5  # of Gauss and Legendre in each dimension of a cell
EDGES = (*np.arange(0, 3, 0.25).tolist(), 3.0, 4.0, 6.0, 10.0, 28.0)  # of the first mesh, in u
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # of a cell, as a part of the integral
NEGLIGIBLE = 35.0  # nats below the integral, a cell is left as it is
DEEPEST = 22  # halvings
MOST = 20_000  # cells of one level for each example
FAR = -100.0  # log p(z), below which a likelihood that is no number counts as zero
NEAR = 3.0  # standard deviations around q's mean
KIND = "exact to the error of integration"


@torch.no_grad()
def integrated(
    vae: VAE,
    x: Tensor,
    *,
    samples: int | None = None,
    seed: int = 0,
    advance: Callable[[float], None] | None = None,
) -> Evidence:
    """log p(x) by adaptive quadrature, for a real z of one or two dimensions.

    Args:
        vae: dropout and the like are switched off meanwhile.
        x: data ``(examples, *event_shape)``.
        samples: None, as nothing is sampled.
        seed: of the draws that say where a prior or posterior without a formula for it lies.
        advance: told how many examples are done.

    Returns:
        log p(x); in place of standard errors the sum, over all cells, of what changed when a cell
        was last halved, relative to the integral, and of the rounding of a number of that size:
        nearly always much more than the error that is left. ``details``:
        ``mean`` ``(examples, latent_dim)`` and ``covariance`` of p(z | x), and ``nodes``, how many
        values of z were taken for each example.

    Raises:
        ValueError: if ``samples`` is given, z is not a real vector of one or two dimensions, or
            p(x | z) is not a number at a z with log p(z) above ``FAR``.
    """
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
                if advance is not None:
                    advance(len(batch))
    value, error, mean, covariance, nodes = (
        torch.cat(columns).cpu() for columns in zip(*parts, strict=True)
    )
    details = {"mean": mean, "covariance": covariance, "nodes": nodes}
    return Evidence(value, error, KIND, None, details)


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
    """p(z | x) on a grid, normalised, for pictures and sums.

    Args:
        vae: of a z of one or two dimensions.
        x: data ``(examples, *event_shape)``.
        evidence: of these, as :func:`integrated` gives it.
        points: of the grid in each dimension.
        deviations: standard deviations of p(z | x) on either side of its mean.
        axes: grids of one's own instead ``(examples, latent_dim, points)``.

    Returns:
        The axes ``(examples, latent_dim, points)``, and the density ``(examples, points)`` or
        ``(examples, points, points)``, the first dimension of z first.
    """
    _check(vae)
    if axes is None:
        mean, covariance = evidence.details["mean"], evidence.details["covariance"]
        reach = deviations * covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        axes = mean[..., None] + reach[..., None] * torch.linspace(-1, 1, points).to(mean)
    found = []
    with torch.random.fork_rng(), evaluating(vae), pyro.validation_enabled(False):
        p = vae.prior()
        for one, grid, log_evidence in zip(x, axes, evidence.log_evidence, strict=True):
            z = torch.stack(torch.meshgrid(*grid, indexing="ij"), -1)
            rows = vae.place(z).flatten(0, -2)
            log_joint = torch.cat(
                [_log_joint(vae, p, part, vae.place(one)) for part in rows.split(ROWS)]
            )
            found.append((log_joint.cpu() - log_evidence).exp().reshape(z.shape[:-1]))
    return axes, torch.stack(found)


def _check(vae: VAE) -> None:
    with torch.random.fork_rng(), evaluating(vae):
        p = vae.prior()
    if not is_real(p) or is_point(p):
        raise ValueError(
            f"quadrature is over real z, and the prior {type(vae.prior).__name__} is over others; "
            "use the method iw, or exact for a categorical prior"
        )
    if vae.latent_dim > 2:
        raise ValueError(
            f"quadrature takes one or two latent dimensions, and z has {vae.latent_dim}; use the "
            "method iw or ais"
        )


def _log_joint(vae: VAE, p: Any, z: Tensor, x: Tensor) -> Tensor:
    log_joint = vae.log_joint(x, z, prior=p, dtype=torch.float64)
    undefined = log_joint.isnan()
    far = undefined & (p.log_prob(z) < FAR)  # where a decoder has overflowed
    log_joint, undefined = log_joint.masked_fill(far, -math.inf), undefined & ~far
    if undefined.any():
        where = z.expand(*log_joint.shape, z.shape[-1])[undefined][0].tolist()
        raise ValueError(
            f"log p(x, z) is not a number at z = {where}; look for what overflows in the decoder "
            "or the likelihood there"
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
        points, weights = (
            torch.from_numpy(part).to(edges) for part in np.polynomial.legendre.leggauss(NODES)
        )
        self.points = self.product(points)  # (nodes, latent_dim)
        self.log_weights = self.product(weights.log()).sum(-1)
        self.first = self.product(torch.arange(len(self.edges) - 1, device=mean.device))
        self.halves = self.product(torch.tensor([0, 1], device=mean.device))
        self.around = self.product(torch.tensor([-1, 0, 1], device=mean.device))

    def product(self, values: Tensor) -> Tensor:
        """All vectors of these values, one for each dimension of z."""
        grid = torch.meshgrid(*[values] * self.dims, indexing="ij")
        return torch.stack(grid, -1).reshape(-1, self.dims)

    def place(self, index: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Middle and half width in u of cells, by their place along each dimension."""
        first, part = index >> level, index & ((1 << level) - 1)
        width = self.edges.diff()[first] / (1 << level)
        return self.edges[first] + width * (part + 0.5), width / 2

    def touching(self, owner: Tensor, index: Tensor, level: int, some: Tensor) -> Tensor:
        """Which cells of an example are among some of them, or touch one."""
        size = (len(self.edges) + 1) << level  # room for a neighbour on either side

        def key(owner: Tensor, index: Tensor) -> Tensor:
            result = owner
            for dim in range(self.dims):
                result = result * size + index[..., dim] + 1
            return result

        near = key(owner[some][:, None], index[some][:, None] + self.around)
        return torch.isin(key(owner, index), near)

    def nodes(self, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """z and log weights at the nodes of cells, ``(cells, nodes, latent_dim)`` without dim."""
        u = middle[:, None] + half[:, None] * self.points
        z = self.loc + self.scale * u.sinh()
        log_weights = self.log_weights + half.log().sum(-1, keepdim=True)
        return z, log_weights + (self.scale * u.cosh()).log().sum(-1)

    def extent(self, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of cells in z."""
        return tuple(  # type: ignore[return-value]
            self.loc + self.scale * (middle + sign * half).sinh() for sign in (-1, 1)
        )


def _batch(mesh: _Mesh, vae: VAE, x: Tensor) -> tuple[Tensor, ...]:
    """For each example log p(x), its error, mean and covariance of z, and the number of nodes."""
    count, dims = len(x), mesh.dims
    z, log_weights = mesh.nodes(*mesh.place(mesh.first, 0))
    flat = z.flatten(0, 1).to(x)
    size = max(1, ROWS // count)
    log_joint = torch.cat(
        [_log_joint(vae, mesh.prior, part[:, None], x) for part in flat.split(size)]
    )  # (cells * nodes, count)
    terms = log_joint.reshape(*log_weights.shape, count) + log_weights[..., None]
    owner = torch.arange(count, device=x.device).repeat(len(terms))
    cells = _Cells(
        owner,
        mesh.first.repeat_interleave(count, 0),
        *_sums(terms.movedim(-1, 1).flatten(0, 1), z.repeat_interleave(count, 0)),
    )
    centre, variance = (part.double() for part in moments(vae.posterior(x)))
    total = _by_example(cells, count, cells.log_mass)
    shift = total  # to which sums are relative
    if not shift.isfinite().all():
        raise ValueError("p(x) is zero or not finite for some x; look at the likelihood's support")
    mass, error = torch.zeros(2, count, dtype=torch.float64, device=x.device)
    first, second = mass.new_zeros(count, dims), mass.new_zeros(count, dims, dims)
    nodes = torch.full((count,), flat.shape[0], device=x.device)
    tolerance = TOLERANCES.get(x.dtype, 1e-5)

    def keep(done: "_Cells") -> None:
        part = (done.log_mass - shift[done.owner]).exp()
        mass.index_add_(0, done.owner, part)
        first.index_add_(0, done.owner, part[:, None] * done.mean)
        second.index_add_(0, done.owner, part[:, None, None] * done.square)

    for level in range(DEEPEST):
        near = _near(mesh, cells, level, centre, variance)
        split = near | (cells.log_mass > total[cells.owner] - NEGLIGIBLE)
        split = mesh.touching(cells.owner, cells.index, level, split)
        keep(cells.only(~split))
        cells = cells.only(split)
        if not len(cells.owner):
            break
        near = near[split]
        halves = _halved(mesh, vae, x, cells, level)
        nodes.index_add_(0, halves.owner, torch.full_like(halves.owner, len(mesh.points)))
        together = halves.log_mass.reshape(len(cells.owner), -1).logsumexp(1)
        reference = total[cells.owner]
        change = ((together - reference).exp() - (cells.log_mass - reference).exp()).abs()
        current = mass.log() + shift
        total = torch.logaddexp(current, _by_example(halves, count, halves.log_mass))
        again = near | ~(change <= tolerance)
        again = mesh.touching(cells.owner, cells.index, level, again)
        crowded = torch.bincount(halves.owner, minlength=count) > MOST
        if level + 1 == DEEPEST:
            again = torch.zeros_like(again)
        again &= ~crowded[cells.owner]
        relative = change * (reference - total[cells.owner]).exp()
        error.index_add_(0, cells.owner, torch.where(again, 0.0, relative))
        later = again.repeat_interleave(len(mesh.halves))
        keep(halves.only(~later))
        cells = halves.only(later)
    mean = first / mass[:, None]
    covariance = second / mass[:, None, None] - mean[:, :, None] * mean[:, None, :]
    value = mass.log() + shift
    return value, error + torch.finfo(x.dtype).eps * value.abs(), mean, covariance, nodes


class _Cells:
    """Cells of several examples, with what p(x, z) has in them."""

    def __init__(
        self,
        owner: Tensor,  # which example each is of ``(cells,)``
        index: Tensor,  # their places along each dimension ``(cells, latent_dim)``
        log_mass: Tensor,
        mean: Tensor,  # of z under p(x, z) there
        square: Tensor,  # the mean of z z'
    ) -> None:
        self.owner, self.index = owner, index
        self.log_mass, self.mean, self.square = log_mass, mean, square

    def only(self, which: Tensor) -> "_Cells":
        parts = (self.owner, self.index, self.log_mass, self.mean, self.square)
        return _Cells(*(part[which] for part in parts))


def _halved(mesh: _Mesh, vae: VAE, x: Tensor, cells: _Cells, level: int) -> _Cells:
    """Each cell cut in two along every dimension: its parts one after the other."""
    index = (2 * cells.index[:, None] + mesh.halves).flatten(0, 1)
    middle, half = mesh.place(index, level + 1)
    owner = cells.owner.repeat_interleave(len(mesh.halves))
    sums = []
    size = max(1, ROWS // len(mesh.points))
    for some, m, h in zip(owner.split(size), middle.split(size), half.split(size), strict=True):
        z, log_weights = mesh.nodes(m, h)
        log_joint = _log_joint(vae, mesh.prior, z.to(x), x[some][:, None])
        sums.append(_sums(log_joint + log_weights, z))
    return _Cells(owner, index, *(torch.cat(part) for part in zip(*sums, strict=True)))


def _sums(terms: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithm of a cell's mass, and its first two moments, from its nodes."""
    log_mass = terms.logsumexp(1)
    share = (terms - log_mass[:, None]).exp().nan_to_num(0.0)  # of a cell without mass
    mean = (share[..., None] * z).sum(1)
    square = torch.einsum("cn,cni,cnj->cij", share, z, z)
    return log_mass, mean, square


def _by_example(cells: _Cells, count: int, log_mass: Tensor) -> Tensor:
    """The logarithm of the sum of the masses of each example's cells."""
    largest = log_mass.new_full((count,), -math.inf)
    largest = largest.scatter_reduce(0, cells.owner, log_mass, "amax")
    usable = torch.where(largest.isfinite(), largest, 0.0)
    sums = torch.zeros_like(usable).index_add_(
        0, cells.owner, (log_mass - usable[cells.owner]).exp()
    )
    return sums.log() + usable


def _near(mesh: _Mesh, cells: _Cells, level: int, centre: Tensor, variance: Tensor) -> Tensor:
    """Which cells are wider than q(z | x) and touch where it lies."""
    low, high = mesh.extent(*mesh.place(cells.index, level))
    scale = torch.where(variance.isfinite(), variance, 0.0).sqrt()[cells.owner]
    loc = centre[cells.owner]
    touching = ((low < loc + NEAR * scale) & (high > loc - NEAR * scale)).all(-1)
    wide = ((high - low) > 2 * scale).any(-1) & (scale > 0).all(-1)
    return touching & wide
