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
    with ``observe_own`` for ``observe``."""

    keeps_world: ClassVar[bool] = True
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

    def observe(self, state: Any, player: int | None = None) -> Array:
        """What ``player`` sees of a state; by default what all, that is one, see."""
        seen = self.observe_own(state)
        return seen if player is not None else jnp.stack([seen])
