r"""The progress display that long diagnostics accept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["Counting", "Progress", "silent"]

Progress = Callable[[int], None]
Counting = Callable[[str, int], AbstractContextManager[Progress]]


@contextmanager
def silent(description: str, total: int) -> Iterator[Progress]:
    """Show nothing."""
    yield lambda count: None
