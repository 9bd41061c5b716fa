"""Aggregates over seeds and tasks, in rliable's vocabulary (Agarwal et al. 2021).

Scores are *strata*: a list with one array of runs per task (a task is a game and an
opponent), so that tasks may have lost different numbers of runs to divergence. Every
statistic maps strata of shape ``(..., n_t)`` to ``(...)``: the same function serves the
point estimate and, with a leading axis of resamples, its bootstrap. NaN runs are removed,
and counted, by :func:`strata` before anything is computed.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strata = Sequence[NDArray[np.float64]]
Statistic = Callable[..., NDArray[np.float64]]

MAX_DRAWS = 2**22
"""Most numbers drawn at once by a bootstrap; 32 MiB."""


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """Statistics of one set of runs.

    Attributes:
      mean, median, iqm: over the finite runs; NaN where there is none.
      std: over seeds, of the mean over tasks, with ddof = 1; NaN below two seeds.
      n: finite runs that entered.
      runs: all runs, finite or not.
    """

    mean: float
    std: float
    median: float
    iqm: float
    n: int
    runs: int


def strata(scores: ArrayLike) -> list[NDArray[np.float64]]:
    """Finite runs per task.

    Args:
      scores: ``(S,)`` of one task, or ``(S, T)``; NaN or infinite where a run diverged.

    Returns:
      One array per task that has a finite run.
    """
    columns = np.atleast_2d(np.asarray(scores, np.float64).T)
    kept = [column[np.isfinite(column)] for column in columns]
    return [column for column in kept if len(column)]


def mean(runs: Strata) -> NDArray[np.float64]:
    """Mean over tasks of the mean over runs: every task weighs the same."""
    return _over_tasks([x.mean(axis=-1) for x in runs])


def median(runs: Strata) -> NDArray[np.float64]:
    """Median of all runs. (rliable's median is over tasks of their means, a mean for one task.)"""
    return np.median(np.concatenate(runs, axis=-1), axis=-1) if runs else np.array(np.nan)


def iqm(runs: Strata) -> NDArray[np.float64]:
    """Interquartile mean: of all runs, a quarter (rounded down) cut off at either end."""
    if not runs:
        return np.array(np.nan)
    ordered = np.sort(np.concatenate(runs, axis=-1), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def std(scores: ArrayLike) -> float:
    """Standard deviation (ddof = 1) over seeds of the mean over a seed's finite tasks.

    Args:
      scores: ``(S,)`` or ``(S, T)``, NaN where a run diverged.
    """
    table = np.asarray(scores, np.float64)
    table = table.reshape(len(table), -1)
    finite = np.isfinite(table)
    counts = finite.sum(axis=1)
    per_seed = np.where(finite, table, 0.0).sum(axis=1)[counts > 0] / counts[counts > 0]
    return float(per_seed.std(ddof=1)) if len(per_seed) > 1 else float("nan")


STATISTICS: dict[str, Statistic] = {"mean": mean, "median": median, "iqm": iqm}


def aggregate(scores: ArrayLike) -> Aggregate:
    """All point estimates of ``(S,)`` or ``(S, T)`` scores, with their counts."""
    runs = strata(scores)
    return Aggregate(
        mean=float(mean(runs)),
        std=std(scores),
        median=float(median(runs)),
        iqm=float(iqm(runs)),
        n=sum(len(x) for x in runs),
        runs=int(np.asarray(scores).size),
    )


def bootstrap_interval(
    statistic: Statistic, *samples: Strata, reps: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic by the stratified bootstrap.

    Runs are resampled with replacement within their task, never across tasks.

    Args:
      statistic: maps one or more strata, with a leading axis, to one number each.
      *samples: what it is applied to; several for a comparison.
      reps: number of resamples R.
      confidence: mass of the interval.
      seed: of the resampling; the same seed gives the same interval.

    Returns:
      Low and high end; NaN where there are no runs.
    """
    if not all(samples):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    size = sum(len(x) for runs in samples for x in runs)
    values = []
    for first in range(0, reps, max(1, MAX_DRAWS // size)):
        count = min(max(1, MAX_DRAWS // size), reps - first)
        drawn = [[x[rng.integers(len(x), size=(count, len(x)))] for x in runs] for runs in samples]
        values.append(statistic(*drawn))
    low, high = np.quantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def probability_of_improvement(first: Strata, second: Strata) -> NDArray[np.float64]:
    """Probability that a run of ``first`` scores higher than one of ``second``; ties count half.

    Mann and Whitney's U over its maximum in each task, averaged over tasks. Both need the
    same tasks in the same order.
    """
    if len(first) != len(second):
        raise ValueError(f"both need the same tasks; got {len(first)} and {len(second)}")
    from scipy.stats import rankdata  # half a second to import: only this pays for it

    chances = []
    for x, y in zip(first, second, strict=True):
        n, m = x.shape[-1], y.shape[-1]
        ranks = rankdata(np.concatenate([x, y], axis=-1), axis=-1)[..., :n]
        chances.append((ranks.sum(axis=-1) - n * (n + 1) / 2) / (n * m))
    return _over_tasks(chances)


def performance_profile(runs: Strata, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Fraction of runs that score above each threshold, averaged over tasks.

    Args:
      runs: strata ``(n_t,)``.
      thresholds: ``(K,)``.

    Returns:
      ``(K,)``, falling from 1 to 0.
    """
    levels = np.asarray(thresholds, np.float64)
    fractions = [1.0 - np.searchsorted(np.sort(x), levels, side="right") / len(x) for x in runs]
    return _over_tasks(fractions) if fractions else np.full(levels.shape, np.nan)


def _over_tasks(per_task: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.mean(np.stack(per_task), axis=0) if per_task else np.array(np.nan)
