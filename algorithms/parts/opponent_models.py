"""Models of the others, inferred from what they are seen to do.

A model of player j is a policy of the modeller's own class on j's observations, fitted to
j's actions by maximum likelihood as play goes on (LOLA paper, eq. 4.8). Observations and
actions are public, and rewards follow from the public rules, so access ``actions`` is enough.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, Play, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.estimators import played
from shaping_bench.games.base import Game


class Models(NamedTuple):
    """What is thought of the others.

    Attributes:
      params: per other player, in seat order, parameters of a policy.
      updates: number of fits done.
    """

    params: tuple[Tree, ...]
    updates: Array


@pytree_dataclass
class Modelling(Learner):
    """Base of learners that model their opponents."""

    access: ClassVar[Access] = Access.ACTIONS

    model_lr: float = field(0.02, "step size of the models, on the log-likelihood of an episode", low=0.0, step=True)
    first_model_steps: int = field(50, "steps of the models at the first update", low=0, static=True)
    model_steps: int = field(1, "steps of the models at each later update", low=0, static=True, small=2)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if self.reads_rewards and not game.pays_in_public:
            raise ValueError(
                "infers the others' rewards from what is seen, which this game's rules do not tell (Game.paid); "
                "allowed: repeated games, coin-game unless observation is 'egocentric'"
            )

    @property
    def reads_rewards(self) -> bool:
        """Whether it asks what the rules pay the others."""
        return True

    def models_at_first(self, key: Array, game: Game, player: int) -> Models:
        """Models as ignorant as a fresh player."""
        params = tuple(
            self.policy(game, j).init_in(jax.random.fold_in(key, j), game, j)
            for j in range(game.n_players)
            if j != player
        )
        return Models(params, jnp.zeros((), jnp.int32))

    def fit_models(self, models: Models, play: Play, view: View) -> tuple[Models, Info]:
        """Fits the models to one more batch of play."""
        steps = jnp.where(models.updates == 0, self.first_model_steps, self.model_steps)

        def fitted(params: Tree, j: int) -> tuple[Tree, Array]:
            policy = self.policy(view.game, j)

            def log_likelihood(params: Tree) -> Array:
                """Of an episode; a mean over the batch."""
                return jnp.mean(jnp.sum(played(play.log_probs(policy, params, j), play.alive), axis=0))

            ascend = jax.grad(log_likelihood)
            params = lax.fori_loop(0, steps, lambda _, x: trees.add(x, ascend(x), self.model_lr), params)
            return params, log_likelihood(params) / steps_played(play)

        pairs = [fitted(params, j) for params, j in zip(models.params, view.others, strict=True)]
        fit = jnp.mean(jnp.stack([x for _, x in pairs]))
        return Models(tuple(params for params, _ in pairs), models.updates + 1), {"model_log_likelihood": fit}


def steps_played(play: Play) -> Any:
    """Of an episode, on average."""
    alive = play.alive
    return play.rewards().shape[0] if alive is None else jnp.mean(jnp.sum(alive[:-1], axis=0))
