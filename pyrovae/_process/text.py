r"""Text for a terminal, without characters that act on it instead of being shown."""

import unicodedata

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of text, so that a name can read as another."""

KINDS = frozenset(("Cc", "Cs", "Zl", "Zp"))  # controls, half characters, separators of lines


def printable(text: str) -> str:
    r"""Escape the characters that a terminal obeys or cannot show, as Python writes them.

    These are control characters except for the line feed, marks of direction, separators of lines
    and paragraphs, and bytes of a file name that are no text. All others stay as they are.

    Args:
        text: of one or more lines, with names and contents from anywhere.

    Example:
        >>> from pyrovae._process.text import printable
        >>> printable("M\u00fcller \x1b[2J"), printable("one\ntwo")
        ('Müller \\x1b[2J', 'one\ntwo')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if _acts(character) else character
        for character in text
    )


def _acts(character: str) -> bool:
    return character != "\n" and (character in BIDI or unicodedata.category(character) in KINDS)
