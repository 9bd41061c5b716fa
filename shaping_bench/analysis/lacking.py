"""Registered rules that have no row on a card, and what is missing: so that nobody takes its rows for the field."""

import dataclasses
from collections.abc import Iterable, Sequence

from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.spec import registry
from shaping_bench.spec.scenarios import Track


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lack:
    """What some rules lack for a row.

    Attributes:
      rules: by their registered names.
      why: the same for all of them.
      plays: whether they can play all of the track's games, so that only a run is missing.
    """

    rules: tuple[str, ...]
    why: str
    plays: bool


def lacking(track: Track, tier: str, split: str, rows: Iterable[str]) -> tuple[Lack, ...]:
    """Registered rules of which no setting has a row; rules alike together, those first that could have one.

    Args:
      track, tier, split: of which card.
      rows: learners that it lists.
    """
    there = {type(registry.make_learner(x).value) for x in rows}
    scenarios = [x for x in track.of(split) if not x.projected and x.block != "ordinal"]
    games = [registry.make_game(x) for x in dict.fromkeys(call for s in scenarios for call in s.members.values())]
    grouped: dict[tuple[bool, str], list[str]] = {}
    for name, cls in ALGORITHMS.items():
        if cls not in there:
            refused = _refused(name, track, games)
            grouped.setdefault((not refused, refused or _not_run(name, track, tier, games[0])), []).append(name)
    found = [Lack(rules=tuple(rules), why=why, plays=plays) for (plays, why), rules in grouped.items()]
    return tuple(sorted(found, key=lambda x: not x.plays))


def _refused(rule: str, track: Track, games: Sequence[registry.Named]) -> str:
    """Why it cannot play one of the games, the first; empty if it plays all of them."""
    views = ALGORITHMS[rule].views
    if track.view not in views:
        return f"plays {' and '.join(sorted(views))} games only"
    for game in games:
        learner = registry.make_learner(rule, game=game.name)
        for player in range(game.value.n_players):
            if said := registry.refusal(game, learner, player, "exact" not in views):
                return f"{game.text}: {said}"
    return ""


def _not_run(rule: str, track: Track, tier: str, game: registry.Named) -> str:
    """What its row would take: minutes where the track's file says so, else what its defaults ask for."""
    timed = track.minutes.get(tier, {})
    known = next((call for call in timed if registry.split_call(call, "minutes")[0] == rule), None)
    if known is not None:
        setting = f" as {known}" * (known != rule)
        minutes = float(f"{timed[known]:.2g}")
        return f"not run: about {minutes:,g} CPU-minutes{setting}"
    learner = registry.make_learner(rule, game=game.name).value
    if learner.needs_preparation:
        return f"not run: prepares for every game, for {learner.preparation_steps:,} steps each"
    if not learner.learns:
        return "not run: a fixed strategy"
    return "not run: learns at every step" if learner.online else f"not run: updates of {learner.width:,} episodes"
