"""LOQA: learning with opponent Q-learning awareness.

An actor-critic that assumes that the opponent's policy is a softmax of the opponent's own
action values, which the own policy changes. The derivative of that policy is estimated from
the very episodes the actor-critic uses, without a step of anybody's learning being imagined.

Notation, for the player 1 and its opponent 2, T steps, rewards r1_t and r2_t: Q1 and Q2 are
each player's own action values, V(s) = sum_a pi(a|s) Q(s, a), and ::

    A1_t  = r1_t + gamma V1(s_{t+1}) - V1(s_t)
    R2_t  = sum_{k>=t} gamma^{k-t} r2_k
    p_t   = softmax(Q2(s_t, .) / tau)[b_t] with R2_t in place of Q2(s_t, b_t)

The published gradient is that of ``mean log pi1(a_t) A1_t + w mean log p_t A1_t``, where R2_t
is differentiable in the own parameters by a Loaded DiCE construction that discounts an own
action's effect by gamma lam per step. Collecting the terms of every log pi1(a_k) leaves an
actor-critic with another advantage::

    A1_k + (w gamma / tau) (R2_k - V2(s_k)) E_k,   E_0 = 0,   E_{k+1} = gamma lam E_k + (1 - p_k) A1_k

which is what this file computes. With 1 in place of 1 - p it is Advantage Alignment.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, Play, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts import past_selves
from shaping_bench.algorithms.parts.action_values import ActionValues, after, sarsa_error, values
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns, played, step_mean
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Exploring, Net, NetworkPolicy, acting_head, encoding
from shaping_bench.games.base import Game


class Agent(NamedTuple):
    """Whom one plays against, or has been.

    Attributes:
      policy: parameters of the policy.
      q: parameters of its action values.
    """

    policy: Tree
    q: Tree


class LOQAState(NamedTuple):
    """What LOQA remembers beside its policy.

    Attributes:
      q: parameters of the own action values.
      target: moving average of policy and action values, of which the critic's targets are made.
      optimiser: of policy and action values: the actor's Adam.
      critic_optimiser: the critic's Adam.
      past: opponents to draw from, every leaf ``(buffer_size, ...)``; empty without a buffer.
      updates: number of updates done.
      rival: in paired play the critic of an opponent that has none of its own.
    """

    q: Tree
    target: Agent
    optimiser: Tree
    critic_optimiser: Tree
    past: Tree
    updates: Array
    rival: Tree


class Rival(NamedTuple):
    """An estimate of the opponent's action values: parameters, their moving average, optimiser."""

    q: Tree
    target: Tree
    optimiser: Tree


# --- the rule -----------------------------------------------------------------------------


def opponent_model(q: Array, returns: Array, actions: Array, temperature: Any) -> Array:
    """Log-probability that the modelled opponent takes the action it took.

    Args:
      q: its action values, ``(T, B, A)``.
      returns: its discounted returns, which stand for the value of the action taken, ``(T, B)``.
      actions: ``(T, B)``.
      temperature: of the softmax.

    Returns:
      ``(T, B)``.
    """
    chosen = actions[..., None] == jnp.arange(q.shape[-1])
    return Categorical(logits=jnp.where(chosen, returns[..., None], q) / temperature).log_prob(actions)


def credit(advantages: Array, responsiveness: Array, discount: Any) -> Array:
    """``E_k``: what a change of the opponent's past actions was worth, by own advantages.

    Args:
      advantages: ``A1_t``, ``(T, B)``.
      responsiveness: how much of a change of its logit changes the opponent's log-probability,
        ``1 - p_t``, ``(T, B)``.
      discount: gamma lam.

    Returns:
      ``(T, B)``; zero at first, for the first action answers nothing.
    """

    def forward(e: Array, now: Array) -> tuple[Array, Array]:
        return discount * e + now, e

    return lax.scan(forward, jnp.zeros_like(advantages[0]), responsiveness * advantages)[1]


