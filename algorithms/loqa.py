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
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass, rollouts, trees
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns
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


def huber(x: Array) -> Array:
    """Half the square up to 1, linear beyond."""
    size = jnp.abs(x)
    quadratic = jnp.minimum(size, 1.0)
    return 0.5 * quadratic**2 + size - quadratic


def values(logits: Array, q: Array) -> Array:
    """``V = sum_a pi(a) Q(a)``: ``(..., A)`` twice to ``(...)``."""
    return jnp.sum(jax.nn.softmax(logits) * q, axis=-1)


def at(q: Array, actions: Array) -> Array:
    """``Q(a)`` of the actions taken: ``(..., A)`` and ``(...)`` to ``(...)``."""
    return jnp.sum(jnp.where(actions[..., None] == jnp.arange(q.shape[-1]), q, 0.0), axis=-1)


def sarsa_targets(rewards: Array, q: Array, last: Array, actions: Array, gamma: Any) -> Array:
    """``r_t + gamma Q(s_{t+1}, a_{t+1})``; the last step is followed by a state's value.

    Args:
      rewards: ``(T, B)``.
      q: action values that make the targets, ``(T, B, A)``.
      last: value of the state after the last step, ``(B,)``.
      actions: ``(T, B)``.
      gamma: discount.

    Returns:
      ``(T, B)``.
    """
    following = jnp.concatenate([at(q, actions)[1:], last[None]])
    return lax.stop_gradient(rewards + gamma * following)


class Stream(NamedTuple):
    """One player's side of the episodes.

    Attributes:
      seen: observations, ``(T + 1, B, ...)``.
      actions, rewards: ``(T, B)``.
    """

    seen: Array
    actions: Array
    rewards: Array


class Lesson(NamedTuple):
    """What episodes have to teach that the own parameters do not enter.

    Attributes:
      mine, theirs: the two sides.
      logits: the opponent's, ``(T + 1, B, A)``.
      modelled: log-probability of the modelled opponent's actions, ``(T, B)``.
      surprise: ``R2_t - V2(s_t)``, ``(T, B)``.
      averaged: the moving average's own action values, ``(T + 1, B, A)``.
    """

    mine: Stream
    theirs: Stream
    logits: Array
    modelled: Array
    surprise: Array
    averaged: Array


def critic_error(q: Array, last: Array, lesson: Lesson, gamma: Any) -> Array:
    """Mean Huber error of action values ``(T + 1, B, A)``; ``last`` are the logits at the end, ``(B, A)``."""
    stream, averaged = lesson.mine, lesson.averaged
    targets = sarsa_targets(stream.rewards, averaged[:-1], values(last, averaged[-1]), stream.actions, gamma)
    return jnp.mean(huber(at(q[:-1], stream.actions) - targets))


# --- action values ------------------------------------------------------------------------


class ActionValues(NamedTuple):
    """Action values of a player, by a network that knows the time.

    Attributes:
      net: the network.
      num_states: of a memory-one game, whose few states are valued once per time and looked up;
        0 where observations are not states.
    """

    net: Net
    num_states: int

    def unroll(self, params: Tree, seen: Array) -> Array:
        """``(T, B, A)`` along whole episodes, from observations ``(T, B, ...)``."""
        if not self.num_states:
            return self.net.unroll(params, seen)["q"]
        states = jnp.arange(self.num_states)
        table = self.net.unroll(params, jnp.broadcast_to(states, (seen.shape[0], self.num_states)))["q"]
        here = seen[..., None] == states
        # A sum of comparisons: gathers, and the scatters that are their derivatives, do not vectorise.
        columns = [jnp.sum(jnp.where(here, table[:, None, :, a], 0.0), axis=-1) for a in range(table.shape[-1])]
        return jnp.stack(columns, axis=-1)


# --- the learner --------------------------------------------------------------------------


