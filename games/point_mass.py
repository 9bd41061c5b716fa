"""LILI's point mass: reach a hidden target, which goes round a circle one way or the other, as one has ended.

Rules and numbers are those of the code that descends from the authors' (a fork of softlearning), in its version for
LILI: the last step of an interaction ignores the action, the player is back at its start afterwards, and the target
has moved. Positions are seen in units of the walls', which that code does not do.

Source: Xie et al., CoRL 2020 (arXiv 2011.06619).
"""

import functools
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.latent import LatentGame
from shaping_bench.games.spaces import Box, Space

CENTRE = (0.0, -0.05)
"""Of the circle on which the target is."""

FIRST = -1
"""Index of the target's place in the first interaction."""

ANGLES, WALKS = 2048, 2048
"""Places of the target over which means are taken, and episodes of random play."""


class State(NamedTuple):
    """Steps since the interaction began, where the player is, ``(2,)``, and the number of the target's place."""

    time: Array
    position: Array
    place: Array


@pytree_dataclass
class PointMass(LatentGame):
    """``r = -|p - target|`` before every move; ``p`` moves by at most ``speed`` along either axis. Who ends within the
    circle turns the target by ``+turn``, who ends outside by ``-turn``."""

    latent_size: ClassVar[int] = 2
    counts: ClassVar[tuple[Count, ...]] = (
        Count(
            "regret",
            "what the best way to the target earns more",
            "reward per step",
            direction="lower",
            source="this benchmark: against who sees the target, and takes it as given",
        ),
        Count(
            "target_distance",
            "of the target from where interactions begin",
            "length",
            direction="lower",
            source="this benchmark: least for who keeps the target near",
        ),
        Count(
            "inside",
            "interactions that end within the circle",
            "share",
            high=1.0,
            source="Xie et al. 2020: what the target reacts to",
        ),
    )

    turn: float = field(0.2, "angle by which the target moves between interactions, in radians", low=0.0)
    radius: float = field(0.1, "of the circle", low=0.0, exclusive=True)
    speed: float = field(0.01, "most that a step moves along either axis", low=0.0, exclusive=True)
    bound: float = field(0.15, "distance of the walls from where interactions begin", low=0.0, exclusive=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)
    horizon: int = field(50, "steps of an interaction", low=1, static=True)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Where the player is, in units of ``bound``."""
        return (2,)

    def action_space(self, player: int) -> Space:
        """Along either axis, in units of ``speed``."""
        return Box(-1.0, 1.0, (2,))

    # what is known of it

    def target(self, place: Any) -> Array:
        """Place of the target, ``(2,)``."""
        angle = self.turn * place
        return jnp.array(CENTRE) + self.radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    def least_distance(self, target: Array, time: Any) -> Array:
        """From a target after so many steps, by the shortest way from the start: nearer nobody can be."""
        ahead = jnp.maximum(jnp.abs(target) - self.speed * time, 0.0)
        return jnp.hypot(ahead[0], ahead[1])

    def best_returns(self, angles: np.ndarray) -> np.ndarray:
        """Sums of rewards of the shortest ways to targets at these angles, ``(n,)``."""
        return _best_returns(angles, float(self.radius), float(self.speed), self.horizon)

    @property
    def tracking_return(self) -> float:
        """Per step, of shortest ways to a target that goes round: the most that there is without influence."""
        angles = 2.0 * np.pi * np.arange(ANGLES) / ANGLES
        return float(self.best_returns(angles).mean()) / self.horizon

    def anchors(self) -> Anchors | None:
        """Random play by simulation, with targets anywhere on the circle. The optimum is to keep the target
        between two neighbouring places of its first turn."""
        return _anchors(float(self.turn), float(self.radius), float(self.speed), float(self.bound), self.horizon)

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """From the corner that is farthest from a target, and at a target."""
        most = float(np.hypot(self.bound + self.radius, self.bound + self.radius - CENTRE[1]))
        return -most, 0.0

    # the environment

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns the observation ``(1, 2)`` and the state before the first interaction."""
        del key
        state = self._begun(jnp.asarray(FIRST, jnp.int32))
        return self.observe(state), state

    @staticmethod
    def _begun(place: Array) -> State:
        return State(time=jnp.zeros((), jnp.int32), position=jnp.zeros((2,)), place=place)

    def resume(self, key: Array, state: State) -> State:
        """The next interaction: the target has moved, and the player is where it began. Before the first one
        nothing has been met, and nothing moves."""
        del key
        moved = state.place + jnp.where(self.is_inside(state.position), 1, -1)
        return self._begun(jnp.where(state.time > 0, moved, state.place))

    def is_inside(self, position: Array) -> Array:
        """Whether a place is within the circle, a scalar."""
        away = position - jnp.array(CENTRE)
        return jnp.hypot(away[0], away[1]) < self.radius

    def moved(self, state: State, action: Array) -> tuple[Array, Array, dict[str, Array]]:
        target = self.target(state.place)
        away = state.position - target
        distance = jnp.hypot(away[0], away[1])
        move = self.speed * jnp.clip(action, -1.0, 1.0)
        # A share of interactions as a mean over steps: what counts at the last one counts as often as there are steps.
        ended = (state.time + 1 >= self.horizon) & self.is_inside(state.position)
        info = {
            "regret": distance - self.least_distance(target, state.time),
            "target_distance": jnp.hypot(target[0], target[1]),
            "inside": jnp.where(ended, float(self.horizon), 0.0),
        }
        return jnp.clip(state.position + move, -self.bound, self.bound), -distance, info

    def observe_own(self, state: State) -> Array:
        return state.position / self.bound

    def latent(self, state: State) -> Array:
        """Direction of the target from the circle's centre."""
        angle = self.turn * state.place
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _best_returns(angles: np.ndarray, radius: float, speed: float, length: int) -> np.ndarray:
    away = np.abs(np.array(CENTRE) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1))
    ahead = np.maximum(away[..., None, :] - speed * np.arange(length)[:, None], 0.0)
    return -np.hypot(ahead[..., 0], ahead[..., 1]).sum(axis=-1)


@functools.lru_cache(maxsize=64)
def _anchors(turn: float, radius: float, speed: float, bound: float, length: int) -> Anchors:
    places = turn * np.arange(max(2, int(2.0 * np.pi / turn))) if turn else np.zeros(2)
    near = _best_returns(places, radius, speed, length)
    rng = np.random.default_rng(0)
    angles = 2.0 * np.pi * np.arange(ANGLES) / ANGLES
    targets = np.array(CENTRE) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    positions, earned = np.zeros((WALKS, 2)), 0.0
    for _ in range(length):
        earned -= float(np.hypot(*(positions - rng.permutation(targets)).T).mean())
        positions = np.clip(positions + speed * rng.uniform(-1.0, 1.0, (WALKS, 2)), -bound, bound)
    return Anchors(
        random=round(earned / length, 6),
        social_optimum=float((near[1:] + near[:-1]).max() / 2.0 / length),
        smallest=-float(np.hypot(bound + radius, bound + radius - CENTRE[1])),
        largest=0.0,
        source="shortest ways; random play by simulation",
    )
