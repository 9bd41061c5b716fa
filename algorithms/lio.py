"""LIO: learning to incentivise other learners.

A player learns a policy, and what it pays the others for what they do. Payments enter what the others learn from; so
where they are after their next step depends on them, and by the chain rule so does what the player then earns. That
is ascended, less a cost of paying.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Play, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns, played
from shaping_bench.algorithms.parts.giving import Giver, GivingLearner, given, reinforced
from shaping_bench.games.base import Game


class LIOState(NamedTuple):
    """What LIO remembers: states of the optimisers of what incentives gain, and of what they cost."""

    gain: Tree
    cost: Tree


@pytree_dataclass
class LIO(GivingLearner):
    """``theta_j' = theta_j + alpha grad U_j(theta_j, eta)`` of everybody, then ``eta_i`` ascends the own extrinsic
    return of episodes by ``theta'``, through ``theta'``, and descends what it pays."""

    access: ClassVar[Access] = Access.SIMULATOR
    source = "Yang et al., NeurIPS 2020 (arXiv 2006.06051), official code"
    published: ClassVar = {
        "matrix": {
            "lr": 1e-3,
            "lookahead_lr": 1e-3,
            "entropy": 0.1,
            "exploration": 1.0,
            "least_exploration": 0.01,
            "exploration_step": 0.99 / 5000,
            "cost_lr": 0.0,
            "hidden": 16,
            "last_hidden": 8,
            "offer_hidden": 16,
            "last_offer_hidden": 8,
        }
    }

    lr: float = field(1e-4, "own step size, on sums over an episode", low=0.0, step=True, small=0.1)
    lookahead_lr: float = field(1e-4, "alpha: step that the others are assumed to take", low=0.0)
    incentive_lr: float = field(1e-3, "step size of Adam, of what incentives gain", low=0.0, step=True)
    cost_lr: float = field(1e-4, "step size of another Adam, of what they cost", low=0.0, step=True)
    cost: float = field(0.0, "weight of what they cost within what they gain", low=0.0)
    batch_size: int = field(1, "episodes per update, and as many imagined ones", low=1, static=True, small=4)
    entropy: float = field(0.01, "weight of the policy's entropy, in nats", low=0.0)
    exploration: float = field(0.5, "probability of any action at first", low=0.0, high=1.0)
    least_exploration: float = field(0.1, "and at last", low=0.0, high=1.0)
    exploration_step: float = field(4e-4, "by which it falls in an update", low=0.0, step=True)
    hidden: int = field(64, "units of the policy's first layer", low=1, static=True, small=6)
    last_hidden: int = field(32, "and of its second", low=1, static=True, small=4)
    offer_hidden: int = field(64, "units of the first layer of what is paid", low=1, static=True, small=6)
    last_offer_hidden: int = field(16, "and of its second", low=1, static=True, small=4)

    def policy(self, game: Game, player: int) -> Giver:
        return self.giver(game, player, "offers")

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, LIOState]:
        params, _ = super().init(key, game, player)
        return params, LIOState(
            gain=optimiser("adam", self.incentive_lr).init(params["offers"]),
            cost=optimiser("adam", self.cost_lr).init(params["offers"]),
        )

    def update(self, key: Array, state: LIOState, view: View) -> tuple[Tree, LIOState, Info]:
        play = view.play(self.batch_size)
        weights = view.own["offers"]
        # The others' next policies depend on what this player pays, the own one does not.
        after = [
            reinforced(view.policy, view.own, play, j, play.rewards(), entropy=self.entropy, lr=self.lr)
            if j == view.player
            else self.next(weights, play, view, j)
            for j in range(view.n_players)
        ]
        imagined = view.imagine(key, view.policies, after, self.batch_size)

        def gain(weights: Tree) -> Array:
            return self.gain(weights, play, imagined, view) - self.cost * self.paid(weights, play)

        up, first = optimiser("adam", self.incentive_lr).update(jax.grad(gain)(weights), state.gain)
        paid, slope = jax.value_and_grad(self.paid)(weights, play)
        down, second = optimiser("adam", self.cost_lr).update(trees.scale(-1.0, slope), state.cost)
        weights = optax.apply_updates(optax.apply_updates(weights, up), down)
        params = self.explored_less(after[view.player]) | {"offers": weights}
        return params, LIOState(gain=first, cost=second), {"paid_share": paid, "exploring": params["exploration"]}

    def next(self, weights: Tree, play: Play, view: View, player: int) -> Tree:
        """Another player's parameters after a step of REINFORCE, differentiable in what this one pays.

        Args:
          weights: of the own offers.
          play: that it learns from; everybody's actions and rewards, but for the own payments, are data.
          view: the own.
          player: who learns.
        """
        theta, policy = view.params[player], view.policies[player]
        if not jax.tree.leaves(theta):  # a script learns nothing
            return theta
        rewards = play.rewards(player)
        if view.game.payments != "none":  # type: ignore[attr-defined]
            column = view.others.index(player)
            paid = view.game.most * self._shares(weights, play)[..., column]  # type: ignore[attr-defined]
            rewards = rewards - given(play, view.player)[..., column] + paid
        return reinforced(policy, theta, play, player, rewards, entropy=self.entropy, lr=self.lookahead_lr)

    def gain(self, weights: Tree, play: Play, imagined: Play, view: View) -> Array:
        """What stands for the own extrinsic return after the others' step: the log-probabilities of what they then do,
        without exploration as in the official code, weighed by what this player then earns.

        Args:
          weights: of the own offers.
          play: before the step.
          imagined: episodes after it.
          view: the own.
        """
        earned = imagined.trajectory.info["earned"][..., view.player]
        worth = discounted_returns(earned, view.game.gamma, alive=imagined.alive)
        total = jnp.zeros(())
        for j in view.others:
            if jax.tree.leaves(view.params[j]):
                policy = view.learners[j].valued_policy(view.game, j)
                log_probs = imagined.log_probs(policy, self.next(weights, play, view, j), j)
                total += jnp.mean(jnp.sum(played(worth * log_probs, imagined.alive), axis=0))
        return total

    def paid(self, weights: Tree, play: Play) -> Array:
        """Discounted sum of what is paid in an episode, in shares of the most that can be."""
        paid = played(jnp.sum(self._shares(weights, play), axis=-1), play.alive)
        discounts = jnp.asarray(play.game.gamma, paid.dtype) ** jnp.arange(len(paid))
        return jnp.mean(discounts @ paid)

    def _shares(self, weights: Tree, play: Play) -> Array:
        return self.policy(play.game, play.player).paid(weights, play, play.player)
