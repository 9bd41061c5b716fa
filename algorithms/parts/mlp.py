"""Networks of one hidden layer with features first, as the exact games like it.

A batch of B games is ``(features, B)``, so that each coordinate of all policies is one contiguous
vector.
"""

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core.trees import Tree

LOG_2PI = 1.8378770664093453


def init_mlp(key: Array, inputs: int, hidden: int, outputs: int) -> Tree:
    """Weights of one hidden layer, uniform within ``1 / sqrt(fan_in)`` as PyTorch starts them."""
    keys = jax.random.split(key, 4)

    def uniform(key: Array, fan_in: int, *shape: int) -> Array:
        return jax.random.uniform(key, shape, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)

    return {
        "w1": uniform(keys[0], inputs, hidden, inputs),
        "b1": uniform(keys[1], inputs, hidden),
        "w2": uniform(keys[2], hidden, outputs, hidden),
        "b2": uniform(keys[3], hidden, outputs),
    }


def init_mutable_mlp(key: Array, inputs: int, hidden: int, outputs: int) -> Tree:
    """The same as the official hill climber of M-FOS starts it: its library takes the fan-out for the
    fan-in, so that bounds are ``1 / sqrt(fan_out)``."""
    weights = init_mlp(key, inputs, hidden, outputs)
    first, second = (inputs / hidden) ** 0.5, (hidden / outputs) ** 0.5
    return {name: x * (first if name in ("w1", "b1") else second) for name, x in weights.items()}


def mlp(weights: Tree, x: Array) -> Array:
    """``(inputs,)`` or ``(inputs, B)`` to ``(outputs,)`` or ``(outputs, B)``; tanh in between."""

    def column(bias: Array) -> Array:
        return bias if x.ndim == 1 else bias[:, None]

    hidden = jnp.tanh(weights["w1"] @ x + column(weights["b1"]))
    return weights["w2"] @ hidden + column(weights["b2"])


def gaussian(actor: Tree, observation: Array) -> tuple[Array, Array]:
    """Mean and *variance* of the next policy's logits, each ``(d, ...)``, from ``(features, ...)``."""
    mean, spread = jnp.split(mlp(actor, observation), 2)
    return mean, jax.nn.softplus(spread)


def log_density(actions: Array, mean: Array, variance: Array) -> Array:
    """Of a diagonal normal distribution over the first axis."""
    return -0.5 * jnp.sum(jnp.square(actions - mean) / variance + jnp.log(variance) + LOG_2PI, axis=0)


def entropy(variance: Array) -> Array:
    """Of the same distribution, in nats."""
    return 0.5 * jnp.sum(jnp.log(variance) + LOG_2PI + 1.0, axis=0)


def sampled(key: Array, actor: Tree, observation: Array) -> tuple[Array, Array]:
    """A policy's logits ``(d, B)`` and their log-density ``(B,)``."""
    mean, variance = gaussian(actor, observation)
    action = mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape)
    return action, log_density(action, mean, variance)
