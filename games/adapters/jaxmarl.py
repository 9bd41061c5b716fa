"""Games to and from JaxMARL."""

import functools
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

REFUSED = {
    "storm": "with two players it never pays for an interaction, and with three a later pair erases what an earlier "
    "pair was paid",
    "storm_np": "when a defector and a cooperator meet, both are paid one's reward, or each the other's",
}
"""Environments whose rewards are not those of the game that they are called after, and why; found in releases up to
0.2.0. In this benchmark the game is in-the-matrix, whose rules are those of their ``storm_2p``."""


@functools.lru_cache(maxsize=64)
def _jaxmarl(environment: Any, options: tuple[tuple[str, Any], ...]) -> Any:
    """The environment that the fields of a :class:`JaxMARLGame` describe; one object for all its uses."""
    if environment in REFUSED:
        raise ValueError(
            f"environment is {environment!r}, whose rewards are wrong: {REFUSED[environment]}; allowed: others, and "
            "the game in-the-matrix"
        )
    jaxmarl = package("jaxmarl")
    return described(environment, options, jaxmarl.make, jaxmarl.registered_envs)


@pytree_dataclass
class JaxMARLGame(OutsideGame):
    """An environment of JaxMARL (Rutherford et al., NeurIPS 2024) whose agents act at once.

    ``JaxMARLGame(environment="coin_game", options=(("num_inner_steps", 16),), horizon=160)``.
    """

    environment: Any = field(doc=ENVIRONMENT, static=True)
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
    need_sampled(game)
    package("jaxmarl")
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
            box = spaces.Box(-jnp.inf, jnp.inf, shown_shape(game), jnp.float32)
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
            return self._named(shown(self.game, seen)), GameState(done=jnp.zeros((), bool), step=zero, game=state)

        def step_env(self, key: Array, state: Any, actions: dict[str, Array]) -> tuple[Any, Any, Any, Any, Any]:
            joint = jnp.stack([jnp.asarray(actions[agent], jnp.int32) for agent in self.agents])
            seen, after, rewards, done, info = self.game.step(key, state.game, joint)
            dones = {**dict.fromkeys(self.agents, done), "__all__": done}
            now = GameState(done=done, step=state.step + 1, game=after)
            return self._named(shown(self.game, seen)), now, self._named(rewards), dones, dict(info)

        def get_obs(self, state: Any) -> dict[str, Array]:
            return self._named(shown(self.game, self.game.observe(state.game)))

        def get_avail_actions(self, state: Any) -> dict[str, Array]:  # type: ignore[override]
            del state
            return dict.fromkeys(self.agents, jnp.ones(self.game.n_actions, bool))

    return ShapingGame
