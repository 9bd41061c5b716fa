"""Scores of cards: formulas on runs made by hand, intervals by simulation, and a rule of one's own from end to end."""

import dataclasses
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from shaping_bench import scoring
from shaping_bench.analysis import reference, scores
from shaping_bench.analysis.scores import COLUMNS, NUMBERS, Anchor, Scored, Subject, Task, interval, marked
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.publish import cards, findings
from shaping_bench.publish.report.cards import _in_words
from shaping_bench.spec import registry
from shaping_bench.spec.scenarios import load_track, read_track, track_names
from shaping_bench.store.store import read_parquet, write_parquet

CONTENT = {
    "track": "exact",
    "view": "exact",
    "naive": "naive",
    "random": "random",
    "reference": ["naive", "random"],
    "steps": 10,
    "record_every": 1,
    "tiers": {"quick": {"seeds": 4}, "standard": {"seeds": 6}},
    "games": {"ipd": {}, "bos": {}},
    "scenarios": [
        {"name": "self", "family": "self", "about": "itself", "games": ["ipd"]},
        {"name": "learners", "family": "learners", "about": "naive", "background": "naive", "games": ["ipd", "bos"]},
        {"name": "unseen", "family": "unseen-learners", "about": "x", "background": "drawn-naive", "games": ["ipd"]},
        {"name": "lola", "family": "shapers", "about": "x", "background": "lola", "games": ["ipd"]},
        {"name": "frozen", "family": "frozen", "about": "x", "background": "persona(split={split})", "games": ["ipd"]},
        {"name": "adversary", "family": "adversary", "about": "x", "games": ["ipd"]},
    ],
}
TRACK = read_track(CONTENT)
ANCHORS = {
    (x.name, member): Anchor(low=-2.0, high=0.0, spread=4.0, by="lola" if x.family == "learners" else None)
    for x in TRACK.scenarios
    for member in x.members
}
SEEDS = 4


def subject(learner="sga", *, without=(), units=None, **own):
    """Runs of every scenario: ``own`` returns by its name, -1 elsewhere; the other gets half of it."""
    frames = []
    for scenario in TRACK.scenarios:
        if scenario.name in without:
            continue
        x = np.broadcast_to(np.asarray(own.get(scenario.name.partition("/")[2], -1.0), float), (SEEDS,))
        for member in scenario.members:
            frame = pd.DataFrame({"scenario": scenario.name, "member": member, "seed": range(SEEDS), "own": x})
            frame["own_lifetime"], frame["other"], frame["other_lifetime"] = x - 0.5, x / 2, x / 2
            frame["best"], frame["basin"] = 0.5 if scenario.family == "frozen" else np.nan, np.nan
            frame["lost"] = ~np.isfinite(x)
            frame["unit"] = range(SEEDS) if units is None else units
            frames.append(frame.assign(cell=f"cell of {scenario.name}"))
    return Subject(
        learner=learner,
        runs=pd.concat(frames, ignore_index=True),
        access="gradients",
        costs={"ipd": dict.fromkeys([*scores.COSTS, *(f"preparation_{x}" for x in scores.COSTS)], 1.0)},
        absent={},
        origin="cells",
    )


NAIVE = subject("naive", learners=-1.5)


def scored(x, anchors=ANCHORS):
    return Scored(x, naive=NAIVE, anchors=anchors, track=TRACK)


def card_of(subjects):
    return cards.card(subjects, naive=NAIVE, anchors=ANCHORS, track=TRACK, tier="quick")


def values(x, column, **options):
    return scored(x, ANCHORS).score(column, "main", **options)["value"]


