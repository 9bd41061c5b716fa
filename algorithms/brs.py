"""Best response shaping: a policy is taught by somebody who has learned to answer whatever policy it may be.

Aghajohari et al., RLC 2024 (arXiv 2404.06519). A *detective* in the other's seat approximates the best response to
any policy, of which it knows what it has asked: what it would earn in the present state by each of its actions, if it
then played at random. The answers depend on the policy, so that the detective can be differentiated through, and
the policy is led to what is best answered in its favour. Play with itself as one agent of two bodies keeps
it from extorting its like. The detective is thrown away.

There is no public code, and the paper's appendix was not at hand: equations are put together from its abstract, its
reviews and what other code has left of it. This is a rule of that kind, not a replication.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.rollouts import Dice, spread
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts import past_selves
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import encoding, network_field
from shaping_bench.games.base import Game
from shaping_bench.games.spaces import Discrete


def _check_seats(game: Game) -> None:
    if game.n_players != 2:
        raise ValueError(f"is defined for 2 players, the game has {game.n_players}")
    if not game.symmetric:
        raise ValueError("plays against itself, which needs a game whose seats are alike")


# --- tables: the detective searches -----------------------------------------------------------


def searched(own: Array, rewards: Array, gamma: Any, depth: int, temperature: Any) -> Array:
    """The detective that searches a tree of ``depth`` moves of both against a memory-one policy.

    ``Q_k(s, b) = E_a[r(b, a) + gamma V_{k-1}(b, a)]`` and ``V_k = sum_b softmax(Q_k / temperature)_b Q_k(., b)``, from
    ``V_0 = 0`` on.

    Args:
      own: logits of the policy that is answered, in its own order of states, ``(5,)``.
      rewards: the detective's, by its action and the other's, ``(2, 2)``.
      gamma: discount.
      depth: moves that it looks ahead.
      temperature: of its choices, there and in the tree; towards 0 it is the best response.

    Returns:
      Its logits in its own order of states, ``(5,)``; differentiable in ``own``.
    """
    cooperates = jax.nn.sigmoid(own)[jnp.array([0, 1, 3, 2, 4])]  # in its states, its own move first
    chances = jnp.stack([cooperates, 1.0 - cooperates], axis=-1)  # (5, 2)

    def deeper(values: Array, _: None) -> tuple[Array, Array]:
        q = chances @ (rewards + gamma * values[1:].reshape(2, 2)).T  # (5, 2)
        gap = (q[:, 0] - q[:, 1]) / temperature
        return q[:, 1] + jax.nn.sigmoid(gap) * (q[:, 0] - q[:, 1]), gap

    return lax.scan(deeper, jnp.zeros_like(cooperates), None, length=depth)[1][-1]


@pytree_dataclass
class BRSExact(Learner):
    """``theta += lr grad V(theta, d(theta)) + self_play_lr grad mean_i V_i(theta, theta)``, d the detective, which
    searches a tree of the other's and the own moves; both derivatives are through everything.

    It needs nobody to meet, and learns the same whoever sits in the other seat.
    """

    access: ClassVar[Access] = Access.ACTIONS
    reads_facts: ClassVar[bool] = True
    source = "Aghajohari et al., RLC 2024, arXiv 2404.06519 (tree search in the IPD); reconstructed"

    lr: float = field(1.0, "own step against the detective, on unnormalised values", low=0.0, step=True)
    self_play_lr: float = field(
        1.0, "own step in play with itself, on unnormalised values; 0: none", low=0.0, step=True
    )
    depth: int = field(20, "moves that the detective looks ahead", low=1, static=True, small=3)
    temperature: float = field(0.3, "of the detective's choices, in payoffs", low=0.0, exclusive=True)

    def check_game(self, game: Game, player: int) -> None:
        _check_seats(game)
        if game.table is None or not game.memory_one:
            raise ValueError("searches games of memory-one policies given by a table of payoffs")

    def detective(self, own: Array, game: Game, player: int) -> Array:
        """What the detective answers, ``(5,)``."""
        assert game.table is not None, "checked before"
        table = jnp.asarray(game.table[1 - player], own.dtype).reshape(
            2, 2
        )  # by the first seat's action, and the second's
        return searched(own, table.T if player == 0 else table, game.gamma, self.depth, self.temperature)

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        game, player = view.game, view.player
        # One vector, whether parameters come as a vector or as scalars.
        own = jnp.stack(list(view.own))

        def answered(theta: Array) -> Array:
            pair = [self.detective(theta, game, player)] * 2
            pair[player] = theta
            return game.value([tuple(x) for x in pair], player)

        def alone(theta: Array) -> Array:
            pair = [tuple(theta)] * 2
            return (game.value(pair, 0) + game.value(pair, 1)) / 2

        costs.charge(evaluations=3)
        value, shaped = jax.value_and_grad(answered)(own)
        moved = own + self.lr * shaped + self.self_play_lr * jax.grad(alone)(own)
        info = {"detected_return": game.per_step * value}
        return (tuple(moved) if isinstance(view.own, tuple) else moved), state, info


# --- play: the detective asks -----------------------------------------------------------------


class Agent(NamedTuple):
    """What is learned of the own side.

    Attributes:
      critics: of returns against the detective, and against oneself.
      optimisers: of the policy against the detective, and against itself.
      critic_optimisers: of the two critics.
    """

    critics: tuple[Tree, Tree]
    optimisers: tuple[Tree, Tree]
    critic_optimisers: tuple[Tree, Tree]


class BRSState(NamedTuple):
    """What BRS remembers beside its policy.

    Attributes:
      agent: critics and optimisers.
      detective: parameters of the detective.
      optimiser: of the detective.
      past: policies to draw from, every leaf ``(buffer_size, ...)``; empty without a buffer.
      updates: number of updates done.
    """

    agent: Agent
    detective: Tree
    optimiser: Tree
    past: Tree
    updates: Array


class Question(NamedTuple):
    """What each action would bring who sits opposite, and the games that say so: H moves of N = actions x rollouts x B.

    Attributes:
      answers: discounted returns, means over the rollouts, ``(B, n_actions)``.
      states: of the environment, before each move, leaves ``(H, N, ...)``.
      actions: of the policy that is asked about, ``(H, N)``.
      surprises: what came after each of them beyond the mean of the question's other games, ``(H, N)``.
    """

    answers: Array
    states: Tree
    actions: Array
    surprises: Array


class Meeting(NamedTuple):
    """Episodes of a policy and the detective; leaves ``(T, B, ...)``.

    Attributes:
      observations: of the policy.
      seen: by the detective, encoded.
      actions, given: the policy's and the detective's.
      rewards, earned: likewise.
      question: asked before each step.
    """

    observations: Tree
    seen: Array
    actions: Array
    given: Array
    rewards: Array
    earned: Array
    question: Question


@pytree_dataclass
class BRS(NetworkLearner):
    """A detective learns by policy gradients to answer past policies and what noise makes of them; the policy ascends
    ``E[sum_t A_t (log pi(a_t) + log d(b_t | s_t, q_t(pi)))]`` against it, q_t what the detective was told in that
    state, and ``E[sum_t A_t (log pi(a_t) + log pi(b_t))]`` against itself, A_t then the mean advantage of both seats.

    It trains alone, in a simulator that starts wherever it is told to, whoever else is in the game.
    """

    access: ClassVar[Access] = Access.ACTIONS
    default_network: ClassVar[str] = "gru"
    source = "Aghajohari et al., RLC 2024, arXiv 2404.06519; reconstructed, no code was published"

    lr: float = field(0.001, "step of Adam against the detective", low=0.0, step=True)
    self_play_lr: float = field(0.001, "step of Adam against itself; 0: no self-play", low=0.0, step=True)
    detective_lr: float = field(0.003, "step of Adam of the detective", low=0.0)
    critic_lr: float = field(0.01, "step of Adam of the two critics of the own returns", low=0.0)
    batch_size: int = field(32, "episodes of each of the three kinds per update", low=2, static=True, small=2)
    rollouts: int = field(4, "games played to answer a question", low=2, static=True, small=2)
    rollout_steps: int = field(8, "moves of each of them", low=1, static=True, small=2)
    backprop: bool = field(True, "whether the detective is differentiated through", static=True)
    noise: float = field(
        0.1, "deviation of what is added to every parameter that the detective learns to answer", low=0.0
    )
    buffer_size: int = field(64, "past policies kept; 0: the present one alone", low=0, static=True, small=2)
    buffer_every: int = field(10, "updates between additions to the buffer", low=1, static=True)
    agents: int = field(
        4, "policies that the detective meets per update, for equal shares of the episodes", low=1, static=True, small=1
    )
    entropy: float = field(0.02, "weight of the detective's entropy, in nats", low=0.0)
    detective_hidden: int = field(64, "units of each of the detective's two layers", low=1, static=True, small=4)
    network: str = network_field("policy and critics; auto: a table where one does")
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True, small=4)

    @property
    def episodes_per_update(self) -> int:
        return 0  # plays on its own

    @property
    def width(self) -> int:
        return self.batch_size * self.rollouts * self.rollout_steps

    def check_game(self, game: Game, player: int) -> None:
        _check_seats(game)
        super().check_game(game, player)
        if game.ends_early or not all(isinstance(game.action_space(i), Discrete) for i in range(game.n_players)):
            raise ValueError("asks about games of choices whose episodes do not end early")
        if self.batch_size % self.agents:
            raise ValueError(f"has agents={self.agents}; allowed: divisors of batch_size={self.batch_size}")

    def _detective(self, game: Game) -> Network:
        units = self.detective_hidden
        return Network(heads=(("logits", game.n_actions), ("value", 1)), dense=(units, units), activation="tanh")

    def _steps(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        return optimiser("adam", self.lr), optimiser("adam", self.self_play_lr)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, BRSState]:
        own_key, detective_key, *critic_keys = jax.random.split(key, 4)
        own = self.policy(game, player).init_in(own_key, game, player)
        seen = jnp.zeros((encoding(game, None, player).shape[0] + game.n_actions + 1,))
        detective = self._detective(game).init(detective_key, (), seen)["params"]
        first, second = (self.critic(game, player).init(k) for k in critic_keys)
        fit = optimiser("adam", self.critic_lr)
        return own, BRSState(
            agent=Agent(
                critics=(first, second),
                optimisers=tuple(x.init(own) for x in self._steps()),  # type: ignore[arg-type]
                critic_optimisers=(fit.init(first), fit.init(second)),
            ),
            detective=detective,
            optimiser=optimiser("adam", self.detective_lr).init(detective),
            past=past_selves.empty(own, self.buffer_size) if self.buffer_size else (),
            updates=jnp.zeros((), jnp.int32),
        )

    # play, through which no gradient passes

    def asked(self, key: Array, laid: Tree, carry: Tree, states: Tree, game: Game, player: int) -> Question:
        """Asks what each action would bring whoever sits opposite, if it then played at random.

        Args:
          key: randomness.
          laid: the policy that is asked about, laid out.
          carry: its memory, leaves ``(B, ...)``.
          states: of the environment, leaves ``(B, ...)``.
          game, player: the seat of the policy.
        """
        policy, dice, kinds = self.policy(game, player), Dice.of(game), game.n_actions
        batch, length = jax.tree.leaves(states)[0].shape[0], self.rollout_steps
        count = kinds * self.rollouts * batch
        words_key, steps_key = jax.random.split(key)
        first = jnp.repeat(jnp.arange(kinds), self.rollouts * batch)
        costs.charge(steps=count * length)

        def move(loop: tuple[Tree, Tree], now: tuple[Array, Array, Array]) -> tuple[tuple[Tree, Tree], Any]:
            (states, carry), (words, key, step) = loop, now
            seen = jax.vmap(lambda state: game.observe(state, player))(states)
            carry, said = jax.vmap(policy.act, in_axes=(None, 0, 0, 0))(laid, carry, seen, states)
            own = said.sample(dice.words(words, player))
            drawn = Categorical(logits=jnp.zeros((count, kinds))).sample(dice.words(words, 1 - player))
            joint = _joint(own, jnp.where(step == 0, first, drawn), player)
            _, after, rewards, _, _ = jax.vmap(game.step)(jax.random.split(key, count), states, joint)
            return (after, carry), (states, own, rewards[:, 1 - player])

        inputs = (dice.draw(words_key, length, count), jax.random.split(steps_key, length), jnp.arange(length))
        _, (before, actions, rewards) = lax.scan(move, self._wide((states, carry), kinds), inputs)
        weights = game.gamma ** jnp.arange(length)[:, None]
        ahead = discounted_returns(weights * rewards, 1.0).reshape(length, kinds, self.rollouts, batch)
        others = (jnp.sum(ahead, axis=2, keepdims=True) - ahead) / (self.rollouts - 1)
        return Question(
            answers=jnp.mean(ahead[0], axis=1).T,
            states=before,
            actions=actions,
            surprises=(ahead - others).reshape(length, count),
        )

    def _wide(self, tree: Tree, kinds: int) -> Tree:
        """Leaves ``(B, ...)`` for every game of a question, ``(N, ...)``."""
        times = kinds * self.rollouts
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (times, *x.shape)).reshape(-1, *x.shape[1:]), tree)

    def met(self, key: Array, own: Tree, detective: Tree, game: Game, player: int, batch_size: int) -> Meeting:
        """Episodes of a policy and the detective, who asks before every move.

        Args:
          key: randomness.
          own: parameters of the policy.
          detective: of the detective.
          game, player: the seat of the policy.
          batch_size: episodes.
        """
        policy, dice, judge = self.policy(game, player), Dice.of(game), self._detective(game)
        other, length = 1 - player, game.num_steps
        laid, weights, encode = policy.laid(own), judge.laid(detective), encoding(game, None, other)
        reset_key, words_key, steps_key = jax.random.split(key, 3)
        _, states = jax.vmap(game.reset)(jax.random.split(reset_key, batch_size))

        def move(loop: tuple[Tree, Tree], now: tuple[Array, Array]) -> tuple[tuple[Tree, Tree], Meeting]:
            (states, carry), (words, key) = loop, now
            ask, step = jax.random.split(key)
            question = self.asked(ask, laid, carry, states, game, player)
            mine, theirs = (jax.vmap(lambda s, i=i: game.observe(s, i))(states) for i in (player, other))
            seen = encode(theirs)
            heads = judge.act(weights, (), self._known(seen, question.answers))[1]
            carry, said = jax.vmap(policy.act, in_axes=(None, 0, 0, 0))(laid, carry, mine, states)
            taken = said.sample(dice.words(words, player))
            given = Categorical(logits=heads["logits"]).sample(dice.words(words, other))
            joint = _joint(taken, given, player)
            _, states, rewards, _, _ = jax.vmap(game.step)(jax.random.split(step, batch_size), states, joint)
            met = Meeting(
                observations=mine,
                seen=seen,
                actions=taken,
                given=given,
                rewards=rewards[:, player],
                earned=rewards[:, other],
                question=question,
            )
            return (states, carry), met

        costs.charge(steps=length * batch_size)
        inputs = (dice.draw(words_key, length, batch_size), jax.random.split(steps_key, length))
        with costs.repeated(length):
            return lax.scan(move, (states, spread(policy.start(), batch_size)), inputs)[1]

    # what is learned from it

    def _known(self, seen: Array, answers: Array) -> Array:
        """What the detective decides by: what it sees, what answers differ by, and their mean per move."""
        level = jnp.mean(answers, axis=-1, keepdims=True)
        return jnp.concatenate([seen, answers - level, level / self.rollout_steps], axis=-1)

    def answers(self, laid: Tree, carry: Tree, question: Question, game: Game, player: int) -> Array:
        """The answers to a question, ``(B, n_actions)``, with a derivative: that of their expectations.

        By the score function, with the question's other games as baseline.

        Args:
          laid: the policy that was asked about, laid out.
          carry: its memory then, leaves ``(B, ...)``.
          question: what was asked.
          game, player: the seat of the policy.
        """
        policy, kinds = self.policy(game, player), game.n_actions

        def move(carry: Tree, now: tuple[Tree, Array]) -> tuple[Tree, Array]:
            states, actions = now
            seen = jax.vmap(lambda state: game.observe(state, player))(states)
            carry, said = jax.vmap(policy.act, in_axes=(None, 0, 0, 0))(laid, carry, seen, states)
            return carry, said.log_prob(actions)

        _, log_probs = lax.scan(move, self._wide(carry, kinds), (question.states, question.actions))
        scores = log_probs - lax.stop_gradient(log_probs)  # zero, but for its derivative
        slope = jnp.sum(scores * question.surprises, axis=0).reshape(kinds, self.rollouts, -1)
        return question.answers + jnp.mean(slope, axis=1).T

    def log_probs(self, own: Tree, detective: Tree, met: Meeting, game: Game, player: int) -> tuple[Array, Array]:
        """Log-probabilities of what the policy and the detective did, ``(T, B)`` each, as functions of the policy."""
        policy = self.policy(game, player)
        laid = policy.laid(own)

        def move(carry: Tree, now: tuple[Tree, Array]) -> tuple[Tree, tuple[Tree, Array]]:
            seen, actions = now
            then, said = jax.vmap(policy.act, in_axes=(None, 0, 0, None))(laid, carry, seen, None)
            return then, (carry, said.log_prob(actions))

        start = spread(policy.start(), met.actions.shape[1])
        _, (carries, taken) = lax.scan(move, start, (met.observations, met.actions))
        answers = met.question.answers
        if self.backprop:
            answers = jax.vmap(lambda c, q: self.answers(laid, c, q, game, player))(carries, met.question)
        judge = self._detective(game)
        heads = judge.act(judge.laid(detective), (), self._known(met.seen, answers))[1]
        return taken, Categorical(logits=heads["logits"]).log_prob(met.given)

    # the update

    def update(self, key: Array, state: BRSState, view: View) -> tuple[Tree, BRSState, Info]:
        game, player = view.game, view.player
        draw_key, noise_key, answer_key, meet_key, self_key = jax.random.split(key, 5)
        own, agent = view.own, state.agent

        # (a) The detective learns to answer past policies.
        past = state.past
        if self.buffer_size:
            past = past_selves.kept(past, own, state.updates, self.buffer_every)
            drawn = past_selves.draw(draw_key, past, state.updates, self.buffer_every, self.agents)
        else:
            drawn = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.agents, *x.shape)), own)
        drawn = _noisy(noise_key, drawn, self.noise)
        size = self.batch_size // self.agents
        with costs.repeated(self.agents):
            meet = functools.partial(self.met, detective=state.detective, game=game, player=player, batch_size=size)
            if self.agents == 1:  # the same without a batch of one
                met = jax.tree.map(lambda x: x[None], meet(answer_key, jax.tree.map(lambda x: x[0], drawn)))
            else:
                met = jax.vmap(meet)(jax.random.split(answer_key, self.agents), drawn)
        slope = jax.grad(self._answering)(state.detective, met, game)
        change, memory = optimiser("adam", self.detective_lr).update(slope, state.optimiser)
        detective = optax.apply_updates(state.detective, change)

        # (b) The policy learns what is well answered, (c) and to play with itself.
        critics, memories, fits = list(agent.critics), list(agent.optimisers), list(agent.critic_optimisers)
        faced = self.met(meet_key, own, detective, game, player, self.batch_size)
        returns = discounted_returns(faced.rewards, game.gamma)
        advantage = returns - self.critic(game, player).unroll(critics[0], faced.observations)

        def shaped(theta: Tree) -> Array:
            taken, given = self.log_probs(theta, detective, faced, game, player)
            return jnp.mean(advantage * (taken + given))

        change, memories[0] = self._steps()[0].update(jax.grad(shaped)(own), memories[0])
        own = optax.apply_updates(own, change)
        critics[0], fits[0] = self._fitted(critics[0], fits[0], [(faced.observations, returns)], game, player)
        slope, both, alone = self.alone(self_key, own, critics[1], view)
        change, memories[1] = self._steps()[1].update(slope, memories[1])
        own = optax.apply_updates(own, change)
        critics[1], fits[1] = self._fitted(critics[1], fits[1], both, game, player)
        state = BRSState(
            agent=Agent(tuple(critics), tuple(memories), tuple(fits)),  # type: ignore[arg-type]
            detective=detective,
            optimiser=memory,
            past=past,
            updates=state.updates + 1,
        )
        info = {
            "training_return": alone,
            "detected_return": jnp.mean(faced.rewards),
            "detective_return": jnp.mean(met.earned),
        }
        return own, state, info

    def alone(self, key: Array, own: Tree, critic: Tree, view: View) -> tuple[Tree, list[tuple[Tree, Array]], Array]:
        """What the policy ascends in play with itself: the gradient; of each seat observations and returns; the mean
        reward of both."""
        game, judge = view.game, self.critic(view.game, view.player)
        policies = (self.policy(game, 0), self.policy(game, 1))
        play = view.imagine(key, policies, (own, own), self.batch_size)
        both = [(play.observations(i, end=False), discounted_returns(play.rewards(i), game.gamma)) for i in range(2)]
        first, second = (returns - judge.unroll(critic, seen) for seen, returns in both)
        advantage = (first + second) / 2

        def together(theta: Tree) -> Array:
            log_probs = [play.log_probs(policies[i], theta, i) for i in range(2)]
            return jnp.mean(advantage * (log_probs[0] + log_probs[1]))

        return jax.grad(together)(own), both, jnp.mean(play.trajectory.rewards)

    def _answering(self, detective: Tree, met: Meeting, game: Game) -> Array:
        """What the detective ascends, over meetings with several policies: leaves ``(agents, T, B, ...)``."""
        judge = self._detective(game)
        heads = judge.act(judge.laid(detective), (), self._known(met.seen, met.question.answers))[1]
        answer, values = Categorical(logits=heads["logits"]), heads["value"][..., 0]
        returns = jax.vmap(lambda r: discounted_returns(r, game.gamma))(met.earned)
        gain = jnp.mean(lax.stop_gradient(returns - values) * answer.log_prob(met.given))
        error = jnp.mean(jnp.square(returns - values))
        return gain + self.entropy * jnp.mean(answer.entropy()) - 0.5 * error

    def _fitted(
        self, critic: Tree, memory: Tree, lessons: list[tuple[Tree, Array]], game: Game, player: int
    ) -> tuple[Tree, Tree]:
        """A step of a critic towards returns ``(T, B)``, the mean over the lessons."""
        judge = self.critic(game, player)

        def error(params: Tree) -> Array:
            errors = [jnp.mean(jnp.square(returns - judge.unroll(params, seen))) for seen, returns in lessons]
            return -0.5 * jnp.mean(jnp.stack(errors))

        change, memory = optimiser("adam", self.critic_lr).update(jax.grad(error)(critic), memory)
        return optax.apply_updates(critic, change), memory


def _joint(own: Array, other: Array, player: int) -> Array:
    """Joint actions ``(..., 2)`` of who sits in seat ``player`` and the other."""
    return jnp.stack([own, other] if player == 0 else [other, own], axis=-1)


def _noisy(key: Array, tree: Tree, deviation: Any) -> Tree:
    leaves, form = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [x + deviation * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(form, drawn)
