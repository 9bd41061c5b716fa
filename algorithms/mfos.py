"""Model-free opponent shaping (M-FOS) in games with exact values.

Lu et al., ICML 2022. Shaping is a game about a game, :class:`parts.meta_game.MetaGame`: one step is
a whole encounter of fixed policies, the action is the own next policy, the reward what it earns, and
between steps the others learn. A meta-policy is trained on that game by a general-purpose
optimiser, which needs no derivative of how the opponent learns. Then it plays: in an encounter
M-FOS does not learn, it acts, once per update of the others.

What the published tables call M-FOS was trained by proximal policy optimisation (``ppo``) or by
hill climbing (``ga``); evolution strategies (``es``) came with Shaper's code. Where the paper's
text and its official code leave something open, the code decides.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Info, PreparedLearner, View, costs, field, pytree_dataclass
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.lola import LOLAFull
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.estimators import discounted_returns
from shaping_bench.algorithms.parts.evolution import CANDIDATES, as_arrays, check_population, generation, open_es
from shaping_bench.algorithms.parts.meta_game import (
    Episode,
    Groups,
    Scalars,
    groups,
    mean_rewards,
    mean_share,
    meta_episode,
    observed,
    random_policy,
)
from shaping_bench.algorithms.parts.mlp import (
    entropy,
    gaussian,
    init_mlp,
    init_mutable_mlp,
    log_density,
    mlp,
    sampled,
)
from shaping_bench.algorithms.parts.proximal import clipped_surrogate
from shaping_bench.games.base import Game

CHUNK = 1024
"""Most games times steps that a gradient is taken of at once: 256 hidden units of them, their
derivatives and the weights stay in a core's cache."""


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


def acting(actor: Tree) -> Any:
    """The meta-policy as meta-games ask it: from a key and what is seen to the key that is left and an action."""

    def act(key: Array, seen: Array) -> tuple[Array, Array, Array]:
        draw, rest = jax.random.split(key)
        return rest, *sampled(draw, actor, seen)

    return act


