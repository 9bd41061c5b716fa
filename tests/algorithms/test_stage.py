"""The stage: one loop, one play for all, and what lives on between episodes."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, Learner, Memory, Stage, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Policy, Tabular
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.games import make
from shaping_bench.games.base import Game
from shaping_bench.run.encounter import costs_per_update, run_encounter, steps_per_update

IPD = make("ipd", gamma=0.9, horizon=6)


@pytree_dataclass
class Watching(Learner):
    """Learns nothing, reports the actions of the first two of its episodes as one number."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})

    batch_size: int = field(4, static=True)
    asks: int = field(0, "episodes, if others than declared", static=True)

    def update(self, key, state, view):
        play = view.play(self.asks or self.batch_size)
        first = jnp.stack([play.actions(i)[:, :2] for i in range(view.n_players)]).ravel()
        return view.own, state, {"first": jnp.dot(first.astype(float), 2.0 ** -jnp.arange(1, first.size + 1))}


def test_all_learn_from_the_same_episodes():
    result = run_encounter(
        IPD, (Watching(batch_size=4), Watching(batch_size=16)), num_seeds=3, num_updates=2, record_every=1
    )
    first, second = (info["first"][1:] for info in result.infos)
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == first.size


def test_who_asks_for_more_than_declared_is_told():
    stage = Stage(IPD, (Watching(batch_size=4), Watching(batch_size=8, asks=9)))
    with pytest.raises(ValueError, match=r"player 2's learner asks for 9 .*declares that it asks for 8"):
        stage.episode(jax.random.key(0), stage.begin(jax.random.key(0)))
    # Its own word counts, not what somebody else makes possible.
    stage = Stage(IPD, (Watching(batch_size=4, asks=8), Watching(batch_size=8)))
    with pytest.raises(ValueError, match=r"player 1's learner asks for 8 .*declares that it asks for 4"):
        stage.episode(jax.random.key(0), stage.begin(jax.random.key(0)))


def test_play_is_drawn_as_it_was_where_all_ask_for_the_same():
    stage = Stage(IPD, (Watching(batch_size=8), Watching(batch_size=8)))
    joint, key = stage.begin(jax.random.key(1)), jax.random.key(2)
    _, play, _ = stage.episode(key, joint)
    play_key = jax.random.fold_in(jax.random.fold_in(key, 2), 8)
    expected = rollout(play_key, IPD, [Tabular(5)] * 2, joint.params, 8)
    jax.tree.map(np.testing.assert_array_equal, play, expected)


def test_play_costs_as_much_as_those_ask_for_who_look():
    narrow, wide = Watching(batch_size=4), Watching(batch_size=16)
    assert [x.steps for x in costs_per_update(IPD, (narrow, wide))] == [4 * 6, 16 * 6]
    assert steps_per_update(IPD, (narrow, wide)) == 16 * 6


def test_whose_move_is_given_is_not_asked():
    lola = LOLA(lr=0.1)
    stage = Stage(make("tandem"), (lola, lola))
    joint = stage.begin(jax.random.key(0))
    both, _, _ = stage.episode(jax.random.key(1), joint)
    with costs.counting() as count:
        one, play, infos = stage.episode(jax.random.key(1), joint, given={0: ((jnp.asarray(7.0),), ())})
    assert one.params[0] == (7.0,)
    assert infos[0] == {}
    assert play is None
    np.testing.assert_array_equal(one.params[1], both.params[1])
    assert count.evaluations == costs_per_update(stage.game, stage.learners)[1].evaluations


# --- what lives on ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Counting(Policy):
    """Action 0 in the first six steps of its life, action 1 in all others."""

    keeps_carry: bool = True  # type: ignore[misc]

    def start(self):
        return jnp.zeros((), jnp.int32)

    def step(self, params, carry, observation, state):
        early = carry < 6
        return carry + 1, Categorical(logits=jnp.where(early, jnp.array([50.0, -50.0]), jnp.array([-50.0, 50.0])))


@pytree_dataclass
class Remembering(Watching):
    forgets: bool = field(False, static=True)

    def policy(self, game, player):
        return Counting(not self.forgets)

    def init(self, key, game, player):
        return jnp.zeros(1), ()


@pytree_dataclass
class Walk(Game):
    """Steps of a walk that never ends are counted, and how often it was resumed, in hundreds."""

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    keeps_world: ClassVar[bool] = True
    memory_one: ClassVar[bool] = True

    gamma: float = field(0.9)

    n_players = 2
    n_actions = 2
    observation_shape = ()
    num_steps = 3
    sizes = (5, 5)

    def reset(self, key):
        return self.observe(0), jnp.zeros(())

    def resume(self, key, state):
        return state + 100.0

    def observe(self, state):
        return jnp.zeros(2, jnp.int32)

    def step(self, key, state, actions):
        return self.observe(state), state + 1.0, jnp.full(2, state), jnp.zeros((), bool), {}


def episodes(stage, count):
    """What is played in so many episodes of two seeds, leaves ``(seeds, count, ...)``."""

    def one(key):
        begin, go = jax.random.split(key)

        def episode(joint, key):
            joint, play, _ = stage.episode(key, joint)
            return joint, play

        return jax.lax.scan(episode, stage.begin(begin), jax.random.split(go, count))[1]

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2))


def test_a_carry_lives_on_where_the_policy_keeps_it():
    play = episodes(Stage(IPD, (Remembering(batch_size=4), Remembering(batch_size=4, forgets=True))), 3)
    np.testing.assert_array_equal(play.actions[:, :, :, :, 0], np.broadcast_to([[[[0]], [[1]], [[1]]]], (2, 3, 6, 4)))
    np.testing.assert_array_equal(play.actions[..., 1], np.zeros((2, 3, 6, 4)))


def test_a_world_lives_on_where_the_game_keeps_it():
    play = episodes(Stage(Walk(), (Watching(batch_size=4), Watching(batch_size=4))), 2)
    np.testing.assert_array_equal(play.rewards[0, :, :, 0, 0], [[100, 101, 102], [203, 204, 205]])


def test_carries_and_world_live_on_in_encounters():
    result = run_encounter(
        IPD, (Remembering(batch_size=4), Watching(batch_size=4)), num_seeds=2, num_updates=3, record_every=1
    )
    # The own actions are the first half of the digits.
    digits = np.floor(result.infos[0]["first"][1:] * 2.0**12)
    np.testing.assert_array_equal(digits, np.broadcast_to([[0], [2**12 - 1], [2**12 - 1]], (3, 2)))


# --- what views derive --------------------------------------------------------------------


def test_views_of_different_points_do_not_share_what_they_derive():
    game, memory = make("tandem"), Memory()
    here, there = (jnp.asarray([0.5]), jnp.asarray([-0.3])), (jnp.asarray([0.5]), jnp.asarray([2.0]))
    first, same, other = (
        View(game, point, player, Access.GRADIENTS, memory=memory)
        for point, player in ((here, 0), (here, 1), (there, 1))
    )
    assert first.gradient(of=0, wrt=0) is same.gradient(of=0, wrt=0)
    expected = View(game, there, 1, Access.GRADIENTS).gradient(of=0, wrt=0)
    np.testing.assert_array_equal(other.gradient(of=0, wrt=0), expected)
    assert first.gradient(of=0, wrt=0) != expected
