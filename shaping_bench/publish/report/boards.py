"""Rules game by game: a table each, and what filters and sorts them.

Everything is in the page as plain tables; the script hides, orders and writes its state into
the address.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from shaping_bench.algorithms.core.access import Access
from shaping_bench.analysis.compare import LEVEL
from shaping_bench.analysis.entries import COSTS, alike, entries, metric_names, suite_metrics
from shaping_bench.publish import tables
from shaping_bench.publish.model import ABSENT, Entry, Table, count
from shaping_bench.publish.report.markup import Addresses, breakable, escape, region
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

ACCESS = tuple(map(str, Access))
"""What a learner may see of the others, from least to most."""

PREPARATION_BUDGETS = {"0": "none", "60": "up to a minute", "600": "up to ten minutes", "3600": "up to an hour"}
"""Choices of the filter by seconds of preparation."""

BOLD = f"Bold: the best of the column, and all that its runs do not tell apart from it at the level {LEVEL}."

MOST_COMPARED = 60
"""Most learners of whom each is compared with each against every one of them."""

_KNOWN_METRICS = {
    "return": "return",
    "robustness_mean": "mean over all met",
    "robustness_worst": "worst met",
}
"""Column headings in a table that says what they are of."""


@dataclasses.dataclass(frozen=True)
class _Column:
    """One column, with a cell per learner; ``best`` is the end from which sorting begins."""

    name: str
    cells: Mapping[str, Entry]
    best: Literal["higher", "lower", "text"] = "higher"
    bar: bool = False
    link: Callable[[str, Entry], str | None] | None = None
    values: Mapping[str, float] | None = None
    """What is sorted by, where that is not the cell's mean."""


def boards(results: Results, addresses: Addresses) -> str:
    """Filters and a table per game; empty if nobody has learnt here.

    Rules stand in the suite's order: in which order of merit they would stand, cards say.
    """
    if "return" not in metric_names(results, "encounter"):
        return ""
    learners = tuple(x for x in results.learners or results.labels)
    about = _about(results, learners)
    made = [(game, [*columns, *about]) for game in results.games if (columns := _of_game(results, addresses, game))]
    parts = [_filters(results, learners, [game for game, _ in made])]
    parts += [_board(results, f"board-{k}", game, columns, learners) for k, (game, columns) in enumerate(made)]
    return "\n".join(parts)


@results_.kept
def one_table(
    results: Results, metric: str, cols: str = "opponent", game: str | None = None, kind: str = "encounter"
) -> Table | None:
    """A metric's table with learners as rows, of one game where ``cols`` is not the game; None where it has none."""
    frame = entries(results, metric, kind).assign(metric=metric)
    if game is not None:
        frame = frame[frame["game"] == game]
    # One learner is the best of all in a way that says nothing.
    bold = len(results.learners) > 1
    return tables.tabulated(results, frame, kind=kind, rows="learner", cols=cols, bold=bold)[0] if len(frame) else None


def preparation_seconds(results: Results) -> dict[str, float]:
    """Label to the seconds that its preparations took; one that serves many cells counts once."""
    spent: dict[str, dict[str, float]] = {}
    for record in results.records:
        for x in record["learners"]:
            if x.get("preparation"):
                spent.setdefault(x["label"], {})[x["preparation"]["artifact"]] = float(x["preparation"]["seconds"])
    return {label: sum(seconds.values()) for label, seconds in spent.items()}


def _by_label(table: Table | None) -> dict[str, dict[str, Entry]]:
    """Row label to column label to cell."""
    return (
        {}
        if table is None
        else {
            label: dict(zip(table.col_labels, row, strict=True))
            for label, row in zip(table.row_labels, table.cells, strict=True)
        }
    )


def _column(grid: Mapping[str, Mapping[str, Entry]], name: str) -> dict[str, Entry]:
    return {label: row[name] for label, row in grid.items() if name in row}


