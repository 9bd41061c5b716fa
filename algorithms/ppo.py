"""Independent PPO: proximal policy optimisation that ignores that the others learn.

Schulman et al. 2017 (arXiv 1707.06347), in the setting in which pax and M-FOS train the
learners that shapers meet: several epochs of minibatches over one batch of play, generalised
advantages, normalised in each minibatch, a clipped value loss, an entropy bonus.

Minibatches are whole episodes, so that recurrent policies are differentiated through time
from the start of the episode; pax feeds the hidden states it stored while playing as inputs.
Policies without memory may have single steps as minibatches, as pax's have: ``parts="steps"``.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, View, field, pytree_dataclass
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import gae, step_deviation, step_mean
from shaping_bench.algorithms.parts.policies import NetworkPolicy, acting_head, net, network_field
from shaping_bench.algorithms.parts.proximal import clipped_error, clipped_surrogate
from shaping_bench.games.base import Game


class PPOState(NamedTuple):
    """What PPO remembers beside its policy.

    Attributes:
      critic: parameters of the value function; empty where the policy's network has that head.
      optimiser: state of the one optimiser of both.
    """

    critic: Tree
    optimiser: Tree


class Batch(NamedTuple):
    """What the epochs of one update learn from; every leaf ``(T, B, ...)``.

    Attributes:
      observations: before each step.
      actions: taken there.
      log_probs: of these actions under the policy that played.
      values: of the critic before the update.
      advantages: generalised, of the actions.
      targets: of the critic, ``advantages + values``.
      alive: whether each step is played, ``(T + 1, B)``; None if all are.
    """

    observations: Tree
    actions: Tree
    log_probs: Array
    values: Array
    advantages: Array
    targets: Array
    alive: Array | None


@pytree_dataclass
class PPO(NetworkLearner):
    """Ascends ``E[clipped surrogate] + entropy_bonus * entropy - value_coefficient * clipped squared
    error`` by Adam; means are over steps and episodes, without the weights ``gamma^t``."""

    access: ClassVar[Access] = Access.ACTIONS
    default_network: ClassVar[str] = "conv-gru"
    source = "Schulman et al. 2017, arXiv 1707.06347; settings of pax (Shaper's co-players)"
    # pax trains its tables with Adam's step 1 and its networks with 0.005.
    published: ClassVar = {
        "matrix": {"lr": 1.0, "minibatches": 4, "entropy_bonus": 0.02},
        "coin-game": {"lr": 0.005, "minibatches": 8, "entropy_bonus": 0.1},
    }

    lr: float = field(0.005, "step size of Adam, policy and critic", low=0.0, step=True)
    clip: float = field(0.2, "most that a probability ratio, or a value, may move for gain", low=0.0)
    lam: float = field(0.95, "lambda of the generalised advantages", low=0.0, high=1.0)
    entropy_bonus: float = field(0.01, "weight of the policy's entropy, in nats", low=0.0)
    value_coefficient: float = field(0.5, "weight of the critic's squared error", low=0.0)
    max_grad_norm: float = field(0.5, "longer gradients are cut to this norm", low=0.0)
    batch_size: int = field(128, "episodes per update", low=1, static=True, small=16)
    epochs: int = field(2, "passes over the batch", low=1, static=True)
    minibatches: int = field(4, "parts of the batch, each one step of Adam; divides it", low=1, static=True)
    parts: str = field(
        "episodes",
        "what minibatches consist of: whole episodes, or single steps, for policies without memory",
        choices=("episodes", "steps"),
        static=True,
        added=True,
    )
    normalise: bool = field(True, "advantages to mean 0 and deviation 1 in each minibatch", static=True)
    separate: bool = field(False, "a network of its own for the critic, instead of one with two heads", static=True)
    network: str = network_field("policy and critic; auto: a table where one does")
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True, small=8)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if self.parts == "steps":
            if self.network_for(game) not in ("tabular", "mlp", "conv-mlp"):
                raise ValueError(
                    f"has parts='steps' and network={self.network_for(game)!r}, which remembers; allowed: tabular, "
                    "mlp, conv-mlp, or parts='episodes'"
                )
            if self.batch_size * game.num_steps % self.minibatches:
                raise ValueError(
                    f"has minibatches={self.minibatches} of {self.batch_size} episodes of {game.num_steps} steps; "
                    "allowed: a divisor of all steps"
                )
        elif self.batch_size % self.minibatches:
            raise ValueError(
                f"has batch_size={self.batch_size} and minibatches={self.minibatches}; allowed: a divisor of the batch"
            )

    def two_headed(self, game: Game) -> bool:
        """Whether one network is both policy and value function."""
        return not self.separate and self.network_for(game) != "tabular"

    def policy(self, game: Game, player: int) -> Policy:
        return self._two_heads(game, player) if self.two_headed(game) else super().policy(game, player)

    def _two_heads(self, game: Game, player: int) -> NetworkPolicy:
        heads = (acting_head(game, player), ("value", 1))
        return NetworkPolicy(net(game, self.network_for(game), heads, self.hidden, player), game.action_space(player))

    def _steps(self) -> optax.GradientTransformation:
        """What turns gradients into steps of ascent."""
        return optimiser("adam", self.lr, eps=1e-5, max_grad_norm=self.max_grad_norm)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, PPOState]:
        actor_key, critic_key = jax.random.split(key)
        params = self.policy(game, player).init_in(actor_key, game, player)
        values = () if self.two_headed(game) else self.critic(game, player).init(critic_key)
        return params, PPOState(values, self._steps().init((params, values)))

    def _judged(self, view: View, weights: tuple[Tree, Tree], observations: Tree) -> tuple[Any, Array]:
        """Distributions and values, ``(T, B)``, along whole episodes."""
        (params, values), game, player = weights, view.game, view.player
        if self.two_headed(game):
            policy = self._two_heads(game, player)
            heads = policy.net.unroll(params, observations)
            return policy.acting(heads), heads["value"][..., 0]
        return view.policy.unroll(params, observations), self.critic(game, player).unroll(values, observations)

    def batch(self, view: View, weights: tuple[Tree, Tree]) -> Batch:
        """One batch of play with what the current policy and critic say of it."""
        play = view.play(self.batch_size)
        policy, values = self._judged(view, weights, play.observations())
        advantages = gae(play.rewards(), values[:-1], values[-1], view.game.gamma, self.lam, play.alive)
        return Batch(
            observations=play.observations(end=False),
            actions=play.actions(),
            log_probs=policy.at(slice(-1)).log_prob(play.actions()),
            values=values[:-1],
            advantages=advantages,
            targets=advantages + values[:-1],
            alive=play.alive,
        )

    def objective(self, weights: tuple[Tree, Tree], view: View, batch: Batch) -> tuple[Array, Info]:
        """What is ascended, on one minibatch."""
        policy, values = self._judged(view, weights, batch.observations)
        advantages, alive = batch.advantages, batch.alive
        if self.normalise:
            advantages = (advantages - step_mean(advantages, alive)) / (step_deviation(advantages, alive) + 1e-8)
        log_ratios = policy.log_prob(batch.actions) - batch.log_probs
        gain = step_mean(clipped_surrogate(log_ratios, advantages, self.clip), alive)
        spread = step_mean(policy.entropy(), alive)
        error = step_mean(clipped_error(values, batch.values, batch.targets, self.clip), alive)
        total = gain + self.entropy_bonus * spread - self.value_coefficient * error
        return total, {"entropy": spread, "critic_loss": error}

    def update(self, key: Array, state: PPOState, view: View) -> tuple[Tree, PPOState, Info]:
        weights = (view.own, state.critic)
        batch = self.batch(view, weights)
        steps, count = self._steps(), self.batch_size
        if self.parts == "steps":
            batch, count = _side_by_side(batch), count * view.game.num_steps
        size = count // self.minibatches

        def step(carry: Any, part: Batch) -> Any:
            weights, memory = carry
            slope, info = jax.grad(self.objective, has_aux=True)(weights, view, part)
            change, memory = steps.update(slope, memory)
            return (optax.apply_updates(weights, change), memory), info

        def epoch(carry: Any, key: Array) -> Any:
            order = jax.random.permutation(key, count)

            def part(carry: Any, chosen: Array) -> Any:
                return step(carry, jax.tree.map(lambda x: jnp.take(x, chosen, axis=1, mode="clip"), batch))

            return lax.scan(part, carry, order.reshape(self.minibatches, size))

        carry = (weights, state.optimiser)
        carry, infos = lax.scan(epoch, carry, jax.random.split(key, self.epochs))
        (params, values), memory = carry
        return params, PPOState(values, memory), jax.tree.map(lambda x: x[-1, -1], infos)


def _side_by_side(batch: Batch) -> Batch:
    """Every step as an episode of its own: leaves ``(1, T B, ...)``."""

    def flat(x: Array) -> Array:
        return x.reshape(1, -1, *x.shape[2:])

    alive = batch.alive
    if alive is not None:
        # Whether it is played, and something for after it, which no mean looks at.
        alive = jnp.concatenate([flat(alive[:-1]), flat(alive[1:])])
    return jax.tree.map(flat, batch._replace(alive=None))._replace(alive=alive)
