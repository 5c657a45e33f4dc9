"""Training a VAE: :func:`fit` runs Pyro's ``SVI`` over epochs, reproducibly and resumably.

To follow one batch, start at ``fitting``, which checks everything and chooses how steps are run.
``loop`` goes over epochs and steps, ``steps`` has the batches and makes a step, alone or in several
processes, ``staging`` replays it, and ``device_step`` keeps it on a GPU. ``optim`` has the
optimizer, ``precision`` bfloat16, ``checkpoint`` the options and the files, ``progress`` the
numbers and how they are shown, ``history`` those of a finished training.

A new learning-rate schedule is a function in ``optim`` and one line in :data:`SCHEDULES`.
"""

from pyrovae.training import (
    checkpoint,
    fitting,
    history,
    loop,
    optim,
    precision,
    progress,
    staging,
    steps,
)
from pyrovae.training.checkpoint import *
from pyrovae.training.fitting import *
from pyrovae.training.history import *
from pyrovae.training.loop import *
from pyrovae.training.optim import *
from pyrovae.training.precision import *
from pyrovae.training.progress import *
from pyrovae.training.staging import *
from pyrovae.training.steps import *

__all__ = [
    name
    for file in (checkpoint, fitting, history, loop, optim, precision, progress, staging, steps)
    for name in file.__all__
]
