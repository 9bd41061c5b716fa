"""M-MAML: an initial policy, and a step size, learned for learning against naive learners.

The baseline of M-FOS and of MeVa. Both take Meta-MAPG (Kim et al., ICML 2021, arXiv 2011.00382)
to games whose values are differentiable: what its policy gradients estimate term by term is there
the derivative of the return of the whole joint learning process, by back-propagation through it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import (
    Info,
    Joint,
    Learner,
    PreparedLearner,
    Stage,
    View,
    costs,
    field,
    pytree_dataclass,
    trees,
)
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.stage import started
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.meta_game import scalars
from shaping_bench.games.base import Game


@pytree_dataclass
class MMAML(PreparedLearner):
    """Naive learning from learned initial logits phi.

    Preparation ascends, by Adam on phi and the own step alpha,
    ``E sum_t V(theta^t)`` over ``meta_steps`` simultaneous updates,
    ``theta_own <- theta_own + alpha grad V_own`` from phi and
    ``theta_other <- theta_other + opponent_lr grad V_other`` from the game's random start (or as
    whoever is in ``against`` learns). The gradient is exact: it goes through everybody's updates.

    The defaults are those of M-FOS's code, which plays with step 1 whatever alpha it learned. MeVa
    learns with ``meta_steps=300, meta_lr=0.1, batch_size=64, initial_step=1`` and plays with
    ``learned_step=true`` (its steps of 25 are on values normalised by 1 - 0.96).
    """

    source = "Lu et al., ICML 2022, official code; Cooijmans et al. 2023, arXiv 2307.08863, official code"

    lr: float = field(1.0, "own step in play, on unnormalised values", low=0.0, step=True)
    learned_step: bool = field(False, "play with the learned step instead", static=True)
    initial: tuple[float, ...] = field(
        (), "initial logits that somebody else has learned; empty: learn them", static=True
    )
    meta_steps: int = field(100, "updates that the preparation looks ahead", low=1, static=True, small=3)
    outer_steps: int = field(1000, "steps of Adam", low=1, static=True, small=4)
    meta_lr: float = field(0.01, "step of Adam", low=0.0)
    batch_size: int = field(
        256, "opponents per step of Adam; M-FOS's number is not recorded", low=1, static=True, small=16
    )
    against: Any = field(
        "naive", "who is met in preparation", choices=("naive",), static=True, learner=True, added=True
    )
    opponent_lr: float = field(1.0, "step of the naive learners met in preparation", low=0.0)
    initial_step: float | None = field(None, "alpha at first; none: uniform in [0, 1]")

    @property
    def preparation_steps(self) -> int:
        return 1 if self.initial else self.outer_steps

    @property
    def meetings(self) -> int:
        """Learning processes that one step of Adam looks at."""
        return self.batch_size

    @property
    def preparation_width(self) -> int:
        return self.meetings

    def check_game(self, game: Game, player: int) -> None:
        if game.table is None:
            raise ValueError("is defined for two-action games whose policies are logits")
        self.check_meetings(game, player)

    def check_meetings(self, game: Game, player: int) -> None:
        """Raises ``ValueError`` where initial logits do not fit, or somebody who is met cannot learn there."""
        if self.initial and len(self.initial) != game.sizes[player]:
            raise ValueError(f"has {len(self.initial)} numbers in initial; allowed: none, or {game.sizes[player]}")
        self.coplayers().check_exact(game, player)
        self.coplayers().check_counts(self.meetings, "opponents")

    def coplayers(self) -> Mixture:
        """Who is met in preparation."""
        return Mixture.of(self.against, {"naive": Naive(lr=self.opponent_lr)})

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        self.check_game(game, player)
        first, second = jax.random.split(key)
        phi = self.initial or jax.random.normal(first, (game.sizes[player],))
        step = jax.random.uniform(second) if self.initial_step is None else self.initial_step
        learned = {"phi": scalars(phi), "step": jnp.asarray(step, jnp.result_type(float))}
        return learned, optax.adam(self.meta_lr).init(learned)

    def mean_return(self, key: Array, learned: Tree, rule: Learner, game: Game, player: int) -> Array:
        """Of one joint learning process, per step: the mean value before each of its updates.

        Args:
          key: of the others' start, and of their updates where these are random.
          learned: ``phi``, a tuple of ``d`` scalars, and ``step``.
          rule: how the others learn.
          game, player: the own seat.
        """
        own = Naive(lr=learned["step"])
        stage = Stage(game, tuple(own if i == player else rule for i in range(game.n_players)), playing=False)

        @jax.checkpoint  # a step is cheap to repeat, its intermediate values are many
        def update(joint: Joint, key: Array) -> tuple[Joint, Array]:
            costs.charge(evaluations=1)
            value = game.per_step * game.value(joint.params, player)
            return stage.episode(key, joint)[0], value

        start, key = self.start(key, learned, rule, stage, player)
        with costs.repeated(3 * self.meta_steps):  # going back takes each derivative about twice more
            values = lax.scan(update, start, jax.random.split(key, self.meta_steps))[1]
        return jnp.mean(values)

    def start(self, key: Array, learned: Tree, rule: Learner, stage: Stage, player: int) -> tuple[Joint, Array]:
        """How a learning process begins, and the key of what follows; arguments as of :meth:`mean_return`."""
        game = stage.game
        others = [j for j in range(game.n_players) if j != player]
        keys = [key] if len(others) == 1 else jax.random.split(key, len(others))
        starts = dict(zip(others, (started(rule, k, game, j) for k, j in zip(keys, others, strict=True)), strict=True))
        pairs = [starts.get(i, (learned["phi"], ())) for i in range(game.n_players)]
        joint = stage.joint([theta for theta, _ in pairs], [state for _, state in pairs])
        return joint, jax.random.fold_in(key, 0)

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        learned, optimiser = carry
        coplayers, keys = self.coplayers(), jax.random.split(key, self.meetings)

        def loss(learned: Tree) -> Array:
            returns, first = [], 0
            for rule, count in zip(coplayers.learners, coplayers.counts(self.meetings), strict=True):
                with costs.repeated(count):
                    mean = functools.partial(self.mean_return, learned=learned, rule=rule, game=game, player=player)
                    # The same without a batch of one.
                    some = keys[first : first + count]
                    returns.append(mean(some[0])[None] if count == 1 else jax.vmap(mean)(some))
                first += count
            return -jnp.mean(jnp.concatenate(returns))

        if self.initial:  # nothing to learn: how good it is
            return carry, {"return": -loss(learned), "step": learned["step"]}
        cost, slope = jax.value_and_grad(loss)(learned)
        updates, optimiser = optax.adam(self.meta_lr).update(slope, optimiser)
        return (optax.apply_updates(learned, updates), optimiser), {"return": -cost, "step": learned["step"]}

    def artifact(self, carry: Tree) -> Tree:
        return carry[0]

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        start, state = super().init(key, game, player)
        return (start if artifact is None else artifact["phi"]), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        step = view.artifact["step"] if self.learned_step else self.lr
        return trees.add(view.own, view.gradient(), step), state, {}
