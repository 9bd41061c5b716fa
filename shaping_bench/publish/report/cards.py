"""Cards on the page: a table, a picture per rule, and scenario by scenario the cells that a score is from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shaping_bench.analysis.scores import COLUMNS
from shaping_bench.analysis.standing import standing
from shaping_bench.publish.cards import Card, Row, apart, explained, extra, extras, marks_used, size, spent, training
from shaping_bench.publish.digits import brief
from shaping_bench.publish.model import ABSENT, Entry
from shaping_bench.publish.report.drawing import profile_panel
from shaping_bench.publish.report.markup import breakable, details, escape, plural, region
from shaping_bench.publish.standings import (
    card_table,
    game_tables,
    improvement_table,
    lacking_table,
    lifetime_table,
    name_of,
    rank_table,
    score_entry,
)
from shaping_bench.publish.writers.html import html_table
from shaping_bench.store.results import Results

MEANINGS = {
    "cooperation": "what it gets with its like, of the social optimum",
    "shaping": "what it gets from a naive learner, beyond what a naive learner gets there",
    "generality": "what it gets among learners with other steps and beginnings and among shapers, of the best known",
    "adaptation": "what it gets from fixed strategies, of the exact best response's",
    "safety": "what its policy keeps from a best response to it, of what the best policies keep",
    "effect": "what the others get from it beyond what a naive learner leaves them, of the range of rewards",
    "gain": "what a best response to it gets beyond what it and its like get, of the range of rewards: none from who "
    "already defects, however little it keeps",
    "lost": "runs that diverged, its own or the other's; each counts as a share of -1",
    "access": "what a rule is told of the others, beside the game: nothing, their actions, parameters, gradients, or "
    "all of the game as a simulator",
    "shares": "of each scenario the mean over seeds, clipped to [-1, 1]; the subject sits in seat 1",
}
"""Scores of a card in words, and what else stands there."""

SHORT = ("coop.", "shap.", "gen.", "adapt.", "safe", "effect")
"""The same where there is little room."""

MAX_CELLS_LISTED = 3
"""Of a scenario of many games, as many cells are named."""


def card_sections(results: Results, cards: Sequence[Card]) -> str:
    """All cards; empty if there are none."""
    records = {record["hash"]: record for record in results.whole.records}
    return "\n".join(_card(card, k, records) for k, card in enumerate(cards))


def beside_sections(cards: Sequence[Card]) -> str:
    """Shipped cards of other tracks, a table each; empty if there are none."""
    if not cards:
        return ""
    names = " or ".join(f"<code>{escape(card.track.name)}</code>" for card in cards)
    said = (
        "<p>Tracks that this suite does not ask for, as they are shipped. Rules of different tracks meet different "
        "games at different budgets, and are in no common ranking. A rule of one's own joins a card by "
        f"<code>shaping-bench score RULE --track TRACK</code>, TRACK being {names}.</p>"
    )
    return "\n".join([said, *(x for card in cards for x in (html_table(card_table(card)), _without_row(card)) if x)])


def _without_row(card: Card) -> str:
    """Rules that a card does not list and what is missing; empty if it lists all."""
    count = sum(len(x.rules) for x in card.lacking)
    able = sum(len(x.rules) for x in card.lacking if x.plays)
    title = f"{plural(count, 'rule')} without a row, {able} of which can play here, and what is missing"
    return details(title, html_table(lacking_table(card))) if count else ""


def _card(card: Card, number: int, records: Mapping[str, Mapping[str, Any]]) -> str:
    title = f"{card.title[0].upper()}{card.title[1:]}"
    rows = {row["learner"]: row for row in card.rows}
    words = "".join(f"<div><dt>{name}</dt><dd>{escape(said)}</dd></div>" for name, said in MEANINGS.items())
    missing = [
        f"{escape(row['learner'])} lacks {escape(', '.join(row['missing'][:3]))}" for row in card.rows if row["missing"]
    ]
    panels = "".join(
        profile_panel(
            [(short, row[c]["value"], row[c]["low"], row[c]["high"]) for short, c in zip(SHORT, COLUMNS, strict=True)],
            [rows[card.track.naive][c]["value"] if card.track.naive in rows else None for c in COLUMNS],
            f"Scores of {row['learner']}: " + ", ".join(f"{c} {score_entry(row[c]).text}" for c in COLUMNS),
            f"{row['rank'] or ABSENT}. {name_of(row)}" if row["rank"] else f"{name_of(row)}, not ranked",
            f"#{_identity(number, k)}",
        )
        for k, row in enumerate(card.rows)
    )
    parts = [
        f"<h3>{escape(title)}</h3>",
        "<p>Every rule is asked the same: to meet its like, naive learners, learners of other kinds, fixed strategies, "
        "shapers and a best response, in the same games and at the same budget. 0 is random play, 1 the best known or "
        f"possible. {escape(size(card)[0].upper() + size(card)[1:])}. Rules of other tracks and tiers stand on other "
        "cards. Numbers and pictures lead to the scenarios and cells that they are from.</p>",
        *(f'<p class="soft">{mark} behind a name: {escape(said)}.</p>' for mark, said in marks_used(card).items()),
        _apart(card),
        f'<p class="soft">Not ranked: {"; ".join(missing)}.</p>' if missing else "",
        *(f'<p class="soft">{escape(x[0].upper() + x[1:])}.</p>' for x in training(card)),
        _table(card, number),
        _without_row(card),
        _in_words(card),
        _by_game(card),
        "<h4>Profiles</h4>",
        '<p class="soft">A dot per score with its 95 % interval over seeds; the short bar is the naive learner, the '
        "line random play.</p>",
        f'<div class="panels">{panels}</div>',
        details("What the scores are", f'<dl class="facts">{words}</dl>'),
    ]
    found = standing(card.ranked)
    if found is not None:
        both = "\n".join(html_table(x) for x in (rank_table(card, found), improvement_table(card, found)))
        parts.append(details("The scores over all updates", html_table(lifetime_table(card))))
        parts.append(details("Ranks, and who improves on whom, over the scenarios of the card", both))
    parts.append(f"<h4>From which scenarios and cells, {plural(len(card.rows), 'rule')}</h4>")
    parts += [_rule(card, row, _identity(number, k), records) for k, row in enumerate(card.rows)]
    return "\n".join(part for part in parts if part)


def _by_game(card: Card) -> str:
    """Scores game by game; nothing of one game."""
    tables = game_tables(card)
    if not tables:
        return ""
    note = "A mean over games does not say in which of them: intervals are behind each rule, below."
    return "\n".join(["<h4>Game by game</h4>", f'<p class="soft">{note}</p>', *map(html_table, tables)])


NOTABLE = 0.05
"""Gain of an adversary, of the range of rewards, from which on one calls it exploitation."""

ASKED: tuple[tuple[str, str, float, str, str], ...] = (
    ("cooperation", "Who cooperates with its like?", 0.5, "more than half way to the optimum", "less than half way"),
    ("shaping", "Who gets more from a naive learner than a naive one does?", 0.0, "gets more", "gets less"),
    (
        "gain",
        "Who can be exploited?",
        NOTABLE,
        "a best response gains more than a twentieth of the range of rewards by it",
        "gains less",
    ),
    (
        "safety",
        "Who holds out against a best response?",
        0.5,
        "keeps more than half of what can be kept",
        "keeps less than half",
    ),
    ("effect", "Who is good for the others?", 0.0, "leaves them more than a naive learner", "leaves them less"),
)
"""Questions that a card answers: a score, what is asked, the level that decides, and what lies above and below it."""


def _in_words(card: Card) -> str:
    """Who is on which side of a level, with all of its interval, and who pays most; who others are measured from
    is on none."""
    told = {}
    for column, question, level, above, below in ASKED:
        sides: dict[str, list[str]] = {above: [], below: [], "undecided": []}
        for row in card.rows:
            score = row[column]
            measure = column in ("shaping", "effect") and row["learner"] == card.track.naive
            if score["value"] is None or measure:
                continue
            low, high = (
                x if x is not None and math.isfinite(x) else score["value"] for x in (score["low"], score["high"])
            )
            sides[above if low > level else below if high < level else "undecided"].append(row["learner"])
        said = [f"{escape(side)}: {escape(', '.join(names))}" for side, names in sides.items() if names]
        told[question] = "; ".join(said) or ABSENT
    view = card.track.view
    costs = sorted(((spent(row, view)[0], row["learner"]) for row in card.rows), reverse=True)
    unit = spent(card.rows[0], view)[1]
    told["At what cost?"] = escape(f"{unit}: " + ", ".join(f"{name} {brief(x)}" for x, name in costs))
    listed = "".join(f"<div><dt>{question}</dt><dd>{answer}</dd></div>" for question, answer in told.items())
    return (
        f'<h4>In words</h4>\n<p class="soft">By all of the 95 % interval.</p>\n<dl class="facts one">{listed}</dl>'
        if card.rows
        else ""
    )


def _identity(number: int, k: int) -> str:
    return f"card-{number}-{k}"


def _table(card: Card, number: int) -> str:
    more = extras(card)
    ordinal = any(row["ordinal"]["generality"]["value"] is not None for row in card.rows)
    names = ["rank", *COLUMNS, *["ordinal games"] * ordinal, *more, "lost runs", "access", "cost"]
    head = "".join(f'<th scope="col">{escape(x)}</th>' for x in names)
    lines = []
    for k, row in enumerate(card.rows):
        address = f"#{_identity(number, k)}"
        scores = [score_entry(row[c]) for c in COLUMNS] + [score_entry(row["ordinal"]["generality"])] * ordinal
        cells = "".join(f"<td>{_linked(x, address)}</td>" for x in scores)
        cells += "".join(f"<td>{_more(row, name, address)}</td>" for name in more)
        lines.append(
            f'<tr><th scope="row">{breakable(name_of(row))}</th>'
            f"<td>{row['rank'] or ABSENT}</td>{cells}<td>{row['lost']}</td><td>{escape(row['access'])}</td>"
            f"<td>{spent(row, card.track.view)[0]:,.0f}</td></tr>"
        )
    note = (
        f"Best {card.track.headline} first, over the same scenarios; with 95 % bootstrap intervals over seeds. "
        "Bold: the best of a column, and all that its seeds do not tell from it (exchange test, Holm-corrected over "
        "all pairs of the column, 0.05), nobody where all are; a rule whose seeds differ much may be bold below others "
        "that are told apart."
        + " Ordinal games: generality over all games of two actions, from either seat." * ordinal
        + "".join(f" {name.capitalize()}: {explained(name)}." for name in more)
        + f" Cost: {spent(card.rows[0], card.track.view)[1]} that it asked for in all scenarios together, per seed, "
        "preparations included."
    )
    table = (
        f'<table class="card"><caption><span>{escape(card.title)}</span> <small>{note}</small></caption>\n'
        f'<thead><tr><th scope="col">learner</th>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table>'
    )
    return region(f"Card: {card.title}", table)


def _more(row: Row, name: str, address: str) -> str:
    """What stands in a column that some cards have, with its interval if it has one."""
    return _linked(score_entry(row[name]), address) if isinstance(row[name], Mapping) else _number(extra(row, name))


def _apart(card: Card) -> str:
    """Games that are in no average, with why, and who of the ranked does much worse than random play there."""
    lost = apart(card)
    if not lost:
        return ""
    told = "; ".join(f"in {game} {', '.join(names) or 'none of these'}" for game, names in lost.items())
    return (
        f"<p>In no average, because one reward there is far from all others and would decide it: {', '.join(lost)}. "
        f"With their like crash {escape(told)}.</p>"
    )


def _linked(x: Entry, address: str) -> str:
    number, _, rest = x.text.partition(" ")
    text = f"<strong>{escape(number)}</strong>" if x.best else escape(number)
    spread = f' <span class="spread">{escape(rest)}</span>' if rest else ""
    return f'<a href="{address}">{text}</a>{spread}' if x.mean is not None else ABSENT


def _rule(card: Card, row: Row, identity: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """Scenario by scenario what a rule got, and its cells."""
    lines = []
    for scenario in card.track.of(card.split):
        told = row["scenarios"][scenario.name]
        share = score_entry(told["share"]).text
        returns = "".join(f"<td>{_number(told[x])}</td>" for x in ("return", "lifetime_return", "others_return"))
        average = scenario.family if scenario.block == "main" else f"{scenario.family} ({scenario.block})"
        lines.append(
            f'<tr><th scope="row">{escape(scenario.name)}</th><td class="left">{escape(average)}</td>'
            f'<td>{escape(share)}</td>{returns}<td>{told["lost"] or ""}</td><td class="left">'
            f"{_cells(told['cells'], records)}</td></tr>"
        )
    names = ("family", "share", "return", "over all updates", "the others'", "lost", "cells")
    head = "".join(f'<th scope="col">{escape(x)}</th>' for x in names)
    table = (
        f'<table>\n<thead><tr><th scope="col">scenario</th>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table>'
    )
    games = f" --games {' '.join(card.track.games)}" if card.track.games else ""
    command = f"shaping-bench score {row['learner']!r} --track {card.track.name} --tier {card.tier}{games} --json"
    shipped = row["origin"] == "reference"
    origin = "Shipped: <code>shaping-bench reference</code> says how. Again:" if shipped else "By itself:"
    met = row["not_held_out"]
    held = f"<p>Not held out for it: {escape(', '.join(met))}.</p>" if met else ""
    inside = (
        f'<div id="{identity}" tabindex="-1"><p>{origin} <code>{escape(command)}</code></p>{held}\n'
        f"{region('Scenarios of ' + row['learner'], table)}</div>"
    )
    return details(name_of(row), inside, kind="cell")


def _number(x: float | None) -> str:
    return ABSENT if x is None or not math.isfinite(x) else f"{x:.3f}"


def _cells(hashes: Sequence[str], records: Mapping[str, Mapping[str, Any]]) -> str:
    """Where they are stored, and by which command each is computed."""
    shown = []
    for key in hashes[:MAX_CELLS_LISTED]:
        command = records.get(key, {}).get("command")
        named = f"<code>{escape(key[:8])}</code>"
        shown.append(f'<span title="{escape(command)}">{named}</span>' if command and len(hashes) > 1 else named)
    more = f" and {len(hashes) - MAX_CELLS_LISTED} more" if len(hashes) > MAX_CELLS_LISTED else ""
    command = records.get(hashes[0], {}).get("command") if len(hashes) == 1 else None
    return ", ".join(shown) + more + (f" <code>{escape(command)}</code>" if command else "")
