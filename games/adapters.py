"""Games to and from JaxMARL and gymnax, whose packages need be there only where they are used.

Theirs as ours: :class:`JaxMARLGame` and :class:`GymnaxGame` are games of the sampled view, met
by every learner that plays. Ours as theirs: :func:`to_jaxmarl` is a ``MultiAgentEnv``, and
:func:`to_gymnax` an ``Environment`` for one seat, the others being played by given functions.

What differs, and how it is translated:

* *The end of an episode.* Theirs reset by themselves in the very step that ends an episode.
  Ours never do: an episode has a fixed number of steps. An environment of theirs that ends
  before its ``horizon`` stays where it is, pays nothing more, keeps showing its last observation
  and says ``done``, so that nobody learns from what is no longer played; one that would go on is
  cut at the horizon. Ours as theirs reset by themselves.
* *Observations.* Planes are ``(channels, rows, columns)`` here, ``(rows, columns, channels)``
  there. Vectors of theirs are planes of a single cell, ``(length, 1, 1)``; indices are one-hot,
  in either direction.
* *Agents.* Arrays over seats here, dictionaries by name in JaxMARL; seats are in the order of
  its ``agents``.
* *Values by step.* gymnax's ``step`` returns five values before its version 1.0 and six since,
  ``done`` having become ``terminated`` and ``truncated``. Both are understood.
"""

import contextlib
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games import Entry
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field, pytree_dataclass

Act = Callable[[Array, Array, Any], Array]
"""What plays a seat: ``(key, observation, state)`` to an action, pure."""

INSTALL = {
    "jaxmarl": "pip install --no-deps jaxmarl chex jaxtyping wadler-lindig",
    "gymnax": "pip install --no-deps gymnax gymnasium farama-notifications cloudpickle seaborn six",
}
"""Smallest sets of packages beside our own dependencies with which each can be imported."""


def _package(name: str) -> Any:
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
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        for stream in (*streams, sys.stdout):
            stream.flush()
        os.dup2(kept, 1)
        os.close(kept)


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


class OutsideGame(Game):
    """What games of other packages have in common; a subclass says how one resets and steps."""

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
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
    def sizes(self) -> tuple[int, ...]:
        """None: policies are networks of the learner's choice."""
        return ()

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
    shape = tuple(space.shape)
    if len(shape) == 3:
        return (shape[2], shape[0], shape[1])
    return (math.prod(shape), 1, 1)


def _planes(x: Array, space: Any) -> Array:
    """An observation of theirs as planes, in floating point."""
    dtype = jnp.result_type(float)
    if hasattr(space, "n"):
        return jax.nn.one_hot(x, int(space.n), dtype=dtype).reshape(-1, 1, 1)
    x = jnp.asarray(x, dtype)
    return jnp.moveaxis(x, -1, 0) if len(space.shape) == 3 else x.reshape(-1, 1, 1)


@functools.lru_cache(maxsize=64)
def _jaxmarl(environment: Any, options: tuple[tuple[str, Any], ...]) -> Any:
    """The environment that the fields of a :class:`JaxMARLGame` describe; one object for all its uses."""
    jaxmarl = _package("jaxmarl")
    return _described(environment, options, jaxmarl.make, jaxmarl.registered_envs)


@functools.lru_cache(maxsize=64)
def _gymnax(environment: Any, options: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    """The same of a :class:`GymnaxGame`, and its default parameters."""
    gymnax = _package("gymnax")
    made = _described(environment, options, lambda name, **given: gymnax.make(name, **given)[0], gymnax.registered_envs)
    return made, made.default_params


def _described(
    environment: Any, options: tuple[tuple[str, Any], ...], make: Callable[..., Any], names: Sequence[str]
) -> Any:
    """What ``environment`` names: ``module:Class`` anywhere, or a name that the package's ``make`` knows."""
    if not isinstance(environment, str):
        return environment
    module, colon, name = environment.partition(":")
    if not colon and environment not in names:
        raise ValueError(f"environment is {environment!r}; allowed: module:Class, or one of {', '.join(sorted(names))}")
    try:
        given = dict(options)
        return getattr(importlib.import_module(module), name)(**given) if colon else make(environment, **given)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"environment is {environment!r} with options {options!r}: {error}") from None


