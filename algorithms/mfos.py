"""Model-free opponent shaping (M-FOS) in games with exact values.

Lu et al., ICML 2022. Shaping is a game about a game, :class:`MetaGame`: one step is a whole
encounter of two fixed policies, the action is the own next policy, the reward what it earns, and
between steps the opponent learns. A meta-policy is trained on that game by a general-purpose
optimiser, which needs no derivative of how the opponent learns. Then it plays: in an encounter
M-FOS does not learn, it acts, once per update of the others.

What the published tables call M-FOS was trained by proximal policy optimisation (``ppo``) or by
hill climbing (``ga``); evolution strategies (``es``) came with Shaper's code. Where the paper's
text and its official code leave something open, the code decides.

Networks run with features first: a batch of B games is ``(features, B)``, so that each coordinate
of all policies is one contiguous vector, as the exact games like it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from evosax.algorithms import Open_ES
from jax import Array, lax

from shaping_bench.algorithms.core import Info, Learner, PreparedLearner, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.lola import LOLAFull
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.proximal import clipped_surrogate
from shaping_bench.games.base import Game, TableGame

Scalars = tuple[Array, ...]

CHUNK = 1024
"""Most games times steps that a gradient is taken of at once: 256 hidden units of them, their
derivatives and the weights stay in a core's cache."""

CANDIDATES = 8
"""Candidates of an evolutionary search that are evaluated side by side."""

LOG_2PI = 1.8378770664093453


# --- the game about the game -----------------------------------------------------------------


class Opponent(NamedTuple):
    """The state of the meta-game: an opponent in the midst of its learning.

    Attributes:
      params: its policy, a tuple of ``d`` scalars.
      memory: what its learning rule remembers.
    """

    params: Scalars
    memory: Tree


@dataclasses.dataclass(frozen=True)
class MetaGame:
    """Choosing policies against somebody who learns from them; one environment.

    Attributes:
      game: the game played within each step, of two players.
      player: the own seat.
      rule: how the opponent learns; updated through the very view it has in encounters.
      start: the opponent's initial logits; empty for its own.
    """

    game: Game
    player: int
    rule: Learner
    start: tuple[float, ...] = ()

    def reset(self, key: Array, own: Scalars) -> tuple[Opponent, Scalars]:
        """A fresh opponent, which has met ``own`` and learned from it once."""
        start, key = jax.random.split(key)
        params, memory = self.rule.init(start, self.game, 1 - self.player)
        opponent = Opponent(scalars(self.start or params), memory)
        then, observation, _ = self.step(key, opponent, own)
        return then, observation

    def step(self, key: Array, opponent: Opponent, own: Scalars) -> tuple[Opponent, Scalars, tuple[Array, Array]]:
        """Plays ``own`` against the opponent, which then learns.

        Returns:
          The opponent after its update; the observation, ``2 d`` probabilities of action 0 of the
          policies just played, the own first; and what they earned, own and opponent's, per step.
        """
        game, other = self.game, 1 - self.player
        joint = (own, opponent.params) if self.player == 0 else (opponent.params, own)
        view = View(game, joint, other, self.rule.access)
        params, memory, _ = self.rule.update(key, opponent.memory, view)
        costs.charge(evaluations=2)
        own_value, other_value = game.value(joint, self.player), game.value(joint, other)
        rewards = (game.per_step * own_value, game.per_step * other_value)
        return Opponent(scalars(params), memory), observed(own, opponent.params), rewards


def scalars(theta: Any) -> Scalars:
    """Policy parameters as a tuple of scalars, of the default precision."""
    return tuple(jnp.asarray(x, jnp.result_type(float)) for x in theta)


def observed(own: Scalars, other: Scalars) -> Scalars:
    """What a meta-policy sees of a joint policy: probabilities, the own ones first."""
    return tuple(jax.nn.sigmoid(x) for x in (*own, *other))


def drawn(key: Array, game: Game, player: int) -> Scalars:
    """A random policy, as the game starts its learners."""
    return scalars(game.init_params(key, player))


# --- networks ----------------------------------------------------------------------------------


