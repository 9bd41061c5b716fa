"""Co-players: whom one is prepared against, as a value.

A hyperparameter ``against`` holds a word that the method explains (``naive``, ``self``), a learner,
or a :class:`Mixture` of both::

    MFOS(against="naive")
    MFOS(against=LOLA(lr=0.5))
    MFOS(against=Mixture(learners=("naive", LOLA(lr=0.5)), shares=(0.7, 0.3)))

Learners that never learn are co-players like any other: policies that were stored, or drawn from
the memory-one policies, are in :mod:`shaping_bench.algorithms.populations`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from shaping_bench.algorithms.core.learner import Learner
from shaping_bench.games.base import Game


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several co-players, one of whom is met at a time.

    >>> Mixture(learners=("naive", "lola"), shares=(0.75, 0.25)).counts(10)
    (8, 2)

    Attributes:
      learners: who; a learner, or a word that the field's ``choices`` explain.
      shares: how often each is met; positive, with sum 1.
    """

    learners: tuple[Any, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, against: Any, words: Mapping[str, Learner]) -> "Mixture":
        """What a field ``against`` holds, with its words explained.

        Raises:
          ValueError: a word that none of them explains, or something else than a learner.
        """
        mixture = against if isinstance(against, cls) else cls(learners=(against,), shares=(1.0,))
        learners = tuple(words.get(x, x) if isinstance(x, str) else x for x in mixture.learners)
        for learner in learners:
            if not isinstance(learner, Learner):
                raise ValueError(f"has against={learner!r}; allowed here: {', '.join(words)}, or learners")
        return cls(learners=learners, shares=mixture.shares)

    def counts(self, total: int) -> tuple[int, ...]:
        """How many of ``total`` games are played against each: in proportion to the shares, the
        remaining ones to those who were cut short most."""
        exact = [share * total for share in self.shares]
        counts = [int(x + 1e-9) for x in exact]
        by_remainder = sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])
        for k in by_remainder[: total - sum(counts)]:
            counts[k] += 1
        return tuple(counts)

    def check_counts(self, total: int, what: str) -> None:
        """Raises ``ValueError`` if somebody is met in none of ``total`` games."""
        if 0 in self.counts(total):
            raise ValueError(
                f"meets {len(self.learners)} co-players with shares {self.shares} in {total} {what}: too few"
            )

    def check_exact(self, game: Game, player: int) -> None:
        """Raises ``ValueError`` if somebody cannot learn from the exact game in a seat beside ``player``."""
        for rule in self.learners:
            name = type(rule).__name__
            if rule.needs_preparation:
                raise ValueError(f"has against={name}, which needs a preparation of its own; allowed: learners without")
            if "exact" not in rule.views:
                raise ValueError(f"has against={name}, which plays to learn; allowed: learners with the exact view")
            for seat in range(game.n_players):
                if seat != player:
                    _check_game(rule, game, seat)

    def check_sampled(self, game: Game, player: int) -> None:
        """Raises ``ValueError`` if somebody cannot play and learn in a seat beside ``player``."""
        for rule in self.learners:
            name = type(rule).__name__
            if rule.needs_preparation:
                raise ValueError(f"has against={name}, which needs a preparation of its own; allowed: learners without")
            if not rule.views & game.views:
                raise ValueError(f"has against={name}, which plays the views {sorted(rule.views)}; not this game")
            for seat in range(game.n_players):
                if seat != player:
                    _check_game(rule, game, seat)


def described(against: Any) -> Any:
    """A field ``against`` in plain words, for records: a word, ``{class: hyperparameters}``, or a list of shares."""
    if isinstance(against, Mixture):
        pairs = zip(against.shares, against.learners, strict=True)
        return [{"share": share, "learner": described(x)} for share, x in pairs]
    if dataclasses.is_dataclass(against):
        values = {f.name: getattr(against, f.name) for f in dataclasses.fields(against)}
        return {type(against).__name__: {k: described(v) if isinstance(v, Learner) else v for k, v in values.items()}}
    return against


def _check_game(rule: Learner, game: Game, seat: int) -> None:
    try:
        rule.check_game(game, seat)
    except ValueError as error:
        raise ValueError(f"has against={type(rule).__name__}, which {error}") from None
