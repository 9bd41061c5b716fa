"""POLA: proximal learning with opponent-learning awareness (Zhao et al., NeurIPS 2022).

LOLA's steps depend on how policies are parametrised. POLA replaces both, the step that the
opponent is imagined to take and the own one, by proximal problems in policy space::

    y(x)   = argmax_y  V_2(x, y)    - beta_in  KL(pi_2 || pi_y)      started from y = theta_2
    theta <- argmax_x  V_1(x, y(x)) - beta_out KL(pi_1 || pi_x)      started from x = theta_1

POLA-DiCE solves them by a few gradient steps each, on fresh play: ``outer_steps`` of Adam,
each of which repeats ``lookahead_steps`` of plain gradient from the opponent's true
parameters and differentiates through them. Values are loaded DiCE. A divergence is the mean
over the steps of the same play. With one step of each and no divergence this is LOLA-DiCE;
a divergence has no gradient at its reference, so it matters from the second step on only.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Play, View, costs, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.actor_critic import NetworkLearner, optimiser
from shaping_bench.algorithms.parts.estimators import discounted_returns, gae, loaded_dice, played, step_mean
from shaping_bench.algorithms.parts.policies import Critic, network_field
from shaping_bench.games.base import Game


class POLAState(NamedTuple):
    """What POLA remembers beside its policy.

    Attributes:
      critic: parameters of the value function of the own returns.
      other_critic: of the opponent's returns, as the own rollouts pay them.
    """

    critic: Tree
    other_critic: Tree


class Imagination:
    """The game as POLA plays it in its head: who acts, who judges, from where.

    Attributes:
      view: of the player; two players.
      policies, critics: one of each per player.
      references: joint parameters at the start of the update, the centres of both divergences.
      lam: lambda of the generalised advantages.
    """

    def __init__(
        self, view: View, policies: tuple[Policy, ...], critics: tuple[Critic, ...], references: Tree, lam: Any
    ) -> None:
        self.view, self.policies, self.critics, self.lam = view, policies, critics, lam
        self.references = lax.stop_gradient(tuple(references))

    def play(self, key: Array, params: tuple[Tree, ...], batch_size: int) -> Play:
        """Fresh episodes; no gradient passes through them."""
        return self.view.imagine(key, self.policies, params, batch_size)

    def acting(self, player: int, params: Tree, play: Play) -> Any:
        """Distributions ``(T, B)``; none for a script, which has no parameters to learn or to differentiate."""
        if not jax.tree.leaves(params):
            return None
        return self.policies[player].unroll(params, play.observations(player, end=False))

    def objective(self, player: int, params: tuple[Tree, ...], values: Tree, play: Play, beta: Any) -> Any:
        """What a player ascends: its value, less the divergence from its reference and its critic's error.

        Args:
          player: whose objective.
          params: joint policy parameters, all differentiable.
          values: parameters of the player's critic, differentiable (its error alone depends on them).
          play: by these policies.
          beta: weight of the divergence.

        Returns:
          The objective, whose derivatives in ``params`` are those of the value at every order
          (its own number is not: loaded DiCE is zero), and ``(divergence, critic error)``.
        """
        gamma, rewards, alive = play.game.gamma, play.rewards(player), play.alive
        acting = [self.acting(i, params[i], play) for i in range(2)]
        log_probs = [x.log_prob(play.actions(i)) for i, x in enumerate(acting) if x is not None]

        baselines = self.critics[player].unroll(values, play.observations(player))
        advantages = gae(rewards, baselines[:-1], baselines[-1], gamma, self.lam, alive)
        targets = lax.stop_gradient(discounted_returns(rewards, gamma, baselines[-1], alive))
        error = jnp.mean(jnp.sum(played(jnp.square(targets - baselines[:-1]), alive), axis=0))
        value = jnp.mean(loaded_dice(jnp.stack(log_probs, axis=-1), advantages, gamma))

        own, kl = acting[player], jnp.zeros(())
        if own is not None:
            reference = self.acting(player, self.references[player], play)
            kl = step_mean(lax.stop_gradient(reference).kl(own), alive)
        return value - beta * kl - error, (kl, error)


@pytree_dataclass
class POLA(NetworkLearner):
    """POLA-DiCE. With ``outer_steps=1, lookahead_steps=1`` and both weights 0 it is the LOLA-DiCE
    that the paper compares with, whose Adam then only ever takes its first step."""

    access: ClassVar[Access] = Access.SIMULATOR
    default_network: ClassVar[str] = "gru"
    source = "Zhao et al., NeurIPS 2022; official code (POLA_dice_jax.py) for what the paper leaves open"
    # The paper's contribution game pays (LOLA's payoff + 2) / 3: in the units of `ipd` values are
    # three times as large, so the step is a third and the weights are three times the published.
    published: ClassVar = {
        "matrix": {
            "network": "gru",
            "lr": 0.003,
            "lookahead_lr": 0.005 / 3,
            "critic_lr": 0.0005,
            "outer_steps": 200,
            "lookahead_steps": 2,
            "kl_outer": 300.0,
            "kl_inner": 30.0,
            "batch_size": 2000,
        },
        "coin-game": {
            "network": "gru",
            "lr": 0.003,
            "lookahead_lr": 0.01,
            "critic_lr": 0.0005,
            "outer_steps": 200,
            "lookahead_steps": 4,
            "kl_outer": 150.0,
            "kl_inner": 5.0,
            "batch_size": 1000,
        },
    }

    lr: float = field(0.1, "step size of the outer optimiser", low=0.0, step=True)
    lookahead_lr: float = field(0.2, "step size of the opponent's imagined gradient steps", low=0.0)
    critic_lr: float = field(
        0.01, "step size of the critics: Adam's, and of plain gradient while imagining", low=0.0, step=True
    )
    outer_steps: int = field(20, "own steps per update", low=1, static=True, small=4)
    lookahead_steps: int = field(2, "imagined steps of the opponent per own step", low=1, static=True, small=1)
    kl_outer: float = field(10.0, "weight of the own divergence from the policy before the update", low=0.0)
    kl_inner: float = field(1.0, "weight of the opponent's divergence from its true policy", low=0.0)
    batch_size: int = field(128, "episodes per rollout", low=1, static=True, small=16)
    lam: float = field(1.0, "lambda of the generalised advantages", low=0.0, high=1.0)
    optimiser: str = field("adam", "outer optimiser, begun anew at each update", choices=("sgd", "adam"), static=True)
    network: str = network_field("policy and critics; auto: a table where one does")
    hidden: int | None = field(None, "units per layer; none: as published for the network", low=1, static=True, small=8)

    def check_game(self, game: Game, player: int) -> None:
        if game.n_players != 2:
            raise ValueError(f"is defined for 2 players, the game has {game.n_players}")
        super().check_game(game, player)

    @property
    def episodes_per_update(self) -> int:
        return 0  # all its play is imagined

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, POLAState]:
        actor_key, own_key, other_key = jax.random.split(key, 3)
        params = self.policy(game, player).init_in(actor_key, game, player)
        own, other = self.critic(game, player), self.critic(game, 1 - player)
        return params, POLAState(own.init(own_key), other.init(other_key))

    def update(self, key: Array, state: POLAState, view: View) -> tuple[Tree, POLAState, Info]:
        policies = tuple(rule.policy(view.game, i) for i, rule in enumerate(view.learners))
        return self._proximal(key, state, view, policies, view.params)

    def _proximal(
        self, key: Array, state: POLAState, view: View, policies: tuple[Policy, ...], references: tuple[Tree, ...]
    ) -> tuple[Tree, POLAState, Info]:
        """Solves the outer problem at the given joint policy."""
        game, me = view.game, view.player
        critics = tuple(self.critic(game, i) for i in range(2))
        imagined = Imagination(view, policies, critics, references, self.lam)
        actor_rule, critic_rule = optimiser(self.optimiser, self.lr), optimiser("adam", self.critic_lr)

        def step(carry: Any, key: Array) -> Any:
            (x, own, other), (actor_memory, own_memory, other_memory) = carry
            slopes, other_slope, info = self.gradient(key, imagined, me, x, own, other)
            x_step, actor_memory = actor_rule.update(slopes[0], actor_memory)
            own_step, own_memory = critic_rule.update(slopes[1], own_memory)
            other_step, other_memory = critic_rule.update(other_slope, other_memory)
            moved = optax.apply_updates((x, own, other), (x_step, own_step, other_step))
            return (moved, (actor_memory, own_memory, other_memory)), info

        start = (view.own, state.critic, state.other_critic)
        memories = (actor_rule.init(start[0]), critic_rule.init(start[1]), critic_rule.init(start[2]))
        with costs.repeated(self.outer_steps):
            ((x, own, other), _), infos = lax.scan(step, (start, memories), jax.random.split(key, self.outer_steps))
        return x, POLAState(own, other), jax.tree.map(lambda x: x[-1], infos)

    def gradient(
        self, key: Array, imagined: Imagination, me: int, x: Tree, own: Tree, other: Tree
    ) -> tuple[tuple[Tree, Tree], Tree, Info]:
        """Directions of one outer step, all of ascent.

        Args:
          key: randomness of its rollouts.
          imagined: the game.
          me: the own seat.
          x: own policy parameters.
          own, other: parameters of the own and of the opponent's critic.

        Returns:
          Gradients of the outer objective in ``x`` and in ``own``; that of the opponent's
          objective in ``other`` on the first imagined play, by its true policy; info.
        """
        inner_key, outer_key = jax.random.split(key)

        def joint(x: Tree, y: Tree) -> tuple[Tree, ...]:
            return (x, y) if me == 0 else (y, x)

        def opponent_slopes(x: Tree, y: Tree, values: Tree, play: Play) -> Any:
            # Rematerialised, so that an outer step keeps what was played but not what was computed on it.
            @jax.checkpoint
            def slopes(x: Tree, y: Tree, values: Tree, trajectory: Trajectory) -> Any:
                def theirs(y: Tree, values: Tree) -> Any:
                    return imagined.objective(1 - me, joint(x, y), values, play.of(trajectory), self.kl_inner)

                return jax.grad(theirs, argnums=(0, 1), has_aux=True)(y, values)

            return slopes(x, y, values, play.trajectory)

        def outer(x: Tree, own: Tree) -> Any:
            def ahead(carry: Any, key: Array) -> Any:
                y, values = carry
                play = imagined.play(key, joint(x, y), self.batch_size)
                (y_slope, values_slope), (kl, _) = opponent_slopes(x, y, values, play)
                moved = trees.add(y, y_slope, self.lookahead_lr), trees.add(values, values_slope, self.critic_lr)
                return moved, (lax.stop_gradient(values_slope), lax.stop_gradient(kl))

            start = (imagined.references[1 - me], other)
            with costs.repeated(self.lookahead_steps):
                keys = jax.random.split(inner_key, self.lookahead_steps)
                (y, _), (values_slopes, inner_kl) = lax.scan(ahead, start, keys)
            play = imagined.play(outer_key, joint(x, y), self.batch_size)
            objective, (kl, error) = imagined.objective(me, joint(x, y), own, play, self.kl_outer)
            info = {"kl": kl, "lookahead_kl": inner_kl[-1], "critic_loss": error}
            return objective, (jax.tree.map(lambda x: x[0], values_slopes), info)

        slopes, (other_slope, info) = jax.grad(outer, argnums=(0, 1), has_aux=True)(x, own)
        return slopes, other_slope, info


class ModelledState(NamedTuple):
    """What POLA-OM remembers beside its policy.

    Attributes:
      critics: as POLA's.
      model: parameters of the model of the opponent's policy.
    """

    critics: POLAState
    model: Tree


@pytree_dataclass
class POLAOM(POLA):
    """POLA-DiCE against a model of the opponent, fitted to its actions alone.

    Before each update the model takes ``model_batches`` steps of Adam on the cross-entropy of
    the opponent's real actions, each on a batch of its own, from where it was. Everything else
    is imagined: play by the model, paid by the public rules.
    """

    access: ClassVar[Access] = Access.ACTIONS
    source = "Zhao et al., NeurIPS 2022, POLA-OM; official code for the fit"
    # The official code plays 200 batches, one after another; here they are one play, so a tenth.
    published: ClassVar = {
        "matrix": {**POLA.published["matrix"], "model_lr": 0.003},
        "coin-game": {**POLA.published["coin-game"], "lookahead_steps": 6, "kl_inner": 15.0, "model_lr": 0.003},
    }

    model_lr: float = field(0.1, "step size of Adam on the model", low=0.0, step=True)
    model_batches: int = field(20, "batches of real play per update that the model is fitted to", low=1, static=True)

    @property
    def width(self) -> int:
        return self.batch_size * self.model_batches

    @property
    def episodes_per_update(self) -> int:
        return self.batch_size * self.model_batches

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, ModelledState]:  # type: ignore[override]
        own_key, model_key = jax.random.split(key)
        params, critics = super().init(own_key, game, player)
        return params, ModelledState(critics, self.policy(game, 1 - player).ignorant(model_key))

    def update(  # type: ignore[override]
        self, key: Array, state: ModelledState, view: View
    ) -> tuple[Tree, ModelledState, Info]:
        model, loss = self._fitted(state.model, view)
        other = 1 - view.player
        policies = tuple(self.policy(view.game, i) for i in range(2))
        references = tuple(model if i == other else view.own for i in range(2))
        params, critics, info = self._proximal(key, state.critics, view, policies, references)
        return params, ModelledState(critics, model), {**info, "model_loss": loss}

    def _fitted(self, model: Tree, view: View) -> tuple[Tree, Array]:
        """The model after this update's fit, and the last cross-entropy per action, in nats."""
        other, size = 1 - view.player, self.batch_size
        play = view.play(size * self.model_batches)
        policy, rule = self.policy(view.game, other), optax.adam(self.model_lr)

        def parted(x: Array) -> Array:
            return jnp.moveaxis(x.reshape(x.shape[0], self.model_batches, size, *x.shape[2:]), 1, 0)

        def step(carry: Any, batch: tuple[Tree, Tree, Array | None]) -> Any:
            model, memory = carry
            seen, actions, alive = batch

            def surprise(model: Tree) -> Array:
                return -step_mean(policy.unroll(model, seen).log_prob(actions), alive)

            loss, slope = jax.value_and_grad(surprise)(model)
            change, memory = rule.update(slope, memory)
            return (optax.apply_updates(model, change), memory), loss

        batches = jax.tree.map(parted, (play.observations(other, end=False), play.actions(other), play.alive))
        (model, _), losses = lax.scan(step, (model, rule.init(model)), batches)
        return model, losses[-1]
