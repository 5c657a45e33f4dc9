"""Graphs of tensor operations: whether and how they are compiled, and in words why not."""

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule

__all__ = ["compiled", "has_compiler", "in_one_line"]


def has_compiler() -> bool:
    """Whether there is a C++ compiler for inductor to use."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def compiled(graph: GraphModule) -> Callable[..., Any]:
    """A graph compiled by inductor, for the shapes that it was traced with.

    Random numbers come from torch's own generator, so that a seed means what it means elsewhere.

    Args:
        graph: as ``make_fx`` writes it.

    Returns:
        A function of the same arguments; it is compiled at the first call.
    """
    result: Any = torch.compile(graph, dynamic=False, options={"fallback_random": True})
    return result


def in_one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
