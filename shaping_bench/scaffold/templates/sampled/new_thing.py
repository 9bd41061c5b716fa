"""New thing: say in one sentence what the rule learns from play.

Say here where it comes from, and in what it differs from its relatives.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree


@pytree_dataclass
class NewThing(Learner):
    """``theta <- theta + lr * mean_b [(R_b - mean R) grad log pi_b]``, with R the sum of an episode's rewards.

    Put your own equation here and into ``update``.
    """

    access: ClassVar[Access] = Access.ACTIONS  # of the others it sees what they do, not what they earn
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "new"  # paper and equation

    # One field per hyperparameter: default, meaning, range. Static ones change shapes and cannot be swept.
    lr: float = field(0.1, "own step size", low=0.0, step=True)
    batch_size: int = field(256, "episodes per update", low=2, static=True)

    # What plays is a memory-one policy; define policy(self, game, player) for one of algorithms/parts/networks.py.
    # What is remembered between updates is the state, which init returns beside the first policy.

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        # Change this. Random numbers come from `key`, episodes from the view: those of all who ask alike are shared.
        play = view.play(self.batch_size)
        returns = jnp.sum(play.rewards(), axis=0)  # (batch,)
        advantages = returns - jnp.mean(returns)

        def surrogate(theta: Tree) -> Array:
            policy = view.policy.unroll(theta, play.observations()[:-1])  # distributions, (time, batch)
            return jnp.mean(advantages * jnp.sum(policy.log_prob(play.actions()), axis=0))

        slope = jax.grad(surrogate)(view.own)
        return trees.add(view.own, slope, self.lr), state, {"mean_return": jnp.mean(returns)}
