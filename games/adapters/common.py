"""What adapters have in common: games of other packages, and how observations are shown to them."""

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.base import Game, PlayedGame

INSTALL = {
    "jaxmarl": "pip install --no-deps jaxmarl chex jaxtyping wadler-lindig",
    "gymnax": "pip install --no-deps gymnax gymnasium farama-notifications cloudpickle seaborn six",
    "socialjax": "pip install --no-deps chex, clone github.com/cooperativex/SocialJax, and put the clone on PYTHONPATH",
}
"""Smallest sets of packages beside our own dependencies with which each can be imported."""


def package(name: str) -> Any:
    """The package of that name.

    Raises:
      ImportError: it is not installed, or lacks something; says what to install.
    """
    try:
        with _stdout_to_stderr():
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"needs the package {name}, which cannot be imported ({error}); {INSTALL[name]}") from None


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """JaxMARL prints while it is imported, and puts ``sys.stdout`` back where others redirect it; our
    stdout is for results. So the file itself is redirected."""
    streams = [x for x in (sys.stdout, sys.__stdout__) if x is not None]
    for stream in streams:
        stream.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        for stream in (*streams, sys.stdout):
            stream.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


# --- theirs as ours -----------------------------------------------------------------------


class OutsideState(NamedTuple):
    """State of an environment of another package.

    Attributes:
      inner: its own state.
      observations: what the players see of it, ``(n_players, *observation_shape)``. Kept,
        because theirs need not be a function of the state.
      over: whether the episode has ended.
    """

    inner: Any
    observations: Array
    over: Array


class OutsideGame(PlayedGame):
    """What games of other packages have in common; a subclass says how one resets and steps."""

    ends_early: ClassVar[bool] = True

    environment: Any
    options: tuple[tuple[str, Any], ...]
    horizon: int

    def _spaces(self) -> tuple[list[Any], list[Any]]:
        """Observation and action spaces of the seats."""
        raise NotImplementedError

    def _reset(self, key: Array) -> tuple[list[Array], Any]:
        """Observations of the seats, and state."""
        raise NotImplementedError

    def _step(self, key: Array, inner: Any, actions: Array) -> tuple[list[Array], Any, list[Array], Array]:
        """Observations of the seats, state, rewards, and whether the episode has ended."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        observations, actions = self._spaces()
        counts = {getattr(space, "n", None) for space in actions}
        if None in counts or len(counts) != 1:
            raise ValueError(
                f"environment {self.environment!r} has the action spaces {[type(x).__name__ for x in actions]} with "
                f"{sorted(map(str, counts))} actions; allowed: equally many discrete actions in all seats"
            )
        unread = sorted({type(x).__name__ for x in observations if not (hasattr(x, "n") or hasattr(x, "shape"))})
        if unread:
            raise ValueError(
                f"environment {self.environment!r} has observations in {', '.join(unread)}; allowed: arrays, numbers"
            )
        shapes = {_planes_shape(space) for space in observations}
        if len(shapes) != 1:
            raise ValueError(
                f"environment {self.environment!r} has observations of the shapes {sorted(shapes)}; "
                "allowed: one shape for all seats"
            )

    @property
    def n_players(self) -> int:
        return len(self._spaces()[0])

    @property
    def n_actions(self) -> int:
        return int(self._spaces()[1][0].n)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns; of vectors and indices ``(length, 1, 1)``."""
        return _planes_shape(self._spaces()[0][0])

    @property
    def num_steps(self) -> int:
        return self.horizon

    def _seen(self, observations: Sequence[Array]) -> Array:
        spaces = self._spaces()[0]
        return jnp.stack([_planes(x, space) for x, space in zip(observations, spaces, strict=True)])

    def reset(self, key: Array) -> tuple[Array, OutsideState]:
        observations, inner = self._reset(key)
        seen = self._seen(observations)
        return seen, OutsideState(inner, seen, jnp.zeros((), bool))

    def step(
        self, key: Array, state: OutsideState, actions: Array
    ) -> tuple[Array, OutsideState, Array, Array, dict[str, Array]]:
        """One simultaneous move; ``info`` is empty, for what theirs counts is not per player."""
        observations, inner, rewards, over = self._step(key, state.inner, actions)
        paid = jnp.stack([jnp.asarray(r, jnp.result_type(float)).reshape(()) for r in rewards])
        paid = jnp.where(state.over, 0.0, paid)
        now = OutsideState(inner, self._seen(observations), jnp.asarray(over, bool).reshape(()))
        # Types of theirs may differ between reset and step; a loop needs them constant.
        after = jax.tree.map(
            lambda old, new: jnp.where(state.over, old, new).astype(jnp.asarray(old).dtype), state, now
        )
        return after.observations, after, paid, after.over, {}

    def observe(self, state: OutsideState, player: int | None = None) -> Array:
        return state.observations if player is None else state.observations[player]


def _planes_shape(space: Any) -> tuple[int, int, int]:
    if hasattr(space, "n"):
        return (int(space.n), 1, 1)
    shape = _shape(space)
    if len(shape) == 3:
        return (shape[2], shape[0], shape[1])
    return (math.prod(shape), 1, 1)


def _shape(space: Any) -> tuple[int, ...]:
    """Of the observations in a box; some write that of a vector as its length."""
    return tuple(int(x) for x in np.atleast_1d(space.shape))


def _planes(x: Array, space: Any) -> Array:
    """An observation of theirs as planes, in floating point."""
    dtype = jnp.result_type(float)
    if hasattr(space, "n"):
        return jax.nn.one_hot(x, int(space.n), dtype=dtype).reshape(-1, 1, 1)
    x = jnp.asarray(x, dtype)
    return jnp.moveaxis(x, -1, 0) if len(_shape(space)) == 3 else x.reshape(-1, 1, 1)


def described(
    environment: Any, options: tuple[tuple[str, Any], ...], make: Callable[..., Any], names: Sequence[str]
) -> Any:
    """What ``environment`` names: ``module:Class`` anywhere, or a name that the package's ``make`` knows."""
    if not isinstance(environment, str):
        return environment
    module, colon, name = environment.partition(":")
    if not colon and environment not in names:
        raise ValueError(f"environment is {environment!r}; allowed: module:Class, or one of {', '.join(sorted(names))}")
    try:
        arguments = dict(options)
        return getattr(importlib.import_module(module), name)(**arguments) if colon else make(environment, **arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"environment is {environment!r} with options {options!r}: {error}") from None


ENVIRONMENT = "its name there, module:Class, or in Python an environment itself"


# --- ours as theirs -----------------------------------------------------------------------


def shown_shape(game: Game) -> tuple[int, ...]:
    shape = tuple(game.observation_shape)
    return (1 + 2**game.n_players,) if shape == () else (shape[1], shape[2], shape[0])


def shown(game: Game, observations: Array) -> Array:
    """Observations of all seats as theirs: one-hot states, or planes with channels last."""
    if tuple(game.observation_shape) == ():
        return jax.nn.one_hot(observations, 1 + 2**game.n_players, dtype=jnp.float32)
    return jnp.moveaxis(observations, 1, -1).astype(jnp.float32)


def need_sampled(game: Game) -> None:
    if "sampled" not in game.views:
        raise ValueError(
            f"game {type(game).__name__} has the views {sorted(game.views)}; allowed: games that are sampled"
        )
