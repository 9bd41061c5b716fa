"""Meta-PG and Meta-MAPG by play: the same paths of the derivative, each step of it estimated from episodes.

Every step of a chain is a policy gradient of the episodes that its policies have played. Loaded DiCE with the
log-probabilities of everybody makes these steps depend on all parameters as the exact ones do, so that what
is differentiated is again one chain; what it earns after an update is played, and differentiated by the scores of
those who played it. Scores of earlier episodes of the chain are left out: where steps are functions of the
policies, as in Kim et al.'s theorem, they have mean zero against what comes later.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, Play, View, costs, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.policy import Tabular, tabular
from shaping_bench.algorithms.core.rollouts import Trajectory, rollout
from shaping_bench.algorithms.core.stage import started
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.meta_mapg import MetaMAPG
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.estimators import discounted_returns, leave_one_out, loaded_dice, score_function
from shaping_bench.algorithms.populations import PersonaLearner
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced

Params = tuple[Tree, ...]


@pytree_dataclass
class MetaMAPGSampled(MetaMAPG):
    """``meta-mapg`` in games that are played, by tables: own steps and those of the others are policy gradients of
    ``batch_size`` episodes.

    The others start as personas, or at random, and take plain steps. In an encounter the own steps are
    policy gradients too; the others learn as they do. ``peer_term=false`` is Meta-PG.
    """

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "Kim et al., ICML 2021, arXiv 2011.00382, section 4; settings of the official code"
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    batch_size: int = field(64, "episodes of every play, K", low=2, static=True, small=8)
    chains: int = field(5, "chains per step of Adam", low=1, static=True, small=1)
    meta_lr: float = field(1e-4, "step of Adam", low=0.0)
    outer_steps: int = field(100000, "steps of Adam", low=1, static=True, small=4)

    @property
    def meetings(self) -> int:
        return self.chains

    @property
    def preparation_width(self) -> int:
        return self.chains * self.batch_size

    def check_game(self, game: Game, player: int) -> None:
        if game.num_states is None or not {"exact", "sampled"} <= game.views:
            raise ValueError("plays memory-one tables, which this game does not have")
        for rule in self.coplayers().learners:
            if not isinstance(rule, PersonaLearner | Naive) or getattr(rule, "optimiser", "sgd") != "sgd":
                raise ValueError(
                    f"has against={type(rule).__name__}; allowed: who takes plain gradient steps, personas and naive"
                )
        self.check_meetings(game, player)

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        start, state = super().init(key, game, player, artifact)
        return jnp.stack([jnp.asarray(x) for x in start]), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        """One step of the chain; after its end with the last one's size."""
        del key
        play = view.play(self.batch_size)
        returns = discounted_returns(play.rewards(), view.game.gamma)

        def worth(theta: Tree) -> Array:
            scores = play.log_probs(view.policy, theta)
            return jnp.mean(score_function(scores, returns, view.game.gamma, leave_one_out(returns)))

        return trees.add(view.own, jax.grad(worth)(view.own), self.step_at(state, view.artifact)), state + 1, {}

    def mean_return(self, key: Array, learned: Tree, rule: Learner, game: Game, player: int) -> Array:
        """Of one chain, per step and by play: the mean return after each of its updates, of which only the first
        derivative is an estimate of that of the exact one. Arguments as of ``m-maml``."""
        policies = (tabular(game),) * game.n_players
        starts, first, last = (jax.random.fold_in(key, k) for k in range(3))
        others = [jnp.asarray(started(rule, jax.random.fold_in(starts, j), game, j)[0]) for j in range(game.n_players)]
        step_of_others = rule.lr  # type: ignore[attr-defined]

        def played(key: Array, params: Params) -> Trajectory:
            return rollout(key, game, policies, params, self.batch_size)

        def moved(params: Params, trajectory: Trajectory, step: Array) -> Params:
            play, after = Play(game, trajectory, player), []
            for j, theta in enumerate(params):
                slope = jax.grad(lambda x, j=j: _value(play, policies, replaced(params, j, x), j))(theta)
                if j == player:
                    after.append(trees.add(theta, slope if self.own_term else lax.stop_gradient(slope), step))
                else:
                    further = trees.add(theta, slope, step_of_others)
                    after.append(further if self.peer_term else lax.stop_gradient(further))
            return tuple(after)

        # First everything is played, then the chain goes through it again, to be differentiated.
        def meeting(params: Params, now: tuple[Array, Array]) -> tuple[Params, Trajectory]:
            key, step = now
            trajectory = played(key, params)
            return moved(params, trajectory, step), trajectory

        begin = replaced(others, player, jnp.stack(learned["phi"]))
        keys, steps = jax.random.split(first, self.meta_steps), learned["step"]
        with costs.repeated(self.meta_steps):
            end, before = lax.scan(meeting, *lax.stop_gradient((begin, (keys, steps))))
        after = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None]]), before, played(last, end))

        def update(params: Params, now: tuple[Trajectory, Trajectory, Array]) -> tuple[Params, Array]:
            trajectory, then, step = now
            params = moved(params, trajectory, step)
            play = Play(game, then, player)
            earned = jnp.mean(discounted_returns(play.rewards(), game.gamma)[0])
            return params, game.per_step * (earned + _value(play, policies, params, player))

        return jnp.mean(lax.scan(update, begin, (before, after, steps))[1])


def _value(play: Play, policies: Sequence[Tabular], params: Sequence[Tree], player: int) -> Array:
    """Zero, with derivatives of every order that estimate those of a player's value."""
    gamma = play.game.gamma
    scores = [play.log_probs(policy, theta, j) for j, (policy, theta) in enumerate(zip(policies, params, strict=True))]
    returns = discounted_returns(play.rewards(player), gamma)
    return jnp.mean(loaded_dice(jnp.stack(scores, axis=-1), returns - leave_one_out(returns), gamma))