class Lesson(NamedTuple):
    """What episodes have to teach that the own parameters do not enter.

    Attributes:
      last: the opponent's logits at the end, ``(B, A)``; None where they were not asked for.
      modelled: log-probability of the modelled opponent's actions, ``(T, B)``.
      surprise: ``R2_t - V2(s_t)``, ``(T, B)``.
      averaged: the moving average's own action values, ``(T + 1, B, A)``.
    """

    last: Array | None
    modelled: Array
    surprise: Array
    averaged: Array


# --- the learner --------------------------------------------------------------------------


@pytree_dataclass
class LOQA(Learner):
    """Actor-critic that also seeks what makes a Q-learning opponent act in its favour; it trains
    alone, against its own past selves, whoever else is in the game."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    offered: ClassVar[frozenset[str]] = frozenset({"action_values"})
    source = "Aghajohari et al., ICLR 2024, and official code"
    # The code's IPD policy has two logits per state, both moved by Adam: twice the step on their difference.
    published: ClassVar = {
        "matrix": {
            "lr": 0.002,
            "batch_size": 2048,
            "entropy": 0.0,
            "max_grad_norm": 0.0,
            "exploration": 0.2,
            "buffer_size": 0,
        },
        "coin-game": {"lr": 0.001, "batch_size": 512, "entropy": 0.1, "max_grad_norm": 1.0, "exploration": 0.0},
    }

    lr: float = field(0.001, "step size of the policy (Adam)", low=0.0, step=True)
    critic_lr: float = field(0.01, "step size of the action values (Adam)", low=0.0, step=True)
    batch_size: int = field(512, "episodes per update", low=1, static=True, small=16)
    entropy: float = field(0.1, "weight of the policy's entropy", low=0.0)
    max_grad_norm: float = field(1.0, "longest gradient of the policy, longer ones are cut; 0: any", low=0.0)
    shaping: float = field(1.0, "weight w of the opponent's answer; 0: plain actor-critic", low=0.0)
    shaping_discount: float = field(0.9, "lam: discount, beside gamma, of an action's effect on answers", low=0.0)
    temperature: float = field(1.0, "tau of the modelled opponent's softmax", low=0.0, exclusive=True)
    exploration: float = field(0.0, "probability of a random action while training", low=0.0, high=1.0)
    target_decay: float = field(0.99, "of the moving average that makes the critic's targets", low=0.0, high=1.0)
    reward_shift: float = field(
        0.0, "added to all rewards while learning; critics start near 0, rewards that are all negative end in defection"
    )
    preset: str = field(
        "paper",
        "official: as the code, the gradient goes through the advantages too, and into the critic",
        choices=("paper", "official"),
        static=True,
    )
    buffer_size: int = field(
        256, "past opponents kept, the oldest lost first; 0: the present one", low=0, static=True, small=2
    )
    buffer_every: int = field(10, "updates between additions to the buffer", low=1, static=True)
    opponents_per_batch: int = field(
        16,
        "opponents drawn per update, each for an equal share of the episodes: the same in expectation as drawing one "
        "per episode, with more noise and a fraction of the time; 0: one per episode, as published",
        low=0,
        static=True,
    )
    hidden: int = field(
        128, "units of each layer of a recurrent policy; its critic has half", low=2, static=True, small=8
    )

    @property
    def episodes_per_update(self) -> int:
        return 0  # plays on its own, against its past selves

    # shapes

    def check_game(self, game: Game, player: int) -> None:
        if game.n_players != 2:
            raise ValueError(f"is defined for 2 players, the game has {game.n_players}")
        if not game.memory_one and len(game.observation_shape) != 3:
            raise ValueError("needs a game seen in planes, or one of memory-one policies")
        if self._draws() and self.batch_size % self._draws():
            raise ValueError(
                f"has opponents_per_batch={self.opponents_per_batch}; allowed: 0, or divisors of "
                f"batch_size={self.batch_size}"
            )
        self._check_seats(game)

    def _check_seats(self, game: Game) -> None:
        if not game.symmetric:
            raise ValueError("plays against itself, which needs a game whose seats are alike")

    def policy(self, game: Game, player: int) -> Policy:
        if game.memory_one:
            return super().policy(game, player)
        units, heads = self.hidden, (acting_head(game, player),)
        module = Network(heads=heads, dense=(units, units), linear_last=True, cell="gru", width=units)
        return NetworkPolicy(Net(module, encoding(game)), game.action_space(player))

    def behaviour(self, game: Game, player: int) -> Policy:
        """The policy that acts while training; learning looks at the policy without exploration."""
        return Exploring(self.policy(game, player), self.exploration)

    def action_values(self, game: Game, player: int) -> ActionValues:
        heads = (("q", game.n_actions),)
        if game.memory_one:
            return ActionValues(
                Net(Network(heads=heads, dense=(16, 16)), encoding(game, "moves"), clock=True), game.sizes[player]
            )
        units = self.hidden // 2
        module = Network(heads=heads, dense=(units, units), linear_last=True, cell="gru", width=units)
        return ActionValues(Net(module, encoding(game), clock=True), 0)

    def _draws(self) -> int:
        """Parameter sets that play against the own ones; 0: one, the present opponent's."""
        return (self.opponents_per_batch or self.batch_size) if self.buffer_size else 0

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, LOQAState]:
        actor_key, critic_key, rival_key = jax.random.split(key, 3)
        policy, critic = self.policy(game, player), self.action_values(game, player).net
        own = _floats(Agent(policy.ignorant(actor_key), critic.init(critic_key)))
        return own.policy, LOQAState(
            q=own.q,
            target=own,
            optimiser=self._actor_optimiser().init(own),
            critic_optimiser=self._critic_optimiser().init(own.q),
            past=past_selves.empty(own, self.buffer_size) if self.buffer_size else (),
            updates=jnp.zeros((), jnp.int32),
            rival=self._new_rival(_floats(critic.init(rival_key))),
        )

    def _new_rival(self, q: Tree) -> Tree:
        del q
        return ()

    def _actor_optimiser(self) -> optax.GradientTransformation:
        longest = jnp.where(self.max_grad_norm > 0.0, self.max_grad_norm, jnp.inf)
        return optimiser("adam", self.lr, max_grad_norm=longest)

    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optimiser("adam", self.critic_lr)

    # whom to play against

    def opponent(self, state: LOQAState, view: View) -> tuple[Agent, Policy, Policy]:
        """The present opponent, its policy, and the policy it acts by while this learner trains."""
        other = view.others[0]
        return Agent(view.own, state.q), self.policy(view.game, other), self.behaviour(view.game, other)

    # the update

    def update(self, key: Array, state: LOQAState, view: View) -> tuple[Tree, LOQAState, Info]:
        game, me, you = view.game, view.player, view.others[0]
        draw_key, play_key = jax.random.split(key)
        present, policy, behaviour = self.opponent(state, view)
        draws = self._draws() if past_selves.fits(state.past, present) else 0
        against = present
        if draws:
            past = past_selves.kept(state.past, present, state.updates, self.buffer_every)
            against = past_selves.draw(draw_key, past, state.updates, self.buffer_every, draws)
            state = state._replace(past=past)

        own = Agent(view.own, state.q)
        seats = {me: (view.own, self.behaviour(game, me), 0), you: (against.policy, behaviour, draws)}
        params, policies, groups = zip(*(seats[i] for i in range(2)), strict=True)
        # What the opponent said while it played need not be asked again, unless it is to be known at the end too.
        said_by = () if self._needs_end(state, view) else (you,)
        play = self.shifted(view.imagine(play_key, policies, params, self.batch_size, groups=groups, said_by=said_by))
        lesson = self.lesson(play, policy, against, draws, state.target)

        gradient, info = jax.grad(functools.partial(self.objective, play, lesson), has_aux=True)(own)
        official = self.preset == "official"
        step = gradient if official else gradient._replace(q=trees.scale(0.0, gradient.q))
        moves, actor_state = self._actor_optimiser().update(step, state.optimiser)
        own = optax.apply_updates(own, moves)
        slope = gradient.q
        if official:
            # The step has moved the action values too, and their error is that of the new ones.
            last = self.policy(game, me).unroll(state.target.policy, play.observations()).logits[-1]
            slope = jax.grad(lambda q: -self.critic_error(play, me, q, lesson.averaged, last))(own.q)
        moves, critic_state = self._critic_optimiser().update(slope, state.critic_optimiser)
        own = own._replace(q=optax.apply_updates(own.q, moves))
        state = state._replace(
            q=own.q,
            target=_average(state.target, own, self.target_decay),
            optimiser=actor_state,
            critic_optimiser=critic_state,
            updates=state.updates + 1,
            rival=self._learn_rival(state.rival, view, play, lesson),
        )
        info = {**info, "training_return": step_mean(play.rewards(), play.alive) - self.reward_shift}
        return own.policy, state, info

    def shifted(self, play: Play) -> Play:
        """The same play with ``reward_shift`` added to all rewards."""
        return play.paying(play.trajectory.rewards + self.reward_shift)

    def lesson(self, play: Play, policy: Policy, against: Agent, draws: int, target: Agent) -> Lesson:
        """What episodes have to teach that the own parameters do not enter.

        Args:
          play: episodes of both, from the own seat.
          policy: of the opponent, without exploration.
          against: its parameters, every leaf with a leading axis of ``draws``, if that is not 0.
          draws: parameter sets of the opponent, each in an equal share of the episodes.
          target: moving average of the own parameters.
        """
        game, me, you = play.game, play.player, 1 - play.player
        seen = play.observations(you)

        def logits_of(params: Tree, seen: Tree, states: Tree) -> Array:
            return policy.along(params, seen, states).logits

        said, last = play.trajectory.said, None
        if said is not None:
            logits = said[you].logits
        else:
            whole = past_selves.grouped(logits_of, draws)(against.policy, seen, play.trajectory.states)
            logits, last = whole[:-1], whole[-1]
        q = past_selves.grouped(self.action_values(game, you).unroll, draws)(against.q, seen)[:-1]
        returns = discounted_returns(play.rewards(you), game.gamma, alive=play.alive)
        modelled = opponent_model(q, returns, play.actions(you), self.temperature)
        averaged = self.action_values(game, me).unroll(target.q, play.observations())
        return Lesson(last=last, modelled=modelled, surprise=returns - values(logits, q), averaged=averaged)

    def objective(self, play: Play, lesson: Lesson, own: Agent) -> tuple[Array, Info]:
        """What the policy ascends, less what the action values descend.

        The two concern different parameters, so that one backward pass gives both gradients.
        With preset ``official`` the policy's part alone, whose gradient in the code concerns both.
        """
        game, me, alive = play.game, play.player, play.alive
        logits = self.policy(game, me).unroll(own.policy, play.observations()).logits
        q = self.action_values(game, me).unroll(own.q, play.observations())
        acting = Categorical(logits=logits[:-1])
        log_probs, entropy = acting.log_prob(play.actions()), step_mean(acting.entropy(), alive)
        worth = values(logits, q)
        advantages = played(play.rewards() + game.gamma * after(worth[1:], alive) - worth[:-1], alive)
        held = lax.stop_gradient(advantages)
        answers = credit(held, self.responsiveness(lesson.modelled), game.gamma * self.shaping_discount)
        shaped = held + (self.shaping * game.gamma / self.temperature) * lesson.surprise * answers
        total = step_mean(log_probs * shaped, alive) + self.entropy * entropy
        # The code asks the averaged policy instead, another pass of the network for one step in T.
        error = self._error(play, me, q, lesson.averaged, logits[-1])
        if self.preset == "official":
            # What the code's gradient holds beside this: log-probabilities times the advantages' own gradients.
            total += step_mean(lax.stop_gradient(log_probs + self.shaping * lesson.modelled) * advantages, alive)
        else:
            total -= error
        return total, {"critic_loss": error, "entropy": entropy}

    def responsiveness(self, modelled: Array) -> Array:
        """How much of a change of its logit changes the opponent's log-probability ``modelled``, ``(T, B)``."""
        return 1.0 - jnp.exp(modelled)

    def critic_error(self, play: Play, player: int, q: Tree, averaged: Array, last: Array) -> Array:
        """What the action values of a player descend: the error of SARSA on its side of the play.

        Args:
          play: episodes.
          player: whose values.
          q: their parameters.
          averaged: values by their moving average, ``(T + 1, B, A)``.
          last: the player's logits at the end, ``(B, A)``.
        """
        now = self.action_values(play.game, player).unroll(q, play.observations(player))
        return self._error(play, player, now, averaged, last)

    def _error(self, play: Play, player: int, q: Array, averaged: Array, last: Array) -> Array:
        rewards, actions = play.rewards(player), play.actions(player)
        return sarsa_error(q, averaged, last, rewards, actions, play.game.gamma, play.alive)

    def _needs_end(self, state: LOQAState, view: View) -> bool:
        """Whether the opponent's policy has to be known at the end of episodes."""
        del state, view
        return False

    def _learn_rival(self, rival: Tree, view: View, play: Play, lesson: Lesson) -> Tree:
        del view, play, lesson
        return rival

    def offers(self, state: LOQAState) -> Mapping[str, Tree]:
        return {"action_values": state.q}


