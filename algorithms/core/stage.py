"""The stage: one episode of an encounter, from what everybody is before it to what they are after.

Whatever is iterated in this benchmark (an encounter's updates, the learning of an opponent that a
meta-learner imagines, the trials of a shaper) iterates :meth:`Stage.episode`::

    joint = stage.begin(key)
    joint, play, infos = stage.episode(key, joint)      # views -> updates -> new joint state

It is pure: vmap it over seeds, scan it over time. An encounter is a trial: update t is episode t.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core import costs, rollouts
from shaping_bench.algorithms.core.access import Access
from shaping_bench.algorithms.core.learner import Info, Learner, PreparedLearner
from shaping_bench.algorithms.core.memory import Memory
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.core.view import View
from shaping_bench.games.base import Game
from shaping_bench.games.fields import pytree_dataclass


class Joint(NamedTuple):
    """Everything that lives on from one episode to the next, one entry per seat.

    Attributes:
      params: policy parameters.
      states: what the learning rules remember.
      carries: of the policies that keep theirs, leaves ``(B, ...)`` of the B environments played in;
        ``()`` for those that start every episode anew.
      world: states of the B environments at the end of the last episode, where the game keeps its
        world; else ``()``.
    """

    params: tuple[Tree, ...]
    states: tuple[Tree, ...]
    carries: tuple[Tree, ...]
    world: Tree


Move = tuple[Tree, Tree]
"""New policy parameters and new learner state of a seat."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A game and who sits where in it.

    All who learn from play learn from the same episodes: one play per update, as wide as the
    widest asks (:attr:`Learner.episodes_per_update`), of which the others see the first. Learners
    that learn online, while they play, share an episode of their own, in which nothing lives on.

    >>> import jax
    >>> from shaping_bench.algorithms.lola import LOLA
    >>> from shaping_bench.algorithms.naive import Naive
    >>> from shaping_bench.games import make
    >>> stage = Stage(make("tandem"), (Naive(lr=0.1), LOLA(lr=0.1)))
    >>> joint = stage.begin(jax.random.key(0))
    >>> def update(joint, key):
    ...     joint, _, _ = stage.episode(key, joint)
    ...     return joint, joint.params
    >>> joint, path = jax.lax.scan(update, joint, jax.random.split(jax.random.key(1), 50))
    >>> path[0][0].shape
    (50,)

    Attributes:
      game: the game.
      learners: one per seat.
      artifacts: per seat what its learner's preparation yielded, None without one; empty if nobody
        has one.
      playing: whether policies are trees of arrays, as they have to be where somebody plays to
        learn, or the world lives on from play to play; else tuples of scalars, which is what exact games are
        fastest with. None: whether one of these is so.
      apart: an axis of devices of which each decides what one seat does, given the play that all of
        them see alike; None: every device decides for everybody.
    """

    game: Game
    learners: tuple[Learner, ...]
    artifacts: Sequence[Tree] = ()
    playing: bool | None = None
    apart: str | None = None

    @property
    def trees(self) -> bool:
        """Whether policies are trees of arrays; see ``playing``."""
        return self.game.keeps_world or plays(self.learners) if self.playing is None else self.playing

    @property
    def width(self) -> int:
        """Episodes of one update, B; 0 where nobody asks for any and nothing lives on."""
        if not self.trees:
            return 0
        lives_on = self.game.keeps_world or any(policy.keeps_carry for policy in self._policies())
        return max(int(lives_on), *(rule.episodes_per_update for rule in self.learners))

    def _artifact(self, player: int) -> Tree:
        return self.artifacts[player] if self.artifacts else None

    def _policies(self) -> list[Any]:
        return [rule.policy(self.game, i) for i, rule in enumerate(self.learners)]

    def begin(self, key: Array) -> Joint:
        """Everybody as they start. Seat i draws from ``fold_in(key, i)``."""
        starts = [
            started(rule, jax.random.fold_in(key, i), self.game, i, self._artifact(i))
            for i, rule in enumerate(self.learners)
        ]
        world_key = jax.random.fold_in(key, len(self.learners))
        return self.joint([theta for theta, _ in starts], [state for _, state in starts], world_key)

    def joint(self, params: Sequence[Tree], states: Sequence[Tree], key: Array | None = None) -> Joint:
        """A joint state of these parameters and learner states, in which no episode was played yet.

        Args:
          params: per seat.
          states: per seat.
          key: of the world, for games that keep it.
        """
        dtype = jnp.result_type(float)
        if not self.trees:
            scalars = tuple(tuple(jnp.asarray(x, dtype) for x in theta) for theta in params)
            return Joint(params=scalars, states=tuple(states), carries=((),) * len(scalars), world=())
        vectors = jax.tree.map(lambda x: jnp.asarray(x, dtype), tuple(params))
        carries = tuple(
            rollouts.spread(policy.start(), self.width) if policy.keeps_carry else () for policy in self._policies()
        )
        world: Tree = ()
        if self.game.keeps_world:
            assert key is not None, "this game keeps its world: where it begins needs a key"
            world = jax.vmap(self.game.reset)(jax.random.split(key, self.width))[1]
        return Joint(params=vectors, states=tuple(states), carries=carries, world=world)

    def views(self, joint: Joint, key: Array | None = None) -> tuple[View, ...]:
        """What every seat sees of a joint state; with a key, what is played too."""
        return self._views(joint, key, self._episodes(joint, key))

    def episode(
        self, key: Array, joint: Joint, given: Mapping[int, Move] | None = None
    ) -> tuple[Joint, Trajectory | None, tuple[Info, ...]]:
        """One update of everybody, after the play that it learns from.

        Args:
          key: randomness; learner i updates by ``fold_in(key, i)``, play by ``fold_in(key, n)``.
          joint: everybody before.
          given: seats whose parameters and state after this episode are decided elsewhere, whose
            rule is not asked.

        Returns:
          Everybody after; the ``width`` episodes that were played, None where nobody plays; and each
          learner's info, empty for those given.
        """
        play_key = jax.random.fold_in(key, len(self.learners)) if self.trees else None
        episodes = self._episodes(joint, play_key)

        def decided(player: int) -> tuple[Tree, Tree, Info]:
            if given is not None and player in given:
                return *given[player], {}
            # What a view derives stays on the device of its seat where seats decide apart.
            seen = views if self.apart is None else self._views(joint, play_key, episodes)
            rule = self.learners[player]
            theta, state, info = rule.update(jax.random.fold_in(key, player), joint.states[player], seen[player])
            return theta, state, dict(info)

        views = () if self.apart is not None else self._views(joint, play_key, episodes)
        players = range(len(self.learners))
        decisions = [decided(i) for i in players] if self.apart is None else _apart(decided, players, self.apart)
        params, states, infos = [], [], []
        for (theta, state, info), before in zip(decisions, joint.params, strict=True):
            theta = _alike(theta, before)
            params.append(jax.tree.map(lambda x, old: x.astype(old.dtype), theta, before))
            states.append(state)
            infos.append(info)
        after = joint._replace(params=tuple(params), states=tuple(states))
        if episodes is None:
            return after, None, tuple(infos)
        return after._replace(carries=episodes.carries, world=episodes.world), episodes.play, tuple(infos)

    def _views(self, joint: Joint, key: Array | None, episodes: "_Episodes | None") -> tuple[View, ...]:
        shown = tuple(
            rule.shown(theta, state)
            for rule, theta, state in zip(self.learners, joint.params, joint.states, strict=True)
        )
        memory = Memory()
        return tuple(
            View(
                self.game,
                joint.params,
                i,
                rule.access,
                learners=self.learners,
                memory=memory,
                key=key,
                states=joint.states,
                shown=shown,
                artifact=self._artifact(i),
                episodes=None if episodes is None else episodes.of(i, rule),
            )
            for i, rule in enumerate(self.learners)
        )

    def _episodes(self, joint: Joint, key: Array | None) -> "_Episodes | None":
        width = self.width
        if key is None or not width:
            return None
        game, policies = self.game, self._policies()
        key = jax.random.fold_in(key, width)
        starts = None
        if game.keeps_world:
            starts = jax.vmap(game.resume)(jax.random.split(jax.random.fold_in(key, 0), width), joint.world)
        carries = [carry if policy.keeps_carry else None for policy, carry in zip(policies, joint.carries, strict=True)]
        devices = 1 if self.apart is None else lax.axis_size(self.apart)
        shared = devices > 1 and width % devices == 0 and not any(policy.mixes for policy in policies)
        part = (lax.axis_index(self.apart), devices) if shared else None
        with costs.repeated(0):  # who looks at it pays, see _Episodes
            play, ends = rollouts.rollout_on(
                key, game, policies, joint.params, width, carries=carries, states=starts, part=part
            )
        if shared and self.apart is not None:
            play, ends = _joined(play, self.apart, axis=1), _joined(ends, self.apart, axis=0)
        kept = tuple(end if policy.keeps_carry else () for policy, end in zip(policies, ends, strict=True))
        last = jax.tree.map(lambda x: x[-1], play.states) if game.keeps_world else ()
        return _Episodes(game, play, width, kept, last)


class _Episodes:
    """What is played in one update: made once, looked at by several, and as wide as the widest asks.

    It costs as many episodes as the widest of those who do look; so the price of one learner alone
    does not depend on the company it is in.
    """

    def __init__(self, game: Game, play: Trajectory, width: int, carries: tuple[Tree, ...], world: Tree) -> None:
        self.game, self.play, self.width, self.carries, self.world = game, play, width, carries, world
        self._paid = 0

    def of(self, player: int, rule: Learner) -> Any:
        """How that seat looks at the first episodes."""

        def first(count: int) -> Trajectory:
            most = rule.episodes_per_update
            if count > most:
                raise ValueError(
                    f"player {player + 1}'s learner asks for {count} episodes and declares that it asks for {most} "
                    f"at most: let {type(rule).__name__}.episodes_per_update say how many"
                )
            costs.charge(steps=max(0, count - self._paid) * self.game.num_steps)
            self._paid = max(self._paid, count)
            return self.play if count == self.width else jax.tree.map(lambda x: x[:, :count], self.play)

        return first


@pytree_dataclass
class Given(Learner):
    """Sits where moves are given from outside the stage, in every episode. Whoever gives them knows
    everything."""

    access: ClassVar[Access] = Access.SIMULATOR
    views: ClassVar[frozenset[str]] = frozenset({"exact", "sampled"})
    learns: ClassVar[bool] = False


def _apart(decided: Callable[[int], Tree], players: Sequence[int], axis: str) -> list[Tree]:
    """What is decided for every player, each on a device of its own along ``axis``, told to all of them."""
    shapes = [jax.eval_shape(functools.partial(decided, i)) for i in players]

    def by(player: int) -> list[Tree]:
        return [
            decided(i) if i == player else jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
            for i, shape in zip(players, shapes, strict=True)
        ]

    told = _told(lax.switch(lax.axis_index(axis), [functools.partial(by, i) for i in players]), axis)
    return [jax.tree.map(lambda x, i=i: x[i], told[i]) for i in players]


def _told(tree: Tree, axis: str) -> Tree:
    """What every device along ``axis`` has, for all of them: leaves ``(devices, ...)``."""
    leaves, structure = jax.tree.flatten(tree)
    # One message per type of number: each costs as much as the products of a small layer.
    messages = {
        dtype: lax.all_gather(jnp.concatenate([jnp.ravel(x) for x in leaves if x.dtype == dtype]), axis)
        for dtype in dict.fromkeys(x.dtype for x in leaves)
    }
    read = dict.fromkeys(messages, 0)
    told = []
    for x in leaves:
        start = read[x.dtype]
        read[x.dtype] += x.size
        message = messages[x.dtype]
        told.append(message[:, start : start + x.size].reshape(message.shape[0], *x.shape))
    return jax.tree.unflatten(structure, told)


def _joined(tree: Tree, name: str, axis: int) -> Tree:
    """The parts that the devices along ``name`` have, one after the other along an axis."""

    def together(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return jax.tree.map(together, _told(tree, name))


def plays(learners: Sequence[Learner]) -> bool:
    """Whether any of the learners has to play to learn."""
    return any("exact" not in rule.views for rule in learners)


def started(rule: Learner, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
    """Initial policy parameters and learner state of a seat."""
    if isinstance(rule, PreparedLearner):
        return rule.init(key, game, player, artifact)
    return rule.init(key, game, player)


def _alike(theta: Tree, old: Tree) -> Tree:
    """Coordinates as a vector where the policy is one: what an exact rule returns among rules that play."""
    return jnp.stack(theta) if isinstance(theta, tuple) and isinstance(old, Array) else theta
