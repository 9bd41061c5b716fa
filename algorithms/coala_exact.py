"""COALA in games whose values are known: the paper's analytic version.

Meulemans et al., ICLR 2025 (arXiv 2410.18636), section 4 and appendix C. An agent that is learned for two
kinds of company at once: for naive learners, through whose updates it differentiates, and for agents like
itself, whose policies it takes as they are. How much of each decides between extortion, cooperation and defection.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Info, Learner, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced


@pytree_dataclass
class COALAExact(Learner):
    """AdamW on ``p grad E[mean_m V_i(theta_i, psi_m)] + (1 - p) grad_i V_i``, with values per step.

    ``psi_0`` is the game's random start, ``psi_{m+1}`` what naive learners make of ``psi_m`` while they meet the
    own policy; the mean is over m = 0 to ``naive_steps``, the expectation over ``starts`` of them per update.
    Of several others all are naive learners at a time.
    """

    source = "Meulemans et al., ICLR 2025, arXiv 2410.18636, section 4, appendix C"

    lr: float = field(0.005, "step of AdamW", low=0.0, step=True)
    naive_share: float = field(0.25, "p; not published", low=0.0, high=1.0)
    naive_lr: float = field(5.0, "step of the naive learners, on values per step", low=0.0)
    naive_steps: int = field(20, "updates of the naive learners, M", low=0, static=True, small=2)
    starts: int = field(4, "naive learners met per update", low=1, static=True, small=2)

    def naive_value(self, key: Array, own: Tree, game: Game, player: int) -> Array:
        """Mean own value per step while everybody else learns from a fresh start."""
        others = [j for j in range(game.n_players) if j != player]
        keys = dict(zip(others, jax.random.split(key, len(others)), strict=True))
        like = jnp.result_type(*jax.tree.leaves(own))
        start = {j: tuple(game.init_params(keys[j], j).astype(like)) for j in others}

        def joint(theirs: dict[int, Tree]) -> tuple[Tree, ...]:
            return tuple(own if j == player else theirs[j] for j in range(game.n_players))

        def value(theirs: dict[int, Tree]) -> Array:
            return game.per_step * game.value(joint(theirs), player)

        @jax.checkpoint  # a step is cheap to repeat, its intermediate values are many
        def update(theirs: dict[int, Tree], _: None) -> tuple[dict[int, Tree], Array]:
            here = joint(theirs)

            def moved(j: int) -> Tree:
                slope = jax.grad(lambda theta: game.value(replaced(here, j, theta), j))(theirs[j])
                return jax.tree.map(lambda x, g: x + self.naive_lr * game.per_step * g, theirs[j], slope)

            costs.charge(evaluations=game.n_players)
            return {j: moved(j) for j in others}, value(theirs)

        with costs.repeated(3 * self.naive_steps):  # going back takes each derivative about twice more
            end, values = lax.scan(update, start, None, length=self.naive_steps)
        return (jnp.sum(values) + value(end)) / (self.naive_steps + 1)

    def direction(self, view: View, key: Array) -> Tree:
        """What AdamW is given, as ascent."""
        game, player = view.game, view.player

        def shaped(own: Tree) -> Array:
            keys = jax.random.split(key, self.starts)
            return jnp.mean(jax.vmap(lambda k: self.naive_value(k, own, game, player))(keys))

        with costs.repeated(self.starts):
            shaping = jax.grad(shaped)(view.own)
        share = self.naive_share
        return jax.tree.map(lambda s, g: share * s + (1.0 - share) * game.per_step * g, shaping, view.gradient())

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        params, _ = super().init(key, game, player)
        return params, optax.adamw(self.lr).init(jnp.zeros(game.sizes[player], jnp.result_type(float)))

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        # One vector, whether parameters come as a vector or as scalars.
        slope, own = (jnp.stack(list(x)) for x in (self.direction(view, key), view.own))
        change, state = optax.adamw(self.lr).update(-slope, state, own)
        moved = own + change
        return (tuple(moved) if isinstance(view.own, tuple) else moved), state, {}
