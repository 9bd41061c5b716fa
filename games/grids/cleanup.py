"""Clean-up: apples grow only while a river that nobody is paid for cleaning is clean enough.

Dirt comes into the river by itself, and the more of it lies there the slower apples grow in the orchard on the other
side; from a share of dirt on, none. Who cleans eats nothing meanwhile: a public good. Introduced by Hughes et al. 2018
(arXiv 1803.08884); the board and the rules are those of Melting Pot's ``clean_up``, on cells instead of pixels.
Others' rules (:mod:`shaping_bench.games.grids.conduct`) go by ``rules``.
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
from shaping_bench.games.grids.board import Board, Glyph, fraction, one_of, place, unframed
from shaping_bench.games.grids.gathering import CLEAN, TURN_LEFT, ZAP, Bodies, GatheringGame, Sites

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
    "ssd": """
        HHHHHH.....BBBBB
        FFFFFF......BBBB
        HHHHHH.....BBBBB
        HHHHH..P....BBBB
        HHHHH....P.BBBBB
        FFFFF.......BBBB
        HHHHH......BBBBB
        FFFFFFSSSSSSBBBB
        FFFFFFSSSSSSBBBB
        HHHHH...P.P.BBBB
        FFFFF...P..BBBBB
        HHHHHH....P.BBBB
        FFFFFF.P...BBBBB
        HHHHH.......BBBB
        FFFF....P..BBBBB
        HHHHH.......BBBB
        FFFFF..P.P.BBBBB
        HHHHH.......BBBB
        FFFF.......BBBBB
        HHHHH.......BBBB
        FFFFF......BBBBB
        HHHHH.......BBBB
        FFFF.......BBBBB
    """,
}
"""F: dirt at the start; H: clean cells that may become dirty; S: river that never does; B: cells on which apples
grow, none at first; P: cells to start from and to come back to. ``ssd`` is that of the first published code."""

GROWTH, DEPLETION = 0.05, 0.4
"""Probability per step that an apple grows on a free cell where all is clean, and share of dirt at which none does."""

PLANES = 10

ANCHORS: dict[tuple[str, int], tuple[float, float, float]] = {
    ("open", 7): (0.0, 0.3609, 0.0),
    ("small", 2): (0.0027, 0.0318, 0.0124),
    ("small", 3): (0.0021, 0.1121, 0.0081),
}
"""By board and number of players, of the default rules: return per step and player of random play, of the scripts that
earn most together (one, two or three who clean, of two, three or seven), and of the script that earns most among random
others (none anything among six); means of 64 episodes, standard errors below 0.002."""


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
    stream: int


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
        stream=len(cells["S"]),
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
    rules: str = field(
        conduct.MELTING_POT,
        "whose rules of moves and beams; by others than the default nobody is away and no beam has to cool",
        choices=conduct.RULES,
        static=True,
        added=True,
    )

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
        return (PLANES, gathering.REACH.rows, gathering.REACH.columns)

    @property
    def board_planes(self) -> int:
        return PLANES - 2

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return conduct.reward_bounds(self.rules, self.num_players)

    @property
    def _map(self) -> _Map:
        return _map(self.layout)

    def anchors(self) -> Anchors | None:
        """Measured for the default rules; None for others."""
        measured = ANCHORS.get((self.layout, self.num_players))
        rules = self.horizon, self.dirt_rate, self.dirt_delay, self.absence, self.cooldown, self.brush_cooldown
        if measured is None or self.rules != conduct.MELTING_POT or rules != (1000, 0.5, 50, 50, 10, 2):
            return None
        return gathering.anchors(measured)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, *observation_shape)`` and state: no apples, and dirt."""
        board, n = self._map, self.num_players
        nothing = jnp.zeros(n, jnp.int32)
        state = State(
            time=jnp.int32(0),
            bodies=conduct.started(key, board.starts, n, self.rules),
            brush=nothing,
            apples=jnp.zeros(len(board.orchard.cells), bool),
            dirt=jnp.asarray(board.dirty),
            beaming=nothing,
        )
        return self.observe(state), state

    def growth(self, dirt: Array) -> Array:
        """Probability per step that an apple grows on a free cell."""
        share = dirt.mean(dtype=jnp.float32)
        if conduct.of_socialjax(self.rules):  # counts the river that never becomes dirty, too
            share *= dirt.size / (dirt.size + self._map.stream)
        return GROWTH * jnp.clip(1.0 - share / DEPLETION, 0.0, 1.0)

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Moves one after the other, then beams; apples grow, and who stands on one eats it.

        Args:
          key: chance of this step: who moves first, what grows or becomes dirty, where one comes back.
          state: from ``reset`` or ``step``.
          actions: ``(n_players,)``: nothing, forward, backward, step left, step right, turn left, turn right, zap,
            clean; by others' rules in the order of :data:`~.conduct.ACTIONS`.

        Returns:
          Observations, state, rewards ``(n_players,)``, done, and counts.
        """
        board, n = self._map, self.num_players
        trees, waters = len(board.orchard.cells), len(board.river.cells)
        sizes = np.cumsum([n, n * gathering.TRIES, trees, waters])
        words = jax.random.bits(key, (sizes[-1] + 1,), jnp.uint32)
        order, back, ripens, soils, spills = jnp.split(words, sizes)
        actions = conduct.meant(self.rules, actions)
        if self.rules != conduct.MELTING_POT:
            play = self._step_of_socialjax if conduct.of_socialjax(self.rules) else self._step_of_the_first_code
            return play(state, actions, order, back.reshape(n, -1), (ripens, soils, spills))
        bodies = gathering.moved(state.bodies, actions, order, board.size)

        apples = state.apples | (fraction(ripens) < self.growth(state.dirt))
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
        soiled = one_of(~state.dirt, soils)
        soiled &= (fraction(spills[0]) < self.dirt_rate) & (state.time >= self.dirt_delay)

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
        return self._told(after, eats, (reached < waters).sum(axis=1), hits, eats.astype(jnp.result_type(float)))

    def _told(
        self, after: State, eats: Array, cleaned: Array, hits: Array, rewards: Array
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """What a step returns."""
        dtype = rewards.dtype
        info = {
            "apples": eats.astype(dtype),
            "cleaned": cleaned.astype(dtype),
            "zaps": hits.sum(axis=1).astype(dtype),
            "dirt": jnp.full(self.num_players, after.dirt.mean(), dtype),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def _step_of_socialjax(
        self, state: State, actions: Array, order: Array, back: Array, chance: tuple[Array, Array, Array]
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Apples grow and dirt comes, neither under players, nor apples under old beams; who was hit a step ago is
        placed, all move at once and eat, beams hit and clean all dirt in them; an episode's last step pays nothing."""
        board, before = self._map, state.bodies
        own = jnp.asarray(board.orchard.cells)
        river = jnp.asarray(board.river.cells)
        ripens, soils, spills = chance
        shown = jnp.where(state.beaming[:, None] > 0, conduct.shot(before, board.size)[1], -1).ravel()
        taken = (jnp.concatenate([before.cell, shown])[:, None] == own).any(axis=0)
        apples = state.apples | ((fraction(ripens) < self.growth(state.dirt)) & ~taken)
        soiled = one_of(~state.dirt, soils) & ~(before.cell[:, None] == river).any(axis=0)
        soiled &= (fraction(spills[0]) < self.dirt_rate) & (state.time > self.dirt_delay)
        dirt = state.dirt | soiled

        bodies = conduct.placed(before, back, board.starts, self.rules)
        bodies = conduct.moved(bodies, actions, order, board.size, self.rules)
        on = bodies.cell[:, None] == own
        eats = (on & apples).any(axis=1)
        apples &= ~on.any(axis=0)

        shoots, brushes = actions == ZAP, actions == CLEAN
        struck, cells = conduct.shot(bodies, board.size)
        hits = conduct.struck_at(bodies, shoots, struck)
        washed = (jnp.where(brushes[:, None], cells, -1)[..., None] == river).any(axis=1)
        washed &= dirt & ~(bodies.cell[:, None] == river).any(axis=0)
        after = State(
            time=state.time + 1,
            bodies=bodies._replace(away=jnp.maximum(bodies.away, hits.any(axis=0).astype(jnp.int32))),
            brush=state.brush,
            apples=apples,
            dirt=dirt & ~washed.any(axis=0),
            beaming=shoots.astype(jnp.int32) + 2 * brushes.astype(jnp.int32),
        )
        paid = eats & (after.time < self.horizon)
        return self._told(after, eats, washed.sum(axis=1), hits, paid.astype(jnp.result_type(float)))

    def _step_of_the_first_code(
        self, state: State, actions: Array, order: Array, back: Array, chance: tuple[Array, Array, Array]
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """All move at once and eat, beams fine who is hit and, in a random order, clean the first dirt in each line;
        then apples grow where nobody stands, and while there is little dirt one more cell becomes dirty."""
        board, n = self._map, self.num_players
        ripens, soils, spills = chance
        bodies = conduct.moved(state.bodies, actions, order, board.size, self.rules)
        on = bodies.cell[:, None] == jnp.asarray(board.orchard.cells)
        eats = (on & state.apples).any(axis=1)
        shoots, brushes = actions == ZAP, actions == CLEAN
        hits = gathering.hit(shoots, *gathering.relative(bodies, board.size[1]), length=conduct.LENGTH)
        turn = gathering.ranks(back[:, 0])

        def clean(k: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            dirt, cleaned = carry
            reached = self._first_dirt(bodies, dirt, brushes & (turn == k), conduct.LENGTH)
            count = (reached < len(board.river.cells)).sum(axis=1, dtype=jnp.int32)
            return dirt.at[reached].set(False, mode="drop"), cleaned + count

        dirt, cleaned = jax.lax.fori_loop(0, n, clean, (state.dirt, jnp.zeros(n, jnp.int32)))
        apples = (state.apples | (fraction(ripens) < self.growth(dirt))) & ~on.any(axis=0)
        # Cells are tried one after the other, each with the rate, until one becomes dirty.
        comes = fraction(spills[0]) < 1.0 - (1.0 - self.dirt_rate) ** (~dirt).sum()
        soiled = one_of(~dirt, soils) & comes & (dirt.mean(dtype=jnp.float32) < DEPLETION)
        after = State(
            time=state.time + 1,
            bodies=bodies,
            brush=state.brush,
            apples=apples,
            dirt=dirt | soiled,
            beaming=shoots.astype(jnp.int32) + 2 * brushes.astype(jnp.int32),
        )
        return self._told(after, eats, cleaned, hits, conduct.fined(eats, shoots, hits))

    def _first_dirt(self, bodies: Bodies, dirt: Array, brushes: Array, length: int = 3) -> Array:
        """The first dirt in each of the three lines of each one's beam, ``(n, 3)``; the number of sites for none. By
        the first code's rules lines also end at players, under whom they clean."""
        board = self._map
        row, column = place(bodies.cell, board.size[1])
        ahead, right = (jnp.array(x, jnp.int32) for x in zip(*gathering.beam(length), strict=True))
        r, c = unframed(row[:, None], column[:, None], bodies.heading[:, None], ahead, right)
        inside = (r >= 0) & (r < board.size[0]) & (c >= 0) & (c < board.size[1]) & brushes[:, None]
        cell = jnp.where(inside, r * board.size[1] + c, 0)
        none = len(board.river.cells)
        site = jnp.where(inside, jnp.asarray(board.site_at).at[cell].get(mode="promise_in_bounds"), none)
        dirty = jnp.append(dirt, False).at[site].get(mode="promise_in_bounds")
        site = jnp.where(dirty, site, none).reshape(-1, 3, length)
        if self.rules == conduct.SSD:
            players = (cell[..., None] == bodies.cell).any(axis=-1).reshape(site.shape)
            site = jnp.where(jnp.cumsum(players, axis=-1) - players > 0, none, site)
        found = site[..., -1]
        for k in reversed(range(length - 1)):
            found = jnp.where(site[..., k] < none, site[..., k], found)
        return found

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what all see, ``(n_players, ...)``.

        Planes of 11 x 11 cells, oneself in the second row from below, looking up: apples; dirt; cells that may be so;
        outside; others by where they look: as I do, to my right, towards me, to my left; and two that say whether I may
        zap and clean. All dark while away.
        """
        board = self._map
        water = jnp.ones(len(board.river.cells), bool)
        lines = [board.orchard.lines(state.apples), board.river.lines(state.dirt), board.river.lines(water)]
        ready = [(state.bodies.cell >= 0) & (x == 0) for x in (state.bodies.cooldown, state.brush)]
        everybody = gathering.seen(state.bodies, board.size, lines, ready)
        return everybody if player is None else everybody[player]

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-d`` rides free, and walks to the nearest apple or to where one may grow; ``all-c`` cleans while more
        than a tenth of the river is dirty, and else does as ``all-d``. Neither zaps."""
        if name == "random":
            return memory, jnp.zeros((self.n_actions,))
        board = self._map
        ways = conduct.ways(self.rules, state.bodies, player, board.size[1])

        eating = gathering.nearest(ways, board.orchard.cells, state.apples | ~state.apples.any(), board.size[1])
        if name == "all-d":
            cost, beam, turn = eating, jnp.zeros((), bool), jnp.zeros((), bool)
        else:
            works = state.dirt.mean() > 0.1
            cleaning = gathering.nearest(ways, board.river.cells, state.dirt, board.size[1])
            everybody = jnp.ones(self.num_players, bool)
            if conduct.of_socialjax(self.rules):
                cells = jnp.append(jnp.asarray(board.site_at), len(board.river.cells))
                reached = cells[conduct.shot(state.bodies, board.size)[1][player]]
                reached = jnp.where(jnp.append(state.dirt, False)[reached], reached, len(board.river.cells))
            else:
                length = conduct.LENGTH if self.rules == conduct.SSD else 3
                reached = self._first_dirt(state.bodies, state.dirt, everybody, length)[player]
            beam = works & (reached < len(board.river.cells)).any()
            turn = works & ~beam & (cleaning[0] <= 1)
            cost = jnp.where(works, cleaning, eating)
        walks = gathering.walking(cost, self.n_actions)
        choice = jnp.arange(self.n_actions)
        walks = jnp.where(turn, jnp.where(choice == TURN_LEFT, 0.0, -jnp.inf), walks)
        waits = beam & (state.brush[player] > 0)
        walks = jnp.where(waits, jnp.where(choice == 0, 0.0, -jnp.inf), walks)
        walks = jnp.where(beam & ~waits, jnp.where(choice == CLEAN, 0.0, -jnp.inf), walks)
        return memory, conduct.ordered(self.rules, walks)

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
