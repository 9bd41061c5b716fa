"""Parts of games in which any number of players gather on a board: moves, beams, absence, and what is seen.

The semantics are those of Melting Pot's engine. Moves happen one after the other in a random order: who moves
succeeds if its target is free at its turn, so cells cannot be exchanged, and one follows another only if that one
moved first. Beams see the board after all moves. Who is hit leaves the board and comes back later.

Players are arrays over seats. Who is off the board stands on cell -1.
"""

import abc
import collections
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from shaping_bench.games.anchors import Anchors, of_scripts
from shaping_bench.games.base import PlayedGame
from shaping_bench.games.grids.board import (
    NOTHING,
    Board,
    Glyph,
    Piece,
    Window,
    below,
    framed,
    place,
    unframed,
    window_from,
)

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, ZAP, CLEAN = range(9)


class Reach(NamedTuple):
    """How many cells one sees ahead, behind, and to either side. The far end is the first row of what is seen."""

    ahead: int
    behind: int
    aside: int

    @property
    def rows(self) -> int:
        return self.ahead + 1 + self.behind

    @property
    def columns(self) -> int:
        return 2 * self.aside + 1

    def window(self, player: int, row: int, column: int, heading: int) -> Window:
        """What a player sees who stands there."""
        sides = (-self.aside, self.aside)
        return window_from(player, row, column, heading, ahead=(-self.behind, self.ahead), right=sides)


REACH = Reach(ahead=9, behind=1, aside=5)


def beam(length: int = 3) -> tuple[tuple[int, int], ...]:
    """Cells of a beam as (ahead, to the right): so many ahead, and as many on either side from beside oneself on."""
    return tuple((first + k, side) for side in (-1, 0, 1) for first in (abs(side) ^ 1,) for k in range(length))


BEAM = beam()

TRIES = 4
"""Cells that are drawn for somebody who comes back; who finds all of them taken tries again in the next step."""


PLAYERS: Mapping[str, Glyph] = {str(i + 1): Glyph("disc", f"player {i + 1}", player=i) for i in range(7)}
"""How players are drawn: as their numbers."""


def anchors(measured: tuple[float, float, float]) -> Anchors:
    """Anchors of a game in which apples pay, of what its scripts return."""
    source = "scripted policies, measured once; the optimum is that of the best script"
    return of_scripts(measured, smallest=0.0, largest=1.0, source=source)


def drawn(text: str) -> tuple[tuple[int, int], Mapping[str, np.ndarray]]:
    """Size of a board that is drawn, a line per row and a sign per cell, and its cells by sign."""
    rows = [line.strip() for line in text.split("\n") if line.strip()]
    columns = max(map(len, rows))
    signs = np.array([list(row.ljust(columns)) for row in rows]).ravel()
    found: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(0, np.int32))
    found.update({sign: np.flatnonzero(signs == sign).astype(np.int32) for sign in set(signs.tolist())})
    return (len(rows), columns), found


class GatheringGame(PlayedGame):
    """What such games have in common: an apple is what is paid for."""

    family: ClassVar[str | None] = "commons"

    num_players: int
    horizon: int

    @property
    @abc.abstractmethod
    def _map(self) -> Any:
        """The board, which has a ``size``."""

    @property
    def version(self) -> int:  # type: ignore[override]
        """2 on boards of which before the last columns were not seen by who looks along them."""
        return 2 if max(self._map.size) > 27 else 1

    @property
    def n_players(self) -> int:
        return self.num_players

    @property
    def num_steps(self) -> int:
        return self.horizon

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return 0.0, 1.0


class Bodies(NamedTuple):
    """Players as they stand: cells (-1 off the board), headings, steps until they are back and until they may zap
    again, each ``(n,)``."""

    cell: Array
    heading: Array
    away: Array
    cooldown: Array


def started(key: Array, cells: Any, n: int) -> Bodies:
    """Players on different ones of the cells, looking anywhere."""
    cell_key, heading_key = jax.random.split(key)
    nothing = jnp.zeros(n, jnp.int32)
    return Bodies(
        cell=jax.random.permutation(cell_key, jnp.asarray(cells, jnp.int32))[:n],
        heading=jax.random.randint(heading_key, (n,), 0, 4, jnp.int32),
        away=nothing,
        cooldown=nothing,
    )


