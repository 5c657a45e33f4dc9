r"""Signals that stop work (Ctrl-C, SIGTERM and SIGHUP), and what may finish before they act.

Python raises ``KeyboardInterrupt`` wherever it happens to be, and a library that catches it goes on
with half of its work. A command therefore runs inside :func:`heeded`, which records the signal and
raises the exception again until it has reached the end of the block. Training runs inside
:func:`after_step`, which finishes and saves the running step first. Python delivers signals to the
main thread alone, so in other threads these blocks do nothing.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from pyrovae._process import processes

AGAIN_SECONDS = 0.05  # until an exception that came too early, or was swallowed, is raised again
SAME_SECONDS = 1.0  # signals this close are one request: timeout and torchrun send it twice

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

Receive = Callable[[int, FrameType | None], object]


class AbandonedStep(KeyboardInterrupt):
    """A step was broken off where it had changed nothing yet."""


class _State:
    """What is known of the process.

    Attributes:
        received: the number of the first signal in the last block of :func:`heeded`.
        held, at_once: how many blocks of these functions are running.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.held = self.at_once = 0


_state = _State()


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """A block that a signal ends with ``KeyboardInterrupt``, even if something catches it midway.

    The exception waits until an extension module is loaded, since C code may turn it into another
    one. While it is being handled, further signals change nothing. A signal that is ignored when
    the block begins, as SIGHUP is under ``nohup``, stays ignored.
    """
    _state.received = None
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    sys.unraisablehook = lambda lost: None if _is_lost(lost.exc_value) else hook(lost)
    try:
        with _handling(_receive):
            yield
            check()
    finally:
        if status() is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
            exec("")  # where the exception passed an exec, Python would exit as if it were uncaught
        sys.unraisablehook = hook
        atexit.unregister(_ignore)
        atexit.register(_ignore)


def status() -> int | None:
    """The exit status for the signal of the last block of :func:`heeded`; None without one."""
    return None if _state.received is None else 128 + _state.received


def check() -> None:
    """Raise ``KeyboardInterrupt`` if something has swallowed it.

    Raises:
        KeyboardInterrupt: if there was a signal, and its exception is not being handled.
    """
    if _state.received is not None and not _is_handled():
        raise KeyboardInterrupt


@contextlib.contextmanager
def unswallowed() -> Iterator[None]:
    """A block around a library that ends early on Ctrl-C, as if it had finished.

    scikit-learn does so where it trains networks, with a warning.

    Raises:
        KeyboardInterrupt: if the library swallowed it.
    """
    noted: list[int] = []
    pass_on: Any = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if callable(pass_on):
            pass_on(number, frame)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Training interrupted", UserWarning)
        try:
            with _handling(note, SIGNALS[:1]):
                yield
        except UserWarning as error:
            raise KeyboardInterrupt from error
    if noted:
        raise KeyboardInterrupt


class Request:
    """A request to stop after the running step.

    Attributes:
        number: of the first signal; None while there is none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._time = 0.0

    def is_set(self) -> bool:
        """Whether there was a signal."""
        return self.number is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; act at once on a later one, or where a step can be abandoned."""
        now = time.monotonic()
        again = self.number is not None and now - self._time > SAME_SECONDS
        if self.number is None:
            self.number, self._time = number, now
        if _state.held or _is_handled():
            return
        if _state.at_once and processes.count() == 1:
            raise AbandonedStep
        if again:
            raise KeyboardInterrupt


@contextlib.contextmanager
def after_step() -> Iterator[Request]:
    """A block in which the first signal is noted, and another one a second later acts at once.

    When the block ends, SIGTERM and SIGHUP act as they would have done without it.

    Yields:
        The request; whoever takes it up raises ``KeyboardInterrupt``.
    """
    request = Request()
    try:
        with _handling(request.receive):
            yield request
    finally:
        number = request.number
        if number is not None and (
            number != signal.SIGINT or signal.getsignal(number) is not signal.default_int_handler
        ):
            signal.raise_signal(number)


def held() -> contextlib.AbstractContextManager[None]:
    """A block inside of :func:`after_step` that no signal breaks off, such as one that saves."""
    return _counted("held")


def at_once() -> contextlib.AbstractContextManager[None]:
    """A block inside of a step that the first signal abandons, since it has changed nothing yet.

    Inside of :func:`after_step` the signal raises :class:`AbandonedStep`.
    """
    return _counted("at_once")


@contextlib.contextmanager
def _counted(name: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    setattr(_state, name, getattr(_state, name) + 1)
    try:
        yield
    finally:
        setattr(_state, name, getattr(_state, name) - 1)


@contextlib.contextmanager
def _handling(receive: Receive, signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """A block in which a function receives signals, except those that are ignored.

    A process that is forked inside of the block, such as a worker of a DataLoader, has Python's
    own handlers.
    """
    process, before = os.getpid(), {}

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            receive(number, frame)
        else:
            is_int = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_int else signal.SIG_DFL)
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in signals}
        before = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _receive(number: int, frame: FrameType | None) -> None:
    if _state.received is None:
        _state.received = number
        signal.signal(signal.SIGALRM, _raise)
    _raise(number, frame)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    if not _is_handled() and not _is_loading(frame):
        raise KeyboardInterrupt


def _is_handled() -> bool:
    """Whether an interruption is being handled, as in the ``finally`` blocks on its way."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _is_lost(error: BaseException | None) -> bool:
    """Whether an exception is an interruption that was raised where Python drops exceptions."""
    return isinstance(error, KeyboardInterrupt) and _state.received is not None


def _is_loading(frame: FrameType | None) -> bool:
    """Whether an extension module is being loaded."""
    while frame is not None and not frame.f_code.co_qualname.startswith("ExtensionFileLoader."):
        frame = frame.f_back
    return frame is not None


def _ignore() -> None:
    """Ignore signals when only the end of the interpreter is left: the command has ended."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
