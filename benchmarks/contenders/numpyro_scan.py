"""NumPyro: the same programs, a jitted update, and an epoch as one ``lax.scan``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, lax, random
from jax.example_libraries import stax
from numpyro.infer import SVI, Trace_ELBO

from . import LEARNING_RATE, Net

__all__ = ["EPOCHS", "STEPS"]


def _body(hidden: int, out: int) -> Any:
    return stax.serial(
        stax.Dense(hidden), stax.Relu, stax.Dense(hidden), stax.Relu, stax.Dense(out)
    )


def _svi(net: Net) -> SVI:
    def model(x: Array) -> None:
        decoder = numpyro.module("decoder", _body(net.hidden, 784), (len(x), net.latent_dim))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand((net.latent_dim,)).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Array) -> None:
        body = _body(net.hidden, 2 * net.latent_dim)
        encoder = numpyro.module("encoder", body, (len(x), 784))
        with numpyro.plate("data", len(x)):
            loc, log_scale = jnp.split(encoder(x), 2, axis=-1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())


def step(net: Net, bits: np.ndarray) -> Callable[[], None]:
    svi, x = _svi(net), jnp.asarray(bits)
    update = jax.jit(svi.update, donate_argnums=0)
    state = svi.init(random.key(0), x)

    def run() -> None:
        nonlocal state
        state, loss = update(state, x)
        loss.block_until_ready()

    return run


def epochs(net: Net, pixels: np.ndarray, epochs: int, turn: Callable[[], None]) -> None:
    """The last, smaller batch is left out: a scan has one shape."""
    svi, images = _svi(net), jnp.asarray(pixels)
    steps = len(pixels) // net.batch_size

    @jax.jit
    def epoch(state: Any, key: Array, images: Array) -> Any:
        order_key, bits_key = random.split(key)
        order = random.permutation(order_key, len(images))[: steps * net.batch_size]

        def body(state: Any, at: Any) -> Any:
            index, key = at
            x = random.bernoulli(key, images[index] / 255).astype(jnp.float32)
            return svi.update(state, x)

        at = order.reshape(steps, net.batch_size), random.split(bits_key, steps)
        return lax.scan(body, state, at)

    state = svi.init(random.key(0), jnp.zeros((net.batch_size, 784)))
    turn()
    for number in range(epochs):
        state, losses = epoch(state, random.key(number), images)
        losses.block_until_ready()
        turn()


STEPS = {"NumPyro": step}
EPOCHS = {"NumPyro": epochs}
