"""Tracks in which no best response is exact: an adversary is trained, by several, and the strongest counts."""

import copy
import dataclasses
import html

import numpy as np
import pytest

from shaping_bench import scoring
from shaping_bench.analysis import reference, scores
from shaping_bench.errors import BadInput
from shaping_bench.metrics.curves import long_enough
from shaping_bench.publish import cards
from shaping_bench.publish.report.cards import card_sections
from shaping_bench.run.jobs import plan
from shaping_bench.spec.scenarios import card_cells, card_responses, card_suite, load_track, read_track
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store

GAME = "coin-game"
NET = "naive-pg(batch_size=4,network=mlp,hidden=4)"
SEARCH = "open-es(population=2,episodes=2,hidden=4)"
CONTENT = {
    "track": "deep",
    "view": "sampled",
    "naive": "random",
    "random": "random",
    "reference": ["random"],
    "steps": 20,
    "record_every": 10,
    "responders": [NET, SEARCH],
    "response_steps": 3,
    "tiers": {"quick": {"seeds": 3, "steps": 10, "record_every": 5}, "standard": {"seeds": 2, "response_steps": 5}},
    "games": {GAME: {}},
    "scenarios": [
        {"name": "self", "family": "self", "about": "itself", "games": [GAME]},
        {"name": "defector", "family": "frozen", "about": "takes all", "background": "all-d", "games": [GAME]},
        {"name": "adversary", "family": "adversary", "about": "trained", "games": [GAME]},
        {
            "name": "shaper",
            "family": "shapers",
            "about": "one",
            "background": "lola-pg",
            "games": [GAME],
            "tiers": ["standard"],
        },
    ],
}
TRACK = read_track(CONTENT)


def test_a_tier_has_scenarios_and_budgets_of_its_own():
    quick, standard = TRACK.at("quick"), TRACK.at("standard")
    assert [x.name for x in standard.scenarios if x not in quick.scenarios and x.family == "shapers"] == [
        f"{GAME}/shaper"
    ]
    assert {x.family for x in quick.scenarios} == {"self", "frozen", "adversary"}
    assert [(x.scenarios[0].steps, x.record_every, x.response_steps) for x in (quick, standard)] == [
        (10, 5, 3),
        (20, 10, 5),
    ]
    cell = card_cells(TRACK, "standard", "all-c")[f"{GAME}/self", GAME]
    assert (cell.steps, cell.record_every, cell.seeds) == (20, 10, 2)


def test_rules_are_called_alike_however_a_file_orders_their_numbers():
    shuffled = "naive-pg(hidden=4,network=mlp,batch_size=4)"
    track = read_track({**CONTENT, "naive": shuffled, "reference": [shuffled]})
    assert track.reference == (track.naive,) == (track.subject(shuffled),) == (track.subject(NET),)
    assert expand(validate(card_suite(track, "quick", [track.naive]))).encounters


def test_a_game_is_asked_about_in_the_tiers_that_it_names():
    track = read_track({**CONTENT, "games": {GAME: {"tiers": ["standard"]}}})
    assert track.at("quick").scenarios == ()
    assert [x.name for x in track.at("standard").scenarios] == [x.name for x in TRACK.at("standard").scenarios]
    with pytest.raises(BadInput, match=r"scenarios.games.coin-game.tiers is 'paper'"):
        read_track({**CONTENT, "games": {GAME: {"tiers": ["paper"]}}})


@pytest.mark.parametrize("subject", [NET, "all-c"])
def test_each_responder_has_a_cell_of_its_own_that_waits_for_self_play(subject, tmp_path):
    (several,) = card_responses(TRACK, "quick", subject).values()
    assert [x.responder.label for x in several] == [NET, SEARCH]
    assert len({x.hash for x in several}) == len({x.title for x in several}) == 2
    assert {(x.steps, x.after, x.seeds) for x in several} == {(3, 10, 3)}
    alone = expand(validate(card_suite(TRACK, "quick", [subject])))
    assert {x.hash for x in alone.matches} == {x.hash for x in several}
    # Another budget of what is answered is another cell.
    (later,) = card_responses(TRACK, "standard", subject).values()
    assert not {x.hash for x in later} & {x.hash for x in several}
    jobs = {job.key: job for job in plan(alone, Store(tmp_path), None).jobs}
    own = card_cells(TRACK, "quick", subject)[f"{GAME}/self", GAME].hash
    source = next(job.key for job in jobs.values() if own in job.cells)
    assert all(jobs[x.hash].after == ((source,) if subject == NET else ()) for x in several)


