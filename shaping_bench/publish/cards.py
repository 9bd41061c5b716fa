"""Cards: rules of one track and tier side by side, as JSON and for terminals."""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaping_bench.analysis import reference as shipped
from shaping_bench.analysis.lacking import Lack, lacking
from shaping_bench.analysis.scores import (
    COLUMNS,
    Anchors,
    Scored,
    Subject,
    anchors_of,
    marked,
    overlaps,
    subject_of,
)
from shaping_bench.publish import digits
from shaping_bench.spec.scenarios import (
    Scenario,
    Track,
    card_cells,
    card_responses,
    load_track,
    subjects_of,
    track_names,
)
from shaping_bench.store.results import Results, kept

MAX_LINES = 40
MAX_WIDTH = 120
"""Of what a terminal is shown."""

NAME_WIDTH = 18
"""Of a learner, at most."""

SHIPPED = "\N{DEGREE SIGN}"
"""Marks rows that were not computed here."""

CHANGED = "\N{DAGGER}"
"""Marks those of them whose rule has another source by now."""

ITSELF = "\N{DOUBLE DAGGER}"
"""Marks rules that a scenario of a held-out family is not held out for."""

MARKS: Mapping[str, str] = {
    SHIPPED: "shipped results, not computed here",
    CHANGED: "its source is another one since: `shaping-bench reference --check` computes a sample again",
    ITSELF: "it met itself, or whom it was prepared against, among the others",
}
"""What marks behind names say."""

COSTS = {"exact": ("gradient_evaluations", "grads"), "sampled": ("environment_steps", "steps")}
"""What rules of a view pay with, and its heading: per seed, preparations included."""

