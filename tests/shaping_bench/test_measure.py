"""What an encounter's outcome says."""

import dataclasses

import numpy as np

from shaping_bench.algorithms.core import GradientLearner, pytree_dataclass
from shaping_bench.algorithms.naive import Naive
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
