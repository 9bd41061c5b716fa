"""The page's sections, and how they become one file.

No script, no font, no picture is fetched: the page opens from a disk and from any static
host, in light and dark, on a wide screen and on a phone. All of it can be read without its
script, which filters, sorts, opens what a link points at and plays episodes.
"""

import dataclasses
import importlib.resources
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shaping_bench.analysis import curves, metagame, stats, sweeps
from shaping_bench.analysis.entries import COSTS, SUITE_METRICS, alike, entries, metric_names, suite_metrics
from shaping_bench.claims.files import papers
from shaping_bench.claims.record import record_about, recorded
from shaping_bench.errors import BadInput
from shaping_bench.publish import digits, tables
from shaping_bench.publish.cards import cards_beside, cards_in
from shaping_bench.publish.metagame_tables import meta_tables
from shaping_bench.publish.model import ABSENT, Table
from shaping_bench.publish.report import drawing
from shaping_bench.publish.report.boards import BOLD, boards, one_table
from shaping_bench.publish.report.cards import beside_sections, card_sections
from shaping_bench.publish.report.drawing import STATES, Line
from shaping_bench.publish.report.episodes import player
from shaping_bench.publish.report.markup import Addresses, details, escape, facts, meeting, plural, region
from shaping_bench.publish.report.verdicts import published_numbers
from shaping_bench.publish.writers.html import html_table
from shaping_bench.spec import registry
from shaping_bench.store import facts as stored_facts
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

MAX_POINTS = 60
"""Most points of a learning curve that are drawn."""

MAX_CELLS = 2000
"""Most cells of which the page tells more than what they add to a rule's rows: beyond, it grows to what
no browser opens."""

MAX_POLICIES = 100
"""Most seeds whose final policies are drawn in one panel."""

SAME = 5e-4
"""Returns that differ by less are printed alike."""

SHORT = {"beside": "Other tracks", "claims": "Published", "run": "Run", "diverged": "Diverged", "cells": "Cells"}
"""Sections' names in the contents, which stay in sight."""


def write_report(source: Results | Path | str, out: Path | str | None = None) -> Path:
    """Writes the page of a results directory.

    Args:
      source: a results directory, opened or by its path.
      out: the file; ``report.html`` in that directory by default.

    Raises:
      BadInput: no results there, or the file cannot be written.
    """
    results = results_.opened(source)
    path = Path(out) if out is not None else results.directory / "report.html"
    page = render_page(results)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"output is {str(path)!r}, which cannot be written ({error.strerror})") from None
    return path


def render_page(results: Results) -> str:
    """The whole page as text."""
    name = str(results.suite.get("name", "suite"))
    shown = _detailed(results)
    cut = _cut(results, shown)
    addresses = Addresses(shown)
    cards = ("cards", "Cards", card_sections(results, cards_in(results)))
    beside = ("beside", "Shipped cards of other tracks", beside_sections(cards_beside(results)))
    candidates = [cards, beside, ("claims", "Published numbers", _published())]
    if results.records:  # else stopped before anything but cells of cards was stored
        candidates = [
            cards,
            beside,
            ("rules", "Rules by game", boards(results, addresses)),
            *((f"game-{k}", game, _game(shown, addresses, game, bool(cut))) for k, game in enumerate(shown.games)),
            candidates[2],
            ("run", "What was run", _what_was_run(results, addresses)),
            ("diverged", "Diverged seeds", _diverged(results, shown, addresses)),
            ("learners", "Learners", _learners(results)),
            ("metrics", "Metrics", _metrics(shown)),
            ("cells", "Every cell and its command", _cells(shown, addresses)),
        ]
    restricted = {"cells", *(f"game-{k}" for k in range(len(shown.games)))}
    sections = [
        (key, title, cut + content if key in restricted else content) for key, title, content in candidates if content
    ]
    told = {f"game-{k}": _told(shown, game) for k, game in enumerate(shown.games)}
    links = "".join(f'<li><a href="#{key}">{escape(SHORT.get(key, title))}</a></li>' for key, title, _ in sections)
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n'
        f'<h2 id="{key}-title">{escape(title)}{told.get(key, "")}</h2>\n{content}\n'
        "</section>"
        for key, title, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(name)}: opponent shaping compared</title>\n<style>{_resource('style.css')}</style>\n"
        '</head>\n<body>\n<a class="skip" href="#main">Skip to the results</a>\n'
        f'{_header(results, name)}\n<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        f'<main id="main" tabindex="-1">\n{body}\n</main>\n'
        "<footer><p>Made by shaping-bench from stored results; one file, which fetches nothing.</p></footer>\n"
        f"<script>{_resource('page.js')}</script>\n</body>\n</html>\n"
    )


