"""Anchors by hand and against brute force; normalised scores of stored results."""

import itertools
import json
from typing import ClassVar

import numpy as np
import pytest

from shaping_bench import games
from shaping_bench.analysis.entries import entries
from shaping_bench.errors import BadInput
from shaping_bench.games.anchors import of_table
from shaping_bench.games.base import Game
from shaping_bench.metrics import anchors
from shaping_bench.metrics.anchors import Scale, anchors_of
from shaping_bench.publish import standings, tables
from shaping_bench.store import results as results_
from tests.shaping_bench.synthetic_results import write_cell, write_suite


@pytest.mark.parametrize(
    ("name", "random", "best_response", "social_optimum", "one", "limits"),
    [
        # Rewards -1 -3 0 -2: against random others defection gets (0 - 2) / 2.
        ("ipd", -1.5, -1.0, -1.0, -1.0, (-3.0, 3.0)),
        # Zero-sum: a win scores 1, whoever wins it.
        ("imp", 0.0, 0.0, 0.0, 1.0, (-1.0, 1.0)),
        ("matching-pennies", 0.0, 0.0, 0.0, 1.0, (-1.0, 1.0)),
        # To swerve against random others: (0 - 1) / 2; a crash is -100.
        ("chicken", -25.0, -0.5, 0.0, 0.0, (-3.0, 1.04)),
        ("stag-hunt", 2.5, 2.5, 4.0, 4.0, (-1.0, 1.0)),
        # The own favourite half of the time: 3/2.
        ("bos", 1.25, 1.5, 2.5, 2.5, (-1.0, 1.4)),
        # All give: 1.6 - 1 each. Giving nothing gets a third of 1.6 times the one gift expected. The lone giver
        # gets 1.6 / 3 - 1, the lone taker 3.2 / 3.
        ("public-goods", 0.3, 1.6 / 3, 0.6, 0.6, (-2.3 / 0.9, 2.3 / 0.9)),
        # Fair: 5 and 5. Random: (5 + 4) / 2 and (5 + 1) / 2; best: unfair or fair 5, and accepting 3.5.
        ("ultimatum", 3.75, 4.25, 5.0, 5.0, (-3.0, 3.4)),
        # 2 s - 2 s^2 together at s = x + y; initial parameters of variance 0.01 lose 2 * 0.01 each.
        ("tandem", -0.02, 1.0, 0.25, 0.25, None),
        # Each loses x^2 / 2, of variance 1.
        ("balduzzi", -0.5, 0.0, 0.0, 0.0, None),
    ],
)
def test_anchors_by_hand(name, random, best_response, social_optimum, one, limits):
    got = anchors_of(games.make(name))
    assert (got.random, got.social_optimum, got.one) == pytest.approx((random, social_optimum, one), abs=1e-10)
    assert got.best_response == pytest.approx(best_response, abs=1e-10)
    if limits is None:
        assert got.range is None
    else:
        assert got.range == pytest.approx(limits)
    assert got.normalised([random, one]) == pytest.approx([0.0, 1.0], abs=1e-9)


def test_anchors_of_repeated_games_are_values_of_policies():
    game = games.make("stag-hunt", gamma=0.9)
    got = anchors_of(game)
    uniform, hunt = np.zeros(5), np.full(5, 40.0)

    def mean_return(*joint):
        return 0.1 * np.mean([float(game.value(joint, i)) for i in (0, 1)])

    assert mean_return(uniform, uniform) == pytest.approx(got.random, abs=1e-4)  # float32
    assert mean_return(hunt, hunt) == pytest.approx(got.social_optimum, abs=1e-4)
    best = [float(0.1 * game.value((game.best_response((uniform, uniform), 0), uniform), 0))]
    best.append(float(0.1 * game.value((uniform, game.best_response((uniform, uniform), 1)), 1)))
    assert np.mean(best) == pytest.approx(got.best_response, abs=1e-4)


def test_the_optimum_of_the_logistic_game_is_the_largest_on_a_grid():
    game = games.make("logistic")
    got = anchors_of(game)
    axis = np.linspace(-10, 10, 201)
    x, y = np.meshgrid(axis, axis)
    welfare = np.mean([np.asarray(v) for v in game.payoff(x, y)], axis=0)
    assert welfare.max() <= got.social_optimum + 1e-6
    assert welfare.max() == pytest.approx(got.social_optimum, abs=1e-3)
    # E[(xy)^2 + (x^2 - y^2)^2] = 1 + 4 for standard normal parameters, and the rest is odd.
    assert got.random == pytest.approx(-5e-4)


