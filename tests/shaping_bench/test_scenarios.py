"""Scenarios: what the files say, that backgrounds of splits do not meet, and the suite that a card is made of."""

import copy
import json

import pytest
import yaml

from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.games import GAMES, make
from shaping_bench.spec import registry, scenarios, suite
from shaping_bench.spec.registry import make_game
from shaping_bench.spec.scenarios import card_cells, card_suite, load_track, read_track, track_names

TRACK = load_track("exact")


def content():
    return yaml.safe_load(track_names()["exact"].read_text())


def by_name():
    return {x.name: x for x in TRACK.scenarios}


def test_all_six_families_are_asked_of_the_exact_track():
    main_block = [x for x in TRACK.of("test") if x.block == "main"]
    assert {x.family for x in main_block} == set(scenarios.Family.__args__) - {"rational"}
    assert {x.game for x in main_block} == {"ipd", "imp", "hawk-dove", "stag-hunt", "bos"}
    # Nothing unbounded is in an average.
    assert all(make(x.game).reward_bounds is not None for x in main_block)


def test_where_nobody_has_another_seat_a_track_asks_for_self_play_and_ranks_by_it():
    track = load_track("latent")
    assert {x.family for x in track.scenarios} == {"self"}
    assert {make(x.game).n_players for x in track.scenarios} == {1}
    assert (track.headline, load_track("incentives").headline) == ("cooperation", "generality")
    for subject in (track.naive, track.random, "sac-oracle"):
        assert not [x for x in card_cells(track, "quick", subject).values() if isinstance(x, str)]


@pytest.mark.parametrize("name", [x for x in track_names() if x != "latent"])
def test_every_track_asks_all_six_families_and_has_what_its_card_is_measured_by(name):
    track = load_track(name)
    sizes = {make_game(call).value.n_players for x in track.scenarios for call in x.members.values()}
    asked = set(scenarios.Family.__args__) - {"rational"} - (set() if 2 in sizes else {"adversary"})  # answers one
    assert {x.family for x in track.of("test") if x.block == "main"} == asked
    assert track.subject(track.naive) == track.naive
    assert track.random == track.subject(track.random)
    assert {x.background for x in track.scenarios if x.family == "learners"} == {track.naive}
    # A validation split asks what a test split asks.
    families = [sorted({x.family for x in track.of(split)}) for split in ("validation", "test")]
    assert families[0] == families[1]
    for subject in track.reference:
        cells = card_cells(track, min(track.tiers), subject)
        assert not [x for x in cells.values() if isinstance(x, str)]


IN_NO_TRACK = {
    "games whose payoffs the user gives": {"matrix", "matrix-one-shot"},
    "one choice and no episode: what they show is where updates go, which is in no average": {
        *("tandem", "matching-pennies", "chicken-one-shot", "ultimatum", "balduzzi", "hamiltonian", "logistic")
    },
    "zero-sum, of which the exact track has one of two actions": {"rps"},
    "clean-up on twenty cells, for rules that are prepared for it; the track has cleanup": {"cleanup-lite"},
    "the dilemmas of in-the-matrix by other rules, in episodes of a thousand steps": {"in-the-matrix-repeated"},
}


def test_every_game_is_in_a_track_or_it_is_said_why_it_is_in_none():
    calls = {call for name in track_names() for x in load_track(name).scenarios for call in x.members.values()}
    games = [make_game(call) for call in calls]
    excepted = set().union(*IN_NO_TRACK.values())
    assert {x.name for x in games} | excepted == set(GAMES)
    assert not {x.name for x in games} & excepted
    sizes = {(x.name, x.value.n_players) for x in games}
    assert {(x, 3) for x in ("public-goods", "tensor", "coin-game", "harvest", "cleanup", "cournot", "fishery")} < sizes


def test_the_ordinal_games_are_met_from_either_seat_and_once_in_self_play():
    named = by_name()
    assert len(named["ordinal/self"].members) == 78
    assert len(named["ordinal/learners"].members) == 144
    assert named["ordinal/learners"].members["64"] == "ordinal(index=64)"
    assert "64x" not in named["ordinal/learners"].members  # the prisoner's dilemma: seats are alike
    assert all(registry.make_game(call) for call in named["ordinal/learners"].members.values())


def test_backgrounds_of_splits_do_not_meet():
    game = make("ipd")
    drawn = {}
    for scenario in TRACK.scenarios:
        if scenario.background and "split=" in scenario.background:
            rule = registry.make_learner(scenario.background).value
            found = rule.settings() if scenario.learns else rule.logits(game, 1)
            drawn[scenario.background.replace(scenario.split, "*"), scenario.split] = {tuple(x) for x in found}
    kinds = {kind for kind, _ in drawn}
    assert len(kinds) == 5
    for kind in kinds:
        parts = [drawn[kind, split] for split in ("train", "validation", "test")]
        assert [len(x) for x in parts] == [800, 100, 100]
        assert len(set.union(*parts)) == 1000


