"""Sampled rules with three and five players, and what is refused in one line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, View
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.lola_pg import LOLAPG
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.run.encounter import costs_per_update
from shaping_bench.spec.registry import check_encounter, make_game, make_learner
from tests.algorithms.sampled import agrees, disagrees

ETA, GAMMA = 1.5, 0.5
GAME = make("public-goods", gamma=GAMMA, horizon=16)  # what is cut off, 0.5**16, is far below the noise
PARAMS = tuple(0.8 * jax.random.normal(jax.random.key(i), (9,)) for i in range(3))


def directions(rule, player, repetitions):
    """``(update - own) / lr`` of independent updates at the test point."""

    @jax.jit
    def one(key):
        state = rule.init(jax.random.key(9), GAME, player)[1]
        view = View(GAME, PARAMS, player, rule.access, learners=(rule,) * 3, key=key)
        return (rule.update(key, state, view)[0] - view.own) / rule.lr

    return np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(1), repetitions)), np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def exact(kind, player):
    rule = Naive() if kind == "naive" else LOLA(lookahead_lr=ETA)
    return jnp.stack(jax.tree.leaves(rule.direction(View(GAME, PARAMS, player, Access.GRADIENTS))))


def test_with_three_players_the_estimators_are_the_exact_directions():
    """32 updates of 4096 episodes each, by four standard errors."""
    naive, shaping = np.ravel(exact("naive", 1)), np.ravel(exact("lola", 1))
    agrees(directions(NaivePG(lr=1.0, batch_size=4096), 1, 32), naive)
    samples = directions(LOLAPG(lr=1.0, lookahead_lr=ETA, batch_size=4096), 1, 32)
    agrees(samples, shaping)
    assert disagrees(samples, naive)


SMALL = "batch_size=4"
MANY = (
    f"naive-pg({SMALL})",
    f"ppo({SMALL},minibatches=2)",
    f"lola-pg({SMALL})",
    f"lola-om({SMALL})",
    f"lola-dice({SMALL})",
    f"lola-dice-om({SMALL})",
    "naive-q",
    "jal-q",
    "wolf-phc",
)


@pytest.mark.parametrize("text", MANY)
def test_they_sit_at_tables_of_three(text):
    """Traced only: shapes, access and prices."""
    game = make_game("public-goods(horizon=4)")
    rules = [make_learner(text, game=game.name)] * 3
    check_encounter(game, rules)
    assert costs_per_update(game.value, [rule.value for rule in rules])[0].steps > 0


@pytest.mark.parametrize("text", ["pola", "pola-om", "loqa", "loqa-paired"])
def test_who_is_defined_for_two_says_so(text):
    game = make_game("public-goods")
    with pytest.raises(BadInput, match="is defined for 2 players, the game has 3"):
        check_encounter(game, [make_learner(text)] * 3)


@pytest.mark.parametrize("text", ["lola-om", "lola-dice-om(baseline=critic)"])
def test_who_infers_rewards_refuses_games_that_hide_them(text):
    game = make_game("coin-game(observation=egocentric)")
    with pytest.raises(BadInput, match="infers the others' rewards from what is seen"):
        check_encounter(game, [make_learner(text)] * 2)
    check_encounter(make_game("coin-game"), [make_learner(text)] * 2)
    # Without critics of others nobody's rewards are inferred: what is imagined is paid by the rules.
    check_encounter(game, [make_learner("lola-dice-om")] * 2)
