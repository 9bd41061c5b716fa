"""Learning in context: its gradient against enumeration, whom agents are shown, what a pool is made of."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import costs
from shaping_bench.algorithms.fixed import Random
from shaping_bench.algorithms.in_context import Episodes, InContext, InContextPPI, added
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.populations import MemoryOne
from shaping_bench.games import make

GAME = make("matrix", payoffs=((1, -1, 2, 0), (1, 2, -1, 0)), horizon=2)
PAYOFF = {(0, 0): 1.0, (0, 1): -1.0, (1, 0): 2.0, (1, 1): 0.0}
OTHER = np.array([0.7, 0.8, 0.3, 0.6, 0.1])  # its own action first
PURE = MemoryOne(kind="pure", split="train")


def every_episode():
    """All episodes of two steps against a table: what was seen, done and earned, and how likely the table's part is."""
    joint = list(itertools.product((0, 1), repeat=4))
    seen, actions, rewards, chances = [], [], [], []
    for own1, other1, own2, other2 in joint:
        first, then = OTHER[0], OTHER[1 + 2 * other1 + own1]
        chances.append((first if other1 == 0 else 1 - first) * (then if other2 == 0 else 1 - then))
        seen.append((0, 1 + 2 * own1 + other1, 1 + 2 * own2 + other2))
        actions.append((own1, own2))
        rewards.append((PAYOFF[own1, other1], PAYOFF[own2, other2]))
    return np.array(seen).T, np.array(actions).T, np.array(rewards).T, np.array(chances)


@pytest.mark.usefixtures("float64")
def test_the_gradient_is_that_of_the_return_by_enumeration():
    rule = InContext(normalise=False, entropy=0.0, value_coefficient=0.0, meta_gamma=1.0, reward_scale=1.0, hidden=3)
    seen, actions, rewards, chances = every_episode()
    policy, names = rule.policy(GAME, 0), np.zeros((1, 0))

    @jax.jit
    def derived(key):
        """The estimate from every episode, how likely each is, and the derivative of the value."""
        weights = jax.tree.map(lambda x: x.astype(float), policy.init(key))
        # A critic that knows nothing: actions are then credited with what they were followed by.
        weights["head_value"] = jax.tree.map(jnp.zeros_like, weights["head_value"])

        def likely(weights):
            return chances * jnp.exp(jnp.sum(policy.unroll(weights, seen[:-1]).log_prob(actions), axis=0))

        def estimate(seen, actions, rewards):
            met = Episodes(names, seen[:, None], actions[:, None], rewards[:, None])
            return jax.grad(rule.objective)(weights, met, GAME, 0)

        per_step = jax.grad(lambda w: jnp.sum(likely(w) * rewards.sum(axis=0)) / 2)(weights)
        return jax.vmap(estimate, in_axes=1)(seen, actions, rewards), likely(weights), per_step

    estimates, weight, wanted = derived(jax.random.key(0))
    np.testing.assert_allclose(weight.sum(), 1.0, atol=1e-12)
    for got, want in zip(jax.tree.leaves(estimates), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.tensordot(weight, got, axes=1), want, atol=1e-12)


