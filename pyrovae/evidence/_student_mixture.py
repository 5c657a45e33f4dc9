"""Mixtures of multivariate Student t distributions, one mixture for each example."""

import math

import torch
from pyro import distributions as dist
from torch import Tensor

__all__ = ["DEGREES", "StudentMixture", "mahalanobis"]

DEGREES = 5.0  # of freedom, of every component


def mahalanobis(apart: Tensor, tril: Tensor) -> Tensor:
    """Squared lengths of vectors in units of a Cholesky factor, for many vectors of each factor.

    Args:
        apart: vectors ``(..., draws, latent_dim)``.
        tril: factors ``(..., latent_dim, latent_dim)``, which are inverted once.

    Returns:
        The squared lengths ``(..., draws)``.
    """
    unit = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
    inverse = torch.linalg.solve_triangular(tril, unit.expand_as(tril), upper=False)
    return (apart @ inverse.mT).square().sum(-1)


class StudentMixture:
    r"""The mixture :math:`\sum_c \alpha_c \, t_\nu(z \mid m_c, V_c)` of each example.

    Components are gone through one by one, so that no array has an axis of both draws and
    components beside that of z.

    Args:
        loc: :math:`m_c`, ``(examples, components, latent_dim)``.
        tril: Cholesky factors of :math:`V_c`, ``(examples, components, latent_dim, latent_dim)``.
        share: :math:`\alpha_c`, ``(examples, components)``.
    """

    def __init__(self, loc: Tensor, tril: Tensor, share: Tensor) -> None:
        self.loc, self.tril, self.share = loc, tril, share
        self.batch_shape = loc.shape[:1]

    def sample(self, shape: torch.Size) -> Tensor:
        """Draws of z ``(*shape, examples, latent_dim)``."""
        draws, (examples, components, dimensions) = shape.numel(), self.loc.shape
        which = torch.multinomial(self.share, draws, replacement=True)  # (examples, draws)
        normal = torch.randn_like(self.loc[:, :1].expand(-1, draws, -1))
        degrees = self.loc.new_full((examples, draws, 1), DEGREES)
        student = normal * (dist.Chi2(degrees).sample() / DEGREES).rsqrt()
        z = torch.zeros_like(student)
        for c in range(components):
            moved = self.loc[:, c, None] + student @ self.tril[:, c].mT
            z = torch.where((which == c).unsqueeze(-1), moved, z)
        return z.transpose(0, 1).reshape(*shape, examples, dimensions)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log densities ``(..., examples)`` of z ``(..., examples, latent_dim)``."""
        examples, components, dimensions = self.loc.shape
        flat = z.reshape(-1, examples, dimensions).transpose(0, 1)  # (examples, draws, latent_dim)
        size = self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (examples, components)
        constant = (
            math.lgamma((DEGREES + dimensions) / 2)
            - math.lgamma(DEGREES / 2)
            - dimensions / 2 * math.log(DEGREES * math.pi)
        )
        parts = []
        for c in range(components):
            apart = flat - self.loc[:, c, None]
            far = torch.log1p(mahalanobis(apart, self.tril[:, c]) / DEGREES)
            start = constant + self.share[:, c].log() - size[:, c]
            parts.append(start.unsqueeze(-1) - (DEGREES + dimensions) / 2 * far)
        return torch.stack(parts).logsumexp(0).T.reshape(z.shape[:-1])
