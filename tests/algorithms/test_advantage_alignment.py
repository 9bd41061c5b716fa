"""Advantage Alignment: against all courses of a short game, LOQA's closed form, and PPO."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from shaping_bench.algorithms.advantage_alignment import AA, AAPG, PAA, aligned, past_advantages
from shaping_bench.algorithms.core import Play, View
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.parts import past_selves
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.matrix.repeated import EnvState, seat_states
from shaping_bench.run.encounter import steps_per_update
from shaping_bench.spec.registry import check_encounter, make_game, make_learner
from tests.algorithms.sampled import agrees

GAMMA, BETA = 0.8, 1.7


# --- the past -----------------------------------------------------------------------------


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("weight", ["mean", "recency", "exact"])
def test_the_past_written_out(float64, weight, inclusive):
    advantages = np.random.default_rng(0).normal(size=(5, 3))
    got = past_advantages(jnp.asarray(advantages), weight, GAMMA, inclusive)
    for k in range(5):
        until = k + 1 if inclusive else k
        if weight == "mean":
            expected = advantages[:until].mean(axis=0) if until else np.zeros(3)
        else:
            decay = GAMMA if weight == "recency" else 1.0
            expected = sum((decay ** (k - t) * advantages[t] for t in range(until)), np.zeros(3))
            expected = expected * (GAMMA if weight == "recency" else 1.0)
        np.testing.assert_allclose(got[k], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("weight", "factor"), [("recency", GAMMA**2), ("mean", 1.0), ("exact", 1.0)])
def test_two_steps(float64, weight, factor):
    """A*_0 = A1_0 and A*_1 = A1_1 + beta c A1_0 A2_1, with gamma^k on all of it in the exact convention."""
    own, others = jnp.array([0.3, -0.7]), jnp.array([1.1, 0.4])
    scale = GAMMA if weight == "exact" else 1.0
    expected = [0.3, scale * (-0.7 + BETA * factor * 0.3 * 0.4)]
    np.testing.assert_allclose(aligned(own, others, BETA, weight, GAMMA), expected, rtol=1e-12)


# --- all courses of a short game ----------------------------------------------------------


def courses(game, length):
    """Every course of joint actions: indices ``(T, courses)`` and each seat's states ``(T + 1, courses)``."""
    joint = np.array(list(itertools.product(range(2**game.n_players), repeat=length))).T
    before = np.concatenate([np.full((1, joint.shape[1]), -1), joint])
    frames = np.array([seat_states(game.n_players, i) for i in range(game.n_players)])
    return joint, [np.where(before < 0, 0, 1 + frames[i][before]) for i in range(game.n_players)]


def chances(params, joint, states):
    """Log-probability of everybody's actions, each ``(T, courses)``."""
    n = len(params)
    logs = []
    for i in range(n):
        logit = params[i][states[i][:-1]]
        cooperates = (joint >> (n - 1 - i)) & 1 == 0
        logs.append(jnp.where(cooperates, -jnp.log1p(jnp.exp(-logit)), -jnp.log1p(jnp.exp(logit))))
    return logs


def stationary_values(game, params):
    """Each seat's values of its own states, ``(n, 1 + 2^n)``, play without end."""
    n = game.n_players
    size = 2**n
    frames = [np.concatenate([[0], 1 + np.array(seat_states(n, i))]) for i in range(n)]
    moves = np.arange(size)
    probability = np.ones((1 + size, size))
    for i in range(n):
        p = 1.0 / (1.0 + np.exp(-np.asarray(params[i])))[frames[i]][:, None]
        probability *= np.where((moves >> (n - 1 - i)) & 1 == 0, p, 1.0 - p)
    out = []
    for i in range(n):
        after = np.linalg.solve(np.eye(size) - game.gamma * probability[1:], probability[1:] @ game.payoffs[i])
        here = probability @ (np.array(game.payoffs[i]) + game.gamma * after)
        table = np.zeros(1 + size)
        table[frames[i]] = here
        out.append(jnp.asarray(table))
    return out


