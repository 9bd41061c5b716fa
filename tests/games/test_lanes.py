"""The road of three lanes: what passing costs, how the other is led, and its closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.spec.registry import make_game

GAME = make("lanes")


@jax.jit
def lived(plan, lane):
    """Interactions driven by ``plan``, places to go to before and after passing, ``(N, 2)``, the first one with the
    other in that lane: sums of rewards and of regrets, collisions, and lanes, each ``(N,)``."""

    def interaction(lane, places):
        def step(state, _):
            # Aside as late as can be: 0.75 takes the last two moves before passing, a quarter and a half.
            before = jnp.where(state.time < GAME.passing - 2, 0.0, places[0])
            goal = jnp.where(state.time < GAME.passing, before, places[1])
            most = jnp.where(state.time == GAME.passing - 2, 0.25, GAME.speed)
            move = jnp.clip(goal - state.position, -most, most) / GAME.speed
            _, after, rewards, _, counts = GAME.step(None, state, (move[None],))
            return after, (rewards[0], counts["regret"][0], counts["collision"][0] / GAME.horizon)

        end, told = jax.lax.scan(step, GAME._begun(lane), length=GAME.horizon)
        return GAME.resume(None, end).lane, (*(x.sum() for x in told), lane)

    return jax.lax.scan(interaction, jnp.int32(lane), plan)[1]


def test_who_leads_the_other_from_edge_to_edge_passes_at_no_cost():
    """From the right edge it goes to the left one if it last saw the ego on the left, and back from the right."""
    plan = jnp.array([[0.0, -0.5], [0.0, 0.5]] * 3)
    rewards, regrets, collisions, lanes = lived(plan, 1)
    assert lanes.tolist() == [1, -1] * 3
    assert not np.asarray(rewards).any()
    assert not np.asarray(regrets).any()
    assert not np.asarray(collisions).any()


def test_who_takes_lanes_as_given_gets_out_of_the_way_every_third_time():
    plan = jnp.array([[0.75, -0.5], [0.0, -0.5], [0.0, -0.5]] * 2)
    rewards, regrets, collisions, lanes = lived(plan, 0)
    assert lanes.tolist() == [0, 1, -1] * 2
    np.testing.assert_allclose(rewards, [-0.1, 0.0, 0.0] * 2, atol=1e-6)
    np.testing.assert_allclose(regrets, 0.0, atol=1e-6)
    assert not np.asarray(collisions).any()
    anchors = GAME.anchors()
    assert 10 * GAME.tracking_return == pytest.approx(-0.1 / 3)
    assert anchors.random < GAME.tracking_return < anchors.social_optimum == 0.0


def test_who_stays_in_the_middle_is_hit_where_it_is_blocked():
    rewards, regrets, collisions, lanes = lived(jnp.array([[0.0, 0.5]] * 4), 0)
    assert lanes.tolist() == [0, -1, 1, 0]
    assert collisions.tolist() == [1.0, 0.0, 0.0, 1.0]
    np.testing.assert_allclose(rewards, [-1.0, 0.0, 0.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(regrets, [0.9, 0.0, 0.0, 0.9], atol=1e-6)


def test_the_lane_is_seen_from_passing_on():
    state = GAME._begun(jnp.int32(-1))._replace(position=jnp.float32(0.75))
    seen = [GAME.observe(state._replace(time=jnp.int32(t)), 0).tolist() for t in (0, 4, 5, 9)]
    np.testing.assert_allclose(seen, [[0.5, 1.0, 0.0], [0.5, 0.2, 0.0], [0.5, 0.0, -1.0], [0.5, 0.0, -1.0]], rtol=1e-6)


def test_refuses_to_pass_after_the_end():
    with pytest.raises(BadInput, match="passing is 10; allowed: fewer than the horizon of 10"):
        make_game("lanes(passing=10)")
