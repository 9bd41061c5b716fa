"""Learning in context from a mixed pool: the control of opponent shaping.

Weis et al. 2026 (arXiv 2602.16301). Nothing here knows that others learn: independent actor-critics act by
what they remember of the episode, and each plays a share of its episodes against the others and the rest
against memory-one tables, without being told which. Who has to find out within the episode whom it
plays learns to answer there; who answers can be extorted by those who learn more slowly than it answers; who
is extorted by equals ends in cooperation: so the claim. Without tables, or with names shown, nothing has to be found out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Play, PreparedLearner, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import rollout_on, spread
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import gae, lambda_returns
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Net, NetworkPolicy, acting_head, encoding
from shaping_bench.algorithms.populations import MemoryOne
from shaping_bench.games.base import Game


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


@pytree_dataclass
class InContext(PreparedLearner):
    """A recurrent policy from independent advantage actor-critics in a pool of learners and tables.

    The preparation teaches one agent per seat. Of the ``batch_size`` episodes of an iteration each agent plays
    the share ``tables`` against policies that do not learn (``against``), drawn anew for every episode and seat, the
    rest against the other agents. In an encounter it does not learn: what it does there follows from the
    episode so far.

    Ablations of the paper: ``tables=0``, and ``identity=true``, which shows the others' probabilities of action 0
    (zeros where they learn) before anything is played.
    """

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    prepared_jointly: ClassVar[bool] = True
    source = "Weis et al. 2026, arXiv 2602.16301 (A2C, mixed pool); no code was published"

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
    iterations: int = field(70000, "of the preparation", low=1, static=True)
    meta_lr: float = field(1e-3, "step of Adam", low=0.0)
    meta_gamma: float = field(0.99, "discount per step", low=0.0, high=1.0)
    lam: float = field(1.0, "lambda of advantages and of the critic's targets", low=0.0, high=1.0)
    reward_scale: float = field(0.02, "of the rewards that are learned from", low=0.0, exclusive=True)
    value_coefficient: float = field(0.5, "weight of the critic's squared error", low=0.0)
    entropy: float = field(0.01, "weight of the policy's entropy, in nats", low=0.0)
    max_grad_norm: float = field(1.0, "longer gradients are cut to this norm", low=0.0)
    normalise: bool = field(True, "advantages to mean 0 and deviation 1 in each batch", static=True)
    hidden: int = field(128, "units of the GRU", low=1, static=True, small=4)

    @property
    def preparation_steps(self) -> int:
        return self.iterations

    @property
    def preparation_width(self) -> int:
        return self.batch_size

    @property
    def episodes_per_update(self) -> int:
        """An encounter's updates look at no play: nothing changes."""
        return 0

    def _tabular(self) -> int:
        """Episodes against policies that do not learn."""
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
        if self._tabular():
            coplayers.check_counts(self._tabular(), "episodes")

    def policy(self, game: Game, player: int) -> ContextPolicy:
        shown = sum(game.sizes) - game.sizes[player] if self.identity else 0
        network = Network(heads=(acting_head(game, player), ("value", 1)), cell="gru", width=self.hidden)
        return ContextPolicy(Net(network, encoding(game, None, player)), game.action_space(player), shown=shown)

    # --- meeting others -----------------------------------------------------------------------

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        return (self.policy(game, player).init(key) if artifact is None else artifact[player]), ()

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.own, state, {}

    # --- preparation --------------------------------------------------------------------------

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
        agents = range(game.n_players)
        together = self._among_agents(jax.random.fold_in(key, game.n_players), carry.weights, game)
        weights, optimisers, info = [], [], {}
        for i in agents:
            apart = self._against_tables(jax.random.fold_in(key, i), carry.weights[i], game, i)
            met = together[i] + apart
            slope = jax.grad(self.objective)(carry.weights[i], _joined(met), game, i)
            change, memory = self._adam().update(slope, carry.optimiser[i])
            weights.append(optax.apply_updates(carry.weights[i], change))
            optimisers.append(memory)
            for name, group in (("return_among_agents", together[i]), ("return_from_tables", apart)):
                if group:
                    mean = jnp.mean(_joined(group).rewards) / game.n_players
                    info[name] = info[name] + mean if name in info else mean
        return Training(tuple(weights), tuple(optimisers)), info

    def _among_agents(self, key: Array, weights: Sequence[Tree], game: Game) -> list[list[Episodes]]:
        """Episodes of all agents with one another, as each of them sees them."""
        count = self.batch_size - self._tabular()
        if not count:
            return [[] for _ in weights]
        policies = [self.policy(game, i) for i in range(game.n_players)]
        trajectory, _ = rollout_on(key, game, policies, weights, count)
        return [[_seen(Play(game, trajectory, i), policy.start()[1])] for i, policy in enumerate(policies)]

    def _against_tables(self, key: Array, weights: Tree, game: Game, player: int) -> list[Episodes]:
        """Episodes of one agent, in each of which everybody else is drawn anew."""
        coplayers, found = self.coplayers(), []
        own, seats = self.policy(game, player), range(game.n_players)
        for k, (rule, count) in enumerate(zip(coplayers.learners, coplayers.counts(self._tabular()), strict=True)):
            if not count:
                continue
            draw, play = jax.random.split(jax.random.fold_in(key, k))
            drawn = [
                jax.vmap(lambda key, rule=rule, i=i: rule.init(key, game, i)[0])(
                    jax.random.split(jax.random.fold_in(draw, i), count)
                )
                for i in seats
            ]
            hidden, names = spread(own.start(), count)
            if self.identity:
                others = [drawn[i] for i in seats if i != player]
                names = jax.nn.sigmoid(jnp.concatenate(others, axis=-1)).astype(names.dtype)
            trajectory, _ = rollout_on(
                play,
                game,
                [own if i == player else rule.policy(game, i) for i in seats],
                [weights if i == player else drawn[i] for i in seats],
                count,
                groups=[0 if i == player else count for i in seats],
                carries=[(hidden, names) if i == player else None for i in seats],
            )
            found.append(_seen(Play(game, trajectory, player), names))
        return found

    def objective(self, weights: Tree, met: Episodes, game: Game, player: int) -> Array:
        """What an agent ascends: ``log pi A + entropy - squared error``, means over steps and episodes."""
        policy = self.policy(game, player)
        heads = policy.heads(weights, met.observations, met.names)
        values, acting = heads["value"][..., 0], policy.acting({"logits": heads["logits"][:-1]})
        rewards, last = self.reward_scale * met.rewards, jax.lax.stop_gradient(values)
        advantages = gae(rewards, last[:-1], last[-1], self.meta_gamma, self.lam)
        targets = lambda_returns(rewards, last[:-1], last[-1], self.meta_gamma, self.lam)
        if self.normalise:
            advantages = (advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8)
        gain = jnp.mean(acting.log_prob(met.actions) * advantages)
        error = jnp.mean(jnp.square(targets - values[:-1]))
        return gain + self.entropy * jnp.mean(acting.entropy()) - self.value_coefficient * error


def _seen(play: Play, names: Array) -> Episodes:
    actions = play.actions()
    names = jnp.broadcast_to(names, (actions.shape[1], names.shape[-1]))
    return Episodes(names, play.observations(), actions, play.rewards())


def _joined(met: Sequence[Episodes]) -> Episodes:
    """Episodes of several batches side by side."""
    if len(met) == 1:
        return met[0]
    names = jnp.concatenate([x.names for x in met])
    return Episodes(names, *(jnp.concatenate(x, axis=1) for x in zip(*(x[1:] for x in met), strict=True)))