def test_it_waits_for_a_self_play_that_the_card_holds_under_the_labels_of_another_scenario(tmp_path):
    """Among its like the naive learner meets the background of naive learners: one cell, of two scenarios."""
    like = {"name": "learners", "family": "learners", "about": "its like", "background": NET, "games": [GAME]}
    track = read_track({**CONTENT, "naive": NET, "scenarios": [*CONTENT["scenarios"][:3], like]})
    cells = card_cells(track, "quick", NET)
    own = cells[f"{GAME}/self", GAME].hash
    assert cells[f"{GAME}/learners", GAME].hash == own
    jobs = {
        job.key: job for job in plan(expand(validate(card_suite(track, "quick", [NET]))), Store(tmp_path), None).jobs
    }
    source = next(job.key for job in jobs.values() if own in job.cells)
    (several,) = card_responses(track, "quick", NET).values()
    assert len(several) == 2
    assert all(jobs[x.hash].after == (source,) and f"cells/{own}" in jobs[x.hash].reads for x in several)


def test_training_is_long_enough_where_its_second_half_changes_less_than_is_known():
    known = long_enough(np.array([1.0, 2.0, np.nan]), np.array([1.5, 2.5, 9.0]))
    # Student's t of one degree of freedom, 12.706, times the standard error, 0.5.
    assert known == {"gain": 2.0, "change": 0.5, "interval": pytest.approx(6.353, abs=1e-3), "enough": True}
    assert not long_enough(np.zeros(3), np.array([1.0, 1.1, 0.9]))["enough"]
    assert long_enough(np.zeros(1), np.ones(1)) == {"gain": 1.0, "change": 1.0, "interval": None, "enough": None}
    assert long_enough(np.full(2, np.nan), np.ones(2))["gain"] is None


def test_responders_are_for_games_without_exact_best_responses():
    wrong = copy.deepcopy(CONTENT)
    wrong["games"]["ipd"] = {}
    wrong["scenarios"][0]["games"] = ["ipd"]
    assert read_track(wrong).scenarios[0].game == "ipd"  # nobody is trained to answer there
    wrong["scenarios"][2]["games"] = ["ipd"]
    with pytest.raises(BadInput, match="exact in 'ipd'"):
        read_track(wrong)
    with pytest.raises(BadInput, match=r"scenarios.responders.0 is 'all-c'"):
        read_track({**CONTENT, "responders": ["all-c"]})
    shaper = {**CONTENT["scenarios"][3], "tiers": ["paper"]}
    with pytest.raises(BadInput, match=r"scenarios.3.tiers is 'paper'"):
        read_track({**CONTENT, "scenarios": [*CONTENT["scenarios"][:3], shaper]})


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The card of random play in a small track, and its results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "load_track", lambda name: TRACK)
        directory = tmp_path_factory.mktemp("score")
        made, failures = scoring.score(["random"], track="deep", tier="quick", directory=directory)
        assert failures == []
        return made, load(next((directory / "deep-quick").glob("random-*")))


def subject_in(results):
    cells, responses = (of(TRACK, "quick", "random") for of in (card_cells, card_responses))
    return scores.subject_of(results, TRACK.at("quick"), "random", cells, responses=responses)


