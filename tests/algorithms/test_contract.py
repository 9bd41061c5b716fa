"""What holds among registered learners. What each must do by itself the conformance kit checks: see
``tests/shaping_bench/test_conformance.py``."""

import dataclasses

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.core import View
from shaping_bench.algorithms.lola import ShapingLearner
from shaping_bench.spec.registry import algorithms, check_encounter, make_game, make_learner

THREE = "matrix-one-shot(payoffs=((1,2,0,-1,3,-2,1,0),(0,1,2,-1,1,1,-2,3),(2,0,1,1,-1,0,3,-2)))"


def playable(learner, game):
    try:
        check_encounter(game, [learner] * game.value.n_players)
    except ValueError:
        return False
    return True


def exact_learners():
    named = [make_learner(name) for name in sorted(algorithms())]
    return [x for x in named if "exact" in x.value.views and not x.value.needs_preparation]


@pytest.mark.parametrize("game_text", ["ultimatum", "tandem"])
@pytest.mark.parametrize("name", [x.name for x in exact_learners() if isinstance(x.value, ShapingLearner)])
def test_without_lookahead_every_rule_is_naive(name, game_text):
    game, rule = make_game(game_text).value, dataclasses.replace(make_learner(name).value, lookahead_lr=0.0)
    naive = make_learner("naive").value
    params = tuple(np.random.default_rng(0).normal(size=(2, 1)).astype(np.float32))
    for player in (0, 1):
        got, expected = (
            x.update(jax.random.key(0), (), View(game, params, player, x.access, learners=(x, x)))[0]
            for x in (rule, naive)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_three_players_are_no_obstacle():
    names = {x.name for x in exact_learners() if playable(x, make_game(THREE))}
    assert names >= {"naive", "lola", "hola", "sos", "cgd", "lss"}
