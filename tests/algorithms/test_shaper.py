"""Shaper: its network, what it remembers, its evolution strategy, and a small preparation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from shaping_bench.algorithms.core import Stage, View, costs
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.parts.evolution import open_es
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.algorithms.shaper import Shaper
from shaping_bench.errors import BadInput
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

IPD = make_game("ipd(horizon=4,init_std=0)").value
RULE = Shaper(batch_size=4, opponents=2, episodes=3, population=4, hidden=6)


def weights_of(rule, game=IPD, key=0):
    return rule.policy(game, 0).init(jax.random.key(key))


# --- the network --------------------------------------------------------------------------


def test_as_many_weights_are_searched_as_published():
    coins = make_game("coin-game(preset=jaxmarl,observation=egocentric)").value
    for game, count in ((IPD, 1_104), (coins, 2_272)):
        assert sum(x.size for x in jax.tree.leaves(Shaper().policy(game, 0).zeros())) == count


def test_a_step_written_out():
    policy, weights = RULE.policy(IPD, 0), weights_of(RULE)
    hidden, seen = np.linspace(-0.5, 0.5, 6), np.eye(5)[2]
    w, u, b = (np.asarray(weights[name], np.float64) for name in ("input", "recurrent", "bias"))
    (wz, wr, wa), (uz, ur, ua), (bz, br, ba) = (np.split(x, 3, axis=-1) for x in (w, u, b))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    z, r = sigmoid(seen @ wz + hidden @ uz + bz), sigmoid(seen @ wr + hidden @ ur + br)
    expected = (1 - z) * hidden + z * np.tanh(seen @ wa + (r * hidden) @ ua + ba)
    got, said = policy.step(weights, jnp.asarray(hidden, jnp.float32), jnp.int32(2), ())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said.logits, expected @ np.asarray(weights["logits"]), rtol=1e-4, atol=1e-6)


def counting(memory):
    """Weights by which the hidden state grows by a sure step at a time, like a clock: z = 1/2, a = 1."""
    rule = dataclasses.replace(RULE, memory=memory)
    weights = jax.tree.map(jnp.zeros_like, weights_of(rule))
    return rule, {**weights, "bias": weights["bias"].at[12:].set(20.0)}


@functools.partial(jax.jit, static_argnames="memory")
def clocks(weights, key, memory):
    """Carries after each of three episodes of a trial."""
    rule = dataclasses.replace(RULE, memory=memory)
    stage = Stage(IPD, (rule, PPO(batch_size=4, minibatches=2)))
    joint = stage.begin(key)
    joint = joint._replace(params=(weights, joint.params[1]))

    def episode(joint, key):
        joint, _, _ = stage.episode(key, joint)
        return joint, joint.carries[0]

    return lax.scan(episode, joint, jax.random.split(key, 3))[1]


def test_memory_lasts_for_the_trial_and_no_longer():
    rule, weights = counting("trial")
    carries = clocks(weights, jax.random.key(0), "trial")
    assert carries.shape == (3, 4, 6)
    steps = np.array([4, 8, 12])
    np.testing.assert_allclose(carries[:, 0, 0], 1 - 0.5**steps, rtol=1e-6)
    again = Stage(IPD, (rule, PPO(batch_size=4))).begin(jax.random.key(1)).carries[0]
    np.testing.assert_array_equal(again, 0.0)  # a new trial
    _, weights = counting("episode")
    assert clocks(weights, jax.random.key(0), "episode") == ()


def test_hidden_states_along_a_trial_end_with_episodes_where_memory_does():
    rule, weights = counting("trial")
    seen = jnp.zeros((8, 4), jnp.int32)
    whole, parts = (rule.policy(IPD, 0).hiddens(weights, seen, n)[:, 0, 0] for n in (None, 4))
    np.testing.assert_allclose(whole, 1 - 0.5 ** np.arange(1, 9), rtol=1e-6)
    np.testing.assert_allclose(parts, 1 - 0.5 ** np.tile(np.arange(1, 5), 2), rtol=1e-6)


def test_without_memory_it_is_the_good_shepherds():
    """What is done depends on what is seen alone."""
    rule = dataclasses.replace(RULE, memory="none")
    policy, weights = rule.policy(IPD, 0), weights_of(rule)
    hidden = jax.random.normal(jax.random.key(3), (2, 6))
    one, other = (policy.step(weights, h, jnp.int32(3), ())[1].logits for h in hidden)
    np.testing.assert_array_equal(one, other)
    kept = [RULE.policy(IPD, 0).step(weights, h, jnp.int32(3), ())[1].logits for h in hidden]
    assert np.abs(np.asarray(kept[0] - kept[1])).max() > 1e-3


# --- averaging ----------------------------------------------------------------------------


def mixing(averaging, hidden=6, kind=IPD):
    policy = dataclasses.replace(RULE, averaging=averaging, hidden=hidden).policy(kind, 0)
    return policy, policy.init(jax.random.key(0))


def in_a_batch(policy, weights, hiddens, seen):
    return jax.vmap(policy.act, in_axes=(None, 0, 0, None), axis_name="environments")(weights, hiddens, seen, ())[0]


def test_half_of_the_mean_halves_differences_and_keeps_the_mean():
    policy, weights = mixing("avg")
    hiddens = jax.random.normal(jax.random.key(1), (3, 6))
    mixed = 0.5 * hiddens + 0.5 * hiddens.mean(axis=0)
    np.testing.assert_allclose(mixed.mean(axis=0), hiddens.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed[0] - mixed[1], 0.5 * (hiddens[0] - hiddens[1]), rtol=1e-5, atol=1e-6)
    seen = jnp.array([0, 2, 4])
    plain = RULE.policy(IPD, 0)
    expected = [plain.step(weights, h, s, ())[0] for h, s in zip(mixed, seen, strict=True)]
    np.testing.assert_allclose(in_a_batch(policy, weights, hiddens, seen), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("averaging", ["avg", "attention"])
def test_alone_there_is_nobody_to_listen_to(averaging):
    policy, weights = mixing(averaging)
    hidden, seen = jax.random.normal(jax.random.key(1), (1, 6)), jnp.array([2])
    batch = in_a_batch(policy, weights, hidden, seen)
    np.testing.assert_allclose(batch[0], policy.step(weights, hidden[0], seen[0], ())[0], rtol=1e-5, atol=1e-6)
    if averaging == "avg":
        plain = RULE.policy(IPD, 0).step(weights, hidden[0], seen[0], ())[0]
        np.testing.assert_allclose(batch[0], plain, rtol=1e-6)


def test_attention_treats_environments_alike():
    policy, weights = mixing("attention")
    hiddens, seen = jax.random.normal(jax.random.key(1), (4, 6)), jnp.array([0, 1, 2, 3])
    order = jnp.array([2, 0, 3, 1])
    here, there = in_a_batch(policy, weights, hiddens, seen), in_a_batch(policy, weights, hiddens[order], seen[order])
    np.testing.assert_allclose(here[order], there, rtol=1e-5, atol=1e-6)
    moved = in_a_batch(policy, weights, hiddens.at[3].add(1.0), seen)
    assert np.abs(np.asarray(moved[0] - here[0])).max() > 1e-4  # somebody else's memory counts


@pytest.mark.parametrize("averaging", ["none", "avg", "attention"])
def test_what_is_said_along_play_is_what_was_said_while_playing(averaging):
    policy, weights = mixing(averaging)

    @jax.jit
    def both(key):
        play = rollout(key, IPD, (policy, policy), (weights, weights), 3, said_by=(0,))
        seen = jax.vmap(jax.vmap(lambda state: IPD.observe(state, 0)))(play.states)
        return play.said[0].logits, policy.unroll(weights, seen[:-1]).logits

    said, along = both(jax.random.key(0))
    np.testing.assert_allclose(said, along, rtol=1e-4, atol=1e-5)


# --- the evolution strategy ---------------------------------------------------------------


def test_the_search_is_that_of_the_official_code(float64):
    """On f(x) = |x - 1|^2 beside a loop written out, for ten generations; the deviation is evosax's."""
    size, sigma, lr = 3, 0.2, 0.1
    strategy = open_es(8, jnp.zeros(size), sigma=sigma, lr=lr, shaping="rank", decay=0.3)
    params = strategy.default_params
    state = strategy.init(jax.random.key(0), jnp.zeros(size), params)
    mean, m, v = np.zeros(size), np.zeros(size), np.zeros(size)
    for g in range(10):
        candidates, state = strategy.ask(jax.random.key(g), state, params)
        x = np.asarray(candidates)
        np.testing.assert_allclose(x[:4] + x[4:], 2 * np.asarray(mean)[None].repeat(4, axis=0), atol=1e-6)
        fitness = np.sum((x - 1.0) ** 2, axis=-1)
        state, _ = strategy.tell(jax.random.key(g), candidates, jnp.asarray(fitness), state, params)
        cost = fitness + 0.3 * np.mean(x**2, axis=-1)
        shaped = np.argsort(np.argsort(cost)) / 7 - 0.5
        deviation = max(sigma * 0.999 ** max(g - 1, 0), 0.01)
        slope = ((x - mean) / deviation * shaped[:, None]).sum(axis=0) / (8 * deviation)
        m, v = 0.99 * m + 0.01 * slope, 0.999 * v + 0.001 * slope**2
        step = m / (1 - 0.99 ** (g + 1)) / (np.sqrt(v / (1 - 0.999 ** (g + 1))) + 1e-8)
        mean = mean - max(lr * 0.9999**g, 0.001) * step
        np.testing.assert_allclose(state.mean, mean, rtol=1e-5, atol=1e-6)
    assert (mean > 0.1).all()  # towards what is best