@pytree_dataclass
class LOQA(Learner):
    """Actor-critic that also seeks what makes a Q-learning opponent act in its favour; it trains
    alone, against its own past selves, whoever else is in the game."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
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
        past = jax.tree.map(lambda x: jnp.zeros((self.buffer_size, *x.shape), x.dtype), own)
        return own.policy, LOQAState(
            own.q,
            own,
            self._actor_optimiser().init(own),
            self._critic_optimiser().init(own.q),
            past if self.buffer_size else (),
            jnp.zeros((), jnp.int32),
            self._new_rival(_floats(critic.init(rival_key))),
        )

    def _new_rival(self, q: Tree) -> Tree:
        del q
        return ()

    def _actor_optimiser(self) -> optax.GradientTransformation:
        longest = jnp.where(self.max_grad_norm > 0.0, self.max_grad_norm, jnp.inf)
        return optax.chain(optax.clip_by_global_norm(longest), optimiser("adam", self.lr))

    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optimiser("adam", self.critic_lr)

    # whom to play against

    def opponent(self, state: LOQAState, view: View) -> tuple[Agent, Policy, Policy]:
        """The present opponent, its policy, and the policy it acts by while this learner trains."""
        other = view.others[0]
        return Agent(view.own, state.q), self.policy(view.game, other), self.behaviour(view.game, other)

    def remembered(self, state: LOQAState, agent: Agent) -> Tree:
        """The buffer with the present opponent in it, where its turn has come."""
        slot = (state.updates // self.buffer_every) % self.buffer_size
        due = state.updates % self.buffer_every == 0

        def written(past: Array, now: Array) -> Array:
            # One entry is read and written back: a condition would copy the buffer under vmap.
            before = lax.dynamic_index_in_dim(past, slot, keepdims=False)
            return lax.dynamic_update_index_in_dim(past, jnp.where(due, now, before), slot, 0)

        return jax.tree.map(written, state.past, agent)

    def drawn(self, key: Array, state: LOQAState) -> Agent:
        """Uniform draws from what the buffer holds, every leaf ``(draws, ...)``."""
        held = jnp.minimum(state.updates // self.buffer_every + 1, self.buffer_size)
        which = jax.random.randint(key, (self._draws(),), 0, held)
        return jax.tree.map(lambda x: x[which], state.past)

    # the update

    def update(self, key: Array, state: LOQAState, view: View) -> tuple[Tree, LOQAState, Info]:
        game, me, you = view.game, view.player, view.others[0]
        draw_key, play_key = jax.random.split(key)
        present, policy, behaviour = self.opponent(state, view)
        draws = self._draws() if _alike(state.past, present) else 0
        if draws:
            state = state._replace(past=self.remembered(state, present))
            against = self.drawn(draw_key, state)
        else:
            against = present

        own = Agent(view.own, state.q)
        seats = {me: (view.own, self.behaviour(game, me), 0), you: (against.policy, behaviour, draws)}
        params, policies, groups = zip(*(seats[i] for i in range(2)), strict=True)
        play = view.imagine(play_key, policies, params, self.batch_size, groups=groups).trajectory
        lesson = self.lesson(game, me, you, play, policy, against, draws, state.target)

        objective = functools.partial(self.objective, game, me, lesson)
        gradient, info = jax.grad(objective, has_aux=True)(own)
        official = self.preset == "official"
        step = gradient if official else gradient._replace(q=trees.scale(0.0, gradient.q))
        moves, actor_state = self._actor_optimiser().update(step, state.optimiser)
        own = optax.apply_updates(own, moves)
        slope = gradient.q
        if official:
            # The step has moved the action values too, and their error is that of the new ones.
            q_of = self.action_values(game, me).unroll
            last = self.policy(game, me).unroll(state.target.policy, lesson.mine.seen).logits[-1]
            slope = jax.grad(lambda q: -critic_error(q_of(q, lesson.mine.seen), last, lesson, game.gamma))(own.q)
        moves, critic_state = self._critic_optimiser().update(slope, state.critic_optimiser)
        own = own._replace(q=optax.apply_updates(own.q, moves))
        state = state._replace(
            q=own.q,
            target=_average(state.target, own, self.target_decay),
            optimiser=actor_state,
            critic_optimiser=critic_state,
            updates=state.updates + 1,
            rival=self._learn_rival(state.rival, view, lesson),
        )
        info = {**info, "training_return": jnp.mean(lesson.mine.rewards) - self.reward_shift}
        return own.policy, state, info

    def lesson(
        self,
        game: Game,
        me: int,
        you: int,
        play: Trajectory,
        policy: Policy,
        against: Agent,
        draws: int,
        target: Agent,
    ) -> Lesson:
        """What episodes have to teach that the own parameters do not enter.

        Args:
          game: the game.
          me, you: seats.
          play: episodes of both.
          policy: of the opponent, without exploration.
          against: its parameters, every leaf with a leading axis of ``draws``, if that is not 0.
          draws: parameter sets of the opponent, each in an equal share of the episodes.
          target: moving average of the own parameters.
        """
        mine, theirs = self._stream(game, play, me), self._stream(game, play, you)
        logits = _opponent_logits(policy, against.policy, draws, play, theirs.seen)
        q = _grouped(self.action_values(game, you).unroll, draws)(against.q, theirs.seen)[:-1]
        returns = discounted_returns(theirs.rewards, game.gamma)
        modelled = opponent_model(q, returns, theirs.actions, self.temperature)
        averaged = self.action_values(game, me).unroll(target.q, mine.seen)
        return Lesson(mine, theirs, logits, modelled, returns - values(logits[:-1], q), averaged)

    def objective(self, game: Game, me: int, lesson: Lesson, own: Agent) -> tuple[Array, Info]:
        """What the policy ascends, less what the action values descend.

        The two concern different parameters, so that one backward pass gives both gradients.
        With preset ``official`` the policy's part alone, whose gradient in the code concerns both.
        """
        mine, modelled = lesson.mine, lesson.modelled
        logits = self.policy(game, me).unroll(own.policy, mine.seen).logits
        q = self.action_values(game, me).unroll(own.q, mine.seen)
        acting = Categorical(logits=logits[:-1])
        log_probs, entropy = acting.log_prob(mine.actions), jnp.mean(acting.entropy())
        worth = values(logits, q)
        advantages = mine.rewards + game.gamma * worth[1:] - worth[:-1]
        held = lax.stop_gradient(advantages)
        answers = credit(held, 1.0 - jnp.exp(modelled), game.gamma * self.shaping_discount)
        shaped = held + (self.shaping * game.gamma / self.temperature) * lesson.surprise * answers
        total = jnp.mean(log_probs * shaped) + self.entropy * entropy
        # The code asks the averaged policy instead, another pass of the network for one step in T.
        error = critic_error(q, logits[-1], lesson, game.gamma)
        if self.preset == "official":
            # What the code's gradient holds beside this: log-probabilities times the advantages' own gradients.
            total += jnp.mean(lax.stop_gradient(log_probs + self.shaping * modelled) * advantages)
        else:
            total -= error
        return total, {"critic_loss": error, "entropy": entropy}

    def _stream(self, game: Game, play: Trajectory, player: int) -> Stream:
        rewards = play.rewards[..., player] + self.reward_shift
        return Stream(rollouts.observations(game, play, player), play.actions[..., player], rewards)

    def _learn_rival(self, rival: Tree, view: View, lesson: Lesson) -> Tree:
        del view, lesson
        return rival


@pytree_dataclass
class PairedLOQA(LOQA):
    """LOQA without self-play: it trains against the opponent it meets, its past policies included,
    and knows that opponent's action values, or learns them from its play where it has none."""

    access: ClassVar[Access] = Access.SIMULATOR

    def _check_seats(self, game: Game) -> None:
        pass

    def _new_rival(self, q: Tree) -> Rival:
        return Rival(q, q, self._critic_optimiser().init(q))

    def _knows_critic(self, view: View) -> bool:
        other = view.others[0]
        rule = view.learners[other]
        return isinstance(rule, LOQA) and rule.hidden == self.hidden

    def opponent(self, state: LOQAState, view: View) -> tuple[Agent, Policy, Policy]:
        other = view.others[0]
        rule, params, policy = view.learners[other], view.params[other], view.policies[other]
        q = view.states[other].q if self._knows_critic(view) else state.rival.q
        return Agent(params, q), policy, rule.behaviour(view.game, other) if isinstance(rule, LOQA) else policy

    def _learn_rival(self, rival: Rival, view: View, lesson: Lesson) -> Rival:
        """SARSA on the opponent's stream, as for the own action values."""
        if self._knows_critic(view):
            return rival
        theirs, unroll = lesson.theirs, self.action_values(view.game, view.others[0]).unroll
        stream = lesson._replace(mine=theirs, averaged=unroll(rival.target, theirs.seen))

        def fit(q: Tree) -> Array:
            return -critic_error(unroll(q, theirs.seen), lesson.logits[-1], stream, view.game.gamma)

        moves, optimiser_state = self._critic_optimiser().update(jax.grad(fit)(rival.q), rival.optimiser)
        q = optax.apply_updates(rival.q, moves)
        return Rival(q, _average(rival.target, q, self.target_decay), optimiser_state)


