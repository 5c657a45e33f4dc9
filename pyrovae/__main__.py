"""``python -m pyrovae`` is the ``pyrovae`` command."""

from pyrovae.cli import main

if __name__ == "__main__":
    main()
