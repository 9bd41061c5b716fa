"""Learning in context from a mixed pool: the control of opponent shaping.

Weis et al. 2026 (arXiv 2602.16301). Nothing here knows that others learn: independent actor-critics act by
what they remember of the episode, and each plays a share of its episodes against the others and the rest
against memory-one tables, without being told which. Who has to find out within the episode whom it
plays learns to answer there; who answers can be extorted by those who learn more slowly than it answers; equals
who extort each other end in cooperation: so the claim. Without tables, or with names shown, nothing has to be
found out.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Play, PreparedLearner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import rollout_on, spread, word_of
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import gae, lambda_returns
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Net, NetworkPolicy, acting_head, encoding
from shaping_bench.algorithms.populations import MemoryOne
from shaping_bench.games.base import Game
from shaping_bench.games.spaces import Discrete


class Episodes(NamedTuple):
    """What one agent saw and did in E episodes of T steps.

    Attributes:
      names: what it was shown of the others before, ``(E, n)``.
      observations: before each step and at the end, ``(T + 1, E)``.
      actions: own, ``(T, E)``.
      rewards: own, ``(T, E)``.
    """

    names: Array
    observations: Array
    actions: Array
    rewards: Array


class Training(NamedTuple):
    """What the preparation carries, an entry per agent."""

    weights: tuple[Tree, ...]
    optimiser: tuple[Tree, ...]


@dataclasses.dataclass(frozen=True)
class ContextPolicy(NetworkPolicy):
    """A recurrent network over the episode so far, which sees whom it was told that it plays beside every observation.

    Attributes:
      shown: numbers of a name; zeros are somebody who learns. They lie in the carry: what an episode starts with.
    """

    shown: int = 0

    def init(self, key: Array) -> Tree:
        x = jnp.zeros((self.net.encoding.size + self.shown,))
        return self.net.network.init(key, self.net.start(), x)["params"]

    def start(self) -> tuple[Tree, Array]:
        return self.net.start(), jnp.zeros((self.shown,))

    def begin(self, key: Array, names: Array) -> Tree:
        """Carries at the start of E episodes with these names, ``(E, n)``."""
        del key
        return spread(self.net.start(), len(names)), names

    def act(self, laid: Tree, carry: tuple[Tree, Array], observation: Array, state: Tree) -> tuple[Tree, Any]:
        hidden, name = carry
        seen = jnp.concatenate([self.net.encoding(observation), name])
        hidden, heads = self.net.network.act(laid, hidden, seen)
        return (hidden, name), self.acting(heads)

    def unroll(self, params: Tree, observations: Array) -> Any:
        return self.acting(self.heads(params, observations, jnp.zeros((*observations.shape[1:], self.shown))))

    def heads(self, params: Tree, observations: Array, names: Array) -> Any:
        """Logits and values along whole episodes, of observations ``(T, E)`` and names ``(E, n)``."""
        seen = self.net.encoding(observations)
        seen = jnp.concatenate([seen, jnp.broadcast_to(names, (*seen.shape[:-1], self.shown))], axis=-1)
        return self.net.network.along(self.laid(params), seen)


def _seen(play: Play, names: Array) -> Episodes:
    return Episodes(names=names, observations=play.observations(), actions=play.actions(), rewards=play.rewards())


def joined(met: Sequence[Episodes]) -> Episodes:
    """Episodes of several batches side by side."""
    if len(met) == 1:
        return met[0]
    names = jnp.concatenate([x.names for x in met])
    return Episodes(names, *(jnp.concatenate(x, axis=1) for x in zip(*(x[1:] for x in met), strict=True)))


def added(old: Episodes, new: Episodes, place: Array) -> Episodes:
    """Some episodes with others written over them from a place on."""

    def written(x: Array, y: Array, axis: int) -> Array:
        return lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), place, axis)

    columns = (written(x, y, 1) for x, y in zip(old[1:], new[1:], strict=True))
    return Episodes(written(old.names, new.names, 0), *columns)


# --- the pool -----------------------------------------------------------------------------


TOLD = 16
"""Episodes of which an encounter's update tells the return."""