def test_formulas():
    x = subject(self=-0.2, learners=-1.0, unseen=-0.4, lola=-1.6, frozen=0.0, adversary=-1.8)
    assert values(x, "cooperation") == pytest.approx(0.9)
    assert values(x, "shaping") == pytest.approx(0.5 - 0.25)
    assert values(x, "generality") == pytest.approx((0.8 + 0.2) / 2)
    # What is lost to the best response of the seed, over what best responses are worth.
    assert values(x, "adaptation") == pytest.approx(1.0 - 0.5 / 2.0)
    assert values(x, "safety") == pytest.approx(0.1)
    # The adversary gets -0.9, where both of its like got -0.2 and -0.1.
    assert scored(x).gain()["value"] == pytest.approx((-0.9 + 0.15) / 4.0)
    # Of the background: half of it, less that of the naive learner, as a share of the range of rewards;
    # three scenarios, and in unseen the naive learner gets -1.
    effects = [(-1.0 / 2 + 1.5 / 2) / 4.0] * 2 + [(-0.4 / 2 + 1.0 / 2) / 4.0]
    assert values(x, "effect") == pytest.approx(np.mean(effects))
    assert values(x, "cooperation", lifetime=True) == pytest.approx(0.65)


def test_what_is_kept_of_a_rational_adversary_is_measured_as_safety_and_is_in_no_rank():
    asked = {
        "name": "rational",
        "family": "rational",
        "about": "x",
        "background": "rational-adversary",
        "games": ["ipd"],
        "tiers": ["standard"],
    }
    with pytest.raises(BadInput, match=r"'bos/rational' answers self-play .* allowed: games of the families self and"):
        read_track({**CONTENT, "scenarios": [*CONTENT["scenarios"], {**asked, "games": ["bos"]}]})
    track = read_track({**CONTENT, "scenarios": [*CONTENT["scenarios"], asked]})
    assert reference.protocol_of(track) == reference.protocol_of(TRACK)
    known = subject("sga", adversary=-1.0)
    met = known.runs[known.runs["scenario"] == "ipd/adversary"].assign(scenario="ipd/rational", own=-1.5)
    runs = pd.concat([known.runs, met], ignore_index=True)
    both = [dataclasses.replace(known, runs=runs), dataclasses.replace(NAIVE, absent={"ipd/rational": "not computed"})]
    card = cards.card(both, naive=NAIVE, anchors=ANCHORS, track=track, tier="standard")
    own, other = sorted(card.rows, key=lambda row: row["learner"] != "sga")
    assert (own["safety"]["value"], own["rational"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert other["rational"] is None
    assert own["ranked"]
    assert other["ranked"]
    assert not own["beats_best_known"]
    assert cards.extras(card) == ["gain", "rational"]
    assert cards.EXTRAS["rational"] in cards.text(card)
    assert cards.extras(card_of([NAIVE])) == ["gain"]


def test_a_card_says_in_words_who_is_on_which_side():
    said = _in_words(card_of([NAIVE, subject(self=-0.2, learners=-1.0, adversary=-1.8)]))
    answers = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", said))
    assert answers["Who cooperates with its like?"] == "more than half way to the optimum: sga; undecided: naive"
    assert answers["Who gets more from a naive learner than a naive one does?"] == "gets more: sga"
    assert answers["Who holds out against a best response?"] == "keeps less than half: sga; undecided: naive"
    # Of a range of rewards of 4: the adversary of one gets less than its like, that of the other 0.25 more.
    more = "a best response gains more than a twentieth of the range of rewards by it"
    assert answers["Who can be exploited?"] == f"{more}: naive; gains less: sga"
    assert answers["At what cost?"] == "gradient evaluations: sga 2, naive 2"


def test_an_adversary_gains_nothing_where_the_policies_are_best_responses_already():
    """Exact in the prisoner's dilemma: always-defect keeps the least and gives nothing away, tit for tat neither;
    always-cooperate is worth 1 more to who defects, of a range of rewards of 3."""
    track = load_track("exact")
    known = reference.serving(track, "quick")
    for rule, expected in {"all-d": 0.0, "tft": 0.0, "all-c": 1.0 / 3.0}.items():
        whole = known.subject(rule, track.tier("quick"))
        only = dataclasses.replace(whole, runs=whole.runs[whole.runs["scenario"].isin(["ipd/self", "ipd/adversary"])])
        gain = Scored(only, naive=only, anchors=known.anchors, track=track).gain()
        assert gain["value"] == pytest.approx(expected, abs=1e-3)


def test_shares_are_clipped_scenario_by_scenario_and_not_run_by_run():
    lucky = subject(unseen=[8.0, 8.0, -2.0, -2.0], lola=-1.0)  # mean 3: share 2.5, clipped to 1
    assert values(lucky, "generality") == pytest.approx((1.0 + 0.5) / 2)
    spread = subject(unseen=[2.0, -2.0, 0.0, -2.0], lola=-1.0)  # shares 2, 0, 1, 0
    assert values(spread, "generality") == pytest.approx((0.75 + 0.5) / 2)


def test_a_lost_run_counts_as_minus_one_and_is_counted():
    x = subject(self=[-0.0, -0.0, np.nan, -0.0])
    assert values(x, "cooperation") == pytest.approx((3 * 1.0 - 1.0) / 4)
    row = next(row for row in card_of([x, NAIVE]).rows if row["learner"] == "sga")
    assert row["lost"] == 1
    assert row["scenarios"]["ipd/self"]["return"] == 0.0
    assert row["scenarios"]["ipd/self"]["lost"] == 1


def test_a_scenario_that_tells_nothing_apart_is_in_no_average():
    flat = {**ANCHORS, ("ipd/lola", "ipd"): Anchor(low=-1.0, high=-0.9, spread=4.0)}
    x = subject(unseen=-0.4, lola=-1.95)
    assert scored(x, flat).score("generality", "main")["value"] == pytest.approx(0.8)


def test_who_lacks_a_scenario_is_not_ranked_and_told_what_is_missing():
    made = card_of([subject("cgd", without=("ipd/lola",)), subject("lss", lola=-1.9)])
    whole, half = made.rows
    assert (whole["learner"], whole["ranked"], whole["rank"], whole["missing"]) == ("lss", True, 1, [])
    assert (half["ranked"], half["rank"], half["missing"]) == (False, None, ["ipd/lola"])
    assert not any(half[column]["best"] for column in COLUMNS)
    text = cards.text(made)
    assert "not ranked: cgd, missing ipd/lola" in text


def test_a_card_is_plain_says_its_cells_and_fits_a_terminal():
    crowd = [subject(f"lola(lr={k + 2},lookahead_lr=0.25)", unseen=-1.0 - k / 50) for k in range(45)]
    made = card_of(crowd)
    json.dumps(made.plain(), allow_nan=False)
    assert [row["rank"] for row in made.rows] == list(range(1, 46))
    assert made.rows[0]["scenarios"]["ipd/frozen"]["cells"] == ["cell of ipd/frozen"]
    lines = cards.text(made).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


def test_scores_are_told_game_by_game_too():
    row = card_of([subject(self=-0.2, learners=-1.0, adversary=-1.8)]).rows[0]
    assert list(row["games"]) == ["ipd", "bos"]
    assert row["games"]["ipd"]["cooperation"] == pytest.approx(row["cooperation"]["value"])
    assert row["games"]["ipd"]["gain"] == pytest.approx(row["gain"]["value"])
    assert row["games"]["bos"]["cooperation"] is None
    shaping = [row["games"][x]["shaping"] for x in ("ipd", "bos")]
    assert np.mean(shaping) == pytest.approx(row["shaping"]["value"])


def test_a_terminal_tells_who_is_highest_among_those_it_has_no_room_for():
    best = subject("lola-full", self=0.0, unseen=-2.0)
    made = card_of([*(subject(f"lola(lr={k + 2},lookahead_lr=0.25)", self=-1.0) for k in range(45)), best])
    (line,) = (x for x in cards.text(made).splitlines() if "more rows" in x)
    assert line.endswith("highest are there: cooperation lola-full 1.00")
    nobody = [{"learner": "lola", **{key: {"value": None} for key in COLUMNS}}]  # a track may lack a column
    assert cards._hidden(nobody, nobody) == "and 1 more rows: on the page, or with --json"
    assert "games: ipd, bos" in cards.text(made)


def test_games_in_no_average_say_who_loses_there():
    games = {"ipd": {}, "bos": {"block": "diagnostic"}}
    alone = {"name": "self", "family": "self", "about": "itself", "games": ["ipd", "bos"]}
    track = read_track({**CONTENT, "games": games, "scenarios": [alone]})
    high = Anchor(low=-2.0, high=0.0, spread=4.0)
    anchors = {("ipd/self", "ipd"): high, ("bos/self", "bos"): high}
    runs = pd.concat([
        NAIVE.runs[NAIVE.runs["scenario"] == "ipd/self"].assign(scenario=f"{game}/self", member=game, own=own)
        for game, own in (("ipd", -0.2), ("bos", -3.8))
    ])  # fmt: skip
    lossy = dataclasses.replace(NAIVE, learner="lola", runs=runs)
    made = cards.card([lossy], naive=NAIVE, anchors=anchors, track=track, tier="quick")
    assert cards.apart(made) == {"bos": ["lola"]}
    assert made.rows[0]["cooperation"]["value"] == pytest.approx(0.9)


def test_what_beats_the_best_known_return_is_told():
    better = scored(subject(learners=0.1))
    assert better.beats() == ["ipd/learners", "bos/learners"]
    assert scored(subject(learners=-0.1), ANCHORS).beats() == []
    # Fixed backgrounds are measured by the exact best response: nobody beats it.
    assert scored(subject(frozen=3.0), ANCHORS).beats() == []


def test_overlaps_are_not_held_out():
    assert scores.overlaps(TRACK, "lola") == ["ipd/lola"]
    assert scores.overlaps(TRACK, "sos") == []
    assert scores.overlaps(TRACK, "mfos(against=lola)") == ["ipd/lola"]


def test_anchors_follow_from_the_runs_of_many_and_need_random_play():
    runs = [
        subject("random", unseen=-1.2),
        subject("lola", unseen=-0.2),
        subject("sos", unseen=[0.9, 0.9, 0.9, np.nan]),
    ]
    found = scores.anchors_of(TRACK, runs)
    known = found["ipd/unseen", "ipd"]
    assert (known.low, known.high, known.by) == (-1.2, -0.2, "lola")  # who lost a run sets no mark
    assert found["ipd/self", "ipd"].high == -1.0  # mutual cooperation
    assert found["ipd/frozen", "ipd"].high == 0.5
    # Defect once, then reciprocate: whoever best-responds cooperates all along, 0 + 0.96 * -1.
    assert found["ipd/adversary", "ipd"].high == pytest.approx(-0.96, abs=1e-6)
    with pytest.raises(BadInput, match="random"):
        scores.anchors_of(TRACK, runs[1:])


# --- intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [np.arange(24), np.repeat(np.arange(12), 2)], ids=["seeds", "preparations"])
def test_intervals_cover_the_truth(units):
    """Scenarios share seeds, and seeds share preparations: what they have in common does not average out."""
    rng, truth, covered = np.random.default_rng(1), 0.3, []
    for _ in range(150):
        common = rng.normal(0.0, 0.2, units.max() + 1)[units]
        tasks = [Task(truth + common + rng.normal(0.0, 0.1, len(units)), 1 / 3) for _ in range(3)]
        score = interval(tasks, units)
        covered.append(score["low"] <= truth <= score["high"])
    # Percentile intervals of twelve or so units are a little short of 95 %.
    assert 0.86 <= np.mean(covered) <= 0.99


def test_marks_keep_their_level_among_rules_that_are_alike():
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(60):
        runs = {str(k): rng.normal(size=16) for k in range(5)}
        wrong += len(marked(runs, {k: float(x.mean()) for k, x in runs.items()})) < 5
    assert wrong / 60 <= 0.12


def test_a_mark_on_everybody_says_nothing():
    alike = [subject(x, self=[-1.0, -0.5, -0.6, -0.9]) for x in ("sga", "cgd")]
    assert not any(row["cooperation"]["best"] for row in card_of([NAIVE, *alike]).rows)


def test_marks_tell_what_is_clearly_worse():
    rng = np.random.default_rng(3)
    runs = {"good": rng.normal(1.0, 0.1, 16), "bad": rng.normal(0.0, 0.1, 16)}
    assert marked(runs, {k: float(x.mean()) for k, x in runs.items()}) == {"good"}


# --- reference results ------------------------------------------------------------------------


@pytest.fixture
def small_track(monkeypatch):
    """Four scenarios of one game, of which no results are shipped."""
    chosen = [x for x in CONTENT["scenarios"] if x["name"] in ("self", "learners", "frozen", "adversary")]
    track = read_track({**CONTENT, "scenarios": [{**x, "games": ["ipd"]} for x in chosen]})
    monkeypatch.setattr(scoring, "load_track", lambda name: track)
    monkeypatch.setattr(scoring, "track_names", lambda: {"exact": None})
    return track


def test_reference_results_are_read_as_they_were_written(tmp_path):
    runs = [subject("naive", learners=-1.5), subject("random", self=[-1.0, np.nan, -1 / 3, -2.0])]
    anchors = scores.anchors_of(TRACK, runs)
    about = {"tier_name": "standard", "command": "c", "commit": "x", "versions": {}, "device": "d", "seconds": 1.0}
    reference.write(runs, anchors=anchors, track=TRACK, tier=TRACK.tiers["standard"], about=about, where=tmp_path)
    known = reference.load(TRACK, tmp_path)
    assert known.learners == ("naive", "random")
    assert known.anchors.keys() == anchors.keys()
    assert known.anchors["bos/learners", "bos"].high == pytest.approx(anchors["bos/learners", "bos"].high, rel=1e-5)
    again = known.subject("random", TRACK.tiers["quick"]).runs
    np.testing.assert_allclose(again[NUMBERS].to_numpy(float), runs[1].runs[NUMBERS].to_numpy(float), rtol=1e-5)
    assert again["lost"].sum() == 1
    assert not known.changed("naive")
    # Other scenarios: not these results.
    other = read_track({**CONTENT, "steps": 20})
    assert reference.load(other, tmp_path) is None
    assert reference.load(TRACK, tmp_path / "nothing") is None


def test_reference_results_reproduce_and_spare_computing(small_track, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "folder", lambda: tmp_path / "reference")
    monkeypatch.chdir(tmp_path)
    assert main(["reference", "--update", "-o", "cells"]) == 0
    assert "naive, random" in capsys.readouterr().out
    found = scoring.check_reference(4, seed=1)["exact", "standard"]
    assert found == {"cells": 4, "equal": 4, "close": 0, "differ": []}
    # Fewer where they took longer than they may now: one at least.
    assert scoring.check_reference(4, seed=1, seconds=0.0)["exact", "standard"]["cells"] == 1
    made, failures = scoring.score(["naive"], directory=tmp_path / "none")
    assert not failures
    assert not (tmp_path / "none").exists()
    assert [row["origin"] for row in made.rows] == ["reference", "reference"]
    # A quick tier is the first seeds of the standard one.
    runs = reference.load(small_track).subject("naive", small_track.tiers["quick"]).runs
    assert runs["seed"].max() == 3
    # Numbers that are none of theirs are found.
    path = tmp_path / "reference" / "exact-standard.parquet"
    table = read_parquet(path)
    table["own"] += 0.1
    write_parquet(table, path)
    assert len(scoring.check_reference(4, seed=1)["exact", "standard"]["differ"]) == 4
    assert main(["reference", "naive"]) == 2


# --- from end to end --------------------------------------------------------------------------

RULE = '''
from shaping_bench.algorithms.core import Access, Learner, pytree_dataclass


@pytree_dataclass
class Reply(Learner):
    """Answers what it sees as well as can be."""

    access = Access.GRADIENTS
    source = "a test"

    def update(self, key, state, view):
        return view.best_response(), state, {}
'''
PROJECT = """
[project]
name = "mine"
version = "0"
[project.entry-points."shaping_bench.algorithms"]
my-reply = "my_reply:Reply"
"""


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "my_reply.py").write_text(RULE)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    registry.algorithms.cache_clear()
    yield tmp_path
    registry.algorithms.cache_clear()


def test_a_rule_in_a_folder_of_ones_own_gets_its_row(own_folder, small_track, capsys):
    assert main(["score", "my-reply", "-o", "results", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["track"], made["tier"]) == ("exact", "quick")
    rows = {row["learner"]: row for row in made["rows"]}
    assert set(rows) == {"my-reply", "naive", "random"}
    mine = rows["my-reply"]
    assert mine["ranked"]
    assert mine["access"] == "gradients"
    assert {"value", "low", "high"} <= set(mine["cooperation"])
    # It best-responds: what best responses get is all there is.
    assert mine["adaptation"]["value"] == pytest.approx(1.0, abs=1e-3)
    assert rows["random"]["adaptation"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert rows["naive"]["shaping"]["value"] == 0.0
    # Two who answer one another defect, which is less than random play.
    assert mine["cooperation"]["value"] == pytest.approx(-1.0, abs=1e-3)
    (cell,) = mine["scenarios"]["ipd/frozen"]["cells"]
    folder = own_folder / "results" / "exact-quick"
    assert [x for x in folder.glob("my-reply-*") if (x / "cells" / cell / "cell.json").is_file()]
    # What is stored is not computed again.
    before = {x: x.stat().st_mtime_ns for x in folder.rglob("*.parquet")}
    assert main(["score", "my-reply", "-o", "results", "--alone"]) == 0
    assert {x: x.stat().st_mtime_ns for x in folder.rglob("*.parquet")} == before
    shown = capsys.readouterr().out
    assert "my-reply" in shown
    assert "random" not in shown.splitlines()[-1]


def test_what_cannot_be_scored_is_said_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (["score", "ppo"], "plays the views ['sampled']"),
        (["score", "lolo"], "lola"),
        (["score", "lola", "--tier", "paper"], "quick"),
        (["score", "lola", "--track", "deep"], "exact"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "name_of_tier"),
    [(x, tier) for x in track_names() for tier in reference.shipped_tiers(load_track(x))],
)
def test_what_is_shipped_is_about_the_scenarios_there_are(name, name_of_tier):
    track, tier = load_track(name), load_track(name).tiers[name_of_tier]
    known = reference.load(track, tier=name_of_tier)
    assert known.manifest["tier_name"] == name_of_tier
    assert set(track.at(name_of_tier).reference) == set(known.learners)
    assert reference.serving(track, name_of_tier) is not None
    asked = track.at(name_of_tier).of("test")
    members = {(x.name, member) for x in asked for member in x.members}
    assert set(known.anchors) == members
    for learner in known.learners:
        runs = known.subject(learner, tier).runs
        assert set(zip(runs["scenario"], runs["member"], strict=True)) == members
        seeds = runs.groupby("scenario")["seed"].nunique()
        assert seeds.to_dict() == {x.name: x.seeds(tier) for x in asked}
    assert sum(path.stat().st_size for path in reference.folder().iterdir()) < 15e6


@pytest.mark.parametrize("name", ["exact", "sampled", "deep", "incentives", "latent", "dilemmas", "markets", "groups"])
def test_a_quick_card_stands_beside_what_is_shipped(name):
    assert reference.serving(load_track(name), "quick") is not None


def test_what_is_shipped_is_what_is_computed():
    """One cell of it; ``make reference`` takes a dozen of each track, other ones every day."""
    found = scoring.check_reference(1, seed=52, track="exact")["exact", "standard"]
    assert found["equal"] + found["close"] == found["cells"] == 1


def test_what_is_found_is_supported_by_its_interval_and_can_be_computed_again():
    track = load_track("exact")
    found = findings.findings(track)
    assert len(found) >= 10
    assert sum(not x.known for x in found) >= 3
    for x in found:
        assert x.low <= x.value <= x.high
        assert x.low > 0.0 or x.high < 0.0
        program, command, *rest = shlex.split(x.command)
        assert (program, command, rest[-1]) == ("shaping-bench", "score", "--json")
        assert [track.subject(name) for name in rest[: rest.index("--alone")]]


def test_a_question_that_the_numbers_leave_open_is_not_answered(monkeypatch):
    rules = {"sga": subject("sga", self=[-0.5, -1.5, -0.4, -1.6]), "cgd": subject("cgd", self=[-1.5, -0.5, -1.6, -0.4])}
    rules["lss"] = subject("lss", self=[-0.1, -0.2, -0.1, -0.2])
    asked = [
        findings.Question(of=[a], less=[b], column="cooperation", more=f"{a} more", fewer=f"{a} less")
        for a, b in (("sga", "cgd"), ("lss", "cgd"), ("cgd", "lss"), ("sga", "absent"))
    ]
    monkeypatch.setattr(findings, "questions", lambda track: asked)
    monkeypatch.setattr(
        findings, "shipped_rules", lambda track, names: {x: scored(rules[x]) for x in names & set(rules)}
    )
    assert [x.text for x in findings.findings(TRACK)] == ["lss more", "cgd less"]
