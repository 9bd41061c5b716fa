"""Sampled play: policies in a batch of environments.

Everything is time-major: axis 0 is time, axis 1 the batch of environments, and the players
come next where there are several. An episode is the game's horizon and starts at ``reset``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core import costs
from shaping_bench.algorithms.core.distributions import finite, num_words
from shaping_bench.algorithms.core.policy import ENVIRONMENTS, Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game
from shaping_bench.games.spaces import Discrete


class Trajectory(NamedTuple):
    """A batch of episodes of length T.

    A state is smaller than what is seen of it, so states are kept and observations are made
    from them where they are needed. What comes after the end of an episode is a form without
    content: rewards and counts are 0 there.

    Attributes:
      states: of the environment, before each step and at the end, every leaf ``(T + 1, B, ...)``.
      actions: integers, ``(T, B, n_players)``; where not all seats choose from finitely many, a tuple
        with the actions of every seat, ``(T, B, ...)``.
      rewards: earned by the actions at the same time, ``(T, B, n_players)``.
      info: what the game counts, each ``(T, B, n_players)``.
      alive: whether each step is played, and whether the episode goes on after the last,
        ``(T + 1, B)``; None in games whose episodes do not end early.
      said: by seat what its policy said at each step, exploration left out, distributions ``(T, B)``;
        of the seats of which it was to be kept.
    """

    states: Tree
    actions: Tree
    rewards: Array
    info: Mapping[str, Array]
    alive: Array | None = None
    said: Mapping[int, Any] | None = None


def observations(game: Game, trajectory: Trajectory, player: int) -> Tree:
    """What a player saw: ``(T + 1, B, *observation_shape)``, the end included."""
    return jax.vmap(jax.vmap(lambda state: game.observe(state, player)))(trajectory.states)


def rollout(
    key: Array,
    game: Game,
    policies: Sequence[Policy],
    params: Sequence[Tree],
    batch_size: int,
    *,
    num_steps: int | None = None,
    groups: Sequence[int] | None = None,
    said_by: Sequence[int] = (),
) -> Trajectory:
    """Plays policies against one another from a reset on. No gradient passes through it.

    Args:
      key: randomness of policies and environments.
      game: a game with a sampled view.
      policies: one per player.
      params: their parameters.
      batch_size: number of environments B (static).
      num_steps: length T (static); the game's by default.
      groups: per player the number of parameter sets G: its parameters then have a leading
        axis G, and every set plays ``B / G`` consecutive environments. 0, the default: one
        set without such an axis.
      said_by: seats of whom is kept what their policies said.

    Raises:
      ValueError: another number of policies than of players; groups that do not divide B.
    """
    return rollout_on(key, game, policies, params, batch_size, num_steps=num_steps, groups=groups, said_by=said_by)[0]


def rollout_on(
    key: Array,
    game: Game,
    policies: Sequence[Policy],
    params: Sequence[Tree],
    batch_size: int,
    *,
    num_steps: int | None = None,
    groups: Sequence[int] | None = None,
    said_by: Sequence[int] = (),
    carries: Sequence[Tree] | None = None,
    states: Tree = None,
    part: tuple[Array, int] | None = None,
) -> tuple[Trajectory, tuple[Tree, ...]]:
    """As :func:`rollout`, from where something else has ended.

    Args:
      carries: per player that of its policy at the start, leaves ``(B, ...)``; None for a fresh one.
      states: of the B environments at the start; None for a reset.
      part: ``(k, n)``: only the k-th of n equal parts of the episodes, as they are among all of them.

    Returns:
      The trajectory, and everybody's carry at the end.
    """
    n = game.n_players
    if len(policies) != n or len(params) != n:
        raise ValueError(f"{len(policies)} policies and {len(params)} parameters given, the game has {n} players")
    sizes = tuple(groups) if groups is not None else (0,) * n
    if any(size and batch_size % size for size in sizes):
        raise ValueError(f"groups are {sizes}; allowed: divisors of the batch size {batch_size}, or 0")
    length = game.num_steps if num_steps is None else num_steps
    costs.charge(steps=batch_size * length)
    params = lax.stop_gradient(tuple(params))
    whole = batch_size
    batch_size = whole if part is None else whole // part[1]

    def mine(tree: Tree, axis: int = 0) -> Tree:
        """Of what there is for every episode."""
        if part is None:
            return tree
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, part[0] * batch_size, batch_size, axis), tree)

    reset_key, action_key, step_key = jax.random.split(key, 3)
    # Players come first inside the loop: a vector over environments is then contiguous. Observations
    # that are trees come as a tuple of one per seat.
    seats = 0 if isinstance(jax.eval_shape(game.reset, reset_key)[0], tuple) else 1
    if states is None:
        seen, states = jax.vmap(game.reset, out_axes=(seats, 0))(mine(jax.random.split(reset_key, whole)))
    else:
        states = mine(states)
        seen = jax.vmap(game.observe, out_axes=seats)(states)
    initial = (None,) * n if carries is None else carries
    starts = tuple(
        spread(policy.start(), batch_size) if carry is None else mine(carry)
        for policy, carry in zip(policies, initial, strict=True)
    )
    laid = tuple(
        (jax.vmap(policy.laid) if size else policy.laid)(theta)
        for policy, theta, size in zip(policies, params, sizes, strict=True)
    )
    dice = Dice.of(game)
    words = mine(dice.draw(action_key, length, whole), -1)
    alive = jnp.ones((batch_size,), bool) if game.ends_early else None

    def step(loop: Any, now: Any) -> Any:
        seen, states, carries, alive = loop
        words, key = now
        actions, moved, kept = [], [], {}
        for i, policy in enumerate(policies):
            carry, said = _acting(policy, sizes[i])(laid[i], carries[i], seen[i], states)
            actions.append(said.sample(dice.words(words, i)))
            if i in said_by:
                kept[i] = said.unmixed()
            if policy.keeps_carry and alive is not None:
                carry = jax.tree.map(lambda new, old: _where(alive, new, old), carry, carries[i])
            moved.append(carry)
        # What a step brings is computed once. Without barriers the compiler derives it anew for
        # every number that depends on it, and draws inside of a stack, with a branch per number.
        joint = lax.optimization_barrier(tuple(actions))
        if dice.choices:
            joint = jnp.stack(joint)
        keys = mine(jax.random.split(key, whole))
        step_all = jax.vmap(game.step, in_axes=(0, 0, 1 if dice.choices else 0), out_axes=(seats, 0, 1, 0, 1))
        then, after, rewards, done, info = lax.optimization_barrier(step_all(keys, states, joint))
        goes_on = None
        if alive is not None:
            rewards, info = jax.tree.map(lambda x: jnp.where(alive, x, jnp.zeros_like(x)), (rewards, info))
            goes_on = alive & ~done
        return (then, after, tuple(moved), goes_on), (states, joint, rewards, info, alive, kept or None)

    loop = (seen, states, starts, alive)
    inputs = (words, jax.random.split(step_key, length))
    (_, last, ends, goes_on), (before, actions, rewards, info, alive, said) = lax.scan(step, loop, inputs)
    states, alive = jax.tree.map(lambda x, end: jnp.concatenate([x, end[None]]), (before, alive), (last, goes_on))
    rewards, info = jax.tree.map(lambda x: jnp.moveaxis(x, 1, -1), (rewards, info))
    if dice.choices:
        actions = jnp.moveaxis(actions, 1, -1)
    return Trajectory(states=states, actions=actions, rewards=rewards, info=info, alive=alive, said=said), ends


def _where(which: Array, new: Array, old: Array) -> Array:
    """By environment: ``which`` is ``(B,)``, the others ``(B, ...)``."""
    return jnp.where(which.reshape(-1, *([1] * (new.ndim - 1))), new, old)


def spread(start: Tree, batch_size: int) -> Tree:
    """The same in every environment: leaves ``(B, ...)``."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch_size, *x.shape)), start)


