"""Cards: rules of one track and tier side by side, as JSON and for terminals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shaping_bench.analysis.scores import COLUMNS, HEADLINE, Anchors, Scored, Subject, marked, overlaps
from shaping_bench.spec.scenarios import Scenario, Track

MAX_LINES = 40
MAX_WIDTH = 120
"""Of what a terminal is shown."""

NAME_WIDTH = 18
"""Of a learner, at most."""

Row = dict[str, Any]


def card(
    subjects: Sequence[Subject],
    *,
    naive: Subject,
    anchors: Anchors,
    track: Track,
    tier: str,
    split: str = "test",
    changed: Sequence[str] = (),
) -> dict[str, Any]:
    """The card of some rules, plain enough for JSON.

    Args:
      subjects: the rules.
      naive: the track's naive learner.
      anchors: what shares are measured by.
      track, tier, split: of which it is.
      changed: rules of which the source has changed since their runs were made.

    Returns:
      ``track``, ``tier``, ``split`` and ``rows``, best first; those that are not ranked last.
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
        for row in rows:
            row[column]["best"] = row["learner"] in best
    order = sorted(rows, key=lambda row: (not row["ranked"], -(row[HEADLINE]["value"] or -math.inf)))
    for k, row in enumerate(x for x in order if x["ranked"]):
        row["rank"] = k + 1
    return {"track": track.name, "tier": tier, "split": split, "rows": order}


def _row(scored: Scored, tier: str) -> Row:
    subject, track = scored.subject, scored.track
    missing = scored.missing("main")
    row: Row = {
        "learner": subject.learner,
        **{column: scored.score(column, "main") for column in COLUMNS},
        "cost": dict(subject.cost),
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
        "tier": tier,
        "origin": subject.origin,
        "scenarios": {x.name: _scenario(scored, x) for x in track.of(scored.split)},
    }
    return row


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
        "cells": list(dict.fromkeys(runs["cell"])) if len(runs) else [],
    }


# --- for terminals ------------------------------------------------------------------------


def text(made: Mapping[str, Any]) -> str:
    """A card of at most :data:`MAX_LINES` lines of :data:`MAX_WIDTH` columns."""
    rows = made["rows"]
    head = [
        f"{made['track']} track, {made['tier']} tier" + ("" if made["split"] == "test" else f", {made['split']} split"),
        "shares: 0 is random play, 1 the best known; ± is the larger half of the 95 % interval; * is the best and",
        "what seeds do not tell from it (5 % per column, Holm); ranked by generality",
    ]
    notes = _notes(rows)
    room = MAX_LINES - len(head) - len(notes) - 3
    shown = rows[:room]
    table = _aligned([["", "learner", *COLUMNS, "lost", "access", "gradients"], *(_line(row) for row in shown)])
    more = [f"and {len(rows) - room} more rows: --json"] if len(rows) > room else []
    return "\n".join([*head, "", *table, *more, *notes])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what is in them; names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(x.ljust(w) if k == 1 else x.rjust(w) for k, (x, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]


def _line(row: Row) -> list[str]:
    name = row["learner"] + (" (changed)" if row.get("changed") else "")
    name = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"
    rank = str(row["rank"]) if row["ranked"] else "-"
    gradients = row["cost"].get("gradient_evaluations", 0.0) + row["cost"].get("preparation", {}).get(
        "gradient_evaluations", 0.0
    )
    return [rank, name, *(_entry(row[c]) for c in COLUMNS), str(row["lost"]), row["access"], f"{gradients:.2g}"]


def _entry(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return ""
    ends = [abs(score["value"] - x) for x in (score["low"], score["high"]) if x is not None and math.isfinite(x)]
    mark = "*" if score.get("best") else ""
    return f"{mark}{score['value']:.2f}±{max(ends, default=0.0):.2f}".replace("±0.", "±.")


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    unranked = [row for row in rows if not row["ranked"]]
    for row in unranked[:3]:
        first = ", ".join(row["missing"][:3])
        others = f" and {len(row['missing']) - 3} more" if len(row["missing"]) > 3 else ""
        notes.append(f"not ranked: {row['learner']}, missing {first}{others}")
    if len(unranked) > 3:
        notes.append(f"not ranked: {len(unranked) - 3} more")
    own = [row for row in rows if row["not_held_out"] and row["origin"] != "reference"]
    notes += [f"not held out for {row['learner']}: {', '.join(row['not_held_out'][:4])}" for row in own[:2]]
    best = [row for row in rows if row["beats_best_known"] and row["origin"] != "reference"]
    notes += [
        f"{row['learner']} beats the best known return in {len(row['beats_best_known'])} games, "
        f"e.g. {row['beats_best_known'][0]}"
        for row in best[:2]
    ]
    return [x if len(x) <= MAX_WIDTH else x[: MAX_WIDTH - 1] + "…" for x in notes]
