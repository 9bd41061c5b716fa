"""Best response shaping: the detective against exact best responses, its questions against enumeration, its gradients
against finite differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.brs import BRS, BRSExact, searched
from shaping_bench.algorithms.core import Access, View
from shaping_bench.games import make
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

SURE = 8.0
PAYOFFS = np.array([[-1.0, -3.0], [0.0, -2.0]])  # by the own action and the other's
STRATEGIES = {"all-c": [SURE] * 5, "all-d": [-SURE] * 5, "tft": [SURE, SURE, -SURE, SURE, -SURE]}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("player", [0, 1])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_deep_and_cold_search_is_the_exact_best_response(name, player):
    game, rule = make("ipd"), BRSExact(depth=400, temperature=1e-3)
    own = jnp.array(STRATEGIES[name])
    answer = rule.detective(own, game, player)
    pair = [answer, answer]
    pair[player] = own
    best = [own, own]
    best[1 - player] = jnp.stack(game.best_response((own, own), 1 - player))
    for seat in 0, 1:
        np.testing.assert_allclose(game.value(pair, seat), game.value(best, seat), rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_search_of_two_moves_is_what_is_worked_out_by_hand():
    own, gamma, tau = np.array([0.3, -0.4, 1.1, -0.7, 0.2]), 0.9, 0.5
    p = 1 / (1 + np.exp(-own[[0, 1, 3, 2, 4]]))  # the detective's CD is the other's DC
    first = p[:, None] * PAYOFFS[:, 0] + (1 - p)[:, None] * PAYOFFS[:, 1]
    chosen = np.exp(first / tau) / np.exp(first / tau).sum(axis=1, keepdims=True)
    then = (chosen * first).sum(axis=1)[1:].reshape(2, 2)
    second = p[:, None] * (PAYOFFS + gamma * then)[:, 0] + (1 - p)[:, None] * (PAYOFFS + gamma * then)[:, 1]
    got = searched(jnp.asarray(own), jnp.asarray(PAYOFFS), gamma, 2, tau)
    np.testing.assert_allclose(got, (second[:, 0] - second[:, 1]) / tau, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("player", [0, 1])
def test_the_exact_step_is_the_derivative_through_the_detective_and_of_self_play(player):
    game, rule = make("ipd"), BRSExact(lr=0.7, self_play_lr=0.3, depth=5)
    own = np.array([0.3, -0.4, 1.1, -0.7, 0.2])
    view = View(game, (jnp.asarray(own),) * 2, player, Access.ACTIONS)
    moved, _, _ = rule.update(jax.random.key(0), (), view)

    def gain(theta):
        pair = [rule.detective(jnp.asarray(theta), game, player)] * 2
        pair[player] = theta
        return 0.7 * game.value(pair, player) + 0.3 * game.value([theta, theta], player)

    bumps = 1e-5 * np.eye(5)
    slope = [(gain(own + x) - gain(own - x)) / 2e-5 for x in bumps]
    np.testing.assert_allclose(moved - own, slope, rtol=1e-6)


def answered(theta, horizon, gamma):
    """What the two actions bring in each of the own states, by enumeration: the other at random afterwards."""
    p = jax.nn.sigmoid(theta)
    value = jnp.zeros(5)
    for _ in range(horizon):
        q = [
            [
                p[s] * (PAYOFFS[b, 0] + gamma * value[1 + b]) + (1 - p[s]) * (PAYOFFS[b, 1] + gamma * value[3 + b])
                for b in (0, 1)
            ]
            for s in range(5)
        ]
        q = jnp.array(q)
        value = q.mean(axis=1)
    return q


def test_answers_and_their_derivative_are_those_of_enumeration():
    game, rule = make("ipd"), BRS(rollouts=2, rollout_steps=4)
    theta, asked, count = jnp.array([0.3, -0.4, 1.1, -0.7, 0.2]), 2, 20000
    _, state = game.reset(jax.random.key(0))
    _, state, *_ = game.step(jax.random.key(0), state, jnp.array([0, 1]))  # the own CD
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), state)

    @jax.jit
    def told(theta):
        question = rule.asked(jax.random.key(1), theta, (), states, game, 0)

        def mean(theta, action):
            q = rule.answers(theta, (), question, game, 0)
            return q[:, action].mean(), q

        return [jax.grad(mean, has_aux=True)(theta, b) for b in (0, 1)]

    got = told(theta)
    want = answered(theta, 4, game.gamma)
    for b in 0, 1:
        slope, q = got[b]
        error = q[:, b].std() / count**0.5
        assert abs(q[:, b].mean() - want[asked, b]) < 5 * error
        exact = jax.grad(lambda x, b=b: answered(x, 4, game.gamma)[asked, b])(theta)
        np.testing.assert_allclose(slope, exact, atol=0.03)
        assert np.abs(exact).max() > 0.3


SEATS_ALIKE = {
    "sharing": ((2.0, -1.0, 3.0, 0.5), (2.0, 3.0, -1.0, 0.5)),
    "zero-sum": ((0.0, -1.0, 1.0, 0.0), (0.0, 1.0, -1.0, 0.0)),
}


@pytest.mark.parametrize("name", SEATS_ALIKE)
def test_self_play_ascends_the_sum_of_rewards(name):
    """One step, all of whose pairs of actions are known: what the policy gains by part c alone, by its derivative."""
    payoffs = np.array(SEATS_ALIKE[name]).reshape(2, 2, 2)
    game = make_game(f"matrix(payoffs={SEATS_ALIKE[name]},horizon=1,init_std=0)").value
    rule, count = BRS(batch_size=4, agents=1, rollouts=2, rollout_steps=1), 4000
    x = 0.4
    p = 1 / (1 + np.exp(-x))
    both = np.array([p, 1 - p])
    shared = payoffs.sum(axis=0) / 2
    exact = p * (1 - p) * ((shared[0] - shared[1]) @ both + both @ (shared[:, 0] - shared[:, 1]))

    @jax.jit
    @jax.vmap
    def slope(key):
        view = View(game, (jnp.array([x, 0.0, 0.0, 0.0, 0.0]),) * 2, 0, Access.ACTIONS, learners=(rule, rule))
        return rule.alone(key, view.own, jnp.zeros(5), view)[0]

    got = np.asarray(slope(jax.random.split(jax.random.key(0), count)))
    assert abs(got[:, 0].mean() - exact) < 5 * got[:, 0].std() / count**0.5 + 1e-6
    assert (name == "zero-sum") == (abs(exact) < 1e-12)
    np.testing.assert_array_equal(got[:, 1:], 0.0)


@pytest.mark.parametrize("name", ["brs", "brs-exact"])
@pytest.mark.parametrize(
    ("game", "said"),
    [("public-goods", "is defined for 2 players"), ("bos", "plays against itself, which needs a game")],
)
def test_what_it_cannot_play_is_refused_in_one_line(name, game, said):
    with pytest.raises(ValueError, match=said):
        check_encounter(make_game(game), [make_learner(name)] * make_game(game).value.n_players)
