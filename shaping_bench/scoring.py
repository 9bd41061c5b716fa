"""The commands ``score`` and ``reference``: cells of cards through the ordinary runner, and what they say.

A subject's cells stand in a results directory of its own, ``DIR/TRACK-TIER/NAME-HASH``: its numbers do not
depend on who else is scored, and ``shaping-bench table`` reads each of them.
"""

import dataclasses
import platform
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tabulate import tabulate

from shaping_bench.analysis import reference as shipped
from shaping_bench.analysis.scores import KEYS, NUMBERS, Subject, anchors_of, subject_of, without_runs
from shaping_bench.commands import told
from shaping_bench.errors import BadInput, OutOfTime
from shaping_bench.publish.cards import Card, beside_reference
from shaping_bench.publish.watching import Display
from shaping_bench.run import devices
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import contents, execute
from shaping_bench.run.runner import Failure, run_suite
from shaping_bench.spec import registry
from shaping_bench.spec.identity import content_hash
from shaping_bench.spec.scenarios import (
    Track,
    card_cells,
    card_responses,
    card_suite,
    load_track,
    subjects_of,
    track_names,
)
from shaping_bench.spec.suite import Suite, expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store

TOLERANCE = 1e-4
"""Largest difference of a return, as a share of its size and one, of cells that reproduce on another kind of CPU."""

DIFFERENT = 0.05
"""Share of a cell's seeds that may end elsewhere there: learning amplifies the last digit."""


def score(
    learners: Sequence[str],
    *,
    track: str = "exact",
    tier: str = "quick",
    split: str = "test",
    games: Sequence[str] | None = None,
    directory: Path,
    alone: bool = False,
    deadline: Deadline | None = None,
) -> tuple[Card, list[Failure]]:
    """The card of some rules, and the cells that failed; what is not stored is computed.

    Args:
      learners: as one writes them.
      track, tier, split: of which cards.
      games: those of the track's games that are asked; all by default.
      directory: where cells are stored.
      alone: without the reference rows.
      deadline: when to stop.

    Raises:
      BadInput: an unknown track, tier or learner, one that does not play the track's view, or nobody who can play any
        of its games.
      OutOfTime: the deadline has passed; the same call goes on.
    """
    whole = load_track(track).only(games)
    of = whole.at(tier)
    names = list(dict.fromkeys(of.subject(x) for x in learners))
    refused = [_refused(x, whole, tier, split) for x in names]
    if all(refused):
        raise BadInput(f"{refused[0]}; nor does it play any other game of the {of.name} track")
    known = shipped.serving(whole, tier, split)
    there = known.learners if known else ()
    fresh = [x for x in names if x not in there or known.changed(x)]  # type: ignore[union-attr]
    # Shaping is measured from the naive learner, shares from random play.
    fresh += [x for x in (of.naive, of.random) if x not in there and x not in fresh]
    failures: list[Failure] = []
    computed: dict[str, Subject] = {}
    for name in fresh:
        computed[name], lost = _computed(
            name, track=of, tier=tier, split=split, directory=directory, deadline=deadline or Deadline()
        )
        failures += lost
    only = names if alone else ()
    return beside_reference(computed, track=of, tier=tier, split=split, known=known, alone=only), failures


def _refused(subject: str, track: Track, tier: str, split: str) -> str:
    """Why a rule can play nothing of a card; empty if it can play some of it."""
    cells = list(card_cells(track, tier, subject, split).values())
    return str(cells[0]) if all(isinstance(x, str) for x in cells) else ""


def _folder(directory: Path, track: Track, tier: str, split: str, subject: str) -> Path:
    named = registry.make_learner(subject)
    kind = "-".join([track.name, tier, *([] if split == "test" else [split]), *track.games])
    return directory / kind / f"{named.name}-{content_hash(named.identity())[:8]}"


def _suite(track: Track, tier: str, subject: str, split: str) -> Suite:
    return expand(validate(card_suite(track, tier, [subject], split)))


