"""Tabular learners that learn at every step: the Q-learners and hill climbers of the LOLA
paper's tournament.

They know the memory-one state, own action first, and what they were paid; JAL counts the
others' actions too. What changes an episode's course is learnt within it: encounters count
one update per episode, these rules one per step. The rate is ``1 / (1 / lr + n lr_decay)``
at the n-th step of the encounter, never reset. A state that ends an episode is worth what it
is worth elsewhere: there is no terminal handling.

=========  ==============================================================================
name       rule
=========  ==============================================================================
naive-q    Q(s, a) <- (1 - lr) Q(s, a) + lr (r + gamma max_a' Q(s', a')); epsilon-greedy
jal-q      the same for Q(s, a, b), greedy on ``sum_b Q(s, a, b) C(s, b) / C(s)`` with the
           counts C of the others' actions b
stateless-q  as naive-q, of actions alone: one row for all states
phc        Q as naive-q; the policy moves towards the greedy action by a fixed step
wolf-phc   the same, with a step twice as long while it does worse than its own average
=========  ==============================================================================

What these learners play is their policy parameter, so that it is what metrics value. Exact
learners read them otherwise: see ``shows``.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import uniform
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.fixed import logits_of
from shaping_bench.games.base import Game

SOURCE = "Foerster et al., AAMAS 2018, section 6.1 and official code"

Row = tuple[Any, ...]
Table = tuple[Any, ...]
"""One entry per state, an entry being a row of scalars, one per action. Scalars become
vectors over seeds under ``vmap``; an axis of two actions would be the vector instead."""


def read(table: Table, index: Array) -> Any:
    """``table[index]``, as comparisons: gathers do not vectorise."""

    def pick(first: Array, *rest: Array) -> Array:
        for k, entry in enumerate(rest, start=1):
            first = jnp.where(index == k, entry, first)
        return first

    return jax.tree.map(pick, *table)


def settled(entry: Any) -> Any:
    """The same numbers, computed once: behind a barrier, or the compiler would compute them
    again for each place in a table that they may go to."""
    leaves, treedef = jax.tree.flatten(entry)
    stacked = jax.lax.optimization_barrier(jnp.stack(leaves))  # in one array, or it is no barrier
    return jax.tree.unflatten(treedef, [stacked[k] for k in range(len(leaves))])


def write(table: Table, index: Array, entry: Any) -> Table:
    """The table with ``entry`` at ``index``."""
    entry = settled(entry)
    return tuple(
        jax.tree.map(lambda new, old, k=k: jnp.where(index == k, new, old), entry, old) for k, old in enumerate(table)
    )


def normal_table(key: Array, *shape: int) -> Table:
    """A table of standard normal draws, drawn in float32 for every precision."""
    draws = jax.random.normal(key, shape, jnp.float32).astype(jnp.result_type(float))

    def unstacked(x: Array) -> Any:
        return tuple(unstacked(y) for y in x) if x.ndim else x

    return unstacked(draws)


def constant_table(value: float, *shape: int) -> Table:
    if not shape:
        return jnp.asarray(value, jnp.result_type(float))  # type: ignore[return-value]
    return tuple(constant_table(value, *shape[1:]) for _ in range(shape[0]))


def greedy(row: Row) -> Array:
    """The action of highest value; of equal ones the first."""
    return (row[1] > row[0]).astype(jnp.int32)


def rate(first: Any, decay: Any, time: Array) -> Array:
    """Step size at the n-th step, n = 1, 2, ...: ``1 / (1 / first + n decay)``."""
    return 1.0 / (1.0 / first + time * decay)


def moved_towards(row: Row, action: Array, target: Array, lr: Any) -> Row:
    """The row with the entry of one action moved towards a target."""
    return write(row, action, (1.0 - lr) * read(row, action) + lr * target)


def own_action(then: Array, n_players: int) -> Array:
    """What the player did, as the next state tells: its own action is the highest bit."""
    return (then - 1) >> (n_players - 1)


def others_actions(then: Array, n_players: int) -> Array:
    """What the others did, as one number, the highest bit from the player's right."""
    return (then - 1) & (2 ** (n_players - 1) - 1)


