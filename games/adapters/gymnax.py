"""Games of one player from gymnax, and seats of ours to it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games.adapters.common import (
    ENVIRONMENT,
    OutsideGame,
    described,
    need_sampled,
    package,
    shown,
    shown_shape,
)
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field, pytree_dataclass

Act = Callable[[Array, Array, Any], Array]
"""What plays a seat: ``(key, observation, state)`` to an action, pure."""


@functools.lru_cache(maxsize=64)
def _gymnax(environment: Any, options: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    """The same of a :class:`GymnaxGame`, and its default parameters."""
    gymnax = package("gymnax")
    described_environment = described(
        environment, options, lambda name, **given: gymnax.make(name, **given)[0], gymnax.registered_envs
    )
    return described_environment, described_environment.default_params


@pytree_dataclass
class GymnaxGame(OutsideGame):
    """An environment of gymnax (Lange 2022): a game of one player, in which learning rules can be
    compared with what others report of them before they meet anybody."""

    environment: Any = field(doc=ENVIRONMENT, static=True)
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
    need_sampled(game)
    if not 0 <= player < game.n_players:
        raise ValueError(f"player is {player}; allowed: a seat from 0 to {game.n_players - 1}")
    if len(others) != game.n_players - 1:
        raise ValueError(f"others are {len(others)}; allowed: {game.n_players - 1}, one per other seat")
    package("gymnax")
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
            return spaces.Box(-jnp.inf, jnp.inf, shown_shape(self.game), jnp.float32)

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
            return shown(self.game, state.seen)[self.player]

        def is_terminal(self, state: Any, params: Any) -> Array:
            return state.time >= params.max_steps_in_episode

        def is_terminated(self, state: Any, params: Any) -> Array:
            return jnp.zeros((), bool)

    return ShapingSeat
