r"""Objects that return a distribution when they are called, and what is wrong with others."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import Module

__all__ = ["check_component", "returned", "vector_size"]


def check_component(call: str, component: Any, family: Mapping[str, type]) -> None:
    """Refuse what is no component, with what to write in its place.

    Args:
        call: how the component is called, for the message.
        component: the object to check.
        family: the classes that the command line knows by name.

    Raises:
        TypeError: if it is a class, a distribution, a name or anything else that cannot be called.

    Example:
        >>> from pyrovae.distributions import check_component
        >>> check_component("prior()", "laplace", pyrovae.priors.PRIORS)
        Traceback (most recent call last):
        TypeError: prior() must return a distribution when it is called, got the text 'laplace'...
    """
    if isinstance(component, type | Distribution) or not callable(component):
        what = _what(component, family)
        raise TypeError(f"{call} must return a distribution when it is called, got {what}")


def _what(component: Any, family: Mapping[str, type]) -> str:
    if isinstance(component, type):
        return f"the class {component.__name__}; make an object of it first"
    if isinstance(component, Distribution):
        return f"a distribution, {type(component).__name__}; give a function that returns it"
    if not isinstance(component, str):
        return f"a {type(component).__name__}"
    found = family.get(component.partition(":")[0])
    if found is None:
        return f"the text {component!r}; make an object of a class first"
    arguments = ", ".join(
        name
        for name, parameter in inspect.signature(found).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    )
    package = found.__module__.split(".")[1]
    return (
        f"the text {component!r}, which is for the command line; write "
        f"pyrovae.{package}.{found.__name__}({arguments})"
    )


def returned(role: str, component: Any, value: Tensor, about: str) -> Any:
    """Return the distribution that a component gives for a value.

    Args:
        role: of the component, for the message.
        component: called with ``value``.
        value: a batch of values, which is moved to the device and dtype of the component's
            parameters.
        about: where the shape of the value comes from, for the message.

    Raises:
        ValueError: if the component fails on a value of that shape.
        TypeError: if it returns no distribution.

    Example:
        >>> from pyrovae.distributions import returned
        >>> returned("the posterior", vae.posterior, x, "as the data have it").event_shape
        torch.Size([2])
    """
    name = type(component).__name__
    parameter = next(component.parameters(), None) if isinstance(component, Module) else None
    try:
        found = component(value if parameter is None else value.to(parameter))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{role} {name} fails on shape {tuple(value.shape)}, {about}: {reason}"
        ) from error
    if not isinstance(found, Distribution):
        raise TypeError(
            f"{role} {name} must return a Pyro distribution when it is called, got "
            f"{type(found).__name__}"
        )
    return found


def vector_size(prior: Any) -> int:
    """The number of dimensions of z that a prior is over.

    Args:
        prior: called without arguments.

    Raises:
        TypeError: if it does not return one Pyro distribution over vectors.

    Example:
        >>> from pyrovae.distributions import vector_size
        >>> vector_size(vae.prior)
        2
    """
    with torch.no_grad():
        distribution = prior()
    if not isinstance(distribution, dist.Distribution):
        raise TypeError(
            f"a prior returns a Pyro distribution when called, got {type(distribution).__name__} "
            f"from {type(prior).__name__}; take the same name from pyro.distributions"
        )
    if len(distribution.event_shape) != 1 or distribution.batch_shape:
        raise TypeError(
            f"a prior is one distribution over vectors z: event_shape (latent_dim,) and no batch, "
            f"got event_shape {tuple(distribution.event_shape)} and batch_shape "
            f"{tuple(distribution.batch_shape)}; add .to_event(1)"
        )
    return int(distribution.event_shape[0])
