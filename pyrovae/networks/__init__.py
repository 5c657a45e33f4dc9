r"""Deterministic maps from one shape to another: the bodies of encoders and decoders.

No probability lives here. ``Network(in_shape, out_shape, ...)`` makes a network, which maps
``(*batch, *in_shape)`` to ``(*batch, *out_shape)``. The class that puts a distribution on top
decides both shapes and therefore takes a *network factory*: any callable of
``(in_shape, out_shape)``, such as ``functools.partial(MLP, hidden_dims=(500, 500))``.

A network may have two attributes that only initialization uses: ``output_bias``, with as many
entries as ``out_shape``, and ``input_weight``. A network without them keeps its random start.

``maps`` has the networks; ``inputs`` has what one may read in place of x: x in another unit, the
one-hot vectors of categories, zeros for missing values and the mask of the observed ones beside
them; ``contract`` checks what every network must do.
"""

from pyrovae.networks import contract, inputs, maps
from pyrovae.networks.contract import *
from pyrovae.networks.inputs import *
from pyrovae.networks.maps import *

__all__ = [name for file in (maps, inputs, contract) for name in file.__all__]