def test_agents_are_shown_the_tables_they_meet_and_nothing_of_learners():
    rule = InContext(against=PURE, identity=True, batch_size=12, hidden=3)
    game = make("matrix", payoffs=((1, -1, 2, 0), (1, 2, -1, 0)), horizon=5)

    @jax.jit
    def meetings(key):
        weights = rule.prepare_init(key, game, 0).weights
        return rule._among_agents(key, key, weights, game), rule._against_tables(key, 6, game, 0, weights[0])

    together, (met,) = meetings(jax.random.key(0))
    for (agents,) in together:
        np.testing.assert_array_equal(agents.names, np.zeros((6, 5)))
    assert set(np.unique(met.names.round(6))) == {0.0, 1.0}
    assert len(np.unique(met.names, axis=0)) > 1  # drawn for every episode
    # A pure table does what it says: from what it saw, the own action second, to what the next observation shows.
    seen = np.asarray(met.observations)
    swapped = np.array([0, 1, 3, 2, 4])[seen[:-1]]
    does = np.where(np.take_along_axis(np.asarray(met.names), swapped.T, axis=1).T > 0.5, 0, 1)
    np.testing.assert_array_equal((seen[1:] - 1) % 2, does)
    np.testing.assert_array_equal((seen[1:] - 1) // 2, met.actions)


def test_what_is_shown_matters_and_an_encounter_shows_nothing():
    rule = InContext(identity=True, hidden=3)
    policy, seen = rule.policy(GAME, 0), jnp.array([[0], [3]])

    @jax.jit
    def said(key):
        weights = policy.init(key)
        carry, first = policy.step(weights, policy.start(), seen[0, 0], ())
        _, second = policy.step(weights, carry, seen[1, 0], ())
        told = policy.heads(weights, seen, jnp.full((1, 5), 0.5))["logits"][:, 0]
        return jnp.stack([first.logits, second.logits]), policy.unroll(weights, seen).logits[:, 0], told

    acted, unrolled, told = said(jax.random.key(0))
    np.testing.assert_allclose(acted, unrolled, atol=1e-6)
    assert np.abs(told - unrolled).max() > 1e-3


def test_an_iteration_costs_what_everybody_plays():
    for tables, names in ((0.25, {"return_among_agents", "return_from_tables"}), (0.0, {"return_among_agents"})):
        rule = InContext(batch_size=8, tables=tables, hidden=3)
        with costs.counting() as spent:
            carry = jax.eval_shape(lambda key, rule=rule: rule.prepare_init(key, GAME, 0), jax.random.key(0))
            _, info = jax.eval_shape(
                lambda c, key, rule=rule: rule.prepare_step(key, 0, c, GAME, 0), carry, jax.random.key(0)
            )
        apart = round(8 * tables)
        assert spent.steps == (8 - apart + 2 * apart) * GAME.num_steps
        assert set(info) == names


@pytest.mark.parametrize(
    ("rule", "game", "said"),
    [
        (InContext(against=Naive()), GAME, "against=Naive, which learns; allowed: policies that do not"),
        (InContext(), make("coin-game"), "meets memory-one tables, which this game does not have"),
        (InContext(batch_size=2, tables=0.0), GAME, None),
    ],
)
def test_whom_a_pool_may_consist_of(rule, game, said):
    if said is None:
        rule.check_game(game, 0)
    else:
        with pytest.raises(ValueError, match=said):
            rule.check_game(game, 0)


# --- by prediction ------------------------------------------------------------------------


def test_better_actions_become_likelier_by_what_the_model_foresees():
    """A model without chance: after cooperation CC is seen, after defection CD, and from then on it cooperates."""
    policy = InContextPPI(beta=0.5, depth=4, hidden=2).policy(GAME, 0)
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    weights = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    sees = np.zeros((2, 5))
    sees[0, 1] = sees[1, 2] = 99.0
    weights["head_observation"]["bias"] = jnp.asarray(sees.ravel(), jnp.float32)
    weights["head_reward"]["bias"] = jnp.array([9.0, 1.0, -1.0, 7.0, 7.0])
    weights["head_logits"]["bias"] = jnp.array([99.0, 0.0])
    said = jax.jit(policy.unroll)(weights, jnp.zeros((1, 1), jnp.int32))
    worth = np.array([1.0 + 3 * 1.0, -1.0 + 3 * 1.0])
    np.testing.assert_allclose(said.logits[0, 0], [99.0, 0.0] + 0.5 * worth, rtol=1e-5)


def test_a_model_learns_what_is_so_and_its_policy_improves_on_it():
    """Everybody plays at random: defecting now is worth 1 more, and what is seen next is a toss-up."""
    rule = InContextPPI(
        against=Random(), minibatch=32, epochs=100, hidden=4, depth=1, imagined=512, beta=2.0, model_lr=0.03
    )

    @jax.jit
    def modelled(key):
        policy, seen = rule.policy(GAME, 0), jnp.zeros((1, 1), jnp.int32)
        (episodes,) = rule._against_tables(key, 64, GAME, 0)
        weights = rule.fitted(key, episodes, 64, GAME, 0)
        heads = policy.heads(weights, seen, jnp.zeros((1, 0)))
        foreseen = [jax.nn.softmax(policy.foreseen(heads, jnp.full((1, 1), a)).logits)[0, 0] for a in (0, 1)]
        played = policy.unroll(weights, seen).logits[0, 0]
        return heads["logits"][0, 0], jnp.stack(foreseen), heads["reward"][0, 0], played

    said, foreseen, rewards, played = jax.device_get(modelled(jax.random.key(0)))
    np.testing.assert_allclose(foreseen, [[0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5]], atol=0.2)
    np.testing.assert_allclose(rewards[1:], [1, -1, 2, 0], atol=0.2)
    np.testing.assert_allclose(said[0], said[1], atol=0.5)
    # By as much as the model says, but for the chance of 512 imagined steps.
    worth = foreseen @ rewards
    np.testing.assert_allclose((played - said)[1] - (played - said)[0], 2.0 * (worth[1] - worth[0]), atol=0.5)


def test_new_episodes_are_written_where_there_is_room():
    old, new = (
        Episodes(*(np.full(shape, x) for shape in ((n, 5), (3, n), (2, n), (2, n)))) for n, x in ((5, 0), (2, 1))
    )
    old, new = old._replace(names=np.zeros((5, 0))), new._replace(names=np.zeros((2, 0)))
    for x in added(old, new, 2)[1:]:
        np.testing.assert_array_equal(x, np.broadcast_to([0, 0, 1, 1, 0], x.shape))
