"""Escape Room: somebody has to hold the lever that opens the door for the others.

There is a lever, the place where everybody starts, and a door. In every step all choose where to be. The door is open
in a step in which enough of them choose the lever; who then chooses it is out and gets the prize, and the episode ends.
Whoever changes places otherwise pays for it. Nobody wants the lever unless somebody pays for it: the game is played
with payments (:mod:`shaping_bench.games.incentives`).

Source: Yang et al., NeurIPS 2020 (arXiv 2006.06051); rules of its official code, ``room_symmetric.py``.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count, PlayedGame
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.incentives import paying

LEVER, START, DOOR = range(3)
"""Places, and the actions of going there."""

PRIZE, EFFORT = 10.0, 1.0
"""What going through the open door brings, and what any other change of place costs."""

_SOURCE = "Yang et al., NeurIPS 2020 (LIO), official code"


class State(NamedTuple):
    """Steps since ``reset``, and where everybody is, ``(n_players,)``."""

    time: Array
    places: Array


@pytree_dataclass
class EscapeRoom(PlayedGame):
    """N players, of whom M have to hold the lever: together ``10 (N - M) - M`` in one step, if they know how. What is
    reported is of a whole episode."""

    family: ClassVar[str | None] = "escape-room"
    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")
    ends_early: ClassVar[bool] = True
    shows_payments: ClassVar[bool] = True
    counts: ClassVar[tuple[Count, ...]] = (
        Count("escape", "whether somebody leaves", "share", direction="higher", high=1.0, source=_SOURCE),
        Count("lever", "steps in which the player holds the lever", "steps per episode", source=_SOURCE),
        Count("inside", "steps of the episode", "steps per episode", direction="lower", source=_SOURCE),
    )

    num_players: int = field(2, "N: number of players", low=2, high=6, static=True)
    needed: int | None = field(None, "M: who have to hold the lever; none: all but one", low=1, static=True)
    horizon: int = field(5, "most steps of an episode", low=1, static=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        needed, players = values["needed"], values["num_players"]
        if needed is not None and needed >= players:
            raise ValueError(f"needed is {needed}; allowed among {players} players: 1 to {players - 1}")
        return dict(values)

    @property
    def n_players(self) -> int:
        return self.num_players

    @property
    def levers(self) -> int:
        """M."""
        return self.num_players - 1 if self.needed is None else self.needed

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def n_actions(self) -> int:
        return 3

    @property
    def num_steps(self) -> int:
        return self.horizon

    @property
    def num_moves(self) -> int:
        """One: an episode is one try to leave."""
        return 1

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Where everybody is, one-hot: the player first, then the others in the order of seats."""
        return (3 * self.num_players,)

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """Of an episode: to run to and fro, or to leave at once."""
        return -EFFORT * self.horizon, PRIZE

    def anchors(self) -> Anchors | None:
        """In closed form: the optimum takes one step; random play is a chain over everybody's places."""
        n, m = self.num_players, self.levers
        return Anchors(
            random=_at_random(n, m, self.horizon),
            social_optimum=(PRIZE * (n - m) - EFFORT * m) / n,
            smallest=-EFFORT * self.horizon,
            largest=PRIZE,
            source="closed form",
        )

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, *observation_shape)`` and state."""
        del key
        state = State(time=jnp.zeros((), jnp.int32), places=jnp.full((self.num_players,), START, jnp.int32))
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Everybody goes where it chooses, ``(n_players,)``."""
        del key
        dtype = jnp.result_type(float)
        places = actions.astype(jnp.int32)
        opened = jnp.sum(places == LEVER) >= self.levers
        leaves = opened & (places == DOOR)
        moved = places != state.places
        rewards = jnp.where(leaves, PRIZE, jnp.where(moved, -EFFORT, 0.0)).astype(dtype)
        after = State(time=state.time + 1, places=places)
        info = {
            "escape": jnp.broadcast_to(jnp.any(leaves), places.shape).astype(dtype),
            "lever": (places == LEVER).astype(dtype),
            "inside": jnp.ones(places.shape, dtype),
        }
        return self.observe(after), after, rewards, jnp.any(leaves) | (after.time >= self.horizon), info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state; by default what all see."""
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(self.num_players)])
        order = [player, *(j for j in range(self.num_players) if j != player)]
        return jax.nn.one_hot(jnp.stack([state.places[j] for j in order]), 3).reshape(-1)

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-c`` holds the lever, ``all-d`` waits at the door."""
        del state, player
        place = {"all-c": LEVER, "all-d": DOOR, "random": None}[name]
        return memory, jnp.zeros(3) if place is None else jnp.where(jnp.arange(3) == place, 0.0, -jnp.inf)


@functools.lru_cache(maxsize=16)
def _at_random(players: int, levers: int, horizon: int) -> float:
    """Mean over the players of an episode's return where everybody goes anywhere."""
    joint = np.array(list(itertools.product(range(3), repeat=players)))
    opened = (joint == LEVER).sum(axis=1) >= levers
    leaves = opened[:, None] & (joint == DOOR)
    moved = joint[:, None, :] != joint[None, :, :]  # from, to, player
    mean = np.where(leaves[None], PRIZE, -EFFORT * moved).mean(axis=(1, 2))
    goes_on = ~leaves.any(axis=1)
    at = np.all(joint == START, axis=1).astype(np.float64)
    total = 0.0
    for _ in range(horizon):
        total += at @ mean
        at = at.sum() * goes_on / len(joint)
    return float(total)


PayingEscapeRoom = paying(EscapeRoom)
