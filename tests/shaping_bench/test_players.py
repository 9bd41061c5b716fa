"""Gains by the number of players: who is compared with whom, and what intervals are over."""

import matplotlib
import numpy as np
import pytest

from shaping_bench.analysis import players
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
    assert (two.own, three.own) == pytest.approx((1 / 2, 1 / 3))
    assert (two.others, three.others) == pytest.approx((2.0, 2.0))
    # Student's t of three degrees of freedom, deviation 1 / sqrt(3), four seeds.
    assert two.own_half == pytest.approx(3.182446 / np.sqrt(12), rel=1e-5)
    assert three.others_half == 0.0


def test_preparations_are_what_is_drawn_anew():
    record = {"learners": [{"name": "x", "preparation": {"seeds": 2}, "hyperparameters": {}, "facts": {}}]}
    with_it = np.array([1.0, 2.0, 1.0, 2.0])  # all of it between the two preparations
    mean, half = players._gain(with_it, np.zeros(4), record, 0)
    assert (mean, half) == pytest.approx((1.5, 12.7062 * np.sqrt(0.5) / np.sqrt(2)), rel=1e-5)


def test_the_figure(opened):
    drawn = figures.figures(opened)
    assert [name for name in drawn if name.endswith("-by-players")] == ["goods-by-players"]
    with matplotlib.rc_context(figures.STYLE):
        own, others = drawn["goods-by-players"]().axes
    assert own.lines[1].get_xydata() == pytest.approx(np.array([[2, 1 / 2], [3, 1 / 3]]))
    assert others.lines[1].get_ydata() == pytest.approx([2.0, 2.0])


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
