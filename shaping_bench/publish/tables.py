"""Comparison tables from stored results: the row model, and what ``shaping-bench table`` prints.

What the numbers are is said in :mod:`shaping_bench.analysis.entries`, what is bold in
:mod:`shaping_bench.analysis.compare`, how tables are written in :mod:`shaping_bench.publish.writers`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shaping_bench.analysis import compare, stats
from shaping_bench.analysis.entries import (
    COSTS,
    Sample,
    alike,
    company,
    entries,
    metric_names,
    numbered,
    samples,
    suite_metrics,
)
from shaping_bench.errors import BadInput, unknown
from shaping_bench.metrics import anchors, definition
from shaping_bench.publish import digits, standings
from shaping_bench.publish.cards import cards_in
from shaping_bench.publish.model import ABSENT, Statistic, Style, Table, entry
from shaping_bench.publish.writers import WRITERS, render
from shaping_bench.store import facts
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

DIMENSIONS = ("learner", "opponent", "game", "metric")


def build(
    results: Results,
    metric: str | Sequence[str],
    *,
    kind: str = "encounter",
    rows: str = "learner",
    cols: str = "opponent",
    game: str | None = None,
    **style: Any,
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
      style: fields of :class:`Style`.

    Raises:
      BadInput: an unknown name, or a metric that none of the games has.
    """
    for field, value in (("rows", rows), ("cols", cols)):
        if value not in DIMENSIONS:
            raise unknown(field, value, DIMENSIONS)
    if rows == cols:
        raise BadInput(f"rows and cols are both {rows!r}; allowed: two different ones of {', '.join(DIMENSIONS)}")
    if kind not in ("encounter", "league"):
        raise unknown("kind", kind, ("encounter", "league"))
    Style(**style).check()
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
    return tabulated(results, frame, kind=kind, rows=rows, cols=cols, **style)


