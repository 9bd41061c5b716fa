"""Line-ups: one learner per seat, up to the symmetry of the game.

=====================  ================================================================================
``pairs``              one learner in the first seat, another in all others; of two players, all pairs
``one-against-rest``   the same, and the one in every seat that is not like another
``mixtures``           every way to fill the seats
a list of lists        these: labels of learners, one per seat
=====================  ================================================================================
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from shaping_bench.errors import BadInput, unknown
from shaping_bench.games.base import Game
from shaping_bench.spec.registry import Named
from shaping_bench.store.facts import opponent

Kind = Literal["pairs", "one-against-rest", "mixtures"]
Which = Literal["all", "self", "cross"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """A learner or game with the label it has in tables.

    Attributes:
      named: what it is.
      label: what it is called.
      entry: index of the suite's entry that it comes from, counted over the suite's learners, the
        learners of single games, the suite's opponents and the opponents of single games, in the order
        of the file; of a game over the games. None of what no entry names.
      swept: the entry's swept hyperparameters and their values here.
    """

    named: Named
    label: str
    entry: int | None = None
    swept: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Lineup = tuple[Labelled, ...]
"""One learner per seat."""


def line_up(
    kind: Kind | Sequence[Sequence[str]],
    learners: Sequence[Labelled],
    opponents: Sequence[Labelled],
    game: Game,
    which: Which = "all",
    field: str = "lineups",
) -> list[Lineup]:
    """The line-ups of a game, each once.

    Args:
      kind: which there are.
      learners: who meets everybody.
      opponents: whom learners meet, but who do not meet one another.
      game: its symmetry says which line-ups are the same.
      which: all of them, only those of one learner, or only the others; lists are as they are.
      field: what a list is called in complaints.

    Raises:
      BadInput: a list names nobody's label, or not one per seat.
    """
    if not (kind == "pairs" or kind == "one-against-rest" or kind == "mixtures"):
        return distinct(_named(kind, [*learners, *opponents], game, field), game)
    own = [(x,) * game.n_players for x in learners]
    return distinct(
        {
            "all": [*own, *_cross(kind, learners, opponents, game)],
            "self": [*own, *_cross(kind, learners, opponents, game, among=False)],
            "cross": _cross(kind, learners, opponents, game),
        }[which],
        game,
    )


def _cross(
    kind: Kind, learners: Sequence[Labelled], opponents: Sequence[Labelled], game: Game, among: bool = True
) -> list[Lineup]:
    """Line-ups of more than one: of learners ``among`` one another, and of learners and opponents."""
    n = game.n_players
    if kind == "mixtures":
        several = list(itertools.combinations_with_replacement(learners, n)) if among else []
        mixtures = [
            fill
            for fill in itertools.combinations_with_replacement([*learners, *opponents], n)
            if any(x in learners for x in fill) and any(x in opponents for x in fill)
        ]
        chosen = [fill for fill in (*several, *mixtures) if len({x.label for x in fill}) > 1]
        return chosen if game.symmetric else [order for fill in chosen for order in itertools.permutations(fill)]
    pairs = list(itertools.combinations(learners, 2)) if among else []
    pairs += itertools.product(learners, opponents)
    seats = range(n) if kind == "one-against-rest" else (0,)
    both = [*pairs, *((b, a) for a, b in pairs)]
    return [tuple(one if i == seat else rest for i in range(n)) for seat in seats for one, rest in both]


def _named(rows: Sequence[Sequence[str]], known: Sequence[Labelled], game: Game, field: str) -> list[Lineup]:
    by_label = {x.label: x for x in known}
    for k, row in enumerate(rows):
        for label in row:
            if label not in by_label:
                raise unknown(f"{field}.{k}", label, by_label)
        if len(row) != game.n_players:
            raise BadInput(f"{field}.{k} has {len(row)} learners; allowed: {game.n_players}, one per seat")
    return [tuple(by_label[label] for label in row) for row in rows]


def distinct(candidates: Iterable[Lineup], game: Game) -> list[Lineup]:
    """Each line-up once, in the first of the orders of seats that are the same encounter.

    In a symmetric game all orders are. Where the seats are alike up to the names of actions they
    are for rules that learn, which do not know the names; a fixed strategy does.
    """

    def key(lineup: Lineup) -> tuple[str, ...]:
        labels = tuple(x.label for x in lineup)
        learning = all(x.named.value.learns for x in lineup)
        return tuple(sorted(labels)) if game.symmetric or (learning and game.exchangeable) else labels

    once: dict[tuple[str, ...], Lineup] = {}
    for lineup in candidates:
        once.setdefault(key(lineup), lineup)
    return list(once.values())


def title(labels: Sequence[str]) -> str:
    """A line-up in words.

    >>> title(["lola", "lola"]), title(["lola", "naive"]), title(["lola", "naive", "sos", "naive"])
    ('lola', 'lola vs naive', 'lola vs 2x naive + sos')
    """
    return labels[0] if len(set(labels)) == 1 else f"{labels[0]} vs {opponent(labels, 0)}"
