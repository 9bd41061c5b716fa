"""Naive policy gradient: the actor-critic that ignores that the others learn.

The LOLA paper's NL-PG. Its shaping learners are this one with a term added.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Play, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import ActorCriticState, NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns, score_function, step_mean
from shaping_bench.algorithms.parts.policies import network_field
from shaping_bench.games.base import Game


@pytree_dataclass
class NaivePG(NetworkLearner):
    """``theta <- theta + lr * grad E[sum_t gamma^t (R_t - V(s_t)) log pi(a_t)]``; the critic
    regresses on the discounted return, bootstrapped at the end of the episode."""

    access: ClassVar[Access] = Access.ACTIONS
    source = "Foerster et al., AAMAS 2018, eq. 4.5; official code (critic)"
    published: ClassVar = {"coin-game": {"lr": 0.005, "critic_lr": 0.1}}

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0, step=True)
    critic_lr: float = field(1.0, "step size of the critic, on half the mean squared error", low=0.0, step=True)
    batch_size: int = field(4000, "episodes per update", low=2, static=True, small=16)
    optimiser: str = field("sgd", "what turns gradients into steps", choices=("sgd", "adam"), static=True)
    network: str = network_field("policy and critic; auto: a table where one does")
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True, small=8)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, ActorCriticState]:
        actor_key, critic_key = jax.random.split(key)
        params = self.policy(game, player).init_in(actor_key, game, player)
        values = self.critic(game, player).init(critic_key)
        return params, ActorCriticState(
            values,
            optimiser(self.optimiser, self.lr).init(params),
            optimiser("sgd", self.critic_lr).init(values),
        )

    def update(self, key: Array, state: ActorCriticState, view: View) -> tuple[Tree, ActorCriticState, Info]:
        del key
        play = view.play(self.batch_size)
        gradient = self.policy_gradient(play, state, view)
        return self._stepped(gradient, state, play, view)

    def policy_gradient(self, play: Play, state: ActorCriticState, view: View) -> Tree:
        """Gradient of the own value, like the own parameters."""
        returns, baselines = self._returns(play, state, view)

        def objective(theta: Tree) -> Array:
            log_probs = play.log_probs(view.policy, theta)
            return jnp.mean(score_function(log_probs, returns, view.game.gamma, baselines, play.alive))

        return jax.grad(objective)(view.own)

    def _returns(self, play: Play, state: ActorCriticState, view: View) -> tuple[Array, Array]:
        """Discounted returns, bootstrapped at the end, and the critic's values, both ``(T, B)``."""
        values = self.critic(view.game, view.player).unroll(state.critic, play.observations())
        return discounted_returns(play.rewards(), view.game.gamma, values[-1], play.alive), values[:-1]

    def _stepped(
        self, gradient: Tree, state: ActorCriticState, play: Play, view: View
    ) -> tuple[Tree, ActorCriticState, Info]:
        """Takes the step and fits the critic to the same play."""
        value_function = self.critic(view.game, view.player)
        targets, _ = self._returns(play, state, view)

        def error(params: Tree) -> Array:
            values = value_function.unroll(params, play.observations(end=False))
            return 0.5 * step_mean(jnp.square(targets - values), play.alive)

        loss, slope = jax.value_and_grad(error)(state.critic)
        step, own = optimiser(self.optimiser, self.lr).update(gradient, state.optimiser)
        down, other = optimiser("sgd", self.critic_lr).update(jax.tree.map(jnp.negative, slope), state.critic_optimiser)
        params = optax.apply_updates(view.own, step)
        state = ActorCriticState(optax.apply_updates(state.critic, down), own, other)
        return params, state, {"critic_loss": loss}
