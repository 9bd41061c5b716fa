"""Networks over time: an encoder, a recurrent cell, heads.

One flax module covers the networks of this field's papers. It is applied either to one step
(when acting) or to a whole trajectory at once (when learning): the encoder, the cell's input
projections and the heads are then one matrix product over all times and only the recurrence
is a scan.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Tree = Any

Gates = tuple[Array, ...]
"""One array per gate of a cell."""

SMALL_BOARD = 16
"""Cells of the largest board whose convolutions are one product each, from all cells to all. On 3x3 that
wraps round it does the same arithmetic, and on 4x4 twice as much, still in less time: nothing is laid out anew."""


class Weights(NamedTuple):
    """Parameters as products read them.

    Attributes:
      convolutions, layers: ``{"kernel", "bias"}`` of each.
      inputs: the same of every gate of the cell.
      recurrent: a kernel ``(width, width)`` of every gate.
      candidate_bias: of a GRU.
      heads: layers by name.
    """

    convolutions: tuple[Tree, ...]
    layers: tuple[Tree, ...]
    inputs: tuple[Tree, ...]
    recurrent: Gates
    candidate_bias: Tree
    heads: Mapping[str, Tree]


class _Layer(nn.Module):
    """The parameters of a dense layer, as flax's own starts them."""

    size: int

    @nn.compact
    def __call__(self, inputs: int) -> Tree:
        """Kernel ``(inputs, size)`` and bias ``(size,)``."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (inputs, self.size), jnp.float32)
        return {"kernel": kernel, "bias": self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)}


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
        self.convolutions = [_Layer(n) for n in self.conv]
        self.layers = [_Layer(n) for n in self.dense]
        gates = {"gru": 3, "lstm": 4, "none": 0}[self.cell]
        if gates:
            self.inputs = _Layer(gates * self.width)
            self.recurrent = self.param("recurrent", _orthogonal_gates, (self.width, gates * self.width))
            if self.cell == "gru":
                self.candidate_bias = self.param("candidate_bias", nn.initializers.zeros, (self.width,))
        self.outputs = {name: _Layer(size, name=f"head_{name}") for name, size in self.heads}

    def __call__(self, carry: Tree, x: Array) -> tuple[Tree, Mapping[str, Array]]:
        """One step: carry and input ``(..., *input)`` to carry and heads ``(..., size)``."""
        return self.act(self._weights(x), carry, x)

    def unroll(self, x: Array) -> Mapping[str, Array]:
        """Whole episodes from their start: inputs ``(T, ..., *input)`` to heads ``(T, ..., size)``."""
        return self.along(self._weights(x), x)

    def _weights(self, x: Array) -> Weights:
        """Declares the parameters, for inputs like this one."""
        planes = x.shape[-3:] if self.conv else ()
        size = planes[0] if self.conv else x.shape[-1]
        params: dict[str, Tree] = {}
        for k, layer in enumerate(self.convolutions):
            params[f"convolutions_{k}"] = layer(9 * size)
            size = layer.size
        size *= math.prod(planes[1:])
        for k, layer in enumerate(self.layers):
            params[f"layers_{k}"] = layer(size)
            size = layer.size
        if self.cell != "none":
            params["inputs"], params["recurrent"] = self.inputs(size), self.recurrent
            size = self.width
            if self.cell == "gru":
                params["candidate_bias"] = self.candidate_bias
        for name, layer in self.outputs.items():
            params[f"head_{name}"] = layer(size)
        return self.laid(params, planes)

    # What follows takes weights, and asks no flax: it stands in the innermost loops.

    @nn.nowrap
    def start(self) -> Tree:
        """The carry at the start of an episode: zeros, ``(width,)``."""
        if self.cell == "none":
            return ()
        zeros = jnp.zeros((self.width,))
        return (zeros, zeros) if self.cell == "lstm" else zeros

    @nn.nowrap
    def laid(self, params: Mapping[str, Tree], planes: tuple[int, ...] = ()) -> Weights:
        """Parameters, ``init``'s, as products read them fastest.

        Args:
          params: of the module.
          planes: channels, rows and columns of what is convolved.
        """
        convolutions, channels_first = [], True
        for k in range(len(self.conv)):
            layer = params[f"convolutions_{k}"]
            if math.prod(planes[1:]) <= SMALL_BOARD:
                layer = _spread_out(layer, planes[1:], self.padding, channels_first)
            convolutions.append(layer)
            channels_first = False
        recurrent: Tree = ()
        inputs: Tree = ()
        if self.cell != "none":
            recurrent = self._gates(params["recurrent"])
            inputs = tuple(
                {"kernel": kernel, "bias": bias}
                for kernel, bias in zip(
                    self._gates(params["inputs"]["kernel"]), self._gates(params["inputs"]["bias"]), strict=True
                )
            )
        return Weights(
            convolutions=tuple(convolutions),
            layers=tuple(params[f"layers_{k}"] for k in range(len(self.dense))),
            inputs=inputs,
            recurrent=recurrent,
            candidate_bias=params["candidate_bias"] if self.cell == "gru" else (),
            heads={name: params[f"head_{name}"] for name, _ in self.heads},
        )

    @nn.nowrap
    def act(self, weights: Weights, carry: Tree, x: Array) -> tuple[Tree, Mapping[str, Array]]:
        """As ``__call__``, by weights that are laid out."""
        x = self._encoded(weights, x)
        if self.cell == "gru":
            x = carry = _gru_step(_projected(weights.inputs, x), weights.recurrent, weights.candidate_bias, carry)[0]
        elif self.cell == "lstm":
            carry, x = _lstm_step(weights.recurrent, carry, _projected(weights.inputs, x))
        return carry, _heads(weights, x)

    @nn.nowrap
    def along(self, weights: Weights, x: Array) -> Mapping[str, Array]:
        """As ``unroll``, by weights that are laid out."""
        # One axis for time and batch: products over two contract slowly in the derivative.
        when = x.shape[: x.ndim - (3 if self.conv else 1)]

        def joined(x: Array) -> Array:
            return x.reshape(-1, *x.shape[len(when) :])

        def apart(x: Array) -> Array:
            return x.reshape(*when, *x.shape[1:])

        x = self._encoded(weights, joined(x))
        if self.cell != "none":
            projected = tuple(apart(gate) for gate in _projected(weights.inputs, x))
            if self.cell == "gru":
                x = gru(projected, weights.recurrent, weights.candidate_bias)
            else:
                zeros = jnp.zeros_like(projected[0][0])
                x = lax.scan(functools.partial(_lstm_step, weights.recurrent), (zeros, zeros), projected)[1]
            x = joined(x)
        return {name: apart(y) for name, y in _heads(weights, x).items()}

    @nn.nowrap
    def _encoded(self, weights: Weights, x: Array) -> Array:
        activate = {"relu": nn.relu, "tanh": nn.tanh}[self.activation]
        if self.conv:
            at_once = math.prod(x.shape[-2:]) <= SMALL_BOARD
            x = x.reshape(*x.shape[:-3], -1) if at_once else jnp.moveaxis(x, -3, -1)
            for layer in weights.convolutions:
                x = nn.relu(_linear(layer, x if at_once else _patches(x, self.padding)))
            x = x if at_once else x.reshape(*x.shape[:-3], -1)
        for k, layer in enumerate(weights.layers):
            x = _linear(layer, x)
            if not (self.linear_last and k == len(self.dense) - 1):
                x = activate(x)
        return x

    @nn.nowrap
    def _gates(self, x: Array) -> tuple[Array, ...]:
        """Splits ``(..., gates * width)``."""
        return tuple(x[..., k * self.width : (k + 1) * self.width] for k in range(x.shape[-1] // self.width))


def _linear(layer: Tree, x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"]


def _projected(inputs: tuple[Tree, ...], x: Array) -> tuple[Array, ...]:
    """A product per gate: slices of one are not vectorised, and as derivatives are sums of padded arrays."""
    return tuple(_linear(gate, x) for gate in inputs)


def _heads(weights: Weights, x: Array) -> Mapping[str, Array]:
    return {name: _linear(layer, x) for name, layer in weights.heads.items()} or {"features": x}


# --- cells ------------------------------------------------------------------------------------


def _lstm_step(recurrent: Gates, carry: tuple[Array, Array], projected: Gates) -> tuple[tuple[Array, Array], Array]:
    memory, hidden = carry
    i, f, g, o = (x + hidden @ gate for x, gate in zip(projected, recurrent, strict=True))
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * nn.tanh(g)
    hidden = nn.sigmoid(o) * nn.tanh(memory)
    return (memory, hidden), hidden


def _gru_step(
    projected: Gates, recurrent: Gates, candidate_bias: Array, hidden: Array
) -> tuple[Array, tuple[Array, ...]]:
    """The next hidden state ``(..., width)``; reset and update gate, candidate, and what was reset of it."""
    reset, update, held = (hidden @ gate for gate in recurrent)
    reset, update = nn.sigmoid(projected[0] + reset), nn.sigmoid(projected[1] + update)
    held = held + candidate_bias
    candidate = nn.tanh(projected[2] + reset * held)
    return (1.0 - update) * candidate + update * hidden, (reset, update, candidate, held)


def _gru_along(projected: Gates, recurrent: Gates, candidate_bias: Array) -> tuple[Array, tuple[Array, ...]]:
    """:func:`_gru_step` from zero on, over inputs ``(T, ..., width)``."""

    def step(hidden: Array, now: Gates) -> tuple[Array, tuple[Array, tuple[Array, ...]]]:
        hidden, inside = _gru_step(now, recurrent, candidate_bias, hidden)
        return hidden, (hidden, inside)

    return lax.scan(step, jnp.zeros_like(projected[0][0]), projected)[1]


@jax.custom_vjp
def gru(projected: Gates, recurrent: Gates, candidate_bias: Array) -> Array:
    """Hidden states ``(T, ..., width)`` of a gated recurrent unit that starts at zero.

    Its derivative is written by hand because the loop back through time then holds nothing but what
    has to be in it: those of the weights are one product over all times each.

    Args:
      projected: reset gate, update gate and candidate of the inputs, each ``(T, ..., width)``.
      recurrent: the same of the hidden state, ``(width, width)``.
      candidate_bias: of the candidate's part of the hidden state, ``(width,)``.
    """
    return _gru_along(projected, recurrent, candidate_bias)[0]


def _gru_forwards(projected: Gates, recurrent: Gates, candidate_bias: Array) -> tuple[Array, Tree]:
    hidden, inside = _gru_along(projected, recurrent, candidate_bias)
    return hidden, (hidden, inside, recurrent)


def _gru_backwards(kept: Tree, slope: Array) -> tuple[Gates, Gates, Array]:
    hidden, inside, recurrent = kept
    before = jnp.concatenate([jnp.zeros_like(hidden[:1]), hidden[:-1]])

    def step(later: Array, now: Tree) -> tuple[Array, tuple[Array, ...]]:
        here, before, (reset, update, candidate, held) = now
        here = here + later
        to_candidate = here * (1.0 - update) * (1.0 - candidate * candidate)
        to_update = here * (before - candidate) * update * (1.0 - update)
        to_reset = to_candidate * held * reset * (1.0 - reset)
        to_held = to_candidate * reset
        through = (x @ gate.T for x, gate in zip((to_reset, to_update, to_held), recurrent, strict=True))
        return here * update + sum(through), (to_reset, to_update, to_candidate, to_held)

    slopes = lax.scan(step, jnp.zeros_like(hidden[0]), (slope, before, inside), reverse=True)[1]
    to_reset, to_update, to_candidate, to_held = slopes
    rows = before.reshape(-1, before.shape[-1])
    of_weights = tuple(
        lax.dot_general(rows, x.reshape(rows.shape), (((0,), (0,)), ((), ()))) for x in (to_reset, to_update, to_held)
    )
    return (to_reset, to_update, to_candidate), of_weights, jnp.sum(to_held.reshape(rows.shape), axis=0)


gru.defvjp(_gru_forwards, _gru_backwards)


# --- convolutions -----------------------------------------------------------------------------


def _spread_out(layer: Tree, board: tuple[int, ...], padding: str, channels_first: bool) -> Tree:
    """A 3x3 convolution of a board as one matrix, from all of its cells to all: ``(cells c, cells n)``.

    Args:
      layer: kernel ``(9 c, n)`` and bias ``(n,)``.
      board: rows and columns.
      padding: of the module.
      channels_first: whether inputs are planes; else each cell's channels stand together.
    """
    around = [_around(cell, board, padding) for cell in range(math.prod(board))]
    # Whether a cell is this neighbour of that: (neighbours, cells, cells).
    pattern = np.stack([[near[k] == np.arange(len(around)) for near in around] for k in range(9)])
    kernel = layer["kernel"].reshape(9, -1, layer["kernel"].shape[-1])
    sums = "kqp,kcn->cpqn" if channels_first else "kqp,kcn->pcqn"
    spread = jnp.einsum(sums, pattern.astype(kernel.dtype), kernel, precision=lax.Precision.HIGHEST)
    return {
        "kernel": spread.reshape(len(around) * kernel.shape[1], -1),
        "bias": jnp.tile(layer["bias"], len(around)),
    }


def _around(cell: int, board: tuple[int, ...], padding: str) -> list[int]:
    """The nine cells around and at a cell, row by row; -1 for none."""
    (rows, columns), found = board, []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            row, column = cell // columns + down, cell % columns + right
            inside = padding == "CIRCULAR" or (0 <= row < rows and 0 <= column < columns)
            found.append(row % rows * columns + column % columns if inside else -1)
    return found


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
