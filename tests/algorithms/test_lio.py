"""LIO against closed forms and finite differences, among two and three; the ways in which its controls give."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Play, View
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.rollouts import Trajectory, rollout
from shaping_bench.algorithms.incentive_pg import IncentivePG
from shaping_bench.algorithms.lio import LIO
from shaping_bench.algorithms.parts.giving import Gifts, given, objective
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

SMALL = dict(hidden=6, last_hidden=5, offer_hidden=6, last_offer_hidden=4)
EPISODES = 4


class Setting(NamedTuple):
    rule: LIO
    view: View
    play: Play
    imagined: Play


@functools.cache
def room():
    """LIO in every seat, with weights that are all of some size, in episodes of two steps."""
    game = make("escape-room", payments="minted", num_players=3, horizon=2)
    rule = LIO(**SMALL, batch_size=EPISODES, lookahead_lr=0.05)
    policies = [rule.policy(game, i) for i in range(3)]

    @jax.jit
    def played(key):
        params = []
        for i in range(3):
            start, _ = rule.init(jax.random.fold_in(key, i), game, i)
            start = jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size) + x.ndim).reshape(x.shape), start)
            params.append(start | {"exploration": jnp.asarray(0.3)})
        keys = jax.random.split(key)
        return params, jax.vmap(lambda key: rollout(key, game, policies, params, EPISODES))(keys)

    params, trajectories = played(jax.random.key(7))
    view = View(game, params, 0, rule.access, learners=(rule,) * 3)
    play, imagined = (Play(game, jax.tree.map(lambda x, k=k: x[k], trajectories), 0) for k in (0, 1))
    return Setting(rule, view, play, imagined)


def test_the_gain_is_differentiated_through_the_others_step():
    """Central differences of the surrogate, the episodes fixed, along all weights at once."""
    s = room()
    with jax.enable_x64(True):
        rule, view = s.rule, s.view
        params, played, after = jax.tree.map(
            lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            (view.params, s.play.trajectory, s.imagined.trajectory),
        )
        view = View(view.game, params, 0, rule.access, learners=view.learners)
        play, imagined = Play(view.game, played, 0), Play(view.game, after, 0)
        weights = view.own["offers"]
        towards = jax.tree.map(lambda x: jnp.sin(1.0 + jnp.arange(x.size)).reshape(x.shape), weights)

        @jax.jit
        def along(h):
            return rule.gain(jax.tree.map(lambda x, d: x + h * d, weights, towards), play, imagined, view)

        difference = (along(1e-4) - along(-1e-4)) / 2e-4
        slope = jax.jvp(along, (0.0,), (1.0,))[1]
    assert abs(float(slope)) > 1e-4
    assert float(difference) == pytest.approx(float(slope), rel=1e-4)


def test_what_moves_another_among_three_is_paid_by_both():
    """Its rewards are the game's and what each giver's network says of what that giver saw."""
    s = room()
    game, player = s.view.game, 1

    @jax.jit
    def computed():
        chosen = [s.play.actions(j)[0] for j in range(3)]
        rewards, paid = s.play.trajectory.info["earned"][..., player], []
        for giver, column in ((0, 0), (2, 1)):
            policy = s.rule.policy(game, giver)
            first, second = (chosen[j] for j in range(3) if j != giver)
            said = policy.unroll(s.view.params[giver], s.play.observations(giver, end=False))
            row = (first * 3 + second)[..., None]
            rewards += jnp.take_along_axis(said.offer[..., column], row, axis=-1)[..., 0]
            shares = policy.paid(s.view.params[giver]["offers"], s.play, giver)
            paid.append((2.0 * shares[..., column], given(s.play, giver)[..., column]))
        slope = jax.grad(lambda theta: objective(s.view.policies[1], theta, s.play, 1, s.play.rewards(1), 0.01))
        theta = s.view.params[1]
        expected = jax.tree.map(lambda x, y: x + 0.05 * y, theta, slope(theta))
        after = s.rule.next(s.view.own["offers"], s.play, s.view, 1)
        return jnp.where(s.play.alive[:-1], rewards, 0.0), paid, after, expected

    rewards, paid, after, expected = computed()
    assert np.allclose(rewards, s.play.rewards(player), atol=1e-5)
    assert all(np.allclose(said, got, atol=1e-5) for said, got in paid)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        assert np.allclose(x, y, atol=1e-5)


def test_reinforce_by_hand():
    """Two steps of one episode: returns discounted to each step, entropy, exploration mixed in."""
    s = room()
    game, theta, policy = s.view.game, s.view.own, s.view.policy

    @jax.jit
    def computed():
        heads = policy.actor.unroll(theta["actor"], s.play.observations(end=False))
        mixed = 0.7 * jax.nn.softmax(heads["logits"]) + 0.1
        return mixed, objective(policy, theta, s.play, 0, s.play.rewards(), 0.01)

    mixed, got = map(np.asarray, computed())
    actions, rewards, alive = (np.asarray(x) for x in (s.play.actions()[0], s.play.rewards(), s.play.alive))
    expected = 0.0
    for b in range(EPISODES):
        returns = [rewards[0, b] + game.gamma * rewards[1, b], rewards[1, b]]
        for t in range(2):
            p = mixed[t, b]
            if alive[t, b]:
                expected += returns[t] * np.log(p[actions[t, b]]) - 0.01 * np.sum(p * np.log(p))
    assert float(got) == pytest.approx(expected / EPISODES, rel=1e-4)


@pytest.mark.parametrize("change", ["no step", "no payments"])
def test_without_a_way_to_move_others_nothing_is_gained(change):
    s = room()
    rule, view = s.rule, s.view
    if change == "no step":
        rule = LIO(**SMALL, batch_size=EPISODES, lookahead_lr=0.0)
    else:
        game = make("escape-room", num_players=3, horizon=2, payments="none")
        view = View(game, view.params, 0, rule.access, learners=(rule,) * 3)
    slope = jax.jit(jax.grad(lambda weights: rule.gain(weights, s.play, s.imagined, view)))(view.own["offers"])
    assert not any(np.any(x) for x in jax.tree.leaves(slope))


def test_the_dilemma_in_closed_form():
    """One prisoner's dilemma, each joint action once, so that means over episodes are expectations where both play
    either action alike. With logit l of cooperation and payments e_C, e_D the recipient steps by
    alpha sigma'(l) (e_C - e_D - 1) |dl|^2, and the giver is paid 2 for each unit of its probability."""
    game = make_game("ipd(payments=minted,most=3,horizon=1)").value
    rule = LIO(**SMALL, entropy=0.0, exploration=0.0, batch_size=4, lookahead_lr=0.1)
    seen = jnp.zeros((), jnp.int32)
    joint = jnp.array(list(itertools.product((0, 1), repeat=2)))

    @jax.jit
    def computed():
        params = []
        for i in range(2):
            theta, _ = rule.init(jax.random.key(i), game, i)
            theta["actor"]["head_logits"] = jax.tree.map(jnp.zeros_like, theta["actor"]["head_logits"])
            params.append(theta)
        view = View(game, params, 0, rule.access, learners=(rule, rule))
        _, start = game.reset(jax.random.key(0))
        policy = rule.policy(game, 0)
        offers = [policy.unroll(theta, seen).offer for theta in params]

        def step(pair):
            actions = tuple((pair[i], offers[i]) for i in range(2))
            _, after, rewards, _, info = game.step(jax.random.key(0), start, actions)
            return jax.tree.map(lambda x, y: jnp.stack([x, y]), start, after), actions, rewards, info

        states, *rest = jax.vmap(step, out_axes=(1, 0, 0, 0))(joint)
        actions, rewards, info = jax.tree.map(lambda x: x[None], rest)
        play = Play(game, Trajectory(states=states, actions=tuple(actions), rewards=rewards, info=info), 0)

        def amounts(weights):
            return policy.unroll({**params[0], "offers": weights}, seen).offer[:, 0]

        weights = params[0]["offers"]
        after = rule.valued_policy(game, 1).unroll(rule.next(weights, play, view, 1), seen).action.logits
        hidden = jax.nn.one_hot(0, 5)
        for layer in policy.actor.laid(params[1]["actor"]).layers:
            hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
        slope = jax.grad(lambda weights: rule.gain(weights, play, play, view))(weights)
        return amounts(weights), jax.jacrev(amounts)(weights), after, hidden, slope

    amounts, slopes, after, hidden, slope = computed()
    # |dl|^2 of the difference of two logits, whose kernels are zero: features and bias count twice.
    norm = 2.0 * (np.sum(np.square(hidden)) + 1.0)
    logit = 0.1 * 0.25 * (amounts[0] - amounts[1] - 1.0) * norm
    assert float(after[0] - after[1]) == pytest.approx(float(logit), rel=1e-4)
    # E over equal chances of the own reward times the slope of log sigma at the new logit: half of -(1 - p)/2 + 5p/2.
    worth = 0.5 * (3.0 / (1.0 + np.exp(-logit)) - 0.5)
    for got, x in zip(jax.tree.leaves(slope), jax.tree.leaves(slopes), strict=True):
        assert np.allclose(got, worth * 0.1 * 0.25 * norm * (x[0] - x[1]), rtol=1e-3, atol=1e-7)


