"""Rewards mixed with those of the others: in values, in play, in what follows from tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.mixing import mixed
from shaping_bench.spec import registry
from shaping_bench.spec.suite import expand, validate


def by_formula(s, rewards):
    rewards = np.asarray(rewards, float)
    n = len(rewards)
    return s * rewards + (1 - s) / (n - 1) * (rewards.sum(axis=0) - rewards)


@pytest.mark.parametrize("name", ["ipd", "imp", "public-goods", "tandem", "logistic", "ultimatum", "ordinal(index=70)"])
def test_exact_values_are_mixed(name):
    game = registry.make_game(name).value
    other = mixed(game, 0.3)
    params = [jax.random.normal(jax.random.key(i), (d,)) for i, d in enumerate(game.sizes)]
    assert np.allclose(other.values(params), by_formula(0.3, game.values(params)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ipd", "public-goods", "coin-game"])
def test_rewards_of_play_are_mixed_and_nothing_else(name):
    game, other = make(name), mixed(make(name), 0.7)
    key = jax.random.key(3)
    for k in range(20):
        state = game.reset(jax.random.fold_in(key, k))[1]
        actions = jax.random.randint(jax.random.fold_in(key, 100 + k), (game.n_players,), 0, game.n_actions)
        seen, after, rewards, done, _ = game.step(key, state, actions)
        ours = other.step(key, state, actions)
        assert np.allclose(ours[2], by_formula(0.7, rewards), atol=1e-6)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, (seen, after, done), (ours[0], ours[1], ours[3])))


def test_what_follows_from_the_table_follows_from_the_mixed_one():
    team = registry.make_game("ipd(own_share=0.5)").value
    assert team.payoffs[0] == team.payoffs[1] == (-1.0, -1.5, -1.5, -2.0)
    cooperates = team.best_response([jnp.zeros(5), jnp.zeros(5)], 0)
    assert all(float(x) > 0 for x in cooperates)
    assert team.anchors().social_optimum == make("ipd").anchors().social_optimum
    # Matching pennies in which only the other's reward counts: the other's game.
    assert registry.make_game("imp(own_share=0)").value.payoffs == make("imp").payoffs[::-1]
    assert not mixed(make("tandem"), 0.5).has_best_response
    assert mixed(make("tandem"), 0.5).anchors().best_response is None


def test_off_it_changes_no_hash_and_on_it_does():
    def hashes(call):
        content = {"name": "x", "games": [call], "learners": ["naive"]}
        return [cell.hash for cell in expand(validate(content)).encounters]

    assert hashes("ipd(own_share=1)") == hashes("ipd")
    assert hashes("ipd(own_share=0.5)") != hashes("ipd")
    text = registry.make_game("ipd(own_share=0.5)").text
    assert text == "ipd(own_share=0.5)"
    assert registry.make_game(text).identity() == registry.make_game("ipd(own_share=0.5)").identity()


@pytest.mark.parametrize("bad", ["ipd(own_share=1.5)", "ipd(own_share=-0.1)", "coin-game(own_share=half)"])
def test_shares_beyond_their_range_are_refused(bad):
    with pytest.raises(BadInput, match="own_share"):
        registry.make_game(bad)
