"""Games to and from SocialJax."""

import functools
from typing import Any

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


@functools.lru_cache(maxsize=64)
def _socialjax(environment: Any, options: tuple[tuple[str, Any], ...]) -> Any:
    """The environment that the fields of a :class:`SocialJaxGame` describe; one object for all its uses."""
    socialjax = package("socialjax")
    return described(environment, options, socialjax.make, socialjax.registered_envs)


@pytree_dataclass
class SocialJaxGame(OutsideGame):
    """An environment of SocialJax (Guo et al., ICLR 2026).

    ``SocialJaxGame(environment="clean_up", options=(("num_agents", 5),), horizon=1000)``. Unless options say otherwise
    everybody is paid the own reward, and their episode is a step longer than ours: its last step is not paid and shows
    the next one's board. They multiply most own rewards by the number of agents, which ``reward_scale`` undoes.
    Releases before 1.2.0 are another game, in which players may stand on one another: which one is meant is which one
    is on Python's path.
    """

    environment: Any = field(doc=ENVIRONMENT, static=True)
    options: tuple[tuple[str, Any], ...] = field((), "what it is made with: ((name, value), ...)", static=True)
    horizon: int = field(1000, "steps of an episode", low=1, static=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)
    reward_scale: float = field(1.0, "factor of what they pay", low=0.0)

    @property
    def made(self) -> Any:
        """The environment."""
        if not isinstance(self.environment, str):
            return self.environment
        assumed = {"num_inner_steps": self.horizon + 1, "shared_rewards": False}
        return _socialjax(self.environment, tuple((assumed | dict(self.options)).items()))

    def _spaces(self) -> tuple[list[Any], list[Any]]:
        made = self.made
        box, _ = made.observation_space()
        return [box] * made.num_agents, [made.action_space()] * made.num_agents

    def _reset(self, key: Array) -> tuple[list[Array], Any]:
        observations, inner = self.made.reset(key)
        return list(observations), inner

    def _step(self, key: Array, inner: Any, actions: Array) -> tuple[list[Array], Any, list[Array], Array]:
        observations, after, rewards, dones, _ = self.made.step_env(key, inner, actions)
        return list(observations), after, list(rewards * self.reward_scale), dones["__all__"]


def to_socialjax(game: Game) -> Any:
    """A game as an environment of SocialJax: agents are numbers, and observations and rewards arrays over them.

    As theirs do, ``step_env`` itself resets after ``game.num_steps`` steps and then shows the next episode, and says
    so under ``"0"``, ... and ``"__all__"``; ours pays that step, too. ``info`` holds what the game counts.

    Args:
      game: one with a sampled view.

    Raises:
      ValueError: the game has no sampled view.
      ImportError: SocialJax cannot be imported.
    """
    need_sampled(game)
    package("socialjax")
    return _socialjax_class()(game)


@functools.cache
def _socialjax_class() -> Any:
    import jax
    from socialjax.environments import spaces
    from socialjax.environments.multi_agent_env import MultiAgentEnv

    class ShapingGame(MultiAgentEnv):  # type: ignore[misc]
        """One of our games."""

        def __init__(self, game: Game) -> None:
            super().__init__(num_agents=game.n_players)
            self.game, self.agents = game, list(range(game.n_players))

        @property
        def name(self) -> str:
            return type(self.game).__name__

        @property
        def num_actions(self) -> int:
            return self.game.n_actions

        def action_space(self, agent_id: int | None = None) -> Any:
            return spaces.Discrete(self.game.n_actions)

        def observation_space(self) -> tuple[Any, tuple[int, ...]]:
            shape = shown_shape(self.game)
            return spaces.Box(-jnp.inf, jnp.inf, shape, jnp.float32), shape

        @functools.partial(jax.jit, static_argnums=0)
        def reset(self, key: Array) -> tuple[Array, Any]:
            seen, state = self.game.reset(key)
            return shown(self.game, seen), state

        @functools.partial(jax.jit, static_argnums=0)
        def step_env(self, key: Array, state: Any, actions: Any, timestep: int = 0) -> tuple[Any, Any, Any, Any, Any]:
            del timestep
            own, reset = jax.random.split(key)
            seen, after, rewards, done, info = self.game.step(own, state, jnp.asarray(actions, jnp.int32))
            first, start = self.game.reset(reset)
            after, seen = jax.tree.map(lambda a, b: jnp.where(done, a, b), (start, first), (after, seen))
            dones = dict.fromkeys((*map(str, self.agents), "__all__"), done)
            return shown(self.game, seen), after, rewards, dones, dict(info)

    return ShapingGame
