"""Clean-up: apples grow only while a river that nobody is paid for cleaning is clean enough.

Dirt comes into the river by itself, and the more of it lies there the slower apples grow in the orchard on the other
side; from a share of dirt on, none. Who cleans eats nothing meanwhile: a public good. Introduced by Hughes et al. 2018
(arXiv 1803.08884); the board and the rules are those of Melting Pot's ``clean_up``, on cells instead of pixels.
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
from shaping_bench.games.grids import gathering
from shaping_bench.games.grids.board import Board, Glyph, place, unframed
from shaping_bench.games.grids.gathering import BEAM, TURN_LEFT, ZAP, Bodies, GatheringGame, Sites

CLEAN = 8

BOARDS: dict[str, str] = {
    "open": """
        HFFFHFFHFHFHFHFHFHFHHFHFFFHF
        HFHFHFFHFHFHFHFHFHFHHFHFFFHF
        HFFHFFHHFHFHFHFHFHFHHFHFFFHF
        HFHFHFFHFHFHFHFHFHFHHFHFFFHF
        HFFFFFFHFHFHFHFHFHFHHFHFFFHF
        ...............FHHHHHH......
        .  P    P          SS      .
        .    P     P   P   SS   P  .
        .            P   P SS      .
        .  P    P          SS   P  .
        .              P   SS P    .
        .          P     P SS      .
        .          P       SS P    .
        . P             P  SS      .
        .B.B.B.B.B.B.B.B.B SS .B.B.B
        BBBBBBBBBBBBBBBBBBBSSBBBBBBB
        BBBBBBBBBBBBBBBBBBBBBBBBBBBB
        BBBBBBBBBBBBBBBBBBBBBBBBBBBB
        BBBBBBBBBBBBBBBBBBBBBBBBBBBB
    """,
    "small": """
        HFHP   BB
        FHFP   BB
        HFHP   BB
        FHFP   BB
        HFHP   BB
        FHFP   BB
    """,
}
"""F: dirt at the start; H: clean cells that may become dirty; S: river that never does; B: cells on which apples
grow, none at first; P: cells to start from and to come back to."""

GROWTH, DEPLETION = 0.05, 0.4
"""Probability per step that an apple grows on a free cell where all is clean, and share of dirt at which none does."""

PLANES = 10

ANCHORS: dict[tuple[str, int], tuple[float, float, float]] = {
    ("small", 2): (0.0027, 0.0318, 0.0124),
    ("small", 3): (0.0021, 0.0403, 0.0081),
}
"""By board and number of players, of the default rules: return per step and player of random play, of the scripts that
earn most together (one who cleans for one who eats; with three, ``all-c`` in all seats), and of the script that earns
most among random others; means of 64 episodes, standard errors below 0.002."""


class State(NamedTuple):
    """State of a game.

    Attributes:
      time: steps since ``reset``.
      bodies: players; ``cooldown`` is that of beams that hit.
      brush: steps until each may clean again, ``(n,)``.
      apples: by cell on which they grow.
      dirt: by cell of the river that may be dirty.
      beaming: whose beam is on the board: 0 nobody's, 1 one that hits, 2 one that cleans, ``(n,)``.
    """

    time: Array
    bodies: Bodies
    brush: Array
    apples: Array
    dirt: Array
    beaming: Array


class _Map(NamedTuple):
    size: tuple[int, int]
    orchard: Sites
    river: Sites
    dirty: np.ndarray
    starts: np.ndarray
    site_at: np.ndarray


@functools.cache
def _map(name: str) -> _Map:
    size, cells = gathering.drawn(BOARDS[name])
    river = np.sort(np.concatenate([cells["F"], cells["H"]]))
    site_at = np.full(size[0] * size[1], len(river), np.int32)
    site_at[river] = np.arange(len(river))
    return _Map(
        size=size,
        orchard=Sites(cells["B"], size),
        river=Sites(river, size),
        dirty=np.isin(river, cells["F"]),
        starts=cells["P"],
        site_at=site_at,
    )


@pytree_dataclass
class Cleanup(GatheringGame):
    """Apples for all, and a river that somebody has to clean."""

    counts: ClassVar[tuple[Count, ...]] = (
        Count("apples", "apples eaten, per step", "apples per step", direction="higher"),
        Count("cleaned", "cells of the river cleaned, per step", "cells per step"),
        Count("zaps", "others hit, per step", "hits per step"),
        Count("dirt", "share of the river that is dirty, the same for everybody", "share", high=1.0),
    )

    layout: str = field("open", "which board", choices=tuple(BOARDS), static=True)
    num_players: int = field(7, "number of players", low=2, high=7, static=True)
    gamma: float = field(0.99, "discount", low=0.0, high=1.0)
    horizon: int = field(1000, "steps of an episode", low=1, static=True)
    dirt_rate: float = field(0.5, "probability per step that one more cell becomes dirty", low=0.0, high=1.0)
    dirt_delay: int = field(50, "steps from the start in which none does", low=0, static=True)
    absence: int = field(50, "steps that who is hit is off the board", low=1, static=True)
    cooldown: int = field(10, "steps after a beam that hits in which one has none", low=1, static=True)
    brush_cooldown: int = field(2, "the same of a beam that cleans", low=1, static=True)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With no more players than there are cells to start from."""
        most = len(_map(values["layout"]).starts)
        if values["num_players"] > most:
            raise ValueError(f"num_players is {values['num_players']}; allowed: at most {most} on this board")
        return dict(values)

    @property
    def n_actions(self) -> int:
        return 9

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Eight planes of what is in sight, and whether I may use either beam."""
        return (PLANES, gathering.ROWS, gathering.COLUMNS)

    @property
    def board_planes(self) -> int:
        return PLANES - 2

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def _map(self) -> _Map:
        return _map(self.layout)

    def anchors(self) -> Anchors | None:
        """Measured for the default rules; None for others."""
        measured = ANCHORS.get((self.layout, self.num_players))
        rules = self.horizon, self.dirt_rate, self.dirt_delay, self.absence, self.cooldown, self.brush_cooldown
        if measured is None or rules != (1000, 0.5, 50, 50, 10, 2):
            return None
        return gathering.anchors(measured)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, *observation_shape)`` and state: no apples, and dirt."""
        board, n = self._map, self.num_players
        nothing = jnp.zeros(n, jnp.int32)
        state = State(
            time=jnp.int32(0),
            bodies=gathering.started(key, board.starts, n),
            brush=nothing,
            apples=jnp.zeros(len(board.orchard.cells), bool),
            dirt=jnp.asarray(board.dirty),
            beaming=nothing,
        )
        return self.observe(state), state

    def growth(self, dirt: Array) -> Array:
        """Probability per step that an apple grows on a free cell."""
        share = dirt.mean(dtype=jnp.float32)
        return GROWTH * jnp.clip(1.0 - share / DEPLETION, 0.0, 1.0)

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Moves one after the other, then beams; apples grow, and who stands on one eats it.

        Args:
          key: chance of this step: who moves first, what grows or becomes dirty, where one comes back.
          state: from ``reset`` or ``step``.
          actions: ``(n_players,)``: nothing, forward, backward, step left, step right, turn left, turn right, zap,
            clean.

        Returns:
          Observations, state, rewards ``(n_players,)``, done, and counts.
        """
        board, n = self._map, self.num_players
        trees, waters = len(board.orchard.cells), len(board.river.cells)
        sizes = np.cumsum([n, n * gathering.TRIES, trees, waters])
        words = jax.random.bits(key, (sizes[-1] + 1,), jnp.uint32)
        order, back, ripens, soils, spills = jnp.split(words, sizes)
        actions = actions.astype(jnp.int32)
        bodies = gathering.moved(state.bodies, actions, order, board.size)

        rate = self.growth(state.dirt)
        apples = state.apples | ((ripens >> 8).astype(jnp.float32) * 2.0**-24 < rate)
        on = bodies.cell[:, None] == jnp.asarray(board.orchard.cells)
        eats = (on & apples).any(axis=1)
        apples &= ~on.any(axis=0)

        present = bodies.cell >= 0
        shoots = (actions == ZAP) & present & (bodies.cooldown == 0)
        brushes = (actions == CLEAN) & present & (state.brush == 0)
        hits = gathering.hit(shoots, *gathering.relative(bodies, board.size[1]))
        reached = self._first_dirt(bodies, state.dirt, brushes)
        # Scattered: by comparison, what each beam reaches would be found anew for every cell of the river.
        remains = state.dirt.at[reached].set(False, mode="drop")
        # One more cell becomes dirty, any of the clean ones. The number of a cell breaks ties.
        clean = ~state.dirt
        lot = jnp.where(clean, (soils & ~jnp.uint32(255)) | jnp.arange(waters, dtype=jnp.uint32), 0)
        spilt = (spills[0] >> 8).astype(jnp.float32) * 2.0**-24 < self.dirt_rate
        spilt &= (state.time >= self.dirt_delay) & clean.any()
        soiled = clean & (lot == lot.max()) & spilt

        bodies = gathering.returned(bodies, back.reshape(n, -1), board.starts)
        bodies = gathering.struck(bodies, shoots, hits, absence=self.absence, cooldown=self.cooldown)
        after = State(
            time=state.time + 1,
            bodies=bodies,
            brush=jnp.where(brushes, self.brush_cooldown, jnp.maximum(state.brush - 1, 0)),
            apples=apples,
            dirt=remains | soiled,
            beaming=shoots.astype(jnp.int32) + 2 * brushes.astype(jnp.int32),
        )
        dtype = jnp.result_type(float)
        rewards = eats.astype(dtype)
        info = {
            "apples": rewards,
            "cleaned": (reached < waters).sum(axis=1).astype(dtype),
            "zaps": hits.sum(axis=1).astype(dtype),
            "dirt": jnp.full(n, after.dirt.mean(), dtype),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def _first_dirt(self, bodies: Bodies, dirt: Array, brushes: Array) -> Array:
        """The first dirt in each of the three lines of each one's beam, ``(n, 3)``; the number of sites for none."""
        board = self._map
        row, column = place(bodies.cell, board.size[1])
        ahead, right = (jnp.array([x[axis] for x in BEAM], jnp.int32) for axis in (0, 1))
        r, c = unframed(row[:, None], column[:, None], bodies.heading[:, None], ahead, right)
        inside = (r >= 0) & (r < board.size[0]) & (c >= 0) & (c < board.size[1]) & brushes[:, None]
        cell = jnp.where(inside, r * board.size[1] + c, 0)
        none = len(board.river.cells)
        site = jnp.where(inside, jnp.asarray(board.site_at).at[cell].get(mode="promise_in_bounds"), none)
        dirty = jnp.append(dirt, False).at[site].get(mode="promise_in_bounds")
        site = jnp.where(dirty, site, none).reshape(-1, 3, 3)
        near, middle, far = site[..., 0], site[..., 1], site[..., 2]
        return jnp.where(near < none, near, jnp.where(middle < none, middle, far))

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what all see, ``(n_players, ...)``.

        Planes of 11 x 11 cells, oneself in the second row from below, looking up: apples; dirt; cells that may be so;
        outside; others by where they look: as I do, to my right, towards me, to my left; and two that say whether I may
        zap and clean. All dark while away.
        """
        board = self._map
        water = jnp.ones(len(board.river.cells), bool)
        lines = [board.orchard.lines(state.apples), board.river.lines(state.dirt), board.river.lines(water)]
        ground = [gathering.window(x, state.bodies, board.size)[:, None] for x in lines]
        shape = (self.num_players, 1, *ground[0].shape[2:])
        ready = [(state.bodies.cell >= 0) & (x == 0) for x in (state.bodies.cooldown, state.brush)]
        constant = [jnp.broadcast_to(x[:, None, None, None], shape).astype(jnp.int8) for x in ready]
        everybody = jnp.concatenate([*ground, gathering.seen(state.bodies, board.size), *constant], axis=1)
        return everybody if player is None else everybody[player]

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-d`` rides free, and walks to the nearest apple or to where one may grow; ``all-c`` cleans while more
        than a tenth of the river is dirty, and else does as ``all-d``. Neither zaps."""
        if name == "random":
            return memory, jnp.zeros((self.n_actions,))
        board = self._map
        ways = gathering.ways(state.bodies, player, board.size[1])

        def distances(sites: Sites, wanted: Array) -> Array:
            goals = np.divmod(sites.cells, board.size[1])
            far = [jnp.where(wanted, jnp.abs(r - goals[0]) + jnp.abs(c - goals[1]), 99).min() for r, c in ways]
            return jnp.stack(far)

        eating = distances(board.orchard, state.apples | ~state.apples.any())
        if name == "all-d":
            cost, beam, turn = eating, jnp.zeros((), bool), jnp.zeros((), bool)
        else:
            works = state.dirt.mean() > 0.1
            cleaning = distances(board.river, state.dirt)
            everybody = jnp.ones(self.num_players, bool)
            reached = self._first_dirt(state.bodies, state.dirt, everybody)[player]
            beam = works & (reached < len(board.river.cells)).any()
            turn = works & ~beam & (cleaning[0] <= 1)
            cost = jnp.where(works, cleaning, eating)
        walks = gathering.walking(cost, self.n_actions)
        choice = jnp.arange(self.n_actions)
        walks = jnp.where(turn, jnp.where(choice == TURN_LEFT, 0.0, -jnp.inf), walks)
        waits = beam & (state.brush[player] > 0)
        walks = jnp.where(waits, jnp.where(choice == 0, 0.0, -jnp.inf), walks)
        return memory, jnp.where(beam & ~waits, jnp.where(choice == CLEAN, 0.0, -jnp.inf), walks)

    legend: ClassVar[Mapping[str, Glyph]] = {
        "a": Glyph("diamond", "apples", tone=2),
        "d": Glyph("block", "dirt", tone=3),
        "w": Glyph("block", "river", tone=1),
        "*": Glyph("beam", "beams that hit", tone=0),
        "+": Glyph("beam", "beams that clean", tone=4),
        **gathering.PLAYERS,
    }
    board_note: ClassVar[str] = (
        "An apple pays whoever steps on it. The dirtier the river, the slower apples grow; nobody is paid for cleaning."
    )

    def board(self, state: State) -> Board:
        """River, dirt, apples, beams, players, and what the players see."""
        board = self._map
        live, dirt = np.asarray(state.apples), np.asarray(state.dirt)
        ground = {"a": board.orchard.cells[live], "d": board.river.cells[dirt], "w": board.river.cells[~dirt]}
        beams = [("", "*", "+")[int(kind)] for kind in state.beaming]
        return gathering.picture(state.bodies, beams, board.size, ground)