def _detailed(results: Results) -> Results:
    """The results of which everything is shown: all, or where they are too many those among the suite's first
    learners, with all who are no learners where these are few."""
    if len(results.records) <= MAX_CELLS:
        return results
    learners = results.learners or results.labels
    others = [x for x in results.labels if x not in set(learners)]
    order = [*others, *learners] if len(others) < len(learners) else [*learners, *others]
    place = {label: k for k, label in enumerate(order)}
    # A cell is shown once the last of its learners is.
    last = np.sort([max(place[x["label"]] for x in record["learners"]) for record in results.records])
    count = int(last[MAX_CELLS])  # so many labels make at most so many cells
    return results.among(order[: max(count, int(last[0]) + 1)])


def _cut(results: Results, shown: Results) -> str:
    """What of it is not shown, in a sentence; empty where everything is."""
    if shown is results:
        return ""
    return (
        f'<p class="soft">Of {plural(len(results.records), "cell")} these are the {len(shown.records)} among '
        f"{plural(len(shown.learners), 'learner')} of {len(results.learners)}, the first of the suite, and whom they "
        "met. Tables of rules count everybody; <code>shaping-bench table</code> prints everything, and "
        "<code>shaping-bench metagame</code> which rule to adopt.</p>\n"
    )


def _resource(name: str) -> str:
    return importlib.resources.files("shaping_bench.publish.report").joinpath(name).read_text(encoding="utf-8")


def _header(results: Results, name: str) -> str:
    description = " ".join(str(results.suite.get("description") or "").replace("`", "").split())
    encounters = sum(record["kind"] == "encounter" for record in results.records)
    counts = {plural(len(cards_in(results)), "card"): "#cards"} if cards_in(results) else {}
    if results.records:
        counts |= {
            plural(len(results.learners), "learner"): "#rules",
            f"{plural(len(results.games), 'game')} played pairwise": "#game-0",
            plural(encounters, "encounter"): "#cells",
            f"{_range(results.cells['seeds'])} seeds per encounter": "#run",
        }
    listed = "".join(f'<li><a href="{address}">{escape(text)}</a></li>' for text, address in counts.items())
    return (
        f'<header>\n<p class="kind">shaping-bench results</p>\n<h1>Opponent shaping compared: {escape(name)}</h1>\n'
        "<p>Learning rules meet freshly initialised and learn against one another; some take into account that the "
        "other one learns as well. Numbers are what a rule is paid per step after that.</p>\n"
        f"{f'<p>{escape(description)}</p>' if description else ''}\n"
        f'<ul class="counts">{listed}</ul>\n</header>'
    )


def _range(numbers: pd.Series) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


# --- one game -----------------------------------------------------------------------------


def _game(results: Results, addresses: Addresses, game: str, cut: bool) -> str:
    parts: list[str] = []
    bold = f" {BOLD}" if len(results.learners) > 1 else ""
    encounter_tables = _tables_of(results, game, "encounter")
    if encounter_tables:
        first = encounter_tables[0]
        metric = _metric_of(first)
        note = (
            f"The row's learner's {metric} after learning against the column's, mean over seeds; lighter is higher, "
            f"a star marks entries that have lost seeds. Every number links to its cell.{bold}"
        )
        bare = dataclasses.replace(first, title=f"{game}: {metric}")
        parts += [
            "<h3>Learning together</h3>",
            drawing.heat_map(
                bare, link=addresses.entry, row_identity=lambda label: addresses.row_identity(game, label), note=note
            ),
            *(
                drawing.heat_map(
                    dataclasses.replace(x, title=f"{game}: who cooperates with whom"),
                    link=addresses.entry,
                    note="How often the row's learner plays action 0 (cooperate, where the game has it) after learning "
                    "against the column's, discounted: 1 is always.",
                )
                for x in encounter_tables[1:]
                if _metric_of(x) == "cooperation"
            ),
            details(
                f"With spreads: {', '.join(_metric_of(x) for x in encounter_tables)}",
                "\n".join(html_table(x, addresses.entry) for x in encounter_tables),
            ),
        ]
    parts += [
        player(results, game),
        _curves(results, game),
        _within(results, game),
        robustness(results, game),
        _policies(results, game),
        _profiles(results, game),
        # Among some of the rules only it is another game, and among many it takes minutes.
        "" if cut else _meta_game(results, addresses, game),
    ]
    league = _tables_of(results, game, "league")
    if league:
        parts += [
            "<h3>League of final policies</h3>",
            "<p>What each learner's self-play ended in, frozen, meets the others' and fixed strategies without "
            f"learning.{_responding(results, game)}</p>",
            drawing.heat_map(
                dataclasses.replace(league[0], title=f"{league[0].title}, final policies"),
                link=addresses.entry,
                note=f"The row's policy against the column's; lighter is higher.{bold}",
            ),
            details(
                f"With spreads: {', '.join(_metric_of(x) for x in league)}",
                "\n".join(html_table(x, addresses.entry) for x in league),
            ),
        ]
    return "\n".join(part for part in parts if part)


