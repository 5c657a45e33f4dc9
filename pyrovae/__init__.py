"""Variational autoencoders written as what they are: Bayesian models, in Pyro.

The names below, and the modules, are imported when they are first used, so that importing the
package, or asking the command line for help, costs nothing.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrovae.evidence import evaluate
    from pyrovae.runs import Config, load
    from pyrovae.training import fit
    from pyrovae.vae import VAE

__version__ = "0.1.0"

__all__ = ["VAE", "Config", "evaluate", "fit", "load"]

_HOMES = {
    "VAE": "pyrovae.vae",
    "Config": "pyrovae.runs.config",
    "evaluate": "pyrovae.evidence",
    "fit": "pyrovae.training",
    "load": "pyrovae.runs.run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    module = f"{__name__}.{name}"
    if name.startswith("_") or find_spec(module) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(module)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
