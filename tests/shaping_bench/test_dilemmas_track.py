"""The track of social dilemmas: visitors and residents among three, the best known where nothing is known exactly."""

import dataclasses

import numpy as np
import pytest

from shaping_bench import scoring
from shaping_bench.analysis import reference, scores
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.publish import cards
from shaping_bench.spec import registry
from shaping_bench.spec.scenarios import card_cells, card_responses, load_track, read_track

TRACK = load_track("dilemmas")
GAME = "public-goods(horizon=2)"
CONTENT = {
    "track": "dilemmas",
    "view": "sampled",
    "naive": "random",
    "random": "random",
    "steps": 10,
    "record_every": 10,
    "responders": ["ppo"],
    "tiers": {"quick": {"seeds": 2}},
    "games": {GAME: {"spread": 0.5}},
    "scenarios": [
        {"name": "self", "family": "self", "about": "itself", "games": [GAME]},
        {"name": "visitor", "family": "frozen", "about": "x", "background": "all-d", "games": [GAME]},
        {
            "name": "resident",
            "family": "frozen",
            "about": "x",
            "background": "all-d",
            "role": "resident",
            "games": [GAME],
        },
    ],
}
TINY = read_track(CONTENT)


def test_among_three_a_rule_is_met_as_a_visitor_and_as_a_resident():
    sizes = {x.game: registry.make_game(x.game).value.n_players for x in TRACK.scenarios}
    assert set(sizes.values()) == {2, 3}
    for tier in TRACK.tiers:
        asked = [x for x in TRACK.at(tier).of("test") if x.block == "main"]
        for game in {x.game for x in asked}:
            own = [x for x in asked if x.game == game]
            for family in "learners", "frozen":
                assert {x.seats(3) for x in own if x.family == family} == {(0,), (0, 1)} or sizes[game] == 2
            if sizes[game] == 3:
                assert "adversary" not in {x.family for x in own}
    assert {x.game for x in TRACK.at("quick").scenarios} < {x.game for x in TRACK.at("standard").scenarios}


def test_who_shapes_is_met_at_the_budget_at_which_it_works_alone():
    assert "shapers" not in {x.family for x in TRACK.at("quick").scenarios}
    assert len(TRACK.at("standard").of("test")) > len(TRACK.at("quick").of("test"))


@pytest.mark.parametrize(
    ("learner", "played"), [("reciprocator", 24), ("loqa", 10), ("naive-q", 7), ("mfos-recurrent", 17), ("lio", 0)]
)
def test_who_cannot_play_some_of_its_games_is_told_why_in_a_line(learner, played):
    cells = card_cells(TRACK, "quick", learner)
    refused = [x for x in cells.values() if isinstance(x, str)]
    assert len(cells) - len(refused) == played
    assert all(x.startswith(f"learner {learner!r} in seat 1 of game") and "\n" not in x for x in refused)


def test_returns_of_rare_rewards_are_measured_by_what_scripts_earn():
    spreads = {x.game: x.spread for x in TRACK.scenarios}
    for game, spread in spreads.items():
        smallest, largest = scores._rewards(registry.make_game(game).value, game)
        assert spread is None or spread < 0.1 * (largest - smallest) or game.startswith("cleanup"), game
    assert TINY.scenarios[0].spread == 0.5
    plain = read_track({**CONTENT, "games": {GAME: {}}})
    told = [reference.protocol_of(x)["scenarios"][f"{GAME}/self"] for x in (plain, TINY)]
    assert told[1] == [*told[0], 0.5]  # so that rows by another scale are not shown with it
    with pytest.raises(BadInput, match=r"scenarios.games.*spread is 0"):
        read_track({**CONTENT, "games": {GAME: {"spread": 0}}})


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The card of three rules, one of which pays others and cannot, and the subjects' runs by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "load_track", lambda name: TINY)
        patch.setattr(scoring.shipped, "serving", lambda *_: None)
        directory = tmp_path_factory.mktemp("score")
        made, failures = scoring.score(["all-c", "lio"], track="dilemmas", tier="quick", directory=directory)
        assert failures == []
        return {row["learner"]: row for row in made.rows}, cards.text(made)


