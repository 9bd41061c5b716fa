"""M-FOS, M-MAML and the Good Shepherd: the meta-game, the optimisers, and that what is prepared plays."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms import mfos
from shaping_bench.algorithms.core import View, costs
from shaping_bench.algorithms.good_shepherd import GoodShepherd
from shaping_bench.algorithms.m_maml import MMAML
from shaping_bench.algorithms.mfos import MFOS
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts import evolution, meta_game, mlp
from shaping_bench.algorithms.parts.meta_game import Episode, MetaGame
from shaping_bench.games import make
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import Preparation
from shaping_bench.spec.registry import make_game, make_learner

IPD = make("ipd")
IMP = make("imp", gamma=0.96)
# One logit per player: programs that compile fast, for whatever does not depend on the game.
CHICKEN = make("chicken-one-shot")
PENNIES = make("matching-pennies")
TINY = dict(batch_size=8, hidden=16, meta_steps=5, episodes=3)


@pytest.fixture(autouse=True)
def _precise():
    with jax.enable_x64(True):
        yield


def policy(seed, d=5):
    return tuple(jnp.asarray(x) for x in np.random.default_rng(seed).normal(size=d))


def meta_of(rule, game, player):
    """What the rule is prepared on where it meets one co-player."""
    ((meta, _),) = rule.meta_games(game, player, 1)
    return meta


def against(meta, theta):
    """The state of the meta-game in which the opponent plays ``theta``."""
    return meta.stage.joint([theta, theta], [(), ()])


def other_of(meta, state):
    return state.params[1 - meta.player]


def differences(f, theta, width=1e-5):
    """Central finite differences; error of order width squared."""
    out = []
    for k in range(len(theta)):
        up, down = (tuple(x + s * width * (j == k) for j, x in enumerate(theta)) for s in (1, -1))
        out.append((f(up) - f(down)) / (2 * width))
    return np.array([float(x) for x in out])


@functools.cache
def pennies(seat):
    """A compiled meta-episode of the tiny rule in matching pennies, ``(key, actor) -> Episode``."""
    meta = MetaGame(PENNIES, seat, Naive(lr=1.0))
    return jax.jit(lambda key, actor: meta_game.meta_episode(key, [(meta, 8)], mfos.acting(actor), 5))


# --- the meta-game ----------------------------------------------------------------------------------


@pytest.mark.parametrize("game", [IPD, IMP, CHICKEN], ids=["ipd", "imp", "chicken"])
@pytest.mark.parametrize("player", [0, 1])
@pytest.mark.parametrize("word", ["naive", "lola"])
def test_a_step_plays_the_joint_policy_and_lets_the_opponent_learn_as_in_encounters(game, player, word):
    d = game.sizes[0]
    own, other = policy(0, d), policy(1, d)
    meta = meta_of(MFOS(against=word), game, player)
    then, observation, rewards = meta.step(jax.random.key(0), against(meta, other), own)
    joint = (own, other) if player == 0 else (other, own)
    scale = 1.0 if game is CHICKEN else 0.04
    np.testing.assert_allclose(rewards, [scale * game.value(joint, p) for p in (player, 1 - player)], rtol=1e-12)
    if game.zero_sum:
        assert float(sum(rewards)) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(observation, jax.nn.sigmoid(np.array([*own, *other])), rtol=1e-12)
    # the registered learner in an encounter, from the same joint policy
    named = {"naive": "naive", "lola": "lola-full(lookahead_lr=1)"}[word]
    learner = make_learner(named).value
    learned = learner.update(jax.random.key(0), (), View(game, joint, 1 - player, learner.access))[0]
    np.testing.assert_array_equal(other_of(meta, then), learned)


@pytest.mark.parametrize("word", ["naive", "lola"])
def test_the_opponents_update_is_the_gradient_by_finite_differences(word):
    own, other = policy(2), policy(3)
    meta = meta_of(MFOS(against=word), IPD, 0)
    moved = np.array(other_of(meta, meta.step(jax.random.key(0), against(meta, other), own)[0])) - np.array(other)

    def objective(theta):
        value = IPD.value((own, theta), 1)
        if word == "lola":  # V^o + <dV^o/dm, dV^m/dm>, the derivative through both factors
            slopes = [jax.grad(lambda m, i=i: IPD.value((m, theta), i))(own) for i in (1, 0)]
            value += sum(x * y for x, y in zip(*slopes, strict=True))
        return value

    np.testing.assert_allclose(moved, differences(objective, other), rtol=2e-6, atol=2e-6)


def test_values_per_step_at_the_corners():
    meta = meta_of(MFOS(), IPD, 0)
    for logit, expected in ((40.0, -1.0), (-40.0, -2.0)):
        theta = tuple(jnp.full(5, logit))
        np.testing.assert_allclose(meta.step(jax.random.key(0), against(meta, theta), theta)[2], expected, rtol=1e-12)


def test_matching_pennies_is_zero_sum_in_every_step():
    episode = pennies(1)(jax.random.key(1), MFOS(**TINY).prepare_init(jax.random.key(0), PENNIES, 1).actor)
    np.testing.assert_allclose(episode.rewards + episode.other_rewards, 0.0, atol=1e-12)
    assert float(jnp.abs(episode.rewards).max()) > 0.05


def test_reset_lets_the_opponent_learn_once():
    start = (0.3, -0.2, 0.5, 0.1, -1.0)
    meta = MetaGame(IPD, 0, Naive(lr=1.0), start)
    own = policy(4)
    state, observation = meta.reset(jax.random.key(0), own)
    once = meta.step(jax.random.key(1), against(meta, tuple(jnp.array(start))), own)[0]
    np.testing.assert_allclose(other_of(meta, state), other_of(meta, once), rtol=1e-12)
    np.testing.assert_allclose(observation[5:], jax.nn.sigmoid(np.array(start)), rtol=1e-12)
    # the first reward is what the learned policy gives, not the initial one
    then = meta.step(jax.random.key(2), state, own)
    np.testing.assert_allclose(then[2][0], 0.04 * IPD.value((own, other_of(meta, once)), 0), rtol=1e-12)


def test_encounters_have_the_timing_of_the_meta_game():
    # A policy that repeats the opponent's last one: all else is the opponent's learning.
    weights = {"w1": 1e-4 * jnp.eye(2), "b1": jnp.zeros(2), "w2": jnp.array([[0.0, 1e4]]), "b2": jnp.full(1, -0.5)}
    own, other = policy(5, 1), policy(6, 1)
    rule = MFOS(optimiser="ga")
    init = [np.array(own)[None], np.array(other)[None]]
    batched = jax.tree.map(lambda x: np.asarray(x)[None], weights)
    outcome = run_encounter(
        CHICKEN,
        [rule, Naive(lr=1.0)],
        num_seeds=1,
        num_updates=4,
        record_every=1,
        init=init,
        precision="float64",
        artifacts=[batched, None],
    )
    meta = meta_of(rule, CHICKEN, 0)
    state, seen, _ = meta.step(jax.random.key(0), against(meta, other), own)
    for t in range(1, 5):
        action = tuple(mlp.mlp(weights, jnp.stack(seen)))
        np.testing.assert_allclose(outcome.params[0][t, 0], action, rtol=1e-9)
        np.testing.assert_allclose(outcome.params[1][t, 0], other_of(meta, state), rtol=1e-9)
        state, seen, _ = meta.step(jax.random.key(0), state, action)


def test_a_static_policy_against_naive_learners_gets_the_recomputed_values():
    games = 2048

    def game(key):
        meta = meta_of(MFOS(), IPD, 0)
        first, second = jax.random.split(key)
        own = meta_game.random_policy(first, IPD, 0)
        state, _ = meta.reset(second, own)

        def step(state, _):
            state, _, rewards = meta.step(key, state, own)
            return state, jnp.stack(rewards)

        return jnp.mean(jax.lax.scan(step, state, length=100)[1], axis=0)

    rewards = np.array(jax.jit(jax.vmap(game))(jax.random.split(jax.random.key(0), games)))
    error = rewards.std(axis=0) / games**0.5
    # -2.455 and -0.998 from 4096 games of an independent computation: its standard error is ours / sqrt(2)
    assert np.all(np.abs(rewards.mean(axis=0) - [-2.455, -0.998]) < 3 * 1.5**0.5 * error + 0.0005)
    assert np.all(error < 0.02)


# --- proximal policy optimisation --------------------------------------------------------------------


def some_episode(seed=0, games=12, steps=7, d=5):
    rng = np.random.default_rng(seed)
    return Episode(
        jnp.array(rng.uniform(size=(steps, 2 * d, games))),
        jnp.array(rng.normal(size=(steps, d, games))),
        jnp.array(rng.normal(size=(steps, games)) - 5.0),
        jnp.array(rng.normal(size=(steps, games))),
        jnp.array(rng.normal(size=(steps, games))),
    )


def test_returns_are_discounted_sums_to_the_end():
    rewards = jnp.array([[1.0, 0.0], [2.0, -1.0], [4.0, 3.0]])
    expected = [[1 + 0.5 * 2 + 0.25 * 4, -0.5 + 0.75], [2 + 2, -1 + 1.5], [4, 3]]
    np.testing.assert_allclose(mfos.discounted_returns(rewards, 0.5), expected, rtol=1e-12)


def test_normalisation_is_over_everything_with_the_unbiased_deviation():
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 5))
    np.testing.assert_allclose(mfos.normalised(jnp.array(x)), (x - x.mean()) / (x.std(ddof=1) + 1e-5), rtol=1e-12)


def test_softplus_of_the_head_is_the_variance():
    weights = mlp.init_mlp(jax.random.key(0), 10, 16, 10)
    seen = jnp.array(np.random.default_rng(1).uniform(size=(10, 200_000)))[:, :1] * jnp.ones((1, 200_000))
    actions, log_densities = mlp.sampled(jax.random.key(2), weights, seen)
    mean, variance = mlp.gaussian(weights, seen[:, 0])
    np.testing.assert_allclose(jnp.var(actions, axis=1), variance, rtol=0.02)
    np.testing.assert_allclose(variance, jnp.log1p(jnp.exp(mlp.mlp(weights, seen[:, 0])[5:])), rtol=1e-9)
    expected = jax.scipy.stats.norm.logpdf(actions[:, 0], mean, jnp.sqrt(variance)).sum()
    np.testing.assert_allclose(log_densities[0], expected, rtol=1e-9)
    # entropy is the mean negative log-density
    assert abs(float(mlp.entropy(variance) + jnp.mean(log_densities))) < 0.02


def test_one_unclipped_epoch_is_reinforce_with_a_baseline():
    rule = MFOS(hidden=8, clip=1e9, epochs=1, entropy_bonus=0.0)
    agent = rule.prepare_init(jax.random.key(0), IPD, 0)
    episode = some_episode()

    @jax.jit
    def played(actor):
        mean, variance = jax.vmap(lambda x: mlp.gaussian(actor, x))(episode.observations)
        return jax.vmap(mfos.log_density)(episode.actions, mean, variance)

    episode = episode._replace(log_densities=played(agent.actor))
    targets = mfos.normalised(mfos.discounted_returns(episode.rewards, rule.meta_gamma))
    flat = jax.tree.map(lambda x: mfos.chunked(x, 84)[0], (episode, targets))
    slope = jax.jit(jax.grad(rule.loss, has_aux=True))(agent.actor, agent.critic, *flat)[0]

    seen, actions = (jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1).T for x in (episode.observations, episode.actions))

    def reinforce(actor):
        def one(seen, action, target):
            mean, variance = mlp.gaussian(actor, seen)
            log_density = jax.scipy.stats.norm.logpdf(action, mean, jnp.sqrt(variance)).sum()
            return -jax.lax.stop_gradient(target - mlp.mlp(agent.critic, seen)[0]) * log_density

        return jax.vmap(one)(seen, actions, targets.ravel()).sum()

    expected = jax.jit(jax.grad(reinforce))(agent.actor)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10), slope, expected)


def test_chunks_change_nothing(monkeypatch):
    rule = MFOS(hidden=8)
    agent = rule.prepare_init(jax.random.key(0), IPD, 0)
    episode = some_episode()
    whole, error = rule.learned(agent, episode)
    monkeypatch.setattr(mfos, "CHUNK", 10)
    assert mfos.chunk_size(7 * 12) == 7
    parts, same = rule.learned(agent, episode)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-9), whole, parts)
    np.testing.assert_allclose(error, same, rtol=1e-9)
    assert any(bool(jnp.any(x != y)) for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(agent), strict=True))


def test_epochs_step_on_the_mean_loss_of_all_steps_and_games():
    rule = MFOS(hidden=8, epochs=2)
    agent = rule.prepare_init(jax.random.key(0), IPD, 0)
    episode = some_episode(3)
    targets = mfos.normalised(mfos.discounted_returns(episode.rewards, 0.99))
    flat = jax.tree.map(lambda x: mfos.chunked(x, 84)[0], (episode, targets))

    def mean_loss(weights):
        obs = flat[0].observations
        mean, variance = mlp.gaussian(weights[0], obs)
        density = jax.scipy.stats.norm.logpdf(flat[0].actions, mean, jnp.sqrt(variance)).sum(0)
        ratio = jnp.exp(density - flat[0].log_densities)
        values = mlp.mlp(weights[1], obs)[0]
        advantage = flat[1] - jax.lax.stop_gradient(values)
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
        entropy = 0.5 * jnp.log(2 * jnp.pi * jnp.e * variance).sum(0)
        return jnp.mean(-surrogate - 0.01 * entropy) + 0.5 * jnp.mean((values - flat[1]) ** 2)

    weights, moments = (agent.actor, agent.critic), [jax.tree.map(jnp.zeros_like, (agent.actor, agent.critic))] * 2

    @jax.jit
    def adam(t, weights, moments):
        slope = jax.grad(mean_loss)(weights)
        moments = [
            jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], slope),
            jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], slope),
        ]
        weights = jax.tree.map(
            lambda w, m, v: w - 0.002 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), weights, *moments
        )
        return weights, moments

    for t in (1, 2):
        weights, moments = adam(t, weights, moments)
    then, _ = jax.jit(rule.learned)(agent, episode)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9), (then.actor, then.critic), weights
    )


def test_the_batch_is_charged():
    rule = MFOS(batch_size=16, meta_steps=10, hidden=8)
    with costs.counting() as count:
        carry = rule.prepare_init(jax.random.key(0), IPD, 0)
        jax.eval_shape(lambda: rule.prepare_step(jax.random.key(0), jnp.int32(0), carry, IPD, 0)[0])
    assert count.evaluations == 16 * (10 + 1) * 3  # two values and a naive gradient per step, and in reset


# --- self-play with tracing ------------------------------------------------------------------------


def test_tracing_leaves_naive_learners_for_self_play():
    rule = MFOS(against="self")
    for n in (0, 1, 100, 666, 667, 1000):
        assert float(rule.naive_share(n)) == pytest.approx(max(0.0, 1 - 0.0015 * n), abs=1e-9)
    itself = np.array(jax.vmap(rule.plays_itself)(jnp.arange(1024)))
    expected = sum(min(1.0, 0.0015 * n) for n in range(1, 1025))
    assert expected == pytest.approx(691, abs=1)
    deviation = sum(p * (1 - p) for n in range(1, 667) for p in [0.0015 * n]) ** 0.5
    assert abs(itself.sum() - expected) < 3 * deviation
    assert itself[667:].all()
    assert not itself[:50].all()


PAIR = MFOS(against="self", **TINY)


@functools.cache
def traced():
    """Two agents, one compiled step of their preparation in matching pennies, and the learning in it."""
    carry = PAIR.prepare_init(jax.random.key(0), PENNIES, 0)
    step = jax.jit(lambda key, n: PAIR.prepare_step(key, n, carry, PENNIES, 0))
    return carry, step, jax.jit(lambda agent, episode: PAIR.learned(agent, episode)[0])


def close(x, y):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9), x, y)


def test_self_play_teaches_two_agents_by_the_same_games():
    carry, step, learned = traced()
    then, info = step(jax.random.key(1), jnp.int32(1000))
    assert bool(info["self_play"])
    play = jax.jit(lambda: mfos.mutual_episodes(jax.random.key(1), PENNIES, (carry[0].actor, carry[1].actor), 8, 5))
    one, two = play()
    np.testing.assert_allclose(one.rewards, -two.rewards, rtol=1e-12)
    np.testing.assert_allclose(one.observations[:, :1], two.observations[:, 1:], rtol=1e-12)
    np.testing.assert_allclose(one.observations[1:, :1], jax.nn.sigmoid(one.actions[:-1]), rtol=1e-12)
    np.testing.assert_allclose(one.observations[1:, 1:], jax.nn.sigmoid(two.actions[:-1]), rtol=1e-12)
    joint = [tuple(x.actions[0, :, 0]) for x in (one, two)]
    np.testing.assert_allclose(one.rewards[0, 0], PENNIES.value(joint, 0), rtol=1e-9)
    close(then, (learned(carry[0], one), learned(carry[1], two)))
    # seat i plays the i-th agent
    artifact = PAIR.artifact(then)
    joint = (policy(7, 1), policy(8, 1))
    for i in (0, 1):
        view = View(PENNIES, joint, i, PAIR.access, artifact=artifact)
        seen = jnp.stack(meta_game.observed(joint[i], joint[1 - i]))
        expected, _ = mlp.sampled(jax.random.key(3), then[i].actor, seen)
        np.testing.assert_allclose(PAIR.update(jax.random.key(3), (), view)[0], expected, rtol=1e-12)


def test_naive_phases_of_tracing_teach_each_agent_in_its_own_games():
    carry, step, learned = traced()
    then, info = step(jax.random.key(1), jnp.int32(0))
    assert not bool(info["self_play"])
    second = jax.random.split(jax.random.key(1))[1]
    close(then[1], learned(carry[1], pennies(1)(second, carry[1].actor)))
    assert not np.array_equal(then[0].actor["w1"], carry[0].actor["w1"])


def test_self_play_is_charged_what_tracing_leaves_of_it():
    rule = dataclasses.replace(PAIR, episodes=1000)
    with costs.counting() as count:
        carry = jax.eval_shape(lambda: rule.prepare_init(jax.random.key(0), PENNIES, 0))
        jax.eval_shape(lambda c: rule.prepare_step(jax.random.key(0), jnp.int32(0), c, PENNIES, 0)[0], carry)
    share = np.mean([max(0.0, 1 - 0.0015 * n) for n in range(1, 1001)])
    expected = share * 2 * 8 * (5 + 1) * 3 + (1 - share) * 8 * 5 * 2
    assert count.evaluations == pytest.approx(expected, abs=1)


# --- evolution ---------------------------------------------------------------------------------------


CLIMBER = MFOS(optimiser="ga", hidden=8, population=4, opponents=4, test_size=8, meta_steps=5)


def test_the_hill_climber_keeps_its_incumbent_exactly_unless_another_is_better():
    before = CLIMBER.prepare_init(jax.random.key(0), CHICKEN, 0)
    step = jax.jit(
        lambda k, mutation: dataclasses.replace(CLIMBER, mutation=mutation).prepare_step(
            k, jnp.int32(0), before, CHICKEN, 0
        )
    )
    kept = replaced = 0
    for seed in range(8):
        after, info = step(jax.random.key(seed), 2.0)
        same = [bool(jnp.all(x == y)) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
        assert all(same) == (not bool(info["replaced"])) or bool(info["replaced"])
        assert any(same) == all(same)
        kept, replaced = kept + all(same), replaced + (not any(same))
    assert kept
    assert replaced
    # mutants that are the incumbent change nothing, whatever their luck
    jax.tree.map(np.testing.assert_array_equal, before, step(jax.random.key(0), 0.0)[0])


def test_the_hill_climber_only_climbs(monkeypatch):
    def height(key, groups, act, steps):  # rewards that depend on the weights alone
        return (-jnp.sum(act(jnp.zeros(2)) ** 2),) * 2

    monkeypatch.setattr(mfos, "mean_rewards", height)
    rule = dataclasses.replace(CLIMBER, population=8, mutation=0.3)
    weights = rule.prepare_init(jax.random.key(0), CHICKEN, 0)
    step = jax.jit(lambda w, k: rule.prepare_step(k, jnp.int32(0), w, CHICKEN, 0))
    heights = [float(-jnp.sum(mlp.mlp(weights, jnp.zeros(2)) ** 2))]
    for seed in range(12):
        weights, info = step(weights, jax.random.key(seed))
        heights.append(float(-jnp.sum(mlp.mlp(weights, jnp.zeros(2)) ** 2)))
        assert float(info["return"]) == pytest.approx(heights[-1], rel=1e-9)
        assert bool(info["replaced"]) == (heights[-1] > heights[-2])
    assert heights == sorted(heights)
    assert heights[-1] > heights[0]


def test_evolution_strategies_climb_although_evosax_descends():
    strategy = evolution.open_es(32, jnp.zeros(3), sigma=0.1, lr=0.1)
    target = jnp.array([1.0, -2.0, 0.5])
    state = strategy.init(jax.random.key(0), jnp.zeros(3), strategy.default_params)

    def generation(state, key):
        candidates, state = strategy.ask(key, state, strategy.default_params)
        rewards = -jnp.sum((candidates - target) ** 2, axis=1)
        return strategy.tell(key, candidates, -rewards, state, strategy.default_params)[0]

    start = float(jnp.sum(target**2))
    generation = jax.jit(generation)
    for g in range(300):
        state = generation(evolution.as_arrays(state), jax.random.key(g))
    assert float(jnp.sum((state.mean - target) ** 2)) < 0.1 * start


def test_candidates_of_a_generation_meet_the_same_opponents():
    rule = MFOS(optimiser="es", hidden=8, population=8, opponents=4, meta_steps=5, es_sigma=1e-9)
    carry = rule.prepare_init(jax.random.key(0), CHICKEN, 0)
    then, info = jax.jit(lambda c: rule.prepare_step(jax.random.key(1), jnp.int32(0), c, CHICKEN, 0))(carry)
    np.testing.assert_allclose(info["return"], info["best_return"], rtol=1e-6)  # candidates that hardly differ
    artifact = rule.artifact(then)
    assert {k: v.shape for k, v in artifact.items()} == {"w1": (8, 2), "b1": (8,), "w2": (1, 8), "b2": (1,)}
    view = View(CHICKEN, (policy(0, 1), policy(1, 1)), 0, rule.access, artifact=artifact)
    expected = mlp.mlp(artifact, jax.nn.sigmoid(jnp.array([*policy(0, 1), *policy(1, 1)])))
    np.testing.assert_allclose(rule.update(jax.random.key(2), (), view)[0], expected, rtol=1e-12)


# --- M-MAML ------------------------------------------------------------------------------------------


def test_m_maml_ascends_the_return_of_the_joint_learning_process():
    rule = MMAML(meta_steps=3)
    other = policy(9)
    learned = {"phi": policy(10), "step": jnp.asarray(0.7)}

    def process(learned, player):
        own, theirs, total = learned["phi"], other, 0.0
        for _ in range(3):
            joint = (own, theirs) if player == 0 else (theirs, own)
            total += 0.04 * IMP.value(joint, player) / 3
            slopes = [jax.grad(lambda x, y, j=j: IMP.value((x, y), j), argnums=j)(*joint) for j in (0, 1)]
            own = tuple(x + learned["step"] * g for x, g in zip(own, slopes[player], strict=True))
            theirs = tuple(x + g for x, g in zip(theirs, slopes[1 - player], strict=True))
        return total

    simple = jax.jit(lambda x: process(x, 1))

    class Other(Naive):
        def init(self, key, game, player):
            return other, ()

    mean_return = functools.partial(rule.mean_return, jax.random.key(0), rule=Other(lr=1.0), game=IMP, player=1)
    value, slope = jax.jit(jax.value_and_grad(mean_return))(learned)
    np.testing.assert_allclose(value, simple(learned), rtol=1e-9)
    of_phi = differences(lambda phi: simple({**learned, "phi": phi}), learned["phi"])
    np.testing.assert_allclose(slope["phi"], of_phi, rtol=1e-5, atol=1e-8)
    of_step = differences(lambda x: simple({**learned, "step": x[0]}), (learned["step"],))
    np.testing.assert_allclose(slope["step"], of_step[0], rtol=1e-5, atol=1e-8)


def test_m_maml_plays_from_what_it_learned_with_step_one_or_the_learned_one():
    artifact = {"phi": policy(11), "step": jnp.asarray(0.25)}
    rule = MMAML()
    assert rule.init(jax.random.key(0), IPD, 0, artifact)[0] == artifact["phi"]
    view = View(IPD, (policy(11), policy(12)), 0, rule.access, artifact=artifact)
    slope = np.array(view.gradient())
    for chosen, step in ((rule, 1.0), (MMAML(learned_step=True), 0.25)):
        moved = np.array(chosen.update(jax.random.key(0), (), view)[0]) - np.array(view.own)
        np.testing.assert_allclose(moved, step * slope, rtol=1e-9)


# --- the Good Shepherd ---------------------------------------------------------------------------------


def test_the_good_shepherd_finds_the_policy_that_learners_serve_best():
    # One-shot chicken: whoever always goes straight makes learners swerve, and gets 1.
    rule = GoodShepherd(population=16, opponents=16, meta_steps=50, generations=60)
    carry = rule.prepare_init(jax.random.key(0), CHICKEN, 0)
    step = jax.jit(lambda c, k: rule.prepare_step(k, jnp.int32(0), c, CHICKEN, 0))
    for k in range(60):
        carry, info = step(carry, jax.random.key(k))
    assert float(info["return"]) > 0.8
    theta = rule.artifact(carry)
    assert float(jax.nn.sigmoid(theta[0])) < 0.1
    view = View(CHICKEN, ((theta[0],), policy(0, 1)), 0, rule.access)
    assert rule.update(jax.random.key(0), (), view)[0] == (theta[0],)
    assert rule.init(jax.random.key(0), CHICKEN, 0, theta)[0] is theta


# --- preparations that play ----------------------------------------------------------------------------

SHORT = {
    "mfos": ("chicken-one-shot", "mfos(batch_size=8,hidden=16,meta_steps=5,episodes=3)"),
    "m-maml": ("chicken-one-shot", "m-maml(meta_steps=3,outer_steps=2,batch_size=4)"),
    "good-shepherd": ("chicken-one-shot", "good-shepherd(generations=2,population=4,opponents=4,meta_steps=5)"),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_prepared_learner_plays(name, tmp_path):
    game, learner = make_game(SHORT[name][0]), make_learner(SHORT[name][1])
    with jax.enable_x64(False):
        prepared = Artifacts(tmp_path).prepared(Preparation(learner, game, 0, 2, 0, "float32"))
        assert prepared.record["costs"]["gradient_evaluations"] > 0
        assert np.isfinite(prepared.curves[prepared.curves.metric == "return"].value).all()
        outcome = run_encounter(
            game.value, [learner.value, Naive(lr=1.0)], num_seeds=4, num_updates=3, artifacts=[prepared.artifact, None]
        )
    assert not outcome.diverged.any()
    moved = np.abs(outcome.params[0][-1] - outcome.params[0][0]).max()
    assert (moved == 0.0) == (name == "good-shepherd")


def test_m_maml_plays_what_others_have_learned():
    rule = make_learner("m-maml(initial=(4.595,4.595,-4.595,0.08,-3.178),batch_size=4,meta_steps=3)").value
    carry = rule.prepare_init(jax.random.key(0), IPD, 0)
    phi = rule.init(jax.random.key(1), IPD, 0, rule.artifact(carry))[0]
    np.testing.assert_allclose(jax.nn.sigmoid(np.array(phi)), [0.99, 0.99, 0.01, 0.52, 0.04], atol=1e-3)
    assert rule.preparation_steps == 1
    then, info = jax.jit(lambda: rule.prepare_step(jax.random.key(0), jnp.int32(0), carry, IPD, 0))()
    jax.tree.map(np.testing.assert_array_equal, then, carry)
    assert -3.0 < float(info["return"]) < 0.0


@pytest.mark.parametrize(
    "rule",
    [
        MFOS(**TINY),
        MFOS(optimiser="es", hidden=8, population=4, opponents=2, meta_steps=2),
        GoodShepherd(population=4, opponents=2, meta_steps=2),
        MMAML(batch_size=2, meta_steps=2),
    ],
    ids=["ppo", "es", "good-shepherd", "m-maml"],
)
def test_more_than_two_may_play(rule):
    game = make("public-goods")
    carry = jax.eval_shape(lambda: rule.prepare_init(jax.random.key(0), game, 1))
    after, info = jax.eval_shape(lambda c: rule.prepare_step(jax.random.key(0), jnp.int32(0), c, game, 1), carry)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert info["return"].shape == ()


@pytest.mark.parametrize(
    ("rule", "game", "said"),
    [
        (MFOS(against="self"), make("public-goods"), "for 2 players with against='self'"),
        (MFOS(optimiser="es", population=7), IPD, "population=7; allowed: even"),
        (GoodShepherd(population=9), IPD, "population=9; allowed: even"),
        (MFOS(), make("tandem"), "logits"),
        (MFOS(against="self", optimiser="ga"), IPD, "allowed: ppo"),
        (MFOS(opponent_init=(1.0,)), IPD, "allowed: none, or 5"),
        (MMAML(initial=(1.0,)), IPD, "allowed: none, or 5"),
        (GoodShepherd(), make("tandem"), "logits"),
    ],
)
def test_games_and_settings_that_do_not_go_together_are_refused(rule, game, said):
    with pytest.raises(ValueError, match=said):
        rule.check_game(game, 0)
