"""LOLA by policy gradients: eq. 4.4 with every factor estimated from play.

The direction of player i, with the other players j, is

    g_i + eta sum_j (grad_i grad_j V_j) grad_j V_i

The first factor of each product is the cross derivative of eq. 4.6, the second an ordinary
policy gradient by the parameters of j. ``lola-om`` is the same rule where j's parameters are
not known but inferred from what j is seen to do.

The official code differs by factors: it takes means over the actions of ``onehot * log pi``,
and so has an effective ``eta = 1/2`` in games of two actions, and ``eta = 1/8`` with half the
own step in the Coin Game's four. Here these are hyperparameters like others.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Play, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import ActorCriticState
from shaping_bench.algorithms.parts.estimators import cross_product, leave_one_out, lola_pg_surrogate, score_function
from shaping_bench.algorithms.parts.opponent_models import Modelling, Models
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.games.base import Game

FOERSTER = "Foerster et al., AAMAS 2018"


class Opponent(NamedTuple):
    """Another player as a shaping learner sees it.

    Attributes:
      policy: what acts.
      params: its parameters, or a model of them.
    """

    policy: Policy
    params: Tree

    @property
    def learns(self) -> bool:
        """A policy without parameters cannot be shaped."""
        return bool(jax.tree.leaves(self.params))


@pytree_dataclass
class LOLAPG(NaivePG):
    """Naive policy gradient plus ``eta`` times the sampled shaping term (eq. 4.7)."""

    access: ClassVar[Access] = Access.GRADIENTS
    source = f"{FOERSTER}, eq. 4.6 and 4.7"
    # The official code's, with its factors.
    published: ClassVar = {"coin-game": {"lr": 0.0025, "lookahead_lr": 0.125, "critic_lr": 0.1}}

    lookahead_lr: float = field(1.0, "step the opponents are assumed to take, on unnormalised values", low=0.0)
    split_batch: bool = field(
        True,
        "estimate the two factors of the shaping term on different halves of the batch, either way round; "
        "on the same episodes, as in the official code, their covariance is a bias",
        static=True,
    )

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if self.split_batch and (self.batch_size < 4 or self.batch_size % 2):
            raise ValueError(f"has batch_size={self.batch_size}; allowed with split_batch: even numbers from 4")

    def update(self, key: Array, state: Any, view: View) -> tuple[Tree, Any, Info]:
        del key
        play = view.play(self.batch_size)
        opponents = {j: Opponent(view.policies[j], view.params[j]) for j in view.others}
        return self._shaping_step(opponents, state, play, view)

    def _shaping_step(
        self, opponents: Mapping[int, Opponent], state: ActorCriticState, play: Play, view: View
    ) -> tuple[Tree, ActorCriticState, Info]:
        gradient = self.policy_gradient(play, state, view)
        shaping = self.shaping_term(opponents, play, state, view)
        params, state, info = self._stepped(trees.add(gradient, shaping, self.lookahead_lr), state, play, view)
        return params, state, {**info, "gradient_norm": _norm(gradient), "shaping_norm": _norm(shaping)}

    def shaping_term(self, opponents: Mapping[int, Opponent], play: Play, state: ActorCriticState, view: View) -> Tree:
        """``sum_j (grad_i grad_j V_j) grad_j V_i``, like the own parameters."""
        returns, baselines = self._returns(play, state, view)
        half = self.batch_size // 2
        first, second, everything = slice(None, half), slice(half, None), slice(None)
        pairs = [(first, second), (second, first)] if self.split_batch else [(everything, everything)]

        total = jax.tree.map(jnp.zeros_like, view.own)
        for j, opponent in opponents.items():
            if not opponent.learns:
                continue
            for here, there in pairs:
                worth = worth_of_step(j, opponent, play.episodes(there), (returns - baselines)[:, there])
                term = shaping_product(j, opponent, play.episodes(here), view, worth)
                total = trees.add(total, term, 1.0 / len(pairs))
        return total


def worth_of_step(j: int, opponent: Opponent, play: Play, advantages: Array) -> Tree:
    """``grad_j V_i``: what a step of the opponent j is worth to the player.

    Args:
      j, opponent: who.
      play: by both.
      advantages: the player's own, ``(T, B)``.
    """

    def value(theta: Tree) -> Array:
        log_probs = play.log_probs(opponent.policy, theta, j)
        return jnp.mean(score_function(log_probs, advantages, play.game.gamma, alive=play.alive))

    return jax.grad(value)(opponent.params)


def shaping_product(j: int, opponent: Opponent, play: Play, view: View, worth: Tree) -> Tree:
    """``(grad_i grad_j V_j) worth`` by eq. 4.6, like the own parameters.

    The baseline, here the mean over the other episodes, must not depend on the episode: a
    value of the state, the outcome of earlier moves of both, would be a bias.

    Args:
      j, opponent: who.
      play: by both.
      view: the player's.
      worth: like the opponent's parameters.
    """
    rewards = play.rewards(j)
    baselines = leave_one_out(rewards, play.alive)

    def surrogate(own: Tree, other: Tree) -> Array:
        scores = play.log_probs(view.policy, own), play.log_probs(opponent.policy, other, j)
        return jnp.mean(lola_pg_surrogate(*scores, rewards, play.game.gamma, baselines, play.alive))

    return cross_product(surrogate, view.own, opponent.params, worth)


class ModellingState(NamedTuple):
    """What LOLA with opponent modelling remembers: an actor-critic's state, and its models."""

    actor_critic: ActorCriticState
    models: Models


@pytree_dataclass
class LOLAOM(Modelling, LOLAPG):
    """LOLA-PG against a model of the opponent (eq. 4.8), which sees nothing but its actions.

    The released code fits each player's model to the player itself; here, as in the paper, it
    is fitted to the other.
    """

    access: ClassVar[Access] = Access.ACTIONS
    source = f"{FOERSTER}, eq. 4.8"
    # The code's step of 0.1 is on a mean over four actions.
    published: ClassVar = {**LOLAPG.published, "coin-game": {**LOLAPG.published["coin-game"], "model_lr": 0.025}}

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Any]:
        own_key, model_key = jax.random.split(key)
        params, state = LOLAPG.init(self, own_key, game, player)
        return params, ModellingState(state, self.models_at_first(model_key, game, player))

    def update(self, key: Array, state: Any, view: View) -> tuple[Tree, Any, Info]:
        del key
        play = view.play(self.batch_size)
        models, fit = self.fit_models(state.models, play, view)
        opponents = {
            j: Opponent(self.policy(view.game, j), params) for j, params in zip(view.others, models.params, strict=True)
        }
        params, actor_critic, info = self._shaping_step(opponents, state.actor_critic, play.by_the_rules(), view)
        return params, ModellingState(actor_critic, models), {**info, **fit}


def _norm(tree: Tree) -> Array:
    return jnp.sqrt(trees.dot(tree, tree))
