"""Running compiled programs over many joint policies, on the host and in float64.

What the metrics of policies and those of rules have in common: points go in as ``(N, d_i)``, in batches
of few fixed sizes, and quantities of each seat come out.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.errors import BadInput
from shaping_bench.games.base import Game
from shaping_bench.run import executables

Quantities = dict[str, Array]

MOST_PROGRAMS = 48
"""Compiled programs of each kind that a process keeps; each takes hundreds of memory mappings."""

_BATCHES = (64, 4096)
"""Lanes per call. Two sizes, so that two shapes at most are compiled per program; the larger
one keeps the working set in cache."""


def stack(*entries: Any) -> Array:
    """Entries side by side, first axis."""
    return jnp.stack([jnp.asarray(x) for x in entries])


def flattened(game: Game, params: Sequence[np.ndarray]) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Common leading shape, and per player the parameters as ``(N, d_i)``."""
    arrays = [np.asarray(theta, np.float64) for theta in params]
    actual, needed = [a.shape for a in arrays], game.sizes
    shapes = {a.shape[:-1] for a in arrays}
    if len(shapes) != 1 or tuple(a.shape[-1:] for a in arrays) != tuple((d,) for d in needed):
        raise BadInput(f"params have the shapes {actual}; allowed: common leading axes, then {list(needed)} parameters")
    (shape,) = shapes
    return shape, [a.reshape(math.prod(shape), d) for a, d in zip(arrays, needed, strict=True)]


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Computes on the processor: arguments and results live there, the programs are large and
    short, and not every accelerator has float64."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # this process was told to use the accelerator only
        return contextlib.nullcontext()


def compiled(what: Any, function: Callable[..., Quantities]) -> Callable[..., Quantities]:
    """A function of arrays, compiled for each shapes of its arguments by this process or an earlier one.

    Args:
      what: everything that decides which function it is; see :func:`shaping_bench.run.executables.compiled`.
      function: it.
    """
    programs: dict[Any, Any] = {}

    def call(*arguments: Any) -> Quantities:
        shapes = executables.shapes(arguments)
        if shapes not in programs:
            told = jax.config.values["jax_default_device"]
            where = told if isinstance(told, jax.Device) else jax.local_devices()[0]
            lower = functools.partial(jax.jit(function).lower, *arguments)
            programs[shapes] = executables.compiled((what, shapes), [where], lower)
        return programs[shapes](*arguments)

    return call


def numbers(owner: Any) -> tuple[list[np.ndarray], Any]:
    """Leaves of a game or of learners as scalars in float64, and their structure."""
    leaves, treedef = jax.tree.flatten(owner)
    scalars = [np.asarray(x, np.float64) for x in leaves]
    if any(x.ndim for x in scalars):
        raise BadInput(f"{type(owner).__name__} has array-valued fields; allowed: one setting at a time")
    return scalars, treedef


def batched(program: Callable[[Any, Any], Any], leaves: Any, points: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a compiled program over ``(N, d_i)`` points in batches of few fixed sizes; the
    quantities ``(n_players, lanes)`` come back as ``(N, n_players)``."""
    total = len(points[0])
    size = next((b for b in _BATCHES if total <= b), _BATCHES[-1])
    pieces = []
    for first in range(0, max(total, 1), size):
        chunk = [theta[first : first + size] for theta in points]
        padded = [np.pad(theta, ((0, size - len(theta)), (0, 0))) for theta in chunk]
        columns = tuple(tuple(np.ascontiguousarray(theta[:, k]) for k in range(theta.shape[1])) for theta in padded)
        done = jax.device_get(program(leaves, columns))
        pieces.append({name: np.asarray(x, np.float64).T[: len(chunk[0])] for name, x in done.items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
