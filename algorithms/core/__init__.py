"""What a learner is, and what it may see.

A learner is a frozen dataclass of hyperparameters that is a pytree, with pure ``init``
and ``update``. It meets the game through a :class:`View`, which holds what its access
level allows and refuses the rest. The view of gradients has the three quantities every
exact shaping rule is made of::

    view.gradient()         g_i = grad_i V_i
    view.lookahead_term()   A_i = sum_j (grad_i grad_j V_i) grad_j V_j
    view.shaping_term()     S_i = sum_j (grad_i grad_j V_j) grad_j V_i

so that LookAhead is ``g + eta A``, LOLA ``g + eta S``, and LOLA with the full Taylor
expansion is LookAhead plus the shaping term.

In a sampled game ``view.play(batch_size)`` are episodes of the current policies against one
another; learners that ask for equally many see the same ones.
"""

from shaping_bench.algorithms.core import trees
from shaping_bench.algorithms.core.access import Access, AccessError
from shaping_bench.algorithms.core.learner import Direction, GradientLearner, Info, Learner, PreparedLearner, with_info
from shaping_bench.algorithms.core.memory import Memory
from shaping_bench.algorithms.core.play import Play
from shaping_bench.algorithms.core.stage import Joint, Stage
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.core.view import View
from shaping_bench.games.fields import field, pytree_dataclass

__all__ = [
    "Access",
    "AccessError",
    "Direction",
    "GradientLearner",
    "Info",
    "Joint",
    "Learner",
    "Memory",
    "Play",
    "PreparedLearner",
    "Stage",
    "Tree",
    "View",
    "field",
    "pytree_dataclass",
    "trees",
    "with_info",
]