def init_mlp(key: Array, inputs: int, hidden: int, outputs: int) -> Tree:
    """Weights of one hidden layer, uniform within ``1 / sqrt(fan_in)`` as PyTorch starts them."""
    keys = jax.random.split(key, 4)

    def uniform(key: Array, fan_in: int, *shape: int) -> Array:
        return jax.random.uniform(key, shape, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)

    return {
        "w1": uniform(keys[0], inputs, hidden, inputs),
        "b1": uniform(keys[1], inputs, hidden),
        "w2": uniform(keys[2], hidden, outputs, hidden),
        "b2": uniform(keys[3], hidden, outputs),
    }


def init_mutable_mlp(key: Array, inputs: int, hidden: int, outputs: int) -> Tree:
    """The same as the official hill climber starts it: its library takes the fan-out for the fan-in,
    so that bounds are ``1 / sqrt(fan_out)``."""
    weights = init_mlp(key, inputs, hidden, outputs)
    first, second = (inputs / hidden) ** 0.5, (hidden / outputs) ** 0.5
    return {name: x * (first if name in ("w1", "b1") else second) for name, x in weights.items()}


def mlp(weights: Tree, x: Array) -> Array:
    """``(inputs,)`` or ``(inputs, B)`` to ``(outputs,)`` or ``(outputs, B)``; tanh in between."""

    def column(bias: Array) -> Array:
        return bias if x.ndim == 1 else bias[:, None]

    hidden = jnp.tanh(weights["w1"] @ x + column(weights["b1"]))
    return weights["w2"] @ hidden + column(weights["b2"])


def gaussian(actor: Tree, observation: Array) -> tuple[Array, Array]:
    """Mean and *variance* of the next policy's logits, each ``(d, ...)``, from ``(2 d, ...)``."""
    mean, spread = jnp.split(mlp(actor, observation), 2)
    return mean, jax.nn.softplus(spread)


def log_density(actions: Array, mean: Array, variance: Array) -> Array:
    """Of a diagonal normal distribution over the first axis."""
    return -0.5 * jnp.sum(jnp.square(actions - mean) / variance + jnp.log(variance) + LOG_2PI, axis=0)


def entropy(variance: Array) -> Array:
    """Of the same distribution, in nats."""
    return 0.5 * jnp.sum(jnp.log(variance) + LOG_2PI + 1.0, axis=0)


# --- proximal policy optimisation --------------------------------------------------------------


class Agent(NamedTuple):
    """A meta-policy in training.

    Attributes:
      actor: weights ``2 d -> hidden -> 2 d`` of means and variances.
      critic: weights ``2 d -> hidden -> 1``.
      optimiser: Adam's state for both.
    """

    actor: Tree
    critic: Tree
    optimiser: Tree


class Episode(NamedTuple):
    """T steps of B meta-games.

    Attributes:
      observations: ``(T, 2 d, B)``, before each action.
      actions: logits of the own policy, ``(T, d, B)``.
      log_densities: of the actions where they were drawn, ``(T, B)``.
      rewards, other_rewards: ``(T, B)``.
    """

    observations: Array
    actions: Array
    log_densities: Array
    rewards: Array
    other_rewards: Array


def meta_episode(key: Array, meta: MetaGame, actor: Tree, games: int, steps: int) -> Episode:
    """Plays B meta-games side by side, from their reset with a random own policy."""
    first, key = jax.random.split(key)

    def begin(key: Array) -> tuple[Opponent, Scalars]:
        own, other = jax.random.split(key)
        return meta.reset(other, drawn(own, meta.game, meta.player))

    with costs.repeated(games):
        opponents, observation = jax.vmap(begin)(jax.random.split(first, games))

    def step(carry: Any, key: Array) -> tuple[Any, Episode]:
        opponents, seen = carry
        draw, learn = jax.random.split(key)
        action, log_density = sampled(draw, actor, seen)
        opponents, then, (own, other) = jax.vmap(meta.step)(jax.random.split(learn, games), opponents, tuple(action))
        return (opponents, jnp.stack(then)), Episode(seen, action, log_density, own, other)

    with costs.repeated(games * steps):
        return lax.scan(step, (opponents, jnp.stack(observation)), jax.random.split(key, steps))[1]