def _of_game(results: Results, addresses: Addresses, game: str) -> list[_Column]:
    """Self-play, what else the suite measures, and mean and worst over whom all of the rules met."""
    known = metric_names(results, "encounter")
    if game not in set(entries(results, "return")["game"]):
        return []

    def by_metric(name: str) -> dict[str, Entry]:
        return _column(_by_label(one_table(results, name, "metric", game)), name)

    def row(label: str, cell: Entry) -> str | None:
        return addresses.row(game, label)

    columns = [
        _Column("self-play", _self_play(results, game), bar=True, link=lambda label, cell: addresses.entry(cell.hashes))
    ]
    if alike(results, "encounter", [game], results.learners or results.labels):
        columns += [
            _Column("mean over all met", by_metric("robustness_mean"), bar=True, link=row),
            _Column("worst met", by_metric("robustness_worst"), bar=True, link=row),
        ]
    from shaping_bench.metrics import definition

    asked = [*suite_metrics(results, "encounter"), "influence"]
    for name in dict.fromkeys(x for x in asked if x in known and x not in _KNOWN_METRICS and x not in COSTS):
        cells = by_metric(name)
        if any(cell.mean is not None for cell in cells.values()):
            direction = definition(name).direction
            columns.append(_Column(name, cells, best="lower" if direction == "lower" else "higher", link=row))
    seconds = by_metric("wall_seconds")
    if seconds:
        columns.append(_Column("seconds per encounter", seconds, best="lower"))
    return columns


def _self_play(results: Results, game: str) -> dict[str, Entry]:
    """What everybody returns against itself, bold where that is the best against it."""
    count = len(results.learners)
    if count > MOST_COMPARED:  # against everybody of so many takes minutes to compare
        frame = entries(results, "return").assign(metric="return")
        alone = frame[(frame["game"] == game) & (frame["learner"] == frame["opponent"])]
        made = tables.tabulated(results, alone, kind="encounter", rows="learner", cols="game", bold=False)
        return _column(_by_label(made[0] if made else None), game)
    grid = _by_label(one_table(results, "return", "opponent", game))
    return {label: grid[label][label] for label in grid if label in grid[label] and grid[label][label].n}


def _about(results: Results, learners: Sequence[str]) -> list[_Column]:
    """What a learner may see, and what it spent before."""
    seconds = preparation_seconds(results)
    diverged = dict.fromkeys(learners, 0)
    for record in results.records:
        for label in dict.fromkeys(x["label"] for x in record["learners"]):
            if record["kind"] == "encounter" and label in diverged:
                diverged[label] += int(record.get("diverged", 0))
    whether = {x: "needed" if results.played[x].get("needs_preparation") else "none" for x in learners}
    return [
        _Column(
            "access",
            {x: Entry(str(results.played[x].get("access") or ABSENT)) for x in learners},
            best="lower",
            values={x: float(_level(results, x)) for x in learners},
        ),
        _Column(
            "preparation",
            {x: Entry(_duration(seconds[x]) if x in seconds else whether[x]) for x in learners},
            best="lower",
            values={x: seconds.get(x, 0.0) for x in learners},
        ),
        _Column("diverged seeds", {x: count(diverged[x]) for x in learners}, best="lower"),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _level(results: Results, label: str) -> int:
    access = str(results.played[label].get("access"))
    return ACCESS.index(access) if access in ACCESS else len(ACCESS)


def _filters(results: Results, learners: Sequence[str], games: Sequence[str]) -> str:
    """Choices, of which only those are offered that differ; shown by the script that serves them."""
    offered = []
    if len(games) > 1:
        offered.append(_choice("game", "Game", {game: game for game in games}))
    levels = sorted({_level(results, x) for x in learners})
    if len(levels) > 1:
        named = {ACCESS[k]: ("up to " if k else "") + ACCESS[k] for k in levels[:-1] if k < len(ACCESS)}
        offered.append(_choice("access", "Access", {"": "any", **named}))
    spent = preparation_seconds(results)
    seconds = [spent.get(x, 0.0) for x in learners]
    if max(seconds, default=0.0) > 0.0:
        budgets = {b: text for b, text in PREPARATION_BUDGETS.items() if min(seconds) <= float(b) < max(seconds)}
        offered.append(_choice("preparation", "Preparation", {"": "any", **budgets}))
    return (
        f'<form class="filters" data-filters="rules" hidden>{"".join(offered)}'
        '<button type="reset">Reset</button><output class="count" aria-live="polite"></output></form>'
    )


def _choice(key: str, label: str, options: Mapping[str, str]) -> str:
    inside = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options.items())
    return f'<label>{escape(label)} <select name="{key}" autocomplete="off">{inside}</select></label>'


