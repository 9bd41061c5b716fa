"""Gains of a rule by the number of players: what changes where it takes the seat of one of N naive learners.

Games of a series have labels that end in their number of players, as ``goods 2``, ``goods 3`` in the suite
``n-players``. In each, one learner among N - 1 naive ones is compared with N naive ones, seat by seat and seed by seed:
what it gains itself, and what the others gain by it.

What is to be had changes with N too. So an own gain is given as a *share* besides, of what naive learners leave in that
seat of the social optimum per player (:mod:`shaping_bench.metrics.anchors`), and a trend over N is one of these shares.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shaping_bench.analysis.stats import half_width, holm
from shaping_bench.metrics.anchors import anchors_in
from shaping_bench.store import facts
from shaping_bench.store.results import Results, kept

NAIVE = ("naive", "naive-pg", "ppo")
"""Registered names of who is called naive: the first of these that took part."""

Array = NDArray[np.float64]


LEAST_LEFT = 0.05
"""Part of the optimum that naive learners have to leave for a gain to be a share of it: where they leave nothing, any
gain is at somebody's cost, and a share of it means nothing."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Gain:
    """Of a learner among naive ones over a naive one in the same seat with the same seeds, in reward per step.

    A unit is what is drawn anew: a seed, or of a learner that prepares a preparation with the seeds that it serves.

    Attributes:
      series: label of the game without its number of players.
      players: that number.
      learner: label.
      own: what the learner itself returns more, per unit ``(U,)``.
      others: what the naive ones do, on average, ``(U,)``.
      naive: what a naive learner returns there, mean over seeds.
      optimum: social optimum per player; NaN where the game has none.
      largest: largest reward of a step; NaN where there is none.
    """

    series: str
    players: int
    learner: str
    own: Array
    others: Array
    naive: float
    optimum: float
    largest: float

    @property
    def share(self) -> Array:
        """Own gain as a part of what naive learners leave of the optimum, ``(U,)``; not bounded by 1, as a learner may
        get more than its part. Naive learners' return counts as known, so that the spread is that of the gain. NaN
        where they leave less than :data:`LEAST_LEFT`."""
        return self.own / _left(self.optimum, self.naive)

    @property
    def share_of_largest(self) -> Array:
        """The same of what they leave of the largest reward, which nobody can exceed, ``(U,)``."""
        return self.own / (self.largest - self.naive)


class Together(NamedTuple):
    """A learner in all N seats beside naive ones in all, in reward per step.

    Attributes:
      series, players, learner: as in :class:`Gain`.
      gain: mean over seats and seeds of what it returns more.
      share: of what naive learners leave of the social optimum; NaN where the game has none, or they leave less than
        :data:`LEAST_LEFT`.
    """

    series: str
    players: int
    learner: str
    gain: float
    share: float


def _left(optimum: float, naive: float) -> float:
    """What naive learners leave of the optimum; NaN if that is next to nothing."""
    left = optimum - naive
    return left if left >= LEAST_LEFT * abs(optimum) else math.nan


class Trend(NamedTuple):
    """Over the number of players, of what a learner gains in a series.

    Attributes:
      series, learner: labels.
      players: the numbers of players.
      slope: per player more, mean over units.
      half: of its 95 % interval, by Student's t over the units' slopes.
      p: two-sided p-value of no slope; NaN with fewer than two units.
      adjusted: corrected for all trends that were asked for (Holm).
      units: how many.
    """

    series: str
    learner: str
    players: tuple[int, ...]
    slope: float
    half: float
    p: float
    adjusted: float
    units: int


def with_half(per_unit: Array) -> tuple[float, float]:
    """Mean over units that are finite, and half of its 95 % interval by Student's t."""
    finite = per_unit[np.isfinite(per_unit)]
    if not len(finite):
        return math.nan, math.nan
    return float(finite.mean()), float(half_width(finite.std(ddof=1) if len(finite) > 1 else 0.0, len(finite)))


@kept
def gains(results: Results) -> tuple[Gain, ...]:
    """All gains of a results directory, by series, number of players and learner; none where it has no series."""
    out = []
    for series, n, record, among, returns in _beside_naive(results):
        strangers = [i for i, x in enumerate(record["learners"]) if x["label"] != _naive(results)]
        if len(strangers) != 1:
            continue
        (seat,) = strangers
        units = _units(record, seat, len(returns))
        scale = anchors_in(results)[record["game"]["label"]]
        out.append(
            Gain(
                series=series,
                players=n,
                learner=record["learners"][seat]["label"],
                own=_per_unit(returns[:, seat] - among[:, seat], units),
                others=_per_unit(np.delete(returns - among, seat, axis=1).mean(axis=1), units),
                naive=float(np.nanmean(among[:, seat])),
                optimum=math.nan if scale is None else scale.social_optimum,
                largest=math.nan if scale is None or scale.largest is None else scale.largest,
            )
        )
    return tuple(sorted(out, key=functools.partial(_order, results)))