@pytest.mark.parametrize("shaping", ["mean", "rank", "z-score"])
def test_a_constant_in_the_fitness_changes_nothing(shaping):
    strategy = open_es(6, jnp.zeros(2), sigma=0.2, lr=0.1, shaping=shaping)
    state = strategy.init(jax.random.key(0), jnp.zeros(2), strategy.default_params)
    x, state = strategy.ask(jax.random.key(1), state, strategy.default_params)
    fitness = jnp.sum(x**3, axis=-1)
    means = [
        strategy.tell(jax.random.key(2), x, fitness + shift, state, strategy.default_params)[0].mean
        for shift in (0.0, 5.0)
    ]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-5)


# --- trials -------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("rule", "game"))
def rewards(key, weights, rule, game=IPD):
    return rule.trials(key, weights, game, 0, lambda trial: (trial.rewards, trial.other_rewards))


def test_ignorant_weights_play_at_random_and_the_co_player_learns_to_defect():
    game = make_game("ipd(horizon=50,init_std=0)").value
    rule = Shaper(batch_size=8, opponents=4, episodes=12, population=4)
    own, other = rewards(jax.random.key(0), rule.policy(game, 0).zeros(), rule, game)
    assert own.shape == (4, 12, 50, 8)
    np.testing.assert_allclose((own[:, 0].mean(), other[:, 0].mean()), (-1.5, -1.5), atol=0.1)
    np.testing.assert_allclose((own[:, -1].mean(), other[:, -1].mean()), (-2.5, -1.0), atol=0.15)


