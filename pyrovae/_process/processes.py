r"""Several processes that work as one: their numbers, sums over all, and the one that prints.

``torchrun --nproc-per-node N`` starts a command N times and gives each process a number. Inside
:func:`joined` the processes exchange tensors, and wait for each other when they do. If one stops,
the exchange raises :class:`StoppedError` in the others, so they stop too.

A single process joins nothing: sums are the tensors themselves, and torch.distributed is not
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

WORDS_SECONDS = 5.0  # to wait for another process to print why all stop


class StoppedError(RuntimeError):
    """Another process has ended, so this one cannot continue.

    Example:
        >>> from pyrovae.training import StoppedError
        >>> issubclass(StoppedError, RuntimeError)
        True
    """


@dataclass(frozen=True)
class _Group:
    rank: int
    count: int
    store: Any


_group: _Group | None = None
_groups = itertools.count()
_has_joined = False  # whether this process was ever joined with others


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """A block in which the processes that torchrun started work as one.

    Every process must enter it, and make the same calls in the same order. Blocks may be nested.
    The command line enters it for you; in your own script, put it around :func:`pyrovae.fit` and
    :func:`pyrovae.evaluate`.

    Raises:
        StoppedError: if not all processes arrive.

    Example:
        >>> from pyrovae.training import is_first, joined
        >>> with joined():
        ...     fitted = pyrovae.fit(vae, x, epochs=1)
        ...     if is_first():
        ...         print(fitted.stopped)
        finished
    """
    global _group, _has_joined
    if _group is not None or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch._dynamo  # once a group exists, this import would keep it and its threads alive
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    gpus = torch.cuda.device_count() if dist.is_nccl_available() else 0
    if local_rank() < gpus:
        torch.cuda.set_device(local_rank())
    try:
        store, rank, count = _meeting()
        # a new prefix, since addresses that an earlier group left in the store no longer answer
        group_store = PrefixStore(f"group {next(_groups)}", store)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise StoppedError(
            "the processes of this run cannot find each other "
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
    """The store for messages between processes, which outlives a group; rank and count."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://"))


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _group is None else _group.rank


def count() -> int:
    """How many processes there are."""
    return 1 if _group is None else _group.count


def is_first() -> bool:
    """Whether this process writes, prints and shows progress for all.

    Example:
        >>> from pyrovae.training import is_first
        >>> is_first()
        True
    """
    return rank() == 0


def local_rank() -> int:
    """The number of this process on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def command() -> str:
    """The command that starts ``pyrovae`` with the current number of processes, for messages."""
    if _group is None:
        return "pyrovae"
    here = os.environ.get("LOCAL_WORLD_SIZE", str(_group.count))
    return f"torchrun --standalone --nproc-per-node {here} -m pyrovae"


def summed(tensors: Sequence["Tensor"]) -> list["Tensor"]:
    """The sum of each tensor over all processes, the same to the bit in each of them.

    Args:
        tensors: of the same shapes, dtypes and devices in every process, in the same order; tensors
            of one dtype and device travel together.

    Returns:
        New tensors; in a single process, the tensors given.

    Raises:
        StoppedError: if another process has ended.
    """
    if _group is None:
        return list(tensors)
    import torch
    import torch.distributed as dist

    sums = list(tensors)
    for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
        places = [i for i, t in enumerate(tensors) if (t.dtype, t.device) == kind]
        flat = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        with _connected():
            dist.all_reduce(flat)
        parts = flat.split([tensors[i].numel() for i in places])
        for i, part in zip(places, parts, strict=True):
            sums[i] = part.view(tensors[i].shape)
    return sums


def from_first(tensors: Sequence["Tensor"]) -> None:
    """Overwrite tensors with those of the first process.

    Args:
        tensors: of the same shapes and dtypes in every process, in the same order.

    Raises:
        StoppedError: if another process has ended.
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
    """The text that the first process passes; the others' arguments are ignored.

    Raises:
        StoppedError: if another process has ended.
    """
    if _group is None:
        return text
    import torch.distributed as dist

    texts = [text]
    with _connected():
        dist.broadcast_object_list(texts, 0)
    return texts[0]


def wait() -> None:
    """Wait until all processes have called this.

    Raises:
        StoppedError: if another process has ended.
    """
    if _group is None:
        return
    import torch

    summed([torch.zeros(1)])


def stop(say: Callable[[], None], status: int) -> int:
    """Print why this process stops, unless another process has already printed why all stop.

    Args:
        say: prints the reason; called only in the process that stops first.
        status: the exit status for that reason.

    Returns:
        The exit status of all processes: the status of the one that printed.
    """
    if _group is None:
        say()
        return status
    store = _group.store
    try:
        if store.add("stopped", 1) > 1:
            store.wait(["status"], timedelta(seconds=WORDS_SECONDS))
            return int(store.get("status"))
    except RuntimeError:  # the process with the store has ended, or the other was killed midway
        return status
    say()
    store.set("status", str(status))
    return status


def leave(status: int) -> NoReturn:
    """End this process with an exit status.

    A process that was joined with others exits without closing its connections. Closing them can
    abort the process and change the exit status: after an exchange that broke off, or while a
    thread of the last exchange still releases its tensor.

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
            "another process of this run has ended: it was killed, or its machine failed; start "
            "all of them again"
        ) from error