@pytree_dataclass
class PairedLOQA(LOQA):
    """LOQA without self-play: it trains against the opponent it meets, its past policies included,
    and knows that opponent's action values, or learns them from its play where it has none."""

    access: ClassVar[Access] = Access.SIMULATOR

    def _check_seats(self, game: Game) -> None:
        pass

    def _new_rival(self, q: Tree) -> Rival:
        return Rival(q, q, self._critic_optimiser().init(q))

    def _offered(self, view: View, rival: Rival) -> Tree:
        """The opponent's own action values, where it offers such as this learner can read; else None."""
        other = view.others[0]
        offered = view.learners[other].offers(view.states[other]).get("action_values")
        return offered if offered is not None and trees.alike(offered, rival.q) else None

    def opponent(self, state: LOQAState, view: View) -> tuple[Agent, Policy, Policy]:
        other = view.others[0]
        rule, offered = view.learners[other], self._offered(view, state.rival)
        q = state.rival.q if offered is None else offered
        return Agent(view.params[other], q), view.policies[other], rule.behaviour(view.game, other)

    def _needs_end(self, state: LOQAState, view: View) -> bool:
        return self._offered(view, state.rival) is None

    def _learn_rival(self, rival: Rival, view: View, play: Play, lesson: Lesson) -> Rival:
        """SARSA on the opponent's side, as for the own action values."""
        if self._offered(view, rival) is not None:
            return rival
        other, last = view.others[0], lesson.last
        assert last is not None, "what is learnt ends with what the opponent would say at the end"
        averaged = self.action_values(view.game, other).unroll(rival.target, play.observations(other))

        def fit(q: Tree) -> Array:
            return -self.critic_error(play, other, q, averaged, last)

        moves, optimiser_state = self._critic_optimiser().update(jax.grad(fit)(rival.q), rival.optimiser)
        q = optax.apply_updates(rival.q, moves)
        return Rival(q, _average(rival.target, q, self.target_decay), optimiser_state)


def _average(old: Tree, new: Tree, decay: Any) -> Tree:
    return jax.tree.map(lambda a, b: decay * a + (1.0 - decay) * b, old, new)


def _floats(tree: Tree) -> Tree:
    """In the precision in force; flax initialises in single precision."""
    return jax.tree.map(lambda x: x.astype(jnp.result_type(float)), tree)