BY_GAME = ("cooperation", "shaping", "gain")
"""Scores that cards tell game by game: a mean over games hides who is good in which."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """A card.

    Attributes:
      track, tier, split: of which it is.
      rows: a row per rule, plain enough for JSON, best first; those that are not ranked last.
      ranked: the scores of those that are, in that order.
    """

    track: Track
    tier: str
    split: str
    rows: tuple[Row, ...]
    ranked: tuple[Scored, ...]

    def plain(self) -> dict[str, Any]:
        """What ``score --json`` prints."""
        return {
            "track": self.track.name,
            "tier": self.tier,
            "split": self.split,
            "rows": list(self.rows),
            "without_row": {rule: x.why for x in self.lacking for rule in x.rules},
        }

    @functools.cached_property
    def lacking(self) -> tuple[Lack, ...]:
        """Rules without a row, and what each lacks."""
        return lacking(self.track, self.tier, self.split, [row["learner"] for row in self.rows])

    @property
    def without_row(self) -> str:
        """Their names, of those that play here, and how many do not."""
        able = [rule for x in self.lacking if x.plays for rule in x.rules]
        others = sum(len(x.rules) for x in self.lacking if not x.plays)
        return f"{', '.join(able) or 'nobody who plays here'}" + f"; {others} that do not play here" * bool(others)

    @property
    def title(self) -> str:
        games = f" in {', '.join(self.track.games)} alone" if self.track.games else ""
        split = "" if self.split == "test" else f", {self.split} split"
        return f"{self.track.name} track{games}, {self.tier} tier{split}"


def card(
    subjects: Sequence[Subject],
    *,
    naive: Subject,
    anchors: Anchors,
    track: Track,
    tier: str,
    split: str = "test",
    changed: Sequence[str] = (),
) -> Card:
    """The card of some rules.

    Args:
      subjects: the rules.
      naive: the track's naive learner.
      anchors: what shares are measured by.
      track, tier, split: of which it is.
      changed: rules of which the source has changed since their runs were made.
    """
    scored = [Scored(subject, naive=naive, anchors=anchors, track=track, split=split) for subject in subjects]
    rows = [_row(x, tier) for x in scored]
    for row in rows:
        row["changed"] = row["learner"] in changed
    ranked = [(x, row) for x, row in zip(scored, rows, strict=True) if row["ranked"]]
    for column in COLUMNS:
        values = {row["learner"]: row[column]["value"] for _, row in ranked if row[column]["value"] is not None}
        seeds = {row["learner"]: x.per_seed(column, "main") for x, row in ranked if row["learner"] in values}
        best = marked(seeds, values) if len(values) > 1 else set()  # type: ignore[arg-type]
        if len(best) == len(values):  # a mark on everybody says nothing
            best = set()
        for row in rows:
            row[column]["best"] = row["learner"] in best
    order = sorted(zip(scored, rows, strict=True), key=lambda x: _place(x[1], track.headline))
    for k, (_, row) in enumerate(x for x in order if x[1]["ranked"]):
        row["rank"] = k + 1
    return Card(
        track=track,
        tier=tier,
        split=split,
        rows=tuple(row for _, row in order),
        ranked=tuple(x for x, row in order if row["ranked"]),
    )


def _place(row: Row, headline: str) -> tuple[bool, float]:
    value = row[headline]["value"]
    return not row["ranked"], math.inf if value is None else -value


def beside_reference(
    computed: Mapping[str, Subject],
    *,
    track: Track,
    tier: str,
    split: str = "test",
    known: shipped.Reference | None,
    alone: Sequence[str] = (),
) -> Card:
    """The card of rules, beside the reference rows.

    Args:
      computed: the rules by name; they stand in for reference rows of the same name.
      track, tier, split: of which it is.
      known: reference results of that tier, if there are any.
      alone: show only these.

    Raises:
      BadInput: as :func:`shaping_bench.analysis.scores.anchors_of`.
    """
    budget = track.tier(tier)
    ready = {x: known.subject(x, budget) for x in known.learners} if known else {}
    ready |= computed
    naive = ready[track.naive]
    if known and naive.absent:  # not all of it is stored yet
        naive = known.subject(track.naive, budget)
    return card(
        [ready[x] for x in alone or ready],
        naive=naive,
        anchors=known.anchors if known else anchors_of(track, list(ready.values()), split),
        track=track,
        tier=tier,
        split=split,
        changed=[x for x in known.learners if x not in computed and known.changed(x)] if known else [],
    )


@kept
def cards_in(results: Results) -> tuple[Card, ...]:
    """The cards that a suite asks for, as far as their cells are stored; those of which nothing is are left out."""
    made = []
    whole = results.whole
    stored = {record["hash"] for record in whole.records}
    for entry in results.suite.get("cards", ()):
        whole_track = load_track(entry["track"], "suite.cards").only(entry.get("games"), "suite.cards")
        track = whole_track.at(entry["tier"])
        names = subjects_of(track, entry["learners"])
        cells = {name: card_cells(track, entry["tier"], name) for name in names}
        if not any(not isinstance(x, str) and x.hash in stored for own in cells.values() for x in own.values()):
            continue
        known = shipped.serving(whole_track, entry["tier"])
        subjects = {
            name: subject_of(whole, track, name, cells[name], responses=card_responses(track, entry["tier"], name))
            for name in names
        }
        made.append(beside_reference(subjects, track=track, tier=entry["tier"], known=known))
    return tuple(made)


def reference_card(track: Track, tier: str | None = None) -> Card | None:
    """The card of the shipped rules, of a tier or of the last that is shipped; None without any."""
    known = shipped.load(track, tier=tier)
    if known is None:
        return None
    tier = known.manifest["tier_name"]
    return beside_reference({}, track=track.at(tier), tier=tier, known=known)


@kept
def cards_beside(results: Results) -> tuple[Card, ...]:
    """The shipped cards of tracks of which the suite, which asks for cards, asks for none."""
    asked = {entry["track"] for entry in results.suite.get("cards", ())}
    others = [load_track(name) for name in track_names() if name not in asked] if asked else []
    shown = (reference_card(track, tier) for track in others for tier in shipped.shipped_tiers(track))
    return tuple(card for card in shown if card is not None)


def _row(scored: Scored, tier: str) -> Row:
    subject, track = scored.subject, scored.track
    missing = scored.missing("main")
    row: Row = {
        "learner": subject.learner,
        **{column: scored.score(column, "main") for column in COLUMNS},
        "basin": scored.basin(),
        "gain": scored.gain(),
        "rational": scored.rational(),
        "cost": subject.cost(track),
        "access": subject.access,
        "ranked": not missing,
        "missing": list(missing),
        "why_missing": missing,
        "rank": None,
        "lost": int(subject.runs[subject.runs["scenario"].isin(_names(scored, "main"))]["lost"].sum()),
        "not_held_out": overlaps(track, subject.learner, scored.split),
        "beats_best_known": scored.beats(),
        "lifetime": {
            column: scored.score(column, "main", lifetime=True) for column in COLUMNS if column not in ("safety",)
        },
        "ordinal": {column: scored.score(column, "ordinal") for column in COLUMNS}
        | {"missing": list(scored.missing("ordinal"))},
        "trained": {name: dict(x) for name, x in subject.trained.items()},
        **{name: _told(scored, name) for name in track.told},
        "games": {
            game: {column: scored.in_game(column, game, block) for column in BY_GAME}
            for game, block in games_of(track, scored.split).items()
        },
        "tier": tier,
        "origin": subject.origin,
        "scenarios": {x.name: _scenario(scored, x) for x in track.of(scored.split)},
    }
    return row


def games_of(track: Track, split: str) -> dict[str, str]:
    """Games of a card, those of averages first, and the block that each is in; neither grids nor games that stand for
    many."""
    blocks: dict[str, str] = {}
    for x in track.of(split):
        if x.family != "rational" and len(x.members) == 1 and not x.gridded:
            blocks.setdefault(x.game, x.block)
    return dict(sorted(blocks.items(), key=lambda x: x[1] != "main"))


def apart(card: Card) -> dict[str, list[str]]:
    """Games that are in no average, and which of the ranked lose there with their like what there is to lose."""
    others = [x for x, block in games_of(card.track, card.split).items() if block == "diagnostic"]
    return {
        game: [
            row["learner"]
            for row in card.rows
            if row["ranked"] and (share := row["games"][game]["cooperation"]) is not None and share < CRASH
        ]
        for game in others
    }


def some(names: Sequence[str], count: int) -> str:
    """A few of many names.

    >>> some(["sos", "lola", "cola"], 2)
    'sos, lola and 1 more'
    """
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


MAX_NAMED = 3
"""Rules that a line of a terminal names."""

CRASH = -0.5
"""Share below which a rule does much worse than random play."""


def _told(scored: Scored, metric: str) -> float | None:
    """Of the subject's seats, the mean over the scenarios of the main block that have it."""
    told = scored.subject.told
    values = [told[x][metric]["own"] for x in _names(scored, "main") if metric in told.get(x, {})]
    return sum(values) / len(values) if values else None


