r"""Matrix products in bfloat16: half the bytes, and the tensor cores of a GPU.

A bfloat16 has the range of a float32 and eight bits of precision. Enough for the products of a
network, whose sums are kept in float32; far too few for a log-density, which sums hundreds of terms
and is compared with others to a tenth of a nat. So encoder and decoder alone compute like this, and
what they return is float32 again: likelihood, prior, KL term and gradients of weights never see
less. Weights and their moments stay float32 as well.

References:
    Micikevicius et al. (2018), Mixed Precision Training, arXiv:1710.03740
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PRECISIONS", "networks", "products_in"]

PRECISIONS = ("float32", "bf16")
"""Of the matrix products of encoder and decoder."""

NETWORKS = ("encoder", "decoder")


def networks(module: nn.Module) -> list[nn.Module]:
    """The encoders and decoders of a VAE: its submodules of that name.

    Args:
        module: a VAE, or one of its parts.

    Raises:
        ValueError: if there is none.
    """
    found = {
        id(part): part for name, part in module.named_modules() if name.split(".")[-1] in NETWORKS
    }
    if not found:
        raise ValueError(
            "precision bf16 is of the products of networks, and this model has none by the name "
            "encoder or decoder; give its networks these names, or leave precision at float32"
        )
    return list(found.values())


@contextlib.contextmanager
def products_in(precision: str, module: nn.Module) -> Iterator[None]:
    """A block in which encoders and decoders compute at a precision; they return what they did.

    Args:
        precision: one of ``PRECISIONS``.
        module: a VAE, or one of its parts.

    Raises:
        ValueError: if the module has neither encoder nor decoder.
    """
    if precision == "float32":
        yield
        return
    changed = networks(module)
    for network in changed:
        network.forward = functools.partial(_in_bf16, network.forward)
    try:
        yield
    finally:
        for network in changed:
            del network.forward


def _in_bf16(forward: Callable[[Tensor], Any], x: Tensor) -> Any:
    with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
        out = forward(x)
    return out.to(x.dtype)
