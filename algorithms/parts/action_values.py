"""Action values over whole episodes: networks that know the time, their targets and errors."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.estimators import step_mean
from shaping_bench.algorithms.parts.policies import Net


class ActionValues(NamedTuple):
    """Action values of a player, by a network that knows the time.

    Attributes:
      net: the network.
      num_states: of a memory-one game, whose few states are valued once per time and looked up;
        0 where observations are not states.
    """

    net: Net
    num_states: int

    def unroll(self, params: Tree, seen: Tree) -> Array:
        """``(T, B, A)`` along whole episodes, from observations ``(T, B, ...)``."""
        if not self.num_states:
            return self.net.unroll(params, seen)["q"]
        states = jnp.arange(self.num_states)
        table = self.net.unroll(params, jnp.broadcast_to(states, (seen.shape[0], self.num_states)))["q"]
        here = seen[..., None] == states
        # A sum of comparisons: gathers, and the scatters that are their derivatives, do not vectorise.
        columns = [jnp.sum(jnp.where(here, table[:, None, :, a], 0.0), axis=-1) for a in range(table.shape[-1])]
        return jnp.stack(columns, axis=-1)


def values(logits: Array, q: Array) -> Array:
    """``V = sum_a pi(a) Q(a)``: ``(..., A)`` twice to ``(...)``."""
    # Action by action: sums over a last axis of a few numbers take XLA thousands of times as long.
    columns = [logits[..., a] for a in range(logits.shape[-1])]
    highest = lax.stop_gradient(functools.reduce(jnp.maximum, columns))
    weights = [jnp.exp(x - highest) for x in columns]
    total: Array = functools.reduce(jnp.add, weights)
    return functools.reduce(jnp.add, [w * q[..., a] for a, w in enumerate(weights)]) / total


def at(q: Array, actions: Array) -> Array:
    """``Q(a)`` of the actions taken: ``(..., A)`` and ``(...)`` to ``(...)``."""
    return jnp.sum(jnp.where(actions[..., None] == jnp.arange(q.shape[-1]), q, 0.0), axis=-1)


def after(x: Array, alive: Array | None) -> Array:
    """What a state is worth after each step: ``x`` ``(T, ...)`` of those states, 0 where the episode is over."""
    return x if alive is None else jnp.where(alive[1:], x, jnp.zeros_like(x))


def sarsa_targets(
    rewards: Array, q: Array, last: Array, actions: Array, gamma: Any, alive: Array | None = None
) -> Array:
    """``r_t + gamma Q(s_{t+1}, a_{t+1})``; the last step is followed by a state's value.

    Args:
      rewards: ``(T, B)``.
      q: action values that make the targets, ``(T, B, A)``.
      last: value of the state after the last step, ``(B,)``.
      actions: ``(T, B)``.
      gamma: discount.
      alive: ``(T + 1, B)``, if episodes may end early: an end is worth nothing.

    Returns:
      ``(T, B)``.
    """
    following = jnp.concatenate([at(q, actions)[1:], last[None]])
    return lax.stop_gradient(rewards + gamma * after(following, alive))


def huber(x: Array) -> Array:
    """Half the square up to 1, linear beyond."""
    size = jnp.abs(x)
    quadratic = jnp.minimum(size, 1.0)
    return 0.5 * quadratic**2 + size - quadratic


def sarsa_error(
    q: Array, averaged: Array, last: Array, rewards: Array, actions: Array, gamma: Any, alive: Array | None = None
) -> Array:
    """Mean Huber error of action values against the targets that their moving average makes.

    Args:
      q, averaged: both ``(T + 1, B, A)``.
      last: logits of the policy at the end, ``(B, A)``.
      rewards, actions: ``(T, B)``.
      gamma: discount.
      alive: ``(T + 1, B)``, if episodes may end early.
    """
    targets = sarsa_targets(rewards, averaged[:-1], values(last, averaged[-1]), actions, gamma, alive)
    return step_mean(huber(at(q[:-1], actions) - targets), alive)
