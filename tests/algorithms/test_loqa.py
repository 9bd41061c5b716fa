"""LOQA's closed form against the construction it comes from, and its limits."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from shaping_bench.algorithms.core import Access, AccessError, Play, View, rollouts
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.loqa import LOQA, Agent, PairedLOQA, credit, opponent_model
from shaping_bench.algorithms.parts import past_selves
from shaping_bench.algorithms.parts.action_values import values
from shaping_bench.algorithms.parts.estimators import discounted_returns, magic_box
from shaping_bench.errors import BadInput
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

IPD = make_game("ipd(horizon=6)").value
SMALL = dict(batch_size=8, buffer_size=4, opponents_per_batch=2, hidden=6)


class Setting(NamedTuple):
    game: object
    own: Agent
    other: Agent  # leaves with a leading axis of `draws`
    draws: int
    play: rollouts.Trajectory


@functools.cache
def setting(name):
    """Random agents and their play, against one opponent or two."""
    game, draws, rule = IPD, {"one opponent": 0, "two opponents": 2}[name], LOQA(**SMALL)
    keys = jax.random.split(jax.random.key(1), 4)

    def agent(key):
        theta, state = rule.init(key, game, 0)
        leaves, tree = jax.tree.flatten(Agent(theta, state.q))
        noise = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        return jax.tree.unflatten(
            tree, [x + 0.5 * jax.random.normal(k, x.shape) for x, k in zip(leaves, noise, strict=True)]
        )

    own, others = agent(keys[0]), [agent(k) for k in keys[1:3]]
    other = jax.tree.map(lambda *x: jnp.stack(x), *others) if draws else others[0]
    policies = [rule.policy(game, i) for i in range(2)]
    params = own.policy, other.policy
    play = jax.jit(lambda key: rollouts.rollout(key, game, policies, params, 8, groups=(0, draws)))(keys[3])
    return Setting(game, own, other, draws, play)


def lesson_of(rule, s, target=None):
    policy = rule.policy(s.game, 1)
    return rule.lesson(look(rule, s), policy, s.other, s.draws, s.own if target is None else target)


def look(rule, s):
    return rule.shifted(Play(s.game, s.play, 0))


def heads(rule, s, agent, player):
    seen = rollouts.observations(s.game, s.play, player)
    logits = rule.policy(s.game, player).unroll(agent.policy, seen).logits
    return logits, rule.action_values(s.game, player).unroll(agent.q, seen)


def opponent_heads(rule, s):
    """Episode by episode, each with the parameters of its own opponent."""
    if not s.draws:
        return heads(rule, s, s.other, 1)
    share = s.play.actions.shape[1] // s.draws
    parts = []
    for g in range(s.draws):
        one = s._replace(play=jax.tree.map(lambda x, g=g: x[:, g * share : (g + 1) * share], s.play))
        parts.append(heads(rule, one, jax.tree.map(lambda x, g=g: x[g], s.other), 1))
    return tuple(jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True))


def published_objective(rule, s, own):
    """The code's actor objective: the opponent's return made differentiable by Loaded DiCE."""
    gamma, actions, rewards = s.game.gamma, s.play.actions, s.play.rewards + rule.reward_shift
    logits, q = heads(rule, s, own, 0)
    v = jnp.sum(jax.nn.softmax(logits) * q, axis=-1)
    advantages = rewards[..., 0] + gamma * v[1:] - v[:-1]
    if rule.preset == "paper":
        advantages = lax.stop_gradient(advantages)
    log_probs = Categorical(logits=logits[:-1]).log_prob(actions[..., 0])
    other_logits, other_q = lax.stop_gradient(opponent_heads(rule, s))
    other_v = jnp.sum(jax.nn.softmax(other_logits) * other_q, axis=-1)
    r2 = rewards[..., 1]
    returns = discounted_returns(r2, gamma)
    so_far = jnp.cumsum(log_probs, axis=0)
    d = magic_box(so_far) - magic_box(so_far - log_probs)
    z, differentiable = jnp.zeros_like(r2[0]), []
    for k in reversed(range(len(r2))):
        z = (returns[k] - other_v[k]) * d[k] + gamma * rule.shaping_discount * z
        differentiable.insert(0, returns[k] + z)
    estimate = jnp.stack([*(r2[t] + gamma * differentiable[t + 1] for t in range(len(r2) - 1)), r2[-1]])
    chosen = jax.nn.one_hot(actions[..., 1], other_q.shape[-1])
    modelled = chosen * estimate[..., None] + (1 - chosen) * other_q[:-1]
    log_modelled = jnp.sum(chosen * jax.nn.log_softmax(modelled / rule.temperature), axis=-1)
    entropy = jnp.mean(Categorical(logits=logits[:-1]).entropy())
    return (
        jnp.mean(log_probs * advantages) + rule.shaping * jnp.mean(log_modelled * advantages) + rule.entropy * entropy
    )


def close(a, b, rtol=1e-5):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@functools.cache
def gradients(name):
    s = setting(name)

    def ours(rule, own):
        return jax.grad(lambda x: rule.objective(look(rule, s), lesson_of(rule, s), x)[0])(own)

    def theirs(rule, own):
        return jax.grad(lambda x: published_objective(rule, s, x))(own)

    return jax.jit(ours), jax.jit(theirs)


POINTS = [
    dict(shaping=1.0, shaping_discount=0.9, temperature=1.0, entropy=0.0),
    dict(shaping=0.3, shaping_discount=0.0, temperature=5.0, entropy=0.1),
    dict(shaping=3.0, shaping_discount=1.0, temperature=0.7, entropy=0.0, reward_shift=1.5),
]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", ["one opponent", "two opponents"])
def test_the_closed_form_is_the_published_gradient(name, point):
    rule, s = LOQA(**SMALL, **point), setting(name)
    ours, theirs = (f(rule, s.own) for f in gradients(name))
    close(ours.policy, theirs.policy)


@pytest.mark.parametrize("point", POINTS[:2])
def test_the_leak_is_what_the_code_adds_by_not_stopping_the_advantage(point):
    paper, official = LOQA(**SMALL, **point), LOQA(**SMALL, **point, preset="official")
    s = setting("one opponent")
    got, published = (f(official, s.own) for f in gradients("one opponent"))
    close(got, published)  # policy and action values
    stopped = gradients("one opponent")[0](paper, s.own)
    assert np.abs(np.asarray(got.policy - stopped.policy)).max() > 1e-3
    assert max(np.abs(x).max() for x in jax.tree.leaves(got.q)) > 1e-3


def test_without_shaping_it_is_a_one_step_actor_critic():
    rule, s = LOQA(**SMALL, shaping=0.0, entropy=0.0), setting("two opponents")

    def actor_critic(theta):
        logits, q = heads(rule, s, Agent(theta, s.own.q), 0)
        v = values(logits, q)
        advantages = lax.stop_gradient(s.play.rewards[..., 0] + s.game.gamma * v[1:] - v[:-1])
        return jnp.mean(advantages * Categorical(logits=logits[:-1]).log_prob(s.play.actions[..., 0]))

    close(gradients("two opponents")[0](rule, s.own).policy, jax.jit(jax.grad(actor_critic))(s.own.policy))


def test_the_critic_moves_by_its_own_error_only():
    """With the paper's preset; the error is that of SARSA, written out."""
    rule, s = LOQA(**SMALL), setting("one opponent")
    target = jax.tree.map(lambda x: 0.7 * x, s.own)
    gamma = s.game.gamma

    @jax.jit
    def parts(own):
        lesson = lesson_of(rule, s, target)
        logits, _ = heads(rule, s, own, 0)

        def error(q):
            return rule.critic_error(look(rule, s), 0, q, lesson.averaged, logits[-1])

        whole = jax.grad(lambda own: rule.objective(look(rule, s), lesson, own)[0])(own)
        return heads(rule, s, own, 0), heads(rule, s, target, 0)[1], error(own.q), jax.grad(error)(own.q), whole.q

    (logits, q), averaged, got, slope, whole = jax.tree.map(np.asarray, parts(s.own))
    close(whole, jax.tree.map(np.negative, slope))
    actions, rewards = (np.asarray(x[..., 0]) for x in (s.play.actions, s.play.rewards))
    length, batch = actions.shape
    total = 0.0
    for t, b in itertools.product(range(length), range(batch)):
        if t + 1 < length:
            after = averaged[t + 1, b, actions[t + 1, b]]
        else:
            weights = np.exp(logits[-1, b])
            after = weights @ averaged[-1, b] / weights.sum()
        x = abs(q[t, b, actions[t, b]] - rewards[t, b] - gamma * after)
        total += 0.5 * x**2 if x <= 1 else x - 0.5
    np.testing.assert_allclose(got, total / length / batch, rtol=1e-5)