def _names(scored: Scored, block: str) -> list[str]:
    return [x.name for x in scored.scenarios(block) if not x.projected]


def _scenario(scored: Scored, scenario: Scenario) -> dict[str, Any]:
    """Share and raw returns of one scenario, and the cells that they are from."""
    runs = scored.runs(scenario)
    kept = runs[~runs["lost"].astype(bool)] if len(runs) else runs

    def mean(name: str) -> float | None:
        return float(kept[name].mean()) if len(kept) else None

    return {
        "family": scenario.family,
        "average": scenario.block,
        "share": scored.share(scenario) if scored.members(scenario) else None,
        "return": mean("own"),
        "lifetime_return": mean("own_lifetime"),
        "others_return": mean("other"),
        "lost": int(runs["lost"].sum()) if len(runs) else 0,
        **({"told": dict(told)} if (told := scored.subject.told.get(scenario.name)) else {}),
        "cells": list(dict.fromkeys(runs["cell"])) if len(runs) else [],
    }


# --- for terminals ------------------------------------------------------------------------


LEGEND = (
    "Shares: 0 is random play, 1 the best known; ± is the larger half of the 95 % interval; * the best, and what seeds",
    "do not tell from it (5 % per column, Holm), if anybody is told. cooperation: with its like; shaping: got from a",
    "naive learner beyond what a naive one gets; generality: among unseen learners and shapers; adaptation: to fixed",
    "strategies; safety: kept from a best response; effect: on what others get; lost: diverged runs, counted as -1;",
    "access: what it is told of others. Ranked by generality, over the same scenarios.",
)

EXTRAS: Mapping[str, str] = {
    "gain": "what a best response gets from it beyond what its like does, of the range of rewards",
    "basin": "share of a grid of starts from which it and its like end in what is best for both",
    "rational": "as safety, kept from the worst partner found that is itself somebody's best response",
}
"""Columns that some cards have, and what they are; in no ranking."""


def text(card: Card, max_lines: int = MAX_LINES, legend: bool = True) -> str:
    """A card of at most so many lines of :data:`MAX_WIDTH` columns.

    Args:
      legend: say what the columns are, and who has no row.
    """
    rows = card.rows
    head = [f"{card.title}, {size(card)}"]
    ranked = f"Ranked by {card.track.headline}"
    known = [line.replace("Ranked by generality", ranked) for line in LEGEND]
    explained = [*known, *_explained(extras(card)), ""] if legend else []
    used = "; ".join(f"{mark} {said}" for mark, said in marks_used(card).items())
    notes = [
        *([shortened(used)] if used else []),
        *map(shortened, training(card, NAME_WIDTH)),
        *_notes(rows),
        *map(shortened, _games_told(card)),
    ]
    notes += [shortened(f"no row (why: --json): {card.without_row}")] if legend and card.lacking else []
    room = max_lines - len(explained) - len(head) - len(notes) - 1
    room -= len(rows) > room  # for a line that says so
    shown = rows[:room]
    more_columns = extras(card)
    heading = ["", "learner", *COLUMNS, *more_columns, "lost", "access", COSTS[card.track.view][1]]
    table = _aligned([heading, *(_line(row, card.track.view, more_columns) for row in shown)])
    more = [shortened(_hidden(shown, rows[room:]))] if len(rows) > room else []
    return "\n".join([*explained, *head, *table, *more, *notes])