@pytree_dataclass
class Pooled(PreparedLearner):
    """Base of those whose preparation teaches one agent per seat in a pool.

    Of the ``batch_size`` episodes of an iteration each agent plays the share ``tables`` against policies that do not
    learn (``against``), drawn anew for every episode and seat, the rest against the other agents.
    """

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    prepared_jointly: ClassVar[bool] = True

    against: Any = field(
        "tables",
        "who is met beside the learners; tables: memory-one(split=train)",
        choices=("tables",),
        static=True,
        learner=True,
    )
    tables: float = field(0.5, "share of the episodes that are played against them", low=0.0, high=1.0, static=True)
    identity: bool = field(False, "agents are shown whom they play", static=True)
    batch_size: int = field(4096, "episodes per iteration and agent", low=1, static=True, small=4)
    hidden: int = field(128, "units of the GRU", low=1, static=True, small=4)

    @property
    def preparation_width(self) -> int:
        return self.batch_size

    @property
    def episodes_per_update(self) -> int:
        """An encounter's updates change nothing; a few episodes tell what it brings."""
        return min(self.batch_size, TOLD)

    @property
    def tabular(self) -> int:
        """Episodes of an iteration against policies that do not learn."""
        return round(self.tables * self.batch_size)

    def coplayers(self) -> Mixture:
        """Who is met beside the learners."""
        return Mixture.of(self.against, {"tables": MemoryOne(split="train")})

    def check_game(self, game: Game, player: int) -> None:
        if not game.memory_one:
            raise ValueError("meets memory-one tables, which this game does not have")
        coplayers = self.coplayers()
        coplayers.check_sampled(game, player)
        for rule in coplayers.learners:
            if rule.learns:
                raise ValueError(f"has against={type(rule).__name__}, which learns; allowed: policies that do not")
            if self.identity and not all(isinstance(rule.policy(game, i), Tabular) for i in range(game.n_players)):
                raise ValueError(f"has identity=true and against={type(rule).__name__}, no table; allowed: tables")
        if self.tabular:
            coplayers.check_counts(self.tabular, "episodes")

    def policy(self, game: Game, player: int) -> ContextPolicy:
        return ContextPolicy(
            self._net(game, player, (acting_head(game, player), ("value", 1))),
            game.action_space(player),
            shown=self._shown(game, player),
        )

    def _net(self, game: Game, player: int, heads: tuple[tuple[str, int], ...]) -> Net:
        return Net(Network(heads=heads, cell="gru", width=self.hidden), encoding(game, None, player))

    def _shown(self, game: Game, player: int) -> int:
        return sum(game.sizes) - game.sizes[player] if self.identity else 0

    # --- meeting others -----------------------------------------------------------------------

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        weights = self.policy(game, player).init(key) if artifact is None else artifact[player]
        return weights, (jnp.zeros(()), jnp.zeros(()))

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        """The weights stay; what the encounter has brought so far is told."""
        del key
        total, updates = state
        total, updates = total + jnp.mean(view.play(self.episodes_per_update).rewards()), updates + 1.0
        return view.own, (total, updates), {"encounter_return": total / updates}

    # --- the pool -----------------------------------------------------------------------------

    def met(self, key: Array, weights: Sequence[Tree], game: Game) -> tuple[list[Episodes], Info]:
        """What every agent sees of one iteration: those with the other agents first, then those against tables; and
        the mean returns per step of both."""
        play, start = (jax.random.fold_in(key, game.n_players + k) for k in range(2))
        together = self._among_agents(play, start, weights, game)
        found, info = [], dict[str, Array]()
        for i, own in enumerate(weights):
            apart = self._against_tables(jax.random.fold_in(key, i), self.tabular, game, i, own)
            found.append(joined(together[i] + apart))
            for name, group in (("return_among_agents", together[i]), ("return_from_tables", apart)):
                if group:
                    mean = jnp.mean(joined(group).rewards) / game.n_players
                    info[name] = info[name] + mean if name in info else mean
        return found, info

    def _among_agents(self, key: Array, start: Array, weights: Sequence[Tree], game: Game) -> list[list[Episodes]]:
        """Episodes of all agents with one another, as each of them sees them; ``start`` is what policies begin with."""
        count = self.batch_size - self.tabular
        if not count:
            return [[] for _ in weights]
        policies = [self.policy(game, i) for i in range(game.n_players)]
        names = [jnp.zeros((count, policy.shown)) for policy in policies]
        carries = [x.begin(jax.random.fold_in(start, i), names[i]) for i, x in enumerate(policies)]
        trajectory, _ = rollout_on(key, game, policies, weights, count, carries=carries)
        return [[_seen(Play(game, trajectory, i), names[i])] for i in range(game.n_players)]

    def _against_tables(
        self, key: Array, total: int, game: Game, player: int, weights: Tree | None = None
    ) -> list[Episodes]:
        """Episodes of one seat, in each of which everybody else is drawn anew; without weights it is drawn too."""
        coplayers, found = self.coplayers(), []
        own, seats = self.policy(game, player), range(game.n_players)
        for k, (rule, count) in enumerate(zip(coplayers.learners, coplayers.counts(total), strict=True)):
            if not count:
                continue
            draw, play = jax.random.split(jax.random.fold_in(key, k))
            drawn = [
                jax.vmap(lambda key, rule=rule, i=i: rule.init(key, game, i)[0])(
                    jax.random.split(jax.random.fold_in(draw, i), count)
                )
                for i in seats
            ]
            names = jnp.zeros((count, own.shown))
            if self.identity:
                others = [drawn[i] for i in seats if i != player]
                names = jax.nn.sigmoid(jnp.concatenate(others, axis=-1)).astype(names.dtype)
            agents = [player] if weights is not None else []
            trajectory, _ = rollout_on(
                play,
                game,
                [own if i in agents else rule.policy(game, i) for i in seats],
                [weights if i in agents else drawn[i] for i in seats],
                count,
                groups=[0 if i in agents else count for i in seats],
                carries=[
                    own.begin(jax.random.fold_in(draw, game.n_players), names) if i in agents else None for i in seats
                ],
            )
            found.append(_seen(Play(game, trajectory, player), names))
        return found


