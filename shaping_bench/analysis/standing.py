"""How the ranked rules of a card stand to one another: ranks, and who improves on whom.

All of them have played every scenario of the card, in the same tier: like is compared with like. A task is
a scenario, a run the share of one seed in it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from shaping_bench.analysis import stats
from shaping_bench.analysis.scores import Scored

PAIR_RESAMPLES = 500
"""Resamples of the interval of each pair, of which there are many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """Rules over the scenarios of a card.

    Attributes:
      learners: the rules.
      scenarios: names of those that tell rules apart.
      runs: of each rule, shares per scenario, ``(S,)`` each.
      units: what is resampled of them.
    """

    learners: tuple[str, ...]
    scenarios: tuple[str, ...]
    runs: tuple[list[np.ndarray], ...]
    units: tuple[stats.Units, ...]

    @functools.cached_property
    def ranks(self) -> stats.Ranks:
        """By scenario."""
        return stats.ranks(self.runs, units=self.units)

    @functools.cached_property
    def improvement(self) -> tuple[np.ndarray, np.ndarray]:
        """Probability that a run of a rule has a larger share than one of another rule in the same scenario,
        ``(L,)``, and its 95 % intervals, ``(2, L)``."""
        size = len(self.learners)
        resampled = stats.bootstrap(
            lambda *x: stats.average_improvement(x[:size], x[size:]), *self.runs, units=self.units, reps=1000
        )
        return stats.average_improvement(self.runs), stats.interval(resampled)

    @functools.cached_property
    def pairs(self) -> dict[tuple[int, int], tuple[float, tuple[float, float]]]:
        """The same of every two rules, by their place: chance, and its 95 % interval."""
        found: dict[tuple[int, int], tuple[float, tuple[float, float]]] = {}
        for a, b in itertools.combinations(range(len(self.learners)), 2):
            both, units = [self.runs[k] for k in (a, b)], [self.units[k] for k in (a, b)]
            chance = float(stats.probability_of_improvement(*both))
            ends = stats.bootstrap_interval(stats.probability_of_improvement, *both, units=units, reps=PAIR_RESAMPLES)
            found[a, b] = chance, ends
            found[b, a] = 1 - chance, (1 - ends[1], 1 - ends[0])
        return found


def standing(ranked: Sequence[Scored], block: str = "main") -> Standing | None:
    """How rules stand that have every scenario of a card; None where there are not two of them."""
    if len(ranked) < 2:
        return None
    scenarios = [x for x in ranked[0].scenarios(block) if ranked[0].members(x)]
    runs, units = [], []
    for scored in ranked:
        runs.append([scored.shares_of(x) for x in scenarios])
        size = int(scored.units.max()) + 1
        pool = ("units", size)  # seeds begin alike whoever the rule is
        units.append(stats.Units((scored.units,) * len(scenarios), (pool,) * len(scenarios), (size,) * len(scenarios)))
    return Standing(
        learners=tuple(x.subject.learner for x in ranked),
        scenarios=tuple(x.name for x in scenarios),
        runs=tuple(runs),
        units=tuple(units),
    )
