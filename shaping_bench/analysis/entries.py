"""What stands behind an entry of a table: one number per training seed.

The entry of learner A against opponent B is A's number per seed, averaged over all seats and
cells in which A sits opposite B: in a symmetric game the one stored encounter yields both
(A, B) and (B, A), in an asymmetric one both orders are pooled, and in self-play the two seats
are. In games of more than two players, B is everybody else at the table.

What is resampled, exchanged and counted is thus the training seed. Where seeds share fewer
preparations than there are seeds, it is the preparation: see :func:`_pairings`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shaping_bench.analysis import stats
from shaping_bench.metrics import anchors
from shaping_bench.store import facts
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

COSTS = {
    "wall_seconds": "run_seconds",
    "compile_seconds": "compile_seconds",
    "gradient_evaluations": "gradient_evaluations",
    "environment_steps": "environment_steps",
    "preparation_seconds": "preparation_seconds",
}
"""Metrics that are bookkeeping of a cell, and the column of ``Results.cells`` that holds them."""

SUITE_METRICS = ("robustness_mean", "robustness_worst", "influence")
"""Metrics made from several cells."""

_PAIRING = ["game", "learner", "opponent"]
_TASK = ["game", "opponent", "task", "metric"]
_KEYS = [*_PAIRING, "task"]


def metric_names(results: Results, kind: str) -> list[str]:
    """Metrics that tables of this kind can show."""
    stored = results.final_metrics(kind)
    if not stored:
        return []
    derived = (*SUITE_METRICS, anchors.METRIC) if "return" in stored else ()
    return sorted({*stored, *(COSTS if kind == "encounter" else ()), *derived})


def suite_metrics(results: Results, kind: str) -> list[str]:
    """The suite's metrics that are stored, the return where it names none; of games that can only be played
    what they count too (coins that are taken, say), without which a return says little."""
    known = metric_names(results, kind)
    asked = [name for name in results.suite.get("metrics", []) if name in known]
    games = {record["game"]["label"]: record for record in results.records}
    counted = dict.fromkeys(
        count["name"]
        for game in map(facts.game, games.values())
        if "exact" not in game.get("views", ())
        for count in game.get("counts", ())
        if not count["share_of"]
    )
    counts = [name for name in counted if name in known and name not in asked]
    if counts and "return" in known:
        return [*(asked or ["return"]), *counts]
    return asked or [name for name in ("return",) if name in known] or known[:1]


@results_.kept
def entries(results: Results, metric: str, kind: str = "encounter") -> pd.DataFrame:
    """Per-seed numbers of one metric.

    Returns:
      game, learner, opponent, task (what an average runs over: the opponent met), seed,
      value (NaN if any seat's is), diverged (bool), hashes (of the cells the number is from),
      unit (what of the seed's is resampled with it) and pool (of such units: what, how many).
    """
    derived = {
        "robustness_mean": _robustness_mean,
        "robustness_worst": _robustness_worst,
        "influence": _influence,
        anchors.METRIC: _normalised,
    }.get(metric)
    if derived is not None:
        return derived(results, kind)
    return _cost(results, metric, kind) if metric in COSTS else _stored(results, metric, kind)


def _stored(results: Results, metric: str, kind: str) -> pd.DataFrame:
    keys = [*_PAIRING, "seed"]

    def per_seed(name: str) -> Any:
        rows = results.final(name, kind)
        plain = rows.assign(**{key: rows[key].astype(object) for key in _PAIRING})
        return plain.groupby(keys, sort=False)["value"]

    numbers = per_seed(metric)
    # A mean that skips NaN would hide a seat without a value.
    frame = pd.DataFrame({"value": numbers.mean().where(numbers.count() == numbers.size())})
    marks = per_seed("diverged").max() > 0
    frame["diverged"] = marks.reindex(frame.index, fill_value=False).astype(bool)
    frame = frame.reset_index()
    return _placed(results, kind, frame.assign(task=frame["opponent"]))


# --- who can be compared ------------------------------------------------------------------


@results_.kept
def company(results: Results, kind: str) -> dict[tuple[str, str], frozenset[tuple[str, bool]]]:
    """By game and learner whom it met, and whether by play (of networks, or where somebody learns from play)
    or by exact values."""
    met: dict[tuple[str, str], set[tuple[str, bool]]] = {}
    for record in results.records:
        labels = [x["label"] for x in record["learners"]]
        by_play = bool(record["costs"].get("environment_steps", 0))
        for k, label in enumerate(labels) if record["kind"] == kind else ():
            met.setdefault((record["game"]["label"], label), set()).add((facts.opponent(labels, k), by_play))
    return {key: frozenset(x) for key, x in met.items()}


def alike(results: Results, kind: str, games: Iterable[str], learners: Iterable[str]) -> bool:
    """Whether all of the learners that played a game met the same there, in the same way: whoever met others is
    not to be compared by an average over them. Itself is the same as itself."""
    found, learners = company(results, kind), tuple(learners)

    def by_role(label: str, met: Iterable[tuple[str, bool]]) -> frozenset[tuple[str, bool]]:
        return frozenset(("itself" if x == label else x, by_play) for x, by_play in met)

    for game in games:
        here = {x: found[game, x] for x in learners if (game, x) in found}
        if len(set(here.values())) > 1 and len({by_role(x, met) for x, met in here.items()}) > 1:
            return False
    return True


# --- what is resampled --------------------------------------------------------------------


@dataclasses.dataclass
class _Pairing:
    """Where the numbers of a learner against an opponent come from.

    Attributes:
      hashes: the stored cells.
      pool: what is resampled, ``("seeds", S)`` or ``("preparations", P)``.
      units: of each seed, ``(S,)``.
    """

    hashes: tuple[str, ...]
    pool: tuple[str, int]
    units: np.ndarray


@results_.kept
def _pairings(results: Results, kind: str) -> dict[tuple[str, str, str], _Pairing]:
    """Game, learner and opponent to where their numbers come from.

    A seed is the unit, unless seeds share 1 < P < S preparations: then a preparation is, with all
    its seeds, since it is what would be drawn anew. It is the learner's own where that was prepared,
    in the first seat in which it is stored, else the opponent's. Of a single preparation there is
    no spread to be had, so that seeds are units again, and tables say so.
    """
    pairings: dict[tuple[str, str, str], _Pairing] = {}
    by_hash = {record["hash"]: record for record in results.records}
    seats = results.seats[results.seats["kind"] == kind]
    for key, player, *names in seats[["hash", "player", *_PAIRING]].itertuples(index=False, name=None):
        pairing = pairings.get(tuple(names))
        if pairing is None:
            pairings[tuple(names)] = _Pairing((key,), *units_of(by_hash[key], player - 1))
        elif key not in pairing.hashes:
            pairing.hashes += (key,)
    return pairings


def units_of(record: Mapping[str, Any], player: int) -> tuple[tuple[str, int], np.ndarray]:
    """Pool and units of a cell's seeds, as the player in a seat (counted from 0) sees them."""
    seeds, learners = int(record["seeds"]), record["learners"]
    for seat in (player, *(i for i in range(len(learners)) if i != player)):
        count = num_prepared(learners[seat])
        if 1 < count < seeds:
            # Of whom nothing is known, seeds take turns as in a first seat.
            jointly = facts.learner(record, seat).get("prepared_jointly", True)
            return ("preparations", count), facts.shared_preparations(jointly, seat, seeds, count)
    return ("seeds", seeds), np.arange(seeds)


def num_prepared(learner: Mapping[str, Any]) -> int:
    """Preparations that the seeds of a cell's learner share; 0 without any."""
    return int((learner.get("preparation") or {}).get("seeds", 0))


def _placed(results: Results, kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with their cells and what is resampled with them."""
    pairings = _pairings(results, kind)
    codes = frame.groupby(_PAIRING, sort=False).ngroup().to_numpy()
    keys = frame[_PAIRING].drop_duplicates().itertuples(index=False, name=None)
    behind = [pairings[key] for key in keys]
    own = np.empty(len(behind), object), np.empty(len(behind), object)
    for k, pairing in enumerate(behind):
        own[0][k], own[1][k] = pairing.hashes, pairing.pool
    units = frame["seed"].to_numpy(int).copy()
    for k, pairing in enumerate(behind):
        if pairing.pool[0] != "seeds":
            rows = codes == k
            units[rows] = pairing.units[units[rows]]
    return frame.assign(hashes=own[0][codes], pool=own[1][codes], unit=units)


# --- metrics made from several cells ------------------------------------------------------


def _normalised(results: Results, kind: str) -> pd.DataFrame:
    """Returns on the scale of each game's anchors; games without one are left out."""
    returns = entries(results, "return", kind)
    parts = []
    for game, part in returns.groupby("game", sort=False):
        scale = anchors.anchors_in(results)[str(game)]
        if scale is not None and scale.one is not None:
            parts.append(part.assign(value=scale.normalised(part["value"])))
    return pd.concat(parts, ignore_index=True) if parts else returns.iloc[:0]


def _cost(results: Results, metric: str, kind: str) -> pd.DataFrame:
    numbers = results.cells.loc[results.cells["kind"] == kind, ["hash", COSTS[metric]]]
    seats = results.seats.astype({key: object for key in ("hash", *_PAIRING)})
    rows = seats.merge(numbers, on="hash").rename(columns={COSTS[metric]: "value"})
    frame = rows.groupby(_PAIRING, sort=False)["value"].mean().astype(float).reset_index()
    placed = _placed(results, kind, frame.assign(task=frame["opponent"], seed=0, diverged=False))
    return placed.assign(unit=0, pool=[("cells", 1)] * len(placed))


def _robustness_mean(results: Results, kind: str) -> pd.DataFrame:
    return entries(results, "return", kind).assign(opponent="all met")


def _robustness_worst(results: Results, kind: str) -> pd.DataFrame:
    """Returns against the opponent, of all met (itself included), with the least mean."""
    returns = entries(results, "return", kind)
    means = returns.groupby(_PAIRING, sort=False)["value"].mean().dropna()
    worst = means.groupby(level=["game", "learner"], sort=False).idxmin()
    chosen = set(worst)
    rows = [key in chosen for key in zip(*(returns[name].to_numpy(object) for name in _PAIRING), strict=True)]
    return returns[rows].assign(opponent="worst met", task="worst met")


def _influence(results: Results, kind: str) -> pd.DataFrame:
    """Seed by seed, the opponent's return against the learner minus that against a naive one; of several
    opponents the mean of their returns, with a naive one in the learner's place."""
    naive = next((x for x in results.labels if results.played[x]["name"] == "naive"), None)
    theirs = _of_the_others(results, kind)
    base = theirs[theirs["learner"] == naive].rename(
        columns={"opponent": "met", "value": "base", "diverged": "lost", "hashes": "base_hashes"}
    )
    both = theirs[theirs["learner"] != theirs["opponent"]].merge(
        base[["game", "met", "seed", "base", "lost", "base_hashes"]],
        left_on=["game", "opponent", "seed"],
        right_on=["game", "met", "seed"],
    )
    both = both.assign(
        value=both["value"] - both["base"],
        diverged=both["diverged"] | both["lost"],
        hashes=both["hashes"] + both["base_hashes"],
    )
    return both.assign(task=both["opponent"])[[*_KEYS, "seed", "value", "diverged", "hashes", "pool", "unit"]]


def _of_the_others(results: Results, kind: str) -> pd.DataFrame:
    """Returns seen from the other side of the table: of a learner, what its opponents return.

    An opponent's number is stored under it as the learner. Of several opponents it is the mean.
    """
    rows: dict[tuple[str, str, str, str, str], int] = {}
    for record in results.records:
        labels = [x["label"] for x in record["learners"]]
        for seat, learner in enumerate(labels) if record["kind"] == kind else ():
            others = facts.opponent(labels, seat)
            for other in (i for i in range(len(labels)) if i != seat):
                key = (record["game"]["label"], labels[other], facts.opponent(labels, other), learner, others)
                rows[key] = facts.company(labels, seat).count(labels[other])
    turned = pd.DataFrame(
        [(*key, count) for key, count in rows.items()],
        columns=["game", "learner", "opponent", "met", "others", "count"],
    )
    returns = entries(results, "return", kind).drop(columns="task")
    both = returns.merge(turned, on=_PAIRING).drop(columns=["learner", "opponent"])
    both = both.rename(columns={"met": "learner", "others": "opponent"})
    keys = [*_PAIRING, "seed"]
    if not both.duplicated(keys).any():  # two players: every seed has one opponent
        return both.drop(columns="count")
    # A mean of some of the opponents would hide one without a value: NaN times its count stays NaN.
    both["value"] = both["value"] * both["count"]
    groups = both.groupby(keys, sort=False)
    sums = groups["value"].agg(lambda x: x.sum(skipna=False)) / groups["count"].sum()
    rest = groups.agg(
        diverged=("diverged", "any"),
        hashes=("hashes", lambda x: tuple(dict.fromkeys(itertools.chain.from_iterable(x)))),
        pool=("pool", "first"),
        unit=("unit", "first"),
    )
    return pd.concat([sums.rename("value"), rest], axis=1).reset_index()


# --- samples ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """The runs behind one entry.

    Attributes:
      scores, units: per seed and task, ``(S, T)``: the number, and what is resampled with it; NaN
        and -1 where there is none.
      tasks: what was met, ``(game, opponent, task, metric)``; ``pools`` of each.
      seeds: ``(S,)``.
      num_runs: all there are, finite or not.
      diverged: runs whose learning diverged.
      hashes: the stored cells they come from.
    """

    scores: np.ndarray
    units: np.ndarray
    tasks: tuple[tuple[str, ...], ...]
    pools: tuple[tuple[str, int], ...]
    seeds: np.ndarray
    num_runs: int
    diverged: int
    hashes: tuple[str, ...]

    @functools.cached_property
    def aggregate(self) -> stats.Aggregate:
        return dataclasses.replace(stats.aggregate(self.scores), runs=self.num_runs)

    @functools.cached_property
    def standard_error(self) -> float:
        return stats.standard_error(*self.runs())

    def interval(self, statistic: stats.Statistic) -> tuple[float, float]:
        """95 % interval of a statistic by the stratified bootstrap."""
        runs, units = self.runs()
        return stats.bootstrap_interval(statistic, runs, units=[units])

    def value(self, statistic: stats.Statistic) -> float:
        """A statistic of the finite runs; NaN where there is none."""
        known = next((name for name, other in stats.STATISTICS.items() if other is statistic), None)
        if known is not None:
            return getattr(self.aggregate, known)
        return float(statistic(self.runs()[0])) if self.aggregate.n else float("nan")

    def runs(self, tasks: Sequence[tuple[str, ...]] | None = None) -> tuple[list[np.ndarray], stats.Units]:
        """Finite runs per task and what is resampled of them; of all tasks that have any, or of those
        named (an empty array where there is none)."""
        finite = np.isfinite(self.scores)
        if tasks is None and finite.all():  # as below, at once
            scores, own = (tuple(np.ascontiguousarray(x.T)) for x in (self.scores, self.units))
            return list(scores), stats.Units(own, self.pools, tuple(size for _, size in self.pools))
        place = {task: t for t, task in enumerate(self.tasks)}
        chosen = (
            [t for t in range(len(self.tasks)) if finite[:, t].any()] if tasks is None else [*map(place.get, tasks)]
        )
        runs: list[np.ndarray] = []
        units: list[np.ndarray] = []
        pools: list[tuple[str, int]] = []
        for t in chosen:
            rows = finite[:, t] if t is not None else np.zeros(len(self.seeds), bool)
            runs.append(self.scores[rows, t or 0])
            units.append(self.units[rows, t or 0])
            pools.append(self.pools[t or 0])
        return runs, stats.Units(tuple(units), tuple(pools), tuple(size for _, size in pools))


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers the tasks of rows with a column ``metric``, once for all samples."""
    return frame.assign(number=frame.groupby(["metric", *_KEYS], sort=False).ngroup())


def samples(frame: pd.DataFrame, by: str | list[str]) -> dict[Any, Sample]:
    """The runs of all entries: :func:`numbered` rows by the values of a column, or of several."""
    groups = frame.groupby(by, sort=False)
    rows = _Rows.of(frame)
    found = {key: rows.sample(chosen) for key, chosen in groups.indices.items()}
    _aggregate_at_once(found.values())
    return found


def _aggregate_at_once(behind: Iterable[Sample]) -> None:
    """Finds what samples of one task and of all their seeds amount to, which are most: together it is much
    faster than one by one, and the same bits."""
    by_size: dict[int, list[Sample]] = {}
    for sample in behind:
        if sample.scores.shape[1] == 1 and sample.num_runs == len(sample.scores):
            by_size.setdefault(sample.num_runs, []).append(sample)
    for size, group in by_size.items():
        table = np.concatenate([x.scores for x in group], axis=1).T.copy()
        units = np.concatenate([x.units for x in group], axis=1).T
        finite = np.isfinite(table).all(axis=1)
        apart = finite & (units[:, 1:] > units[:, :-1]).all(axis=1) & (size > 1)
        chosen = [x for x, ok in zip(group, finite, strict=True) if ok]
        for sample, aggregate in zip(chosen, stats.aggregates(table[finite]), strict=True):
            vars(sample)["aggregate"] = aggregate  # where a cached property looks first
        chosen = [x for x, ok in zip(group, apart, strict=True) if ok]
        errors = np.sqrt(table[apart].var(axis=1, ddof=1) / size) if chosen else ()
        for sample, error in zip(chosen, errors, strict=True):
            vars(sample)["standard_error"] = float(error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """The columns of :func:`numbered` rows as arrays, of which thousands of samples are made: slicing the
    frame for each takes fifty times as long."""

    values: np.ndarray
    seeds: np.ndarray
    numbers: np.ndarray
    units: np.ndarray
    diverged: np.ndarray
    pools: np.ndarray
    hashes: np.ndarray
    tasks: Sequence[tuple[str, ...]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "_Rows":
        return cls(
            values=frame["value"].to_numpy(float),
            seeds=frame["seed"].to_numpy(),
            numbers=frame["number"].to_numpy(),
            units=frame["unit"].to_numpy(int),
            diverged=frame["diverged"].to_numpy(bool),
            pools=frame["pool"].to_numpy(object),
            hashes=frame["hashes"].to_numpy(object),
            # Pandas' own arrays of strings are slow to walk through.
            tasks=list(zip(*(frame[name].to_numpy(object) for name in _TASK), strict=True)),
        )

    def sample(self, rows: np.ndarray) -> Sample:
        seeds, numbers = self.seeds[rows], self.numbers[rows]
        if (numbers == numbers[0]).all() and (seeds[1:] > seeds[:-1]).all():  # of one task: as below, at once
            scores, units, one_each = self.values[rows][:, None], self.units[rows][:, None], rows[:1]
        else:
            seeds, row = np.unique(seeds, return_inverse=True)
            tasks, first, column = np.unique(numbers, return_index=True, return_inverse=True)
            scores = np.full((len(seeds), len(tasks)), np.nan)
            units = np.full(scores.shape, -1)
            scores[row, column] = self.values[rows]
            units[row, column] = self.units[rows]
            one_each = rows[first]
        return Sample(
            scores=scores,
            units=units,
            tasks=tuple(self.tasks[k] for k in one_each),
            pools=tuple(self.pools[one_each]),
            seeds=seeds,
            num_runs=len(rows),
            diverged=int(self.diverged[rows].sum()),
            hashes=tuple(dict.fromkeys(itertools.chain.from_iterable(self.hashes[one_each]))),
        )
