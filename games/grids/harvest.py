"""Harvest: a commons of apples that grow back the faster the more apples are near.

An apple pays 1 to who steps on it. Where one was, another grows with a probability that depends on how many apples
lie near: none near, none ever. Everybody who leaves patches alone does best together; who is first does best alone.
Beams send others off the board for a while. Introduced by Perolat et al. 2017 (arXiv 1707.06600); the board and the
rules are those of Melting Pot's ``commons_harvest__open``, on cells instead of pixels.
"""

import functools
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.grids import gathering
from shaping_bench.games.grids.board import Board, Glyph
from shaping_bench.games.grids.gathering import Bodies, GatheringGame, Sites

BOARDS: dict[str, str] = {
    "open": """
        AAA    A      A    AAA
        AA    AAA    AAA    AA
        A    AAAAA  AAAAA    A
        .     AAA    AAA     .
        .      A      A      .
        . A                A .
        .AAA  Q        Q  AAA.
        AAAAA            AAAAA
        .AAA              AAA.
        . A                A .
        .                    .
        .                    .
        .                    .
        . PPPPPPPPPPPPPPPPPP .
        .PPPPPPPPPPPPPPPPPPPP.
        PPPPPPPPPPPPPPPPPPPPPP
    """,
    "small": """
        P A    P
        .AAA   .
        . A   A.
        .    AAA
        P     AP
        . A    .
        .AAA   .
        P A    P
    """,
}
"""A: apples. P: cells to start from and to come back to; Q: those of the first two."""

RATES: dict[str, tuple[int, tuple[float, ...]]] = {
    "melting_pot": (4, (0.0, 0.0025, 0.005, 0.025)),
    "socialjax": (4, (0.0, 0.001, 0.005, 0.025)),
    "ssd": (2, (0.0, 0.005, 0.02, 0.05)),
}
"""Squared distance up to which apples are near, and probability per step that one grows where none, one, two, or more
lie near: of Melting Pot, of SocialJax, and of the first published code (Vinitsky et al.), whose radius is smaller."""

PLANES = 7

ANCHORS: dict[tuple[str, int], tuple[float, float, float]] = {
    ("open", 7): (0.0194, 0.0767, 0.1312),
    ("small", 2): (0.0138, 0.0383, 0.0281),
    ("small", 3): (0.0090, 0.0262, 0.0136),
}
"""By board and number of players, of the default rules: return per step and player of random play, of ``all-c`` in
all seats, and of the script that earns most in the first seat among random others; means of 64 episodes, standard
errors below 0.005."""


class State(NamedTuple):
    """Steps since ``reset``, players, live apples by site, and whose beams are on the board."""

    time: Array
    bodies: Bodies
    apples: Array
    beaming: Array


class _Map(NamedTuple):
    size: tuple[int, int]
    sites: Sites
    starts: np.ndarray
    inner: np.ndarray


@functools.cache
def _map(name: str) -> _Map:
    size, cells = gathering.drawn(BOARDS[name])
    return _Map(size=size, sites=Sites(cells["A"], size), starts=cells["P"], inner=cells["Q"])


@functools.cache
def _near(name: str, radius: int) -> np.ndarray:
    """Which sites are near one another, ``(S, S)``, themselves left out."""
    board = _map(name)
    places = np.stack(np.divmod(board.sites.cells, board.size[1]))
    square = ((places[:, :, None] - places[:, None]) ** 2).sum(axis=0)
    return ((square <= radius) & (square > 0)).astype(np.float32)


