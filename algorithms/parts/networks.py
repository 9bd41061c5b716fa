"""Networks over time: an encoder, a recurrent cell, heads.

One flax module covers the networks of this field's papers. It is applied either to one step
(when acting) or to a whole trajectory at once (when learning): the encoder, the cell's input
projections and the heads are then one matrix product over all times and only the recurrence
is a scan.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

Tree = Any


class Network(nn.Module):
    """Convolutions, dense layers, a recurrent cell and linear heads, each part optional.

    Attributes:
      heads: name and width of each linear output, e.g. ``(("logits", 4), ("value", 1))``. Without
        any, what they would read is the one output, ``"features"``.
      conv: filters of the 3x3 convolutions, each followed by ReLU. Inputs are then planes
        ``(channels, rows, columns)``.
      padding: of the convolutions: ``"SAME"`` pads with zeros, ``"CIRCULAR"`` wraps round.
      dense: widths of the dense layers, each followed by the activation.
      activation: ``"relu"`` or ``"tanh"``.
      linear_last: the last dense layer has no activation (LOQA's and POLA's code).
      cell: ``"gru"``, ``"lstm"`` or ``"none"``.
      width: units of the cell.
    """

    heads: tuple[tuple[str, int], ...]
    conv: tuple[int, ...] = ()
    padding: str = "SAME"
    dense: tuple[int, ...] = ()
    activation: str = "relu"
    linear_last: bool = False
    cell: str = "none"
    width: int = 0

    def setup(self) -> None:
        self.convolutions = [nn.Dense(n) for n in self.conv]
        self.layers = [nn.Dense(n) for n in self.dense]
        gates = {"gru": 3, "lstm": 4, "none": 0}[self.cell]
        if gates:
            self.inputs = nn.Dense(gates * self.width)
            self.recurrent = self.param("recurrent", _orthogonal_gates, (self.width, gates * self.width))
            if self.cell == "gru":
                self.candidate_bias = self.param("candidate_bias", nn.initializers.zeros, (self.width,))
        self.outputs = {name: nn.Dense(size, name=f"head_{name}") for name, size in self.heads}

    def start(self) -> Tree:
        """The carry at the start of an episode: zeros, ``(width,)``."""
        if self.cell == "none":
            return ()
        zeros = jnp.zeros((self.width,))
        return (zeros, zeros) if self.cell == "lstm" else zeros

    def __call__(self, carry: Tree, x: Array) -> tuple[Tree, Mapping[str, Array]]:
        """One step: carry and input ``(..., *input)`` to carry and heads ``(..., size)``."""
        x = self._encoded(x)
        if self.cell != "none":
            carry, x = self._recur(carry, self._gates(self.inputs(x)))
        return carry, self._heads(x)

    def unroll(self, x: Array) -> Mapping[str, Array]:
        """Whole episodes from their start: inputs ``(T, ..., *input)`` to heads ``(T, ..., size)``."""
        # One axis for time and batch: products over two contract slowly in the derivative.
        when = x.shape[: x.ndim - (3 if self.conv else 1)]

        def joined(x: Array) -> Array:
            return x.reshape(-1, *x.shape[len(when) :])

        def apart(x: Array) -> Array:
            return x.reshape(*when, *x.shape[1:])

        x = self._encoded(joined(x))
        if self.cell != "none":
            # Gates apart: a scan reads whole inputs faster than slices of one.
            projected = tuple(apart(gate) for gate in self._gates(self.inputs(x)))
            start = jax.tree.map(lambda c: jnp.broadcast_to(c, (*when[1:], self.width)), self.start())
            _, x = lax.scan(self._recur, start, projected)
            x = joined(x)
        return {name: apart(y) for name, y in self._heads(x).items()}

    def _encoded(self, x: Array) -> Array:
        activate = {"relu": nn.relu, "tanh": nn.tanh}[self.activation]
        if self.conv:
            x = jnp.moveaxis(x, -3, -1)
            for layer in self.convolutions:
                x = nn.relu(layer(_patches(x, self.padding)))
            x = x.reshape(*x.shape[:-3], -1)
        for k, layer in enumerate(self.layers):
            x = layer(x)
            if not (self.linear_last and k == len(self.dense) - 1):
                x = activate(x)
        return x

    def _gates(self, x: Array) -> tuple[Array, ...]:
        """Splits ``(..., gates * width)``."""
        return tuple(x[..., k * self.width : (k + 1) * self.width] for k in range(x.shape[-1] // self.width))

    def _recur(self, carry: Tree, projected: tuple[Array, ...]) -> tuple[Tree, Array]:
        """The cell after its input projections; the state's in one product."""
        if self.cell == "lstm":
            memory, hidden = carry
            i, f, g, o = (
                x + y for x, y in zip(projected, (hidden @ gate for gate in self._gates(self.recurrent)), strict=True)
            )
            memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * nn.tanh(g)
            hidden = nn.sigmoid(o) * nn.tanh(memory)
            return (memory, hidden), hidden
        reset, update, candidate = (carry @ gate for gate in self._gates(self.recurrent))
        reset, update = nn.sigmoid(projected[0] + reset), nn.sigmoid(projected[1] + update)
        candidate = nn.tanh(projected[2] + reset * (candidate + self.candidate_bias))
        hidden = (1.0 - update) * candidate + update * carry
        return hidden, hidden

    def _heads(self, x: Array) -> Mapping[str, Array]:
        return {name: layer(x) for name, layer in self.outputs.items()} or {"features": x}


def _patches(x: Array, padding: str) -> Array:
    """The 3x3 neighbourhood of every cell: ``(..., rows, columns, c)`` to ``(..., 9 c)`` there.

    A dense layer on it is a 3x3 convolution. As a matrix product it stays fast when every
    seed has kernels of its own, which XLA's convolutions do not.
    """
    rows, columns = x.shape[-3:-1]
    around = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    x = jnp.pad(x, around, mode="wrap" if padding == "CIRCULAR" else "constant")
    return jnp.concatenate([x[..., i : i + rows, j : j + columns, :] for i in range(3) for j in range(3)], axis=-1)


def _orthogonal_gates(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """One orthogonal matrix per gate, as flax's cells have it."""
    width, total = shape
    keys = jax.random.split(key, total // width)
    return jnp.concatenate([orthogonal(k, (width, width), dtype) for k in keys], axis=1)


def orthogonal(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """A uniformly distributed matrix with orthonormal columns, or rows if it has fewer of them:
    the polar factor of a normal one.

    By Newton-Schulz iteration, products only: a QR decomposition inside a compiled loop can
    hang on CPUs.
    """
    x = jax.random.normal(key, shape, dtype)
    x = x / jnp.sqrt(jnp.max(jnp.sum(jnp.abs(x), axis=0)) * jnp.max(jnp.sum(jnp.abs(x), axis=1)))
    # Small singular values grow by 3/2 per round; 48 rounds suffice for 1e-6 of the largest.
    return lax.fori_loop(0, 48, lambda _, x: 1.5 * x - 0.5 * x @ (x.T @ x), x)
