"""When players earn: what games count whose common resource can be used up.

Sustainability is the mean time at which somebody's rewards are positive (Perolat et al., NeurIPS 2017), here as a
share of the episode: 1/2 where income is spread evenly, less where it comes early and then ends.
"""

import jax.numpy as jnp
from jax import Array

from shaping_bench.games.base import Count

_SOURCE = "Perolat et al., NeurIPS 2017; times as shares of the episode"

COUNTS: tuple[Count, ...] = (
    Count("earning", "how often the player's reward is positive", "share", high=1.0, source=_SOURCE),
    Count(
        "sustainability",
        "mean time of the player's positive rewards, as a share of the episode",
        "share",
        direction="higher",
        high=1.0,
        source=_SOURCE,
        per="earning",
    ),
)


def counted(rewards: Array, time: Array, length: int) -> dict[str, Array]:
    """What a step adds to :data:`COUNTS`.

    Args:
      rewards: of all players, ``(..., n_players)``.
      time: steps before this one.
      length: of an episode.
    """
    earning = (rewards > 0.0).astype(rewards.dtype)
    return {"earning": earning, "sustainability": earning * (time + 0.5) / length}


def sustainability(rewards: Array) -> Array:
    """The same of one episode's rewards ``(T, n_players)``; NaN of who never earns."""
    earning = (rewards > 0.0).astype(rewards.dtype)
    times = (jnp.arange(len(rewards), dtype=rewards.dtype) + 0.5) / len(rewards)
    return times @ earning / jnp.sum(earning, axis=0)
