"""What the priors here share: a fixed center, and checks of options."""

import torch
from torch import Tensor, nn

__all__ = ["Centered", "positive"]


class Centered(nn.Module):
    """A prior centered at a fixed zero, a buffer that keeps the device and dtype."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        positive("latent_dim", latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)


def positive(name: str, value: float, remedy: str = "") -> None:
    """Refuse a number that is not positive."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}" + (remedy and f"; {remedy}"))
