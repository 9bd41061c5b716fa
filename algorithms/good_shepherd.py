"""The Good Shepherd: a fixed policy chosen for what learners become who learn against it.

Balaguer et al., arXiv 2202.10135. As a baseline of Shaper's code it is a memoryless policy trained
by evolution strategies for its return over a learner's whole learning.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import Access, Info, PreparedLearner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.lola import LOLAFull
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.evolution import CANDIDATES, as_arrays, check_population, generation, open_es
from shaping_bench.algorithms.parts.meta_game import groups, mean_rewards, scalars
from shaping_bench.games.base import Game


@pytree_dataclass
class GoodShepherd(PreparedLearner):
    """Plays one policy from start to end: the theta that maximises the mean return over the
    opponent's ``meta_steps`` updates, found by OpenES (evosax) on its logits.

    In a game of memory-one policies theta is all that a memoryless meta-policy can be, so this is
    M-FOS without sight of the opponent. Candidates of a generation meet the same opponents: whoever
    learns from the exact game; with more than two players all others are such learners.
    """

    access: ClassVar[Access] = Access.ACTIONS
    source = "Balaguer et al. 2022, arXiv 2202.10135; Khan et al., AAMAS 2024 (as a baseline), official code"

    against: Any = field(
        "naive",
        "who is met in preparation; lola: lola-full",
        choices=("naive", "lola"),
        static=True,
        learner=True,
    )
    opponent_lr: float = field(1.0, "step of the opponent met in preparation, and the one its LOLA assumes", low=0.0)
    meta_steps: int = field(100, "updates of the opponent", low=1, static=True, small=3)
    generations: int = field(500, "of the evolution strategy", low=1, static=True)
    population: int = field(64, "candidates per generation; even", low=2, static=True, small=4)
    opponents: int = field(64, "games per candidate", low=1, static=True, small=2)
    es_sigma: float = field(
        0.3, "deviation of the candidates at first, in logits", low=0.0, exclusive=True, static=True
    )
    es_lr: float = field(0.1, "step of Adam at first", low=0.0, static=True)

    @property
    def preparation_steps(self) -> int:
        return self.generations

    @property
    def preparation_width(self) -> int:
        return CANDIDATES * self.opponents

    def check_game(self, game: Game, player: int) -> None:
        if game.table is None:
            raise ValueError("is defined for two-action games whose policies are logits")
        check_population(self.population)
        self.coplayers().check_exact(game, player)
        self.coplayers().check_counts(self.opponents, "games")

    def coplayers(self) -> Mixture:
        """Who is met in preparation."""
        words = {
            "naive": Naive(lr=self.opponent_lr),
            "lola": LOLAFull(lr=self.opponent_lr, lookahead_lr=self.opponent_lr),
        }
        return Mixture.of(self.against, words)

    def _strategy(self, d: int) -> Any:
        return open_es(self.population, jnp.zeros((d,)), sigma=self.es_sigma, lr=self.es_lr)

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        self.check_game(game, player)
        start, key = jax.random.split(key)
        strategy = self._strategy(game.sizes[player])
        mean = jnp.asarray(game.init_params(start, player), jnp.result_type(float))
        return as_arrays(strategy.init(key, mean, strategy.default_params))

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        meetings = groups(game, player, self.coplayers(), self.opponents)

        def trials(key: Array, theta: Array) -> tuple[Array, Array]:
            def act(seen: Array) -> Array:
                return jnp.broadcast_to(theta[:, None], (theta.size, seen.shape[-1]))

            return mean_rewards(key, meetings, act, self.meta_steps, scalars(theta))

        return generation(key, self._strategy(game.sizes[player]), carry, trials)

    def artifact(self, carry: Tree) -> Tree:
        """The centre of the search: theta, ``(d,)``."""
        return carry.mean

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        start, state = super().init(key, game, player)
        return (start if artifact is None else artifact), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.own, state, {}
