"""The suite's learners over all games at once: aggregates of normalised returns, ranks, who improves on whom."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pandas as pd

from shaping_bench.analysis import stats
from shaping_bench.analysis.entries import Sample, entries, metric_names, numbered, samples
from shaping_bench.errors import BadInput, unknown
from shaping_bench.metrics import anchors
from shaping_bench.store.results import Results, kept

AGGREGATES = {
    "IQM": (stats.iqm, "higher"),
    "mean": (stats.mean, "higher"),
    "task median": (stats.task_median, "higher"),
    "optimality gap": (stats.optimality_gap, "lower"),
}
"""Aggregates of normalised returns over all tasks, and which way is better."""

PAIR_RESAMPLES = 500
"""Resamples of the interval of each pair, of which there are many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """The suite's learners over the tasks (game and opponent) that any of them met.

    Attributes:
      learners: labels, in the suite's order.
      samples: of each, its normalised returns in all its tasks; those of runs that diverged are the least
        possible.
      tasks: all of them.
      runs: of each learner, runs per task of ``tasks``; empty where it has none.
      units: what is resampled of them.
      played: who met whom, ``(L, T)``, even if no run has a value.
    """

    learners: tuple[str, ...]
    samples: tuple[Sample, ...]
    tasks: tuple[tuple[str, ...], ...]
    runs: tuple[list[np.ndarray], ...]
    units: tuple[stats.Units, ...]
    played: np.ndarray

    @functools.cached_property
    def ranks(self) -> stats.Ranks:
        """By task, among those who met the same opponent in the same game."""
        return stats.ranks(self.runs, self.played, self.units)

    @functools.cached_property
    def aggregates(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each learner the :data:`AGGREGATES`, ``(L, A)``, and their 95 % intervals, ``(L, 2, A)``."""

        def every(*runs_and_weights: Any) -> np.ndarray:
            return np.stack([statistic(*runs_and_weights) for statistic, _ in AGGREGATES.values()], axis=-1)

        own = [x.runs() for x in self.samples]
        nothing = np.full((2, len(AGGREGATES)), np.nan)
        points = [[float(statistic(runs)) for statistic, _ in AGGREGATES.values()] for runs, _ in own]
        ends = [stats.interval(stats.bootstrap(every, runs, units=[units])) if runs else nothing for runs, units in own]
        return np.array(points), np.array(ends)

    @functools.cached_property
    def improvement(self) -> tuple[np.ndarray, np.ndarray]:
        """Probability that a run returns more than one of another learner in the same task, ``(L,)``,
        and its 95 % intervals, ``(2, L)``."""
        size = len(self.learners)
        resampled = stats.bootstrap(
            lambda *x: stats.average_improvement(x[:size], x[size:]), *self.runs, units=self.units, reps=1000
        )
        return stats.average_improvement(self.runs), stats.interval(resampled)


@dataclasses.dataclass(frozen=True)
class Improvement:
    """The probability that a run of the first learner returns more than one of the second, averaged over
    the ``tasks`` in which both have runs, with its 95 % interval."""

    chance: float
    interval: tuple[float, float]
    tasks: int


@kept
def field(results: Results, kind: str = "encounter", game: str | None = None) -> Field:
    """The learners that leaderboards compare, over all games or in one.

    Raises:
      BadInput: an unknown game, or none whose returns can be normalised.
    """
    if game is not None and game not in results.games:
        raise unknown("game", game, results.games)
    if kind not in ("encounter", "league"):
        raise unknown("kind", kind, ("encounter", "league"))
    if anchors.METRIC in metric_names(results, kind):
        frame = _lost_are_least(results, entries(results, anchors.METRIC, kind))
        frame = frame[frame["learner"].isin(results.learners or results.labels)]
        frame = frame if game is None else frame[frame["game"] == game]
    else:
        frame = pd.DataFrame()
    if frame.empty:
        which = f"{kind}s" if game is None else f"game {game!r} ({kind})"
        raise BadInput(
            f"{which}: no return that can be normalised; allowed: games with anchors (shaping_bench.metrics.anchors)"
        )
    frame = numbered(frame.assign(metric=anchors.METRIC))
    learners = tuple(sorted(frame["learner"].unique(), key=lambda x: results.rank("learner", x)))
    by_learner = samples(frame, "learner")
    behind = tuple(by_learner[x] for x in learners)
    tasks = tuple(dict.fromkeys(task for x in behind for task in x.tasks))
    pairs = [x.runs(tasks) for x in behind]
    met = [set(x.tasks) for x in behind]
    return Field(
        learners=learners,
        samples=behind,
        tasks=tasks,
        runs=tuple(runs for runs, _ in pairs),
        units=tuple(units for _, units in pairs),
        played=np.array([[task in own for task in tasks] for own in met]),
    )


def _lost_are_least(results: Results, frame: pd.DataFrame) -> pd.DataFrame:
    """Normalised returns with the least possible one for runs that diverged.

    Left out, they would leave an average of those that went well, and a rule would rise by losing
    the runs in which it does badly. The least possible is that of the game's smallest reward for ever. Where
    rewards have no bound or none is known, it is as far below the least that anybody got in the game as that
    is below the most: worse than all that was seen, on the scale of what was seen.
    """
    lost = frame["diverged"] & frame["value"].isna()
    if not lost.any():
        return frame
    seen = frame["value"].where(np.isfinite(frame["value"])).groupby(frame["game"]).agg(["min", "max"])
    least = {}
    for game in frame["game"].unique():
        scale = anchors.anchors_in(results)[str(game)]
        low, high = seen.loc[game]
        least[game] = 2 * low - high if scale is None or scale.range is None else scale.range[0]
    return frame.assign(value=frame["value"].where(~lost, frame["game"].map(least)))


def pairwise_improvement(field: Field, reps: int = PAIR_RESAMPLES) -> dict[tuple[int, int], Improvement]:
    """Of every two learners that met the same, in both orders, by their place in the field.

    Args:
      reps: resamples of each interval.
    """
    pairs: dict[tuple[int, int], Improvement] = {}
    for a, b in itertools.combinations(range(len(field.learners)), 2):
        both = [
            t
            for t, task in enumerate(field.tasks)
            if task in field.samples[a].tasks and len(field.runs[a][t]) and len(field.runs[b][t])
        ]
        if not both:
            continue
        # In the order in which the first met them, which is that of its own sample.
        both.sort(key=lambda t: field.samples[a].tasks.index(field.tasks[t]))
        runs = [[field.runs[k][t] for t in both] for k in (a, b)]
        units = [
            stats.Units(
                tuple(field.units[k].of[t] for t in both),
                tuple(field.units[k].pools[t] for t in both),
                tuple(field.units[k].sizes[t] for t in both),
            )
            for k in (a, b)
        ]
        chance = float(stats.probability_of_improvement(*runs))
        low, high = stats.bootstrap_interval(stats.probability_of_improvement, *runs, units=units, reps=reps)
        pairs[a, b] = Improvement(chance, (low, high), len(both))
        pairs[b, a] = Improvement(1 - chance, (1 - high, 1 - low), len(both))
    return pairs


def mean_ranks(results: Results) -> dict[str, float]:
    """Mean over tasks (game and opponent) of the rank by mean return, among those who met that opponent."""
    returns = entries(results, "return")
    chosen = returns[returns["learner"].isin(results.learners or results.labels)]
    scores = chosen.groupby(["game", "opponent", "learner"], sort=False)["value"].mean()
    # One who has diverged everywhere comes last.
    ranked = scores.groupby(level=["game", "opponent"]).rank(ascending=False, na_option="bottom")
    return ranked.groupby(level="learner").mean().to_dict()
