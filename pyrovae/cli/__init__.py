"""The ``pyrovae`` command, the only place that imports click.

``app`` has the group and the commands that train, draw and list; ``options`` what commands share;
the other files hold one command each. A command reads options, calls the package and prints: it
holds no work of its own. Torch is imported when a command runs, so that ``--help`` is instant.
"""

from pyrovae.cli.app import cli, main

__all__ = [
    "cli",
    "main",
]