def aims(cell: Array, heading: Any, actions: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Who wants to step to another cell, and to which."""
    row, column = place(cell, size[1])
    ahead = (actions == FORWARD).astype(jnp.int32) - (actions == BACKWARD).astype(jnp.int32)
    right = (actions == STEP_RIGHT).astype(jnp.int32) - (actions == STEP_LEFT).astype(jnp.int32)
    row, column = unframed(row, column, heading, ahead, right)
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    return inside & ((ahead != 0) | (right != 0)) & (cell >= 0), row * size[1] + column


def turned(heading: Array, actions: Array) -> Array:
    """Headings after turns."""
    right = (actions == TURN_RIGHT).astype(jnp.int32) - (actions == TURN_LEFT).astype(jnp.int32)
    return (heading + right) & 3


def ranks(words: Array) -> Array:
    """A random order, ``(n,)`` from as many words. The number of a seat breaks ties between them."""
    words = (words & ~jnp.uint32(7)) | jnp.arange(len(words)).astype(jnp.uint32)
    return (words[:, None] > words).sum(axis=1, dtype=jnp.int32)


def moved(
    bodies: Bodies, actions: Array, words: Array, size: tuple[int, int], walls: np.ndarray | None = None
) -> Bodies:
    """Bodies after turns and moves on a board of that size; ``words`` ``(n,)`` draw who moves first, ``walls`` says of
    every cell whether nobody can enter it."""
    n = len(actions)
    goes, target = aims(bodies.cell, bodies.heading, actions, size)
    if walls is not None:
        goes &= ~jnp.asarray(walls)[jnp.where(goes, target, 0)]
    turn = ranks(words)

    def one(k: Any, cell: Array) -> Array:
        me = turn == k
        there = jnp.where(me, target, 0).sum(dtype=jnp.int32)
        return jnp.where(me & goes & ~(cell == there).any(), target, cell)

    heading = jnp.where(bodies.cell >= 0, turned(bodies.heading, actions), bodies.heading)
    return bodies._replace(cell=lax.fori_loop(0, n, one, bodies.cell), heading=heading)


def claimed(cell: Array, goes: Array, target: Array, words: Array, careless: bool = False) -> Array:
    """Cells after moves that all happen at once, ``(n,)``.

    Who stays keeps its cell; of several who step on one, chance lets one. Cells are not exchanged by two, but may be
    by three in a ring; one follows another if that one gets away. ``words`` ``(n,)`` draw. ``careless``: nobody looks
    at whether who was there gets away, nor whether two exchange cells, so that two may end on one.
    """
    n = len(cell)
    rank = ranks(words)

    def fewer(_: Any, goes: Array) -> Array:
        wanted = jnp.where(goes, target, cell)
        weight = jnp.where(goes, rank, n)
        same = wanted[:, None] == wanted
        wins = weight == jnp.where(same, weight, -1).max(axis=1)
        if careless:
            return goes & wins
        towards = (target[:, None] == cell) & goes[:, None] & goes
        return goes & wins & ~(towards & towards.T & ~jnp.eye(n, dtype=bool)).any(axis=1)

    return jnp.where(fewer(0, goes) if careless else lax.fori_loop(0, n, fewer, goes), target, cell)


def relative(bodies: Bodies, columns: int) -> tuple[Array, Array]:
    """How far ahead of each and to its right everybody is, ``(n, n)``; far away where one of them is off the board."""
    row, column = place(bodies.cell, columns)
    ahead, right = framed(row[:, None], column[:, None], bodies.heading[:, None], row, column)
    there = (bodies.cell[:, None] >= 0) & (bodies.cell >= 0)
    return jnp.where(there, ahead, 99), jnp.where(there, right, 99)


def hit(shoots: Array, ahead: Array, right: Array, length: int = 3) -> Array:
    """Who is hit by whom, ``(n, n)`` by shooter: each of a beam's three lines, of so many cells, stops at the first
    player."""
    hits = jnp.zeros(ahead.shape, bool)
    for side in (-1, 0, 1):
        own = [a for a, s in beam(length) if s == side]
        inside = (right == side) & (ahead >= own[0]) & (ahead <= own[-1])
        distance = jnp.where(inside, ahead, 99)
        hits |= inside & (distance == distance.min(axis=1, keepdims=True))
    return hits & shoots[:, None]


def struck(bodies: Bodies, shoots: Array, hits: Array, *, absence: Any, cooldown: Any) -> Bodies:
    """Bodies after beams: who is hit is off the board for so many steps, who shoots may not for as many."""
    out = hits.any(axis=0)
    return bodies._replace(
        cell=jnp.where(out, -1, bodies.cell),
        away=jnp.where(out, absence, bodies.away),
        cooldown=jnp.where(shoots, cooldown, jnp.maximum(bodies.cooldown - 1, 0)),
    )


def returned(bodies: Bodies, words: Array, cells: Any, headings: tuple[int, ...] = (0, 1, 2, 3)) -> Bodies:
    """Bodies with those back on the board whose absence is over, on free ones of the cells, looking anywhere, or in one
    of the directions given. ``words`` are ``(n, TRIES)``."""
    cells = jnp.asarray(cells, jnp.int32)
    chosen, rest = below(len(cells), words)
    chosen = cells.at[chosen].get(mode="promise_in_bounds")
    heading, _ = below(len(headings), rest[:, 0])
    if len(headings) < 4:
        heading = jnp.asarray(headings, jnp.int32)[heading]
    due = bodies.away == 1

    def one(i: Any, cell: Array) -> Array:
        me = jnp.arange(len(cell)) == i
        tried = jnp.where(me[:, None], chosen, 0).sum(axis=0, dtype=jnp.int32)
        free = ~(tried[:, None] == cell).any(axis=1)
        found = jnp.int32(-1)
        for k in reversed(range(TRIES)):
            found = jnp.where(free[k], tried[k], found)
        return jnp.where(me & due, found, cell)

    cell = lax.fori_loop(0, len(due), one, bodies.cell)
    back = due & (cell >= 0)
    away = jnp.where(due, jnp.where(back, 0, 1), jnp.maximum(bodies.away - 1, 0))
    return bodies._replace(cell=cell, heading=jnp.where(back, heading, bodies.heading), away=away)


# --- scripts ------------------------------------------------------------------------------


def ways(bodies: Bodies, player: int, columns: int) -> list[tuple[Array, Array]]:
    """Rows and columns where a player would be: as it is, and after a step forward, backward, left and right."""
    row, column = place(bodies.cell[player], columns)
    steps = ((0, 0), (1, 0), (-1, 0), (0, -1), (0, 1))
    return [unframed(row, column, bodies.heading[player], *step) for step in steps]


def nearest(ways: Sequence[tuple[Array, Array]], cells: Any, wanted: Array, columns: int) -> Array:
    """Steps to walk from each of the :func:`ways` to the nearest of the cells that are wanted; 99 if none is."""
    goals = place(jnp.asarray(cells), columns)
    far = [jnp.where(wanted, jnp.abs(r - goals[0]) + jnp.abs(c - goals[1]), 99).min() for r, c in ways]
    return jnp.stack(far)


def walking(cost: Array, n_actions: int) -> Array:
    """Logits of who takes the cheapest of the five :func:`ways`; now and then another one, past who stands in it."""
    return jnp.concatenate([jnp.where(cost == cost.min(), 0.0, -6.0), jnp.full(n_actions - len(cost), -jnp.inf)])


# --- what is seen -------------------------------------------------------------------------


class Sites:
    """Cells on which something may be, and the lines of a board that they lie in: what is on them is a bit per cell of
    each line, of which windows are cut."""

    def __init__(self, cells: Any, size: tuple[int, int]) -> None:
        rows, columns = size
        self.cells = np.asarray(cells, np.int32)
        self.size = size
        row, column = np.divmod(self.cells, columns)
        # Rows, then columns, then a line with nothing on it. In halves, which floating-point numbers hold exactly.
        half = _half(size)
        lines = np.zeros((len(self.cells), 2, rows + columns + 1), np.float32)
        for k, (r, c) in enumerate(zip(row, column, strict=True)):
            lines[k, c // half, r] = 2.0 ** (c % half)
            lines[k, r // half, rows + c] = 2.0 ** (r % half)
        self.weights = lines.reshape(len(self.cells), -1)

    def lines(self, on: Array) -> Array:
        """What is on the sites ``(S,)`` by line, ``(2, lines)``: its first half, then its second."""
        words = on.astype(jnp.float32) @ jnp.asarray(self.weights)
        return words.reshape(2, -1).astype(jnp.uint32)


def _half(size: tuple[int, int]) -> int:
    """Cells of the first half of a line."""
    return -(-max(size) // 2)


def seen(
    bodies: Bodies,
    size: tuple[int, int],
    ground: Sequence[Array],
    numbers: Sequence[Array],
    *,
    reach: Reach = REACH,
    outside_last: bool = False,
) -> Array:
    """What each sees, ``(n, planes, rows, columns)`` int8: all dark for who is off the board, but for ``numbers``.

    Planes: what is on the ground; outside; others by where they look: as I do, to my right, towards me, to my left; and
    those that have one number in all cells.

    Args:
      bodies: the players.
      size: rows and columns of the board.
      ground: at most three layers, each of :meth:`Sites.lines`.
      numbers: each ``(n,)``.
      reach: what of it is in sight, at most ``REACH``.
      outside_last: outside comes after the others.
    """
    n, layers = len(bodies.cell), len(ground)
    words = _words(ground, bodies, size, reach)

    # The bit of a cell, by layer, in a byte per cell. Loops over all of a window's cells are what compilers make
    # vectors of, so that words come to their cells by a product, as many side by side as such numbers hold exactly.
    together = 24 // reach.columns
    spread = jnp.asarray(np.repeat(np.eye(reach.rows, dtype=np.float32), reach.columns, axis=1))
    cells = np.tile(1 << np.arange(reach.columns), reach.rows)
    mirrored = ((bodies.heading == 1) | (bodies.heading == 2))[:, None]
    # Looking down or back along the columns, what is to the right counts down.
    bit = jnp.where(mirrored, jnp.asarray(cells[::-1], jnp.int32), jnp.asarray(cells, jnp.int32))
    code = jnp.zeros(bit.shape, jnp.uint8)
    for first in range(0, layers + 1, together):
        some = words[first : first + together]
        joint = functools.reduce(operator.or_, [word << (k * reach.columns) for k, word in enumerate(some)])
        joint = jnp.matmul(joint.astype(jnp.float32), spread, precision=lax.Precision.HIGHEST).astype(jnp.int32)
        for k in range(len(some)):
            code |= ((joint & (bit << (k * reach.columns))) != 0).astype(jnp.uint8) << (first + k)

    forth, aside = relative(bodies, size[1])
    visible = (forth <= reach.ahead) & (forth >= -reach.behind) & (jnp.abs(aside) <= reach.aside)
    visible &= ~jnp.eye(n, dtype=bool)
    index = jnp.where(visible, (reach.ahead - forth) * reach.columns + aside + reach.aside, 255).astype(jnp.uint8)
    looks = jnp.uint8(2 << layers) << ((bodies.heading - bodies.heading[:, None]) & 3).astype(jnp.uint8)
    everywhere, below_players = jnp.arange(len(cells), dtype=jnp.uint8), code

    def other(j: Any, code: Array) -> Array:
        there = index[:, j, None] == everywhere
        return jnp.maximum(code, jnp.where(there, below_players | looks[:, j, None], 0))

    code = lax.fori_loop(0, n, other, code)

    order = [*range(layers), *np.roll(range(layers, layers + 5), -1 if outside_last else 0)]
    masks = jnp.asarray([1 << k for k in order] + [0] * len(numbers), jnp.uint8)
    constant = jnp.stack([jnp.zeros(n, jnp.int8)] * len(order) + [x.astype(jnp.int8) for x in numbers])

    def plane(k: Any, planes: Array) -> Array:
        one = ((code & masks[k]) != 0).astype(jnp.int8) | constant[k][:, None]
        return lax.dynamic_update_index_in_dim(planes, one, k, axis=1)

    # In a loop, or the planes' cells would be found anew in whatever shape they are wanted.
    planes = lax.fori_loop(0, len(masks), plane, jnp.zeros((n, len(masks), len(cells)), jnp.int8))
    return planes.reshape(n, -1, reach.rows, reach.columns)


def _words(ground: Sequence[Array], bodies: Bodies, size: tuple[int, int], reach: Reach) -> list[Array]:
    """Of layers, and of what is outside, the lines of each one's window from one end on, each ``(n, rows)``: a bit per
    cell from the lowest. None for who is off the board."""
    row, column = (x[:, None] for x in place(jnp.maximum(bodies.cell, 0), size[1]))
    heading, present = bodies.heading[:, None], bodies.cell[:, None] >= 0
    upright = (heading & 1) == 1
    ahead = reach.ahead - jnp.arange(reach.rows, dtype=jnp.int32)
    line = jnp.where(upright, row, column) + jnp.where(heading >= 2, -ahead, ahead)
    end = jnp.where(upright, column, row) - reach.aside
    count, length = (jnp.where(upright, *x) for x in (size, size[::-1]))
    inside = (line >= 0) & (line < count) & present
    index = jnp.where(inside, jnp.where(upright, line, size[0] + line), size[0] + size[1])
    window = jnp.uint32((1 << reach.columns) - 1)
    half = _half(size)

    def cut(lines: Array) -> Array:
        # A word of 32 bits may not hold a line; what is shifted out of one is beyond the window.
        parts = {0: lines[0] | (lines[1] << half)} if max(size) <= 32 else {0: lines[0], half: lines[1]}
        found = [_shifted(x.at[index].get(mode="promise_in_bounds"), end - start) for start, x in parts.items()]
        return functools.reduce(operator.or_, found) & window

    board = _shifted(window, jnp.minimum(end, 0)) & _shifted(window, jnp.maximum(end + reach.columns - length, 0))
    outside = jnp.where(present, jnp.where(inside, window & ~board, window), 0)
    return [*map(cut, ground), outside]


def _shifted(word: Array, down: Array) -> Array:
    """Words with their bits moved so many places down, or up where that is below zero."""
    far = jnp.minimum(jnp.abs(down), 31).astype(jnp.uint32)
    return jnp.where(down >= 0, word >> far, word << far)


def picture(
    bodies: Bodies, beams: Sequence[str], size: tuple[int, int], ground: Mapping[str, Any], reach: Reach = REACH
) -> Board:
    """A board for people who look: glyphs of the ground by the cells that bear them, beams where there is nothing else,
    players by their numbers, and what each sees.

    Args:
      bodies: of concrete numbers.
      beams: per player the glyph of its beam, or nothing.
      size: rows and columns.
      ground: cells by glyph.
      reach: what of it is in sight.
    """
    rows, columns = size
    cells = np.full(rows * columns, NOTHING)
    for glyph, where in ground.items():
        cells[np.asarray(where, int)] = glyph
    pieces, windows = [], []
    for i, cell in enumerate(np.asarray(bodies.cell).tolist()):
        if cell < 0:
            continue
        row, column = divmod(cell, columns)
        heading = int(bodies.heading[i])
        pieces.append(Piece(str(i + 1), row, column, facing="ESWN"[heading]))
        covered = [unframed(row, column, heading, *x) for x in BEAM] if beams[i] else []
        for r, c in covered:
            if 0 <= r < rows and 0 <= c < columns and cells[r * columns + c] == NOTHING:
                cells[r * columns + c] = beams[i]
        windows.append(reach.window(i, row, column, heading))
    lines = ["".join(line) for line in cells.reshape(rows, columns)]
    return Board(rows=rows, columns=columns, pieces=pieces, cells=lines, windows=windows)
