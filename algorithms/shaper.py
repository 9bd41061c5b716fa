"""Shaper: one recurrent policy whose memory lasts a whole trial, in which its co-players learn.

Khan et al., AAMAS 2024 (arXiv 2312.12568), as in the authors' library pax; by the same authors CHAOS. M-FOS
keeps what it knows of earlier episodes in a network of its own; here one hidden state carries
the history of an episode and the context of all before it. Nothing is learned while others are met: the
weights are found in preparation, by an evolution strategy, for the mean reward of whole trials
against co-players that begin anew in each and learn after every episode.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from shaping_bench.algorithms.core import (
    Access,
    Info,
    Joint,
    Learner,
    Play,
    PreparedLearner,
    Stage,
    View,
    costs,
    field,
    pytree_dataclass,
)
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import ENVIRONMENTS, Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import gae, step_mean
from shaping_bench.algorithms.parts.evolution import SHAPINGS, as_arrays, check_population, generation, open_es
from shaping_bench.algorithms.parts.policies import Encoding, encoding
from shaping_bench.algorithms.parts.proximal import clipped_error, clipped_surrogate
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.games.base import Game
from shaping_bench.games.spaces import Discrete

MEMORIES = ("trial", "episode", "none")
AVERAGINGS = ("none", "avg", "attention")

Gather = Callable[[Array], Array]
"""From what one environment has to what all have, ``(E, ...)``."""


# --- the policy ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ShaperPolicy(Policy):
    """A gated recurrent unit on what is seen, and linear heads without bias: logits and a value.

    ``z, r = sigmoid(W x + U h + b)``, ``a = tanh(W x + U (r h) + b)``, ``h' = (1 - z) h + z a`` (Haiku's,
    which resets before it multiplies). States of a memory-one game enter as they are, everything else
    through a tanh layer of the same width.

    Attributes:
      encoding: of observations.
      n_actions: to choose from.
      width: units.
      memory: how long the hidden state lasts: the trial, the episode, or no step.
      averaging: what the hidden state of an environment takes from the others before every step: nothing;
        half of their mean (its own included); what attention over all of them says.
      heads: of attention.
    """

    encoding: Encoding
    n_actions: int
    width: int
    memory: str = "trial"
    averaging: str = "none"
    heads: int = 1

    @property
    def keeps_carry(self) -> bool:  # type: ignore[override]
        return self.memory == "trial"

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        return self.averaging != "none"

    @property
    def _layered(self) -> bool:
        return self.encoding.kind != "states"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters, by name."""
        size, width = math.prod(self.encoding.shape), self.width
        out: dict[str, tuple[int, ...]] = {}
        if self._layered:
            out |= {"layer": (size, width), "layer_bias": (width,)}
            size = width
        out |= {"input": (size, 3 * width), "recurrent": (width, 3 * width), "bias": (3 * width,)}
        out |= {"logits": (width, self.n_actions), "value": (width, 1)}
        if self.averaging == "attention":
            for name in ("query", "key", "read", "merge", "out"):
                out |= {name: (width, width), f"{name}_bias": (width,)}
        return out

    def zeros(self) -> Tree:
        """Where the evolution strategy begins: a policy that plays all actions alike."""
        return {name: jnp.zeros(shape) for name, shape in self.shapes().items()}

    def init(self, key: Array) -> Tree:
        """For training by gradients: normal, by the number of inputs; biases are zero."""
        shapes = self.shapes()
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {
            name: jnp.zeros(shape) if len(shape) == 1 else jax.random.normal(keys[name], shape) * shape[0] ** -0.5
            for name, shape in shapes.items()
        }

    def start(self) -> Array:
        return jnp.zeros((self.width,))

    def step(self, params: Tree, carry: Array, observation: Tree, state: Tree) -> tuple[Array, Categorical]:
        return self._acted(params, carry, observation, lambda x: x[None])

    def act(self, laid: Tree, carry: Array, observation: Tree, state: Tree) -> tuple[Array, Categorical]:
        return self._acted(laid, carry, observation, functools.partial(lax.all_gather, axis_name=ENVIRONMENTS))

    def _acted(self, params: Tree, carry: Array, observation: Tree, gather: Gather) -> tuple[Array, Categorical]:
        hidden = self.moved(params, carry, observation, gather)
        return hidden, Categorical(logits=hidden @ params["logits"])

    def moved(self, params: Tree, hidden: Array, observation: Tree, gather: Gather) -> Array:
        """The next hidden state of one environment, ``(width,)``."""
        if self.memory == "none":
            hidden = jnp.zeros_like(hidden)
        if self.averaging == "avg":
            hidden = 0.5 * hidden + 0.5 * jnp.mean(gather(hidden), axis=0)
        elif self.averaging == "attention":
            hidden = self._attended(params, hidden, gather)
        x = self.encoding(observation).reshape(-1)
        if self._layered:
            x = jnp.tanh(x @ params["layer"] + params["layer_bias"])
        update, reset, candidate = jnp.split(x @ params["input"] + params["bias"], 3)
        for_gates, for_candidate = jnp.split(params["recurrent"], [2 * self.width], axis=1)
        by_update, by_reset = jnp.split(hidden @ for_gates, 2)
        update, reset = jax.nn.sigmoid(update + by_update), jax.nn.sigmoid(reset + by_reset)
        return (1.0 - update) * hidden + update * jnp.tanh(candidate + (reset * hidden) @ for_candidate)

    def _attended(self, params: Tree, hidden: Array, gather: Gather) -> Array:
        """Norms are over environments, as in pax, and have no learned scale."""
        size = self.width // self.heads

        def of(name: str, x: Array) -> Array:
            return x @ params[name] + params[f"{name}_bias"]

        def normed(x: Array) -> Array:
            everybody = gather(x)
            return (x - jnp.mean(everybody, axis=0)) / jnp.sqrt(jnp.var(everybody, axis=0) + 1e-5)

        u = normed(hidden)
        query = of("query", u).reshape(self.heads, size)
        keys, reads = (gather(of(name, u)).reshape(-1, self.heads, size) for name in ("key", "read"))
        weights = jax.nn.softmax(jnp.einsum("hs,ehs->he", query, keys) / jnp.sqrt(size), axis=-1)
        heard = of("merge", jnp.einsum("he,ehs->hs", weights, reads).reshape(-1))
        said = of("out", normed(heard + hidden))
        return said if self._layered else 0.5 * hidden + 0.5 * said

    def hiddens(self, params: Tree, observations: Tree, lengths: int | None = None) -> Array:
        """Hidden states ``(T, E, width)`` along observations ``(T, E, ...)`` from a fresh start.

        Args:
          params: of the policy.
          observations: of one batch of environments.
          lengths: of episodes, where the memory ends with them; None: all of it is one.
        """
        first = jax.tree.leaves(observations)[0]
        begins = jnp.arange(first.shape[0]) % (lengths or first.shape[0]) == 0
        gather = functools.partial(lax.all_gather, axis_name=ENVIRONMENTS)
        batched = jax.vmap(lambda hidden, seen: self.moved(params, hidden, seen, gather), axis_name=ENVIRONMENTS)

        def step(hidden: Array, now: Any) -> tuple[Array, Array]:
            seen, new = now
            hidden = batched(jnp.where(new, 0.0, hidden), seen)
            return hidden, hidden

        return lax.scan(step, jnp.zeros((first.shape[1], self.width)), (observations, begins))[1]

    def unroll(self, params: Tree, observations: Tree) -> Categorical:
        return Categorical(logits=self.hiddens(params, observations) @ params["logits"])


