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
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games import anchors
from shaping_bench.games.anchors import Anchors
from shaping_bench.games.spaces import Discrete, Space

if TYPE_CHECKING:
    from shaping_bench.games.grids.board import Board, Glyph

Params = Any
"""A player's policy parameters: ``(d_i,)`` or a tuple of ``d_i`` scalars."""


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


class Game:
    """Base of all games. Subclasses are frozen pytree dataclasses.

    An exact game defines ``n_players``, ``sizes`` and ``value``. A sampled game defines
    ``n_players``, ``n_actions``, ``observation_shape``, ``num_steps``, ``gamma``, ``reset``,
    ``step`` and ``observe``. The rest has defaults.
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
    ends_early: ClassVar[bool] = False
    """Whether an episode may be over before ``num_steps``: from the step that returns ``done`` on."""
    keeps_world: ClassVar[bool] = False
    """Whether the state of an episode's end is where the next one begins, in the same encounter."""

    keeps_world: ClassVar[bool] = False
    """Whether the state of the sampled view lives on from one episode of an encounter to the next;
    see :meth:`resume`."""

    init_mean: Any = 0.0
    init_std: Any = 1.0

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

    # sampled view, in the manner of gymnax: pure, for one environment

    @property
    def n_actions(self) -> int:
        """Number of actions of each player."""
        raise NotImplementedError

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one player's observation; ``()`` for the index of a memory-one state."""
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """Steps from ``reset`` to the end."""
        raise NotImplementedError

    @property
    def num_moves(self) -> int:
        """Steps that count where a reward per step is reported."""
        return self.num_steps

    def reset(self, key: Array) -> tuple[Array, Any]:
        """Returns observations ``(n_players, *observation_shape)`` and state."""
        raise NotImplementedError

    def resume(self, key: Array, state: Any) -> Any:
        """The state in which the next episode starts, in a game that keeps its world, from that in
        which the last one ended: the same one by default."""
        del key
        return state

    def step(self, key: Array, state: Any, actions: Array) -> tuple[Array, Any, Array, Array, dict[str, Array]]:
        """Returns observations, state, rewards ``(n_players,)``, done, and counts ``(n_players,)`` by name."""
        raise NotImplementedError

    def observe(self, state: Any, player: int | None = None) -> Array:
        """What a state looks like to ``player``, ``observation_shape``; by default to everybody,
        ``(n_players, *observation_shape)``."""
        raise NotImplementedError

    def action_space(self, player: int) -> Space:
        """What ``player`` may do in a step; by default one of ``n_actions``.

        Where all seats choose from finitely many, joint actions are one array of integers; else a
        tuple with the action of every seat.
        """
        del player
        return Discrete(self.n_actions)

    @property
    def board_planes(self) -> int:
        """How many of the leading planes of an observation show a board; the others are constant."""
        return self.observation_shape[0]

    scripts: ClassVar[tuple[str, ...]] = ()
    """Fixed strategies that the sampled view defines by a rule of its state."""

    def script(self, name: str, memory: Array, state: Any, player: int) -> tuple[Array, Array]:
        """One of ``scripts``: its memory, 0 at the start, and logits ``(n_actions,)``; minus
        infinity rules an action out."""
        raise NotImplementedError

    legend: ClassVar[Mapping[str, "Glyph"]] = {}
    """How what lies on ``board`` is drawn."""
    board_note: ClassVar[str] = ""
    """What those who look at the board should know, in a sentence."""

    def board(self, state: Any) -> "Board | None":
        """A state for people who look, of concrete numbers; None, the default, if there is nothing to see."""
        return None

    def paid(self, observations: Array, actions: Array) -> Array:
        """Rewards that the rules pay for joint actions, as anybody who saw them can tell.

        Args:
          observations: what player 1 saw before, ``(..., *observation_shape)``.
          actions: ``(..., n_players)``.

        Returns:
          ``(..., n_players)``.
        """
        raise NotImplementedError

    @property
    def pays_in_public(self) -> bool:
        """Whether :meth:`paid` can say what everybody earned."""
        return type(self).paid is not Game.paid

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of policy parameters of each player."""
        raise NotImplementedError

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        """A name for each policy parameter of each player."""
        return tuple(tuple(f"theta{k}" for k in range(d)) for d in self.sizes)

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

    def init_params(self, key: Array, player: int) -> Array:
        """Initial policy parameters ``(d_i,)``: normal, drawn in float32 for every precision."""
        draw = jax.random.normal(key, (self.sizes[player],), jnp.float32)
        return self.init_mean + self.init_std * draw

    def value(self, params: Sequence[Params], player: int) -> Array:
        """Unnormalised discounted value of ``player``, a scalar."""
        raise NotImplementedError

    def values(self, params: Sequence[Params]) -> Array:
        """Unnormalised discounted values of all players, ``(n_players,)``."""
        return jnp.stack([self.value(params, i) for i in range(self.n_players)])

    def observables(self, params: Sequence[Params]) -> Mapping[str, Array]:
        """Game-specific quantities of a joint policy, each ``(n_players,)``."""
        return {}

    def best_response(self, params: Sequence[Params], player: int) -> Params:
        """Exact best response of ``player`` to the others, as policy parameters.

        Raises:
          NotImplementedError: the game has none in closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} offers no exact best response")

    @property
    def has_best_response(self) -> bool:
        return type(self).best_response is not Game.best_response


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
