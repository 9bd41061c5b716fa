"""The Good Shepherd: a fixed policy chosen for what learners become who learn against it.

Balaguer et al., arXiv 2202.10135. As a baseline of Shaper's code it is a memoryless policy trained
by evolution strategies for its return over a learner's whole learning.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from evosax.algorithms import Open_ES
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, PreparedLearner, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.lola import LOLAFull
from shaping_bench.algorithms.mfos import CANDIDATES, MetaGame, as_arrays, mean_rewards, open_es, scalars
from shaping_bench.algorithms.naive import Naive
from shaping_bench.games.base import Game, TableGame


@pytree_dataclass
class GoodShepherd(PreparedLearner):
    """Plays one policy from start to end: the theta that maximises the mean return over the
    opponent's ``meta_steps`` updates, found by OpenES (evosax) on its logits.

    In a game of memory-one policies theta is all that a memoryless meta-policy can be, so this is
    M-FOS without sight of the opponent. Candidates of a generation meet the same opponents.
    """

    access: ClassVar[Access] = Access.ACTIONS
    source = "Balaguer et al. 2022, arXiv 2202.10135; Khan et al., AAMAS 2024 (as a baseline), official code"

    against: str = field("naive", "who is met in preparation", choices=("naive", "lola"), static=True)
    opponent_lr: float = field(1.0, "step of the opponent met in preparation, and the one its LOLA assumes", low=0.0)
    meta_steps: int = field(100, "updates of the opponent", low=1, static=True, small=3)
    generations: int = field(500, "of the evolution strategy", low=1, static=True)
    population: int = field(64, "candidates per generation; even", low=2, static=True, small=4)
    opponents: int = field(64, "games per candidate", low=1, static=True, small=2)
    es_sigma: float = field(0.3, "deviation of the candidates at first, in logits", low=0.0, static=True)
    es_lr: float = field(0.1, "step of Adam at first", low=0.0, static=True)

    @property
    def preparation_steps(self) -> int:
        return self.generations

    @property
    def preparation_width(self) -> int:
        return CANDIDATES * self.opponents

    def check_game(self, game: Game, player: int) -> None:
        if not isinstance(game, TableGame) or game.n_players != 2:
            raise ValueError("is defined for two-action games of 2 players whose policies are logits")

    def _strategy(self, d: int) -> Open_ES:
        return open_es(self.population, jnp.zeros((d,)), sigma=self.es_sigma, lr=self.es_lr)

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        self.check_game(game, player)
        start, key = jax.random.split(key)
        strategy = self._strategy(game.sizes[player])
        mean = jnp.asarray(game.init_params(start, player), jnp.result_type(float))
        return as_arrays(strategy.init(key, mean, strategy.default_params))

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        ask, trial, tell = jax.random.split(key, 3)
        strategy = self._strategy(game.sizes[player])
        rules = {
            "naive": Naive(lr=self.opponent_lr),
            "lola": LOLAFull(lr=self.opponent_lr, lookahead_lr=self.opponent_lr),
        }
        meta = MetaGame(game, player, rules[self.against])
        candidates, carry = strategy.ask(ask, carry, strategy.default_params)

        def trials(theta: Array) -> tuple[Array, Array]:
            def act(seen: Array) -> Array:
                return jnp.broadcast_to(theta[:, None], (theta.size, seen.shape[-1]))

            return mean_rewards(trial, meta, act, self.opponents, self.meta_steps, scalars(theta))

        with costs.repeated(self.population):
            own, other = lax.map(trials, candidates, batch_size=CANDIDATES)
        carry, _ = strategy.tell(tell, candidates, -own, carry, strategy.default_params)
        info = {"return": jnp.mean(own), "opponent_return": jnp.mean(other), "best_return": jnp.max(own)}
        return as_arrays(carry), info

    def artifact(self, carry: Tree) -> Tree:
        """The centre of the search: theta, ``(d,)``."""
        return carry.mean

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        start, state = super().init(key, game, player)
        return (start if artifact is None else artifact), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.own, state, {}
