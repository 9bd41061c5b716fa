"""Basin entry: one step that takes one step of everybody's learning into account.

Shcherbinin, Redina, Kalpin, Kochetov (arXiv 2605.18078) ask of Meta-MAPG's gradient not how well its
fixed points are but how often learning ends at the better one of several. Theirs is a rule of single
updates, of which the paper estimates three terms from play; here they are exact.
"""

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import GradientLearner, Info, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced


@pytree_dataclass
class BasinEntry(GradientLearner):
    """``g + own eta H g + peer eta S``: the gradient, how it changes with the own next step (H is the
    Hessian of the own value in the own parameters), and the shaping term. The step falls with the
    number k of updates done, ``lr / (k + delay)^decay``, and logits are clipped.

    ``own=0`` is the paper's peer-only rule, ``peer=0`` its Meta-PG, both zero its policy gradient.
    With several others S sums over them, as LOLA's does.
    """

    source = "Shcherbinin, Redina, Kalpin, Kochetov 2026, arXiv 2605.18078, official code"

    lr: float = field(0.9, "own step size before it falls, on unnormalised values", low=0.0, step=True)
    decay: float = field(0.24, "power by which the step falls; 0: it stays", low=0.0)
    delay: float = field(10.0, "updates by which its fall begins earlier", low=0.0, exclusive=True)
    lookahead_lr: float = field(0.55, "eta, the step that everybody is assumed to take", low=0.0)
    own: float = field(0.35, "weight of the term of the own learning", low=0.0)
    peer: float = field(1.5, "weight of the term of the others' learning", low=0.0)
    bound: float = field(8.0, "largest size of a parameter", low=0.0, exclusive=True)

    def direction(self, view: View) -> Tree:
        gradient = view.gradient()

        def own_gradient(own: Tree) -> Tree:
            return view.at(replaced(view.params, view.player, own)).gradient()

        curvature = jax.jvp(own_gradient, (view.own,), (gradient,))[1]
        anticipating = trees.add(gradient, curvature, self.own * self.lookahead_lr)
        return trees.add(anticipating, view.shaping_term(), self.peer * self.lookahead_lr)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        return super().init(key, game, player)[0], jnp.zeros(())

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        step = self.lr / (state + self.delay) ** self.decay
        moved = trees.add(view.own, self.direction(view), step)
        clipped = jax.tree.map(lambda x: jnp.clip(x, -self.bound, self.bound), moved)
        return clipped, state + 1.0, {"step": step}