# --- actor-critic -------------------------------------------------------------------------


@pytree_dataclass
class InContext(Pooled):
    """A recurrent policy from independent advantage actor-critics in a pool of learners and tables.

    The preparation teaches one agent per seat. Of the ``batch_size`` episodes of an iteration each agent plays
    the share ``tables`` against policies that do not learn (``against``), drawn anew for every episode and seat, the
    rest against the other agents. In an encounter it does not learn: what it does there follows from the
    episode so far.

    Ablations of the paper: ``tables=0``, and ``identity=true``, which shows the others' probabilities of action 0
    (zeros where they learn).
    """

    source = "Weis et al. 2026, arXiv 2602.16301 (A2C, mixed pool); no code was published"

    iterations: int = field(70000, "of the preparation", low=1, static=True)
    meta_lr: float = field(1e-3, "step of Adam", low=0.0)
    meta_gamma: float = field(0.99, "discount per step", low=0.0, high=1.0)
    lam: float = field(1.0, "lambda of advantages and of the critic's targets", low=0.0, high=1.0)
    reward_scale: float = field(0.02, "of the rewards that are learned from", low=0.0, exclusive=True)
    value_coefficient: float = field(0.5, "weight of the critic's squared error", low=0.0)
    entropy: float = field(0.01, "weight of the policy's entropy, in nats", low=0.0)
    max_grad_norm: float = field(1.0, "longer gradients are cut to this norm", low=0.0)
    normalise: bool = field(True, "advantages to mean 0 and deviation 1 in each batch", static=True)

    @property
    def preparation_steps(self) -> int:
        return self.iterations

    def _adam(self) -> optax.GradientTransformation:
        return optimiser("adam", self.meta_lr, eps=1e-5, max_grad_norm=self.max_grad_norm)

    def prepare_init(self, key: Array, game: Game, player: int) -> Training:
        del player
        keys = jax.random.split(key, game.n_players)
        weights = tuple(self.policy(game, i).init(k) for i, k in enumerate(keys))
        return Training(weights, tuple(self._adam().init(x) for x in weights))

    def artifact(self, carry: Training) -> Tree:
        return carry.weights

    def prepare_step(self, key: Array, step: Array, carry: Training, game: Game, player: int) -> tuple[Training, Info]:
        """One batch of everybody as they are, and one step of Adam each."""
        del step, player
        met, info = self.met(key, carry.weights, game)
        weights, optimisers = [], []
        for i, own in enumerate(carry.weights):
            slope = jax.grad(self.objective)(own, met[i], game, i)
            change, memory = self._adam().update(slope, carry.optimiser[i])
            weights.append(optax.apply_updates(own, change))
            optimisers.append(memory)
        return Training(tuple(weights), tuple(optimisers)), info

    def objective(self, weights: Tree, met: Episodes, game: Game, player: int) -> Array:
        """What an agent ascends: ``log pi A + entropy - squared error``, means over steps and episodes."""
        policy = self.policy(game, player)
        heads = policy.heads(weights, met.observations, met.names)
        values, acting = heads["value"][..., 0], policy.acting({"logits": heads["logits"][:-1]})
        rewards, last = self.reward_scale * met.rewards, lax.stop_gradient(values)
        advantages = gae(rewards, last[:-1], last[-1], self.meta_gamma, self.lam)
        targets = lambda_returns(rewards, last[:-1], last[-1], self.meta_gamma, self.lam)
        if self.normalise:
            advantages = (advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8)
        gain = jnp.mean(acting.log_prob(met.actions) * advantages)
        error = jnp.mean(jnp.square(targets - values[:-1]))
        return gain + self.entropy * jnp.mean(acting.entropy()) - self.value_coefficient * error


