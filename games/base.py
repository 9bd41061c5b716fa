"""What a game is: who plays and what they get.

A game offers one or both of two views. The *exact* view gives the players' discounted
values as a differentiable function of the joint policy parameters; the *sampled* view
is an environment with pure ``reset`` and ``step``. Everything ascends values.

Joint policy parameters are a tuple with one entry per player. An entry is anything that
unpacks into its coordinates: a flat array ``(d_i,)`` or a tuple of ``d_i`` scalars. The
second form is what encounters use: under ``vmap`` every coordinate becomes one
contiguous vector over seeds, which compilers turn into the fastest code by far.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from shaping_bench.games import anchors
from shaping_bench.games.anchors import Anchors
from shaping_bench.games.views import ExactGame, Params, SampledGame

__all__ = ["Count", "Game", "Params", "TableFacts", "TableGame"]


@dataclasses.dataclass(frozen=True)
class Count:
    """Something that a game counts in play, for each player: a metric of that name.

    Attributes:
      name: in the ``info`` of ``step``.
      doc: what is counted, in one line.
      unit: of the mean per step.
      direction: ``"higher"`` or ``"lower"`` is better for the player, or ``"none"``.
      low, high: range; None where there is no bound.
      source: where the definition comes from.
      share_of: names of counts. ``step`` does not count this one: it is the first of them over the
        sum of all, undefined where that is zero.
    """

    name: str
    doc: str
    unit: str = "1"
    direction: str = "none"
    low: float | None = 0.0
    high: float | None = None
    source: str = "the game"
    share_of: tuple[str, ...] = ()


class Game(SampledGame, ExactGame):
    """Base of all games. Subclasses are frozen pytree dataclasses.

    Here is what both views share; :class:`shaping_bench.games.views.ExactGame` and
    :class:`shaping_bench.games.views.SampledGame` say what either asks of a game. ``n_players`` and
    what belongs to its ``views`` is a game's to define, the rest has defaults.

    >>> from shaping_bench.games import make
    >>> sorted(make("ipd").views), sorted(make("coin-game").views)
    (['exact', 'sampled'], ['sampled'])
    """

    views: ClassVar[frozenset[str]] = frozenset({"exact"})
    memory_one: ClassVar[bool] = False
    """Whether play is seen as the last joint action, so that a policy is one logit per state."""
    family: ClassVar[str | None] = None
    """Games for which a hyperparameter that was published for one is a fair start for all; a
    registered name may say another (``games.Entry.family``)."""
    version: ClassVar[int] = 1
    """Of the rules: higher if what the same actions bring has changed, so that results differ."""
    counts: ClassVar[tuple[Count, ...]] = ()
    """What ``info`` of ``step`` counts."""
    gamma: Any
    """Discount."""

    @property
    def n_players(self) -> int:
        raise NotImplementedError

    @property
    def seats(self) -> tuple[str, ...]:
        """A name for each player."""
        return tuple(f"player {i + 1}" for i in range(self.n_players))

    def anchors(self) -> Anchors | None:
        """What random play, the social optimum and a best response get; None if nobody knows."""
        return None

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """Smallest and largest reward of a step to any player; None if unbounded or unknown."""
        return None

    @property
    def table(self) -> tuple[tuple[Any, ...], ...] | None:
        """Rewards ``n_players x 2**n_players`` of joint actions, where two actions each and these
        rewards are all there is to the game; None otherwise."""
        return None

    def facts(self) -> dict[str, Any]:
        """What there is to know about the game without its code, plain enough for JSON.

        >>> from shaping_bench.games import make
        >>> facts = make("ipd").facts()
        >>> facts["family"], facts["symmetric"], facts["states"]
        ('matrix', True, ['start', 'CC', 'CD', 'DC', 'DD'])
        """
        declared: Any = self.anchors
        declared = declared() if callable(declared) else declared
        if isinstance(declared, Anchors):
            declared = dataclasses.asdict(declared)
        return {
            "family": self.family,
            "version": self.version,
            "n_players": self.n_players,
            "seats": list(self.seats),
            "views": sorted(self.views),
            "symmetric": bool(self.symmetric),
            "exchangeable": bool(self.exchangeable),
            "zero_sum": bool(self.zero_sum),
            "memory_one": self.memory_one,
            "states": list(self.coordinates[0]) if self.memory_one else None,
            "counts": [dataclasses.asdict(x) | {"share_of": list(x.share_of)} for x in self.counts],
            "anchors": None if declared is None else dict(declared),
        }

    def unpinned(self) -> "Game":
        """The game for a program that games with other numbers share, where facts that follow from
        numbers are unknown; itself if there are none."""
        return self

    @property
    def symmetric(self) -> bool:
        """True if exchanging any players exchanges their values, up to the order in which policies
        of games with three and more players read what the others did."""
        return False

    @property
    def exchangeable(self) -> bool:
        """True if the seats are alike up to the names of actions (iterated matching pennies,
        battle of the sexes): one order of two learning rules then says all."""
        return self.symmetric

    @property
    def zero_sum(self) -> bool:
        return False

    @property
    def per_step(self) -> Any:
        """Factor that turns a value into the reported per-step scale (1 - discount)."""
        return 1.0


class TableGame(Game):
    """A game of two actions per player with a payoff table."""

    payoffs: tuple[tuple[Any, ...], ...]
    """Reward of each player for each joint action, ``n_players x 2**n_players``; the first
    player's action is the highest bit of the joint action's index."""

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
