"""Rules without a row: a card lists the whole registry, in rows or with what is missing, and says why by asking it."""

import dataclasses

import pytest

from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.analysis import reference
from shaping_bench.analysis.lacking import lacking
from shaping_bench.errors import BadInput
from shaping_bench.publish import cards
from shaping_bench.publish.report.cards import beside_sections
from shaping_bench.publish.standings import lacking_table
from shaping_bench.spec import registry
from shaping_bench.spec.scenarios import load_track, read_track, track_names

SAMPLED = load_track("sampled")


@pytest.fixture(scope="module")
def card():
    return cards.reference_card(SAMPLED)


@pytest.mark.parametrize("name", track_names())
def test_what_is_shipped_and_what_lacks_are_the_whole_registry(name):
    track = load_track(name)
    for tier in reference.shipped_tiers(track):
        rows = reference.load(track, tier=tier).learners
        rowed = {type(registry.make_learner(x).value) for x in rows}
        found = lacking(track.at(tier), tier, "test", rows)
        told = [rule for x in found for rule in x.rules]
        assert sorted(told) == sorted(rule for rule, cls in ALGORITHMS.items() if cls not in rowed)
        assert [x.plays for x in found] == sorted((x.plays for x in found), reverse=True)


def test_who_is_said_to_play_is_let_play_and_who_is_not_is_refused_with_the_same_words():
    games = [registry.make_game(x) for x in ("ipd", "stag-hunt", "hawk-dove")]
    for lack in lacking(SAMPLED, "quick", "test", ["naive-pg"]):
        for rule in lack.rules:
            complaints = []
            for game in games:
                learner = registry.make_learner(rule, game=game.name)
                try:
                    registry.check_encounter(game, [learner] * 2)
                except BadInput as error:
                    complaints.append(str(error))
            if lack.plays:
                assert not complaints
                assert lack.why.startswith("not run")
            elif SAMPLED.view in ALGORITHMS[rule].views:
                assert complaints[0].endswith(lack.why.partition(": ")[2])
            else:
                assert lack.why == "plays exact games only"


def test_what_a_row_would_take_is_told_as_it_was_timed_or_by_what_its_defaults_ask_for():
    timed = dataclasses.replace(SAMPLED, minutes={"quick": {"pola(outer_steps=3)": 1234.0, "loqa": 7.5}})
    why = {rule: x.why for x in lacking(timed, "quick", "test", []) for rule in x.rules}
    assert why["pola"] == "not run: about 1,200 CPU-minutes as pola(outer_steps=3)"
    assert why["loqa"] == "not run: about 7.5 CPU-minutes"
    assert why["lola-om"] == "not run: updates of 4,000 episodes"
    assert why["coala-pg"] == "not run: prepares for every game, for 3,000 steps each"
    assert why["naive-q"] == "not run: learns at every step"
    assert why["tft"] == "not run: a fixed strategy"
    assert "7.5" not in {rule: x.why for x in lacking(timed, "standard", "test", []) for rule in x.rules}["loqa"]


def test_terminals_pages_and_json_say_so(card):
    assert card.plain()["without_row"] == {rule: x.why for x in card.lacking for rule in x.rules}
    last = cards.text(card).splitlines()[-1]
    assert last.startswith("no row (why: --json): ")
    assert len(last) <= cards.MAX_WIDTH
    table = lacking_table(card)
    assert table.row_labels == tuple(x.why for x in card.lacking)
    page = beside_sections([card])
    assert all(x.text in page for row in table.cells for x in row)


def test_minutes_of_an_unknown_tier_or_rule_are_refused():
    content = {
        "track": "sampled",
        "view": "sampled",
        "naive": "naive-pg",
        "random": "random",
        "steps": 10,
        "record_every": 1,
        "tiers": {"quick": {"seeds": 4}},
        "games": {"ipd": {}},
        "scenarios": [{"name": "self", "family": "self", "about": "itself", "games": ["ipd"]}],
    }
    with pytest.raises(BadInput, match=r"scenarios.minutes.*'quik'"):
        read_track({**content, "minutes": {"quik": {"loqa": 1}}})
    with pytest.raises(BadInput, match=r"scenarios.minutes.quick.*'lokva'"):
        read_track({**content, "minutes": {"quick": {"lokva": 1}}})
    assert read_track({**content, "minutes": {"quick": {"loqa": 1}}}).minutes == {"quick": {"loqa": 1.0}}