def _responding(results: Results, game: str) -> str:
    """Who plays best responses in a game's league, in a sentence; empty if nobody does."""
    records = (record for record in results.records if record["game"]["label"] == game)
    labels = dict.fromkeys(label for record in records if (label := stored_facts.best_response(record)))
    named = " and ".join(f"<code>{escape(label)}</code>" for label in labels)
    return f" Against {named} it meets the policy that does best against it." if labels else ""


def _metric_of(table: Table) -> str:
    return table.title.removesuffix(" (league)").rpartition(": ")[2]


def _told(results: Results, game: str) -> str:
    """What is played, in the words of the game's entry; nothing of games that are not installed here."""
    played = next(r["game"] for r in results.records if r["game"]["label"] == game)
    entry = registry.games().get(played["name"])
    return f" <small>{escape(entry.summary)}</small>" if entry else ""


def _tables_of(results: Results, game: str, kind: str) -> list[Table]:
    known = metric_names(results, kind)
    names = suite_metrics(results, kind) if known else []
    if kind == "league":
        names = list(dict.fromkeys([*names, *(x for x in ("exploitability",) if x in known)]))
    tables = [one_table(results, name, "opponent", game, kind) for name in names]
    return [x for x in tables if x is not None]


def _curves(results: Results, game: str) -> str:
    metric = next((x for x in ("return", *results.curve_metrics) if x in results.curve_metrics), None)
    if metric is None:
        return ""
    text = (
        f"{metric[:1].upper() + metric[1:]} against updates: mean over seeds. Light band: one standard deviation over "
        "seeds. Darker band: 95 % interval of the mean (Student's t; over preparations where seeds share several)."
    )
    return _panels_of_curves(results, game, curves.bands(results, metric), ("update", metric), "Learning curves", text)


def _within(results: Results, game: str) -> str:
    """What final policies get as an episode goes on; empty where no cell has stored it."""
    text = (
        "What the final policies get in each step of an episode, with spread and interval as above. Who remembers "
        "what it has seen may get more later in an episode without learning anything."
    )
    bands = curves.within_bands(results, "return")
    return _panels_of_curves(results, game, bands, ("step", "return"), "Within an episode", text)


def _panels_of_curves(
    results: Results, game: str, bands: pd.DataFrame, axes: tuple[str, str], heading: str, text: str
) -> str:
    """A panel per cell, those in self-play first.

    Args:
      axes: what is drawn along, and the metric.
    """
    along, metric = axes
    named = metric if along == "update" else f"{metric} by {along}"
    bands = bands[bands["game"] == game]
    if bands.empty or bands[along].nunique() < 2:
        return ""
    spread = bands["std"].fillna(0)
    limits = drawing.limits(np.concatenate([bands["mean"] - spread, bands["mean"] + spread]))
    columns = {name: bands[name].to_numpy(float) for name in ("player", along, "mean", "std", "half")}
    rows_of = {str(key): rows for key, rows in bands.groupby("hash", observed=True).indices.items()}
    own: list[str] = []
    cross: list[str] = []
    for record in results.records:
        if record["hash"] in rows_of:
            labels = [x["label"] for x in record["learners"]]
            own_rows = {name: x[rows_of[record["hash"]]] for name, x in columns.items()}
            panel = _curve_panel(own_rows, labels, f"{game}, {named}", limits, along)
            (own if len(set(labels)) == 1 else cross).append(panel)
    parts = [f"<h3>{heading}</h3>", f"<p>{escape(text)}</p>"]
    if own:
        parts.append(f'<div class="panels">{"".join(own)}</div>')
    if cross:
        grid = f'<div class="panels">{"".join(cross)}</div>'
        parts.append(details(f"{plural(len(cross), 'pairing')} of different learners", grid) if own else grid)
    return "\n".join(parts)


