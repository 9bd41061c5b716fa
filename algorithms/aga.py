"""Altruistic gradient adjustment: everybody ascends the sum of values, bent towards what each wants.

It presumes that the players want to cooperate: the collective gradient is theirs to follow.
"""

import jax
import jax.numpy as jnp

from shaping_bench.algorithms.core import GradientLearner, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts import joint


@pytree_dataclass
class AgA(GradientLearner):
    """The own block of ``C + lambda (G - K)``: C is the gradient of the sum of values, G everybody's own
    gradient, ``K = grad |C|^2 / 2`` how the first one's size grows. The sign of lambda is that of
    ``-<C, K> (|K|^2 - <G, K>)``, which pulls towards stable fixed points of the sum and away from
    unstable ones.
    """

    source = "Li et al., NeurIPS 2024, arXiv 2402.12416 (from its abstract and public summaries)"

    alignment: float = field(0.1, "size of lambda", low=0.0)

    def direction(self, view: View) -> Tree:
        players = range(view.n_players)

        def collective(params: joint.Joint) -> joint.Joint:
            here = view.at(params)
            gradients = [[here.gradient(of=i, wrt=j) for i in players] for j in players]
            return tuple(jax.tree.map(lambda *x: sum(x[1:], x[0]), *of_all) for of_all in gradients)

        own = joint.simultaneous_gradient(view)
        # The Hessian of a sum is symmetric: its product with C is a derivative along C.
        ascent, growth = jax.jvp(collective, (tuple(view.params),), (collective(tuple(view.params)),))
        pull = trees.dot(growth, growth) - trees.dot(own, growth)
        sign = jnp.where(trees.dot(ascent, growth) * pull > 0, -1.0, 1.0)
        i = view.player
        adjustment = trees.add(own[i], growth[i], -1.0)
        return trees.add(ascent[i], adjustment, self.alignment * sign)
