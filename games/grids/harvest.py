"""Harvest: a commons of apples that grow back the faster the more apples are near.

An apple pays 1 to who steps on it. Where one was, another grows with a probability that depends on how many apples
lie near: none near, none ever. Everybody who leaves patches alone does best together; who is first does best alone.
Beams send others off the board for a while. Introduced by Perolat et al. 2017 (arXiv 1707.06600); the board and the
rules are those of Melting Pot's ``commons_harvest__open``, on cells instead of pixels. Others' rules
(:mod:`shaping_bench.games.grids.conduct`) go by ``rules``.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.grids import conduct, gathering
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
    "patch": """
        P..P..P
        ...A...
        ..AAA..
        PAAAAAP
        ..AAA..
        ...A...
        P..P..P
    """,
    "ssd": """
        .P...P......A....P.AAAAA....P..A.P..
        ..P.....A.P.AA....P....AAA....A..A..
        .....A.AAA..AAA....A....A.AA.AAAA...
        .A..AAA.A....A..A.AAA..A..A...A.A...
        AAA..A.A....A..AAA.A..AAA........A.P
        .A.A..AAA..AAA..A.A....A.AA...AA.AA.
        ..A.A..AAA....A.A..AAA....AAA..A....
        ...AAA..A......AAA..A....AAAA.......
        .P..A.......A..A.AAA....A..A......P.
        A..AAA..A..A..AAA.A....AAAA.....P...
        ....A.A...AAA..A.A......A.AA...A..P.
        .....AAA...A.A..AAA......AA...AAA.P.
        .A....A.....AAA..A..P..........A....
        .......P.....A.........P..P.P.....P.
    """,
}
"""A: apples. P: cells to start from and to come back to; Q: those of the first two. ``ssd`` is that of the first
published code."""

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
def _near(name: str, radius: int, slip: bool = False) -> np.ndarray:
    """Which sites (columns) count as near which (rows), ``(S, S)``, themselves left out. By a slip in SocialJax's code
    those in the last column do not count the one below and to the left."""
    board = _map(name)
    row, column = np.divmod(board.sites.cells, board.size[1])
    down, right = row - row[:, None], column - column[:, None]
    square = down**2 + right**2
    near = (square <= radius) & (square > 0)
    if slip:
        near &= ~((down == 1) & (right == -1) & (column == board.size[1] - 1)[:, None])
    return near.astype(np.float32)


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
    rules: str = field(
        conduct.MELTING_POT,
        "whose rules of moves, beams and growth; others than the default decide all of growth, absence and cooldown",
        choices=conduct.RULES,
        static=True,
        added=True,
    )

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With one source of rules."""
        rules, growth = values["rules"], values["growth"]
        if rules != conduct.MELTING_POT and growth != conduct.MELTING_POT:
            raise ValueError(f"growth is {growth!r}; allowed: none besides rules={rules}")
        return dict(values)

    @property
    def n_actions(self) -> int:
        return 8

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Six planes of what is in sight, and whether I may zap."""
        return (PLANES, gathering.REACH.rows, gathering.REACH.columns)

    @property
    def board_planes(self) -> int:
        return PLANES - 1

    @property
    def symmetric(self) -> bool:
        """Unless some start inside and others not."""
        return len(self._map.inner) in (0, self.num_players)

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return conduct.reward_bounds(self.rules, self.num_players)

    @property
    def _rates(self) -> tuple[int, tuple[float, ...]]:
        """Squared distance of what is near, and rates of growth."""
        return RATES[self.rules.partition("_v")[0] if self.rules != conduct.MELTING_POT else self.growth]

    @property
    def _neighbours(self) -> np.ndarray:
        return _near(self.layout, self._rates[0], conduct.of_socialjax(self.rules))

    @property
    def _map(self) -> _Map:
        return _map(self.layout)

    def anchors(self) -> Anchors | None:
        """Measured for the default rules; None for others."""
        measured = ANCHORS.get((self.layout, self.num_players))
        rules = self.rules, self.growth, self.horizon, self.absence, self.cooldown
        if measured is None or rules != (conduct.MELTING_POT, "melting_pot", 1000, 5, 2):
            return None
        return gathering.anchors(measured)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, *observation_shape)`` and state: all apples are there."""
        board, n = self._map, self.num_players
        outer, inner = jax.random.split(key)
        starts = board.starts
        if self.rules == conduct.SOCIALJAX_BEFORE:
            starts = np.concatenate([board.inner, starts])
        bodies = conduct.started(outer, starts, n, self.rules)
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
          actions: ``(n_players,)``: nothing, forward, backward, step left, step right, turn left, turn right, zap;
            by others' rules in the order of :data:`~.conduct.ACTIONS`.

        Returns:
          Observations, state, rewards ``(n_players,)``, done, and counts.
        """
        board, n = self._map, self.num_players
        sites = len(board.sites.cells)
        words = jax.random.bits(key, (n * (1 + gathering.TRIES) + sites,), jnp.uint32)
        order, back, chance = jnp.split(words, [n, n * (1 + gathering.TRIES)])
        actions = conduct.meant(self.rules, actions)
        if conduct.of_socialjax(self.rules):
            return self._step_of_socialjax(state, actions, order, back.reshape(n, -1), chance)
        if self.rules == conduct.SSD:
            return self._step_of_the_first_code(state, actions, order, chance)
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
        return self._told(after, eats, hits, eats.astype(jnp.result_type(float)))

    def _told(
        self, after: State, eats: Array, hits: Array, rewards: Array
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """What a step returns."""
        info = {
            "apples": eats.astype(rewards.dtype),
            "zaps": hits.sum(axis=1).astype(rewards.dtype),
            "standing": jnp.full(self.num_players, after.apples.sum(), rewards.dtype),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def _step_of_socialjax(
        self, state: State, actions: Array, order: Array, back: Array, chance: Array
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Apples grow, who was hit a step ago is placed, all move at once and eat, and beams hit; the last step of an
        episode pays nothing. An old beam is in the way for a step, but on players and where apples grow."""
        board, before = self._map, state.bodies
        own = jnp.asarray(board.sites.cells)
        shown = jnp.where(state.beaming[:, None], conduct.shot(before, board.size)[1], -1).ravel()
        taken = (jnp.concatenate([before.cell, shown])[:, None] == own).any(axis=0)
        covered = shown[:, None] == jnp.concatenate([own, before.cell])
        barred = jnp.where(covered.any(axis=1), -1, shown)
        apples = state.apples | ((chance < self._thresholds(state.apples)) & ~taken)

        bodies = conduct.placed(before, back, board.starts, self.rules)
        barred = jnp.where((barred[:, None] == bodies.cell).any(axis=1), -1, barred)
        bodies = conduct.moved(bodies, actions, order, board.size, self.rules, barred)
        on = bodies.cell[:, None] == own
        eats = (on & apples).any(axis=1)
        apples &= ~on.any(axis=0)

        shoots = actions == gathering.ZAP
        hits = conduct.struck_at(bodies, shoots, conduct.shot(bodies, board.size)[0])
        away = jnp.maximum(bodies.away, hits.any(axis=0).astype(jnp.int32))
        after = State(time=state.time + 1, bodies=bodies._replace(away=away), apples=apples, beaming=shoots)
        paid = eats & (after.time < self.horizon)
        return self._told(after, eats, hits, paid.astype(jnp.result_type(float)))

    def _step_of_the_first_code(
        self, state: State, actions: Array, order: Array, chance: Array
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """All move at once and eat, beams fine who is hit, and apples grow where nobody stands."""
        board = self._map
        bodies = conduct.moved(state.bodies, actions, order, board.size, self.rules)
        on = bodies.cell[:, None] == jnp.asarray(board.sites.cells)
        eats = (on & state.apples).any(axis=1)
        left = state.apples & ~on.any(axis=0)
        shoots = actions == gathering.ZAP
        hits = gathering.hit(shoots, *gathering.relative(bodies, board.size[1]), length=conduct.LENGTH)
        grown = left | ((chance < self._thresholds(left)) & ~on.any(axis=0))
        after = State(time=state.time + 1, bodies=bodies, apples=grown, beaming=shoots)
        return self._told(after, eats, hits, conduct.fined(eats, shoots, hits))

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what all see, ``(n_players, ...)``.

        Planes of 11 x 11 cells, oneself in the second row from below, looking up: apples; outside; others by where they
        look: as I do, to my right, towards me, to my left; and one that says whether I may zap. All dark while away.
        """
        board, bodies = self._map, state.bodies
        ready = (bodies.cell >= 0) & (bodies.cooldown == 0)
        everybody = gathering.seen(bodies, board.size, [board.sites.lines(state.apples)], [ready])
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
            near = state.apples.astype(jnp.float32) @ jnp.asarray(self._neighbours.T)
            wanted &= near > 3.5
        goals = np.divmod(board.sites.cells, board.size[1])
        costs = []
        for k, (r, c) in enumerate(conduct.ways(self.rules, state.bodies, player, board.size[1])):
            far = jnp.abs(r - goals[0]) + jnp.abs(c - goals[1])
            # Not onto an apple that is not wanted, if there is another way.
            spoils = ((far == 0) & state.apples & ~wanted).any() & (k > 0)
            costs.append(jnp.where(wanted, far, 99).min() + 9 * spoils)
        return memory, conduct.ordered(self.rules, gathering.walking(jnp.stack(costs), self.n_actions))

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
        near = apples.astype(jnp.float32) @ jnp.asarray(self._neighbours.T)
        out = jnp.zeros(apples.shape, jnp.uint32)
        for count, rate in enumerate(self._rates[1]):
            out = jnp.where(near > count - 0.5, jnp.uint32(round(rate * 2**32)), out)
        return out
