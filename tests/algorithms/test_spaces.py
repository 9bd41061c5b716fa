"""Sampled rules where actions are numbers, or a choice and a number, and observations are trees."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import View, pytree_dataclass
from shaping_bench.algorithms.core.distributions import Normal
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.parts.actor_critic import ActorCriticState, optimiser
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field
from shaping_bench.games.spaces import Box, Discrete, Product
from shaping_bench.run.encounter import run_encounter

# --- one step of a linear-quadratic game ------------------------------------------------------

AIM, PULL = (1.0, -0.5), 0.7
MEANS, LOG_STDS = (0.3, 0.8), (-0.4, 0.2)


@pytree_dataclass
class Quadratic(Game):
    """Both say a number, once: ``r_i = -(a_i - aim_i)^2 + pull a_1 a_2``."""

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})

    gamma: float = field(0.9)

    n_players = 2
    num_steps = 1
    observation_shape = (1,)

    def action_space(self, player):
        return Box(-np.inf, np.inf)

    def reset(self, key):
        return jnp.zeros((2, 1)), jnp.zeros((), jnp.int32)

    def observe(self, state, player=None):
        return jnp.zeros((2, 1)) if player is None else jnp.zeros(1)

    def step(self, key, state, actions):
        a, b = actions
        rewards = -jnp.square(jnp.stack([a, b]) - jnp.array(AIM)) + PULL * a * b
        return self.observe(state), state + 1, rewards, True, {}


@dataclasses.dataclass(frozen=True)
class Saying(Policy):
    """Says a normal number; parameters are its mean and the logarithm of its deviation."""

    def step(self, params, carry, observation, state):
        return carry, Normal(mean=params[0], log_std=params[1])

    def unroll(self, params, observations):
        ones = jnp.ones(observations.shape[:2])
        return Normal(mean=params[0] * ones, log_std=params[1] * ones)


class Nothing:
    """A critic that expects nothing."""

    def init(self, key):
        return jnp.zeros(1)

    def unroll(self, params, observations):
        return params[0] * jnp.zeros(observations.shape[:2])


@pytree_dataclass
class SayingPG(NaivePG):
    def policy(self, game, player):
        return Saying()

    def critic(self, game, player):
        return Nothing()


@pytest.mark.parametrize("player", [0, 1])
def test_the_policy_gradient_in_numbers_is_the_exact_one(player):
    """32 updates of 4096 episodes against the derivative worked out by hand, by four standard errors;
    the noise of one update is about 0.07 of the mean and 0.1 of the deviation."""
    game, rule = Quadratic(), SayingPG(lr=1.0, critic_lr=0.0, batch_size=4096)
    params = tuple(jnp.array(x) for x in zip(MEANS, LOG_STDS, strict=True))

    @jax.jit
    def direction(key):
        view = View(game, params, player, rule.access, learners=(rule, rule), key=key)
        return rule.update(key, at_first(rule, view.own), view)[0] - view.own

    samples = np.asarray(jax.lax.map(direction, jax.random.split(jax.random.key(0), 32)))
    mean, other, std = MEANS[player], MEANS[1 - player], np.exp(LOG_STDS[player])
    expected = np.array([-2.0 * (mean - AIM[player]) + PULL * other, -2.0 * std**2])
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - expected) < 4 * error).all()
    assert (error < 0.05).all()


def at_first(rule, own):
    values = jnp.zeros(1)
    return ActorCriticState(values, optimiser("sgd", rule.lr).init(own), optimiser("sgd", rule.critic_lr).init(values))


@pytest.mark.parametrize(
    "rule",
    [
        PPO(lr=0.03, batch_size=64, minibatches=1, entropy_bonus=0.0, hidden=8, network="mlp"),
        NaivePG(lr=0.02, critic_lr=0.02, batch_size=64, optimiser="adam", hidden=8),
    ],
)
def test_networks_learn_what_number_to_say(rule):
    outcome = run_encounter(Quadratic(), [rule, rule], num_seeds=2, num_updates=120, record_every=120, episodes=256)
    # At the equilibrium a_i = aim_i + pull a_j / 2.
    first, last = (outcome.played["return"][k].mean(axis=0) for k in (0, -1))
    assert not outcome.diverged.any()
    assert last.sum() > first.sum() + 1.0


# --- a choice and a number ----------------------------------------------------------------------


class Purse(NamedTuple):
    time: Any
    paid: Any


@pytree_dataclass
class MoveAndPay(Game):
    """Each moves (action 1 earns 1) and gives away a part of a unit: what one gives, the other gets."""

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})

    gamma: float = field(0.9)
    horizon: int = field(3, static=True)

    n_players = 2

    @property
    def num_steps(self):
        return self.horizon

    def action_space(self, player):
        return Product([Discrete(3), Box(0.0, 1.0)])

    def reset(self, key):
        state = Purse(jnp.zeros((), jnp.int32), jnp.zeros(2))
        return self.observe(state), state

    def observe(self, state, player=None):
        seats = tuple(
            {"window": jnp.ones((2, 2)) * state.time, "purse": state.paid[jnp.array([i, 1 - i])]} for i in range(2)
        )
        return seats if player is None else seats[player]

    def step(self, key, state, actions):
        moves, gifts = (jnp.stack(x) for x in zip(*actions, strict=True))
        after = Purse(state.time + 1, gifts)
        rewards = (moves == 1) - gifts + gifts[::-1]
        info = {"moved": (moves == 1).astype(rewards.dtype), "given": gifts}
        return self.observe(after), after, rewards, after.time >= self.horizon, info


@pytest.mark.parametrize(
    "rule",
    [
        PPO(lr=0.03, batch_size=32, minibatches=2, entropy_bonus=0.0, hidden=8, network="gru"),
        NaivePG(lr=0.03, critic_lr=0.05, batch_size=64, optimiser="adam", hidden=8),
    ],
)
def test_they_learn_to_move_and_not_to_give(rule):
    outcome = run_encounter(MoveAndPay(), [rule, rule], num_seeds=2, num_updates=60, record_every=60, episodes=64)
    assert not outcome.diverged.any()
    moved, given = (outcome.played[name].mean(axis=(1, 2)) for name in ("moved", "given"))
    assert moved[-1] > moved[0] + 0.2
    assert given[-1] < given[0] - 0.15
