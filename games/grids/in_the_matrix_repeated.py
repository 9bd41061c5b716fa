"""In the matrix, repeated, as Melting Pot has it: a wider board with walls, inventories that are never empty, late pay.

As in :mod:`.in_the_matrix` what a player has collected is its mixed strategy, and a beam on the other makes both play.
Here everybody starts with one of each kind, so that nobody is ever pure; both wait for 17 steps until they are paid,
are away for six, and come back to a board that is full again: one round of a repeated game. The rules are those of the
substrates ``*_in_the_matrix__repeated`` (Leibo et al. 2021) on cells instead of pixels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors, of_scripts
from shaping_bench.games.base import Count, PlayedGame
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.grids import gathering
from shaping_bench.games.grids.board import Board, Glyph, place, unframed
from shaping_bench.games.grids.gathering import BEAM, NOOP, TURN_LEFT, ZAP, Bodies, Sites
from shaping_bench.games.grids.in_the_matrix import MATRICES, InTheMatrix

_MIXED = """
    n.........n.........n
    ...WWW.W..W..W.WW....
    ....W.11a.W.a22.W....
    n..WW.11a.W.a22.WW..n
    ......11a...a22......
    .....................
    n.WW..WW..n.WW..WWW.n
    .....................
    ......22a.W.a11......
    n...W.22a.W.a11.W...n
    ....W.22a.W.a11.WW...
    ..WWWW.W..W..W.WWW...
    n.........n.........n
"""
_HUNT = """
    n.........n.........n
    ..2WWW.W..W..W.WW2...
    ....W.11a.W.222.W....
    n..WW.11a.W.a22.WW..n
    ......1aa.2.a22......
    ..2...............2..
    n.WW..WW2.n.WW..WWW.n
    ...2............2....
    ......22a.2.aa1......
    n...W.22a.W.a11.W...n
    ...2W.222.W.a11.WW...
    ..WWWW.W..W..W.WWW2..
    n.........n.........n