def test_credit_in_the_limits():
    rng = np.random.default_rng(0)
    credited = jax.jit(credit)
    advantages, p = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.uniform(size=(5, 3)))
    np.testing.assert_array_equal(credited(advantages[:1], 1 - p[:1], 0.9), 0.0)  # one step: nothing to answer
    last = credited(advantages, 1 - p, 0.0)
    np.testing.assert_allclose(last[1:], ((1 - p) * advantages)[:-1], rtol=1e-6)
    np.testing.assert_array_equal(credited(advantages, 0.0 * p, 0.9), 0.0)  # a saturated opponent
    alignment = credited(advantages, jnp.ones_like(p), 0.8)
    expected = [sum(0.8 ** (k - 1 - j) * advantages[j] for j in range(k)) for k in range(1, 5)]
    np.testing.assert_allclose(alignment[1:], np.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_hot_opponent_answers_in_inverse_proportion_to_its_temperature():
    s, ours = setting("one opponent"), gradients("one opponent")[0]
    points = {"shaping": 0.0, "temperature": 1e4}, {"temperature": 1e4}, {"temperature": 2e4}
    base, once, half = (ours(LOQA(**SMALL, entropy=0.0, **x), s.own).policy for x in points)
    # Both shaping terms are small against the rest, which float32 shows.
    np.testing.assert_allclose(once - base, 2.0 * (half - base), rtol=0.05, atol=1e-7)


def test_the_modelled_opponent_is_a_softmax_with_the_return_for_the_action_taken():
    q = jnp.array([[[1.0, 2.0, -1.0]]])
    got = opponent_model(q, jnp.array([[0.5]]), jnp.array([[1]]), 2.0)
    np.testing.assert_allclose(jnp.exp(got), np.exp(0.25) / (np.exp(0.5) + np.exp(0.25) + np.exp(-0.5)), rtol=1e-6)


def test_expected_shaping_is_the_derivative_of_the_modelled_opponents_log_probability(float64):
    """Two steps of a 2x2 game, all 16 courses of it: with exact values, the closed form is the
    derivative of sum_t E[A1_t log pihat2_t] through the value of the action taken."""
    gamma, tau = 0.9, 1.3
    mine = np.array([[-1.0, -3.0], [0.0, -2.0]])
    r1, r2 = mine, mine.T
    theta, theta2 = np.array([0.3, -0.4, 0.8, 0.1, -0.9]), np.array([-0.2, 0.5, -0.7, 0.9, 0.2])

    def p1(x, state):  # own action first
        c = 1 / (1 + np.exp(-x[state]))
        return np.array([c, 1 - c])

    def p2(state):
        swapped = [0, 1, 3, 2, 4][state]
        c = 1 / (1 + np.exp(-theta2[swapped]))
        return np.array([c, 1 - c])

    def value(x, state, r):  # of one step
        return p1(x, state) @ r @ p2(state)

    def joint(x, a, b, r):  # of the first joint action
        return r[a, b] + gamma * value(x, 1 + 2 * a + b, r)

    def first(b):  # Q2(start, b)
        return sum(p1(theta, 0)[a] * joint(theta, a, b, r2) for a in range(2))

    start1 = p1(theta, 0) @ np.array([[joint(theta, a, b, r1) for b in range(2)] for a in range(2)]) @ p2(0)

    def target(x):
        total = 0.0
        for a, b in itertools.product(range(2), repeat=2):
            answer = np.exp(joint(x, a, b, r2) / tau)
            log_modelled = np.log(answer / (answer + np.exp(first(1 - b) / tau)))
            total += p1(theta, 0)[a] * p2(0)[b] * (joint(theta, a, b, r1) - start1) * log_modelled
        return total

    h = 1e-6
    expected = [(target(theta + h * e) - target(theta - h * e)) / (2 * h) for e in np.eye(5)]

    @jax.jit
    def answers(q, worth, actions, advantages):
        return credit(advantages, 1.0 - jnp.exp(opponent_model(q, worth, actions, tau)), gamma)

    got = np.zeros(5)
    for a, b, a1, b1 in itertools.product(range(2), repeat=4):
        state = 1 + 2 * a + b
        probability = p1(theta, 0)[a] * p2(0)[b] * p1(theta, state)[a1] * p2(state)[b1]
        advantages = np.array([joint(theta, a, b, r1) - start1, r1[a1, b1] - value(theta, state, r1)])
        q = np.array([[first(0), first(1)], [0.0, 0.0]])
        worth = np.array([joint(theta, a, b, r2), 0.0])
        e = np.asarray(answers(q[:, None], worth[:, None], np.array([[b], [b1]]), advantages[:, None]))[:, 0]
        score = (a1 == 0) - p1(theta, state)[0]
        got[state] += probability * gamma / tau * (r2[a1, b1] - value(theta, state, r2)) * e[1] * score
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    assert np.abs(got).max() > 1e-3


def test_action_values_of_a_memory_one_game_are_looked_up():
    rule, s = LOQA(**SMALL), setting("one opponent")
    action_values = rule.action_values(s.game, 0)
    seen = rollouts.observations(s.game, s.play, 0)
    direct = action_values.net.unroll(s.own.q, seen)["q"]
    np.testing.assert_allclose(action_values.unroll(s.own.q, seen), direct, rtol=1e-5, atol=1e-5)
    assert np.ptp(direct[:, 0, 0]) > 0  # the time counts


def test_the_buffer_is_a_ring_of_what_was_pushed():
    rule = LOQA(batch_size=6, buffer_size=3, buffer_every=2, opponents_per_batch=0)
    theta, state = rule.init(jax.random.key(0), IPD, 0)
    held_after = {0: {1}, 1: {1}, 2: {1, 3}, 4: {1, 3, 5}, 5: {1, 3, 5}, 6: {7, 3, 5}, 8: {7, 9, 5}}

    @jax.jit
    def step(state, number):
        agent = jax.tree.map(lambda x: jnp.full(x.shape, number), Agent(theta, state.q))
        past = past_selves.kept(state.past, agent, state.updates, rule.buffer_every)
        draws = jax.vmap(lambda k: past_selves.draw(jax.random.key(k), past, state.updates, rule.buffer_every, 6))
        return past, draws(jnp.arange(20))

    for update in range(9):
        # The agent of update n is known by its number n + 1.
        past, drawn = step(state, update + 1.0)
        state = state._replace(past=past)
        numbers = np.asarray(drawn.policy)[..., 0]
        assert numbers.shape == (20, 6)
        for leaf in jax.tree.leaves(drawn.q):
            np.testing.assert_array_equal(leaf.reshape(20, 6, -1)[..., 0], numbers)
        if update in held_after:
            assert set(numbers.astype(int).ravel().tolist()) == held_after[update]
        state = state._replace(updates=state.updates + 1)


def view_of(rules, game, params, player=0, states=()):
    return View(game, params, player, rules[player].access, learners=rules, key=jax.random.key(3), states=states)


@jax.jit
def updated(rule, state, theta, other):
    """One update in the IPD, with hyperparameters as data."""
    return rule.update(jax.random.key(1), state, view_of((rule, rule), IPD, (theta, other)))


def test_self_play_looks_at_nobody_else():
    rule = LOQA(**SMALL)
    theta, state = rule.init(jax.random.key(0), IPD, 0)
    results = [updated(rule, state, theta, other) for other in (jnp.zeros(5), jnp.full((5,), jnp.nan))]
    close(results[0], results[1], rtol=0.0)
    assert rule.access == Access.ACTIONS
    assert not np.array_equal(results[0][0], theta)


def test_paired_play_needs_what_it_declares():
    rule = PairedLOQA(**SMALL)
    theta, state = rule.init(jax.random.key(0), IPD, 0)
    view = View(
        IPD,
        (theta, theta),
        0,
        Access.GRADIENTS,
        learners=(rule, rule),
        key=jax.random.key(3),
        states=(state, state),
    )
    with pytest.raises(AccessError, match="simulator"):
        rule.update(jax.random.key(1), state, view)


def test_paired_play_uses_the_critic_of_its_kind_and_learns_the_others():
    game = make_game("ipd(horizon=6)").value
    rule, naive = PairedLOQA(**SMALL), make_learner("naive-pg(batch_size=8)").value
    theta, state = rule.init(jax.random.key(0), game, 0)
    other_theta, other_state = rule.init(jax.random.key(1), game, 1)
    agent, _, _ = rule.opponent(state, view_of((rule, rule), game, (theta, other_theta), states=(state, other_state)))
    assert agent.q is other_state.q
    agent, _, behaviour = rule.opponent(state, view_of((rule, naive), game, (theta, other_theta), states=(state, ())))
    assert agent.q is state.rival.q
    assert behaviour == naive.policy(game, 1)


def test_paired_play_learns_from_scripts_too():
    game, rule, script = make_game("coin-game(horizon=3)").value, PairedLOQA(**SMALL), make_learner("all-d").value
    theta, state = rule.init(jax.random.key(0), game, 0)
    _, nothing = script.init(jax.random.key(1), game, 1)

    @jax.jit
    def step(theta, state):
        view = view_of((rule, script), game, (theta, ()), states=(state, nothing))
        return rule.update(jax.random.key(1), state, view)

    moved, after, info = step(theta, state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((moved, after, info)))
    change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.rival.q, state.rival.q)
    assert max(jax.tree.leaves(change)) > 1e-3