def _curve_panel(
    bands: Mapping[str, np.ndarray], labels: Sequence[str], title: str, limits: tuple[float, float], along: str
) -> str:
    lines: list[Line] = []
    for player_ in np.unique(bands["player"]).astype(int).tolist():
        (rows,) = np.nonzero(bands["player"] == player_)
        label = labels[player_ - 1]
        name = (
            label
            if labels.count(label) == 1
            else f"player {player_}"
            if len(set(labels)) == 1
            else f"{label} ({player_})"
        )
        points = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_POINTS)).round().astype(int))]
        x, mean, std, half = (bands[name][points] for name in (along, "mean", "std", "half"))
        std = np.nan_to_num(std)
        around = {"spread": std, "interval": half} if std.any() else {}
        lines.append(Line(name=name, x=x, mean=mean, **around))
    who = meeting(labels)
    return drawing.line_panel(lines, f"{title}: {who}", limits, who)


def robustness(results: Results, game: str) -> str:
    """What becomes of each learner as one number of its own or of its opponent's changes."""
    if "return" not in results.final_metrics("encounter"):
        return ""
    swept: dict[tuple[str, str, str], list[sweeps.Series]] = {}
    for series in sweeps.series(results):
        if series.game == game and np.isfinite(series.mean).any():
            swept.setdefault((series.swept, series.opponent, series.hyperparameter), []).append(series)
    parts = []
    for (who, opponent, name), group in swept.items():
        limits = drawing.limits(x for series in group for x in (*series.low, *series.high))
        panels = [_sweep_panel(series, limits) for series in group]
        of = {
            "opponent": f"the {name} of {opponent}",
            "learner": f"own {name} against {opponent}",
            "both": f"the {name} of both",
        }
        parts.append(f'<h4>By {escape(of[who])}</h4>\n<div class="panels">{"".join(panels)}</div>')
    if not parts:
        return ""
    text = (
        "Final return against the number that changes: mean over seeds, band: its 95 % bootstrap interval. The dashed "
        "line is the value that the learner takes its opponent to have."
    )
    return "\n".join(["<h3>Robustness</h3>", f"<p>{text}</p>", *parts])


def _sweep_panel(series: sweeps.Series, limits: tuple[float, float]) -> str:
    finite = np.isfinite(series.mean)
    x, mean, low, high = (np.array(v)[finite] for v in (series.x, series.mean, series.low, series.high))
    lost = sum(series.diverged)
    caption = series.learner + (f", {plural(lost, 'seed')} diverged" if lost else "")
    return drawing.line_panel(
        [Line(series.learner, x, mean, interval=np.stack([mean - low, high - mean]))],
        f"{series.game}, {series.metric} of {series.learner} by {series.hyperparameter} against {series.opponent}",
        limits,
        caption,
        log=bool(x.min() > 0.0 and x.max() >= 20.0 * x.min()),
        marked=None if series.assumed is None else (series.assumed, "assumed"),
    )


def _profiles(results: Results, game: str) -> str:
    """Performance profiles: fraction of runs, over all opponents, that return more than a threshold."""
    if "return" not in metric_names(results, "encounter") or not alike(results, "encounter", [game], results.learners):
        return ""
    returns = entries(results, "return")
    returns = returns[(returns["game"] == game) & returns["learner"].isin(results.learners)]
    runs = {
        learner: stats.strata(group.pivot(index="seed", columns="opponent", values="value").to_numpy())
        for learner, group in returns.groupby("learner", sort=False)
    }
    runs = {learner: runs[learner] for learner in results.learners if runs.get(learner)}
    low, high = drawing.limits(returns["value"].to_numpy(float))
    if len(runs) < 2 or not high > low:
        return ""
    levels = np.linspace(low, high, 101)
    panels = [
        drawing.line_panel(
            [Line(learner, levels, stats.performance_profile(x, levels))],
            f"{game}: performance profile of {learner}",
            (-0.03, 1.03),
            learner,
        )
        for learner, x in runs.items()
    ]
    text = "<p>Fraction of runs, over seeds and opponents, that return more than the value below.</p>"
    return details("Performance profiles", f'{text}\n<div class="panels">{"".join(panels)}</div>')


# --- the meta-game ------------------------------------------------------------------------


