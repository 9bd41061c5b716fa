"""Policies: what acts. Parameters, carry and observation to a distribution of actions.

A policy object holds shapes only, no numbers; it is hashable and belongs to the program. Its
parameters are the player's, as the learner initialises them. Acting is one step of one
environment (``step``); learning looks at whole trajectories (``unroll``).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.games.base import Game

Tree = Any

ENVIRONMENTS = "environments"
"""Name of the axis along which :meth:`Policy.act` is mapped over the environments of a batch: what a
policy with ``mixes`` takes means along, ``lax.pmean(x, ENVIRONMENTS)``."""


class Policy:
    """Base of all policies."""

    exact: ClassVar[bool] = False
    """Whether the exact game can value it: its parameters are those that ``game.value`` takes."""

    finite_memory: ClassVar[bool] = False
    """Whether it is a finite automaton of a repeated game, whose parameters ``games.matrix.automata`` values."""

    keeps_carry: ClassVar[bool] = False
    """Whether its carry lives on from episode to episode of an encounter."""

    mixes: ClassVar[bool] = False
    """Whether :meth:`act` in one environment takes account of the others of the batch, along the axis
    :data:`ENVIRONMENTS`; ``step`` is then of an environment that has no others."""

    def init(self, key: Array) -> Tree:
        """Initial parameters."""
        raise NotImplementedError

    def init_in(self, key: Array, game: Game, player: int) -> Tree:
        """Initial parameters in a seat of a game: the game's own start where it has one for such policies."""
        del game, player
        return self.init(key)

    def ignorant(self, key: Array) -> Tree:
        """Parameters that know nothing: a table plays all actions alike, a network starts like any other."""
        return self.init(key)

    def start(self) -> Tree:
        """Carry of one environment at the start of an episode."""
        return ()

    def step(self, params: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        """Acts in one environment: returns the new carry and a distribution of actions.

        Args:
          params: of this policy.
          carry: of this environment.
          observation: what the player sees.
          state: state of the environment, for scripted policies; learned ones ignore it.
        """
        raise NotImplementedError

    def laid(self, params: Tree) -> Tree:
        """Parameters as :meth:`act` reads them, laid out once for all steps of a play; by default as they are."""
        return params

    def act(self, laid: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        """:meth:`step`, by parameters that are laid out."""
        return self.step(laid, carry, observation, state)

    def unroll(self, params: Tree, observations: Tree) -> Any:
        """Distributions ``(T, B)`` along whole episodes, of observations ``(T, B, ...)``."""
        raise NotImplementedError

    def along(self, params: Tree, observations: Tree, states: Tree) -> Any:
        """The same where the states of the environment ``(T, B, ...)`` are known, which scripts need."""
        del states
        return self.unroll(params, observations)


@dataclasses.dataclass(frozen=True)
class Tabular(Policy):
    """Memory-one policies. Of two actions, logits of action 0, one per state: ``[start, CC, CD, DC, DD]``. Of more,
    a logit per action of every state, state by state.

    Parameters are a vector ``(num_states,)`` or ``(num_states * num_actions,)``, or anything that stacks to one.

    >>> import jax.numpy as jnp
    >>> tit_for_tat = jnp.array([9.0, 9.0, -9.0, 9.0, -9.0])
    >>> seen = jnp.array([[0], [1], [2], [4]])  # nothing yet, CC, CD, DD
    >>> Tabular(5).unroll(tit_for_tat, seen).log_prob(jnp.array([[0], [0], [1], [1]])).round(3).tolist()
    [[-0.0], [-0.0], [-0.0], [-0.0]]
    """

    exact: ClassVar[bool] = True

    num_states: int
    num_actions: int = 2

    @property
    def _size(self) -> int:
        return self.num_states * (1 if self.num_actions == 2 else self.num_actions)

    def init(self, key: Array) -> Array:
        return jax.random.normal(key, (self._size,))

    def init_in(self, key: Array, game: Game, player: int) -> Array:
        return game.init_params(key, player)

    def ignorant(self, key: Array) -> Array:
        del key
        return jnp.zeros((self._size,))

    def step(self, params: Tree, carry: Tree, observation: Array, state: Tree) -> tuple[Tree, Categorical]:
        return carry, self.unroll(params, observation)

    def unroll(self, params: Tree, observations: Array) -> Categorical:
        table = params if isinstance(params, jax.Array) else jnp.stack([jnp.asarray(x) for x in params])
        if self.num_actions > 2:
            rows = table.reshape(self.num_states, self.num_actions)
            return Categorical(logits=jnp.stack([select(column, observations) for column in rows.T], axis=-1))
        logits = select(table, observations)
        return Categorical(logits=jnp.stack([logits, jnp.zeros_like(logits)], axis=-1))


def tabular(game: Game) -> Tabular:
    """Memory-one policies of a game whose players see the index of a state.

    Raises:
      ValueError: they see something else.
    """
    if game.num_states is None:
        raise ValueError("plays memory-one policies, which this game does not have")
    return Tabular(game.num_states, game.n_actions)


def select(table: Array, index: Array) -> Array:
    """``table[index]`` for a short table ``(n,)`` as a sum of comparisons: gathers, and the
    scatters that are their derivatives, do not vectorise."""
    total = jnp.zeros(index.shape, table.dtype)
    for k in range(table.shape[0]):
        total = total + jnp.where(index == k, table[k], 0.0)
    return total