def _board(results: Results, identity: str, game: str, columns: Sequence[_Column], learners: Sequence[str]) -> str:
    seconds = preparation_seconds(results)
    returns = entries(results, "return")
    there = set(returns.loc[returns["game"] == game, "learner"])
    present = [x for x in learners if x in there]
    # A column that says the same of everybody says nothing.
    shown = [
        c for k, c in enumerate(columns) if k < 2 or len({(c.cells.get(x) or Entry(ABSENT)).text for x in present}) > 1
    ]
    head = "".join(f'<th scope="col" data-best="{c.best}">{breakable(c.name)}</th>' for c in shown)
    lines = []
    for label in present:
        cells = "".join(_entry(column, label, present) for column in shown)
        access = str(results.played[label].get("access", ""))
        lines.append(
            f'<tr data-access="{escape(access)}" data-preparation="{seconds.get(label, 0.0):g}">'
            f'<th scope="row" data-value="{results.rank("learner", label)}">{breakable(label)}</th>{cells}</tr>'
        )
    what = "Return per step of the row's learner, mean ± standard deviation over seeds."
    if not any(c.name == "mean over all met" for c in columns):
        what += " They did not all meet the same, so that means over whom they met cannot be compared."
    bold = f" {BOLD}" if len(results.learners) > 1 else ""
    note = f"{what}{bold} Numbers link to what they come from."
    table = (
        f'<table class="board" id="{identity}" data-game="{escape(game)}"><caption><span>{escape(game)}</span> '
        f'<small>{note}</small></caption>\n<thead><tr><th scope="col" data-best="text">learner</th>{head}</tr></thead>'
        f"\n<tbody>{''.join(lines)}</tbody></table>"
    )
    return region(f"Rules in {game}", table)


def _entry(column: _Column, label: str, present: Sequence[str]) -> str:
    cell = column.cells.get(label)
    if cell is None or (cell.n == 0 and cell.mean is None and cell.text == ABSENT):
        return f"<td>{ABSENT}</td>"
    number, space, rest = cell.text.partition(" ") if cell.mean is not None else (cell.text, "", "")
    number = f"<strong>{escape(number)}</strong>" if cell.best else escape(number)
    text = number + (f' <span class="spread">{escape(rest)}</span>' if space else "")
    address = column.link(label, cell) if column.link else None
    shown = text if address is None else f'<a href="{escape(address)}">{text}</a>'
    value = column.values[label] if column.values else cell.mean
    attributes = "" if value is None else f' data-value="{value:.6g}"'
    shown_cells = [c for x in present if (c := column.cells.get(x)) is not None and c.mean is not None]
    # Where all numbers are printed alike, what bars would draw is rounding.
    if column.bar and cell.mean is not None and len({c.text.partition(" ")[0] for c in shown_cells}) > 1:
        means = [c.mean for c in shown_cells if c.mean is not None]
        low, high = min(means), max(means)
        share = (cell.mean - low) / (high - low) if high > low else 1.0
        attributes += f' class="bar" style="--share:{100 * share:.0f}%"'
    return f"<td{attributes}>{shown}</td>"