def _meta_game(results: Results, addresses: Addresses, game: str) -> str:
    """Which rule to choose, where others choose too; empty where too few have met."""
    meta = metagame.analyse(results, game)
    if meta is None:
        return ""
    strategies, gain, *others = meta_tables(meta)
    brief = "Row: the rule of a single adopter; column: the rule of everybody else; what the adopter returns more."
    return "\n".join(
        [
            "<h3>Which rule to adopt</h3>",
            "<p>The choice of a learning rule is a game itself: what a rule returns depends on the rules that the "
            "others have chosen.</p>",
            f"<ul>{''.join(f'<li>{x}</li>' for x in _advice(meta))}</ul>",
            drawing.heat_map(dataclasses.replace(gain, note=""), link=addresses.entry, note=brief),
            details(
                "Rules as strategies: gain from leaving, alpha-rank, replicator dynamics, equilibria",
                "\n".join(html_table(x, addresses.entry) for x in (strategies, others[-1])),
            ),
            details(
                "With intervals: gains, their probability, and what adoption does to the others",
                "\n".join(html_table(x, addresses.entry) for x in (gain, *others[:-1])),
            ),
        ]
    )


def _advice(meta: metagame.MetaGame) -> list[str]:
    """The meta-game in sentences."""
    if np.ptp(meta.payoffs[np.isfinite(meta.payoffs)]) < SAME:
        return ["To the last digit shown all rules return the same here: nothing is to be chosen."]
    said = []
    for i, rule in enumerate(meta.rules):
        k = int(meta.exploiter[i])
        low, high = map(digits.signed, meta.gain_ci[k, i])
        if rule == "naive" or (i == 0 and "naive" not in meta.rules):
            change = "most of all here" if meta.gain[k, i] > 0 else "still the most here"
            said.append(
                f"Where everybody plays {escape(rule)}, a single adopter of {escape(meta.rules[k])} gains "
                f"{digits.signed(meta.gain[k, i])} per step (95 % interval {low} to {high}), {change}."
            )
    pure = [meta.rules[int(x.shares.argmax())] for x in meta.equilibria if (x.shares > 0).sum() == 1]
    if pure:
        said.append(f"Where everybody plays it, nobody gains by leaving: {escape(', '.join(pure))}.")
    else:
        # An adopter that gains nothing told from nothing is no reason to leave.
        held = [rule for rule, (low, _) in zip(meta.rules, meta.exploitability_ci, strict=True) if not low > 0]
        said.append(
            f"Where everybody plays it, nobody is told to gain by leaving (95 % interval): {escape(', '.join(held))}."
            if held
            else "Whichever rule everybody plays, somebody gains by leaving it."
        )
    weight = sorted(zip(meta.alpha_rank, meta.alpha_rank_ci, meta.rules, strict=True), key=lambda x: -x[0])
    leaders = [
        f"{escape(rule)} {mass:.2f} [{low:.2f}, {high:.2f}]" for mass, (low, high), rule in weight if mass >= 0.05
    ]
    said.append(
        "Where rules spread by imitation, these last (alpha-rank's mass, 95 % interval): "
        f"{', '.join(leaders) or 'none'}."
    )
    return said


# --- policies -----------------------------------------------------------------------------


def _policies(results: Results, game: str) -> str:
    """Final memory-one policies: every seed's, and the table of their means."""
    names = [f"cooperation_{s}" for s in STATES if f"cooperation_{s}" in metric_names(results, "encounter")]
    frames = [entries(results, name).assign(metric=name.removeprefix("cooperation_")) for name in names]
    if not frames:
        return ""
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[frame["game"] == game]
    own = frame[frame["learner"] == frame["opponent"]]
    where, frame = ("in self-play", own) if len(own) else ("averaged over opponents", frame)
    if frame.empty:
        return ""
    (table,) = tables.tabulated(results, frame, kind="encounter", rows="learner", cols="metric")
    parts = [
        "<h3>Policies</h3>",
        "<p>The probability of the first action (cooperate, heads) at the start and after each outcome of the last "
        f"round, own action first, {where}: what a learner has come to do, and how its cooperation depends on the "
        "other's. Tit-for-tat is 1, 1, 0, 1, 0.</p>",
    ]
    seats = _final_policies(results, game)
    if seats:
        strips, planes = _policy_panels(results, game, seats)
        parts += [
            f'<p class="soft">One dot per player of each of {_drawn(seats)}; bars are means.</p>',
            f'<div class="panels">{strips}</div>',
            details(
                "Player 1 against player 2, in the unit square",
                f"<p>Every seed's two policies against one another, as in the LOLA paper's figures.</p>"
                f'{drawing.marks_key()}\n<div class="panels square">{planes}</div>',
            ),
        ]
    title = f"{game}: cooperation by state, {where}"
    parts += [
        drawing.heat_map(dataclasses.replace(table, title=title, cols="state"), (0.0, 1.0)),
        details(
            "The same with spreads", html_table(dataclasses.replace(table, title=f"{game}: by state", cols="state"))
        ),
    ]
    return "\n".join(parts)


