"""Naive learning: everybody ascends its own value, ignoring that the others learn."""

from algorithms.base import GradientLearner, View, pytree_dataclass
from algorithms.trees import Tree


@pytree_dataclass
class Naive(GradientLearner):
    """Simultaneous gradient ascent, ``d_i = grad_i V_i`` (LOLA paper, eq. 4.1; NL-Ex)."""

    source = "Foerster et al., AAMAS 2018, eq. 4.1"

    def direction(self, view: View) -> Tree:
        return view.gradient()