def _computed(
    subject: str, *, track: Track, tier: str, split: str = "test", directory: Path, deadline: Deadline
) -> tuple[Subject, list[Failure]]:
    """A subject's runs, computed as far as they are not stored."""
    suite, folder = _suite(track, tier, subject, split), _folder(directory, track, tier, split, subject)
    store = Store(folder)
    stops: list[OutOfTime] = []
    console = Console(file=sys.stderr, soft_wrap=True)
    with Display(console, subject, len(suite.encounters) + len(suite.matches)) as display:
        failures = run_suite(suite, store, deadline=deadline, on_stop=stops.append, on_event=display.show)
    for failure in failures[:3]:
        console.print(f"failed: {failure.cell.title}: {failure.error}", style="red", highlight=False, markup=False)
    asked = (*suite.encounters, *suite.matches)
    stored = sum(cell.hash in store for cell in asked)
    if stored + len(failures) < len(asked):
        raise OutOfTime("; ".join([f"{stored} of {len(asked)} cells stored", *told(stops)]), bool(stored))
    cells = card_cells(track, tier, subject, split), card_responses(track, tier, subject, split)
    if not stored:
        refused = {name: why for (name, _), why in cells[0].items() if isinstance(why, str)}
        why = failures[0].error if failures else "it cannot play"
        nothing = without_runs(track, subject, why, split)
        return dataclasses.replace(nothing, absent={**nothing.absent, **refused}), failures
    return subject_of(load(folder), track, subject, cells[0], split, cells[1]), failures


# --- reference results --------------------------------------------------------------------


def update_reference(
    directory: Path,
    learners: Sequence[str] = (),
    *,
    track: str | None = None,
    tier: str | None = None,
    where: Path | None = None,
) -> None:
    """Computes reference rules as far as they are not stored, and writes runs and anchors.

    Args:
      directory: where cells are stored.
      learners: which; those that the track's file names by default. Naive learning and random play are
        always among them.
      track: only this one; all by default.
      tier: of which budget; by default those of which results are shipped, or that of most seeds.
      where: another folder than the package's.
    """
    options = [x for name, value in (("--track", track), ("--tier", tier)) if value for x in (name, value)]
    for name in track_names() if track is None else (track,):
        of = load_track(name)
        most = max(of.tiers, key=lambda x: of.tiers[x].seeds)
        for chosen in (tier,) if tier else shipped.shipped_tiers(of, where) or (most,):
            _update(of.at(chosen), chosen, directory, learners, options, where)


def _update(
    track: Track, tier: str, directory: Path, learners: Sequence[str], options: Sequence[str], where: Path | None
) -> None:
    budget = track.tier(tier)
    chosen = subjects_of(track, [track.naive, track.random, *(learners or track.reference)])
    subjects = [_computed(x, track=track, tier=tier, directory=directory, deadline=Deadline())[0] for x in chosen]
    command = ["shaping-bench", "reference", *(chosen if learners else ()), "--update", *options, "-o", directory.name]
    about = {
        "tier_name": tier,
        "command": shlex.join(command),
        "commit": devices.git_commit(),
        "versions": devices.versions(),
        "device": devices.describe(),
        "processor": platform.processor() or platform.machine(),
        "seconds": round(sum(x.cost(track)["seconds"] for x in subjects), 1),
    }
    shipped.write(subjects, anchors=anchors_of(track, subjects), track=track, tier=budget, about=about, where=where)


_Drawn = tuple[str, tuple[str, str], Any]
"""A rule, scenario and member, and their cell."""


