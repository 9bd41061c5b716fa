"""Games on a grid: what a board is for people who look, and parts that such games share.

A game shows its state by returning a :class:`Board` from ``board(state)`` and declaring a ``legend``,
a :class:`Glyph` for everything that lies on it. Pictures (:mod:`shaping_bench.games.grids.pictures`), stored
episodes and the player of the HTML page draw from these alone.

>>> legend = {"red": Glyph("disc", "red", player=0), "apple": Glyph("diamond", "apples")}
>>> board = Board(rows=2, columns=3, pieces=[Piece("red", 0, 0), Piece("apple", 1, 2)])
>>> board.check(legend, n_players=1)
>>> board.plain()["pieces"]
[['red', 0, 0], ['apple', 1, 2]]
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

SHAPES = ("disc", "square", "ring", "diamond", "triangle", "cross", "block", "beam")
"""What a glyph may look like. ``block`` fills its cell (walls, water), ``beam`` tints it."""

FACINGS = ("", "N", "E", "S", "W")
"""Where a piece looks; nowhere by default."""

NOTHING = "."
"""A cell with nothing in it, in ``Board.cells``."""


@dataclasses.dataclass(frozen=True)
class Glyph:
    """How something on a board is drawn.

    Attributes:
      shape: one of ``SHAPES``. Shapes tell things apart; colour only helps.
      label: what it is, as in a key: ``coins``.
      player: the seat that it is, if it is a player: it bears its number, and moves.
      owner: the seat that it belongs to, whose colour it has.
      tone: colour of what is nobody's, a number.
    """

    shape: str
    label: str
    player: int | None = None
    owner: int | None = None
    tone: int = 4

    @property
    def colour(self) -> int:
        """Number of its colour: its seat's, its owner's, or its own."""
        seats = (self.player, self.owner)
        return next((seat for seat in seats if seat is not None), self.tone)

    def check(self) -> None:
        """Raises ``ValueError`` where it is none."""
        if self.shape not in SHAPES:
            raise ValueError(f"shape is {self.shape!r}; allowed: {', '.join(SHAPES)}")

    def plain(self) -> dict[str, Any]:
        """For JSON; whose it is where it is somebody's."""
        whose = {"player": self.player, "owner": self.owner}
        return {"shape": self.shape, "label": self.label, "colour": self.colour} | {
            name: seat for name, seat in whose.items() if seat is not None
        }


def seated(legend: Mapping[str, Glyph], n_players: int) -> dict[str, Glyph]:
    """The legend without what belongs to seats that nobody has, in games of any number of players.

    >>> list(seated({"red": Glyph("disc", "red", player=0), "green": Glyph("disc", "green", player=2)}, n_players=2))
    ['red']
    """
    return {name: x for name, x in legend.items() if max(x.player or 0, x.owner or 0) < n_players}


class Piece(NamedTuple):
    """Something on a cell: a key of the legend, where, and possibly where it looks."""

    glyph: str
    row: int
    column: int
    facing: str = ""


class Window(NamedTuple):
    """What a player sees of a board: a part of it, which may go over its edges."""

    player: int
    top: int
    left: int
    rows: int
    columns: int


def window_from(
    player: int, row: int, column: int, heading: int, *, ahead: tuple[int, int], right: tuple[int, int]
) -> Window:
    """What a player sees who stands there: from the least to the most cells ahead, and to the right.

    >>> window_from(0, 4, 4, heading=3, ahead=(-1, 2), right=(-1, 1))
    Window(player=0, top=2, left=3, rows=4, columns=3)
    """
    corners = [unframed(row, column, heading, a, r) for a in ahead for r in right]
    top, left = (min(x[axis] for x in corners) for axis in (0, 1))
    bottom, end = (max(x[axis] for x in corners) for axis in (0, 1))
    return Window(player=player, top=top, left=left, rows=bottom - top + 1, columns=end - left + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """A state for people who look. Row 0 is at the top, column 0 at the left.

    Attributes:
      rows, columns: of the grid.
      pieces: what lies on it, what is drawn last at the end.
      cells: what the cells are made of: per row a string with a character per cell, keys of the
        legend, ``NOTHING`` for nothing. For what covers much: walls, water, apples, beams.
      windows: what players see of it.
      inventories: per player what it holds, a number by name.
    """

    rows: int
    columns: int
    pieces: Sequence[Piece] = ()
    cells: Sequence[str] = ()
    windows: Sequence[Window] = ()
    inventories: Sequence[Mapping[str, float]] = ()

    def check(self, legend: Mapping[str, Glyph], n_players: int) -> None:
        """Checks that it can be drawn.

        Raises:
          ValueError: a glyph that the legend lacks, or something outside the grid.
        """
        for glyph in legend.values():
            glyph.check()
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"the board has {self.rows} rows and {self.columns} columns; allowed: at least 1")
        if self.cells and [len(row) for row in self.cells] != [self.columns] * self.rows:
            raise ValueError(f"cells are not {self.rows} rows of {self.columns} characters")
        for name in {piece.glyph for piece in self.pieces} | set("".join(self.cells)) - {NOTHING}:
            if name not in legend:
                raise ValueError(f"glyph is {name!r}; the legend has {', '.join(map(repr, legend)) or 'none'}")
        for piece in self.pieces:
            if not (0 <= piece.row < self.rows and 0 <= piece.column < self.columns) or piece.facing not in FACINGS:
                raise ValueError(f"{piece} is not on a board of {self.rows} x {self.columns}, or looks nowhere")
        if any(not 0 <= window.player < n_players for window in self.windows):
            raise ValueError(f"windows belong to the players {[x.player for x in self.windows]} of {n_players}")
        if self.inventories and len(self.inventories) != n_players:
            raise ValueError(f"{len(self.inventories)} inventories are given; the game has {n_players} players")
        if not all(math.isfinite(x) for held in self.inventories for x in held.values()):
            raise ValueError("an inventory holds what is no number")

    def plain(self) -> dict[str, Any]:
        """The board without its size for JSON; what there is nothing of is left out."""
        pieces = [[x.glyph, int(x.row), int(x.column), *([x.facing] if x.facing else [])] for x in self.pieces]
        optional = {
            "cells": list(self.cells),
            "windows": [[int(x) for x in window] for window in self.windows],
            "inventories": [{name: float(x) for name, x in held.items()} for held in self.inventories],
        }
        return {"pieces": pieces} | {name: x for name, x in optional.items() if x}


