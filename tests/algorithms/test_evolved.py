"""The evolution strategy as an adversary: it finds what an exact best response gets, and says what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Stage
from shaping_bench.algorithms.evolved import OpenES
from shaping_bench.algorithms.fixed import Frozen
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.games import make
from shaping_bench.run.encounter import costs_per_update, run_encounter
from shaping_bench.spec import registry

IPD = make("ipd", horizon=20)
RULE = OpenES(population=16, episodes=4, lr=0.3, sigma=0.3)


@pytest.mark.parametrize("other", ["tft", "wsls"])
def test_it_finds_a_best_response(other):
    met = registry.make_learner(other).value
    outcome = run_encounter(IPD, (RULE, met), num_seeds=2, num_updates=60)
    answers = [np.asarray(x) for x in outcome.final]
    for seed in range(2):
        theta = [jnp.asarray(x[seed]) for x in answers]
        best = [jnp.stack(IPD.best_response(theta, 0)), theta[1]]
        found, most = (float(IPD.per_step * IPD.value(x, 0)) for x in (theta, best))
        # To tit for tat it must keep cooperating, to win-stay lose-shift always defect.
        assert most - 0.1 < found <= most + 1e-6


def test_the_others_stay_and_every_candidate_plays_the_same_games():
    """Candidates that hardly differ earn the same."""
    stage = Stage(IPD, (OpenES(population=8, episodes=4, sigma=1e-9), Frozen(rule=PPO(network="tabular"))))
    joint = stage.begin(jax.random.key(0))
    after, play, infos = jax.jit(stage.episode)(jax.random.key(1), joint)
    assert play is None
    np.testing.assert_array_equal(after.params[1], joint.params[1])
    np.testing.assert_allclose(infos[0]["return"], infos[0]["best_return"], rtol=1e-6)


def test_all_games_of_all_candidates_are_charged():
    own, other = costs_per_update(IPD, (RULE, registry.make_learner("tft").value))
    assert (own.steps, other.steps) == (16 * 4 * 20, 0)


def test_candidates_come_in_pairs():
    with pytest.raises(ValueError, match="population=5"):
        OpenES(population=5).check_game(IPD, 0)