def test_paying_is_priced_in_shares():
    s = room()
    shares = np.asarray(given(s.play, 0)).sum(axis=-1) / 2.0
    expected = np.mean(np.array([1.0, 0.99]) @ (shares * np.asarray(s.play.alive[:-1])))
    assert float(s.rule.paid(s.view.own["offers"], s.play)) == pytest.approx(expected, rel=1e-4)


def test_gifts_are_a_choice_of_pairs():
    """Every pair of an action and recipients once, by probabilities that sum to one; they are the same whatever the
    others do."""
    said = Gifts(both=Categorical(logits=jnp.linspace(-1.0, 1.0, 12)), shape=(9, 2), amount=2.0)
    words = jnp.asarray(np.linspace(0, 2**32 - 1, 4000), jnp.uint32)
    actions, offers = jax.vmap(lambda word: said.sample(word[None]))(words)
    assert bool((offers == offers[:, :1]).all())
    chances = np.exp(jax.vmap(lambda *pair: said.log_prob(pair))(actions, offers))
    pairs = zip(np.asarray(actions), *np.asarray(offers[:, 0]).T, strict=True)
    found = dict(zip([(int(a), float(x), float(y)) for a, x, y in pairs], chances, strict=True))
    assert set(found) == set(itertools.product(range(3), (0.0, 2.0), (0.0, 2.0)))
    assert sum(found.values()) == pytest.approx(1.0, rel=1e-5)
    assert chances.mean() == pytest.approx(sum(p * p for p in found.values()), rel=0.01)


