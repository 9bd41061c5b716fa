"""The sampled view: what reset and step mean, and that it is the same game as the exact view."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.policy import tabular
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.games import make
from shaping_bench.games.matrix.public_goods import PublicGoods


def test_reset_and_step_two_players():
    game = make("ipd")
    observations, state = game.reset(jax.random.key(0))
    assert observations.tolist() == [0, 0]
    assert int(state.time) == 0
    # player 1 cooperates, player 2 defects: CD from the first seat, DC from the second
    observations, state, rewards, done, _ = game.step(jax.random.key(0), state, jnp.array([0, 1]))
    assert observations.tolist() == [2, 3]
    assert rewards.tolist() == [-3.0, 0.0]
    assert int(state.time) == 1
    assert not bool(done)


def test_observations_of_three_players_are_own_frame():
    game = PublicGoods()
    _, state = game.reset(jax.random.key(0))
    for actions in itertools.product((0, 1), repeat=3):
        observations, _, rewards, _, _ = game.step(jax.random.key(0), state, jnp.array(actions))
        for i in range(3):
            own = actions[i:] + actions[:i]
            assert int(observations[i]) == 1 + int("".join(map(str, own)), 2)
            pool = game.multiplier * actions.count(0) / 3
            assert float(rewards[i]) == pytest.approx(pool - (actions[i] == 0), abs=1e-6)


def test_the_episode_ends_at_the_horizon():
    game = make("chicken", horizon=3)
    _, state = game.reset(jax.random.key(0))
    ends = []
    for _ in range(3):
        _, state, _, done, _ = game.step(jax.random.key(0), state, jnp.array([0, 0]))
        ends.append(bool(done))
    assert ends == [False, False, True]


def test_rock_paper_scissors_pays_who_is_a_step_ahead_and_each_reads_its_own_action_first():
    game = make("rps", horizon=2)
    observations, start = game.reset(jax.random.key(0))
    assert observations.tolist() == [0, 0]
    beats = {(1, 0), (2, 1), (0, 2)}  # paper rock, scissors paper, rock scissors
    for first, second in itertools.product(range(3), repeat=2):
        actions = jnp.array([first, second])
        observations, state, rewards, done, info = game.step(jax.random.key(0), start, actions)
        won = int((first, second) in beats) - int((second, first) in beats)
        assert rewards.tolist() == game.paid(observations[0], actions).tolist() == [won, -won]
        assert observations.tolist() == [1 + 3 * first + second, 1 + 3 * second + first]
        assert np.stack(list(info.values())).argmax(axis=0).tolist() == [first, second]
        assert not done
        assert game.step(jax.random.key(0), state, actions)[3]


def test_tables_of_three_actions_play_what_the_exact_game_values():
    """16 000 episodes of random tables from both seats; 4 standard errors."""
    game = make("rps", gamma=0.5, horizon=22)  # what is cut off is below 0.5**21 = 5e-7
    rng = np.random.default_rng(3)
    params = [jnp.asarray(rng.normal(size=30), jnp.float32) for _ in range(2)]
    play = jax.jit(lambda key: rollout(key, game, [tabular(game)] * 2, params, 16_000))(jax.random.key(3))
    returns = np.tensordot(0.5 ** np.arange(22), np.asarray(play.rewards), axes=1)
    standard_error = returns.std(axis=0, ddof=1) / np.sqrt(len(returns))
    exact = np.asarray(game.values(params))
    assert np.all(standard_error < 0.2 * np.abs(exact)), (standard_error, exact)
    assert np.all(np.abs(returns.mean(axis=0) - exact) < 4 * standard_error), (returns.mean(axis=0), exact)


@pytest.mark.parametrize(("name", "seed"), [("ipd", 0), ("imp", 1), ("public-goods", 2)])
def test_mean_discounted_return_agrees_with_the_exact_value(name, seed):
    """4000 episodes of random memory-one policies under jit and vmap; 4 standard errors."""
    game = make(name, gamma=0.9)
    n, steps, episodes = game.n_players, 150, 4000  # what is cut off is below 0.9**150 = 1.4e-7
    rng = np.random.default_rng(seed)
    policies = [jnp.asarray(rng.normal(size=d), jnp.float32) for d in game.sizes]

    def episode(key):
        def step(carry, key):
            observations, state, discount = carry
            chances = jnp.stack([jax.nn.sigmoid(theta[o]) for theta, o in zip(policies, observations, strict=True)])
            actions = (jax.random.uniform(key, (n,)) >= chances).astype(jnp.int32)
            observations, state, rewards, _, _ = game.step(key, state, actions)
            return (observations, state, discount * game.gamma), discount * rewards

        observations, state = game.reset(key)
        _, rewards = jax.lax.scan(step, (observations, state, 1.0), jax.random.split(key, steps))
        return rewards.sum(0)

    returns = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), episodes)))
    standard_error = returns.std(axis=0, ddof=1) / np.sqrt(episodes)
    exact = np.asarray(game.values(policies))
    assert np.all(standard_error < 0.1)
    assert np.all(np.abs(returns.mean(axis=0) - exact) < 4 * standard_error), (returns.mean(axis=0), exact)