# --- arithmetic and batches ---------------------------------------------------------------


def _average(old: Tree, new: Tree, decay: Any) -> Tree:
    return jax.tree.map(lambda a, b: decay * a + (1.0 - decay) * b, old, new)


def _floats(tree: Tree) -> Tree:
    """In the precision in force; flax initialises in single precision."""
    return jax.tree.map(lambda x: x.astype(jnp.result_type(float)), tree)


def _alike(past: Tree, agent: Agent) -> bool:
    """Whether the buffer can hold the agent: it was made for parameters of these shapes."""
    if jax.tree.structure(past) != jax.tree.structure(agent):  # type: ignore[operator]
        return False
    return all(x.shape[1:] == y.shape for x, y in zip(jax.tree.leaves(past), jax.tree.leaves(agent), strict=True))


def _grouped(unroll: Any, groups: int) -> Any:
    """``unroll(params, *arrays)`` where the parameters have a leading axis of that many groups, each
    with an equal share of consecutive episodes."""
    if not groups:
        return unroll

    def grouped(params: Tree, *arrays: Tree) -> Array:
        split = jax.tree.map(lambda x: x.reshape(x.shape[0], groups, -1, *x.shape[2:]), arrays)
        out = jax.vmap(unroll, in_axes=(0, *(1 for _ in arrays)), out_axes=1)(params, *split)
        return out.reshape(out.shape[0], -1, *out.shape[3:])

    return grouped


def _opponent_logits(policy: Policy, params: Tree, groups: int, play: Trajectory, seen: Array) -> Array:
    """The opponent's logits in all states, the end included, ``(T + 1, B, A)``."""
    return _grouped(lambda params, seen, states: policy.along(params, seen, states).logits, groups)(
        params, seen, play.states
    )