"""
BOARDS: Mapping[str, str] = {
    name: _HUNT if name == "stag-hunt" else _MIXED for name in ("ipd", "chicken", "bos", "stag-hunt")
}
"""By matrix. 1, 2: what stands for its first and its second action; a: either, drawn per episode; n: cells to start
from; W: walls, as all around."""

REACH = gathering.Reach(ahead=3, behind=1, aside=2)

DELAY, ABSENCE, COOLDOWN = 17, 6, 2
"""Steps from an interaction to its pay, in which both are away after it, and after a beam in which one has none."""

REGROWTH, PAUSE, STRENGTH = 0.02, 10, 3
"""Probability per step that a resource is back, steps after it was taken in which it is not, and beams it bears."""

PLANES = 12

ANCHORS: Mapping[str, tuple[float, float, float]] = {
    "ipd": (0.0013, 0.0183, 0.0070),
    "chicken": (0.0015, 0.0201, 0.0065),
}
"""By matrix: return per step of random play, of the scripts that earn most together, and of the script that earns most
against random play; means of 64 episodes, standard errors below 0.002."""


class State(NamedTuple):
    """State of a game.

    Attributes:
      time: steps since ``reset``.
      bodies: both players.
      held: of each kind, by player, ``(2, 2)``.
      pending: steps until both are paid; 0 while nothing is due.
      due: what they will be paid, ``(2,)``.
      live: resources on the board, ``(S,)``.
      gone: steps since each was taken, ``(S,)``.
      worn: beams that each has borne, ``(S,)``.
      kinds: which stand for the first action, ``(S,)``.
      beaming: whose beam is on the board, ``(2,)``.
    """

    time: Array
    bodies: Bodies
    held: Array
    pending: Array
    due: Array
    live: Array
    gone: Array
    worn: Array
    kinds: Array
    beaming: Array


class _Map(NamedTuple):
    size: tuple[int, int]
    sites: Sites
    first: np.ndarray
    second: np.ndarray
    walls: Sites
    starts: np.ndarray
    solid: np.ndarray
    site_at: np.ndarray


@functools.cache
def _map(matrix: str) -> _Map:
    size, cells = gathering.drawn(BOARDS[matrix])
    found = np.sort(np.concatenate([cells[x] for x in "12a"]))
    solid = np.zeros(size[0] * size[1], bool)
    solid[cells["W"]] = True
    site_at = np.full(len(solid), len(found), np.int32)
    site_at[found] = np.arange(len(found))
    return _Map(
        size=size,
        sites=Sites(found, size),
        first=np.isin(found, cells["1"]),
        second=np.isin(found, cells["2"]),
        walls=Sites(cells["W"], size),
        starts=cells["n"],
        solid=solid,
        site_at=site_at,
    )


@pytree_dataclass
class InTheMatrixRepeated(PlayedGame):
    """Melting Pot's matrix games that two players walk to, again and again."""

    family: ClassVar[str | None] = "in-the-matrix"
    counts: ClassVar[tuple[Count, ...]] = InTheMatrix.counts

    matrix: str = field("ipd", "whose payoffs to play for, by name", choices=tuple(BOARDS), static=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)
    horizon: int = field(1000, "steps of an episode", low=1, static=True)

    @property
    def n_players(self) -> int:
        return 2

    @property
    def n_actions(self) -> int:
        return 8

    @property
    def num_steps(self) -> int:
        return self.horizon

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Eight planes of what is in sight, and four constant ones."""
        return (PLANES, REACH.rows, REACH.columns)

    @property
    def board_planes(self) -> int:
        return PLANES - 4

    @property
    def rewards(self) -> tuple[tuple[float, ...], ...]:
        """The payoffs, of CC, CD, DC, DD."""
        return MATRICES[self.matrix]

    @property
    def symmetric(self) -> bool:
        first, (cc, cd, dc, dd) = self.rewards
        return first == (cc, dc, cd, dd)

    @property
    def reward_bounds(self) -> tuple[float, float]:
        everything = [0.0, *self.rewards[0], *self.rewards[1]]
        return min(everything), max(everything)

    @property
    def _map(self) -> _Map:
        return _map(self.matrix)

    def anchors(self) -> Anchors | None:
        """Measured for two matrices and the default length; None for others."""
        measured = ANCHORS.get(self.matrix)
        if measured is None or self.horizon != 1000:
            return None
        low, high = self.reward_bounds
        return of_scripts(measured, smallest=low, largest=high)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(2, *observation_shape)`` and state."""
        board = self._map
        kind_key, start_key = jax.random.split(key)
        sites = len(board.first)
        either = jax.random.bernoulli(kind_key, 0.5, (sites,))
        state = State(
            time=jnp.int32(0),
            bodies=gathering.started(start_key, board.starts, 2),
            held=jnp.ones((2, 2), jnp.int32),
            pending=jnp.int32(0),
            due=jnp.zeros(2),
            live=jnp.ones(sites, bool),
            gone=jnp.zeros(sites, jnp.int32),
            worn=jnp.zeros(sites, jnp.int32),
            kinds=jnp.asarray(board.first) | (either & ~jnp.asarray(board.second)),
            beaming=jnp.zeros(2, bool),
        )
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Moves in turn, what is there is taken, then beams; who waits for pay does nothing.

        Args:
          key: chance of this step: who moves first, what is back, where they come back.
          state: from ``reset`` or ``step``.
          actions: ``(2,)``: nothing, forward, backward, step left, step right, turn left, turn right, interact.

        Returns:
          Observations, state, rewards ``(2,)``, done, and counts.
        """
        board = self._map
        sites = len(board.first)
        words = jax.random.bits(key, (2 + 2 * gathering.TRIES + sites,), jnp.uint32)
        order, back, chance = jnp.split(words, [2, 2 + 2 * gathering.TRIES])
        actions = jnp.where(state.pending > 0, NOOP, actions.astype(jnp.int32))
        bodies = gathering.moved(state.bodies, actions, order, board.size, board.solid)

        on = bodies.cell[:, None] == jnp.asarray(board.sites.cells)
        grows = ~state.live & (state.gone >= PAUSE) & ~on.any(axis=0)
        grown = state.live | (grows & (chance < jnp.uint32(round(REGROWTH * 2**32))))
        takes = on & state.live
        kinds = jnp.stack([takes & state.kinds, takes & ~state.kinds], axis=-1)
        held = state.held + kinds.sum(axis=1, dtype=jnp.int32)
        live = grown & ~on.any(axis=0)

        shoots = (actions == ZAP) & (bodies.cell >= 0) & (bodies.cooldown == 0)
        hits, borne = self._beams(bodies, live, state.worn, shoots)
        worn = state.worn + borne
        live &= worn < STRENGTH
        ready = held.sum(axis=1) > 2
        met = hits.any() & ready.all() & (state.pending == 0)
        share = held / held.sum(axis=1, keepdims=True)
        paid = jnp.stack([share[0] @ jnp.asarray(x, share.dtype).reshape(2, 2) @ share[1] for x in self.rewards])

        pending = jnp.where(met, DELAY, jnp.maximum(state.pending - 1, 0))
        over = state.pending == 1
        bodies = gathering.returned(bodies, back.reshape(2, -1), board.starts)
        leaves = jnp.broadcast_to(over, (2, 2)) & jnp.eye(2, dtype=bool)
        bodies = gathering.struck(bodies, shoots, leaves, absence=ABSENCE, cooldown=COOLDOWN)
        live |= over
        after = State(
            time=state.time + 1,
            bodies=bodies,
            held=jnp.where(over, 1, held),
            pending=pending,
            due=jnp.where(met, paid.astype(state.due.dtype), state.due),
            live=live,
            gone=jnp.where(live, 0, state.gone + 1),
            worn=jnp.where(live, worn, 0),
            kinds=state.kinds,
            beaming=shoots,
        )
        dtype = jnp.result_type(float)
        rewards = jnp.where(over, state.due, 0.0).astype(dtype)
        rounds = met.astype(dtype)
        info = {
            "interactions": jnp.stack([rounds, rounds]),
            "cooperated": (rounds * share[:, 0]).astype(dtype),
            "defected": (rounds * share[:, 1]).astype(dtype),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def _beams(self, bodies: Bodies, live: Array, worn: Array, shoots: Array) -> tuple[Array, Array]:
        """Who hits the other, ``(2,)``, and beams that each resource bears, ``(S,)``. Lines end at walls, players, and
        resources that this beam does not destroy."""
        board = self._map
        cell, inside = self._covered(bodies)
        inside &= shoots[:, None]
        solid = jnp.asarray(board.solid)[cell]
        site = jnp.asarray(board.site_at)[cell]
        there = jnp.append(live, False)[site]
        holds = there & (jnp.append(worn, 0)[site] + 1 < STRENGTH)
        other = cell == bodies.cell[::-1, None]
        ends = (solid | holds | other).reshape(2, 3, 3)
        earlier = jnp.cumsum(ends, axis=-1) - ends
        reached = inside & ~solid & (earlier == 0).reshape(2, 9)
        marks = jnp.where(reached & there, site, len(board.first)).ravel()
        borne = (marks[:, None] == jnp.arange(len(board.first))).sum(axis=0, dtype=jnp.int32)
        return (reached & other).any(axis=1), borne

    def _covered(self, bodies: Bodies) -> tuple[Array, Array]:
        """Cells of beams ``(2, 9)`` by their lines, and which of them are on the board."""
        rows, columns = self._map.size
        row, column = place(bodies.cell, columns)
        ahead, right = (jnp.array(x, jnp.int32) for x in zip(*BEAM, strict=True))
        r, c = unframed(row[:, None], column[:, None], bodies.heading[:, None], ahead, right)
        inside = (r >= 0) & (r < rows) & (c >= 0) & (c < columns) & (bodies.cell >= 0)[:, None]
        return jnp.where(inside, r * columns + c, 0), inside

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what both see, ``(2, ...)``.

        Planes of 5 x 5 cells, oneself in the second row from below, looking up: what stands for the first action and
        for the second; walls; the other by where it looks: as I do, to my right, towards me, to my left; outside.
        Constant ones: what I hold of either, whether I may interact, and whether I wait for pay. All dark while away.
        """
        board, bodies = self._map, state.bodies
        lines = [board.sites.lines(state.live & x) for x in (state.kinds, ~state.kinds)]
        lines.append(board.walls.lines(jnp.ones(len(board.walls.cells), bool)))
        numbers = [*state.held.T, bodies.cooldown == 0, jnp.broadcast_to(state.pending > 0, (2,))]
        numbers = [jnp.where(bodies.cell >= 0, x, 0) for x in numbers]
        both = gathering.seen(bodies, board.size, lines, numbers, reach=REACH, outside_last=True)
        return both if player is None else both[player]

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-c`` and ``all-d`` collect their kind, the nearest, until they hold five more of it than of the other,
        and then go after the other player and interact."""
        if name == "random":
            return memory, jnp.zeros((self.n_actions,))
        board, bodies = self._map, state.bodies
        kind = 0 if name == "all-c" else 1
        own = state.kinds if kind == 0 else ~state.kinds
        armed = state.held[player, kind] - state.held[player, 1 - kind] >= 5
        far = jnp.asarray(_distances(self.matrix))
        there = jnp.maximum(bodies.cell[1 - player], 0)
        hits, _ = self._beams(bodies, state.live, state.worn, jnp.ones(2, bool))
        aims = armed & hits[player] & (bodies.cell[1 - player] >= 0)
        costs = []
        for k, (r, c) in enumerate(gathering.ways(bodies, player, board.size[1])):
            inside = (r >= 0) & (r < board.size[0]) & (c >= 0) & (c < board.size[1])
            cell = jnp.where(inside, r * board.size[1] + c, 0)
            from_here = far[cell]
            collect = jnp.where(state.live & own, from_here[board.sites.cells], 99).min()
            spoils = (state.live & ~own & (board.sites.cells == cell)).any() & (k > 0)
            cost = jnp.where(armed, jnp.maximum(from_here[there], 2), collect) + 9 * spoils
            costs.append(jnp.where(inside, cost, 99))
        walks = gathering.walking(jnp.stack(costs), self.n_actions)
        choice = jnp.arange(self.n_actions)
        near = armed & ~aims & (far[jnp.maximum(bodies.cell[player], 0), there] <= 2)
        turns = jnp.where(choice == TURN_LEFT, 0.0, jnp.where(choice < 5, -2.0, -jnp.inf))
        walks = jnp.where(near, turns, walks)
        return memory, jnp.where(aims, jnp.where(choice == ZAP, 0.0, -jnp.inf), walks)

    legend: ClassVar[Mapping[str, Glyph]] = {
        "c": Glyph("ring", "stands for C", tone=2),
        "d": Glyph("cross", "stands for D", tone=3),
        "W": Glyph("block", "walls", tone=5),
        "*": Glyph("beam", "beams", tone=4),
        **{name: glyph for name, glyph in gathering.PLAYERS.items() if name in "12"},
    }
    board_note: ClassVar[str] = (
        "What a player has collected is its strategy: when one has the other in its beam, both are paid as in the "
        "matrix game, 17 steps later, and start anew."
    )

    def board(self, state: State) -> Board:
        """Resources, walls, beams, players, what they see and hold."""
        board, live, kinds = self._map, np.asarray(state.live), np.asarray(state.kinds)
        cells = board.sites.cells
        ground = {"c": cells[live & kinds], "d": cells[live & ~kinds], "W": board.walls.cells}
        beams = ["*" if shown else "" for shown in np.asarray(state.beaming)]
        shown = gathering.picture(state.bodies, beams, board.size, ground, REACH)
        held = [{"C": float(x[0]), "D": float(x[1])} for x in np.asarray(state.held)]
        return dataclasses.replace(shown, inventories=held)


@functools.cache
def _distances(matrix: str) -> np.ndarray:
    """Steps from every cell to every other around walls, ``(cells, cells)``; 99 where there is no way."""
    board = _map(matrix)
    rows, columns = board.size
    row, column = np.divmod(np.arange(rows * columns), columns)
    beside = np.abs(row - row[:, None]) + np.abs(column - column[:, None]) == 1
    beside &= ~board.solid & ~board.solid[:, None]
    far = np.where(np.eye(len(row), dtype=bool), 0, 99)
    reached = far == 0
    for steps in range(1, 99):
        wider = reached | ((reached.astype(np.float32) @ beside.astype(np.float32)) > 0)
        far[wider & ~reached] = steps
        if (wider == reached).all():
            break
        reached = wider
    return far.astype(np.int32)