def check_reference(
    cells: int,
    seed: int = 0,
    directory: Path | None = None,
    where: Path | None = None,
    track: str | None = None,
    seconds: float | None = None,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Computes a random sample of reference cells again, with everything that shares their programs' lanes.

    Args:
      cells: of each track and tier.
      seed: of the sample.
      directory: where they are stored; a folder that is removed by default.
      where: another folder of reference results than the package's.
      track: only this one; all by default.
      seconds: leaves out cells of each track and tier with which these would take longer than that by what they took
        when they were made, but for the cheapest; none by default.

    Returns:
      By track and tier: ``cells`` compared, ``equal`` to the last digit that is shipped, ``close`` within
      tolerance but for a few seeds, ``differ``, and the names of those.
    """
    found = {}
    for name in track_names() if track is None else (track,):
        of = load_track(name)
        for tier in shipped.shipped_tiers(of, where):
            known = shipped.load(of, where, tier)
            if known is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found[name, tier] = _checked(of, known, cells, seed, directory or Path(folder), seconds)
    return found


def _checked(
    track: Track, known: shipped.Reference, count: int, seed: int, directory: Path, seconds: float | None
) -> dict[str, Any]:
    tier = known.manifest["tier_name"]
    track = track.at(tier)
    everything = [
        (learner, key, cell)
        for learner in known.learners
        for key, cell in card_cells(track, tier, learner).items()
        if not isinstance(cell, str)
    ]
    rng = np.random.default_rng(seed)
    sample = [everything[k] for k in rng.permutation(len(everything))[:count]]
    if seconds is not None:
        took, left = _took(track, known, everything, sample), seconds
        kept: list[_Drawn] = []
        for cell, spent in zip(sample, took, strict=True):
            if spent <= left:
                kept.append(cell)
                left -= spent
        sample = kept or [sample[int(np.argmin(took))]]
    counts: dict[str, Any] = {"cells": len(sample), "equal": 0, "close": 0, "differ": []}
    for learner in dict.fromkeys(x[0] for x in sample):
        suite, store = _suite(track, tier, learner, "test"), Store(_folder(directory, track, tier, "test", learner))
        store.adopt(suite.resolved())
        own = {key: cell for who, key, cell in sample if who == learner}
        for group in dict.fromkeys(contents(suite).group_of[cell.hash] for cell in own.values()):
            execute(group, suite, store)
        new = subject_of(load(store.directory), track, learner, own).runs
        old = known.subject(learner, track.tiers[tier]).runs
        for scenario, member in own:
            a, b = (_numbers(x, scenario, member) for x in (old, new))
            far = ~(np.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)).all(axis=1)
            if np.array_equal(a, b, equal_nan=True):
                counts["equal"] += 1
            elif far.mean() <= DIFFERENT:
                counts["close"] += 1
            else:
                counts["differ"].append(f"{learner}: {scenario} {member}")
    return counts


def _took(
    track: Track, known: shipped.Reference, everything: Sequence[_Drawn], sample: Sequence[_Drawn]
) -> list[float]:
    """Seconds of the cells of a sample when they were made: what was spent on their rule in their game is shared alike
    among those that it was spent on; of a game of which that is not known, the mean of the others."""
    scenarios = {x.name: x for x in track.of("test")}
    parts = Counter((who, scenarios[name].game) for who, (name, _), _ in everything if scenarios[name].block == "main")
    each = {
        (who, game): known.manifest["learners"][who]["costs"][game]["seconds"] / count
        for (who, game), count in parts.items()
        if game in known.manifest["learners"][who]["costs"]
    }
    usual = float(np.mean(list(each.values()))) if each else 0.0
    return [each.get((who, scenarios[name].game), usual) for who, (name, _), _ in sample]


def _numbers(runs: Any, scenario: str, member: str) -> np.ndarray:
    part = runs[(runs["scenario"] == scenario) & (runs["member"] == member)].sort_values(KEYS)
    return shipped.rounded(part[NUMBERS].to_numpy(np.float64))


def reference_rows(checked: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is shipped, a row per track and tier, with what a check has found."""
    rows = []
    tiers = [(name, tier) for name in track_names() for tier in shipped.shipped_tiers(load_track(name)) or ("",)]
    for name, tier in tiers:
        known = shipped.load(load_track(name), tier=tier)
        if known is None:
            rows.append({"track": name, "shipped": False})
            continue
        said = known.manifest
        rows.append(
            {
                "track": name,
                "shipped": True,
                "tier": said["tier_name"],
                "seeds": said["tier"]["seeds"],
                "learners": list(known.learners),
                "changed": [x for x in known.learners if known.changed(x)],
                "anchors": len(known.anchors),
                **{key: said[key] for key in ("command", "commit", "device", "versions", "seconds", "written")},
                **checked.get((name, tier), {}),
            }
        )
    return rows


def reference_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same for people."""
    out = []
    for row in rows:
        if not row["shipped"]:
            out.append(f"{row['track']}: none is shipped")
            continue
        lines = [(key, _said(value)) for key, value in row.items() if key not in ("track", "shipped", "versions")]
        out.append(f"{row['track']} track\n{tabulate(lines, tablefmt='plain', disable_numparse=True)}")
    return "\n\n".join(out)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