@results_.kept
def _in_self_play(results: Results, metric: str) -> pd.DataFrame:
    """A metric of either player where two of a kind met: game, learner, seed, "1", "2"."""
    rows = results.final(metric, "encounter").astype({name: object for name in ("game", "learner", "opponent")})
    rows = rows[rows["learner"] == rows["opponent"]]
    table = rows.groupby(["game", "learner", "seed", "player"], sort=True)["value"].mean().unstack("player")
    table.columns = [str(x) for x in table.columns]
    pairs = table[["1", "2"]] if {"1", "2"} <= set(table.columns) else table.iloc[:0].reindex(columns=["1", "2"])
    return pairs.reset_index()


def _final_policies(results: Results, game: str) -> dict[str, dict[str, np.ndarray]]:
    """Label to state to ``(S, 2)``, of self-play; diverged seeds left out."""
    policies: dict[str, dict[str, np.ndarray]] = {}
    for state in STATES:
        rows = _in_self_play(results, f"cooperation_{state}")
        for label, group in rows[rows["game"] == game].groupby("learner"):
            table = group[["1", "2"]].to_numpy(float)
            policies.setdefault(str(label), {})[state] = table[np.isfinite(table).all(axis=1)]
    return {x: policies[x] for x in results.labels if x in policies}


