"""Graphs of tensor operations: whether and how they are compiled, and in words why not."""

import contextlib
import importlib
import logging
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
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
    from torch import _inductor as inductor  # past dynamo, which a graph has no need of

    with _quiet("torch.utils.cpp_extension"):  # it tells of CUDA, which is of no matter here
        importlib.import_module("torch.utils.cpp_extension")
    result: Callable[..., Any] | None = None

    def call(*inputs: Tensor) -> Any:
        nonlocal result
        if result is None:
            options = {"fallback_random": True}
            if any(tensor.is_cuda for tensor in inputs) and hasattr(
                inductor.config, "deterministic"
            ):
                options["deterministic"] = True  # choose by no clock between ways to compute
            result = inductor.compile(graph, list(inputs), options=options)
        return result(*inputs)

    return call


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger from telling of less than an error, for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def in_one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
