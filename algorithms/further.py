"""FURTHER: judge oneself by what everybody's learning comes to in the limit, per step, and not by a discounted sum.

Kim, Riemer, Liu, Foerster, Everett, Sun, Tesauro, How, NeurIPS 2022 (arXiv 2203.03535). A soft actor-critic that
learns at every step of play. It infers a latent z of the other, whose learning moves it: an encoder draws the next z
from this one and what has just happened, a decoder tells the other's next action from it. Policy and critics act on
the state and z; values are differential, of rewards less their long-run average rho, which is itself learned::

    y = r - rho + sum_b p(b|s', z') sum_a' pi(a'|s', z') [min_k Q_k(s', z', a', b) - alpha log pi(a'|s', z')]

``lili-matrix`` is the same with a discounted sum, ``y = r + gamma V'``, which is what FURTHER's authors compare it
with.

Equations, order of steps and numbers are those of the official code, in which policy and critics learn from the step
that was just played, and encoder and decoder from a window of the last ones.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import uniform
from shaping_bench.algorithms.core.policy import Policy, Tabular
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.q_learning import others_actions, own_action
from shaping_bench.games.base import Game

SOURCE = "Kim et al., NeurIPS 2022, arXiv 2203.03535; official code"

STATES = 5
"""Memory-one states of two players, the start among them."""

LOG_VARIANCE_LIMITS = (-20.0, 2.0)
"""To which the encoder's are cut."""


class Event(NamedTuple):
    """A step, one-hot as networks read it: the state before, own and other's action, reward, the state after; and the
    latent before. Leaves ``(...)`` of one step, ``(W, ...)`` of a window."""

    state: Array
    own: Array
    other: Array
    reward: Array
    then: Array
    latent: Array

    def read(self) -> Array:
        """What the encoder reads, ``(..., 20)`` with five latents: the latent, and what happened."""
        parts = (self.latent, self.state, self.own, self.other, self.reward[..., None], self.then)
        return jnp.concatenate(parts, axis=-1)


class Nets(NamedTuple):
    """Weights: policy, two critics ``(2, ...)``, encoder and decoder ``inference``, and the average reward rho."""

    actor: Tree
    critics: Tree
    inference: Tree
    average: Array


class FurtherState(NamedTuple):
    """What the learner remembers.

    Attributes:
      nets: what learns.
      targets: slow copies of the critics.
      optimisers: states by name of the part.
      window: the last steps, the newest at the end.
      latent: of the other, as now inferred.
      time: steps learnt from so far.
    """

    nets: Nets
    targets: Tree
    optimisers: dict[str, Tree]
    window: Event
    latent: Array
    time: Array


def kl(mean: Array, log_variance: Array, prior_mean: Array, prior_log_variance: Array) -> Array:
    """Of diagonal normals over the last axis, ``KL(N(mean, .) || N(prior_mean, .))``.

    >>> zero, one = jnp.zeros(2), jnp.ones(2)
    >>> float(kl(one, zero, zero, zero)), float(kl(zero, zero, zero, zero))
    (1.0, 0.0)
    """
    ratio = jnp.exp(log_variance - prior_log_variance)
    shift = jnp.square(mean - prior_mean) * jnp.exp(-prior_log_variance)
    return 0.5 * jnp.sum(prior_log_variance - log_variance - 1.0 + ratio + shift, axis=-1)


