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
from collections.abc import Mapping
from typing import Any, ClassVar

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.views import ExactGame, Params, SampledGame

__all__ = ["Count", "Game", "Params"]


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
      per: name of a count by which the sum of this one is divided, undefined where that is zero; else it is a
        mean per step.
    """

    name: str
    doc: str
    unit: str = "1"
    direction: str = "none"
    low: float | None = 0.0
    high: float | None = None
    source: str = "the game"
    share_of: tuple[str, ...] = ()
    per: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON; without ``per`` where there is none, as it was stored before there was one."""
        whole = dataclasses.asdict(self) | {"share_of": list(self.share_of)}
        return {name: x for name, x in whole.items() if name != "per" or x}


def share(name: str, part: str, rest: str, source: str) -> Count:
    """What part one count has in the sum of two."""
    return Count(name, f"{part} / ({part} + {rest})", "share", high=1.0, source=source, share_of=(part, rest))


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
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By name, sets of rules that go together: hyperparameters of which ``preset`` chooses."""
    gamma: Any
    """Discount."""

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters as the class takes them, checked beyond what their fields say.

        Args:
          values: every hyperparameter by name, each within its field's bounds.

        Raises:
          ValueError: begins with the name of the hyperparameter, says what is given and what is allowed.
        """
        return dict(values)

    @property
    def n_players(self) -> int:
        raise NotImplementedError

    @property
    def num_states(self) -> int | None:
        """Of how many states a player sees the index, so that a table with a row for each is a policy; None where
        observations are something else."""
        return self.sizes[0] if self.memory_one else None

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
            "counts": [x.plain() for x in self.counts],
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


class PlayedGame(Game):
    """Base of games that have no values, and are played."""

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})

    @property
    def sizes(self) -> tuple[int, ...]:
        """None: policies are networks of the learner's choice."""
        return ()
