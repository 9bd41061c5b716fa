"""Scenarios of three and more players: visitors and residents, in suites of cards and in what is read of cells."""

import numpy as np
import pytest

from shaping_bench.analysis.scores import _Stored
from shaping_bench.errors import BadInput
from shaping_bench.spec import suite
from shaping_bench.spec.scenarios import card_cells, card_suite, read_track

GAME = "tensor(num_players=4)"


def asked(name, family, **more):
    return {"name": name, "family": family, "about": name, "games": [GAME], **more}


def content(*scenarios):
    return {
        "track": "crowds",
        "view": "exact",
        "naive": "naive",
        "random": "random",
        "steps": 10,
        "record_every": 5,
        "tiers": {"quick": {"seeds": 2}},
        "games": {GAME: {}, "ipd": {}},
        "scenarios": list(scenarios),
    }


TRACK = read_track(
    content(
        asked("self", "self"),
        asked("visitor", "learners", background="naive"),
        asked("resident", "learners", background="naive", role="resident"),
        asked("among-defectors", "frozen", background="all-d", role="resident"),
    )
)


def test_who_sits_where():
    seats = {x.name.split("/")[1]: x.seats(4) for x in TRACK.scenarios}
    everybody, most = (0, 1, 2, 3), (0, 1, 2)
    assert seats == {"self": everybody, "visitor": (0,), "resident": most, "among-defectors": most}


def test_the_suite_of_a_card_holds_its_cells():
    whole = suite.expand(suite.validate(card_suite(TRACK, "quick", ["lola", "random"])))
    stored = {cell.hash: [x.label for x in cell.learners] for cell in whole.encounters}
    found = {key[0].split("/")[1]: stored[cell.hash] for key, cell in card_cells(TRACK, "quick", "lola").items()}
    other = "background"
    assert found == {
        "self": ["lola"] * 4,
        "visitor": ["lola", other, other, other],
        "resident": ["lola"] * 3 + [other],
        "among-defectors": ["lola"] * 3 + [other],
    }


def test_returns_are_those_of_the_subjects_seats():
    """And best responses are one by one: what is stored of each seat is the mean over all others'."""
    returns, gains = np.array([[1.0, 2.0, 3.0, 10.0]]), np.array([[4.0, 5.0, 9.0, 12.0]])
    stored = object.__new__(_Stored)
    stored._known_best = True
    stored._curves = {"x": (np.array([0, 10]), np.repeat(returns[:, None], 2, axis=1))}
    responses = (gains.sum() - gains) / 3
    stored._finals = {"br_value": {"x": responses}, "diverged": {"x": np.zeros((1, 4))}}
    record = {"learners": [{"label": "lola"}]}
    expected = {"self": (4.0, 4.0), "visitor": (1.0, 5.0), "resident": (2.0, 10.0), "among-defectors": (2.0, 10.0)}
    for scenario in TRACK.scenarios:
        rows = stored.runs(scenario, GAME, "x", record)
        name = scenario.name.split("/")[1]
        assert (rows["own"][0], rows["other"][0]) == expected[name]
        assert rows["best"][0] == pytest.approx(6.0) if name == "among-defectors" else np.isnan(rows["best"][0])


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        (asked("x", "self", role="resident"), r"scenarios.0.role is 'resident' in 'tensor\(num_players=4\)'"),
        (asked("x", "learners", background="naive", role="guest"), "scenarios.scenarios.0.role is 'guest'"),
        (asked("x", "adversary"), "allowed for an adversary: games of two"),
        (
            {**asked("x", "learners", background="naive", role="resident"), "games": ["ipd"]},
            "in 'ipd' of 2 players; allowed: with a background among three and more",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(scenario, said):
    with pytest.raises(BadInput, match=said):
        read_track(content(scenario))
