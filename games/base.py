"""What a game is: who plays and what they get.

A game offers one or both of two views. The *exact* view gives the players' discounted
values as a differentiable function of the joint policy parameters; the *sampled* view
is an environment with pure ``reset`` and ``step``. Everything ascends values.

Joint policy parameters are a tuple with one entry per player. An entry is anything that
unpacks into its coordinates: a flat array ``(d_i,)`` or a tuple of ``d_i`` scalars. The
second form is what encounters use: under ``vmap`` every coordinate becomes one
contiguous vector over seeds, which compilers turn into the fastest code by far.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

Params = Any
"""A player's policy parameters: ``(d_i,)`` or a tuple of ``d_i`` scalars."""


class Game:
    """Base of all games. Subclasses are frozen pytree dataclasses.

    An exact game defines ``n_players``, ``sizes`` and ``value``. A sampled game defines
    ``n_players``, ``n_actions``, ``observation_shape``, ``num_steps``, ``gamma``, ``reset``,
    ``step`` and ``observe``. The rest has defaults.
    """

    views: ClassVar[frozenset[str]] = frozenset({"exact"})
    memory_one: ClassVar[bool] = False

    keeps_world: ClassVar[bool] = False
    """Whether the state of the sampled view lives on from one episode of an encounter to the next;
    see :meth:`resume`."""

    init_mean: Any = 0.0
    init_std: Any = 1.0

    gamma: Any
    """Discount."""

    @property
    def n_players(self) -> int:
        raise NotImplementedError

    # sampled view, in the manner of gymnax: pure, for one environment

    @property
    def n_actions(self) -> int:
        """Number of actions of each player."""
        raise NotImplementedError

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one player's observation; ``()`` for the index of a memory-one state."""
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """Steps from ``reset`` to the end."""
        raise NotImplementedError

    @property
    def num_moves(self) -> int:
        """Steps that count where a reward per step is reported."""
        return self.num_steps

    def reset(self, key: Array) -> tuple[Array, Any]:
        """Returns observations ``(n_players, *observation_shape)`` and state."""
        raise NotImplementedError

    def resume(self, key: Array, state: Any) -> Any:
        """The state in which the next episode starts, in a game that keeps its world, from that in
        which the last one ended: the same one by default."""
        del key
        return state

    def step(self, key: Array, state: Any, actions: Array) -> tuple[Array, Any, Array, Array, dict[str, Array]]:
        """Returns observations, state, rewards ``(n_players,)``, done, and counts ``(n_players,)`` by name."""
        raise NotImplementedError

    def observe(self, state: Any) -> Array:
        """Observations of a state, ``(n_players, *observation_shape)``."""
        raise NotImplementedError

    scripts: ClassVar[tuple[str, ...]] = ()
    """Fixed strategies that the sampled view defines by a rule of its state."""

    def script(self, name: str, memory: Array, state: Any, player: int) -> tuple[Array, Array]:
        """One of ``scripts``: its memory, 0 at the start, and logits ``(n_actions,)``; minus
        infinity rules an action out."""
        raise NotImplementedError

    def board(self, state: Any) -> Mapping[str, Any] | None:
        """A state for people who look, plain enough for JSON; None, the default, if there is nothing to see."""
        return None

    def paid(self, observations: Array, actions: Array) -> Array:
        """Rewards that the rules pay for joint actions, as anybody who saw them can tell.

        Args:
          observations: what player 1 saw before, ``(..., *observation_shape)``.
          actions: ``(..., n_players)``.

        Returns:
          ``(..., n_players)``.
        """
        raise NotImplementedError

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of policy parameters of each player."""
        raise NotImplementedError

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        """A name for each policy parameter of each player."""
        return tuple(tuple(f"theta{k}" for k in range(d)) for d in self.sizes)

    @property
    def symmetric(self) -> bool:
        """True if exchanging the players exchanges their values (two players)."""
        return False

    @property
    def exchangeable(self) -> bool:
        """True if the seats are alike up to the names of actions (iterated matching pennies,
        battle of the sexes): one order of two learning rules then says all."""
        return self.symmetric

    @property
    def zero_sum(self) -> bool:
        return False

    @property
    def per_step(self) -> Any:
        """Factor that turns a value into the reported per-step scale (1 - discount)."""
        return 1.0

    def init_params(self, key: Array, player: int) -> Array:
        """Initial policy parameters ``(d_i,)``: normal, drawn in float32 for every precision."""
        draw = jax.random.normal(key, (self.sizes[player],), jnp.float32)
        return self.init_mean + self.init_std * draw

    def value(self, params: Sequence[Params], player: int) -> Array:
        """Unnormalised discounted value of ``player``, a scalar."""
        raise NotImplementedError

    def values(self, params: Sequence[Params]) -> Array:
        """Unnormalised discounted values of all players, ``(n_players,)``."""
        return jnp.stack([self.value(params, i) for i in range(self.n_players)])

    def observables(self, params: Sequence[Params]) -> Mapping[str, Array]:
        """Game-specific quantities of a joint policy, each ``(n_players,)``."""
        return {}

    def best_response(self, params: Sequence[Params], player: int) -> Params:
        """Exact best response of ``player`` to the others, as policy parameters.

        Raises:
          NotImplementedError: the game has none in closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} offers no exact best response")

    @property
    def has_best_response(self) -> bool:
        return type(self).best_response is not Game.best_response


class TableGame(Game):
    """A game of two actions per player with a payoff table."""

    payoffs: tuple[tuple[Any, ...], ...]
    """Reward of each player for each joint action, ``n_players x 2**n_players``; the first
    player's action is the highest bit of the joint action's index."""

    @property
    def n_players(self) -> int:
        return len(self.payoffs)

    @property
    def symmetric(self) -> bool:
        if self.n_players != 2:
            return False
        first, second = self.payoffs
        return tuple(first) == (second[0], second[2], second[1], second[3])

    @property
    def exchangeable(self) -> bool:
        if self.n_players != 2 or self.init_mean != 0.0:  # a renaming turns logits round
            return self.symmetric
        first, second = self.payoffs
        actions = list(itertools.product((0, 1), repeat=2))
        # Exchange the seats, then rename the actions of either: the same table again?
        return any(
            all(
                first[2 * a + b] == second[2 * (b ^ g) + (a ^ f)] and second[2 * a + b] == first[2 * (b ^ g) + (a ^ f)]
                for a, b in actions
            )
            for f, g in actions
        )

    @property
    def zero_sum(self) -> bool:
        return all(sum(column) == 0 for column in zip(*self.payoffs, strict=True))
