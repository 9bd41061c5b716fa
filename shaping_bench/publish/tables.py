"""Comparison tables from stored results: one row model, five ways to write it.

A number is formatted once, in :class:`Cell`; Markdown, LaTeX, CSV, JSON and HTML print
those same digits. The entry of learner A against opponent B is A's number per seed,
averaged over all seats and cells in which A sits opposite B: in a symmetric game the one
stored encounter yields both (A, B) and (B, A), in an asymmetric one both orders are pooled,
and in self-play the two seats are.

What is resampled, exchanged and counted is thus the training seed. Where seeds share fewer
preparations than there are seeds, it is the preparation: see :func:`_pairings`.
"""

import csv
import dataclasses
import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tabulate

from shaping_bench.analysis import stats
from shaping_bench.errors import BadInput, unknown
from shaping_bench.metrics import anchors
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

DIMENSIONS = ("learner", "opponent", "game", "metric")
SPREADS = ("std", "se", "ci", "none")
ABSENT = "\N{EN DASH}"

Statistic = Literal["mean", "median", "iqm"]
Spread = Literal["std", "se", "ci", "none"]

LEVEL = 0.05
"""Level of the tests behind bold entries, after correction for their number."""

MANY = 100
"""Runs from which on a quarter of the exchanges has to do for statistics that go by the runs' order."""

FEW = 6
"""Units with which an exchange test can reach that level. Fewer preparations cannot be told apart as
such, and a test that never rejects says nothing: their seeds are then compared one by one."""

