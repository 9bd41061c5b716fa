"""Policy gradients that may give: LIO's controls.

Giving is an action like others, learned from the player's own reward: a fixed amount to whom it likes, whatever they
do in this step (``give=gifts``), or an amount that is drawn for what they do (``give=drawn``). Who pays by an action
has no reason to: what it brings comes only after the other has learnt.
"""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import Access, Info, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.giving import Giver, GivingLearner, given, reinforced
from shaping_bench.games.base import Game


@pytree_dataclass
class IncentivePG(GivingLearner):
    """``theta <- theta + lr grad sum_t (G_t log pi(a_t, gift_t) + entropy H_t)`` over the own rewards, payments
    included, of one episode."""

    access: ClassVar[Access] = Access.ACTIONS
    source = "Yang et al., NeurIPS 2020, official code (policy gradient with discrete and continuous gifts)"

    give: str = field(
        "gifts",
        "gifts: a fixed amount, whatever the others do; drawn: a random amount for what they do; nothing",
        choices=("gifts", "drawn", "nothing"),
        static=True,
    )
    lr: float = field(1e-3, "own step size, on sums over an episode", low=0.0, step=True, small=0.1)
    batch_size: int = field(1, "episodes per update", low=1, static=True, small=4)
    entropy: float = field(0.01, "weight of the policy's entropy, in nats", low=0.0)
    cost: float = field(1e-4, "what it takes giving to cost where the game lets it cost nothing", low=0.0)
    exploration: float = field(1.0, "probability of any action at first", low=0.0, high=1.0, small=0.5)
    least_exploration: float = field(0.1, "and at last", low=0.0, high=1.0)
    exploration_step: float = field(9e-4, "by which it falls in an update", low=0.0, step=True)
    hidden: int = field(64, "units of the policy's first layer", low=1, static=True, small=6)
    last_hidden: int = field(32, "and of its second", low=1, static=True, small=4)
    offer_hidden: int = field(64, "units of the first layer of what is given", low=1, static=True, small=6)
    last_offer_hidden: int = field(16, "and of its second", low=1, static=True, small=4)

    def policy(self, game: Game, player: int) -> Giver:
        return self.giver(game, player, self.give)

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        play = view.play(self.batch_size)
        rewards = play.rewards()
        if view.game.payments == "minted":  # type: ignore[attr-defined]
            rewards = rewards - self.cost * jnp.sum(given(play, view.player), axis=-1)
        params = reinforced(view.policy, view.own, play, view.player, rewards, entropy=self.entropy, lr=self.lr)
        return self.explored_less(params), state, {"exploring": params["exploration"]}
