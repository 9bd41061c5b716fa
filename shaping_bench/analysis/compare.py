"""Which learners are the best, and which are not told apart from them: the bold entries of tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shaping_bench.analysis import stats
from shaping_bench.analysis.entries import Sample

LEVEL = 0.05
"""Level of the tests behind bold entries, after correction for their number."""

MANY = 100
"""Runs from which on a quarter of the exchanges has to do for statistics that go by the runs' order."""

MOST = 2**15
"""Most exchanges of a test."""

FEW = 6
"""Units with which an exchange test can reach that level. Fewer preparations cannot be told apart as
such, and a test that never rejects says nothing: their seeds are then compared one by one."""


def best(
    samples: Sequence[Sample | None],
    statistic: stats.Statistic,
    direction: str,
    shown: Callable[[float], str],
) -> list[bool]:
    """The best sample, and those that its runs do not tell apart from it.

    Every other one is compared with the best by an exchange test of the statistic, seed against
    seed. Which one is the best is itself read from the runs: of k that are alike, the luckiest is compared
    with the unluckiest, and that difference is the largest of all k (k - 1) / 2. So the p-values are
    corrected (Holm) for all pairs that might have been compared: with a chance of at most
    :data:`LEVEL`, any of those that are as good as the best is not marked. Comparisons with the best that
    are made for this end (Hsu's) promise less, that the one true best is marked.

    A number that prints the same as the best is marked whatever the test says of the digits that are not
    shown. Seeds that share preparations are exchanged together if there are at least :data:`FEW` of these;
    else the comparison is between the preparations that there are.

    Args:
      samples: None where somebody does not take part.
      statistic: what is compared.
      direction: ``"higher"`` or ``"lower"``, which of them is better; else nobody is the best.
      shown: how a number prints.
    """
    numbers = [x.value(statistic) if x is not None else math.nan for x in samples]
    finite = [k for k, x in enumerate(numbers) if math.isfinite(x)]
    if direction not in ("higher", "lower") or not finite:
        return [False] * len(samples)
    first = (max if direction == "higher" else min)(finite, key=numbers.__getitem__)
    pairs = len(finite) * (len(finite) - 1) // 2
    chances = [p_value(samples[first], x, statistic, pairs) if k in finite else math.nan for k, x in enumerate(samples)]
    chances[first] = math.nan  # is no comparison
    apart = stats.holm(chances, family=pairs) <= LEVEL
    compared = np.isfinite(chances)
    texts = [shown(x) if k in finite else None for k, x in enumerate(numbers)]
    return [
        k == first or (texts[k] is not None and (texts[k] == texts[first] or bool(compared[k] and not apart[k])))
        for k in range(len(samples))
    ]


def p_value(first: Sample | None, second: Sample | None, statistic: stats.Statistic, tests: int = 1) -> float:
    """Of the difference of two samples over the tasks and seeds that both have; NaN without any, and 1 where
    so few units could not be told apart whatever they had got.

    Args:
      tests: how many it will be corrected for, on which it depends how finely it must be known.
    """
    if first is None or second is None or first is second:
        return math.nan
    x, y, units = _of_the_same(first, second) or _paired(first, second)
    # The corrected level is a matter of eight exchanges, not of one or two.
    quick = statistic is stats.mean or sum(map(len, x)) < MANY
    reps = min(max(stats.EXCHANGES, int(8 * tests / LEVEL)), MOST) if quick else stats.EXCHANGES // 4
    count = len(np.unique(np.concatenate(units))) if units else 0
    if units and 2**count <= reps and tests * 2.0 ** (1 - count) > LEVEL:
        return 1.0
    return stats.exchange_test(x, y, units, statistic, reps=reps, normal_tail=True)


_Pairs = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]
"""Per task the runs of two samples and what of them is exchanged together, ``(n_t,)`` each."""


def _of_the_same(first: Sample, second: Sample) -> _Pairs | None:
    """As :func:`_paired`, at once, for samples of the same tasks and seeds that have all their runs and share
    no preparations; None for others."""
    pools = {*first.pools, *second.pools}
    place = {task: t for t, task in enumerate(second.tasks)}
    if (
        len(first.tasks) != len(place)
        or any(task not in place for task in first.tasks)
        or not np.array_equal(first.seeds, second.seeds)
        or len(pools) != 1
        or next(iter(pools))[0] != "seeds"
        or not (np.isfinite(first.scores).all() and np.isfinite(second.scores).all())
        or not (first.units == first.seeds[:, None]).all()
    ):
        return None
    other = second.scores.T[[place[task] for task in first.tasks]]
    return list(first.scores.T.copy()), list(other), [first.seeds] * len(first.tasks)


def _paired(first: Sample, second: Sample) -> _Pairs:
    """The runs of the tasks and seeds that both samples have."""
    _, rows, other_rows = np.intersect1d(first.seeds, second.seeds, return_indices=True)
    place = {task: t for t, task in enumerate(second.tasks)}
    pools: dict[Any, int] = {}
    paired: _Pairs = ([], [], [])
    for t, task in enumerate(first.tasks):
        if task not in place:
            continue
        x, y = first.scores[rows, t], second.scores[other_rows, place[task]]
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.any():
            continue
        # Where one of the two shares preparations, its seeds move together, and so must the other's.
        sides = [
            (first.pools[t], first.units[rows, t]),
            (second.pools[place[task]], second.units[other_rows, place[task]]),
            (("seeds", int(first.seeds.max()) + 1), first.seeds[rows]),
        ]
        pool, units = min((x for x in sides if x[0][0] == "seeds" or x[0][1] >= FEW), key=lambda side: side[0][1])
        start = pools.setdefault(pool, sum(size for _, size in pools))
        for parts, numbers in zip(paired, (x, y, start + units), strict=True):
            parts.append(numbers[finite])
    return paired
