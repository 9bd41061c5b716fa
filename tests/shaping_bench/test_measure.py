"""What an encounter's outcome says."""

import dataclasses

import numpy as np

from shaping_bench.algorithms.core import GradientLearner, pytree_dataclass
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.q_learning import NaiveQ
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.measure import measure


@pytree_dataclass
class Boaster(GradientLearner):
    """Naive, and reports numbers under the names of metrics."""

    def direction(self, view):
        from shaping_bench.algorithms.core import Direction

        return Direction(view.gradient(), {"return": 7.0 + 0.0 * view.value(), "influence": view.value(), "own": 1.0})


def test_a_learners_report_takes_no_metrics_place():
    game = make("ipd")
    rules = (Boaster(lr=0.1), Naive(lr=0.1))
    outcome = run_encounter(game, rules, num_seeds=2, num_updates=3)
    finals, curves = measure(game, rules, outcome)
    silent = dataclasses.replace(outcome, infos=({}, {}))
    expected, _ = measure(game, rules, silent)
    assert set(finals["metric"]) == set(expected["metric"])  # nor is a metric of suites made up
    np.testing.assert_array_equal(finals["value"], expected["value"])
    told = curves[(curves["metric"] == "reported_return") & (curves["update"] == 3) & (curves["player"] == 1)]
    np.testing.assert_allclose(told["value"], 7.0)
    assert {"reported_influence", "own"} <= set(curves["metric"])


def test_a_metric_that_is_defined_as_a_report_is_the_learners():
    game = make("ipd", horizon=5)
    rules = (NaiveQ(), Naive(lr=0.1))
    outcome = run_encounter(game, rules, num_seeds=2, num_updates=3)
    finals, curves = measure(game, rules, outcome)
    earned = outcome.infos[0]["episode_return"]
    for frame, expected in ((finals, earned[-1]), (curves[curves["update"] == 3], earned[-1])):
        rows = frame[(frame["metric"] == "episode_return") & (frame["player"] == 1)]
        np.testing.assert_allclose(rows["value"], expected)
    assert np.isnan(finals[(finals["metric"] == "episode_return") & (finals["player"] == 2)]["value"]).all()
