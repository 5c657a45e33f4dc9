"""The ``pyrovae`` command, the only place that imports click.

``app`` has the group, which lists all commands, and the commands that describe and list.
``fitting`` has those that train, ``queries`` those that put questions to a model, ``posterior``
those that ask how good q(z|x) is; ``evaluate`` and ``diagnose`` have one each. ``options`` has what
commands share: their options, the opening of a run, the printing of what was found. A new command
goes into the file of its kind and that file's ``__all__``. It reads options, calls the package and
returns plain data and lines; the work is done elsewhere. Torch is imported when a command runs, so
``--help`` is instant.
"""

from pyrovae.cli.app import cli, main

__all__ = ["cli", "main"]
