"""The part of ``expand`` that every distribution here shares."""

from typing import Any, TypeVar

from pyro import distributions as dist
from torch import Size

__all__ = ["expanded"]

D = TypeVar("D", bound=dist.TorchDistribution)


def expanded(d: D, kind: type[D], instance: Any, batch_shape: Size, **attributes: Any) -> D:
    """A copy of a distribution with another batch shape.

    Args:
        d: the distribution.
        kind: the class that defines ``expand``; a subclass with another constructor must define
            its own.
        instance: the object to fill, where a subclass has made it.
        batch_shape: the new batch shape.
        attributes: those that the class adds to torch's own, already expanded.
    """
    new: D = d._get_checked_instance(kind, instance)
    vars(new).update(attributes)
    dist.TorchDistribution.__init__(new, Size(batch_shape), d.event_shape, validate_args=False)
    new._validate_args = d._validate_args
    return new
