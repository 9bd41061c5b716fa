"""The game about the game: choosing policies against others who learn from them.

One step of a :class:`MetaGame` is one episode of a stage in which the own seat's policy is given and
the others learn; the action is the own next policy, the reward what it earns.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core import Joint, Learner, Stage, costs
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.stage import Given, started
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game

Scalars = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class MetaGame:
    """Choosing policies against others who learn from them; one environment, whose state is the
    joint state of the stage.

    Attributes:
      game: the game played within each step; exact.
      player: the own seat.
      rule: how everybody else learns.
      start: the others' initial logits; empty for their own.
    """

    game: Game
    player: int
    rule: Learner
    start: tuple[float, ...] = ()

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(j for j in range(self.game.n_players) if j != self.player)

    @property
    def stage(self) -> Stage:
        """Where it is played: the own seat's policies are given."""
        learners = tuple(Given() if i == self.player else self.rule for i in range(self.game.n_players))
        return Stage(self.game, learners, playing=False)

    def reset(self, key: Array, own: Scalars) -> tuple[Joint, Scalars]:
        """Fresh opponents, who have met ``own`` and learned from it once."""
        start, key = jax.random.split(key)
        params: list[Tree] = [own] * self.game.n_players
        states: list[Tree] = [()] * self.game.n_players
        keys = [start] if len(self.others) == 1 else jax.random.split(start, len(self.others))
        for k, j in zip(keys, self.others, strict=True):
            theta, states[j] = started(self.rule, k, self.game, j)
            params[j] = self.start or theta
        then, observation, _ = self.step(key, self.stage.joint(params, states), own)
        return then, observation

    def step(self, key: Array, joint: Joint, own: Scalars) -> tuple[Joint, Scalars, tuple[Array, Array]]:
        """Plays ``own`` against the others, who then learn.

        Returns:
          The joint state after their update; the observation, probabilities of action 0 of the
          policies just played, the own first; and what they earned per step, own and the others' mean.
        """
        game, others = self.game, self.others
        played = joint._replace(params=tuple(own if i == self.player else x for i, x in enumerate(joint.params)))
        after, _, _ = self.stage.episode(key, played, given={self.player: (own, joint.states[self.player])})
        costs.charge(evaluations=game.n_players)
        own_value = game.value(played.params, self.player)
        other_values = [game.value(played.params, j) for j in others]
        other_value = other_values[0] if len(others) == 1 else sum(other_values) / len(others)
        rewards = (game.per_step * own_value, game.per_step * other_value)
        return after, observed(own, *(played.params[j] for j in others)), rewards


Groups = Sequence[tuple[MetaGame, int]]
"""How many games of a batch are played against whom."""


def groups(game: Game, player: int, coplayers: Mixture, games: int, start: tuple[float, ...] = ()) -> Groups:
    """A batch of meta-games, divided among the co-players by their shares."""
    pairs = zip(coplayers.learners, coplayers.counts(games), strict=True)
    return [(MetaGame(game=game, player=player, rule=rule, start=start), count) for rule, count in pairs]


def scalars(theta: Any) -> Scalars:
    """Policy parameters as a tuple of scalars, of the default precision."""
    return tuple(jnp.asarray(x, jnp.result_type(float)) for x in theta)


def observed(*params: Scalars) -> Scalars:
    """What a meta-policy sees of a joint policy: probabilities of action 0, the own ones first."""
    return tuple(jax.nn.sigmoid(x) for theta in params for x in theta)


def random_policy(key: Array, game: Game, player: int) -> Scalars:
    """A random policy, as the game starts its learners."""
    return scalars(game.init_params(key, player))


class Episode(NamedTuple):
    """T steps of B meta-games.

    Attributes:
      observations: ``(T, features, B)``, before each action.
      actions: logits of the own policy, ``(T, d, B)``.
      log_densities: of the actions where they were drawn, ``(T, B)``; ``()`` where they were not.
      rewards, other_rewards: ``(T, B)``.
    """

    observations: Array
    actions: Array
    log_densities: Tree
    rewards: Array
    other_rewards: Array


Act = Callable[[Array, Array], tuple[Array, Array, Tree]]
"""From a key and observations ``(features, B)`` to the key that is left, logits ``(d, B)`` and their
log-densities."""


def meta_episode(
    key: Array,
    groups: Groups,
    act: Act,
    steps: int,
    first: Scalars | None = None,
    of: Callable[[Episode], Tree] = lambda episode: episode,
) -> Tree:
    """Plays a batch of meta-games side by side, from their reset.

    Args:
      key: randomness of opponents, of the own random policy that they meet first, and of ``act``.
      groups: who is met in how many games.
      act: the meta-policy.
      steps: T.
      first: the own policy that the opponents meet first, instead of a random one.
      of: what is kept of every step.

    Returns:
      The :class:`Episode`, or what is kept of it; games are the last axis.
    """

    def of_group(key: Array, meta: MetaGame, games: int) -> Tree:
        start, key = jax.random.split(key)

        def begin(key: Array) -> tuple[Joint, Scalars]:
            own, other = jax.random.split(key)
            return meta.reset(other, random_policy(own, meta.game, meta.player) if first is None else first)

        def step(carry: Any, key: Array) -> tuple[Any, Tree]:
            joints, seen = carry
            key, action, log_densities = act(key, seen)
            joints, then, rewards = jax.vmap(meta.step)(jax.random.split(key, games), joints, tuple(action))
            own, others = rewards
            episode = Episode(
                observations=seen, actions=action, log_densities=log_densities, rewards=own, other_rewards=others
            )
            return (joints, jnp.stack(then)), of(episode)

        with costs.repeated(games):
            joints, seen = jax.vmap(begin)(jax.random.split(start, games))
        with costs.repeated(games * steps):
            return lax.scan(step, (joints, jnp.stack(seen)), jax.random.split(key, steps))[1]

    if len(groups) == 1:
        return of_group(key, *groups[0])
    parts = [of_group(jax.random.fold_in(key, k), *group) for k, group in enumerate(groups)]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1), *parts)


def mean_rewards(
    key: Array, groups: Groups, act: Callable[[Array], Array], steps: int, first: Scalars | None = None
) -> tuple[Array, Array]:
    """What a deterministic meta-policy and its opponents earn, means over steps and games.

    Args:
      key, groups, steps, first: see :func:`meta_episode`.
      act: from observations ``(features, B)`` to logits ``(d, B)``.
    """
    own, other = meta_episode(
        key, groups, lambda key, seen: (key, act(seen), ()), steps, first, lambda x: (x.rewards, x.other_rewards)
    )
    return jnp.mean(own), jnp.mean(other)


def mean_share(fall: float, steps: int) -> float:
    """Share of tracing: mean of ``max(0, 1 - fall (step + 1))`` over steps 0 to ``steps - 1``."""
    falls = min(steps, round(1.0 / fall)) if fall else steps
    return (falls - fall * falls * (falls + 1) / 2.0) / steps
