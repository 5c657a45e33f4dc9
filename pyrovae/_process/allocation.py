r"""Tensors of a new component, refused before they are made if memory cannot hold them."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from pyrovae._process.memory import check_memory

MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
"""Functions that make a tensor of a given size, which is their first argument."""

MOST = 5_000  # tensors that one component makes

LARGE = 10_000  # a number among the arguments from which memory is looked at

P = ParamSpec("P")
S = TypeVar("S")


class _Rehearsal(TorchFunctionMode):
    """A block in which new tensors are only counted, and have no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.size, self.largest = 0, 0, (0,)

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        if function not in MAKERS:
            return function(*arguments, **(options or {}))
        first, *rest = arguments
        shape = tuple(first) if isinstance(first, tuple | list) else tuple(arguments)
        if shape == arguments:
            rest = []
        self.count += 1
        if self.count > MOST:
            raise ValueError(f"a component of more than {MOST:,} tensors is too large")
        self.size += 4 * math.prod(shape)
        self.largest = max(self.largest, shape, key=math.prod)
        small = [min(length, 1) for length in shape]
        return function(small, *rest, **(options or {}) | {"device": "meta"})


def within_memory(
    constructor: Callable[Concatenate[S, P], None],
) -> Callable[Concatenate[S, P], None]:
    """Refuse tensors that memory cannot hold, in the constructor of a module.

    Args:
        constructor: ``__init__`` of a class. With large numbers among its arguments it is rehearsed
            first, on an object that is thrown away.

    Raises:
        ValueError: when called, if the tensors that it makes need more memory than there is.
    """

    @functools.wraps(constructor)
    def checked(self: S, /, *arguments: P.args, **options: P.kwargs) -> None:
        name = type(self).__name__
        if any(map(_is_large, (*arguments, *options.values()))):
            rehearsal = _Rehearsal()
            with rehearsal, contextlib.suppress(RuntimeError):  # not all works without numbers
                constructor(object.__new__(type(self)), *arguments, **options)
            what = f"{name}, with a tensor of shape {rehearsal.largest},"
            check_memory(what, rehearsal.size, "make it smaller")
        try:
            constructor(self, *arguments, **options)
        except RuntimeError as error:
            if not is_of_memory(error):
                raise
            reason = str(error).partition("Allocator: ")[2].partition(". Error")[0]
            raise ValueError(f"{name} needs more memory than there is: {reason}") from error

    return checked


def is_of_memory(error: Exception) -> bool:
    """Whether an error of Python or of torch says that there is no memory left."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def _is_large(argument: Any) -> bool:
    if isinstance(argument, tuple | list):
        return any(map(_is_large, argument))
    return isinstance(argument, int) and argument >= LARGE
