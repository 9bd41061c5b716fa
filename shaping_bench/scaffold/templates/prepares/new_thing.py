"""New thing: say in one sentence what is learned before anybody is met.

Say here where it comes from, and in what it differs from its relatives.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import Access, Info, PreparedLearner, View, costs, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game


@pytree_dataclass
class NewThing(PreparedLearner):
    """Starts where naive learners end on average in imagined encounters, and then learns naively.

    Put your own idea here, into ``prepare_step`` (what is learned) and ``init`` or ``update`` (how it is used).
    """

    access: ClassVar[Access] = Access.GRADIENTS
    source = "new"  # paper and equation

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0, step=True)
    num_steps: int = field(200, "steps of preparation", low=1, static=True)
    imagined_updates: int = field(50, "updates of an imagined encounter", low=1, static=True)
    imagined_lr: float = field(1.0, "step size in imagined encounters", low=0.0)
    rate: float = field(0.05, "weight of the newest encounter in the average", low=0.0, high=1.0)

    @property
    def preparation_steps(self) -> int:
        return self.num_steps

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        # Arrays only; looping, checkpoints and storage are the harness's.
        return jnp.asarray(game.init_params(key, player), jnp.result_type(float))

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        keys = jax.random.split(key, game.n_players)
        start = tuple(jnp.asarray(game.init_params(k, i), carry.dtype) for i, k in enumerate(keys))

        def updated(_: int, params: tuple[Array, ...]) -> tuple[Array, ...]:
            view = View(game, params, player, self.access)
            return tuple(trees.add(x, view.gradient(of=i, wrt=i), self.imagined_lr) for i, x in enumerate(params))

        with costs.repeated(self.imagined_updates):  # a loop's body is traced once, and charged as often as it runs
            end = jax.lax.fori_loop(0, self.imagined_updates, updated, start)
        return carry + self.rate * (end[player] - carry), {"imagined_value": game.value(end, player)}

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        start, state = super().init(key, game, player)
        return (start if artifact is None else artifact), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        return trees.add(view.own, view.gradient(), self.lr), state, {}