def _acting(policy: Policy, groups: int) -> Any:
    """``policy.act`` for a batch of environments, in groups of equal parameters."""
    batched = jax.vmap(policy.act, in_axes=(None, 0, 0, 0), axis_name=ENVIRONMENTS)
    if not groups:
        return batched

    def grouped(params: Tree, carry: Tree, seen: Array, states: Tree) -> Any:
        split = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), (carry, seen, states))
        out = jax.vmap(batched)(params, *split)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

    return grouped


@dataclasses.dataclass(frozen=True)
class Dice:
    """How the random words of a step are shared out among the seats.

    Drawing a word for each of two choices would cost more than all else in a step of a matrix game:
    they share one of 32 bits, and every two further choices another. A number has a word of its own.

    Attributes:
      counts: per seat the choices or numbers that its action consists of.
      choices: whether all seats choose from finitely many.
      shared: whether two choices share a word: wherever there are no numbers.
    """

    counts: tuple[int, ...]
    choices: bool
    shared: bool

    @classmethod
    def of(cls, game: Game) -> "Dice":
        spaces = [game.action_space(i) for i in range(game.n_players)]
        return cls(
            counts=tuple(num_words(space) for space in spaces),
            choices=all(isinstance(space, Discrete) for space in spaces),
            shared=all(finite(space) for space in spaces),
        )

    def draw(self, key: Array, length: int, batch_size: int) -> Array:
        """Words of all steps: ``(T, B)``, or ``(T, W, B)`` if one is not enough."""
        total = sum(self.counts)
        width = (total + 1) // 2 if self.shared else total
        shape = (length, batch_size) if width == 1 else (length, width, batch_size)
        return jax.random.bits(key, shape, jnp.uint32)

    def words(self, drawn: Array, player: int) -> Array:
        """A player's, ``(B,)`` if it needs one, else ``(B, its count)``, from those of the step."""
        words = drawn if drawn.ndim > 1 else drawn[None]
        first = sum(self.counts[:player])
        own = [
            word_of(words[k // 2], k % 2) if self.shared else words[k]
            for k in range(first, first + self.counts[player])
        ]
        return own[0] if len(own) == 1 else jnp.stack(own, axis=-1)


def word_of(word: Array, k: int) -> Array:
    """The first or second (k is 0 or 1) of two words made of one: itself, and what the finaliser of
    MurmurHash3 makes of it.

    Each is uniform, and the two are independent down to about 16 bits of each. A third would not be:
    the joint law of five choices out of nine, all from one word, is off by 0.4 % per outcome.
    """
    if k == 0:
        return word
    x = word + jnp.uint32((0x9E3779B9 * k) % 2**32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def taken(said: Any, actions: Tree) -> Array:
    """Log-probabilities of the actions taken, ``(...)``, under what a policy said."""
    return said.log_prob(actions)


def live(
    key: Array,
    game: Game,
    learners: Sequence[Any],
    params: Sequence[Tree],
    states: Sequence[Tree],
    num_steps: int | None = None,
) -> tuple[Trajectory, tuple[Tree, ...]]:
    """One episode in one environment in which those who learn online learn as they play.

    Learners with ``online`` act by ``act(word, state, observation)`` and learn after every step
    by ``react(game, state, observation, reward, next_observation)``, by ``react_by_chance(key, ...)``
    where they are ``chancy``; the others play their policies, unchanged.

    Returns:
      The trajectory, with a batch axis of length 1, and the new states of all learners.
    """
    length = game.num_steps if num_steps is None else num_steps
    costs.charge(steps=length)
    n = game.n_players
    policies = [rule.policy(game, i) for i, rule in enumerate(learners)]
    chancy = any(rule.chancy for rule in learners)
    reset_key, action_key, step_key, *own_key = jax.random.split(key, 4 if chancy else 3)
    seen, state = game.reset(reset_key)
    # One word per action, drawn ahead: a key derived at every step costs more than all else in it.
    words = jax.random.bits(action_key, (length, n), jnp.uint32)

    alive = jnp.ones((), bool) if game.ends_early else None

    def step(loop: Any, now: Any) -> Any:
        seen, state, carries, minds, alive = loop
        draws, key, own = now
        actions, moved = [], []
        for i, rule in enumerate(learners):
            carry = carries[i]
            if rule.online:
                action = rule.act(draws[i], minds[i], seen[i])
            else:
                carry, said = policies[i].step(params[i], carry, seen[i], state)
                action = said.sample(draws[i])
            actions.append(action)
            moved.append(carry)
        joint = jnp.stack(actions)
        # What a step brings is computed once. Without barriers the compiler derives it anew for
        # every number that depends on it, several times the work of the step itself.
        then, after, rewards, done, info = lax.optimization_barrier(
            game.step(key, state, lax.optimization_barrier(joint))
        )

        def reaction(rule: Any, i: int) -> Tree:
            if not rule.online:
                return minds[i]
            event = (game, minds[i], seen[i], rewards[i], then[i])
            return rule.react_by_chance(jax.random.fold_in(own[0], i), *event) if rule.chancy else rule.react(*event)

        learnt = tuple(reaction(rule, i) for i, rule in enumerate(learners))
        goes_on = None
        if alive is not None:
            learnt, rewards, info = jax.tree.map(
                lambda new, old: jnp.where(alive, new, old),
                (learnt, rewards, info),
                (minds, *jax.tree.map(jnp.zeros_like, (rewards, info))),
            )
            goes_on = alive & ~done
        return (then, after, tuple(moved), learnt, goes_on), (state, joint, rewards, info, alive)

    loop = (seen, state, tuple(policy.start() for policy in policies), tuple(states), alive)
    inputs = (words, jax.random.split(step_key, length), tuple(jax.random.split(x, length) for x in own_key))
    (_, last, _, minds, goes_on), (before, actions, rewards, info, alive) = lax.scan(step, loop, inputs)
    stacked, alive = jax.tree.map(lambda x, end: jnp.concatenate([x, end[None]]), (before, alive), (last, goes_on))
    trajectory = Trajectory(states=stacked, actions=actions, rewards=rewards, info=info, alive=alive)
    return jax.tree.map(lambda x: x[:, None], trajectory), minds
