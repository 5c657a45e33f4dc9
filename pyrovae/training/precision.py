r"""Matrix products in bfloat16, which take half the bytes and use the tensor cores of a GPU.

A bfloat16 has the range of a float32 and eight bits of precision. That is enough for the products
of a network, whose sums are kept in float32. It is far too little for a log-density, which sums
hundreds of terms and is compared with others to a tenth of a nat. Therefore only encoder and
decoder compute in bfloat16, and they return float32. Likelihood, prior, KL term, gradients of
weights, weights and their moments are all float32.

References:
    Micikevicius et al. (2018), Mixed Precision Training, arXiv:1710.03740
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PRECISIONS"]

PRECISIONS = ("float32", "bf16")
"""Precisions of the matrix products of encoder and decoder."""


@contextlib.contextmanager
def products_in(precision: str, module: nn.Module) -> Iterator[None]:
    """A block in which encoders and decoders compute at a precision; outputs keep their dtype.

    Args:
        precision: one of ``PRECISIONS``.
        module: a VAE, or one of its parts.

    Raises:
        ValueError: if the module has neither encoder nor decoder.
    """
    if precision == "float32":
        yield
        return
    names = ("encoder", "decoder")
    changed = [part for name, part in module.named_modules() if name.split(".")[-1] in names]
    if not changed:
        raise ValueError(
            "precision bf16 applies to networks called encoder or decoder, and this model has none "
            "by these names; rename its networks, or leave precision at float32"
        )
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