@pytree_dataclass
class FURTHER(Learner):
    """In repeated games of two players and two actions. What it plays, and metrics value, is the policy under the
    latent that it now infers."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    online: ClassVar[bool] = True
    chancy: ClassVar[bool] = True
    averages: ClassVar[bool] = True
    """Whether rewards count less their average, and for ever; else they are discounted by ``discount``."""
    source = SOURCE

    lr: float = field(5e-4, "step of Adam, policy", low=0.0, step=True)
    critic_lr: float = field(2e-3, "step of Adam, critics", low=0.0)
    average_lr: float = field(0.02, "step of Adam, average reward", low=0.0)
    inference_lr: float = field(2e-3, "step of Adam, encoder and decoder", low=0.0)
    entropy_weight: float = field(0.4, "alpha, weight of the policy's entropy", low=0.0)
    kl_weight: float = field(0.01, "of the divergence of a latent's distribution from the one before", low=0.0)
    discount: float = field(0.99, "gamma of lili-matrix", low=0.0, high=1.0)
    polyak: float = field(0.01, "share by which slow copies follow the critics", low=0.0, high=1.0)
    max_grad_norm: float = field(10.0, "longer gradients are cut to this norm", low=0.0)
    latent: int = field(5, "numbers in z", low=1, static=True, small=2)
    hidden: int = field(32, "units of each of two layers of every network", low=1, static=True, small=4)
    window: int = field(
        256,
        "last steps that encoder and decoder learn from; as many pass before anything learns",
        low=2,
        static=True,
        small=3,
    )

    @property
    def width(self) -> int:
        return self.window

    def check_game(self, game: Game, player: int) -> None:
        if not game.memory_one or game.n_players != 2:
            raise ValueError("is defined for repeated two-action games of two players")

    def policy(self, game: Game, player: int) -> Policy:
        return Tabular(STATES)

    # networks

    def _network(self, head: str, size: int) -> Network:
        return Network(heads=((head, size),), dense=(self.hidden, self.hidden))

    def _encoder(self) -> Network:
        return Network(heads=(("mean", self.latent), ("log_variance", self.latent)), dense=(self.hidden, self.hidden))

    def _said(self, head: str, size: int, weights: Tree, *x: Array) -> Array:
        network = self._network(head, size)
        return network.along(network.laid(weights), jnp.concatenate(x, axis=-1))[head]

    def logits(self, actor: Tree, state: Array, latent: Array) -> Array:
        """Of the own actions, ``(..., 2)``."""
        return self._said("logits", 2, actor, state, latent)

    def values(self, critics: Tree, state: Array, latent: Array, other: Array) -> Array:
        """Of both critics and the own actions, ``(2, ..., 2)``."""
        return jax.vmap(lambda one: self._said("values", 2, one, state, latent, other))(critics)

    def encoded(self, inference: Tree, event: Event) -> tuple[Array, Array]:
        """Mean and logarithm of the variance of the next latent, ``(..., l)``."""
        network = self._encoder()
        heads = network.along(network.laid(inference["encoder"]), event.read())
        return heads["mean"], jnp.clip(heads["log_variance"], *LOG_VARIANCE_LIMITS)

    def foretold(self, inference: Tree, state: Array, latent: Array) -> Array:
        """Log-probabilities of the other's actions, ``(..., 2)``."""
        return jax.nn.log_softmax(self._said("other", 2, inference["decoder"], state, latent))

    def _optimisers(self) -> dict[str, optax.GradientTransformation]:
        steps = {"actor": self.lr, "critics": self.critic_lr, "inference": self.inference_lr}
        steps |= {"average": self.average_lr} if self.averages else {}
        cut = optax.clip_by_global_norm(self.max_grad_norm)
        return {name: optax.flatten(optax.chain(cut, optax.adam(lr))) for name, lr in steps.items()}

    # the life

    def init(self, key: Array, game: Game, player: int) -> tuple[Array, FurtherState]:
        actor_key, critic_key, encoder_key, decoder_key = jax.random.split(key, 4)

        def started(key: Array, network: Network, size: int) -> Tree:
            return network.init(key, (), jnp.zeros(size))["params"]

        seen = STATES + self.latent
        nets = Nets(
            actor=started(actor_key, self._network("logits", 2), seen),
            critics=jax.vmap(lambda key: started(key, self._network("values", 2), seen + 2))(
                jax.random.split(critic_key)
            ),
            inference={
                "encoder": started(encoder_key, self._encoder(), 2 * STATES + 5 + self.latent),
                "decoder": started(decoder_key, self._network("other", 2), seen),
            },
            average=jnp.zeros(()),
        )
        nets = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), nets)
        rows = {"state": STATES, "own": 2, "other": 2, "then": STATES, "latent": self.latent}
        window = Event(
            reward=jnp.zeros(self.window), **{name: jnp.zeros((self.window, size)) for name, size in rows.items()}
        )
        state = FurtherState(
            nets=nets,
            targets=nets.critics,
            optimisers={name: rule.init(getattr(nets, name)) for name, rule in self._optimisers().items()},
            window=window,
            latent=jnp.zeros(self.latent),
            time=jnp.zeros((), jnp.int32),
        )
        return self.played(state), state

    def played(self, state: FurtherState) -> Array:
        """Logits of the memory-one policy under the latent of now, ``(5,)``."""
        latent = jnp.broadcast_to(state.latent, (STATES, self.latent))
        logits = self.logits(state.nets.actor, jnp.eye(STATES, dtype=latent.dtype), latent)
        return logits[:, 0] - logits[:, 1]

    def update(self, key: Array, state: FurtherState, view: View) -> tuple[Array, FurtherState, Info]:
        del key, state
        play, learnt = view.live()
        info = {"average_reward": jnp.mean(play.rewards()), "rho": learnt.nets.average}
        return self.played(learnt), learnt, info

    def act(self, word: Array, state: FurtherState, observation: Array) -> Array:
        logits = self.logits(state.nets.actor, jax.nn.one_hot(observation, STATES), state.latent)
        return (uniform(word) >= jax.nn.sigmoid(logits[0] - logits[1])).astype(jnp.int32)

    def react_by_chance(
        self, key: Array, game: Game, state: FurtherState, observation: Array, reward: Array, then: Array
    ) -> FurtherState:
        dtype = state.latent.dtype
        noise = jax.random.normal(key, (self.window + 1, self.latent), dtype)  # at once: every draw compiles for long
        event = Event(
            state=jax.nn.one_hot(observation, STATES, dtype=dtype),
            own=jax.nn.one_hot(own_action(then, 2), 2, dtype=dtype),
            other=jax.nn.one_hot(others_actions(then, 2), 2, dtype=dtype),
            reward=reward.astype(dtype),
            then=jax.nn.one_hot(then, STATES, dtype=dtype),
            latent=state.latent,
        )
        window = jax.tree.map(lambda old, new: jnp.concatenate([old[1:], new[None]]), state.window, event)
        time = state.time + 1
        learns = time >= self.window
        nets, average = state.nets, state.nets.average
        if self.averages:  # until it learns, the largest reward
            average = jnp.where(learns, average, jnp.maximum(average, event.reward))
        nets = nets._replace(average=average)
        slopes = self.slopes(noise[1], noise[2:], nets, state.targets, event, window)
        changes, optimisers = {}, {}
        for name, rule in self._optimisers().items():
            change, moved = rule.update(slopes[name], state.optimisers[name], getattr(nets, name))
            old = (jax.tree.map(jnp.zeros_like, change), state.optimisers[name])
            changes[name], optimisers[name] = jax.tree.map(
                lambda x, kept: jnp.where(learns, x, kept), (change, moved), old
            )
        follow = jnp.where(learns, self.polyak, 0.0)
        learnt = nets._replace(**{name: optax.apply_updates(getattr(nets, name), x) for name, x in changes.items()})
        targets = jax.tree.map(lambda slow, x: slow + follow * (x - slow), state.targets, learnt.critics)
        return FurtherState(
            nets=learnt,
            targets=targets,
            optimisers=optimisers,
            window=window,
            latent=self.drawn(noise[0], state.nets.inference, event),
            time=time,
        )

    def drawn(self, noise: Array, inference: Tree, event: Event) -> Array:
        """The next latent, from standard normal numbers of its shape."""
        mean, log_variance = self.encoded(inference, event)
        return mean + jnp.exp(0.5 * log_variance) * noise

    def target(self, noise: Array, nets: Nets, targets: Tree, event: Event) -> Array:
        """What the critics should say of the own action in a step, but for rho."""
        latent = self.drawn(noise, nets.inference, event)
        log_pi = jax.nn.log_softmax(self.logits(nets.actor, event.then, latent))
        others = jnp.exp(self.foretold(nets.inference, event.then, latent))
        worth = jnp.stack(
            [jnp.min(self.values(targets, event.then, latent, b), axis=0) for b in jnp.eye(2, dtype=latent.dtype)]
        )
        following = jnp.sum(jnp.exp(log_pi) * (others @ worth - self.entropy_weight * log_pi))
        return event.reward + (following if self.averages else self.discount * following)

    def slopes(
        self, noise: Array, window_noise: Array, nets: Nets, targets: Tree, event: Event, window: Event
    ) -> dict[str, Tree]:
        """Of what every part descends, by its name; by normal numbers ``(l,)`` and ``(W - 1, l)``."""
        aim = lax.stop_gradient(self.target(noise, nets, targets, event))

        def error(critics: Tree, average: Array) -> Array:
            said = self.values(critics, event.state, event.latent, event.other) @ event.own
            return jnp.sum(jnp.square(said - (aim - average if self.averages else aim)))

        def cost(actor: Tree) -> Array:
            worth = jnp.min(self.values(nets.critics, event.state, event.latent, event.other), axis=0)
            log_pi = jax.nn.log_softmax(self.logits(actor, event.state, event.latent))
            return -jnp.sum(jnp.exp(log_pi) * (worth - self.entropy_weight * log_pi))

        to_critics, to_average = jax.grad(error, argnums=(0, 1))(nets.critics, nets.average)
        return {
            "actor": jax.grad(cost)(nets.actor),
            "critics": to_critics,
            "average": to_average,
            "inference": jax.grad(self.misfit)(nets.inference, window_noise, window),
        }

    def misfit(self, inference: Tree, noise: Array, window: Event) -> Array:
        """Over the window, less the log-probability of the other's next action under the latent drawn for it, plus
        the divergence of every latent's distribution from that of the one before."""
        before: Event = jax.tree.map(lambda x: x[:-1], window)
        mean, log_variance = self.encoded(inference, before)
        latent = mean + jnp.exp(0.5 * log_variance) * noise
        said = jnp.sum(self.foretold(inference, window.state[1:], latent) * window.other[1:], axis=-1)
        moved = kl(mean[1:], log_variance[1:], mean[:-1], log_variance[:-1])
        return -jnp.mean(said) + self.kl_weight * jnp.mean(moved)


@pytree_dataclass
class LILIMatrix(FURTHER):
    """LILI as FURTHER's code has it in matrix games: the same with discounted values."""

    averages: ClassVar[bool] = False
    source = "Kim et al., NeurIPS 2022, arXiv 2203.03535: official code, after Xie et al., CoRL 2020"
