"""A road of three lanes: pass a car that changes lanes just before, to where it wants, which depends on where one was
last.

In the manner of the driving domain of LILI (Xie et al., CoRL 2020, arXiv 2011.06619), whose rules are not known;
these are this benchmark's own. They are made so that keeping away from the ego's lane is worth something, can be
brought about at no cost, and takes knowing where the other is.
"""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.latent import LatentGame
from shaping_bench.games.spaces import Box, Space

EDGE = 1.5
"""Of the road, lanes being at -1, 0 and 1."""

LIVES, INTERACTIONS = 256, 64
"""Of random play, by simulation."""


class State(NamedTuple):
    """Steps since the interaction began, where the ego is across the road, and the lane that the other will take."""

    time: Array
    position: Array
    lane: Array


@pytree_dataclass
class Lanes(LatentGame):
    """The ego begins in the middle lane and passes the other at step ``passing``. Until then a step costs ``effort``
    times its distance from the middle, and being within ``width`` of the other when passing costs 1. The lane is seen
    from then on. Whom the other last saw on its left half of the road it awaits one lane further right, else one
    further left, round the road's edges."""

    latent_size: ClassVar[int] = 2
    counts: ClassVar[tuple[Count, ...]] = (
        Count(
            "regret",
            "what the best way past the other earns more",
            "reward per step",
            direction="lower",
            low=None,
            source="this benchmark: against who sees the lane, and takes it as given",
        ),
        Count("collision", "interactions in which the ego runs into the other", "share", direction="lower", high=1.0),
        Count(
            "blocked",
            "interactions in which the other takes the lane that the ego begins in",
            "share",
            direction="lower",
            high=1.0,
            source="this benchmark: none for who leads the other from edge to edge",
        ),
    )

    speed: float = field(0.5, "most that a step moves across the road", low=0.0, exclusive=True)
    effort: float = field(0.1, "cost of a step for each lane off the middle one", low=0.0)
    width: float = field(0.75, "distance at which one gets past", low=0.0, high=1.0)
    gamma: float = field(0.95, "discount", low=0.0, high=1.0)
    passing: int = field(5, "step at which the other is passed", low=1, static=True)
    horizon: int = field(10, "steps of an interaction, more than before passing", low=2, static=True)

    @classmethod
    def checked(cls, values: Any) -> dict[str, Any]:
        if values["passing"] >= values["horizon"]:
            raise ValueError(f"passing is {values['passing']}; allowed: fewer than the horizon of {values['horizon']}")
        return dict(values)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Where the ego is, as a share of the road's half; how far the other is ahead, 1 at first and 0 when passing;
        and its lane, 0 before that."""
        return (3,)

    def action_space(self, player: int) -> Space:
        """To the right, in units of ``speed``."""
        return Box(-1.0, 1.0, (1,))

    # what is known of it

    def least_cost(self, time: Any, lane: Any) -> Array:
        """Of a step on the cheapest way past a lane: straight on, or aside as late as it can be."""
        aside = jnp.maximum(self.width - self.speed * (self.passing - time), 0.0)
        return jnp.where((lane == 0) & (time <= self.passing), self.effort * aside, 0.0)

    @property
    def tracking_return(self) -> float:
        """Per step, of who takes lanes as given, and gets out of the way every third time."""
        aside = np.maximum(float(self.width) - float(self.speed) * np.arange(self.passing + 1), 0.0).sum()
        return -float(self.effort * aside) / 3.0 / self.horizon

    def anchors(self) -> Anchors | None:
        """The optimum, which pays nothing, leads the other from edge to edge; random play is simulated."""
        numbers = (float(self.speed), float(self.effort), float(self.width))
        return _anchors(*numbers, self.passing, self.horizon)

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """At the edge, having hit somebody; and on the middle lane."""
        return -1.0 - float(self.effort) * EDGE, 0.0

    # the environment

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns the observation ``(1, 3)`` and the state before the first interaction, the middle lane blocked."""
        del key
        state = self._begun(jnp.zeros((), jnp.int32))
        return self.observe(state), state

    @staticmethod
    def _begun(lane: Array) -> State:
        return State(time=jnp.zeros((), jnp.int32), position=jnp.zeros(()), lane=lane)

    def resume(self, key: Array, state: State) -> State:
        """The next interaction; before the first one nothing has been met, and nothing changes."""
        del key
        moved = state.lane + jnp.where(state.position < 0.0, 1, -1)
        moved = jnp.where(moved > 1, -1, jnp.where(moved < -1, 1, moved))
        return self._begun(jnp.where(state.time > 0, moved, state.lane))

    def moved(self, state: State, action: Array) -> tuple[Array, Array, dict[str, Array]]:
        passes = state.time == self.passing
        away = jnp.where(state.time <= self.passing, self.effort * jnp.abs(state.position), 0.0)
        hits = passes & (jnp.abs(state.position - state.lane) < self.width)
        reward = -away - jnp.where(hits, 1.0, 0.0)
        move = self.speed * jnp.clip(action[0], -1.0, 1.0)
        # Shares of interactions as means over steps: what counts once counts as often as there are steps.
        info = {
            "regret": -self.least_cost(state.time, state.lane) - reward,
            "collision": jnp.where(hits, float(self.horizon), 0.0),
            "blocked": jnp.where(passes & (state.lane == 0), float(self.horizon), 0.0),
        }
        return jnp.clip(state.position + move, -EDGE, EDGE), reward, info

    def observe_own(self, state: State) -> Array:
        ahead = jnp.maximum(self.passing - state.time, 0) / self.passing
        seen = jnp.where(state.time >= self.passing, state.lane, 0)
        return jnp.stack([state.position / EDGE, ahead.astype(state.position.dtype), seen.astype(state.position.dtype)])

    def latent(self, state: State) -> Array:
        """The lane, as a direction on a circle."""
        angle = 2.0 * math.pi / 3.0 * state.lane
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


@functools.lru_cache(maxsize=64)
def _anchors(speed: float, effort: float, width: float, passing: int, length: int) -> Anchors:
    rng, lanes, earned = np.random.default_rng(0), np.zeros(LIVES), 0.0
    for _ in range(INTERACTIONS):
        position = np.zeros(LIVES)
        for time in range(length):
            earned -= effort * np.abs(position).mean() if time <= passing else 0.0
            earned -= float((np.abs(position - lanes) < width).mean()) if time == passing else 0.0
            if time + 1 < length:
                position = np.clip(position + speed * rng.uniform(-1.0, 1.0, LIVES), -EDGE, EDGE)
        lanes = (lanes + np.where(position < 0.0, 1, -1) + 1) % 3 - 1
    return Anchors(
        random=round(earned / (INTERACTIONS * length), 6),
        social_optimum=0.0,
        smallest=-1.0 - effort * EDGE,
        largest=0.0,
        source="the cheapest way; random play by simulation",
    )