def sampled(key: Array, actor: Tree, observation: Array) -> tuple[Array, Array]:
    """A policy's logits ``(d, B)`` and their log-density ``(B,)``."""
    mean, variance = gaussian(actor, observation)
    action = mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape)
    return action, log_density(action, mean, variance)


def mutual_episodes(
    key: Array, game: Game, actors: tuple[Tree, Tree], games: int, steps: int
) -> tuple[Episode, Episode]:
    """Two meta-policies choose policies for one another; what each of them lived through."""
    first, key = jax.random.split(key)
    keys = jax.random.split(first, (2, games))
    params = [jax.vmap(lambda key, i=i: drawn(key, game, i))(keys[i]) for i in (0, 1)]

    def value(*joint: Scalars) -> tuple[Array, Array]:
        costs.charge(evaluations=2)
        return game.per_step * game.value(joint, 0), game.per_step * game.value(joint, 1)

    def step(params: Any, key: Array) -> Any:
        seen = [jnp.stack(observed(params[i], params[1 - i])) for i in (0, 1)]
        draws = jax.random.split(key)
        played = [sampled(draws[i], actors[i], seen[i]) for i in (0, 1)]
        params = [tuple(action) for action, _ in played]
        earned = jax.vmap(value)(*params)
        return params, tuple(Episode(seen[i], *played[i], earned[i], earned[1 - i]) for i in (0, 1))

    with costs.repeated(games * steps):
        return lax.scan(step, params, jax.random.split(key, steps))[1]


def discounted_returns(rewards: Array, gamma: Any) -> Array:
    """``sum_k gamma^k r_{t+k}`` along the first axis, to the end and nothing after it."""

    def back(later: Array, reward: Array) -> tuple[Array, Array]:
        total = reward + gamma * later
        return total, total

    return lax.scan(back, jnp.zeros_like(rewards[0]), rewards, reverse=True)[1]


def normalised(x: Array) -> Array:
    """Mean 0 and deviation 1 over all entries."""
    return (x - jnp.mean(x)) / (jnp.std(x, ddof=1) + 1e-5)


def chunked(x: Array, size: int) -> Array:
    """``(T, ..., B)`` to chunks ``(n, ..., size)`` of the T times B columns."""
    x = jnp.moveaxis(x, 0, -2)
    x = x.reshape(*x.shape[:-2], -1, size)
    return jnp.moveaxis(x, -2, 0)


def chunk_size(columns: int) -> int:
    """The largest divisor that is no larger than :data:`CHUNK`."""
    return max(k for k in range(1, min(columns, CHUNK) + 1) if columns % k == 0)


# --- evolution ---------------------------------------------------------------------------------

Act = Callable[[Array], Array]
"""From observations ``(2 d, B)`` to logits ``(d, B)``."""


def mean_rewards(
    key: Array, meta: MetaGame, act: Act, games: int, steps: int, first: Scalars | None = None
) -> tuple[Array, Array]:
    """What a deterministic meta-policy and its opponents earn, means over steps and B games.

    Args:
      key: of the opponents, and of the own random policy that they meet first.
      meta: the meta-game.
      act: the meta-policy.
      games: B.
      steps: T.
      first: the own policy that the opponents meet first, instead of a random one.
    """
    start, key = jax.random.split(key)

    def begin(key: Array) -> tuple[Opponent, Scalars]:
        own, other = jax.random.split(key)
        return meta.reset(other, drawn(own, meta.game, meta.player) if first is None else first)

    def step(carry: Any, key: Array) -> tuple[Any, tuple[Array, Array]]:
        opponents, seen = carry
        keys = jax.random.split(key, games)
        opponents, then, rewards = jax.vmap(meta.step)(keys, opponents, tuple(act(seen)))
        return (opponents, jnp.stack(then)), rewards

    with costs.repeated(games):
        opponents, seen = jax.vmap(begin)(jax.random.split(start, games))
    with costs.repeated(games * steps):
        own, other = lax.scan(step, (opponents, jnp.stack(seen)), jax.random.split(key, steps))[1]
    return jnp.mean(own), jnp.mean(other)


