"""Optional libraries, imported on first use, with a clear error if that fails."""

import importlib
from typing import Any


def import_for(module: str, package: str, purpose: str) -> Any:
    """Import an optional module.

    Every exception counts as a failure: torchvision built for another torch raises RuntimeError or
    OSError.

    Args:
        module: name of the module.
        package: its name for ``pip install``.
        purpose: the feature that needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: if it cannot be imported, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        reason = " ".join(str(error).split())
        again = "" if isinstance(error, ModuleNotFoundError) else "--force-reinstall "
        raise ImportError(
            f"{purpose} needs {package}, which could not be imported "
            f"({type(error).__name__}: {reason}); pip install {again}{package}"
        ) from error
