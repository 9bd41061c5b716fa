"""LOLA-DiCE: differentiates through sampled learning steps of the opponents.

Player i plays the current policies, takes the naive gradient steps of the others that this
play suggests, plays again against who they would then be, and so on for k steps; its own
objective, on play against the last of them, is differentiated through all of that. DiCE
makes each sampled gradient depend on the own parameters as the exact one does: its
objectives hold the log-probabilities of *all* players, inner and outer ones alike.

In expectation over large batches the direction is that of ``lola-exact``; with small ones
it is not, for it is nonlinear in the noise of the inner steps. With no step it is that of
``naive-pg``.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Play, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import (
    dice_objective,
    discounted_returns,
    gae,
    leave_one_out,
    loaded_dice,
    played,
    score_function,
    step_mean,
)
from shaping_bench.algorithms.parts.opponent_models import Modelling, Models
from shaping_bench.algorithms.parts.policies import Critic, network_field
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced


class DiCEState(NamedTuple):
    """What LOLA-DiCE remembers beside its policy.

    Attributes:
      critics: per player, parameters of a value function of its returns; empty without critics.
      optimiser: state of the actor's optimiser.
      critic_optimisers: states of the critics'.
    """

    critics: tuple[Tree, ...]
    optimiser: Tree
    critic_optimisers: tuple[Tree, ...]


@pytree_dataclass
class LOLADiCE(NetworkLearner):
    """``theta_i <- theta_i + lr grad_i J_i(theta_i, y_k(theta_i))`` with sampled DiCE objectives
    J and ``y_{m+1} = y_m + eta grad_j J_j(theta_i, y_m)``, fresh play at each."""

    access: ClassVar[Access] = Access.SIMULATOR
    source = "Foerster et al., ICML 2018, section 4; Farquhar et al., NeurIPS 2019 (Loaded DiCE)"

    lr: float = field(0.2, "own step size, on unnormalised values", low=0.0, step=True)
    lookahead_lr: float = field(0.3, "step the opponents are assumed to take, on unnormalised values", low=0.0)
    lookahead_steps: int = field(1, "number of imagined steps of the opponents", low=0, static=True, small=1)
    batch_size: int = field(64, "episodes per imagined step, and for the own step", low=2, static=True, small=16)
    loaded: bool = field(True, "Loaded DiCE, whose baseline works for every order; otherwise DiCE", static=True)
    baseline: str = field(
        "leave-one-out",
        "critic: state values learnt from everybody's rewards; leave-one-out: the mean return of the other episodes",
        choices=("critic", "leave-one-out", "none"),
        static=True,
    )
    critic_lr: float = field(1.0, "step size of the critics, on half the mean squared error", low=0.0, step=True)
    lam: float = field(1.0, "Loaded DiCE with a critic: weight of longer returns; below 1 is a bias", low=0.0, high=1.0)
    magic_box: bool = field(
        True, "without it objectives are plain surrogates, whose cross derivatives vanish", static=True
    )
    optimiser: str = field("sgd", "what turns gradients into own steps", choices=("sgd", "adam"), static=True)
    network: str = network_field("policy and critics; auto: a table where one does")
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True, small=8)

    @property
    def width(self) -> int:
        return self.batch_size

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Any]:
        actor_key, critic_key = jax.random.split(key)
        params = self.policy(game, player).init_in(actor_key, game, player)
        seats = range(game.n_players) if self.baseline == "critic" else ()
        values = tuple(self.critic(game, j).init(jax.random.fold_in(critic_key, j)) for j in seats)
        critic_optimiser = optimiser("sgd", self.critic_lr)
        return params, DiCEState(
            values, optimiser(self.optimiser, self.lr).init(params), tuple(critic_optimiser.init(x) for x in values)
        )

    def update(self, key: Array, state: Any, view: View) -> tuple[Tree, Any, Info]:
        # What was really played is a sample of the first imagined step's play.
        play = view.play(self.batch_size)
        gradient, info = self.direction(key, view.policies, view.params, state.critics, view, first=play)
        params, state = self._stepped(gradient, state, play, view)
        return params, state, info

    def direction(
        self,
        key: Array,
        policies: Sequence[Policy],
        params: Sequence[Tree],
        critics: Sequence[Tree],
        view: View,
        first: Play | None = None,
    ) -> tuple[Tree, Info]:
        """``grad_i J_i(theta_i, y_k(theta_i))``, like the own parameters.

        Args:
          key: randomness of imagined play.
          policies: everybody's.
          params: everybody's parameters; those of others may be a model.
          critics: everybody's value functions, or nothing.
          view: the player's.
          first: play of ``params``; imagined too if not given.
        """
        i = view.player
        others = [j for j in view.others if jax.tree.leaves(params[j])]

        def play(m: int, params: Sequence[Tree]) -> Play:
            if m == 0 and first is not None:
                return first
            return view.imagine(jax.random.fold_in(key, m), policies, params, self.batch_size)

        def imagined_step(params: tuple[Tree, ...], play: Play) -> tuple[Tree, ...]:
            # Rematerialised: a step keeps what was played, but not what was computed on it.
            @jax.checkpoint
            def moved(params: tuple[Tree, ...], trajectory: Trajectory) -> tuple[Tree, ...]:
                seen = play.of(trajectory)
                steps = {
                    j: jax.grad(
                        lambda y, j=j: self.objective(policies, replaced(params, j, y), critics, seen, j, view)
                    )(params[j])
                    for j in others
                }
                return tuple(
                    trees.add(x, steps[j], self.lookahead_lr) if j in steps else x for j, x in enumerate(params)
                )

            return moved(params, play.trajectory)

        def anticipated_value(own: Tree) -> Array:
            imagined = replaced(params, i, own)
            for m in range(self.lookahead_steps):
                imagined = imagined_step(imagined, play(m, imagined))
            return self.objective(policies, imagined, critics, play(self.lookahead_steps, imagined), i, view)

        gradient = jax.grad(anticipated_value)(view.own)
        return gradient, {"gradient_norm": jnp.sqrt(trees.dot(gradient, gradient))}

    def objective(
        self,
        policies: Sequence[Policy],
        params: Sequence[Tree],
        critics: Sequence[Tree],
        play: Play,
        player: int,
        view: View,
    ) -> Array:
        """Whose derivatives estimate those of the player's value; a scalar.

        Args:
          policies, params: everybody's.
          critics: everybody's, or nothing.
          play: by these policies.
          player: whose value is meant.
          view: anybody's.
        """
        gamma, rewards, alive = view.game.gamma, play.rewards(player), play.alive
        log_probs = [
            play.log_probs(policy, theta, j)
            for j, (policy, theta) in enumerate(zip(policies, params, strict=True))
            # A fixed strategy's have no derivative.
            if jax.tree.leaves(theta)
        ]
        joint = jnp.sum(jnp.stack(log_probs, axis=-1), axis=-1, keepdims=True)
        returns = discounted_returns(rewards, gamma, alive=alive)
        values, bootstrap = jnp.zeros_like(rewards), jnp.zeros_like(rewards[0])
        if self.baseline == "leave-one-out":
            values = leave_one_out(returns, alive)
        elif self.baseline == "critic":
            everywhere = self.critic(view.game, player).unroll(critics[player], play.observations(player))
            values, bootstrap = everywhere[:-1], everywhere[-1]
            returns = discounted_returns(rewards, gamma, bootstrap, alive)
        if not self.magic_box:
            return jnp.mean(score_function(joint[..., 0], returns, gamma, values, alive))
        if not self.loaded:
            return jnp.mean(dice_objective(joint, rewards, gamma, None if self.baseline == "none" else values, alive))
        if self.baseline == "critic":
            advantages = gae(rewards, values, bootstrap, gamma, self.lam, alive)
        else:
            advantages = played(returns - values, alive)
        return jnp.mean(loaded_dice(joint, advantages, gamma))

    def _stepped(self, gradient: Tree, state: DiCEState, play: Play, view: View) -> tuple[Tree, DiCEState]:
        """Takes the own step and fits the critics to what was really played."""
        step, own = optimiser(self.optimiser, self.lr).update(gradient, state.optimiser)
        params = optax.apply_updates(view.own, step)
        critics, memories = [], []
        for j, values in enumerate(state.critics):
            value_function, seen = self.critic(view.game, j), play.observations(j, end=False)
            last = value_function.unroll(values, play.observations(j))[-1]
            targets = discounted_returns(play.rewards(j), view.game.gamma, last, play.alive)

            def error(values: Tree, f: Critic = value_function, seen: Tree = seen, targets: Array = targets) -> Array:
                return -0.5 * step_mean(jnp.square(targets - f.unroll(values, seen)), play.alive)

            down, memory = optimiser("sgd", self.critic_lr).update(jax.grad(error)(values), state.critic_optimisers[j])
            critics.append(optax.apply_updates(values, down))
            memories.append(memory)
        return params, DiCEState(tuple(critics), own, tuple(memories))


class ModellingState(NamedTuple):
    """What LOLA-DiCE with opponent modelling remembers: its own state, and its models."""

    dice: DiCEState
    models: Models


@pytree_dataclass
class LOLADiCEOM(Modelling, LOLADiCE):
    """LOLA-DiCE against a model of the opponent, in the look-ahead and in the outer objective,
    which sees nothing but the opponent's actions."""

    access: ClassVar[Access] = Access.ACTIONS
    source = "Foerster et al., ICML 2018, section 4; official code (opponent model)"

    # As the first public version of the code: five epochs of four minibatches.
    model_steps: int = field(20, "steps of the models at each later update", low=0, static=True, small=2)

    @property
    def reads_rewards(self) -> bool:
        return self.baseline == "critic"

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Any]:
        own_key, model_key = jax.random.split(key)
        params, state = LOLADiCE.init(self, own_key, game, player)
        return params, ModellingState(state, self.models_at_first(model_key, game, player))

    def update(self, key: Array, state: Any, view: View) -> tuple[Tree, Any, Info]:
        play = view.play(self.batch_size)
        models, fit = self.fit_models(state.models, play, view)
        policies = [self.policy(view.game, j) for j in range(view.n_players)]
        params = list(models.params)
        params.insert(view.player, view.own)
        gradient, info = self.direction(key, policies, params, state.dice.critics, view)
        # Critics of others learn from what the rules pay them; without critics nobody's rewards are asked.
        own, dice = self._stepped(gradient, state.dice, play.by_the_rules() if state.dice.critics else play, view)
        return own, ModellingState(dice, models), {**info, **fit}
