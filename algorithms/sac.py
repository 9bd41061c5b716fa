"""Soft actor-critic in a life of interactions: the base of rules that infer whom they meet, and their two controls.

Haarnoja et al. 2018 (arXiv 1812.05905), as LILI (Xie et al., CoRL 2020) has it: two critics with slow copies, a
temperature that keeps the policy's entropy at a target, actions that are numbers. What differs from the usual is the
memory, which keeps *interactions*, whole and in their order: an episode of the stage is one of them, and an update is
as many steps of the optimisers as it has steps of play. A sample is eight transitions of an interaction, the last one
among them.

A *context* is a vector that policy and critics read beside what is seen. ``sac`` has none, ``sac-oracle`` the other's
hidden strategy itself, and LILI what it makes of the interaction before. With ``influence`` values reach beyond the
end of an interaction: what follows its last step is the first one of the next, under the next context. Without, the
last step is followed by where the player then is, under the same context, as if the interaction went on.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, Play, View, field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import (
    SquashedNormal,
    Uniform,
    distribution,
    num_outputs,
    num_words,
    uniform,
)
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Encoding, encoding
from shaping_bench.games.base import Game
from shaping_bench.games.latent import LatentGame
from shaping_bench.games.spaces import Box

SOURCE = "Haarnoja et al. 2018, arXiv 1812.05905; settings of LILI (Xie et al., CoRL 2020)"


# --- what is remembered -------------------------------------------------------------------


class Interactions(NamedTuple):
    """The last N interactions of H steps in a ring; the newest takes the place of the oldest.

    Attributes:
      seen: encoded observations, the end included, ``(N, H + 1, d)``.
      actions: between -1 and 1, ``(N, H, a)``.
      rewards: ``(N, H)``.
      latents: hidden strategies, ``(N, l)``; ``()`` where they are not seen. (Arrays without numbers cannot be spread
        over devices.)
      total: interactions so far.
    """

    seen: Array
    actions: Array
    rewards: Array
    latents: Tree
    total: Array

    def with_one(self, seen: Array, actions: Array, rewards: Array, latent: Tree) -> "Interactions":
        """After another interaction."""
        slot = self.total % len(self.rewards)
        kept = jax.tree.map(
            lambda old, x: lax.dynamic_update_index_in_dim(old, x.astype(old.dtype), slot, 0),
            (self.seen, self.actions, self.rewards, self.latents),
            (seen, actions, rewards, latent),
        )
        names = ("seen", "actions", "rewards", "latents")
        return self._replace(**dict(zip(names, kept, strict=True)), total=self.total + 1)

    def earlier(self, index: Array, by: Any) -> Array:
        """Index of the interaction so many before."""
        return (index - by) % len(self.rewards)

    def transcript(self, index: Array, times: Array) -> Array:
        """What was seen and earned at these times of interactions, ``(..., K, d + 1)``."""
        rows = index[..., None]
        return jnp.concatenate([self.seen[rows, times], self.rewards[rows, times][..., None]], axis=-1)


class Batch(NamedTuple):
    """K transitions of each of M interactions.

    Attributes:
      which: of the interactions in memory, ``(M,)``.
      times: of the transitions, ``(M, K)``; the last is the interaction's last.
      seen, actions, rewards: of these, ``(M, K, d)``, ``(M, K, a)`` and ``(M, K)``.
      later: what is seen afterwards, ``(M, K, d)``.
      last: whether it is an interaction's last, ``(M, K)``.
    """

    which: Array
    times: Array
    seen: Array
    actions: Array
    rewards: Array
    later: Array
    last: Array


class Nets(NamedTuple):
    """What learns beside the policy.

    Attributes:
      critics: leaves ``(2, ...)``.
      log_alpha: logarithm of the temperature.
      representation: of contexts; ``()`` where nothing of them is learned.
    """

    critics: Tree
    log_alpha: Array
    representation: Tree


class SACState(NamedTuple):
    """What the learner remembers beside its policy: networks, slow copies of the critics, optimisers' states by name,
    and interactions."""

    nets: Nets
    targets: Tree
    optimisers: dict[str, Tree]
    memory: Interactions


# --- what acts ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ContextPolicy(Policy):
    """Acts by what is seen and by a context, which is part of its parameters: ``{"actor", "context"}``.

    Attributes:
      network: with the head ``logits``.
      encoding: of observations.
      space: of actions.
      informed: the game whose hidden strategy is the context; None: that of the parameters.
      size: of the context.
      certain: plays the middle of the distribution, always.
    """

    network: Network
    encoding: Encoding
    space: Box
    informed: Game | None
    size: int
    certain: bool = False

    def init(self, key: Array) -> Tree:
        inputs = self.encoding.shape[0] + self.size
        actor = self.network.init(key, (), jnp.zeros(inputs))["params"]
        context = jnp.zeros(self.size) if self.size and self.informed is None else ()
        return {"actor": actor, "context": context}

    def laid(self, params: Tree) -> Tree:
        return self.network.laid(params["actor"]), params["context"]

    def step(self, params: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        return self.act(self.laid(params), carry, observation, state)

    def act(self, laid: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        weights, context = laid
        if isinstance(self.informed, LatentGame):
            context = self.informed.latent(state)
        return carry, self.said(weights, self.encoding(observation), context)

    def said(self, weights: Any, seen: Array, context: Tree) -> Any:
        """Distributions ``(...)`` of encoded observations ``(..., d)``, under one context ``(c,)`` or one each."""
        heads = self.network.act(weights, (), with_context(seen, context))[1]
        said = distribution(self.space, heads["logits"])
        if not self.certain:
            return said
        return Uniform(low=said.middle, high=said.middle, ndim=len(self.space.shape))

    def along(self, params: Tree, observations: Tree, states: Tree) -> Any:
        weights, context = self.laid(params)
        if isinstance(self.informed, LatentGame):
            context = jax.vmap(jax.vmap(self.informed.latent))(states)
        return self.said(weights, self.encoding(observations), context)

    def unroll(self, params: Tree, observations: Tree) -> Any:
        weights, context = self.laid(params)
        return self.said(weights, self.encoding(observations), context)


def with_context(seen: Array, context: Tree) -> Array:
    """``(..., d)`` and a context ``(c,)`` or ``(..., c)`` to ``(..., d + c)``; as it is where there is none."""
    if isinstance(context, tuple):
        return seen
    return jnp.concatenate([seen, jnp.broadcast_to(context, (*seen.shape[:-1], context.shape[-1]))], axis=-1)


# --- the rule -----------------------------------------------------------------------------


@pytree_dataclass
class SAC(Learner):
    """Soft actor-critic that sees what it sees: who its other is and what that intends are part of the noise."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    batch_size: ClassVar[int] = 1
    history: ClassVar[int] = 0
    """Interactions before one that its context is made of."""
    source = SOURCE

    lr: float = field(3e-4, "step of Adam, policy, critics and temperature", low=0.0, step=True)
    polyak: float = field(5e-3, "share by which slow copies follow the critics", low=0.0, high=1.0)
    target_entropy: float = field(0.0, "of the policy, in nats, actions measured from -1 to 1")
    temperature: float | None = field(None, "weight of the entropy; none: as keeps it at its target", low=0.0)
    reward_scale: float = field(1.0, "what critics learn of is this times the reward", low=0.0, exclusive=True)
    influence: bool = field(False, "values reach into the next interaction", static=True)
    interactions: int = field(32, "of a batch", low=1, static=True, small=4)
    transitions: int = field(8, "of each of them", low=2, static=True, small=3)
    memory: int = field(4000, "interactions that are remembered", low=4, static=True, small=6)
    gradient_steps: int | None = field(None, "per interaction; none: one per step of play", low=1, static=True, small=2)
    rest: int = field(
        200, "interactions at the start in which the policy does not learn yet", low=0, static=True, small=0
    )
    hidden: int = field(256, "units of each of two layers, policy and critics", low=1, static=True, small=8)

    @property
    def width(self) -> int:
        return self.interactions * self.transitions

    def check_game(self, game: Game, player: int) -> None:
        space = game.action_space(player)
        if not (isinstance(space, Box) and math.isfinite(space.low) and math.isfinite(space.high)):
            raise ValueError("needs actions that are numbers between two bounds, which this game does not have")
        if game.ends_early:
            raise ValueError("needs episodes of one length, which this game does not have")

    # shapes

    def context_size(self, game: Game) -> int:
        """Numbers in a context."""
        del game
        return 0

    def informed(self, game: Game) -> Game | None:
        """The game whose hidden strategy policies see, if they do."""
        del game
        return None

    def _policy(self, game: Game, player: int, certain: bool = False) -> ContextPolicy:
        space = _box(game, player)
        network = Network(heads=(("logits", num_outputs(space)),), dense=(self.hidden, self.hidden))
        return ContextPolicy(
            network=network,
            encoding=encoding(game, player=player),
            space=space,
            informed=self.informed(game),
            size=self.context_size(game),
            certain=certain,
        )

    def policy(self, game: Game, player: int) -> Policy:
        return self._policy(game, player)

    def valued_policy(self, game: Game, player: int) -> Policy:
        return self._policy(game, player, certain=True)

    def learned_part(self, params: Tree) -> Tree:
        return params["actor"]

    def _critic(self) -> Network:
        return Network(heads=(("value", 1),), dense=(self.hidden, self.hidden))

    # what subclasses add

    def representation(self, key: Array, game: Game, player: int) -> Tree:
        """First weights of what makes contexts."""
        del key, game, player
        return ()

    def dice(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the random words, by name, that a step takes beside those of every such rule."""
        return {}

    def inputs(self, words: Mapping[str, Array], memory: Interactions, batch: Batch) -> Tree:
        """What contexts of a batch are made of."""
        del words, memory, batch
        return ()

    def contexts(self, representation: Tree, inputs: Tree) -> tuple[Tree, Tree]:
        """Of the interactions of a batch, and of those that follow them, ``(M, c)`` each; ``()`` for none."""
        del representation, inputs
        return (), ()

    def noted(self, words: Mapping[str, Array], representation: Tree, memory: Interactions) -> Tree:
        """The context of the coming interaction."""
        del words, representation, memory
        return ()

    def misfit(self, representation: Tree, inputs: Tree, batch: Batch) -> Array:
        """What the representation descends beside the critics' error."""
        del representation, inputs, batch
        return jnp.zeros(())

    def bonus(self, context: Tree, following: Tree) -> Any:
        """Added to the last reward of interactions, ``(M, 1)`` or a number."""
        del context, following
        return 0.0

    def latents(self, play: Play) -> Tree:
        """The hidden strategy of the interaction played, ``(l,)``; ``()`` where it is not seen."""
        del play
        return ()

    def _optimisers(self) -> dict[str, optax.GradientTransformation]:
        adam = optax.flatten(optax.adam(self.lr))  # of one vector: a tenth of the operations to compile
        return {"actor": adam, "critics": adam, "log_alpha": adam}

    # the life

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, SACState]:
        actor_key, critic_key, key = jax.random.split(key, 3)
        policy = self._policy(game, player)
        params = policy.init(actor_key)
        length, size, actions = game.num_steps, policy.encoding.shape[0], policy.space.size
        blank = jnp.zeros(size + actions + policy.size)
        critics = jax.vmap(lambda key: self._critic().init(key, (), blank)["params"])(jax.random.split(critic_key))
        nets = Nets(critics=critics, log_alpha=jnp.zeros(()), representation=self.representation(key, game, player))
        params, nets = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), (params, nets))
        parts = {"actor": params["actor"], **nets._asdict(), "reconstruction": nets.representation}
        n = self.memory
        memory = Interactions(
            seen=jnp.zeros((n, length + 1, size)),
            actions=jnp.zeros((n, length, actions)),
            rewards=jnp.zeros((n, length)),
            latents=() if policy.informed is None else jnp.zeros((n, policy.size)),
            total=jnp.zeros((), jnp.int32),
        )
        optimisers = {name: rule.init(parts[name]) for name, rule in self._optimisers().items()}
        return params, SACState(nets=nets, targets=nets.critics, optimisers=optimisers, memory=memory)

    def update(self, key: Array, state: SACState, view: View) -> tuple[Tree, SACState, Info]:
        play = view.play(1)
        policy = self._policy(view.game, view.player)
        space, length = policy.space, view.game.num_steps
        seen = policy.encoding(play.observations())[:, 0]
        actions = _centred(space, play.actions()[:, 0]).reshape(length, -1)
        memory = state.memory.with_one(seen, actions, play.rewards()[:, 0], self.latents(play))
        filled = jnp.minimum(memory.total, self.memory)
        # One whose context and whose successor are known, too.
        enough = filled >= self.history + 2
        acts = memory.total > self.rest
        step = functools.partial(self._step, memory=memory, policy=policy, view=view, enough=enough, acts=acts)
        words = self._thrown(key, space, 1 + (length if self.gradient_steps is None else self.gradient_steps))
        first, rest = (jax.tree.map(lambda x, part=part: x[part], words) for part in (0, slice(1, None)))
        start = (view.own["actor"], state.nets, state.targets, state.optimisers)
        (actor, nets, targets, optimisers), infos = lax.scan(step, start, rest)
        context = self.noted(first, nets.representation, memory)
        state = SACState(nets=nets, targets=targets, optimisers=optimisers, memory=memory)
        info = {"interaction_return": jnp.sum(play.rewards()), **jax.tree.map(jnp.mean, infos)}
        return {"actor": actor, "context": context}, state, info

    def _thrown(self, key: Array, space: Box, steps: int) -> dict[str, Array]:
        """Random words of so many steps, ``(steps, ...)`` by name. At once: of every call that draws, the compiler
        makes another long program."""
        m, k, count = self.interactions, self.transitions, num_words(space)
        action = (m, k) if count == 1 else (m, k, count)
        shapes = {"index": (m,), "times": (m, k - 1), "next": action, "own": action, **self.dice()}
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
        parts = jnp.split(jax.random.bits(key, (steps, int(ends[-1])), jnp.uint32), ends[:-1], axis=1)
        return {name: x.reshape(steps, *shape) for (name, shape), x in zip(shapes.items(), parts, strict=True)}

    def drawn(self, words: Mapping[str, Array], memory: Interactions) -> Batch:
        """A batch of interactions of which those before are remembered as far as contexts take them, and the next."""
        length = memory.rewards.shape[1]
        filled = jnp.minimum(memory.total, self.memory)
        ages = 1 + below(words["index"], jnp.maximum(filled - 1 - self.history, 1))
        index = memory.earlier(memory.total, 1 + ages)
        times = moments(words["times"], length)
        rows, last = index[:, None], times == length - 1
        following = memory.seen[memory.earlier(index, -1), 0][:, None]
        later = memory.seen[rows, times + 1]
        return Batch(
            which=index,
            times=times,
            seen=memory.seen[rows, times],
            actions=memory.actions[rows, times],
            rewards=memory.rewards[rows, times],
            later=jnp.where(last[..., None], following, later) if self.influence else later,
            last=last,
        )

    def values(self, critics: Tree, seen: Array, actions: Array, context: Tree) -> Array:
        """Of both critics, ``(2, M, K)``."""
        network, x = self._critic(), with_context(jnp.concatenate([seen, actions], axis=-1), context)
        return jax.vmap(lambda one: network.along(network.laid(one), x)["value"][..., 0])(critics)

    def _step(
        self,
        carry: Any,
        words: Mapping[str, Array],
        *,
        memory: Interactions,
        policy: ContextPolicy,
        view: View,
        enough: Array,
        acts: Array,
    ) -> Any:
        """A step of every optimiser, from the same batch and the same weights."""
        actor, nets, targets, optimisers = carry
        batch = self.drawn(words, memory)
        inputs = self.inputs(words, memory, batch)
        alpha = jnp.exp(nets.log_alpha) if self.temperature is None else jnp.asarray(self.temperature, jnp.float32)

        def acting(actor: Tree, name: str, seen: Array, context: Tree) -> tuple[Array, Array]:
            said: SquashedNormal = policy.said(policy.network.laid(actor), seen, context)
            actions, log_probs = said.drawn(words[name])
            # Of actions from -1 to 1.
            log_probs = log_probs + policy.space.size * math.log((policy.space.high - policy.space.low) / 2.0)
            return _centred(policy.space, actions).reshape(*seen.shape[:-1], -1), log_probs

        now, following = lax.stop_gradient(self.contexts(nets.representation, inputs))
        now, following = _beside(now), _beside(following)
        then = now
        rewards = self.reward_scale * batch.rewards
        if self.influence and not isinstance(now, tuple):
            then = jnp.where(batch.last[..., None], following, now)
            rewards = rewards + jnp.where(batch.last, self.bonus(now, following), 0.0)
        actions, log_probs = acting(actor, "next", batch.later, then)
        ahead = jnp.min(self.values(targets, batch.later, actions, then), axis=0) - alpha * log_probs
        aim = lax.stop_gradient(rewards + view.game.gamma * ahead)

        def error(critics: Tree, representation: Tree) -> Array:
            context = _beside(self.contexts(representation, inputs)[0])
            off = self.values(critics, batch.seen, batch.actions, context) - aim
            return 0.5 * jnp.sum(jnp.mean(jnp.square(off), axis=(1, 2)))

        def cost(actor: Tree) -> tuple[Array, Array]:
            actions, log_probs = acting(actor, "own", batch.seen, now)
            worth = jnp.min(self.values(nets.critics, batch.seen, actions, now), axis=0)
            return jnp.mean(alpha * log_probs - worth), jnp.mean(log_probs)

        loss, (to_critics, to_context) = jax.value_and_grad(error, argnums=(0, 1))(nets.critics, nets.representation)
        to_actor, mean_log_prob = jax.grad(cost, has_aux=True)(actor)
        unfit, to_fit = jax.value_and_grad(self.misfit)(nets.representation, inputs, batch)
        slopes = {
            "actor": to_actor,
            "critics": to_critics,
            "log_alpha": -(mean_log_prob + self.target_entropy),
            "representation": to_context,
            "reconstruction": to_fit,
        }
        parts = {"actor": actor, **nets._asdict(), "reconstruction": nets.representation}
        changes, after = {}, {}
        for name, rule in self._optimisers().items():
            due = enough & acts if name in ("actor", "log_alpha") else enough
            changes[name], moved = rule.update(slopes[name], optimisers[name], parts[name])
            changes[name] = jax.tree.map(lambda x, due=due: jnp.where(due, x, 0.0), changes[name])
            after[name] = jax.tree.map(lambda new, old, due=due: jnp.where(due, new, old), moved, optimisers[name])
        representation = nets.representation
        for name in ("representation", "reconstruction"):
            if name in changes:
                representation = optax.apply_updates(representation, changes[name])
        nets = Nets(
            critics=optax.apply_updates(nets.critics, changes["critics"]),
            log_alpha=nets.log_alpha + changes["log_alpha"],
            representation=representation,
        )
        targets = jax.tree.map(
            lambda slow, x: slow + jnp.where(enough, self.polyak, 0.0) * (x - slow), targets, nets.critics
        )
        info = {"critic_loss": loss, "temperature": alpha, "entropy": -mean_log_prob, "misfit": unfit}
        return (optax.apply_updates(actor, changes["actor"]), nets, targets, after), info


