"""Opponents kept from earlier updates, and batches in which several of them play at once."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core.trees import Tree


def empty(agent: Tree, size: int) -> Tree:
    """A buffer for ``size`` agents like this one, every leaf ``(size, ...)``."""
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), agent)


def fits(past: Tree, agent: Tree) -> bool:
    """Whether the buffer can hold the agent: it was made for parameters of these shapes."""
    if jax.tree.structure(past) != jax.tree.structure(agent):  # type: ignore[operator]
        return False
    return all(x.shape[1:] == y.shape for x, y in zip(jax.tree.leaves(past), jax.tree.leaves(agent), strict=True))


def kept(past: Tree, agent: Tree, updates: Array, every: int) -> Tree:
    """The buffer with the agent in it if it is its turn, one update in ``every``; the oldest goes."""
    size = jax.tree.leaves(past)[0].shape[0]
    slot, due = (updates // every) % size, updates % every == 0

    def written(past: Array, now: Array) -> Array:
        # One entry is read and written back: a condition would copy the buffer under vmap.
        before = lax.dynamic_index_in_dim(past, slot, keepdims=False)
        return lax.dynamic_update_index_in_dim(past, jnp.where(due, now, before), slot, 0)

    return jax.tree.map(written, past, agent)


def draw(key: Array, past: Tree, updates: Array, every: int, count: int) -> Tree:
    """Uniform draws from what the buffer holds, every leaf ``(count, ...)``."""
    size = jax.tree.leaves(past)[0].shape[0]
    which = jax.random.randint(key, (count,), 0, jnp.minimum(updates // every + 1, size))
    # Of the buffer as it is: fused with what has just been written into it, every number drawn is a choice.
    return jax.tree.map(lambda x: x[which], lax.optimization_barrier(past))


def grouped(unroll: Any, groups: int) -> Any:
    """``unroll(params, *arrays)`` where the parameters have a leading axis of that many groups, each
    with an equal share of consecutive episodes; the arrays' trees are ``(T, B, ...)``."""
    if not groups:
        return unroll

    def apart(params: Tree, *arrays: Tree) -> Array:
        split = jax.tree.map(lambda x: x.reshape(x.shape[0], groups, -1, *x.shape[2:]), arrays)
        out = jax.vmap(unroll, in_axes=(0, *(1 for _ in arrays)), out_axes=1)(params, *split)
        return out.reshape(out.shape[0], -1, *out.shape[3:])

    return apart
