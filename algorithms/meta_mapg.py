"""Meta-PG and Meta-MAPG, exact: where to start learning, among others who learn.

Al-Shedivat et al. (ICLR 2018) ascend in the initial parameters what a chain of own gradient steps leads
to while others change; Kim et al. (ICML 2021) let the gradient also go through how the others' steps
change with one's own parameters. Their estimators weigh sampled log-probabilities term by term; where
values are differentiable the terms are paths of one derivative, and each can be cut.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Info, Joint, Learner, Stage, View, costs, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.stage import Given
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.m_maml import MMAML
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.populations import PersonaLearner
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced


@pytree_dataclass
class MetaMAPG(MMAML):
    """Naive learning from learned initial parameters phi with a learned step per update.

    Preparation ascends, by Adam, the mean value after each of ``meta_steps`` simultaneous updates,
    against learners who start as personas of the part ``train``. ``own_term=false`` holds the own steps
    constant in phi, ``peer_term=false`` those of the others (Meta-PG); with neither it is the gradient
    of every joint policy of the chain in the own parameters alone.
    """

    source = "Kim et al., ICML 2021, arXiv 2011.00382, section 4; settings of the official code"
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rps": {"initial_step": 0.01}}

    lr: float = field(0.1, "own step in play, where the learned ones are not used", low=0.0)
    learned_step: bool = field(True, "play with the learned steps", static=True)
    meta_steps: int = field(7, "updates of the chain, L", low=1, static=True, small=2)
    batch_size: int = field(64, "chains per step of Adam", low=1, static=True, small=8)
    against: Any = field(
        "personas",
        "who is met in preparation; personas: persona-learner(split=train)",
        choices=("personas", "naive"),
        static=True,
        learner=True,
    )
    opponent_lr: float = field(1.0, "step of the learners met in preparation, on unnormalised values", low=0.0)
    initial_step: float = field(0.1, "every own step at first")
    own_term: bool = field(True, "differentiate through the own updates", static=True)
    peer_term: bool = field(True, "differentiate through the others' updates", static=True)

    def check_game(self, game: Game, player: int) -> None:
        if "exact" not in game.views:
            raise ValueError("needs a game with exact values")
        self.check_meetings(game, player)

    def coplayers(self) -> Mixture:
        words = {
            "personas": PersonaLearner(lr=self.opponent_lr, split="train"),  # type: ignore[call-arg]
            "naive": Naive(lr=self.opponent_lr),
        }
        return Mixture.of(self.against, words)

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        learned, _ = super().prepare_init(key, game, player)
        learned |= {"step": jnp.full(self.meta_steps, self.initial_step, jnp.result_type(float))}
        return learned, optax.adam(self.meta_lr).init(learned)

    def mean_return(self, key: Array, learned: Tree, rule: Learner, game: Game, player: int) -> Array:
        """Of one chain, per step: the mean value after each of its updates. Arguments as of ``m-maml``."""
        seats = [Given() if i == player else rule for i in range(game.n_players)]
        stage = Stage(game, tuple(seats), playing=False)

        @jax.checkpoint  # a step is cheap to repeat, its intermediate values are many
        def update(joint: Joint, now: tuple[Array, Array]) -> tuple[Joint, Array]:
            key, step = now
            here = joint.params
            slope = jax.grad(lambda own: game.value(replaced(here, player, own), player))(here[player])
            own = trees.add(here[player], slope if self.own_term else lax.stop_gradient(slope), step)
            after, _, _ = stage.episode(key, joint, given={player: (own, joint.states[player])})
            if not self.peer_term:
                others = lax.stop_gradient((after.params, after.states))
                after = after._replace(params=replaced(others[0], player, own), states=others[1])
            costs.charge(evaluations=2)
            return after, game.per_step * game.value(after.params, player)

        start, key = self.start(key, learned, rule, stage, player)
        with costs.repeated(3 * self.meta_steps):  # going back takes each derivative about twice more
            keys = jax.random.split(key, self.meta_steps)
            return jnp.mean(lax.scan(update, start, (keys, learned["step"]))[1])

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        carry, info = super().prepare_step(key, step, carry, game, player)
        return carry, {**info, "step": jnp.mean(info["step"])}

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        return super().init(key, game, player, artifact)[0], jnp.zeros((), jnp.int32)

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        """One step of the chain; after its end with the last one's size."""
        del key
        return trees.add(view.own, view.gradient(), self.step_at(state, view.artifact)), state + 1, {}

    def step_at(self, position: Array, artifact: Tree) -> Array:
        """Size of the own step at a position of the chain."""
        steps = artifact["step"] if self.learned_step else jnp.full(self.meta_steps, self.lr)
        last = self.meta_steps - 1
        return jnp.sum(jnp.where(jnp.arange(self.meta_steps) == jnp.minimum(position, last), steps, 0.0))


@pytree_dataclass
class MetaPG(MetaMAPG):
    """``meta-mapg(peer_term=false)``: the others' learning is taken as given."""

    source = "Al-Shedivat et al., ICLR 2018, arXiv 1710.03641; as a baseline of Kim et al., ICML 2021"

    peer_term: bool = dataclasses.field(default=False, metadata=MetaMAPG.__dataclass_fields__["peer_term"].metadata)
