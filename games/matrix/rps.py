"""Rock, paper, scissors, repeated: a zero-sum game of three actions.

A policy has three logits in each of ten states: the start, and the last joint action, the own action
first (rock-rock, rock-paper, ...). In play one sees the index of that state. Values are
``s0' (I - gamma P)^-1 r`` on the chain of nine joint actions, as of the games of two actions.
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.games.anchors import SATURATED_LOGIT, Anchors
from shaping_bench.games.base import Count, Game, Params
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.matrix.repeated import EnvState, dense_solve, dense_value
from shaping_bench.games.views import replaced

ACTIONS = ("rock", "paper", "scissors")
STATES = ("start", *("-".join(pair) for pair in itertools.product(ACTIONS, repeat=2)))

SWAPPED = (0, *(1 + 3 * b + a for a, b in itertools.product(range(3), repeat=2)))
"""Where the second player reads what the first one reads."""


@pytree_dataclass
class RockPaperScissors(Game):
    """Two players; 1 for who wins a round, -1 for who loses it, 0 for both where they do the same."""

    family: ClassVar[str | None] = "rps"
    views: ClassVar[frozenset[str]] = frozenset({"exact", "sampled"})
    counts: ClassVar[tuple[Count, ...]] = tuple(
        Count(name, f"how often the player plays {name}", "share", high=1.0, source="this benchmark")
        for name in ACTIONS
    )

    gamma: float = field(0.9, "discount", low=0.0, high=1.0, exclusive=True)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(50, "steps of an episode, sampled view", low=1, static=True, added=True)

    @property
    def n_players(self) -> int:
        return 2

    @property
    def n_actions(self) -> int:
        return len(ACTIONS)

    @property
    def num_states(self) -> int:
        return len(STATES)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(STATES) * len(ACTIONS),) * 2

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (tuple(f"{state}:{action}" for state in STATES for action in ACTIONS),) * 2

    @property
    def per_step(self) -> Any:
        return 1.0 - self.gamma

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def zero_sum(self) -> bool:
        return True

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return -1.0, 1.0

    def anchors(self) -> Anchors:
        # Whatever is played against one who plays all three alike, nobody wins in the mean.
        return Anchors(random=0.0, social_optimum=0.0, best_response=0.0, smallest=-1.0, largest=1.0)

    def _rewards(self, player: int, like: Array) -> Array:
        """Of the nine joint actions, the first player's action first."""
        first = jnp.asarray([(0, -1, 1)[(b - a) % 3] for a, b in itertools.product(range(3), repeat=2)], like.dtype)
        return first if player == 0 else -first

    def _joint(self, params: Sequence[Params]) -> tuple[Array, Array]:
        """Probabilities of both players' actions in each state as the first one reads it, ``(10, 3)``."""
        first, second = (probabilities(theta) for theta in params)
        return first, second[jnp.asarray(SWAPPED)]

    def _chain(self, params: Sequence[Params]) -> Array:
        """Probabilities of the next joint action in each state, ``(10, 9)``."""
        first, second = self._joint(params)
        return (first[:, :, None] * second[:, None, :]).reshape(len(STATES), -1)

    def value(self, params: Sequence[Params], player: int) -> Array:
        chain = self._chain(params)
        return dense_value(chain, self._rewards(player, chain), self.gamma)

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        """How often each plays each action, discounted."""
        chain = self._chain(params)
        system = jnp.eye(9, dtype=chain.dtype) - self.gamma * chain[1:]
        occupancy = (self.per_step * dense_solve(system.T, chain[0])).reshape(3, 3)
        shares = (occupancy.sum(axis=1), occupancy.sum(axis=0))
        return {name: jnp.stack([share[k] for share in shares]) for k, name in enumerate(ACTIONS)}

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        """Optimal deterministic policy against a fixed one, by policy iteration over the ten states."""

        def improve(_: Any, own: Array) -> Array:
            joint = replaced(params, player, own.reshape(-1))
            chain = self._chain(joint)
            rewards = self._rewards(player, chain)
            system = jnp.eye(9, dtype=chain.dtype) - self.gamma * chain[1:]
            returns = (rewards + self.gamma * dense_solve(system, chain[1:] @ rewards)).reshape(3, 3)
            other = self._joint(joint)[1 - player]
            worth = other @ (returns.T if player == 0 else returns)  # (10, 3): of the own actions
            best = SATURATED_LOGIT * jax.nn.one_hot(jnp.argmax(worth, axis=1), 3, dtype=chain.dtype)
            return best if player == 0 else best[jnp.asarray(SWAPPED)]

        start = jnp.zeros((len(STATES), 3), jnp.result_type(*params[player]))
        best = lax.fori_loop(0, 4 + 2 * len(STATES), improve, start).reshape(-1)
        return tuple(best)

    # sampled view

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Scalars: the index of the state as the player reads it, 0 at the start."""
        return ()

    @property
    def num_steps(self) -> int:
        return self.horizon

    def reset(self, key: Array) -> tuple[Array, EnvState]:
        del key
        return jnp.zeros((2,), jnp.int32), EnvState(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))

    def observe(self, state: EnvState, player: int | None = None) -> Array:
        """The last joint action as ``player`` reads it; by default as each does, ``(2,)``."""
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(2)])
        first, second = state.joint_action // 3, state.joint_action % 3
        own, other = (first, second) if player == 0 else (second, first)
        return jnp.where(state.joint_action < 0, 0, 1 + 3 * own + other)

    def paid(self, observations: Array, actions: Array) -> Array:
        del observations
        won = self._won(actions[..., 0], actions[..., 1])
        return jnp.stack([won, -won], axis=-1)

    def _won(self, first: Array, second: Array) -> Array:
        """What the first player gets for a joint action."""
        ahead = (first - second) % 3  # paper is after rock, scissors after paper, rock after scissors
        return jnp.where(ahead == 1, 1.0, jnp.where(ahead == 2, -1.0, 0.0))

    def step(
        self, key: Array, state: EnvState, actions: Array
    ) -> tuple[Array, EnvState, Array, Array, dict[str, Array]]:
        """One simultaneous move; ``key`` is unused, and info says who played what."""
        del key
        won = self._won(actions[0], actions[1])
        rewards = jnp.stack([won, -won])
        after = EnvState(state.time + 1, (3 * actions[0] + actions[1]).astype(jnp.int32))
        info = {name: (actions == k).astype(rewards.dtype) for k, name in enumerate(ACTIONS)}
        return self.observe(after), after, rewards, after.time >= self.horizon, info


def probabilities(theta: Params) -> Array:
    """Of the actions in each own state, ``(10, 3)``."""
    logits = theta if isinstance(theta, jax.Array) else jnp.stack([jnp.asarray(x) for x in theta])
    return jax.nn.softmax(logits.reshape(len(STATES), 3), axis=-1)