def _games_told(card: Card) -> list[str]:
    """Of which games averages are, where they are several, and how it goes in those that are in none."""
    games = [x for x, block in games_of(card.track, card.split).items() if block == "main"]
    others = "".join(
        f"; not averaged: {game}" + (f" ({some(names, MAX_NAMED)} crash)" if names else "")
        for game, names in apart(card).items()
    )
    return [f"games: {', '.join(games)}{others}"] if len(games) > 1 else []


def _hidden(shown: Sequence[Row], rows: Sequence[Row]) -> str:
    """What a terminal has no room for: how many rows, and where one of them is above all that are shown."""
    above = []
    for column in COLUMNS:
        there, seen = (
            [(x[column]["value"], x["learner"]) for x in some_rows if x[column]["value"] is not None]
            for some_rows in (rows, shown)
        )
        if there and seen and max(there)[0] > max(seen)[0]:
            value, learner = max(there)
            above.append(f"{column} {learner} {digits.number(value, 2)}")
    told = f"; highest are there: {', '.join(above)}" if above else ""
    return f"and {len(rows)} more rows: on the page, or with --json{told}"


def text_of_run(
    cards: Sequence[Card], directory: Path, page: Path, max_lines: int = MAX_LINES, beside: Sequence[Card] = ()
) -> str:
    """What a run prints: the cards, what is missing, the page and how to see the rest.

    Args:
      cards: that the suite fills.
      directory: of the results.
      page: of the results.
      max_lines: of all of it together.
      beside: shipped cards of other tracks, which the page shows.
    """
    filled = {x.track.name for x in cards}
    absent = [name for name in track_names() if name not in filled]
    there = {x.track.name for x in beside}
    parts = (
        (", rows on the page", [name for name in absent if name in there]),
        ("", [name for name in absent if name not in there]),
    )
    missing = [
        f"not in this suite{where}: {', '.join(names)}; score RULE --track TRACK" for where, names in parts if names
    ]
    unlisted = ", ".join(
        f"{sum(len(lack.rules) for lack in x.lacking if lack.plays)} {x.track.name}" for x in cards if x.lacking
    )
    missing += [f"rules that could play and have no row: {unlisted}; the page says what each lacks"] if unlisted else []
    more = [
        f"page:   {page}  (any browser opens it)",
        f"tables: shaping-bench table {directory}"
        + " --cards" * bool(cards)
        + "  (--metric cooperation, --format latex)",
    ]
    told = list(dict.fromkeys(name for x in cards for name in extras(x)))
    legend = [*LEGEND, *_explained(told), ""] if cards else []
    room = max_lines - len(legend) - len(missing) - len(more) - len(cards)
    whole = [len(text(x, sys.maxsize, legend=False).splitlines()) for x in cards]
    rooms = _shared(whole, room)
    shown = [
        line for x, own in zip(cards, rooms, strict=True) for line in (*text(x, own, legend=False).splitlines(), "")
    ]
    return "\n".join([*legend, *shown, *missing, *more])


