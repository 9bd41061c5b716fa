"""What new-thing must do."""

import jax
import numpy as np
from new_thing import NewThing

from shaping_bench.algorithms.core import View
from shaping_bench.algorithms.naive import Naive
from shaping_bench.conformance.kit import check_learner
from shaping_bench.games import make


def step(rule, params=((0.3,), (-0.2,))):
    """Where one update takes the first player of the tandem game."""
    view = View(make("tandem"), params, 0, rule.access)
    return np.array(rule.update(jax.random.key(0), (), view)[0])


def test_it_is_naive_learning_without_care():
    np.testing.assert_allclose(step(NewThing(lr=0.1, care=0.0)), step(Naive(lr=0.1)), rtol=1e-6)


def test_one_step_worked_out_by_hand():
    # V1 = 2x - (x + y)^2 and V2 = 2y - (x + y)^2 at x = 0.3, y = -0.2: slopes in x are 1.8 and -0.2.
    np.testing.assert_allclose(step(NewThing(lr=0.1, care=0.5)), [0.3 + 0.1 * (1.8 - 0.5 * 0.2)], rtol=1e-6)


def test_it_is_a_good_citizen():
    assert [str(finding) for finding in check_learner(NewThing) if not finding.passed] == []