def published_gradient(game, params, weight, length):
    """``grad E[sum_t w_t A1_t (log pi_1(a_t) + beta c sum_j Q_j(s_t, a_t, b_t))]`` for the first player, the
    actions at t fixed: what the sampled sum of aligned advantages is derived from."""
    joint, states = courses(game, length)
    n, gamma = game.n_players, game.gamma
    tables = stationary_values(game, params)
    logs = chances(params, joint, states)
    probability = jnp.exp(sum(jnp.sum(x, axis=0) for x in logs))
    rewards = [jnp.asarray(game.payoffs[i])[joint] for i in range(n)]
    values = [tables[i][states[i]] for i in range(n)]
    own = rewards[0] + gamma * values[0][1:] - values[0][:-1]
    weights, factor = (gamma ** np.arange(length), 1.0) if weight == "exact" else (np.ones(length), gamma)

    def objective(theta):
        log_own = chances((theta, *params[1:]), joint, states)[0]
        everybody = log_own + sum(logs[1:])
        total = 0.0
        for t in range(length):
            # Courses that agree up to t are averaged by what follows, whose chances depend on theta.
            then = jnp.exp(jnp.sum((everybody - lax.stop_gradient(everybody))[t + 1 :], axis=0))
            discounts = (gamma ** np.arange(length - t))[:, None]
            returns = sum(
                jnp.sum(discounts * rewards[j][t:], axis=0) + gamma ** (length - t) * values[j][-1] for j in range(1, n)
            )
            total += jnp.sum(probability * weights[t] * own[t] * (log_own[t] + BETA * factor * then * returns))
        return total

    return jax.grad(objective)(params[0])


def everything_played(game, length):
    joint, _ = courses(game, length)
    n, count = game.n_players, joint.shape[1]
    before = np.concatenate([np.full((1, count), -1), joint])
    time = np.broadcast_to(np.arange(length + 1)[:, None], before.shape)
    actions = np.stack([(joint >> (n - 1 - i)) & 1 for i in range(n)], axis=-1)
    rewards = np.stack([np.array(game.payoffs[i])[joint] for i in range(n)], axis=-1)
    states = EnvState(jnp.asarray(time), jnp.asarray(before))
    return Trajectory(states=states, actions=jnp.asarray(actions), rewards=jnp.asarray(rewards), info={})


SHORT = {
    2: (make("ipd", gamma=GAMMA, horizon=3), 3),
    3: (make("public-goods", gamma=GAMMA, horizon=2), 2),
}


def point(game):
    return tuple(
        jnp.asarray(np.random.default_rng(i).normal(size=size), jnp.result_type(float))
        for i, size in enumerate(game.sizes)
    )


@pytest.mark.parametrize(("players", "weight"), [(2, "exact"), (2, "recency"), (3, "exact")])
def test_over_all_courses_the_estimator_is_the_gradient_it_is_derived_from(float64, players, weight):
    """With exact critics and one-step advantages, to rounding."""
    game, length = SHORT[players]
    params = point(game)
    rule = AAPG(
        self_play=False, alignment=BETA, past_weight=weight, lam=0.0, normalise=False, entropy=0.0, batch_size=64
    )
    view = View(game, params, 0, rule.access, learners=(rule,) * players)
    _, state = rule.init(jax.random.key(0), game, 0)
    state = state._replace(critics=tuple(stationary_values(game, params)))
    play = Play(game, everything_played(game, length), 0)
    joint, states = courses(game, length)
    probability = jnp.exp(sum(jnp.sum(x, axis=0) for x in chances(params, joint, states)))
    np.testing.assert_allclose(jnp.sum(probability), 1.0, rtol=1e-12)

    def expected(theta, rule):
        lesson = rule.lesson(play, view, state)
        log_probs = view.policy.unroll(theta, lesson.observations).log_prob(lesson.actions)
        return jnp.sum(probability * lesson.advantages * log_probs)

    gradient = jax.jit(jax.grad(expected))
    got = gradient(params[0], rule)
    published = jax.jit(lambda: published_gradient(game, params, weight, length))()
    np.testing.assert_allclose(got, published, rtol=1e-10, atol=1e-12)
    plain = gradient(params[0], dataclasses.replace(rule, alignment=0.0))  # of an actor-critic
    assert np.abs(np.asarray(got - plain)).max() > 1e-2


def test_the_present_advantage_as_past_adds_the_product_of_present_ones(float64):
    game, length = SHORT[2]
    params = point(game)
    view = View(game, params, 0, AAPG.access, learners=(AAPG(),) * 2)
    play = Play(game, everything_played(game, length), 0)
    lessons, found = [], None
    for inclusive in (False, True):
        rule = AAPG(self_play=False, alignment=BETA, past_weight="exact", inclusive=inclusive, normalise=False)
        _, state = rule.init(jax.random.key(0), game, 0)
        lessons.append(rule.lesson(play, view, state).advantages)
        found = rule.advantages(play, state.critics)
    discounts = (GAMMA ** np.arange(length))[:, None]
    np.testing.assert_allclose(lessons[1] - lessons[0], BETA * discounts * found[0] * found[1], rtol=1e-9, atol=1e-12)