def test_the_stronger_responder_counts_and_its_training_is_checked(scored):
    made, results = scored
    (row,) = made.rows
    assert row["ranked"]
    by_responder = {r["responder"]["learner"]: r for r in results.records if r["kind"] == "league"}
    answers = [by_responder[x] for x in (NET, SEARCH)]
    returns = results.final("return", "league").pivot(index=["hash", "seed"], columns="player", values="value")
    kept, gained = (np.array([returns.loc[r["hash"]][k] for r in answers]) for k in (1, 2))
    first = np.argmax(gained, axis=0)
    asked = row["scenarios"][f"{GAME}/adversary"]
    assert asked["return"] == pytest.approx(np.mean([kept[k, s] for s, k in enumerate(first)]))
    assert asked["others_return"] == pytest.approx(gained.max(axis=0).mean())
    trained = row["trained"][f"{GAME}/adversary"]
    assert trained["responders"] == {
        r["responder"]["learner"]: pytest.approx(np.mean(first == k)) for k, r in enumerate(answers)
    }
    halfway = np.max([r["responder"]["halfway"] for r in answers], axis=0)
    assert {k: trained[k] for k in ("gain", "change", "interval", "enough")} == long_enough(halfway, gained.max(axis=0))
    # Three generations of two candidates of two games of fifty steps, in three seeds.
    assert by_responder[SEARCH]["costs"]["environment_steps"] == 3 * 2 * 2 * 50 * 3
    said = cards.text(made)
    assert len(NET) > cards.NAME_WIDTH
    assert (
        f"adversary: the stronger of {' and '.join(cards.elided(x, cards.NAME_WIDTH) for x in (NET, SEARCH))}" in said
    )
    assert any(f"adversary: the stronger of {NET} and {SEARCH}" in x for x in cards.training(made))
    assert ("adversary not trained for long enough" in said) == (not trained["enough"])
    page = card_sections(results, [made])
    assert all(html.escape(x[1:]) in page for x in cards.training(made))


def test_what_nothing_exact_is_known_of_is_measured_by_the_best_known(scored):
    subject = subject_in(scored[1])
    better = dataclasses.replace(subject, learner="all-d", runs=subject.runs.assign(own=subject.runs["own"] + 0.5))
    anchors = scores.anchors_of(TRACK.at("quick"), [subject, better])
    for name in "defector", "adversary":
        mean = subject.runs[subject.runs["scenario"] == f"{GAME}/{name}"]["own"].mean()
        anchor = anchors[f"{GAME}/{name}", GAME]
        assert (anchor.low, anchor.high, anchor.by) == (pytest.approx(mean), pytest.approx(mean + 0.5), "all-d")
    frozen = subject.runs[subject.runs["scenario"] == f"{GAME}/defector"]
    anchor = scores.Anchor(low=-1.0, high=1.0, spread=4.0)
    np.testing.assert_allclose(scores.shares(frozen, anchor, "frozen"), (frozen["own"] + 1.0) / 2.0)


def test_reference_results_are_of_one_tier_where_budgets_differ(scored, tmp_path, monkeypatch):
    track, subject = TRACK.at("quick"), subject_in(scored[1])
    about = {"tier_name": "quick", "command": "c", "commit": "x", "versions": {}, "device": "d", "seconds": 1.0}
    anchors = scores.anchors_of(track, [subject])
    reference.write([subject], anchors=anchors, track=track, tier=track.tiers["quick"], about=about, where=tmp_path)
    known = reference.load(TRACK, tmp_path)
    assert known.serves(TRACK, "quick")
    assert not known.serves(TRACK, "standard")
    assert known.subject("random", track.tiers["quick"]).trained == subject.trained
    # Beside it stands what another tier ships.
    longer = TRACK.at("standard")
    about |= {"tier_name": "standard", "command": "d"}
    reference.write(
        [subject], anchors=anchors, track=longer, tier=longer.tiers["standard"], about=about, where=tmp_path
    )
    assert reference.shipped_tiers(TRACK, tmp_path) == ("quick", "standard")
    assert [reference.load(TRACK, tmp_path, x).manifest["command"] for x in (None, "quick")] == ["d", "c"]
    monkeypatch.setattr(reference, "folder", lambda: tmp_path)
    assert [reference.serving(TRACK, x).manifest["command"] for x in ("quick", "standard")] == ["c", "d"]


def test_the_deep_track_is_asked_of_networks():
    track = load_track("deep")
    assert set(track.responders) == {"ppo", "open-es"}
    quick = track.at("quick")
    assert not [x for x in quick.scenarios if x.family == "shapers"]
    assert {x.family for x in track.at("standard").of("test")} == {x.family for x in track.of("validation")}
