"""Training a VAE: :func:`fit` runs Pyro's ``SVI`` over epochs, reproducibly and resumably.

``fitting`` has the loop, ``optim`` the optimizer with its learning-rate schedules, ``staging`` and
``device_step`` faster ways to run the same step, ``precision`` bfloat16, ``distributed`` several
processes, ``progress`` and ``display`` what is shown meanwhile. A new learning-rate schedule is a
function in ``optim`` and one line in its dictionary ``SCHEDULES``.
"""

from pyrovae.training.display import TrainingDisplay, counting
from pyrovae.training.distributed import StoppedError, is_first, joined
from pyrovae.training.fitting import (
    LAST,
    METRICS,
    MODEL,
    Fit,
    TrainingDivergedError,
    TrainingInterrupted,
    check,
    fit,
)
from pyrovae.training.optim import SCHEDULES, FusedAdam, MovingAverage, NonFiniteGradientError
from pyrovae.training.precision import PRECISIONS
from pyrovae.training.progress import Progress
from pyrovae.training.staging import MODES, Staged

__all__ = [
    "LAST",
    "METRICS",
    "MODEL",
    "MODES",
    "PRECISIONS",
    "SCHEDULES",
    "Fit",
    "FusedAdam",
    "MovingAverage",
    "NonFiniteGradientError",
    "Progress",
    "Staged",
    "StoppedError",
    "TrainingDisplay",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "check",
    "counting",
    "fit",
    "is_first",
    "joined",
]
