"""The joint view: quantities over the concatenated parameters of all players.

Some rules are defined only for everybody at once (SOS's scalar p, consensus, symplectic
adjustment, competitive gradient descent, local symplectic surgery). In an encounter with
another rule each of their players computes the direction as if all played it and takes
its own block.

Signs: values ascend, so with the published losses ``xi = -G`` and ``H = -J``, where
``G = (grad_1 V_1, ..., grad_n V_n)`` and ``J`` is its Jacobian.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from algorithms.base import View
from algorithms.trees import Tree

Joint = tuple[Tree, ...]


def simultaneous_gradient(view: View) -> Joint:
    """``G``: every player's own gradient."""
    return tuple(view.gradient(of=j, wrt=j) for j in range(view.n_players))


def _gradient_map(view: View) -> Callable[[Joint], Joint]:
    return lambda params: simultaneous_gradient(view.at(params))


def jacobian_product(view: View, direction: Joint) -> Joint:
    """``J d``."""
    return jax.jvp(_gradient_map(view), (view.params,), (direction,))[1]


def transposed_jacobian_product(view: View, direction: Joint) -> Joint:
    """``J' d``."""
    return jax.vjp(_gradient_map(view), view.params)[1](direction)[0]


def dense(view: View) -> tuple[Array, Array, Callable[[Array], Joint], tuple[int, ...]]:
    """``G (d,)``, ``J (d, d)``, the map from a vector back to parameters, block sizes."""
    flat, unravel = ravel_pytree(view.params)
    gradient = lambda x: ravel_pytree(simultaneous_gradient(view.at(unravel(x))))[0]
    sizes = tuple(ravel_pytree(theta)[0].size for theta in view.params)
    return gradient(flat), jax.jacfwd(gradient)(flat), unravel, sizes


def off_diagonal(matrix: Array, sizes: tuple[int, ...]) -> Array:
    """The matrix with each player's own block set to zero."""
    owner = jnp.repeat(jnp.arange(len(sizes)), jnp.array(sizes), total_repeat_length=sum(sizes))
    return jnp.where(owner[:, None] == owner[None, :], 0.0, matrix)


__all__ = [
    "Joint",
    "dense",
    "jacobian_product",
    "off_diagonal",
    "simultaneous_gradient",
    "transposed_jacobian_product",
]
