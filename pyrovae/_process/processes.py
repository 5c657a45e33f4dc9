r"""Several processes that work as one: which of them this is, sums over all, who speaks for them.

``torchrun --nproc-per-node N`` starts a command N times and tells each process its number. Inside
of :func:`joined` they exchange tensors, and wait for each other where they do. If one stops, the
exchange ends in the others with a :class:`StoppedError`, and so they stop too.

A process that is alone joins nothing: sums are the tensors themselves, and torch.distributed is not
imported.
"""

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "StoppedError",
    "command",
    "count",
    "from_first",
    "is_first",
    "joined",
    "leave",
    "local_rank",
    "rank",
    "stop",
    "summed",
    "text_of_first",
    "wait",
]

WORDS_SECONDS = 5.0  # to wait for another process to say why all stop


class StoppedError(RuntimeError):
    """Another process is gone, so that this one cannot go on."""


@dataclass(frozen=True)
class _Group:
    rank: int
    count: int
    store: Any


_group: _Group | None = None
_groups = itertools.count()
_has_joined = False  # others, at some time


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """A block in which the processes that torchrun started work as one.

    It may be entered again inside of itself. Every process enters it, and makes the same calls of
    this module's functions in the same order. The package's command line is inside of it; a script
    of one's own enters it around :func:`pyrovae.fit` and :func:`pyrovae.evaluate`.

    Raises:
        StoppedError: if not all processes arrive.
    """
    global _group, _has_joined
    if _group is not None or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    gpus = torch.cuda.device_count() if dist.is_nccl_available() else 0
    if local_rank() < gpus:
        torch.cuda.set_device(local_rank())
    try:
        store, rank, count = _meeting()
        # what an earlier group left in the store are addresses that nobody answers any more
        group_store = PrefixStore(f"group {next(_groups)}", store)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise StoppedError(
            "the processes of this run do not find each other "
            f"({str(error).partition(chr(10))[0]}); start all of them with torchrun"
        ) from error
    _group, _has_joined = _Group(rank, count, store), True
    try:
        yield
    finally:
        _group = None
        dist.destroy_process_group()


@functools.cache
def _meeting() -> tuple[Any, int, int]:
    """Where processes leave messages for each other; it outlives a group. Rank and count."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://"))
    return store, rank, count


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _group is None else _group.rank


def count() -> int:
    """How many processes there are."""
    return 1 if _group is None else _group.count


def is_first() -> bool:
    """Whether this is the process that writes, prints and shows progress for all."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process among those of its machine: also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def command() -> str:
    """How ``pyrovae`` is started with as many processes as now, for messages."""
    if _group is None:
        return "pyrovae"
    here = os.environ.get("LOCAL_WORLD_SIZE", str(_group.count))
    return f"torchrun --standalone --nproc-per-node {here} -m pyrovae"


def summed(tensors: Sequence["Tensor"]) -> list["Tensor"]:
    """The sum of each tensor over all processes, the same to the bit in each of them.

    Args:
        tensors: of the same shapes, dtypes and devices in every process, in the same order; those
            of one dtype and device travel together.

    Returns:
        New tensors; alone, those given.

    Raises:
        StoppedError: if another process is gone.
    """
    if _group is None:
        return list(tensors)
    import torch
    import torch.distributed as dist

    sums = list(tensors)
    kinds = dict.fromkeys((t.dtype, t.device) for t in tensors)
    for kind in kinds:
        places = [i for i, t in enumerate(tensors) if (t.dtype, t.device) == kind]
        flat = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        with _connected():
            dist.all_reduce(flat)
        parts = flat.split([tensors[i].numel() for i in places])
        for i, part in zip(places, parts, strict=True):
            sums[i] = part.view(tensors[i].shape)
    return sums


def from_first(tensors: Sequence["Tensor"]) -> None:
    """Overwrite tensors by those of the first process.

    Args:
        tensors: of the same shapes and dtypes in every process, in the same order.

    Raises:
        StoppedError: if another process is gone.
    """
    if _group is None:
        return
    import torch.distributed as dist

    for tensor in tensors:
        value = tensor.detach().contiguous()
        with _connected():
            dist.broadcast(value, 0)
        tensor.detach().copy_(value)


def text_of_first(text: str) -> str:
    """What the first process calls it with.

    Args:
        text: of no matter in the others.

    Raises:
        StoppedError: if another process is gone.
    """
    if _group is None:
        return text
    import torch

    size = torch.tensor(len(text.encode()))
    from_first([size])
    letters = torch.zeros(int(size), dtype=torch.uint8)
    if is_first():
        letters = torch.tensor(list(text.encode()), dtype=torch.uint8)
    from_first([letters])
    return bytes(letters.tolist()).decode()


def wait() -> None:
    """Go on when all processes are here.

    Raises:
        StoppedError: if another process is gone.
    """
    if _group is None:
        return
    import torch

    summed([torch.zeros(1)])


def stop(say: Callable[[], None], status: int) -> int:
    """Say why this process stops, unless another has said why all do.

    Args:
        say: called in the process that is the first to stop.
        status: the exit status that belongs to it.

    Returns:
        The exit status of all: that of the process that spoke.
    """
    if _group is None:
        say()
        return status
    store = _group.store
    try:
        if store.add("stopped", 1) > 1:
            store.wait(["status"], timedelta(seconds=WORDS_SECONDS))
            return int(store.get("status"))
    except RuntimeError:  # the store is gone with its process, or that was killed as it spoke
        return status
    say()
    store.set("status", str(status))
    return status


def leave(status: int) -> NoReturn:
    """End this process when nothing is left to be done.

    One that was joined with others does not take its connections down: where an exchange broke off
    that can abort, and the exit status would be another.

    Args:
        status: of the exit.
    """
    if _has_joined:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StoppedError(
            "another process of this run is gone: it was killed, or its machine is; start all of "
            "them again"
        ) from error