@pytree_dataclass
class OnlineLearner(Learner):
    """Base: an update is one episode, in which the learner learns at every step."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    online: ClassVar[bool] = True

    lr: float = field(0.01, "step size of the values at first", low=0.0, exclusive=True, step=True)
    lr_decay: float = field(1e-4, "added to 1/lr at every step", low=0.0)

    def check_game(self, game: Game, player: int) -> None:
        if not game.memory_one:
            raise ValueError("keeps one row of values per memory-one state, which this game does not have")

    def start(self, key: Array, game: Game, player: int) -> Tree:
        """State before the first step."""
        raise NotImplementedError

    def played(self, state: Any) -> Array:
        """Logits of the memory-one policy that the state plays, ``(num_states,)``."""
        raise NotImplementedError

    def init(self, key: Array, game: Game, player: int) -> tuple[Array, Tree]:
        state = self.start(key, game, player)
        return self.played(state), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Array, Tree, Info]:
        del key, state
        play, learnt = view.live()
        rewards, gamma = play.rewards()[:, 0], view.game.gamma
        discounts = gamma ** jnp.arange(rewards.shape[0], dtype=rewards.dtype)
        return self.played(learnt), learnt, {"episode_return": (1.0 - gamma) * jnp.sum(discounts * rewards)}


# --- Q-learning ----------------------------------------------------------------------------


@pytree_dataclass
class EpsilonGreedy(OnlineLearner):
    """Base of those who take the best action, and the other one with probability ``epsilon``."""

    epsilon: float = field(0.05, "probability of the action that is not the greedy one", low=0.0, high=1.0)
    shows: str = field(
        "values",
        "policy that others with access to it see: the softmax of the values (official code), or what is played",
        choices=("values", "played"),
        static=True,
    )

    def values(self, state: Any) -> Table:
        """Value of each own action in each state, as the policy sees it."""
        raise NotImplementedError

    def row(self, state: Any, observation: Array) -> Row:
        """The same in one state."""
        raise NotImplementedError

    def act(self, word: Array, state: Any, observation: Array) -> Array:
        best = greedy(self.row(state, observation))
        return jnp.where(uniform(word) < self.epsilon, 1 - best, best)

    def played(self, state: Any) -> Array:
        best = jnp.stack([greedy(row) for row in self.values(state)])
        return logits_of(jnp.where(best == 0, 1.0 - self.epsilon, self.epsilon))

    def shown(self, params: Tree, state: Any) -> Tree:
        if self.shows == "played":
            return params
        return jnp.stack([row[0] - row[1] for row in self.values(state)])


class QState(NamedTuple):
    """State of a Q-learner.

    Attributes:
      table: Q(s, a), ``(num_states, 2)`` as nested tuples.
      time: steps learnt from so far.
    """

    table: Table
    time: Array


@pytree_dataclass
class NaiveQ(EpsilonGreedy):
    """Q-learning of the own actions: the others are part of the world (NL-Q in Fig. 4)."""

    source = SOURCE

    def start(self, key: Array, game: Game, player: int) -> QState:
        return QState(normal_table(key, game.sizes[player], 2), jnp.zeros((), jnp.int32))

    def values(self, state: QState) -> Table:
        return state.table

    def row(self, state: QState, observation: Array) -> Row:
        return read(state.table, observation)

    def react(self, game: Game, state: QState, observation: Array, reward: Array, then: Array) -> QState:
        time = state.time + 1
        lr = rate(self.lr, self.lr_decay, time)
        return QState(learnt(game, state.table, lr, observation, reward, then), time)


def learnt(game: Game, table: Table, lr: Array, observation: Array, reward: Array, then: Array) -> Table:
    """One step of Q-learning: ``Q(s, a) <- (1 - lr) Q(s, a) + lr (r + gamma max Q(s', .))``."""
    target = reward + game.gamma * jnp.maximum(*read(table, then))
    row = moved_towards(read(table, observation), own_action(then, game.n_players), target, lr)
    return write(table, observation, row)


@pytree_dataclass
class StatelessQ(EpsilonGreedy):
    """Q-learning of the own actions without a state: the peer that FURTHER influences in Bach or Stravinsky.

    Its code's step of 0.5 on a squared error, whose derivative has a factor 2, puts the target in the value's place:
    ``lr=1``. It takes a random one of both actions with probability 0.05, so the other one with half of that.
    """

    source = "Kim et al., NeurIPS 2022, official code"

    lr: float = field(1.0, "step size of the values at first", low=0.0, exclusive=True, step=True)
    lr_decay: float = field(0.0, "added to 1/lr at every step", low=0.0)
    epsilon: float = field(0.025, "probability of the action that is not the greedy one", low=0.0, high=1.0)
    first: float = field(10.0, "value of action 0 at first")
    second: float = field(20.0, "value of action 1 at first")

    def start(self, key: Array, game: Game, player: int) -> QState:
        del key
        row = tuple(jnp.asarray(x, jnp.result_type(float)) for x in (self.first, self.second))
        return QState((row,) * game.sizes[player], jnp.zeros((), jnp.int32))

    def values(self, state: QState) -> Table:
        return state.table

    def row(self, state: QState, observation: Array) -> Row:
        del observation
        return state.table[0]

    def react(self, game: Game, state: QState, observation: Array, reward: Array, then: Array) -> QState:
        time, row = state.time + 1, state.table[0]
        target = reward + game.gamma * jnp.maximum(*row)
        row = moved_towards(row, own_action(then, game.n_players), target, rate(self.lr, self.lr_decay, time))
        return QState((row,) * len(state.table), time)


class JointState(NamedTuple):
    """State of a joint-action learner.

    Attributes:
      table: Q(s, a, b), ``(num_states, 2, 2**(n - 1))`` as nested tuples.
      counts: C(s, b), how often the others did b in s.
      time: steps learnt from so far.
    """

    table: Table
    counts: Table
    time: Array


@pytree_dataclass
class JointActionQ(EpsilonGreedy):
    """Q-learning of joint actions, valued by how often the others did theirs (JAL-Q).

    Claus & Boutilier 1998. In a state that it never saw both actions are worth 0.
    """

    source = SOURCE

    shows: str = field(
        "values",
        "policy that others with access to it see: the softmax of the values, that of the joint table read with "
        "its two actions exchanged (which gives the LOLA paper's figure), or what is played",
        choices=("values", "exchanged", "played"),
        static=True,
    )

    def start(self, key: Array, game: Game, player: int) -> JointState:
        states, others = game.sizes[player], 2 ** (game.n_players - 1)
        counts = constant_table(0.0, states, others)
        return JointState(normal_table(key, states, 2, others), counts, jnp.zeros((), jnp.int32))

    def values(self, state: JointState) -> Table:
        return tuple(expected(row, counts) for row, counts in zip(state.table, state.counts, strict=True))

    def shown(self, params: Tree, state: JointState) -> Tree:
        if self.shows != "exchanged":
            return super().shown(params, state)
        rows = (expected(tuple(zip(*row, strict=True)), c) for row, c in zip(state.table, state.counts, strict=True))
        return jnp.stack([first - second for first, second in rows])

    def row(self, state: JointState, observation: Array) -> Row:
        return expected(read(state.table, observation), read(state.counts, observation))

    def react(self, game: Game, state: JointState, observation: Array, reward: Array, then: Array) -> JointState:
        time = state.time + 1
        own, others = own_action(then, game.n_players), others_actions(then, game.n_players)
        # The next state is worth what was known of it before this step was counted.
        target = reward + game.gamma * jnp.maximum(*self.row(state, then))
        row, counts = read(state.table, observation), read(state.counts, observation)
        entry = moved_towards(read(row, own), others, target, rate(self.lr, self.lr_decay, time))
        table = write(state.table, observation, write(row, own, entry))
        seen = write(counts, others, read(counts, others) + 1.0)
        return JointState(table, write(state.counts, observation, seen), time)


def expected(row: Row, counts: Row) -> Row:
    """``sum_b Q(s, a, b) C(s, b) / C(s)`` for each own action; 0 where nothing was counted."""
    total = sum(counts[1:], start=counts[0])
    scale = 1.0 / jnp.maximum(total, 1.0)
    return tuple(scale * sum(q * c for q, c in zip(entry, counts, strict=True)) for entry in row)


# --- hill climbing --------------------------------------------------------------------------

LEAST = 1e-8
"""Least probability of an action."""


@pytree_dataclass
class HillClimber(OnlineLearner):
    """Base of those whose policy climbs the values of a Q-learner; states have a ``policy``."""

    def act(self, word: Array, state: Any, observation: Array) -> Array:
        first, _ = read(state.policy, observation)
        return (uniform(word) >= first).astype(jnp.int32)

    def played(self, state: Any) -> Array:
        return jnp.stack([jnp.log(first) - jnp.log(second) for first, second in state.policy])


def climbed(policy: Row, values: Row, action: Array, step: Array) -> Row:
    """The policy in one state after the move that an action taken allows.

    If it was the greedy one, it gains what the other loses, ``step`` at most; else it loses.
    """
    taken, other = read(policy, action), read(policy, 1 - action)
    gain = jnp.where(action == greedy(values), jnp.minimum(other, step), -jnp.minimum(taken, step))
    moved = write(policy, action, taken + gain)
    return bounded(write(moved, 1 - action, other - gain))


def bounded(policy: Row) -> Row:
    return tuple(jnp.clip(p, LEAST, 1.0 - LEAST) for p in policy)


class PHCState(NamedTuple):
    """State of a hill climber.

    Attributes:
      table: Q(s, a).
      policy: probability of each action, like the table.
      time: steps learnt from so far.
    """

    table: Table
    policy: Table
    time: Array


@pytree_dataclass
class PHC(HillClimber):
    """Policy hill-climbing (Bowling & Veloso 2002)."""

    source = SOURCE

    policy_lr: float = field(5e-5, "step of the policy at first, in probability", low=0.0, exclusive=True, step=True)
    policy_lr_decay: float = field(1.0, "added to 1/policy_lr at every step", low=0.0)

    def start(self, key: Array, game: Game, player: int) -> PHCState:
        states = game.sizes[player]
        return PHCState(normal_table(key, states, 2), constant_table(0.5, states, 2), jnp.zeros((), jnp.int32))

    def react(self, game: Game, state: PHCState, observation: Array, reward: Array, then: Array) -> PHCState:
        time = state.time + 1
        table = learnt(game, state.table, rate(self.lr, self.lr_decay, time), observation, reward, then)
        step = rate(self.policy_lr, self.policy_lr_decay, time)
        policy, action = read(state.policy, observation), own_action(then, game.n_players)
        policy = climbed(policy, read(table, observation), action, step)
        return PHCState(table, write(state.policy, observation, policy), time)


class WoLFState(NamedTuple):
    """State of a hill climber that wins or loses.

    Attributes:
      table: Q(s, a).
      policy: probability of each action, like the table.
      average: mean of the policies at the visits of each state, like the table.
      visits: of each state.
      time: steps learnt from so far.
    """

    table: Table
    policy: Table
    average: Table
    visits: Row
    time: Array


@pytree_dataclass
class WoLFPHC(HillClimber):
    """Win or learn fast: hill climbing with a longer step while the policy is worth less than
    its own average (Bowling & Veloso 2002)."""

    source = SOURCE

    policy_lr: float = field(
        0.01, "step of the policy at first while winning, in probability", low=0.0, exclusive=True, step=True
    )
    policy_lr_decay: float = field(5e-5, "added to 1/policy_lr at every step", low=0.0)
    losing: float = field(2.0, "how many times longer the step is while losing", low=1.0)

    def start(self, key: Array, game: Game, player: int) -> WoLFState:
        states = game.sizes[player]
        uniform = constant_table(0.5, states, 2)
        table, visits = normal_table(key, states, 2), constant_table(0.0, states)
        return WoLFState(table=table, policy=uniform, average=uniform, visits=visits, time=jnp.zeros((), jnp.int32))

    def react(self, game: Game, state: WoLFState, observation: Array, reward: Array, then: Array) -> WoLFState:
        time = state.time + 1
        table = learnt(game, state.table, rate(self.lr, self.lr_decay, time), observation, reward, then)
        policy, average = read(state.policy, observation), read(state.average, observation)
        visits = read(state.visits, observation) + 1.0
        average = bounded(tuple(old + (p - old) / visits for p, old in zip(policy, average, strict=True)))
        values = read(table, observation)
        step = self.step(values, policy, average, time)
        policy = climbed(policy, values, own_action(then, game.n_players), step)
        return WoLFState(
            table=table,
            policy=write(state.policy, observation, policy),
            average=write(state.average, observation, average),
            visits=write(state.visits, observation, visits),
            time=time,
        )

    def step(self, values: Row, policy: Row, average: Row, time: Array) -> Array:
        """Short while the policy is worth more than its average, else long."""
        winning = worth(policy, values) > worth(average, values)
        return jnp.where(winning, 1.0, self.losing) * rate(self.policy_lr, self.policy_lr_decay, time)


def worth(policy: Row, values: Row) -> Array:
    return policy[0] * values[0] + policy[1] * values[1]
