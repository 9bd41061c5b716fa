"""PPO: its objective against hand computations, its limits, and that it learns what is plainly best."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Play, View
from shaping_bench.algorithms.parts.estimators import gae
from shaping_bench.algorithms.parts.proximal import clipped_error, clipped_surrogate
from shaping_bench.algorithms.ppo import PPO, PPOState
from shaping_bench.games.grids.coin import CoinGame
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.run.encounter import run_encounter, steps_per_update
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

IPD = RepeatedGame(payoffs=((-1.0, -3.0, 0.0, -2.0), (-1.0, 0.0, -3.0, -2.0)), gamma=0.9, horizon=6)
THETA = (jnp.array([0.5, -0.3, 0.8, -1.2, 0.1]), jnp.array([-0.7, 0.4, -0.2, 1.1, -0.9]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # more of what is good, but not beyond the interval
        (0.5, 2.0, 1.0, 1.0),  # less of what is good may always be undone
        (0.5, -2.0, -1.6, 0.0),
        (1.5, -2.0, -3.0, -3.0),
    ],
)
def test_the_clipped_surrogate_by_hand(ratio, advantage, value, slope):
    def surrogate(log_ratio):
        return clipped_surrogate(log_ratio, jnp.float32(advantage), 0.2)

    got = jax.value_and_grad(surrogate)(jnp.log(jnp.float32(ratio)))  # d ratio / d log ratio = ratio
    np.testing.assert_allclose(got, (value, slope), rtol=1e-5, atol=1e-6)


def test_the_clipped_error_by_hand():
    # Old value 1: a value of 2 counts as 1.2 if that is farther from the target, else as it is.
    values, old, targets = jnp.array([2.0, 2.0, 1.1]), jnp.ones(3), jnp.array([3.0, 0.0, 3.0])
    np.testing.assert_allclose(clipped_error(values, old, targets, 0.2), [1.8**2, 2.0**2, 1.9**2], rtol=1e-6)


@jax.jit
def batch_of(rule, critic):
    return rule.batch(view(rule), (THETA[0], critic))


def view(rule, params=THETA, game=IPD, key=1):
    return View(game, params, 0, rule.access, learners=(rule, rule), key=jax.random.key(key))


def test_before_any_step_the_gradient_is_the_policy_gradient():
    """With ratio 1 the surrogate's gradient is that of ``mean A log pi``, whatever the clip."""
    rule = PPO(batch_size=32, normalise=False, entropy_bonus=0.0, value_coefficient=0.0)
    seen, critic = view(rule), jnp.array([0.2, -1.0, -3.0, 0.5, -2.0])
    batch = batch_of(rule, critic)
    slope = jax.grad(lambda theta: rule.objective((theta, critic), seen, batch)[0])(THETA[0])
    policy = seen.policy

    def plain(theta):
        return jnp.mean(batch.advantages * policy.unroll(theta, batch.observations).log_prob(batch.actions))

    np.testing.assert_allclose(slope, jax.grad(plain)(THETA[0]), rtol=1e-5, atol=1e-6)


def test_a_batch_holds_generalised_advantages_and_what_the_policy_said():
    rule = PPO(batch_size=8, lam=0.7)
    critic = jnp.array([0.2, -1.0, -3.0, 0.5, -2.0])
    batch = batch_of(rule, critic)
    play = Play(IPD, jax.jit(lambda: view(rule).play(8)._trajectory)(), 0)
    values = np.asarray(critic)[np.asarray(play.observations())]
    expected = gae(play.rewards(), jnp.asarray(values[:-1]), jnp.asarray(values[-1]), 0.9, 0.7)
    np.testing.assert_allclose(batch.advantages, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.targets - batch.advantages, values[:-1], rtol=1e-5, atol=1e-5)
    cooperates = 1.0 / (1.0 + np.exp(-np.asarray(THETA[0])[np.asarray(batch.observations)]))
    probability = np.where(np.asarray(batch.actions) == 0, cooperates, 1.0 - cooperates)
    np.testing.assert_allclose(batch.log_probs, np.log(probability), rtol=1e-5, atol=1e-6)