def open_es(population: int, solution: Tree, *, sigma: float, lr: float) -> Open_ES:
    """OpenES as pax runs it for the games of Shaper: antithetic, fitness less its mean, Adam.

    evosax *minimises*: it is told negative returns. Its deviation is constant for the first two
    generations where pax's decays from the first on.
    """

    def centred(population: Any, fitness: Array, state: Any, params: Any) -> Array:
        del population, state, params
        return fitness - jnp.mean(fitness)

    return Open_ES(
        population,
        solution,
        optimizer=optax.adam(optax.exponential_decay(lr, 1, 0.9999, end_value=min(lr, 0.001)), b1=0.99),
        std_schedule=optax.exponential_decay(sigma, 1, 0.999, end_value=min(sigma, 0.01)),
        fitness_shaping_fn=centred,
    )


def as_arrays(tree: Tree) -> Tree:
    """evosax begins with Python numbers."""
    return jax.tree.map(jnp.asarray, tree)


# --- the learner -------------------------------------------------------------------------------

EPISODES = {"ppo": 1024, "ga": 64, "es": 512}
"""Published lengths of the preparation: meta-episodes of ``ppo``, generations of ``ga``. That of
``es`` is ours."""

TRACING_KEY = 77
"""Of the draws of tracing. All preparations share them: with draws of its own per seed a compiled
program would have to play both kinds of meta-episode each time."""


