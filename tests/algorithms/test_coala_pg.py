"""COALA-PG: credits against exact enumeration and the paper's equations, and what its policy remembers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.coala_pg import COALAPG, credit
from shaping_bench.games import make

PAYOFF = {(0, 0): (1, 1), (0, 1): (-1, 2), (1, 0): (2, -1), (1, 1): (0, 0)}
EGO, OTHER, ETA = np.array([0.4, -0.3, 0.7]), 0.2, 1.3
TRUE = (-0.23851829, -0.13441149, -0.09980760)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def enumerated(ego):
    """Every batch of two games of two one-step episodes: probability, scores ``(2, 2, 3)`` and rewards ``(2, 2)``,
    both by step and game. The other's logit moves by its own policy gradient in between."""
    p = sigmoid(ego)
    for first in itertools.product((0, 1), repeat=4):
        (a, b), q = (first[:2], first[2:]), sigmoid(OTHER)
        weight = np.prod([p[0] if x == 0 else 1 - p[0] for x in a]) * np.prod([q if x == 0 else 1 - q for x in b])
        earned = [PAYOFF[pair] for pair in zip(a, b, strict=True)]
        moved = OTHER + ETA * np.mean([r[1] * ((x == 0) - q) for r, x in zip(earned, b, strict=True)])
        states = [1 if x == 0 else 2 for x in b]
        for second in itertools.product((0, 1), repeat=4):
            (c, d), then = (second[:2], second[2:]), sigmoid(moved)
            chance = weight * np.prod([p[s] if x == 0 else 1 - p[s] for x, s in zip(c, states, strict=True)])
            chance *= np.prod([then if x == 0 else 1 - then for x in d])
            scores = np.zeros((2, 2, 3))
            for k in range(2):
                scores[0, k, 0] = (a[k] == 0) - p[0]
                scores[1, k, states[k]] = (c[k] == 0) - p[states[k]]
            rewards = np.array([[r[0] for r in earned], [PAYOFF[pair][0] for pair in zip(c, d, strict=True)]], float)
            yield chance, scores, rewards


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("coala", TRUE),
        ("mfos", (-0.47877903, -0.26882298, -0.19961520)),
        ("unaware", (-0.23938952, -0.13441149, -0.09980760)),
    ],
)
def test_estimators_are_what_enumeration_says(rule, want):
    chances, scores, rewards = (np.array(x) for x in zip(*enumerated(EGO), strict=True))
    credits = jax.jit(jax.vmap(lambda r: credit(r, 1, 1.0, rule)))(rewards)
    weight = 0.5 if rule == "unaware" else 1.0
    got = weight * np.einsum("n,nlbk,nlb->k", chances, scores, credits)
    np.testing.assert_allclose(got, want, atol=5e-9)
    # The derivative of the mean return: chances depend on the policy through its own actions alone.
    exact = np.einsum("n,nlbk,n->k", chances, scores, rewards.sum(axis=(1, 2)) / 2)
    assert (np.abs(got - exact).max() < 1e-10) == (rule == "coala")


@pytest.mark.usefixtures("float64")
def test_credits_are_equations_13_and_14():
    rng = np.random.default_rng(0)
    episodes, length, batch = 4, 3, 5
    rewards, values = rng.normal(size=(2, episodes * length, batch))
    then = np.concatenate([values[1:], np.zeros((1, batch))])
    got = credit(jnp.asarray(rewards + then - values), length, 1.0, "coala")
    want = np.zeros_like(rewards)
    for step in range(episodes * length):
        end = (step // length + 1) * length
        for b in range(batch):
            later = values[end] if end < episodes * length else np.zeros(batch)
            want[step, b] = rewards[step:end, b].sum() / batch + rewards[end:].sum() / batch
            want[step, b] -= values[step, b] / batch + (later.sum() - later[b]) / batch
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_rules_are_one_where_they_have_to_be():
    deltas = jnp.asarray(np.random.default_rng(1).normal(size=(6, 1)))
    alone = [credit(deltas, 2, 0.9, rule) for rule in ("coala", "mfos", "unaware")]
    for other in alone[1:]:  # a batch of one
        np.testing.assert_allclose(other, alone[0], atol=1e-14)
    deltas = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)))  # one episode: nothing comes after it
    one = {rule: credit(deltas, 6, 0.9, rule) for rule in ("coala", "mfos", "unaware")}
    np.testing.assert_allclose(4 * one["coala"], one["unaware"], atol=1e-14)
    np.testing.assert_allclose(one["mfos"], one["unaware"], atol=1e-14)


def test_an_iteration_teaches_every_agent_against_learners_and_one_another():
    sizes = dict(population=2, naive_share=0.5, opponents=4, minibatches=2, batch_size=2, episodes=2, hidden=3)
    rule = COALAPG(**sizes, epochs=1, meta_lr=0.1)
    game = make("matrix", payoffs=((1, -1, 2, 0), (1, 2, -1, 0)), horizon=2)
    carry = rule.prepare_init(jax.random.key(0), game, 0)
    taught, info = jax.jit(lambda c: rule.prepare_step(jax.random.key(1), 0, c, game, 0))(carry)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(taught))
    for head in np.asarray(taught.weights["head_logits"]["kernel"]):
        assert np.abs(head).max() > 0  # it was zero: all actions alike
    assert all(-1 <= info[name] <= 2 for name in ("return", "opponent_return", "return_among_agents"))


def test_a_policy_that_knows_nothing_plays_all_actions_alike_and_remembers_across_episodes():
    game = make("ipd", horizon=2)
    policy = COALAPG(hidden=3).policy(game, 0)
    params = policy.init(jax.random.key(0))
    assert policy.keeps_carry
    carry, said = policy.step(params, policy.start(), jnp.asarray(0), None)
    np.testing.assert_array_equal(said.logits, 0.0)
    _, again = policy.net.act(policy.laid(params), carry, jnp.asarray(0))
    assert np.abs(carry).max() > 0
    assert set(again) == {"logits", "value"}
