"""Distributions: what they say of an action is how often they draw it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from shaping_bench.algorithms.core.distributions import (
    Categorical,
    Normal,
    SquashedNormal,
    distribution,
    num_outputs,
    num_words,
)
from shaping_bench.games.spaces import Box, Discrete, Product

N = 200_000
FREE, UNIT = Box(-np.inf, np.inf, (2,)), Box(-1.0, 3.0)


def said(space, seed=0):
    return distribution(space, jnp.asarray(np.random.default_rng(seed).normal(size=num_outputs(space)), jnp.float32))


def drawn(policy, space, count=N):
    """Actions of ``count`` draws, and the policy once for each of them."""
    words = num_words(space)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), policy)
    shape = (count,) if words == 1 else (count, words)
    return many.sample(jax.random.bits(jax.random.key(3), shape, jnp.uint32)), many


def test_a_network_s_outputs_say_a_distribution_of_the_space():
    space = Product([Discrete(3), FREE, UNIT])
    assert (num_outputs(space), num_words(space)) == (3 + 4 + 2, 1 + 2 + 1)
    policy = said(space)
    assert [type(part) for part in policy.parts] == [Categorical, Normal, SquashedNormal]
    (choice, free, bounded), many = drawn(policy, space, 5)
    assert (choice.shape, free.shape, bounded.shape) == ((5,), (5, 2), (5,))
    assert choice.dtype == jnp.int32
    np.testing.assert_allclose(
        many.log_prob((choice, free, bounded)),
        sum(part.log_prob(x) for part, x in zip(many.parts, (choice, free, bounded), strict=True)),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="bounds on both sides, or none"):
        distribution(Box(0.0, np.inf), jnp.zeros(2))


@pytest.mark.parametrize("n", [2, 5])
def test_choices_have_their_probabilities(n):
    policy = said(Discrete(n))
    actions, many = drawn(policy, Discrete(n))
    p = np.asarray(jax.nn.softmax(policy.logits))
    share = np.bincount(actions, minlength=n) / N
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / N)).all()
    np.testing.assert_allclose(np.exp(many.log_prob(actions)[:50]), p[np.asarray(actions[:50])], rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), stats.entropy(p), rtol=1e-5)


def test_numbers_are_normal():
    policy = said(FREE)
    actions, _ = drawn(policy, FREE)
    mean, std = np.asarray(policy.mean), np.exp(np.asarray(policy.log_std))
    for k in range(2):
        assert stats.kstest(np.asarray(actions)[:, k], stats.norm(mean[k], std[k]).cdf).statistic < 1.95 / np.sqrt(N)
    assert abs(np.corrcoef(np.asarray(actions).T)[0, 1]) < 4 / np.sqrt(N)
    expected = stats.norm(mean, std).logpdf(np.asarray(actions[0])).sum()
    np.testing.assert_allclose(policy.log_prob(actions[0]), expected, rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), stats.norm(mean, std).entropy().sum(), rtol=1e-5)


def test_bent_numbers_stay_in_their_box_with_the_density_that_integrates_to_one():
    policy = said(UNIT)
    actions, many = drawn(policy, UNIT)
    assert np.abs(np.asarray(actions) - 1.0).max() < 2.0
    grid = np.linspace(-1.0, 3.0, 20_001)[1:-1].astype(np.float32)
    density = np.exp(jax.tree.map(lambda x: jnp.broadcast_to(x, grid.shape), policy).log_prob(jnp.asarray(grid)))
    np.testing.assert_allclose(np.trapezoid(density, grid), 1.0, rtol=1e-3)
    cells = np.linspace(-1.0, 3.0, 11)
    share = np.histogram(actions, cells)[0] / N
    inner = (cells[1:-1] + 1.0) / 4.0
    z = (np.log(inner / (1.0 - inner)) - float(policy.normal.mean)) / np.exp(float(policy.normal.log_std))
    p = np.diff(stats.norm.cdf([-np.inf, *z, np.inf]))
    assert (np.abs(share - p) < 4 * np.sqrt(p / N)).all()
    # The entropy is minus the mean log-density, here with its standard error.
    log_density = np.asarray(many.log_prob(actions))
    assert abs(policy.entropy() + log_density.mean()) < 4 * log_density.std() / np.sqrt(N) + 1e-3


@pytest.mark.parametrize("space", [Discrete(3), FREE, UNIT])
def test_what_is_drawn_with_its_density_is_what_is_sampled(space):
    policy = said(space)
    words = jax.random.bits(jax.random.key(5), (num_words(space),) if num_words(space) > 1 else (), jnp.uint32)
    action, density = policy.drawn(words)
    np.testing.assert_allclose(action, policy.sample(words), rtol=1e-6)
    np.testing.assert_allclose(density, policy.log_prob(action), rtol=1e-4)
    if not isinstance(space, Discrete):  # and the action moves with the distribution
        slopes = jax.tree.leaves(jax.grad(lambda x: jnp.sum(x.drawn(words)[0]))(policy))
        assert all((slope != 0.0).all() for slope in slopes)


@pytest.mark.parametrize("space", [Discrete(2), Discrete(4), FREE, UNIT, Product([Discrete(3), UNIT])])
def test_divergence_is_the_mean_log_ratio_and_has_no_slope_at_the_reference(space):
    policy, other = said(space, 0), said(space, 1)
    actions, many = drawn(policy, space)
    elsewhere = jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape)), other)
    ratios = np.asarray(many.log_prob(actions) - elsewhere.log_prob(actions))
    assert abs(policy.kl(other) - ratios.mean()) < 4 * ratios.std() / np.sqrt(N)
    slope = jax.grad(lambda x: policy.kl(x))(policy)
    np.testing.assert_allclose(np.concatenate([np.ravel(x) for x in jax.tree.leaves(slope)]), 0.0, atol=1e-5)


def test_divergence_of_choices_is_that_of_the_reference_from_the_policy():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1])
    reference, policy = Categorical(logits=jnp.log(p) + 3.0), Categorical(logits=jnp.log(q) - 1.0)
    np.testing.assert_allclose(reference.kl(policy), np.sum(p * np.log(p / q)), rtol=1e-5)