def test_a_card_of_another_split_differs_in_what_is_drawn_and_in_which_shapers_are_met():
    test, validation = ({x.name for x in TRACK.of(split)} for split in ("test", "validation"))
    assert "ipd/learners" in test & validation
    assert "ipd/unseen-steps" in test - validation
    assert "ipd/unseen-steps:validation" in validation - test
    assert "ipd/lola" in test - validation
    assert "ipd/lookahead:validation" in validation - test


def test_the_suite_of_a_card_holds_every_cell_of_it():
    made = suite.expand(suite.validate(card_suite(TRACK, "quick", ["naive", "tft", "cola"])))
    asked = {x.name: x for x in TRACK.of("test") if not x.projected}
    members = [(name, member) for name, x in asked.items() for member in x.members]
    cells = {subject: card_cells(TRACK, "quick", subject) for subject in ("naive", "tft", "cola")}
    assert all(list(found) == members for found in cells.values())
    assert {x.hash for found in cells.values() for x in found.values() if not isinstance(x, str)} == {
        cell.hash for cell in made.encounters
    }
    # Who prepares would have to do so 144 times.
    left_out = {name for (name, _), x in cells["cola"].items() if isinstance(x, str)}
    assert left_out == {name for name in asked if name.startswith("ordinal/")}
    # The naive learner among its like is the naive learner among naive learners.
    assert cells["naive"]["ipd/self", "ipd"].hash == cells["naive"]["ipd/learners", "ipd"].hash
    assert not made.skipped
    first = {cell.game.label: cell for cell in made.encounters}
    cell = first["ordinal/learners/7x"]
    assert [x.label for x in cell.learners][1] == "background"
    assert cell.seeds == TRACK.tiers["quick"].seeds
    assert (cell.steps, cell.record_every) == (200, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x["scenarios"][1].update(family="friends"), "scenarios.1.family"),
        (lambda x: x["scenarios"][1].update(games=["ipd", "go"]), "scenarios.1.games is 'go'"),
        (lambda x: x["scenarios"][1].pop("background"), "scenarios.1.background is None"),
        (lambda x: x["scenarios"][1].update(background="tft"), "which does not learn"),
        (lambda x: x["scenarios"][4].update(background="naive"), "which learns"),
        (lambda x: x["scenarios"].append(copy.deepcopy(x["scenarios"][1])), "twice"),
        (lambda x: x.update(steps=5), "scenarios.steps"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(change, said):
    wrong = content()
    change(wrong)
    with pytest.raises(BadInput, match=said) as complaint:
        read_track(wrong)
    assert "\n" not in str(complaint.value)


def test_unknown_tracks_and_tiers_name_what_there_is():
    with pytest.raises(BadInput, match=r"--track is 'exakt'.*exact"):
        load_track("exakt")
    with pytest.raises(BadInput, match=r"--tier.*'quik'.*quick"):
        card_suite(TRACK, "quik", ["naive"])


def test_they_are_listed(capsys):
    assert main(["list", "scenarios", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert sum(x["track"] == "exact" for x in entries) == len(TRACK.scenarios)
    assert {x["track"] for x in entries} == set(track_names())
    entry = next(x for x in entries if (x["track"], x["name"]) == ("exact", "ipd/bots"))
    assert (entry["game"], entry["family"], entry["split"], entry["learns"]) == ("ipd", "frozen", "test", False)
    assert "tit for tat" in entry["background"]
    assert main(["list", "scenarios"]) == 0
    assert "ordinal/adversary" in capsys.readouterr().out


def test_a_track_may_be_asked_about_some_of_its_games():
    track = load_track("sampled").only(["ipd"])
    assert {x.game for x in track.scenarios} == {"ipd"}
    assert track.games == ("ipd",)
    assert TRACK.only(None) is TRACK
    with pytest.raises(BadInput, match="--games of the track 'exact'"):
        TRACK.only(["chess"])
    whole, part = (card_cells(x, "quick", "random") for x in (load_track("sampled"), track))
    assert part.items() <= whole.items()
    asked = {"track": "sampled", "learners": ["random"], "games": ["ipd"]}
    content = {"name": "x", "games": ["ipd"], "learners": ["naive"], "seeds": 2, "steps": 1, "cards": [asked]}
    made = suite.expand(suite.validate(content))
    assert {cell.game.named.name for cell in made.encounters} == {"ipd"}
    with pytest.raises(BadInput, match=r"suite.cards.0.games .* 'chess'"):
        suite.expand(suite.validate({**content, "cards": [{**asked, "games": ["chess"]}]}))


def test_a_grid_has_seeds_of_its_own_and_is_in_no_average():
    scenario = by_name()["stag-hunt/basin"]
    assert (scenario.block, scenario.seeds(TRACK.tiers["quick"]), scenario.gridded) == ("diagnostic", 441, True)
    cell = card_cells(TRACK, "quick", "naive")["stag-hunt/basin", "stag-hunt"]
    assert (cell.seeds, cell.starts) == (441, "grid")
    assert cell.hash in {x.hash for x in suite.expand(suite.validate(card_suite(TRACK, "quick", ["naive"]))).encounters}
