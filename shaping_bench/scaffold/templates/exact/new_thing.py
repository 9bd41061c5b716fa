"""New thing: say in one sentence what the rule assumes of the others.

Say here where it comes from, and in what it differs from its relatives.
"""

from shaping_bench.algorithms.core import Access, GradientLearner, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree


@pytree_dataclass
class NewThing(GradientLearner):
    """``d_i = grad_i [V_i + care sum_j V_j]``, followed with step size ``lr``.

    Put your own equation here and into ``direction``.
    """

    access = Access.GRADIENTS  # what it may see of the others: ACTIONS < REWARDS < GRADIENTS < SIMULATOR
    source = "new"  # paper and equation

    # One field per hyperparameter: default, meaning, range. Suites write new-thing(care=0.9).
    care: float = field(0.5, "weight of the others' values", low=0.0)

    def direction(self, view: View) -> Tree:
        # Change this. The view also offers lookahead_term(), shaping_term(), gradient(of=j, wrt=i), and
        # moved({j: step}, scale) for what would be if the others had moved.
        direction = view.gradient()
        for j in view.others:
            direction = trees.add(direction, view.gradient(of=j), self.care)
        return direction
