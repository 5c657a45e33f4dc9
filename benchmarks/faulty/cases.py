"""A case, what was found, and what is asked of a part."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Case", "Part", "Verdict"]


class Verdict(NamedTuple):
    """How a case ended, in a word that is counted, and what is wrong with it, if anything."""

    word: str
    wrong: list[str]


class Case(NamedTuple):
    """A case of a part: a name that stays the same, and how to run it."""

    name: str
    run: Callable[[], Verdict]


Part = Callable[..., Iterator[Case]]