def test_seats_of_residents_and_of_visitors_are_the_rules_own(scored):
    rows, _ = scored
    # Of three two contribute: each gets 1.6 * 2 / 3 - 1, who does not 1.6 * 2 / 3; or one: 1.6 / 3 - 1 and 1.6 / 3.
    expected = {"self": (0.6, 0.6), "visitor": (1.6 / 3 - 1, 1.6 / 3), "resident": (3.2 / 3 - 1, 3.2 / 3)}
    for name, (own, others) in expected.items():
        asked = rows["all-c"]["scenarios"][f"{GAME}/{name}"]
        assert (asked["return"], asked["others_return"]) == (
            pytest.approx(own, abs=1e-6),
            pytest.approx(others, abs=1e-6),
        )


def test_where_responders_are_trained_the_best_known_stands_for_a_best_response_in_every_game(scored):
    rows, _ = scored
    # Among defectors random play does better than cooperation, so that it is the best known: nothing to tell.
    assert rows["random"]["scenarios"][f"{GAME}/visitor"]["share"] is None
    assert rows["all-c"]["scenarios"][f"{GAME}/resident"]["share"]["value"] == pytest.approx(1.0)
    assert (rows["all-c"]["adaptation"]["value"], rows["random"]["adaptation"]["value"]) == (pytest.approx(1.0), 0.0)


def test_who_can_play_nothing_is_not_ranked_and_told_why(scored):
    rows, said = scored
    row = rows["lio"]
    assert not row["ranked"]
    assert set(row["missing"]) == set(row["why_missing"]) == {x.name for x in TINY.scenarios}
    assert all("pays others, for which this game has no way" in x for x in row["why_missing"].values())
    assert "not ranked: lio, missing" in said


def test_self_play_is_measured_by_the_best_known_where_no_optimum_is():
    game = "harvest(layout=patch,num_players=3,horizon=200)"
    assert registry.make_game(game).value.anchors() is None
    track = dataclasses.replace(TRACK, scenarios=tuple(x for x in TRACK.scenarios if x.name == f"{game}/self"))

    def subject(learner, value):
        runs = scores._frame([]).reindex(range(2)).assign(scenario=f"{game}/self", member=game, seed=range(2))
        runs = runs.assign(own=value, best=np.nan, lost=False, unit=range(2))
        return dataclasses.replace(scores.without_runs(track, learner, ""), runs=runs)

    anchors = scores.anchors_of(track, [subject("random", 0.04), subject("all-c", 0.052), subject("all-d", 0.02)])
    assert anchors[f"{game}/self", game] == scores.Anchor(low=0.04, high=0.052, spread=0.08, by="all-c")


def test_no_adversary_answers_three():
    assert {x.responder.label for several in card_responses(TRACK, "quick", "random").values() for x in several} == {
        TRACK.naive
    }
    wrong = {"name": "adversary", "family": "adversary", "about": "x", "games": [GAME]}
    with pytest.raises(BadInput, match="of 3 players; allowed for an adversary: games of two"):
        read_track({**CONTENT, "scenarios": [*CONTENT["scenarios"], wrong]})


def test_a_terminal_says_for_how_long_an_adversary_with_a_long_name_was_trained():
    said = cards.text(cards.reference_card(TRACK))
    assert len(TRACK.responders[0]) > cards.NAME_WIDTH
    assert f"{cards.elided(TRACK.responders[0], cards.NAME_WIDTH)}, trained for 100 updates\n" in said


def test_the_track_is_named_where_one_asks(capsys):
    assert main(["score", "--help"]) == 0
    assert "dilemmas" in capsys.readouterr().out