_ENVIRONMENT = "its name there, module:Class, or in Python an environment itself"


@pytree_dataclass
class JaxMARLGame(OutsideGame):
    """An environment of JaxMARL (Rutherford et al., NeurIPS 2024) whose agents act at once.

    ``JaxMARLGame(environment="coin_game", options=(("num_inner_steps", 16),), horizon=160)``.
    """

    environment: Any = field(doc=_ENVIRONMENT, static=True)
    options: tuple[tuple[str, Any], ...] = field((), "what it is made with: ((name, value), ...)", static=True)
    horizon: int = field(100, "steps of an episode", low=1, static=True)
    gamma: float = field(0.96, "discount", low=0.0, high=1.0)
    symmetric: bool = field(  # type: ignore[assignment]
        False, "whether exchanging two policies exchanges their returns", static=True
    )

    @property
    def made(self) -> Any:
        """The environment."""
        return _jaxmarl(self.environment, self.options)

    def _spaces(self) -> tuple[list[Any], list[Any]]:
        made = self.made
        return [made.observation_space(a) for a in made.agents], [made.action_space(a) for a in made.agents]

    def _by_seat(self, values: dict[str, Array]) -> list[Array]:
        return [values[agent] for agent in self.made.agents]

    def _reset(self, key: Array) -> tuple[list[Array], Any]:
        observations, inner = self.made.reset(key)
        return self._by_seat(observations), inner

    def _step(self, key: Array, inner: Any, actions: Array) -> tuple[list[Array], Any, list[Array], Array]:
        named = {agent: actions[i] for i, agent in enumerate(self.made.agents)}
        # Not ``step``, which resets: the last observation of an episode is then the next one's first.
        observations, after, rewards, dones, _ = self.made.step_env(key, inner, named)
        return self._by_seat(observations), after, self._by_seat(rewards), dones["__all__"]


@pytree_dataclass
class GymnaxGame(OutsideGame):
    """An environment of gymnax (Lange 2022): a game of one player, in which learning rules can be
    compared with what others report of them before they meet anybody."""

    environment: Any = field(doc=_ENVIRONMENT, static=True)
    options: tuple[tuple[str, Any], ...] = field((), "what it is made with: ((name, value), ...)", static=True)
    horizon: int = field(100, "steps of an episode", low=1, static=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)

    @property
    def made(self) -> Any:
        """The environment."""
        return _gymnax(self.environment, self.options)[0]

    @property
    def parameters(self) -> Any:
        """The environment's default parameters."""
        return _gymnax(self.environment, self.options)[1]

    def _spaces(self) -> tuple[list[Any], list[Any]]:
        return [self.made.observation_space(self.parameters)], [self.made.action_space(self.parameters)]

    def _reset(self, key: Array) -> tuple[list[Array], Any]:
        observation, inner = self.made.reset(key, self.parameters)
        return [observation], inner

    def _step(self, key: Array, inner: Any, actions: Array) -> tuple[list[Array], Any, list[Array], Array]:
        observation, after, reward, *ends, _ = self.made.step(key, inner, actions[0], self.parameters)
        return [observation], after, [reward], functools.reduce(jnp.logical_or, ends)


ADAPTERS: dict[str, Entry] = {
    "jaxmarl": Entry(
        JaxMARLGame, "JaxMARL (Rutherford et al., NeurIPS 2024)", "any environment of JaxMARL: environment=coin_game"
    ),
    "gymnax": Entry(GymnaxGame, "gymnax (Lange 2022)", "any environment of gymnax, alone: environment='CartPole-v1'"),
}
"""Games by name that need another package; beside ``games.GAMES``, which need none."""


