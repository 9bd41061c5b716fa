"""What new-thing must do."""

import jax
import numpy as np
from new_thing import NewThing

from shaping_bench.conformance.kit import check_learner
from shaping_bench.games import make


def test_it_prepares_to_start_where_naive_learners_end():
    game, rule = make("tandem"), NewThing(imagined_lr=0.1, rate=1.0)
    carry = rule.prepare_init(jax.random.key(0), game, 0)
    carry, _ = rule.prepare_step(jax.random.key(1), 0, carry, game, 0)
    (x,), _ = rule.init(jax.random.key(2), game, 0, rule.artifact(carry))
    # Naive learners of the tandem game end on x + y = 1 and keep the difference that they started with.
    starts = [game.init_params(k, i)[0] for i, k in enumerate(jax.random.split(jax.random.key(1)))]
    np.testing.assert_allclose(x, 0.5 + (starts[0] - starts[1]) / 2, rtol=1e-4)


def test_it_is_a_good_citizen():
    assert [str(finding) for finding in check_learner(NewThing) if not finding.passed] == []
