"""Variational autoencoders written as what they are: Bayesian models, in Pyro.

What a VAE is stands at the top: ``vae`` (the two programs), its three roles ``priors``,
``likelihoods`` and ``posteriors``, and ``networks``, the maps that encoders and decoders are made
of. Each of these has a dictionary of its entries by name (``PRIORS``, ``NETWORKS``, ...): a new
entry is one class and one line. ``estimates`` holds means with standard errors, and the base of
all results.

The folders answer one question each: ``distributions`` (densities), ``data``, ``kl``,
``objectives``, ``evidence`` (log p(x)), ``queries`` (missing pixels, scores), ``diagnostics``,
``training``, ``plots``, ``runs`` (configurations and folders), ``report`` (a page about a run),
``sklearn`` (an estimator), ``cli``. ``_process`` serves them all: random streams, files, memory
budgets, compilation, several processes.

The names below and the modules are imported on first use, so that importing the package or asking
the command line for help is instant.
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
    "load": "pyrovae.runs.records",
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
