"""The results of a suite as one HTML page that needs nothing else.

No script, no font, no picture is fetched: the page opens from a disk, in light and dark,
on a wide screen and on a phone. Figures are matplotlib's SVG, put inline; their text takes
the page's colour.
"""

import dataclasses
import html
import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shaping_bench import results as results_
from shaping_bench import stats, tables
from shaping_bench.errors import BadInput
from shaping_bench.results import Results
from shaping_bench.tables import ABSENT, Table, html_table

MAX_POINTS = 60
"""Most points of a learning curve that are drawn."""

STATES = ("start", "CC", "CD", "DC", "DD")

_INK = "#010203"
"""Stands for the page's text colour until the SVG is inlined."""
_LINES = (("#0072B2", "-"), ("#D55E00", (0, (5, 2))), ("#009E73", ":"), ("#CC79A7", "-."))
"""Okabe and Ito's colours, and dashes for who sees none."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_report(directory: Path | str, out: Path | str | None = None) -> Path:
    """Writes the page of a results directory.

    Args:
      directory: a results directory.
      out: the file; ``directory/report.html`` by default.

    Raises:
      BadInput: no results there, or the file cannot be written.
    """
    results = results_.load(directory)
    path = Path(out) if out is not None else Path(directory) / "report.html"
    page = render_page(results)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"output is {str(path)!r}, which cannot be written ({error.strerror})") from None
    return path


def render_page(results: Results) -> str:
    """The whole page as text."""
    name = str(results.suite.get("name", "suite"))
    sections = [
        ("run", "What was run", _what_was_run(results)),
        ("summary", "Summary", _summary(results)),
        *((f"game-{k}", game, _game(results, game)) for k, game in enumerate(results.games)),
        ("costs", "Costs", _costs(results)),
        ("diverged", "Diverged seeds", _diverged(results)),
        ("metrics", "Metrics", _metrics(results)),
        ("cells", "Every cell and its command", _cells(results)),
    ]
    links = "".join(f'<li><a href="#{key}">{_e(title)}</a></li>' for key, title, _ in sections)
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{_e(title)}</h2>\n{content}\n'
        "</section>"
        for key, title, content in sections
    )
    description = str(results.suite.get("description") or "").strip()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_e(name)}: opponent shaping compared</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f'<header>\n<p class="kind">shaping-bench results</p>\n<h1>{_e(name)}</h1>\n'
        f"{f'<p>{_e(description)}</p>' if description else ''}\n</header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _e(text: object) -> str:
    return html.escape(str(text))


# --- sections -----------------------------------------------------------------------------


def _what_was_run(results: Results) -> str:
    records, cells = results.records, results.cells
    versions = {f"{k} {v}" for record in records for k, v in (record.get("versions") or {}).items()}
    encounters = int((cells["kind"] == "encounter").sum())
    seconds = cells["compile_seconds"].sum() + cells["run_seconds"].sum()
    facts = {
        "Games": ", ".join(results.games),
        "Learners": ", ".join(results.learners),
        "Further opponents": ", ".join(x for x in results.labels if x not in results.learners),
        "Cells": f"{encounters} encounters, {len(cells) - encounters} league match-ups",
        "Seeds per cell": _distinct(cells["seeds"]),
        "Base seed": _distinct(cells["seed"]),
        "Updates": _distinct(cells.loc[cells["kind"] == "encounter", "steps"]),
        "Precision": _distinct(cells["precision"]),
        "Device": _distinct(cells["device"]),
        "Commit": _distinct(cells["git_commit"]),
        "Versions": ", ".join(sorted(versions)),
        "Started": str(cells["started"].dropna().min()) if cells["started"].notna().any() else "",
        "Seconds": f"{seconds:.1f} in compiled programs and their compilation",
    }
    rows = "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<dl class="facts">{rows}</dl>'


def _distinct(column: pd.Series) -> str:
    return ", ".join(str(x) for x in column.dropna().unique())


def _summary(results: Results) -> str:
    table = tables.summary(results, tables.suite_metrics(results, "encounter"))
    parts = [html_table(table)]
    improvement = _improvement(results)
    if improvement is not None:
        parts.append(
            "<h3>Probability of improvement</h3>\n<p>The chance that a run of the row's learner returns more than a "
            "run of the column's against the same opponent in the same game, averaged over all games and opponents "
            "that both met. Above one half, the row's learner is the better bet.</p>"
        )
        parts.append(_heat_map(improvement, "probability of improvement", limits=(0.0, 1.0)))
    return "\n".join(parts)


def _improvement(results: Results) -> Table | None:
    """Learner against learner over their common tasks; None if fewer than two have any."""
    if "return" not in tables.metric_names(results, "encounter"):
        return None
    returns = tables.entries(results, "return")
    runs: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for (game, learner, opponent), group in returns.groupby(["game", "learner", "opponent"], sort=False):
        finite = group["value"].to_numpy(float)
        finite = finite[np.isfinite(finite)]
        # In self-play the opponent differs between learners, so it is no common task.
        if learner in results.learners and learner != opponent and len(finite):
            runs.setdefault(learner, {})[game, opponent] = finite
    learners = [x for x in results.learners if x in runs]
    if len(learners) < 2:
        return None

    def cell(a: str, b: str) -> tables.Cell:
        common = [key for key in runs[a] if key in runs[b]]
        if a == b or not common:
            return tables.Cell(ABSENT)
        chance = float(
            stats.probability_of_improvement([runs[a][key] for key in common], [runs[b][key] for key in common])
        )
        return tables.Cell(f"{chance:.2f}", mean=chance, n=len(common), runs=len(common))

    grid = tuple(tuple(cell(a, b) for b in learners) for a in learners)
    return Table("probability of improvement", "", "learner", "learner", tuple(learners), tuple(learners), grid)


def _game(results: Results, game: str) -> str:
    parts: list[str] = []
    encounter_tables = _tables_of(results, game, "encounter")
    if encounter_tables:
        first = encounter_tables[0]
        parts += [
            "<h3>Learning together</h3>",
            f"<p>The row's learner after learning against the column's: {_e(first.title.rpartition(': ')[2])}, mean "
            "over seeds; lighter is higher. A star marks entries that have lost seeds.</p>",
            _heat_map(first, first.title),
            *map(html_table, encounter_tables),
        ]
    parts += [_curves(results, game), _by_state(results, game), _profiles(results, game)]
    league = _tables_of(results, game, "league")
    if league:
        parts += [
            "<h3>League of final policies</h3>",
            "<p>What each learner's self-play ended in, frozen, meets the others' and fixed strategies without "
            "learning. Against <code>best-response</code> it meets the policy that does best against it.</p>",
            *map(html_table, league),
        ]
    return "\n".join(part for part in parts if part)


def _tables_of(results: Results, game: str, kind: str) -> list[Table]:
    known = tables.metric_names(results, kind)
    names = tables.suite_metrics(results, kind) if known else []
    if kind == "league":
        names = list(dict.fromkeys([*names, *(x for x in ("exploitability",) if x in known)]))
    frames = [tables.entries(results, name, kind).assign(metric=name) for name in names]
    if not frames:
        return []
    frame = pd.concat(frames, ignore_index=True)
    return tables.tabulated(results, frame[frame["game"] == game], kind, "learner", "opponent")


def _by_state(results: Results, game: str) -> str:
    """Cooperation in each state of memory-one games, in self-play where there is any."""
    names = [f"cooperation_{s}" for s in STATES if f"cooperation_{s}" in tables.metric_names(results, "encounter")]
    frames = [tables.entries(results, name).assign(metric=name.removeprefix("cooperation_")) for name in names]
    if not frames:
        return ""
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[frame["game"] == game]
    own = frame[frame["learner"] == frame["opponent"]]
    where, frame = ("in self-play", own) if len(own) else ("averaged over opponents", frame)
    if frame.empty:
        return ""
    (table,) = tables.tabulated(results, frame, "encounter", "learner", "metric")
    title = f"{game}: probability of the first action (cooperate) by state, {where}"
    return "\n".join(
        [
            "<h3>Cooperation by state</h3>",
            f"<p>Probability of the first action after each outcome of the last round (own action first), {where}.</p>",
            _heat_map(table, title, limits=(0.0, 1.0)),
            _details("The same with spreads", html_table(dataclasses.replace(table, title=f"{game}: by state"))),
        ]
    )


def _curves(results: Results, game: str) -> str:
    metric = next((x for x in ("return", *results.curve_metrics) if x in results.curve_metrics), None)
    if metric is None:
        return ""
    bands = results.curve_bands(metric)
    bands = bands[bands["game"] == game]
    if bands.empty or bands["update"].nunique() < 2:
        return ""
    limits = _limits(np.concatenate([bands["mean"] - bands["std"].fillna(0), bands["mean"] + bands["std"].fillna(0)]))
    by_cell = {str(key): group for key, group in bands.groupby("hash", observed=True)}
    own: list[str] = []
    cross: list[str] = []
    for record in results.records:
        if record["hash"] in by_cell:
            labels = [x["label"] for x in record["learners"]]
            panel = _curve_panel(by_cell[record["hash"]], labels, f"{game}, {metric}", limits)
            (own if len(set(labels)) == 1 else cross).append(panel)
    parts = [
        "<h3>Learning curves</h3>",
        f"<p>{_e(metric)} against updates; lines are means over seeds, bands one standard deviation.</p>",
    ]
    if own:
        parts.append(f'<div class="panels">{"".join(own)}</div>')
    if cross:
        grid = f'<div class="panels">{"".join(cross)}</div>'
        parts.append(_details(f"{len(cross)} pairings", grid) if own else grid)
    return "\n".join(parts)


def _profiles(results: Results, game: str) -> str:
    """Performance profiles: fraction of runs, over all opponents, that return more than a threshold."""
    if "return" not in tables.metric_names(results, "encounter"):
        return ""
    returns = tables.entries(results, "return")
    returns = returns[(returns["game"] == game) & returns["learner"].isin(results.learners)]
    runs = {
        learner: stats.strata(group.pivot(index="seed", columns="opponent", values="value").to_numpy())
        for learner, group in returns.groupby("learner", sort=False)
    }
    runs = {learner: runs[learner] for learner in results.learners if runs.get(learner)}
    low, high = _limits(returns["value"].to_numpy(float))
    if len(runs) < 2 or not high > low:
        return ""
    levels = np.linspace(low, high, 101)
    lines = [(learner, levels, stats.performance_profile(x, levels), None) for learner, x in runs.items()]
    panels = [
        _line_panel([line], f"{game}: performance profile of {line[0]}", (-0.03, 1.03), line[0]) for line in lines
    ]
    text = "<p>Fraction of runs, over seeds and opponents, that return more than the value below.</p>"
    return _details("Performance profiles", f'{text}\n<div class="panels">{"".join(panels)}</div>')


def _costs(results: Results) -> str:
    parts = ["<p>Per cell, all seeds together, averaged over opponents; seconds are those of the compiled program.</p>"]
    for metric in (
        "wall_seconds",
        "compile_seconds",
        "gradient_evaluations",
        "environment_steps",
        "preparation_seconds",
    ):
        frame = tables.entries(results, metric).assign(metric=metric)
        if len(frame) and frame["value"].any():
            parts += map(html_table, tables.tabulated(results, frame, "encounter", "learner", "game", spread="none"))
    return "\n".join(parts)


def _diverged(results: Results) -> str:
    marks = results.final("diverged")
    marks = marks[marks["value"] > 0]
    if marks.empty:
        return "<p>None: every seed of every cell stayed finite.</p>"
    seeds = marks.groupby("hash", observed=True)["seed"].unique()
    rows = []
    for record in results.records:
        if record["hash"] in seeds.index:
            numbers = sorted(int(x) for x in seeds[record["hash"]])
            shown = ", ".join(map(str, numbers[:20])) + (", …" if len(numbers) > 20 else "")
            rows.append(
                f'<tr><th scope="row">{_e(_cell_title(record))}</th><td>{len(numbers)} of {record["seeds"]}</td>'
                f'<td class="left">{shown}</td></tr>'
            )
    return (
        "<p>Seeds whose parameters did not stay finite. They enter no statistic; entries that miss them say so.</p>\n"
        '<div class="scroll" role="region" tabindex="0" aria-label="Diverged seeds"><table>\n'
        '<thead><tr><th scope="col">cell</th><th scope="col">diverged</th><th scope="col">seeds</th></tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _metrics(results: Results) -> str:
    """Formula, unit and source of the metrics on this page."""
    from shaping_bench.metrics import definition

    shown = [*tables.suite_metrics(results, "encounter"), *tables.SUITE_METRICS, *tables.COSTS]
    shown += [x for x in ("exploitability",) if x in tables.metric_names(results, "league")]
    rows = []
    for name in dict.fromkeys(shown):
        d = definition(name)
        better = "" if d.direction == "none" else f"; {d.direction} is better"
        source = f" Source: {_e(d.source)}." if d.source else ""
        rows.append(f"<div><dt>{_e(name)}</dt><dd>{_e(d.formula)} ({_e(d.unit)}{better}).{source}</dd></div>")
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _cells(results: Results) -> str:
    parts = ["<p>Each encounter again, from a shell with shaping-bench installed.</p>"]
    for kind, game in itertools.product(("encounter", "league"), results.games):
        chosen = [r for r in results.records if r["kind"] == kind and r["game"]["label"] == game]
        if chosen:
            inside = "\n".join(
                _details(
                    _cell_title(record),
                    f'<pre tabindex="0"><code>{_e(record.get("command", ""))}</code></pre>\n'
                    f"<p>{_e(record['seeds'])} seeds, {_e(record['steps'])} updates, "
                    f"{record['timings'].get('compile', 0.0):.2f} s to compile, "
                    f"{record['timings'].get('run', 0.0):.2f} s to run, {_e(record.get('diverged', 0))} diverged; "
                    f"stored in <code>cells/{_e(record['hash'])}</code></p>",
                )
                for record in chosen
            )
            parts.append(
                _details(f"{game}: {len(chosen)} {'encounters' if kind == 'encounter' else 'match-ups'}", inside)
            )
    return "\n".join(parts)


def _cell_title(record: dict[str, Any]) -> str:
    labels = [x["label"] for x in record["learners"]]
    against = " against ".join(labels) if len(set(labels)) > 1 else f"{labels[0]} in self-play"
    return f"{record['game']['label']}: {against}" + (" (league)" if record["kind"] == "league" else "")


def _details(title: str, inside: str) -> str:
    return f"<details><summary>{_e(title)}</summary>\n{inside}\n</details>"


# --- figures ------------------------------------------------------------------------------


def _limits(values: Iterable[float]) -> tuple[float, float]:
    """Range of the values; of their bulk, where a few have run away."""
    finite = np.array([x for x in values if math.isfinite(x)])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    inner = np.quantile(finite, [0.05, 0.95])
    if high - low > 100.0 * max(float(inner[1] - inner[0]), 1e-12) and high - low > 1000.0:
        low, high = float(inner[0]), float(inner[1])
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _heat_map(table: Table, title: str, limits: tuple[float, float] | None = None) -> str:
    """A table's means as colours, darkest to lightest, with its printed numbers."""
    means = np.array([[math.nan if cell.mean is None else cell.mean for cell in row] for row in table.cells], float)
    low, high = limits or _limits(means.ravel())
    num_rows, num_cols = means.shape
    longest_row, longest_col = (max(map(len, x)) for x in (table.row_labels, table.col_labels))
    left, top = 0.12 + 0.075 * longest_row, 0.15 + 0.07 * longest_col
    cell_width, cell_height = 0.62, 0.36
    width, height = left + cell_width * num_cols + 0.05, top + cell_height * num_rows + 0.05
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes(
            (left / width, 0.05 / height, cell_width * num_cols / width, cell_height * num_rows / height)
        )
        shades = matplotlib.colormaps["cividis"](np.clip((means - low) / (high - low), 0.0, 1.0))
        for (r, c), mean in np.ndenumerate(means):
            cell = table.cells[r][c]
            known = math.isfinite(mean)
            color = matplotlib.colors.to_hex(tuple(shades[r, c])) if known else "none"
            axes.add_patch(matplotlib.patches.Rectangle((c, r), 1, 1, facecolor=color, linewidth=0))
            # Of dark and light print the one with more contrast; they tie at luminance 0.19.
            dark = float(shades[r, c, :3] ** 2.2 @ [0.2126, 0.7152, 0.0722]) < 0.19
            ink = _INK if not known else "#ffffff" if dark else "#111111"
            text = cell.text.split(" ")[0] + ("*" if cell.n < cell.runs else "")
            axes.text(c + 0.5, r + 0.5, text, ha="center", va="center", color=ink, fontsize=8.5)
        axes.set(xlim=(0, num_cols), ylim=(num_rows, 0))
        axes.xaxis.tick_top()
        axes.set_xticks(np.arange(num_cols) + 0.5, table.col_labels, rotation=45 if longest_col > 7 else 0,
                        ha="left" if longest_col > 7 else "center")  # fmt: skip
        axes.set_yticks(np.arange(num_rows) + 0.5, table.row_labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        picture = _svg(figure, title)
    # A picture shrunk to a phone's width cannot be read; this one scrolls instead.
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{_e(title)}"><figure>{picture}</figure></div>'


Line = tuple[str, np.ndarray, np.ndarray, np.ndarray | None]
"""Name, x ``(R,)``, mean ``(R,)`` and half the band's width ``(R,)``."""


def _curve_panel(bands: pd.DataFrame, labels: Sequence[str], title: str, limits: tuple[float, float]) -> str:
    lines: list[Line] = []
    for player, group in bands.groupby("player"):
        label = labels[int(player) - 1]
        name = (
            label if labels.count(label) == 1 else f"seat {player}" if len(set(labels)) == 1 else f"{label} ({player})"
        )
        kept = np.unique(np.linspace(0, len(group) - 1, min(len(group), MAX_POINTS)).round().astype(int))
        x, mean, std = (group[c].to_numpy(float)[kept] for c in ("update", "mean", "std"))
        lines.append((name, x, mean, np.nan_to_num(std)))
    who = " against ".join(dict.fromkeys(labels)) if len(set(labels)) > 1 else f"{labels[0]} in self-play"
    return _line_panel(lines, f"{title}: {who}", limits, who)


def _line_panel(lines: Sequence[Line], title: str, limits: tuple[float, float], caption: str) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.9, 1.75))
        axes = figure.add_axes((0.155, 0.14, 0.82, 0.82))
        for (_, x, mean, half), (color, dashes) in zip(lines, itertools.cycle(_LINES), strict=False):
            if half is not None:
                axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
            axes.plot(x, mean, color=color, linestyle=dashes, linewidth=1.5)
        axes.set_ylim(*limits)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axes.tick_params(length=0, labelsize=8)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        picture = _svg(figure, title)
    names = [
        f'<span style="--line:{color}">{_e(name)}</span>'
        for (name, *_), (color, _) in zip(lines, itertools.cycle(_LINES), strict=False)
    ]
    key = f'<span class="key">{"".join(names)}</span>' if len(names) > 1 else ""
    return f"<figure>{picture}<figcaption>{_e(caption)}{key}</figcaption></figure>"


