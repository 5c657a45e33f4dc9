"""The ``pyrovae`` command, the only place that imports click.

``app`` has the group, which lists all commands, and the commands that train, draw and list.
``options`` has the options that commands share. The other files hold one command or two of a kind.
A command reads options, calls the package and prints; the work is done elsewhere. Torch is imported
when a command runs, so ``--help`` is instant.
"""

from pyrovae.cli.app import cli, main

__all__ = [
    "cli",
    "main",
]
