"""Naive learning: everybody ascends its own value, ignoring that the others learn."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import GradientLearner, Info, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game


@pytree_dataclass
class Naive(GradientLearner):
    """Simultaneous gradient ascent, ``d_i = grad_i V_i`` (LOLA paper, eq. 4.1; NL-Ex).

    With ``optimiser="adam"`` the gradient is rescaled as in Kingma & Ba (ICLR 2015) with the
    usual decay rates 0.9 and 0.999: ``lr`` is then about the change of a logit per update. It
    is the opponent that rules which assume a plain gradient step do not expect.
    """

    source = "Foerster et al., AAMAS 2018, eq. 4.1"

    # Named, so that type checkers see the default: rules that build their opponent do not name it.
    optimiser: str = field(default="sgd", doc="what turns gradients into steps", choices=("sgd", "adam"), static=True)

    def direction(self, view: View) -> Tree:
        return view.gradient()

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        params, state = super().init(key, game, player)
        if self.optimiser == "adam":
            # One vector, whether parameters come as a vector or as scalars.
            state = optax.scale_by_adam().init(jnp.zeros(game.sizes[player], jnp.result_type(float)))
        return params, state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        if self.optimiser == "sgd":
            return super().update(key, state, view)
        leaves, structure = jax.tree.flatten(self.direction(view))
        slope = jnp.concatenate([jnp.atleast_1d(x) for x in leaves])
        step, state = optax.scale_by_adam().update(slope, state)
        parts = jnp.split(step, len(leaves)) if len(leaves) > 1 else [step]
        step = jax.tree.unflatten(structure, [x.reshape(y.shape) for x, y in zip(parts, leaves, strict=True)])
        return jax.tree.map(lambda theta, d: theta + self.lr * d, view.own, step), state, {}