def test_any_table_against_all_its_joint_actions():
    rng = np.random.default_rng(0)
    for n in (2, 3):
        payoffs = rng.normal(size=(n, 2**n))
        got = of_table(payoffs)
        joint = list(itertools.product((0, 1), repeat=n))
        assert got.random == pytest.approx(payoffs.mean())
        assert got.social_optimum == pytest.approx(max(payoffs[:, k].mean() for k in range(2**n)))
        best = [
            max(np.mean([payoffs[i, k] for k, a in enumerate(joint) if a[i] == own]) for own in (0, 1))
            for i in range(n)
        ]
        assert got.best_response == pytest.approx(np.mean(best))


def test_a_game_without_a_scale_has_no_scores():
    got = anchors_of(games.make("hamiltonian"))
    assert got.constant_sum
    assert (got.one, got.range) == (None, None)
    assert np.isnan(got.normalised([1.0, 2.0])).all()
    assert anchors_of(games.make("matrix", payoffs=((1.0,) * 4,) * 2)).one is None


@pytest.mark.parametrize(
    ("rules", "social_optimum", "best_response"),
    [
        ({}, 0.349, 0.531),
        ({"preset": "pola"}, 0.349, 0.531),
        ({"size": 5}, 0.203, 0.350),
        ({"preset": "lola"}, 0.349, 0.608),
        ({"preset": "mfos", "episodes": 1}, 0.307, 0.624),
        ({"preset": "jaxmarl"}, 0.306, 0.649),
    ],
)
def test_coin_games_have_the_constants_of_their_variant(rules, social_optimum, best_response):
    got = anchors_of(games.make("coin-game", **rules))
    assert (got.random, got.social_optimum, got.best_response) == (0.0, social_optimum, best_response)


@pytest.mark.parametrize(
    "rules",
    [
        {"size": 9},
        {"penalty": -1.0},
        {"tie_rule": "split"},
        {"colours": "random"},
        {"horizon": 5},
        {"respawn": "any"},
        {"preset": "loqa_three", "penalties": "each"},
        {"preset": "reciprocator"},
    ],
)
def test_coin_games_that_were_not_measured_have_none(rules):
    assert anchors_of(games.make("coin-game", **rules)) is None


class Declared(Game):
    anchors: ClassVar = {"random": 1.0, "social_optimum": 3.0}


def test_games_may_declare_their_own():
    got = anchors_of(Declared())
    assert got == Scale(1.0, 3.0, source="declared by Declared")
    assert got.normalised(2.0) == 0.5
    assert anchors_of(Game()) is None
    wrong = Declared()
    wrong.anchors = {"random": 1.0, "optimum": 3.0}  # type: ignore[misc]
    with pytest.raises(BadInput, match="allowed: a mapping from random, social_optimum"):
        anchors_of(wrong)


# --- stored results -----------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    """Three games, of which one is not installed; returns are the same in all seeds."""
    write_suite(tmp_path, ["ipd", {"game": "imp", "label": "pennies"}, "strange"], ["naive", "lola"])

    def cell(name, label, learners, returns):
        key = write_cell(tmp_path, label, learners, {"return": [returns] * 4})
        path = tmp_path / "cells" / key / "cell.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "game": {"name": name, "label": label, "hyperparameters": {}}}))

    cell("ipd", "ipd", ["lola", "naive"], [-1.0, -2.0])
    cell("ipd", "ipd", ["naive", "naive"], [-2.0, -2.0])
    cell("imp", "pennies", ["lola", "naive"], [0.5, -0.5])
    cell("strange", "strange", ["lola", "naive"], [7.0, 8.0])
    return tmp_path


def test_normalised_returns_are_returns_on_another_scale(directory):
    results = results_.load(directory)
    assert set(anchors.anchors_in(results)) == {"ipd", "pennies", "strange"}
    assert anchors.anchors_in(results)["strange"] is None
    frame = entries(results, anchors.METRIC)
    got = frame.groupby(["game", "learner", "opponent"])["value"].mean().to_dict()
    assert got == {
        ("ipd", "lola", "naive"): 1.0,
        ("ipd", "naive", "lola"): -1.0,
        ("ipd", "naive", "naive"): -1.0,
        ("pennies", "lola", "naive"): 0.5,
        ("pennies", "naive", "lola"): -0.5,
    }
    assert [t.title for t in tables.build(results, anchors.METRIC)] == [
        "ipd: normalised_return",
        "pennies: normalised_return",
    ]
    with pytest.raises(BadInput, match=r"normalised_return.*game 'strange' has none"):
        tables.build(results, anchors.METRIC, game="strange")


def test_the_table_of_anchors(directory):
    table = standings.anchor_table(results_.load(directory))
    assert table.row_labels == ("ipd", "pennies", "strange")
    ipd, pennies, strange = ([cell.mean for cell in row] for row in table.cells)
    assert table.col_labels == (
        "random", "naive", "best response", "social optimum", "scores 0", "scores 1", "lowest", "highest",
    )  # fmt: skip
    assert ipd == [-1.5, -2.0, -1.0, -1.0, -1.5, -1.0, -3.0, 3.0]
    assert pennies == [0.0, None, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0]
    assert strange == [None] * 8