def test_exploration_falls_and_is_not_valued():
    game = make("escape-room", payments="minted")
    rule = IncentivePG(give="nothing", exploration=0.5, least_exploration=0.1, exploration_step=0.3)
    params, _ = jax.jit(lambda key: rule.init(key, game, 0))(jax.random.key(0))
    seen = jnp.zeros(7)
    for epsilon in (0.5, 0.2, 0.1, 0.1):
        assert float(params["exploration"]) == pytest.approx(epsilon)
        said, valued = (x.unroll(params, seen).action for x in (rule.policy(game, 0), rule.valued_policy(game, 0)))
        mixed = (1 - epsilon) * jax.nn.softmax(valued.logits) + epsilon / 3
        assert jax.nn.softmax(said.logits) == pytest.approx(np.asarray(mixed), rel=1e-5)
        params = rule.explored_less(params)


@pytest.mark.parametrize("scale", [1.0, -1e6])
def test_a_drawn_amount_counts_where_it_was_paid(scale):
    """The density of what was paid is that of a normal number of deviation 1, bent; of other offers nothing counts.
    Where networks say numbers beyond all bounds, too, what is drawn tells them apart from it."""
    game = make("escape-room", payments="minted", horizon=2)
    rule = IncentivePG(give="drawn", batch_size=EPISODES, **SMALL)
    policies = [rule.policy(game, i) for i in range(2)]
    policy = policies[0]

    @jax.jit
    def played(key):
        params = [rule.init(jax.random.fold_in(key, i), game, i)[0] for i in range(2)]
        params[0]["offers"]["last"] *= scale
        return params, rollout(key, game, policies, params, EPISODES)

    params, trajectory = played(jax.random.key(2))
    play = Play(game, trajectory, 0)
    weights = params[0]["offers"]
    paid, mean, density = jax.jit(
        lambda: (given(play, 0), policy.realised(weights, play, 0), policy.log_density(weights, play, 0))
    )()
    paid, mean = np.asarray(paid, np.float64)[..., 0] / 2.0, 6.0 * np.tanh(np.asarray(mean)[..., 0] / 6.0)
    z = np.log(paid) - np.log1p(-paid)
    expected = -0.5 * (z - mean) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(2.0 * paid * (1 - paid))
    assert np.allclose(density, expected, atol=1e-3 if scale == 1.0 else 0.05)


def test_boards_are_seen_by_convolutions():
    game = make_game("coin-game(payments=minted,horizon=3)").value
    rule = LIO(**SMALL, batch_size=2)

    def updated(key):
        before, states = zip(*(rule.init(key, game, i) for i in range(2)), strict=True)
        view = View(game, before, 0, rule.access, learners=(rule, rule), key=key)
        return before[0], rule.update(key, states[0], view)[0]

    before, after = jax.eval_shape(updated, jax.random.key(1))
    assert before == after


def test_who_cannot_pay_is_told_so():
    for learner in ("lio", "pg-incentive"):
        with pytest.raises(BadInput, match="pays others, for which this game has no way"):
            check_encounter(make_game("ipd"), [make_learner(learner)] * 2)