# --- ours as theirs -----------------------------------------------------------------------


def _shown_shape(game: Game) -> tuple[int, ...]:
    shape = tuple(game.observation_shape)
    return (1 + 2**game.n_players,) if shape == () else (shape[1], shape[2], shape[0])


def _shown(game: Game, observations: Array) -> Array:
    """Observations of all seats as theirs: one-hot states, or planes with channels last."""
    if tuple(game.observation_shape) == ():
        return jax.nn.one_hot(observations, 1 + 2**game.n_players, dtype=jnp.float32)
    return jnp.moveaxis(observations, 1, -1).astype(jnp.float32)


def _need_sampled(game: Game) -> None:
    if "sampled" not in game.views:
        raise ValueError(
            f"game {type(game).__name__} has the views {sorted(game.views)}; allowed: games that are sampled"
        )


def to_jaxmarl(game: Game) -> Any:
    """A game as an environment of JaxMARL: ``reset(key)``, ``step(key, state, actions)``, spaces.

    Agents are called ``agent_0``, ... in the order of seats. Memory-one states are seen one-hot,
    ``(1 + 2**n,)``, the start first; planes with their channels last. ``infos`` holds what the
    game counts, per agent. ``step`` resets by itself after ``game.num_steps`` steps, with the
    base class's convention: rewards and dones are those of the step that ended the episode,
    observations and state those of the next.

    Args:
      game: one with a sampled view.

    Raises:
      ValueError: the game has no sampled view.
      ImportError: JaxMARL cannot be imported.
    """
    _need_sampled(game)
    _package("jaxmarl")
    return _jaxmarl_class()(game)


@functools.cache
def _jaxmarl_class() -> Any:
    from flax import struct
    from jaxmarl.environments import spaces
    from jaxmarl.environments.multi_agent_env import MultiAgentEnv, State

    @struct.dataclass
    class GameState(State):
        """JaxMARL's two fields and the game's own state."""

        game: Any

    class ShapingGame(MultiAgentEnv):  # type: ignore[misc]
        """One of our games."""

        def __init__(self, game: Game) -> None:
            super().__init__(num_agents=game.n_players)
            self.game = game
            box = spaces.Box(-jnp.inf, jnp.inf, _shown_shape(game), jnp.float32)
            self.observation_spaces = dict.fromkeys(self.agents, box)
            self.action_spaces = dict.fromkeys(self.agents, spaces.Discrete(game.n_actions))

        @property
        def name(self) -> str:
            return type(self.game).__name__

        @property
        def agent_classes(self) -> dict[str, list[str]]:
            return {"player": list(self.agents)}

        def _named(self, values: Array) -> dict[str, Array]:
            return {agent: values[i] for i, agent in enumerate(self.agents)}

        @functools.partial(jax.jit, static_argnums=0)
        def reset(self, key: Array) -> tuple[dict[str, Array], Any]:
            seen, state = self.game.reset(key)
            zero = jnp.zeros((), jnp.int32)
            return self._named(_shown(self.game, seen)), GameState(done=jnp.zeros((), bool), step=zero, game=state)

        def step_env(self, key: Array, state: Any, actions: dict[str, Array]) -> tuple[Any, Any, Any, Any, Any]:
            joint = jnp.stack([jnp.asarray(actions[agent], jnp.int32) for agent in self.agents])
            seen, after, rewards, done, info = self.game.step(key, state.game, joint)
            dones = {**dict.fromkeys(self.agents, done), "__all__": done}
            now = GameState(done=done, step=state.step + 1, game=after)
            return self._named(_shown(self.game, seen)), now, self._named(rewards), dones, dict(info)

        def get_obs(self, state: Any) -> dict[str, Array]:
            return self._named(_shown(self.game, self.game.observe(state.game)))

        def get_avail_actions(self, state: Any) -> dict[str, Array]:  # type: ignore[override]
            del state
            return dict.fromkeys(self.agents, jnp.ones(self.game.n_actions, bool))

    return ShapingGame


