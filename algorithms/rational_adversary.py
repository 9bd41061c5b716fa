"""The worst partner that is itself somebody's best response.

Whoever only wants to hurt another sabotages itself too, and what one learns from meeting it is little: no
rational partner would do so. Rational policy gradients (Lauffer et al., NeurIPS 2025, arXiv 2511.09535)
let the adversary learn for its own value alone, against a *manipulator* in the other's seat that is thrown
away afterwards. The manipulator carries the objective, and reaches it only through what the adversary learns from it.
"""

import jax
from jax import Array

from shaping_bench.algorithms.core import Info, Learner, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.meta_game import scalars
from shaping_bench.games.base import Game


@pytree_dataclass
class RationalAdversary(Learner):
    """``theta += lr grad U(theta, m)``, U the own value mixed with what is earned with the other itself, and
    ``m -= manipulator_lr grad_m V_other(theta'(m))``, theta' the policy after ``lookahead_steps`` such steps
    of size ``lookahead_lr``; m is the manipulator, at first the mean of the game's initial policies.

    Sit it beside a policy that does not learn: what that one keeps lies between what it keeps from its
    worst enemy and what it gets from its like. The adversarial-policy form of the paper, with exact values.
    """

    source = "Lauffer et al., NeurIPS 2025, arXiv 2511.09535, adversarial policy; official code"

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0, step=True)
    manipulator_lr: float = field(1.0, "step of the manipulator, on unnormalised values", low=0.0)
    lookahead_lr: float = field(1.0, "size of the own steps that the manipulator foresees", low=0.0)
    lookahead_steps: int = field(1, "own steps that the manipulator foresees", low=1, static=True, small=1)
    partner_share: float = field(0.1, "of what is learned from, play with the other itself", low=0.0, high=1.0)

    def check_game(self, game: Game, player: int) -> None:
        if game.n_players != 2:
            raise ValueError(f"is defined for 2 players, the game has {game.n_players}")

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        # A tuple of coordinates, as the other's policy may come as one or as a vector.
        return super().init(key, game, player)[0], scalars([game.init_mean] * game.sizes[1 - player])

    def slope(self, view: View, own: Tree, manipulator: Tree) -> Tree:
        """Gradient of U."""
        player, other = view.player, view.params[1 - view.player]

        def value(theta: Tree, partner: Tree) -> Array:
            pair = (theta, partner) if player == 0 else (partner, theta)
            return view.at(pair).value(player)

        def mixed(theta: Tree) -> Array:
            share = self.partner_share
            return (1.0 - share) * value(theta, manipulator) + share * value(theta, other)

        return jax.grad(mixed)(own)

    def harm(self, view: View, manipulator: Tree) -> Array:
        """What the other gets from the policy that the manipulator makes."""
        own = view.own
        for _ in range(self.lookahead_steps):
            own = trees.add(own, self.slope(view, own, manipulator), self.lookahead_lr)
        return view.moved({view.player: trees.add(own, view.own, -1.0)}).value(1 - view.player)

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        down = jax.grad(lambda m: self.harm(view, m))(state)
        moved = trees.add(view.own, self.slope(view, view.own, state), self.lr)
        return moved, trees.add(state, down, -self.manipulator_lr), {}
