"""Weighted draws of z: their moments, and draws without weights by resampling."""

import torch
from torch import Tensor

from pyrovae.evidence.outliers import possible

__all__ = ["resampled", "weighted_moments"]


def weighted_moments(z: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean of weighted draws and a Cholesky factor of their covariance.

    The fewer draws there are per dimension, the closer the covariance is to its diagonal.

    Args:
        z, log_w: weighted draws, as :func:`adapted` returns them.

    Returns:
        The mean ``(examples, latent_dim)`` and the factor ``(examples, latent_dim, latent_dim)``.

    Example:
        >>> loc, tril = weighted_moments(torch.randn(100, 3, 2), torch.zeros(100, 3))
        >>> loc.shape, tril.shape
        (torch.Size([3, 2]), torch.Size([3, 2, 2]))
    """
    w = possible(log_w).softmax(0).unsqueeze(-1).to(z)
    loc = (w * z).sum(0)
    apart = z - loc
    covariance = torch.einsum("kbi,kbj->bij", w * apart, apart)
    dimensions = z.shape[-1]
    shrunk = dimensions / (dimensions + 1 / w.square().sum(0))  # (examples, 1)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    tiny = 1e-6 * diagonal.mean(-1, keepdim=True) + torch.finfo(z.dtype).tiny
    mixed = (1 - shrunk).unsqueeze(-1) * covariance + torch.diag_embed(shrunk * diagonal + tiny)
    return loc, torch.linalg.cholesky(mixed)


def resampled(z: Tensor, log_w: Tensor, count: int) -> Tensor:
    """Resample draws by their weights, with replacement.

    Args:
        z, log_w: weighted draws, as :func:`adapted` returns them.
        count: number of draws to take for each example.

    Returns:
        The draws taken ``(count, examples, latent_dim)``.

    Example:
        >>> resampled(torch.randn(100, 3, 2), torch.zeros(100, 3), 5).shape
        torch.Size([5, 3, 2])
    """
    index = possible(log_w).T.softmax(-1).multinomial(count, replacement=True).T
    return z.take_along_dim(index.unsqueeze(-1), 0)
