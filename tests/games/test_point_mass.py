"""LILI's point mass: closed forms of the shortest ways, how the target moves on, and the stage that keeps the world."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Stage
from shaping_bench.algorithms.fixed import Random
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter

GAME = make("point-mass")


def driven(game, index):
    """What straight ways to a target earn, step by step, and the state at the end."""
    state = game._begun(jnp.int32(index))

    def step(state, _):
        way = jnp.clip((game.target(state.place) - state.position) / game.speed, -1.0, 1.0)
        _, after, rewards, _, counts = game.step(None, state, (way,))
        return after, (rewards[0], counts["regret"][0])

    end, (rewards, regrets) = jax.lax.scan(step, state, length=game.horizon)
    return end, np.asarray(rewards), np.asarray(regrets)


@pytest.mark.parametrize("index", [-1, 3, 6, 7, 24])
def test_the_shortest_way_earns_its_closed_form(index):
    _, rewards, regrets = driven(GAME, index)
    assert rewards.sum() == pytest.approx(GAME.best_returns(np.array([0.2 * index]))[0], abs=1e-5)
    assert np.abs(regrets).max() < 1e-6


def test_closed_forms_of_the_targets():
    """The top is 0.05 away, the bottom 0.15; the best neighbours of the first turn are 1.2 and 1.4."""
    top, bottom = GAME.best_returns(np.array([np.pi / 2, -np.pi / 2]))
    assert top == pytest.approx(-0.15)
    assert bottom == pytest.approx(-1.2)
    anchors = GAME.anchors()
    assert 50 * anchors.social_optimum == pytest.approx(GAME.best_returns(np.array([1.2, 1.4])).mean())
    assert 50 * anchors.social_optimum == pytest.approx(-0.146, abs=5e-4)
    assert 50 * GAME.tracking_return == pytest.approx(-0.596, abs=5e-4)
    assert anchors.random < GAME.tracking_return < anchors.social_optimum


def test_the_target_moves_by_where_one_ends():
    start = GAME._begun(jnp.int32(3))
    assert int(GAME.resume(None, start).place) == 3  # nothing was met yet
    inside = start._replace(time=jnp.int32(50), position=jnp.array([0.0, 0.049]))
    outside = inside._replace(position=jnp.array([0.0, 0.051]))
    assert [int(GAME.resume(None, x).place) for x in (inside, outside)] == [4, 2]
    again = GAME.resume(None, inside)
    assert (int(again.time), again.position.tolist()) == (0, [0.0, 0.0])


def test_the_last_step_moves_nothing_and_tells_where_one_ended():
    state = GAME._begun(jnp.int32(0))._replace(time=jnp.int32(49), position=jnp.array([0.1, 0.1]))
    _, after, rewards, done, counts = GAME.step(None, state, jnp.ones((1, 2)))
    np.testing.assert_array_equal(after.position, state.position)
    assert bool(done)
    assert float(counts["inside"][0]) == 0.0
    assert float(rewards[0]) == pytest.approx(-0.15)  # the target is at (0.1, -0.05)
    _, _, _, _, counts = GAME.step(None, state._replace(position=jnp.zeros(2)), jnp.ones((1, 2)))
    assert float(counts["inside"][0]) == 50.0  # a mean over 50 steps is 1


def test_walls_hold_and_are_where_positions_are_measured():
    state = GAME._begun(jnp.int32(0))._replace(position=jnp.array([0.148, -0.15]))
    seen, after, *_ = GAME.step(None, state, jnp.array([[5.0, -1.0]]))
    np.testing.assert_allclose(after.position, [0.15, -0.15], rtol=1e-6)
    np.testing.assert_allclose(seen[0], [1.0, -1.0], rtol=1e-6)


def test_the_world_lives_on_from_interaction_to_interaction():
    """By the positions at the ends of the episodes played, in four interactions of random play."""
    stage = Stage(make("point-mass", horizon=8, speed=0.05), (Random(),))

    def episode(joint, key):
        joint, play, _ = stage.episode(key, joint)
        return joint, jax.tree.map(lambda x: x[:, 0], play.states)

    joint = stage.begin(jax.random.key(0))
    _, states = jax.jit(lambda: jax.lax.scan(episode, joint, jax.random.split(jax.random.key(1), 4)))()
    indices, ends = np.asarray(states.place[:, 0]), np.asarray(states.position[:, -1])
    inside = np.hypot(ends[:, 0], ends[:, 1] + 0.05) < 0.1
    assert indices.tolist() == (-1 + np.concatenate([[0], np.cumsum(np.where(inside, 1, -1))[:-1]])).tolist()
    assert not states.position[:, 0].any()


def test_who_does_not_learn_lives_on_in_encounters_too():
    """Who hardly moves ends within the circle, so that the target goes round: it is at the next place each time."""
    outcome = run_encounter(
        make("point-mass", horizon=8, speed=0.001), (Random(),), num_seeds=2, num_updates=3, record_every=1, episodes=4
    )
    angles = 0.2 * (-1 + np.arange(4))
    expected = np.hypot(0.1 * np.cos(angles), -0.05 + 0.1 * np.sin(angles))
    np.testing.assert_allclose(outcome.played["target_distance"][..., 0], np.tile(expected[:, None], 2), rtol=1e-5)
    assert not outcome.diverged.any()