# --- the learner --------------------------------------------------------------------------


class Tally(NamedTuple):
    """What a trial has brought so far: mean rewards of its episodes, summed, and how many they are."""

    total: Array
    episodes: Array


class Taught(NamedTuple):
    """What a preparation by PPO carries: weights and the optimiser's state."""

    weights: Tree
    optimiser: Tree


class Trial(NamedTuple):
    """What the own seat saw and did in a trial of M episodes of T steps in E games, leaves ``(M, T, E, ...)``."""

    observations: Tree
    actions: Array
    rewards: Array
    other_rewards: Array


@pytree_dataclass
class Shaper(PreparedLearner):
    """Plays a recurrent policy that never forgets within a trial: the weights that maximise the mean
    reward of whole trials against learners, by OpenES (evosax), or by PPO.

    An encounter is a trial: its updates are the episodes after which the others learn. ``memory="none"`` is the
    Good Shepherd's policy for games that are played. With more than two players all others are co-players.
    """

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "Khan et al., AAMAS 2024, arXiv 2312.12568; settings of the official code (pax)"
    published: ClassVar = {
        "matrix": {},
        "imp": {"es_lr": 0.01, "shaping": "z-score", "opponents": 1},
        "coin-game": {
            "batch_size": 100,
            "opponents": 1,
            "episodes": 600,
            "population": 4000,
            "generations": 3000,
            "shaping": "rank",
            "weight_decay": 0.1,
        },
    }

    against: Any = field(
        "ppo",
        "who is met in preparation; ppo: pax's learner of the game, a table or a network",
        choices=("ppo",),
        static=True,
        learner=True,
    )
    memory: str = field(
        "trial", "how long it lasts; an episode: no context; none: no history either", choices=MEMORIES, static=True
    )
    averaging: str = field(
        "none",
        "what the memory of one game takes from the others of a batch before every step; avg: half their mean",
        choices=AVERAGINGS,
        static=True,
    )
    batch_size: int = field(2, "games of a trial, which teach a co-player together", low=1, static=True, small=4)
    opponents: int = field(10, "co-players per candidate, each in a trial of its own", low=1, static=True, small=1)
    episodes: int = field(100, "of a trial", low=1, static=True, small=2)
    trainer: str = field("es", "what finds the weights", choices=("es", "ppo"), static=True)
    generations: int = field(5000, "of the evolution strategy; or trials that PPO learns from", low=1, static=True)
    population: int = field(1000, "candidates per generation; even", low=2, static=True, small=4)
    es_sigma: float = field(0.04, "deviation of the candidates at first", low=0.0, exclusive=True, static=True)
    es_lr: float = field(0.1, "step of Adam at first, by the evolution strategy", low=0.0, static=True)
    shaping: str = field(
        "mean", "how fitness enters: less its mean, as ranks, or standardised", choices=SHAPINGS, static=True
    )
    weight_decay: float = field(0.0, "what the mean square of the weights costs", low=0.0, static=True)
    meta_lr: float = field(0.005, "step size of Adam, by PPO", low=0.0)
    meta_gamma: float = field(0.96, "discount per step across the trial, by PPO", low=0.0, high=1.0)
    lam: float = field(0.95, "lambda of the generalised advantages, by PPO", low=0.0, high=1.0)
    clip: float = field(0.2, "most that a probability ratio may move for gain, by PPO", low=0.0)
    entropy: float = field(0.1, "weight of the policy's entropy, by PPO", low=0.0)
    value_coefficient: float = field(0.5, "weight of the critic's squared error, by PPO", low=0.0)
    epochs: int = field(2, "passes over a trial, by PPO", low=1, static=True)
    together: int = field(64, "candidates evaluated side by side", low=1, static=True, small=8)
    hidden: int = field(16, "units", low=1, static=True, small=8)

    @property
    def preparation_steps(self) -> int:
        return self.generations

    @property
    def preparation_width(self) -> int:
        candidates = min(self.together, self.population) if self.trainer == "es" else 1
        return candidates * self.opponents * self.batch_size

    def check_game(self, game: Game, player: int) -> None:
        if not isinstance(game.action_space(player), Discrete):
            raise ValueError("chooses among finitely many actions, which this game does not offer")
        check_population(self.population)
        if self.averaging == "attention" and self.hidden % self._heads(game):
            raise ValueError(
                f"has hidden={self.hidden}; allowed with averaging='attention' here: multiples of {self._heads(game)}"
            )
        coplayers = self.coplayers(game)
        coplayers.check_counts(self.opponents, "trials")
        coplayers.check_sampled(game, player)

    @staticmethod
    def _heads(game: Game) -> int:
        return 1 if game.memory_one else 8

    def policy(self, game: Game, player: int) -> ShaperPolicy:
        space = game.action_space(player)
        assert isinstance(space, Discrete)
        return ShaperPolicy(
            encoding=encoding(game, player=player),
            n_actions=space.n,
            width=self.hidden,
            memory=self.memory,
            averaging=self.averaging,
            heads=self._heads(game),
        )

    # --- meeting others -----------------------------------------------------------------------

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tally]:
        policy = self.policy(game, player)
        weights = policy.init(key) if artifact is None else ravel_pytree(policy.zeros())[1](artifact)
        return weights, Tally(jnp.zeros(()), jnp.zeros(()))

    def update(self, key: Array, state: Tally, view: View) -> tuple[Tree, Tally, Info]:
        """The weights stay; what the trial has brought so far is told."""
        del key
        play = view.play(self.batch_size)
        tally = Tally(state.total + step_mean(play.rewards(), play.alive), state.episodes + 1.0)
        return view.own, tally, {"trial_return": tally.total / tally.episodes}

    # --- preparation --------------------------------------------------------------------------

    def coplayers(self, game: Game) -> Mixture:
        """Who is met in preparation."""
        return Mixture.of(self.against, {"ppo": self.naive_learner(game)})

    def naive_learner(self, game: Game) -> PPO:
        """The co-player of pax's configurations, as wide as the trial: a table, or a recurrent network."""
        if game.memory_one:
            # One logit per state, where pax has two that Adam moves apart: twice its step.
            return PPO(  # type: ignore[call-arg]
                lr=2.0,
                entropy_bonus=0.02,
                batch_size=self.batch_size,
                minibatches=math.gcd(4, self.batch_size * game.num_steps),
                parts="steps",
                network="tabular",
            )
        return PPO(  # type: ignore[call-arg]
            lr=0.005,
            entropy_bonus=0.1,
            batch_size=self.batch_size,
            minibatches=math.gcd(8, self.batch_size),
            network="gru",
            hidden=self.hidden,
        )

    def _strategy(self, policy: ShaperPolicy) -> Any:
        return open_es(
            self.population,
            policy.zeros(),
            sigma=self.es_sigma,
            lr=self.es_lr,
            shaping=self.shaping,
            decay=self.weight_decay,
        )

    def _adam(self) -> optax.GradientTransformation:
        return optimiser("adam", self.meta_lr, eps=1e-5, max_grad_norm=0.5)

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        self.check_game(game, player)
        policy = self.policy(game, player)
        if self.trainer == "ppo":
            weights = policy.init(key)
            return Taught(weights, self._adam().init(weights))
        strategy = self._strategy(policy)
        return as_arrays(strategy.init(key, policy.zeros(), strategy.default_params))

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        if self.trainer == "ppo":
            return self._taught(key, carry, game, player)

        def trials(key: Array, weights: Tree) -> tuple[Array, Array]:
            def earned(trial: Trial) -> tuple[Array, Array]:
                return jnp.mean(trial.rewards), jnp.mean(trial.other_rewards)

            own, other = self.trials(key, weights, game, player, earned)
            return jnp.mean(own), jnp.mean(other)

        return generation(key, self._strategy(self.policy(game, player)), carry, trials, self.together)

    def artifact(self, carry: Tree) -> Array:
        """The weights as one vector: the centre of the search, or what PPO has come to."""
        return ravel_pytree(carry.weights)[0] if isinstance(carry, Taught) else carry.mean

    def trials(
        self, key: Array, weights: Tree, game: Game, player: int, of: Callable[[Trial], Tree] = lambda trial: trial
    ) -> Tree:
        """A trial against each of the co-players, from their beginning.

        Args:
          key: randomness of co-players, games and own actions.
          weights: of the own policy, for all of the trial.
          game, player: where it plays.
          of: what is kept of every episode.

        Returns:
          What is kept, leaves ``(opponents, M, ...)``.
        """
        coplayers = self.coplayers(game)
        counts, parts = coplayers.counts(self.opponents), []
        for k, (rule, count) in enumerate(zip(coplayers.learners, counts, strict=True)):
            start, play = jax.random.split(jax.random.fold_in(key, k))
            with costs.repeated(count):
                met = functools.partial(self._trial, weights=weights, rule=rule, game=game, player=player, of=of)
                if count == 1:
                    parts.append(jax.tree.map(lambda x: x[None], met(start, play)))
                else:
                    parts.append(jax.vmap(met)(jax.random.split(start, count), jax.random.split(play, count)))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def _trial(
        self,
        start: Array,
        play: Array,
        weights: Tree,
        rule: Learner,
        game: Game,
        player: int,
        of: Callable[[Trial], Tree],
    ) -> Tree:
        stage = Stage(game, tuple(self if i == player else rule for i in range(game.n_players)))
        joint = stage.begin(start)
        own = tuple(weights if i == player else theta for i, theta in enumerate(joint.params))

        def episode(joint: Joint, key: Array) -> tuple[Joint, Tree]:
            joint, played, _ = stage.episode(key, joint)
            assert played is not None, "a shaper plays"
            return joint, of(self._seen(game, played, player))

        with costs.repeated(self.episodes):
            return lax.scan(episode, joint._replace(params=own), jax.random.split(play, self.episodes))[1]

    def _seen(self, game: Game, played: Trajectory, player: int) -> Trial:
        """One episode from the own seat, without an axis of episodes; of a wider play the first games."""
        play = Play(game, played, player).episodes(slice(self.batch_size))
        others = [play.rewards(i) for i in range(game.n_players) if i != player]
        return Trial(
            observations=play.observations(end=False),
            actions=play.actions(),
            rewards=play.rewards(),
            other_rewards=functools.reduce(jnp.add, others) / len(others),
        )

    def _taught(self, key: Array, carry: Taught, game: Game, player: int) -> tuple[Taught, Info]:
        """One trial against every co-player and ``epochs`` full-batch steps of PPO, through the memory of it all."""
        trial = self.trials(key, carry.weights, game, player)
        policy = self.policy(game, player)
        count, episodes, length = trial.rewards.shape[:3]
        # All steps of a trial in a row: (opponents, M T, E, ...).
        row = jax.tree.map(lambda x: x.reshape(count, episodes * length, *x.shape[3:]), trial)
        lengths = length if self.memory == "episode" else None

        def judged(weights: Tree) -> tuple[Categorical, Array]:
            hidden = jax.vmap(lambda seen: policy.hiddens(weights, seen, lengths))(row.observations)
            return Categorical(logits=hidden @ weights["logits"]), (hidden @ weights["value"])[..., 0]

        acted, values = judged(carry.weights)
        old = acted.log_prob(row.actions)
        advantages = jax.vmap(lambda r, v: gae(r, v, jnp.zeros_like(v[0]), self.meta_gamma, self.lam))(
            row.rewards, values
        )
        targets = advantages + values
        advantages = (advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8)

        def objective(weights: Tree) -> Array:
            acting, judging = judged(weights)
            gain = jnp.mean(clipped_surrogate(acting.log_prob(row.actions) - old, advantages, self.clip))
            error = jnp.mean(clipped_error(judging, values, targets, self.clip))
            return gain + self.entropy * jnp.mean(acting.entropy()) - self.value_coefficient * error

        def epoch(carry: Taught, _: None) -> tuple[Taught, None]:
            change, memory = self._adam().update(jax.grad(objective)(carry.weights), carry.optimiser)
            return Taught(optax.apply_updates(carry.weights, change), memory), None

        after, _ = lax.scan(epoch, carry, None, length=self.epochs)
        return after, {"return": jnp.mean(trial.rewards), "opponent_return": jnp.mean(trial.other_rewards)}
