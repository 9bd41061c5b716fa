"""Reciprocator: proximal policy optimisation that is paid for returning influence.

Zhou, Hong, Kao, NeurIPS 2024 (arXiv 2406.01641). What player i's action did to player j, beside what was to
be expected without knowing it, is its *value of influence* ::

    VoI_{i->j} = r_j(s, a) - E r_j(s, a_{-i}) + [future of j given s, a] - [future of j given s, a_{-i}]

Who owes whom is a balance b of such values; player i's reward at time t is r_i + w mean_j b_{j,t} VoI_{i->j,t}, so that
it gains by helping those who have helped it, and by hurting those who have hurt it. Nobody's parameters are
needed, only everybody's actions and rewards.

In a repeated two-action game the future is left out, for it does not depend on the action beside the next state, as in
the official code, and expectations are sums over the influencer's action by how often it cooperates
in each state. Elsewhere they are learned: of every player's reward and later return, by all actions, and by all but
one player's.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Play, View, field, pytree_dataclass
from shaping_bench.algorithms.core.policy import Policy, select
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns, played, step_deviation, step_mean
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import (
    Critic,
    Net,
    NetCritic,
    NetworkPolicy,
    acting_head,
    encoding,
    network_field,
    shape_seen,
)
from shaping_bench.algorithms.parts.proximal import clipped_surrogate
from shaping_bench.games.base import Game
from shaping_bench.games.spaces import Discrete

BALANCES = ("petty-payoff", "petty", "grudge-minus-debit", "previous")


# --- who owes whom ------------------------------------------------------------------------


def balance(kind: str, to_me: Array, by_me: Array, to_itself: Array, gamma: Any) -> Array:
    """What another has done for the player until each step, less what it has been paid back, ``(T, ...)``; 0 at first.

    - ``petty-payoff``: ``b_{t+1} = gamma b_t + to_me_t - by_me_t``, the paper's;
    - ``petty``: without what is paid back;
    - ``grudge-minus-debit``: less also what it has done to itself;
    - ``previous``: what it did at the step before, as the official code has it in the IPD.

    Args:
      kind: one of the four.
      to_me: value of the other's influence on the player, ``(T, ...)``.
      by_me: of the player's on the other.
      to_itself: of the other's on itself.
      gamma: discount of what lies back.
    """
    owed = {
        "petty-payoff": to_me - by_me,
        "petty": to_me,
        "grudge-minus-debit": to_me - by_me - to_itself,
        "previous": to_me,
    }[kind]
    decay = 0.0 if kind == "previous" else gamma

    def forward(before: Array, now: Array) -> tuple[Array, Array]:
        return decay * before + now, before

    return lax.scan(forward, jnp.zeros_like(owed[0]), owed)[1]


# --- models -------------------------------------------------------------------------------


class Rates(NamedTuple):
    """How often everybody cooperates in each of its states, ``(n_players, 1 + 2^n)``."""

    rates: Array


class Models(NamedTuple):
    """Networks that predict everybody's rewards and later returns, and what they learn from.

    Attributes:
      weights: leaves ``(2, 1 + n, ...)``: of rewards and returns; by all actions, and without each player's.
      optimiser: their Adam's.
      seen: inputs of the last episodes, ``(memory, T, B, ...)``.
      paid: rewards and later returns of everybody, ``(memory, T, B, 2, n)``.
      counted: 1 where a step was played, ``(memory, T, B)``.
    """

    weights: Tree
    optimiser: Tree
    seen: Array
    paid: Array
    counted: Array


class ReciprocatorState(NamedTuple):
    """What a reciprocator remembers beside its policy.

    Attributes:
      critic: parameters of the value function.
      optimiser: of policy and critic.
      models: what influence is measured by.
      updates: number of updates done.
    """

    critic: Tree
    optimiser: Tree
    models: Rates | Models
    updates: Array


@pytree_dataclass
class Reciprocator(NetworkLearner):
    """PPO of ``r_i + w mean_j b_j VoI_{i->j}``, with normalised Monte-Carlo returns; any number of players.

    It learns from what is played in the encounter, and needs everybody's rewards.
    """

    access: ClassVar[Access] = Access.REWARDS
    default_network: ClassVar[str] = "gru"
    source = "Zhou, Hong, Kao, NeurIPS 2024, arXiv 2406.01641; settings of the official code"
    published: ClassVar = {
        "matrix": {
            "weight": 5.0,
            "balance": "previous",
            "batch_size": 2048,
            "epochs": 10,
            "clip": 0.1,
            "entropy": 0.02,
            "model_every": 3,
        },
        "coin-game": {},
    }

    lr: float = field(0.005, "step size of Adam, policy and critic", low=0.0, step=True)
    weight: float = field(1.0, "w, of the reward for returning influence; 0: PPO", low=0.0)
    balance: str = field("petty-payoff", "who owes whom, see the page", choices=BALANCES, static=True)
    sign: str = field(
        "none", "of which factor only the sign counts", choices=("none", "balance", "influence"), static=True
    )
    batch_size: int = field(1024, "episodes per update", low=2, static=True, small=8)
    epochs: int = field(40, "steps per batch of episodes", low=1, static=True, small=2)
    clip: float = field(0.15, "most that a probability ratio may move for gain", low=0.0, exclusive=True)
    entropy: float = field(0.01, "weight of the policy's entropy, in nats", low=0.0)
    value_coefficient: float = field(0.5, "weight of the critic's squared error", low=0.0)
    model_every: int = field(2, "updates between fits of what influence is measured by", low=1, static=True)
    model_lr: float = field(0.01, "step size of the networks' Adam", low=0.0)
    model_hidden: int = field(64, "units of each of their two layers", low=1, static=True, small=6)
    model_epochs: int = field(20, "passes over what they learn from", low=1, static=True, small=1)
    model_batch: int = field(4096, "steps of play in one step of theirs", low=1, static=True, small=16)
    model_batches: int = field(16, "such steps per pass, at most", low=1, static=True, small=2)
    model_memory: int = field(3, "last updates whose episodes they learn from", low=1, static=True, small=2)
    model_first: int = field(2, "updates at the start in which only they learn", low=0, static=True, small=0)
    network: str = network_field("policy and critic; auto: a table where one does, on boards as published")
    hidden: int | None = field(None, "units per layer; none: 32", low=1, static=True, small=8)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if not all(isinstance(game.action_space(i), Discrete) for i in range(game.n_players)):
            raise ValueError("takes sums over everybody's actions, of which there have to be finitely many")

    # shapes

    def _published_network(self, game: Game, player: int, heads: tuple[tuple[str, int], ...]) -> Net:
        """Two circular convolutions, a dense layer and a recurrent one."""
        width = self.hidden or 32
        filters = max(1, width // 4)
        module = Network(
            heads=heads, conv=(filters, filters), padding="CIRCULAR", dense=(width,), cell="gru", width=width
        )
        return Net(module, encoding(game, "planes", player))

    def _as_published(self, game: Game) -> bool:
        return self.network == "auto" and len(shape_seen(game) or ()) == 3

    def policy(self, game: Game, player: int) -> Policy:
        if not self._as_published(game):
            return super().policy(game, player)
        return NetworkPolicy(
            self._published_network(game, player, (acting_head(game, player),)), game.action_space(player)
        )

    def critic(self, game: Game, player: int) -> Critic:
        if not self._as_published(game):
            return super().critic(game, player)
        return NetCritic(self._published_network(game, player, (("value", 1),)))

    def _adam(self) -> optax.GradientTransformation:
        return optimiser("adam", self.lr)

    def _predictor(self, game: Game) -> Network:
        return Network(heads=(("paid", game.n_players),), dense=(self.model_hidden, self.model_hidden))

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, ReciprocatorState]:
        actor_key, critic_key, model_key = jax.random.split(key, 3)
        params = self.policy(game, player).init_in(actor_key, game, player)
        critic = self.critic(game, player).init(critic_key)
        params, critic = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), (params, critic))
        return params, ReciprocatorState(
            critic=critic,
            optimiser=self._adam().init((params, critic)),
            models=self._models(model_key, game, player),
            updates=jnp.zeros((), jnp.int32),
        )

    def _models(self, key: Array, game: Game, player: int) -> Rates | Models:
        n = game.n_players
        if game.memory_one:
            return Rates(jnp.full((n, 1 + 2**n), 0.5))
        size = encoding(game, player=player).shape[0] + sum(self._choices(game)) + 1
        keys = jax.random.split(key, (2, 1 + n))
        predictor = self._predictor(game)
        weights = jax.vmap(jax.vmap(lambda k: predictor.init(k, (), jnp.zeros(size))["params"]))(keys)
        weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), weights)
        shape = (self.model_memory, game.num_steps, self.batch_size)
        return Models(
            weights=weights,
            optimiser=optimiser("adam", self.model_lr).init(weights),
            seen=jnp.zeros((*shape, size)),
            paid=jnp.zeros((*shape, 2, n)),
            counted=jnp.zeros(shape),
        )

    @staticmethod
    def _choices(game: Game) -> list[int]:
        spaces = [game.action_space(i) for i in range(game.n_players)]
        return [space.n for space in spaces if isinstance(space, Discrete)]

    # the update

    def update(self, key: Array, state: ReciprocatorState, view: View) -> tuple[Tree, ReciprocatorState, Info]:
        play = view.play(self.batch_size)
        models = self.fitted(key, state.models, state.updates, play)
        returned = self.returned(play, models)
        rewards = play.rewards() + self.weight * returned
        (theta, critic), memory, entropy = self._taught(state, view, play, rewards)
        if not isinstance(models, Rates):
            waits = state.updates < self.model_first
            kept = (view.own, state.critic, state.optimiser)
            theta, critic, memory = jax.tree.map(
                lambda old, new: jnp.where(waits, old, new), kept, (theta, critic, memory)
            )
        info = {"entropy": entropy, "returned_influence": step_mean(returned, play.alive)}
        state = ReciprocatorState(critic=critic, optimiser=memory, models=models, updates=state.updates + 1)
        return theta, state, info

    def _taught(
        self, state: ReciprocatorState, view: View, play: Play, rewards: Array
    ) -> tuple[tuple[Tree, Tree], Tree, Array]:
        """Steps of PPO on these rewards: policy and critic, their optimiser's state, the policy's entropy before."""
        alive = play.alive
        returns = discounted_returns(rewards, view.game.gamma, alive=alive)
        targets = (returns - step_mean(returns, alive)) / (step_deviation(returns, alive) + 1e-5)
        seen, actions = play.observations(end=False), play.actions()
        value_function = self.critic(view.game, view.player)
        old = view.policy.unroll(view.own, seen).log_prob(actions)

        def objective(weights: tuple[Tree, Tree]) -> tuple[Array, Array]:
            theta, critic = weights
            acting, values = view.policy.unroll(theta, seen), value_function.unroll(critic, seen)
            advantages = targets - lax.stop_gradient(values)
            gain = step_mean(clipped_surrogate(acting.log_prob(actions) - old, advantages, self.clip), alive)
            entropy = step_mean(acting.entropy(), alive)
            error = step_mean(jnp.square(values - targets), alive)
            return gain + self.entropy * entropy - self.value_coefficient * error, entropy

        def epoch(carry: Any, _: None) -> Any:
            weights, memory = carry
            slope, entropy = jax.grad(objective, has_aux=True)(weights)
            change, memory = self._adam().update(slope, memory)
            return (optax.apply_updates(weights, change), memory), entropy

        start = ((view.own, state.critic), state.optimiser)
        (weights, memory), entropies = lax.scan(epoch, start, None, length=self.epochs)
        return weights, memory, entropies[0]

    def returned(self, play: Play, models: Rates | Models) -> Array:
        """Mean over the others of ``b_j VoI_{i->j}``, ``(T, B)``."""
        me, gamma = play.player, play.game.gamma
        influence = self.influence(play, models)
        total: Any = 0.0
        others = [j for j in range(play.game.n_players) if j != me]
        for j in others:
            owed = balance(self.balance, influence(j, me), influence(me, j), influence(j, j), gamma)
            mine = influence(me, j)
            total += (jnp.sign(owed) if self.sign == "balance" else owed) * (
                jnp.sign(mine) if self.sign == "influence" else mine
            )
        return played(total / len(others), play.alive)

    def influence(self, play: Play, models: Rates | Models) -> Callable[[int, int], Array]:
        """A function of two seats: the value of the first one's influence on the second, ``(T, B)``."""
        if isinstance(models, Rates):
            return lambda by, on: played(_tabular_influence(play, models.rates, by, on), play.alive)
        # Rewards and what comes after them, by all actions and without each player's: (1 + n, T, B, n).
        expected = jnp.sum(self._predicted(play.game, models.weights, self._inputs(play)), axis=0)
        return lambda by, on: played((expected[0] - expected[1 + by])[..., on], play.alive)

    # what influence is measured by

    def _inputs(self, play: Play) -> Array:
        """Everybody's actions, one-hot, what the player sees, and the steps that are left: ``(T, B, size)``."""
        game = play.game
        actions = [jax.nn.one_hot(play.actions(i), count) for i, count in enumerate(self._choices(game))]
        seen = encoding(game, player=play.player)(play.observations(end=False))
        left = jnp.arange(len(seen) - 1, -1, -1).reshape(-1, 1, 1)
        return jnp.concatenate([*actions, seen, jnp.broadcast_to(left, (*seen.shape[:2], 1))], axis=-1)

    def _predicted(self, game: Game, weights: Tree, inputs: Array) -> Array:
        """``(2, 1 + n, ..., n)``: everybody's rewards and later returns, by all actions and without each player's."""
        predictor, choices = self._predictor(game), self._choices(game)
        ends = [sum(choices[:i]) for i in range(len(choices) + 1)]
        column = jnp.arange(inputs.shape[-1])
        hidden = jnp.stack(
            [jnp.zeros_like(column, bool)] + [(column >= ends[i]) & (column < ends[i + 1]) for i in range(len(choices))]
        )

        def one(weights: Tree, hidden: Array) -> Array:
            return predictor.along(predictor.laid(weights), jnp.where(hidden, 0.0, inputs))["paid"]

        return jax.vmap(jax.vmap(one), in_axes=(0, None))(weights, hidden)

    def fitted(self, key: Array, models: Rates | Models, updates: Array, play: Play) -> Rates | Models:
        """What influence is measured by, after these episodes."""
        if isinstance(models, Rates):
            rates = _rates(play, models.rates)
            return Rates(jnp.where(updates % self.model_every == 0, rates, models.rates))
        game = play.game
        rewards = jnp.stack([play.rewards(i) for i in range(game.n_players)], axis=-1)
        alive = (
            None
            if play.alive is None
            else jnp.broadcast_to(play.alive[..., None], (len(rewards) + 1, *rewards.shape[1:]))
        )
        later = discounted_returns(rewards, game.gamma, alive=alive) - rewards
        counted = jnp.ones(rewards.shape[:2]) if play.alive is None else play.alive[:-1].astype(rewards.dtype)
        slot = updates % self.model_memory
        new = (self._inputs(play), jnp.stack([rewards, later], axis=-2), counted)
        seen, paid, counts = (
            lax.dynamic_update_index_in_dim(old, x.astype(old.dtype), slot, 0)
            for old, x in zip((models.seen, models.paid, models.counted), new, strict=True)
        )
        models = models._replace(seen=seen, paid=paid, counted=counts)
        due = (updates < self.model_first) | ((updates + 1) % self.model_every == 0)
        filled = jnp.minimum(updates + 1, self.model_memory) * counted.size
        learnt = functools.partial(self._learnt, key, game=game, filled=filled)
        return lax.cond(due, learnt, lambda models: models, models)

    def _learnt(self, key: Array, models: Models, game: Game, filled: Array) -> Models:
        """``model_epochs`` passes over what is kept, minibatches drawn from it with replacement."""
        adam = optimiser("adam", self.model_lr)
        seen, paid, counted = (x.reshape(-1, *x.shape[3:]) for x in (models.seen, models.paid, models.counted))
        batches = min(self.model_batches, max(1, len(seen) // self.model_batch))

        def step(carry: Any, key: Array) -> Any:
            weights, memory = carry
            which = jax.random.randint(key, (self.model_batch,), 0, filled)
            inputs, targets, count = seen[which], jnp.moveaxis(paid[which], 1, 0)[:, None], counted[which]

            def gain(weights: Tree) -> Array:
                errors = jnp.mean(jnp.square(self._predicted(game, weights, inputs) - targets), axis=-1)
                # The networks are apart: each has its own mean error.
                return -jnp.sum(jnp.sum(errors * count, axis=-1)) / jnp.maximum(jnp.sum(count), 1.0)

            change, memory = adam.update(jax.grad(gain)(weights), memory)
            return (optax.apply_updates(weights, change), memory), None

        start = (models.weights, models.optimiser)
        (weights, memory), _ = lax.scan(step, start, jax.random.split(key, self.model_epochs * batches))
        return models._replace(weights=weights, optimiser=memory)


# --- repeated two-action games ------------------------------------------------------------


def _rates(play: Play, before: Array) -> Array:
    """How often everybody cooperates in each of its states; as before where none is visited."""
    game, rows = play.game, []
    states = jnp.arange(before.shape[1])
    for i in range(game.n_players):
        seen = play.observations(i, end=False)[..., None] == states
        if play.alive is not None:
            seen = seen & play.alive[:-1, :, None]
        visits = jnp.sum(seen, axis=(0, 1))
        cooperations = jnp.sum(seen & (play.actions(i) == 0)[..., None], axis=(0, 1))
        rows.append(jnp.where(visits > 0, cooperations / jnp.maximum(visits, 1), before[i]))
    return jnp.stack(rows).astype(before.dtype)


def _tabular_influence(play: Play, rates: Array, by: int, on: int) -> Array:
    """What ``on`` got, less what it would have got on average over ``by``'s action, ``(T, B)``."""
    game = play.game
    actions = jnp.stack([play.actions(i) for i in range(game.n_players)], axis=-1)

    def got(action: int) -> Array:
        return game.paid(play.observations(0, end=False), actions.at[..., by].set(action))[..., on]

    cooperates = select(rates[by], play.observations(by, end=False))
    return play.rewards(on) - cooperates * got(0) - (1.0 - cooperates) * got(1)
