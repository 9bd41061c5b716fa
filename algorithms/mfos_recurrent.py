"""M-FOS in games that are played: a recurrent policy, conditioned between episodes.

Lu et al., ICML 2022 (arXiv 2205.01447), the Coin Game version. One step of the meta-game is a
batch of episodes, after which the opponent learns. Within an episode a recurrent policy plays;
between episodes a third branch of its network, the meta branch, reads what the agent saw of
the episode just finished, averages over the batch and conditions the policy of the next one:

    pi = softmax(W (c * relu(GRU_actor))),   c' = sigmoid(U mean_b GRU_meta + u),   c = 1 at first.

Nothing is learned while the opponent is met: all learning, by PPO over whole trials against
opponents that learn, is preparation.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

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
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.meta_game import mean_share
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Net, encoding
from shaping_bench.algorithms.parts.proximal import clipped_surrogate
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.games.base import Game

BRANCHES = ("actor", "critic", "meta")


class Trial(NamedTuple):
    """What one agent saw and did in a trial of M episodes of T steps in B games.

    Attributes:
      observations: own, before each step, ``(M, T, B, *observation_shape)``.
      actions: own, ``(M, T, B)``.
      rewards: own, ``(M, T, B)``.
    """

    observations: Array
    actions: Array
    rewards: Array


class Training(NamedTuple):
    """What the preparation carries: the agents' weights and optimisers, each leaf ``(agents, ...)``."""

    weights: Tree
    optimiser: Tree


class ConditionedPolicy(Policy):
    """Acts by the actor branch, its features multiplied by the conditioning vector.

    Parameters are ``{"weights": ..., "conditioning": (hidden,)}``.
    """

    def __init__(self, branch: Net, n_actions: int) -> None:
        self.branch, self.n_actions = branch, n_actions

    def init(self, key: Array) -> Tree:
        width = self.branch.network.width
        sizes = {"actor": self.n_actions, "critic": 1, "meta": width}
        keys = jax.random.split(key, 2 * len(BRANCHES))
        weights = {}
        for k, name in enumerate(BRANCHES):
            weights[name] = self.branch.init(keys[2 * k])
            weights[f"{name}_head"] = _linear_init(keys[2 * k + 1], width, sizes[name])
        return {"weights": weights, "conditioning": jnp.ones(width)}

    def start(self) -> Tree:
        return self.branch.start()

    def _logits(self, params: Tree, features: Array) -> Array:
        return _linear(params["weights"]["actor_head"], params["conditioning"] * jax.nn.relu(features))

    def step(self, params: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Categorical]:
        return self.act(self.laid(params), carry, observation, state)

    def laid(self, params: Tree) -> Tree:
        return params, self.branch.laid(params["weights"]["actor"])

    def act(self, laid: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Categorical]:
        params, weights = laid
        carry, out = self.branch.act(weights, carry, observation)
        return carry, Categorical(logits=self._logits(params, out["features"]))

    def unroll(self, params: Tree, observations: Tree) -> Categorical:
        out = self.branch.unroll(params["weights"]["actor"], observations)
        return Categorical(logits=self._logits(params, out["features"]))


def trial_returns(rewards: Array, gamma: Any, corrected: bool = False) -> Array:
    """Discounted returns over a trial, to which a single game's episodes contribute as the
    official code has it: own rewards to the end of the episode, then the batch's mean.

    The opponent learns from all games of the batch at once, so what comes after the episode is
    everybody's. One game moves the opponent by 1/B of the batch, so the unbiased estimator weighs
    a game's rewards within the episode by 1/B too (Meulemans et al. 2025, arXiv 2410.18636, 3.1).

    Args:
      rewards: ``(M, T, B)``.
      gamma: discount per step.
      corrected: the unbiased weights instead of the official code's.
    """
    num_episodes, length, batch = rewards.shape
    flat = rewards.reshape(num_episodes * length, batch)
    ends = jnp.arange(num_episodes * length) % length == length - 1
    weight = 1.0 / batch if corrected else 1.0

    def back(later: Any, now: Any) -> Any:
        own, mean = later
        reward, end = now
        own = weight * reward + gamma * jnp.where(end, mean, own)
        return (own, jnp.mean(reward) + gamma * mean), own

    start = (jnp.zeros_like(flat[0]), jnp.zeros((), flat.dtype))
    return lax.scan(back, start, (flat, ends), reverse=True)[1].reshape(rewards.shape)


