"""Advantage Alignment: opponent shaping as a change of the policy gradient's advantages.

Duque et al., ICLR 2025 (arXiv 2406.14662). Two assumptions, that everybody seeks its own value and acts by
a softmax of its own action values, turn the derivative of the others' policies into a product of
advantages, all of them of the episodes that a policy gradient uses anyway. Player i raises the
probability of its action at time k by ::

    A*_k = A^i_k + beta (past advantages of i, times t < k) sum_{j != i} A^j_k

How the past is weighed is told in three ways (``past_weight``), :func:`past_advantages`.

Three learners. ``aa`` is what the paper's Coin Game agents were trained by: LOQA's loss in which the
normalising constant of the modelled opponent is held constant. ``aa-pg`` is the plain policy
gradient of the aligned advantages, ``paa`` its proximal form: PPO's surrogate, for any number of players.
"""

import functools
import operator
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Play, View, field, pytree_dataclass
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.loqa import LOQA
from shaping_bench.algorithms.parts import past_selves
from shaping_bench.algorithms.parts.action_values import ActionValues, after, huber
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import (
    discounted_returns,
    gae,
    leave_one_out,
    played,
    step_deviation,
    step_mean,
)
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Net, NetworkPolicy, acting_head, encoding, network_field
from shaping_bench.algorithms.parts.proximal import clipped_surrogate
from shaping_bench.games.base import Game

PAST_WEIGHTS = ("mean", "recency", "exact")


# --- the rule -----------------------------------------------------------------------------


def past_advantages(advantages: Array, weight: str, gamma: Any, inclusive: bool = False) -> Array:
    """What has gone before each step of an episode, by own advantages.

    With times t < k, or t <= k if ``inclusive``:

    - ``exact``: ``sum_t A_t``, the derivation's; everything at time k then has the weight ``gamma^k``;
    - ``recency``: ``gamma sum_t gamma^{k-t} A_t``, the paper's headline formula;
    - ``mean``: their mean, what the official code trains the negotiation and Melting Pot agents with.

    Args:
      advantages: own, ``(T, ...)``.
      weight: one of the three.
      gamma: discount.
      inclusive: whether the present advantage counts as past.

    Returns:
      ``(T, ...)``; zero at first unless inclusive.
    """
    decay = gamma if weight == "recency" else 1.0

    def forward(total: Array, now: Array) -> tuple[Array, Array]:
        then = total + now
        return decay * then, then if inclusive else total

    sums = lax.scan(forward, jnp.zeros_like(advantages[0]), advantages)[1]
    if weight == "recency":
        return gamma * sums
    if weight == "exact":
        return sums
    count = jnp.arange(len(advantages)).reshape(-1, *([1] * (advantages.ndim - 1))) + int(inclusive)
    return sums / jnp.maximum(count, 1)


def aligned(own: Array, others: Array, beta: Any, weight: str, gamma: Any, inclusive: bool = False) -> Array:
    """Aligned advantages ``A*``, ``(T, ...)``, of own ones and the sum of the others', both ``(T, ...)``.

    The policy gradient is the mean of the sum over k of ``A*_k grad log pi(a_k)``; see :func:`past_advantages`.
    """
    total = own + beta * past_advantages(own, weight, gamma, inclusive) * others
    if weight != "exact":
        return total
    return gamma ** jnp.arange(len(own)).reshape(-1, *([1] * (own.ndim - 1))) * total


# --- as LOQA's loss -----------------------------------------------------------------------


@pytree_dataclass
class AA(LOQA):
    """LOQA whose opponent answers in full, whatever the probability ``p`` of the action that it took:
    the factor ``1 - p`` is 1. It trains alone, against its own past selves."""

    source = "Duque et al., ICLR 2025, arXiv 2406.14662; settings of the published Coin Game agents"
    # In the IPD the paper's are not known: LOQA's code is what it was trained with.
    published: ClassVar = {
        "matrix": LOQA.published["matrix"],
        "coin-game": {**LOQA.published["coin-game"], "max_grad_norm": 10.0},
    }

    max_grad_norm: float = field(10.0, "longest gradient of the policy, longer ones are cut; 0: any", low=0.0)
    hidden: int = field(64, "units of each layer of recurrent policies and critics", low=2, static=True, small=8)

    def policy(self, game: Game, player: int) -> Policy:
        if game.memory_one:
            return super().policy(game, player)
        units, heads = self.hidden, (acting_head(game, player),)
        return NetworkPolicy(
            Net(Network(heads=heads, dense=(units,), cell="gru", width=units), encoding(game)),
            game.action_space(player),
        )

    def action_values(self, game: Game, player: int) -> ActionValues:
        if game.memory_one:
            return super().action_values(game, player)
        units, heads = self.hidden, (("q", game.n_actions),)
        module = Network(heads=heads, dense=(units, units), linear_last=True, cell="gru", width=units)
        return ActionValues(Net(module, encoding(game), clock=True), 0)

    def responsiveness(self, modelled: Array) -> Array:
        return jnp.ones_like(modelled)


