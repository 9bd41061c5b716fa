"""What new-thing must do."""

import numpy as np
from new_thing import NewThing

from shaping_bench.algorithms.naive import Naive
from shaping_bench.conformance.kit import check_game
from shaping_bench.run.encounter import run_encounter


def test_naive_learners_find_the_equilibrium():
    # x = (demand - y) / 2 for both: x = y = demand / 3.
    outcome = run_encounter(NewThing(demand=3.0), [Naive(lr=0.1)] * 2, num_seeds=4, num_updates=300)
    np.testing.assert_allclose([theta[-1] for theta in outcome.params], 1.0, atol=1e-3)


def test_it_is_a_good_citizen():
    assert [str(finding) for finding in check_game(NewThing) if not finding.passed] == []
