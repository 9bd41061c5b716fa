"""Arithmetic on policy parameters, whatever their shape."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def add(x: Tree, y: Tree, scale: Any = 1.0) -> Tree:
    """``x + scale * y``."""
    return jax.tree.map(lambda a, b: a + scale * b, x, y)


def scale(factor: Any, x: Tree) -> Tree:
    return jax.tree.map(lambda a: factor * a, x)


def alike(x: Tree, y: Tree) -> bool:
    """Whether two trees have the same structure and arrays of the same shapes."""
    if jax.tree.structure(x) != jax.tree.structure(y):  # type: ignore[operator]
        return False
    return all(a.shape == b.shape for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def dot(x: Tree, y: Tree) -> Any:
    """Euclidean inner product. Elementwise products and sums only, so that it fuses."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b) if jnp.ndim(a) else a * b, x, y))
    total = products[0]
    for p in products[1:]:
        total = total + p
    return total