def below(words: Array, count: Any) -> Array:
    """Random words as integers from 0 to below ``count``, all as likely to one part in 2^23."""
    return jnp.minimum((uniform(words) * count).astype(jnp.int32), count - 1)


def moments(words: Array, length: int) -> Array:
    """Times of transitions of an interaction, ``(..., K)``, from ``(..., K - 1)`` words: any, and its last one."""
    others = below(words, max(length - 1, 1))
    return jnp.concatenate([others, jnp.full_like(others[..., :1], length - 1)], axis=-1)


def _box(game: Game, player: int) -> Box:
    space = game.action_space(player)
    assert isinstance(space, Box), "check_game has let in no other"
    return space


def _centred(space: Box, actions: Array) -> Array:
    """Actions of a box as numbers from -1 to 1."""
    return 2.0 * (actions - space.low) / (space.high - space.low) - 1.0


def _beside(context: Tree) -> Tree:
    """Contexts of interactions ``(M, c)`` for their transitions, ``(M, 1, c)``."""
    return context if isinstance(context, tuple) else context[:, None]


@pytree_dataclass
class SACOracle(SAC):
    """The same, to which the other's hidden strategy is told: what inferring it could bring at most. No access less
    than the simulator's shows the state of the world."""

    access: ClassVar[Access] = Access.SIMULATOR

    influence: bool = field(True, "values reach into the next interaction", static=True)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if not isinstance(game, LatentGame):
            raise ValueError("needs a game with a hidden strategy: point-mass, lanes")

    def context_size(self, game: Game) -> int:
        return game.latent_size if isinstance(game, LatentGame) else 0

    def informed(self, game: Game) -> Game | None:
        return game

    def latents(self, play: Play) -> Array:
        game = play.game
        assert isinstance(game, LatentGame), "check_game has let in no other"
        return game.latent(jax.tree.map(lambda x: x[0, 0], play.trajectory.states))

    def inputs(self, words: Mapping[str, Array], memory: Interactions, batch: Batch) -> Tree:
        return memory.latents[batch.which], memory.latents[memory.earlier(batch.which, -1)]

    def contexts(self, representation: Tree, inputs: Tree) -> tuple[Tree, Tree]:
        return inputs