@pytree_dataclass
class Harvest(GatheringGame):
    """Apples that all may take, and that grow back from apples."""

    counts: ClassVar[tuple[Count, ...]] = (
        Count("apples", "apples eaten, per step", "apples per step", direction="higher"),
        Count("zaps", "others hit, per step", "hits per step"),
        Count("standing", "apples on the board, the same for everybody", "apples"),
    )

    layout: str = field("open", "which board", choices=tuple(BOARDS), static=True)
    num_players: int = field(7, "number of players", low=2, high=7, static=True)
    growth: str = field("melting_pot", "whose rates of growth and nearness", choices=tuple(RATES), static=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)
    horizon: int = field(1000, "steps of an episode", low=1, static=True)
    absence: int = field(5, "steps that who is hit is off the board", low=1, static=True)
    cooldown: int = field(2, "steps after a beam in which one has none", low=1, static=True)

    @property
    def n_actions(self) -> int:
        return 8

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Six planes of what is in sight, and whether I may zap."""
        return (PLANES, gathering.ROWS, gathering.COLUMNS)

    @property
    def board_planes(self) -> int:
        return PLANES - 1

    @property
    def symmetric(self) -> bool:
        """Unless some start inside and others not."""
        return len(self._map.inner) in (0, self.num_players)

    @property
    def _map(self) -> _Map:
        return _map(self.layout)

    def anchors(self) -> Anchors | None:
        """Measured for the default rules; None for others."""
        measured = ANCHORS.get((self.layout, self.num_players))
        if measured is None or (self.growth, self.horizon, self.absence, self.cooldown) != ("melting_pot", 1000, 5, 2):
            return None
        return gathering.anchors(measured)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, *observation_shape)`` and state: all apples are there."""
        board, n = self._map, self.num_players
        outer, inner = jax.random.split(key)
        bodies = gathering.started(outer, board.starts, n)
        if len(board.inner):
            some = min(n, len(board.inner))
            inside = jax.random.permutation(inner, jnp.asarray(board.inner))[:some]
            bodies = bodies._replace(cell=jnp.concatenate([inside, bodies.cell[some:]]))
        apples = jnp.ones(len(board.sites.cells), bool)
        state = State(time=jnp.int32(0), bodies=bodies, apples=apples, beaming=jnp.zeros(n, bool))
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Moves one after the other, then beams; apples grow, and who stands on one eats it.

        Args:
          key: chance of this step: who moves first, what grows, where one comes back.
          state: from ``reset`` or ``step``.
          actions: ``(n_players,)``: nothing, forward, backward, step left, step right, turn left, turn right, zap.

        Returns:
          Observations, state, rewards ``(n_players,)``, done, and counts.
        """
        board, n = self._map, self.num_players
        sites = len(board.sites.cells)
        words = jax.random.bits(key, (n * (1 + gathering.TRIES) + sites,), jnp.uint32)
        order, back, chance = jnp.split(words, [n, n * (1 + gathering.TRIES)])
        actions = actions.astype(jnp.int32)
        bodies = gathering.moved(state.bodies, actions, order, board.size)

        apples = state.apples | (chance < self._thresholds(state.apples))
        on = bodies.cell[:, None] == jnp.asarray(board.sites.cells)
        eats = (on & apples).any(axis=1)
        apples &= ~on.any(axis=0)

        shoots = (actions == gathering.ZAP) & (bodies.cell >= 0) & (bodies.cooldown == 0)
        hits = gathering.hit(shoots, *gathering.relative(bodies, board.size[1]))
        bodies = gathering.returned(bodies, back.reshape(n, -1), board.starts)
        bodies = gathering.struck(bodies, shoots, hits, absence=self.absence, cooldown=self.cooldown)
        after = State(time=state.time + 1, bodies=bodies, apples=apples, beaming=shoots)
        rewards = eats.astype(jnp.result_type(float))
        info = {
            "apples": rewards,
            "zaps": hits.sum(axis=1).astype(rewards.dtype),
            "standing": jnp.full(n, apples.sum(), rewards.dtype),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what all see, ``(n_players, ...)``.

        Planes of 11 x 11 cells, oneself in the second row from below, looking up: apples; outside; others by where they
        look: as I do, to my right, towards me, to my left; and one that says whether I may zap. All dark while away.
        """
        board = self._map
        lines = board.sites.lines(state.apples)
        apples = gathering.window(lines, state.bodies, board.size)
        ready = (state.bodies.cell >= 0) & (state.bodies.cooldown == 0)
        ready = jnp.broadcast_to(ready[:, None, None, None], (self.num_players, 1, *apples.shape[1:]))
        planes = [apples[:, None], gathering.seen(state.bodies, board.size), ready.astype(jnp.int8)]
        everybody = jnp.concatenate(planes, axis=1)
        return everybody if player is None else everybody[player]

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-d`` is greedy, and walks to the nearest apple; ``all-c`` is restrained, walks to the nearest that has
        more than three others near it, and waits while there is none. Neither zaps."""
        logits = jnp.zeros((self.n_actions,))
        if name == "random":
            return memory, logits
        board = self._map
        wanted = state.apples
        if name == "all-c":
            near = state.apples.astype(jnp.float32) @ jnp.asarray(_near(self.layout, RATES[self.growth][0]))
            wanted &= near > 3.5
        goals = np.divmod(board.sites.cells, board.size[1])
        costs = []
        for k, (r, c) in enumerate(gathering.ways(state.bodies, player, board.size[1])):
            far = jnp.abs(r - goals[0]) + jnp.abs(c - goals[1])
            # Not onto an apple that is not wanted, if there is another way.
            spoils = ((far == 0) & state.apples & ~wanted).any() & (k > 0)
            costs.append(jnp.where(wanted, far, 99).min() + 9 * spoils)
        return memory, gathering.walking(jnp.stack(costs), self.n_actions)

    legend: ClassVar[Mapping[str, Glyph]] = {
        "a": Glyph("diamond", "apples", tone=2),
        "*": Glyph("beam", "beams", tone=4),
        **gathering.PLAYERS,
    }
    board_note: ClassVar[str] = (
        "An apple pays whoever steps on it. One grows back the more probably the more apples are near; where none is "
        "left, none ever grows."
    )

    def board(self, state: State) -> Board:
        """Apples, beams, players, and what the players see."""
        board = self._map
        live = board.sites.cells[np.asarray(state.apples)]
        beams = ["*" if shown else "" for shown in np.asarray(state.beaming)]
        return gathering.picture(state.bodies, beams, board.size, {"a": live})

    def _thresholds(self, apples: Array) -> Array:
        """Words below which an apple grows, by site."""
        radius, rates = RATES[self.growth]
        near = apples.astype(jnp.float32) @ jnp.asarray(_near(self.layout, radius))
        out = jnp.zeros(apples.shape, jnp.uint32)
        for count, rate in enumerate(rates):
            out = jnp.where(near > count - 0.5, jnp.uint32(round(rate * 2**32)), out)
        return out
