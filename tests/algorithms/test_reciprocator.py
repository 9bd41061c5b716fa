"""Reciprocator: balances and influence written out, its networks, and that it is PPO without them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, Play, View
from shaping_bench.algorithms.parts.estimators import discounted_returns
from shaping_bench.algorithms.reciprocator import Models, Rates, Reciprocator, balance
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.run.encounter import steps_per_update
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

IPD = make("ipd", horizon=6, gamma=0.9)
SMALL = dict(batch_size=8, epochs=2, model_hidden=6, model_epochs=1, model_batch=16, model_batches=2, hidden=6)


@pytest.mark.parametrize("kind", ["petty-payoff", "petty", "grudge-minus-debit", "previous"])
def test_balances_written_out(float64, kind):
    to_me, by_me, to_itself = np.random.default_rng(0).normal(size=(3, 5, 2))
    got = np.asarray(balance(kind, *(jnp.asarray(x) for x in (to_me, by_me, to_itself)), 0.9))
    owed = np.zeros(2)
    for t in range(5):
        np.testing.assert_allclose(got[t], owed, rtol=1e-12, atol=1e-12)
        if kind == "previous":
            owed = to_me[t]
        else:
            owed = 0.9 * owed + to_me[t]
            owed = owed - (by_me[t] if kind != "petty" else 0.0) - (to_itself[t] if kind[0] == "g" else 0.0)


def view_of(rule, game, key=1, player=0):
    params = tuple(rule.policy(game, i).init(jax.random.key(i)) for i in range(game.n_players))
    return View(game, params, player, rule.access, learners=(rule,) * game.n_players, key=jax.random.key(key))


@pytest.mark.parametrize("game", [IPD, make("public-goods", horizon=4)], ids=["two", "three"])
def test_influence_is_what_was_got_less_what_was_to_be_expected(game):
    rule, n = Reciprocator(**SMALL), game.n_players
    play = view_of(rule, game).play(8)
    rates = np.random.default_rng(1).uniform(size=(n, 1 + 2**n))
    influence = rule.influence(play, Rates(jnp.asarray(rates)))
    actions = np.stack([np.asarray(play.actions(i)) for i in range(n)], axis=-1)
    for by, on in itertools.product(range(n), repeat=2):
        got = np.asarray(influence(by, on))
        seen = np.asarray(play.observations(by, end=False))
        for t, b in [(0, 0), (1, 3), (3, 5)]:
            payoff = []
            for action in (0, 1):
                joint = actions[t, b].copy()
                joint[by] = action
                payoff.append(game.payoffs[on][int("".join(map(str, joint)), 2)])
            p = rates[by, seen[t, b]]
            expected = payoff[actions[t, b, by]] - p * payoff[0] - (1 - p) * payoff[1]
            np.testing.assert_allclose(got[t, b], expected, rtol=1e-5, atol=1e-5)


def test_in_the_dilemma_returning_what_was_done_is_paid_and_its_opposite_costs():
    """Everybody is expected to cooperate half of the time. An action then moves the other's payoff by one to
    either side of what was to be expected, whatever the other does."""
    rule = Reciprocator(**SMALL, balance="previous")
    play = view_of(rule, IPD).play(8)
    returned = np.asarray(rule.returned(play, Rates(jnp.full((2, 5), 0.5))))
    mine, theirs = (np.asarray(play.actions(i)) for i in range(2))
    np.testing.assert_array_equal(returned[0], 0.0)
    np.testing.assert_allclose(returned[1:], np.where(mine[1:] == theirs[:-1], 1.0, -1.0), rtol=1e-6)


def test_rates_are_those_of_the_last_episodes():
    rule = Reciprocator(**SMALL, model_every=2)
    play = view_of(rule, IPD).play(8)
    before = Rates(jnp.full((2, 5), 0.25))
    kept = rule.fitted(jax.random.key(0), before, jnp.int32(1), play)
    np.testing.assert_array_equal(kept.rates, 0.25)
    rates = np.asarray(rule.fitted(jax.random.key(0), before, jnp.int32(2), play).rates)
    for i in range(2):
        seen, done = np.asarray(play.observations(i, end=False)), np.asarray(play.actions(i))
        for state in range(5):
            here = done[seen == state]
            expected = (here == 0).mean() if len(here) else 0.25
            np.testing.assert_allclose(rates[i, state], expected, rtol=1e-6)


def test_without_a_weight_it_is_ppo_of_normalised_returns():
    """A first step of Adam goes by the sign of the policy gradient."""
    rule = Reciprocator(**(SMALL | {"epochs": 1}), weight=0.0, entropy=0.0, lr=0.01)
    theta, state = rule.init(jax.random.key(0), IPD, 0)
    view = View(IPD, (theta, theta), 0, rule.access, learners=(rule, rule), key=jax.random.key(1))
    moved, after, _ = jax.jit(lambda state: rule.update(jax.random.key(2), state, view))(state)
    play = view.play(8)
    returns = discounted_returns(play.rewards(), IPD.gamma)
    targets = (returns - returns.mean()) / returns.std()

    def gain(theta):
        return jnp.mean(targets * play.log_probs(view.policy, theta))

    np.testing.assert_allclose(moved - theta, 0.01 * np.sign(jax.grad(gain)(theta)), rtol=1e-3)
    assert int(after.updates) == 1


# --- networks -----------------------------------------------------------------------------

COINS = make("coin-game", horizon=4)


@functools.cache
def fitted():
    """Networks after three updates on the same play, and the play."""
    rule = Reciprocator(**(SMALL | {"model_epochs": 40, "model_batch": 32}), network="mlp")
    view = view_of(rule, COINS)

    @jax.jit
    def run(key):
        models = rule._models(key, COINS, 0)
        play = view.play(8)
        for update in range(3):
            models = rule.fitted(jax.random.fold_in(key, update), models, jnp.int32(update), play)
        return models, rule._inputs(play), play._trajectory

    models, inputs, trajectory = run(jax.random.key(0))
    return rule, models, inputs, Play(COINS, trajectory, 0)


def test_networks_learn_rewards_and_what_comes_after_them():
    rule, models, inputs, play = fitted()
    assert isinstance(models, Models)
    predicted = np.asarray(rule._predicted(COINS, models.weights, inputs))
    rewards = np.stack([np.asarray(play.rewards(i)) for i in range(2)], axis=-1)
    later = np.asarray(discounted_returns(jnp.asarray(rewards), COINS.gamma)) - rewards
    for k, target in enumerate((rewards, later)):
        # By all actions; better than the best constant.
        assert np.mean((predicted[k, 0] - target) ** 2) < 0.8 * target.var(axis=(0, 1)).mean()
    np.testing.assert_allclose(models.paid[0, ..., 0, :], rewards, rtol=1e-6)
    np.testing.assert_allclose(models.paid[2, ..., 1, :], later, rtol=1e-5, atol=1e-6)


def test_what_is_expected_without_a_players_action_does_not_depend_on_it():
    rule, models, inputs, _ = fitted()
    other = inputs.at[..., :4].set(jnp.roll(inputs[..., :4], 1, axis=-1))  # the first player's choice
    here, there = (np.asarray(rule._predicted(COINS, models.weights, x)) for x in (inputs, other))
    np.testing.assert_array_equal(here[:, 1], there[:, 1])
    assert np.abs(here[:, 0] - there[:, 0]).max() > 1e-4
    assert np.abs(here[:, 2] - there[:, 2]).max() > 1e-4


def test_at_first_only_the_models_learn():
    rule = Reciprocator(**SMALL, model_first=2, network="mlp")
    theta, state = rule.init(jax.random.key(0), COINS, 0)

    @jax.jit
    def step(updates):
        view = View(COINS, (theta, theta), 0, rule.access, learners=(rule, rule), key=jax.random.key(1))
        moved, after, _ = rule.update(jax.random.key(2), state._replace(updates=updates), view)
        return moved, after.models.weights

    for updates, still in ((1, True), (2, False)):
        moved, weights = step(jnp.int32(updates))
        change = max(
            float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(theta), strict=True)
        )
        assert (change == 0.0) == still
        if still:
            learnt = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), weights, state.models.weights)
            assert max(jax.tree.leaves(learnt)) > 0.0


def test_it_is_priced_and_needs_what_it_declares():
    rule = Reciprocator(**SMALL)
    assert rule.access == Access.REWARDS
    assert steps_per_update(IPD, (rule, rule)) == 8 * 6


def test_players_and_refusals():
    game = make_game("public-goods")
    check_encounter(game, [make_learner("reciprocator")] * 3)
    check_encounter(make_game("coin-game"), [make_learner("reciprocator")] * 2)
    with pytest.raises(BadInput, match=r"reciprocator\.weight is -1"):
        make_learner("reciprocator(weight=-1)")
