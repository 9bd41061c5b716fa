"""Naive policy gradient: the actor-critic that ignores that the others learn.

The LOLA paper's NL-PG. Its shaping learners are this one with a term added.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Learner, Play, View, field, pytree_dataclass
from shaping_bench.algorithms.core.rollouts import taken
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.estimators import discounted_returns, score_function
from shaping_bench.algorithms.parts.policies import NETWORKS, Critic, Policy, Tabular, actor, critic, resolved
from shaping_bench.games.base import Game


class ActorCriticState(NamedTuple):
    """What an actor-critic remembers beside its policy.

    Attributes:
      critic: parameters of the value function of the own returns.
      optimiser: state of the actor's optimiser.
      critic_optimiser: state of the critic's.
    """

    critic: Tree
    optimiser: Tree
    critic_optimiser: Tree


def optimiser(name: str, lr: Any, eps: float = 1e-8) -> optax.GradientTransformation:
    """``sgd`` or ``adam`` by name, for ascent: its updates are added to parameters. ``eps`` is Adam's."""
    rule = optax.sgd(lr) if name == "sgd" else optax.adam(lr, eps=eps)
    return optax.chain(optax.scale(-1.0), rule)


class NetworkLearner(Learner):
    """Base of those whose fields ``network`` and ``hidden`` choose what acts and what judges.

    It has no fields of its own: each learner declares them where they belong among its others.
    """

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    default_network: ClassVar[str] = "conv-lstm"
    """What ``network="auto"`` means where no table will do."""

    network: str
    hidden: int | None

    def network_for(self, game: Game) -> str:
        """The network's name, ``auto`` resolved.

        Raises:
          ValueError: a table or a convolution for a game that is not made for it.
        """
        return resolved(game, self.network, self.default_network)

    def check_game(self, game: Game, player: int) -> None:
        self.network_for(game)

    def policy(self, game: Game, player: int) -> Policy:
        return actor(game, self.network_for(game), player, self.hidden)

    def critic(self, game: Game, player: int) -> Critic:
        """The value function of a seat's returns."""
        return critic(game, self.network_for(game), player, self.hidden)


@pytree_dataclass
class NaivePG(NetworkLearner):
    """``theta <- theta + lr * grad E[sum_t gamma^t (R_t - V(s_t)) log pi(a_t)]``; the critic
    regresses on the discounted return, bootstrapped at the end of the episode."""

    access: ClassVar[Access] = Access.ACTIONS
    source = "Foerster et al., AAMAS 2018, eq. 4.5; official code (critic)"
    published: ClassVar = {"coin-game": {"lr": 0.005, "critic_lr": 0.1}}

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0)
    critic_lr: float = field(1.0, "step size of the critic, on half the mean squared error", low=0.0)
    batch_size: int = field(4000, "episodes per update", low=2, static=True)
    optimiser: str = field("sgd", "what turns gradients into steps", choices=("sgd", "adam"), static=True)
    network: str = field("auto", "policy and critic; auto: a table where one does", choices=NETWORKS, static=True)
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, ActorCriticState]:
        actor_key, critic_key = jax.random.split(key)
        params = initial_policy(actor_key, game, player, self.policy(game, player))
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
        seen, actions = play.observations()[:-1], play.actions()

        def objective(theta: Tree) -> Array:
            log_probs = taken(view.policy.unroll(theta, seen), actions)
            return jnp.mean(score_function(log_probs, returns, view.game.gamma, baselines))

        return jax.grad(objective)(view.own)

    def _returns(self, play: Play, state: ActorCriticState, view: View) -> tuple[Array, Array]:
        """Discounted returns, bootstrapped at the end, and the critic's values, both ``(T, B)``."""
        values = self.critic(view.game, view.player).unroll(state.critic, play.observations())
        return discounted_returns(play.rewards(), view.game.gamma, values[-1]), values[:-1]

    def _stepped(
        self, gradient: Tree, state: ActorCriticState, play: Play, view: View
    ) -> tuple[Tree, ActorCriticState, Info]:
        """Takes the step and fits the critic to the same play."""
        value_function = self.critic(view.game, view.player)
        targets, _ = self._returns(play, state, view)

        def error(params: Tree) -> Array:
            values = value_function.unroll(params, play.observations()[:-1])
            return 0.5 * jnp.mean(jnp.square(targets - values))

        loss, slope = jax.value_and_grad(error)(state.critic)
        step, own = optimiser(self.optimiser, self.lr).update(gradient, state.optimiser)
        down, other = optimiser("sgd", self.critic_lr).update(jax.tree.map(jnp.negative, slope), state.critic_optimiser)
        params = optax.apply_updates(view.own, step)
        state = ActorCriticState(optax.apply_updates(state.critic, down), own, other)
        return params, state, {"critic_loss": loss}


def initial_policy(key: Array, game: Game, player: int, policy: Policy) -> Tree:
    """The game's own start for memory-one tables, the network's for networks."""
    return game.init_params(key, player) if isinstance(policy, Tabular) else policy.init(key)