@functools.partial(jax.jit, static_argnums=(1, 2))
def sampled_gradients(keys, size, weight):
    game, params = SHORT[2][0], point(SHORT[2][0])
    rule = AAPG(
        self_play=False, alignment=BETA, past_weight=weight, lam=0.0, normalise=False, entropy=0.0, batch_size=size
    )
    critics = TABLES[2]

    def one(key):
        view = View(game, params, 0, rule.access, learners=(rule, rule), key=key)
        _, state = rule.init(key, game, 0)
        lesson = rule.lesson(view.play(size), view, state._replace(critics=critics))
        return game.horizon * jax.grad(lambda theta: rule.objective(theta, view, lesson)[0])(params[0])

    return lax.map(one, keys)


TABLES = {2: tuple(stationary_values(SHORT[2][0], point(SHORT[2][0])))}


def test_sampled_gradients_agree_with_that_of_all_courses_and_their_noise_falls_as_the_root_of_the_batch():
    game, length = SHORT[2]
    exact = np.asarray(published_gradient(game, point(game), "recency", length))
    keys = jax.random.split(jax.random.key(1), 64)
    large, small = (np.asarray(sampled_gradients(keys, size, "recency"), np.float64) for size in (1024, 64))
    agrees(large, exact)
    noise = [np.sqrt(x.var(axis=0, ddof=1).sum()) for x in (small, large)]
    assert np.log(noise[1] / noise[0]) / np.log(1024 / 64) == pytest.approx(-0.5, abs=0.08)


# --- players, baselines, limits -----------------------------------------------------------


def play_of(game, rule, key=3):
    params = point(game)
    view = View(game, params, 0, rule.access, learners=(rule,) * game.n_players, key=jax.random.key(key))
    return view.play(rule.batch_size), view


def test_who_the_others_are_does_not_matter():
    """Exchanging two of them leaves a player's aligned advantages as they are."""
    rng = np.random.default_rng(0)
    a, b, c = (jnp.asarray(rng.normal(size=(4, 2))) for _ in range(3))
    one, other = (aligned(a, x, BETA, "mean", GAMMA) for x in (b + c, c + b))
    np.testing.assert_array_equal(one, other)


def test_advantages_are_normalised_over_everybody_and_then_multiplied():
    game = make("ipd", gamma=GAMMA, horizon=6)
    rule = PAA(self_play=False, batch_size=32, alignment=BETA)
    play, view = play_of(game, rule)
    _, state = rule.init(jax.random.key(0), game, 0)
    found = rule.advantages(play, state.critics)
    together = np.stack(found)
    np.testing.assert_allclose((together.mean(), together.std()), (0.0, 1.0), atol=1e-5)
    assert abs(together[0].mean()) > 1e-3  # each player's own mean may be another
    expected = aligned(found[0], found[1], BETA, "mean", GAMMA)
    np.testing.assert_allclose(rule.lesson(play, view, state).advantages, expected, rtol=1e-5, atol=1e-6)


def test_other_episodes_as_the_baseline():
    game = make("ipd", gamma=GAMMA, horizon=4)
    rule = PAA(self_play=False, batch_size=8, baseline="leave-one-out", normalise=False)
    play, _ = play_of(game, rule)
    _, state = rule.init(jax.random.key(0), game, 0)
    assert state.critics == ()
    rewards = np.asarray(play.rewards(1))
    returns = np.stack([sum(GAMMA ** (k - t) * rewards[k] for k in range(t, 4)) for t in range(4)])
    others = (returns.sum(axis=1, keepdims=True) - returns) / 7
    np.testing.assert_allclose(rule.advantages(play, ())[1], returns - others, rtol=1e-4, atol=1e-5)