def _drawn(seats: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    most = max(len(x) for states in seats.values() for x in states.values())
    return f"the first {MAX_POLICIES} of {most} seeds" if most > MAX_POLICIES else plural(most, "seed")


def _policy_panels(results: Results, game: str, seats: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[str, str]:
    strips, planes = [], []
    for label, states in seats.items():
        most = {state: x[:MAX_POLICIES] for state, x in states.items()}
        strips.append(
            drawing.strip_panel(
                [(state, x.ravel()) for state, x in most.items()],
                f"{game}: probability of the first action by state, {label} in self-play",
                label,
            )
        )
        planes.append(
            drawing.plane_panel(
                [(state, x[:, 0], x[:, 1]) for state, x in most.items()],
                f"{game}: policies of both players, {label} in self-play",
                label,
            )
        )
    return "".join(strips), "".join(planes)


# --- published numbers --------------------------------------------------------------------


def _published() -> str:
    rows = recorded()
    return published_numbers(rows, papers(), record_about()) if rows else ""


# --- what ran -----------------------------------------------------------------------------


def _what_was_run(results: Results, addresses: Addresses) -> str:
    records, cells = results.records, results.cells
    versions = {f"{k} {v}" for record in records for k, v in (record.get("versions") or {}).items()}
    encounters = int((cells["kind"] == "encounter").sum())
    seconds = cells["compile_seconds"].sum() + cells["run_seconds"].sum()
    commits = dict.fromkeys(_short_commit(x) for x in cells["git_commit"].dropna())
    told = {
        "Games": ", ".join(results.games),
        "Learners": ", ".join(results.learners),
        "Further opponents": ", ".join(x for x in results.labels if x not in results.learners),
        "Cells": f"{encounters} encounters, {len(cells) - encounters} league match-ups",
        "Seeds per cell": _distinct(cells["seeds"]),
        "Base seed": _distinct(cells["seed"]),
        "Updates": _distinct(cells.loc[cells["kind"] == "encounter", "steps"]),
        "Precision": _distinct(cells["precision"]),
        "Device": _distinct(cells["device"]),
        "Commit": ", ".join(commits),
        "Versions": ", ".join(sorted(versions)),
        "Started": str(cells["started"].dropna().min()) if cells["started"].notna().any() else "",
        "Seconds": f"{seconds:.1f} in compiled programs and their compilation",
    }
    listed = facts({key: escape(value) for key, value in told.items()})
    return f"{listed}\n{details('What it cost, by learner and game', _costs(results, addresses))}"


def _short_commit(commit: object) -> str:
    """Ten digits say which; whether the tree had changes stays."""
    name, mark, state = str(commit).partition("-")
    return name[:10] + mark + state


def _distinct(column: pd.Series) -> str:
    return ", ".join(str(x) for x in column.dropna().unique())


def _costs(results: Results, addresses: Addresses) -> str:
    parts = ["<p>Per cell, all seeds together, averaged over opponents; seconds are those of the compiled program.</p>"]
    for metric in COSTS:
        frame = entries(results, metric).assign(metric=metric)
        if len(frame) and frame["value"].any():
            spent = tables.tabulated(results, frame, kind="encounter", rows="learner", cols="game", spread="none")
            parts += [html_table(x, addresses.average) for x in spent]
    return "\n".join(parts)


def _diverged(results: Results, shown: Results, addresses: Addresses) -> str:
    marks = results.final("diverged")
    marks = marks[marks["value"] > 0]
    if marks.empty:
        return "<p>None: every seed of every cell stayed finite.</p>"
    seeds = marks.groupby("hash", observed=True)["seed"].unique()
    rows = []
    for record in shown.records:
        if record["hash"] in seeds.index:
            numbers = sorted(int(x) for x in seeds[record["hash"]])
            first = ", ".join(map(str, numbers[:20])) + (", …" if len(numbers) > 20 else "")
            address = addresses.entry([record["hash"]])
            rows.append(
                f'<tr><th scope="row">{escape(_cell_title(record))}</th>'
                f'<td><a href="{address}">{len(numbers)} of {record["seeds"]}</a></td>'
                f'<td class="left">{first}</td></tr>'
            )
    table = (
        '<table>\n<thead><tr><th scope="col">cell</th><th scope="col">diverged</th><th scope="col">seeds</th></tr>'
        f"</thead>\n<tbody>{''.join(rows)}</tbody></table>"
    )
    said = "<p>Seeds whose parameters did not stay finite. They enter no statistic; entries that miss them say so.</p>"
    listed = region("Diverged seeds", table)
    if len(rows) < len(seeds):
        said += f'\n<p class="soft">Listed are {len(rows)} of {plural(len(seeds), "cell")} that have lost some.</p>'
    return f"{said}\n{details(plural(len(rows), 'cell'), listed) if len(rows) > 12 else listed}"


def _learners(results: Results) -> str:
    """Who is who, in the words of the rules' own documentation: those of the suite, those of its cards, and those that
    these meet; those not installed here by name only."""
    from shaping_bench.publish.catalogue import catalogue

    known = {x["name"]: x for x in catalogue(["algorithms"])["algorithms"]}
    told = {}
    for label in results.labels:
        described = results.played[label]
        access = described.get("access", ABSENT)
        told[label] = _described(known.get(described["name"], {}), access, described["needs_preparation"])
    for made in cards_in(results):
        met = [x.background for x in made.track.of(made.split) if x.background]
        for learner in (*(row["learner"] for row in made.rows), *met):
            rule = registry.make_learner(learner)
            if rule.name not in told and rule.name in known:
                kind = rule.value
                told[rule.name] = _described(known[rule.name], str(kind.access), kind.needs_preparation)
    return facts(told)


def _described(entry: Mapping[str, Any], access: str, prepares: bool) -> str:
    summary, source = entry.get("summary", ""), entry.get("source", "")
    words = [f"{escape(x.rstrip('.'))}." for x in (summary,) if x]
    words.append(f"Sees: {escape(access)}." + " Prepares." * prepares)
    words += [f"Source: {escape(x.rstrip('.'))}." for x in (source,) if x and x != summary]
    return " ".join(words).replace("``", "")


def _metrics(results: Results) -> str:
    """Formula, unit and source of the metrics on this page."""
    from shaping_bench.metrics import definition

    shown = [*suite_metrics(results, "encounter"), *SUITE_METRICS, *COSTS]
    shown += [x for x in ("exploitability",) if x in metric_names(results, "league")]
    told = {}
    for name in dict.fromkeys(shown):
        d = definition(name)
        better = "" if d.direction == "none" else f"; {d.direction} is better"
        source = f" Source: {escape(d.source)}." if d.source else ""
        told[name] = f"{escape(d.formula)} ({escape(d.unit)}{better}).{source}"
    return facts(told)


# --- cells --------------------------------------------------------------------------------


def _cells(results: Results, addresses: Addresses) -> str:
    parts = [
        "<p>Each encounter again, from a shell with shaping-bench installed, and everything that decides it. Cells "
        "with the same learners in other seats stand together.</p>"
    ]
    described: dict[str, list[dict[str, Any]]] = {}
    for record in results.records:
        described.setdefault(addresses.identity(record["hash"]), []).append(record)
    for kind, game in itertools.product(("encounter", "league"), results.games):
        chosen = [x for x in described.values() if x[0]["kind"] == kind and x[0]["game"]["label"] == game]
        if chosen:
            count = sum(map(len, chosen))
            inside = "\n".join(_meeting(addresses, records) for records in chosen)
            noun = plural(count, "encounter") if kind == "encounter" else plural(count, "match-up")
            parts.append(details(f"{game}: {noun}", inside))
    parts += ["<h3>By learner</h3>", *_by_learner(results, addresses)]
    return "\n".join(parts)


def _meeting(addresses: Addresses, records: Sequence[Mapping[str, Any]]) -> str:
    inside = "\n".join(_configuration(record) for record in records)
    identity = addresses.identity(records[0]["hash"])
    # The identifier stands inside: a browser opens what encloses the target of a link.
    return details(_cell_title(records[0]), f'<div id="{identity}" tabindex="-1">{inside}</div>', kind="cell")


def _configuration(record: Mapping[str, Any]) -> str:
    costs, timings = record["costs"], record["timings"]
    counted = costs.get("gradient_evaluations", 0)
    evaluations = sum(counted) if isinstance(counted, list) else counted
    told = {"Game": f"{escape(record['game']['label'])}: {_numbers(record['game'])}"}
    for k, learner in enumerate(record["learners"]):
        prepared = learner.get("preparation")
        told[f"Player {k + 1}"] = (
            f"{escape(learner['label'])}: {_numbers(learner)}; access: {escape(learner.get('access', ABSENT))}"
            + (f"; prepared before: {escape(digits.preparation_cost([prepared]))}" if prepared else "")
        )
    protocol = {"seeds": "seeds", "seed": "base seed", "steps": "updates", "record_every": "recorded every",
                "precision": "precision"}  # fmt: skip
    told["Protocol"] = escape(
        ", ".join(f"{name} {record[k]}" for k, name in protocol.items() if record.get(k) is not None)
    )
    spent = [
        f"{timings.get('compile', 0.0):.2f} s to compile, {timings.get('run', 0.0):.2f} s to run",
        f"{evaluations} gradient evaluations" if evaluations else "",
        f"{costs['environment_steps']} environment steps" if costs.get("environment_steps") else "",
        f"{record.get('diverged', 0)} diverged",
    ]
    told["Cost"] = escape(", ".join(x for x in spent if x))
    device = record.get("device") or {}
    tools = [
        ", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items()),
        f"commit {_short_commit(record['git_commit'])}" if record.get("git_commit") else "",
        f"{device.get('kind', 'unknown')} x {device.get('count', 1)}" if device else "",
        str(record.get("started") or ""),
    ]
    told["Made with"] = escape("; ".join(x for x in tools if x))
    told["Stored in"] = f"<code>cells/{escape(record['hash'])}</code>"
    command = escape(record.get("command", ""))
    return f"<pre><code>{command}</code></pre>\n{facts(told, 'facts one')}"


def _numbers(described: Mapping[str, Any]) -> str:
    """Hyperparameters, those that are not set left out."""
    numbers = [f"{k}={v}" for k, v in (described.get("hyperparameters") or {}).items() if v is not None]
    return f"<code>{escape(', '.join(numbers))}</code>" if numbers else "no hyperparameters"


def _by_learner(results: Results, addresses: Addresses) -> list[str]:
    """All cells of each learner, as links."""
    meetings: dict[str, dict[str, dict[str, str]]] = {label: {} for label in results.labels}
    for record in results.records:
        labels = [x["label"] for x in record["learners"]]
        where = record["game"]["label"] + (" (league)" if record["kind"] == "league" else "")
        for k, label in enumerate(labels):
            others = stored_facts.opponent(labels, k)
            meetings[label].setdefault(where, {})[others] = f"#{addresses.identity(record['hash'])}"
    parts = []
    for label, games in meetings.items():
        told = {
            where: ", ".join(f'<a href="{address}">{escape(other)}</a>' for other, address in links.items())
            for where, links in games.items()
        }
        inside = f'<div id="{addresses.learner_identity(label)}" tabindex="-1">{facts(told, "facts one")}</div>'
        parts.append(details(f"{label} met", inside, kind="met"))
    return parts


def _cell_title(record: Mapping[str, Any]) -> str:
    kind = " (league)" if record["kind"] == "league" else ""
    return f"{record['game']['label']}: {meeting([x['label'] for x in record['learners']])}{kind}"
