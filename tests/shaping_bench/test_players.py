"""Gains by the number of players: who is compared with whom, and what intervals are over."""

import dataclasses
import json

import matplotlib
import numpy as np
import pytest
import scipy.stats

from shaping_bench.analysis import players, stats
from shaping_bench.docs import players as page
from shaping_bench.errors import BadInput
from shaping_bench.publish import figures
from shaping_bench.spec.suite import load
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One rule that gains 1 / N itself and gives the others 2; in a game that is in no series, too."""
    folder = tmp_path_factory.mktemp("players")
    write_suite(folder, ["goods 2", "goods 3", "ipd"], ["naive", "lola"])
    noise = np.array([-0.5, 0.5, -0.5, 0.5])[:, None]
    for game, n in (("goods 2", 2), ("goods 3", 3), ("ipd", 2)):
        write_cell(folder, game, ("naive",) * n, {"return": np.ones((4, n))})
        mixed = np.hstack([np.full((4, 1), 1 + 1 / n) + noise, np.full((4, n - 1), 3.0)])
        write_cell(folder, game, ("lola", *("naive",) * (n - 1)), {"return": mixed})
        write_cell(folder, game, ("lola",) * n, {"return": np.zeros((4, n))})
    return results.load(folder)


def test_one_among_naive_ones_is_compared_with_as_many_naive_ones(opened):
    two, three = players.gains(opened)
    assert (two.series, two.players, two.learner) == ("goods", 2, "lola")
    (own, half), (others, _) = players.with_half(two.own), players.with_half(two.others)
    assert (own, players.with_half(three.own)[0]) == pytest.approx((1 / 2, 1 / 3))
    assert (others, players.with_half(three.others)[0]) == pytest.approx((2.0, 2.0))
    # Student's t of three degrees of freedom, deviation 1 / sqrt(3), four seeds.
    assert half == pytest.approx(3.182446 / np.sqrt(12), rel=1e-5)
    assert players.with_half(three.others)[1] == 0.0
    assert np.isnan(two.share).all()  # the game has no optimum


def test_seats_and_seeds_are_compared_each_with_itself(tmp_path):
    """What naive learners owe to their seat and seed is no gain; a lost seed has none."""
    write_suite(tmp_path, ["goods 2"], ["naive", "lola"])
    by_seed = np.array([[0.0, 10.0], [5.0, 15.0], [20.0, 30.0]])
    write_cell(tmp_path, "goods 2", ("naive", "naive"), {"return": by_seed})
    mixed = by_seed + np.array([[2.0, 1.0], [2.0, 1.0], [np.nan, np.nan]])
    write_cell(tmp_path, "goods 2", ("naive", "lola"), {"return": mixed})
    (gain,) = players.gains(results.load(tmp_path))
    assert players.with_half(gain.own) == (1.0, 0.0)
    assert players.with_half(gain.others) == (2.0, 0.0)
    assert gain.naive == pytest.approx(55 / 3)  # of the seat that the rule takes


def test_preparations_are_what_is_drawn_anew():
    record = {"learners": [{"name": "x", "preparation": {"seeds": 2}, "hyperparameters": {}, "facts": {}}]}
    with_it = np.array([1.0, 2.0, 1.0, 2.0])  # all of it between the two preparations
    per_unit = players._per_unit(with_it, players._units(record, 0, 4))
    assert players.with_half(per_unit) == pytest.approx((1.5, 12.7062 * np.sqrt(0.5) / np.sqrt(2)), rel=1e-5)


def of_shares(learner, *by_number, first=2):
    """Gains whose shares are these, of a number of players each: naive learners leave 2 of the optimum."""
    return [
        players.Gain(
            series="goods",
            players=first + k,
            learner=learner,
            own=2.0 * np.array(shares, float),
            others=np.zeros(len(shares)),
            naive=1.0,
            optimum=3.0,
            largest=5.0,
        )
        for k, shares in enumerate(by_number)
    ]


def test_trends_are_of_the_slopes_of_units():
    falls = of_shares("falls", [0.9, 1.1, 1.0], [0.8, 0.8, 0.9], [0.6, 0.8, 0.7], [0.5, 0.6, 0.7])
    flat = of_shares("flat", [0.5, 0.4, 0.6], [0.4, 0.6, 0.5], [0.6, 0.5, 0.4], [0.5, 0.4, 0.6])
    found = {x.learner: x for x in players.trends(falls + flat)}
    slopes = [np.polyfit([2, 3, 4, 5], row, 1)[0] for row in np.stack([x.share for x in falls]).T]
    test = scipy.stats.ttest_1samp(slopes, 0.0)
    trend = found["falls"]
    assert (trend.slope, trend.p) == pytest.approx((np.mean(slopes), test.pvalue))
    low, high = test.confidence_interval(0.95)
    assert (trend.slope - trend.half, trend.slope + trend.half) == pytest.approx((low, high))
    assert trend.adjusted == pytest.approx(2 * test.pvalue)  # the smaller of two
    assert found["flat"].adjusted == pytest.approx(found["flat"].p)
    assert trend.players == (2, 3, 4, 5)
    meant = players.trends(falls + flat, family=4)
    assert meant[0].adjusted == pytest.approx(min(4 * test.pvalue, 1.0))  # of which two have no results
    # What may be had changes the slope: of the largest reward naive learners leave 4, of rewards the gain is 2 of them.
    (of_largest, _), (of_reward, _) = (players.trends(falls + flat, x) for x in ("share_of_largest", "own"))
    assert (of_largest.slope, of_reward.slope) == pytest.approx((trend.slope / 2, 2 * trend.slope))


def test_two_numbers_of_players_are_no_trend_and_one_unit_no_test():
    assert players.trends(of_shares("x", [0.1, 0.2], [0.3, 0.2])) == ()
    (alone,) = players.trends(of_shares("x", [0.1], [0.3], [0.5]))
    assert alone.slope == pytest.approx(0.2)
    assert np.isnan(alone.p)


def test_of_next_to_nothing_a_gain_is_no_share_and_has_no_trend():
    found = of_shares("x", [0.1, 0.2], [0.3, 0.2], [0.5, 0.4])
    found[1] = dataclasses.replace(found[1], naive=2.9)  # of an optimum of 3
    assert np.isnan(found[1].share).all()
    assert np.isfinite(found[1].share_of_largest).all()
    assert players.trends(found) == ()
    assert len(players.trends(found, "own")) == 1


def test_all_alike_are_compared_with_naive_ones_in_all_seats(opened):
    assert [(x.players, x.learner, x.gain) for x in players.together(opened)] == [(2, "lola", -1.0), (3, "lola", -1.0)]


def test_the_figure(opened):
    drawn = figures.figures(opened)
    assert [name for name in drawn if name.endswith("-by-players")] == ["goods-by-players"]
    with matplotlib.rc_context(figures.STYLE):
        own, others = drawn["goods-by-players"]().axes
    assert own.lines[1].get_xydata() == pytest.approx(np.array([[2, 1 / 2], [3, 1 / 3]]))
    assert others.lines[1].get_ydata() == pytest.approx([2.0, 2.0])


def test_the_figure_shows_shares_where_there_is_an_optimum(tmp_path):
    write_suite(tmp_path, ["goods 2", "goods 3"], ["naive", "lola"])
    for n in (2, 3):
        for first, gain in (("naive", 0.0), ("lola", 1.0)):
            labels = (first, *("naive",) * (n - 1))
            key = write_cell(tmp_path, f"goods {n}", labels, {"return": np.full((3, n), 2.0 + gain)})
            file = tmp_path / "cells" / key / "cell.json"
            cell = json.loads(file.read_text())
            cell["game"]["facts"] = {"anchors": {"random": 0.0, "social_optimum": 2.0 + n, "largest": 9.0}}
            file.write_text(json.dumps(cell))
    with matplotlib.rc_context(figures.STYLE):
        *_, share = figures.figures(results.load(tmp_path))["goods-by-players"]().axes
    assert share.lines[1].get_xydata() == pytest.approx(np.array([[2, 1 / 2], [3, 1 / 3]]))


def test_the_suite_asks_it_of_two_to_five_players():
    suite = load("n-players")
    labels = {cell.game.label for cell in suite.encounters}
    assert labels == {f"{series} {n}" for series in ("goods", "majority") for n in (2, 3, 4, 5)}
    assert not suite.skipped
    for cell in suite.encounters:
        game = cell.game.named.value
        assert game.n_players == int(cell.game.label[-1])
        if cell.game.label.startswith("goods"):  # keeping gains 0.2 at any number of players
            cooperate, defect = game.rows
            assert np.subtract(defect, cooperate) == pytest.approx(0.2)


# --- what the page shows ------------------------------------------------------------------


def test_the_page_is_given_all_of_it(opened):
    found = page.summary(opened)
    two, three = found["gains"]
    assert (two["own"], three["players"], two["units"]) == (players.with_half(players.gains(opened)[0].own), 3, 4)
    assert found["trends"]["own"] == []  # of two numbers of players
    assert [x["gain"] for x in found["together"]] == [-1.0, -1.0]
    json.dumps(found)


def test_results_without_a_series_are_refused_in_one_line(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ("naive", "naive"), {"return": np.zeros((2, 2))})
    with pytest.raises(BadInput, match="allowed: results of n-players"):
        page.summary(results.load(tmp_path))


def test_what_is_shown_follows_from_each_preparation():
    """Means, intervals and slopes of the page, from the shares of the preparations that are stored with them."""
    shown = json.loads(page.FILE.read_text())
    shares = {}
    for x in shown["gains"]:
        each = np.array(x["shares"])
        if x["optimum"] - x["naive"] < players.LEAST_LEFT * x["optimum"]:
            assert np.isnan(each).all()
            assert np.isnan(x["share"]).all()
            continue
        low, high = scipy.stats.ttest_1samp(each, 0.0).confidence_interval(0.95)
        assert x["share"] == pytest.approx([each.mean(), (high - low) / 2], abs=2e-4)
        assert x["own"][0] == pytest.approx(x["share"][0] * (x["optimum"] - x["naive"]), abs=2e-3)
        shares[x["series"], x["learner"], x["players"]] = each
    asked = {x.game.label for x in load("n-players").encounters}
    assert {f"{series} {n}" for series, _, n in shares} <= asked
    p_values = []
    for x in shown["trends"]["share"]:
        rows = np.stack([shares[x["series"], x["learner"], n] for n in x["players"]])
        slopes = np.polyfit(x["players"], rows, 1)[0]
        test = scipy.stats.ttest_1samp(slopes, 0.0)
        assert (x["slope"], x["p"]) == pytest.approx((slopes.mean(), test.pvalue), abs=1e-3)
        p_values.append(test.pvalue)
    assert p_values
    corrected = stats.holm(p_values, page.MEANT)
    assert [x["adjusted"] for x in shown["trends"]["share"]] == pytest.approx(corrected, abs=4e-3)