# --- by prediction ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PlanningPolicy(ContextPolicy):
    """Acts by a model of the whole episode: ``pi(a | x)`` is proportional to ``p(a | x) exp(beta Q(x, a))``, Q the mean
    return of episodes that the model imagines from there on.

    Heads of the model are what the agent does next, what it sees then by what it did, and its reward by what it saw.
    Chance comes from a word in the carry, which a hash turns over at every step.

    Attributes:
      beta: how much better actions become likelier.
      depth: steps of an imagined episode.
      imagined: such episodes per action.
    """

    beta: float = 0.01
    depth: int = 15
    imagined: int = 1

    @property
    def choices(self) -> int:
        assert isinstance(self.space, Discrete)
        return self.space.n

    def start(self) -> Tree:
        return *super().start(), jnp.zeros((), jnp.uint32)

    def begin(self, key: Array, names: Array) -> Tree:
        return *super().begin(key, names), jax.random.bits(key, (len(names),), jnp.uint32)

    def act(self, laid: Tree, carry: Any, observation: Array, state: Tree) -> tuple[Tree, Categorical]:
        hidden, name, word = carry
        word = word_of(word, 1)
        hidden, heads = self._after(laid, hidden, name, observation)
        logits = heads["logits"] + self.beta * self._worth(word, laid, hidden, name, heads)
        return (hidden, name, word), Categorical(logits=logits)

    def unroll(self, params: Tree, observations: Array) -> Categorical:
        laid, acting = self.laid(params), jax.vmap(self.act, in_axes=(None, 0, 0, None))
        start = spread(self.start(), observations.shape[1])
        return lax.scan(lambda carry, seen: acting(laid, carry, seen, ()), start, observations)[1]

    def foreseen(self, heads: Any, actions: Array) -> Categorical:
        """What is seen after actions ``(...)``."""
        rows = heads["observation"].reshape(*actions.shape, self.choices, -1)
        return Categorical(logits=_at(rows, actions))

    def _after(self, laid: Tree, hidden: Array, name: Array, observation: Array) -> tuple[Array, Any]:
        seen = self.net.encoding(observation)
        seen = jnp.concatenate([seen, jnp.broadcast_to(name, (*seen.shape[:-1], self.shown))], axis=-1)
        return self.net.network.act(laid, hidden, seen)

    def _worth(self, word: Array, laid: Tree, hidden: Array, name: Array, heads: Any) -> Array:
        """Q of every action, ``(n,)``: the sum of the next ``depth`` rewards, by chance that comes of one word."""
        shape = (self.choices, self.imagined)
        count = jnp.arange(self.depth * 2 * math.prod(shape), dtype=jnp.uint32)
        words = word_of(word_of(word, 1) ^ count, 1).reshape(self.depth, 2, *shape)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *x.shape)), (hidden, heads))
        first = jnp.broadcast_to(jnp.arange(self.choices)[:, None], shape)

        def step(loop: Any, words: Array) -> Any:
            (hidden, heads), actions = loop
            then = self.foreseen(heads, actions).sample(words[0])
            reward = _at(heads["reward"][..., None], then)[..., 0]
            after = self._after(laid, hidden, name, then)
            return (after, Categorical(logits=after[1]["logits"]).sample(words[1])), reward

        rewards = lax.scan(step, (many, first), words)[1]
        return jnp.mean(jnp.sum(rewards, axis=0), axis=-1)


class Library(NamedTuple):
    """What a preparation by prediction carries, an entry per agent.

    Attributes:
      episodes: all that was seen so far, then room for what is to come.
      weights: of the model of it.
    """

    episodes: tuple[Episodes, ...]
    weights: tuple[Tree, ...]


