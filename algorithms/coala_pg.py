"""COALA-PG: co-agent learning-aware policy gradients, by ordinary play.

Meulemans et al., ICLR 2025 (arXiv 2410.18636). One recurrent policy plays a whole trial of M episodes,
remembering across them, against somebody who learns after each from its B parallel games. Batch and
learning are part of the environment, so that the policy-gradient theorem holds as it stands: shaping needs
neither the other's parameters nor derivatives of its learning. What it needs is whose rewards an
action is credited with: in the current episode only its own game's, of which the objective is a B-th;
after it everybody's, because the other's update carries what was done there into all games.

Learners without a memory beyond the episode are shaped; two who both remember play one another as
independent games. Cooperation among them comes from having met both.
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
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import optimiser
from shaping_bench.algorithms.parts.estimators import lambda_returns
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Net, NetworkPolicy, acting_head, encoding
from shaping_bench.algorithms.parts.proximal import clipped_error, clipped_surrogate
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.games.base import Game

RULES = ("coala", "mfos", "unaware")


def credit(deltas: Array, length: int, discount: Any, rule: str) -> Array:
    """What each action is credited with: generalised advantages over a trial, in one pass backwards.

    ==========  =============================  =================================  ======================
    rule        rest of the current episode    later episodes                     scores are then
    ==========  =============================  =================================  ======================
    coala       own game, divided by B         mean over the games                summed over the games
    mfos        own game                       mean over the games                summed over the games
    unaware     own game                       own game                           averaged over the games
    ==========  =============================  =================================  ======================

    Args:
      deltas: errors of temporal differences along the trials of one batch, ``(L, B)``; the rewards
        themselves without a critic.
      length: steps of an episode, T; L is a multiple.
      discount: per step, gamma times lambda.
      rule: of the table. ``coala`` is unbiased against one who learns from the batch (theorem 3.1),
        ``unaware`` against one who does not.

    Returns:
      ``(L, B)``.
    """
    steps, batch = deltas.shape
    share = 1.0 / batch if rule == "coala" else 1.0
    ends = jnp.arange(steps) % length == length - 1

    def back(later: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (own, everybody), (delta, end) = later, now
        if rule != "unaware":
            own = jnp.where(end, everybody, own)
        own = share * delta + discount * own
        return (own, jnp.mean(delta) + discount * everybody), own

    start = (jnp.zeros_like(deltas[0]), jnp.zeros((), deltas.dtype))
    return lax.scan(back, start, (deltas, ends), reverse=True)[1]


class Trial(NamedTuple):
    """What an agent saw and did in trials of L steps in B games against O opponents.

    Attributes:
      observations: own, before each step, ``(O, L, B, ...)``.
      actions: own, ``(O, L, B)``.
      rewards: own, ``(O, L, B)``.
      others: mean of the others' rewards, ``(O, L, B)``.
    """

    observations: Array
    actions: Array
    rewards: Array
    others: Array


class Lesson(NamedTuple):
    """What the epochs of one iteration learn from; leaves ``(O, L, B, ...)``, ``weight`` ``(O,)``.

    Attributes:
      trial: what was seen and done.
      log_probs: of the actions, by the policy that played.
      values: of the critic before the update.
      targets: of the critic.
      advantages: what the actions are credited with.
      weight: of the scores of a game: one, or a B-th where they are averaged.
    """

    trial: Trial
    log_probs: Array
    values: Array
    targets: Array
    advantages: Array
    weight: Array


class Training(NamedTuple):
    """What the preparation carries: the agents' weights and optimisers, each leaf ``(agents, ...)``."""

    weights: Tree
    optimiser: Tree


class SequencePolicy(NetworkPolicy):
    """Remembers across the episodes of an encounter; plays all actions alike before it has learned."""

    keeps_carry: ClassVar[bool] = True

    def init(self, key: Array) -> Tree:
        params = super().init(key)
        heads = [name for name in params if name.startswith("head_")]
        return {**params, **{name: jax.tree.map(jnp.zeros_like, params[name]) for name in heads}}