def mutual_episodes(
    key: Array, game: Game, actors: tuple[Tree, Tree], games: int, steps: int
) -> tuple[Episode, Episode]:
    """Two meta-policies choose policies for one another; what each of them lived through."""
    first, key = jax.random.split(key)
    keys = jax.random.split(first, (2, games))
    params = [jax.vmap(lambda key, i=i: random_policy(key, game, i))(keys[i]) for i in (0, 1)]

    def value(*joint: Scalars) -> tuple[Array, Array]:
        costs.charge(evaluations=2)
        return game.per_step * game.value(joint, 0), game.per_step * game.value(joint, 1)

    def step(params: Any, key: Array) -> Any:
        seen = [jnp.stack(observed(params[i], params[1 - i])) for i in (0, 1)]
        draws = jax.random.split(key)
        played = [sampled(draws[i], actors[i], seen[i]) for i in (0, 1)]
        params = [tuple(action) for action, _ in played]
        earned = jax.vmap(value)(*params)
        return params, tuple(
            Episode(
                observations=seen[i],
                actions=played[i][0],
                log_densities=played[i][1],
                rewards=earned[i],
                other_rewards=earned[1 - i],
            )
            for i in (0, 1)
        )

    with costs.repeated(games * steps):
        return lax.scan(step, params, jax.random.split(key, steps))[1]


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

    ``against`` is a word, a learner or a mixture of them: whoever learns from the exact game. With
    more than two players all others are such learners, and the meta-policy sees everybody.
    ``against=self``: meta-self-play with tracing. Two agents are prepared together, seat i plays the
    i-th; with a probability that falls from 1 by ``tracing`` per meta-episode each still meets naive
    learners instead of the other. The curves are those of the first agent.

    In an asymmetric game each seat has a preparation of its own. The official code seats M-FOS second
    in iterated matching pennies, where it wins on a match; in the registered ``imp`` the first seat
    does, which is the same game seen from the other side.
    """

    source = "Lu et al., ICML 2022, arXiv 2205.01447; official code"

    against: Any = field(
        "naive",
        "who is met in preparation; lola: lola-full",
        choices=("naive", "lola", "self"),
        static=True,
        learner=True,
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
    population: int = field(2048, "ga, es: candidates per generation; es: even", low=2, static=True, small=4)
    opponents: int = field(128, "ga, es: games per candidate", low=1, static=True, small=2)
    test_size: int = field(
        2048, "ga: games that decide between the best candidate and the incumbent", low=1, static=True
    )
    mutation: float = field(2.0, "ga: deviation of the mutations, of every weight", low=0.0)
    es_sigma: float = field(0.04, "es: deviation of the candidates at first", low=0.0, exclusive=True, static=True)
    es_lr: float = field(0.1, "es: step of Adam at first", low=0.0, static=True)

    @property
    def prepared_jointly(self) -> bool:  # type: ignore[override]
        return self.against == "self"

    @property
    def preparation_steps(self) -> int:
        return self.episodes or EPISODES[self.optimiser]

    @property
    def preparation_width(self) -> int:
        return self._games if self.optimiser == "ppo" else CANDIDATES * self._games

    def check_game(self, game: Game, player: int) -> None:
        if game.table is None:
            raise ValueError("is defined for two-action games whose policies are logits")
        if self.opponent_init and {len(self.opponent_init)} != {game.sizes[j] for j in _others(game, player)}:
            sizes = sorted({game.sizes[j] for j in _others(game, player)})
            raise ValueError(f"has {len(self.opponent_init)} numbers in opponent_init; allowed: none, or {sizes[0]}")
        if self.optimiser == "es":
            check_population(self.population)
        if self.against == "self":
            if self.optimiser != "ppo":
                raise ValueError(f"has against='self' and optimiser={self.optimiser!r}; allowed: ppo")
            if game.n_players != 2:
                raise ValueError(f"is defined for 2 players with against='self', the game has {game.n_players}")
            return
        coplayers = self.coplayers()
        coplayers.check_exact(game, player)
        coplayers.check_counts(self._games, "games")

    def coplayers(self, against: Any = None) -> Mixture:
        """Who is met in preparation."""
        words = {
            "naive": Naive(lr=self.opponent_lr),
            "lola": LOLAFull(lr=self.opponent_lr, lookahead_lr=self.opponent_lr),
        }
        return Mixture.of(against or self.against, words)

    @property
    def _games(self) -> int:
        """Of a meta-episode."""
        return self.batch_size if self.optimiser == "ppo" else self.opponents

    def meta_games(self, game: Game, player: int, games: int, against: Any = None) -> Groups:
        """What that seat is prepared on."""
        return groups(game, player, self.coplayers(against), games, self.opponent_init)

    # --- preparation

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        self.check_game(game, player)
        inputs, d = sum(game.sizes), game.sizes[player]
        if self.against == "self":
            return tuple(self._agent(k, inputs, game.sizes[i]) for i, k in enumerate(jax.random.split(key)))
        if self.optimiser == "ppo":
            return self._agent(key, inputs, d)
        if self.optimiser == "ga":
            return init_mutable_mlp(key, inputs, self.hidden, d)
        start, key = jax.random.split(key)
        strategy, centre = self._strategy(inputs, d), init_mlp(start, inputs, self.hidden, d)
        return as_arrays(strategy.init(key, centre, strategy.default_params)), centre

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        if self.against == "self":
            return self._traced(key, step, carry, game)
        if self.optimiser == "ppo":
            return self._taught(key, carry, self.meta_games(game, player, self.batch_size))
        return (self._climbed if self.optimiser == "ga" else self._evolved)(key, carry, game, player)

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
        weights = view.artifact[view.player] if self.against == "self" else view.artifact
        seen = jnp.stack(observed(view.own, *(view.params[j] for j in view.others)))
        action = sampled(key, weights, seen)[0] if self.optimiser == "ppo" else mlp(weights, seen)
        return tuple(action), state, {}

    # --- proximal policy optimisation

    def _adam(self) -> optax.GradientTransformation:
        default = 2e-4 if self.against == "self" else 2e-3
        return optax.adam(default if self.meta_lr is None else self.meta_lr)

    def _agent(self, key: Array, inputs: int, d: int) -> Agent:
        actor, critic = jax.random.split(key)
        weights = (init_mlp(actor, inputs, self.hidden, 2 * d), init_mlp(critic, inputs, self.hidden, 1))
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

    def _taught(self, key: Array, agent: Agent, groups: Groups) -> tuple[Agent, Info]:
        return self._after(agent, meta_episode(key, groups, acting(agent.actor), self.meta_steps))

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

    def mean_naive_share(self) -> float:
        """The same on average over the preparation."""
        return mean_share(self.tracing, self.preparation_steps)

    def plays_itself(self, step: Any) -> Array:
        """Whether that meta-episode (from 0 on) is one of self-play. The share falls before the draw."""
        draw = jax.random.uniform(jax.random.fold_in(jax.random.key(TRACING_KEY), step))
        return draw >= self.naive_share(step + 1)

    def _traced(self, key: Array, step: Array, agents: tuple[Agent, Agent], game: Game) -> tuple[Tree, Info]:
        first, second = jax.random.split(key)
        itself, met_naive = self.plays_itself(step), self.mean_naive_share()

        def mutual() -> Any:
            actors = (agents[0].actor, agents[1].actor)
            with costs.either(1.0 - met_naive):
                episodes = mutual_episodes(key, game, actors, self.batch_size, self.meta_steps)
            (one, info), (two, _) = (self._after(agents[i], episodes[i]) for i in (0, 1))
            return (one, two), info

        def naive() -> Any:
            with costs.either(met_naive):
                one, info = self._taught(first, agents[0], self.meta_games(game, 0, self.batch_size, "naive"))
                two, _ = self._taught(second, agents[1], self.meta_games(game, 1, self.batch_size, "naive"))
            return (one, two), info

        agents, info = lax.cond(itself, mutual, naive)
        return agents, {**info, "self_play": itself, "naive_share": self.naive_share(step + 1)}

    # --- evolution

    def _climbed(self, key: Array, incumbent: Tree, game: Game, player: int) -> tuple[Tree, Info]:
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
            meta_groups = self.meta_games(game, player, games)
            return mean_rewards(key, meta_groups, lambda seen: mlp(weights, seen), self.meta_steps)

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

    def _strategy(self, inputs: int, d: int) -> Any:
        shapes = jax.eval_shape(lambda: init_mlp(jax.random.key(0), inputs, self.hidden, d))
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
        return open_es(self.population, blank, sigma=self.es_sigma, lr=self.es_lr)

    def _evolved(self, key: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        """The carry is the state of the search, and its centre as weights of the network."""
        strategy = self._strategy(sum(game.sizes), game.sizes[player])

        def trials(key: Array, weights: Tree) -> tuple[Array, Array]:
            meta_groups = self.meta_games(game, player, self.opponents)
            return mean_rewards(key, meta_groups, lambda seen: mlp(weights, seen), self.meta_steps)

        state, info = generation(key, strategy, carry[0], trials)
        return (state, strategy.get_mean(state)), info


def _others(game: Game, player: int) -> list[int]:
    return [j for j in range(game.n_players) if j != player]
