r"""The objects that a configuration describes: the VAE and the objective."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from pyrovae._process.isolation import stream
from pyrovae.networks import Divided, Shape
from pyrovae.runs.settings import FAMILIES
from pyrovae.runs.specs import Spec, context_of, failure, find, resolve
from pyrovae.vae import VAE


def build_vae(
    model: Mapping[str, Any], event_shape: Shape, seed: int, trusted: Collection[str]
) -> VAE:
    """Build a VAE, see :meth:`pyrovae.Config.build`.

    Args:
        model: settings of the model, with all options.
        event_shape: shape of one example.
        seed: of the weights.
        trusted: ``module:attribute`` names that may be imported.
    """
    latent_dim = model["latent_dim"]
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")

    def make(role: str, **known: Any) -> nn.Module:
        component: nn.Module = _build(role, Spec.parse(model[role]), known, trusted)
        return component

    def network(role: str) -> Callable[..., nn.Module]:
        return lambda in_shape, out_shape: make(role, in_shape=in_shape, out_shape=out_shape)

    def encoder(in_shape: Shape, out_shape: Shape) -> nn.Module:
        divisor = model["input_divisor"]
        if divisor == 1 or tuple(in_shape) != event_shape:  # other inputs than x keep their unit
            return network("encoder")(in_shape, out_shape)
        return Divided(in_shape, out_shape, network=network("encoder"), divisor=divisor)

    known = {"latent_dim": latent_dim, "event_shape": event_shape}
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "build"))
        posterior = make("posterior", **known, network=encoder)
        likelihood = make("likelihood", **known, network=network("decoder"))
        prior = make("prior", **known, posterior=posterior)
        vae = VAE(prior, likelihood, posterior)
    if vae.latent_dim != latent_dim:
        raise ValueError(
            f"the prior {model['prior']} is over z of {vae.latent_dim} dimensions, and "
            f"latent_dim is {latent_dim}; set latent_dim to {vae.latent_dim}"
        )
    return vae


def build_objective(objective: str, trusted: Collection[str]) -> ELBO:
    """Build an objective, see :meth:`pyrovae.Config.objective`.

    Args:
        objective: its spec, with all options.
        trusted: ``module:attribute`` names that may be imported.
    """
    return _build("objective", Spec.parse(objective), {}, trusted)


def _build(role: str, spec: Spec, known: Mapping[str, Any], trusted: Collection[str]) -> Any:
    """Build a component; an error in user-defined code becomes one line."""
    component = find(role, FAMILIES[role], spec, trusted)
    _, options = resolve(role, component, spec, {})
    arguments = context_of(component, known) | options
    try:
        module = component(**arguments)
    except Exception as error:
        if not spec.is_users_own:
            raise
        raise ValueError(f"the {role} {spec} cannot be built: {failure(error)}") from error
    if not callable(module):
        kind = "a Pyro ELBO" if role == "objective" else "an nn.Module that can be called"
        raise TypeError(f"the {role} {spec} makes a {type(module).__name__}; it must make {kind}")
    return module
