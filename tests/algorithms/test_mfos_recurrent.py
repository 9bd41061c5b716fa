"""M-FOS's recurrent version: the trial's returns, the conditioning, and a small preparation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import costs
from shaping_bench.algorithms.core.rollouts import observations, rollout
from shaping_bench.algorithms.mfos_recurrent import MFOSRecurrent, Trial, trial_returns
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

GAME = make_game("coin-game(preset=mfos,episodes=1,horizon=4)").value
RULE = MFOSRecurrent(batch_size=6, episodes=3, hidden=5, epochs=1)


@jax.jit
def heads(weights, trial):
    policy, values = RULE._heads(GAME, weights, trial)
    return policy.logits, values


def brute_force(rewards, gamma, weight):
    """Own rewards to the end of the episode, then the batch mean of all that follows."""
    num_episodes, length, _ = rewards.shape
    out = np.zeros_like(rewards)
    for m in range(num_episodes):
        for t in range(length):
            for k in range(t, length):
                out[m, t] += weight * gamma ** (k - t) * rewards[m, k]
            for later in range(m + 1, num_episodes):
                for k in range(length):
                    steps = (later - m) * length + k - t
                    out[m, t] += gamma**steps * rewards[later, k].mean()
    return out


@pytest.mark.parametrize("corrected", [False, True])
def test_returns_of_a_trial_continue_with_the_mean_of_the_batch(corrected):
    rewards = np.random.default_rng(0).normal(size=(3, 4, 5))
    got = trial_returns(jnp.asarray(rewards), 0.9, corrected)
    np.testing.assert_allclose(got, brute_force(rewards, 0.9, 1 / 5 if corrected else 1.0), rtol=1e-4, atol=1e-5)


@functools.cache
def seen():
    """Parameters, and three episodes of them against themselves."""
    policy = RULE.policy(GAME, 0)

    def played(key):
        params = policy.init(jax.random.key(1))

        def episode(key):
            play = rollout(key, GAME, (policy, policy), (params, params), 6)
            return Trial(observations(GAME, play, 0)[:-1], play.actions[..., 0], play.rewards[..., 0])

        return params, jax.lax.map(episode, jax.random.split(key, 3))

    return jax.jit(played)(jax.random.key(0))


def test_an_episode_is_conditioned_on_the_one_before_it_alone():
    params, trial = seen()
    weights = params["weights"]
    logits, _ = heads(weights, trial)
    for changed in range(3):
        other = trial._replace(observations=trial.observations.at[changed].set(1.0))
        moved, _ = heads(weights, other)
        differs = [not np.allclose(logits[m], moved[m], atol=1e-6) for m in range(3)]
        assert differs == [m in (changed, changed + 1) for m in range(3)]


def test_the_first_episode_is_a_plain_recurrent_policy():
    params, trial = seen()
    logits, _ = heads(params["weights"], trial)
    policy = RULE.policy(GAME, 0)
    unroll = jax.jit(lambda params, seen: policy.unroll(params, seen).logits)
    np.testing.assert_allclose(logits[0], unroll(params, trial.observations[0]), rtol=1e-5, atol=1e-6)
    conditioning = jax.jit(lambda *x: RULE._conditioning(GAME, *x))(params["weights"], trial.observations)
    later = unroll({**params, "conditioning": conditioning[1]}, trial.observations[2])
    np.testing.assert_allclose(logits[2], later, rtol=1e-5, atol=1e-6)


def test_the_policy_teaches_the_meta_branch_and_the_critic_does_not():
    params, trial = seen()

    outputs, pullback = jax.vjp(lambda weights: heads(weights, trial), params["weights"])
    ones, zeros = jax.tree.map(jnp.ones_like, outputs), jax.tree.map(jnp.zeros_like, outputs)
    by_policy, by_critic = (
        pullback(direction)[0]["meta_head"]["kernel"] for direction in ((ones[0], zeros[1]), (zeros[0], ones[1]))
    )
    assert np.abs(by_policy).max() > 1e-6
    np.testing.assert_array_equal(by_critic, 0.0)


def test_the_parameters_are_as_many_as_published():
    rule = MFOSRecurrent()
    game = make_game("coin-game(preset=mfos,episodes=1)").value
    weights = rule.policy(game, 0).init(jax.random.key(0))["weights"]
    # 22,245 of the official code; PyTorch's GRU has a second bias per gate, of which flax needs one in three.
    assert sum(x.size for x in jax.tree.leaves(weights)) == 22_245 - 3 * 2 * 16


def test_a_preparation_step_learns_and_is_priced():
    def prepared(key):
        carry = RULE.prepare_init(key, GAME, 0)
        return carry, *RULE.prepare_step(key, jnp.int32(0), carry, GAME, 0)

    with costs.counting() as count:
        before, after, info = jax.jit(prepared)(jax.random.key(0))
    assert count.steps == 3 * 6 * 4
    assert set(info) == {"return", "opponent_return"}
    for name in ("actor", "critic", "meta"):
        old, new = before.weights[f"{name}_head"]["kernel"], after.weights[f"{name}_head"]["kernel"]
        assert np.isfinite(new).all()
        assert not np.array_equal(old, new)


def test_tracing_lets_two_agents_meet_more_and_more():
    rule = MFOSRecurrent(against="self", batch_size=4, episodes=2, hidden=5, tracing=0.25)
    rule = dataclasses.replace(rule, trials=8)
    with costs.counting() as count:
        carry, info = jax.eval_shape(
            lambda: rule.prepare_step(
                jax.random.key(0), jnp.int32(0), rule.prepare_init(jax.random.key(0), GAME, 0), GAME, 0
            )
        )
    # Naive learners are met with probability 0.75, 0.5, 0.25 and 0 ever after, each agent in a trial of
    # its own; with the rest the agents share one trial.
    naive = (0.75 + 0.5 + 0.25) / 8
    assert count.steps == round((naive * 2 + (1 - naive) * 1) * 2 * 4 * GAME.num_steps)
    assert set(info) == {"share_naive", "return", "opponent_return"}
    assert jax.tree.leaves(carry.weights)[0].shape[0] == 2
    assert rule.prepared_jointly
    assert not RULE.prepared_jointly


def test_in_an_encounter_the_weights_stay_and_the_conditioning_moves():
    learner = make_learner("mfos-recurrent(batch_size=4,hidden=5)")
    game = make_game("coin-game(preset=mfos,episodes=1,horizon=4)")
    check_encounter(game, [learner, learner])
    artifact = jax.tree.map(lambda x: np.asarray(x)[None], imagined_artifact(learner.value, game.value, 0))
    outcome = run_encounter(
        game.value, [learner.value] * 2, num_seeds=2, num_updates=2, artifacts=[artifact, artifact], episodes=2
    )
    for own in outcome.final:
        np.testing.assert_allclose(own["weights"]["actor_head"]["kernel"][0], artifact["actor_head"]["kernel"][0, 0])
        assert ((own["conditioning"] > 0) & (own["conditioning"] < 1)).all()
    with pytest.raises(ValueError, match="who see planes"):
        learner.value.check_game(make_game("ipd").value, 0)