def test_paired_critic_of_the_opponent_descends_its_error():
    """The rival's action values come to predict the returns of a stream of certain rewards."""
    game = make_game("ipd(horizon=6,gamma=0.5)").value
    rule, fixed = PairedLOQA(**(SMALL | {"buffer_size": 0}), lr=0.0, target_decay=0.0), make_learner("all-d").value
    theta, state = jnp.full((5,), -20.0), rule.init(jax.random.key(0), game, 0)[1]
    other = jnp.full((5,), -20.0)

    @jax.jit
    def step(k, state):
        view = view_of((rule, fixed), game, (theta, other), states=(state, ()))
        return rule.update(jax.random.key(k), state, view)[1]

    state = lax.fori_loop(0, 600, step, state)
    seen = jnp.array([0, 4, 4, 4, 4, 4, 4])[:, None]
    q = rule.action_values(game, 1).unroll(state.rival.q, seen)[:, 0, 1]
    # Mutual defection pays -2; what follows the last step is what the net makes of it.
    np.testing.assert_allclose(q[:-1], -2.0 + game.gamma * q[1:], atol=0.15)


def test_a_reward_shift_is_not_reported():
    theta, state = LOQA(**SMALL).init(jax.random.key(0), IPD, 0)
    plain, shifted = (updated(LOQA(**SMALL, reward_shift=x), state, theta, theta)[2] for x in (0.0, 1.5))
    np.testing.assert_allclose(plain["training_return"], shifted["training_return"], rtol=1e-5)
    assert abs(float(plain["critic_loss"] - shifted["critic_loss"])) > 0.1


