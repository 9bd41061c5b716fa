"""Games of two actions each that a payoff table defines, and what follows from the table."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from shaping_bench.games import anchors
from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Game

__all__ = ["TableFacts", "TableGame"]


class TableGame(Game):
    """A game of two actions per player with a payoff table."""

    payoffs: tuple[tuple[Any, ...], ...]
    """Reward of each player for each joint action, ``n_players x 2**n_players``; the first
    player's action is the highest bit of the joint action's index."""

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With payoffs as tuples of real numbers, where they are given and do not follow from others."""
        if "payoffs" not in values:
            return dict(values)
        return {**values, "payoffs": _checked_table(values["payoffs"])}

    @property
    def n_players(self) -> int:
        return len(self.payoffs)

    @property
    def table(self) -> tuple[tuple[Any, ...], ...]:
        return self.payoffs

    def pinned(self) -> Any:
        """The facts that follow from the numbers, if these are known: static data of the game, so
        that they are still known where payoffs are tracers. See :mod:`shaping_bench.games.fields`."""
        return self.__dict__.get("_pinned") or self._decided()

    def _decided(self) -> "TableFacts | None":
        table = tuple(tuple(_number(x) for x in row) for row in self.payoffs)
        centred = _number(self.init_mean)
        if centred is None or any(x is None for row in table for x in row):
            return None
        return _table_facts(table, centred == 0.0)  # type: ignore[arg-type]

    def unpinned(self) -> "TableGame":
        copy = object.__new__(type(self))
        copy.__dict__.update({**self.__dict__, "_pinned": WITHHELD})
        return copy

    def _fact(self, name: str) -> bool:
        facts = self._decided() or self.pinned()
        if not isinstance(facts, TableFacts):
            raise TypeError(
                f"whether a {type(self).__name__} is {name} follows from its numbers, which are unknown in this "
                "program; a learner that asks in its update says so: reads_facts = True"
            )
        return bool(getattr(facts, name))

    @property
    def symmetric(self) -> bool:
        return self._fact("symmetric")

    @property
    def exchangeable(self) -> bool:
        return self._fact("exchangeable")

    @property
    def zero_sum(self) -> bool:
        return self._fact("zero_sum")

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        rewards = [float(x) for row in self.payoffs for x in row]
        return min(rewards), max(rewards)

    def anchors(self) -> Anchors | None:
        return anchors.of_table(self.payoffs)


class TableFacts(NamedTuple):
    """What follows from a payoff table; see the properties of :class:`Game`."""

    symmetric: bool
    exchangeable: bool
    zero_sum: bool


WITHHELD = "withheld"
"""In place of the facts of a game in a program that games with other facts share."""


def _checked_table(table: Any) -> tuple[tuple[float, ...], ...]:
    try:
        rows = tuple(tuple(float(x) for x in row) for row in table)
    except (TypeError, ValueError):
        rows = ()
    n = len(rows)
    if n < 2 or any(len(row) != 2**n for row in rows) or not all(math.isfinite(x) for row in rows for x in row):
        raise ValueError(
            f"payoffs is {table!r}; allowed: one row of 2^n finite numbers per player, n >= 2, "
            "e.g. ((-1,-3,0,-2),(-1,0,-3,-2))"
        )
    return rows


def _number(x: Any) -> float | None:
    """A number of a game, if it is one now: no tracer, no shape, no array of several settings."""
    if isinstance(x, jax.core.Tracer) or np.ndim(x):
        return None
    try:
        return float(x)
    except (TypeError, ValueError):
        return None


@functools.lru_cache(maxsize=256)
def _table_facts(payoffs: tuple[tuple[float, ...], ...], centred: bool) -> TableFacts:
    """The facts of a table.

    Args:
      payoffs: of the game.
      centred: whether initial logits are; renaming the actions then leaves their distribution alone.
    """
    n = len(payoffs)
    as_they_are = ((0,) * n,)
    renamings = tuple(itertools.product((0, 1), repeat=n))
    symmetric = all(_same_table(payoffs, seats, as_they_are) for seats in _exchanges(n))
    renamed = centred and all(_same_table(payoffs, seats, renamings) for seats in _exchanges(n))
    # Thirds do not add up to one to the last digit.
    rounding = 1e-12 * max(abs(x) for row in payoffs for x in row)
    zero_sum = all(abs(sum(column)) <= rounding for column in zip(*payoffs, strict=True))
    return TableFacts(symmetric, symmetric or renamed, zero_sum)


def _exchanges(n: int) -> Iterator[tuple[int, ...]]:
    """Exchanges of neighbouring seats, of which every other permutation is made."""
    for i in range(n - 1):
        yield (*range(i), i + 1, i, *range(i + 2, n))


def _same_table(
    payoffs: tuple[tuple[float, ...], ...], seats: tuple[int, ...], renamings: tuple[tuple[int, ...], ...]
) -> bool:
    """Whether player i in the seat ``seats[i]`` gets what it got, for one of the ways to rename
    everybody's actions; the first player's action is the highest bit of a joint action's index."""
    n = len(payoffs)

    def index(actions: Sequence[int]) -> int:
        return int("".join(map(str, actions)), 2)

    def moved(actions: Sequence[int], renaming: Sequence[int]) -> int:
        there = [0] * n
        for i, seat in enumerate(seats):
            there[seat] = actions[i] ^ renaming[i]
        return index(there)

    joint = list(itertools.product((0, 1), repeat=n))
    return any(
        all(payoffs[i][index(a)] == payoffs[seats[i]][moved(a, renaming)] for a in joint for i in range(n))
        for renaming in renamings
    )