@pytree_dataclass
class MFOS(PreparedLearner):
    """Chooses its next policy by a meta-policy ``pi(theta' | sigma(theta_own), sigma(theta_other))``.

    ``ppo``: the logits are normal, mean and variance (softplus) from one tanh network. Each
    meta-episode of ``batch_size`` games is one batch. Its Monte-Carlo returns, discounted by
    ``meta_gamma`` and normalised over all steps and games, are the critic's targets; ``epochs``
    full-batch steps of Adam follow on ``-surrogate - entropy_bonus entropy + value_coefficient
    (V - G)^2``.

    ``ga``: elitist hill climbing on a deterministic network, by hand: ``population - 1`` mutants of
    the incumbent and itself play ``opponents`` games each; the best and the incumbent are played
    again with ``test_size`` fresh opponents, and the better of the two is the next incumbent.
    evosax's genetic algorithm has neither the elite nor the second trial that keep a lucky mutant
    out, which with mutations of this size are the method.

    ``es``: OpenES of evosax on the same network, all candidates meeting the same opponents.

    ``against=self``: meta-self-play with tracing. Two agents are prepared together, seat i plays the
    i-th; with a probability that falls from 1 by ``tracing`` per meta-episode each still meets naive
    learners instead of the other. The curves are those of the first agent.

    In an asymmetric game each seat has a preparation of its own. The official code seats M-FOS second
    in iterated matching pennies, where it wins on a match; in the registered ``imp`` the first seat
    does, which is the same game seen from the other side.
    """

    source = "Lu et al., ICML 2022, arXiv 2205.01447; official code"

    against: str = field(
        "naive", "who is met in preparation; lola: lola-full", choices=("naive", "lola", "self"), static=True
    )
    optimiser: str = field("ppo", "of the meta-policy", choices=("ppo", "ga", "es"), static=True)
    opponent_lr: float = field(1.0, "step of the opponent met in preparation, and the one its LOLA assumes", low=0.0)
    opponent_init: tuple[float, ...] = field((), "its initial logits; empty: the game's random ones", static=True)
    meta_steps: int = field(100, "updates of the opponent in a meta-episode", low=1, static=True, small=3)
    episodes: int | None = field(
        None, "meta-episodes (ppo) or generations of the preparation; none: as published", low=1, static=True
    )
    hidden: int = field(256, "tanh units of actor and critic", low=1, static=True, small=8)
    batch_size: int = field(4096, "ppo: meta-games played at once", low=2, static=True, small=16)
    meta_lr: float | None = field(None, "ppo: step of Adam; none: 0.002, in self-play 0.0002", low=0.0)
    meta_gamma: float = field(0.99, "ppo: discount of the meta-game", low=0.0, high=1.0)
    epochs: int = field(4, "ppo: steps of Adam per meta-episode", low=1, static=True)
    clip: float = field(0.2, "ppo: most that a ratio of densities may move for gain", low=0.0)
    entropy_bonus: float = field(0.01, "ppo: weight of the meta-policy's entropy, in nats", low=0.0)
    value_coefficient: float = field(0.5, "ppo: weight of the critic's squared error", low=0.0)
    tracing: float = field(0.0015, "self: fall of the probability to meet naive learners", low=0.0, static=True)
    population: int = field(2048, "ga, es: candidates per generation; even", low=2, static=True, small=4)
    opponents: int = field(128, "ga, es: games per candidate", low=1, static=True, small=2)
    test_size: int = field(
        2048, "ga: games that decide between the best candidate and the incumbent", low=1, static=True
    )
    mutation: float = field(2.0, "ga: deviation of the mutations, of every weight", low=0.0)
    es_sigma: float = field(0.04, "es: deviation of the candidates at first", low=0.0, static=True)
    es_lr: float = field(0.1, "es: step of Adam at first", low=0.0, static=True)

    @property
    def prepared_jointly(self) -> bool:  # type: ignore[override]
        return self.against == "self"

    @property
    def preparation_steps(self) -> int:
        return self.episodes or EPISODES[self.optimiser]

    @property
    def preparation_width(self) -> int:
        return self.batch_size if self.optimiser == "ppo" else CANDIDATES * self.opponents

    def check_game(self, game: Game, player: int) -> None:
        if not isinstance(game, TableGame) or game.n_players != 2:
            raise ValueError("is defined for two-action games of 2 players whose policies are logits")
        if self.against == "self" and self.optimiser != "ppo":
            raise ValueError(f"has against='self' and optimiser={self.optimiser!r}; allowed: ppo")
        if self.opponent_init and len(self.opponent_init) != game.sizes[1 - player]:
            raise ValueError(
                f"has {len(self.opponent_init)} numbers in opponent_init; allowed: none, or {game.sizes[1 - player]}"
            )

    def meta_game(self, game: Game, player: int, against: str | None = None) -> MetaGame:
        """What that seat is prepared on."""
        rules = {
            "naive": Naive(lr=self.opponent_lr),
            "lola": LOLAFull(lr=self.opponent_lr, lookahead_lr=self.opponent_lr),
        }
        return MetaGame(game, player, rules[against or self.against], self.opponent_init)

    # --- preparation

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        self.check_game(game, player)
        d = game.sizes[player]
        if self.against == "self":
            return tuple(self._agent(k, d) for k in jax.random.split(key))
        if self.optimiser == "ppo":
            return self._agent(key, d)
        if self.optimiser == "ga":
            return init_mutable_mlp(key, 2 * d, self.hidden, d)
        start, key = jax.random.split(key)
        strategy, centre = self._strategy(d), init_mlp(start, 2 * d, self.hidden, d)
        return as_arrays(strategy.init(key, centre, strategy.default_params)), centre

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        if self.against == "self":
            return self._traced(key, step, carry, game)
        meta = self.meta_game(game, player)
        if self.optimiser == "ppo":
            return self._taught(key, carry, meta)
        return (self._climbed if self.optimiser == "ga" else self._evolved)(key, carry, meta)

    def artifact(self, carry: Tree) -> Tree:
        """Weights of the meta-policy, in self-play of both."""
        if self.against == "self":
            return tuple(agent.actor for agent in carry)
        if self.optimiser == "ppo":
            return carry.actor
        if self.optimiser == "ga":
            return carry
        return carry[1]

    # --- encounters

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        own, other = view.own, view.params[1 - view.player]
        weights = view.artifact[view.player] if self.against == "self" else view.artifact
        seen = jnp.stack(observed(own, other))
        action = sampled(key, weights, seen)[0] if self.optimiser == "ppo" else mlp(weights, seen)
        return tuple(action), state, {}

    # --- proximal policy optimisation

    def _adam(self) -> optax.GradientTransformation:
        default = 2e-4 if self.against == "self" else 2e-3
        return optax.adam(default if self.meta_lr is None else self.meta_lr)

    def _agent(self, key: Array, d: int) -> Agent:
        actor, critic = jax.random.split(key)
        weights = (init_mlp(actor, 2 * d, self.hidden, 2 * d), init_mlp(critic, 2 * d, self.hidden, 1))
        return Agent(weights[0], weights[1], self._adam().init(weights))

    def loss(self, actor: Tree, critic: Tree, episode: Episode, targets: Array) -> tuple[Array, Array]:
        """Sums over all steps and games: the loss, and the critic's squared error.

        Args:
          actor, critic: weights.
          episode: leaves ``(features, n)`` or ``(n,)``.
          targets: normalised returns, ``(n,)``.
        """
        values = mlp(critic, episode.observations)[0]
        mean, variance = gaussian(actor, episode.observations)
        advantages = targets - lax.stop_gradient(values)
        log_ratios = log_density(episode.actions, mean, variance) - episode.log_densities
        gain = clipped_surrogate(log_ratios, advantages, self.clip) + self.entropy_bonus * entropy(variance)
        error = jnp.sum(jnp.square(values - targets))
        return self.value_coefficient * error - jnp.sum(gain), error

    def learned(self, agent: Agent, episode: Episode) -> tuple[Agent, Array]:
        """The agent after its steps of Adam, and the critic's mean squared error before the last."""
        targets = normalised(discounted_returns(episode.rewards, self.meta_gamma))
        count = targets.size
        rows = jax.tree.map(lambda x: chunked(x, chunk_size(count)), (episode, targets))

        def epoch(agent: Agent, _: Any) -> tuple[Agent, Array]:
            weights = (agent.actor, agent.critic)

            def accumulate(total: Any, row: Any) -> tuple[Any, None]:
                slope, error = jax.grad(self.loss, argnums=(0, 1), has_aux=True)(*weights, *row)
                return jax.tree.map(jnp.add, total, (slope, error)), None

            nothing = (jax.tree.map(jnp.zeros_like, weights), jnp.zeros(()))
            (slope, error), _ = lax.scan(accumulate, nothing, rows)
            slope = jax.tree.map(lambda g: g / count, slope)
            updates, optimiser = self._adam().update(slope, agent.optimiser)
            actor, critic = optax.apply_updates(weights, updates)
            return Agent(actor, critic, optimiser), error / count

        agent, errors = lax.scan(epoch, agent, length=self.epochs)
        return agent, errors[-1]

    def _taught(self, key: Array, agent: Agent, meta: MetaGame) -> tuple[Agent, Info]:
        episode = meta_episode(key, meta, agent.actor, self.batch_size, self.meta_steps)
        return self._after(agent, episode)

    def _after(self, agent: Agent, episode: Episode) -> tuple[Agent, Info]:
        then, error = self.learned(agent, episode)
        _, variance = gaussian(agent.actor, episode.observations[-1])
        info = {
            "return": jnp.mean(episode.rewards),
            "opponent_return": jnp.mean(episode.other_rewards),
            "final_return": jnp.mean(episode.rewards[-1]),
            "policy_std": jnp.mean(jnp.sqrt(variance)),
            "critic_error": error,
        }
        return then, info

    def naive_share(self, episodes: Any) -> Array:
        """Probability to meet naive learners in self-play, after so many falls of it."""
        return jnp.maximum(0.0, 1.0 - self.tracing * episodes)

    def plays_itself(self, step: Any) -> Array:
        """Whether that meta-episode (from 0 on) is one of self-play. The share falls before the draw."""
        draw = jax.random.uniform(jax.random.fold_in(jax.random.key(TRACING_KEY), step))
        return draw >= self.naive_share(step + 1)

    def _traced(self, key: Array, step: Array, agents: tuple[Agent, Agent], game: Game) -> tuple[Tree, Info]:
        first, second = jax.random.split(key)

        def mutual() -> Any:
            actors = (agents[0].actor, agents[1].actor)
            episodes = mutual_episodes(key, game, actors, self.batch_size, self.meta_steps)
            (one, info), (two, _) = (self._after(agents[i], episodes[i]) for i in (0, 1))
            return (one, two), info

        def naive() -> Any:
            one, info = self._taught(first, agents[0], self.meta_game(game, 0, "naive"))
            two, _ = self._taught(second, agents[1], self.meta_game(game, 1, "naive"))
            return (one, two), info

        itself = self.plays_itself(step)
        with costs.counting() as of_both:  # of which one will be played
            agents, info = lax.cond(itself, mutual, naive)
        with costs.counting() as of_mutual:
            jax.eval_shape(mutual)
        falls = min(self.preparation_steps, round(1.0 / self.tracing)) if self.tracing else self.preparation_steps
        share = (falls - self.tracing * falls * (falls + 1) / 2.0) / self.preparation_steps
        of_naive = of_both.evaluations - of_mutual.evaluations
        costs.charge(evaluations=round(share * of_naive + (1.0 - share) * of_mutual.evaluations))
        return agents, {**info, "self_play": itself, "naive_share": self.naive_share(step + 1)}

    # --- evolution

    def _climbed(self, key: Array, incumbent: Tree, meta: MetaGame) -> tuple[Tree, Info]:
        noise, trial, test = jax.random.split(key, 3)
        keys = jax.random.split(noise, self.population)

        def candidate(n: Array) -> Tree:
            """The last one is the incumbent itself."""
            size = jnp.where(n < self.population - 1, self.mutation, 0.0)
            leaves, structure = jax.tree.flatten(incumbent)
            draws = jax.random.split(keys[n], len(leaves))
            moved = [x + size * jax.random.normal(k, x.shape) for k, x in zip(draws, leaves, strict=True)]
            return jax.tree.unflatten(structure, moved)

        def trials(weights: Tree, key: Array, games: int) -> tuple[Array, Array]:
            return mean_rewards(key, meta, lambda seen: mlp(weights, seen), games, self.meta_steps)

        with costs.repeated(self.population):
            rewards = lax.map(
                lambda n: trials(candidate(n), jax.random.fold_in(trial, n), self.opponents)[0],
                jnp.arange(self.population),
                batch_size=CANDIDATES,
            )
        pair = jax.tree.map(lambda *x: jnp.stack(x), candidate(jnp.argmax(rewards)), incumbent)
        with costs.repeated(2):
            own, other = lax.map(lambda x: trials(x[0], x[1], self.test_size), (pair, jax.random.split(test)))
        better = own[0] > own[1]
        chosen = jnp.where(better, 0, 1)
        info = {"return": own[chosen], "opponent_return": other[chosen], "replaced": better}
        return jax.tree.map(lambda x: x[chosen], pair), info

    def _strategy(self, d: int) -> Open_ES:
        shapes = jax.eval_shape(lambda: init_mlp(jax.random.key(0), 2 * d, self.hidden, d))
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
        return open_es(self.population, blank, sigma=self.es_sigma, lr=self.es_lr)

    def _evolved(self, key: Array, carry: Tree, meta: MetaGame) -> tuple[Tree, Info]:
        """The carry is the state of the search, and its centre as weights of the network."""
        ask, trial, tell = jax.random.split(key, 3)
        strategy = self._strategy(meta.game.sizes[meta.player])
        candidates, state = strategy.ask(ask, carry[0], strategy.default_params)

        def trials(weights: Tree) -> tuple[Array, Array]:
            return mean_rewards(trial, meta, lambda seen: mlp(weights, seen), self.opponents, self.meta_steps)

        with costs.repeated(self.population):
            own, other = lax.map(trials, candidates, batch_size=CANDIDATES)
        state, _ = strategy.tell(tell, candidates, -own, state, strategy.default_params)
        info = {"return": jnp.mean(own), "opponent_return": jnp.mean(other), "best_return": jnp.max(own)}
        return (as_arrays(state), strategy.get_mean(state)), info
