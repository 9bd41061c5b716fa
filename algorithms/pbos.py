"""Preference-based opponent shaping: what the others get is part of the own value, by a weight that is learned.

The paper (arXiv 2412.03072) was available as an abstract and a public summary: that values are
``V_i + c_i V_j`` with a preference ``c_i``, that parameters follow a shaping rule on them and that
preferences are updated at the same time by shaping. How exactly they are is ours.
"""

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import GradientLearner, Info, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced


@pytree_dataclass
class PBOS(GradientLearner):
    """LOLA (exact, one step) on the preferred values ``U_i = V_i + c_i sum_j V_j``, and preferences that
    ascend the own value after one round: ``c_i += preference_lr d/dc_i V_i(theta')``, where i steps by
    ``eta grad_i U_i`` and the others answer that by ``eta grad_j U_j``.

    The others' preferences are not seen: as SOS's p they are what they were if everybody played this rule.
    """

    source = "Qiao, Hu, Han, Wu, Guo 2024, arXiv 2412.03072 (abstract; the update of preferences is ours)"

    lookahead_lr: float = field(1.0, "eta, the step that everybody is assumed to take", low=0.0)
    preference_lr: float = field(0.1, "step of the preferences", low=0.0)
    preference: float = field(0.0, "everybody's preference at first")

    def preferred(self, view: View, player: int, preference: Array) -> Array:
        """``U`` of a player at the view's parameters."""
        others = [view.value(j) for j in range(view.n_players) if j != player]
        return view.value(player) + preference * sum(others[1:], others[0])

    def step(self, view: View, player: int, preference: Array) -> Tree:
        """``grad_j U_j``, j = ``player``."""
        return trees.add(view.gradient(of=player, wrt=player), self.regard(view, player), preference)

    def regard(self, view: View, player: int) -> Tree:
        """What a player's parameters are worth to the others, ``sum_k grad_j V_k``."""
        worth = [view.gradient(of=k, wrt=player) for k in range(view.n_players) if k != player]
        return jax.tree.map(lambda *x: sum(x[1:], x[0]), *worth)

    def anticipated(self, view: View, preferences: Array) -> View:
        """The view after the others have answered the own policy of the view."""
        return view.moved({j: self.step(view, j, preferences[j]) for j in view.others}, self.lookahead_lr)

    def direction_at(self, view: View, preferences: Array) -> Tree:
        """``grad_i U_i`` at the own parameters and where the others will be, through their step."""
        i = view.player

        def value(own: Tree) -> Array:
            here = view.at(replaced(view.params, i, own))
            return self.preferred(self.anticipated(here, preferences), i, preferences[i])

        return jax.grad(value)(view.own)

    def direction(self, view: View) -> Tree:
        return self.direction_at(view, jnp.full(view.n_players, self.preference))

    def preference_slope(self, view: View, preferences: Array) -> Array:
        """``d/dc_i V_i`` after one round, i the view's player."""
        i = view.player

        def value(own: Tree) -> Array:
            here = view.at(replaced(view.params, i, own))
            return self.anticipated(here, preferences).value()

        # The preference moves the own step along what that is worth to the others, and nothing else.
        stepped = trees.add(view.own, self.step(view, i, preferences[i]), self.lookahead_lr)
        along = trees.scale(self.lookahead_lr, self.regard(view, i))
        return jax.jvp(value, (stepped,), (along,))[1]

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        start = jnp.full(game.n_players, self.preference, jnp.result_type(float))
        return super().init(key, game, player)[0], start

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        moved = trees.add(view.own, self.direction_at(view, state), self.lr)
        slopes = jnp.stack([self.preference_slope(view.seat(j), state) for j in range(view.n_players)])
        return moved, state + self.preference_lr * slopes, {"preference": state[view.player]}