# --- as a policy gradient, and proximal ---------------------------------------------------


class AlignedState(NamedTuple):
    """What an aligned learner remembers beside its policy.

    Attributes:
      critics: parameters of value functions, one per seat; of all seats alike in self-play; none where
        other episodes are the baseline.
      targets: their moving averages, of which their own targets are made.
      optimiser: the actor's Adam.
      critic_optimiser: the critics' Adam.
      past: earlier selves to play with, every leaf ``(buffer_size, ...)``; empty without a buffer.
      updates: number of updates done.
    """

    critics: tuple[Tree, ...]
    targets: tuple[Tree, ...]
    optimiser: Tree
    critic_optimiser: Tree
    past: Tree
    updates: Array


class Lesson(NamedTuple):
    """What the policy learns from: the episodes of every seat that it is taught in, side by side.

    Attributes:
      observations, actions: ``(T, B, ...)``.
      log_probs: of these actions when they were played, ``(T, B)``.
      advantages: aligned ones, ``(T, B)``.
      alive: ``(T + 1, B)``; None if all steps are played.
    """

    observations: Tree
    actions: Tree
    log_probs: Array
    advantages: Array
    alive: Array | None


@pytree_dataclass
class AAPG(NetworkLearner):
    """Ascends ``E[A* log pi]`` plus entropy, ``A*`` of generalised advantages of everybody, by Adam.

    With ``self_play``, as the paper's agents were trained, one policy and one critic play all seats, and
    learn from all of them but those that earlier selves sit in. Without, it learns from what is played in
    the encounter, from its own seat, with a critic of each player's returns.
    """

    access: ClassVar[Access] = Access.REWARDS
    default_network: ClassVar[str] = "gru"
    source = "Duque et al., ICLR 2025, arXiv 2406.14662; official code (aa_terms, linear_aa_loss)"
    # In the IPD ours, for a table and its critic: what the paper used is not known.
    published: ClassVar = {
        "matrix": {"lr": 0.005, "critic_lr": 0.2, "alignment": 1.0, "batch_size": 256},
        "negotiation": {"batch_size": 16384},
    }

    lr: float = field(0.001, "step size of the policy (Adam)", low=0.0, step=True)
    critic_lr: float = field(0.001, "step size of the critics (Adam)", low=0.0, step=True)
    batch_size: int = field(512, "episodes per update", low=2, static=True, small=16)
    alignment: float = field(3.0, "beta, weight of the aligned advantages; 0: those of an actor-critic", low=0.0)
    past_weight: str = field(
        "mean",
        "of the own past advantages: mean, or as in the paper's formula (recency) or derivation (exact)",
        choices=PAST_WEIGHTS,
        static=True,
    )
    inclusive: bool = field(False, "the present advantage counts as past: t <= k instead of t < k", static=True)
    baseline: str = field(
        "critic",
        "what returns are compared with; leave-one-out: the mean return of the other episodes, of undiminished length",
        choices=("critic", "leave-one-out"),
        static=True,
    )
    lam: float = field(0.95, "lambda of the generalised advantages, with critics", low=0.0, high=1.0)
    normalise: bool = field(
        True, "advantages of all players to mean 0 and deviation 1 together, before they are multiplied", static=True
    )
    entropy: float = field(0.005, "weight of the policy's entropy, in nats", low=0.0)
    max_grad_norm: float = field(1.0, "longer gradients are cut to this norm", low=0.0, exclusive=True)
    epochs: int = field(2, "steps of the policy per batch of episodes", low=1, static=True)
    critic_targets: str = field(
        "monte-carlo",
        "what critics learn: discounted returns, or (one-step) a reward and the moving average's value",
        choices=("monte-carlo", "one-step"),
        static=True,
    )
    target_decay: float = field(0.995, "of the critics' moving averages", low=0.0, high=1.0)
    self_play: bool = field(True, "trains alone, in all seats; else from what is played in the encounter", static=True)
    replayed: int = field(0, "seats in which earlier selves play, in self-play", low=0, static=True)
    buffer_size: int = field(
        256, "earlier selves kept where some are played with, the oldest lost first", low=1, static=True, small=2
    )
    buffer_every: int = field(20, "updates between additions to the buffer", low=1, static=True)
    network: str = network_field("policy and critics; auto: a table where one does")
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True, small=8)

    @property
    def episodes_per_update(self) -> int:
        return 0 if self.self_play else self.batch_size

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if not self.self_play:
            return
        if not game.symmetric:
            raise ValueError(
                "has self_play=true, which needs a game whose seats are alike; allowed: self_play=false, "
                "to learn from the encounter"
            )
        if self.replayed >= game.n_players:
            raise ValueError(
                f"has replayed={self.replayed} of {game.n_players} seats; allowed: fewer, somebody has to learn"
            )

    # shapes

    def _critics_of(self, game: Game) -> range:
        """Seats whose critics there are: in self-play one serves all."""
        if self.baseline != "critic":
            return range(0)
        return range(1 if self.self_play else game.n_players)

    def _adam(self) -> optax.GradientTransformation:
        return optimiser("adam", self.lr, max_grad_norm=self.max_grad_norm)

    def _critic_adam(self) -> optax.GradientTransformation:
        return optimiser("adam", self.critic_lr, max_grad_norm=self.max_grad_norm)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, AlignedState]:
        actor_key, critic_key = jax.random.split(key)
        params = self.policy(game, player).init_in(actor_key, game, player)
        seats = self._critics_of(game)
        critics = tuple(self.critic(game, j).init(jax.random.fold_in(critic_key, j)) for j in seats)
        params, critics = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), (params, critics))
        return params, AlignedState(
            critics=critics,
            targets=critics,
            optimiser=self._adam().init(params),
            critic_optimiser=self._critic_adam().init(critics),
            past=past_selves.empty(params, self.buffer_size) if self._plays_with_past() else (),
            updates=jnp.zeros((), jnp.int32),
        )

    def _plays_with_past(self) -> bool:
        return self.self_play and self.replayed > 0

    # the update

    def update(self, key: Array, state: AlignedState, view: View) -> tuple[Tree, AlignedState, Info]:
        play, past = self._episodes(key, state, view)
        lesson = self.lesson(play, view, state)
        adam = self._adam()

        def step(carry: Any, number: Array) -> Any:
            theta, memory = carry
            (_, (entropy, drift)), slope = jax.value_and_grad(self.objective, has_aux=True)(theta, view, lesson)
            change, after = adam.update(slope, memory)
            moved = optax.apply_updates(theta, change), after
            goes_on = (number == 0) | self.near(drift)
            return jax.tree.map(lambda new, old: jnp.where(goes_on, new, old), moved, carry), entropy

        (theta, memory), entropies = lax.scan(step, (view.own, state.optimiser), jnp.arange(self.epochs))
        state = self._judged(state, play)
        state = state._replace(optimiser=memory, past=past, updates=state.updates + 1)
        info = {
            "entropy": entropies[0],
            "training_return": step_mean(play.rewards(), play.alive),
            "aligned": step_mean(jnp.abs(lesson.advantages), lesson.alive),
        }
        return theta, state, info

    def _episodes(self, key: Array, state: AlignedState, view: View) -> tuple[Play, Tree]:
        """What is learned from, and the buffer with the present policy in it if it is its turn."""
        if not self.self_play:
            return view.play(self.batch_size), state.past
        game = view.game
        draw_key, play_key = jax.random.split(key)
        policies = [self.policy(game, i) for i in range(game.n_players)]
        params, past = [view.own] * game.n_players, state.past
        if self._plays_with_past():
            past = past_selves.kept(past, view.own, state.updates, self.buffer_every)
            first = game.n_players - self.replayed
            drawn = past_selves.draw(draw_key, past, state.updates, self.buffer_every, self.replayed)
            params[first:] = [jax.tree.map(operator.itemgetter(k), drawn) for k in range(self.replayed)]
        return view.imagine(play_key, policies, params, self.batch_size), past

    def lesson(self, play: Play, view: View, state: AlignedState) -> Lesson:
        """What there is to learn in every seat that the policy is taught in."""
        game = play.game
        advantages = self.advantages(play, state.critics)
        everybody = functools.reduce(jnp.add, advantages)
        seats = range(game.n_players - self.replayed) if self.self_play else (play.player,)
        parts = []
        for seat in seats:
            seen, done = play.observations(seat, end=False), play.actions(seat)
            own = advantages[seat]
            parts.append(
                Lesson(
                    observations=seen,
                    actions=done,
                    log_probs=view.policy.unroll(view.own, seen).log_prob(done),
                    advantages=aligned(
                        own, everybody - own, self.alignment, self.past_weight, game.gamma, self.inclusive
                    ),
                    alive=play.alive,
                )
            )
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)

    def advantages(self, play: Play, critics: tuple[Tree, ...]) -> list[Array]:
        """Of everybody's actions, each ``(T, B)``; normalised together."""
        game, alive = play.game, play.alive
        found = []
        for seat in range(game.n_players):
            rewards = play.rewards(seat)
            if self.baseline == "leave-one-out":
                returns = discounted_returns(rewards, game.gamma, alive=alive)
                found.append(played(returns - leave_one_out(returns, alive), alive))
            else:
                values = self._values(play, critics, seat)
                found.append(gae(rewards, values[:-1], values[-1], game.gamma, self.lam, alive))
        if not self.normalise:
            return found
        together = jnp.concatenate(found, axis=1)
        counted = None if alive is None else jnp.concatenate([alive] * len(found), axis=1)
        mean, deviation = step_mean(together, counted), step_deviation(together, counted)
        return [played((x - mean) / (deviation + 1e-8), alive) for x in found]

    def _values(self, play: Play, critics: tuple[Tree, ...], seat: int) -> Array:
        """By the critic of a seat's returns, ``(T + 1, B)``."""
        theta = critics[0 if self.self_play else seat]
        return self.critic(play.game, seat).unroll(theta, play.observations(seat))

    def objective(self, theta: Tree, view: View, lesson: Lesson) -> tuple[Array, tuple[Array, Array]]:
        """What the policy ascends; beside it its entropy, and the mean fall of the log-probability of what was
        played, an estimate of how far the policy has gone from the one that played."""
        acting = view.policy.unroll(theta, lesson.observations)
        log_probs = acting.log_prob(lesson.actions)
        gain = step_mean(self.surrogate(log_probs, lesson), lesson.alive)
        entropy = step_mean(acting.entropy(), lesson.alive)
        return gain + self.entropy * entropy, (entropy, step_mean(lesson.log_probs - log_probs, lesson.alive))

    def surrogate(self, log_probs: Array, lesson: Lesson) -> Array:
        """Whose gradient is the policy's, step by step: ``(T, B)``."""
        return lesson.advantages * log_probs

    def near(self, drift: Array) -> Array:
        """Whether the policy is still near enough the one that played for another step on its episodes."""
        return jnp.ones_like(drift, bool)

    def _judged(self, state: AlignedState, play: Play) -> AlignedState:
        """One step of the critics on the same episodes, and of their averages."""
        if self.baseline != "critic":
            return state
        game, alive = play.game, play.alive
        # Where earlier selves play, their returns are not the present policy's.
        seats = range(game.n_players - self.replayed if self.self_play else game.n_players)

        def target(seat: int) -> Array:
            ahead = self._values(play, state.targets, seat)
            if self.critic_targets == "monte-carlo":
                return discounted_returns(play.rewards(seat), game.gamma, ahead[-1], alive)
            return played(play.rewards(seat) + game.gamma * after(ahead[1:], alive), alive)

        targets = [lax.stop_gradient(target(seat)) for seat in seats]

        def gain(critics: tuple[Tree, ...]) -> Array:
            errors = [
                step_mean(huber(self._values(play, critics, seat)[:-1] - y), alive)
                for seat, y in zip(seats, targets, strict=True)
            ]
            return -functools.reduce(jnp.add, errors) / (len(errors) if self.self_play else 1)

        change, memory = self._critic_adam().update(jax.grad(gain)(state.critics), state.critic_optimiser)
        critics = optax.apply_updates(state.critics, change)
        averaged = jax.tree.map(
            lambda old, new: self.target_decay * old + (1.0 - self.target_decay) * new, state.targets, critics
        )
        return state._replace(critics=critics, targets=averaged, critic_optimiser=memory)


