"""Training a VAE: :func:`fit` runs Pyro's ``SVI`` over epochs, reproducibly and resumably.

To follow one batch, start at ``fitting``, which checks everything and chooses how steps are run.
``loop`` goes over epochs and steps, ``batches`` supplies the data, ``steps`` makes a step as Pyro
does or replays it (``staging``, ``stage_graph``), and ``device_step`` keeps it on a GPU. ``optim``
has the optimizer, ``checkpoint`` the files, ``options`` the options, ``precision`` bfloat16,
``distributed`` several processes, ``progress`` and ``display`` the numbers and how they are shown.

A new learning-rate schedule is a function in ``optim`` and one line in :data:`SCHEDULES`.
"""

from pyrovae.training import (
    checkpoint,
    display,
    distributed,
    fitting,
    loop,
    optim,
    precision,
    progress,
    staging,
)
from pyrovae.training.checkpoint import *
from pyrovae.training.display import *
from pyrovae.training.distributed import *
from pyrovae.training.fitting import *
from pyrovae.training.loop import *
from pyrovae.training.optim import *
from pyrovae.training.precision import *
from pyrovae.training.progress import *
from pyrovae.training.staging import *

__all__ = [
    name
    for file in (
        checkpoint,
        display,
        distributed,
        fitting,
        loop,
        optim,
        precision,
        progress,
        staging,
    )
    for name in file.__all__
]