COSTS = {
    "wall_seconds": "run_seconds",
    "compile_seconds": "compile_seconds",
    "gradient_evaluations": "gradient_evaluations",
    "environment_steps": "environment_steps",
    "preparation_seconds": "preparation_seconds",
}
"""Metrics that are bookkeeping of a cell, and the column of ``Results.cells`` that holds them."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
      text: what every format prints.
      mean, std, median, iqm: statistics of the finite runs; None where there is none.
      se: standard error of the mean.
      ci: 95 % bootstrap interval of the table's statistic, where it was asked for.
      n: finite runs that entered.
      runs: all runs (seeds, times the tasks an average runs over).
      diverged: runs whose learning diverged; the others that miss have no value.
      hashes: the stored cells it comes from.
      best: whether it is the best of those it is compared with, or not distinguishable from it.
    """

    text: str
    mean: float | None = None
    std: float | None = None
    median: float | None = None
    iqm: float | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    n: int = 0
    runs: int = 0
    diverged: int = 0
    hashes: tuple[str, ...] = ()
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A grid of cells with labels; ``decimals`` is that of the texts."""

    title: str
    note: str
    rows: str
    cols: str
    row_labels: tuple[str, ...]
    col_labels: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    decimals: int = 2

    @property
    def corner(self) -> str:
        return f"{self.rows} / {self.cols}" if self.cols else self.rows


# --- entries: one number per seed ---------------------------------------------------------

_PAIRING = ["game", "learner", "opponent"]
_KEYS = [*_PAIRING, "task"]


@results_.kept
def entries(results: Results, metric: str, kind: str = "encounter") -> pd.DataFrame:
    """Per-seed numbers of one metric.

    Returns:
      game, learner, opponent, task (what an average runs over: the opponent met), seed,
      value (NaN if any seat's is), diverged (bool), hashes (of the cells the number is from),
      unit (what of the seed's is resampled with it) and pool (of such units: what, how many).
    """
    made = {
        "robustness_mean": _robustness_mean,
        "robustness_worst": _robustness_worst,
        "influence": _influence,
        anchors.METRIC: _normalised,
    }.get(metric)
    if made is not None:
        return made(results, kind)
    return _cost(results, metric, kind) if metric in COSTS else _stored(results, metric, kind)


def _stored(results: Results, metric: str, kind: str) -> pd.DataFrame:
    keys = ["game", "learner", "opponent", "seed"]

    def per_seed(name: str) -> Any:
        rows = results.final(name, kind)
        plain = rows.assign(**{key: rows[key].astype(object) for key in keys[:3]})
        return plain.groupby(keys, sort=False)["value"]

    numbers = per_seed(metric)
    # A mean that skips NaN would hide a seat without a value.
    frame = pd.DataFrame({"value": numbers.mean().where(numbers.count() == numbers.size())})
    marks = per_seed("diverged").max() > 0
    frame["diverged"] = marks.reindex(frame.index, fill_value=False).astype(bool)
    frame = frame.reset_index()
    return _placed(results, kind, frame.assign(task=frame["opponent"]))


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
    found: dict[tuple[str, str, str], _Pairing] = {}
    by_hash = {record["hash"]: record for record in results.records}
    seats = results.seats[results.seats["kind"] == kind]
    for key, player, *names in seats[["hash", "player", *_PAIRING]].itertuples(index=False, name=None):
        pairing = found.get(tuple(names))
        if pairing is None:
            found[tuple(names)] = _Pairing((key,), *_units(by_hash[key], player - 1))
        elif key not in pairing.hashes:
            pairing.hashes += (key,)
    return found


def _units(record: Mapping[str, Any], player: int) -> tuple[tuple[str, int], np.ndarray]:
    """Pool and units of a cell's seeds, as a player sees them."""
    seeds, learners = int(record["seeds"]), record["learners"]
    for seat in (player, *(i for i in range(len(learners)) if i != player)):
        count = _num_prepared(learners[seat])
        if 1 < count < seeds:
            from shaping_bench.run.encounter import shared_preparations
            from shaping_bench.spec import registry

            name, hyperparameters = learners[seat]["name"], learners[seat]["hyperparameters"]
            try:
                rule = registry.make_learner({name: hyperparameters}).value
            except BadInput:  # of a package that is not here; seeds then take turns, as in a first seat
                rule = None
            return ("preparations", count), shared_preparations(rule, seat, seeds, count)
    return ("seeds", seeds), np.arange(seeds)


def _num_prepared(learner: Mapping[str, Any]) -> int:
    """Preparations that the seeds of a cell's learner share; 0 without any."""
    return int((learner.get("preparation") or {}).get("seeds", 0))


def _placed(results: Results, kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with their cells and what is resampled with them."""
    pairings = _pairings(results, kind)
    codes, keys = pd.factorize(pd.MultiIndex.from_frame(frame[_PAIRING]))
    found = [pairings[key] for key in keys]
    own = np.empty(len(found), object), np.empty(len(found), object)
    for k, pairing in enumerate(found):
        own[0][k], own[1][k] = pairing.hashes, pairing.pool
    units = frame["seed"].to_numpy(int).copy()
    for k, pairing in enumerate(found):
        if pairing.pool[0] != "seeds":
            rows = codes == k
            units[rows] = pairing.units[units[rows]]
    return frame.assign(hashes=own[0][codes], pool=own[1][codes], unit=units)


def _normalised(results: Results, kind: str) -> pd.DataFrame:
    """Returns on the scale of each game's anchors; games without one are left out."""
    returns = _stored(results, "return", kind)
    parts = []
    for game, part in returns.groupby("game", sort=False):
        known = anchors.anchors_in(results)[str(game)]
        if known is not None and known.one is not None:
            parts.append(part.assign(value=known.normalised(part["value"])))
    return pd.concat(parts, ignore_index=True) if parts else returns.iloc[:0]


def _cost(results: Results, metric: str, kind: str) -> pd.DataFrame:
    numbers = results.cells.loc[results.cells["kind"] == kind, ["hash", COSTS[metric]]]
    seats = results.seats.astype({key: object for key in ("hash", "game", "learner", "opponent")})
    rows = seats.merge(numbers, on="hash").rename(columns={COSTS[metric]: "value"})
    frame = rows.groupby(["game", "learner", "opponent"], sort=False)["value"].mean().astype(float).reset_index()
    placed = _placed(results, kind, frame.assign(task=frame["opponent"], seed=0, diverged=False))
    return placed.assign(unit=0, pool=[("cells", 1)] * len(placed))


def _robustness_mean(results: Results, kind: str) -> pd.DataFrame:
    return _stored(results, "return", kind).assign(opponent="all met")


def _robustness_worst(results: Results, kind: str) -> pd.DataFrame:
    """Returns against the opponent, of all met (itself included), with the least mean."""
    returns = _stored(results, "return", kind)
    means = returns.groupby(["game", "learner", "opponent"], sort=False)["value"].mean().dropna()
    worst = means.groupby(level=["game", "learner"], sort=False).idxmin()
    keys = pd.MultiIndex.from_frame(returns[["game", "learner", "opponent"]])
    return returns[keys.isin(list(worst))].assign(opponent="worst met", task="worst met")


def _influence(results: Results, kind: str) -> pd.DataFrame:
    """Seed by seed, the opponent's return against the learner minus that against a naive one."""
    returns = _stored(results, "return", kind)
    naive = next((x for x in results.labels if results.played[x]["name"] == "naive"), None)
    # Seen from the opponent: its own number is stored under it as the learner.
    theirs = returns.rename(columns={"learner": "opponent", "opponent": "learner"}).drop(columns="task")
    theirs = theirs[theirs["learner"] != theirs["opponent"]]
    base = returns[returns["opponent"] == naive].rename(
        columns={"learner": "met", "value": "base", "diverged": "lost", "hashes": "base_hashes"}
    )
    both = theirs.merge(
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


SUITE_METRICS = ("robustness_mean", "robustness_worst", "influence")
"""Metrics made from several cells."""


def metric_names(results: Results, kind: str) -> list[str]:
    """Metrics that tables of this kind can show."""
    stored = results.final_metrics(kind)
    if not stored:
        return []
    made = (*SUITE_METRICS, anchors.METRIC) if "return" in stored else ()
    return sorted({*stored, *(COSTS if kind == "encounter" else ()), *made})


# --- the row model ------------------------------------------------------------------------


def build(
    results: Results,
    metric: str | Sequence[str],
    kind: str = "encounter",
    rows: str = "learner",
    cols: str = "opponent",
    game: str | None = None,
    statistic: Statistic = "mean",
    spread: Spread = "std",
    show_n: bool = False,
    bold: bool = True,
) -> list[Table]:
    """Comparison tables.

    Rows and columns are any two of learner, opponent, game and metric. There is one table
    per game and per metric where these are neither; learners and opponents that are neither
    are averaged over, each weighing the same.

    Args:
      results: an opened results directory.
      metric: one metric or several.
      kind: ``"encounter"`` or ``"league"``.
      game: only this one.
      statistic: of the runs.
      spread: ``"std"`` over seeds, ``"se"`` (standard error of the mean), ``"ci"`` (95 %,
        stratified bootstrap of the statistic) or ``"none"``.
      show_n: whether entries say how many runs they are from; they do where some were lost.
      bold: whether the best learner against each opponent is marked, with all that the runs do
        not tell apart from it (see :func:`_mark_best`).

    Raises:
      BadInput: an unknown name, or a metric that none of the games has.
    """
    for field, value in (("rows", rows), ("cols", cols)):
        if value not in DIMENSIONS:
            raise unknown(field, value, DIMENSIONS)
    if rows == cols:
        raise BadInput(f"rows and cols are both {rows!r}; allowed: two different ones of {', '.join(DIMENSIONS)}")
    for field, value, allowed in (
        ("kind", kind, ("encounter", "league")),
        ("statistic", statistic, stats.STATISTICS),
        ("spread", spread, SPREADS),
    ):
        if value not in allowed:
            raise unknown(field, value, allowed)
    if game is not None and game not in results.games:
        raise unknown("game", game, results.games)
    names = [metric] if isinstance(metric, str) else list(metric)
    known = metric_names(results, kind)
    for name in names:
        if name not in known:
            raise unknown("metric", name, known)
    frame = pd.concat([entries(results, name, kind).assign(metric=name) for name in names], ignore_index=True)
    if game is not None:
        frame = frame[frame["game"] == game]
    if frame.empty:
        where = "the games" if game is None else f"game {game!r}"
        raise BadInput(f"metric is {', '.join(map(repr, names))}, of which {where} has none; allowed: one that it has")
    return tabulated(results, frame, kind, rows, cols, statistic, spread, show_n, bold)


def tabulated(
    results: Results,
    frame: pd.DataFrame,
    kind: str,
    rows: str,
    cols: str,
    statistic: Statistic = "mean",
    spread: Spread = "std",
    show_n: bool = False,
    bold: bool = True,
) -> list[Table]:
    """Tables of per-seed numbers: those of :func:`entries` with a column ``metric``; see :func:`build`."""
    frame = _numbered(frame)
    split = [name for name in ("game", "metric") if name not in (rows, cols)]
    order = {
        "game": lambda x: results.rank("game", x),
        "learner": lambda x: results.rank("learner", x),
        "opponent": lambda x: results.rank("opponent", x),
        "metric": list(frame["metric"].unique()).index,
    }
    tables = []
    values = [sorted(frame[name].unique(), key=order[name]) for name in split]
    for chosen in itertools.product(*values):
        part = frame
        for name, value in zip(split, chosen, strict=True):
            part = part[part[name] == value]
        if part.empty:
            continue
        row_labels, col_labels = (tuple(sorted(part[x].unique(), key=order[x])) for x in (rows, cols))
        measured = {key: _measured(group, statistic, spread) for key, group in part.groupby([rows, cols], sort=False)}
        title = ": ".join(chosen) or "all"
        grid = [[measured.get((r, c)) for c in col_labels] for r in row_labels]
        marks = _marks(results, part, rows, cols, grid, (row_labels, col_labels), statistic) if bold else None
        note = (
            f"{_note(kind, part, rows, cols, statistic, spread)}; "
            f"{_bold_note(results, marks, row_labels, rows, part['pool'])}"
            f"{_responders(results, part, kind)}{_access(results, part['learner'].unique())}"
            f"{_prepared(results, part)}"
        )
        tables.append(
            _table(
                title + (" (league)" if kind == "league" else ""),
                note,
                (rows, cols),
                row_labels,
                col_labels,
                grid,
                statistic,
                spread,
                show_n,
                marks,
            )
        )
    return tables


@dataclasses.dataclass(frozen=True)
class _Measured:
    """One entry with the runs behind it.

    Attributes:
      scores, units: per seed and task, ``(S, T)``; NaN and -1 where there is none.
      tasks: what was met, ``(game, opponent, task, metric)``; ``pools`` of each.
      seeds: ``(S,)``.
    """

    aggregate: stats.Aggregate
    se: float
    ci: tuple[float, float] | None
    diverged: int
    hashes: tuple[str, ...]
    scores: np.ndarray
    units: np.ndarray
    tasks: tuple[tuple[str, ...], ...]
    pools: tuple[tuple[str, int], ...]
    seeds: np.ndarray

    def runs(self, tasks: Sequence[tuple[str, ...]] | None = None) -> tuple[list[np.ndarray], stats.Units]:
        """Finite runs per task and what is resampled of them; of all tasks that have any, or of those
        named (an empty array where there is none)."""
        at = {task: t for t, task in enumerate(self.tasks)}
        finite = np.isfinite(self.scores)
        chosen = [t for t in range(len(self.tasks)) if finite[:, t].any()] if tasks is None else [*map(at.get, tasks)]
        runs: list[np.ndarray] = []
        units: list[np.ndarray] = []
        pools: list[tuple[str, int]] = []
        for t in chosen:
            kept = finite[:, t] if t is not None else np.zeros(len(self.seeds), bool)
            runs.append(self.scores[kept, t or 0])
            units.append(self.units[kept, t or 0])
            pools.append(self.pools[t or 0])
        return runs, stats.Units(tuple(units), tuple(pools), tuple(size for _, size in pools))


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers the tasks, once for all entries."""
    return frame.assign(number=frame.groupby(["metric", *_KEYS], sort=False).ngroup())


def _measured(group: pd.DataFrame, statistic: Statistic, spread: Spread) -> _Measured:
    """Aggregates the runs of one entry: numbered rows, of one task or of several."""
    values = group["value"].to_numpy(float)
    seeds, row = np.unique(group["seed"].to_numpy(), return_inverse=True)
    tasks, first, column = np.unique(group["number"].to_numpy(), return_index=True, return_inverse=True)
    scores = np.full((len(seeds), len(tasks)), np.nan)
    units = np.full(scores.shape, -1)
    scores[row, column] = values
    units[row, column] = group["unit"].to_numpy(int)
    one_each = group.iloc[first]
    made = _Measured(
        dataclasses.replace(stats.aggregate(scores), runs=len(values)),
        np.nan,
        None,
        int(group["diverged"].sum()),
        tuple(dict.fromkeys(itertools.chain.from_iterable(one_each["hashes"]))),
        scores,
        units,
        tuple(one_each[["game", "opponent", "task", "metric"]].itertuples(index=False, name=None)),
        tuple(one_each["pool"]),
        seeds,
    )
    runs, drawn_as = made.runs()
    ci = None
    if spread == "ci":
        ci = stats.bootstrap_interval(stats.STATISTICS[statistic], runs, units=[drawn_as])
    return dataclasses.replace(made, se=stats.standard_error(runs, drawn_as), ci=ci)


# --- bold ---------------------------------------------------------------------------------


def _marks(
    results: Results,
    part: pd.DataFrame,
    rows: str,
    cols: str,
    grid: Sequence[Sequence[_Measured | None]],
    labels: tuple[Sequence[str], Sequence[str]],
    statistic: Statistic,
) -> list[list[bool]] | None:
    """Which entries are bold; None where nothing is compared.

    Compared are the suite's learners against the same opponents in the same game: the entries of
    a column where learners are rows, of a row where they are columns. Metrics of which neither more
    nor less is better, and costs, which have no runs to be compared by, have no best.
    """
    if "learner" not in (rows, cols) or set(part["metric"]) <= set(COSTS):
        return None
    from shaping_bench.metrics.definitions import definition

    transposed = rows != "learner"
    lines = [list(line) for line in (grid if transposed else zip(*grid, strict=True))]
    learners, others = (labels[1], labels[0]) if transposed else labels
    known = set(results.learners or results.labels)
    compared = [x in known for x in learners]
    decimals = _decimals(getattr(x.aggregate, statistic) for line in lines for x in line if x is not None)
    marks = []
    for label, line in zip(others, lines, strict=True):
        metric = label if "metric" in (rows, cols) else str(part["metric"].iloc[0])
        direction = "none" if metric in COSTS else definition(metric).direction
        entered = [x if ok else None for x, ok in zip(line, compared, strict=True)]
        marks.append(_mark_best(entered, stats.STATISTICS[statistic], direction, decimals))
    if not any(map(any, marks)):
        return None
    return marks if transposed else [list(line) for line in zip(*marks, strict=True)]


def _mark_best(
    entered: Sequence[_Measured | None], statistic: stats.Statistic, direction: str, decimals: int
) -> list[bool]:
    """The best entry, and those that its runs do not tell apart from it.

    Every other entry is compared with the best by an exchange test of the statistic, seed against
    seed; the p-values are corrected for their number (Holm). An entry that prints the same number
    as the best is marked whatever the test says of the digits that are not shown. Seeds that share
    preparations are exchanged together if there are at least :data:`FEW` of these; else the comparison
    is between the preparations that there are.
    """
    numbers = [float(statistic(x.runs()[0])) if x is not None and x.aggregate.n else math.nan for x in entered]
    finite = [k for k, x in enumerate(numbers) if math.isfinite(x)]
    if direction not in ("higher", "lower") or not finite:
        return [False] * len(entered)
    best = (max if direction == "higher" else min)(finite, key=numbers.__getitem__)
    chances = [_exchanged(entered[best], x, statistic) if k in finite else math.nan for k, x in enumerate(entered)]
    chances[best] = math.nan  # is no comparison
    apart = stats.holm(chances) <= LEVEL
    compared = np.isfinite(chances)
    shown = [_number(x, decimals) if k in finite else None for k, x in enumerate(numbers)]
    return [
        k == best or (shown[k] is not None and (shown[k] == shown[best] or bool(compared[k] and not apart[k])))
        for k in range(len(entered))
    ]


def _exchanged(first: _Measured | None, second: _Measured | None, statistic: stats.Statistic) -> float:
    """P-value of the difference of two entries over the tasks and seeds that both have; NaN without any."""
    if first is None or second is None or first is second:
        return math.nan
    _, rows, other_rows = np.intersect1d(first.seeds, second.seeds, return_indices=True)
    at = {task: t for t, task in enumerate(second.tasks)}
    pools: dict[Any, int] = {}
    samples: tuple[list[np.ndarray], ...] = [], [], []
    for t, task in enumerate(first.tasks):
        if task not in at:
            continue
        x, y = first.scores[rows, t], second.scores[other_rows, at[task]]
        kept = np.isfinite(x) & np.isfinite(y)
        if not kept.any():
            continue
        # Where one of the two shares preparations, its seeds move together, and so must the other's.
        sides = [(first.pools[t], first.units[rows, t]), (second.pools[at[task]], second.units[other_rows, at[task]])]
        sides.append((("seeds", int(first.seeds.max()) + 1), first.seeds[rows]))
        pool, units = min((x for x in sides if x[0][0] == "seeds" or x[0][1] >= FEW), key=lambda side: side[0][1])
        start = pools.setdefault(pool, sum(size for _, size in pools))
        for sample, numbers in zip(samples, (x, y, start + units), strict=True):
            sample.append(numbers[kept])
    quick = statistic is stats.mean or sum(map(len, samples[0])) < MANY
    reps = stats.EXCHANGES if quick else stats.EXCHANGES // 4
    return stats.exchange_test(samples[0], samples[1], samples[2], statistic, reps=reps)


def _bold_note(
    results: Results,
    marks: Sequence[Sequence[bool]] | None,
    row_labels: Sequence[str],
    rows: str,
    pools: Iterable[tuple[str, int]],
) -> str:
    if marks is None:
        return ""
    line = "column" if rows == "learner" else "row"
    among = " among the suite's learners"
    small = {what for what, size in pools if size < FEW}
    given = "; of the preparations that there are, not of others" if "preparations" in small else ""
    given += f"; fewer than {FEW} seeds tell nobody apart" if "seeds" in small else ""
    if rows == "learner" and set(row_labels) <= set(results.learners or results.labels):
        among = ""
    return (
        f"bold: the best of each {line}{among} and all that its runs do not tell apart from it (exchange test, paired "
        f"by seed, Holm-corrected over the {line}, level {LEVEL}{given}); "
    )


def _table(
    title: str,
    note: str,
    dimensions: tuple[str, str],
    row_labels: Sequence[str],
    col_labels: Sequence[str],
    grid: Sequence[Sequence[_Measured | None]],
    statistic: Statistic,
    spread: Spread,
    show_n: bool = False,
    marks: Sequence[Sequence[bool]] | None = None,
) -> Table:
    decimals = _decimals(getattr(x.aggregate, statistic) for row in grid for x in row if x is not None)
    cells = [[_cell(x, statistic, spread, decimals, show_n) for x in row] for row in grid]
    if marks is not None:
        cells = [
            [dataclasses.replace(cell, best=best) for cell, best in zip(*both, strict=True)]
            for both in zip(cells, marks, strict=True)
        ]
    if any(cell.n < cell.runs for row in cells for cell in row):
        note += "; (n=a/b): a of b runs have a value, the others diverged or have none"
    return Table(title, note, *dimensions, tuple(row_labels), tuple(col_labels), tuple(map(tuple, cells)), decimals)


def _note(kind: str, part: pd.DataFrame, rows: str, cols: str, statistic: str, spread: str) -> str:
    what = "learner's number" if "learner" in (rows, cols) else "number"
    how = {
        "std": " ± standard deviation",
        "se": " ± standard error of the mean",
        "ci": " [95 % bootstrap interval]",
        "none": "",
    }[spread]
    groups = part.groupby([rows, cols], sort=False)
    over = [f"{x}s" for x in ("learner", "opponent") if x not in (rows, cols) and groups[x].nunique().max() > 1]
    averaged = f", averaged over {' and '.join(over)}" if over else ""
    where = "; final policies meet without learning" if kind == "league" else ""
    if kind == "league" and spread != "none":
        where += ", and spreads are over the learner's own seeds, whom they met being as it was"
    num_seeds = part["seed"].nunique()
    per = "per cell" if set(part["metric"]) <= set(COSTS) else f"over {num_seeds} seed{'s' * (num_seeds != 1)}"
    grouped = sorted({size for pool, size in part["pool"] if pool == "preparations"})
    if grouped and spread in ("se", "ci"):
        per += f", in groups that share one of {' or '.join(map(str, grouped))} preparations"
    return f"{what}, {statistic}{how} {per}{averaged}{where}"


def _responders(results: Results, part: pd.DataFrame, kind: str) -> str:
    """Who was trained as the best response where none is exact, and for how long."""
    games = set(part["game"])
    met = [r["responder"] for r in results.records if "responder" in r and r["game"]["label"] in games]
    if kind != "league" or "best-response" not in set(part["learner"]) or not met:
        return ""
    who = dict.fromkeys(f"{x['learner']}, {x['steps']} updates from scratch" for x in met)
    return f"best-response: {'; '.join(who)}; "


def _access(results: Results, learners: Iterable[str]) -> str:
    """What the learners of a table may see of the others, e.g. ``access: gradients (lola), actions (tft)``."""
    by_level: dict[str, list[str]] = {}
    for label in sorted(learners, key=lambda x: results.rank("learner", x)):
        by_level.setdefault(str(results.played[label].get("access", ABSENT)), []).append(label)
    if len(by_level) == 1:
        return f"access: {next(iter(by_level))}"
    return "access: " + ", ".join(f"{level} ({', '.join(labels)})" for level, labels in by_level.items())


def _prepared(results: Results, part: pd.DataFrame) -> str:
    """What the preparations of a table's learners cost before anybody met, per game and seat."""
    games, shown = set(part["game"]), set(part["learner"])
    spent: dict[str, dict[str, Any]] = {}
    for record in results.records:
        if record["game"]["label"] in games:
            for x in record["learners"]:
                if x.get("preparation") and x["label"] in shown:
                    spent.setdefault(x["label"], {})[x["preparation"]["artifact"]] = x["preparation"]
    texts = [f"{label} ({preparation_cost(list(spent[label].values()))})" for label in spent]
    if not texts:
        return ""
    single = [label for label in spent if all(x.get("seeds") == 1 for x in spent[label].values())]
    alone = f"; one preparation each, so that spreads are of encounters only: {', '.join(single)}" if single else ""
    return f"; prepared before: {', '.join(texts)}{alone}"


def preparation_cost(preparations: Sequence[Mapping[str, Any]]) -> str:
    """What preparations cost together, in words."""
    parts = []
    for key, unit in (("gradient_evaluations", "gradient evaluations"), ("environment_steps", "environment steps")):
        total = sum(x[key] for x in preparations)
        parts += [f"{total:.1e} {unit}"] if total else []
    return ", ".join([*parts, f"{sum(x['seconds'] for x in preparations):.0f} s"])


def _decimals(values: Iterable[float]) -> int:
    """Two, or as many as leave the largest number two digits, at most six; none for large counts."""
    finite = [x for x in values if math.isfinite(x)]
    largest = max(map(abs, finite), default=1.0)
    if largest >= 1000 and all(x == round(x) for x in finite):
        return 0
    return 2 if largest == 0 else int(np.clip(1 - math.floor(math.log10(largest)), 2, 6))


def _number(x: float, decimals: int) -> str:
    """One number; beyond a million in scientific notation, and zero without a sign."""
    text = f"{x:.2e}" if abs(x) >= 1e6 else f"{x:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _cell(
    measured: _Measured | None, statistic: Statistic, spread: Spread, decimals: int, show_n: bool = False
) -> Cell:
    if measured is None:
        return Cell(ABSENT)
    aggregate = measured.aggregate
    center = getattr(aggregate, statistic)
    text = _number(center, decimals) if aggregate.n else ABSENT
    if aggregate.n and measured.ci is not None:
        text += f" [{_number(measured.ci[0], decimals)}, {_number(measured.ci[1], decimals)}]"
    elif spread == "std" and math.isfinite(aggregate.std):
        text += f" ± {_number(aggregate.std, decimals)}"
    elif spread == "se" and math.isfinite(measured.se):
        text += f" ± {_number(measured.se, decimals)}"
    if aggregate.n < aggregate.runs:
        text += f" (n={aggregate.n}/{aggregate.runs})"
    elif show_n:
        text += f" (n={aggregate.n})"
    return Cell(
        text,
        mean=_finite(aggregate.mean),
        std=_finite(aggregate.std),
        median=_finite(aggregate.median),
        iqm=_finite(aggregate.iqm),
        se=_finite(measured.se),
        ci=measured.ci if aggregate.n else None,
        n=aggregate.n,
        runs=aggregate.runs,
        diverged=measured.diverged,
        hashes=measured.hashes,
    )


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


# --- the summary --------------------------------------------------------------------------


def summary(results: Results, metrics: Sequence[str] = (), spread: Spread = "std") -> Table:
    """One row per learner of the suite, best mean rank first: how it fares, and what it costs.

    Numbers are averaged over games on the games' own scales; the normalised return and the rank
    (1 is best, by the mean return in a game against an opponent, averaged over both) do not depend
    on them.

    Args:
      metrics: further metrics, averaged over games and opponents.
    """
    known = metric_names(results, "encounter")
    columns: list[tuple[str, pd.DataFrame]] = []
    if "return" in known:
        returns = entries(results, "return")
        columns.append(("self-play", returns[returns["learner"] == returns["opponent"]]))
        columns.append((anchors.METRIC, entries(results, anchors.METRIC)))
        columns += [(name, entries(results, name)) for name in SUITE_METRICS]
    shown = ("return", anchors.METRIC, *SUITE_METRICS, *COSTS)
    columns += [(name, entries(results, name)) for name in metrics if name in known and name not in shown]
    ranks = _ranks(results) if "return" in known else {}
    learners = sorted(results.learners or results.labels, key=lambda x: ranks.get(x, math.inf))

    numbers: dict[str, list[Cell]] = {"mean rank": [_plain(ranks.get(x), 1) for x in learners]} if ranks else {}
    for name, plain in columns:
        frame = _numbered(plain.assign(metric=name))
        measured = [
            _measured(group, "mean", spread) if not (group := frame[frame["learner"] == learner]).empty else None
            for learner in learners
        ]
        if not any(measured):
            continue
        decimals = _decimals(x.aggregate.mean for x in measured if x is not None)
        numbers[name] = [_cell(x, "mean", spread, decimals) for x in measured]
    numbers |= _cost_columns(results, learners)
    title = f"{results.suite.get('name', 'suite')}: summary"
    note = (
        "averaged over games, on their own scales but for normalised_return; robustness over all opponents met, itself "
        "included; influence: opponent's return minus its return against naive; seconds per cell, evaluations and "
        "steps per seed"
    )
    cells = tuple(tuple(column[k] for column in numbers.values()) for k in range(len(learners)))
    return Table(title, note, "learner", "", tuple(learners), tuple(numbers), cells)


def _ranks(results: Results) -> dict[str, float]:
    """Mean over tasks (game and opponent) of the rank by mean return, among those who met that opponent."""
    returns = entries(results, "return")
    chosen = returns[returns["learner"].isin(results.learners or results.labels)]
    scores = chosen.groupby(["game", "opponent", "learner"], sort=False)["value"].mean()
    # One who has diverged everywhere comes last.
    ranked = scores.groupby(level=["game", "opponent"]).rank(ascending=False, na_option="bottom")
    return ranked.groupby(level="learner").mean().to_dict()


def _plain(x: float | None, decimals: int) -> Cell:
    return Cell(ABSENT) if x is None else Cell(_number(x, decimals), mean=float(x), n=1, runs=1)


def _cost_columns(results: Results, learners: Sequence[str]) -> dict[str, list[Cell]]:
    """Wall seconds per cell, own gradient evaluations and environment steps per update, access,
    preparation, diverged."""
    seconds: dict[str, list[float]] = {x: [] for x in learners}
    evaluations: dict[str, list[float]] = {x: [] for x in learners}
    steps: dict[str, list[float]] = {x: [] for x in learners}
    diverged = dict.fromkeys(learners, 0)
    for record in results.records:
        labels = [x["label"] for x in record["learners"]]
        if record["kind"] != "encounter":
            continue
        spent = record["timings"].get("compile", 0.0) + record["timings"].get("run", 0.0)
        for label in dict.fromkeys(labels):
            if label in seconds:
                seconds[label].append(spent)
                diverged[label] += int(record.get("diverged", 0))
        costs, updates = record["costs"], record["costs"].get("updates", 0)
        for key, kept in (("gradient_evaluations", evaluations), ("environment_steps_asked", steps)):
            counted = costs.get(key)
            if isinstance(counted, list) and updates:
                for label, count in zip(labels, counted, strict=False):
                    if label in kept:
                        kept[label].append(count / updates)

    def averaged(values: Mapping[str, list[float]], decimals: int) -> list[Cell]:
        return [_plain(float(np.mean(values[x])) if values[x] else None, decimals) for x in learners]

    return {
        "wall seconds": averaged(seconds, 2),
        "gradient evaluations per update": averaged(evaluations, 1),
        "environment steps per update": averaged(steps, 0),
        **_described(results, learners),
        "diverged": [Cell(str(diverged[x]), mean=float(diverged[x]), n=1, runs=1) for x in learners],
    }


def _described(results: Results, learners: Sequence[str], game: str | None = None) -> dict[str, list[Cell]]:
    """What learners may see of others, and what their preparations have cost in a game or in all."""
    prepared: dict[str, dict[str, Any]] = {x: {} for x in learners}
    for record in results.records:
        for x in record["learners"] if game in (None, record["game"]["label"]) else ():
            if x.get("preparation") and x["label"] in prepared:
                prepared[x["label"]][x["preparation"]["artifact"]] = x["preparation"]
    return {
        "access": [Cell(str(results.played[x].get("access") or ABSENT)) for x in learners],
        "preparation": [
            Cell(preparation_cost(list(prepared[x].values())) if prepared[x] else _whether(results.played[x]))
            for x in learners
        ],
    }


def _whether(described: Mapping[str, Any]) -> str:
    return "needed" if described.get("needs_preparation") else "none"


# --- the leaderboard ----------------------------------------------------------------------

LEADERBOARD = {
    "IQM": (stats.iqm, "higher"),
    "mean": (stats.mean, "higher"),
    "task median": (stats.task_median, "higher"),
    "optimality gap": (stats.optimality_gap, "lower"),
}
"""Aggregates of normalised returns over all tasks, and which way is better."""


@dataclasses.dataclass(frozen=True)
class _Field:
    """The suite's learners over the tasks (game and opponent) that any of them met.

    Attributes:
      learners: labels, in the suite's order.
      entries: of each, over all its tasks.
      samples: of each, runs per task; empty where it has none.
      units: what is resampled of them.
      played: who met whom, ``(L, T)``, even if every run was lost.
    """

    learners: tuple[str, ...]
    entries: tuple[_Measured, ...]
    samples: tuple[list[np.ndarray], ...]
    units: tuple[stats.Units, ...]
    played: np.ndarray


@results_.kept
def _field(results: Results, kind: str, game: str | None) -> _Field:
    """The learners that leaderboards compare, over all games or in one.

    Raises:
      BadInput: an unknown game, or none whose returns can be normalised.
    """
    if game is not None and game not in results.games:
        raise unknown("game", game, results.games)
    if kind not in ("encounter", "league"):
        raise unknown("kind", kind, ("encounter", "league"))
    if anchors.METRIC in metric_names(results, kind):
        frame = entries(results, anchors.METRIC, kind)
        frame = frame[frame["learner"].isin(results.learners or results.labels)]
        frame = frame if game is None else frame[frame["game"] == game]
    else:
        frame = pd.DataFrame()
    if frame.empty:
        which = f"{kind}s" if game is None else f"game {game!r} ({kind})"
        raise BadInput(
            f"{which}: no return that can be normalised; allowed: games with anchors (shaping_bench.metrics.anchors)"
        )
    frame = _numbered(frame.assign(metric=anchors.METRIC))
    learners = tuple(sorted(frame["learner"].unique(), key=lambda x: results.rank("learner", x)))
    made = tuple(_measured(frame[frame["learner"] == x], "mean", "none") for x in learners)
    tasks = tuple(dict.fromkeys(task for x in made for task in x.tasks))
    drawn = [x.runs(tasks) for x in made]
    played = np.array([[task in x.tasks for task in tasks] for x in made])
    return _Field(learners, made, tuple(x for x, _ in drawn), tuple(x for _, x in drawn), played)


@results_.kept
def leaderboard(results: Results, game: str | None = None, kind: str = "encounter") -> Table:
    """The suite's learners by what they get on average, best first.

    Columns are aggregates of normalised returns (:mod:`shaping_bench.metrics.anchors`) over the learner's
    tasks, a task being a game and an opponent, each with its 95 % interval by the stratified
    bootstrap: interquartile mean of all runs; mean; median over tasks of their means; optimality gap,
    what is missing to the social optimum. Then, among those who met the same opponents in the same
    games: the probability that a run returns more than one of another learner, and the mean rank.
    What learners may see of others, and what they spent before, stands beside it.

    Args:
      game: only this one; all by default.
      kind: ``"encounter"`` or ``"league"``.

    Raises:
      BadInput: an unknown name, or no game whose returns can be normalised.
    """
    field = _field(results, kind, game)
    size = len(field.learners)
    columns: dict[str, list[Cell]] = {}

    def cells(points: Iterable[Any], ends: Iterable[Any], decimals: int, best: Sequence[bool] | None) -> list[Cell]:
        return [
            dataclasses.replace(_interval_cell(float(x), (float(low), float(high)), decimals, entry), best=bool(marked))
            for x, (low, high), entry, marked in zip(points, ends, field.entries, best or [False] * size, strict=True)
        ]

    def aggregates(*runs_and_weights: Any) -> np.ndarray:
        return np.stack([statistic(*runs_and_weights) for statistic, _ in LEADERBOARD.values()], axis=-1)

    runs = [x.runs() for x in field.entries]
    nothing = np.full((2, len(LEADERBOARD)), np.nan)
    ends = [stats.interval(stats.bootstrap(aggregates, x, units=[units])) if x else nothing for x, units in runs]
    for k, (name, (statistic, direction)) in enumerate(LEADERBOARD.items()):
        marks = _mark_best(field.entries, statistic, direction, 2)
        columns[name] = cells([float(statistic(x)) for x, _ in runs], [x[:, k] for x in ends], 2, marks)
    if size > 1:
        improvement = stats.average_improvement(field.samples)
        resampled = stats.bootstrap(
            lambda *x: stats.average_improvement(x[:size], x[size:]), *field.samples, units=field.units, reps=1000
        )
        columns["improvement"] = cells(improvement, stats.interval(resampled).T, 2, None)
        ranks = stats.ranks(field.samples, field.played, field.units)
        columns["mean rank"] = cells(ranks.mean, ranks.interval.T, 1, None)
    games = [dict.fromkeys(task[0] for task in x.tasks) for x in field.entries]
    columns["games"] = [Cell(str(len(x)), mean=float(len(x)), n=1, runs=1) for x in games]
    columns |= _described(results, field.learners, game)
    columns["diverged"] = [Cell(str(x.diverged), mean=float(x.diverged), n=1, runs=1) for x in field.entries]
    order = sorted(range(size), key=lambda k: -_or(columns["IQM"][k].mean, -math.inf))
    scale = "0 is random play, 1 the social optimum, in constant-sum games the largest reward"
    note = (
        f"normalised returns per step ({scale}) over {field.played.shape[1]} tasks (game and opponent), with 95 % "
        "bootstrap intervals over training seeds (over preparations where seeds share several); task median: over "
        "tasks of their means; improvement: probability that a run returns more than one of another learner in the "
        "same task; mean rank: by task; bold: the best, and all that their runs in common tasks do not tell apart "
        f"from it (exchange test, Holm-corrected, level {LEVEL})"
    )
    if not field.played.all():
        note += "; learners that met others, or in other games, are compared where they met the same"
    title = f"{results.suite.get('name', 'suite') if game is None else game}: leaderboard"
    rows = tuple(tuple(column[k] for column in columns.values()) for k in order)
    labels = tuple(field.learners[k] for k in order)
    return Table(title + (" (league)" if kind == "league" else ""), note, "learner", "", labels, tuple(columns), rows)


def _or(x: float | None, otherwise: float) -> float:
    return otherwise if x is None else x


def _interval_cell(x: float, ends: tuple[float, float], decimals: int, entry: _Measured) -> Cell:
    """A number that is no mean of the runs, with its interval."""
    if not math.isfinite(x):
        return Cell(ABSENT, hashes=entry.hashes, runs=entry.aggregate.runs, diverged=entry.diverged)
    low, high = (_number(end, decimals) for end in ends)
    return Cell(
        f"{_number(x, decimals)} [{low}, {high}]",
        mean=x,
        ci=ends,
        n=entry.aggregate.n,
        runs=entry.aggregate.runs,
        diverged=entry.diverged,
        hashes=entry.hashes,
    )


def rank_table(results: Results, game: str | None = None, kind: str = "encounter") -> Table:
    """How often each learner has each rank: the share of bootstrap resamples and tasks.

    Args, Raises: as :func:`leaderboard`.
    """
    field = _field(results, kind, game)
    size = len(field.learners)
    shares = stats.ranks(field.samples, field.played, field.units)
    order = np.argsort(shares.mean, kind="stable")
    note = (
        "share of bootstrap resamples of the seeds, and of tasks (game and opponent), in which the learner has a "
        "rank by its mean return among those who met the same; those who tie share their ranks"
    )
    grid = tuple(tuple(_plain(float(x), 2) if x else Cell(ABSENT) for x in shares.distribution[k]) for k in order)
    title = f"{results.suite.get('name', 'suite') if game is None else game}: ranks"
    labels = tuple(field.learners[k] for k in order)
    return Table(title, note, "learner", "rank", labels, tuple(str(k + 1) for k in range(size)), grid)


def improvement_table(results: Results, game: str | None = None, kind: str = "encounter", reps: int = 500) -> Table:
    """Probability of improvement of the row's learner over the column's, with its interval.

    Args:
      reps: resamples of each interval, of which there are as many as pairs.

    Others, Raises: as :func:`leaderboard`.
    """
    field = _field(results, kind, game)
    size = len(field.learners)
    grid = [[Cell(ABSENT)] * size for _ in range(size)]
    for a, b in itertools.combinations(range(size), 2):
        x, y = field.entries[a], field.entries[b]
        both = [task for task in x.tasks if task in y.tasks]
        (first, first_units), (second, second_units) = x.runs(both), y.runs(both)
        kept = [t for t in range(len(both)) if len(first[t]) and len(second[t])]
        if not kept:
            continue
        runs = [first[t] for t in kept], [second[t] for t in kept]
        units = [
            stats.Units(tuple(u.of[t] for t in kept), tuple(u.pools[t] for t in kept), tuple(u.sizes[t] for t in kept))
            for u in (first_units, second_units)
        ]
        chance = float(stats.probability_of_improvement(*runs))
        low, high = stats.bootstrap_interval(stats.probability_of_improvement, *runs, units=units, reps=reps)
        for row, column, p, ends in ((a, b, chance, (low, high)), (b, a, 1 - chance, (1 - high, 1 - low))):
            text = f"{_number(p, 2)} [{_number(ends[0], 2)}, {_number(ends[1], 2)}]"
            hashes = tuple(dict.fromkeys([*x.hashes, *y.hashes]))
            grid[row][column] = Cell(text, mean=p, ci=ends, n=len(kept), runs=len(kept), hashes=hashes)
    note = (
        "probability that a run of the row's learner returns more than one of the column's against the same opponent "
        "in the same game, averaged over all that both met, [95 % bootstrap interval over training seeds, of each pair "
        "on its own]; n: tasks"
    )
    title = f"{results.suite.get('name', 'suite') if game is None else game}: probability of improvement"
    return Table(title, note, "learner", "over", field.learners, field.learners, tuple(map(tuple, grid)))


def anchor_table(results: Results) -> Table:
    """The reference returns of each game and what they make of the scale."""
    columns = ("random", "naive", "best response", "social optimum", "scores 0", "scores 1", "lowest", "highest")
    rows, grid = [], []
    own: dict[str, float] = {}
    if "return" in metric_names(results, "encounter"):
        returns = entries(results, "return")
        plain = [x for x in results.labels if results.played[x]["name"] == "naive"][:1]
        among_naive = returns[returns["learner"].isin(plain) & returns["opponent"].isin(plain)]
        own = among_naive.groupby("game", sort=False)["value"].mean().to_dict()
    for game in results.games:
        known = anchors.anchors_in(results)[game]
        rows.append(game)
        ends: tuple[float | None, float | None] = (None, None) if known is None or not known.range else known.range
        numbers = (
            (None, own.get(game), *[None] * 6)
            if known is None
            else (known.random, own.get(game), known.best_response, known.social_optimum)
            + ((None, None) if known.one is None else (known.random, known.one))
            + ends
        )
        grid.append(tuple(_plain(None if x is None or not math.isfinite(x) else float(x), 3) for x in numbers))
    note = (
        "returns per step, mean over seats; random: everybody acts uniformly at random (games of real numbers: what "
        "initial parameters get on average); naive: self-play of the naive learner in these results; best response: "
        "of one player to random others; scores 0, scores 1: the returns whose normalised score they are (1 is the "
        "social optimum, in constant-sum games the largest reward); lowest, highest: possible scores of a step"
    )
    title = f"{results.suite.get('name', 'suite')}: anchors"
    return Table(title, note, "game", "", tuple(rows), columns, tuple(grid), decimals=3)


# --- writers ------------------------------------------------------------------------------


def render(tables: Sequence[Table], fmt: str) -> str:
    """Tables as ``"md"``, ``"latex"`` (booktabs), ``"csv"``, ``"json"`` or ``"html"``.

    Raises:
      BadInput: an unknown format.
    """
    if fmt not in WRITERS:
        raise unknown("format", fmt, WRITERS)
    return WRITERS[fmt](tables)


def _markdown(tables: Sequence[Table]) -> str:
    blocks = []
    for table in tables:
        body = [
            [_md(label), *(f"**{_md(cell.text)}**" if cell.best else _md(cell.text) for cell in row)]
            for label, row in zip(table.row_labels, table.cells, strict=True)
        ]
        grid = tabulate.tabulate(
            body,
            headers=[_md(x) for x in (table.corner, *table.col_labels)],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=("left", *["right"] * len(table.col_labels)),
        )
        blocks.append(f"### {table.title}\n\n{table.note}\n\n{grid}")
    return "\n\n".join(blocks)


def _md(text: str) -> str:
    return text.replace("|", "\\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    ABSENT: "--",
    **{c: f"\\{c}" for c in "%_&#$"},
}
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in text)
    # After a row's end, \\, a bracket would be read as that command's argument.
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def _latex_cell(text: str) -> str:
    """Numbers in mathematics mode, so that a minus is a minus."""
    if not re.match(rf"{_NUMBER}(\s|$)", text):
        return _latex_text(text)

    def exponent(number: str) -> str:
        mantissa, e, power = number.partition("e")
        return f"{mantissa}\\mathrm{{e}}{{{power[0]}}}{power[1:]}" if e else number

    def pair(match: re.Match[str]) -> str:
        return f"${exponent(match[1])} \\pm {exponent(match[2])}$"

    if "±" in text:
        return re.sub(rf"({_NUMBER}) ± ({_NUMBER})", pair, text)
    head, bracket, rest = text.partition(" (n=")
    return re.sub(_NUMBER, lambda m: f"${exponent(m[0])}$", head) + bracket + rest


def _latex_entry(cell: Cell) -> str:
    text = _latex_cell(cell.text)
    return rf"{{\bfseries\boldmath {text}}}" if cell.best else text


LATEX_SIZES = (("", 60), ("\\small", 65), ("\\footnotesize", 72), ("\\scriptsize", 80))
"""Type sizes and how many characters of each fit into a line of LaTeX's own article class."""

LATEX_LINES = 48
"""Lines of tables that fit onto a page of it, below their caption."""


def _latex_parts(table: Table) -> tuple[str, list[slice]]:
    """Type size of a table, and ranges of columns that fit a line: one above the other if need be."""
    texts = [table.col_labels, *([cell.text for cell in row] for row in table.cells)]
    # The gap between columns takes the room of three characters.
    widths = [3 + max(len(line[k]) for line in texts) for k in range(len(table.col_labels))]
    first = max(len(x) for x in (table.corner, *table.row_labels))
    size, room = next(((size, room) for size, room in LATEX_SIZES if first + sum(widths) <= room), LATEX_SIZES[-1])
    parts, start = [], 0
    for k in range(1, len(widths) + 1):
        if k == len(widths) or first + sum(widths[start : k + 1]) > room:
            parts.append(slice(start, k))
            start = k
    return size, parts


def _latex(tables: Sequence[Table]) -> str:
    blocks = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        size, parts = _latex_parts(table)
        label = re.sub("[^a-z0-9]+", "-", table.title.lower()).strip("-")
        caption = (
            rf"\caption{{{_latex_text(table.title)}. {_latex_text(table.note[:1].upper() + table.note[1:])}.}}"
            f"\n\\label{{tab:{label}}}"
        )
        together = max(1, LATEX_LINES // (len(table.row_labels) + 3))
        for k in range(0, len(parts), together):
            above = caption if k == 0 else rf"Table~\ref{{tab:{label}}}, continued.\\[1ex]"
            body = "\n\\\\[1ex]\n".join(_latex_tabular(table, part) for part in parts[k : k + together])
            blocks.append(f"\\begin{{table}}\n\\centering{size}\n{above}\n{body}\n\\end{{table}}")
    return "\n\n".join(blocks)


def _latex_tabular(table: Table, part: slice) -> str:
    labels = table.col_labels[part]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(labels)}}}",
        r"\toprule",
        " & ".join(_latex_text(x) for x in (table.corner, *labels)) + r" \\",
        r"\midrule",
    ]
    for label, row in zip(table.row_labels, table.cells, strict=True):
        lines.append(" & ".join([_latex_text(label), *(_latex_entry(cell) for cell in row[part])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _csv(tables: Sequence[Table]) -> str:
    """Tidy, one line per entry; the statistics have the digits of the text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    statistics = ["mean", "std", "median", "iqm", "se", "ci_low", "ci_high"]
    writer.writerow(["table", "row", "column", "text", *statistics, "n", "runs", "diverged", "best"])
    for table in tables:
        for label, row in zip(table.row_labels, table.cells, strict=True):
            for column, cell in zip(table.col_labels, row, strict=True):
                values = [cell.mean, cell.std, cell.median, cell.iqm, cell.se, *(cell.ci or (None, None))]
                numbers = ["" if x is None else _number(x, _shown_decimals(cell, table)) for x in values]
                counts = [cell.n, cell.runs, cell.diverged, int(cell.best)]
                writer.writerow([table.title, label, column, cell.text, *numbers, *counts])
    return out.getvalue().rstrip("\n")


def _shown_decimals(cell: Cell, table: Table) -> int:
    """Decimals of a cell's text: a summary has columns of different scales."""
    number = re.match(r"-?\d+(?:\.(\d+))?", cell.text)
    return len(number[1] or "") if number and "e" not in cell.text else table.decimals


def _json(tables: Sequence[Table]) -> str:
    out = []
    for table in tables:
        content = dataclasses.asdict(table)
        del content["decimals"]
        out.append(content)
    return json.dumps(out, indent=1, ensure_ascii=False, allow_nan=False)


def _html(tables: Sequence[Table]) -> str:
    return "\n".join(html_table(table) for table in tables)


def html_table(table: Table, link: Callable[[tuple[str, ...]], str | None] | None = None) -> str:
    """One HTML table with its caption; a region that scrolls if the screen is narrow.

    Args:
      link: from an entry's ``hashes`` to the address that its number shall link to, or None.
    """
    escape = html.escape

    def shown(cell: Cell) -> str:
        address = link(cell.hashes) if link and cell.hashes else None
        text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
        return text if address is None else f'<a href="{escape(address)}">{text}</a>'

    # Long names of metrics may break after an underscore.
    names = [escape(x).replace("_", "_<wbr>") for x in (table.corner, *table.col_labels)]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = [
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.title)}">',
        f"<table>\n<caption><span>{escape(table.title)}</span> <small>{escape(table.note)}</small></caption>",
        f"<thead><tr>{head}</tr></thead>\n<tbody>",
    ]
    for label, row in zip(table.row_labels, table.cells, strict=True):
        entries_ = "".join(f"<td{_title(cell)}>{shown(cell)}</td>" for cell in row)
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{entries_}</tr>')
    return "\n".join([*lines, "</tbody>\n</table>\n</div>"])


def _title(cell: Cell) -> str:
    return f' title="{cell.diverged} of {cell.runs} runs diverged"' if cell.diverged else ""


WRITERS: dict[str, Callable[[Sequence[Table]], str]] = {
    "md": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}


# --- the command --------------------------------------------------------------------------


def suite_metrics(results: Results, kind: str) -> list[str]:
    """The suite's metrics that are stored, the return where it names none; of Coin Games the
    pick-ups too, without which a return says little."""
    known = metric_names(results, kind)
    asked = [name for name in results.suite.get("metrics", []) if name in known]
    coins = [name for name in ("own_coins", "other_coins") if name in known and name not in asked]
    if coins and "return" in known:
        return [*(asked or ["return"]), *coins]
    return asked or [name for name in ("return",) if name in known] or known[:1]


def table_command(
    directory: Path | str,
    metrics: Sequence[str] | None = None,
    fmt: str = "md",
    rows: str = "learner",
    cols: str = "opponent",
    kind: str | None = None,
    statistic: Statistic = "mean",
    spread: Spread = "std",
    show_n: bool = False,
    bold: bool = True,
    standings: bool = False,
) -> str:
    """What ``shaping-bench table`` prints.

    Args:
      directory: a results directory.
      metrics: which; None for the suite's, followed by the summary.
      fmt: see :func:`render`.
      rows, cols, statistic, spread, show_n, bold: see :func:`build`.
      kind: ``"encounter"``, ``"league"`` or None for all there is.
      standings: instead, the leaderboard with its ranks, comparisons and anchors; of encounters
        unless ``kind`` says otherwise.

    Raises:
      BadInput: an unknown name, or a directory without results.
    """
    if fmt not in WRITERS:
        raise unknown("format", fmt, WRITERS)
    if kind not in (None, "encounter", "league"):
        raise unknown("kind", kind, ("encounter", "league"))
    results = results_.load(directory)
    stored = list(dict.fromkeys(record["kind"] for record in results.records))
    if kind is not None and kind not in stored:
        raise BadInput(f"kind is {kind!r}, of which {str(directory)!r} has no cell; allowed: {', '.join(stored)}")
    for field, value, allowed in (("statistic", statistic, stats.STATISTICS), ("spread", spread, SPREADS)):
        if value not in allowed:
            raise unknown(field, value, allowed)
    if standings:
        if metrics and list(metrics) != [anchors.METRIC]:
            raise BadInput(f"metric is {', '.join(metrics)}; allowed with leaderboard: none, or {anchors.METRIC}")
        which = kind or stored[0]
        made = [f(results, kind=which) for f in (leaderboard, rank_table, improvement_table)]
        return render([*made, anchor_table(results)], fmt)
    kinds = [kind] if kind else stored
    known = {name for k in kinds for name in metric_names(results, k)}
    for name in metrics or ():
        if name not in known:
            raise unknown("metric", name, known)
    tables: list[Table] = []
    for k in kinds:
        here = metric_names(results, k)
        chosen = [x for x in metrics if x in here] if metrics else suite_metrics(results, k)
        if chosen:
            tables += build(
                results, chosen, k, rows, cols, statistic=statistic, spread=spread, show_n=show_n, bold=bold
            )
    if not metrics and (rows, cols) == ("learner", "opponent") and "encounter" in kinds:
        tables.append(summary(results, suite_metrics(results, "encounter")))
    return render(tables, fmt)
