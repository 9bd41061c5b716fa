"""What actors with critics have in common: networks by name, optimisers, states."""

from typing import Any, ClassVar, NamedTuple

import optax

from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.policies import Critic, actor, critic, resolved
from shaping_bench.games.base import Game


class ActorCriticState(NamedTuple):
    """What an actor-critic remembers beside its policy.

    Attributes:
      critic: parameters of the value function of the own returns.
      optimiser: state of the actor's optimiser.
      critic_optimiser: state of the critic's.
    """

    critic: Tree
    optimiser: Tree
    critic_optimiser: Tree


def optimiser(name: str, lr: Any, eps: float = 1e-8, max_grad_norm: Any = None) -> optax.GradientTransformation:
    """``sgd`` or ``adam`` by name, for ascent: its updates are added to parameters. ``eps`` is Adam's; gradients
    longer than ``max_grad_norm`` are cut to it, if one is given."""
    rule = optax.sgd(lr) if name == "sgd" else optax.adam(lr, eps=eps)
    ascent = optax.chain(optax.scale(-1.0), rule)
    return ascent if max_grad_norm is None else optax.chain(optax.clip_by_global_norm(max_grad_norm), ascent)


class NetworkLearner(Learner):
    """Base of those whose fields ``network`` and ``hidden`` choose what acts and what judges.

    It has no fields of its own: each learner declares them where they belong among its others.
    """

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    default_network: ClassVar[str] = "conv-lstm"
    """What ``network="auto"`` means where no table will do."""

    network: str
    hidden: int | None

    def network_for(self, game: Game) -> str:
        """The network's name, ``auto`` resolved.

        Raises:
          ValueError: a table or a convolution for a game that is not made for it.
        """
        return resolved(game, self.network, self.default_network)

    def check_game(self, game: Game, player: int) -> None:
        self.network_for(game)

    def policy(self, game: Game, player: int) -> Policy:
        return actor(game, self.network_for(game), player, self.hidden)

    def critic(self, game: Game, player: int) -> Critic:
        """The value function of a seat's returns."""
        return critic(game, self.network_for(game), player, self.hidden)
