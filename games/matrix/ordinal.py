"""The strictly ordinal games of two players with two actions: each ranks the four outcomes from 1 to 4.

There are 4! x 4! = 576 such tables, and 78 games (Rapoport & Guyer 1966): tables are the same game if
renaming actions and exchanging the players turns one into the other. Twelve of the 78 are symmetric;
in the other 66 the seats differ, so that there are 144 places to sit.

Numbers follow from the tables alone. A game is shown by that of its tables whose joint action CC has
the greatest sum of pay-offs, of several the most equal one, of several the one that is first in the
order of (first player's row, second player's row), read from 4 down to 1; games are numbered in that
same order. So action 0 is what is best for both together, as in the dilemmas that have names.
"""

import functools
import itertools
from typing import Any, ClassVar

from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.matrix.repeated import MemoryOneGame, RepeatedGame

NUM_GAMES = 78

Table = tuple[tuple[float, ...], tuple[float, ...]]
"""Rows of both players over the joint actions CC, CD, DC, DD, the first player's action first."""


def seats_exchanged(table: Table) -> Table:
    """The same game with the players in each other's seats."""
    first, second = ((row[0], row[2], row[1], row[3]) for row in table)
    return second, first


def _renamed(table: Table, first: bool, second: bool) -> Table:
    """The same game with a player's two actions called the other way round."""
    order = [2 * (a ^ first) + (b ^ second) for a, b in itertools.product((0, 1), repeat=2)]
    return tuple(tuple(row[k] for k in order) for row in table)  # type: ignore[return-value]


def _order(table: Table) -> tuple[Any, ...]:
    """Smaller comes first."""
    (a, *_), (b, *_) = table
    return -(a + b), abs(a - b), tuple(tuple(-x for x in row) for row in table)


@functools.cache
def tables() -> tuple[Table, ...]:
    """The 78 games."""
    ranks = list(itertools.permutations((4.0, 3.0, 2.0, 1.0)))
    shown = set()
    for table in itertools.product(ranks, ranks):
        seated = (table, seats_exchanged(table))
        names = itertools.product((False, True), repeat=2)
        shown.add(min((_renamed(x, *flips) for flips in names for x in seated), key=_order))
    return tuple(sorted(shown, key=_order))


@pytree_dataclass
class OrdinalGame(MemoryOneGame):
    """One of the 78 strictly ordinal games of two players with two actions, repeated: pay-offs are the
    ranks 1 to 4 of the outcomes. Action 0 of both leads to the outcome with the greatest sum."""

    family: ClassVar[str | None] = "matrix"

    index: int = field(doc="which of the 78", low=0, high=NUM_GAMES - 1, static=True)
    exchanged: bool = field(False, "whether the players sit in each other's seats", static=True)
    gamma: float = field(0.96, "discount", low=0.0, high=1.0, exclusive=True)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(150, "length of an episode of the sampled view", low=1, static=True)

    @property
    def payoffs(self) -> Table:  # type: ignore[override]
        table = tables()[self.index]
        return seats_exchanged(table) if self.exchanged else table

    def unpinned(self) -> RepeatedGame:
        """The table that it is: all 78 share one program, with one another and with all repeated tables."""
        return self.as_table()