@kept
def together(results: Results) -> tuple[Together, ...]:
    """Learners in all seats of a series' games, in the same order."""
    out = []
    for series, n, record, among, returns in _beside_naive(results):
        labels = {x["label"] for x in record["learners"]}
        if len(labels) > 1 or _naive(results) in labels:
            continue
        scale = anchors_in(results)[record["game"]["label"]]
        naive = float(np.nanmean(among))
        gain = float(np.nanmean(returns)) - naive
        left = math.nan if scale is None else _left(scale.social_optimum, naive)
        out.append(Together(series=series, players=n, learner=labels.pop(), gain=gain, share=gain / left))
    return tuple(sorted(out, key=functools.partial(_order, results)))


def _order(results: Results, x: Gain | Together) -> tuple[int, str]:
    return results.rank("game", f"{x.series} {x.players}"), x.learner


def trends(found: Sequence[Gain], of: str = "share", family: int | None = None) -> tuple[Trend, ...]:
    """Whether gains rise or fall with the number of players, by series and learner; of three numbers or more, at all of
    which they are known.

    A unit has a least-squares slope of its own, over its gain at every number of players: games of different N share no
    draw, so that slopes of different units are independent however the spread changes with N. They are what the test is
    about, with one degree of freedom fewer than there are units.

    Args:
      found: of :func:`gains`.
      of: ``share``, ``share_of_largest``, ``own`` or ``others``.
      family: how many tests were meant, where some of them have no results; by default those that there are.
    """
    from scipy.special import stdtr  # slow to import: only this pays for it

    groups: dict[tuple[str, str], list[Gain]] = {}
    for gain in found:
        groups.setdefault((gain.series, gain.learner), []).append(gain)
    out = []
    for (series, learner), members in groups.items():
        numbers = np.array([x.players for x in members], np.float64)
        if len(set(numbers)) < 3 or len({len(x.own) for x in members}) > 1:
            continue
        centred = numbers - numbers.mean()
        slopes = centred @ np.stack([getattr(x, of) for x in members]) / (centred @ centred)
        slopes = slopes[np.isfinite(slopes)]
        if not len(slopes):
            continue
        mean, half = with_half(slopes)
        error = slopes.std(ddof=1) / math.sqrt(len(slopes)) if len(slopes) > 1 else 0.0
        p = 2.0 * float(stdtr(len(slopes) - 1, -abs(mean) / error)) if error > 0.0 else math.nan
        out.append(
            Trend(
                series=series,
                learner=learner,
                players=tuple(int(n) for n in numbers),
                slope=mean,
                half=half,
                p=p,
                adjusted=math.nan,
                units=len(slopes),
            )
        )
    adjusted = holm([x.p for x in out], family)
    return tuple(x._replace(adjusted=float(p)) for x, p in zip(out, adjusted, strict=True))


def _naive(results: Results) -> str | None:
    """Label of who counts as naive."""
    return next((x for name in NAIVE for x in results.labels if results.played[x]["name"] == name), None)


def _beside_naive(results: Results) -> Iterator[tuple[str, int, Mapping[str, Any], Array, Array]]:
    """Every encounter of a series: its series, number of players and record, the returns ``(S, n_players)`` of as many
    naive learners, and its own."""
    cells = {}
    for record in results.records:
        found = _series(record)
        if found is not None:
            cells[(*found, tuple(sorted(x["label"] for x in record["learners"])))] = record
    naive = _naive(results)
    rows = results.final("return", "encounter") if cells and naive is not None else None
    for (series, n, _), record in cells.items():
        base = cells.get((series, n, (naive,) * n))
        if base is not None and rows is not None:
            yield series, n, record, _returns(rows, base), _returns(rows, record)


def _series(record: Mapping[str, Any]) -> tuple[str, int] | None:
    """Series and number of players of an encounter; None if its game is in none."""
    n = len(record["learners"])
    match = re.fullmatch(rf"(.+) {n}", record["game"]["label"])
    return (match[1], n) if match and record["kind"] == "encounter" else None


def _returns(rows: Any, record: Mapping[str, Any]) -> Array:
    """``(S, n_players)``; lost runs are NaN."""
    own = rows[rows["hash"] == record["hash"]]
    return own.pivot(index="seed", columns="player", values="value").to_numpy(np.float64)


def _units(record: Mapping[str, Any], seat: int, num_seeds: int) -> NDArray[np.int64]:
    """What is drawn anew of the learner of a seat, by seed ``(S,)``."""
    prepared = record["learners"][seat].get("preparation")
    if not prepared:
        return np.arange(num_seeds)
    jointly = bool(facts.learner(record, seat).get("prepared_jointly", True))
    return facts.shared_preparations(jointly, seat, num_seeds, int(prepared["seeds"]))


def _per_unit(differences: Array, units: NDArray[np.int64]) -> Array:
    """Means over the finite seeds of each unit, ``(U,)``; NaN where all are lost."""
    kept_ = np.isfinite(differences)
    counts = np.bincount(units[kept_], minlength=units.max() + 1)
    sums = np.bincount(units[kept_], weights=differences[kept_], minlength=units.max() + 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