def test_gradients_are_cut_to_a_length():
    """Before Adam, which would not show it in its first step but in its mean of gradients; 0: they are not."""
    tree = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}

    @jax.jit
    def arrived(longest):
        rule = LOQA(max_grad_norm=longest)._actor_optimiser()
        memory = optax.tree.get(rule.update(tree, rule.init(tree))[1], "mu")
        return jax.tree.map(lambda x: x / -0.1, memory)  # of ascent; Adam's decay is 0.9

    close(arrived(1.0), {"a": jnp.array([0.6, 0.0]), "b": jnp.array(0.8)})
    close(arrived(6.0), tree)
    close(arrived(0.0), tree)


def test_the_official_preset_moves_the_critic_with_the_policy():
    """Its step of Adam is of the policy's size on every action-value parameter that has a gradient."""
    theta, state = LOQA(**SMALL).init(jax.random.key(0), IPD, 0)

    def moved(preset):
        rule = LOQA(**SMALL, preset=preset, critic_lr=0.0, lr=0.01)
        after = updated(rule, state, theta, theta)[1]
        return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.q, state.q)))

    assert moved("paper") == 0.0
    np.testing.assert_allclose(moved("official"), 0.01, rtol=1e-3)


def test_past_selves_of_networks_are_met_in_groups():
    game, rule = make_game("coin-game(horizon=3)").value, LOQA(**SMALL)
    theta, state = rule.init(jax.random.key(0), game, 0)
    update = jax.jit(lambda key: rule.update(key, state, view_of((rule, rule), game, (theta, theta))))
    moved, after, info = update(jax.random.key(1))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((moved, after, info)))
    # Adam's first step: of its size wherever there is a gradient.
    step = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), moved, theta)
    np.testing.assert_allclose(jax.tree.leaves(step), float(rule.lr), rtol=0.01)
    close(jax.tree.map(lambda x: x[0], after.past), Agent(theta, state.q), rtol=0.0)
    assert not any(x[1:].any() for x in jax.tree.leaves(after.past))


