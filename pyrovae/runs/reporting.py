"""Progress shown while runs are trained and evaluated: what callers may pass, and the default."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pyrovae.training import Progress

Reporting = Callable[[str], AbstractContextManager[Callable[[Progress], None] | None]]
"""From a line about a run, a context with a callback for its training progress."""

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None] | None]]
"""From a description and a total, a context with a callback for the number of examples."""


def silent(*about: Any) -> AbstractContextManager[None]:
    """Show nothing: the default for both."""
    return contextlib.nullcontext()