def test_as_loqas_loss_it_is_loqa_with_an_opponent_that_answers_in_full():
    rule = AA(batch_size=8, buffer_size=0)
    np.testing.assert_array_equal(rule.responsiveness(jnp.log(jnp.array([0.2, 0.9]))), 1.0)
    game = make("coin-game")
    weights, critic = (
        rule.policy(game, 0).init(jax.random.key(0)),
        rule.action_values(game, 0).net.init(jax.random.key(1)),
    )
    # Published checkpoints: Dense 64, GRU 64, Dense 4; Dense 64, Dense 64, GRU 64, Dense 4 of planes and time.
    gru = 64 * 3 * 64 + 3 * 64 + 64 * 3 * 64 + 64
    assert sum(x.size for x in jax.tree.leaves(weights)) == 36 * 64 + 64 + gru + 64 * 4 + 4
    assert sum(x.size for x in jax.tree.leaves(critic)) == 37 * 64 + 64 + 64 * 64 + 64 + gru + 64 * 4 + 4


def test_without_alignment_a_step_is_that_of_an_actor_critic_of_generalised_advantages():
    game = make("ipd", gamma=GAMMA, horizon=6)
    rule = PAA(self_play=False, batch_size=32, alignment=0.0, normalise=False, entropy=0.0)
    play, view = play_of(game, rule)
    _, state = rule.init(jax.random.key(0), game, 0)
    lesson = rule.lesson(play, view, state)
    ppo = PPO(batch_size=32, lam=0.95)
    batch = ppo.batch(
        View(game, point(game), 0, ppo.access, learners=(ppo, ppo), key=jax.random.key(3)), (view.own, jnp.zeros(5))
    )
    np.testing.assert_allclose(lesson.advantages, batch.advantages, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda theta: rule.objective(theta, view, lesson)[0])(view.own)
    plain = PPO(batch_size=32, clip=0.1, entropy_bonus=0.0, value_coefficient=0.0, normalise=False)
    theirs = jax.grad(lambda theta: plain.objective((theta, jnp.zeros(5)), view, batch)[0])(view.own)
    np.testing.assert_allclose(slope, theirs, rtol=1e-5, atol=1e-6)


def test_in_self_play_all_seats_teach_one_policy_but_those_of_earlier_selves():
    game = make("public-goods", horizon=3)
    rule = PAA(batch_size=4, replayed=1, buffer_size=2, buffer_every=1, epochs=1)
    theta, state = rule.init(jax.random.key(0), game, 1)

    @jax.jit
    def step(theta, state):
        view = View(game, (theta,) * 3, 1, rule.access, learners=(rule,) * 3, key=jax.random.key(2))
        play, past = rule._episodes(jax.random.key(4), state, view)
        return rule.lesson(play, view, state), past, rule.update(jax.random.key(4), state, view)

    lesson, past, (moved, after, _) = step(theta, state)
    assert lesson.log_probs.shape == (3, 2 * 4)
    assert len(state.critics) == 1
    np.testing.assert_array_equal(past[0], theta)
    assert past_selves.fits(after.past, moved)
    assert np.abs(np.asarray(moved - theta)).max() > 1e-4


def test_steps_on_a_batch_end_where_the_policy_has_gone_too_far():
    game = make("ipd", horizon=6)

    @jax.jit
    def update(rule):
        theta, state = rule.init(jax.random.key(0), game, 0)
        view = View(game, (theta, theta), 0, rule.access, learners=(rule, rule), key=jax.random.key(2))
        return rule.update(jax.random.key(4), state, view)[0]

    def moved(threshold, epochs):
        return np.asarray(update(PAA(batch_size=32, epochs=epochs, kl_threshold=threshold, lr=1.0, clip=0.99)))

    once, stopped, thrice = moved(1e-9, 1), moved(1e-9, 3), moved(1e9, 3)
    np.testing.assert_allclose(once, stopped, rtol=1e-5)
    assert np.abs(thrice - once).max() > 1e-2


def test_an_update_costs_its_batch():
    game = make("ipd", horizon=6)
    for self_play in (True, False):
        rule = PAA(batch_size=12, self_play=self_play, epochs=3)
        assert steps_per_update(game, (rule, make_learner("all-d").value)) == 12 * 6


def test_what_is_refused_says_what_is_allowed():
    with pytest.raises(BadInput, match="allowed: self_play=false"):
        check_encounter(make_game("imp"), [make_learner("paa")] * 2)
    check_encounter(make_game("imp"), [make_learner("paa(self_play=false)")] * 2)
    with pytest.raises(BadInput, match="replayed=3 of 3 seats"):
        check_encounter(make_game("public-goods"), [make_learner("paa(replayed=3)")] * 3)
    check_encounter(make_game("public-goods"), [make_learner("aa-pg")] * 3)
    with pytest.raises(BadInput, match="is defined for 2 players"):
        check_encounter(make_game("public-goods"), [make_learner("aa")] * 3)
