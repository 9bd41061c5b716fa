"""The two views of a game: exact values, and an environment to play in.

A function that needs one of them asks for :class:`ExactGame` or :class:`SampledGame`; a game is a
:class:`shaping_bench.games.base.Game`, which has both and says in ``views`` which of them it fills in.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games.spaces import Discrete, Space

if TYPE_CHECKING:
    from shaping_bench.games.grids.board import Board, Glyph

Params = Any
"""A player's policy parameters: ``(d_i,)`` or a tuple of ``d_i`` scalars."""


def replaced(params: Sequence[Params], player: int, own: Params) -> tuple[Params, ...]:
    """The joint parameters with ``player``'s own exchanged."""
    return tuple(own if j == player else theta for j, theta in enumerate(params))


class ExactGame:
    """Values as a differentiable function of the joint policy parameters.

    A game defines ``n_players``, ``sizes`` and ``value``; the rest has defaults.

    >>> from shaping_bench.games import make
    >>> game = make("tandem")
    >>> game.sizes, float(game.value([(1.0,), (0.0,)], player=0))
    ((1, 1), 1.0)
    """

    init_mean: Any = 0.0
    init_std: Any = 1.0

    @property
    def n_players(self) -> int:
        raise NotImplementedError

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of policy parameters of each player."""
        raise NotImplementedError

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        """A name for each policy parameter of each player."""
        return tuple(tuple(f"theta{k}" for k in range(d)) for d in self.sizes)

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

    def scripted_params(self, name: str, player: int) -> Params:
        """Of a game without memory-one policies that has ``scripts``: those of the policy that plays one."""
        raise NotImplementedError(f"{type(self).__name__} has no parameters of scripts")

    @property
    def has_best_response(self) -> bool:
        return type(self).best_response is not ExactGame.best_response


class SampledGame:
    """An environment in the manner of gymnax: pure functions of one environment, batched by ``vmap``.

    A game defines ``n_players``, ``n_actions``, ``observation_shape``, ``num_steps``, ``gamma``,
    ``reset``, ``step`` and ``observe``; the rest has defaults.

    >>> import jax, jax.numpy as jnp
    >>> from shaping_bench.games import make
    >>> game = make("ipd")
    >>> seen, state = game.reset(jax.random.key(0))
    >>> seen, state, rewards, done, info = game.step(jax.random.key(1), state, jnp.array([0, 1]))
    >>> rewards.tolist(), game.observe(state, player=1).item()
    ([-3.0, 0.0], 3)
    """

    ends_early: ClassVar[bool] = False
    """Whether an episode may be over before ``num_steps``: from the step that returns ``done`` on."""
    keeps_world: ClassVar[bool] = False
    """Whether the state of the sampled view lives on from one episode of an encounter to the next;
    see :meth:`resume`."""

    shows_payments: ClassVar[bool] = False
    """Whether players see, where there are payments, what they have given so far; observations are then vectors."""

    gamma: Any
    """Discount."""

    @property
    def n_players(self) -> int:
        raise NotImplementedError

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

    def observe(self, state: Any, player: int | None = None) -> Array:
        """What a state looks like to ``player``, ``observation_shape``; by default to everybody,
        ``(n_players, *observation_shape)``."""
        raise NotImplementedError

    def action_space(self, player: int) -> Space:
        """What ``player`` may do in a step; by default one of ``n_actions``.

        Where all seats choose from finitely many, joint actions are one array of integers; else a
        tuple with the action of every seat.
        """
        del player
        return Discrete(self.n_actions)

    @property
    def board_planes(self) -> int:
        """How many of the leading planes of an observation show a board; the others are constant."""
        return self.observation_shape[0]

    scripts: ClassVar[tuple[str, ...]] = ()
    """Fixed strategies that the sampled view defines by a rule of its state."""

    def script(self, name: str, memory: Array, state: Any, player: int) -> tuple[Array, Any]:
        """One of ``scripts``: its memory, 0 at the start, and what it plays.

        That is logits ``(n_actions,)``, of which minus infinity rules an action out; where actions are numbers,
        the least and the largest of each, between which it draws; of a product a tuple of these.
        """
        raise NotImplementedError

    legend: ClassVar[Mapping[str, "Glyph"]] = {}
    """How what lies on ``board`` is drawn."""
    board_note: ClassVar[str] = ""
    """What those who look at the board should know, in a sentence."""

    def board(self, state: Any) -> "Board | None":
        """A state for people who look, of concrete numbers; None, the default, if there is nothing to see."""
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
    def pays_in_public(self) -> bool:
        """Whether :meth:`paid` can say what everybody earned."""
        return type(self).paid is not SampledGame.paid