def test_one_plain_step_is_one_step_of_adam_on_the_normalised_policy_gradient():
    """A single epoch of a single minibatch: Adam's first step is ``lr`` times the sign of the gradient."""
    rule = PPO(batch_size=64, epochs=1, minibatches=1, lr=0.01, entropy_bonus=0.0, value_coefficient=0.0)
    seen = view(rule)
    _, state = rule.init(jax.random.key(0), IPD, 0)
    batch = batch_of(rule, state.critic)
    slope = jax.grad(lambda theta: rule.objective((theta, state.critic), seen, batch)[0])(THETA[0])
    new, state, _ = jax.jit(lambda state: rule.update(jax.random.key(2), state, view(rule)))(state)
    np.testing.assert_allclose(new - THETA[0], 0.01 * np.sign(slope), rtol=2e-2)
    assert isinstance(state, PPOState)
    assert np.abs(np.asarray(batch.advantages)).max() > 0


def test_every_epoch_sees_every_episode_once():
    """Minibatches that hold the whole batch differ from two halves, but their first gradients add up."""
    rule = PPO(batch_size=16, normalise=False)
    seen, critic = view(rule), jnp.zeros(5)
    batch = batch_of(rule, critic)

    @jax.jit
    def slopes(batch):
        parts = (batch, *(jax.tree.map(lambda x, k=k: x[:, 8 * k : 8 * k + 8], batch) for k in range(2)))
        return [jax.grad(lambda theta, part=x: rule.objective((theta, critic), seen, part)[0])(THETA[0]) for x in parts]

    whole, *halves = slopes(batch)
    np.testing.assert_allclose(whole, 0.5 * (halves[0] + halves[1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"network": "tabular"}, {"network": "gru", "hidden": 8, "lr": 0.02}])
def test_it_learns_to_defect_where_the_future_hardly_counts(options):
    game = RepeatedGame(payoffs=IPD.payoffs, gamma=0.1, horizon=10)
    rule = PPO(**{"lr": 0.3, "batch_size": 32, "minibatches": 4, "entropy_bonus": 0.0, **options})
    outcome = run_encounter(game, [rule, rule], num_seeds=2, num_updates=40)
    if outcome.params:
        assert (np.stack([theta[-1] for theta in outcome.params]).max(axis=(0, 1))[:1] < -2.0).all()
    else:
        assert outcome.played["cooperation"][-1].max() < 0.1
    assert not outcome.diverged.any()


def test_it_learns_what_a_coin_is_worth():
    game = CoinGame(horizon=16)
    rule = PPO(lr=0.01, batch_size=64, minibatches=4, epochs=4, network="mlp", hidden=32)
    run = functools.partial(run_encounter, game, [rule, rule], num_seeds=2, num_updates=30, record_every=30)
    coins = {k: v.mean(axis=(1, 2)) for k, v in run().played.items()}
    taken_coins = coins["own_coins"] + coins["other_coins"]
    assert taken_coins[-1] > 1.8 * taken_coins[0]


@pytest.mark.parametrize("separate", [False, True])
def test_the_critic_is_a_head_or_a_network_of_its_own(separate):
    game = CoinGame(horizon=4)
    rule = PPO(batch_size=4, minibatches=2, separate=separate, network="mlp", hidden=8)
    params, state = rule.init(jax.random.key(0), game, 0)
    assert ("head_value" in params) != separate
    assert bool(jax.tree.leaves(state.critic)) == separate
    new, after, info = jax.jit(
        lambda key: rule.update(
            key, state, View(game, (params, params), 0, rule.access, learners=(rule, rule), key=key)
        )
    )(jax.random.key(1))
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), (new, after.critic), (params, state.critic))
    assert min(jax.tree.leaves(moved)) > 0.0
    assert np.isfinite(jax.tree.leaves(info)).all()


def test_an_update_costs_one_batch_of_play_whatever_the_epochs():
    rule = PPO(batch_size=12, minibatches=3, epochs=7)
    assert steps_per_update(IPD, (rule, rule)) == 12 * IPD.horizon
    # Who asks for fewer episodes sees the first of the same play.
    assert steps_per_update(IPD, (rule, dataclasses.replace(rule, batch_size=6))) == 12 * IPD.horizon


def test_minibatches_divide_the_batch():
    with pytest.raises(ValueError, match="divisor"):
        check_encounter(make_game("ipd"), [make_learner("ppo(batch_size=10,minibatches=3)")] * 2)