@pytree_dataclass
class COALAPG(PreparedLearner):
    """A policy with a memory of the whole trial, taught by PPO on credits that know of the other's batch.

    In every iteration each agent of a population meets ``opponents``: the share ``naive_share`` of them are
    learners (``against``), fresh ones; the others are agents of the population, which remember as it does. With one
    agent all are learners. In an encounter it does not learn; it remembers.

    ``rule=mfos`` and ``rule=unaware`` are the paper's controls; against other agents all three are ``unaware``,
    which is right there. More than two players: all others are learners, or all are copies of one agent.
    """

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "Meulemans et al., ICLR 2025, arXiv 2410.18636; no code was published"
    # Of its shaping among learners (tables 5 and 7); with rule=unaware and rule=mfos the paper has reward_scale=1, and
    # with the latter meta_lr=0.003.
    published: ClassVar = {
        "cleanup-lite": {
            "population": 1,
            "naive_share": 1.0,
            "opponents": 512,
            "batch_size": 32,
            "episodes": 100,
            "meta_lr": 0.001,
            "reward_scale": 0.1,
            "centred": True,
        }
    }

    against: Any = field("naive", "who learns while it is met", choices=("naive",), static=True, learner=True)
    rule: str = field("coala", "whose rewards an action is credited with", choices=RULES, static=True)
    population: int = field(4, "agents prepared together", low=1, static=True, small=2)
    naive_share: float = field(0.75, "of the opponents, those who learn", low=0.0, high=1.0, static=True)
    opponents: int = field(128, "met per iteration and agent", low=1, static=True, small=1)
    batch_size: int = field(16, "games that the other learns from together, B", low=1, static=True, small=4)
    episodes: int = field(20, "of a trial, M", low=1, static=True, small=2)
    iterations: int = field(3000, "of the preparation", low=1, static=True)
    meta_lr: float = field(3e-4, "step of Adam", low=0.0)
    meta_gamma: float = field(1.0, "discount per step of a trial", low=0.0, high=1.0)
    lam: float = field(1.0, "lambda of advantages and of the critic's targets", low=0.0, high=1.0)
    reward_scale: float = field(0.05, "of the rewards that are learned from", low=0.0, exclusive=True)
    epochs: int = field(4, "passes over what was played", low=1, static=True)
    minibatches: int = field(2, "parts of the opponents, each one step of Adam", low=1, static=True, small=1)
    clip: float = field(0.2, "most that a probability ratio, or a value, may move for gain", low=0.0)
    value_coefficient: float = field(0.5, "weight of the critic's squared error", low=0.0)
    max_grad_norm: float = field(1.0, "longer gradients are cut to this norm", low=0.0)
    centred: bool = field(False, "advantages without their mean, of learners and agents apart", static=True)
    naive_lr: float = field(0.005, "step of Adam of the learners met", low=0.0)
    hidden: int = field(32, "units of the embedding and of the GRU", low=1, static=True, small=4)

    @property
    def prepared_jointly(self) -> bool:  # type: ignore[override]
        """Agents of one population meet each other; a single one meets those of other seeds."""
        return self.population > 1

    @property
    def preparation_steps(self) -> int:
        return self.iterations

    @property
    def preparation_width(self) -> int:
        return self.population * self.opponents * self.batch_size

    @property
    def learners_met(self) -> int:
        """How many of the opponents learn."""
        return self.opponents if self.population == 1 else round(self.naive_share * self.opponents)

    def check_game(self, game: Game, player: int) -> None:
        if game.ends_early:
            raise ValueError("credits whole trials, and this game's episodes may end early; allowed: those that do not")
        if self.opponents % self.minibatches:
            raise ValueError(f"has opponents={self.opponents} and minibatches={self.minibatches}; allowed: a divisor")
        self.coplayers().check_sampled(game, player)

    def policy(self, game: Game, player: int) -> SequencePolicy:
        heads = (acting_head(game, player), ("value", 1))
        network = Network(heads=heads, dense=(self.hidden,), cell="gru", width=self.hidden)
        return SequencePolicy(Net(network, encoding(game, None, player)), game.action_space(player))

    # --- meeting others -----------------------------------------------------------------------

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        tally = (jnp.zeros(()), jnp.zeros(()))
        if artifact is None:
            return self.policy(game, player).init(key), tally
        agent = player % self.population if self.prepared_jointly else 0
        return jax.tree.map(lambda x: x[agent], artifact), tally

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        """The weights stay; what the trial has brought so far is told."""
        del key
        total, episodes = state
        tally = (total + jnp.mean(view.play(self.batch_size).rewards()), episodes + 1.0)
        return view.own, tally, {"trial_return": tally[0] / tally[1]}

    # --- preparation --------------------------------------------------------------------------

    def naive_learner(self) -> PPO:
        """Actor-critic (one epoch of one batch is A2C) with a memory of the episode alone."""
        return PPO(  # type: ignore[call-arg]
            lr=self.naive_lr,
            lam=1.0,
            entropy_bonus=0.0,
            epochs=1,
            minibatches=1,
            max_grad_norm=1.0,
            network="gru",
            hidden=self.hidden,
            batch_size=self.batch_size,
        )

    def coplayers(self) -> Mixture:
        """Who learns while it is met."""
        return Mixture.of(self.against, {"naive": self.naive_learner()})

    def _adam(self) -> optax.GradientTransformation:
        return optimiser("adam", self.meta_lr, eps=1e-5, max_grad_norm=self.max_grad_norm)

    def prepare_init(self, key: Array, game: Game, player: int) -> Training:
        weights = jax.vmap(self.policy(game, player).init)(jax.random.split(key, self.population))
        return Training(weights, jax.vmap(self._adam().init)(weights))

    def artifact(self, carry: Training) -> Tree:
        return carry.weights

    def prepare_step(self, key: Array, step: Array, carry: Training, game: Game, player: int) -> tuple[Training, Info]:
        """Trials of every agent against everybody as they are, and what it learns from them."""

        def one(who: tuple[Array, Array]) -> tuple[Training, Info]:
            agent, key = who
            mine = jax.tree.map(lambda x: x[agent], carry)
            play, learn = jax.random.split(key)
            met = self._met(play, agent, carry.weights, game, player)
            lesson = self._lesson(mine.weights, met, game, player)
            learners = self.learners_met
            info = {
                "return": jnp.mean(met.rewards[:learners]),
                "opponent_return": jnp.mean(met.others[:learners]),
            }
            if learners < self.opponents:
                info["return_among_agents"] = jnp.mean(met.rewards[learners:])
            return self._taught(learn, mine, lesson, game, player), info

        with costs.repeated(self.population):
            keys = jax.random.split(key, self.population)
            taught, infos = lax.map(one, (jnp.arange(self.population), keys))
        return taught, jax.tree.map(jnp.mean, infos)

    def _met(self, key: Array, agent: Array, weights: Tree, game: Game, player: int) -> Trial:
        """One agent's trials: against learners first, then against other agents, ``(O, ...)``."""
        coplayers = self.coplayers()
        own = jax.tree.map(lambda x: x[agent], weights)
        parts = []

        def meeting(k: int, count: int, rule: Learner, others: Tree) -> None:
            start, play = jax.random.split(jax.random.fold_in(key, k))
            met = functools.partial(self.trial, own=own, rule=rule, game=game, player=player)
            with costs.repeated(count):
                if count == 1:  # the same without a batch of one
                    parts.append(jax.tree.map(lambda x: x[None], met(start, play, other=_first(others))))
                else:
                    keys = (jax.random.split(start, count), jax.random.split(play, count))
                    parts.append(jax.vmap(lambda s, p, o: met(s, p, other=o))(*keys, others))

        for k, (rule, count) in enumerate(zip(coplayers.learners, coplayers.counts(self.learners_met), strict=True)):
            if count:
                meeting(k, count, rule, None)
        rest = self.opponents - self.learners_met
        if rest:
            who = (agent + 1 + jnp.arange(rest) % (self.population - 1)) % self.population
            meeting(len(coplayers.learners), rest, self, jax.tree.map(lambda x: x[who], weights))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def trial(
        self, start: Array, play: Array, *, own: Tree, rule: Learner, other: Tree, game: Game, player: int
    ) -> Trial:
        """One trial, ``(L, B, ...)``.

        Args:
          start, play: randomness of how everybody begins, and of what is played and learned.
          own: weights of the agent.
          rule: what sits in all other seats.
          other: its weights, where it is an agent; else None, for a fresh learner.
          game, player: where.
        """
        seats = range(game.n_players)
        stage = Stage(game, tuple(self if i == player else rule for i in seats))
        joint = stage.begin(start)
        theirs = joint.params if other is None else [other] * game.n_players
        joint = joint._replace(params=tuple(own if i == player else theirs[i] for i in seats))

        def episode(joint: Joint, key: Array) -> tuple[Joint, Trial]:
            joint, trajectory, _ = stage.episode(key, joint)
            assert trajectory is not None, "whoever learns here learns from play"
            seen = Play(game, trajectory, player).episodes(slice(self.batch_size))
            others = [seen.rewards(j) for j in seats if j != player]
            return joint, Trial(
                observations=seen.observations(end=False),
                actions=seen.actions(),
                rewards=seen.rewards(),
                others=sum(others[1:], others[0]) / len(others),
            )

        with costs.repeated(self.episodes):
            _, trial = lax.scan(episode, joint, jax.random.split(play, self.episodes))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trial)

    def _judged(self, weights: Tree, trial: Trial, game: Game, player: int) -> tuple[Any, Array]:
        """Distributions and values along whole trials, ``(O, L, B)``."""
        policy = self.policy(game, player)
        heads = jax.vmap(lambda seen: policy.net.unroll(weights, seen))(trial.observations)
        return policy.acting(heads), heads["value"][..., 0]

    def _lesson(self, weights: Tree, trial: Trial, game: Game, player: int) -> Lesson:
        acting, values = self._judged(weights, trial, game, player)
        rewards, learns = self.reward_scale * trial.rewards, jnp.arange(self.opponents) < self.learners_met
        then = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
        deltas = rewards + self.meta_gamma * then - values

        def credited(rule: str) -> Array:
            return jax.vmap(lambda x: credit(x, game.num_steps, self.meta_gamma * self.lam, rule))(deltas)

        advantages = jnp.where(learns[:, None, None], credited(self.rule), credited("unaware"))
        if self.centred:
            groups = [learns[:, None, None], ~learns[:, None, None]]
            means = [jnp.mean(advantages, where=jnp.broadcast_to(g, advantages.shape)) for g in groups]
            advantages = advantages - jnp.where(groups[0], means[0], means[1])
        targets = jax.vmap(lambda r, v: lambda_returns(r, v, jnp.zeros_like(v[0]), self.meta_gamma, self.lam))(
            rewards, values
        )
        summed = learns if self.rule != "unaware" else jnp.zeros_like(learns)
        return Lesson(
            trial=trial,
            log_probs=acting.log_prob(trial.actions),
            values=values,
            targets=targets,
            advantages=advantages,
            weight=jnp.where(summed, 1.0, 1.0 / self.batch_size),
        )

    def _objective(self, weights: Tree, lesson: Lesson, game: Game, player: int) -> Array:
        acting, values = self._judged(weights, lesson.trial, game, player)
        log_ratios = acting.log_prob(lesson.trial.actions) - lesson.log_probs
        gain = clipped_surrogate(log_ratios, lesson.advantages, self.clip)  # (O, L, B)
        # The theorem's sum over games and steps, and a mean over opponents.
        score = jnp.mean(lesson.weight * jnp.sum(gain, axis=(1, 2)))
        error = jnp.mean(clipped_error(values, lesson.values, lesson.targets, self.clip))
        return score / lesson.advantages.shape[1] - self.value_coefficient * error

    def _taught(self, key: Array, mine: Training, lesson: Lesson, game: Game, player: int) -> Training:
        """PPO: ``epochs`` passes over parts of the opponents."""

        def part(carry: Training, chosen: Array) -> tuple[Training, None]:
            some = jax.tree.map(lambda x: x[chosen], lesson)
            slope = jax.grad(self._objective)(carry.weights, some, game, player)
            change, memory = self._adam().update(slope, carry.optimiser)
            return Training(optax.apply_updates(carry.weights, change), memory), None

        keys = jax.random.split(key, self.epochs)
        order = jax.vmap(lambda k: jax.random.permutation(k, self.opponents))(keys)
        return lax.scan(part, mine, order.reshape(self.epochs * self.minibatches, -1))[0]


def _first(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[0], tree)