@pytree_dataclass
class InContextPPI(Pooled):
    """Predictive policy improvement: a sequence model of whole episodes, made again in every phase from all that
    was seen so far, and a policy that prefers what the model says is better.

    The pool is that of ``in-context``. Before the first phase the model is fitted to episodes of tables with
    tables. Each phase fits it anew and plays ``batch_size`` episodes by it; the last only fits to what comes of it.
    For the paper's ablation without tables: ``tables=0,against=random``, whose first episodes are random actions.
    """

    source = "Weis et al. 2026, arXiv 2602.16301 (PPI, mixed pool); no code was published"

    batch_size: int = field(20000, "episodes per phase and agent", low=1, static=True, small=4)
    phases: int = field(30, "in each of which is played by a model and learned from it", low=1, static=True, small=2)
    pretraining: int = field(200000, "episodes of tables with tables at first", low=1, static=True, small=4)
    model_lr: float = field(1e-4, "step of AdamW", low=0.0)
    weight_decay: float = field(0.01, "of AdamW", low=0.0)
    max_grad_norm: float = field(1.0, "longer gradients are cut to this norm", low=0.0)
    epochs: int = field(10, "how often the model sees an episode in a phase, on average", low=1, static=True, small=1)
    minibatch: int = field(256, "episodes per step of AdamW, drawn from all", low=1, static=True, small=4)
    beta: float = field(0.01, "how much likelier a better action becomes, per unit of return", low=0.0, static=True)
    depth: int = field(15, "steps of an imagined episode", low=1, static=True, small=2)
    imagined: int = field(
        1, "imagined episodes per action, of which the paper does not say how many", low=1, static=True
    )

    @property
    def preparation_steps(self) -> int:
        return self.phases + 1

    def policy(self, game: Game, player: int) -> PlanningPolicy:
        states, (_, choices) = encoding(game, None, player).size, acting_head(game, player)
        heads = (("logits", choices), ("observation", choices * states), ("reward", states))
        return PlanningPolicy(
            self._net(game, player, heads),
            game.action_space(player),
            shown=self._shown(game, player),
            beta=self.beta,
            depth=self.depth,
            imagined=self.imagined,
        )

    def prepare_init(self, key: Array, game: Game, player: int) -> Library:
        del player
        episodes, weights = [], []
        for i in range(game.n_players):
            start, play = jax.random.split(jax.random.fold_in(key, i))
            seen = joined(self._against_tables(play, self.pretraining, game, i))
            room = self.phases * self.batch_size
            names = jnp.pad(seen.names, ((0, room), (0, 0)))
            episodes.append(Episodes(names, *(jnp.pad(x, ((0, 0), (0, room))) for x in seen[1:])))
            weights.append(self.policy(game, i).init(start))
        return Library(tuple(episodes), tuple(weights))

    def artifact(self, carry: Library) -> Tree:
        return carry.weights

    def prepare_step(self, key: Array, step: Array, carry: Library, game: Game, player: int) -> tuple[Library, Info]:
        """Models of all so far, and a batch of everybody by them."""
        del player
        known = self.pretraining + step * self.batch_size
        fit, play = jax.random.split(key)
        weights = tuple(
            self.fitted(jax.random.fold_in(fit, i), episodes, known, game, i)
            for i, episodes in enumerate(carry.episodes)
        )
        met, info = self.met(play, weights, game)

        # After the last phase there is no room, nor need.
        place = jnp.minimum(known, self.pretraining + (self.phases - 1) * self.batch_size)
        episodes = tuple(
            jax.tree.map(lambda new, old: jnp.where(step < self.phases, new, old), added(old, new, place), old)
            for old, new in zip(carry.episodes, met, strict=True)
        )
        return Library(episodes, weights), info

    def fitted(self, key: Array, episodes: Episodes, known: Array, game: Game, player: int) -> Tree:
        """Weights of a fresh model after ``epochs`` times as many episodes as the first ``known`` are."""
        rule = optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.adamw(self.model_lr, b1=0.9, b2=0.98, weight_decay=self.weight_decay),
        )
        begin, draw = jax.random.split(key)
        weights = self.policy(game, player).init(begin)

        def step(k: Array, carry: Tree) -> Tree:
            weights, memory = carry
            rows = jax.random.randint(jax.random.fold_in(draw, k), (self.minibatch,), 0, known)
            some = Episodes(episodes.names[rows], *(x[:, rows] for x in episodes[1:]))
            slope = jax.grad(self.loss)(weights, some, game, player)
            change, memory = rule.update(slope, memory, weights)
            return optax.apply_updates(weights, change), memory

        return lax.fori_loop(0, self.epochs * known // self.minibatch, step, (weights, rule.init(weights)))[0]

    def loss(self, weights: Tree, met: Episodes, game: Game, player: int) -> Array:
        """Of the model: cross-entropies of what is done and seen, and the squared error of rewards, per step."""
        policy, then = self.policy(game, player), met.observations[1:]
        heads = policy.heads(weights, met.observations[:-1], met.names)
        likely = policy.acting(heads).log_prob(met.actions) + policy.foreseen(heads, met.actions).log_prob(then)
        return jnp.mean(jnp.square(_at(heads["reward"][..., None], then)[..., 0] - met.rewards) - likely)


def _at(rows: Array, index: Array) -> Array:
    """Rows ``(..., n, m)`` at ``(...)``: ``(..., m)``."""
    return jnp.take_along_axis(rows, index[..., None, None], axis=-2)[..., 0, :]
