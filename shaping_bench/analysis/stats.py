"""Aggregates over runs and tasks, in rliable's vocabulary (Agarwal et al., NeurIPS 2021).

Scores are *strata*: a list with one array of runs ``(n_t,)`` per task (a task is a game and
an opponent), so that tasks may have lost different numbers of runs to divergence. NaN runs
are removed, and counted, before anything is computed.

A resample is a matrix of *weights*: how often each run was drawn. Every statistic maps
strata, and weights ``(..., n_t)`` if given, to ``(...)``: the same function serves the point
estimate and its bootstrap. What is drawn as one is a *unit* (:class:`Units`): a training
seed with all that came of it, or all seeds that share a preparation; never an episode and
never a seat, over which a run's score is a mean already.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strata = Sequence[NDArray[np.float64]]
Weights = Sequence[NDArray[Any]]
Statistic = Callable[..., NDArray[np.float64]]

MAX_DRAWS = 2**22
"""Most numbers drawn at once by a bootstrap; 32 MiB."""

REPS = 2000
"""Resamples of a bootstrap."""

FEW_PAIRS = 64
"""Of runs of a task, up to which all pairs are looked at."""

EXCHANGES = 4096
"""Most sign patterns of an exchange test: all there are of up to twelve units."""


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


@dataclasses.dataclass(frozen=True)
class Units:
    """What a bootstrap draws as one.

    Attributes:
      of: per task the unit of each run, ``(n_t,)``, counted from 0 within the task's pool.
      pools: per task the pool its units are drawn from. Tasks of one pool share the draw, since
        a unit's runs in all of them began alike; pools are drawn independently.
      sizes: per task the number of units in its pool, those whose runs were lost included.
    """

    of: tuple[NDArray[np.int64], ...]
    pools: tuple[Hashable, ...]
    sizes: tuple[int, ...]


def apart(runs: Strata, sample: Hashable = 0) -> Units:
    """Every run its own unit and every task its own pool: rliable's stratified bootstrap."""
    tasks = range(len(runs))
    return Units(tuple(np.arange(len(x)) for x in runs), tuple((sample, t) for t in tasks), tuple(map(len, runs)))


def strata(scores: ArrayLike) -> list[NDArray[np.float64]]:
    """Finite runs per task.

    Args:
      scores: ``(S,)`` of one task, or ``(S, T)``; NaN or infinite where a run diverged.

    Returns:
      One array per task that has a finite run.
    """
    columns = np.atleast_2d(np.asarray(scores, np.float64).T)
    finite = [column[np.isfinite(column)] for column in columns]
    return [column for column in finite if len(column)]


# --- statistics ---------------------------------------------------------------------------


def mean(runs: Strata, weights: Weights | None = None) -> NDArray[np.float64]:
    """Mean over tasks of the mean over runs: every task weighs the same.

    >>> float(mean([np.array([0.0, 1.0, 2.0]), np.array([5.0])]))
    3.0
    """
    return _over_tasks(_task_means(runs, weights))