# --- parts of games on a grid ---------------------------------------------------------------
#
# Cells count row by row from the top left, ``row * columns + column``. Sums of comparisons stand
# where one would look up a table: gathers do not vectorise.


def place(cell: Array, columns: int) -> tuple[Array, Array]:
    """Row and column of a cell."""
    row = lax.div(cell, jnp.int32(columns))
    return row, cell - row * columns


def wrapped(x: Array, n: int) -> Array:
    """``x`` modulo ``n``, for ``-n <= x < 2 n``."""
    return jnp.where(x < 0, x + n, jnp.where(x >= n, x - n, x))


def moved(cell: Array, action: Array, moves: Sequence[tuple[int, int]], size: int) -> Array:
    """Where an action leads on a torus of ``size`` rows and columns; ``moves`` are the changes of
    (row, column) by each action."""
    row, column = place(cell, size)
    for k, (down, right) in enumerate(moves):
        chosen = (action == k).astype(jnp.int32)
        row, column = row + down * chosen, column + right * chosen
    return size * wrapped(row, size) + wrapped(column, size)


def below(count: Any, bits: Array) -> tuple[Array, Array]:
    """A uniform integer below ``count <= 256`` from a random word, and a word for the next draw.

    The word is a binary fraction; times ``count``, its whole part is the draw and its fraction
    is random again. The draws from one word are biased by at most the product of their counts
    over 2^32.
    """
    k = jnp.asarray(count, jnp.uint32)
    high, low = bits >> 16, bits & 0xFFFF
    return ((high * k + ((low * k) >> 16)) >> 16).astype(jnp.int32), bits * k


def fraction(words: Array) -> Array:
    """Uniform numbers from 0 to 1."""
    return (words >> 8).astype(jnp.float32) * 2.0**-24


def one_of(cells: Array, words: Array) -> Array:
    """One of the cells ``(W,)`` that are marked, any of them. The number of a cell breaks ties between words."""
    lot = jnp.where(cells, (words & ~jnp.uint32(255)) | jnp.arange(len(cells), dtype=jnp.uint32), 0)
    return cells & (lot == lot.max())


# Headings are 0 along columns, 1 down the rows, 2 back along columns, 3 up: one more is a quarter turn to the right.


def stepped(row: Any, column: Any, heading: Any, count: Any = 1) -> tuple[Any, Any]:
    """Row and column of the cell ``count`` cells ahead."""
    return row + count * _sign(heading, 1), column + count * _sign(heading, 0)


def framed(row: Any, column: Any, heading: Any, other_row: Any, other_column: Any) -> tuple[Any, Any]:
    """A cell as somebody on a cell sees it: how far ahead, and how far to the right."""
    down, along = other_row - row, other_column - column
    one, other = _sign(heading, 0), _sign(heading, 1)
    return along * one + down * other, down * one - along * other


def unframed(row: Any, column: Any, heading: Any, ahead: Any, right: Any) -> tuple[Any, Any]:
    """Row and column of what is so far ahead and to the right."""
    one, other = _sign(heading, 0), _sign(heading, 1)
    return row + ahead * other + right * one, column + ahead * one - right * other


def _sign(heading: Any, along: int) -> Any:
    """1 where one looks along an axis, the columns' (0) or the rows' (1), -1 the other way, 0 across."""
    return (heading == along) * 1 - (heading == along + 2) * 1
