"""What the priors here share: a fixed center, and checks of options."""

import torch
from torch import Tensor, nn

__all__ = ["Centered", "one_of", "positive"]


class Centered(nn.Module):
    """A prior centered at a fixed zero, a buffer that keeps the device and dtype."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        positive("latent_dim", latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def positive(name: str, value: float, remedy: str = "") -> None:
    """Refuse a number that is not positive."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}" + (remedy and f"; {remedy}"))
