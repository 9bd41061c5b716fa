"""The joint view: quantities over the concatenated parameters of all players.

Some rules are defined only for everybody at once (SOS's scalar p, consensus, symplectic
adjustment, competitive gradient descent, local symplectic surgery). In an encounter with
another rule each of their players computes the direction as if all played it and takes
its own block.

Signs: values ascend, so with the published losses ``xi = -G`` and ``H = -J``, where
``G = (grad_1 V_1, ..., grad_n V_n)`` and ``J`` is its Jacobian.

Systems are solved by an elimination of our own: batched LAPACK calls inside a compiled
loop are orders of magnitude slower at these sizes. Both it and the columns of ``J`` are
loops, because unrolled they fuse into programs that take minutes to compile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import View
from shaping_bench.algorithms.core.trees import Tree

__all__ = [
    "Joint",
    "block",
    "concatenated",
    "jacobian",
    "jacobian_block",
    "jacobian_product",
    "owners",
    "product",
    "simultaneous_gradient",
    "solve",
    "transposed_jacobian_product",
]

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


# --- dense vectors and matrices -----------------------------------------------------------


def concatenated(parts: Joint) -> Array:
    """A joint quantity as one vector ``(d,)``, d the number of parameters of all players."""
    return jnp.stack([x for part in parts for x in part])


def owners(view: View) -> np.ndarray:
    """The player that each entry of a joint vector belongs to, ``(d,)``."""
    return np.repeat(np.arange(view.n_players), view.game.sizes)


def block(view: View, player: int, vector: Array) -> Tree:
    """A player's own vector ``(d_i,)`` in the form of its parameters: array or tuple of scalars."""
    return tuple(vector) if isinstance(view.params[player], tuple) else vector


def jacobian_block(view: View, of: int, wrt: int) -> Array:
    """``J_ij``, the derivative by theta_j, j = ``wrt``, of the own gradient of i = ``of``: ``(d_i, d_j)``."""
    here = tuple(view.params[wrt])

    def gradient(theta: tuple[Array, ...]) -> tuple[Array, ...]:
        params = [theta if j == wrt else tuple(x) for j, x in enumerate(view.params)]
        return view.at(params).gradient(of=of, wrt=of)

    def column(_: None, coordinate: Array) -> tuple[None, tuple[Array, ...]]:
        along = tuple((coordinate == k).astype(x.dtype) for k, x in enumerate(here))
        return None, jax.jvp(gradient, (here,), (along,))[1]

    return jnp.stack(jax.lax.scan(column, None, jnp.arange(len(here)))[1])


def jacobian(view: View) -> Array:
    """``J`` in full, ``(d, d)``."""
    players = range(view.n_players)
    return jnp.concatenate([jnp.concatenate([jacobian_block(view, i, j) for j in players], 1) for i in players])


def product(a: Array, b: Array) -> Array:
    """``a b`` of a matrix with a matrix or a vector, as a sum of outer products: it fuses into
    one elementwise pass over the lanes, unlike a batched dot."""
    columns = [a[:, k, None] if b.ndim == 2 else a[:, k] for k in range(b.shape[0])]
    return sum((column * row for column, row in zip(columns[1:], b[1:], strict=True)), columns[0] * b[0])


def solve(matrix: Array, b: Array) -> tuple[Array, Array]:
    """Solves ``matrix x = b`` by Gauss-Jordan elimination with partial pivoting.

    Args:
      matrix: ``(d, d)``.
      b: ``(d,)``.

    Returns:
      ``x`` ``(d,)``, finite but meaningless where the matrix is singular, and ``|det|``, the
      size of the product of the pivots.
    """
    size = b.shape[0]
    index = jnp.arange(size)

    def eliminate(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, determinant = carry
        column, displaced = rows[:, k], rows[k]
        chosen = index == jnp.argmax(jnp.where(index >= k, jnp.abs(column), -1.0))
        # Masks and sums in place of a gather, which every lane would do at another row.
        pivot_row = jnp.sum(jnp.where(chosen[:, None], rows, 0.0), axis=0)
        pivot = pivot_row[k]
        scaled = pivot_row / jnp.where(pivot == 0, 1.0, pivot)
        factor = jnp.where(chosen, displaced[k], column)
        swapped = jnp.where(chosen[:, None], displaced, rows)
        rows = jnp.where((index == k)[:, None], scaled, swapped - factor[:, None] * scaled)
        return rows, determinant * jnp.abs(pivot)

    augmented = jnp.concatenate([matrix, b[:, None]], axis=1)
    rows, determinant = jax.lax.fori_loop(0, size, eliminate, (augmented, jnp.ones_like(b[0])))
    return rows[:, size], determinant
