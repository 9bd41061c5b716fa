"""Tracks whose scores are made of another metric than the return, and whose cards tell more: numbers made by hand."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from shaping_bench.analysis import reference
from shaping_bench.analysis.scores import Anchor, subject_of
from shaping_bench.errors import BadInput
from shaping_bench.publish import cards
from shaping_bench.publish.standings import card_table
from shaping_bench.spec.scenarios import card_cells, read_track

NAIVE = "pg-incentive(give=nothing)"
CONTENT = {
    "track": "incentives",
    "view": "sampled",
    "naive": NAIVE,
    "random": "random",
    "steps": 20,
    "record_every": 10,
    "responders": [NAIVE],
    "measure": "net",
    "told": ["given", "received"],
    "tiers": {"quick": {"seeds": 2}},
    "games": {"escape-room": {}},
    "scenarios": [
        {"name": "self", "family": "self", "about": "itself", "games": ["escape-room"]},
        {"name": "learners", "family": "learners", "about": "x", "background": NAIVE, "games": ["escape-room"]},
    ],
}
TRACK = read_track(CONTENT)
ANCHORS = {(x.name, "escape-room"): Anchor(low=0.0, high=4.0, spread=15.0) for x in TRACK.scenarios}

VALUES = {"net": (3.0, 1.0), "return": (100.0, 100.0), "given": (2.0, 0.5), "diverged": (0.0, 0.0)}
"""Of both seats. Nobody has received anything."""


@dataclasses.dataclass
class Stored:
    """What is read of results, of cells that all have these values."""

    records: list
    directory: Path = Path("results")

    def curve(self, metric, hashes):
        rows = [
            {"hash": key, "seed": seed, "update": update, "player": player + 1, "value": value}
            for key in hashes
            for seed in range(2)
            for update in (0, 10, 20)
            for player, value in enumerate(VALUES.get(metric, ()))
        ]
        return pd.DataFrame(rows) if rows else None

    def final(self, metric):
        hashes = [x["hash"] for x in self.records] if metric == "diverged" else []
        curve = self.curve(metric, hashes)
        return pd.DataFrame(columns=["hash", "value", "player"]) if curve is None else curve[curve["update"] == 20]


def subject(learner):
    cells = card_cells(TRACK, "quick", learner)
    record = {
        "learners": [{"access": "actions"}],
        "costs": {"gradient_evaluations": [0], "environment_steps": 200},
        "timings": {"run": 1.0},
        "seeds": 2,
    }
    hashes = {x.hash for x in cells.values()}  # among its like the naive learner meets the background
    return subject_of(Stored([record | {"hash": x} for x in sorted(hashes)]), TRACK, learner, cells)


def test_scores_are_made_of_what_the_track_measures():
    runs = subject("pg-incentive").runs.groupby("scenario")[["own", "other"]].mean()
    assert runs.loc["escape-room/learners"].tolist() == [3.0, 1.0]
    assert runs.loc["escape-room/self"].tolist() == [2.0, 2.0]


def test_a_card_tells_who_gave_what_and_leaves_it_out_of_all_ranks():
    rule, naive = subject("pg-incentive"), subject(NAIVE)
    assert rule.told["escape-room/learners"] == {"given": {"own": 2.0, "others": 0.5}}
    made = cards.card([rule, naive], naive=naive, anchors=ANCHORS, track=TRACK, tier="quick")
    row = next(x for x in made.rows if x["learner"] == "pg-incentive")
    assert (row["given"], row["received"]) == ((2.0 + 1.25) / 2, None)
    assert row["scenarios"]["escape-room/self"]["told"]["given"]["own"] == 1.25
    assert row["cooperation"]["value"] == pytest.approx(0.5)
    said = cards.text(made)
    assert "given: what the player pays the others." in said
    heading = next(line for line in said.splitlines() if line.strip().startswith("learner"))
    assert heading.split()[-4:] == ["given", "lost", "access", "steps"]
    assert "1.62" in said or "1.63" in said
    assert "received" not in said
    assert "given" in card_table(made).col_labels


def test_what_is_told_is_shipped_too(tmp_path):
    both = [subject("pg-incentive"), subject(NAIVE)]
    about = {"tier_name": "quick", "command": "c", "commit": "x", "versions": {}, "device": "d", "seconds": 1.0}
    reference.write(both, anchors=ANCHORS, track=TRACK, tier=TRACK.tiers["quick"], about=about, where=tmp_path)
    known = reference.load(TRACK, tmp_path)
    assert known.subject("pg-incentive", TRACK.tiers["quick"]).told == both[0].told


def test_without_more_to_tell_nothing_is_told():
    plain = read_track({k: v for k, v in CONTENT.items() if k not in ("measure", "told")})
    assert (plain.measure, plain.told) == ("return", ())


def test_what_is_no_metric_is_refused():
    with pytest.raises(BadInput, match=r"scenarios.told.0 is 'gifts', which is unknown"):
        read_track(CONTENT | {"told": ["gifts"]})
    with pytest.raises(BadInput, match=r"scenarios.measure is 'gain', which is unknown"):
        read_track(CONTENT | {"measure": "gain"})