def tabulated(results: Results, frame: pd.DataFrame, *, kind: str, rows: str, cols: str, **style: Any) -> list[Table]:
    """Tables of per-seed numbers: those of :func:`~shaping_bench.analysis.entries.entries` with a
    column ``metric``; see :func:`build`."""
    shown = Style(**style)
    frame = numbered(frame)
    split = [name for name in ("game", "metric") if name not in (rows, cols)]
    order: dict[str, Callable[[Any], Any]] = {
        "game": lambda x: results.rank("game", x),
        "learner": lambda x: results.rank("learner", x),
        "opponent": lambda x: (results.rank("opponent", x), x),  # groups of several have no rank
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
        by_entry = samples(part, [rows, cols])
        title = ": ".join(chosen) or "all"
        plan = _Grid(
            rows=rows,
            cols=cols,
            row_labels=row_labels,
            col_labels=col_labels,
            samples=tuple(tuple(by_entry.get((r, c)) for c in col_labels) for r in row_labels),
        )
        marks = _marks(results, part, plan, shown.statistic, kind) if shown.bold else None
        note = (
            f"{_note(kind, part, plan, shown)}; {_meaning(part)}{_others(results, part, plan)}"
            f"{_bold_note(results, marks, plan, part['pool'])}"
            f"{_responders(results, part, kind)}{_access(results, part['learner'].unique())}"
            f"{_prepared(results, part)}{_superseded(results, part, kind)}"
        )
        tables.append(_table(title + (" (league)" if kind == "league" else ""), note, plan, shown, marks))
    return tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Grid:
    """What a table is of: names and labels of its rows and columns, and the runs behind its entries."""

    rows: str
    cols: str
    row_labels: tuple[str, ...]
    col_labels: tuple[str, ...]
    samples: tuple[tuple[Sample | None, ...], ...]

    def decimals(self, statistic: Statistic) -> int:
        present = (x for row in self.samples for x in row if x is not None)
        return digits.decimals(getattr(x.aggregate, statistic) for x in present)


def _table(title: str, note: str, grid: _Grid, style: Style, marks: Sequence[Sequence[bool]] | None) -> Table:
    decimals = grid.decimals(style.statistic)
    cells = [[entry(x, style, decimals) for x in row] for row in grid.samples]
    if marks is not None:
        cells = [
            [dataclasses.replace(cell, best=True) if best else cell for cell, best in zip(*both, strict=True)]
            for both in zip(cells, marks, strict=True)
        ]
    if any(cell.n < cell.runs for row in cells for cell in row):
        note += "; (n=a/b): a of b runs have a value, the others diverged or have none"
    return Table(
        title=title,
        note=note,
        rows=grid.rows,
        cols=grid.cols,
        row_labels=grid.row_labels,
        col_labels=grid.col_labels,
        cells=tuple(map(tuple, cells)),
        decimals=decimals,
    )


# --- bold ---------------------------------------------------------------------------------


def _marks(
    results: Results, part: pd.DataFrame, grid: _Grid, statistic: Statistic, kind: str
) -> list[list[bool]] | None:
    """Which entries are bold; None where nothing is compared.

    Compared are the suite's learners against the same opponents in the same game: the entries of
    a column where learners are rows, of a row where they are columns. Nobody is the best among rules that met
    others, or by play where others are valued exactly. Metrics of which neither more
    nor less is better, and costs, which have no runs to be compared by, have no best.
    """
    if "learner" not in (grid.rows, grid.cols) or set(part["metric"].unique()) <= set(COSTS):
        return None
    from shaping_bench.metrics import definition

    transposed = grid.rows != "learner"
    lines = [list(line) for line in (grid.samples if transposed else zip(*grid.samples, strict=True))]
    learners, others = (grid.col_labels, grid.row_labels) if transposed else (grid.row_labels, grid.col_labels)
    known = set(results.learners or results.labels)
    takes_part = [x in known for x in learners]
    shown = functools.partial(digits.number, decimals=grid.decimals(statistic))
    marks = []
    for label, line in zip(others, lines, strict=True):
        metric = label if "metric" in (grid.rows, grid.cols) else str(part["metric"].iloc[0])
        direction = "none" if metric in COSTS else definition(metric).direction
        entered = [x if ok else None for x, ok in zip(line, takes_part, strict=True)]
        if not _comparable(results, dict(zip(learners, entered, strict=True)), kind):
            entered = [None] * len(entered)
        marks.append(compare.best(entered, stats.STATISTICS[statistic], direction, shown))
    if not any(map(any, marks)):
        return None
    return marks if transposed else [list(line) for line in zip(*marks, strict=True)]


def _comparable(results: Results, line: Mapping[str, Sample | None], kind: str) -> bool:
    """Whether the numbers of learners are of the same opponents, met in the same way."""
    present = {label: x for label, x in line.items() if x is not None}
    games = {task[0] for x in present.values() for task in x.tasks}
    averaged = any(
        len(x.tasks) > 1 or task[1] in ("all met", "worst met") for x in present.values() for task in x.tasks
    )
    if averaged:
        return alike(results, kind, games, present)
    ways = company(results, kind)
    met = {(game, other) for x in present.values() for game, other, *_ in x.tasks}
    played = {y for game, other in met for label in present for x, y in ways.get((game, label), ()) if x == other}
    return len(played) <= 1


# --- words --------------------------------------------------------------------------------


def _bold_note(
    results: Results, marks: Sequence[Sequence[bool]] | None, grid: _Grid, pools: Iterable[tuple[str, int]]
) -> str:
    if marks is None:
        return ""
    line = "column" if grid.rows == "learner" else "row"
    among = " among the suite's learners"
    small = {what for what, size in pools if size < compare.FEW}
    remark = "; of the preparations that there are, not of others" if "preparations" in small else ""
    remark += f"; fewer than {compare.FEW} seeds tell nobody apart" if "seeds" in small else ""
    if grid.rows == "learner" and set(grid.row_labels) <= set(results.learners or results.labels):
        among = ""
    return (
        f"bold: the best of each {line}{among} and all that its runs do not tell apart from it (exchange test, paired "
        f"by seed, Holm-corrected over all pairs of the {line}, level {compare.LEVEL}{remark}); "
    )


def _note(kind: str, part: pd.DataFrame, grid: _Grid, style: Style) -> str:
    axes = (grid.rows, grid.cols)
    what = "learner's number" if "learner" in axes else "number"
    how = {
        "std": " ± standard deviation",
        "se": " ± standard error of the mean",
        "ci": " [95 % bootstrap interval]",
        "none": "",
    }[style.spread]
    groups = part.groupby(list(axes), sort=False)
    over = [f"{x}s" for x in ("learner", "opponent") if x not in axes and groups[x].nunique().max() > 1]
    averaged = f", averaged over {' and '.join(over)}" if over else ""
    where = "; final policies meet without learning" if kind == "league" else ""
    if kind == "league" and style.spread != "none":
        where += ", and spreads are over the learner's own seeds, whom they met being as it was"
    num_seeds = part["seed"].nunique()
    per = "per cell" if set(part["metric"].unique()) <= set(COSTS) else f"over {num_seeds} seed{'s' * (num_seeds != 1)}"
    grouped = sorted({size for pool, size in part["pool"] if pool == "preparations"})
    if grouped and style.spread in ("se", "ci"):
        per += f", in groups that share one of {' or '.join(map(str, grouped))} preparations"
    return f"{what}, {style.statistic}{how} {per}{averaged}{where}"


def _meaning(part: pd.DataFrame) -> str:
    """What the number is, of a table of one; on cards the same word may be another, which is a share of returns."""
    metrics = part["metric"].unique()
    if len(metrics) > 1:
        return ""
    found = definition(str(metrics[0]))
    return f"{found.name}: {found.formula}; "


def _others(results: Results, part: pd.DataFrame, grid: _Grid) -> str:
    """What an opponent is where more than two play."""
    shown = "opponent" in (grid.rows, grid.cols) and not _games_of_several(results).isdisjoint(part["game"].unique())
    return "opponent: everybody else in the game, one name for several who are alike; " if shown else ""


@results_.kept
def _games_of_several(results: Results) -> frozenset[str]:
    """Games in which more than two play."""
    return frozenset(r["game"]["label"] for r in results.records if len(r["learners"]) > 2)


def _superseded(results: Results, part: pd.DataFrame, kind: str) -> str:
    """How many cells are left out, as there are newer ones of the same labels."""
    games = set(part["game"].unique())
    count = sum(r["kind"] == kind and r["game"]["label"] in games for r in results.superseded)
    return f"; {count} older cell{'s' * (count != 1)} of the same labels left out" if count else ""


def _responders(results: Results, part: pd.DataFrame, kind: str) -> str:
    """Who was trained as the best response where none is exact, and for how long."""
    if kind != "league":
        return ""
    games, shown = set(part["game"].unique()), set(part["learner"].unique())
    trained: dict[str, dict[str, None]] = {}
    for record in results.records:
        label = facts.best_response(record)
        if label in shown and record.get("responder") and record["game"]["label"] in games:
            who = f"{record['responder']['learner']}, {record['responder']['steps']} updates from scratch"
            trained.setdefault(str(label), {})[who] = None
    return "".join(f"{label}: {'; '.join(who)}; " for label, who in trained.items())


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
    games, shown = set(part["game"].unique()), set(part["learner"].unique())
    spent: dict[str, dict[str, Any]] = {}
    for game, label, preparation in _preparations(results):
        if game in games and label in shown:
            spent.setdefault(label, {})[preparation["artifact"]] = preparation
    texts = [f"{label} ({digits.preparation_cost(list(spent[label].values()))})" for label in spent]
    if not texts:
        return ""
    single = [label for label in spent if all(x.get("seeds") == 1 for x in spent[label].values())]
    alone = f"; one preparation each, so that spreads are of encounters only: {', '.join(single)}" if single else ""
    return f"; prepared before: {', '.join(texts)}{alone}"


@results_.kept
def _preparations(results: Results) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Of every cell and seat that needed one: the game's label, the learner's, and what it cost."""
    return [
        (record["game"]["label"], x["label"], x["preparation"])
        for record in results.records
        for x in record["learners"]
        if x.get("preparation")
    ]


# --- the command --------------------------------------------------------------------------


def table_command(
    source: Results | Path | str,
    metrics: Sequence[str] | None = None,
    fmt: str = "md",
    *,
    rows: str = "learner",
    cols: str = "opponent",
    kind: str | None = None,
    cards: bool = False,
    **style: Any,
) -> str:
    """What ``shaping-bench table`` prints.

    Args:
      source: a results directory, opened or by its path.
      metrics: which; None for the suite's.
      fmt: see :func:`~shaping_bench.publish.writers.render`.
      rows, cols: see :func:`build`.
      kind: ``"encounter"``, ``"league"`` or None for all there is.
      cards: instead, the suite's cards: scores, shares by scenario, ranks, and who improves on whom.
      style: fields of :class:`Style`.

    Raises:
      BadInput: an unknown name, or a directory without results.
    """
    if fmt not in WRITERS:
        raise unknown("format", fmt, WRITERS)
    if kind not in (None, "encounter", "league"):
        raise unknown("kind", kind, ("encounter", "league"))
    results = results_.opened(source)
    if cards:
        return render(_of_cards(results, metrics), fmt)
    stored = list(dict.fromkeys(record["kind"] for record in results.records))
    if kind is not None and kind not in stored:
        raise BadInput(
            f"kind is {kind!r}, of which {str(results.directory)!r} has no cell; allowed: {', '.join(stored)}"
        )
    Style(**style).check()
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
            tables += build(results, chosen, kind=k, rows=rows, cols=cols, **style)
    if anchors.METRIC in (metrics or ()):
        tables.append(standings.anchor_table(results))
    return render(tables, fmt)


def _of_cards(results: Results, metrics: Sequence[str] | None) -> list[Table]:
    if metrics:
        raise BadInput(f"metric is {', '.join(metrics)}; allowed with --cards: none")
    found = cards_in(results)
    if not found:
        raise BadInput(
            f"{str(results.directory)!r} holds no card; allowed: results of a suite with cards, or shaping-bench score"
        )
    return [table for card in found for table in standings.card_tables(card)]