def _svg(figure: Figure, title: str) -> str:
    """The figure as an inline ``<svg>``: no header, no identifiers, the page's text colour."""
    out = io.StringIO()
    # The salt makes the identifiers of clip paths this figure's own, and the page reproducible.
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
    text = re.sub(r"\n\s*", "\n", text).replace(_INK, "currentColor")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{_e(title)}" ', text, count=1)


_CSS = """
:root { color-scheme: light dark; --back: #fff; --ink: #1c2024; --soft: #5b6470; --line: #d9dee3; --band: #f4f6f8;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --ink: #e4e7ea; --soft: #9aa4af; --line: #343a41;
  --band: #1d2125; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1rem 4rem; max-width: 76rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-size: 1.4rem;
  overflow-wrap: anywhere; }
h3 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
header { padding-top: 2.5rem; }
.kind { margin: 0; color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1rem 0 0; padding: 0; list-style: none; }
.facts { margin: 0; }
@media (min-width: 60rem) { .facts { columns: 2; column-gap: 2.5rem; } .facts div { break-inside: avoid; } }
.facts div { display: grid; grid-template-columns: 9.5rem 1fr; gap: 0 1rem; padding: .3rem 0;
  border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); overflow-wrap: anywhere; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0 1.5rem; }
.scroll:focus-visible, pre:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .4rem; text-align: left; font-weight: 600; }
caption span, caption small { display: block; position: sticky; left: 0; width: fit-content;
  max-width: min(46rem, calc(100vw - 2rem)); }
caption small { color: var(--soft); font-weight: 400; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; white-space: normal;
  line-height: 1.25; }
th[scope=row], thead th:first-child { position: sticky; left: 0; background: var(--back); text-align: left; }
th[scope=row] { font-weight: 500; }
tbody tr:hover > * { background: var(--band); }
td.left { text-align: left; white-space: normal; }
figure { margin: 0; }
svg { display: block; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem 1.25rem;
  margin: .75rem 0 1.25rem; }
.panels svg { width: 100%; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: 0 .9rem; color: var(--soft); }
.key span::before { content: ""; display: inline-block; width: .8rem; height: .2rem; margin-right: .35rem;
  vertical-align: middle; background: var(--line); }
details { margin: .5rem 0; }
details details { margin-left: 1.1rem; }
summary { cursor: pointer; }
pre { margin: .4rem 0; padding: .6rem .8rem; overflow-x: auto; background: var(--band); border-radius: 4px;
  font-size: .85rem; }
@media (max-width: 36rem) { .facts div { grid-template-columns: 1fr; } h1 { font-size: 1.6rem; }
  th, td { padding: .3rem .5rem; } th[scope=row], thead th:first-child { max-width: 8.5rem; white-space: normal; } }
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""