def test_published_settings_and_what_is_refused():
    ipd, coin = make_learner("loqa", game="ipd").value, make_learner("loqa", game="coin-game").value
    assert (ipd.batch_size, ipd.exploration, ipd.entropy, ipd.max_grad_norm, ipd.buffer_size) == (
        2048,
        0.2,
        0.0,
        0.0,
        0,
    )
    assert (coin.batch_size, coin.exploration, coin.entropy, coin.max_grad_norm) == (512, 0.0, 0.1, 1.0)
    for rule in (ipd, coin):
        assert (rule.critic_lr, rule.shaping, rule.temperature, rule.target_decay) == (0.01, 1.0, 1.0, 0.99)
        assert rule.shaping_discount == 0.9
    for game, learner, complaint in (
        ("imp", "loqa", "seats are alike"),
        ("coin-game(preset=lola)", "loqa", "seats are alike"),
        ("public-goods", "loqa", "2 players"),
        ("coin-game", "loqa(batch_size=100)", "divisors"),
    ):
        named = make_game(game)
        with pytest.raises(BadInput, match=complaint):
            check_encounter(named, [make_learner(learner, game=named.name)] * named.value.n_players)
    check_encounter(make_game("imp"), [make_learner("loqa-paired", game="imp")] * 2)


def test_a_lesson_keeps_sides_apart():
    """Seats are symmetric: the second player's lesson is the first one's with the seats exchanged."""
    s, rule = setting("one opponent"), LOQA(**SMALL)
    swapped = s.play._replace(actions=s.play.actions[..., ::-1], rewards=s.play.rewards[..., ::-1])
    joint = jnp.where(s.play.states.joint_action < 0, -1, jnp.array([0, 2, 1, 3])[s.play.states.joint_action])
    swapped = swapped._replace(states=s.play.states._replace(joint_action=joint))

    def lesson(me, play):
        side = Play(IPD, play, me)
        return jax.jit(lambda: rule.lesson(side, rule.policy(IPD, 1 - me), s.other, 0, s.own))()

    close(lesson(0, s.play), lesson(1, swapped), rtol=1e-6)