def median(runs: Strata, weights: Weights | None = None) -> NDArray[np.float64]:
    """Median of all runs. rliable's is the median over tasks of their means, which for one task is a mean."""
    if not runs:
        return np.array(np.nan)
    if weights is None:
        return np.asarray(np.median(np.concatenate(runs)))
    ordered, upto = _ordered(runs, weights)
    total = upto[..., -1]
    middle = [(upto <= k[..., None]).sum(axis=-1) for k in ((total - 1) // 2, total // 2)]
    low, high = (ordered[np.minimum(k, len(ordered) - 1)] for k in middle)
    return np.where(total > 0, (low + high) / 2, np.nan)


def iqm(runs: Strata, weights: Weights | None = None) -> NDArray[np.float64]:
    """Interquartile mean: of all runs, a quarter (rounded down) cut off at either end.

    >>> float(iqm([np.array([0.0, 1.0, 2.0, 100.0])]))
    1.5
    """
    if not runs:
        return np.array(np.nan)
    if weights is None:
        values = np.sort(np.concatenate(runs))
        cut = len(values) // 4
        return np.asarray(values[cut : len(values) - cut].mean())
    ordered, upto = _ordered(runs, weights)
    total = upto[..., -1:]
    quarter = total // 4
    below = np.clip(upto, quarter, total - quarter) - quarter  # how much of what remains lies up to each run
    shares = np.diff(below, axis=-1, prepend=0)
    with np.errstate(invalid="ignore"):  # a resample without runs has no mean
        return shares @ ordered / (total - 2 * quarter)[..., 0]


def probability_of_improvement(
    first: Strata, second: Strata, first_weights: Weights | None = None, second_weights: Weights | None = None
) -> NDArray[np.float64]:
    """Probability that a run of ``first`` scores higher than one of ``second``; ties count half.

    Mann and Whitney's U over its maximum in each task, averaged over tasks. Both need the
    same tasks in the same order.

    Raises:
      ValueError: different numbers of tasks.

    >>> float(probability_of_improvement([np.array([1.0, 3.0])], [np.array([2.0, 2.0])]))
    0.5
    """
    if len(first) != len(second):
        raise ValueError(f"both need the same tasks; got {len(first)} and {len(second)}")
    sizes = {(len(x), len(y)) for x, y in zip(first, second, strict=True)}
    if len(sizes) == 1 and 0 < math.prod(*sizes) <= FEW_PAIRS:
        return _over_tasks(_chances(np.stack(first), np.stack(second), first_weights, second_weights))
    chances = []
    for t, (x, y) in enumerate(zip(first, second, strict=True)):
        ordered = np.sort(y)
        if first_weights is None or second_weights is None:
            below = np.searchsorted(ordered, x, side="left") + np.searchsorted(ordered, x, side="right")
            chances.append(below.mean() / (2 * len(y)))
            continue
        v, w = first_weights[t], second_weights[t]
        upto = np.cumsum(w[..., np.argsort(y)], axis=-1)
        upto = np.concatenate([np.zeros_like(upto[..., :1]), upto], axis=-1)
        wins = (
            upto[..., np.searchsorted(ordered, x, side="left")] + upto[..., np.searchsorted(ordered, x, side="right")]
        )
        with np.errstate(invalid="ignore"):
            chances.append((v * wins).sum(axis=-1) / (2 * v.sum(axis=-1) * w.sum(axis=-1)))
    return _over_tasks(chances)


def _chances(
    x: NDArray[np.float64], y: NDArray[np.float64], first_weights: Weights | None, second_weights: Weights | None
) -> NDArray[np.float64]:
    """:func:`probability_of_improvement` in each of T tasks, ``(T, ...)``, of runs ``(T, n)`` and ``(T, m)``: by
    looking at all pairs, which of few runs is fastest. Wins are whole numbers, so that their sums are exact."""
    wins = (y[:, None, :] < x[:, :, None]).astype(np.float64) + (y[:, None, :] <= x[:, :, None])
    if first_weights is None or second_weights is None:
        return wins.sum(axis=-1).mean(axis=-1) / (2 * y.shape[1])
    v, w = np.stack(first_weights), np.stack(second_weights)
    with np.errstate(invalid="ignore"):
        chances = (v * (w @ wins.swapaxes(1, 2))).sum(axis=-1) / (2 * v.sum(axis=-1) * w.sum(axis=-1))
    return np.ascontiguousarray(chances)  # the order in which tasks are summed up goes by it


def average_improvement(samples: Sequence[Strata], weights: Sequence[Weights] | None = None) -> NDArray[np.float64]:
    """Probability of improvement of each of L learners over another of them, drawn at random.

    In each task over those who have runs there, then over a learner's tasks.

    Args:
      samples: per learner, strata over the same tasks in the same order; an array is empty where a
        learner has no run.
      weights: of each, ``(R, n_t)`` per task.

    Returns:
      ``(L,)`` or ``(R, L)``; NaN where nobody else has runs in any task.
    """
    size = len(samples)
    counts = weights or [[np.ones((1, len(x))) for x in runs] for runs in samples]
    chances = []
    for t in range(len(samples[0])):
        values = np.concatenate([runs[t] for runs in samples])
        owner = np.repeat(np.arange(size), [len(runs[t]) for runs in samples])
        by_owner = (owner == np.arange(size)[:, None]).astype(np.float64)
        # Runs come first, resamples last: picking rows is fast, picking columns is not.
        w = np.concatenate([x[t].T for x in counts])
        totals = by_owner @ w
        present = totals > 0
        shares = w / np.where(present, totals, 1.0)[owner]  # every learner weighs the same
        order = np.argsort(values, kind="stable")
        upto = np.concatenate([np.zeros_like(w[:1]), np.cumsum(shares[order], axis=0)])
        below = upto[np.searchsorted(values[order], values, side="left")]
        below += upto[np.searchsorted(values[order], values, side="right")]
        # Against everybody, oneself included, who wins half of the time.
        others = present.sum(axis=0) - 1
        chance = (by_owner @ (shares * below) / 2 - 0.5) / np.maximum(others, 1)
        chances.append(np.where(present & (others > 0), chance, np.nan).T)
    average = _over_tasks(chances)
    return average if weights else average[0]


def performance_profile(runs: Strata, thresholds: ArrayLike, weights: Weights | None = None) -> NDArray[np.float64]:
    """Fraction of runs that score above each threshold, averaged over tasks.

    Args:
      runs: strata ``(n_t,)``.
      thresholds: ``(K,)``.
      weights: of the runs, ``(..., n_t)``.

    Returns:
      ``(..., K)``, falling from 1 to 0.
    """
    levels = np.asarray(thresholds, np.float64)
    if not runs:
        return np.full(levels.shape, np.nan)
    if weights is None:
        return _over_tasks([1.0 - np.searchsorted(np.sort(x), levels, side="right") / len(x) for x in runs])
    above = [(x[:, None] > levels).astype(np.float64) for x in runs]
    with np.errstate(invalid="ignore"):
        return _over_tasks([w @ a / w.sum(axis=-1)[..., None] for w, a in zip(weights, above, strict=True)])


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


def standard_error(runs: Strata, units: Units) -> float:
    """Standard error of :func:`mean`, from the spread over units.

    Within a pool, the standard deviation (ddof = 1) over units of a unit's mean over its tasks,
    over the root of their number; pools are independent and weigh as many tasks as they have.
    For one task whose runs are all units this is the standard deviation over the root of n.

    Returns:
      NaN where a pool has runs of fewer than two units.
    """
    variance = 0.0
    if len(runs) == 1:  # as below, in fewer steps: most entries of a table are of one task
        counts = np.bincount(units.of[0], minlength=units.sizes[0])
        sums = np.bincount(units.of[0], weights=runs[0], minlength=units.sizes[0])
        per_unit = sums[counts > 0] / counts[counts > 0]
        return float(np.sqrt(per_unit.var(ddof=1) / len(per_unit))) if len(per_unit) > 1 else float("nan")
    for pool in dict.fromkeys(units.pools):
        tasks = [t for t, other in enumerate(units.pools) if other == pool]
        size = units.sizes[tasks[0]]
        if all(len(runs[t]) == size for t in tasks) and (np.stack([units.of[t] for t in tasks]) == range(size)).all():
            means = np.stack([runs[t] for t in tasks])  # every unit is one run
        else:
            means = np.full((len(tasks), size), np.nan)
            for row, t in zip(means, tasks, strict=True):
                counts = np.bincount(units.of[t], minlength=size)
                sums = np.bincount(units.of[t], weights=runs[t], minlength=size)
                row[counts > 0] = sums[counts > 0] / counts[counts > 0]
        finite = np.isfinite(means)
        present = finite.any(axis=0)
        if present.sum() < 2:
            return float("nan")
        per_unit = np.where(finite, means, 0.0).sum(axis=0)[present] / finite.sum(axis=0)[present]
        variance += (len(tasks) / len(runs)) ** 2 * per_unit.var(ddof=1) / present.sum()
    return float(np.sqrt(variance)) if runs else float("nan")


def half_width(spread: ArrayLike, count: ArrayLike, confidence: float = 0.95) -> NDArray[np.float64]:
    """Half the width of the interval of a mean by Student's t; zero where there is one unit or no spread.

    Args:
      spread: standard deviation (ddof = 1) over the units, of any shape.
      count: number of units.
      confidence: mass of the interval.

    >>> half_width(2.0, 4).round(3), half_width(2.0, 1)
    (np.float64(3.182), array(0.))
    """
    from scipy.special import stdtrit  # slow to import: only this pays for it

    n = np.asarray(count, np.float64)
    quantile = stdtrit(np.maximum(n - 1, 1), (1 + confidence) / 2)
    return np.where(n > 1, quantile * np.nan_to_num(spread) / np.sqrt(np.maximum(n, 1)), 0.0)


STATISTICS: dict[str, Statistic] = {"mean": mean, "median": median, "iqm": iqm}


def aggregate(scores: ArrayLike) -> Aggregate:
    """All point estimates of ``(S,)`` or ``(S, T)`` scores, with their counts."""
    runs = strata(scores)
    if len(runs) == 1:
        (of_one,) = aggregates(runs[0][None])
        return dataclasses.replace(of_one, runs=int(np.asarray(scores).size))
    return Aggregate(
        mean=float(mean(runs)),
        std=std(scores),
        median=float(median(runs)),
        iqm=float(iqm(runs)),
        n=sum(len(x) for x in runs),
        runs=int(np.asarray(scores).size),
    )


def aggregates(table: NDArray[np.float64]) -> list[Aggregate]:
    """The same of many single tasks at once: finite runs ``(K, n)`` with n of at least 1."""
    n = table.shape[1]
    ordered = np.sort(table, axis=1)
    cut = n // 4
    columns = (
        table.mean(axis=1),
        table.std(axis=1, ddof=1) if n > 1 else np.full(len(table), np.nan),
        ordered[:, (n - 1) // 2 : n // 2 + 1].mean(axis=1),
        ordered[:, cut : n - cut].mean(axis=1),
    )
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [Aggregate(mean=a, std=b, median=c, iqm=d, n=n, runs=n) for a, b, c, d in numbers]


# --- the bootstrap ------------------------------------------------------------------------


def bootstrap(
    statistic: Statistic,
    *samples: Strata,
    units: Sequence[Units] | None = None,
    reps: int = REPS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """A statistic of resampled runs.

    Units are drawn with replacement from their pool, as many as it has; a run counts as often as
    its unit was drawn. A pool that several samples name is drawn once for all of them: what two
    learners owe to a lucky seed that both started from does not count as a difference.

    Args:
      statistic: called as ``statistic(*samples, *weights)``, weights ``(R, n_t)``.
      *samples: what it is applied to; several for a comparison.
      units: one for each sample; by default every run is drawn on its own (:func:`apart`).
      reps: number of resamples R.
      seed: of the draws; the same seed gives the same resamples.

    Returns:
      ``(R, ...)``.
    """
    values, which = _valued(statistic, samples, units, reps, seed)
    return values[which]


def _valued(
    statistic: Statistic, samples: Sequence[Strata], units: Sequence[Units] | None, reps: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """As :func:`bootstrap`, of the D resamples that differ where those are few: values ``(D, ...)``, and which
    of them each resample has, ``(R,)``."""
    drawn_as = units or [apart(runs, k) for k, runs in enumerate(samples)]
    sizes = {pool: size for x in drawn_as for pool, size in zip(x.pools, x.sizes, strict=True)}
    width = sum(sizes.values()) + sum(len(x) for runs in samples for x in runs)
    most = max(1, MAX_DRAWS // width)

    def valued(counts: Mapping[Hashable, NDArray[np.float64]]) -> NDArray[np.float64]:
        # Rows are picked, not columns, which is several times as fast.
        weights = [[counts[pool].T[of].T for pool, of in zip(x.pools, x.of, strict=True)] for x in drawn_as]
        return statistic(*samples, *weights)

    if _outcomes(sizes.values()) > reps / 4:
        rng = np.random.default_rng(seed)
        return np.concatenate([valued(counts) for counts in _draws(rng, sizes, reps, most)]), np.arange(reps)
    # Of few units there are few different resamples: each is valued once.
    different, which = _different_draws(tuple(sizes.items()), reps, most, seed)
    return valued(different), which


def _draws(
    rng: np.random.Generator, sizes: Mapping[Hashable, int], reps: int, most: int
) -> Iterator[dict[Hashable, NDArray[np.float64]]]:
    """How often each unit of each pool is drawn, at most so many resamples at a time."""
    for first in range(0, reps, most):
        yield {pool: _counts(rng, size, min(most, reps - first)) for pool, size in sizes.items()}


@functools.lru_cache(maxsize=64)
def _different_draws(
    sizes: tuple[tuple[Hashable, int], ...], reps: int, most: int, seed: int
) -> tuple[dict[Hashable, NDArray[np.float64]], NDArray[np.int64]]:
    """The resamples that differ, ``{pool: (D, size)}``, and which of them each resample is, ``(R,)``."""
    drawn = list(_draws(np.random.default_rng(seed), dict(sizes), reps, most))
    counts = np.concatenate([np.concatenate([x[pool] for pool, _ in sizes], axis=1) for x in drawn])
    different, which = np.unique(counts, axis=0, return_inverse=True)
    ends = np.cumsum([size for _, size in sizes])[:-1]
    pools = [pool for pool, _ in sizes]
    return dict(zip(pools, np.split(np.asfortranarray(different), ends, axis=1), strict=True)), which.ravel()


def _outcomes(sizes: Iterable[int]) -> float:
    """How many different resamples there are of pools of these sizes; infinite where they are many.

    >>> _outcomes([2]), _outcomes([2, 3]), _outcomes([100])
    (3.0, 30.0, inf)
    """
    count = 1.0
    for size in sizes:
        count *= math.comb(2 * size - 1, size) if 0 < size < 10 else math.inf
    return count


def bootstrap_interval(
    statistic: Statistic,
    *samples: Strata,
    units: Sequence[Units] | None = None,
    reps: int = REPS,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic by the stratified bootstrap.

    Args:
      statistic, *samples, units, reps, seed: as :func:`bootstrap`.
      confidence: mass of the interval.

    Returns:
      Low and high end; NaN where there are no runs.

    >>> low, high = bootstrap_interval(mean, [np.arange(100.0)])
    >>> low < 49.5 < high
    True
    """
    if not all(samples):
        return float("nan"), float("nan")
    low, high = interval(bootstrap(statistic, *samples, units=units, reps=reps, seed=seed), confidence)
    return float(low), float(high)


def profile_interval(
    runs: Strata,
    thresholds: ArrayLike,
    units: Units | None = None,
    reps: int = REPS,
    confidence: float = 0.95,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Pointwise percentile intervals of :func:`performance_profile`, ``(2, K)``."""
    levels = np.asarray(thresholds, np.float64)
    if not runs:
        return np.full((2, *levels.shape), np.nan)

    def profile(x: Strata, weights: Weights) -> NDArray[np.float64]:
        return performance_profile(x, levels, weights)

    drawn_as = None if units is None else [units]
    return interval(bootstrap(profile, runs, units=drawn_as, reps=reps, seed=seed), confidence)


def interval(values: NDArray[np.float64], confidence: float = 0.95) -> NDArray[np.float64]:
    """Percentiles of resampled values ``(R, ...)`` that enclose the given mass: ``(2, ...)``."""
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    lost = np.isnan(values)
    if not lost.any():
        return np.asarray(np.quantile(values, ends, axis=0))
    # A resample that lost every run of a statistic has no value; what no resample has has no interval.
    missing = lost.all(axis=0)
    return np.where(missing, np.nan, np.nanquantile(np.where(missing, 0.0, values), ends, axis=0))


def _counts(rng: np.random.Generator, size: int, reps: int) -> NDArray[np.float64]:
    """How often each of ``size`` units is drawn, ``(R, size)``."""
    indices = rng.integers(size, size=(reps, size)) + np.arange(reps)[:, None] * size
    counts = np.bincount(indices.ravel(), minlength=reps * size).reshape(reps, size)
    return np.asfortranarray(counts, np.float64)


# --- comparisons --------------------------------------------------------------------------


def exchange_test(
    first: Strata,
    second: Strata,
    units: Weights,
    statistic: Statistic = mean,
    reps: int = EXCHANGES,
    seed: int = 0,
    *,
    normal_tail: bool = False,
) -> float:
    """Two-sided p-value of the difference of a statistic between two learners.

    Fisher's randomisation test for pairs: if the learners were alike, a unit's runs might as well
    have been the other's. The difference is compared with those after exchanging the runs of some
    units: of all subsets of units where there are at most ``reps``, else of as many random ones.
    The least p-value is thus ``2^(1 - units)``: five seeds never tell two learners apart at 0.05.

    Args:
      first, second: paired runs per task, ``(n_t,)``; finite.
      units: per task the unit of each pair, whole numbers from 0 ``(n_t,)``.
      statistic: of strata.
      reps: number of exchanges.
      seed: of the random subsets.
      normal_tail: whether p-values may be less than what random subsets can count, ``1 / reps``, as a
        correction for many tests needs: where none of them reaches the difference, its tail is taken as
        normal with the standard deviation of the exchanged differences. Sums of random signs have no
        heavier one (Hoeffding 1963).

    >>> scores = [np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]
    >>> exchange_test(scores, [scores[0] - 1.0], [np.arange(6)])
    0.03125
    """
    if not first:
        return float("nan")
    labels, flat = np.unique(np.concatenate(units), return_inverse=True)
    signs = _signs(len(labels), reps, seed)
    if statistic is mean:  # linear in what is exchanged
        shares = [(x - y) / (len(x) * len(first)) for x, y in zip(first, second, strict=True)]
        differences = signs @ np.bincount(flat, weights=np.concatenate(shares))
    else:
        both = [np.concatenate([x, y]) for x, y in zip(first, second, strict=True)]
        ends = np.cumsum([len(x) for x in first])
        differences = np.empty(len(signs))
        most = max(1, MAX_DRAWS // (4 * int(ends[-1])))
        for k in range(0, len(signs), most):
            stays = (signs[k : k + most, flat] + 1) / 2
            own = [np.concatenate([x, 1 - x], axis=-1) for x in np.split(stays, ends[:-1], axis=-1)]
            differences[k : k + most] = statistic(both, own) - statistic(both, [1 - x for x in own])
    # Signs of rounding: exchanges that change nothing must count as equal.
    reached = np.abs(differences) >= np.abs(differences[0]) - 1e-12 * np.abs(differences).max()
    chance = float(reached.mean())
    if normal_tail and reached.sum() == 1 and 2 ** len(labels) > reps:
        chance = min(chance, math.erfc(abs(differences[0]) / float(np.std(differences)) / math.sqrt(2)))
    return chance


@functools.lru_cache(maxsize=4)
def _signs(units: int, reps: int, seed: int) -> NDArray[np.float64]:
    """Which units keep (1) and which exchange (-1) their runs, ``(R, units)``; the first row keeps all."""
    if 2**units <= reps:
        exchanged = (np.arange(2**units)[:, None] >> np.arange(units)) & 1
        return np.where(exchanged, -1.0, 1.0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(reps, units))
    signs[0] = 1.0
    return signs


def holm(p_values: ArrayLike, family: int | None = None) -> NDArray[np.float64]:
    """P-values adjusted for their number (Holm 1979): at most that share of families has any
    false rejection, however the tests depend on one another. NaN stays and does not count.

    Args:
      p_values: ``(m,)``.
      family: how many tests these are from, where others might have been looked at instead; they
        count as never rejected. By default there are no others.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    >>> holm([0.01], family=3)
    array([0.03])
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    factors = (len(order) if family is None else family) - np.arange(len(order))
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


# --- ranks --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Ranks of L learners; 1 is best, ties share their ranks.

    Attributes:
      mean: over the tasks that a learner takes part in, ``(L,)``.
      interval: of that, 95 %, ``(2, L)``.
      distribution: share of resamples and tasks in which a learner has each rank, ``(L, L)``; a
        learner that ties with others has an equal share of the ranks they cover.
    """

    mean: NDArray[np.float64]
    interval: NDArray[np.float64]
    distribution: NDArray[np.float64]


def ranks(
    samples: Sequence[Strata],
    played: NDArray[np.bool_] | None = None,
    units: Sequence[Units] | None = None,
    reps: int = REPS,
    seed: int = 0,
) -> Ranks:
    """Ranks of learners by their mean scores, task by task, higher being better.

    Args:
      samples: per learner, strata over the same tasks in the same order.
      played: who takes part in which task, ``(L, T)``; by default all in all. One who takes part
        and has no finite run is last there.
      units, reps, seed: as :func:`bootstrap`.
    """
    size, num_tasks = len(samples), len(samples[0])
    takes_part = np.ones((size, num_tasks), bool) if played is None else played

    def task_means(*arguments: Any) -> NDArray[np.float64]:
        """``(..., L, T)``."""
        weights = arguments[size:] or (None,) * size
        means = ([*_task_means(x, w)] for x, w in zip(arguments[:size], weights, strict=True))
        return np.stack([np.stack(x, -1) for x in means], -2)

    point = task_means(*samples)[None]
    resampled, which = _valued(task_means, samples, units, reps, seed)
    counted = np.bincount(which, minlength=len(resampled)).astype(np.float64)
    distribution = np.zeros((size, size))
    totals = np.zeros((1, size)), np.zeros((len(resampled), size))
    for t in range(num_tasks):
        (among,) = np.nonzero(takes_part[:, t])
        for total, scores in zip(totals, (point, resampled), strict=True):
            better, level = _standing(scores[:, among, t])
            total[:, among] += better + (level + 1) / 2
        for k in range(len(among)):
            covered = (better <= k) & (k < better + level)
            distribution[among, k] += counted @ np.where(covered, 1.0 / level, 0.0) / reps
    with np.errstate(invalid="ignore"):
        counts = takes_part.sum(axis=1)
        return Ranks(totals[0][0] / counts, interval((totals[1] / counts)[which]), distribution / counts[:, None])


def _standing(scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per learner how many score better, and how many the same (itself included), ``(R, L)`` each."""
    x = np.where(np.isfinite(scores), scores, -np.inf)
    return (x[:, None, :] > x[:, :, None]).sum(-1), (x[:, None, :] == x[:, :, None]).sum(-1)


# --- common -------------------------------------------------------------------------------


def _task_means(runs: Strata, weights: Weights | None) -> Sequence[NDArray[np.float64]] | NDArray[np.float64]:
    """Mean over runs, per task ``(...)``; NaN where a task has none."""
    if weights is None:
        if len({*map(len, runs)}) == 1 and len(runs[0]):  # as below, at once
            return np.stack(runs).mean(axis=1)
        return [np.asarray(x.mean() if len(x) else np.nan) for x in runs]
    with np.errstate(invalid="ignore"):
        return [w @ x / w.sum(axis=-1) for x, w in zip(runs, weights, strict=True)]


def _over_tasks(
    per_task: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    combine: Callable[..., NDArray[np.float64]] = np.nanmean,
) -> NDArray[np.float64]:
    """Combines tasks' numbers ``(...)``; a resample without any run of a task goes without that task."""
    if len(per_task) < 2:
        return np.asarray(per_task[0] if len(per_task) else np.nan)
    table = per_task if isinstance(per_task, np.ndarray) else np.stack(per_task)
    if np.isnan(table).any():
        with np.errstate(invalid="ignore"):
            missing = np.isnan(table).all(axis=0)
            return np.where(missing, np.nan, combine(np.where(missing, 0.0, table), axis=0))
    return np.asarray(table.mean(axis=0) if combine is np.nanmean else combine(table, axis=0))


def _ordered(runs: Strata, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All runs in order, ``(N,)``, and the weight up to and with each, ``(..., N)``."""
    values = np.concatenate(runs)
    order = np.argsort(values, kind="stable")
    return values[order], np.cumsum(np.concatenate([w.T for w in weights])[order], axis=0).T
