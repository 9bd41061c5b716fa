"""Games of one player whose other follows a hidden strategy.

The other keeps its strategy during an episode, an *interaction*, and changes it afterwards by a rule of its own, which
looks at what it met. The player never sees the strategy, only what it earns. So the state of the world lives on from
one interaction to the next, and whoever knows how the other reacts may choose how an interaction ends.

Source: Xie et al., CoRL 2020 (arXiv 2011.06619), whose setting this is.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from shaping_bench.games.base import PlayedGame


class LatentGame(PlayedGame):
    """Base: subclasses define ``horizon``, ``latent_size``, ``latent`` and the rest of the sampled view of one seat,
    with ``observe_own`` for ``observe`` and ``moved`` for ``step``. Their states have a ``time`` and a ``position``."""

    keeps_world: ClassVar[bool] = True
    family: ClassVar[str | None] = "latent"
    scripts: ClassVar[tuple[str, ...]] = ("random",)
    latent_size: ClassVar[int]
    """How many numbers :meth:`latent` consists of."""

    horizon: int

    @property
    def n_players(self) -> int:
        return 1

    @property
    def seats(self) -> tuple[str, ...]:
        return ("ego",)

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def num_steps(self) -> int:
        return self.horizon

    def latent(self, state: Any) -> Array:
        """The hidden strategy that holds in a state, in numbers of about one, ``(latent_size,)``: what an oracle
        sees."""
        raise NotImplementedError

    def observe_own(self, state: Any) -> Array:
        """What the player sees of a state, ``observation_shape``."""
        raise NotImplementedError

    def moved(self, state: Any, action: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Where an action leads, the reward of the step, and what :attr:`counts` says, as scalars."""
        raise NotImplementedError

    def step(self, key: Array, state: Any, actions: Any) -> tuple[Array, Any, Array, Array, dict[str, Array]]:
        """A move, but for the last step of an interaction, in which there is none.

        Args:
          key: unused; nothing is random.
          state: from ``reset``, ``resume`` or ``step``.
          actions: the player's, ``(1, k)`` or a tuple of one.

        Returns:
          Observation ``(1, *observation_shape)``, state, rewards ``(1,)``, done, and what :attr:`counts` says.
        """
        del key
        last, kind = state.time + 1 >= self.horizon, state.position.dtype
        position, reward, info = self.moved(state, actions[0].astype(kind))
        after = state._replace(time=state.time + 1, position=jnp.where(last, state.position, position))
        counted = {name: x[None].astype(kind) for name, x in info.items()}
        return self.observe(after), after, reward[None].astype(kind), last, counted

    def script(self, name: str, memory: Array, state: Any, player: int) -> tuple[Array, Any]:
        return memory, (-1.0, 1.0)

    def observe(self, state: Any, player: int | None = None) -> Array:
        """What ``player`` sees of a state; by default what all, that is one, see."""
        seen = self.observe_own(state)
        return seen if player is not None else jnp.stack([seen])