def test_the_same_weights_earn_the_same_with_the_same_key():
    weights = weights_of(RULE)
    once, again = (rewards(jax.random.key(0), weights, RULE)[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.ptp(once.mean(axis=(1, 2, 3))) > 0  # co-players are in trials of their own


def test_a_generation_is_priced_and_the_weights_are_those_at_the_centre():
    def prepared(key):
        carry = RULE.prepare_init(key, IPD, 0)
        return carry, *RULE.prepare_step(key, jnp.int32(0), carry, IPD, 0)

    with costs.counting() as count:
        before, after, info = jax.jit(prepared)(jax.random.key(0))
    assert count.steps == 4 * 2 * 3 * 4 * 4  # candidates, co-players, episodes, games, steps
    np.testing.assert_array_equal(before.mean, 0.0)
    weights = RULE.init(jax.random.key(0), IPD, 0, RULE.artifact(after))[0]
    np.testing.assert_array_equal(ravel_pytree(weights)[0], after.mean)
    assert set(info) == {"return", "opponent_return", "best_return"}


def test_taught_by_ppo_it_learns_through_its_memory():
    """Where only the first thing seen tells what is right: through the hidden state's derivative."""
    rule = dataclasses.replace(RULE, trainer="ppo", epochs=1, entropy=0.0)

    def prepared(key):
        carry = rule.prepare_init(key, IPD, 0)
        return carry, *rule.prepare_step(key, jnp.int32(0), carry, IPD, 0)

    with costs.counting() as count:
        before, after, info = jax.jit(prepared)(jax.random.key(0))
    assert count.steps == 2 * 3 * 4 * 4
    assert set(info) == {"return", "opponent_return"}
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), before.weights, after.weights)
    assert min(moved.values()) > 0.0


def test_co_players_are_values():
    rule = make_learner("shaper(against={ppo: 0.5, tft: 0.5},opponents=4)", game="ipd").value
    learners = rule.coplayers(IPD)
    assert learners.counts(4) == (2, 2)
    assert [type(x).__name__ for x in learners.learners] == ["PPO", "TFT"]


def test_what_is_refused_says_what_is_allowed():
    game = make_game("ipd(horizon=5)")
    with pytest.raises(BadInput, match="allowed: even numbers"):
        check_encounter(game, [make_learner("shaper(population=5)", game="ipd"), make_learner("ppo", game="ipd")])
    with pytest.raises(BadInput, match="too few"):
        check_encounter(game, [make_learner("shaper(against={ppo: 0.5, tft: 0.5},opponents=1)"), make_learner("tft")])
    with pytest.raises(BadInput, match="parts='steps' and network='gru'"):
        check_encounter(game, [make_learner("ppo(parts=steps,network=gru)")] * 2)


def test_three_players():
    game = make_game("public-goods(horizon=3)").value
    artifact = imagined_artifact(RULE, game, 0)
    assert artifact.shape == (sum(x.size for x in jax.tree.leaves(RULE.policy(game, 0).zeros())),)
    own, others = jax.eval_shape(
        lambda key: RULE.trials(key, weights_of(RULE, game), game, 0, lambda t: (t.rewards, t.other_rewards)),
        jax.random.key(0),
    )
    assert own.shape == others.shape == (2, 3, 3, 4)


def test_single_steps_are_minibatches_of_policies_without_memory():
    """One pass over steps in one minibatch is one over episodes in one."""

    def moved(parts):
        rule = PPO(batch_size=6, minibatches=1, epochs=1, parts=parts)
        theta, state = rule.init(jax.random.key(0), IPD, 0)
        view = View(IPD, (theta, theta), 0, rule.access, learners=(rule, rule), key=jax.random.key(1))
        return jax.jit(lambda state: rule.update(jax.random.key(2), state, view)[:2])(state)

    one, other = (jax.tree.leaves(moved(parts)) for parts in ("episodes", "steps"))
    for x, y in zip(one, other, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
