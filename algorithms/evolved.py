"""A policy found by an evolution strategy, against others who stay as they are: an adversary of another kind than PPO.

It follows no gradient of anything, so that what misleads those who do (a plateau, a critic that is wrong) does not
mislead it; an adversary is the stronger of the two.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Access, Info, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner
from shaping_bench.algorithms.parts.estimators import step_mean
from shaping_bench.algorithms.parts.evolution import CANDIDATES, as_arrays, check_population, generation, open_es
from shaping_bench.algorithms.parts.policies import network_field
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced


@pytree_dataclass
class OpenES(NetworkLearner):
    """An update is a generation: candidates around the present policy play the others' present policies, all of
    them the same games, and the policy moves towards those that got more (OpenES of evosax, antithetic, Adam).

    Defaults are those of eight tries that answered always-defect in the Coin Game best after 200 generations, one seed
    each: -0.11 per step, where 0 is best and two layers of 64 units got -0.31. Many candidates in few games each, and
    convolutions for boards, make the difference.

    >>> import jax
    >>> from shaping_bench.algorithms.core import Stage
    >>> from shaping_bench.algorithms.fixed import AllC
    >>> from shaping_bench.games import make
    >>> stage = Stage(make("ipd", horizon=8), (OpenES(population=8, episodes=4), AllC()))
    >>> joint = stage.begin(jax.random.key(0))
    >>> joint, play, infos = stage.episode(jax.random.key(1), joint)
    >>> sorted(infos[0]), play is None
    (['best_return', 'opponent_return', 'return'], True)
    """

    access: ClassVar[Access] = Access.GRADIENTS
    default_network: ClassVar[str] = "conv-mlp"
    source = "Salimans et al. 2017, arXiv 1703.03864; evosax"

    lr: float = field(0.1, "step of Adam", low=0.0, step=True, static=True)
    sigma: float = field(0.2, "deviation of candidates from the present policy", low=0.0, exclusive=True, static=True)
    momentum: float = field(0.9, "of Adam", low=0.0, high=0.999, static=True)
    population: int = field(128, "candidates per generation; even", low=2, static=True, small=4)
    episodes: int = field(4, "games that each of them plays", low=1, static=True, small=2)
    network: str = network_field("policy; auto: a table where one does, conv-mlp on boards, else mlp")
    hidden: int = field(32, "units per layer", low=1, static=True, small=8)

    @property
    def width(self) -> int:
        return min(CANDIDATES, self.population) * self.episodes

    @property
    def episodes_per_update(self) -> int:
        return 0  # candidates play, not the policy

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        check_population(self.population)

    def _strategy(self, policy: Tree) -> Any:
        return open_es(
            self.population,
            jax.tree.map(lambda x: np.zeros(x.shape, np.float32), policy),
            sigma=self.sigma,
            lr=self.lr,
            b1=self.momentum,
        )

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        policy_key, key = jax.random.split(key)
        policy = self.policy(game, player).init_in(policy_key, game, player)
        strategy = self._strategy(policy)
        return policy, as_arrays(strategy.init(key, policy, strategy.default_params))

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        strategy = self._strategy(view.own)

        def trials(key: Array, candidate: Tree) -> tuple[Array, Array]:
            seated = replaced(view.params, view.player, candidate)
            play = view.imagine(key, view.policies, seated, self.episodes)
            earned = [step_mean(play.rewards(i), play.alive) for i in range(view.n_players)]
            others = functools.reduce(jnp.add, (earned[i] for i in view.others))
            return earned[view.player], others / max(1, len(view.others))

        state, info = generation(key, strategy, state, trials)
        return strategy.get_mean(state), state, info
