"""FURTHER: closed forms with networks that say nothing, what waits until when, and its stateless peer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.distributions import Normal
from shaping_bench.algorithms.further import FURTHER, Event, LILIMatrix, kl
from shaping_bench.algorithms.q_learning import StatelessQ
from shaping_bench.games import make
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

GAME = make("matrix", payoffs=((2, 0, 0, 1), (1, 0, 0, 2)), gamma=0.9, horizon=150)
RULE = FURTHER(hidden=4, latent=2, window=3, entropy_weight=0.4)
CC, CD, DC, DD = 1, 2, 3, 4


def silent(rule):
    """Its state when every network says zero, and what just happened: a reward of 2 for CC after DD."""
    _, state = rule.init(jax.random.key(0), GAME, 0)
    nets = jax.tree.map(jnp.zeros_like, state.nets)
    event = Event(
        state=jax.nn.one_hot(DD, 5),
        own=jnp.array([1.0, 0.0]),
        other=jnp.array([1.0, 0.0]),
        reward=jnp.float32(2.0),
        then=jax.nn.one_hot(CC, 5),
        latent=jnp.zeros(2),
    )
    return state, nets, event


def test_targets_of_networks_that_say_nothing():
    """What follows is worth the entropy of a fair coin."""
    for rule, weight in ((RULE, 1.0), (LILIMatrix(hidden=4, latent=2, window=3, entropy_weight=0.4), 0.99)):
        _, nets, event = silent(rule)
        aim = rule.target(jnp.ones(2), nets, nets.critics, event)
        assert float(aim) == pytest.approx(2.0 + weight * 0.4 * np.log(2.0))


def test_the_average_reward_descends_the_critics_error():
    """Of two critics that say 0: d/drho sum (0 - (y - rho))^2 = -4 (y - rho)."""
    state, nets, event = silent(RULE)
    nets = nets._replace(average=jnp.float32(0.5))
    slopes = RULE.slopes(jnp.zeros(2), jnp.zeros((2, 2)), nets, nets.critics, event, state.window)
    y = 2.0 + 0.4 * np.log(2.0)
    assert float(slopes["average"]) == pytest.approx(-4.0 * (y - 0.5), rel=1e-5)
    # The head's bias of the action taken: d/dq sum (q - (y - rho))^2 of each critic.
    np.testing.assert_allclose(
        slopes["critics"]["head_values"]["bias"], [[-2.0 * (y - 0.5), 0.0]] * 2, rtol=1e-5, atol=1e-6
    )


def test_the_policy_ascends_value_and_entropy():
    """At a fair coin the entropy has no slope, and that of the value is half of the difference from the mean."""
    state, nets, event = silent(RULE)
    critics = nets.critics
    critics["head_values"]["bias"] = jnp.array([[3.0, 1.0], [5.0, 2.0]])  # the lesser of both is 3 and 1
    slope = RULE.slopes(jnp.zeros(2), jnp.zeros((2, 2)), nets, critics, event, state.window)["actor"]
    np.testing.assert_allclose(slope["head_logits"]["bias"], [-0.5, 0.5], rtol=1e-5)


def test_misfit_of_networks_that_say_nothing_is_a_coins():
    _, nets, event = silent(RULE)
    window = jax.tree.map(lambda x: jnp.stack([x] * 3), event)
    assert float(RULE.misfit(nets.inference, jnp.ones((2, 2)), window)) == pytest.approx(np.log(2.0))


def test_divergence_is_that_of_normals():
    rng = np.random.default_rng(0)
    mean, spread, prior_mean, prior_spread = (jnp.asarray(x, jnp.float32) for x in rng.normal(size=(4, 3)))
    first, second = (Normal(mean=m, log_std=0.5 * v, ndim=1) for m, v in ((mean, spread), (prior_mean, prior_spread)))
    np.testing.assert_allclose(kl(mean, spread, prior_mean, prior_spread), first.kl(second), rtol=1e-5)


def test_nothing_learns_until_the_window_is_full_and_the_average_starts_at_the_largest_reward():
    _, state = RULE.init(jax.random.key(0), GAME, 0)
    react = jax.jit(lambda key, state, reward, then: RULE.react_by_chance(key, GAME, state, jnp.int32(0), reward, then))
    first = state.nets
    for k, reward in enumerate((1.0, 2.0)):
        state = react(jax.random.key(k), state, jnp.float32(reward), jnp.int32(CC))
        jax.tree.map(np.testing.assert_array_equal, state.nets.critics, first.critics)
        assert float(state.nets.average) == reward
    last = state
    state = react(jax.random.key(2), state, jnp.float32(0.0), jnp.int32(CD))
    assert int(state.time) == 3
    for name in ("actor", "critics", "inference"):
        pairs = zip(jax.tree.leaves(getattr(state.nets, name)), jax.tree.leaves(getattr(first, name)), strict=True)
        assert any((x != y).any() for x, y in pairs), name
    # Adam's first step is its step size.
    assert abs(float(state.nets.average - last.nets.average)) == pytest.approx(0.02, rel=1e-3)
    np.testing.assert_allclose(state.window.reward, [1.0, 2.0, 0.0])
    assert state.window.other[-1].tolist() == [0.0, 1.0]


def test_the_stateless_peer_gives_in_after_seven_rounds():
    """Its second action, worth 20, loses a tenth at every round in which the other insists; below 10 it joins, and
    stays with what then pays 1 + 0.9 * 10."""
    rule = StatelessQ()
    state = rule.start(jax.random.key(0), GAME, 1)
    worth = []
    for _ in range(7):
        assert int(rule.act(jnp.uint32(2**31), state, jnp.int32(0))) == 1
        state = rule.react(GAME, state, jnp.int32(0), jnp.float32(0.0), jnp.int32(DC))
        worth.append(float(state.table[0][1]))
    np.testing.assert_allclose(worth, 20.0 * 0.9 ** np.arange(1, 8), rtol=1e-6)
    assert int(rule.act(jnp.uint32(2**31), state, jnp.int32(3))) == 0
    state = rule.react(GAME, state, jnp.int32(DC), jnp.float32(1.0), jnp.int32(CC))
    assert float(state.table[0][0]) == pytest.approx(10.0)
    assert float(jax.nn.sigmoid(rule.played(state)[0])) == pytest.approx(0.975)


def test_refuses_what_is_no_repeated_game_of_two():
    for game in ("public-goods", "coin-game"):
        named = make_game(game)
        with pytest.raises(ValueError, match="of two players"):
            check_encounter(named, [make_learner("further")] * named.value.n_players)