def _shared(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for each: what it wants where that is no more than an equal part of what others leave.

    >>> _shared([22, 6], 26), _shared([22, 22], 26)
    ([20, 6], [13, 13])
    """
    given = [0] * len(wanted)
    left = room
    for k, place in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[place] = min(wanted[place], left // (len(wanted) - k))
        left -= given[place]
    return given


def spent(row: Row, view: str) -> tuple[float, str]:
    """What a rule's seat asked for over the card, per seed, preparations included, and of what; by what rules of the
    view pay with."""
    name, _ = COSTS[view]
    return row["cost"].get(name, 0.0) + row["cost"].get("preparation", {}).get(name, 0.0), name.replace("_", " ")


def extras(card: Card) -> list[str]:
    """Which of :data:`EXTRAS` a card has, and of what its track tells besides."""
    return [name for name in (*EXTRAS, *card.track.told) if any(extra(row, name) is not None for row in card.rows)]


def explained(name: str) -> str:
    """What such a column is."""
    from shaping_bench.metrics import definition

    return EXTRAS.get(name) or definition(name).formula


def extra(row: Row, name: str) -> float | None:
    """What a row has in such a column."""
    found = row[name]
    return found["value"] if isinstance(found, Mapping) else found


def marks(row: Row) -> str:
    """Marks behind a row's name; see :data:`MARKS`."""
    shipped_row = row["origin"] == "reference"
    return SHIPPED * shipped_row + CHANGED * bool(row["changed"]) + ITSELF * bool(row["not_held_out"])


def marks_used(card: Card) -> dict[str, str]:
    """Those of :data:`MARKS` that stand on a card."""
    return {mark: said for mark, said in MARKS.items() if any(mark in marks(row) for row in card.rows)}


def size(card: Card) -> str:
    """How much a card rests on."""
    main = [x for x in card.track.of(card.split) if x.block == "main"]
    games = len({x.game for x in main})
    own = sum(row["origin"] != "reference" for row in card.rows)
    others = len(card.rows) - own
    return (
        f"{card.track.tier(card.tier).seeds} seeds, {games} game{'s' * (games != 1)}, {len(main)} scenarios, "
        f"{len(card.rows)} rules" + f" ({own} computed here, {others} shipped)" * bool(others)
    )


def _explained(names: Sequence[str]) -> list[str]:
    return [f"{name}: {explained(name)}." for name in names]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what is in them, apart as far as there is room; names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= MAX_WIDTH else " "
    return [
        gap.join(x.ljust(w) if k == 1 else x.rjust(w) for k, (x, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]


def _line(row: Row, view: str, more_columns: Sequence[str]) -> list[str]:
    mark = marks(row)
    name = elided(row["learner"], NAME_WIDTH - len(mark)) + mark
    rank = str(row["rank"]) if row["ranked"] else "-"
    more = ["" if (x := extra(row, name)) is None else digits.number(x, 2) for name in more_columns]
    return [
        rank,
        name,
        *(_entry(row[c]) for c in COLUMNS),
        *more,
        str(row["lost"]),
        row["access"],
        digits.brief(spent(row, view)[0]),
    ]


def elided(name: str, room: int) -> str:
    """A rule's name in so many columns, cut in its middle: what tells settings apart comes last.

    >>> elided("reference(policy=loqa-coin-1)", 17), elided("lola-exact", 17)
    ('refer…oqa-coin-1)', 'lola-exact')
    """
    if len(name) <= room:
        return name
    head = room // 3
    return f"{name[:head]}…{name[head + 1 - room :]}"


def _entry(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return ""
    ends = [abs(score["value"] - x) for x in (score["low"], score["high"]) if x is not None and math.isfinite(x)]
    mark = "*" if score.get("best") else ""
    return f"{mark}{digits.number(score['value'], 2)}±{max(ends, default=0.0):.2f}".replace("±0.", "±.")


def training(card: Card, room: int | None = None) -> list[str]:
    """Who the adversary was, where it was trained, and against whom it may not have been trained for long enough; each
    rule's name in so many columns, where there is a bound."""
    track, rows = card.track, card.rows
    if not track.responders:
        return []

    def named(rules: Sequence[str]) -> list[str]:
        return [x if room is None else elided(x, room) for x in rules]

    first, *others = named(track.responders)
    who = f"the stronger of {' and '.join([first, *others])}" if others else first
    notes = [f"adversary: {who}, trained for {track.response_steps} updates" + " each" * bool(others)]
    short = named([row["learner"] for row in rows if any(not x["enough"] for x in row["trained"].values())])
    if short:
        notes.append(f"adversary not trained for long enough, by its own interval, against {', '.join(short)}")
    return notes


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    unranked = [row for row in rows if not row["ranked"]]
    for row in unranked[:3]:
        why = next(iter(row["why_missing"].values()))
        notes.append(f"not ranked: {row['learner']}, missing {some(row['missing'], 3)}: {why}")
    if len(unranked) > 3:
        notes.append(f"not ranked: {len(unranked) - 3} more")
    best = [row for row in rows if row["beats_best_known"] and row["origin"] != "reference"]
    if best:
        told = (f"{row['learner']} in {some(row['beats_best_known'], 1)}" for row in best)
        notes.append(f"beats the best known return: {', '.join(told)}")
    return [shortened(x) for x in notes]


def shortened(line: str) -> str:
    """A line of a terminal, cut where it would be too long."""
    return line if len(line) <= MAX_WIDTH else line[: MAX_WIDTH - 1] + "…"
