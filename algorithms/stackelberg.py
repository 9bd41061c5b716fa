"""Leading: the own gradient if all others always were at their best response.

What LOLA does with one assumed step of the others, taken to its limit: they have converged, and how
their end moves with the own parameters follows from the implicit function theorem.
"""

import jax
import jax.numpy as jnp

from shaping_bench.algorithms.core import GradientLearner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts import joint
from shaping_bench.games.views import replaced


@pytree_dataclass
class Stackelberg(GradientLearner):
    """The leader's total derivative ``grad_i V_i - (grad_i G_F)' (J_FF - ridge I)^-T grad_F V_i``, with
    ``G_F`` the others' own gradients, ``J_FF`` their derivative in the others' parameters (of two
    players the other's own Hessian) and ``grad_F V_i`` what the others' parameters are worth to i.

    The others are followers: play it against ``naive``, with a smaller step. In self-play everybody leads.
    Where ``J_FF - ridge I`` is singular nobody's answer is defined, and the own gradient is left.
    """

    source = "Fiez, Chasnov, Ratliff, ICML 2020"

    ridge: float = field(0.0, "what the followers are assumed to lose by half the square of their parameters", low=0.0)

    def direction(self, view: View) -> Tree:
        followers = view.others

        def gradients(own: Tree) -> list[Tree]:
            here = view.at(replaced(view.params, view.player, own))
            return [here.gradient(of=j, wrt=j) for j in followers]

        rows = [jnp.concatenate([joint.jacobian_block(view, a, b) for b in followers], 1) for a in followers]
        own_curvature = jnp.concatenate(rows)
        worth = joint.concatenated(tuple(view.gradient(wrt=j) for j in followers))
        system = own_curvature.T - self.ridge * jnp.eye(worth.size, dtype=worth.dtype)
        answer, determinant = joint.solve(system, worth)
        answer = jnp.where(determinant == 0, 0.0, answer)
        stops = [sum(view.game.sizes[j] for j in followers[: k + 1]) for k in range(len(followers))]
        parts = jnp.split(answer, stops[:-1])
        _, pullback = jax.vjp(gradients, view.own)
        (following,) = pullback([joint.block(view, j, part) for j, part in zip(followers, parts, strict=True)])
        return jax.tree.map(jnp.subtract, view.gradient(), following)
