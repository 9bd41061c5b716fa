"""What pages say that scripts return: played again, and against what is known exactly."""

import json

import pytest

from shaping_bench.docs import anchors
from shaping_bench.metrics.anchors import anchors_of
from shaping_bench.spec import registry

STORED = json.loads(anchors.FILE.read_text())


def test_every_row_is_there():
    assert [(x["game"], x["episodes"]) for x in STORED] == [*anchors.SHOWN]


@pytest.mark.parametrize("game", ["cournot", "tensor(preset=threshold,num_players=3)"])
def test_a_cheap_row_is_what_is_measured(game):
    """The same seed plays the same episodes; what compilers make of them differs in the last digits."""
    (stored,) = (x for x in STORED if x["game"] == game)
    again = anchors.row(game, stored["episodes"])
    for script in anchors.SCRIPTS:
        assert again[script]["mean"] == pytest.approx(stored[script]["mean"], rel=1e-4, abs=1e-5)
        assert again[script]["error"] == pytest.approx(stored[script]["error"], rel=1e-2, abs=1e-5)
        assert again[script]["exact"] == pytest.approx(stored[script]["exact"], abs=1e-5)
    assert again["optimum"]["source"] == stored["optimum"]["source"]


def test_what_is_measured_is_what_is_exact():
    compared = 0
    for row in STORED:
        for script in anchors.SCRIPTS:
            x = row[script]
            if x["exact"] is not None:
                assert abs(x["mean"] - x["exact"]) < 5 * x["error"] + 1e-4 * max(1.0, abs(x["exact"])), (
                    row["game"],
                    script,
                )
                compared += 1
    assert compared > 20


def test_random_play_and_the_optimum_are_the_games_own():
    """Which each game computes, or has from scripts that were measured once: by a fiftieth of its scale."""
    for row in STORED:
        own = anchors_of(registry.make_game(row["game"]).value)
        if own is None:
            assert row["optimum"] is None
            continue
        assert row["optimum"]["value"] == pytest.approx(own.social_optimum, abs=1e-6)
        scale = 0.02 * (own.social_optimum - own.random)
        assert abs(row["random"]["mean"] - own.random) < 5 * row["random"]["error"] + scale, row["game"]
        for script in anchors.SCRIPTS:  # no script pays more
            assert row[script]["mean"] < own.social_optimum + 5 * row[script]["error"] + scale, (row["game"], script)
