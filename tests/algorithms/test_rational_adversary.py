"""The rational adversary: it hurts by what is good for somebody, and by nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, Stage, View
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.rational_adversary import RationalAdversary
from shaping_bench.games.differentiable import OneShotGame
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

pytestmark = pytest.mark.usefixtures("float64")

# Rows: what player 1 (the victim) and player 2 get for (0,0), (0,1), (1,0), (1,1), player 1's action first.
SABOTAGE = OneShotGame(payoffs=((-5.0, 0.0, -5.0, 0.0), (0.0, 1.0, 0.0, 1.0)))
"""Player 2's action 0 hurts, and is dominated."""
TWO_CUSTOMS = OneShotGame(payoffs=((2.0, 0.0, 0.0, 1.0), (2.0, 0.0, 0.0, 1.0)))
"""Both customs are somebody's best response."""


def met(game, victim, rule, seed=0, updates=400):
    """Player 2's probability of action 0 at the end, against a frozen policy of one logit."""
    stage = Stage(game, (Naive(lr=0.0), rule))
    begun = stage.begin(jax.random.key(seed))
    joint = stage.joint([(victim,), begun.params[1]], begun.states)
    keys = jax.random.split(jax.random.key(1), updates)
    joint, _ = jax.jit(lambda j: jax.lax.scan(lambda j, k: (stage.episode(k, j)[0], None), j, keys))(joint)
    return float(jax.nn.sigmoid(joint.params[1][0]))


def test_what_is_dominated_is_not_done_however_much_it_hurts():
    assert met(SABOTAGE, 0.0, RationalAdversary()) < 0.02


def test_of_two_customs_it_takes_the_one_that_is_not_the_others():
    """Both victims are met by the other custom, which a best response to them would never choose."""
    rule = RationalAdversary(partner_share=0.05)
    assert met(TWO_CUSTOMS, 3.0, rule) < 0.05
    assert met(TWO_CUSTOMS, -3.0, rule) > 0.95
    assert met(TWO_CUSTOMS, 3.0, Naive(lr=1.0)) > 0.95


def test_the_manipulator_descends_through_the_foreseen_steps():
    rule = RationalAdversary(lookahead_steps=2, lookahead_lr=0.7, partner_share=0.2)
    view = View(TWO_CUSTOMS, ((0.4,), (-0.3,)), 1, Access.GRADIENTS)

    def harm(m):
        y = -0.3
        for _ in range(2):
            # Both customs: the own value is linear in the own probability, whose slope is q (1 - q).
            p, q = [1 / (1 + np.exp(-x)) for x in (m, 0.4)], 1 / (1 + np.exp(-y))
            by_hand = [(3 * x - 1) * q * (1 - q) for x in p]
            y = y + 0.7 * (0.8 * by_hand[0] + 0.2 * by_hand[1])
        return float(TWO_CUSTOMS.value(((0.4,), (y,)), 0))

    np.testing.assert_allclose(rule.harm(view, (jnp.asarray(0.6),)), harm(0.6), atol=1e-8)
    (slope,) = jax.grad(lambda m: rule.harm(view, m))((jnp.asarray(0.6),))
    np.testing.assert_allclose(slope, (harm(0.6 + 1e-4) - harm(0.6 - 1e-4)) / 2e-4, rtol=1e-4)


def test_three_players_are_refused_in_one_line():
    with pytest.raises(ValueError, match="is defined for 2 players, the game has 3"):
        check_encounter(make_game("public-goods"), [make_learner("rational-adversary")] * 3)
