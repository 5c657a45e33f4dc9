"""One wording for options that are not among the allowed ones."""

import difflib
from collections.abc import Iterable


def check_choice(name: str, value: object, allowed: Iterable[str], remedy: str = "") -> None:
    """Refuse a value that is not allowed.

    Args:
        name: of the option.
        value: as given.
        allowed: the values that are.
        remedy: further advice, put at the end of the message.

    Raises:
        ValueError: if ``value`` is not among ``allowed``, with the closest of them.

    Example:
        >>> check_choice("compile", "indutcor", ["auto", "inductor"])
        Traceback (most recent call last):
            ...
        ValueError: compile must be one of auto, inductor, got 'indutcor' (did you mean 'inductor'?)
    """
    words = list(allowed)
    if value not in words:
        advice = f"; {remedy}" if remedy else ""
        raise ValueError(
            f"{name} must be one of {', '.join(words)}, got {value!r}{nearest(value, words)}"
            f"{advice}"
        )


def nearest(word: object, words: Iterable[str]) -> str:
    """`` (did you mean ...?)`` if one of ``words`` is close, otherwise nothing."""
    close = difflib.get_close_matches(str(word), list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