@pytree_dataclass
class MFOSRecurrent(PreparedLearner):
    """A policy that was taught by PPO to shape opponents that learn, over whole trials.

    Its co-player in preparation is the official code's naive learner, a small PPO agent, or any other
    learner that plays; of a mixture one is drawn per trial. With more than two players all others
    are such learners. With
    ``against="self"`` two agents are taught together by tracing: in every trial they meet each
    other with a probability that rises from 0 to 1, else each meets a naive learner. The agent
    sees what the game shows it, in M-FOS's game (``coin-game(preset=mfos,episodes=1)``) also the
    last rewards of both; own planes come first in either seat.
    """

    access: ClassVar[Access] = Access.REWARDS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "Lu et al., ICML 2022, arXiv 2205.01447, Coin Game; settings of the official code"

    against: Any = field("ppo", "who is met in preparation", choices=("ppo", "self"), static=True, learner=True)
    batch_size: int = field(512, "games of a batch, which teach the opponent together", low=1, static=True, small=16)
    trials: int = field(1000, "trials of the preparation", low=1, static=True)
    episodes: int = field(16, "episodes of a trial, after each of which the opponent learns", low=1, static=True)
    meta_lr: float = field(2e-4, "step size of Adam in the preparation", low=0.0)
    meta_gamma: float = field(0.995, "discount per step across the episodes of a trial", low=0.0, high=1.0)
    epochs: int = field(16, "passes over a trial", low=1, static=True)
    clip: float = field(0.2, "most that a probability ratio may move for gain", low=0.0)
    value_coefficient: float = field(0.5, "weight of the critic's squared error", low=0.0)
    tracing: float = field(
        0.005, "against self: what the share of naive opponents falls by per trial", low=0.0, static=True
    )
    corrected: bool = field(False, "the unbiased estimator of Meulemans et al. instead of the official", static=True)
    hidden: int = field(16, "units of each branch", low=1, static=True, small=8)

    @property
    def prepared_jointly(self) -> bool:  # type: ignore[override]
        """Agents taught together meet each other; others go through one another's seeds."""
        return self.against == "self"

    @property
    def preparation_steps(self) -> int:
        return self.trials

    @property
    def preparation_width(self) -> int:
        return self.batch_size

    def check_game(self, game: Game, player: int) -> None:
        if len(game.observation_shape) != 3:
            raise ValueError("needs a game of players who see planes, such as coin-game")
        if self.against == "self":
            if game.n_players != 2:
                raise ValueError(f"is defined for 2 players with against='self', the game has {game.n_players}")
        elif self.against != "ppo":
            self.coplayers().check_sampled(game, player)

    def policy(self, game: Game, player: int) -> ConditionedPolicy:
        branch = Network(
            heads=(), conv=(16, 16), padding="CIRCULAR", dense=(self.hidden,), cell="gru", width=self.hidden
        )
        return ConditionedPolicy(Net(branch, encoding(game, "planes")), game.n_actions)

    # --- meeting others -----------------------------------------------------------------------

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        params = self.policy(game, player).init(key)
        if artifact is None:
            return params, ()
        agent = player if self.prepared_jointly else 0
        return {**params, "weights": jax.tree.map(lambda x: x[agent], artifact)}, ()

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        """Conditions the policy on the episode just played; the weights stay."""
        del key
        seen = view.play(self.batch_size).observations()[:-1]
        conditioning = self._conditioning(view.game, view.own["weights"], seen[None])[0]
        return {**view.own, "conditioning": conditioning}, state, {}

    def _conditioning(self, game: Game, weights: Tree, observations: Array) -> Array:
        """What each episode ``(M, T, B, ...)`` says to the next: ``(M, hidden)``."""
        num_episodes, length, batch = observations.shape[:3]
        together = jnp.moveaxis(observations, 0, 1).reshape(length, num_episodes * batch, *observations.shape[3:])
        last = self.policy(game, 0).branch.unroll(weights["meta"], together)["features"][-1]
        mean = jnp.mean(last.reshape(num_episodes, batch, -1), axis=1)
        return jax.nn.sigmoid(_linear(weights["meta_head"], mean))

    # --- preparation --------------------------------------------------------------------------

    def naive_learner(self) -> PPO:
        """The official code's co-player. Its returns are Monte-Carlo ones, here with the critic's
        word for what follows the last step; the rest is PPO's."""
        return PPO(  # type: ignore[call-arg]
            lr=0.005,
            lam=1.0,
            entropy_bonus=0.01,
            epochs=80,
            minibatches=1,
            max_grad_norm=1e9,
            separate=True,
            network="conv-mlp",
            hidden=8,
            batch_size=self.batch_size,
        )

    def coplayers(self) -> Mixture:
        """Who is met in preparation, in self-play while tracing has not ended."""
        against = "ppo" if self.against == "self" else self.against
        return Mixture.of(against, {"ppo": self.naive_learner()})

    def _agents(self) -> int:
        return 2 if self.prepared_jointly else 1

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.meta_lr)

    def prepare_init(self, key: Array, game: Game, player: int) -> Training:
        keys = jax.random.split(key, self._agents())
        weights = jax.vmap(lambda k: self.policy(game, player).init(k)["weights"])(keys)
        return Training(weights, jax.vmap(self._adam().init)(weights))

    def artifact(self, carry: Training) -> Tree:
        return carry.weights

    def prepare_step(self, key: Array, step: Array, carry: Training, game: Game, player: int) -> tuple[Training, Info]:
        """One trial and what PPO learns from it; with tracing, one of each agent."""
        if not self.prepared_jointly:
            weights = jax.tree.map(lambda x: x[0], carry.weights)
            trial, values = self._against_others(key, weights, game, player)
            trials = jax.tree.map(lambda x: x[None], trial)
            info = {"return": values[0], "opponent_return": values[1]}
            return self._taught(carry, trials, game), info
        draw, play = jax.random.split(key)
        share = jnp.maximum(1.0 - self.tracing * (step + 1), 0.0)
        together, met_naive = jax.random.uniform(draw) > share, mean_share(self.tracing, self.trials)

        def each_other() -> Any:
            first, second = (jax.tree.map(lambda x, a=a: x[a], carry.weights) for a in (0, 1))
            with costs.either(1.0 - met_naive):
                trials = self._trial(play, game, (self, self), (first, second))
            values = [_per_step(game, x.rewards) for x in trials]
            return jax.tree.map(lambda *x: jnp.stack(x), *trials), jnp.stack(values)

        def naive() -> Any:
            agents = [jax.tree.map(lambda x, a=a: x[a], carry.weights) for a in (0, 1)]
            with costs.either(met_naive):
                plays = [
                    self._against_others(jax.random.fold_in(play, a), weights, game, a)
                    for a, weights in enumerate(agents)
                ]
            trials = jax.tree.map(lambda *x: jnp.stack(x), *(trial for trial, _ in plays))
            return trials, jnp.stack([values[0] for _, values in plays])

        trials, values = lax.cond(together, each_other, naive)
        nan = jnp.nan
        info = {
            "share_naive": share,
            "return": jnp.where(together, values[0], nan),
            "opponent_return": jnp.where(together, values[1], nan),
        }
        return self._taught(carry, trials, game), info

    def _against_others(self, key: Array, weights: Tree, game: Game, player: int) -> tuple[Trial, Array]:
        """A trial against fresh learners: the own view of it, and returns per step, own and the others' mean."""
        coplayers = self.coplayers()

        def against(rule: Learner, share: float, key: Array) -> tuple[Trial, Array]:
            rules, parameters = [rule] * game.n_players, [None] * game.n_players
            rules[player], parameters[player] = self, weights
            with costs.either(share):
                trials = self._trial(key, game, tuple(rules), tuple(parameters))
            values = [_per_step(game, trial.rewards) for trial in trials]
            others = [x for i, x in enumerate(values) if i != player]
            return trials[player], jnp.stack([values[player], sum(others[1:], others[0]) / len(others)])

        pairs = list(zip(coplayers.learners, coplayers.shares, strict=True))
        if len(pairs) == 1:
            return against(*pairs[0], key)
        draw, key = jax.random.split(key)
        who = jax.random.choice(draw, len(pairs), p=jnp.asarray(coplayers.shares))
        return lax.switch(who, [functools.partial(against, *pair) for pair in pairs], key)

    def _trial(
        self, key: Array, game: Game, rules: tuple[Learner, ...], weights: tuple[Tree, ...]
    ) -> tuple[Trial, ...]:
        """An encounter of ``episodes`` updates, seen from every seat."""
        stage = Stage(game, rules)
        start, play = jax.random.split(key)
        joint = stage.begin(start)
        own = [theta if w is None else {**theta, "weights": w} for theta, w in zip(joint.params, weights, strict=True)]

        def episode(joint: Joint, key: Array) -> tuple[Joint, tuple[Trial, ...]]:
            joint, play, _ = stage.episode(key, joint)
            assert play is not None, "whoever learns here learns from play"
            return joint, tuple(self._of_seat(game, play, i) for i in range(game.n_players))

        with costs.repeated(self.episodes):
            keys = jax.random.split(play, self.episodes)
            _, trials = lax.scan(episode, joint._replace(params=tuple(own)), keys)
        return trials

    def _of_seat(self, game: Game, play: Trajectory, player: int) -> Trial:
        """One episode as a seat saw it, without an axis of episodes; of a wider play the first games."""
        seen = Play(game, play, player).episodes(slice(self.batch_size))
        return Trial(seen.observations(end=False), seen.actions(), seen.rewards())

    def _taught(self, carry: Training, trials: Trial, game: Game) -> Training:
        """PPO: ``epochs`` full-batch steps of Adam for every agent."""

        def one(weights: Tree, memory: Tree, trial: Trial) -> Any:
            returns = trial_returns(trial.rewards, self.meta_gamma, self.corrected)
            returns = (returns - jnp.mean(returns)) / (jnp.std(returns) + 1e-5)
            acting, _ = self._heads(game, weights, trial)
            played = lax.stop_gradient(acting.log_prob(trial.actions))

            def loss(weights: Tree) -> Array:
                acting, values = self._heads(game, weights, trial)
                advantages = returns - lax.stop_gradient(values)
                gain = clipped_surrogate(acting.log_prob(trial.actions) - played, advantages, self.clip)
                return -jnp.mean(gain) + self.value_coefficient * jnp.mean(jnp.square(values - returns))

            def epoch(carry: Any, _: None) -> Any:
                weights, memory = carry
                change, memory = self._adam().update(jax.grad(loss)(weights), memory)
                return (optax.apply_updates(weights, change), memory), None

            return lax.scan(epoch, (weights, memory), None, length=self.epochs)[0]

        # One agent after the other: each fills the machine.
        return Training(*lax.map(lambda x: one(*x), (carry.weights, carry.optimiser, trials)))

    def _heads(self, game: Game, weights: Tree, trial: Trial) -> tuple[Categorical, Array]:
        """Distributions and values ``(M, T, B)`` along a trial, differentiable also in how
        an episode conditions the next; the critic takes the conditioning as given."""
        branch = self.policy(game, 0).branch
        num_episodes, length, batch = trial.actions.shape
        conditioning = self._conditioning(game, weights, trial.observations[:-1])
        conditioning = jnp.concatenate([jnp.ones((1, self.hidden), conditioning.dtype), conditioning])
        shape = trial.observations.shape[3:]
        together = jnp.moveaxis(trial.observations, 0, 1).reshape(length, num_episodes * batch, *shape)

        def features(name: str) -> Array:
            out = jax.nn.relu(branch.unroll(weights[name], together)["features"])
            return jnp.moveaxis(out.reshape(length, num_episodes, batch, -1), 1, 0)

        gate = conditioning[:, None, None, :]
        logits = _linear(weights["actor_head"], gate * features("actor"))
        values = _linear(weights["critic_head"], lax.stop_gradient(gate) * features("critic"))
        return Categorical(logits=logits), values[..., 0]


def _per_step(game: Game, rewards: Array) -> Array:
    """Mean reward per move of an episode."""
    return jnp.sum(jnp.mean(rewards, axis=(0, 2))) / game.num_moves


def _linear_init(key: Array, size_in: int, size_out: int) -> Tree:
    """PyTorch's default: uniform within ``1 / sqrt(inputs)``, as the official code has it."""
    bound = size_in**-0.5
    kernel_key, bias_key = jax.random.split(key)
    kernel = jax.random.uniform(kernel_key, (size_in, size_out), minval=-bound, maxval=bound)
    return {"kernel": kernel, "bias": jax.random.uniform(bias_key, (size_out,), minval=-bound, maxval=bound)}


def _linear(params: Tree, x: Array) -> Array:
    return x @ params["kernel"] + params["bias"]
