"""Training a VAE: :func:`fit` runs Pyro's ``SVI`` over epochs, reproducibly and resumably.

To follow one batch, start at ``fitting``, which checks everything and chooses how steps are run.
``loop`` goes over epochs and steps, ``batches`` supplies the data, ``steps`` makes a step as Pyro
does or replays it (``staging``, ``stages``), and ``device_step`` keeps it on a GPU. ``optim`` has
the optimizer, ``checkpoint`` the files, ``options`` the options, ``precision`` bfloat16,
``distributed`` several processes, ``progress`` and ``display`` the numbers and how they are shown.

A new learning-rate schedule is a function in ``optim`` and one line in :data:`SCHEDULES`.
"""

from pyrovae.training.checkpoint import LAST, METRICS, MODEL
from pyrovae.training.display import TrainingDisplay, counting
from pyrovae.training.distributed import StoppedError, is_first, joined
from pyrovae.training.fitting import Fit, check, fit
from pyrovae.training.loop import TrainingDivergedError, TrainingInterrupted
from pyrovae.training.optim import SCHEDULES, FusedAdam, MovingAverage, NonFiniteGradientError
from pyrovae.training.precision import PRECISIONS
from pyrovae.training.progress import History, Progress
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
    "History",
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
