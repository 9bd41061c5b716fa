"""Gains of a rule by the number of players: what changes where it takes the seat of one of N naive learners.

Games of a series have labels that end in their number of players, as ``goods 2``, ``goods 3`` in the suite
``n-players``. In each, one learner among N - 1 naive ones is compared with N naive ones: what it gains itself, and what
the others gain by it.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from shaping_bench.analysis.stats import half_width
from shaping_bench.store import facts
from shaping_bench.store.results import Results, kept

NAIVE = ("naive", "naive-pg", "ppo")
"""Registered names of who is called naive: the first of these that took part."""


class Gain(NamedTuple):
    """Of a learner among naive ones over a naive one there; halves are of 95 % intervals.

    Attributes:
      series: label of the game without its number of players.
      players: that number.
      learner: label.
      own, own_half: what the learner itself returns more per step.
      others, others_half: what the naive ones do, on average.
    """

    series: str
    players: int
    learner: str
    own: float
    own_half: float
    others: float
    others_half: float


@kept
def gains(results: Results) -> tuple[Gain, ...]:
    """All gains of a results directory, by series, learner and number of players; none where it has no series."""
    naive = next((x for name in NAIVE for x in results.labels if results.played[x]["name"] == name), None)
    cells = {}
    for record in results.records:
        found = _series(record)
        if found is not None and naive is not None:
            labels = tuple(x["label"] for x in record["learners"])
            cells[(*found, tuple(sorted(labels)))] = record, labels
    rows = results.final("return", "encounter") if cells else None
    out = []
    for (series, n, _), (record, labels) in cells.items():
        strangers = [i for i, x in enumerate(labels) if x != naive]
        base = cells.get((series, n, (naive,) * n))
        if len(strangers) != 1 or base is None or rows is None:
            continue
        among = _returns(rows, base[0]).mean(axis=1)
        returns, seat = _returns(rows, record), strangers[0]
        own, own_half = _gain(returns[:, seat], among, record, seat)
        others, others_half = _gain(np.delete(returns, seat, axis=1).mean(axis=1), among, record, seat)
        out.append(
            Gain(
                series=series,
                players=n,
                learner=labels[seat],
                own=own,
                own_half=own_half,
                others=others,
                others_half=others_half,
            )
        )
    return tuple(sorted(out, key=lambda x: (results.rank("game", f"{x.series} {x.players}"), x.learner)))


def _series(record: Mapping[str, Any]) -> tuple[str, int] | None:
    """Series and number of players of an encounter; None if its game is in none."""
    n = len(record["learners"])
    match = re.fullmatch(rf"(.+) {n}", record["game"]["label"])
    return (match[1], n) if match and record["kind"] == "encounter" else None


def _returns(rows: Any, record: Mapping[str, Any]) -> np.ndarray:
    """``(S, n_players)``; lost runs are NaN."""
    own = rows[rows["hash"] == record["hash"]]
    return own.pivot(index="seed", columns="player", values="value").to_numpy(np.float64)


def _gain(with_it: np.ndarray, without: np.ndarray, record: Mapping[str, Any], seat: int) -> tuple[float, float]:
    """Difference of means over seeds, and half the width of its interval. What is drawn anew of a learner that
    prepares are its preparations."""
    prepared = record["learners"][seat].get("preparation")
    units = np.arange(len(with_it))
    if prepared:
        jointly = bool(facts.learner(record, seat).get("prepared_jointly", True))
        units = facts.shared_preparations(jointly, seat, len(with_it), int(prepared["seeds"]))
    means = np.array([np.nanmean(with_it[units == k]) for k in np.unique(units)])
    halves = [half_width(x.std(ddof=1) if len(x) > 1 else 0.0, len(x)) for x in (means, without)]
    return float(means.mean() - np.nanmean(without)), float(np.hypot(*halves))
