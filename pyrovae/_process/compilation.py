"""Graphs of tensor operations: tracing a function, compiling the trace, comparing the two.

``make_fx`` lives in ``torch.fx.experimental``, which may move between releases of torch. It is
imported when a function is traced, so that whoever asks for a graph can catch the failure like any
other and run the function as written.
"""

import importlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule


def has_compiler() -> bool:
    """Whether there is a C++ compiler for inductor to use."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def traced(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    """Record the tensor operations of a function, from a run on tensors without values.

    Random draws are operations too, so that each call of the graph draws anew.

    Args:
        function: of tensors, to a tuple of tensors. Tensors it closes over become constants.
        inputs: only their shapes, dtypes and devices matter.

    Returns:
        A graph with the same arguments.

    Raises:
        Exception: whatever ``make_fx`` raises for a function whose operations depend on values, and
            ImportError where torch no longer has ``make_fx``.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    # torch warns of its own code while it traces or compiles
    with pyro.validation_enabled(False), warnings.catch_warnings(action="ignore"):
        trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
        graph: GraphModule = trace(*inputs)
    return graph


def is_traced() -> bool:
    """Whether operations are being recorded; then no branch may depend on their values."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def compiled(graph: GraphModule) -> Callable[..., Any]:
    """Compile a graph with inductor, for the shapes it was traced with.

    Random numbers come from torch's own generator, so a seed means the same as elsewhere.

    Args:
        graph: as :func:`traced` returns it.

    Returns:
        A function with the same arguments; it is compiled at the first call.
    """
    from torch import _inductor as inductor  # without dynamo, which a graph does not need

    extension = "torch.utils.cpp_extension"  # logs a missing CUDA, which does not matter here
    logger = logging.getLogger(extension)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        importlib.import_module(extension)
    finally:
        logger.setLevel(level)
    result: Callable[..., Any] | None = None

    def call(*inputs: Tensor) -> Any:
        nonlocal result
        if result is None:
            options = {"fallback_random": True}
            on_gpu = any(tensor.is_cuda for tensor in inputs)
            if on_gpu and hasattr(inductor.config, "deterministic"):
                options["deterministic"] = True  # never choose between kernels by timing them
            with warnings.catch_warnings(action="ignore"):
                result = inductor.compile(graph, list(inputs), options=options)
        return result(*inputs)

    return call


def side_by_side(
    function: Callable[[Sequence[Tensor]], Any],
    graph: Callable[[Sequence[Tensor]], Any],
    inputs: Sequence[Tensor],
) -> Iterator[tuple[Any, Any]]:
    """Run a function and its graph under two seeds, the second time on another order of the batch.

    Args:
        function: of a sequence of tensors.
        graph: of the same sequence.
        inputs: tensors ``(batch, ...)``.

    Yields:
        What the function returned, and what the graph returned.
    """
    for seed in (0, 1):
        data = [x.roll(seed, 0) if x.dim() else x for x in inputs]
        torch.manual_seed(seed)
        expected = function(data)
        torch.manual_seed(seed)
        yield expected, graph(data)


def in_one_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
