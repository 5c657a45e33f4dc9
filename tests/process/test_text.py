"""What reaches a terminal: names and contents from anywhere, which must not act on it."""

from pathlib import Path

import pytest

import pyrovae
from pyrovae._process.text import printable


@pytest.mark.parametrize(
    "text", ["Müller", "数字 7", "👩‍🔬 🇩🇪", "é\u0301", "عمر", "نمی‌دانم", "a\nb", "$x_1$"]
)
def test_ordinary_text_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;X\x07.csv", "\\x1b]0;X\\x07.csv"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\tc\x00\x7f", "a\\rb\\tc\\x00\\x7f"),
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\udcff.npy", "\\udcff.npy"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_no_character_acts_on_a_terminal():
    for number in [*range(0x3000), *range(0xD800, 0xE000)]:
        shown = printable(chr(number))
        assert shown == chr(number) or shown.isascii()
    controls = [chr(n) for n in [*range(0x20), *range(0x7F, 0xA0)] if n != 10]
    assert all(printable(character) != character for character in controls)


def test_there_are_two_places_that_print():
    """One for the lines of a command and one for its progress; both escape what they print."""
    found = {
        file.name
        for file in Path(pyrovae.__file__).parent.rglob("*.py")
        for line in file.read_text().splitlines()
        if any(call in line for call in ("click.echo(", "secho(", "console.print(", ".write_line("))
    }
    assert found == {"options.py", "progress.py"}