@pytree_dataclass
class PAA(AAPG):
    """Ascends PPO's clipped surrogate of aligned advantages plus entropy; any number of players."""

    source = "Duque et al., ICLR 2025, arXiv 2406.14662; official code (Melting Pot)"
    published: ClassVar = {
        "matrix": {"lr": 0.005, "critic_lr": 0.2, "batch_size": 256, "entropy": 0.01, "critic_targets": "monte-carlo"},
    }

    alignment: float = field(1.0, "beta, weight of the aligned advantages; 0: those of PPO", low=0.0)
    clip: float = field(0.1, "most that a probability ratio may move for gain", low=0.0, exclusive=True)
    kl_threshold: float = field(
        0.05, "no further steps on a batch once log-probabilities have fallen by this on average", low=0.0
    )
    entropy: float = field(0.1, "weight of the policy's entropy, in nats", low=0.0)
    max_grad_norm: float = field(10.0, "longer gradients are cut to this norm", low=0.0, exclusive=True)
    critic_targets: str = field(
        "one-step",
        "what critics learn: discounted returns, or (one-step) a reward and the moving average's value",
        choices=("monte-carlo", "one-step"),
        static=True,
    )

    def surrogate(self, log_probs: Array, lesson: Lesson) -> Array:
        return clipped_surrogate(log_probs - lesson.log_probs, lesson.advantages, self.clip)

    def near(self, drift: Array) -> Array:
        return drift <= self.kl_threshold
