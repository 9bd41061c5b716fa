"""Episodes that end early: what is learnt does not depend on how long the batch is padded."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import View, pytree_dataclass
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field
from shaping_bench.spec.registry import make_learner


class Race(NamedTuple):
    time: Any
    last: Any
    over: Any


@pytree_dataclass
class Tag(Game):
    """Goes on with probability 2/3 after each step, at most five; who shouts (1) in company is paid.

    After the end rewards, observations and counts are nonsense that nobody should learn from.
    """

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    ends_early: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True  # type: ignore[misc]

    gamma: float = field(0.9)
    horizon: int = field(5, static=True)

    n_players = 2
    n_actions = 2
    observation_shape = (3, 1, 1)

    @property
    def num_steps(self):
        return self.horizon

    def reset(self, key):
        state = Race(jnp.zeros((), jnp.int32), jnp.zeros(2), jnp.zeros((), bool))
        return self.observe(state), state

    def observe(self, state, player=None):
        def one(i):
            seen = jnp.stack([0.2 * state.time, state.last[i], state.last[1 - i]])
            return jnp.where(state.over, 7.0 + seen, seen)[:, None, None]

        return jnp.stack([one(0), one(1)]) if player is None else one(player)

    def paid(self, observations, actions):
        both = (jnp.sum(actions, axis=-1, keepdims=True) == 2).astype(jnp.float32)
        return 2.0 * both - actions

    def step(self, key, state, actions):
        rewards = self.paid(None, actions)
        over = state.over | (jax.random.uniform(key) < 1 / 3) | (state.time >= 4)
        after = Race(state.time + 1, actions.astype(jnp.float32), over)
        return self.observe(after), after, jnp.where(state.over, 99.0, rewards), over, {"shouts": rewards + 5.0}


SMALL = "network=mlp,hidden=4"
# Those that model the others do what they do who see them, and more; so of such pairs only they are here.
RULES = [
    f"naive-pg(batch_size=8,{SMALL})",
    f"ppo(batch_size=8,minibatches=2,{SMALL})",
    "ppo(batch_size=8,minibatches=2,separate=true,network=gru,hidden=4)",
    f"lola-om(batch_size=8,first_model_steps=3,{SMALL})",
    f"lola-dice(batch_size=8,{SMALL})",
    f"lola-dice(batch_size=8,loaded=false,{SMALL})",
    f"lola-dice-om(batch_size=8,baseline=critic,lam=0.9,model_steps=2,{SMALL})",
    f"pola-om(batch_size=8,outer_steps=2,model_batches=2,{SMALL})",
    "loqa(batch_size=8,buffer_size=2,opponents_per_batch=2,hidden=4,reward_shift=0.5)",
    "loqa(batch_size=8,buffer_size=0,hidden=4,preset=official)",
    "loqa-paired(batch_size=8,buffer_size=0,hidden=4)",
]


@pytest.mark.parametrize("text", RULES)
def test_padding_changes_nothing(text):
    """Random words and keys of the steps that are played are the same, whatever the horizon."""
    rule = make_learner(text).value
    results = []
    for horizon in (5, 9):
        game = Tag(horizon=horizon)

        @jax.jit
        def update(key, game=game):
            start = [rule.init(jax.random.fold_in(key, i), game, i) for i in range(2)]
            params, states = zip(*start, strict=True)
            view = View(game, params, 0, rule.access, learners=(rule, rule), key=key, states=states)
            return rule.update(key, states[0], view), params[0]

        results.append(update(jax.random.key(3)))
    (first, start), (second, _) = results
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), first[0], start)
    assert max(jax.tree.leaves(moved)) > 1e-5


def test_play_says_what_is_played():
    rule = make_learner(RULES[0]).value
    game = Tag(horizon=9)
    policies = [rule.policy(game, i) for i in range(2)]
    params = [policy.init(jax.random.key(0)) for policy in policies]
    play = jax.jit(lambda key: rollout(key, game, policies, params, 64))(jax.random.key(1))
    assert play.alive.shape == (10, 64)
    assert play.alive[0].all()
    assert not play.alive[5:].any()
    assert (np.diff(play.alive.astype(int), axis=0) <= 0).all()
    np.testing.assert_array_equal(play.alive, ~np.asarray(play.states.over))
    dead = ~np.asarray(play.alive[:-1])
    assert not np.asarray(play.rewards)[dead].any()
    assert not np.asarray(play.info["shouts"])[dead].any()
    assert np.asarray(play.info["shouts"])[~dead].all()
    # A third of the episodes ends after each of the first four steps: standard error 0.06 of the first.
    assert abs(float(play.alive[1].mean()) - 2 / 3) < 0.24