def to_gymnax(game: Game, others: Sequence[Act], player: int = 0) -> Any:
    """A seat of a game as an environment of gymnax: the other seats are played by ``others``.

    An episode ends by truncation after ``game.num_steps`` steps (``done`` in gymnax before 1.0);
    ``step`` then resets by itself. Observations as in :func:`to_jaxmarl`; ``info`` holds what
    the game counts for this seat.

    Args:
      game: one with a sampled view.
      others: per other seat, in order, what plays it: a pure function of a key, the seat's
        observation as the game shows it, and the game's state.
      player: the seat to be learned for.

    Raises:
      ValueError: the game has no sampled view, or another number of seats.
      ImportError: gymnax cannot be imported.
    """
    _need_sampled(game)
    if not 0 <= player < game.n_players:
        raise ValueError(f"player is {player}; allowed: a seat from 0 to {game.n_players - 1}")
    if len(others) != game.n_players - 1:
        raise ValueError(f"others are {len(others)}; allowed: {game.n_players - 1}, one per other seat")
    _package("gymnax")
    return _gymnax_class()(game, tuple(others), player)


@functools.cache
def _gymnax_class() -> Any:
    from flax import struct
    from gymnax.environments import spaces
    from gymnax.environments.environment import Environment, EnvParams, EnvState

    @struct.dataclass
    class SeatState(EnvState):
        """gymnax's time, the game's own state, and what all seats see of it."""

        game: Any
        seen: Any

    class ShapingSeat(Environment):  # type: ignore[misc]
        """A seat of one of our games."""

        def __init__(self, game: Game, others: tuple[Act, ...], player: int) -> None:
            super().__init__()
            self.game, self.others, self.player = game, others, player

        @property
        def name(self) -> str:
            return type(self.game).__name__

        @property
        def default_params(self) -> Any:
            return EnvParams(max_steps_in_episode=self.game.num_steps)

        @property
        def num_actions(self) -> int:
            return self.game.n_actions

        def action_space(self, params: Any = None) -> Any:
            return spaces.Discrete(self.game.n_actions)

        def observation_space(self, params: Any = None) -> Any:
            return spaces.Box(-jnp.inf, jnp.inf, _shown_shape(self.game), jnp.float32)

        def reset_env(self, key: Array, params: Any) -> tuple[Array, Any]:
            seen, state = self.game.reset(key)
            now = SeatState(time=jnp.zeros((), jnp.int32), game=state, seen=seen)
            return self.get_obs(now), now

        def step_env(self, key: Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
            game_key, *keys = jax.random.split(key, self.game.n_players)
            seats = [i for i in range(self.game.n_players) if i != self.player]
            actions = {self.player: action}
            for i, act, own in zip(seats, self.others, keys, strict=True):
                actions[i] = act(own, state.seen[i], state.game)
            joint = jnp.stack([jnp.asarray(actions[i], jnp.int32) for i in range(self.game.n_players)])
            seen, after, rewards, done, info = self.game.step(game_key, state.game, joint)
            now = SeatState(time=state.time + 1, game=after, seen=seen)
            # Since 1.0 gymnax finds by itself that time is up, and calls it truncated.
            ended = jnp.zeros((), bool) if hasattr(Environment, "is_truncated") else done
            return self.get_obs(now), now, rewards[self.player], ended, {k: x[self.player] for k, x in info.items()}

        def get_obs(self, state: Any, params: Any = None, key: Any = None) -> Array:
            return _shown(self.game, state.seen)[self.player]

        def is_terminal(self, state: Any, params: Any) -> Array:
            return state.time >= params.max_steps_in_episode

        def is_terminated(self, state: Any, params: Any) -> Array:
            return jnp.zeros((), bool)

    return ShapingSeat
